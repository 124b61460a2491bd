"""The single checks: symmetry, derivatives, and how labels depend on size and cutoff.

Forces and stress are compared with central differences of the energy by the five-point stencil
D4 = (8 (E(h) - E(-h)) - (E(2h) - E(-2h))) / 12h. The step balances the measured noise against truncation;
|D4 - D2| with the plain central difference D2 bounds the remaining truncation. Forces are not used, so wrong
ones cannot widen their own tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.testing.probe import CheckResult, Probe, System, Tolerance, largest, on_line
from limbeck.testing.systems import make_fragment, random_rotation

TRANSLATION_A = 3.0
RANDOM_DIRECTIONS = 4
SINGLE_COMPONENTS = 3
FIFTH_DERIVATIVE = 1e4  #: eV/Å⁵ of a stiff bond, for the choice of the step
STEP_RANGE_A = (1e-3, 0.04)
STRAIN_OF_STEP = 0.3  #: a strain moves neighbours 3 Å away by three times itself
TRUNCATION_LEFT = 0.1  #: part of |D4 - D2| that bounds the error of D4
#: of the largest component; and least values in eV/Å, eV/Å³. For third derivatives that jump where a
#: neighbour crosses a cutoff within the step, and for the convergence of self-consistent fields (GFN2: 6e-5):
#: neither shows as noise or truncation
RELATIVE = {"float32": 2e-4, "float64": 1e-4}
LEAST_FORCE, LEAST_STRESS = 1e-6, 1e-7
RESOLVED = 0.005  #: a tolerance above this part of the derivative would hide an error of 1%
FAR_APART_A = 100.0  #: gap between fragments where no cutoff is stated
#: eV, eV/Å that electrostatics may leave over that gap where no cutoff is stated (SO3LR: 2e-4, 1.4e-3)
LONG_RANGE = (1e-3, 5e-3)
REPEATS = (2, 2, 3)
#: distances from the cutoff between which jumps are compared, Å (near, far)
CUTOFF_WINDOW_A = {"float32": (1e-3, 1e-1), "float64": (1e-6, 1e-4)}
CONTINUOUS = 0.1  #: a continuous quantity changes 100 times less over the nearer window; a jump does not
MAXIMUM_CUTOFF_ELEMENTS = 3


def check_sums(probe: Probe, system: System) -> Iterator[CheckResult]:
    """Noise fits the declared precision, stress is symmetric, atomic energies sum to the total."""
    name, limit = system.name, system.tolerance
    noise, declared = "noise of the energy fits the declared precision", f"declared {probe.precision}"
    yield CheckResult(noise, name, limit.energy_noise, limit.noise_allowed, "eV", declared)
    labels = probe.labels([system.atoms])
    if probe.capabilities.stress and system.periodic and labels.stress is not None:
        skew = largest(labels.stress - labels.stress.transpose(0, 2, 1))
        yield CheckResult("stress is symmetric", name, skew, limit.stress, "eV/Å³")
    if probe.capabilities.atom_energies and labels.atom_energies is not None:
        gap = largest(labels.atom_energies.sum() - labels.energy)
        yield CheckResult("atomic energies sum to the total", name, gap, limit.energy, "eV")


def check_symmetries(probe: Probe, system: System) -> Iterator[CheckResult]:
    """Translation, rotation, reflection, permutation; cell and image choices where periodic."""
    base = probe.labels([system.atoms])
    for name, atoms, rotation, order in _variants(system, probe.rng):
        if not getattr(probe.capabilities, name, True):  # rotation and reflection may be unclaimed
            continue
        wanted = Labels(
            energy=base.energy,
            forces=base.forces[order] @ rotation.T,
            stress=None if base.stress is None else rotation @ base.stress @ rotation.T,
            atom_energies=None if base.atom_energies is None else base.atom_energies[order],
        )
        yield from _compare(name, system, probe.labels([atoms]), wanted)


def _variants(
    system: System, rng: np.random.Generator
) -> Iterator[tuple[str, Atoms, np.ndarray, np.ndarray]]:
    """Name, equivalent structure, rotation R (F -> F @ R.T, S -> R @ S @ R.T), original of each atom."""
    atoms, identity, order = system.atoms, np.eye(3), np.arange(len(system.atoms))

    def changed(change: Callable[[Atoms], None]) -> Atoms:
        copy = atoms.copy()
        change(copy)
        return copy

    def transform(matrix: np.ndarray) -> Atoms:
        copy = changed(partial(Atoms.set_cell, cell=atoms.cell.array @ matrix.T))
        copy.positions = atoms.positions @ matrix.T
        return copy

    shift = rng.uniform(-1, 1, 3) * TRANSLATION_A
    yield "translation", changed(lambda copy: copy.translate(shift)), identity, order
    for name, sign in (("rotation", 1.0), ("reflection", -1.0)):
        matrix = sign * random_rotation(rng)
        yield name, transform(matrix), matrix, order
    if len(atoms) > 1:
        permuted = np.roll(rng.permutation(len(atoms)), 1)
        yield "permutation", atoms[permuted], identity, permuted
    if not system.periodic:
        return
    yield "wrapped positions", changed(lambda copy: copy.wrap(eps=1e-9)), identity, order
    images = rng.integers(-1, 2, size=(len(atoms), 3))
    images[0] = (1, -1, 1)
    outside = changed(lambda copy: copy.translate(images @ atoms.cell.array))
    yield "unwrapped positions", outside, identity, order
    # Integer matrices of determinant +1 and -1 describe the same lattice.
    skew = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    for name, matrix in (("skewed cell", skew), ("opposite-handed cell", swap)):
        yield name, changed(partial(Atoms.set_cell, cell=matrix @ atoms.cell.array)), identity, order


def _compare(
    name: str, system: System, got: Labels, wanted: Labels, factor: float = 1.0
) -> Iterator[CheckResult]:
    """All given labels of one structure against the expected ones; ``factor``: of the energies' tolerance."""
    limit = system.tolerance
    energy, stress = limit.energy * factor, limit.stress if system.periodic else None
    for what, most, unit in (
        ("energy", energy, "eV"),
        ("forces", limit.force, "eV/Å"),
        ("stress", stress, "eV/Å³"),
        ("atom_energies", energy, "eV"),
    ):
        one, other = getattr(got, what), getattr(wanted, what)
        if most is not None and one is not None and other is not None:
            yield CheckResult(f"{name}: {what}", system.name, largest(one - other), most, unit)


