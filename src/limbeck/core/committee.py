"""How far several Potentials differ: query by committee on forces.

Seung, Opper, Sompolinsky 1992; on forces as in Schran et al. 2020 (arXiv:2006.01541).
"""

from __future__ import annotations

import numpy as np

from limbeck.core.structures import StructureBatch


def committee_spread(forces: np.ndarray, structures: StructureBatch) -> np.ndarray:
    """(S,) eV/Å: over a structure's atoms, the greatest rms deviation of the force from the members' mean.

    ``forces``: (M, N, 3) eV/Å, of M members.
    """
    atoms = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))  # (N,)
    return np.maximum.reduceat(atoms, structures.offsets[:-1])
