"""`limbeck learning-curve`: a preset on fewer labels, in less time and at other widths."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.core.devices import require_training
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_json
from limbeck.core.labels import LabelledSet
from limbeck.dataset.statistics import content_hash
from limbeck.errors import InputError, LimbeckError
from limbeck.planning.limit import RESOURCES, Limit, find_limit
from limbeck.progress import Progress, Say, format_seconds, no_progress
from limbeck.report.speed_figures import CURVES, curve_points, trained_points
from limbeck.runtime.student import Student
from limbeck.students.specification import PRESETS, check_preset, preset_architecture
from limbeck.training.loop import Stop
from limbeck.validation.run import validate
from limbeck.workflows.curve_data import CurveData, nested_order, subset
from limbeck.workflows.students import train_student
from limbeck.workflows.table import format_table

_SHARES = (1 / 9, 1 / 3, 1.0)  #: of the longest training, where no times are given
_OVERHEAD_S = 3.0  # of each point: preparing data, validating
_LEAST_S = 1.0
_BUSY = 2.0  #: between the rates of one preset; on a machine of one's own they differ by less than 1.2
_COLUMNS = (
    ("preset", "preset", "{}"),
    ("labels", "labels", "{:,}"),
    ("seconds", "time, s", "{:.0f}"),
    ("parameters", "parameters", "{:,}"),
    ("epochs", "epochs", "{:.1f}"),
    ("force_rmse_mev_per_a", "F RMSE, meV/Å", "{:.1f}"),
    ("energy_mae_mev_per_atom", "E MAE, meV/atom", "{:.2f}"),
    ("skipped", "not done", "{}"),
)


@dataclass(frozen=True)
class Point:
    """One training: number of labels, seconds, preset."""

    labels: int
    seconds: float
    preset: str


@dataclass(frozen=True)
class CurveSettings:
    """What is varied.

    Attributes
    ----------
    preset: the student in question. labels, times (s): None takes shares of what there is.
    widths: other presets; None takes all others.
    budget_s: seconds for everything, from ``began`` (``time.monotonic()``); points that do not fit are
        left out, the ones furthest from the student first.
    """

    preset: str
    labels: tuple[int, ...] | None = None
    times: tuple[float, ...] | None = None
    widths: tuple[str, ...] | None = None
    budget_s: float = 1200.0
    began: float | None = None
    seed: int = 0


def learning_curve(
    data: CurveData,
    settings: CurveSettings,
    out: Path,
    *,
    progress: Progress = no_progress,
    say: Say = print,
) -> dict[str, Any]:
    """Train every point, measure its test error, and say what limits the student.

    Points stand in ``out`` by the hash of what they were made from: the same command resumes, in training
    too, and repeats nothing. Returns what ``--json`` writes, and ``PRESET.json`` in ``out``, which
    ``limbeck report`` shows.

    Raises
    ------
    InputError: numbers that make no sense.
    """
    require_training(data.settings.device)
    deadline = (time.monotonic() if settings.began is None else settings.began) + settings.budget_s
    settings = _resolved(settings, data, deadline - time.monotonic(), out)
    points = plan_points(settings)
    say(f"{len(points)} trainings of up to {format_seconds(points[0].seconds)}; {data.how}")
    rows = _train_points(points, data, settings, out, deadline, progress)
    limit, busy = limit_of(settings.preset, rows), busy_machine(rows)
    say(format_table(rows, _COLUMNS))
    say(f"(errors on {len(data.test)} test structures)")
    say(limit.text)
    if busy:
        say(f"note: {busy}; remedy: remove {out} and run the command again when nothing else works")
    own_s = data.trained_s.get(settings.preset)
    if text := shorter_than_run(settings.preset, points[0].seconds, own_s):
        say(f"note: {text}")
    found = {
        "preset": settings.preset,
        **limit.to_dict(),
        "test_structures": len(data.test),
        "how": data.how,
        "trained_in_run_s": own_s,
        "busy": busy,
        "settings": {k: v for k, v in asdict(settings).items() if k != "began"},
        "points": rows,
    }
    write_whole(out / f"{settings.preset}.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def plan_points(settings: CurveSettings) -> list[Point]:
    """The student itself first, then every other point, those nearest to it before those further away."""
    labels, times = sorted(settings.labels or (), reverse=True), sorted(settings.times or (), reverse=True)
    centre = Point(labels[0], times[0], settings.preset)
    size = {name: preset_architecture(name, (1,)).n_parameters for name in PRESETS}
    # a wider student tells of capacity, a narrower one only where there is no wider
    widths = sorted(
        set(settings.widths or ()) - {settings.preset},
        key=lambda name: (size[name] < size[settings.preset], size[name]),
    )
    varied = (
        [replace(centre, labels=n) for n in labels[1:]],
        [replace(centre, seconds=t) for t in times[1:]],
        [replace(centre, preset=name) for name in widths],
    )
    return [
        centre,
        *(points[k] for k in range(max(map(len, varied))) for points in varied if k < len(points)),
    ]


def limit_of(preset: str, rows: Sequence[dict[str, Any]]) -> Limit:
    """What limits the student, from the points that were trained; the student's own is the first."""
    done = trained_points({"points": rows})
    curves = {
        name: sorted((row[key], row["force_rmse_mev_per_a"]) for row in curve_points(done, same))
        for name, (key, _, _, same) in zip(RESOURCES, CURVES, strict=True)
    }
    return find_limit(preset, done[0]["force_rmse_mev_per_a"] if done else 0.0, curves)