def check_forces(probe: Probe, system: System, skipped: list[str]) -> Iterator[CheckResult]:
    """-F . u = dE along directions u: the force itself, random ones, single components."""
    atoms, tolerance = system.atoms, system.tolerance
    forces, still = probe.labels([atoms]).forces, np.zeros((3, 3))
    step = _step(tolerance)
    for name, direction in _directions(forces, probe.rng):
        found, uncertainty = _derivative(probe, partial(on_line, atoms, direction, still), step, tolerance)
        claimed = -float((forces * direction).sum())
        # Independent noise of 3N components, projected on a unit vector, is that of one component.
        limit = uncertainty + tolerance.force + LEAST_FORCE + RELATIVE[probe.precision] * np.abs(forces).max()
        if name == "along the force" and len(atoms) > 1 and limit > RESOLVED * abs(claimed):
            skipped.append(
                f"forces to 1% [{system.name}]: noise {tolerance.energy_noise:.2g} eV of the energy "
                f"blurs the derivative by {limit:.2g} of {abs(claimed):.2g} eV/Å"
            )
        error, detail = abs(claimed - found), f"{name}: -F.u {claimed:.6g}, dE {found:.6g}, step {step:.2g} Å"
        yield CheckResult("forces against finite differences", system.name, error, limit, "eV/Å", detail)


def check_stress(probe: Probe, system: System, skipped: list[str]) -> Iterator[CheckResult]:
    """V S:e = dE along six symmetric strains e, positive in tension."""
    atoms, tolerance = system.atoms, system.tolerance
    stress = np.asarray(probe.labels([atoms]).stress)[0]  # (3, 3)
    still = np.zeros(atoms.positions.shape)
    volume, step, most = atoms.get_volume(), _step(tolerance) * STRAIN_OF_STEP, np.abs(stress).max()
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        found, uncertainty = _derivative(probe, partial(on_line, atoms, still, strain), step, tolerance)
        claimed = float((stress * strain).sum())
        limit = uncertainty / volume + tolerance.stress + LEAST_STRESS + RELATIVE[probe.precision] * most
        if a == b and limit > RESOLVED * most:
            blur = f"noise blurs the derivative by {limit:.2g} of {most:.2g} eV/Å³"
            skipped.append(f"stress to 1% [{system.name}]: {blur}")
        axes, error = "xyz"[a] + "xyz"[b], abs(claimed - found / volume)
        detail = f"{axes}: stress {claimed:.6g}, dE/V {found / volume:.6g}, strain {step:.2g}"
        yield CheckResult("stress against finite differences", system.name, error, limit, "eV/Å³", detail)


