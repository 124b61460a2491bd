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
from limbeck.sampling.config import MD, Rattle, SamplingConfig, Select, Strain, Supercell
from limbeck.sampling.dynamics import Trajectory, run_trajectory, trajectory_family
from limbeck.sampling.frames import make_frame
from limbeck.sampling.perturb import apply_strain, rattle, strains, supercell
from limbeck.sampling.selection import select_frames

_FORMAT = 1  # raised when the same configuration comes to mean other trajectories
_FAMILIES_PER_STEP = 10


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
    potentials: driver ("teacher", "scout") -> Potential; only those that an md step names. One under
        the name of a step goes before that of its driver.
    progress: told the time steps done.
    cache_dir: finished trajectories are kept there and not repeated.
    parallel: trajectories at a time, where the Potential's ``thread_safe`` is true.
    prefix: put before every family and mixed into the seeds, so that a held-out set shares
        neither with the training set ("heldout/").
    notes: a sentence for each trajectory that became unphysical and ended early is added, and one
        for all that ``stop`` ended.
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
    counter, cache = _Counter(progress, config, len(prepared)), TrajectoryCache(cache_dir)
    run = _Run(config, potentials, counter, cache, parallel, stop or (lambda share: False))
    run.salt = (zlib.crc32(prefix.encode()),) if prefix else ()
    made: dict[str, list[Atoms]] = {}
    for index, (name, step) in enumerate(zip(config.names, config.steps, strict=True)):
        if isinstance(step, Supercell):
            prepared = [supercell(a, step) for a in prepared]
            continue
        if isinstance(step, Select):
            made[step.of] = run.select(index, step, made)
            continue
        incoming = prepared if step.from_ is None else made[step.from_]
        if not incoming:
            made[name] = []
        elif isinstance(step, MD):
            made[name] = run.md(index, name, step, incoming)
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


def count_frames(config: SamplingConfig, n_starts: int) -> int:
    """Frames that :func:`run_sampling` returns from ``n_starts`` starts if no trajectory ends early."""
    made, prepared = _plan(config, n_starts)
    kept = [
        n for n, s in zip(config.names, config.steps, strict=True) if not isinstance(s, Supercell) and s.keep
    ]
    return sum(made[name] for name in kept) + (prepared if config.keep_starts or not kept else 0)


def count_evaluations(config: SamplingConfig, n_starts: int) -> int:
    """Evaluations of a Potential that the md steps take; labelling the frames is not among them."""
    made, prepared = _plan(config, n_starts)
    total = 0
    for step in config.steps:
        if isinstance(step, MD):
            incoming = prepared if step.from_ is None else made[step.from_]
            total += len(step.temperatures) * (step.starts or incoming) * (step.steps + 1) if incoming else 0
    return total


def _plan(config: SamplingConfig, n_starts: int) -> tuple[dict[str, int], int]:
    """Frames a step makes, by name, and the number of prepared starts."""
    prepared = n_starts if config.start_index is None else len(config.start_index)
    made: dict[str, int] = {}
    for name, step in zip(config.names, config.steps, strict=True):
        if isinstance(step, Supercell):
            continue
        if isinstance(step, Select):
            made[step.of] = step.count(made[step.of])
            continue
        incoming = prepared if step.from_ is None else made[step.from_]
        if isinstance(step, MD):
            made[name] = len(step.temperatures) * (step.starts or incoming) * step.frames if incoming else 0
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


class _Stop(Exception):
    """Ends the other trajectories once one has failed."""


