"""The contract check passes sound potentials and fails each broken copy of them for the right reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.testing import CheckFailure, CheckReport, check_potential

LJ_CUTOFF_A = 4.0

Change = Callable[[StructureBatch, Labels], Labels]


def lennard_jones(smooth: bool = True, **claims: object) -> AsePotential:
    calculator = LennardJones(sigma=1.3, epsilon=0.5, rc=LJ_CUTOFF_A, ro=2.5, smooth=smooth)
    potential = AsePotential(calculator, Capabilities(atom_energies=True, **claims), "lj")
    potential.cutoff = LJ_CUTOFF_A
    return potential


class FastMorse(Potential):
    """ASE's Morse potential summed over images with arrays; held equal to it by a test."""

    name, capabilities = "fast morse", Capabilities()
    epsilon, r0, rho0, cutoff, inner = 2.0, 1.6, 4.0, 4.0, 2.4

    def evaluate(self, batch: StructureBatch) -> Labels:
        parts = [
            self._single(batch.positions[a:b], cell, pbc)
            for a, b, cell, pbc in zip(
                batch.offsets[:-1], batch.offsets[1:], batch.cell, batch.pbc.all(axis=1), strict=True
            )
        ]
        energy, forces, stress = zip(*parts, strict=True)
        return Labels(np.array(energy), np.concatenate(forces), np.array(stress))

    def _single(self, x: np.ndarray, cell: np.ndarray, periodic: bool):
        images = np.zeros((1, 3))
        if periodic:
            inverse = np.linalg.inv(cell)
            fraction = x @ inverse
            x = (fraction - np.floor(fraction)) @ cell
            reach = np.floor(self.cutoff * np.linalg.norm(inverse, axis=0)).astype(int) + 1
            spans = [np.arange(-n, n + 1) for n in reach]
            images = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
        d = x[None, :, None] + images - x[:, None, None]  # (N, N, M, 3)
        r = np.linalg.norm(d, axis=-1)
        i, j, m = np.nonzero((r > 0) & (r < self.cutoff))
        d, r = d[i, j, m], r[i, j, m]
        e = np.exp(-self.rho0 * (r / self.r0 - 1))
        pair, slope = self.epsilon * (e**2 - 2 * e), -2 * self.epsilon * self.rho0 / self.r0 * (e**2 - e)
        width = self.cutoff - self.inner
        s = np.minimum(1.0, (self.cutoff - r) / width)
        f, df = s**3 * (6 * s**2 - 15 * s + 10), -30 * s**2 * (s - 1) ** 2 / width
        pull = ((slope * f + pair * df) / r)[:, None] * d  # dE/dd of each directed pair
        forces = np.zeros_like(x)
        np.add.at(forces, i, pull)
        stress = 0.5 * np.einsum("ea,eb->ab", d, pull) / abs(np.linalg.det(cell)) if periodic else np.nan
        return 0.5 * (pair * f).sum(), forces, np.broadcast_to(stress, (3, 3))


class Altered(Potential):
    """A potential whose labels go through ``change(batch, labels)``."""

    def __init__(self, inner: Potential, change: Change) -> None:
        self.inner, self.change = inner, change
        self.name, self.capabilities = "altered", replace(inner.capabilities, atom_energies=False)
        self.cutoff = inner.cutoff

    def evaluate(self, batch: StructureBatch) -> Labels:
        return self.change(batch, self.inner.evaluate(batch))


def failures(potential: Potential, **keywords: object) -> set[str]:
    """Names of the properties that fail, without what was compared."""
    with pytest.raises(CheckFailure) as caught:
        check_potential(potential, **keywords)
    assert isinstance(caught.value, AssertionError)
    return {result.name for result in caught.value.report.failures}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("make", [lennard_jones, FastMorse])
