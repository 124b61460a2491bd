"""Lint: correct labels of every kind raise no error, corrupt ones are found; the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from limbeck.core.labels import LabelledSet
from limbeck.core.structures import StructureBatch
from limbeck.dataset import lint as package
from limbeck.dataset.lint import CODES, NOTHING_EXPECTED, Expected, check_codes, lint
from limbeck.dataset.read import read_labelled
from limbeck.errors import InputError
from tests.dataset import corrupting as bad
from tests.dataset.systems import SYSTEMS, alloy_frames, labelled_by_emt

HA, BOHR, RY = units.Hartree, units.Bohr, units.Rydberg
KCAL, KJ = units.kcal / units.mol, units.kJ / units.mol
XTB = {"energy_key": "energy_xtb", "forces_key": "forces_xtb"}
Change = Callable[[LabelledSet], LabelledSet]


def codes(data: LabelledSet, expected: Expected = NOTHING_EXPECTED) -> set[str]:
    return {f.code for f in lint([("data", data)], expected).findings if f.severity != "note"}


@cache
def read(path: Path) -> LabelledSet:
    if not path.is_file():
        pytest.skip(f"no reference data at {path}")
    return read_labelled(path, **(XTB if "xtb_t" in path.name else {}))


@pytest.mark.parametrize("name", SYSTEMS)
def test_correct_labels_raise_no_alarm(name):
    report = lint([(name, SYSTEMS[name]())])
    # molecules may relax into one another
    assert {f.code for f in report.findings if f.severity != "note"} <= (
        {"duplicates"} if "relaxed" in name else set()
    ), report.lines()


# The two files of molybdenum hold xz and yz in each other's place: energies of its sheared cells fit the
# stress six times better when they are exchanged.
REAL = {"mlearn/Mo_test.xyz": {"stress-order"}, "mlearn/Mo_training.xyz": {"stress-order"}}


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [
        "3bpa/train_300K.xyz", "3bpa/train_mixedT.xyz", "mlearn/Li_test.xyz", "mlearn/Li_training.xyz",
        "mlearn/Mo_test.xyz", "mlearn/Mo_training.xyz", "mlearn/Si_test.xyz", "mlearn/Si_training.xyz",
        "solvent_xtb/solvent_xtb_train_20.xyz", "solvent_xtb/solvent_xtb_train_50.xyz",
        "solvent_xtb/solvent_xtb_train_53_gen1.xyz", "solvent_xtb/solvent_xtb_train_200.xyz",
        "solvent_xtb/solvent_xtb_test.xyz", "water_pbe0/test_3.xyz", "water_pbe0/train_0.xyz",
    ],
)  # fmt: skip
def test_published_labels_raise_no_alarm(shared_data, name):
    assert codes(read(shared_data / name)) == REAL.get(name, set())


def scaled(**factors: float) -> Change:
    return partial(bad.scaled, **factors)


#: system, damage, code, words of the line
DAMAGE: list[tuple[str, Change, str, str]] = [
    *((name, scaled(forces=-1), "forces-sign", "change their sign") for name in (
        "metal", "melt", "slabs", "argon", "strained argon", "salt", "strained salt", "silicon", "strained silicon",
        "molecules", "ethanol, xtb", "molecules, xtb", "clusters, xtb")),
    *((name, scaled(energy=1 / HA), "energy-forces-unit", "energies in Hartree with forces in eV/Å") for name in (
        "metal", "melt", "slabs", "argon", "salt", "silicon", "strained silicon", "ethanol, xtb", "clusters, xtb")),
    *((name, scaled(energy=1 / KCAL), "energy-forces-unit", "kcal/mol") for name in ("metal", "salt", "silicon")),
    *((name, scaled(energy=1 / KJ), "energy-forces-unit", "kJ/mol") for name in ("metal", "melt", "ethanol, xtb")),
    *((name, scaled(forces=BOHR), "energy-forces-unit", "eV/bohr") for name in ("metal", "silicon", "ethanol, xtb")),
    *((name, scaled(energy=1 / HA, forces=BOHR / HA), "energy-forces-unit", "Hartree/bohr") for name in (
        "alloy", "metal", "salt", "silicon", "ethanol, xtb", "molecules, xtb", "clusters, xtb")),
    ("silicon", scaled(energy=1 / RY, forces=BOHR / RY), "energy-forces-unit", "Rydberg/bohr"),
    ("metal", scaled(energy=1 / KCAL, forces=1 / KCAL), "energy-forces-unit", "kcal/mol with forces in kcal/mol/Å"),
    ("salt", scaled(energy=1 / KJ, forces=1 / KJ), "energy-forces-unit", "kJ/mol with forces in kJ/mol/Å"),
    ("molecules, xtb", scaled(forces=1 / KCAL), "energy-forces-unit", "kcal/mol/Å"),
    ("metal", scaled(energy=-1), "forces-sign", "change the sign of the energies"),
    *((name, bad.in_bohr, "positions-unit", "bohr") for name in (
        "metal", "phases", "strained salt", "silicon", "rigid water", "molecules", "clusters, xtb")),
    *((name, scaled(stress=-1), "stress-sign", "the stress has the wrong sign (") for name in (
        "alloy", "melt", "strained argon", "strained salt", "silicon", "strained silicon")),
    *((name, scaled(stress=1 / units.GPa), "stress-unit", "GPa") for name in ("alloy", "melt", "silicon", "salt")),
    ("silicon", scaled(stress=-10 / units.GPa), "stress-sign", "kbar"),
    ("metal", bad.virials, "stress-unit", "the virial in eV, not divided by the volume"),
    ("alloy", partial(bad.virials, sign=-1), "stress-sign", "the virial in eV"),
    *((name, bad.stress_as_vasp_writes_it, "stress-order", "VASP writes xx, yy, zz, xy, yz, zx") for name in (
        "alloy", "metal", "strained salt", "strained silicon")),
    ("phases", partial(bad.stress_as_vasp_writes_it, sign=-1), "stress-sign", "wrong sign"),
    ("alloy", lambda d: bad.energies_shifted(d, list(range(0, 60, 2)), 1.0), "energy-reference", "two clusters"),
    ("metal", lambda d: bad.with_labels(d, energy=np.roll(d.labels.energy, 9)), "energies-unrelated", ""),
    ("clusters, xtb", lambda d: bad.forces_changed(d, np.random.default_rng(0).permutation), "forces-unrelated", "order of the atoms"),
    ("melt", scaled(forces=0), "forces-zero", "40 structures"),
    ("salt", scaled(energy=0), "energy-constant", "--energy-key"),
    ("salt", lambda d: bad.with_structures(d, pbc=np.zeros_like(d.structures.pbc)), "pbc-missing", "40 structures"),
    ("salt", lambda d: bad.with_structures(d, cell=d.structures.cell * 0.4), "cell-small", "40 structures"),
    ("alloy", lambda d: bad.forces_changed(d, lambda f: f * [1, 1, 0]), "forces-axes", "z components"),
    ("alloy", lambda d: bad.forces_changed(d, lambda f: np.where(np.arange(len(f))[:, None] < 9, 0, f)),
     "forces-constrained", "constraints"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "code", "words"), DAMAGE, ids=lambda v: v if isinstance(v, str) else ""
)
def test_damage_is_found_and_named(name, change, code, words):
    report = lint([(name, change(SYSTEMS[name]()))])
    lines = [report.line(f) for f in report.findings if f.code == code and f.severity != "note"]
    assert any(words in line for line in lines), report.lines()


@pytest.mark.parametrize(
    ("name", "change", "code", "frames"),
    [
        ("alloy", partial(bad.forces_flipped, frames=[4, 9]), "frames-sign", (4, 9)),
        ("clusters, xtb", partial(bad.forces_flipped, frames=[3]), "frames-sign", (3,)),
        ("alloy", lambda d: bad.energies_shifted(d, [4, 9], 0.5), "energy-outliers", (4, 9)),
        ("metal", lambda d: bad.energies_shifted(d, [7], -0.3), "energy-outliers", (7,)),
        ("metal", lambda d: bad.energies_shifted(d, [2], np.nan), "not-finite", (2,)),
        ("metal", lambda d: bad.energies_shifted(bad.repeated(d, [5]), [40], 0.01), "duplicates-differ", (5, 40)),
        ("metal", partial(bad.repeated, frames=[5, 6]), "duplicates", (40, 41)),
        ("salt", partial(bad.labels_copied, source=3, target=8), "labels-repeated", (3, 8)),
        ("alloy", partial(bad.one_force_changed, frame=4, ev_per_a=20.0), "net-force", (4,)),
        ("alloy", partial(bad.one_force_changed, frame=4, ev_per_a=300.0), "forces-large", (4,)),
        ("molecules", partial(bad.turned, frame=0), "net-torque", (0,)),
        ("salt", lambda d: bad.moved(bad.scaled(d, forces=0.1), 8 * 7, 8 * 7 + 1, 0.5), "close-atoms", (7,)),
        ("molecules", lambda d: bad.moved(d, 9 * 2 + 5, 9 * 2, 30.0), "lone-atoms", (2,)),
        ("alloy", lambda d: bad.with_labels(d, stress=d.labels.stress * (np.arange(60) != 4)[:, None, None]), "stress-zero", (4,)),
    ],
)  # fmt: skip
def test_damaged_frames_are_named(name, change, code, frames):
    found = {f.code: f.frames for f in lint([(name, change(SYSTEMS[name]()))]).findings}
    assert found.get(code) == frames, found


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "change", "code", "words"),
    [
        ("3bpa/train_300K.xyz", scaled(forces=-1), "forces-sign", ""),
        ("mlearn/Si_training.xyz", scaled(forces=-1), "forces-sign", ""),
        ("water_pbe0/train_0.xyz", scaled(forces=-1), "forces-sign", ""),
        ("solvent_xtb/solvent_xtb_train_200.xyz", scaled(forces=-1), "forces-sign", ""),
        ("3bpa/train_300K.xyz", scaled(energy=1 / HA, forces=1 / HA), "energy-unit", "27.2114"),
        ("3bpa/train_300K.xyz", scaled(forces=BOHR / HA), "energy-forces-unit", "Hartree/bohr"),
        ("mlearn/Si_training.xyz", scaled(energy=1 / HA), "energy-forces-unit", "Hartree"),
        ("water_pbe0/train_0.xyz", scaled(energy=1 / KJ), "energy-forces-unit", "kJ/mol"),
        ("solvent_xtb/solvent_xtb_train_200.xyz", scaled(energy=1 / KCAL), "energy-forces-unit", "kcal/mol"),
        ("mlearn/Li_training.xyz", scaled(stress=1 / units.GPa), "stress-unit", "GPa"),
        ("mlearn/Si_training.xyz", scaled(stress=-10 / units.GPa), "stress-sign", "kbar"),
        ("mlearn/Si_training.xyz", bad.in_bohr, "positions-unit", "bohr"),
    ],
)
def test_damage_of_published_labels_is_found(shared_data, name, change, code, words):
    report = lint([(name, change(read(shared_data / name)))])
    assert any(words in report.line(f) for f in report.errors if f.code == code), report.lines()


def test_contact_scans_do_not_affect_the_rest():
    """Steep forces between frames of a scan are no unit, and its frames no outliers."""
    frames = alloy_frames(6, seed=9)
    for frame in frames:
        frame.positions[1] = frame.positions[0] + 0.45 * (frame.positions[1] - frame.positions[0])
    scan = labelled_by_emt(frames)
    scan = replace(scan, config_type=np.array(["contacts"] * len(scan)))
    assert not lint([("alloy", SYSTEMS["alloy"]()), ("scan", scan)]).errors


def test_frames_are_named_as_they_were_read():
    """Frames that the audit drops, and isolated atoms, do not shift the numbers."""
    first = labelled_by_emt([Atoms("Cu", cell=[12] * 3, pbc=True)])
    damaged = bad.energies_shifted(bad.forces_flipped(SYSTEMS["alloy"](), [4, 9]), [0], np.nan)
    report = lint([("atoms", first), ("alloy", damaged)])
    named = {f.code: [report.frame_name(k) for k in f.frames] for f in report.findings}
    assert named["not-finite"] == ["alloy:0"]
    assert named["frames-sign"] == ["alloy:4", "alloy:9"]
    assert report.summary() == "1 error, 1 warning in 61 structures"
    assert report.to_dict()["findings"][0]["frames"] == ["alloy:4", "alloy:9"]
    line = next(text for text in report.lines() if "frames-sign" in text)
    assert line.startswith("error frames-sign: the forces of 2 structures")
    assert "; frames alloy:4, alloy:9; remedy: change the sign" in line


def test_elements_and_formulas():
    data = SYSTEMS["alloy"]().select(np.arange(10))
    assert codes(data, Expected(elements=(1, 29, 79))) == {"elements-missing"}
    assert codes(data, Expected(elements=(29,))) == {"elements-unexpected"}
    assert codes(data, Expected(validation=SYSTEMS["salt"]().select([0]))) == {"elements-missing"}
    for formula, found in (("CuAu", set()), ("Cu3Au", {"formula-unexpected"})):
        starts = StructureBatch.from_atoms([Atoms(formula, cell=[3] * 3, pbc=True)])
        assert codes(data, Expected(starts=starts)) == found


def test_leaks():
    data = SYSTEMS["alloy"]()
    own = data.select([3, 8])
    assert "leak" in codes(data, Expected(validation=own))
    assert not codes(data, Expected(validation=own, copies_removed=True))
    moved = bad.with_structures(own, positions=own.structures.positions + np.array([0.3, 0.2, 0.1]))
    moved.structures.positions[::2] += 0.004
    report = lint([("data", data)], Expected(validation=moved, copies_removed=True))
    assert {(f.code, f.frames) for f in report.errors} == {("leak", (3, 8))}
    groups = replace(data, group=np.array(["a", "b"] * 30))
    other = replace(labelled_by_emt(alloy_frames(4, seed=5)), group=np.array(["b"] * 4))
    assert codes(groups, Expected(validation=other)) == {"leak-group"}


def test_isolated_atoms():
    atom = labelled_by_emt([Atoms("Cu", cell=[12] * 3, pbc=True)])
    report = lint([("a", atom), ("b", bad.energies_shifted(atom, [0], 1.0)), ("c", SYSTEMS["alloy"]())])
    assert [f.code for f in report.errors] == ["isolated-atoms-differ"]
    assert [f.code for f in lint([("atom", atom)]).errors] == ["no-structures"]


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_findings_do_not_depend_on_order_or_orientation(seed):
    rng = np.random.default_rng(seed)
    data = bad.forces_flipped(bad.energies_shifted(SYSTEMS["alloy"](), [11, 20], 0.5), [4])
    turn, order = Rotation.random(random_state=seed).as_matrix(), rng.permutation(len(data))
    stress, own = data.labels.stress, data.structures
    turned = bad.with_labels(data, forces=data.labels.forces @ turn, stress=turn.T @ stress @ turn)
    turned = bad.with_structures(turned, positions=own.positions @ turn + 0.7, cell=own.cell @ turn)
    expected = {f.code: f.frames for f in lint([("data", data)]).findings}
    found = {
        f.code: tuple(sorted(order[list(f.frames)])) for f in lint([("d", turned.select(order))]).findings
    }
    assert found == expected
    assert {"frames-sign", "energy-outliers"} <= set(found)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_structures_are_only_noted(count):
    report = lint([("few", labelled_by_emt(alloy_frames(count)))])
    assert {f.severity for f in report.findings} == {"note"}


def test_codes():
    damaged = bad.forces_flipped(SYSTEMS["alloy"](), [4])
    assert "frames-sign" not in {f.code for f in lint([("d", damaged)], ignore=["frames-sign"]).findings}
    with pytest.raises(InputError, match="got 'frame-sign'.*did you mean 'frames-sign'"):
        check_codes(["frame-sign"])
    source = "".join(p.read_text(encoding="utf-8") for p in Path(package.__file__).parent.glob("*.py"))
    assert {code for code in CODES if source.count(f'"{code}"') < 2} == set()
    assert list(CODES) == sorted(CODES)
