"""Configuration of the steps beyond rattling, straining and plain dynamics.

``melt`` heats, holds and quenches; ``rattle-relax`` grows family trees; ``modes`` and ``torsions``
sample molecules; ``contacts`` pushes pairs of atoms together:

    - {kind: melt, melt_K: 2500, quench_to_K: 300, pressure_gpa: 0, starts: 2}
    - {kind: rattle-relax, n: 20, trees: 3, strain: 0.03}
    - {kind: modes, temperature_K: [300, 600], n: 20}
    - {kind: torsions, n: 40}
    - {kind: contacts, n: 12}
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from limbeck.core.scans import SCAN_STEP, is_scan
from limbeck.sampling.step import Adding, Condition, Driven, Dynamics

Ratio = Annotated[float, Field(ge=0.3, le=0.7)]


class Melt(Dynamics):
    """Trajectories that are heated from ``quench_to_K`` to ``melt_K``, held there, and cooled again.

    heat_fs, hold_fs, cool_fs: the lengths of the three parts, linear in temperature; settle_fs: of what
    follows at ``quench_to_K``. pressure_below_K: a pressure acts only once it has cooled so far, and
    the volume stays what it was until then: what is heated far beyond its boiling point would fly
    apart. Frames are evenly spaced over the whole; the temperature of each is the thermostat's target.
    """

    kind: Literal["melt"] = "melt"
    melt_K: PositiveFloat
    quench_to_K: PositiveFloat = 300.0
    heat_fs: PositiveFloat = 1000.0
    hold_fs: NonNegativeFloat = 2000.0
    cool_fs: PositiveFloat = 2000.0
    settle_fs: NonNegativeFloat = 0.0
    pressure_below_K: PositiveFloat | None = None

    @model_validator(mode="after")
    def _hotter(self) -> Melt:
        if self.melt_K <= self.quench_to_K:
            raise ValueError(
                f"melt: got melt_K {self.melt_K:g} and quench_to_K {self.quench_to_K:g}; "
                "wanted melt_K above quench_to_K"
            )
        if self.pressure_below_K is not None and self.pressure_below_K < self.quench_to_K:
            raise ValueError(
                f"melt: got pressure_below_K {self.pressure_below_K:g} and quench_to_K "
                f"{self.quench_to_K:g}; wanted pressure_below_K at quench_to_K or above"
            )
        if self.frames > self.steps:
            raise ValueError(
                f"melt: got {self.frames} frames; wanted at most one in each of {self.steps} steps"
            )
        return self

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(Condition(self.quench_to_K, p) for p in self.pressures)

    @property
    def steps(self) -> int:
        whole = self.heat_fs + self.hold_fs + self.cool_fs + self.settle_fs
        return max(1, round(whole / self.timestep_fs))

    def target(self, n: int, condition: Condition) -> Condition:
        at = n * self.timestep_fs
        heated = min(at / self.heat_fs, 1.0)
        cooled = min(max(at - self.heat_fs - self.hold_fs, 0.0) / self.cool_fs, 1.0)
        low = self.quench_to_K
        kelvin = low + (self.melt_K - low) * (heated - cooled)
        free = self.pressure_below_K is None or (cooled > 0 and kelvin <= self.pressure_below_K)
        return Condition(kelvin, condition.pressure_gpa if free else None)

    def records(self, n: int) -> bool:
        return n * self.frames // self.steps > (n - 1) * self.frames // self.steps

    def equilibrated(self, n: int) -> bool:
        return True

    def label(self, condition: Condition) -> str:
        pressure = "" if condition.pressure_gpa is None else f"-{condition.pressure_gpa:g}GPa"
        return f"{self.melt_K:g}-{self.quench_to_K:g}K{pressure}"

    @property
    def hottest_K(self) -> float:
        return self.melt_K


class RattleRelax(Driven):
    """Family trees of structures that are rattled and relaxed a little, again and again.

    After augment-atoms (Gardner et al. 2025, arXiv:2506.10956). A child's parent is drawn with
    probability ``beta * Boltzmann factor + (1 - beta) * generation``, each normalised over the tree.

    n: children a tree. trees: trees a start. stdev_a: range from which the rattle's standard
    deviation is drawn, Å. strain: greatest standard deviation of the cell's random deformation (0: the
    cell stays). temperature_K: of the Boltzmann factor of the whole structure's energy. beta: near 1
    stays at low energies, near 0 goes on from the latest generations. relax_steps: evaluations a
    child at most. max_force_ev_per_a, min_ratio: a child has no greater force, and no pair closer than
    this fraction of its sum of covalent radii.
    """

    kind: Literal["rattle-relax"] = "rattle-relax"
    n: PositiveInt = 20
    trees: PositiveInt = 2
    stdev_a: tuple[PositiveFloat, PositiveFloat] = (0.05, 0.3)
    strain: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    temperature_K: PositiveFloat = 1000.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    relax_steps: PositiveInt = 10
    max_force_ev_per_a: PositiveFloat = 30.0
    min_ratio: Ratio = 0.5

    outside_key: ClassVar[frozenset[str]] = frozenset({"keep", "driver", "from_", "trees"})
    runs_are: ClassVar[str] = "trees"

    def n_runs(self, n_incoming: int) -> int:
        return self.trees * n_incoming

    @property
    def frames_per_run(self) -> int:
        return self.n

    def evaluations_per_run(self, n_atoms: int) -> int:
        return 1 + self.n * self.relax_steps

    def evaluations_to_first(self, n_atoms: int) -> int:
        return 1 + self.relax_steps


class Modes(Driven):
    """Normal-mode sampling of molecules (as for ANI: Smith, Isayev, Roitberg 2017, arXiv:1610.08935).

    A copy of each start is relaxed by the driver, and displaced along the eigenvectors of its
    Hessian (without translation and rotation) by amplitudes of the Boltzmann distribution: normal,
    with variance kT / k.

    temperature_K: a temperature or several. n: frames a temperature and start. max_stdev_a: cap of
    a mode's standard deviation, Å, for soft modes, whose harmonic amplitudes mean little.
    relax_steps, fmax_ev_per_a: the relaxation. step_a: displacement of the finite differences.
    """

    kind: Literal["modes"] = "modes"
    temperature_K: tuple[PositiveFloat, ...] | PositiveFloat
    n: PositiveInt = 20
    max_stdev_a: PositiveFloat = 0.5
    min_ratio: Ratio = 0.6
    relax_steps: PositiveInt = 200
    fmax_ev_per_a: PositiveFloat = 0.02
    step_a: Annotated[float, Field(gt=0, le=0.1)] = 0.01

    @property
    def temperatures(self) -> tuple[float, ...]:
        return self.temperature_K if isinstance(self.temperature_K, tuple) else (self.temperature_K,)

    def n_runs(self, n_incoming: int) -> int:
        return n_incoming

    @property
    def frames_per_run(self) -> int:
        return self.n * len(self.temperatures)

    def evaluations_per_run(self, n_atoms: int) -> int:
        return self.relax_steps + 1 + 6 * n_atoms

    @property
    def hottest_K(self) -> float:
        return max(self.temperatures)


class Torsions(Adding):
    """Random rotations about the rotatable bonds of molecules, and a small rattle.

    Rotatable are single bonds between atoms that have other neighbours too, outside rings. n: frames a
    start. max_degrees: greatest rotation either way. stdev_a: standard deviation of the rattle, Å
    (0: bond lengths and angles stay exactly). min_ratio: no pair comes closer than this fraction of its
    sum of covalent radii.
    """

    kind: Literal["torsions"] = "torsions"
    n: PositiveInt = 20
    max_degrees: Annotated[float, Field(gt=0, le=180)] = 180.0
    stdev_a: NonNegativeFloat = 0.02
    min_ratio: Ratio = 0.6


class Contacts(Adding):
    """Close-contact scans of every pair of elements, like pairs included.

    The nearest pair that no third atom blocks is pushed together along its line, both atoms alike, all
    others fixed: what a student meets in hot dynamics. Teachers have holes there, so the labels of
    these frames are judged (:mod:`limbeck.labelling.contacts`).

    n: distances a scan, geometric from that of the start (left out) to ``shortest_a``. scans: scans a
    pair of elements, spread over the incoming frames.
    """

    kind: Literal["contacts"] = "contacts"
    n: Annotated[int, Field(ge=3)] = 12
    shortest_a: Annotated[float, Field(ge=0.2)] = 0.3
    scans: PositiveInt = 1

    @model_validator(mode="after")
    def _known_by_name(self) -> Contacts:
        if self.name is not None and not is_scan(self.name):
            raise ValueError(
                f"contacts: got name {self.name!r}; wanted one that begins with {SCAN_STEP!r}, "
                "by which their labels are known"
            )
        return self
