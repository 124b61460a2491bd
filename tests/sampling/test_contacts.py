"""Geometry of contact scans."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from limbeck.core.checks import check_structures
from limbeck.errors import InputError
from limbeck.sampling import Contacts, SamplingConfig, count_frames, read_frames, run_sampling, write_frames
from limbeck.sampling.contacts import nearest_pair

SUPERCELL = {"kind": "supercell", "repeat": [2, 2, 2]}


def licl() -> Atoms:
    atoms = bulk("LiCl", "rocksalt", a=5.13)
    atoms.info["group"] = "LiCl#0"
    return atoms


def test_every_pair_goes_down_to_the_least_distance(tmp_path):
    plan = SamplingConfig(steps=[SUPERCELL, {"kind": "contacts", "n": 9}])
    frames = run_sampling([licl()], plan, {})
    assert len(frames) == count_frames(plan, [licl()]) == 27
    assert [f.info["scan_pair"] for f in frames[::9]] == ["Li-Li", "Cl-Li", "Cl-Cl"]
    assert [f.info["group"] for f in frames[::9]] == [
        f"LiCl#0/contacts-{pair}-s0" for pair in ("Li-Li", "Cl-Li", "Cl-Cl")
    ]
    still = run_sampling([licl()], SamplingConfig(steps=[SUPERCELL]), {})[0]
    for k, first in enumerate((5.13 / np.sqrt(2), 5.13 / 2, 5.13 / np.sqrt(2))):
        scan = frames[9 * k : 9 * k + 9]
        distance = np.array([f.info["scan_distance_a"] for f in scan])
        assert distance == pytest.approx(first * (0.3 / first) ** (np.arange(1, 10) / 9))
        for frame in scan:
            moved = np.flatnonzero(np.abs(frame.positions - still.positions).max(axis=1) > 1e-6)
            assert len(moved) == 2
            i, j = moved
            assert frame.get_distance(i, j, mic=True) == pytest.approx(
                frame.info["scan_distance_a"], abs=1e-6
            )
            assert frame.positions[moved].sum(axis=0) == pytest.approx(still.positions[moved].sum(axis=0))
            assert sorted(frame.symbols[[i, j]]) == sorted(frame.info["scan_pair"].split("-"))
    write_frames(tmp_path / "f.extxyz", frames)
    assert [f.info for f in read_frames(tmp_path / "f.extxyz")] == [f.info for f in frames]


def test_a_third_atom_in_the_way_is_avoided():
    """Ti-O-Ti of a perovskite is a line; the nearest free Ti-Ti is the next but one."""
    a = 3.9
    cell = Atoms(
        "SrTiO3",
        scaled_positions=[(0.5,) * 3, (0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)],
        cell=[a] * 3,
        pbc=True,
    )
    pair = nearest_pair(cell * (3, 3, 1), 22, 22)
    assert pair is not None
    assert pair.distance == pytest.approx(a * np.sqrt(2))


def test_one_atom_and_its_images_make_no_pair():
    notes: list[str] = []
    frames = run_sampling([licl()], SamplingConfig(steps=[Contacts(n=4)]), {}, notes=notes)
    assert {f.info["scan_pair"] for f in frames} == {"Cl-Li"}
    assert [note.split(",")[0] for note in notes] == [
        f"contacts: no two atoms {pair} can be pushed together within 8 Å" for pair in ("Li-Li", "Cl-Cl")
    ]


def test_molecules_and_several_starts():
    starts = [molecule("CH3OH"), molecule("H2O")]
    plan = SamplingConfig(steps=[Contacts(n=3, scans=2)])
    notes: list[str] = []
    frames = run_sampling(starts, plan, {}, notes=notes)
    pairs = [f.info["scan_pair"] for f in frames[::3]]
    assert pairs == ["H-H", "H-H", "C-H", "H-O", "H-O", "C-O"]
    assert len(notes) == 2  # one carbon, one oxygen each
    assert len({f.info["group"] for f in frames}) == 6


def test_only_scans_may_overlap():
    frames = run_sampling([licl()], SamplingConfig(steps=[SUPERCELL, Contacts(n=4)]), {})
    check_structures(frames, "here")
    frames[-1].info["config_type"] = "rattle"
    with pytest.raises(InputError, match="here, frame 11: overlapping atoms"):
        check_structures(frames, "here")
