"""``limbeck report``: one page that needs nothing else, and a card beside each student."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from limbeck.core.files import write_whole
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.progress import Progress, no_progress
from limbeck.report import provenance, results, shipping
from limbeck.report.card import model_card
from limbeck.report.curve_figures import curve_figures, curve_markup, without_curves
from limbeck.report.data_figures import data_figures
from limbeck.report.environment_map import map_figures
from limbeck.report.error_figures import error_figures, parity_figures
from limbeck.report.evidence import Evidence, gather
from limbeck.report.figures import Figure, Picture
from limbeck.report.markup import figures, paragraph, section, text
from limbeck.report.methods import methods
from limbeck.report.reading import Run, read_run
from limbeck.report.recommendation import PresetRow, Recommendation, preset_rows, recommend
from limbeck.report.speed_figures import bench_figures, learning_figures, pareto_figure
from limbeck.report.structure_view import picture
from limbeck.units import EV_TO_MEV

PAGE = "report.html"


@dataclass(frozen=True)
class Written:
    """What was written, and what the page says first."""

    page: Path
    cards: tuple[Path, ...]
    rows: tuple[PresetRow, ...]
    recommendation: Recommendation
    notes: tuple[str, ...]


def write_report(
    folder: Path | str,
    out: Path | str | None = None,
    *,
    target_force_rmse_mev_per_a: float | None = None,
    data: Path | None = None,
    keys: Mapping[str, Any] | None = None,
    results: Path | None = None,
    progress: Progress = no_progress,
) -> Written:
    """Write the page of a finished run, and beside it ``PRESET.card.md`` for each of its students.

    Parameters
    ----------
    out: the page; ``report.html`` in the run folder unless given.
    target_force_rmse_mev_per_a: what the recommendation must meet; else what the configuration wants.
    data: labels to judge the students on, instead of the run's test (else validation) structures.
    keys: names of these labels, as :func:`~limbeck.dataset.read.read_labelled` takes them.
    results: as :func:`read_run` takes it.

    Raises
    ------
    InputError: no run folder, a run that is not finished, or data that cannot be used.
    MissingPackageError: plotly is not installed. LimbeckError: a file cannot be written.
    """
    run = read_run(folder, results)
    library = plotly_js()
    target = target_force_rmse_mev_per_a
    if target is None:
        target = run.target_force_rmse
    if data is not None:
        run = replace(run, given=data)
    evidence = gather(run, progress, keys)
    if data is not None:
        _check_judged(run, evidence, data)
        run = run.judged_on(data, {name: one.metrics for name, one in evidence.reports.items()})
    rows = preset_rows(run)
    advice = recommend(rows, target)
    page = Path(out) if out is not None else run.folder / PAGE
    write_whole(page, render(run, evidence, rows, advice, target, library))
    cards = []
    for preset, student in run.students.items():
        path = page.parent / f"{preset}.card.md"
        write_whole(path, model_card(student.card, student.path.name))
        cards.append(path)
    return Written(page, tuple(cards), tuple(rows), advice, (*run.notes, *evidence.notes))


def _check_judged(run: Run, evidence: Evidence, data: Path) -> None:
    """InputError where no student could be judged on the labels that were given."""
    if not evidence.reports:
        raise InputError(
            "no student of the run can be judged on these labels", where=data,
            got="; ".join(evidence.notes) or "none that can be read",
            wanted=f"labels of {' '.join(provenance.elements_of(run))}",
        )  # fmt: skip


def plotly_js() -> str:
    """The drawing library's text, from the installed package.

    Raises
    ------
    MissingPackageError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingPackageError(
            "the report needs plotly",
            got="not installed",
            remedy="pip install -c constraints.txt -e '.[report]'",
        ) from error
    return get_plotlyjs()


def render(
    run: Run,
    evidence: Evidence,
    rows: list[PresetRow],
    advice: Recommendation,
    target: float | None,
    library: str,
) -> str:
    """The whole page as text."""
    judged = [row for row in rows if row.name in evidence.reports and row.force_rmse is not None]
    best = min(judged, key=lambda row: row.force_rmse or 0.0).name if judged else ""
    parts = list(_sections(run, evidence, rows, advice, target, best))
    shown = [figure for _, _, _, drawn in parts for figure in drawn]
    body = [section(name, title, *markup) for name, title, markup, _ in parts]
    links = "".join(f'<a href="#s-{name}">{text(title)}</a>' for name, title, _, _ in parts)
    notes = [*run.notes, *evidence.notes]
    return Template(_asset("page.html")).substitute(
        title=text(f"{run.name}: Limbeck report"),
        heading=text(run.name),
        summary=text(_summary(run, rows)),
        links=links,
        notes="".join(paragraph(note, "warn") for note in notes),
        sections="".join(body),
        style=_asset("page.css"),
        figures=_json(
            {
                "plots": {
                    f.name: {"data": f.traces, "layout": f.layout} for f in shown if isinstance(f, Figure)
                },
                "views": {f.name: f.payload for f in shown if isinstance(f, Picture)},
            }
        ),
        library=_script(library),
        script=_asset("view.js") + _asset("page.js"),
    )


