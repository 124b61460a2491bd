"""The page as text: complete, escaped, alone; and the methods paragraph in it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from limbeck.core.hashing import hash_file
from limbeck.errors import InputError
from limbeck.records.label_store import LabelStore
from limbeck.report.page import render
from limbeck.report.provenance import methods
from limbeck.report.reading import Evidence, read_run
from limbeck.report.recommendation import Recommendation, preset_rows
from limbeck.workflows.report import gather, write_report
from tests.report.conftest import TEACHER, bench_rows, labelled_frame, unpack

HOSTILE = "<script>alert('x')</script>&\"'"


class Page(HTMLParser):
    """Elements of a page: what it would load, scripts, and text outside of scripts."""

    def __init__(self, page: Path | str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page if isinstance(page, str) else page.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "poster", "data") or (name == "href" and tag != "a"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "script":
            self.scripts.append("")
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.text += data

    @property
    def figures(self) -> dict[str, dict]:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def page(made_run, tmp_path_factory) -> Page:
    """The page of a run to which nothing was added."""
    return Page(write_report(made_run, tmp_path_factory.mktemp("page") / "report.html").page)


@pytest.fixture(scope="module")
def full(complete_run, tmp_path_factory) -> Page:
    """The page of a run with everything that other commands add."""
    written = write_report(complete_run, tmp_path_factory.mktemp("page") / "report.html").page
    assert written.stat().st_size < 6e6
    return Page(written)


def quick(folder: Path) -> Page:
    """The page of a run without a look at its structures, and without the drawing library."""
    run = read_run(folder)
    return Page(render(run, Evidence(), preset_rows(run), Recommendation(None, ""), None, ""))


def test_nothing_is_loaded_and_there_is_one_copy_of_the_library(full):
    assert full.loads == ["data:,"]
    style = (Path(__file__).parents[2] / "src/limbeck/report/assets/page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    assert sum("Plotly" in script and len(script) > 1e6 for script in full.scripts) == 1


def test_every_figure_has_a_place_and_data_that_plotly_accepts(full):
    names = [*full.figures["plots"], *full.figures["views"]]
    assert len(set(full.ids)) == len(full.ids)
    assert set(names) <= set(full.ids)
    assert {
        "pareto", "distances", "energies", "force-sizes", "temperatures", "origins", "environments-Cu",
        "environments-Au", "learning-forces", "learning-energies", "parity-forces-tiny", "parity-energies-tiny",
        "error-distribution", "error-by-force", "by-element", "by-temperature", "bench-size", "bench-batch",
        "bench-memory", "view-start",
    } <= set(names)  # fmt: skip
    assert any(name.startswith("view-worst-") for name in names)
    for name, figure in full.figures["plots"].items():
        go.Figure(figure)  # raises where a key or value is none of plotly's
        drawn = [trace for trace in figure["data"] if len(unpack(trace["x"]))]
        assert drawn, name
        for trace in drawn:
            assert len(unpack(trace["x"])) == len(unpack(trace["y"])), name
            if trace["type"] == "scatter":
                assert np.isfinite(unpack(trace["x"])).all(), name
                assert np.isfinite(unpack(trace["y"])).all(), name
        assert figure["layout"]["xaxis"]["title"]["text"] or name in ("by-element",), name


def test_the_drawn_parity_is_that_of_the_student(page, made_run):
    from limbeck.dataset.read import read_labelled
    from limbeck.runtime.student import Student

    test = read_labelled(made_run / "test.extxyz")
    predicted = Student.load(made_run / "tiny.safetensors").evaluate(test.structures).forces
    traces = [t for t in page.figures["plots"]["parity-forces-tiny"]["data"] if t["name"] in ("Cu", "Au")]
    x = np.concatenate([unpack(t["x"]) for t in traces])
    y = np.concatenate([unpack(t["y"]) for t in traces])
    order, wanted = np.argsort(x), np.argsort(test.labels.forces.ravel())
    assert np.allclose(x[order], test.labels.forces.ravel()[wanted], atol=1e-5)
    assert np.allclose(np.sort(y), np.sort(predicted.ravel()), atol=1e-4)


def test_the_page_of_a_bare_run_names_where_it_came_from_and_what_is_missing(page):
    first = page.text.rindex("Provenance")
    assert first < page.text.index("Recommendation.") < page.text.rindex("Exports")
    for said in (
        TEACHER, "LGPL-2.1", "a" * 12, "b" * 12, "limbeck distill --bulk Cu", "by group",
        "Teacher's forces beyond 8.0 Å: 1.5 meV/Å rms",
        "limbeck bench copper/tiny.safetensors copper/ultra-tiny.safetensors --json copper/bench.json",
        "limbeck export copper/tiny.safetensors --to all --out copper/exports",
    ):  # fmt: skip
        assert said in page.text, said
    assert page.ids.index("s-methods") > page.ids.index("s-exports")


def test_commands_for_a_folder_with_spaces_can_be_pasted(run_folder):
    text = quick(run_folder.rename(run_folder.parent / "my run")).text
    assert "limbeck bench 'my run/tiny.safetensors' 'my run/ultra-tiny.safetensors' --json" in text
    assert "--to all --out 'my run/exports'" in text


def test_added_parts_are_told(full):
    for said in (
        "1,000 atoms, native engine, 2 threads", "longer than 20 s", "tiny.onnx", "c" * 12, "0.0042",
        "Active learning", "3 of 4", "start 2: atoms collided",
        "Data limits tiny: doubling labels helps.", "evaluated on 16 test structures",
        "1 of 5 trainings were not done: no time left in 2 min.",
        # these trainings were shorter than the run's, which makes another student of them
        "The run's own tiny trained 10 min 00 s, these 30 s at most",
    ):  # fmt: skip
        assert said in full.text, said
    drawn = {
        name: [unpack(figure["data"][0][axis]).tolist() for axis in "xy"]
        for name, figure in full.figures["plots"].items()
        if name.startswith("curve-")
    }
    assert drawn == {
        "curve-tiny-labels": [[10, 20], [60, 30]],
        "curve-tiny-seconds": [[10, 30], [33, 30]],
        "curve-tiny-parameters": [[21_000, 70_000], [31, 30]],
    }


def test_what_a_learning_curve_leaves_out_is_told(full_folder, change):
    change("learning-curve/tiny.json", lambda c: c.update(trained_in_run_s=31.0, busy="the machine was busy"))
    text = quick(full_folder).text
    assert "The machine was busy." in text
    assert "The run's own tiny trained" not in text
    change("learning-curve/tiny.json", lambda c: c["points"][0].update(skipped="it diverged"))
    page = quick(full_folder)
    assert "it diverged" in page.text
    assert not [name for name in page.figures["plots"] if name.startswith("curve-")]


def test_speeds_of_other_files_are_left_out(full_folder, change):
    own = hash_file(full_folder / "tiny.safetensors")

    def spoil(bench):
        for row in bench["rows"]:
            if row["engine"] != "teacher":
                row["student_sha256"] = own if row["model"] == "tiny" else "0" * 64

    change("bench.json", spoil)
    run = read_run(full_folder)
    tiny, ultra = preset_rows(run)
    assert (tiny.atoms_per_s, ultra.atoms_per_s) == (2e4, 5e4)
    assert (tiny.speed_of[:11], ultra.speed_of[:16]) == ("1,000 atoms", "a test structure")
    assert "bench.json is of other files than the run's (ultra-tiny): limbeck bench anew" in run.notes


def test_scattered_timings_are_told(full_folder, change):
    warned = "rows the timings scatter by more than a fifth"
    change("bench.json", lambda b: [row.update(latency_ms_iqr=0.0) for row in b["rows"]])
    assert warned not in quick(full_folder).text
    change(
        "bench.json", lambda b: b["rows"][0].update(latency_ms_iqr=0.21 * b["rows"][0]["latency_ms_median"])
    )
    assert f"In 1 of 9 {warned}" in quick(full_folder).text


def test_which_benchmark_is_shown(run_folder):
    """A user's own, but for limbeck finalize, whose summary has the speeds that it measured itself."""
    for name, rate in (("bench.json", 7e3), ("finalize.bench.json", 9e3)):
        bench = bench_rows()
        for row in bench["rows"]:
            row["atoms_per_s"] = row["atoms_per_s"] and rate
        (run_folder / name).write_text(json.dumps(bench))
    assert preset_rows(read_run(run_folder))[0].atoms_per_s == 7e3
    assert preset_rows(read_run(run_folder, run_folder))[0].atoms_per_s == 9e3
    (run_folder / "bench.json").unlink()
    assert preset_rows(read_run(run_folder))[0].atoms_per_s == 9e3


