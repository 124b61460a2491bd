"""The contract check passes sound potentials and fails each altered copy for the right reason."""

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
    """ASE's Morse potential summed over images with arrays; a test compares the two."""

    name, capabilities = "fast morse", Capabilities()
    epsilon, r0, rho0, cutoff, inner = 2.0, 1.6, 4.0, 4.0, 2.4

    def evaluate(self, batch: StructureBatch) -> Labels:
        cells = zip(batch.offsets, batch.offsets[1:], batch.cell, batch.pbc.all(axis=1), strict=False)
        parts = [self._single(batch.positions[a:b], cell, pbc) for a, b, cell, pbc in cells]
        energy, forces, stress = zip(*parts, strict=True)
        return Labels(np.array(energy), np.concatenate(forces), np.array(stress))

    def _single(self, x: np.ndarray, cell: np.ndarray, periodic: bool):
        images = np.zeros((1, 3))
        if periodic:
            inverse = np.linalg.inv(cell)
            fraction = x @ inverse
            x = (fraction - np.floor(fraction)) @ cell
            counts = np.floor(self.cutoff * np.linalg.norm(inverse, axis=0)).astype(int) + 1
            spans = [np.arange(-n, n + 1) for n in counts]
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
    report = check_potential(lennard_jones(molecular=False))
    assert not any("far fragments" in r.name or r.system == "molecule" for r in report.results)
    report = check_potential(lennard_jones(periodic=False, stress=False, isolated_atoms=False))
    assert not any(word in r.name for r in report.results for word in ("cell", "stress", "one atom"))
    assert "cells: periodic structures are not claimed" in report.skipped


def swap_diagonal_stress(batch: StructureBatch, labels: Labels) -> Labels:
    stress = labels.stress.copy()
    stress[:, [0, 1], [0, 1]] = stress[:, [1, 0], [1, 0]]
    return replace(labels, stress=stress)


def swap_shear_stress(batch: StructureBatch, labels: Labels) -> Labels:
    # Voigt order yz, xz, xy read as xy, xz, yz: the classic mistake
    stress = labels.stress.copy()
    stress[:, 0, 1] = stress[:, 1, 0] = labels.stress[:, 1, 2]
    stress[:, 1, 2] = stress[:, 2, 1] = labels.stress[:, 0, 1]
    return replace(labels, stress=stress)


def field(batch: StructureBatch, labels: Labels) -> Labels:
    """An external field, with its exact forces."""
    push = np.bincount(batch.structure_of_atom, weights=batch.positions[:, 0])
    return replace(labels, energy=labels.energy + 1e-3 * push, forces=labels.forces - [1e-3, 0, 0])


def along_z(batch: StructureBatch, labels: Labels) -> Labels:
    """A variance along z alone: invariant to translation, not to rotation."""
    s = batch.structure_of_atom
    z = batch.positions[:, 2] - (np.bincount(s, batch.positions[:, 2]) / batch.counts)[s]
    forces = labels.forces - 2e-3 * z[:, None] * [0, 0, 1]
    return replace(labels, energy=labels.energy + 1e-3 * np.bincount(s, z**2), forces=forces)


def chiral(batch: StructureBatch, labels: Labels) -> Labels:
    energy = labels.energy.copy()
    for s in np.flatnonzero(batch.counts >= 4):
        x = batch.positions[batch.offsets[s] : batch.offsets[s] + 4]
        energy[s] += 1e-3 * np.linalg.det(x[1:] - x[0])
    return replace(labels, energy=energy)


def step_at_cutoff(batch: StructureBatch, labels: Labels) -> Labels:
    beyond = [
        0 if a.pbc.any() else (np.triu(a.get_all_distances(), 1) > FastMorse.cutoff).sum()
        for a in batch.to_atoms()
    ]
    return replace(labels, energy=labels.energy + 1e-4 * np.array(beyond))


def wrapped_only(batch: StructureBatch, labels: Labels) -> Labels:
    energy = labels.energy.copy()
    for s in np.flatnonzero(batch.periodic):
        atoms = slice(batch.offsets[s], batch.offsets[s + 1])
        fraction = batch.positions[atoms] @ np.linalg.inv(batch.cell[s])
        energy[s] += 1e-3 * (np.abs(fraction) > 1.3).sum()
    return replace(labels, energy=energy)


def signed_volume(batch: StructureBatch, labels: Labels) -> Labels:
    sign = np.sign(np.linalg.det(batch.cell))
    return replace(labels, stress=labels.stress * np.where(sign == 0, 1, sign)[:, None, None])