def _directions(forces: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    size = np.linalg.norm(forces)
    if size > 0:
        yield "along the force", forces / size
    for k in range(RANDOM_DIRECTIONS):
        direction = rng.normal(size=forces.shape)
        yield f"random direction {k}", direction / np.linalg.norm(direction)
    for _ in range(SINGLE_COMPONENTS):
        atom, axis = int(rng.integers(len(forces))), int(rng.integers(3))
        direction = np.zeros(forces.shape)
        direction[atom, axis] = 1.0
        yield f"atom {atom} along {'xyz'[axis]}", direction


def _step(tolerance: Tolerance) -> float:
    """The step at which noise / h and h⁴ E⁽⁵⁾ are equal, Å."""
    return float(np.clip((tolerance.energy_noise / FIFTH_DERIVATIVE) ** 0.2, *STEP_RANGE_A))


def _derivative(
    probe: Probe, frame: Callable[[float], Atoms], step: float, tolerance: Tolerance
) -> tuple[float, float]:
    """dE/dt at t = 0 and a bound of its error."""
    steps = (-2 * step, -step, step, 2 * step)
    low2, low1, high1, high2 = probe.labels([frame(t) for t in steps]).energy
    second = (high1 - low1) / (2 * step)
    fourth = (8 * (high1 - low1) - (high2 - low2)) / (12 * step)
    # The stencil amplifies noise by sqrt(130)/12 = 0.95; six deviations are certain enough.
    return float(fourth), 6 * tolerance.energy_noise / step + TRUNCATION_LEFT * abs(float(fourth - second))


def check_extensivity(probe: Probe, system: System, elements: Sequence[int]) -> Iterator[CheckResult]:
    """Two molecules far apart: energies add, forces are unchanged."""
    first, second = system.atoms.copy(), make_fragment(elements, probe.rng)
    cutoff = getattr(probe.potential, "cutoff", None)
    gap, slack = (FAR_APART_A, LONG_RANGE) if cutoff is None else (3.0 * float(cutoff) + 5.0, (0.0, 0.0))
    second.positions[:, 0] += first.positions[:, 0].max() - second.positions[:, 0].min() + gap
    alone = [probe.labels([first]), probe.labels([second])]
    both = probe.labels([first + second])
    energy = largest(both.energy - alone[0].energy - alone[1].energy)
    forces = largest(both.forces - np.concatenate([a.forces for a in alone]))
    most_energy, most_force = 2 * system.tolerance.energy + slack[0], 2 * system.tolerance.force + slack[1]
    yield CheckResult("far fragments: energies add", system.name, energy, most_energy, "eV")
    yield CheckResult("far fragments: forces stay", system.name, forces, most_force, "eV/Å")


def check_batch(probe: Probe, systems: Sequence[System]) -> Iterator[CheckResult]:
    """Each structure of a batch has the labels it has alone, in either order of the batch."""
    alone = [probe.labels([s.atoms]) for s in systems]
    forward = list(range(len(systems)))
    for order in (forward, forward[::-1]):
        frames = [systems[k].atoms for k in order]
        labels, batch = probe.labels(frames), StructureBatch.from_atoms(frames)
        for place, k in enumerate(order):
            yield from _compare("batch = alone", systems[k], labels.select(batch, [place]), alone[k])


def check_supercell(probe: Probe, system: System) -> Iterator[CheckResult]:
    """A cell smaller than the cutoff against its supercell: energy scales, forces and stress repeat."""
    copies = int(np.prod(REPEATS))
    small, large = probe.labels([system.atoms]), probe.labels([system.atoms.repeat(REPEATS)])
    wanted = Labels(
        energy=small.energy * copies,
        forces=np.tile(small.forces, (copies, 1)),
        stress=small.stress,
        atom_energies=None if small.atom_energies is None else np.tile(small.atom_energies, copies),
    )
    yield from _compare("cell smaller than the cutoff = supercell", system, large, wanted, copies)


def check_one_atom(probe: Probe, system: System) -> Iterator[CheckResult]:
    """One atom has no force, wherever it is."""
    forces = largest(probe.labels([system.atoms]).forces)
    yield CheckResult("one atom feels no force", system.name, forces, system.tolerance.force, "eV/Å")


def check_cutoff(probe: Probe, system: System, elements: Sequence[int]) -> Iterator[CheckResult]:
    """Energy and forces are continuous when an atom crosses the cutoff, alone or near a third."""
    cutoff = float(probe.potential.cutoff)  # type: ignore[attr-defined]
    near, far = CUTOFF_WINDOW_A[probe.precision]
    for a, b in combinations_with_replacement(elements[:MAXIMUM_CUTOFF_ELEMENTS], 2):
        for third in (False, True):
            labels = probe.labels([_crossing(a, b, cutoff + d, third) for d in (-far, -near, near, far)])
            pair = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
            name = f"{pair}{' near a third atom' if third else ''} at {cutoff:g} Å"
            for what, value, limit, unit in (
                ("energy", labels.energy, system.tolerance.energy, "eV"),
                ("forces", labels.forces.reshape(4, -1, 3), system.tolerance.force, "eV/Å"),
            ):
                jump = largest(value[2] - value[1])
                smooth = CONTINUOUS * largest(value[3] - value[0])
                yield CheckResult(f"{what} continuous at the cutoff", name, jump, max(smooth, limit), unit)


def _crossing(a: int, b: int, distance: float, third: bool) -> Atoms:
    """Two atoms ``distance`` apart; a third one off the line at bonding distance of the first."""
    atoms = Atoms(numbers=[a, b], positions=[[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
    if third:
        bond = 1.2 * (covalent_radii[a] + covalent_radii[b])
        atoms += Atoms(numbers=[b], positions=[[0.6 * bond, 0.8 * bond, 0.0]])
    return atoms
