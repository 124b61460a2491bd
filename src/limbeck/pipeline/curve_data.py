"""Labels for learning curves: a run's or one's own, a test set apart, and nested subsets."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import LabelKeys
from limbeck.config.documents import Document, read_document, validate_document
from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.dataset.read import read_labelled, split_isolated_atoms
from limbeck.dataset.split import split
from limbeck.errors import InputError
from limbeck.pipeline.lessons import Lesson, audited
from limbeck.pipeline.telling import Say
from limbeck.pipeline.training_data import without_test
from limbeck.report.reading import as_dict, figures
from limbeck.training.config import TrainingConfig

_FRACTION = 0.2


@dataclass(frozen=True)
class CurveData:
    """What curves are made of.

    Attributes
    ----------
    lesson: all labels to train on, and what chooses the best weights.
    test: what errors are measured on; no group of it trains or validates.
    settings: how the run trained, or the defaults. how: where the parts come from.
    trained_s: seconds that the run's own students trained, by preset; empty without a run.
    """

    lesson: Lesson
    test: LabelledSet
    settings: TrainingConfig
    how: str
    trained_s: dict[str, float] = field(default_factory=dict)


def read_curve_data(path: Path, keys: LabelKeys, seed: int, say: Say) -> CurveData:
    """A run folder with its labels, test and validation sets; or labels, cut by groups.

    Raises
    ------
    InputError: unreadable, no run, a run without labels, or too few labels.
    """
    if (path / "config.yaml").is_file():
        return _of_run(path, say)
    if path.is_dir() and not any(path.glob("shard-*.lbk")):
        raise InputError(
            "neither a run nor a label store", where=path, wanted="a folder of limbeck distill, or labels"
        )
    labelled, references = _read(path, say, **keys.model_dump())
    parts = split(labelled, _FRACTION, seed)
    rest, test = parts.parts(labelled)
    rest = without_test(rest, test, say)
    inner = split(rest, _FRACTION, seed + 1)
    train, validation = inner.parts(rest)
    lesson = Lesson(train, validation, references or None, inner.how, {"name": f"labels of {path.name}"})
    return CurveData(lesson, test, TrainingConfig(), f"held out: {parts.how}")


def _of_run(folder: Path, say: Say) -> CurveData:
    store, held, chosen = folder / "labels", folder / "test.extxyz", folder / "validation.extxyz"
    for needed in (store, held, chosen):
        if not needed.exists():
            raise InputError(
                f"the run has no {needed.name}",
                where=folder,
                wanted="a finished run of limbeck distill",
                remedy="give the labels themselves instead of the run",
            )
    settings = _training_of(folder)
    labelled, references = _read(store, say)
    test, _ = split_isolated_atoms(read_labelled(held))
    validation, _ = split_isolated_atoms(read_labelled(chosen))
    pool, _ = split(labelled, validation).parts(labelled)
    pool = without_test(pool, test, say)
    lesson = Lesson(pool, validation, references or None, "the run's own", {"name": f"labels of {folder}"})
    how = "the run's test and validation sets"
    return CurveData(lesson, test, settings, how, _trained_seconds(folder))


def _read(path: Path, say: Say, **keys: Any) -> tuple[LabelledSet, dict[int, float]]:
    labelled, references = split_isolated_atoms(read_labelled(path, **keys))
    labelled = audited(labelled, say)
    if len(labelled) < 10:
        raise InputError("too few labels for a curve", where=path, got=len(labelled), wanted="ten or more")
    return labelled, references


def _training_of(folder: Path) -> TrainingConfig:
    """The run's own training settings; how long it lasted is what a curve varies."""
    document = read_document(folder / "config.yaml")
    # null is how a configuration says "the default", also where later versions have a value for it
    values = {k: v for k, v in as_dict(document.values.get("training")).items() if v is not None}
    values.pop("epochs", None)
    origins = {key[1:]: where for key, where in document.origins.items() if key[0] == "training"}
    return validate_document(TrainingConfig, Document(values, origins, document.source))


def _trained_seconds(folder: Path) -> dict[str, float]:
    """Of the run's students, as metrics.json has it; without what cannot be read."""
    try:
        metrics = as_dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    told = {
        name: figures(as_dict(as_dict(one).get("run")).get("training")).get("seconds")
        for name, one in metrics.items()
    }
    return {name: float(seconds) for name, seconds in told.items() if seconds}


def nested_order(labelled: LabelledSet, seed: int) -> np.ndarray:
    """Indices such that the first n make the subset of n labels, whatever n is.

    Whole groups stand one after another, as sampling would have made them: groups that bring an element
    first, then by turns over steps and temperatures, in random order. Labels without groups are
    permuted. Contact scans come first: every student needs them, and they are few.
    """
    rng = np.random.default_rng(seed)
    scans = scan_mask(labelled.config_type)
    if scans.all():
        scans = np.zeros(len(labelled), bool)
    rest = np.flatnonzero(~scans)
    names = np.where(labelled.group == "", np.char.add("\0", np.arange(len(labelled)).astype(str)),
                     labelled.group)  # fmt: skip
    members: dict[str, list[int]] = defaultdict(list)
    for k in rest:
        members[str(names[k])].append(int(k))
    queues: dict[tuple[str, float], list[str]] = defaultdict(list)
    for name in rng.permutation(sorted(members)):
        first = members[str(name)][0]
        kelvin = float(np.nan_to_num(labelled.temperature_k[members[str(name)]].mean(), nan=-1.0))
        queues[str(labelled.config_type[first]), round(kelvin, -2)].append(str(name))
    turns = [queues[key] for key in sorted(queues)]
    groups = [queue[t] for t in range(max(map(len, turns))) for queue in turns if t < len(queue)]
    seen: set[int] = set()
    early: list[str] = []
    late: list[str] = []
    for name in groups:
        own = set(labelled.structures.numbers[labelled.structures.atom_index(members[name])].tolist())
        (early if own - seen else late).append(name)
        seen |= own
    ordered = [k for name in (*early, *late) for k in members[name]]
    return np.array([*np.flatnonzero(scans).tolist(), *ordered], dtype=np.int64)


def subset(lesson: Lesson, order: np.ndarray, labels: int) -> Lesson:
    """The lesson with the first so many training labels of ``order``.

    Raises
    ------
    InputError: an element is missing from them.
    """
    train = lesson.train.select(np.sort(order[:labels]))
    missing = set(lesson.train.structures.numbers.tolist()) - set(train.structures.numbers.tolist())
    if missing:
        from ase.data import chemical_symbols

        raise InputError(
            f"{labels} labels do not hold every element",
            got="no " + " ".join(chemical_symbols[z] for z in sorted(missing)),
            wanted="all elements of the labels",
        )
    return replace(lesson, train=train)


def default_labels(total: int) -> Sequence[int]:
    """An eighth, a quarter, a half and all."""
    return sorted({max(5, total // 8), max(5, total // 4), max(5, total // 2), total})
