"""Sampling: starting structures go through the steps of a configuration."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from limbeck.core.checks import check_structures
from limbeck.core.hashing import hash_json, hash_structure
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError
from limbeck.progress import Progress, no_progress
from limbeck.sampling.cache import TrajectoryCache
from limbeck.sampling.config import Rattle, SamplingConfig, Strain, Supercell
from limbeck.sampling.contacts import element_pairs, scan_contacts
from limbeck.sampling.driven import FAMILIES_PER_STEP, DrivenRun, runs_of
from limbeck.sampling.dynamics import Trajectory
from limbeck.sampling.frames import make_frame
from limbeck.sampling.moves import Contacts, Torsions
from limbeck.sampling.perturb import apply_strain, rattle, strains, supercell
from limbeck.sampling.step import Driven
from limbeck.sampling.torsions import torsion_copies

_FORMAT = 1  # raised when the same configuration comes to mean other trajectories


def run_sampling(
    starts: Sequence[Atoms],
    config: SamplingConfig,
    potentials: Mapping[str, Potential],
    progress: Progress = no_progress,
    *,
    cache_dir: Path | str | None = None,
    parallel: int = 1,
    prefix: str = "",
    notes: list[str] | None = None,
    stop: Callable[[float], bool] | None = None,
) -> list[Atoms]:
    """Frames sampled from ``starts``, each with ``family``, ``step`` and ``temperature_K`` in ``info``.

    Parameters
    ----------
    starts: starting structures; their ``info["family"]`` names them.
    potentials: driver ("teacher", "scout") -> Potential; only those that a step names. One under
        the name of a step goes before that of its driver.
    progress: told the time steps done.
    cache_dir: finished trajectories are kept there and not repeated.
    parallel: trajectories at a time, where the Potential's ``thread_safe`` is true.
    prefix: put before every family and mixed into the seeds, so that a held-out set shares
        neither with the training set ("heldout/").
    notes: a sentence for each trajectory that became unphysical and ended early is added, one
        for all that ``stop`` ended, and what a step could not make of a start.
    stop: asked after each time step with the share of all evaluations (0 to 1) that is planned to be
        done at the end of the trajectory at work. Once true, that trajectory ends with the frames it
        has, at least one; so each gets its share of the time, and none is left out.

    Returns
    -------
    Frames in the order of the steps; the same for the same starts, configuration and prefix,
    whatever ``parallel`` and the cache.

    Raises
    ------
    InputError: a start that cannot be used, a step that does not fit it, a driver that is missing.
    LimbeckError: no frame came of it.
    """
    chosen = _choose_starts(starts, config)
    check_structures(chosen, "starting structures")
    prepared = [make_frame(a, prefix + a.info.get("family", f"start#{k}")) for k, a in enumerate(chosen)]
    counter, cache = _Counter(progress, config, prepared), TrajectoryCache(cache_dir)
    run = _Run(config, potentials, counter, cache, parallel, stop or (lambda share: False))
    run.salt = (zlib.crc32(prefix.encode()),) if prefix else ()
    made: dict[str, list[Atoms]] = {}
    for index, (name, step) in enumerate(zip(config.names, config.steps, strict=True)):
        if isinstance(step, Supercell):
            prepared = [supercell(a, step) for a in prepared]
            continue
        incoming = prepared if step.from_ is None else made[step.from_]
        if not incoming:
            made[name] = []
        elif isinstance(step, Driven):
            made[name] = run.driven(index, name, step, incoming)
        elif isinstance(step, Contacts):
            made[name], said = scan_contacts(incoming, step, name)
            run.stopped += said
        else:
            made[name] = run.perturb(index, name, step, incoming)
    if notes is not None:
        notes.extend(run.stopped)
        if run.n_cut:
            what = f"{prefix.rstrip('/')} dynamics".strip()
            notes.append(
                f"{what}: {run.n_cut} of {run.n_trajectories} trajectories ended when their time was up; "
                f"{run.n_reached} of {run.n_wanted} frames were reached"
            )
    kept = [
        n for n, s in zip(config.names, config.steps, strict=True) if not isinstance(s, Supercell) and s.keep
    ]
    frames = [frame for name in kept for frame in made[name]]
    if config.keep_starts or not kept:
        frames = prepared + frames
    if not frames:
        raise LimbeckError(
            "sampling gave no frames",
            where="sampling",
            got=run.stopped[0] if run.stopped else "no step that keeps frames",
            remedy="start from relaxed structures, or lower temperature_K or timestep_fs",
        )
    return frames


def count_frames(config: SamplingConfig, starts: int | Sequence[Atoms]) -> int:
    """The most frames that :func:`run_sampling` returns: where no run ends early and every step fits.

    ``starts``: the starting structures, or their number where no step looks into them (``contacts``
    counts their elements, ``modes`` their atoms; for a number both are one).
    """
    made, prepared = _plan(config, starts)
    kept = [
        n for n, s in zip(config.names, config.steps, strict=True) if not isinstance(s, Supercell) and s.keep
    ]
    return sum(made[name] for name in kept) + (prepared if config.keep_starts or not kept else 0)


def count_evaluations(config: SamplingConfig, starts: int | Sequence[Atoms]) -> int:
    """The most evaluations of a Potential that the driven steps take; labelling is not among them."""
    made, prepared = _plan(config, starts)
    n_atoms = 1 if isinstance(starts, int) else max(map(len, starts), default=1)
    total = 0
    for step in config.steps:
        if isinstance(step, Driven):
            incoming = prepared if step.from_ is None else made[step.from_]
            total += step.n_runs(incoming) * step.evaluations_per_run(n_atoms)
    return total


def _plan(config: SamplingConfig, starts: int | Sequence[Atoms]) -> tuple[dict[str, int], int]:
    """Frames a step makes, by name, and the number of prepared starts."""
    n_starts = starts if isinstance(starts, int) else len(starts)
    prepared = n_starts if config.start_index is None else len(config.start_index)
    made: dict[str, int] = {}
    for name, step in zip(config.names, config.steps, strict=True):
        if isinstance(step, Supercell):
            continue
        incoming = prepared if step.from_ is None else made[step.from_]
        if isinstance(step, Driven):
            made[name] = step.n_runs(incoming) * step.frames_per_run
        elif isinstance(step, Contacts):
            pairs = 1 if isinstance(starts, int) else len(element_pairs(starts))
            made[name] = pairs * min(step.scans, incoming) * step.n
        elif isinstance(step, Torsions):
            made[name] = incoming * step.n
        else:
            kinds = len(step.amplitudes) if isinstance(step, Rattle) else len(step.modes)
            made[name] = incoming * kinds * step.n
    return made, prepared


def _choose_starts(starts: Sequence[Atoms], config: SamplingConfig) -> list[Atoms]:
    if config.start_index is None:
        return list(starts)
    outside = [k for k in config.start_index if not -len(starts) <= k < len(starts)]
    if outside:
        raise InputError(
            "no such starting structure",
            where="sampling, start_index",
            got=outside[0],
            wanted=f"0 to {len(starts) - 1}",
        )
    return [starts[k] for k in config.start_index]


#: steps that need no Potential and draw copies of each incoming frame by themselves
_Copying = Rattle | Strain | Torsions


class _Stop(Exception):
    """Ends the other trajectories once one has failed."""


class _Counter:
    """Time steps done by all threads together."""

    def __init__(self, progress: Progress, config: SamplingConfig, starts: Sequence[Atoms]) -> None:
        whole = config.model_copy(update={"start_index": None})
        self.total = count_evaluations(whole, starts)
        self.progress, self.done, self.stop = progress, 0, False
        self._lock = threading.Lock()

    def add(self, steps: int = 1) -> None:
        if self.stop:
            raise _Stop
        with self._lock:
            self.done += steps
            self.progress("sampling", min(self.done, self.total), self.total)


@dataclass
class _Run:
    """One call of run_sampling: what its steps share."""

    config: SamplingConfig
    potentials: Mapping[str, Potential]
    counter: _Counter
    cache: TrajectoryCache
    parallel: int
    stop: Callable[[float], bool]
    salt: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.stopped: list[str] = []
        self.n_cut = self.n_trajectories = self.n_reached = self.n_wanted = self.evaluations = 0

    def perturb(self, index: int, name: str, step: _Copying, incoming: Sequence[Atoms]) -> list[Atoms]:
        """Rattled, strained or turned copies of each incoming frame."""
        frames: list[Atoms] = []
        for k, parent in enumerate(incoming):
            rng = np.random.default_rng([self.config.seed, index, k, *self.salt])
            for label, copies in _perturbed(parent, step, rng):
                if not copies:
                    self.stopped.append(f"{name}: {parent.info['family']} has no rotatable bond")
                for n, copy in enumerate(copies):
                    family = self._family(
                        step, name, label, parent, n * _blocks(step, len(incoming)) // step.n
                    )
                    frames.append(make_frame(copy, family, name))
        return frames

    @staticmethod
    def _family(step: _Copying, name: str, label: str, parent: Atoms, block: int) -> str:
        """Draws from a start are independent, so they make families of their own in blocks; copies
        of sampled frames stay with the frame that they resemble."""
        return parent.info["family"] if step.from_ else f"{parent.info['family']}/{name}-{label}-b{block}"

    def driven(self, index: int, name: str, step: Driven, incoming: Sequence[Atoms]) -> list[Atoms]:
        """The runs of a step that a Potential makes, several at a time where the Potential can."""
        potential = self.potentials.get(name) or self.potentials.get(step.driver)
        if potential is None:
            raise InputError(
                "no Potential for the driver of a step",
                where=f"step {name}",
                got=f"driver {step.driver}",
                wanted=f"one of: {', '.join(self.potentials) or 'none given'}",
                remedy="give a teacher",
            )
        step = step.model_copy(update={"name": name})
        runs = runs_of(name, step, incoming, potential)
        threads = min(self.parallel, len(runs)) if getattr(potential, "thread_safe", False) else 1
        costs = [step.evaluations_per_run(len(run.start)) for run in runs]
        spent = self.evaluations + np.cumsum(costs)
        jobs: list[Callable[[], Trajectory]] = []
        for k, run in enumerate(runs):
            # those that run side by side end together
            ended = min(len(runs), (k // threads + 1) * threads)
            share = float(spent[ended - 1]) / max(self.counter.total, 1)
            seed = (self.config.seed, index, *run.numbers, *self.salt)
            jobs.append(self._job(run, potential, step, seed, costs[k], share))
        trajectories = self._all(jobs, threads)
        self.evaluations += sum(costs)
        self.n_trajectories += len(runs)
        self.n_reached += sum(len(t.frames) for t in trajectories)
        self.n_wanted += len(runs) * step.frames_per_run
        self.n_cut += sum(t.cut for t in trajectories)
        self.stopped += [t.stopped for t in trajectories if t.stopped is not None]
        return [frame for trajectory in trajectories for frame in trajectory.frames]

    def _job(
        self,
        run: DrivenRun,
        potential: Potential,
        step: Driven,
        seed: tuple[int, ...],
        cost: int,
        share: float,
    ) -> Callable[[], Trajectory]:
        key = hash_json(
            [
                _FORMAT,
                step.model_dump(exclude=set(step.outside_key)),
                *run.about,
                list(seed),
                run.family,
                hash_structure(run.start),
                potential.name,
            ]
            # a teacher with other options or weights makes another trajectory
            + ([asdict(identity)] if (identity := getattr(potential, "identity", None)) else [])
        )

        def job() -> Trajectory:
            found = self.cache.get(key)
            if found is not None:
                self.counter.add(cost)
                return found
            before = self.counter.add
            taken = 0

            def on_step() -> None:
                nonlocal taken
                taken += 1
                before()

            rng = np.random.default_rng(list(seed))
            trajectory = run.make(rng, on_step, lambda: self.stop(share))
            self.cache.put(key, trajectory)
            self.counter.add(max(cost - taken, 0))
            return trajectory

        return job

    def _all(self, jobs: Sequence[Callable[[], Trajectory]], threads: int) -> list[Trajectory]:
        if threads <= 1:
            return [job() for job in jobs]
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                # Also on Ctrl-C: running trajectories end at their next step, waiting ones never begin.
                self.counter.stop = True
                pool.shutdown(cancel_futures=True)
                failed = [f.exception() for f in futures if f.done() and not f.cancelled()]
                causes = [e for e in failed if e is not None and not isinstance(e, _Stop)]
                if causes:
                    raise causes[0] from None
                raise


def _perturbed(parent: Atoms, step: _Copying, rng: np.random.Generator) -> list[tuple[str, list[Atoms]]]:
    """(label, copies) for each amplitude or mode."""
    if isinstance(step, Torsions):
        return [(f"{step.max_degrees:g}deg", torsion_copies(parent, step, rng))]
    if isinstance(step, Strain):
        return [(mode, [apply_strain(parent, e) for e in strains(step, mode, rng)]) for mode in step.modes]
    out = []
    for stdev in step.amplitudes:
        copies = []
        for _ in range(step.n):
            copy = parent.copy()
            copy.positions = rattle(parent, stdev, step, rng)
            copies.append(copy)
        out.append((f"{stdev:g}A", copies))
    return out


def _blocks(step: _Copying, n_incoming: int) -> int:
    """Families that the copies of one start make: enough to split, few enough to list."""
    return max(1, min(step.n, FAMILIES_PER_STEP // n_incoming))