def _sections(  # type: ignore[no-untyped-def]
    run: Run,
    evidence: Evidence,
    rows: list[PresetRow],
    advice: Recommendation,
    target: float | None,
    best: str,
):
    """(name, title, markup, figures) of each section, in the order of the page."""
    yield "provenance", "Provenance", [provenance.provenance(run)], []
    pareto = _kept([pareto_figure(rows, run.facts.get("teacher") or {}, target)])
    start = _start_view(evidence)
    overview = [*pareto, *start]
    yield (
        "presets",
        "Presets",
        [results.presets(run, rows, advice, target), figures(overview)],
        overview,
    )
    drawn = _kept(data_figures(evidence, _references(run)))
    drawn += _kept(_attempted_maps(evidence, best))
    said = "" if evidence.learned is not None else paragraph(
        "The labels that students learned from are not in this folder (limbeck train reads them elsewhere).",
        "note",
    )  # fmt: skip
    yield "data", "Data", [said, figures(drawn)], drawn
    drawn = _kept(learning_figures(run))
    without = "" if drawn else paragraph("No training log was found.", "missing")
    yield "training", "Training", [figures(drawn), without], drawn
    yield "limits", "What limits the students", *_limits(run)
    compared = [row for row in rows if row.name in evidence.reports]
    fastest = max(compared, key=lambda row: (row.atoms_per_s or 0.0, -(row.parameters or 0)), default=None)
    yield "errors", "Errors", *_errors(evidence, best, fastest.name if fastest else best)
    yield (
        "dynamics",
        "Own dynamics",
        [results.dynamics(run), results.rounds(run), results.long_range(run)],
        [],
    )
    drawn = _kept(bench_figures(run.bench))
    yield "speed", "Speed", [figures(drawn), shipping.benchmark(run)], drawn
    yield "exports", "Exports", [shipping.exports(run)], []
    if described := methods(run):
        yield "methods", "Methods paragraph for a paper", [described], []


def _limits(run: Run) -> tuple[list[str], list[Figure]]:
    drawn = [(curve, _kept(curve_figures(curve))) for curve in run.curves]
    markup = [curve_markup(curve, shown) for curve, shown in drawn]
    return markup or [without_curves()], [figure for _, shown in drawn for figure in shown]


def _errors(evidence: Evidence, best: str, fastest: str) -> tuple[list[str], list[Figure | Picture]]:
    if not evidence.reports:
        return [paragraph("No student could be compared with labels: see the notes above.", "missing")], []
    compared: list[Figure | Picture] = [*_kept(error_figures(evidence))]
    for preset in dict.fromkeys([best, fastest]):
        compared += _worst_view(evidence, preset)
    forces, energies = (_kept(part) for part in parity_figures(evidence))
    said = paragraph(
        f"{evidence.what[0].upper()}{evidence.what[1:]} frames, evaluated anew from the student files.",
        "note",
    )
    markup = [
        said,
        figures(forces, abreast=True),
        figures(energies, abreast=True),
        figures(compared),
        results.worst_frames(evidence, best),
    ]
    return markup, [*forces, *energies, *compared]


def _kept(found: Sequence[Figure | None]) -> list[Figure]:
    return [figure for figure in found if figure is not None and figure.has_data]


def _attempted_maps(evidence: Evidence, best: str) -> list[Figure]:
    try:
        return map_figures(evidence, best) if best else []
    except LimbeckError:
        return []  # structures that the descriptor refuses; all else of them is drawn


def _start_view(evidence: Evidence) -> list[Figure | Picture]:
    if not evidence.starts:
        return []
    first, more = evidence.starts[0], len(evidence.starts) - 1
    formula = first.get_chemical_formula()
    return [
        picture(
            "view-start", "Starting structure",
            f"{formula}, {len(first)} atoms{f'; {more} more starts' if more else ''}. Drag to turn.",
            first,
        )
    ]  # fmt: skip


def _worst_view(evidence: Evidence, preset: str) -> list[Figure | Picture]:
    report, compared = evidence.reports.get(preset), evidence.compared
    if report is None or compared is None or not report.worst:
        return []
    worst, place = report.worst[0], report.worst_places[0]
    atoms = compared.structures.select([place]).to_atoms()[0]
    own = compared.structures.atom_index([place])
    miss = ((report.prediction.forces - compared.labels.forces)[own] ** 2).sum(axis=1) ** 0.5 * EV_TO_MEV
    kelvin = f", {worst.temperature_k:.0f} K" if worst.temperature_k else ""
    return [
        picture(
            f"view-worst-{preset}", f"Worst {evidence.what} frame of {preset}",
            f"Frame {worst.index}{kelvin}: force RMSE {worst.force_rmse_mev_per_a:.1f} meV/Å. Atoms by the "
            f"error of their force; the worst is {worst.worst_element} {worst.worst_atom}. Drag to turn.",
            atoms, miss,
        )
    ]  # fmt: skip


def _references(run: Run) -> dict[int, float] | None:
    for student in run.students.values():
        return {int(z): float(e) for z, e in student.card.get("energy_references_ev", {}).items()}
    return None


def _summary(run: Run, rows: list[PresetRow]) -> str:
    teacher = provenance.teacher_name(run)
    names, elements = ", ".join(row.name for row in rows), provenance.elements_of(run)
    made = f"{teacher} distilled into {names}"
    if provenance.own_labels(teacher):
        made = f"{names} trained on {teacher or 'labels'}"
    return made + (f" for {' '.join(elements)}" if elements else "")


def _asset(name: str) -> str:
    return (files("limbeck.report") / "assets" / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that may stand inside a script element: no ``<`` can end it."""
    dumped = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return dumped.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """``value`` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _script(library: str) -> str:
    """A library's text, in which nothing ends the script element."""
    return library.replace("</script", "<\\/script")
