"""Atomic energies as a target: constants of an element, the term in the loss, and its absence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.io import write

from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.dataset.read import read_labelled
from limbeck.errors import InputError
from limbeck.students.baseline import Baseline
from limbeck.students.engine import TorchEngine
from limbeck.training.data import atomic_targets, prepare
from limbeck.training.loop import Stop
from limbeck.training.loss import batch_loss

from . import tools
from .tools import emt_set, make_trainer, molecule_set


def with_atoms(labelled: LabelledSet, shift: dict[int, float] | None = None, seed: int = 3) -> LabelledSet:
    """Atomic energies that sum to the total, moved by constants of the elements that cancel in it."""
    batch = labelled.structures
    shares = labelled.labels.energy / batch.counts
    atoms = shares[batch.structure_of_atom] + 0.1 * np.random.default_rng(seed).normal(size=batch.n_atoms)
    for s in range(len(batch)):
        part = slice(batch.offsets[s], batch.offsets[s + 1])
        atoms[part] += (labelled.labels.energy[s] - atoms[part].sum()) / batch.counts[s]
    if shift:
        atoms = atoms + np.array([shift.get(int(z), 0.0) for z in batch.numbers])
    return replace(labelled, labels=replace(labelled.labels, atom_energies=atoms))


def targets_of(labelled: LabelledSet) -> np.ndarray:
    return atomic_targets(labelled.structures, labelled.labels.energy, labelled.labels.atom_energies)


def sums(batch: StructureBatch, values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, batch.offsets[:-1])


def test_constants_that_cancel_in_water_do_not_matter():
    plain, moved = with_atoms(molecule_set(6)), with_atoms(molecule_set(6), {8: 20.0, 1: -10.0})
    batch, energy = plain.structures, plain.labels.energy
    got = targets_of(moved)
    np.testing.assert_allclose(got, targets_of(plain), atol=1e-10)
    np.testing.assert_allclose(sums(batch, got), energy, atol=1e-10)
    means = [got[batch.numbers == z].mean() for z in (1, 8)]
    assert means == pytest.approx([energy.mean() / 3] * 2)  # where a network begins
    # and within an element the differences are the teacher's
    for z in (1, 8):
        own = plain.labels.atom_energies[batch.numbers == z]
        np.testing.assert_allclose(np.diff(got[batch.numbers == z]), np.diff(own), atol=1e-10)


def test_constants_that_do_not_cancel_are_made_good():
    """A teacher whose atomic energies leave out its elements' references (two compositions)."""
    labelled = with_atoms(emt_set(8))
    assert len({tuple(np.bincount(a.numbers)) for a in labelled.structures.to_atoms()}) > 1
    bare = with_atoms(emt_set(8), {29: 3.0, 79: -5.0})
    got = targets_of(bare)
    np.testing.assert_allclose(sums(labelled.structures, got), labelled.labels.energy, atol=1e-9)
    np.testing.assert_allclose(got, labelled.labels.atom_energies, atol=1e-9)


def test_structures_without_atomic_energies_have_no_target():
    mixed = concatenate_labelled([with_atoms(emt_set(3)), molecule_set(3)])
    got = targets_of(mixed)
    known = np.isfinite(got)
    assert (known == np.isfinite(mixed.labels.atom_energies)).all()
    assert 0 < known.sum() < len(known)


def test_baselines_are_taken_off_each_atom():
    labelled = with_atoms(emt_set(8))
    baseline = Baseline({29: -3.0, 79: 1.0}, {(29, 29): 3.0, (29, 79): 3.0, (79, 79): 3.0})
    data = prepare(labelled, baseline, 4.0, atom_energies=True)
    np.testing.assert_allclose(sums(labelled.structures, data.atom_energies), data.energy, atol=1e-9)
    assert prepare(labelled, baseline, 4.0).atom_energies is None


def test_nothing_to_train_on_is_said():
    text = (
        "^no atomic energies to train on; got labels of energies and forces only; wanted a teacher that gives "
        r"atomic energies; remedy: set training.atom_energy_weight to 0$"
    )
    with pytest.raises(InputError, match=text):
        prepare(emt_set(2), Baseline({29: 0.0, 79: 0.0}, {}), 4.0, atom_energies=True)


