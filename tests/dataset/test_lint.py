"""Lint on synthetic sets with exact labels: damage, invariance, the report."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.dataset import lint as package
from limbeck.dataset.lint import CODES, NOTHING_EXPECTED, Expected, check_codes, lint
from limbeck.dataset.read import labelled_from_atoms
from limbeck.errors import InputError
from tests.dataset import spoiling as sp


def labelled_by_emt(frames: list[Atoms]) -> LabelledSet:
    for frame in frames:
        frame.calc = EMT()
        frame.get_forces()
        if frame.pbc.all():
            frame.get_stress()
    return labelled_from_atoms(frames, "EMT")


def alloy_frames(count: int, seed: int = 0) -> list[Atoms]:
    """Rattled and sheared CuAu cells of 32 atoms."""
    rng = np.random.default_rng(seed)
    ideal = bulk("Cu", cubic=True) * (2, 2, 2)
    ideal.numbers[::2] = 79
    ideal.set_cell(ideal.cell * 1.06, scale_atoms=True)
    frames = []
    for k in range(count):
        frame = ideal.copy()
        if k % 2:
            strain = rng.normal(scale=0.015, size=(3, 3))
            frame.set_cell(frame.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        frame.rattle(0.05, rng=rng)
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def alloy() -> LabelledSet:
    return labelled_by_emt(alloy_frames(60))


def codes(data: LabelledSet, expected: Expected = NOTHING_EXPECTED) -> set[str]:
    return {f.code for f in lint([("data", data)], expected).findings if f.severity != "note"}


def test_exact_labels_raise_no_alarm(alloy):
    report = lint([("alloy", alloy)])
    assert not report.findings, report.lines()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda d: sp.scaled(d, forces=-1), "forces-sign"),
        (lambda d: sp.scaled(d, energy=1 / units.Hartree), "energy-forces-unit"),
        (lambda d: sp.scaled(d, forces=units.Bohr), "energy-forces-unit"),
        (lambda d: sp.scaled(d, stress=-1), "stress-sign"),
        (lambda d: sp.scaled(d, stress=1 / units.GPa), "stress-unit"),
        (sp.stress_reordered, "stress-order"),
        (sp.in_bohr, "positions-unit"),
        (lambda d: sp.forces_flipped(d, [4, 9]), "frames-sign"),
        (lambda d: sp.forces_permuted(d, [4, 9]), "frames-forces"),
        (lambda d: sp.energies_shifted(d, [4, 9], 0.5), "energy-outliers"),
        (lambda d: sp.energies_shifted(d, list(range(20)), 1.0), "energy-reference"),
        (sp.energies_shuffled, "energies-unrelated"),
        (lambda d: sp.energies_shifted(sp.repeated(d, [5]), [60], 0.01), "duplicates-differ"),
        (lambda d: sp.repeated(d, [5, 6]), "duplicates"),
        (lambda d: sp.labels_copied(d, 3, [8]), "labels-repeated"),
        (lambda d: sp.one_force_spoiled(d, [4], 20.0), "net-force"),
        (sp.atoms_zeroed, "forces-constrained"),
        (lambda d: sp.scaled(d, forces=0), "forces-zero"),
        (lambda d: sp.scaled(d, energy=0), "energy-constant"),
        (lambda d: sp.energies_shifted(d, [2], np.inf), "not-finite"),
        (lambda d: sp.scaled(d, forces=300), "forces-large"),
        (lambda d: sp.with_structures(d, pbc=np.zeros_like(d.structures.pbc)), "pbc-missing"),
        (lambda d: sp.with_structures(d, cell=d.structures.cell * 0.5), "cell-small"),
        (lambda d: sp.forces_changed(d, lambda f: f * [1, 1, 0]), "forces-axes"),
        (lambda d: sp.forces_changed(d, lambda f: f * [1, 1, 0], [4, 9]), "forces-axes"),
        (lambda d: sp.forces_changed(d, lambda f: f * [1, 1, -1]), "forces-axes"),
        (lambda d: sp.forces_changed(d, lambda f: f[:, [2, 1, 0]]), "forces-axes"),
        (lambda d: sp.forces_changed(d, lambda f: f * units.Bohr, [4, 9]), "frames-unit"),
        (lambda d: sp.forces_changed(d, lambda f: f * units.Bohr, list(range(20))), "frames-unit"),
        (lambda d: sp.forces_changed(d, lambda f: f * units.Bohr / units.Hartree, [4]), "frames-unit"),
        (lambda d: sp.with_labels(d, energy=d.labels.energy.round(1)), "rounded"),
        (
            lambda d: sp.with_labels(d, energy=np.float64((d.labels.energy - 3000).astype(np.float16))),
            "rounded",
        ),
        (lambda d: sp.forces_changed(d, lambda f: f.round(1)), "rounded"),
        (lambda d: sp.positions_rounded(d, 0.1, [4, 9]), "rounded"),
        (lambda d: sp.stress_zeroed(d, [4, 9]), "stress-zero"),
        (lambda d: sp.open_along(d, 2), "pbc-missing"),
        (sp.energies_off_by_one, "energies-unrelated"),
    ],
)
def test_damage_is_found(alloy, spoil, code):
    damaged = spoil(alloy)
    assert code in codes(damaged), lint([("data", damaged)]).lines()


def test_single_frames_are_named(alloy):
    """Of the checks that judge frames one by one."""
    damaged = {
        "forces-axes": sp.forces_changed(alloy, lambda f: f * [1, 1, 0], [4, 9]),
        "frames-unit": sp.forces_changed(alloy, lambda f: f * units.Bohr, [4, 9]),
        "rounded": sp.positions_rounded(alloy, 0.1, [4, 9]),
        "stress-zero": sp.stress_zeroed(alloy, [4, 9]),
    }
    for code, data in damaged.items():
        found = {f.code: f.frames for f in lint([("data", data)]).findings}
        assert found.get(code) == (4, 9), (code, found)


def test_names_of_axes_and_units(alloy):
    def message(damaged: LabelledSet, code: str) -> str:
        return next(f.message for f in lint([("data", damaged)]).findings if f.code == code)

    swapped = sp.forces_changed(alloy, lambda f: f[:, [1, 0, 2]])
    assert message(swapped, "forces-axes").endswith("x follows y, y follows x")
    part = sp.forces_changed(alloy, lambda f: f * units.Bohr, list(range(20)))
    assert message(part, "frames-unit").endswith("looks like eV/bohr")


def test_flat_molecules_may_have_no_force_out_of_their_plane():
    frames = []
    for k in range(30):
        frame = molecule("C2H4")
        frame.positions[:, 1:] += np.random.default_rng(k).normal(scale=0.05, size=(len(frame), 2))
        frames.append(frame)
    data = labelled_by_emt(frames)
    assert not (data.labels.forces[:, 0] ** 2).sum() > 1e-20
    flat = sp.forces_changed(data, lambda f: f * [0, 1, 1])
    assert "forces-axes" not in codes(flat)


def rattled_molecules(name: str, count: int, stdev: float, seed: int) -> LabelledSet:
    """EMT's labels of a molecule of the G2 set, rattled (Å)."""
    rng = np.random.default_rng(seed)
    frames = [molecule(name) for _ in range(count)]
    for frame in frames:
        frame.rattle(stdev, rng=rng)
    return labelled_by_emt(frames)


