"""Forces that do not sum to zero, or turn a molecule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.dataset.lint.finding import Finding
from limbeck.dataset.lint.material import Material

_SHARE = 0.2  # of what forces of that size in random directions would sum to
_TORQUE_SHARE = 0.05
_LEAST_EV_PER_A = 0.02
_HELD = 0.1  # share of atoms without force that tells constraints


def check_net_force(material: Material) -> Iterator[Finding]:
    """Only an external field or constraints leave a net force."""
    batch = material.batch
    net = np.linalg.norm(np.add.reduceat(material.forces, batch.offsets[:-1]), axis=1)
    random = np.sqrt(3 * batch.counts) * material.force_rms
    pushed = (net > _SHARE * random) & (net > _LEAST_EV_PER_A * np.sqrt(batch.counts)) & (batch.counts > 1)
    if not pushed.any():
        return
    still = np.bincount(batch.structure_of_atom, (material.forces == 0).all(axis=1)) / batch.counts
    held = pushed & (still >= _HELD)
    free = pushed & ~held
    if held.any():
        yield Finding(
            "forces-constrained",
            "error" if held.mean() > 0.1 else "warning",
            f"{int(held.sum())} structures have a net force and atoms without any (constraints?), "
            f"up to {net[held].max():.3g} eV/Å",
            material.frames(held),
            "write the forces before constraints are applied",
        )
    if free.any():
        yield Finding(
            "net-force",
            "error" if free.mean() > 0.1 else "warning",
            f"forces of {int(free.sum())} structures do not sum to zero, up to {net[free].max():.3g} eV/Å",
            material.frames(free),
            "check for an external field, atoms that are missing, or damaged forces",
        )


def check_torque(material: Material) -> Iterator[Finding]:
    """Forces of a free molecule do not turn it; those of a molecule that was rotated alone do."""
    batch = material.batch
    structure = batch.structure_of_atom
    centre = np.add.reduceat(batch.positions, batch.offsets[:-1]) / batch.counts[:, None]
    arm = batch.positions - centre[structure]
    torque = np.linalg.norm(np.add.reduceat(np.cross(arm, material.forces), batch.offsets[:-1]), axis=1)
    size = np.sqrt(
        np.add.reduceat((arm**2).sum(axis=1) * (material.forces**2).sum(axis=1), batch.offsets[:-1])
    )
    free = ~batch.pbc.any(axis=1) & (batch.counts > 2)
    turned = free & (torque > _TORQUE_SHARE * size) & (material.force_rms > _LEAST_EV_PER_A)
    if turned.any():
        yield Finding(
            "net-torque",
            "error" if turned.sum() > 0.1 * free.sum() else "warning",
            f"the forces of {int(turned.sum())} molecules have a net torque",
            material.frames(turned),
            "positions and forces are in different frames, or in a different order of atoms",
        )
