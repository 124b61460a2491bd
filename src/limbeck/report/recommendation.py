"""The presets of a run side by side, and which of them to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.report.reading import RUN, Run, as_dict, figures
from limbeck.validation.size import NoBetter, Sized, no_better

#: single structures of about so many atoms show the speed of dynamics; small ones show overhead
USUAL_ATOMS = 1000


@dataclass(frozen=True)
class PresetRow:
    """One student of a run; None where a figure was not measured.

    Attributes
    ----------
    force_rmse, force_mae: meV/Å, and energy_mae: meV/atom, on the compared split.
    on_policy_force_rmse: meV/Å, on frames of its own dynamics. stable: that dynamics reached its end.
    drift: of the total energy, meV/atom/ps. atoms_per_s, speedup: over the teacher.
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
        judged = run.metrics[preset]
        about, errors = as_dict(judged.get(RUN)), run.errors(preset)
        facts = figures(about)
        own = figures(as_dict(judged.get("on_policy")).get("all"))
        dynamics = as_dict(about.get("on_policy"))
        student = run.students.get(preset)
        speed = _bench_speed(run.bench, preset) or _end_speed(run, facts)
        rows.append(
            PresetRow(
                name=preset,
                parameters=student.parameters if student else facts.get("parameters"),
                file_kb=student.path.stat().st_size / 1e3 if student else facts.get("file_kb"),
                compression=facts.get("compression"),
                force_rmse=errors.get("force_rmse_mev_per_a"),
                force_mae=errors.get("force_mae_mev_per_a"),
                force_r2=errors.get("force_r2"),
                force_cosine=errors.get("force_cosine"),
                energy_mae=errors.get("energy_mae_mev_per_atom"),
                stress_mae=errors.get("stress_mae_mev_per_a3"),
                on_policy_force_rmse=own.get("force_rmse_mev_per_a"),
                stable=dynamics.get("stable"),
                instability=str(dynamics.get("reason") or ""),
                drift=figures(about.get("nve")).get("drift_mev_per_atom_per_ps"),
                training_loss=figures(about.get("training")).get("training_loss"),
                **speed,
            )
        )
    return rows


def _end_speed(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """The rate that was measured at the end of the run."""
    atoms = run.facts.get("speed_atoms")
    of = f"{atoms:,} atoms" if isinstance(atoms, int) else "a test structure"
    threads = facts.get("threads")
    return {
        "atoms_per_s": facts.get("atoms_per_s"),
        "speedup": facts.get("speedup"),
        "speed_of": f"{of}, native engine{_on(threads)}, at the end of the run"
        if facts.get("atoms_per_s")
        else "",
        "threads": threads,
    }


def _on(threads: int | None) -> str:
    return f", {threads} thread{'s' if threads != 1 else ''}" if threads else ""


def _bench_speed(bench: dict[str, Any] | None, preset: str) -> dict[str, Any] | None:
    """The native rate on the single structure closest to 1,000 atoms, as the benchmark measured it."""
    rows = [
        row
        for row in (bench or {}).get("rows", [])
        if row.get("engine") == "native" and row.get("batch") == 1 and row.get("atoms_per_s")
        and (row.get("model") == preset or row.get("preset") == preset)
    ]  # fmt: skip
    if not rows:
        return None
    row = min(rows, key=lambda row: abs(row["atoms"] - USUAL_ATOMS))
    ratios = [r for r in rows if r.get("speedup_vs_teacher")]
    beside: dict[str, Any] = min(ratios, key=lambda r: abs(r["atoms"] - USUAL_ATOMS), default={})
    return {
        "atoms_per_s": row["atoms_per_s"],
        "speedup": beside.get("speedup_vs_teacher"),
        "speed_of": f"{row['atoms']:,} atoms, native engine{_on(row.get('threads'))}",
        "threads": row.get("threads"),
    }


def teacher_rate(rows: Sequence[PresetRow], teacher: dict[str, Any]) -> float | None:
    """The teacher's atoms/s beside the rates of ``rows``, else those of the run's end."""
    for row in rows:
        if row.atoms_per_s and row.speedup:
            return row.atoms_per_s / row.speedup
    return figures(teacher).get("atoms_per_s")


def recommend(rows: Sequence[PresetRow], target_force_rmse_mev_per_a: float | None = None) -> Recommendation:
    """Which preset to use.

    With a target: the cheapest (fastest; without speeds the smallest) whose force RMSE meets it and
    whose own dynamics did not fail, or that none does. Without: the most accurate and the fastest. A
    student that is no more accurate than a smaller one is not recommended for its accuracy.
    """
    judged = [row for row in rows if row.force_rmse is not None]
    if not judged:
        return Recommendation(None, "No student has a force error, so none can be recommended.")
    useless = _no_better(judged)
    larger = {one.larger.name for one in useless}
    best = min((row for row in judged if row.name not in larger), key=_error)
    remarks = "".join(f" {one.text()}" for one in useless)
    if target_force_rmse_mev_per_a is not None:
        return _for_target(judged, target_force_rmse_mev_per_a, remarks)
    fastest = min(judged, key=_cost)
    if best is fastest:
        only = "" if len(judged) > 1 else ", the only one there is"
        said = f"Use {best.name}{only}: {_figures(best)}.{_warning(best)}{remarks}"
        return Recommendation(best.name, said)
    first = min(judged, key=_error)
    rank = "is the most accurate" if best is first else f"is about as accurate as {first.name}"
    return Recommendation(
        None,
        f"{best.name} {rank}: {_figures(best)}. {fastest.name} is the "
        f"{'fastest' if fastest.atoms_per_s else 'smallest'}: {_figures(fastest)}{_trade(best, fastest)}."
        f"{_warning(best)}{_warning(fastest)}{remarks}",
    )


def _no_better(judged: Sequence[PresetRow]) -> list[NoBetter]:
    """Students that are no more accurate than a smaller one whose own dynamics did not fail."""
    usable = [row for row in judged if row.stable is not False]
    return no_better(
        [
            Sized(row.name, row.parameters, row.force_rmse, row.training_loss)
            for row in usable
            if row.parameters is not None and row.force_rmse is not None
        ]
    )


def _trade(best: PresetRow, fastest: PresetRow) -> str:
    """What the speed costs."""
    if not (best.atoms_per_s and fastest.atoms_per_s and best.force_rmse and fastest.force_rmse):
        return ""
    more = fastest.force_rmse - best.force_rmse
    return f"; {fastest.atoms_per_s / best.atoms_per_s:.1f} times as fast for {more:.1f} meV/Å more error"


def _for_target(judged: Sequence[PresetRow], target: float, remarks: str) -> Recommendation:
    best = min(judged, key=_error)
    wanted = f"the target of {target:g} meV/Å"
    meeting = [row for row in judged if _error(row) <= target]
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
