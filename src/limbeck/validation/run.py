"""Evaluate a Potential over many structures within memory, and compare it with labels."""

from __future__ import annotations

import gc
import sys

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.progress import Progress, no_progress
from limbeck.records.metrics import ValidationReport, WorstFrame
from limbeck.units import EV_TO_MEV
from limbeck.validation.metrics import energy_errors_per_atom, grouped_metrics

MAX_ATOMS = 1024  #: atoms a batch unless the caller says otherwise
EDGES_PER_ATOM = 64  #: edges a batch, per atom of its limit; denser structures make smaller batches
DEFAULT_CUTOFF_A = 5.0  #: Å, for estimating edges where the Potential states no cutoff


def validate(
    potential: Potential,
    labelled: LabelledSet,
    *,
    max_atoms: int | None = None,
    max_structures: int | None = None,
    n_worst: int = 10,
    progress: Progress = no_progress,
) -> ValidationReport:
    """Predict every structure of ``labelled`` and compare.

    Raises
    ------
    InputError: no structures. LimbeckError: not finite, or a structure does not fit into memory.
    """
    prediction = predict(
        potential,
        labelled.structures,
        max_atoms=max_atoms,
        max_structures=max_structures,
        progress=progress,
    )
    frames, places = worst_frames(labelled, prediction, n_worst)
    return ValidationReport(grouped_metrics(labelled, prediction), prediction, frames, places)


def worst_frames(
    labelled: LabelledSet, prediction: Labels, count: int = 10
) -> tuple[tuple[WorstFrame, ...], tuple[int, ...]]:
    """The ``count`` structures with the largest force RMSE, worst first, and their places in the set."""
    structures = labelled.structures
    square = ((prediction.forces - labelled.labels.forces) ** 2).sum(axis=1)  # (N,)
    of_structure = np.bincount(structures.structure_of_atom, weights=square, minlength=len(structures))
    rmse = np.sqrt(of_structure / (3 * structures.counts))
    energy = energy_errors_per_atom(structures, labelled.labels, prediction)
    places = np.argsort(-rmse, kind="stable")[:count]
    frames = []
    for s in places:
        first, last = structures.offsets[s], structures.offsets[s + 1]
        atom = int(np.argmax(square[first:last]))
        kelvin = float(labelled.temperature_k[s])
        frames.append(
            WorstFrame(
                index=int(labelled.frame[s]),
                group=str(labelled.group[s]),
                config_type=str(labelled.config_type[s]),
                temperature_k=kelvin if np.isfinite(kelvin) else None,
                force_rmse_mev_per_a=float(rmse[s]) * EV_TO_MEV,
                energy_error_mev_per_atom=float(energy[s]) * EV_TO_MEV,
                worst_atom=atom,
                worst_element=chemical_symbols[structures.numbers[first + atom]],
                worst_force_error_mev_per_a=float(np.sqrt(square[first + atom])) * EV_TO_MEV,
            )
        )
    return tuple(frames), tuple(int(s) for s in places)


def predict(
    potential: Potential,
    structures: StructureBatch,
    *,
    max_atoms: int | None = None,
    max_structures: int | None = None,
    progress: Progress = no_progress,
) -> Labels:
    """Labels of all structures, in order, evaluated in batches that fit into memory.

    A batch holds at most ``max_atoms`` atoms (default 1024) and 64 estimated edges for each of
    them, and at most ``max_structures`` structures; one larger structure goes alone. When memory
    runs out the batch is halved, the smaller size kept, and work goes on where it stopped.
    ``progress`` counts structures, after each batch.

    Raises
    ------
    LimbeckError: memory runs out on a single structure.
    """
    most = max_atoms or MAX_ATOMS
    cutoff = float(getattr(potential, "cutoff", None) or DEFAULT_CUTOFF_A)
    edges = estimate_edges(structures, cutoff) / (most * EDGES_PER_ATOM)
    cost = np.maximum(structures.counts / most, edges)  # (S,) share of a full batch
    share, start, parts = 1.0, 0, []
    while start < len(structures):
        count = max(1, int((np.cumsum(cost[start:]) <= share * (1 + 1e-12)).sum()))
        stop = start + min(count, max(1, max_structures or count))
        labels = _evaluate_or_none(potential, structures.select(np.arange(start, stop)))
        if labels is None and stop - start == 1:
            raise LimbeckError(
                "out of memory on a single structure",
                where=f"structure {start}",
                got=f"{int(structures.counts[start])} atoms",
                wanted="a structure that fits into memory",
                remedy="use a smaller structure, a smaller model or a machine with more memory",
            )
        if labels is None:
            share = float(cost[start:stop].sum()) / 2
            continue
        parts.append((labels, stop - start, labels.forces.shape[0]))
        start = stop
        progress("evaluating", start, len(structures), potential.name)
    return _join(parts)


def estimate_edges(structures: StructureBatch, cutoff_a: float) -> np.ndarray:
    """Directed pairs within ``cutoff_a`` that each structure would have at uniform density, (S,).

    Density comes from the cell's volume, or without a cell from the box around the atoms widened
    by 2 Å (a bond length: half of it beyond the outermost atoms on each side).
    """
    edges = np.zeros(len(structures))
    volume, periodic = structures.volume, structures.periodic
    for s, n in enumerate(structures.counts):
        if periodic[s]:
            edges[s] = n * n / volume[s] * 4 / 3 * np.pi * cutoff_a**3
        elif n:
            own = structures.positions[structures.offsets[s] : structures.offsets[s + 1]]
            box = float(np.prod(np.ptp(own, axis=0) + 2.0))
            edges[s] = n * min(n - 1, n / box * 4 / 3 * np.pi * cutoff_a**3)
    return edges


def _evaluate_or_none(potential: Potential, batch: StructureBatch) -> Labels | None:
    """Labels, or None where memory ran out."""
    try:
        return potential.evaluate(batch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Out of the except block the traceback, and with it the tensors of its frames, is gone.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one it was raised from, says that memory ran out (torch not imported)."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        text = str(error).lower()
        phrases = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
        if isinstance(error, (RuntimeError, OSError)) and any(phrase in text for phrase in phrases):
            return True
        error = error.__cause__
    return False


def _join(parts: list[tuple[Labels, int, int]]) -> Labels:
    """One Labels from those of consecutive batches: (labels, structures, atoms)."""

    def column(name: str, shape: tuple[int, ...], per_atom: bool) -> np.ndarray | None:
        values = [getattr(labels, name) for labels, _, _ in parts]
        if parts and all(value is None for value in values):
            return None
        rows = [
            np.full((n_atoms if per_atom else n_structures, *shape), np.nan)
            if value is None
            else np.asarray(value, np.float64)
            for value, (_, n_structures, n_atoms) in zip(values, parts, strict=True)
        ]
        return np.concatenate([np.zeros((0, *shape)), *rows])

    return Labels(
        energy=column("energy", (), per_atom=False),  # type: ignore[arg-type]
        forces=column("forces", (3,), per_atom=True),  # type: ignore[arg-type]
        stress=column("stress", (3, 3), per_atom=False),
        atom_energies=column("atom_energies", (), per_atom=True),
    )