@pytest.mark.parametrize("kind", ["huber", "mse"])
def test_term_is_the_written_formula(kind):
    error = torch.tensor([0.1, -2.0, float("nan"), 0.5], dtype=torch.float64)
    rest = (torch.ones(1).double(), torch.ones(4, 3).double(), torch.full((1, 3, 3), torch.nan).double())
    settings = {"force_scale": 2.0, "weights": (1.0, 1.0, 1.0), "kind": kind, "delta": 0.2}
    counts = torch.tensor([4.0], dtype=torch.float64)
    without = batch_loss(*rest, counts, **settings)
    terms = batch_loss(*rest, counts, **settings, atom_error=error, atom_weight=0.3)
    x = np.array([0.05, 1.0, 0.25])
    inner = x**2 / 2 if kind == "mse" else np.where(x < 0.2, x**2 / 2, 0.2 * (x - 0.1))
    assert float(terms.atoms) == pytest.approx(0.3 * inner.mean())
    assert float(terms.total) == pytest.approx(float(without.total) + 0.3 * inner.mean())
    assert without.atoms is None
    nowhere = batch_loss(*rest, counts, **settings, atom_error=error[2:3], atom_weight=0.3)
    assert float(nowhere.total) == float(without.total)


def train(folder, monkeypatch, labelled=with_atoms, **settings):
    """A short run on Cu-Au whose labels hold atomic energies; weights and log."""

    def prepared(labels, cutoff=4.0):
        weight = settings.get("atom_energy_weight", 0.0)
        references = Baseline({29: 0.0, 79: 0.0}, {})
        return prepare(labelled(labels), references, cutoff, atom_energies=weight > 0)

    monkeypatch.setattr(tools, "prepared", prepared)
    trained = make_trainer(folder, stop=Stop(epochs=4), precision="float64", **settings).run()
    return trained, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


#: what engines are compared with: a basis of eigenvectors may turn where rounding differs
ADAM = {"optimizer": "adamw"}


def test_weight_zero_is_as_if_there_were_none(tmp_path, monkeypatch):
    """Nothing is computed: the engine's gradient gets three seeds, and every bit is the same."""
    seeds = []
    gradient = TorchEngine.gradient

    def watched(self, *given):
        seeds.append(len(given))
        return gradient(self, *given)

    monkeypatch.setattr(TorchEngine, "gradient", watched)
    runs = {}
    for engine in ("native", "torch"):
        plain, _ = train(tmp_path / f"{engine}-plain", monkeypatch, lambda s: s, engine=engine, **ADAM)
        zero, _ = train(
            tmp_path / f"{engine}-zero", monkeypatch, engine=engine, atom_energy_weight=0.0, **ADAM
        )
        np.testing.assert_array_equal(zero.flat, plain.flat)
        runs[engine], _ = train(
            tmp_path / f"{engine}-on", monkeypatch, engine=engine, atom_energy_weight=0.5, **ADAM
        )
        assert np.abs(runs[engine].flat - plain.flat).max() > 1e-4
    assert set(seeds) == {3, 4}
    assert np.abs(runs["native"].flat - runs["torch"].flat).max() < 1e-8 * np.abs(runs["torch"].flat).max()


def test_the_term_is_learnt(tmp_path, monkeypatch):
    """EMT's own atomic energies; nothing else pulls, the other weights are zero."""
    emt = AsePotential(EMT(), Capabilities(atom_energies=True), "emt")

    def own(labelled):
        return replace(labelled, labels=emt.evaluate(labelled.structures))

    settings = {"energy_weight": (0.0, 0.0), "force_weight": 0.0, "stress_weight": 0.0, "learning_rate": 1e-2}
    _, rows = train(tmp_path, monkeypatch, own, atom_energy_weight=1.0, checks=4, **settings)
    assert rows[-1]["training_loss"] < rows[0]["training_loss"] / 3


def test_atomic_energies_pass_through_extxyz(tmp_path):
    labelled = concatenate_labelled([with_atoms(emt_set(2)), molecule_set(2)])
    write(tmp_path / "labels.extxyz", labelled.to_atoms())
    back = read_labelled(tmp_path / "labels.extxyz")
    np.testing.assert_allclose(back.labels.atom_energies, labelled.labels.atom_energies, atol=1e-7)
    write(tmp_path / "plain.extxyz", molecule_set(2).to_atoms())
    assert read_labelled(tmp_path / "plain.extxyz").labels.atom_energies is None
