"""A structure as the page turns it: atoms, bonds, cell, colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors

from limbeck.core.neighbours import neighbour_list
from limbeck.records.figure import ERROR_SCALE, Picture

MOST_ATOMS = 1200
_BOND = 1.2  # of the sum of covalent radii
_SHORTEST_A = 0.4


def picture(name: str, title: str, caption: str, atoms: Atoms, values: np.ndarray | None = None) -> Picture:
    """A view of ``atoms``, coloured by element, or by ``values`` (N,) in meV/Å with a scale."""
    shown = atoms.copy()
    if shown.pbc.any() and shown.cell.rank == 3:
        shown.wrap(eps=1e-6)
    keep = np.arange(len(shown))
    if len(shown) > MOST_ATOMS:
        middle = shown.positions.mean(axis=0)
        keep = np.sort(np.argsort(np.linalg.norm(shown.positions - middle, axis=1))[:MOST_ATOMS])
        caption += f" The {MOST_ATOMS:,} atoms nearest the middle of {len(shown):,} are drawn."
    numbers, positions = shown.numbers[keep], shown.positions[keep]
    corners = _cell_lines(shown)
    points = np.concatenate([positions, corners.reshape(-1, 3)])
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    by_element = {chemical_symbols[z]: _hex(jmol_colors[z]) for z in np.unique(numbers)}
    labels = [chemical_symbols[z] for z in numbers]
    colors, scale = [by_element[label] for label in labels], None
    if values is not None:
        colors, scale = _by_value(values[keep])
    payload = {
        "positions": np.round(positions - centre, 3).tolist(),
        "radii": [round(0.5 * float(covalent_radii[z]), 3) for z in numbers],
        "colors": colors,
        "labels": labels,
        "values": None if values is None else [round(float(v), 1) for v in values[keep]],
        "bonds": _bonds(numbers, positions),
        "cell": np.round(corners - centre, 3).tolist() if len(corners) else [],
        "legend": by_element if values is None else None,
        "scale": scale,
    }
    return Picture(name, title, caption, payload)


def _bonds(numbers: np.ndarray, positions: np.ndarray) -> list[list[int]]:
    """Pairs nearer than 1.2 times the sum of their covalent radii, no images."""
    radii = covalent_radii[numbers]
    reach = 2 * _BOND * float(radii.max())
    i, j, _ = neighbour_list(positions, np.zeros((3, 3)), np.zeros(3, bool), reach)
    distance = np.linalg.norm(positions[i] - positions[j], axis=1)
    near = (distance < _BOND * (radii[i] + radii[j])) & (distance > _SHORTEST_A)
    return np.stack([i[near], j[near]], axis=1).tolist()


def _cell_lines(atoms: Atoms) -> np.ndarray:
    """The twelve edges of the cell, (12, 2, 3) Å; none without a cell."""
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        return np.zeros((0, 2, 3))
    corners = np.array(list(np.ndindex(2, 2, 2)), float)
    # those that differ along one vector
    lines = [(a, b) for n, a in enumerate(corners) for b in corners[n + 1 :] if np.abs(a - b).sum() == 1]
    return np.array(lines) @ atoms.cell.array


def _by_value(values: np.ndarray) -> tuple[list[str], dict[str, Any]]:
    low, high = float(values.min()), float(values.max())
    stops, names = [stop for stop, _ in ERROR_SCALE], [name for _, name in ERROR_SCALE]
    rgb = np.array([[int(name[k : k + 2], 16) / 255 for k in (1, 3, 5)] for name in names])
    at = (values - low) / ((high - low) or 1.0)
    colors = np.stack([np.interp(at, stops, channel) for channel in rgb.T], axis=1)
    return list(map(_hex, colors)), {"low": round(low, 1), "high": round(high, 1), "colors": names}


def _hex(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * float(v)):02x}" for v in rgb)