FORCES, STRESS = "forces against finite differences", "stress against finite differences"
#: what is done to the labels (b: the batch, y: its labels), and the checks that must fail
CHANGES: dict[str, tuple[Change, set[str]]] = {
    "sign of forces": (lambda b, y: replace(y, forces=-y.forces), {FORCES}),
    "1% of forces": (lambda b, y: replace(y, forces=1.01 * y.forces), {FORCES}),
    "1% of hydrogen's forces": (
        lambda b, y: replace(y, forces=y.forces * np.where(b.numbers == 1, 1.01, 1.0)[:, None]), {FORCES},
    ),
    # as a linear layer over x, y and z instead of over channels
    "mixed axes": (
        lambda b, y: replace(y, forces=y.forces @ np.array([[1, 0.05, 0], [0, 1, 0], [0, 0, 1]])),
        {FORCES, "rotation: forces", "reflection: forces"},
    ),
    "diagonal stress": (swap_diagonal_stress, {STRESS, "rotation: stress"}),
    "shear stress": (swap_shear_stress, {STRESS, "rotation: stress"}),
    "sign of stress": (lambda b, y: replace(y, stress=-y.stress), {STRESS}),
    "1% of stress": (lambda b, y: replace(y, stress=1.01 * y.stress), {STRESS}),
    "field": (
        field, {"translation: energy", "rotation: energy", "wrapped positions: energy", "one atom feels no force"},
    ),
    "first atom": (
        lambda b, y: replace(y, forces=y.forces * (1 + 1e-3 * np.isin(np.arange(b.n_atoms), b.offsets))[:, None]),
        {"permutation: forces"},
    ),
    "step at the cutoff": (step_at_cutoff, {"energy continuous at the cutoff"}),
    # as normalisation over the batch
    "leak": (
        lambda b, y: replace(y, forces=y.forces + 1e-3 * y.forces.std() * (len(b) > 4)), {"batch = alone: forces"},
    ),
    "pooled": (
        lambda b, y: replace(y, energy=y.energy + 1e-4 * b.counts**2),
        {"far fragments: energies add", "cell smaller than the cutoff = supercell: energy"},
    ),
    "wrapped positions only": (wrapped_only, {"unwrapped positions: energy"}),
    "signed volume": (signed_volume, {"opposite-handed cell: stress", "reflection: stress"}),
}  # fmt: skip
flip, one_percent, turn_stress = (CHANGES[k][0] for k in ("sign of forces", "1% of forces", "sign of stress"))


@pytest.mark.parametrize("name", CHANGES)
def test_each_fault_fails_its_check(name):
    change, expected = CHANGES[name]
    found = failures(Altered(FastMorse(), change))
    assert found >= expected
    assert name != "field" or FORCES not in found  # they are its exact forces


def test_a_preferred_axis_fails_rotation():
    found = failures(Altered(free_morse(), along_z))
    assert found >= {"rotation: energy", "rotation: forces", "reflection: energy"}
    assert not found & {"translation: energy", "permutation: energy", FORCES}


def test_pseudoscalar_fails_reflection_alone():
    found = failures(Altered(free_morse(), chiral))
    assert "reflection: energy" in found
    assert "rotation: energy" not in found

    def parity_of_forces(batch: StructureBatch, labels: Labels) -> Labels:
        return replace(labels, forces=labels.forces + 1e-3 * np.cross(labels.forces, batch.positions))

    unclaimed = Altered(free_morse(), parity_of_forces)
    unclaimed.capabilities = replace(unclaimed.capabilities, reflection=False)
    assert not any("reflection" in name for name in failures(unclaimed))


def test_jump_of_forces_at_the_cutoff_fails():
    # ASE's plain Lennard-Jones shifts the energy to zero at rc; its force jumps there.
    assert failures(lennard_jones(smooth=False)) == {"forces continuous at the cutoff"}


def in_single_precision(
    offset: float, *, added_in_double: bool
) -> Callable[[StructureBatch, Labels], Labels]:
    """Round as a float32 model does, with a large constant an atom added before or after."""

    def single(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32).astype(np.float64)

    def change(batch: StructureBatch, labels: Labels) -> Labels:
        constant = offset * batch.counts
        if added_in_double:
            energy = single(labels.energy) + constant
        else:
            energy = single(labels.energy + constant)
        return Labels(energy, single(labels.forces), single(labels.stress))

    return change


@pytest.mark.parametrize(("offset", "added_in_double"), [(0.0, False), (-2000.0, True)])
@pytest.mark.parametrize("seed", range(2))
def test_single_precision_passes_and_one_percent_still_fails(offset, added_in_double, seed):
    rounding = in_single_precision(offset, added_in_double=added_in_double)
    single = Altered(FastMorse(), rounding)
    single.capabilities = replace(single.capabilities, precision="float32")
    assert check_potential(single, seed=seed).passed
    assert failures(Altered(single, one_percent), seed=seed) == {FORCES}
    assert STRESS in failures(Altered(single, swap_diagonal_stress), seed=seed)


def test_what_large_energies_in_single_precision_hide_is_listed():
    single = Altered(FastMorse(), in_single_precision(-20_000.0, added_in_double=False))
    single.capabilities = replace(single.capabilities, precision="float32")
    report = check_potential(single)
    assert any(reason.startswith("forces to 1% [molecule]: noise") for reason in report.skipped)
    assert FORCES in failures(Altered(single, flip))


def test_single_precision_declared_double_is_found():
    single = Altered(FastMorse(), in_single_precision(0.0, added_in_double=False))
    assert "noise of the energy fits the declared precision" in failures(single)


def no_left_hands(batch: StructureBatch, labels: Labels) -> Labels:
    if (np.linalg.det(batch.cell) < 0).any():
        raise ValueError("left-handed cell")
    return labels


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b, y: replace(y, forces=y.forces.astype(np.float32)), "forces is float32, wanted float64"),
        (lambda b, y: replace(y, stress=None), "stress is NoneType, wanted float64"),
        (no_left_hands, "raised ValueError: left-handed cell"),
    ],
)
def test_malformed_labels_and_errors_are_listed_not_raised(change, text):
    with pytest.raises(CheckFailure, match=text):
        check_potential(Altered(FastMorse(), change))


def test_message_lists_every_failed_check_with_numbers():
    both = Altered(FastMorse(), lambda batch, labels: flip(batch, turn_stress(batch, labels)))
    with pytest.raises(CheckFailure, match=r"^altered: .*checks failed, seed 7") as caught:
        check_potential(both, seed=7)
    for text in (f"FAIL {FORCES} [molecule]", f"FAIL {STRESS} [triclinic crystal]", "eV/Å³ (xy: stress "):
        assert text in str(caught.value)