def test_elements_in_the_place_of_others():
    data = rattled_molecules("CH3CH2OH", 20, 0.03, seed=2)
    assert "elements-misplaced" not in codes(data)
    assert "elements-misplaced" in codes(sp.elements_sorted(data))


@pytest.fixture(scope="module")
def rattled() -> LabelledSet:
    """Cells that are never strained: no energy tells the sign of the stress."""
    return labelled_by_emt(alloy_frames(60, seed=3)[::2])


def test_rattled_cells_raise_no_alarm(rattled):
    assert not lint([("rattled", rattled)]).findings


def test_two_heaps_of_energies_that_forces_do_not_explain(rattled):
    report = lint([("data", sp.energies_shifted(rattled, list(range(0, 28, 2)), 0.05))])
    found = next(f for f in report.warnings if f.code == "energy-reference")
    assert found.frames == tuple(range(0, 28, 2))


HA, BOHR = units.Hartree, units.Bohr
KCAL, KJ, RY = units.kcal / units.mol, units.kJ / units.mol, units.Rydberg


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda d: sp.scaled(d, stress=-1), "stress-sign", "the stress has the wrong sign ("),
        (lambda d: sp.scaled(d, stress=1 / units.GPa), "stress-unit", "looks like GPa (1 eV/Å³ = 160.2 GPa)"),
        (lambda d: sp.scaled(d, stress=10 / units.GPa), "stress-unit", "kbar (1 eV/Å³ = 1602 kbar)"),
        (lambda d: sp.scaled(d, stress=1e4 / units.GPa), "stress-unit", "looks like bar (1 eV/Å³ = 1.602e+06 bar)"),
        (sp.virials, "stress-unit", "the virial in eV, not divided by the volume"),
        (lambda d: sp.virials(d, -1), "stress-sign", "wrong sign and looks like the virial in eV"),
        (lambda d: sp.scaled(d, stress=0), "stress-unit", "all stresses are zero"),
        (lambda d: sp.scaled(d, energy=1 / HA, forces=BOHR / HA), "energy-forces-unit", "Hartree with forces in Hartree/bohr"),
        (lambda d: sp.scaled(d, energy=1 / RY, forces=BOHR / RY), "energy-forces-unit", "Rydberg with forces in Rydberg/bohr"),
        (lambda d: sp.scaled(d, energy=1 / KCAL, forces=1 / KCAL), "energy-forces-unit", "kcal/mol with forces in kcal/mol/Å"),
        (lambda d: sp.scaled(d, energy=1 / KJ, forces=1 / KJ), "energy-forces-unit", "kJ/mol with forces in kJ/mol/Å"),
        (lambda d: sp.scaled(d, forces=BOHR), "energy-forces-unit", "eV with forces in eV/bohr"),
        (sp.in_bohr, "positions-unit", "look like bohr"),
        (lambda d: sp.scaled(sp.in_bohr(d), energy=1 / HA, forces=BOHR / HA), "positions-unit", "look like bohr"),
        (lambda d: sp.forces_permuted(d, list(range(len(d)))), "forces-unrelated", "order of the atoms"),
    ],
)  # fmt: skip
def test_the_cause_alone_is_named_in_rattled_cells(rattled, spoil, code, words):
    report = lint([("data", spoil(rattled))])
    assert [f.code for f in report.errors] == [code], report.lines()
    assert words in report.lines()[0]


