"""The certificate fails for every way in which an export has been seen to be wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from limbeck.artifact.file import read_student
from limbeck.export.certificate import References, turned, turns
from limbeck.export.structures import (
    MANY,
    make_crystal,
    make_molecule,
    of_size,
    parity_structures,
    smaller_than,
)
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Student
from tests.export.tools import STRUCTURES, HereRuntime, make_model, small_record, small_student
from tests.students.tools import random_record


@pytest.fixture(scope="module")
def references():
    return References(small_student(), {k: v for k, v in STRUCTURES.items() if k != "slab"})


@pytest.fixture(scope="module")
def silicon():
    """A released student, and its references on the structures that every certificate has."""
    record = read_student(find_student("silicon-ultra-tiny"))
    classes = parity_structures(record)
    del classes[MANY]  # what it is for is tested below
    return record, References(Student(record, threads=1), classes)


def test_a_faithful_export_passes(references):
    comparison = references.compare(HereRuntime(make_model()))
    assert comparison.passes, comparison.failure()
    assert set(comparison.against_student) == {*STRUCTURES, "mixed batch"} - {"slab"}
    assert comparison.against_student["molecule"].stress_mev_per_a3 is None
    assert comparison.against_student["triclinic"].stress_mev_per_a3 is not None


SPOILS = {
    "forces turned around": lambda out: out.update(forces=-out["forces"]),
    "forces 0.1% off": lambda out: out.update(forces=1.001 * out["forces"]),
    "one component": lambda out: out["forces"].__setitem__((0, 0), out["forces"][0, 0] + 1e-4),
    "energy of a structure": lambda out: out.update(energy=out["energy"] + 2e-5),
    "atomic energies moved about": lambda out: out.update(atom_energies=np.roll(out["atom_energies"], 1)),
    "stress with the other sign": lambda out: out.update(stress=-out["stress"]),
    "components of stress swapped": lambda out: out.update(stress=out["stress"][:, [1, 0, 2]]),
    "stress of a molecule": lambda out: out.update(stress=out["stress"] + 1e-3),
    "not a number": lambda out: out["forces"].__setitem__((0, 0), np.nan),
    "energy not a number": lambda out: out["energy"].__setitem__(0, np.nan),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoiled_export_fails(name, references):
    comparison = references.compare(HereRuntime(make_model(), SPOILS[name]))
    assert not comparison.passes
    assert "of the tolerance off" in comparison.failure()


@pytest.fixture(scope="module")
def crowded():
    """References of which one is repeated; few atoms do for a runtime that is wrong on purpose."""
    return References(small_student(), {"molecule": STRUCTURES["molecule"], MANY: STRUCTURES["triclinic"]})


class NowAndThen(HereRuntime):
    """Right at first, and wrong in the 13th of the repeats alone, as a runtime that loses an addend."""

    def evaluate(self, inputs, name="model", calls=1):
        found = super().evaluate(inputs, name, calls)
        if calls > 1:
            self.lose(found[12])
        return found

    lose = staticmethod(lambda outputs: None)


def test_equal_repeats_pass_where_they_are_right(crowded):
    repeats = crowded.repeat(NowAndThen(make_model()), threads=3)
    assert repeats.passes, repeats.failure()
    assert (repeats.atoms, repeats.repeats, repeats.threads) == (len(STRUCTURES["triclinic"][0]), 20, 3)
    assert repeats.force_spread_mev_per_a < 1e-3
    assert repeats.stress_spread_mev_per_a3 < 1e-3
    wrong = HereRuntime(make_model(), lambda outputs: outputs.update(forces=1.01 * outputs["forces"]))
    repeats = crowded.repeat(wrong, threads=2)
    assert not repeats.passes
    assert repeats.force_spread_mev_per_a < 1e-3


@pytest.mark.parametrize(
    ("output", "spread", "off"),
    [
        ("energy", "energy_spread_mev", 1e-3),
        ("forces", "force_spread_mev_per_a", 1e-3),
        ("stress", "stress_spread_mev_per_a3", 1e-3),
        ("atom_energies", "atom_energy_spread_mev", 1e-3),
        ("forces", "force_spread_mev_per_a", np.nan),
    ],
)
def test_one_wrong_evaluation_in_twenty_fails(output, spread, off, crowded):
    runtime = NowAndThen(make_model())
    runtime.lose = lambda outputs: outputs[output].reshape(-1).__setitem__(0, outputs[output].flat[0] + off)
    assert crowded.compare(runtime).passes  # one evaluation of each structure does not show it
    repeats = crowded.repeat(runtime, threads=2)
    assert not repeats.passes
    assert getattr(repeats, spread) == pytest.approx(1000 * off, rel=0.1, nan_ok=True)
    assert f"{repeats.atoms} atoms evaluated 20 times on 2 threads" in repeats.failure()


@pytest.mark.parametrize(
    ("name", "factor"),
    [("interactions.0.phi.weight", 1.01), ("interactions.1.gate.weight", 1.01), ("readout.0.weight", 1.001)],
)
def test_one_row_of_a_real_student_a_little_off_fails(name, factor, silicon):
    """Rounding is random: what is systematic shows in root mean squares first."""
    record, references = silicon
    changed = record.weights[name].copy()
    changed[3] *= factor
    other = make_model(replace(record, weights=record.weights | {name: changed}))
    assert not references.compare(HereRuntime(other)).passes


class RoundingRuntime(HereRuntime):
    def evaluate(self, inputs, name="model", calls=1):
        rounded = inputs["positions"].astype(np.float32).astype(float)
        return super().evaluate(inputs | {"positions": rounded}, name, calls)


def test_what_fails_on_a_real_student_and_where(silicon):
    record, references = silicon
    bare = make_model(replace(record, baseline=replace(record.baseline, zbl_radius={})))
    comparisons = [
        references.compare(one)
        for one in (HereRuntime(make_model(record)), HereRuntime(bare), RoundingRuntime(make_model(record)))
    ]
    failed = [{kind for kind, part in one.against_float64.items() if not part.passes} for one in comparisons]
    faithful = comparisons[0]
    parts = [*faithful.against_student.values(), *faithful.against_float64.values()]
    assert max(part.share for part in parts) < 0.8, faithful.failure()
    assert faithful.against_float64["generated"].force_rms_mev_per_a < 0.002
    assert failed[1] == {"close pair", "mixed batch"}
    assert "triclinic" in failed[2]
    assert "molecule" not in failed[2]


@pytest.mark.parametrize(
    ("quantity", "worst"), [("forces", "rms force"), ("atom_energies", "rms atom energy")]
)
def test_a_deviation_that_is_systematic_fails_within_the_largest(quantity, worst, silicon):
    """Each far within the limit of the largest deviation, all together no rounding."""
    record, references = silicon
    spoil = HereRuntime(make_model(record), lambda out: out.update({quantity: out[quantity] + 1e-5}))
    comparison = references.compare(spoil)
    assert comparison.against_student["generated"].passes
    part = comparison.against_float64["generated"]
    assert not part.passes
    assert part.worst == worst


def test_fitted_references_do_not_make_the_tolerance_vanish(references):
    """What the references leave of the energies may cancel; the arithmetic's rounding does not with it."""
    kind = next(k for k, (name, _) in enumerate(references.batches) if name == "triclinic")
    whole = references._limits(kind, 0)["energy"]
    exact, numbers = references.exact[kind]["atom_energies"], references.batches[kind][1].numbers
    fitted = {z: float(exact[numbers == z].mean()) for z in np.unique(numbers)}
    other = copy.copy(references)
    other.isolated = {kind: np.array([fitted[z] for z in numbers])}
    left = other._limits(kind, 0)["energy"]
    assert left == pytest.approx(1e-6 * len(numbers) * small_record().architecture.energy_scale)
    other.isolated = {kind: references.isolated[kind] - 100.0}  # eV an atom below: the sum counts
    assert other._limits(kind, 0)["energy"] > 50 * min(left, whole)


