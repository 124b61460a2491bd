"""`limbeck learning-curve`: a preset on fewer labels, in less time and at other widths."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.core.devices import require_training
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_json
from limbeck.dataset.statistics import statistics
from limbeck.errors import InputError, LimbeckError
from limbeck.pipeline.curve_data import CurveData, default_labels, nested_order, subset
from limbeck.pipeline.limiting import Limit, find_limit
from limbeck.pipeline.students import train_student
from limbeck.pipeline.table import format_table
from limbeck.pipeline.telling import Say
from limbeck.progress import Progress, format_seconds, no_progress
from limbeck.runtime.student import Student
from limbeck.students.specification import PRESETS, check_preset, preset_architecture
from limbeck.training.loop import Stop
from limbeck.validation.run import validate

_SHARES = (1 / 9, 1 / 3, 1.0)  #: of the longest training, where no times are given
_OVERHEAD_S = 3.0  # of each point: preparing data, validating
_LEAST_S = 1.0
_BUSY = 2.0  #: between the rates of one preset; on a machine of one's own they differ by less than 1.2
_COLUMNS = (
    ("model", "preset", "{}"),
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
    """One training: so many labels, so many seconds, a preset."""

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

    Points stand in ``out`` by the hash of what they were made from: the same command goes on, in training
    too, and repeats nothing. Returns what ``--json`` writes, and ``PRESET.json`` in ``out``, which
    ``limbeck report`` shows.

    Raises
    ------
    InputError: numbers that make no sense.
    """
    require_training(data.settings.device)
    began = time.monotonic() if settings.began is None else settings.began
    deadline = began + settings.budget_s
    settings = _resolved(settings, data, deadline - time.monotonic(), out)
    points = plan_points(settings)
    order = nested_order(data.lesson.train, settings.seed)
    say(f"{len(points)} trainings of up to {format_seconds(points[0].seconds)}; {data.how}")
    made = _Made(data, settings, order, out, deadline, progress)
    rows = [made.row(point) for point in points]
    limit = judge_rows(settings.preset, rows)
    busy = busy_machine(rows)
    say(format_table([row | {"model": row["preset"]} for row in rows], _COLUMNS))
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


def busy_machine(rows: Sequence[dict[str, Any]]) -> str:
    """That something else took the cores from some of the trainings; empty where nothing tells.

    One preset goes through labels of one origin at one rate, so rates that differ tell of other work, and
    then equal times are no equal computation.
    """
    for preset in dict.fromkeys(row["preset"] for row in rows):
        own = [row for row in rows if row["preset"] == preset and row.get("trained_s")]
        rates = [row["epochs"] * row["labels"] / row["trained_s"] for row in own]
        if rates and max(rates) > _BUSY * min(rates):
            return (
                f"the machine was busy: {preset} trained on {min(rates):.3g} to {max(rates):.3g} labels/s, "
                "so equal times were not equal work, and the verdict is uncertain"
            )
    return ""


def shorter_than_run(preset: str, longest_s: float, trained_s: float | None) -> str:
    """That the run's own student trained longer than any of the curve; empty where it did not.

    A student that trained less is limited by time sooner, so the verdict is not that of the run's.
    """
    if trained_s is None or longest_s > 0.75 * trained_s:
        return ""
    return (
        f"the run's own {preset} trained {format_seconds(trained_s)}, these {format_seconds(longest_s)} at "
        f"most; what limits that one, a longer --budget or --times {trained_s / 9:.0f}s,{trained_s / 3:.0f}s,"
        f"{trained_s:.0f}s tells"
    )


def plan_points(settings: CurveSettings) -> list[Point]:
    """The student itself first, then every other point, those nearest to it before those further away."""
    assert settings.labels is not None
    assert settings.times is not None
    assert settings.widths is not None
    most, longest = max(settings.labels), max(settings.times)
    centre = Point(most, longest, settings.preset)
    fewer = [replace(centre, labels=n) for n in sorted(settings.labels, reverse=True) if n != most]
    shorter = [replace(centre, seconds=t) for t in sorted(settings.times, reverse=True) if t != longest]
    others = [replace(centre, preset=name) for name in settings.widths if name != settings.preset]
    size = {name: preset_architecture(name, (1,)).n_parameters for name in PRESETS}
    # a wider student tells of capacity, a narrower one only where there is no wider
    others.sort(key=lambda p: (size[p.preset] < size[settings.preset], abs(size[p.preset])))
    points = [centre]
    for k in range(max(len(fewer), len(shorter), len(others))):
        points += [series[k] for series in (fewer, shorter, others) if k < len(series)]
    return points


