"""Close-contact scans: planted unphysical regions are found and repaired, sound potentials are left alone."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from limbeck.core.audit import audit, without_core_repulsion
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.neighbours import find_pairs
from limbeck.core.pairwise import zbl_pair
from limbeck.core.structures import StructureBatch
from limbeck.dataset.split import split
from limbeck.dataset.statistics import fit_references, statistics
from limbeck.labelling.repair import continued, last_trusted, repair_scans, scans_of
from limbeck.sampling import Contacts, Rattle, SamplingConfig, run_sampling

SUPERCELL = {"kind": "supercell", "repeat": [3, 3, 3]}
CUTOFF_A = 6.0
SHORTEST = {"Cl-Li": 2.2, "Li-Li": 3.0, "Cl-Cl": 3.0}


def morse(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    decay = np.exp(-1.5 * (r - 2.5))
    return 0.5 * (decay**2 - 2 * decay), -1.5 * (decay**2 - decay)


def pair_energy(z1: np.ndarray, z2: np.ndarray, r: np.ndarray, pit: bool):
    """Morse well and ZBL core; with ``pit`` a Gaussian of -3000 eV at 0.3 Å, 0.25 Å wide."""
    e, slope = zbl_pair(z1.astype(float), z2.astype(float), r)
    well, pull = morse(r)
    end, last = morse(np.array([CUTOFF_A]))
    e, slope = e + well - end - (r - CUTOFF_A) * last, slope + pull - last  # both end at the cutoff
    if pit:
        gauss = -3000.0 * np.exp(-((r - 0.3) ** 2) / (2 * 0.25**2))
        e, slope = e + gauss, slope - gauss * (r - 0.3) / 0.25**2
    return e, slope


def evaluate(frames: list[Atoms], pit: bool) -> Labels:
    batch = StructureBatch.from_atoms(frames)
    pairs = find_pairs(batch, CUTOFF_A)
    s = np.searchsorted(pairs.offsets, np.arange(len(pairs.first)), side="right") - 1
    i, j = pairs.first + batch.offsets[s], pairs.second + batch.offsets[s]
    e, slope = pair_energy(batch.numbers[i], batch.numbers[j], pairs.distances, pit)
    energy = np.bincount(s, e, minlength=len(batch))
    forces, atom_energies = np.zeros((batch.n_atoms, 3)), np.zeros(batch.n_atoms)
    pull = (slope / pairs.distances)[:, None] * pairs.vectors
    for end, sign in ((i, 1), (j, -1)):
        np.add.at(forces, end, sign * pull)
        np.add.at(atom_energies, end, e / 2)
    return Labels(energy, forces, np.zeros((len(batch), 3, 3)), atom_energies)


def labelled(frames: list[Atoms], labels: Labels) -> LabelledSet:
    group, kind = (np.array([f.info[key] for f in frames]) for key in ("group", "config_type"))
    return LabelledSet(StructureBatch.from_atoms(frames), labels, group, kind, np.full(len(frames), np.nan))


@functools.cache
def scanned(pit: bool, *, n: int = 16, rattled: int = 6) -> LabelledSet:
    start = bulk("LiCl", "rocksalt", a=5.13)
    start.info["group"] = "LiCl#0"
    plan = SamplingConfig(steps=[SUPERCELL, Rattle(stdev_a=0.1, n=rattled), Contacts(n=n)])
    frames = run_sampling([start], plan, {})
    return labelled(frames, evaluate(frames, pit))


def test_a_sound_potential_is_left_alone():
    whole = scanned(pit=False)
    same, repairs = repair_scans(whole, SHORTEST)
    assert repairs == []
    assert np.array_equal(same.labels.energy, whole.labels.energy)
    assert np.array_equal(same.labels.forces, whole.labels.forces)
    assert [scan.pair for scan in scans_of(whole)] == ["Li-Li", "Cl-Li", "Cl-Cl"]


def test_the_force_along_the_line_is_the_energy_slope():
    for scan in scans_of(scanned(pit=False, n=60)):
        r = scan.distances
        middle = (r[1:] + r[:-1]) / 2
        slope = np.diff(scan.energies) / np.diff(r)
        near = middle > 1.0
        expected = np.interp(-middle, -r, -scan.repulsion)
        assert slope[near] == pytest.approx(expected[near], rel=0.04, abs=0.05)


def test_an_unphysical_region_is_found_and_repaired():
    whole = scanned(pit=True)
    fixed, repairs = repair_scans(whole, SHORTEST)
    # the pit outweighs Li-Li and Cl-Li; at Cl-Cl ZBL is strong enough farther in
    assert [one.pair for one in repairs][:2] == ["Li-Li", "Cl-Li"]
    for scan, was in zip(scans_of(fixed), scans_of(whole), strict=True):
        assert (np.diff(scan.energies) > 0)[scan.distances[1:] < 1.7].all()
        assert (scan.repulsion > 0)[scan.distances < 1.7].all()
        star = last_trusted(was, SHORTEST[scan.pair])
        if star is None:
            continue
        assert was.distances[star] < 2.0
        assert np.array_equal(scan.energies[: star + 1], was.energies[: star + 1])
        assert np.array_equal(scan.forces[: star + 1], was.forces[: star + 1])
        # the repulsion grows as that of the cores does
        z1, z2 = (np.full(len(scan.distances), float(z)) for z in scan.numbers)
        slope = zbl_pair(z1, z2, scan.distances)[1]
        grown = (scan.repulsion - was.repulsion[star])[star:]
        assert grown == pytest.approx((slope[star] - slope)[star:])
        unmoved = np.setdiff1d(np.arange(scan.forces.shape[1]), [scan.i, scan.j])
        assert np.allclose(scan.forces[star + 1 :, unmoved], was.forces[star, unmoved])
        assert np.abs(scan.forces.sum(axis=1)).max() < 1e-8 * np.abs(scan.forces).max()
    one = repairs[1]
    assert one.teacher_ev < 0 < one.zbl_ev
    assert str(one).startswith(
        f"Cl-Li below {one.below_a:.2f} Å: {one.n_frames} labels of the close-contact scan"
    )
    frames = np.flatnonzero(fixed.labels.energy != whole.labels.energy)
    assert len(frames) == sum(h.n_frames for h in repairs)
    assert np.isnan(fixed.labels.stress[frames]).all()
    sums = np.add.reduceat(fixed.labels.atom_energies, fixed.structures.offsets[:-1])
    assert sums == pytest.approx(fixed.labels.energy)


def test_replaced_energies_and_forces_agree():
    """-dE/dr of the continuation by central differences is its force along the line."""
    scan = scans_of(scanned(pit=True))[1]
    star = last_trusted(scan, 2.2)
    assert star is not None
    r, h = 0.5, 1e-4
    fine = replace(scan, distances=np.array([scan.distances[star], r + h, r, r - h]),
                   energies=scan.energies[[star] * 4], forces=scan.forces[[star] * 4])  # fmt: skip
    energy, forces = continued(fine, 0)
    along = (forces[2, scan.j] - forces[2, scan.i]) @ scan.line / 2
    assert along == pytest.approx(-(energy[1] - energy[3]) / (2 * h), rel=1e-6)
    assert energy[0] == pytest.approx(scan.energies[star])
    assert forces[0] == pytest.approx(scan.forces[star])


def test_distances_that_were_sampled_are_trusted():
    assert repair_scans(scanned(pit=True), dict.fromkeys(SHORTEST, 0.25))[1] == []


def test_a_scan_without_a_trusted_label_is_left_out():
    whole = scanned(pit=True)
    scan = scans_of(whole)[1]
    inner = whole.select(scan.index[scan.distances < 0.6])
    fixed, repairs = repair_scans(inner, SHORTEST)
    assert [h.below_a for h in repairs] == [None]
    assert "Cl-Li: no label of the close-contact scan LiCl#0/contacts-Cl-Li-s0" in str(repairs[0])
    assert len(audit(fixed)[0]) == 0


def test_the_audit_subtracts_the_core_repulsion():
    fixed, _ = repair_scans(scanned(pit=True), SHORTEST)
    kept, _ = audit(fixed)
    scan = scans_of(fixed)[1]
    assert np.linalg.norm(fixed.labels.forces, axis=1).max() > 1000
    assert set(scan.index) <= set(kept.tolist())
    # of a dimer the Morse force alone is left
    dimer = Atoms("LiCl", [(0, 0, 0), (0, 0, 0.5)], info={"group": "d", "config_type": "contacts"})
    alone = labelled([dimer], evaluate([dimer], pit=False))
    slope = morse(np.array([0.5]))[1] - morse(np.array([CUTOFF_A]))[1]
    assert without_core_repulsion(alone, 0)[1, 2] == pytest.approx(-slope[0])
    _, dropped = audit(alone)
    assert "force without core repulsion of" in dropped[0].reason


def test_scans_are_no_part_of_ranges_references_and_validation():
    whole = scanned(pit=False, rattled=12)
    rest = whole.select(np.flatnonzero(whole.config_type == "rattle"))
    both, ours = statistics(whole), statistics(rest)
    assert both.shortest_pair_a == ours.shortest_pair_a
    assert both.force_max_ev_per_a == ours.force_max_ev_per_a
    assert both.energy_ev_per_atom == ours.energy_ev_per_atom
    assert both.n_structures == len(whole) > ours.n_structures
    assert fit_references(whole)[0] == fit_references(rest)[0]
    parts = split(whole, 0.25)
    assert set(whole.config_type[parts.val_index]) == {"rattle"}
    assert len(parts.train_index) + len(parts.val_index) == len(whole)
    assert parts.how.endswith("48 frames of close-contact scans train and do not validate")


@pytest.mark.slow
@pytest.mark.ci
def test_chgnet_is_unphysical_at_short_range_in_lithium_chloride():
    pytest.importorskip("chgnet")
    from limbeck.teachers.registry import load_teacher

    start = bulk("LiCl", "rocksalt", a=5.13)
    frames = run_sampling(
        [start], SamplingConfig(steps=[{**SUPERCELL, "repeat": [2, 2, 2]}, Contacts(n=12)]), {}
    )
    teacher = load_teacher("chgnet").potential
    whole = labelled(frames, teacher.evaluate(StructureBatch.from_atoms(frames)))
    fixed, repairs = repair_scans(whole, {"Cl-Li": 2.0, "Cl-Cl": 2.9, "Li-Li": 2.4})
    assert [one.pair for one in repairs] == ["Li-Li", "Cl-Li", "Cl-Cl"]
    for one in repairs:
        assert 0.7 < one.below_a < 1.4
        assert one.teacher_ev < 0 < 100 < one.zbl_ev
    assert all((np.diff(scan.energies) > 0).all() for scan in scans_of(fixed))
    assert len(audit(fixed)[0]) == 36
