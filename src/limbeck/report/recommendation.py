"""The presets of a run side by side, and which of them to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.records.metrics import ON_POLICY, OnPolicyFacts, TeacherFacts
from limbeck.report.reading import Run

#: single structures of about this size show the speed of dynamics; small ones show overhead
USUAL_ATOMS = 1000
#: a gain below this share of the error is no more than another seed changes
LEAST_GAIN = 0.05
#: a training loss up to this many times that of the smaller student is as low
_AS_LOW = 1.1


@dataclass(frozen=True)
class PresetRow:
    """One student of a run; None where a figure was not measured.

    Attributes
    ----------
    force_rmse, force_mae: meV/Å, and energy_mae: meV/atom, on the compared split.
    on_policy_force_rmse: meV/Å, on frames of its own dynamics. stable: that dynamics reached its end.
    drift: of the total energy, meV/atom/ps. atoms_per_s, speedup: over the teacher.
    break_even_steps: MD steps after which the run has paid off.
    speed_of: what the rate was measured on. threads: of student and teacher alike.
    training_loss: at the end of training.
    """

    name: str
    parameters: int | None = None
    file_kb: float | None = None
    compression: float | None = None
    force_rmse: float | None = None
    force_mae: float | None = None
    force_r2: float | None = None
    force_cosine: float | None = None
    energy_mae: float | None = None
    stress_mae: float | None = None
    on_policy_force_rmse: float | None = None
    stable: bool | None = None
    instability: str = ""
    drift: float | None = None
    atoms_per_s: float | None = None
    speedup: float | None = None
    break_even_steps: int | None = None
    speed_of: str = ""
    threads: int | None = None
    training_loss: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """``preset``: the one to use; None where none meets the target, or accuracy and speed are a choice.
    ``text``: why, in a sentence or two."""

    preset: str | None
    text: str


def preset_rows(run: Run) -> list[PresetRow]:
    """The students of a run, the largest first; speeds of bench.json where it is there."""
    rows = []
    for preset in run.presets:
        found, errors = run.metrics.students[preset], run.errors(preset)
        dynamics = found.on_policy or OnPolicyFacts()
        student = run.students.get(preset)
        row = PresetRow(
            name=preset,
            parameters=student.parameters if student else found.parameters,
            file_kb=student.path.stat().st_size / 1e3 if student else found.file_kb,
            compression=found.compression,
            force_rmse=errors.force_rmse_mev_per_a,
            force_mae=errors.force_mae_mev_per_a,
            force_r2=errors.force_r2,
            force_cosine=errors.force_cosine,
            energy_mae=errors.energy_mae_mev_per_atom,
            stress_mae=errors.stress_mae_mev_per_a3,
            on_policy_force_rmse=found.errors(ON_POLICY).force_rmse_mev_per_a,
            stable=dynamics.stable,
            instability=dynamics.reason,
            drift=found.nve.drift_mev_per_atom_per_ps if found.nve else None,
            atoms_per_s=found.atoms_per_s,
            speedup=found.speedup,
            break_even_steps=found.break_even_steps,
            threads=found.threads,
            training_loss=found.training_loss,
        )
        atoms = run.metrics.speed_atoms
        of = f"{atoms:,} atoms" if atoms else "a test structure"
        if row.atoms_per_s:
            of = f"{of}, native engine{_on(row.threads)}, at the end of the run"
            row = replace(row, speed_of=of)
        rows.append(_with_bench_speed(row, run.bench.get("rows", [])))
    return rows


def _on(threads: int | None) -> str:
    return f", {threads} thread{'s' if threads != 1 else ''}" if threads else ""


def _with_bench_speed(row: PresetRow, measured: Sequence[dict[str, Any]]) -> PresetRow:
    """With the native rate on the single structure closest to 1,000 atoms, where that was measured."""
    own = [
        one for one in measured
        if one.get("engine") == "native" and one.get("batch") == 1 and one.get("atoms_per_s")
        and row.name in (one.get("model"), one.get("preset"))
    ]  # fmt: skip
    if not own:
        return row
    own.sort(key=lambda one: abs(one["atoms"] - USUAL_ATOMS))
    usual = own[0]
    return replace(
        row,
        atoms_per_s=usual["atoms_per_s"],
        speedup=next((one["speedup_vs_teacher"] for one in own if one.get("speedup_vs_teacher")), None),
        speed_of=f"{usual['atoms']:,} atoms, native engine{_on(usual.get('threads'))}",
        threads=usual.get("threads"),
    )


def teacher_rate(rows: Sequence[PresetRow], teacher: TeacherFacts) -> float | None:
    """The teacher's atoms/s beside the rates of ``rows``, else those of the run's end."""
    for row in rows:
        if row.atoms_per_s and row.speedup:
            return row.atoms_per_s / row.speedup
    return teacher.atoms_per_s


@dataclass(frozen=True)
class NoBetter:
    """A student that is no more accurate than a smaller one."""

    larger: PresetRow
    smaller: PresetRow

    @property
    def limit(self) -> str | None:
        """``labels`` where it fits the training labels as closely, else ``time``; None where not known."""
        larger, smaller = self.larger.training_loss, self.smaller.training_loss
        if larger is None or smaller is None:
            return None
        return "labels" if larger <= _AS_LOW * smaller else "time"

    def text(self) -> str:
        """What is so, why, and what to do."""
        larger, smaller = self.larger, self.smaller
        curve = f"limbeck learning-curve RUN --preset {larger.name}"
        why = {
            "labels": f"It fits the training labels as closely, so the number of labels limits it: use "
            f"{smaller.name}, or a larger --budget, which labels more ({curve} estimates the gain).",
            "time": f"It fits the training labels less closely, so training time limits it: use "
            f"{smaller.name}, or a larger --budget.",
            None: f"Labels or training time limit it ({curve} measures which): use {smaller.name}, or a "
            "larger --budget.",
        }[self.limit]
        gain = "no" if _error(larger) >= _error(smaller) else "hardly"
        return (
            f"{larger.name} ({larger.parameters:,} parameters) is {gain} more accurate than {smaller.name} "
            f"({smaller.parameters:,}): force RMSE {larger.force_rmse:.1f} and {smaller.force_rmse:.1f} "
            f"meV/Å. {why}"
        )


def no_better(rows: Sequence[PresetRow]) -> list[NoBetter]:
    """Students that gain less than noise over the most accurate of the smaller ones, the largest first.

    Those of unknown size or error, and those whose own dynamics failed, are left out.
    """
    sized = [
        (row.parameters, row)
        for row in rows
        if row.parameters is not None and row.force_rmse is not None and row.stable is not False
    ]
    found = []
    for parameters, larger in sorted(sized, key=lambda one: -one[0]):
        best = min((row for size, row in sized if size < parameters), key=_error, default=None)
        if best is not None and _error(larger) > (1 - LEAST_GAIN) * _error(best):
            found.append(NoBetter(larger, best))
    return found


def recommend(rows: Sequence[PresetRow], target_force_rmse_mev_per_a: float | None = None) -> Recommendation:
    """Which preset to use.

    With a target: the cheapest (fastest; without speeds the smallest) whose force RMSE meets it and
    whose own dynamics did not fail, or that none does. Without: the most accurate and the fastest. A
    student that is no more accurate than a smaller one is not recommended for its accuracy.
    """
    evaluated = [row for row in rows if row.force_rmse is not None]
    if not evaluated:
        return Recommendation(None, "No student has a force error, so none can be recommended.")
    useless = no_better(evaluated)
    larger = {one.larger.name for one in useless}
    best = min((row for row in evaluated if row.name not in larger), key=_error)
    remarks = "".join(f" {one.text()}" for one in useless)
    if target_force_rmse_mev_per_a is not None:
        return _for_target(evaluated, target_force_rmse_mev_per_a, remarks)
    fastest = min(evaluated, key=_cost)
    if best is fastest:
        only = "" if len(evaluated) > 1 else ", the only one there is"
        said = f"Use {best.name}{only}: {_figures(best)}.{_warning(best)}{remarks}"
        return Recommendation(best.name, said)
    first = min(evaluated, key=_error)
    rank = "is the most accurate" if best is first else f"is about as accurate as {first.name}"
    return Recommendation(
        None,
        f"{best.name} {rank}: {_figures(best)}. {fastest.name} is the "
        f"{'fastest' if fastest.atoms_per_s else 'smallest'}: {_figures(fastest)}{_trade(best, fastest)}."
        f"{_warning(best)}{_warning(fastest)}{remarks}",
    )


def _trade(best: PresetRow, fastest: PresetRow) -> str:
    """What the speed costs."""
    if not (best.atoms_per_s and fastest.atoms_per_s and best.force_rmse and fastest.force_rmse):
        return ""
    more = fastest.force_rmse - best.force_rmse
    return f"; {fastest.atoms_per_s / best.atoms_per_s:.1f} times as fast for {more:.1f} meV/Å more error"


def _for_target(evaluated: Sequence[PresetRow], target: float, remarks: str) -> Recommendation:
    best = min(evaluated, key=_error)
    wanted = f"the target of {target:g} meV/Å"
    meeting = [row for row in evaluated if _error(row) <= target]
    if not meeting:
        return Recommendation(
            None,
            f"No preset meets {wanted}: the most accurate, {best.name}, is at {best.force_rmse:.1f} meV/Å."
            + (remarks or " More labels, a longer budget or a larger preset may close the gap."),
        )
    usable = [row for row in meeting if row.stable is not False]
    if not usable:
        names = ", ".join(row.name for row in meeting)
        return Recommendation(
            None, f"{names} meets {wanted}, but fails in its own dynamics.{_warning(meeting[0])}"
        )
    chosen = min(usable, key=_cost)
    return Recommendation(
        chosen.name,
        f"Use {chosen.name}: the cheapest preset that meets {wanted} ({_figures(chosen)}).{remarks}",
    )


def _error(row: PresetRow) -> float:
    return float("inf") if row.force_rmse is None else row.force_rmse


def _cost(row: PresetRow) -> tuple[float, float]:
    """Seconds an atom; parameters decide where no speed was measured."""
    size = float(row.parameters or 0)
    return (1.0 / row.atoms_per_s if row.atoms_per_s else size, size)


def _figures(row: PresetRow) -> str:
    parts = [f"force RMSE {row.force_rmse:.1f} meV/Å"]
    if row.atoms_per_s:
        parts.append(f"{row.atoms_per_s:,.0f} atoms/s")
    if row.speedup:
        parts.append(f"{row.speedup:,.0f} times the teacher's speed")
    if row.parameters and not row.atoms_per_s:
        parts.append(f"{row.parameters:,} parameters")
    return ", ".join(parts)


def _warning(row: PresetRow) -> str:
    if row.stable is not False:
        return ""
    return f" The dynamics of {row.name} did not stay physical: {row.instability or 'see below'}."