@pytest.mark.parametrize("shift", [50.0, -50.0])
def test_an_energy_beyond_anything_physical_is_an_error(rattled, shift):
    damaged = sp.energies_shifted(rattled, [7], shift / 32)
    report = lint([("data", damaged)])
    assert "energy-outliers" in {f.code for f in report.errors}, report.lines()
    assert {f.frames for f in report.errors} == {(7,)}


def test_a_stress_that_cannot_be_checked_is_noted(rattled):
    report = lint([("few", rattled.select(np.arange(5)))])
    assert [f.code for f in report.findings if f.code.startswith("stress")] == ["stress-unchecked"]
    assert not report.errors + report.warnings


def test_forces_of_zero_by_symmetry_are_no_error():
    frames = [bulk("Cu", cubic=True) for _ in range(25)]
    for k, frame in enumerate(frames):
        frame.set_cell(frame.cell * (1 + 0.002 * k), scale_atoms=True)
    exact = labelled_by_emt(frames)
    exact = sp.scaled(exact, forces=0)  # without the noise of sums
    assert not codes(exact)


def test_contact_scans_do_not_judge_the_rest(alloy):
    """Steep forces between frames of a scan are no unit, and its frames no outliers."""
    frames = alloy_frames(6, seed=9)
    for frame in frames:
        frame.positions[1] = frame.positions[0] + 0.45 * (frame.positions[1] - frame.positions[0])
    scan = labelled_by_emt(frames)
    scan = replace(scan, step=np.array(["contacts"] * len(scan)))
    assert not {f.code for f in lint([("alloy", alloy), ("scan", scan)]).errors}


def test_frames_are_named_as_they_were_read(alloy):
    """Frames that the audit drops, and isolated atoms, do not shift the numbers."""
    first = labelled_by_emt([Atoms("Cu", cell=[12] * 3, pbc=True)])
    damaged = sp.energies_shifted(sp.forces_flipped(alloy, [4, 9]), [0], np.nan)
    report = lint([("atoms", first), ("alloy", damaged)])
    named = {f.code: [report.frame_name(k) for k in f.frames] for f in report.findings}
    assert named["not-finite"] == ["alloy:0"]
    assert named["frames-sign"] == ["alloy:4", "alloy:9"]


def test_missing_and_strange_elements(alloy):
    copper = alloy.select(np.arange(10))
    assert codes(copper, Expected(elements=(1, 29, 79))) == {"elements-missing"}
    assert codes(copper, Expected(elements=(29,))) == {"elements-strange"}
    text = lint([("data", copper)], Expected(elements=(1, 29, 79))).lines()[0]
    assert text.startswith("error elements-missing: no structure holds H, asked for; remedy: ")


def test_formulas_against_starting_structures(alloy):
    cell = StructureBatch.from_atoms([Atoms("CuAu", cell=[3] * 3, pbc=True)])
    assert not codes(alloy, Expected(starts=cell))
    other = StructureBatch.from_atoms([Atoms("Cu3Au", cell=[3] * 3, pbc=True)])
    assert codes(alloy, Expected(starts=other)) == {"formula-strange"}


def test_leaks(alloy):
    held = alloy.select([3, 8])
    expected = Expected(validation=held)
    assert "leak" in codes(alloy, expected)
    assert not codes(alloy, replace(expected, copies_removed=True))
    rattled = sp.with_structures(held, positions=held.structures.positions + np.array([0.3, 0.2, 0.1]))
    rattled.structures.positions[::2] += 0.004
    assert "leak" in codes(alloy, Expected(validation=rattled, copies_removed=True))
    families = replace(alloy, family=np.array(["a", "b"] * 30))
    other = replace(labelled_by_emt(alloy_frames(4, seed=5)), family=np.array(["b"] * 4))
    assert codes(families, Expected(validation=other)) == {"leak-family"}


