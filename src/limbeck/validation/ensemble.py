"""How far several students disagree: a cheap sign that a structure is unlike what they learned from.

Query by committee (Seung, Opper, Sompolinsky 1992) on forces, as DP-GEN uses it (Zhang et al. 2019,
arXiv:1810.11890): the greatest deviation of any atom's force among the members.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from limbeck.core.potential import Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.validation.run import predict

#: a frame is outside the training domain where its committee deviation exceeds this multiple of that of all
#: but one in a hundred known ones
DEFAULT_FACTOR = 3.0
#: and this share of the frame's own root mean square force: hot frames have larger forces, known as well
DEFAULT_SHARE = 0.5
_PERCENTILE = 99.0


def force_spread(members: Sequence[Potential], structures: StructureBatch) -> tuple[np.ndarray, np.ndarray]:
    """How far ``members`` differ in each structure, and how large its forces are.

    Returns
    -------
    (S,) eV/Å, over the atoms the greatest root mean square deviation of the force from the members'
    mean; (S,) eV/Å, the root mean square length of the mean force.
    """
    forces = np.stack([predict(member, structures).forces for member in members])  # (M, N, 3)
    mean = forces.mean(axis=0)  # (N, 3)
    square = np.add.reduceat((mean**2).sum(axis=1), structures.offsets[:-1]) / structures.counts
    atoms = np.sqrt(((forces - mean) ** 2).sum(axis=2).mean(axis=0))  # (N,)
    return np.maximum.reduceat(atoms, structures.offsets[:-1]), np.sqrt(square)


class Ensemble:
    """Decides from the committee force deviation whether a frame is in the training domain.

    Attributes
    ----------
    limit_ev_per_a: a frame of a smaller spread is familiar.
    share: so is one whose spread is a smaller part of the root mean square of its forces (of a vector's
        length, over its atoms).
    """

    def __init__(
        self,
        members: Sequence[Potential],
        known: StructureBatch,
        factor: float = DEFAULT_FACTOR,
        share: float = DEFAULT_SHARE,
    ) -> None:
        """``known``: structures like those the members learned from, which set the limit.

        Raises
        ------
        InputError: fewer than two members, or nothing known.
        """
        if len(members) < 2 or not len(known):
            raise InputError(
                "an ensemble needs members and structures they know",
                got=f"{len(members)} members, {len(known)} structures",
                wanted="two members or more, one structure or more",
            )
        self.members, self.share = tuple(members), share
        usual = float(np.percentile(force_spread(self.members, known)[0], _PERCENTILE))
        self.limit_ev_per_a = factor * usual

    def objection(self, frame: Atoms) -> str | None:
        """Why the frame is outside the training domain, or None."""
        spread, force = force_spread(self.members, StructureBatch.from_atoms([frame]))
        if spread[0] <= max(self.limit_ev_per_a, self.share * force[0]):
            return None
        return (
            f"outside the training domain: committee force deviation {spread[0]:.2f} eV/Å on an atom, where "
            f"{self.limit_ev_per_a:.2f} is usual at most and forces are {force[0]:.2f}"
        )
