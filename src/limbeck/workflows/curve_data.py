"""Labels for learning curves: a run's or one's own, a test set apart, and nested subsets."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from limbeck.config import LabelKeys
from limbeck.config.documents import Document, read_document, validate_document
from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.dataset.read import read_labelled, split_isolated_atoms
from limbeck.dataset.split import split
from limbeck.errors import InputError
from limbeck.progress import Say
from limbeck.records.metrics import as_dict
from limbeck.report.reading import figures
from limbeck.training.config import TrainingConfig
from limbeck.workflows.training_data import TrainingSets, audited, without_test

_FRACTION = 0.2


@dataclass(frozen=True)
class CurveData:
    """What curves are made of.

    Attributes
    ----------
    sets: all labels to train on, and what chooses the best weights.
    test: what errors are measured on; no group of it trains or validates.
    settings: how the run trained, or the defaults. how: where the parts come from.
    trained_s: seconds that the run's own students trained, by preset; empty without a run.
    """

    sets: TrainingSets
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
    is_run = (path / "config.yaml").is_file()
    if not is_run and path.is_dir() and not any(path.glob("shard-*.lbk")):
        wanted = "a folder of limbeck distill, or labels"
        raise InputError("neither a run nor a label store", where=path, wanted=wanted)
    store, held, chosen = (path / name for name in ("labels", "test.extxyz", "validation.extxyz"))
    for needed in (store, held, chosen) if is_run else ():
        if not needed.exists():
            raise InputError(
                f"the run has no {needed.name}",
                where=path,
                wanted="a finished run of limbeck distill",
                remedy="give the labels themselves instead of the run",
            )
    settings = _training_of(path) if is_run else TrainingConfig()
    read = read_labelled(store) if is_run else read_labelled(path, **keys.model_dump())
    labelled, references = split_isolated_atoms(read)
    labelled = audited(labelled, say)
    if len(labelled) < 10:
        raise InputError("too few labels for a curve", where=path, got=len(labelled), wanted="ten or more")
    if is_run:
        test, validation = (split_isolated_atoms(read_labelled(file))[0] for file in (held, chosen))
        train, _ = split(labelled, validation).parts(labelled)
        train = without_test(train, test, say)
        how, how_split = "the run's test and validation sets", "the run's own"
    else:
        parts = split(labelled, _FRACTION, seed)
        rest, test = parts.parts(labelled)
        rest = without_test(rest, test, say)
        inner = split(rest, _FRACTION, seed + 1)
        train, validation = inner.parts(rest)
        how, how_split = f"test set: {parts.how}", inner.how
    teacher = {"name": f"labels of {path if is_run else path.name}"}
    sets = TrainingSets(train, validation, references or None, how_split, teacher)
    return CurveData(sets, test, settings, how, _trained_seconds(path) if is_run else {})


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
    training = {name: as_dict(as_dict(one).get("run")).get("training") for name, one in metrics.items()}
    seconds = {name: figures(one).get("seconds") for name, one in training.items()}
    return {name: float(one) for name, one in seconds.items() if one}


def nested_order(labelled: LabelledSet, seed: int) -> np.ndarray:
    """Indices such that the first n make the subset of n labels, whatever n is.

    Whole groups stand one after another, as sampling would have made them: groups that bring an element
    first, then alternating over steps and temperatures, in random order. Labels without groups are
    permuted. Contact scans come first: every student needs them, and they are few.
    """
    scans = scan_mask(labelled.config_type)
    if scans.all():
        scans = np.zeros(len(labelled), bool)
    members: dict[str, list[int]] = defaultdict(list)
    for k in np.flatnonzero(~scans).tolist():
        members[str(labelled.group[k]) or f"\0{k}"].append(k)
    queues: dict[tuple[str, float], list[str]] = defaultdict(list)
    for name in np.random.default_rng(seed).permutation(sorted(members)).tolist():
        own = members[name]
        kelvin = float(np.nan_to_num(labelled.temperature_k[own].mean(), nan=-1.0))
        queues[str(labelled.config_type[own[0]]), round(kelvin, -2)].append(name)
    turns = zip_longest(*(queues[key] for key in sorted(queues)))
    seen: set[int] = set()
    early: list[int] = []
    late: list[int] = []
    for name in (name for turn in turns for name in turn if name is not None):
        numbers = set(labelled.structures.numbers[labelled.structures.atom_index(members[name])].tolist())
        (late if numbers <= seen else early).extend(members[name])
        seen |= numbers
    return np.array([*np.flatnonzero(scans).tolist(), *early, *late], dtype=np.int64)


def subset(labelled: LabelledSet, chosen: np.ndarray) -> LabelledSet:
    """The chosen labels; InputError where an element of the others is missing from them."""
    part = labelled.select(np.sort(chosen))
    missing = set(labelled.structures.numbers.tolist()) - set(part.structures.numbers.tolist())
    if missing:
        raise InputError(
            f"{len(part)} labels do not hold every element",
            got="no " + " ".join(chemical_symbols[z] for z in sorted(missing)),
            wanted="all elements of the labels",
        )
    return part
