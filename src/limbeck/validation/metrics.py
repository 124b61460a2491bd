"""Errors of predicted labels against reference labels, in float64.

With F a reference and F' a predicted force *component* (all x, y and z of all atoms in one
pool), m the mean of that pool, E and E' energies divided by the number of atoms of their structure:

    energy MAE, RMSE  = mean |E' - E|, sqrt(mean (E' - E)^2)   over structures, no shift taken off
    force MAE, RMSE   = mean |F' - F|, sqrt(mean (F' - F)^2)   over components
    force R2          = 1 - sum (F' - F)^2 / sum (F - m)^2     over components, one scalar m
    force cosine      = mean over atoms of cos(angle between the force vectors)
    stress MAE        = mean |S' - S| over the 9 components of the structures that have both
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols

from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.records.metrics import Errors, GroupedErrors
from limbeck.units import EV_TO_MEV

MINIMUM_FORCE_FOR_ANGLE = 1e-6  #: eV/Å; below it the direction of a reference force means nothing
MAXIMUM_TEMPERATURES = 12  #: more distinct ones (a ramp) are rounded to 100 K


def compute_metrics(structures: StructureBatch, reference: Labels, prediction: Labels) -> Errors:
    """Every error for S structures of N atoms.

    A figure that is not defined is None: ``force_r2`` where all reference components are equal,
    ``force_cosine`` where no reference force exceeds 1e-6 eV/Å, stress where either side has none.

    Raises
    ------
    InputError: no structures, or labels of another shape. LimbeckError: NaN or infinite energies
        or forces.
    """
    _check(structures, reference, prediction)
    energy_error = energy_errors_per_atom(structures, reference, prediction)  # (S,)
    stress_error = _stress_errors(reference, prediction)
    return replace(
        _force_errors(reference.forces, prediction.forces),
        energy_mae_mev_per_atom=_mae(energy_error),
        energy_rmse_mev_per_atom=_rmse(energy_error),
        stress_mae_mev_per_a3=_mae(stress_error) if stress_error.size else None,
        n_structures=len(structures),
        n_atoms=structures.n_atoms,
    )


def grouped_metrics(labelled: LabelledSet, prediction: Labels) -> GroupedErrors:
    """Errors over everything and by group.

    By element only those of forces, on the atoms of this element in every structure, with
    ``n_structures`` counting structures that hold it. Unknown groups and temperatures are left
    out. Temperatures are rounded to 1 K, or to 100 K where there would be more than 12 groups.

    Raises
    ------
    As `compute_metrics`.
    """
    _check(labelled.structures, labelled.labels, prediction, labelled.frame)
    kelvin = _temperature_groups(labelled.temperature_k)

    def subset(mask: np.ndarray) -> Errors:
        index = np.flatnonzero(mask)
        part = labelled.select(index)
        return compute_metrics(
            part.structures, part.labels, select_labels(labelled.structures, prediction, index)
        )

    return GroupedErrors(
        all=compute_metrics(labelled.structures, labelled.labels, prediction),
        by_element=_by_element(labelled, prediction),
        by_config_type={
            str(c): subset(labelled.config_type == c) for c in np.unique(labelled.config_type) if c
        },
        by_temperature={
            f"{one:.0f}": subset(kelvin == one) for one in np.unique(kelvin[np.isfinite(kelvin)])
        },
    )


def energy_errors_per_atom(structures: StructureBatch, reference: Labels, prediction: Labels) -> np.ndarray:
    """Predicted less reference energy over the number of atoms, (S,) eV."""
    difference = np.asarray(prediction.energy, np.float64) - np.asarray(reference.energy, np.float64)
    return difference / structures.counts


def select_labels(structures: StructureBatch, labels: Labels, index: np.ndarray) -> Labels:
    """The labels of the structures at ``index`` (integers)."""
    atoms = structures.atom_index(index)
    return Labels(
        energy=labels.energy[index],
        forces=labels.forces[atoms],
        stress=None if labels.stress is None else labels.stress[index],
        atom_energies=None if labels.atom_energies is None else labels.atom_energies[atoms],
    )


def _by_element(labelled: LabelledSet, prediction: Labels) -> dict[str, Errors]:
    structures = labelled.structures
    groups = {}
    for number in np.unique(structures.numbers):
        mask = structures.numbers == number
        groups[chemical_symbols[number]] = replace(
            _force_errors(labelled.labels.forces[mask], prediction.forces[mask]),
            n_structures=len(np.unique(structures.structure_of_atom[mask])),
            n_atoms=int(mask.sum()),
        )
    return groups


def _force_errors(reference: np.ndarray, predicted: np.ndarray) -> Errors:
    reference = np.asarray(reference, np.float64)  # (N, 3)
    predicted = np.asarray(predicted, np.float64)  # (N, 3)
    error = predicted - reference
    spread = float(((reference - reference.mean()) ** 2).sum())
    # Subtracting the mean of equal numbers can leave rounding behind, which is no spread.
    rounding = reference.size * (4 * np.finfo(np.float64).eps * np.abs(reference).max()) ** 2
    return Errors(
        force_mae_mev_per_a=_mae(error),
        force_rmse_mev_per_a=_rmse(error),
        force_r2=1.0 - float((error**2).sum()) / spread if spread > rounding else None,
        force_cosine=_cosine(reference, predicted),
    )


def _cosine(reference: np.ndarray, predicted: np.ndarray) -> float | None:
    length = np.linalg.norm(reference, axis=1)
    keep = length >= MINIMUM_FORCE_FOR_ANGLE
    if not keep.any():
        return None
    a, b, length = reference[keep], predicted[keep], length[keep]
    other = np.linalg.norm(b, axis=1)
    # A predicted force of zero points nowhere: it counts as 0, neither along nor against.
    cosine = (a * b).sum(axis=1) / (length * np.where(other > 0, other, 1.0))
    return float(cosine.mean())


def _stress_errors(reference: Labels, prediction: Labels) -> np.ndarray:
    """Errors (K, 3, 3) of the K structures where both sides have a stress, eV/Å³."""
    if reference.stress is None or prediction.stress is None:
        return np.zeros((0, 3, 3))
    error = np.asarray(prediction.stress, np.float64) - np.asarray(reference.stress, np.float64)
    return error[np.isfinite(error).all(axis=(1, 2))]


def _temperature_groups(temperature_k: np.ndarray) -> np.ndarray:
    rounded = np.round(np.asarray(temperature_k, np.float64))
    if len(np.unique(rounded[np.isfinite(rounded)])) > MAXIMUM_TEMPERATURES:
        return np.round(rounded / 100.0) * 100.0
    return rounded


def _mae(error: np.ndarray) -> float:
    return float(np.abs(error).mean()) * EV_TO_MEV


def _rmse(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean())) * EV_TO_MEV


def _check(
    structures: StructureBatch, reference: Labels, prediction: Labels, frame: np.ndarray | None = None
) -> None:
    """``frame``: numbers of the structures in their file, for the message."""
    if not len(structures) or not structures.n_atoms:
        raise InputError(
            "no structures to compare", got=0, wanted="at least one", remedy="check the file of labels"
        )
    for side, labels in (("reference", reference), ("prediction", prediction)):
        wanted = ((len(structures),), (structures.n_atoms, 3))
        got = (np.shape(labels.energy), np.shape(labels.forces))
        if got != wanted:
            raise InputError(f"{side} energies and forces do not fit the structures", got=got, wanted=wanted)
        bad = ~np.isfinite(labels.energy)
        bad[structures.structure_of_atom[~np.isfinite(labels.forces).all(axis=1)]] = True
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise LimbeckError(
                f"{side} energies or forces are not finite",
                where=f"structure {first}" if frame is None else f"frame {frame[first]}",
                got=f"{int(bad.sum())} such structures of {len(structures)}",
                wanted="finite numbers",
                remedy="look at these structures; overlapping atoms are the usual cause",
            )