@pytest.mark.parametrize("figure", ["12.5", None, True, float("nan"), [1]])
def test_figures_that_are_no_numbers_are_left_out(run_folder, change, figure):
    def spoil(metrics):
        metrics["tiny"]["test"]["all"] = dict.fromkeys(metrics["tiny"]["test"]["all"], figure)
        metrics["tiny"]["run"] |= {"atoms_per_s": figure, "speedup": figure, "nve": figure}
        metrics["tiny"]["on_policy"] = figure
        metrics["run"]["teacher"]["atoms_per_s"] = figure

    change("metrics.json", spoil)
    row, _ = preset_rows(read_run(run_folder))
    assert row.force_rmse is row.atoms_per_s is row.drift is row.on_policy_force_rmse is None
    assert "Presets" in quick(run_folder).text


def test_text_from_outside_is_no_markup(full_folder, change):
    def spoil(metrics):
        metrics["run"] |= {"name": HOSTILE, "command": HOSTILE}
        metrics["run"]["teacher"]["name"] = HOSTILE
        metrics["tiny"]["run"]["on_policy"] |= {"stable": False, "reason": HOSTILE}
        metrics["run"]["active_learning"][0]["students"]["tiny"]["reasons"] = [HOSTILE]

    change("metrics.json", spoil)
    change(
        "exports/tiny.onnx.certificate.json", lambda c: c.update(format=HOSTILE, path=HOSTILE, opset=HOSTILE)
    )
    change("bench.json", lambda b: [row.update(model=HOSTILE, system=HOSTILE) for row in b["rows"]])
    with open(full_folder / "config.yaml", "a", encoding="utf-8") as config:
        config.write(f"smiles: {json.dumps(HOSTILE)}\n# {HOSTILE}\n")
    page = quick(full_folder)
    assert HOSTILE in page.text
    # the data, the (here empty) library and the page's own script
    assert len(page.scripts) == 3
    assert not any("alert('x')" in script for script in page.scripts[1:])
    assert "<" not in page.scripts[0]