def judge_rows(preset: str, rows: Sequence[dict[str, Any]]) -> Limit:
    """What limits the student, from the points that were trained; the student's own is the first."""
    done = [row for row in rows if row["skipped"] is None]
    if not done or done[0] is not rows[0]:
        return find_limit(preset, 0.0, {})
    own = done[0]

    def curve(key: str, *same: str) -> list[tuple[float, float]]:
        return [
            (row[key], row["force_rmse_mev_per_a"]) for row in done if all(row[k] == own[k] for k in same)
        ]

    return find_limit(
        preset,
        own["force_rmse_mev_per_a"],
        {
            "labels": curve("labels", "seconds", "preset"),
            "time": curve("seconds", "labels", "preset"),
            "width": curve("parameters", "labels", "seconds"),
        },
    )


@dataclass(frozen=True)
class _Made:
    """Trainings that are done or to be done, in their folder.

    ``overheads``: seconds that each of this command took beyond its training time.
    """

    data: CurveData
    settings: CurveSettings
    order: Any
    out: Path
    deadline: float
    progress: Progress
    overheads: list[float] = field(default_factory=list)

    def row(self, point: Point) -> dict[str, Any]:
        """The figures of a point: kept, trained now, or why not."""
        architecture = preset_architecture(point.preset, tuple(map(int, self._elements())))
        head = {**asdict(point), "parameters": architecture.n_parameters, "skipped": None}
        folder = self.out / self._key(point)[:16]
        kept = _read_kept(folder / "point.json")
        if kept is not None:
            return head | kept
        began = time.monotonic()
        if self.deadline - began < point.seconds + max(self.overheads, default=0.0) - _LEAST_S:
            return head | {"skipped": f"no time left in {format_seconds(self.settings.budget_s)}"}
        try:
            figures = self._train(point, folder)
        except LimbeckError as error:
            return head | {"skipped": str(error)}
        self.overheads.append(time.monotonic() - began - point.seconds)
        write_whole(folder / "point.json", json.dumps(figures, indent=1))
        return head | figures

    def _train(self, point: Point, folder: Path) -> dict[str, Any]:
        lesson = subset(self.data.lesson, self.order, point.labels)
        record, trained = train_student(
            point.preset,
            lesson,
            self.data.settings,
            Stop(budget_s=point.seconds),
            folder,
            seed=self.settings.seed,
            progress=self._told(point),
        )
        report = validate(Student(record), self.data.test)
        return {
            **report.metrics["all"],
            "epochs": trained.progress.labels_seen / max(len(lesson.train), 1),
            "trained_s": round(trained.progress.spent_s, 2),
            "validation": trained.validation,
        }

    def _told(self, point: Point) -> Progress:
        def tell(task: str, done: int, total: int | None = None, text: str = "") -> None:
            self.progress(
                f"{point.preset}, {point.labels} labels, {format_seconds(point.seconds)}", done, total, text
            )

        return tell

    def _elements(self) -> list[int]:
        return sorted(set(self.data.lesson.train.structures.numbers.tolist()))

    def _key(self, point: Point) -> str:
        settings = self.data.settings.model_dump(exclude={"threads", "tensorboard", "checkpoint_s"})
        parts = (self.data.lesson.train, self.data.lesson.validation, self.data.test)
        return hash_json(
            {
                "point": asdict(point), "training": settings, "seed": self.settings.seed,
                "data": [statistics(part).content_hash for part in parts],
            }
        )  # fmt: skip


def _resolved(settings: CurveSettings, data: CurveData, left_s: float, out: Path) -> CurveSettings:
    """Every default filled in; InputError for what makes no sense.

    Times follow from the time left, which is another each time: those that the first command chose stand.
    """
    total = len(data.lesson.train)
    labels = tuple(sorted(set(settings.labels or default_labels(total))))
    if labels[0] < 2 or labels[-1] > total:
        raise InputError(
            "numbers of labels that there are not", where="--labels", got=list(labels),
            wanted=f"from 2 to {total}, what there is to train on",
        )  # fmt: skip
    check_preset(settings.preset)
    widths = settings.widths
    if widths is None:
        widths = tuple(name for name in PRESETS if name != settings.preset)
    for name in widths:
        check_preset(name)
    times = settings.times
    if times is None:
        asked = replace(settings, labels=labels, widths=widths, began=None)
        kept = out / f"times-{hash_json({'asked': asdict(asked), 'labels': total})[:16]}.json"
        others = len(set(labels)) - 1 + len(set(widths) - {settings.preset})
        n = 1 + others + len(_SHARES) - 1
        longest = (left_s - n * _OVERHEAD_S) / (others + sum(_SHARES))
        times = _read_times(kept) or tuple(round(max(s * longest, _LEAST_S), 1) for s in _SHARES)
        write_whole(kept, json.dumps(times))
    return replace(settings, labels=labels, widths=widths, times=tuple(sorted(set(times))))


def _read_times(path: Path) -> tuple[float, ...]:
    try:
        times = tuple(float(one) for one in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ()
    return times if all(0 < one < math.inf for one in times) else ()


def _read_kept(path: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept) if "force_rmse_mev_per_a" in kept else None
    except (OSError, ValueError, TypeError):
        return None  # trained again, which is always right