def test_isolated_atoms_that_differ(alloy):
    atom = labelled_by_emt([Atoms("Cu", cell=[12] * 3, pbc=True)])
    report = lint([("a", atom), ("b", sp.energies_shifted(atom, [0], 1.0)), ("c", alloy)])
    assert [f.code for f in report.errors] == ["isolated-atoms-differ"]


def test_torque_of_a_molecule_turned_alone():
    data = rattled_molecules("C2H6", 12, 0.05, seed=1)
    assert not codes(data)
    assert codes(sp.turned_alone(data, [3])) == {"net-torque"}


@pytest.mark.parametrize(
    ("sign", "codes_wanted"), [(1.0, {"stress-order"}), (-1.0, {"stress-order", "stress-sign"})]
)
def test_orders_of_stress_are_tried_where_all_cells_differ(sign, codes_wanted):
    """No two cells alike, so that shears alone can be checked; six numbers as VASP writes them."""
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(40):
        frame = bulk("Cu", cubic=True) * (2, 2, 2)
        frame.set_cell(frame.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        frame.rattle(0.08, rng=rng)
        frames.append(frame)
    data = labelled_by_emt(frames)
    assert codes(data) == set()
    stress = data.labels.stress.copy()
    xx_yy_zz_xy_yz_zx = sign * stress[:, [0, 1, 2, 0, 1, 0], [0, 1, 2, 1, 2, 2]]
    for column, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        stress[:, a, b] = stress[:, b, a] = xx_yy_zz_xy_yz_zx[:, column]
    report = lint([("data", replace(data, labels=replace(data.labels, stress=stress)))])
    assert {f.code for f in report.findings} == codes_wanted
    (finding,) = [f for f in report.findings if f.code == "stress-order"]
    assert "in the order xy, yz, xz" in finding.message
    assert "VASP writes xx, yy, zz, xy, yz, zx" in finding.remedy


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_findings_do_not_depend_on_order_or_orientation(seed):
    rng = np.random.default_rng(seed)
    data = sp.forces_flipped(sp.energies_shifted(_small(), [11, 20], 0.5), [4])
    turn, order = Rotation.random(random_state=seed).as_matrix(), rng.permutation(len(data))
    stress = data.labels.stress
    assert stress is not None
    own = data.structures
    turned = sp.with_labels(data, forces=data.labels.forces @ turn, stress=turn.T @ stress @ turn)
    turned = sp.with_structures(turned, positions=own.positions @ turn + 0.7, cell=own.cell @ turn)
    expected = {f.code: f.frames for f in lint([("data", data)]).findings}
    found = {
        f.code: tuple(sorted(order[list(f.frames)])) for f in lint([("d", turned.select(order))]).findings
    }
    assert found == expected
    assert {"frames-sign", "energy-outliers"} <= set(found)


_kept: list[LabelledSet] = []


def _small() -> LabelledSet:
    if not _kept:
        _kept.append(labelled_by_emt(alloy_frames(40, seed=2)))
    return _kept[0]


def test_report(alloy):
    report = lint([("one", sp.forces_flipped(alloy, [4])), ("two", sp.repeated(alloy, [1]).select([1]))])
    assert report.count == 61
    assert report.summary() == "1 error, 1 warning in 61 structures"
    line = next(text for text in report.lines() if "frames-sign" in text)
    assert line == (
        "error frames-sign: the forces of 1 structures point against those of the others; frame one:4; "
        "remedy: change the sign of these forces"
    )
    values = report.to_dict()
    assert values["structures"] == 61
    assert values["findings"][0]["frames"] == ["one:4"]


def test_ignored_codes_are_dropped(alloy):
    damaged = sp.forces_flipped(alloy, [4])
    assert "frames-sign" not in {f.code for f in lint([("d", damaged)], ignore=["frames-sign"]).findings}
    with pytest.raises(InputError, match="no such finding; got 'frame-sign'.*did you mean 'frames-sign'"):
        check_codes(["frame-sign"])


def test_every_code_is_listed():
    source = "".join(p.read_text(encoding="utf-8") for p in Path(package.__file__).parent.glob("*.py"))
    used = set(re.findall(r'Finding\(\s*"([a-z-]+)"', source))
    assert used == set(CODES)
    assert list(CODES) == sorted(CODES)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_structures_are_only_noted(count):
    report = lint([("few", labelled_by_emt(alloy_frames(count)))])
    assert {f.severity for f in report.findings} == {"note"}


def test_nothing_but_isolated_atoms():
    report = lint([("atom", labelled_by_emt([Atoms("Cu", cell=[12] * 3, pbc=True)]))])
    assert [f.code for f in report.errors] == ["no-structures"]