@pytest.mark.parametrize(
    "name",
    ["bench.json", "exports/tiny.onnx.certificate.json", "learning-curve/tiny.json"],
)
@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "3", "{}", '{"rows": 3}', '{"rows": [3, {}, {"model": "x"}]}', '{"rows": [], "machine": 3}',
        '{"path": 3}', '{"path": "x", "parity": [], "latency": 3, "bytes": "many", "verdict": []}',
        '{"exports": [3, {"path": "x", "parity": {"against_student": {"a": {"share": "b"}}}}]}',
        '{"rows": [{"model": "x", "engine": "native", "atoms": 3, "batch": 1, "atoms_per_s": NaN}]}',
    ],
)  # fmt: skip
def test_files_of_other_commands_are_read_with_care(run_folder, name, content):
    path = run_folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    assert "Exports" in quick(run_folder).text


def test_damaged_labels_are_told_on_the_page(run_folder):
    shard = next((run_folder / "labels").glob("shard-*.lbk"))
    shard.write_bytes(shard.read_bytes()[:-200])
    notes = gather(read_run(run_folder)).notes
    assert any("damaged label shard" in note and "other labels are used" in note for note in notes)


def test_a_test_set_that_an_earlier_version_stored_among_the_labels_is_no_training_data(run_folder):
    before = gather(read_run(run_folder)).learned
    with LabelStore(run_folder / "test") as test, LabelStore(run_folder / "labels") as labels:
        labels.append_many(test.records())
    shutil.rmtree(run_folder / "test")
    found = gather(read_run(run_folder))
    assert len(found.learned) == len(before) == 20
    np.testing.assert_array_equal(found.learned.labels.energy, before.labels.energy)
    assert any("16 of 36 labels are left out: they are of a test set" in note for note in found.notes)


def test_a_run_without_its_data_still_has_a_page(run_folder):
    for name in ("test.extxyz", "structures.extxyz", "tiny.safetensors"):
        (run_folder / name).unlink()
    shutil.rmtree(run_folder / "labels")
    shutil.rmtree(run_folder / "train")
    (run_folder / "bench.json").write_text("{")
    written = write_report(run_folder)
    text = Page(written.page).text
    assert "test.extxyz is not in the run folder" in text
    assert "bench.json cannot be read" in text
    assert "tiny is left out of the figures" in text
    assert "No training log was found." in text
    assert [path.name for path in written.cards] == ["ultra-tiny.card.md"]