def test_sound_potentials_pass(make, seed):
    report = check_potential(make(), seed=seed)
    assert isinstance(report, CheckReport)
    assert report.passed
    names = {result.name.split(":")[0] for result in report.results}
    assert names >= {
        "translation", "rotation", "reflection", "permutation", "wrapped positions",
        "unwrapped positions", "skewed cell", "opposite-handed cell", "batch = alone",
        "far fragments", "cell smaller than the cutoff = supercell", "one atom feels no force",
        "forces against finite differences", "stress against finite differences",
        "energy continuous at the cutoff", "forces continuous at the cutoff",
    }  # fmt: skip
    assert not report.skipped


def test_ase_morse_passes_and_the_fast_one_equals_it():
    ase = AsePotential(
        MorsePotential(epsilon=2.0, r0=1.6, rho0=4.0, rcut1=1.5, rcut2=2.5),  # cutoffs in units of r0
        Capabilities(periodic=False, stress=False),
        "morse",
    )
    assert check_potential(ase).passed
    rng = np.random.default_rng(5)
    crystal = bulk("Si")
    crystal.set_cell(crystal.cell.array @ (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))), scale_atoms=True)
    crystal.positions += rng.normal(size=(2, 3))
    molecule = Atoms("H4", positions=rng.normal(size=(4, 3)) * 1.5)
    batch = StructureBatch.from_atoms([crystal, molecule])
    ase.capabilities = Capabilities()
    fast, slow = FastMorse().evaluate(batch), ase.evaluate(batch)
    np.testing.assert_allclose(fast.energy, slow.energy, rtol=1e-12)
    np.testing.assert_allclose(fast.forces, slow.forces, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fast.stress[0], slow.stress[0], rtol=1e-9, atol=1e-12)


def free_morse() -> FastMorse:
    potential = FastMorse()
    potential.capabilities = Capabilities(periodic=False, stress=False)
    return potential


def test_a_many_body_potential_passes_on_given_structures():
    capabilities = Capabilities(elements=frozenset({13, 29, 1, 8}))
    rng = np.random.default_rng(0)
    alloy = bulk("Cu", cubic=True)
    alloy.symbols[0] = "Al"
    alloy.positions += rng.normal(size=(4, 3)) * 0.1
    cluster = Atoms("Cu3Al", positions=[[0, 0, 0], [2.5, 0, 0], [0.3, 2.6, 0], [1.1, 0.9, 2.2]])
    report = check_potential(AsePotential(EMT(), capabilities, "emt"), systems=[alloy, cluster])
    assert any("Al" in result.system for result in report.results)
    assert report.skipped == ("continuity at the cutoff: the potential states no cutoff",)


def test_what_is_not_claimed_is_not_checked():
    crystal_only = lennard_jones(molecular=False)
    report = check_potential(crystal_only)
    assert not any("far fragments" in r.name or r.system == "molecule" for r in report.results)
    molecule_only = lennard_jones(periodic=False, stress=False, isolated_atoms=False)
    report = check_potential(molecule_only)
    assert not any("cell" in r.name or "stress" in r.name for r in report.results)
    assert not any("one atom" in r.name for r in report.results)
    assert "cells: periodic structures are not claimed" in report.skipped


def flip(batch: StructureBatch, labels: Labels) -> Labels:
    return replace(labels, forces=-labels.forces)


def scale_by_one_percent(batch: StructureBatch, labels: Labels) -> Labels:
    return replace(labels, forces=labels.forces * 1.01)


def scale_hydrogen_by_one_percent(batch: StructureBatch, labels: Labels) -> Labels:
    factor = np.where(batch.numbers == 1, 1.01, 1.0)
    return replace(labels, forces=labels.forces * factor[:, None])


def swap_diagonal_stress(batch: StructureBatch, labels: Labels) -> Labels:
    stress = labels.stress.copy()
    stress[:, [0, 1], [0, 1]] = stress[:, [1, 0], [1, 0]]
    return replace(labels, stress=stress)


