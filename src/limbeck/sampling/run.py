"""Sampling: starting structures go through the steps of a configuration."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from limbeck.core.checks import check_structures
from limbeck.core.frames import Trajectory, TrajectoryCache, make_frame
from limbeck.core.hashing import hash_json, hash_structure
from limbeck.core.potential import Potential
from limbeck.errors import InputError, LimbeckError
from limbeck.progress import Progress, no_progress
from limbeck.sampling.config import SamplingConfig, choose_starts, count_evaluations
from limbeck.sampling.preparing import Relax, relax
from limbeck.sampling.schedule import Effort, Schedule, TimeLimit, Turn, even_order
from limbeck.sampling.steps import Drawn, Driven, Preparing, Run

_FORMAT = 1  # raised when the same configuration comes to mean other trajectories
_LATE = 1.25  # evaluations that took longer than this multiple of what was planned are remarked on


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
    limit: TimeLimit | None = None,
) -> list[Atoms]:
    """Frames sampled from ``starts``, each with ``group``, ``step`` and ``temperature_K`` in ``info``.

    Parameters
    ----------
    starts: starting structures; their ``info["group"]`` names them.
    potentials: driver ("teacher", "student") -> Potential; only those that a step names. One under
        the name of a step goes before that of its driver.
    progress: told the time steps done.
    cache_dir: finished trajectories are kept there and not repeated.
    parallel: trajectories at a time, where the Potential's ``thread_safe`` is true.
    prefix: put before every group and mixed into the seeds, so that a test set shares
        neither with the training set ("test/").
    notes: a sentence for each trajectory that became unphysical and ended early is added, one for a
        step of which ``limit`` allowed only a part, and what a step could not make of a start.
    limit: each step gets its share of the time by the evaluations that are still to be made, and makes
        as many whole trajectories as that allows at the rate measured at the time, each temperature its
        share of them (see :class:`limbeck.sampling.schedule.Schedule`). What is left out is kept in the
        cache as well, so that called again it gives the same frames.

    Returns
    -------
    Frames in the order of the steps; the same for the same starts, configuration and prefix,
    whatever ``parallel`` and the cache, where no ``limit`` acts.

    Raises
    ------
    InputError: a start that cannot be used, a step that does not fit it, a driver that is missing.
    NoFrames: no frame came of it.
    """
    chosen = choose_starts(starts, config)
    check_structures(chosen, "starting structures")
    prepared = [make_frame(a, prefix + a.info.get("group", f"start#{k}")) for k, a in enumerate(chosen)]
    total = count_evaluations(config.model_copy(update={"start_index": None}), prepared)
    salt = (zlib.crc32(prefix.encode()),) if prefix else ()
    sampling = _Sampling(
        config, potentials, progress, TrajectoryCache(cache_dir), parallel, limit, salt, total
    )
    prepared, made = sampling.all_steps(prepared)
    if notes is not None:
        short = [f"{prefix.rstrip('/')} {text}".strip() for text in sampling.short]
        notes.extend(sampling.unrelaxed + sampling.stopped + short)
    frames = [frame for name in config.kept_steps for frame in made[name]]
    if config.keep_starts or not config.kept_steps:
        frames = prepared + frames
    if not frames:
        raise NoFrames(
            "sampling gave no frames",
            where="sampling",
            got=sampling.stopped[0] if sampling.stopped else "no step that keeps frames",
            remedy="start from relaxed structures, or lower temperature_K or timestep_fs",
        )
    return frames


class _Stop(Exception):
    """Ends the other trajectories once one has failed."""


@dataclass(frozen=True)
class _Task:
    """A run: the key of its cache, what it takes, and how it is made."""

    key: str
    effort: Effort
    work: Callable[..., Trajectory]


@dataclass
class _Sampling:
    """One call of run_sampling: what its steps share. ``total``: evaluations of all steps, at most."""

    config: SamplingConfig
    potentials: Mapping[str, Potential]
    progress: Progress
    cache: TrajectoryCache
    parallel: int
    limit: TimeLimit | None
    salt: tuple[int, ...]
    total: int

    def __post_init__(self) -> None:
        self.stopped: list[str] = []
        self.unrelaxed: list[str] = []
        self.short: list[str] = []
        self.evaluations = self.owed = 0  # of the steps so far: at most, and frames still to be labelled
        self.done, self.failed = 0, False
        self._lock = threading.Lock()

    def all_steps(self, prepared: list[Atoms]) -> tuple[list[Atoms], dict[str, list[Atoms]]]:
        """The starts as the steps that prepare leave them, and the frames of each other step by its name."""
        made: dict[str, list[Atoms]] = {}
        for index, (name, step) in enumerate(zip(self.config.names, self.config.steps, strict=True)):
            if isinstance(step, Relax):
                prepared = self._relax(name, step, prepared)
            elif isinstance(step, Preparing):
                prepared = step.build(prepared, (self.config.seed, index))
            else:
                incoming = prepared if step.from_ is None else made[step.from_]
                made[name] = self._frames(index, step.model_copy(update={"name": name}), incoming)
        return prepared, made

    def _frames(self, index: int, step: Drawn | Driven, incoming: Sequence[Atoms]) -> list[Atoms]:
        if not incoming:
            return []
        if isinstance(step, Driven):
            return self._driven(index, step, incoming)
        seed, salt = self.config.seed, self.salt
        frames, notes = step.frames(incoming, lambda k: np.random.default_rng([seed, index, k, *salt]))
        self.stopped += notes
        return frames

    def _relax(self, name: str, step: Relax, starts: Sequence[Atoms]) -> list[Atoms]:
        """Each start relaxed by the teacher, several at a time where it can."""
        potential = self._potential(name, "teacher")
        tasks = []
        for k, start in enumerate(starts):
            key = _key(potential, step.model_dump(), hash_structure(start))
            tasks.append(_Task(key, Effort(step.steps + 1, 0, k), partial(relax, start, potential, step)))
        relaxed, _ = self._made(tasks, range(len(tasks)), potential, needed=True)
        self.unrelaxed += [r.stopped for r in relaxed if r.stopped is not None]
        return [make_frame(r.frames[0], a.info["group"], name) for r, a in zip(relaxed, starts, strict=True)]

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

    def _driven(self, index: int, step: Driven, incoming: Sequence[Atoms]) -> list[Atoms]:
        """The runs of a step that a Potential makes, several at a time where the Potential can."""
        potential = self._potential(step.title, step.driver)
        runs = step.runs(incoming, potential)
        tasks = [self._task(index, run, step, potential) for run in runs]
        order = even_order([run.condition for run in runs], [id(run.start) for run in runs])
        trajectories, seconds = self._made(tasks, order, potential)
        self.stopped += [t.stopped for t in trajectories if t.stopped is not None]
        self._tell_short(step, trajectories, seconds)
        return [frame for trajectory in trajectories for frame in trajectory.frames]

    def _tell_short(self, step: Driven, made: Sequence[Trajectory], seconds: float | None) -> None:
        """What time did not allow; ``seconds``: what an evaluation took."""
        cut, run = sum(t.cut for t in made), sum(not t.left_out for t in made)
        if not cut and run == len(made):
            return
        whole = f"{run - cut or 'none'} of them whole" if cut else "all whole"
        frames = f"{sum(len(t.frames) for t in made)} of {len(made) * step.size(1).frames} frames"
        time = f"there was time for {run} of {len(made)} {step.runs_are}, {whole}: {frames}"
        self.short.append(f"{step.title}: {time}")
        planned = self.limit.planned_s.get(step.driver) if self.limit is not None else None
        if planned is not None and seconds is not None and seconds > _LATE * planned:
            took = f"took {seconds:.2g} s, {seconds / planned:.1f} times as long as planned"
            self.short.append(f"{step.title}: an evaluation of the {step.driver} {took}")

    def _task(self, index: int, run: Run, step: Driven, potential: Potential) -> _Task:
        seed = [self.config.seed, index, *run.numbers, *self.salt]
        fields = step.model_dump(exclude=set(step.outside_key))
        key = _key(potential, fields, *run.about, seed, run.group, hash_structure(run.start))
        frames, evaluations, first = step.size(len(run.start))
        labels = frames if step.keep and self.limit is not None and self.limit.labels else 0
        effort = Effort(evaluations, first, run.condition, labels)
        return _Task(key, effort, lambda **told: run.make(np.random.default_rng(seed), **told))

    def _made(
        self, tasks: Sequence[_Task], order: Sequence[int], potential: Potential, *, needed: bool = False
    ) -> tuple[list[Trajectory], float | None]:
        """What the cache has of ``tasks``, and of the others those that time allows, in ``order``.

        And the seconds that an evaluation took, where any was made.
        """
        made = {k: found for k, task in enumerate(tasks) if (found := self.cache.get(task.key)) is not None}
        efforts = [task.effort for task in tasks]
        self._count(sum(efforts[k].evaluations for k in made))
        todo = [k for k in order if k not in made]
        threads = min(self.parallel, len(tasks)) if getattr(potential, "thread_safe", False) else 1
        covered = frozenset(efforts[k].group for k, found in made.items() if found.frames)
        owed = self.owed + sum(efforts[k].labels for k in made)
        schedule = Schedule(efforts, todo, threads, self._left(efforts, todo), covered, owed, needed)

        def work() -> None:
            while (turn := schedule.take()) is not None:
                try:
                    made[turn.index] = self._run_one(tasks[turn.index], turn)
                except BaseException:
                    # Also on Ctrl-C: running trajectories end at their next step, waiting ones never begin.
                    self.failed = True
                    schedule.give_up()
                    raise
                finally:
                    schedule.finish(turn)

        self._in_threads(work, min(threads, len(todo)))
        for k in todo:
            if k not in made:
                made[k] = Trajectory([], left_out=True)
                self.cache.put(tasks[k].key, made[k])
                self._count(efforts[k].evaluations)
        self.evaluations += sum(effort.evaluations for effort in efforts)
        self.owed = round(schedule.owed)
        seconds = schedule.spent_s / schedule.evaluations if schedule.evaluations else None
        return [made[k] for k in range(len(tasks))], seconds

    def _left(self, efforts: Sequence[Effort], todo: Sequence[int]) -> Callable[[], float] | None:
        """Seconds left to a step: of what is left now, its share by the evaluations still to be made."""
        if self.limit is None:
            return None
        left_s = self.limit.left_s
        own = sum(efforts[k].evaluations for k in todo)
        later = max(self.total - self.evaluations - sum(e.evaluations for e in efforts), 0)
        kept_s = left_s() * later / max(own + later, 1)
        return lambda: left_s() - kept_s

    def _run_one(self, task: _Task, turn: Turn) -> Trajectory:
        def on_step() -> None:
            turn.tick()
            self._count()

        trajectory = task.work(on_step=on_step, stop=turn.over)
        self.cache.put(task.key, trajectory)
        self._count(max(task.effort.evaluations - turn.taken, 0))
        return trajectory

    def _count(self, evaluations: int = 1) -> None:
        """Evaluations done by all threads together."""
        if self.failed:
            raise _Stop
        with self._lock:
            self.done += evaluations
            self.progress("sampling", min(self.done, self.total), self.total)

    def _in_threads(self, work: Callable[[], None], threads: int) -> None:
        if threads <= 1:
            work()
            return
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(work) for _ in range(threads)]
            try:
                wait(futures)
            except BaseException:  # Ctrl-C comes here
                self.failed = True
                raise
        causes = [error for future in futures if (error := future.exception()) is not None]
        if causes:
            raise min(causes, key=lambda error: isinstance(error, _Stop))


def _key(potential: Potential, *parts: object) -> str:
    """What a run depends on, as a hash; a teacher with other options or weights makes another one."""
    identity = getattr(potential, "identity", None)
    return hash_json([_FORMAT, *parts, potential.name, *([asdict(identity)] if identity else [])])
