from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.records.metrics import METRIC_KEYS, Errors, GroupedErrors, Metrics, read
from limbeck.validation.metrics import compute_metrics, grouped_metrics

from .toys import label_set


def molecules(count: int, size: int = 4) -> list[Atoms]:
    symbols = ("HCNO" * size)[:size]
    return [Atoms(symbols, positions=np.eye(size, 3) * 5 + k) for k in range(count)]


def test_hand_computed_values():
    # Two structures (1 and 2 atoms); every figure below was worked out on paper.
    frames = [Atoms("H"), Atoms("H2", positions=[[0, 0, 0], [1, 0, 0]])]
    reference = Labels(np.array([1.0, 4.0]), np.array([[3.0, 0, 0], [0, 4.0, 0], [0, 0, -1.0]]))
    predicted = Labels(np.array([1.1, 3.6]), np.array([[3.0, 0, 0], [0, 4.0, 3.0], [0, 0, 0]]))
    metrics = compute_metrics(StructureBatch.from_atoms(frames), reference, predicted)
    assert tuple(metrics.to_json()) == METRIC_KEYS
    # energies an atom: +0.1 and -0.2
    assert metrics.energy_mae_mev_per_atom == pytest.approx(150.0)
    assert metrics.energy_rmse_mev_per_atom == pytest.approx(1000 * np.sqrt((0.01 + 0.04) / 2))
    # components: one error of 3 and one of 1 among 9
    assert metrics.force_mae_mev_per_a == pytest.approx(4000 / 9)
    assert metrics.force_rmse_mev_per_a == pytest.approx(1000 * np.sqrt(10 / 9))
    # sum F = 6 over 9 components, sum F^2 = 26: spread 26 - 36/9 = 22, residual 10
    assert metrics.force_r2 == pytest.approx(1 - 10 / 22)
    # cosines 1, 4/5 and 0 (a predicted zero)
    assert metrics.force_cosine == pytest.approx(1.8 / 3)
    assert metrics.stress_mae_mev_per_a3 is None
    assert (metrics.n_structures, metrics.n_atoms) == (2, 3)


def test_planted_gaussian_errors_come_back_as_their_sigma():
    rng = np.random.default_rng(1)
    frames = molecules(4000, 5)
    batch = StructureBatch.from_atoms(frames)
    forces = rng.normal(size=(batch.n_atoms, 3)) * 1.5
    energy = rng.normal(size=len(batch)) * 30
    stress = rng.normal(size=(len(batch), 3, 3))
    noise = {"f": 0.040, "e": 0.003, "s": 0.002}
    predicted = Labels(
        energy + 5 * noise["e"] * rng.normal(size=len(batch)),
        forces + noise["f"] * rng.normal(size=forces.shape),
        stress + noise["s"] * rng.normal(size=stress.shape),
    )
    metrics = compute_metrics(batch, Labels(energy, forces, stress), predicted)
    half = np.sqrt(2 / np.pi)  # mean |x| of a unit Gaussian
    # 60,000 components leave 0.3% of statistical error, 4,000 energies 1.1%.
    assert metrics.force_rmse_mev_per_a == pytest.approx(40, rel=0.015)
    assert metrics.force_mae_mev_per_a == pytest.approx(40 * half, rel=0.015)
    assert metrics.energy_rmse_mev_per_atom == pytest.approx(3, rel=0.05)
    assert metrics.energy_mae_mev_per_atom == pytest.approx(3 * half, rel=0.05)
    assert metrics.stress_mae_mev_per_a3 == pytest.approx(2 * half, rel=0.03)
    assert 1 - metrics.force_r2 == pytest.approx((0.040 / 1.5) ** 2, rel=0.03)