@pytest.mark.parametrize("elements", [(14,), (1, 6, 7, 8), (3, 17), (26,), (79, 92), (1,), (18,)])
def test_structures_are_made_for_any_elements(elements):
    crystal, molecule = make_crystal(elements), make_molecule(elements)
    for atoms in (crystal, molecule):
        assert set(atoms.numbers.tolist()) <= set(elements)
        assert len(atoms) < 2 or atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)].min() > 0.6
    assert crystal.pbc.all()
    assert smaller_than(crystal, 4.0).cell.lengths().min() < 4.0
    assert not molecule.pbc.any()
    assert 500 <= len(of_size(crystal, 1000, elements)) <= 2500
    assert 900 <= len(of_size(molecule, 1000, elements)) <= 1100


def test_classes_of_structures():
    record = small_record()
    classes = parity_structures(record)
    assert list(classes) == [
        "generated", "triclinic", "cell smaller than the cutoff", "molecule", "isolated atom", "close pair",
        "many atoms",
    ]  # fmt: skip
    (sheared,) = classes["triclinic"]
    assert np.abs(np.cos(np.radians(sheared.cell.angles()))).min() > 0.01
    assert classes["cell smaller than the cutoff"][0].cell.lengths().min() < 5.0
    assert np.abs(sheared.positions).max() > 250
    assert [len(atoms) for atoms in classes["isolated atom"]] == [1] * 5
    assert [900 <= len(atoms) <= 1100 for atoms in classes["many atoms"]] == [True]
    radii = record.baseline.zbl_radius
    for atoms in classes["close pair"]:
        first, second = sorted(atoms.numbers.tolist())
        assert 0.5 < atoms.get_distance(0, 1) / radii[first, second] < 1
    assert len(classes["close pair"]) == len(radii) == 15
    bare = replace(record, baseline=replace(record.baseline, zbl_radius={}))
    assert "close pair" not in parity_structures(bare)
    # molten LiCl has 1.4 to 1.5 g/cm³: 1.45 are 48.5 Å³ a formula unit
    card = {"data": {"density_g_per_cm3": [1.3, 1.6]}}
    classes = parity_structures(replace(random_record(elements=(3, 17)), card=card))
    for atoms in classes["generated"] + classes["many atoms"]:
        assert 2 * atoms.get_volume() / len(atoms) == pytest.approx(48.55, abs=0.1)