def swap_shear_stress(batch: StructureBatch, labels: Labels) -> Labels:
    # Voigt order yz, xz, xy read as xy, xz, yz: the classic mistake.
    stress = labels.stress.copy()
    stress[:, 0, 1] = stress[:, 1, 0] = labels.stress[:, 1, 2]
    stress[:, 1, 2] = stress[:, 2, 1] = labels.stress[:, 0, 1]
    return replace(labels, stress=stress)


def turn_stress_sign(batch: StructureBatch, labels: Labels) -> Labels:
    return replace(labels, stress=-labels.stress)


def scale_stress(batch: StructureBatch, labels: Labels) -> Labels:
    return replace(labels, stress=labels.stress * 1.01)


def mix_cartesian(batch: StructureBatch, labels: Labels) -> Labels:
    # What a linear layer over x, y and z instead of over channels does.
    mix = np.eye(3)
    mix[0, 1] = 0.05
    return replace(labels, forces=labels.forces @ mix)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (flip, {"forces against finite differences"}),
        (scale_by_one_percent, {"forces against finite differences"}),
        (scale_hydrogen_by_one_percent, {"forces against finite differences"}),
        (swap_diagonal_stress, {"stress against finite differences", "rotation: stress"}),
        (swap_shear_stress, {"stress against finite differences", "rotation: stress"}),
        (turn_stress_sign, {"stress against finite differences"}),
        (scale_stress, {"stress against finite differences"}),
        (mix_cartesian, {"forces against finite differences", "rotation: forces", "reflection: forces"}),
    ],
)
def test_wrong_derivatives_fail(change, expected):
    assert failures(Altered(FastMorse(), change)) >= expected


@pytest.mark.parametrize("change", [scale_by_one_percent, swap_diagonal_stress])
def test_wrong_derivatives_of_an_ase_calculator_fail(change):
    assert failures(Altered(lennard_jones(), change))


def test_external_field_is_not_translation_invariant():
    def pull(batch: StructureBatch, labels: Labels) -> Labels:
        push = np.bincount(batch.structure_of_atom, weights=batch.positions[:, 0])
        return replace(labels, energy=labels.energy + 1e-3 * push, forces=labels.forces - [1e-3, 0, 0])

    found = failures(Altered(FastMorse(), pull))
    # Forces are the exact gradient of this energy, so only symmetries and locality speak.
    assert found >= {"translation: energy", "rotation: energy", "wrapped positions: energy"}
    assert "one atom feels no force" in found
    assert "forces against finite differences" not in found


def test_a_preferred_axis_is_not_rotation_invariant():
    def flatten(batch: StructureBatch, labels: Labels) -> Labels:
        # A spread along z only: invariant to translation and permutation, not to rotation.
        energy, forces = labels.energy.copy(), labels.forces.copy()
        for s in range(len(batch)):
            atoms = slice(batch.offsets[s], batch.offsets[s + 1])
            z = batch.positions[atoms, 2] - batch.positions[atoms, 2].mean()
            energy[s] += 1e-3 * (z**2).sum()
            forces[atoms, 2] -= 2e-3 * z
        return replace(labels, energy=energy, forces=forces)

    molecules = free_morse()
    found = failures(Altered(molecules, flatten))
    assert found >= {"rotation: energy", "rotation: forces", "reflection: energy"}
    assert not found & {"translation: energy", "permutation: energy", "forces against finite differences"}


def test_pseudoscalar_fails_reflection_alone():
    def chiral(batch: StructureBatch, labels: Labels) -> Labels:
        energy = labels.energy.copy()
        for s in np.flatnonzero(batch.counts >= 4):
            x = batch.positions[batch.offsets[s] : batch.offsets[s] + 4]
            energy[s] += 1e-3 * np.linalg.det(x[1:] - x[0])
        return replace(labels, energy=energy)

    found = failures(Altered(free_morse(), chiral))
    assert "reflection: energy" in found
    assert "rotation: energy" not in found

    def parity_of_forces(batch: StructureBatch, labels: Labels) -> Labels:
        return replace(labels, forces=labels.forces + 1e-3 * np.cross(labels.forces, batch.positions))

    unclaimed = Altered(free_morse(), parity_of_forces)
    unclaimed.capabilities = replace(unclaimed.capabilities, reflection=False)
    assert not any("reflection" in name for name in failures(unclaimed))