def test_r2_and_cosine_against_other_formulas():
    rng = np.random.default_rng(2)
    batch = StructureBatch.from_atoms(molecules(50, 3))
    x = rng.normal(size=(batch.n_atoms, 3)) + 0.4
    # For the least-squares line of x on y, R2 is the squared correlation coefficient.
    y = x + 0.5 * rng.normal(size=x.shape)
    slope, offset = np.polyfit(y.ravel(), x.ravel(), 1)
    fitted = slope * y + offset
    energy = np.zeros(len(batch))
    metrics = compute_metrics(batch, Labels(energy, x), Labels(energy, fitted))
    assert metrics.force_r2 == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1] ** 2, rel=1e-10)
    # A rotation of each vector by 30 degrees about an axis normal to it has cosine sqrt(3)/2.
    normal = np.cross(x, rng.normal(size=x.shape))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    turned = x * np.cos(np.pi / 6) + np.cross(normal, x) * np.sin(np.pi / 6)
    metrics = compute_metrics(batch, Labels(energy, x), Labels(energy, 7.0 * turned))
    assert metrics.force_cosine == pytest.approx(np.sqrt(3) / 2, rel=1e-10)


def test_perfect_shifted_and_flipped_predictions():
    rng = np.random.default_rng(3)
    batch = StructureBatch.from_atoms(molecules(20))
    reference = Labels(rng.normal(size=20), rng.normal(size=(80, 3)))
    perfect = compute_metrics(batch, reference, reference)
    assert perfect.force_r2 == 1.0
    assert perfect.force_cosine == pytest.approx(1.0)
    assert perfect.energy_rmse_mev_per_atom == 0.0
    # No shift is taken off energies: a constant 8 meV in 4 atoms shows as 2 meV an atom.
    shifted = compute_metrics(batch, reference, Labels(reference.energy + 0.008, reference.forces))
    assert shifted.energy_mae_mev_per_atom == pytest.approx(2.0)
    flipped = compute_metrics(batch, reference, Labels(reference.energy, -reference.forces))
    assert flipped.force_cosine == pytest.approx(-1.0)
    assert flipped.force_r2 < -2.5


def test_undefined_figures_are_none_and_tiny_forces_have_no_angle():
    batch = StructureBatch.from_atoms([Atoms("H"), Atoms("He")])
    energy = np.zeros(2)
    metrics = compute_metrics(batch, Labels(energy, np.zeros((2, 3))), Labels(energy, np.ones((2, 3))))
    assert metrics.force_r2 is None
    assert metrics.force_cosine is None
    same = np.full((2, 3), 0.1)
    assert compute_metrics(batch, Labels(energy, same), Labels(energy, same)).force_r2 is None
    forces = np.array([[9e-7, 0, 0], [1.0, 0, 0]])
    metrics = compute_metrics(batch, Labels(energy, forces), Labels(energy, -forces * [[1], [-1]]))
    assert metrics.force_cosine == pytest.approx(1.0)


def test_stress_counts_only_where_both_sides_have_it():
    batch = StructureBatch.from_atoms([Atoms("H")] * 3)
    energy, forces = np.zeros(3), np.ones((3, 3))
    stress = np.zeros((3, 3, 3))
    stress[0] = np.nan
    other = np.zeros((3, 3, 3))
    other[1, 0, 1] = other[1, 1, 0] = 0.009
    other[0] = 5.0
    metrics = compute_metrics(batch, Labels(energy, forces, stress), Labels(energy, forces, other))
    assert metrics.stress_mae_mev_per_a3 == pytest.approx(1.0)  # 2 x 9 meV over 2 x 9 components


def test_groups_partition_the_whole():
    rng = np.random.default_rng(4)
    frames = molecules(30, 3)
    forces, energy = rng.normal(size=(90, 3)), rng.normal(size=30)
    groups = ["a", "b", ""] * 10
    kelvin = [300.0] * 10 + [1000.0] * 15 + [np.nan] * 5
    labelled = label_set(frames, Labels(energy, forces), groups, kelvin)
    predicted = Labels(energy + 0.003, forces + rng.normal(size=forces.shape) * 0.1)
    errors = grouped_metrics(labelled, predicted)
    assert set(errors.by_config_type) == {"a", "b"}
    assert set(errors.by_temperature) == {"300", "1000"}
    assert list(errors.by_element) == ["H", "C", "N"]
    assert errors.by_element["C"].n_atoms == 30
    # Mean squares over the elements, weighted alike, make up the whole.
    square = np.mean([one.force_rmse_mev_per_a**2 for one in errors.by_element.values()])
    assert np.sqrt(square) == pytest.approx(errors.all.force_rmse_mev_per_a)
    error = (predicted.forces - forces)[:30]
    by_hand = 1000 * np.linalg.norm(error) / np.sqrt(error.size)
    assert errors.by_temperature["300"].force_rmse_mev_per_a == pytest.approx(by_hand)
    assert errors.by_temperature["1000"].n_structures == 15
    held = errors.to_json()
    assert set(held) == {"all", "by_element", "by_config_type", "by_temperature"}
    assert "energy_mae_mev_per_atom" not in held["by_element"]["C"]
    assert GroupedErrors.from_json(json.loads(json.dumps(held))) == errors