class _Counter:
    """Time steps done by all threads together."""

    def __init__(self, progress: Progress, config: SamplingConfig, n_starts: int) -> None:
        whole = config.model_copy(update={"start_index": None})
        self.total = count_evaluations(whole, n_starts)
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

    def perturb(self, index: int, name: str, step: Rattle | Strain, incoming: Sequence[Atoms]) -> list[Atoms]:
        """Rattled or strained copies of each incoming frame."""
        frames: list[Atoms] = []
        for k, parent in enumerate(incoming):
            rng = np.random.default_rng([self.config.seed, index, k, *self.salt])
            for label, copies in _perturbed(parent, step, rng):
                for n, copy in enumerate(copies):
                    family = self._family(
                        step, name, label, parent, n * _blocks(step, len(incoming)) // step.n
                    )
                    frames.append(make_frame(copy, family, name))
        return frames

    def select(self, index: int, step: Select, made: Mapping[str, Sequence[Atoms]]) -> list[Atoms]:
        """The frames of ``step.of`` that are kept, in their order; earlier steps' frames are known."""
        frames = made[step.of]
        if not frames:
            return []
        names = zip(self.config.names, self.config.steps, strict=True)
        kept = [n for n, s in names if not isinstance(s, Supercell) and s.keep and n != step.of]
        known = [frame for name in kept for frame in made.get(name, ())]
        seed = int(np.random.default_rng([self.config.seed, index, *self.salt]).integers(2**31))
        chosen = select_frames(frames, step.count(len(frames)), step.method, seed=seed, known=known)
        return [frames[k] for k in sorted(chosen.tolist())]

    @staticmethod
    def _family(step: Rattle | Strain, name: str, label: str, parent: Atoms, block: int) -> str:
        """Draws from a start are independent, so they make families of their own in blocks; copies
        of sampled frames stay with the frame that they resemble."""
        return parent.info["family"] if step.from_ else f"{parent.info['family']}/{name}-{label}-b{block}"

    def md(self, index: int, name: str, step: MD, incoming: Sequence[Atoms]) -> list[Atoms]:
        """Trajectories of every temperature and start, several at a time where the Potential can."""
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
        jobs: list[Callable[[], Trajectory]] = []
        count = step.starts or len(incoming)
        n_jobs = len(step.temperatures) * count
        threads = min(self.parallel, n_jobs) if getattr(potential, "thread_safe", False) else 1
        for t, temperature in enumerate(step.temperatures):
            for k in range(count):
                start = incoming[_spread(k, count, len(incoming), t / len(step.temperatures))]
                seed = (self.config.seed, index, k, t, *self.salt)
                family = trajectory_family(start.info["family"], name, step, temperature, k)
                # those that run side by side end together
                ended = min(n_jobs, (len(jobs) // threads + 1) * threads)
                share = (self.evaluations + ended * (step.steps + 1)) / max(self.counter.total, 1)
                jobs.append(self._job(start, potential, step, temperature, seed, family, share))
        trajectories = self._all(jobs, threads)
        self.evaluations += n_jobs * (step.steps + 1)
        self.n_trajectories += n_jobs
        self.n_reached += sum(len(t.frames) for t in trajectories)
        self.n_wanted += n_jobs * step.frames
        self.n_cut += sum(t.cut for t in trajectories)
        self.stopped += [t.stopped for t in trajectories if t.stopped is not None]
        return [frame for trajectory in trajectories for frame in trajectory.frames]

    def _job(
        self,
        start: Atoms,
        potential: Potential,
        step: MD,
        temperature: float,
        seed: tuple[int, ...],
        family: str,
        share: float,
    ) -> Callable[[], Trajectory]:
        ignored = {"temperature_K", "starts", "from_", "keep", "driver"}  # of no effect on one trajectory
        key = hash_json(
            [
                _FORMAT,
                step.model_dump(exclude=ignored),
                temperature,
                list(seed),
                family,
                hash_structure(start),
            ]
            + [potential.name]
            # a teacher with other options or weights makes another trajectory
            + ([asdict(identity)] if (identity := getattr(potential, "identity", None)) else [])
        )

        def job() -> Trajectory:
            found = self.cache.get(key)
            if found is not None:
                self.counter.add(step.steps + 1)
                return found
            before = self.counter.add
            taken = 0

            def on_step() -> None:
                nonlocal taken
                taken += 1
                before()

            rng = np.random.default_rng(list(seed))
            trajectory = run_trajectory(
                start, potential, step, temperature, rng, family, on_step, lambda: self.stop(share)
            )
            self.cache.put(key, trajectory)
            self.counter.add(step.steps + 1 - taken)
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


def _perturbed(
    parent: Atoms, step: Rattle | Strain, rng: np.random.Generator
) -> list[tuple[str, list[Atoms]]]:
    """(label, copies) for each amplitude or mode."""
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


def _blocks(step: Rattle | Strain, n_incoming: int) -> int:
    """Families that the copies of one start make: enough to split, few enough to list."""
    return max(1, min(step.n, _FAMILIES_PER_STEP // n_incoming))


def _spread(k: int, wanted: int, available: int, shift: float) -> int:
    """Which incoming frame trajectory ``k`` starts from.

    Evenly spread, moved by the part ``shift`` of their distance so that temperatures start from
    different frames; used again when too few.
    """
    return int((k + shift) * available / wanted) if wanted <= available else k % available