def test_a_student_turned_in_space_differs_by_its_rounding_only(references):
    """The copies that show a student's own rounding: a wrong turn would widen every limit."""
    exact = Student(small_record(), engine="torch", precision="float64", threads=1)
    for k, (_, batch) in enumerate(references.batches):
        for turn in turns(3):
            assert np.linalg.det(turn) == pytest.approx(1)
            found, wanted = turned(exact, batch, turn), references.exact[k]
            np.testing.assert_allclose(found["forces"], wanted["forces"], rtol=0, atol=1e-9)
            np.testing.assert_allclose(found["stress"], wanted["stress"], rtol=0, atol=1e-9)
            np.testing.assert_allclose(found["energy"], wanted["energy"], rtol=1e-11)


def test_a_limit_is_widened_only_where_the_student_itself_is_rough(references):
    faithful = references.compare(HereRuntime(make_model()))
    assert sum(part.widened for part in faithful.against_student.values()) == 0
    rough = References(small_student(), {"molecule": STRUCTURES["molecule"]})
    rough.own = [exact | {"forces": exact["forces"] + 1e-3} for exact in rough.exact]
    rough.rounded = [[[own]] for own in rough.own]
    comparison = rough.compare(HereRuntime(make_model()))
    assert comparison.passes
    assert comparison.against_float64["molecule"].widened == 1
    off = HereRuntime(make_model(), lambda out: out.update(forces=out["forces"] + 5e-3))
    assert not rough.compare(off).passes


def test_a_runs_held_out_set_is_filled_up_by_its_validation_set(tmp_path):
    """A hundred structures that no training saw; a file of another name is taken as it is."""
    for name, count, scale in (("test", 60, 1.0), ("validation", 300, 1.1), ("own", 60, 1.0)):
        frames = [bulk("Si", a=scale * (5.4 + 1e-4 * k), cubic=True) for k in range(count)]
        write(tmp_path / f"{name}.extxyz", frames)
    record = random_record(elements=(14,))

    def lengths(**files) -> np.ndarray:
        return np.array([atoms.cell.lengths()[0] for atoms in parity_structures(record, **files)["test"]])

    given = tmp_path / "test.extxyz"
    for found in (lengths(given=given), lengths(student_file=tmp_path / "tiny.safetensors")):
        assert len(found) == 100
        np.testing.assert_allclose(found[:60], 5.4 + 1e-4 * np.arange(60))
        np.testing.assert_allclose(found[60:] / 1.1, 5.4 + 1e-4 * np.linspace(0, 299, 40).round())
    assert len(lengths(given=tmp_path / "own.extxyz")) == 60