def test_metrics_json_is_carried_whole_and_what_fits_no_field_is_left_out():
    held = {
        "tiny": {
            "test": GroupedErrors(Errors(force_rmse_mev_per_a=30.0, n_structures=4)).to_json(),
            "run": {"parameters": 7, "nve": {"drift_mev_per_atom_per_ps": 0.1, "completed": True},
                    "on_policy": {"stable": False, "reason": "it flew apart"}, "training": {"training_loss": 0.2}},
        },
        "run": {"name": "si", "active_learning": [{"number": 0}],
                "teacher": {"name": "emt", "long_range": [{"radius_a": 8.0, "displacement_a": 0.1}]}},
    }  # fmt: skip
    found = Metrics.from_json(held)
    tiny = found.students["tiny"]
    assert (tiny.errors("test").force_rmse_mev_per_a, tiny.training_loss) == (30.0, 0.2)
    assert (tiny.nve.completed, tiny.on_policy.stable, found.teacher.long_range[0].radius_a) == (
        True,
        False,
        8.0,
    )
    assert found.more["active_learning"] == held["run"]["active_learning"]
    assert Metrics.from_json(json.loads(json.dumps(found.to_json()))) == found
    for suspicious in (None, 3, "x", [1], {"tiny": 3}, {"tiny": {"test": {}}}, {"run": {"teacher": []}}):
        assert Metrics.from_json(suspicious).students == {}
    corrupt = Errors(force_r2=None)
    assert read(Errors, {"force_r2": float("nan"), "n_atoms": 1.5, "force_mae_mev_per_a": True}) == corrupt


def test_a_ramp_is_grouped_by_hundreds():
    kelvin = np.linspace(250.0, 1149.0, 40)
    labelled = label_set(molecules(40, 1), Labels(np.zeros(40), np.eye(40, 3)), kelvin=kelvin)
    groups = grouped_metrics(labelled, labelled.labels).by_temperature
    assert set(groups) == {str(k) for k in range(200, 1101, 100)}
    assert sum(g.n_structures for g in groups.values()) == 40


def test_single_precision_labels_are_compared_in_double():
    batch = StructureBatch.from_atoms([Atoms("H")] * 2)
    energy = np.array([1e5, 1e5])
    metrics = compute_metrics(
        batch,
        Labels(energy, np.ones((2, 3), np.float32)),
        Labels(energy + 1e-4, np.ones((2, 3), np.float32)),
    )
    assert metrics.energy_mae_mev_per_atom == pytest.approx(0.1, rel=1e-5)


def test_refusals():
    empty = StructureBatch.from_atoms([])
    with pytest.raises(InputError, match="no structures to compare; got 0; wanted at least one"):
        compute_metrics(empty, Labels(np.zeros(0), np.zeros((0, 3))), Labels(np.zeros(0), np.zeros((0, 3))))
    batch = StructureBatch.from_atoms([Atoms("H")] * 2)
    good = Labels(np.zeros(2), np.zeros((2, 3)))
    bad = Labels(np.zeros(2), np.array([[0, 0, 0], [0, np.nan, 0]]))
    with pytest.raises(LimbeckError, match="structure 1: prediction energies or forces are not finite"):
        compute_metrics(batch, good, bad)
    with pytest.raises(InputError, match="prediction energies and forces do not fit the structures"):
        compute_metrics(batch, good, Labels(np.zeros(1), np.zeros((2, 3))))
