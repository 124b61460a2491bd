"""Performance criteria (bars): a measure of the rows of one group, and whether it was met."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from support.groups import MULTIPLY_ADD, PRESETS, Taken

Rows = Mapping[str, Taken]


class Missing(Exception):
    """A row that a measure needs was not measured; the message is the reason."""


@dataclass(frozen=True)
class Bar:
    """A measure and its criterion.

    Attributes
    ----------
    group: group of rows that the measure uses.
    value: gives the measure in each round, or one value.
    bar, stretch: lower limits, or upper limits with ``at_most``; None for a measure without a criterion.
    unit: ``x``, ``%``, ``µs``, ``bytes`` or ``order``; sets the format.
    """

    measure: str
    group: str
    value: Callable[[Rows], np.ndarray]
    bar: float | None
    stretch: float | None
    unit: str
    at_most: bool = False


def _row(rows: Rows, name: str) -> Taken:
    if name not in rows:
        raise Missing(f"{name}: not among the rows of this run")
    if rows[name].reason or not rows[name].blocks:
        raise Missing(f"{name}: {rows[name].reason or 'no round was finished'}")
    return rows[name]


def _faster(than: str, row: str) -> Callable[[Rows], np.ndarray]:
    """Speed of ``row`` over that of ``than`` in each round."""
    return lambda rows: _row(rows, than).per_atom / _row(rows, row).per_atom


def _share(preset: str, count: str) -> Callable[[Rows], np.ndarray]:
    """Counted FLOPs divided by time and by the peak rate measured just before."""

    def value(rows: Rows) -> np.ndarray:
        peak = _row(rows, f"float32 multiply-add, beside {preset}")
        ours = _row(rows, f"{preset}, Si 1000")
        rate = ours.facts[count] / ours.per_atom
        return rate / (peak.facts["flops"] / peak.seconds)

    return value


def _machine(rows: Rows) -> np.ndarray:
    """Arithmetic of two cores over that of one: the upper limit for any program."""
    one, two = (_row(rows, f"{MULTIPLY_ADD}, {n}") for n in (1, 2))
    return (two.facts["flops"] / two.seconds) / (one.facts["flops"] / one.seconds)


def _overhead(preset: str) -> Callable[[Rows], np.ndarray]:
    """Seconds for one molecule minus its share of the time for 63."""

    def value(rows: Rows) -> np.ndarray:
        one, many = _row(rows, f"{preset}, benzamide"), _row(rows, f"{preset}, 63 benzamides")
        return one.seconds - 16 * many.per_atom

    return value


def _order(rows: Rows) -> np.ndarray:
    """The smallest speed-up of a preset over the next larger one, of medians at all sizes."""
    cases = dict.fromkeys(taken.row.case for taken in rows.values())
    leads = [
        np.median(_faster(f"{larger}, {case}", f"{smaller}, {case}")(rows))
        for case in cases
        for larger, smaller in itertools.pairwise(PRESETS)
    ]
    return np.array([min(leads)])


def _memory(rows: Rows) -> np.ndarray:
    taken = rows["memory"]
    if taken.reason:
        raise Missing(taken.reason)
    return np.array(taken.facts["bytes_per_atom"])


def all_bars(teacher_case: str, large: int) -> list[Bar]:
    """The criteria of the inference engine."""
    si = "Si 1000"
    tiny, ultra = f"tiny, {si}", f"ultra-tiny, {si}"
    at_teachers = f"tiny, 2 threads, {teacher_case}"
    crystals = "1 thread, 1,000 atoms"
    return [
        Bar("`tiny` against graph-pes PaiNN 64x2, Si 1,000 atoms, 1 thread", "graph-pes",
            _faster("graph-pes PaiNN 64x2", tiny), 30, 45, "x"),
        Bar(f"`tiny` against CHGNet, {teacher_case} atoms, 2 threads", "teachers",
            _faster("CHGNet", at_teachers), 180, 250, "x"),
        Bar(f"`tiny` against SevenNet-0, {teacher_case} atoms, 2 threads", "teachers",
            _faster("SevenNet-0", at_teachers), 350, 500, "x"),
        Bar(f"`tiny` against NEP4 Si, {crystals}", "peers", _faster("NEP4 Si", tiny), 4, 6, "x"),
        Bar(f"`ultra-tiny` against NEP4 Si, {crystals}", "peers", _faster("NEP4 Si", ultra), 9, 15, "x"),
        Bar(f"`tiny` against SNAP Si_Zuo in LAMMPS, {crystals}", "peers",
            _faster("SNAP Si_Zuo", tiny), 11, 18, "x"),
        Bar(f"`ultra-tiny` slower than Tersoff in LAMMPS, {crystals}", "peers",
            _faster(ultra, "Tersoff"), 6, 4, "x", at_most=True),
        *(
            Bar(f"`{preset}`: share of the measured multiply-add peak, 1,000 atoms, filters {how}", "peak",
                _share(preset, count), bar, stretch, "%")
            for preset in ("original", "tiny")
            for how, count, bar, stretch in (
                ("as evaluated", "flops_per_atom", 0.35, 0.55),
                ("counted as if kept", "flops_per_atom_needed", None, None),
            )
        ),
        *(
            Bar(f"`{preset}`: one 16-atom molecule beyond 16 atoms of 1,008, 1 thread", "molecule",
                _overhead(preset), 100e-6, 40e-6, "µs", at_most=True)
            for preset in ("tiny", "ultra-tiny")
        ),
        Bar("the machine itself: multiply-adds of 2 threads over 1", "threads", _machine, None, None, "x"),
        *(
            Bar(f"`{preset}`: 2 threads over 1, 1,000 atoms", "threads",
                _faster(f"{preset}, {si}", f"{preset}, 2 threads, {si}"), 1.8, 1.95, "x")
            for preset in PRESETS
        ),
        Bar("every preset faster than the next larger one, at every size (smallest lead)", "sizes",
            _order, 1.0, None, "order"),
        # 4 and 2 KB of 1,024 bytes, as memory is counted
        Bar(f"`tiny`: memory an atom, {large:,} atoms", "memory", _memory, 4096, 2048, "bytes", at_most=True),
        Bar(f"`tiny`: cost per atom, growth from 1,000 to {large:,} atoms", "large",
            lambda rows: _faster(f"tiny, Si {large}", tiny)(rows) - 1, 0.15, 0.02, "%", at_most=True),
    ]  # fmt: skip


def evaluate_bars(bars: list[Bar], measured: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """Value, quartiles over rounds and verdict of each criterion whose group ran, or a reason."""
    verdicts = []
    for bar in (bar for bar in bars if bar.group in measured):
        entry: dict[str, Any] = {
            "measure": bar.measure, "bar": bar.bar, "stretch": bar.stretch, "unit": bar.unit,
            "at_most": bar.at_most,
        }  # fmt: skip
        try:
            values = bar.value(measured[bar.group])
        except Missing as error:
            verdicts.append({**entry, "value": None, "met": None, "reason": str(error)})
            continue
        value = float(np.median(values))
        verdicts.append(
            {
                **entry,
                "value": value,
                "quartiles": np.quantile(values, [0.25, 0.75]).tolist(),
                "met": _meets(value, bar.bar, bar.at_most),
                "stretch_met": _meets(value, bar.stretch, bar.at_most),
            }
        )
    return verdicts


def _meets(value: float, bar: float | None, at_most: bool) -> bool | None:
    if bar is None:
        return None
    return value <= bar if at_most else value >= bar