def test_dependence_on_order_fails_permutation():
    def first_is_special(batch: StructureBatch, labels: Labels) -> Labels:
        factor = np.ones(batch.n_atoms)
        factor[batch.offsets[:-1]] = 1.001
        return replace(labels, forces=labels.forces * factor[:, None])

    assert "permutation: forces" in failures(Altered(FastMorse(), first_is_special))


def test_jump_of_forces_at_the_cutoff_fails():
    # ASE's plain Lennard-Jones shifts the energy to zero at rc; its force jumps there.
    assert failures(lennard_jones(smooth=False)) == {"forces continuous at the cutoff"}


def test_jump_of_energy_at_the_cutoff_fails():
    def step(batch: StructureBatch, labels: Labels) -> Labels:
        energy = labels.energy.copy()
        for s, atoms in enumerate(batch.to_atoms()):
            if not atoms.pbc.any():
                distance = atoms.get_all_distances()
                energy[s] += 1e-4 * (np.triu(distance, 1) > FastMorse.cutoff).sum()
        return replace(labels, energy=energy)

    assert "energy continuous at the cutoff" in failures(Altered(FastMorse(), step))


def test_batch_mixing_fails():
    def leak(batch: StructureBatch, labels: Labels) -> Labels:
        # What normalisation over the batch does.
        return replace(labels, forces=labels.forces + 1e-3 * labels.forces.std() * (len(batch) > 4))

    assert "batch = alone: forces" in failures(Altered(FastMorse(), leak))


def test_dependence_on_size_fails_extensivity_and_supercells():
    def pooled(batch: StructureBatch, labels: Labels) -> Labels:
        return replace(labels, energy=labels.energy + 1e-4 * batch.counts**2)

    found = failures(Altered(FastMorse(), pooled))
    assert found >= {"far fragments: energies add", "cell smaller than the cutoff = supercell: energy"}


def test_minimum_image_fails_in_small_cells():
    class MinimumImage(Potential):
        """Lennard-Jones between nearest images only: right in cells twice the cutoff."""

        name, cutoff = "minimum image", LJ_CUTOFF_A
        capabilities = Capabilities(stress=False)

        def evaluate(self, batch: StructureBatch) -> Labels:
            frames = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in batch.to_atoms()]
            energy, forces = [], []
            for atoms in frames:
                vectors = atoms.get_all_distances(mic=True, vector=True)
                r2 = (vectors**2).sum(axis=-1)
                np.fill_diagonal(r2, np.inf)
                c6 = (1.3**2 / r2) ** 3
                energy.append(float((c6**2 - c6).sum()))
                forces.append((((6 * c6 - 12 * c6**2) / r2 * 2)[..., None] * vectors).sum(axis=1))
            return Labels(np.array(energy), np.concatenate(forces))

    assert "cell smaller than the cutoff = supercell: energy" in failures(MinimumImage())


def test_positions_outside_the_cell_must_be_understood():
    def wrapped_only(batch: StructureBatch, labels: Labels) -> Labels:
        energy = labels.energy.copy()
        for s in np.flatnonzero(batch.periodic):
            atoms = slice(batch.offsets[s], batch.offsets[s + 1])
            fraction = batch.positions[atoms] @ np.linalg.inv(batch.cell[s])
            energy[s] += 1e-3 * (np.abs(fraction) > 1.3).sum()
        return replace(labels, energy=energy)

    assert "unwrapped positions: energy" in failures(Altered(FastMorse(), wrapped_only))


