"""Labelled sets from analytic potentials, and a small trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones

from limbeck.core.labels import LabelledSet, concatenate_labelled
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.students.baseline import Baseline
from limbeck.students.specification import flatten, initial_weights, preset_architecture
from limbeck.training.config import TrainingConfig
from limbeck.training.data import TrainingData, prepare
from limbeck.training.loop import Stop
from limbeck.training.trainer import Trainer
from tests.validation.toys import copper_frames, emt, label_set


def emt_set(count: int, seed: int = 0) -> LabelledSet:
    frames = copper_frames(count, seed=seed)
    return label_set(frames, emt().evaluate(StructureBatch.from_atoms(frames)))


def molecule_set(count: int, seed: int = 0) -> LabelledSet:
    """Water under a soft Lennard-Jones potential: no cell, no stress."""
    rng = np.random.default_rng(seed)
    frames: list[Atoms] = []
    for _ in range(count):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(size=(3, 3)) * 0.05
        frames.append(atoms)
    potential = AsePotential(LennardJones(sigma=1.0, epsilon=0.5, rc=4.0), Capabilities(stress=False), "lj")
    return label_set(frames, potential.evaluate(StructureBatch.from_atoms(frames)))


def mixed_set(count: int, seed: int = 0) -> LabelledSet:
    return concatenate_labelled([emt_set(count, seed), molecule_set(count, seed)])


def prepared(labelled: LabelledSet, cutoff: float = 4.0) -> TrainingData:
    batch = labelled.structures
    elements, column = np.unique(batch.numbers, return_inverse=True)
    fractions = np.zeros((len(batch), len(elements)))
    np.add.at(fractions, (batch.structure_of_atom, column), 1.0)
    reference = np.linalg.lstsq(fractions, labelled.labels.energy, rcond=1e-6)[0]
    return prepare(labelled, Baseline(dict(zip(elements.tolist(), reference, strict=True)), {}), cutoff)


def make_trainer(
    folder: Path,
    *,
    stop: Stop,
    preset: str = "ultra-tiny",
    seed: int = 0,
    run_hash: str = "run",
    report=None,
    **settings,
) -> Trainer:
    data = prepared(emt_set(24))
    config = TrainingConfig(
        **{"cutoff": 4.0, "batch_atoms": 16, "threads": 1, "checkpoint_s": 1e-9} | settings
    )
    architecture = preset_architecture(preset, (29, 79), cutoff=4.0)
    architecture = replace(architecture, energy_scale=float(np.sqrt(np.mean(data.forces**2))))
    dtype = np.float64 if config.precision == "float64" else np.float32
    start = flatten(
        architecture, initial_weights(architecture, seed=seed, mean_neighbours=data.mean_neighbours), dtype
    )
    return Trainer(
        architecture, data, prepared(emt_set(8, seed=9)), config, stop, folder, start=start, run_hash=run_hash,
        seed=seed, report=report,
    )  # fmt: skip
