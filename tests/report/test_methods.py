"""The methods paragraph: what a reader needs to repeat the work, each claim with its reference."""

from __future__ import annotations

import json
import re

from limbeck.pipeline.reporting import write_report
from limbeck.report.provenance import methods
from limbeck.report.reading import read_run


def test_the_paragraph_names_teacher_data_settings_and_errors(made_run):
    written = methods(read_run(made_run))
    metrics = json.loads((made_run / "metrics.json").read_text())
    assert "ase.calculators.emt:EMT" in written
    assert "20 training structures (160 atoms; 600 K)" in written
    assert "tiny was trained for 3 epochs" in written
    for preset in ("tiny", "ultra-tiny"):
        error = metrics[preset]["test"]["all"]["force_rmse_mev_per_a"]
        assert f"{error:.1f} meV/Å ({preset})" in written


def test_every_reference_is_cited_and_every_citation_has_a_reference(made_run):
    written = methods(read_run(made_run))
    cited = {int(number) for number in re.findall(r"\[(\d+)\]", written)}
    assert cited == set(range(1, written.count("<li>") + 1))
    assert "10.1088/1361-648X/aa680e" in written


def test_text_from_outside_is_no_markup(run_folder, change):
    change("metrics.json", lambda held: held["run"].update(teacher={"name": "<b>"}))
    assert "<b>" not in methods(read_run(run_folder))


def test_the_page_ends_with_it(run_folder):
    page = write_report(run_folder).page.read_text(encoding="utf-8")
    assert page.rindex('id="s-methods"') > page.rindex('id="s-exports"')
