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
from limbeck.sampling.build import build
from limbeck.sampling.cache import TrajectoryCache
from limbeck.sampling.config import SamplingConfig, Select
from limbeck.sampling.contacts import scan_contacts
from limbeck.sampling.copies import Copying, copy_family, perturbed
from limbeck.sampling.counting import choose_starts, count_evaluations, kept_steps
from limbeck.sampling.driven import DrivenRun, runs_of
from limbeck.sampling.dynamics import Trajectory
from limbeck.sampling.frames import make_frame
from limbeck.sampling.moves import Contacts
from limbeck.sampling.preparing import Preparing, Relax
from limbeck.sampling.relax import relax, relax_key
from limbeck.sampling.selection import select_frames
from limbeck.sampling.step import Driven

_FORMAT = 1  # raised when the same configuration comes to mean other trajectories


class NoFrames(LimbeckError):
    """Every run of a sampling was unphysical before its first frame."""


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
    NoFrames: no frame came of it.
    """
    chosen = choose_starts(starts, config)
    check_structures(chosen, "starting structures")
    prepared = [make_frame(a, prefix + a.info.get("family", f"start#{k}")) for k, a in enumerate(chosen)]
    counter, cache = _Counter(progress, config, prepared), TrajectoryCache(cache_dir)
    run = _Run(config, potentials, counter, cache, parallel, stop or (lambda share: False))
    run.salt = (zlib.crc32(prefix.encode()),) if prefix else ()
    prepared, made = run.all_steps(prepared)
    if notes is not None:
        notes.extend(run.notes(prefix))
    kept = kept_steps(config)
    frames = [frame for name in kept for frame in made[name]]
    if config.keep_starts or not kept:
        frames = prepared + frames
    if not frames:
        raise NoFrames(
            "sampling gave no frames",
            where="sampling",
            got=run.stopped[0] if run.stopped else "no step that keeps frames",
            remedy="start from relaxed structures, or lower temperature_K or timestep_fs",
        )
    return frames


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
        self.unrelaxed: list[str] = []
        self.n_cut = self.n_trajectories = self.n_reached = self.n_wanted = self.evaluations = 0

    def all_steps(self, prepared: list[Atoms]) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
        """The starts as the steps that prepare leave them, and the frames of each other step by its name."""
        made: dict[str, list[Atoms]] = {}
        for index, (name, step) in enumerate(zip(self.config.names, self.config.steps, strict=True)):
            if isinstance(step, Preparing):
                prepared = build(step, prepared, (self.config.seed, index))
                if isinstance(step, Relax):
                    prepared = self.relax(name, step, prepared)
            elif isinstance(step, Select):
                made[step.of] = self.select(index, step, made)
            else:
                incoming = prepared if step.from_ is None else made[step.from_]
                made[name] = self._frames(index, name, step, incoming) if incoming else []
        return prepared, made

    def _frames(
        self, index: int, name: str, step: Driven | Contacts | Copying, incoming: Sequence[Atoms]
    ) -> list[Atoms]:
        if isinstance(step, Driven):
            return self.driven(index, name, step, incoming)
        if isinstance(step, Contacts):
            frames, said = scan_contacts(incoming, step, name)
            self.stopped += said
            return frames
        return self.perturb(index, name, step, incoming)

    def notes(self, prefix: str) -> list[str]:
        """What became of runs that ended early, a sentence each."""
        cut = []
        if self.n_cut:
            what = f"{prefix.rstrip('/')} dynamics".strip()
            cut.append(
                f"{what}: {self.n_cut} of {self.n_trajectories} trajectories ended when their time was up; "
                f"{self.n_reached} of {self.n_wanted} frames were reached"
            )
        return self.unrelaxed + self.stopped + cut

    def relax(self, name: str, step: Relax, starts: Sequence[Atoms]) -> list[Atoms]:
        """Each start relaxed by the teacher, several at a time where it can."""
        potential = self._potential(name, "teacher")
        threads = self._threads(potential, len(starts))
        jobs: list[Callable[[], Trajectory]] = []
        for start in starts:
            ended = min(len(starts), (len(jobs) // threads + 1) * threads)
            share = (self.evaluations + ended * (step.steps + 1)) / max(self.counter.total, 1)
            jobs.append(self._relaxing(start, potential, step, share))
        relaxed = self._all(jobs, threads)
        self.evaluations += step.evaluations(len(starts))
        self.unrelaxed += [r.stopped for r in relaxed if r.stopped is not None]
        return [
            make_frame(r.frames[0], start.info["family"], name)
            for r, start in zip(relaxed, starts, strict=True)
        ]

    def select(self, index: int, step: Select, made: Mapping[str, Sequence[Atoms]]) -> list[Atoms]:
        """The frames of ``step.of`` that are kept, in their order; earlier steps' frames are known."""
        frames = made[step.of]
        if not frames:
            return []
        known = [frame for name in kept_steps(self.config) if name != step.of for frame in made.get(name, ())]
        seed = int(np.random.default_rng([self.config.seed, index, *self.salt]).integers(2**31))
        chosen = select_frames(frames, step.count(len(frames)), step.method, seed=seed, known=known)
        return [frames[k] for k in sorted(chosen.tolist())]

    def _relaxing(
        self, start: Atoms, potential: Potential, step: Relax, share: float
    ) -> Callable[[], Trajectory]:
        def work(on_step: Callable[[], None]) -> Trajectory:
            return relax(start, potential, step, on_step, lambda: self.stop(share))

        return self._once(relax_key(start, potential, step), step.steps + 1, work)

    def _potential(self, name: str, driver: str) -> Potential:
        potential = self.potentials.get(name) or self.potentials.get(driver)
        if potential is None:
            raise InputError(
                "no Potential for the driver of a step",
                where=f"step {name}",
                got=f"driver {driver}",
                wanted=f"one of: {', '.join(self.potentials) or 'none given'}",
                remedy="give a teacher",
            )
        return potential

    def _threads(self, potential: Potential, n_jobs: int) -> int:
        return min(self.parallel, n_jobs) if getattr(potential, "thread_safe", False) else 1

    def perturb(self, index: int, name: str, step: Copying, incoming: Sequence[Atoms]) -> list[Atoms]:
        """Rattled, strained or turned copies of each incoming frame."""
        frames: list[Atoms] = []
        for k, parent in enumerate(incoming):
            rng = np.random.default_rng([self.config.seed, index, k, *self.salt])
            for label, copies in perturbed(parent, step, rng):
                if not copies:
                    self.stopped.append(f"{name}: {parent.info['family']} has no rotatable bond")
                for n, copy in enumerate(copies):
                    family = copy_family(step, name, label, parent, n, len(incoming))
                    frames.append(make_frame(copy, family, name))
        return frames

    def driven(self, index: int, name: str, step: Driven, incoming: Sequence[Atoms]) -> list[Atoms]:
        """The runs of a step that a Potential makes, several at a time where the Potential can."""
        potential = self._potential(name, step.driver)
        step = step.model_copy(update={"name": name})
        runs = runs_of(name, step, incoming, potential)
        threads = self._threads(potential, len(runs))
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

        def work(on_step: Callable[[], None]) -> Trajectory:
            return run.make(np.random.default_rng(list(seed)), on_step, lambda: self.stop(share))

        return self._once(key, cost, work)

    def _once(
        self, key: str, evaluations: int, work: Callable[[Callable[[], None]], Trajectory]
    ) -> Callable[[], Trajectory]:
        """``work`` as a job that the cache answers for where it can; it calls back at each evaluation."""

        def job() -> Trajectory:
            found = self.cache.get(key)
            if found is not None:
                self.counter.add(evaluations)
                return found
            taken = 0

            def on_step() -> None:
                nonlocal taken
                taken += 1
                self.counter.add()

            trajectory = work(on_step)
            self.cache.put(key, trajectory)
            self.counter.add(max(evaluations - taken, 0))
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