def busy_machine(rows: Sequence[dict[str, Any]]) -> str:
    """That something else took the cores from some of the trainings; empty where nothing tells.

    One preset goes through labels of one origin at one rate, so rates that differ tell of other work, and
    then equal times are no equal computation.
    """
    rates: dict[str, list[float]] = {}
    for row in rows:
        if row.get("trained_s"):
            rates.setdefault(row["preset"], []).append(row["epochs"] * row["labels"] / row["trained_s"])
    for preset, own in rates.items():
        if max(own) > _BUSY * min(own):
            return (
                f"the machine was busy: {preset} trained on {min(own):.3g} to {max(own):.3g} labels/s, "
                "so equal times were not equal work, and the verdict is uncertain"
            )
    return ""


def shorter_than_run(preset: str, longest_s: float, trained_s: float | None) -> str:
    """That the run's own student trained longer than any of the curve; empty where it did not.

    A student that trained less is limited by time sooner, so the verdict is not that of the run's.
    """
    if trained_s is None or longest_s > 0.75 * trained_s:
        return ""
    times = ",".join(f"{share * trained_s:.0f}s" for share in _SHARES)
    return (
        f"the run's own {preset} trained {format_seconds(trained_s)}, these {format_seconds(longest_s)} at "
        f"most; what limits that one, a longer --budget or --times {times} tells"
    )


def _train_points(
    points: Sequence[Point], data: CurveData, settings: CurveSettings, out: Path, deadline: float,
    progress: Progress,
) -> list[dict[str, Any]]:  # fmt: skip
    """The values of each point: kept, trained now, or why not."""
    sets = data.sets
    order = nested_order(sets.train, settings.seed)
    elements = tuple(np.unique(sets.train.structures.numbers).tolist())
    training = data.settings.model_dump(exclude={"threads", "tensorboard", "checkpoint_s"})
    hashes = [content_hash(part) for part in (sets.train, sets.validation, data.test)]
    overheads: list[float] = []  # seconds that a point took beyond its training time
    rows = []
    for point in points:
        key = {"point": asdict(point), "training": training, "seed": settings.seed, "data": hashes}
        folder = out / hash_json(key)[:16]
        found, began = _read_json(folder / "point.json"), time.monotonic()
        needed = point.seconds + max(overheads, default=0.0) - _LEAST_S
        if not isinstance(found, dict) or "force_rmse_mev_per_a" not in found:
            found = {"skipped": f"no time left in {format_seconds(settings.budget_s)}"}
            if deadline - began >= needed:
                try:
                    labels = subset(sets.train, order[: point.labels])
                    found = _train(point, data, labels, settings.seed, folder, progress)
                    overheads.append(time.monotonic() - began - point.seconds)
                    write_whole(folder / "point.json", json.dumps(found, indent=1))
                except LimbeckError as error:
                    found = {"skipped": str(error)}
        parameters = preset_architecture(point.preset, elements).n_parameters
        rows.append({**asdict(point), "parameters": parameters, "skipped": None} | found)
    return rows


def _train(
    point: Point, data: CurveData, labels: LabelledSet, seed: int, folder: Path, progress: Progress
) -> dict[str, Any]:
    title = f"{point.preset}, {point.labels} labels, {format_seconds(point.seconds)}"

    def show(task: str, done: int, total: int | None = None, text: str = "") -> None:
        progress(title, done, total, text)

    record, trained = train_student(
        point.preset, replace(data.sets, train=labels), data.settings, Stop(budget_s=point.seconds), folder,
        seed=seed, progress=show,
    )  # fmt: skip
    return {
        **validate(Student(record), data.test).metrics["all"],
        "epochs": trained.progress.labels_seen / len(labels),
        "trained_s": round(trained.progress.spent_s, 2),
        "validation": trained.validation,
    }


def _resolved(settings: CurveSettings, data: CurveData, left_s: float, out: Path) -> CurveSettings:
    """Every default filled in; InputError for what makes no sense.

    Times follow from the time left, which is another each time: those that the first command chose stand.
    """
    total = len(data.sets.train)
    labels = settings.labels or (total, *(max(5, total // part) for part in (2, 4, 8)))
    labels = tuple(sorted(set(labels)))
    if labels[0] < 2 or labels[-1] > total:
        wanted = f"from 2 to {total}, what there is to train on"
        raise InputError(
            "numbers of labels that there are not", where="--labels", got=list(labels), wanted=wanted
        )
    others = tuple(name for name in PRESETS if name != settings.preset)
    settings = replace(settings, labels=labels, widths=others if settings.widths is None else settings.widths)
    for name in (settings.preset, *(settings.widths or ())):
        check_preset(name)
    times = settings.times
    if times is None:
        asked = asdict(replace(settings, began=None))
        kept = out / f"times-{hash_json({'asked': asked, 'labels': total})[:16]}.json"
        longer = len(plan_points(replace(settings, times=(1.0,))))  # trainings of the longest time
        free_s = left_s - (longer + len(_SHARES) - 1) * _OVERHEAD_S
        longest = free_s / (longer - 1 + sum(_SHARES))
        times = _read_json(kept) or tuple(round(max(s * longest, _LEAST_S), 1) for s in _SHARES)
        write_whole(kept, json.dumps(times))
    return replace(settings, times=tuple(sorted(set(times))))


def _read_json(path: Path) -> Any:
    """What an earlier command left; None, and so made again, where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