def test_a_run_of_own_labels_is_compared_on_validation_structures(run_folder, change):
    (run_folder / "test.extxyz").rename(run_folder / "validation.extxyz")
    change(
        "metrics.json",
        lambda m: [m[p].pop("test") for p in ("tiny", "ultra-tiny")] and m["run"].pop("teacher"),
    )
    run = read_run(run_folder)
    assert run.compared_on.name == "validation.extxyz"
    assert (
        "validation structures, which chose the best weights (the run has no test set)"
        in quick(run_folder).text
    )


def test_one_structure_of_one_atom_is_no_obstacle(run_folder):
    from ase.io import write

    frame = labelled_frame(0, None, "", "")
    write(run_folder / "test.extxyz", frame)
    write(run_folder / "structures.extxyz", frame[:1])
    page = Page(write_report(run_folder).page)
    assert "view-start" in page.figures["views"]
    assert "by-temperature" not in page.figures["plots"]


@pytest.mark.parametrize(
    ("missing", "what", "fact"),
    [
        ("metrics.json", "the run is not finished", "run the same command again"),
        ("config.yaml", "this is no run folder", "limbeck distill or limbeck train"),
    ],
)
def test_what_is_no_finished_run_is_refused(run_folder, missing, what, fact):
    (run_folder / missing).unlink()
    with pytest.raises(InputError, match=f"copper: {what}; got no {missing}.*{fact}"):
        read_run(run_folder)


@pytest.mark.parametrize("content", ["", "[]", '{"run": {}}', '{"tiny": 3}'])
def test_metrics_that_judge_nobody_are_refused(run_folder, content):
    (run_folder / "metrics.json").write_text(content)
    with pytest.raises(InputError, match="metrics.json holds no evaluated student"):
        read_run(run_folder)


def test_the_command_writes_page_cards_and_json(made_run, tmp_path, capsys):
    """A target of the command comes before that of the configuration."""
    from limbeck import cli

    out, figures = tmp_path / "page.html", tmp_path / "report.json"
    code = cli.main(
        ["report", str(made_run), "--out", str(out), "--target-force-rmse", "1e9", "--json", str(figures)]
    )
    said = capsys.readouterr().out
    assert code == 0
    assert "Use ultra-tiny: the cheapest preset" in said
    assert f"wrote {out}" in said
    assert json.loads(figures.read_text())["recommendation"]["preset"] == "ultra-tiny"
    # a run folder that nobody may write to can be reported on elsewhere
    assert (tmp_path / "tiny.card.md").read_text().startswith("---\nlicense: ")
    assert not (made_run / "tiny.card.md").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--target-force-rmse", "-3"],
            "--target-force-rmse: the target is no error; got -3.0; wanted meV/Å, above zero",
        ),
        (["--out", "page.pdf"], "page.pdf: the report is a page; wanted a name that ends in .html"),
    ],
)
def test_options_that_make_no_sense_are_refused(made_run, arguments, text, capsys):
    from limbeck import cli

    assert cli.main(["report", str(made_run), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


def test_a_target_of_the_configuration_is_used(run_folder):
    with open(run_folder / "config.yaml", "a", encoding="utf-8") as config:
        config.write("target_force_rmse_mev_per_a: 1.5\n")
    assert "No preset meets the target of 1.5 meV/Å" in write_report(run_folder).recommendation.text


def test_the_methods_paragraph_names_data_settings_and_errors_with_references(made_run):
    written = methods(read_run(made_run))
    metrics = json.loads((made_run / "metrics.json").read_text())
    for said in (TEACHER, "20 training structures (160 atoms; 600 K)", "tiny was trained for 3 epochs"):
        assert said in written
    for preset in ("tiny", "ultra-tiny"):
        error = metrics[preset]["test"]["all"]["force_rmse_mev_per_a"]
        assert f"{error:.1f} meV/Å ({preset})" in written
    cited = {int(number) for number in re.findall(r"\[(\d+)\]", written)}
    assert cited == set(range(1, written.count("<li>") + 1))
    assert "10.1088/1361-648X/aa680e" in written
