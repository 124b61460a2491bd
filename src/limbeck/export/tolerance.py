"""How far an export may be from its student: what is rounding, and what is damage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """What two paths of one precision may differ by.

    The largest deviations, a structure at a time. Forces: ``force_a`` eV/Å + ``force_r`` · max|F|. Energy:
    ``energy_r`` · Σ|eᵢ - E0ᵢ|, the sum over atoms of their interaction energies; an atom's energy likewise.
    References fitted by least squares, without isolated atoms, hold most of the cohesion, and what is left
    may cancel to nothing, while the network's arithmetic works in units of its energy scale: the sum
    counts as N times that at least. Stress: the tolerance of forces acting over the cutoff on every
    atom, N · rc / V times it, eV/Å³.

    A student rounds as well, far from its training data more than that. Where ``noise`` times its own
    distance from float64 is more, that is the limit, and the certificate counts the structure as
    ``widened``; from the student itself an export may be the student's distance further.

    Rounding is random and damage is not, so root mean squares from float64, over the structures of a
    class that are not widened, are held to less: ``rms_share`` of the limits above for forces and stress,
    ``rms_energy`` of the energy's an atom for atomic energies, or ``rms_noise`` times the student's own in
    the worst of its copies. The root mean square of few atoms scatters: of n it may be ``1 + rms_scatter /
    sqrt(n)`` times that (of independent ones the standard deviation is 0.7 / sqrt(n); neighbours share
    theirs).

    One evaluation may round well by chance, and another processor adds in another order: a student's own
    distance is the root mean square over copies of the structure, turned in space, which is the same
    arithmetic on other digits; by its engine or by PyTorch in the same precision, whichever is more.
    Fewer atoms need more copies: a class of structures is turned until it holds ``copied_atoms``, ``copies``
    times (least, most).
    """

    force_a: float
    force_r: float
    energy_r: float
    noise: float = 4.0
    rms_share: float = 0.1
    rms_energy: float = 1.0
    rms_noise: float = 2.0
    rms_scatter: float = 2.0
    copied_atoms: int = 1024
    copies: tuple[int, int] = (2, 8)


TOLERANCES = {
    "float32": Tolerance(force_a=1e-5, force_r=2e-5, energy_r=1e-6),
    "float64": Tolerance(force_a=1e-9, force_r=1e-9, energy_r=1e-9),
}