def test_left_handed_cells_must_be_understood():
    def signed_volume(batch: StructureBatch, labels: Labels) -> Labels:
        sign = np.sign(np.linalg.det(batch.cell))
        return replace(labels, stress=labels.stress * np.where(sign == 0, 1, sign)[:, None, None])

    found = failures(Altered(FastMorse(), signed_volume))
    assert found >= {"opposite-handed cell: stress", "reflection: stress"}


def in_single_precision(
    offset: float, *, added_in_double: bool
) -> Callable[[StructureBatch, Labels], Labels]:
    """Round as a float32 model does, with a large constant an atom added before or after."""

    def change(batch: StructureBatch, labels: Labels) -> Labels:
        constant = offset * batch.counts
        if added_in_double:
            energy = labels.energy.astype(np.float32).astype(np.float64) + constant
        else:
            energy = (labels.energy + constant).astype(np.float32).astype(np.float64)
        forces = labels.forces.astype(np.float32).astype(np.float64)
        stress = labels.stress.astype(np.float32).astype(np.float64)
        return Labels(energy, forces, stress)

    return change


@pytest.mark.parametrize(("offset", "added_in_double"), [(0.0, False), (-2000.0, True)])
@pytest.mark.parametrize("seed", range(2))
def test_single_precision_passes_and_one_percent_still_fails(offset, added_in_double, seed):
    rounding = in_single_precision(offset, added_in_double=added_in_double)
    single = Altered(FastMorse(), rounding)
    single.capabilities = replace(single.capabilities, precision="float32")
    assert check_potential(single, seed=seed).passed
    wrong = Altered(single, scale_by_one_percent)
    assert failures(wrong, seed=seed) == {"forces against finite differences"}
    wrong = Altered(single, swap_diagonal_stress)
    assert "stress against finite differences" in failures(wrong, seed=seed)


def test_large_energies_in_single_precision_pass_and_the_report_says_what_they_hide():
    single = Altered(FastMorse(), in_single_precision(-20_000.0, added_in_double=False))
    single.capabilities = replace(single.capabilities, precision="float32")
    report = check_potential(single)
    assert any(reason.startswith("forces to 1% [molecule]: noise") for reason in report.skipped)
    assert "forces against finite differences" in failures(Altered(single, flip))


def test_single_precision_declared_double_is_found():
    single = Altered(FastMorse(), in_single_precision(0.0, added_in_double=False))
    assert "noise of the energy fits the declared precision" in failures(single)


def test_malformed_labels_and_errors_are_listed_not_raised():
    def narrow(batch: StructureBatch, labels: Labels) -> Labels:
        return replace(labels, forces=labels.forces.astype(np.float32))

    with pytest.raises(CheckFailure, match="forces is float32, wanted float64"):
        check_potential(Altered(FastMorse(), narrow))

    def no_stress(batch: StructureBatch, labels: Labels) -> Labels:
        return replace(labels, stress=None)

    with pytest.raises(CheckFailure, match="stress is claimed but None for a periodic structure"):
        check_potential(Altered(FastMorse(), no_stress))

    def no_left_hands(batch: StructureBatch, labels: Labels) -> Labels:
        if (np.linalg.det(batch.cell) < 0).any():
            raise ValueError("left-handed cell")
        return labels

    with pytest.raises(CheckFailure, match="raised ValueError: left-handed cell"):
        check_potential(Altered(FastMorse(), no_left_hands))


def test_message_lists_every_breach_with_numbers():
    def both(batch: StructureBatch, labels: Labels) -> Labels:
        return flip(batch, turn_stress_sign(batch, labels))

    with pytest.raises(CheckFailure) as caught:
        check_potential(Altered(FastMorse(), both), seed=7)
    text = str(caught.value)
    assert text.startswith("altered: ")
    assert "checks failed, seed 7" in text
    assert "FAIL forces against finite differences [molecule]" in text
    assert "FAIL stress against finite differences [triclinic crystal]" in text
    assert "eV/Å³ (xy: stress " in text
