"""The torch module against PaiNN's equations written with plain loops in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.runtime.student import Student
from limbeck.students.baseline import zbl
from limbeck.students.painn import PaiNN, make_graph
from limbeck.students.specification import Architecture, preset_architecture, with_cores

from .tools import SYSTEMS, random_record, random_weights


def directed_neighbours(atoms: Atoms, cutoff: float) -> list[tuple[int, int, np.ndarray]]:
    """(i, j, r_ij) for every neighbour j of every centre i, images included, by trying all of them."""
    pbc, cell = atoms.pbc, atoms.cell.array
    spans = [range(-9, 10) if periodic else range(1) for periodic in pbc]
    found = []
    for shift in itertools.product(*spans):
        offset = np.array(shift, float) @ cell
        for i, j in itertools.product(range(len(atoms)), repeat=2):
            vector = atoms.positions[j] + offset - atoms.positions[i]
            if 1e-9 < np.linalg.norm(vector) < cutoff:
                found.append((i, j, vector))
    return found


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def energy_by_the_equations(arch: Architecture, w: dict[str, np.ndarray], atoms: Atoms) -> float:
    """arXiv:2102.03150, eqs. 7 to 10; sums over directed neighbours, one atom at a time."""
    edges = directed_neighbours(atoms, arch.cutoff)
    f, n = arch.hidden_dim, len(atoms)
    s = [w["embedding"][arch.elements.index(z)].copy() for z in atoms.numbers]  # (F,) each
    v = [np.zeros((f, 3)) for _ in range(n)]
    for layer in range(arch.interactions):
        p = {k.split(".", 2)[2]: a for k, a in w.items() if k.startswith(f"interactions.{layer}.")}
        ds, dv = [np.zeros(f) for _ in range(n)], [np.zeros((f, 3)) for _ in range(n)]
        for i, j, vector in edges:
            r = np.linalg.norm(vector)
            x = r / arch.cutoff
            envelope = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
            basis = [np.sin(k * np.pi * x) / r for k in range(1, arch.rbf + 1)] + [1.0]
            filters = envelope * np.array(basis) @ p["filter.weight"]
            message = (s[j] @ p["phi.weight"] + p["phi.bias"]) * filters
            ds[i] += message[:f]  # eq. 7
            dv[i] += np.outer(message[f : 2 * f], vector / r)  # eq. 8, second term
            if layer > 0:
                dv[i] += message[2 * f :, None] * v[j]  # eq. 8, first term
        for i in range(n):
            s[i] = s[i] + ds[i]
            v[i] = v[i] + dv[i]
            u_v, v_v = p["mix.weight"][:, :f].T @ v[i], p["mix.weight"][:, f:].T @ v[i]  # (F, 3)
            norm = np.sqrt((v_v**2).sum(1) + arch.norm_offset**2)
            gate = silu(np.concatenate([s[i], norm]) @ p["gate.weight"] + p["gate.bias"])
            a = gate @ p["out.weight"] + p["out.bias"]
            s[i] = s[i] + a[:f] + a[f : 2 * f] * (u_v * v_v).sum(1)  # eq. 9
            if layer < arch.interactions - 1:
                v[i] = v[i] + a[2 * f :, None] * u_v  # eq. 10
    hidden = silu(np.array(s) @ w["readout.0.weight"] + w["readout.0.bias"])
    return float(arch.energy_scale * (hidden @ w["readout.1.weight"] + w["readout.1.bias"]).sum())


@pytest.mark.parametrize("interactions", [1, 2, 3])
@pytest.mark.parametrize(
    "name", ["molecule", "two atoms in a cell smaller than the cutoff", "triclinic", "slab"]
)
def test_module_follows_the_equations(interactions, name):
    atoms = SYSTEMS[name][:5] if name == "molecule" else SYSTEMS[name]
    widths = {"gate_width": 5, "readout_width": 3}
    arch = Architecture((1, 6, 8, 14), 6, interactions, 4, **widths, cutoff=3.4, energy_scale=1.7)
    weights = random_weights(arch, seed=interactions)
    batch = StructureBatch.from_atoms([atoms])
    model = PaiNN(arch, weights, torch.float64)
    energy, forces, _, atom = model(make_graph(arch, batch, find_pairs(batch, arch.cutoff)))
    wanted = energy_by_the_equations(arch, weights, atoms)
    assert float(energy.detach()) == pytest.approx(wanted, rel=1e-12)
    assert float(atom.detach().sum()) == pytest.approx(wanted, rel=1e-12)
    if len(atoms) < 6:
        ends, h = [atoms.copy(), atoms.copy()], 1e-5
        for moved, sign in zip(ends, (1, -1), strict=True):
            moved.positions[1, 2] += sign * h
        plus, minus = (energy_by_the_equations(arch, weights, moved) for moved in ends)
        force = -(plus - minus) / (2 * h)
        assert float(forces[1, 2].detach()) == pytest.approx(force, rel=1e-6, abs=1e-8)


def test_energy_vanishes_with_the_third_power_at_the_cutoff():
    """A C2 envelope: the interaction of a dimer just inside the cutoff falls off as (rc - r)³."""
    arch = Architecture((14,), 8, 2, 4, gate_width=8, readout_width=4, cutoff=5.0)
    model = PaiNN(arch, random_weights(arch), torch.float64)

    def interaction(r: float) -> tuple[float, float]:
        batch = StructureBatch.from_atoms([Atoms("Si2", [[0, 0, 0], [x, 0, 0]]) for x in (r, 99)])
        energy, forces, _, _ = model(make_graph(arch, batch, find_pairs(batch, arch.cutoff)))
        return float((energy[0] - energy[1]).detach()), float(forces[0, 0].detach())

    near, nearer = interaction(5.0 - 0.004), interaction(5.0 - 0.002)
    assert abs(near[0]) > 1e-12
    assert near[0] / nearer[0] == pytest.approx(8, rel=0.05)
    assert near[1] / nearer[1] == pytest.approx(4, rel=0.05)
    assert interaction(5.0 + 1e-6) == (0.0, 0.0)


def test_pairs_within_half_their_core_are_left_to_zbl():
    """Two atoms: the core's energy is that of isolated atoms and ZBL (ase.data, Ziegler et al. 1985)."""
    record = random_record(elements=(1, 8))
    h_o = record.architecture.core_a[1]
    assert h_o == pytest.approx(1.2 * (covalent_radii[1] + covalent_radii[8]))
    student = Student(record, precision="float64")
    apart = sum(student.evaluate([Atoms(s)]).energy[0] for s in "OH")

    def network(distances: np.ndarray) -> np.ndarray:
        """What the network adds to atoms and ZBL."""
        energy = student.evaluate([Atoms("OH", [[0, 0, 0], [0, 0, r]]) for r in distances]).energy
        eight, one = np.full(len(distances), 8), np.full(len(distances), 1)
        radius = np.full(len(distances), record.baseline.zbl_radius[1, 8])
        return energy - apart - zbl(eight, one, distances, radius)[0]

    np.testing.assert_allclose(network(np.array([0.2, 0.499]) * h_o), 0, atol=1e-9)
    np.testing.assert_allclose(network(np.array([0.05])), 0, atol=1e-7)  # of 1e4 eV
    # within the other half it sets in without a step: C2, as finite differences of the energy show
    bend = np.diff(network(np.linspace(0.49 * h_o, 1.01 * h_o, 400)), 2)
    assert abs(np.diff(bend)).max() < 0.1 * abs(bend).max()
    assert abs(bend).max() > 1e-6


def test_architectures_without_cores_are_written_as_before():
    plain = preset_architecture("tiny", (1, 8))
    assert "core_a" not in plain.to_dict()
    assert Architecture.from_dict(plain.to_dict()) == plain
    faded = with_cores(plain, {(1, 1): 0.7, (1, 8): 0.9})
    assert faded.core_a == (0.35, 0.45, 0.45, 0.0)
    assert Architecture.from_dict(faded.to_dict()) == faded
