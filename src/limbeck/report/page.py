"""The page about a run, which needs nothing else, and a card beside each student."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from limbeck.core.files import write_whole
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.records.figure import Figure, Picture
from limbeck.report import provenance, results, shipping
from limbeck.report.card import model_card
from limbeck.report.data_figures import data_figures, map_figures
from limbeck.report.error_figures import energy_parity, error_figures, force_parity
from limbeck.report.markup import code, figures, paragraph, section, text
from limbeck.report.reading import Evidence, Run
from limbeck.report.recommendation import PresetRow, Recommendation, preset_rows, recommend
from limbeck.report.speed_figures import bench_figures, curve_figures, learning_figures, pareto_figure
from limbeck.report.structure_view import picture
from limbeck.units import EV_TO_MEV

PAGE = "report.html"
Shown = Sequence[Figure | Picture]


@dataclass(frozen=True)
class Written:
    """What was written, and what the page says first."""

    page: Path
    cards: tuple[Path, ...]
    rows: tuple[PresetRow, ...]
    recommendation: Recommendation
    notes: tuple[str, ...]


def write_page(run: Run, evidence: Evidence, out: Path | str | None, target: float | None = None) -> Written:
    """Write the page (``report.html`` in the run folder unless ``out``) and the cards beside it.

    ``target``: force RMSE that is wanted, meV/Å; else what the configuration names.
    """
    rows = preset_rows(run)
    target = run.target_force_rmse if target is None else target
    advice = recommend(rows, target)
    page = Path(out) if out is not None else run.folder / PAGE
    write_whole(page, render(run, evidence, rows, advice, target, plotly_js()))
    cards = []
    for preset, student in run.students.items():
        cards.append(page.parent / f"{preset}.card.md")
        write_whole(cards[-1], model_card(student.card, student.path.name))
    return Written(page, tuple(cards), tuple(rows), advice, (*run.notes, *evidence.notes))


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
    rows: Sequence[PresetRow],
    advice: Recommendation,
    target: float | None,
    library: str,
) -> str:
    """The whole page as text."""
    parts = list(_sections(run, evidence, rows, advice, target))
    shown = [figure for _, _, _, drawn in parts for figure in drawn]
    drawings = {
        "plots": {one.name: one.to_plotly() for one in shown if isinstance(one, Figure)},
        "views": {one.name: one.payload for one in shown if isinstance(one, Picture)},
    }
    # no "<" can end the script element that the figures stand in
    data = json.dumps(drawings, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assets = {name: (files("limbeck.report") / "assets" / name).read_text(encoding="utf-8")
              for name in ("page.html", "page.css", "view.js", "page.js")}  # fmt: skip
    return Template(assets["page.html"]).substitute(
        title=text(f"{run.name}: Limbeck report"),
        heading=text(run.name),
        summary=text(_summary(run, rows)),
        links="".join(f'<a href="#s-{name}">{text(title)}</a>' for name, title, _, _ in parts),
        notes="".join(paragraph(note, "warn") for note in (*run.notes, *evidence.notes)),
        sections="".join(section(name, title, *markup) for name, title, markup, _ in parts),
        style=assets["page.css"],
        figures=data.replace("<", "\\u003c"),
        library=library.replace("</script", "<\\/script"),
        script=assets["view.js"] + assets["page.js"],
    )


def _sections(
    run: Run,
    evidence: Evidence,
    rows: Sequence[PresetRow],
    advice: Recommendation,
    target: float | None,
) -> Iterator[tuple[str, str, list[str], Shown]]:
    """(name, title, markup, figures) of each section, in the order of the page."""
    compared = [row for row in rows if row.name in evidence.reports]
    known = [row for row in compared if row.force_rmse is not None]
    best = min(known, key=lambda row: row.force_rmse or 0.0).name if known else ""
    fastest = max(compared, key=lambda row: (row.atoms_per_s or 0.0, -(row.parameters or 0)), default=None)

    yield "provenance", "Provenance", [provenance.provenance(run)], []
    drawn: Shown = [*_kept([pareto_figure(rows, run, target)]), *_start_view(evidence)]
    yield "presets", "Presets", [results.presets(run, rows, advice, target), figures(drawn)], drawn
    references: dict[str, float] = {}
    for student in run.students.values():
        references = references or student.card.get("energy_references_ev", {})
    energies = {int(z): float(e) for z, e in references.items()}
    drawn = _kept([*data_figures(evidence, energies), *_maps(evidence, best)])
    without = (
        "The labels that students learned from are not in this folder (limbeck train reads them elsewhere)."
    )
    said = "" if evidence.learned is not None else paragraph(without, "note")
    yield "data", "Data", [said, figures(drawn)], drawn
    drawn = _kept(learning_figures(run))
    said = "" if drawn else paragraph("No training log was found.", "missing")
    yield "training", "Training", [figures(drawn), said], drawn
    yield "limits", "What limits the students", *_limits(run)
    yield "errors", "Errors", *_errors(evidence, best, fastest.name if fastest else best)
    own = [results.dynamics(run), results.active_learning(run), results.long_range(run)]
    yield "dynamics", "Own dynamics", own, []
    drawn = _kept(bench_figures(run.bench.get("rows", [])))
    yield "speed", "Speed", [figures(drawn), shipping.benchmark(run)], drawn
    yield "exports", "Exports", [shipping.exports(run)], []
    if described := provenance.methods(run):
        yield "methods", "Methods paragraph for a paper", [described], []


def _limits(run: Run) -> tuple[list[str], Shown]:
    drawn = [(curve, _kept(curve_figures(curve))) for curve in run.curves]
    without = (
        '<p class="missing">Whether labels, training time or capacity limit a student, '
        f"{code('limbeck learning-curve RUN --preset tiny')} tells here.</p>"
    )
    markup = [results.learning_curve(curve, shown) for curve, shown in drawn]
    return markup or [without], [figure for _, shown in drawn for figure in shown]


def _errors(evidence: Evidence, best: str, fastest: str) -> tuple[list[str], Shown]:
    reports, compared, what = evidence.reports, evidence.compared, evidence.what
    if compared is None or not reports:
        return [paragraph("No student could be compared with labels: see the notes above.", "missing")], []
    forces = [force_parity(preset, report, compared, what) for preset, report in reports.items()]
    energies = [energy_parity(preset, report, compared, what) for preset, report in reports.items()]
    others: list[Figure | Picture] = [*_kept(error_figures(reports, compared))]
    for preset in dict.fromkeys([best, fastest]):
        others += _worst_view(evidence, preset)
    markup = [
        paragraph(f"{what[0].upper()}{what[1:]} frames, evaluated anew from the student files.", "note"),
        figures(forces, abreast=True),
        figures(energies, abreast=True),
        figures(others),
        results.worst_frames(evidence, best),
    ]
    return markup, [*forces, *energies, *others]


def _kept(found: Sequence[Figure | None]) -> list[Figure]:
    return [figure for figure in found if figure is not None and figure.has_data]


def _maps(evidence: Evidence, best: str) -> list[Figure]:
    try:
        return map_figures(evidence, best)
    except LimbeckError:
        return []  # structures that the descriptor refuses; all else of them is drawn


def _start_view(evidence: Evidence) -> list[Picture]:
    if not evidence.starts:
        return []
    first, more = evidence.starts[0], len(evidence.starts) - 1
    rest = f"; {more} more starts" if more else ""
    caption = f"{first.get_chemical_formula()}, {len(first)} atoms{rest}. Drag to turn."
    return [picture("view-start", "Starting structure", caption, first)]


def _worst_view(evidence: Evidence, preset: str) -> list[Picture]:
    report, compared = evidence.reports.get(preset), evidence.compared
    if report is None or compared is None or not report.worst:
        return []
    worst, place = report.worst[0], report.worst_places[0]
    atoms = compared.structures.select([place]).to_atoms()[0]
    own = compared.structures.atom_index([place])
    miss = ((report.prediction.forces - compared.labels.forces)[own] ** 2).sum(axis=1) ** 0.5 * EV_TO_MEV
    kelvin = f", {worst.temperature_k:.0f} K" if worst.temperature_k else ""
    caption = (
        f"Frame {worst.index}{kelvin}: force RMSE {worst.force_rmse_mev_per_a:.1f} meV/Å. Atoms by the "
        f"error of their force; the worst is {worst.worst_element} {worst.worst_atom}. Drag to turn."
    )
    title = f"Worst {evidence.what} frame of {preset}"
    return [picture(f"view-worst-{preset}", title, caption, atoms, miss)]


def _summary(run: Run, rows: Sequence[PresetRow]) -> str:
    teacher, names = provenance.teacher_name(run), ", ".join(row.name for row in rows)
    elements = provenance.elements_of(run)
    made = f"{teacher} distilled into {names}"
    if provenance.own_labels(teacher):
        made = f"{names} trained on {teacher or 'labels'}"
    return made + (f" for {' '.join(elements)}" if elements else "")
