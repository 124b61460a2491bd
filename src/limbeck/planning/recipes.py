"""What is sampled where the user says nothing: a recipe by kind of system, as large as the budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.config import DistillConfig, RecipeName
from limbeck.core.kinds import is_molecular, structure_kind, system_kind
from limbeck.errors import InputError
from limbeck.sampling import (
    MD,
    Contacts,
    Melt,
    Rattle,
    Relax,
    SamplingConfig,
    Strain,
    Supercell,
    count_evaluations,
    count_frames,
)
from limbeck.sampling.config import Prepare, Step
from limbeck.sampling.contacts import element_pairs
from limbeck.sampling.dynamics import spread
from limbeck.sampling.steps import Preparing

HYDROGEN_TIMESTEP_FS, OTHER_TIMESTEP_FS = 0.5, 2.0
#: where the user names none
TEMPERATURES_K: dict[RecipeName, tuple[float, ...]] = {
    "crystal": (300.0, 600.0, 900.0, 1200.0),
    "molecule": (300.0, 500.0, 700.0, 1000.0),
    "liquid": (280.0, 350.0, 420.0, 500.0),
    "surface": (300.0, 500.0, 700.0, 900.0),
    "melt": (300.0, 900.0, 1500.0, 2000.0),
}
#: crystals of molecules, and of carbon and hydrogen, melt or decompose sooner than others
ORGANIC_TEMPERATURES_K = TEMPERATURES_K["molecule"]
#: over the highest temperature, so that a crystal melts within picoseconds
MELT_FACTOR = 1.6
#: pressed and stretched by so much along all axes, liquids see other densities
DENSITY_STRAIN = 0.03
SUPERCELL_ATOMS = 64
#: contact scans: distances each, and the share of the labels that they may take
SCAN_POINTS, SCAN_SHARE = 8, 0.1

#: shares of the labels: still frames, then each dynamics by an interim student
_SHARES = ((1.0,), (0.4, 0.6), (0.25, 0.3, 0.45))
#: the same for a melt: what is molten has far more to learn from than what is rattled
_MELT_SHARES = ((1.0,), (0.4, 0.6), (0.12, 0.23, 0.65))
#: of dynamics by interim_students: names, fs between frames
_STUDENT_DRIVEN = (("student-md", 20.0), ("student-md-2", 30.0))
#: test trajectories from the richest to the least: how many temperatures, equilibration and
#: spacing in fs, frames of each
_TEST = (
    (3, 150.0, 25.0, 20),
    (3, 150.0, 25.0, 10),
    (3, 150.0, 25.0, 5),
    (3, 100.0, 20.0, 3),
    (2, 75.0, 15.0, 3),
    (1, 40.0, 10.0, 4),
)


@dataclass(frozen=True)
class Recipe:
    """What kind of system it is, and the temperatures that its student is for, ascending, K."""

    kind: RecipeName
    temperatures_K: tuple[float, ...]

    @property
    def test_K(self) -> tuple[float, ...]:
        """Lowest, middle and highest temperature."""
        t = self.temperatures_K
        return tuple(dict.fromkeys((t[0], t[(len(t) - 1) // 2], t[-1])))


def recipe_of(config: DistillConfig, starts: Sequence[Atoms]) -> Recipe:
    """What the configuration says, else what the structures look like.

    Raises
    ------
    InputError: the structures are not such as the recipe that was asked for needs.
    """
    kind = config.recipe or system_kind(starts)
    if config.recipe is not None and config.sampling is None:
        _check_fits(config.recipe, starts)
    # of the user's own dynamics: those that the student will be for
    steps = () if config.sampling is None else config.sampling.steps
    sampled = [t for step in steps if isinstance(step, MD) for t in step.temperatures]
    temperatures = config.temperatures_K or sampled or default_temperatures_K(kind, starts)
    return Recipe(kind, tuple(sorted(set(temperatures))))


def describe_system(config: DistillConfig, starts: Sequence[Atoms]) -> str:
    """A line for the plan: kind of system, size, cell, recipe and temperatures."""
    recipe, kind = recipe_of(config, starts), system_kind(starts)
    name = "molecule or cluster in vacuum" if kind == "molecule" else kind
    sizes = sorted({len(atoms) for atoms in starts})
    size = f"{sizes[0]} atoms" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} atoms"
    number = "1 structure" if len(starts) == 1 else f"{len(starts)} structures"
    kelvin = ", ".join(f"{t:g}" for t in recipe.temperatures_K)
    asked = " (asked for)" if config.recipe else ""
    return (
        f"system: {name}; {number} of {size}; {_describe_cells(starts)}; "
        f"recipe {recipe.kind}{asked} at {kelvin} K"
    )


def _describe_cells(starts: Sequence[Atoms]) -> str:
    periodic = [atoms for atoms in starts if atoms.pbc.any()]
    if not periodic:
        return "no cell"
    largest = max(periodic, key=lambda atoms: float(atoms.cell.lengths().sum()))
    text = " x ".join(f"{length:.4g}" for length in largest.cell.lengths()) + " Å"
    along = "".join(axis for axis, repeats in zip("abc", largest.pbc, strict=True) if repeats)
    text += "" if largest.pbc.all() else f", periodic along {along}"
    text = f"cell {text}" if len(periodic) == 1 else f"cells up to {text}"
    without = len(starts) - len(periodic)
    return text + (f", {without} without a cell" if without else "")


#: recipe -> kinds of structures that it is made for, and what to do about others
_FITTING: dict[RecipeName, tuple[frozenset[str], str]] = {
    "crystal": (frozenset({"crystal"}), "give a crystal"),
    "melt": (frozenset({"crystal"}), "give the crystal that melts"),
    "liquid": (frozenset({"liquid", "crystal"}), "give --liquid, or a periodic box of molecules"),
    "surface": (frozenset({"surface"}), "give a slab, or a slab step under sampling in a YAML"),
    "molecule": (frozenset({"molecule"}), "give molecules"),
}


def _check_fits(recipe: RecipeName, starts: Sequence[Atoms]) -> None:
    fitting, remedy = _FITTING[recipe]
    for k, atoms in enumerate(starts):
        if (kind := structure_kind(atoms)) not in fitting:
            raise InputError(
                f"the recipe {recipe!r} does not fit the structures",
                where=f"structure {k} ({atoms.get_chemical_formula()})",
                got=f"a {kind}",
                wanted=" or ".join(sorted(fitting)),
                remedy=f"{remedy}, or leave --recipe out",
            )


def default_temperatures_K(kind: RecipeName, starts: Sequence[Atoms]) -> tuple[float, ...]:
    """Of the kind of system; crystals of molecules or with organic parts stay as cool as molecules."""
    organic = any({1, 6} <= set(a.numbers.tolist()) or is_molecular(a) for a in starts)
    return ORGANIC_TEMPERATURES_K if kind == "crystal" and organic else TEMPERATURES_K[kind]


def timestep_fs(starts: Sequence[Atoms]) -> float:
    """0.5 fs where hydrogen moves, else 2 fs (1 fs with other light elements)."""
    lightest = min(int(a.numbers.min()) for a in starts)
    return HYDROGEN_TIMESTEP_FS if lightest == 1 else 1.0 if lightest < 10 else OTHER_TIMESTEP_FS


def default_sampling(
    starts: Sequence[Atoms],
    recipe: Recipe,
    labels: int,
    seed: int,
    interim_students: int = 2,
    start_index: tuple[int, ...] | None = None,
) -> SamplingConfig:
    """Still frames, then dynamics by an interim student: a quick student of these.

    About ``labels`` frames in all. Rattled frames alone make no stable dynamics, and dynamics
    driven by the teacher spends most of its evaluations on frames too alike to be worth a label.
    ``interim_students``: 0 to 2 of those dynamics; 0 where there is no time for an interim student to learn.
    ``start_index``: only from these starts.
    """
    if start_index is not None:
        starts = [starts[k] for k in start_index]
    n_scans = SCAN_POINTS * len(element_pairs(starts))
    scans = [Contacts(n=SCAN_POINTS)] if n_scans <= SCAN_SHARE * labels else []
    n_scans *= len(scans)
    shares = (_MELT_SHARES if recipe.kind == "melt" else _SHARES)[interim_students]
    first, *driven = (max(8, round(share * (labels - n_scans))) for share in shares)
    # a strain needs a cell, so molecules beside crystals are rattled only
    kind = recipe.kind if all(a.pbc.all() for a in starts) else "molecule"
    still, origin = _still(kind, len(starts), first)
    steps: list[Step] = [*_enlarged(starts), *still, *scans]
    for (name, spacing), wanted in zip(_STUDENT_DRIVEN, driven, strict=False):
        if recipe.kind == "melt" and name == _STUDENT_DRIVEN[1][0]:
            steps += _melted(starts, recipe, wanted, spacing)
        else:
            steps.append(_student_driven(starts, recipe, wanted, name, spacing, origin))
    return SamplingConfig(seed=seed + 1, start_index=start_index, steps=tuple(steps))


def starts_to_train_on(
    starts: Sequence[Atoms], recipe: Recipe, test: SamplingConfig
) -> tuple[int, ...] | None:
    """Of a liquid's boxes those that the test set does not start from; None for all starts.

    A box keeps its arrangement for longer than a trajectory lasts. Crystals and molecules leave theirs at
    once, and the lowest conformer or a second polymorph is needed for training.
    """
    if recipe.kind != "liquid" or test.start_index is None:
        return None
    taken = {k % len(starts) for k in test.start_index}
    return tuple(k for k in range(len(starts)) if k not in taken) or None


def _still(kind: RecipeName, starts: int, wanted: int) -> tuple[list[Step], str | None]:
    """About ``wanted`` still frames: the steps, and the step whose frames dynamics starts from."""
    if kind in ("crystal", "melt"):
        n_strain = max(1, round(wanted / 4 / starts))
        n_rattle = max(1, round(wanted / 4 / (n_strain * starts)))
        strain = Strain(max=0.05, n=n_strain)
        return [strain, Rattle(stdev_a=(0.03, 0.08, 0.15), n=n_rattle, from_="strain")], "strain"
    if kind == "liquid":
        density = Strain(name="density", modes=("volumetric",), max=DENSITY_STRAIN, n=6, keep=False)
        n = max(1, round(wanted / 2 / (6 * starts)))
        return [density, Rattle(stdev_a=(0.02, 0.05), n=n, from_="density")], "density"
    stdev_a = (0.02, 0.04, 0.08) if kind == "molecule" else (0.03, 0.08, 0.15)
    return [Rattle(stdev_a=stdev_a, n=max(2, round(wanted / 3 / starts)))], None


def _student_driven(
    starts: Sequence[Atoms], recipe: Recipe, wanted: int, name: str, spacing: float, origin: str | None
) -> MD:
    """Trajectories of an interim student at each temperature, from many starts."""
    temperatures = recipe.temperatures_K
    trajectories = int(np.clip(round(wanted / len(temperatures) / 8), 1, 12))
    return MD(
        name=name,
        from_=origin,
        temperature_K=temperatures,
        starts=trajectories,
        frames=max(2, round(wanted / len(temperatures) / trajectories)),
        every_fs=spacing,
        equilibrate_fs=200.0,
        timestep_fs=timestep_fs(starts),
        from_relaxed=recipe.kind != "liquid",  # a packed box is far above its minimum already
        driver="student",
    )


def _melted(starts: Sequence[Atoms], recipe: Recipe, wanted: int, spacing: float) -> list[Step]:
    """Melted and quenched at no pressure, and dynamics at each temperature from what came of it."""
    melts = int(np.clip(round(wanted / 60), 2, 6))
    frames = max(4, round(wanted / 3 / melts))
    melt = _melt(recipe.temperatures_K[-1], recipe.temperatures_K[0], melts, frames, timestep_fs(starts))
    dynamics = _student_driven(starts, recipe, round(wanted * 2 / 3), _STUDENT_DRIVEN[1][0], spacing, "melt")
    driven = melt.model_copy(update={"driver": "student"})
    return [driven, dynamics.model_copy(update={"from_relaxed": False})]


def _melt(hottest_K: float, quench_K: float, starts: int, frames: int, timestep: float) -> Melt:
    """Above the highest temperature at no pressure, then cooled."""
    return Melt(
        melt_K=MELT_FACTOR * hottest_K,
        quench_to_K=quench_K,
        starts=starts,
        frames=frames,
        pressure_gpa=0.0,
        pressure_below_K=hottest_K,
        timestep_fs=timestep,
    )


def default_test_set(
    starts: Sequence[Atoms],
    recipe: Recipe,
    evaluations: float,
    seed: int,
    sampling: SamplingConfig | None = None,
) -> SamplingConfig:
    """Trajectories of the teacher from unstrained starts, with a seed of their own.

    They start from the first structure, and where starts are of several kinds, each temperature from
    another; of a liquid from the last, which training then leaves alone if there are others. Three of
    20 frames each where ``evaluations`` of the teacher allow it, else fewer and shorter. Of a melt, the
    hottest is melted first.

    ``sampling``: the user's own; what it makes of the starts (a slab, a vacancy) is what the test set has.
    """
    hottest = recipe.test_K
    chosen = SamplingConfig()
    for count, equilibrate, spacing, frames in _TEST:
        temperatures = (hottest, hottest[::2], hottest[(len(hottest) - 1) // 2 :][:1])[3 - count]
        step = MD(
            temperature_K=temperatures,
            starts=1,
            frames=frames,
            every_fs=spacing,
            equilibrate_fs=equilibrate,
            timestep_fs=max(1.0, timestep_fs(starts)),
            from_relaxed=recipe.kind != "liquid",
        )
        index = (len(starts) - 1,) if recipe.kind == "liquid" else _one_of_each(starts, len(temperatures))
        steps = _melting_last(step, starts) if recipe.kind == "melt" else (step,)
        if sampling is None:
            prepare = _enlarged([starts[k] for k in index])
        else:  # relaxing costs labels and is left to dynamics
            prepare = [s for s in sampling.steps if isinstance(s, Preparing) and not isinstance(s, Relax)]
        chosen = SamplingConfig(seed=seed + 101, start_index=index, steps=(*prepare, *steps))
        if count_evaluations(chosen, len(index)) + count_frames(chosen, len(index)) <= evaluations:
            break
    return chosen


def _one_of_each(starts: Sequence[Atoms], trajectories: int) -> tuple[int, ...]:
    """The first start of each composition of each file; no more than there are trajectories, spread."""
    first: dict[tuple[str, str], int] = {}
    for k, atoms in enumerate(starts):
        source = str(atoms.info.get("group", "")).rpartition("#")[0]
        first.setdefault((source, atoms.get_chemical_formula()), k)
    kinds = list(first.values())
    most = min(trajectories, len(kinds))
    return tuple(kinds[spread(k, most, len(kinds))] for k in range(most))


def _melting_last(step: MD, starts: Sequence[Atoms]) -> tuple[Step, ...]:
    """The trajectories with the hottest one molten: the crystal is heated beyond it and cooled to it."""
    *cooler, hottest = step.temperatures
    times: dict[str, Any] = {
        "heat_fs": 200.0,
        "cool_fs": 200.0,
        "hold_fs": 3 * step.equilibrate_fs,
        "keep": False,
    }
    times |= {"name": "melting", "settle_fs": 2 * step.equilibrate_fs}
    melt = _melt(hottest, hottest, 1, 1, max(1.0, timestep_fs(starts))).model_copy(update=times)
    own = {"name": "molten", "from_": "melting", "temperature_K": hottest, "from_relaxed": False}
    crystal = step.model_copy(update={"temperature_K": tuple(cooler)})
    return (*([crystal] if cooler else []), melt, step.model_copy(update=own))


def _enlarged(starts: Sequence[Atoms]) -> list[Prepare]:
    """A supercell where a crystal or slab has a small cell; structures that are large stay as they are."""
    small = any(system_kind([a]) in ("crystal", "surface") and len(a) < SUPERCELL_ATOMS // 2 for a in starts)
    return [Supercell(max_atoms=SUPERCELL_ATOMS)] if small else []
