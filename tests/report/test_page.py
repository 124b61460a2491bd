"""The page as text: complete, escaped, alone."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from limbeck.core.hashing import hash_file
from limbeck.errors import InputError
from limbeck.labelling.store import LabelStore
from limbeck.pipeline.reporting import gather, write_report
from limbeck.report.evidence import Evidence
from limbeck.report.page import render
from limbeck.report.reading import read_run
from limbeck.report.recommendation import Recommendation, preset_rows
from tests.report.conftest import bench_rows, complete, labelled_frame, unpack

HOSTILE = "<script>alert('x')</script>&\"'"


class Page(HTMLParser):
    """Elements of a page: what it would load, scripts, and text outside of scripts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page.read_text(encoding="utf-8"))

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


def test_nothing_is_loaded_from_anywhere(page):
    assert page.loads == ["data:,"]
    style = (Path(__file__).parents[2] / "src/limbeck/report/assets/page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_there_is_one_copy_of_the_library_and_the_page_is_small(run_folder):
    complete(run_folder)
    written = write_report(run_folder).page
    assert written == run_folder / "report.html"
    assert written.stat().st_size < 6e6
    assert sum("Plotly" in script and len(script) > 1e6 for script in Page(written).scripts) == 1


def test_every_figure_has_a_place_and_data_that_plotly_accepts(run_folder):
    complete(run_folder)
    page = Page(write_report(run_folder).page)
    names = [*page.figures["plots"], *page.figures["views"]]
    assert len(set(page.ids)) == len(page.ids)
    assert set(names) <= set(page.ids)
    assert {
        "pareto", "distances", "energies", "force-sizes", "temperatures", "origins", "environments-Cu",
        "environments-Au", "learning-forces", "learning-energies", "parity-forces-tiny", "parity-energies-tiny",
        "error-distribution", "error-by-force", "by-element", "by-temperature", "bench-size", "bench-batch",
        "bench-memory", "view-start",
    } <= set(names)  # fmt: skip
    assert any(name.startswith("view-worst-") for name in names)
    for name, figure in page.figures["plots"].items():
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


def test_what_came_from_where_stands_first(page):
    first = page.text.rindex("Provenance")
    assert first < page.text.index("Recommendation.") < page.text.rindex("Exports")
    for said in (
        "ase.calculators.emt:EMT",
        "LGPL-2.1",
        "a" * 12,
        "b" * 12,
        "limbeck distill --bulk Cu",
        "by group",
    ):
        assert said in page.text, said
    assert "Teacher's forces beyond 8.0 Å: 1.5 meV/Å rms" in page.text


def test_missing_parts_name_the_command_that_makes_them(page):
    assert (
        "limbeck bench copper/tiny.safetensors copper/ultra-tiny.safetensors --json copper/bench.json"
        in page.text
    )
    assert "limbeck export copper/tiny.safetensors --to all --out copper/exports" in page.text


def test_commands_for_a_folder_with_spaces_can_be_pasted(run_folder):
    folder = run_folder.rename(run_folder.parent / "my run")
    text = Page(write_report(folder).page).text
    assert "limbeck bench 'my run/tiny.safetensors' 'my run/ultra-tiny.safetensors' --json" in text
    assert "--to all --out 'my run/exports'" in text


def test_learning_curves_are_shown_with_their_verdict(run_folder, change):
    complete(run_folder)
    page = Page(write_report(run_folder).page)
    assert "Data limits tiny: doubling labels helps." in page.text
    assert "judged on 16 test structures" in page.text
    assert "1 of 5 trainings were not done: no time left in 2 min." in page.text
    # these trainings were shorter than the run's, which makes another student of them
    assert "The run's own tiny trained 10 min 00 s, these 30 s at most" in page.text
    drawn = {
        name: [unpack(figure["data"][0][axis]).tolist() for axis in "xy"]
        for name, figure in page.figures["plots"].items()
        if name.startswith("curve-")
    }
    assert drawn == {
        "curve-tiny-labels": [[10, 20], [60, 30]],
        "curve-tiny-seconds": [[10, 30], [33, 30]],
        "curve-tiny-parameters": [[21_000, 70_000], [31, 30]],
    }
    change("learning-curve/tiny.json", lambda c: c.update(trained_in_run_s=31.0, busy="the machine was busy"))
    text = Page(write_report(run_folder).page).text
    assert "The machine was busy." in text
    assert "The run's own tiny trained" not in text


def test_a_curve_without_the_students_own_point_draws_nothing(run_folder, change):
    complete(run_folder)
    change("learning-curve/tiny.json", lambda c: c["points"][0].update(skipped="it diverged"))
    page = Page(write_report(run_folder).page)
    assert "it diverged" in page.text
    assert not [name for name in page.figures["plots"] if name.startswith("curve-")]


def test_speeds_of_other_files_are_left_out(run_folder, change):
    complete(run_folder)
    own = hash_file(run_folder / "tiny.safetensors")

    def spoil(bench):
        for row in bench["rows"]:
            if row["engine"] != "teacher":
                row["student_sha256"] = own if row["model"] == "tiny" else "0" * 64

    change("bench.json", spoil)
    written = write_report(run_folder)
    tiny, ultra = written.rows
    assert (tiny.atoms_per_s, ultra.atoms_per_s) == (2e4, 5e4)
    assert (tiny.speed_of[:11], ultra.speed_of[:20]) == ("1,000 atoms", "a test structure")
    assert "bench.json is of other files than the run's (ultra-tiny): limbeck bench anew" in written.notes


def test_scattered_timings_are_told(run_folder, change):
    complete(run_folder)
    warned = "rows the timings scatter by more than a fifth"
    change("bench.json", lambda b: [row.update(latency_ms_iqr=0.0) for row in b["rows"]])
    assert warned not in Page(write_report(run_folder).page).text
    change(
        "bench.json", lambda b: b["rows"][0].update(latency_ms_iqr=0.21 * b["rows"][0]["latency_ms_median"])
    )
    assert f"In 1 of 9 {warned}" in " ".join(Page(write_report(run_folder).page).text.split())


def test_which_benchmark_is_shown(run_folder):
    """A user's own, but for limbeck finalize, whose summary has the speeds that it measured itself."""
    for name, rate in (("bench.json", 7e3), ("finalize.bench.json", 9e3)):
        bench = bench_rows()
        for row in bench["rows"]:
            row["atoms_per_s"] = row["atoms_per_s"] and rate
        (run_folder / name).write_text(json.dumps(bench))
    assert write_report(run_folder).rows[0].atoms_per_s == 7e3
    assert write_report(run_folder, results=run_folder).rows[0].atoms_per_s == 9e3
    (run_folder / "bench.json").unlink()
    assert write_report(run_folder).rows[0].atoms_per_s == 9e3


def test_added_parts_are_told(run_folder):
    complete(run_folder)
    text = Page(write_report(run_folder).page).text
    for said in (
        "1,000 atoms, native engine, 2 threads", "longer than 20 s", "tiny.onnx", "c" * 12, "0.0042", "Rounds of learning from failures", "3 of 4", "start 2: atoms collided",
    ):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize("figure", ["12.5", None, True, float("nan"), [1]])
def test_figures_that_are_no_numbers_are_left_out(run_folder, change, figure):
    def spoil(metrics):
        metrics["tiny"]["test"]["all"] = dict.fromkeys(metrics["tiny"]["test"]["all"], figure)
        metrics["tiny"]["run"] |= {"atoms_per_s": figure, "speedup": figure, "nve": figure}
        metrics["tiny"]["on_policy"] = figure
        metrics["run"]["teacher"]["atoms_per_s"] = figure

    change("metrics.json", spoil)
    written = write_report(run_folder, target_force_rmse_mev_per_a=1e6)
    assert written.rows[0].force_rmse is written.rows[0].atoms_per_s is None
    assert written.recommendation.preset == "ultra-tiny"


def test_text_from_outside_is_no_markup(run_folder, change):
    complete(run_folder)

    def spoil(metrics):
        metrics["run"] |= {"name": HOSTILE, "command": HOSTILE}
        metrics["run"]["teacher"]["name"] = HOSTILE
        metrics["tiny"]["run"]["on_policy"] |= {"stable": False, "reason": HOSTILE}
        metrics["run"]["rounds"][0]["students"]["tiny"]["reasons"] = [HOSTILE]

    change("metrics.json", spoil)
    change(
        "exports/tiny.onnx.certificate.json", lambda c: c.update(format=HOSTILE, path=HOSTILE, opset=HOSTILE)
    )
    change("bench.json", lambda b: [row.update(model=HOSTILE, system=HOSTILE) for row in b["rows"]])
    with open(run_folder / "config.yaml", "a", encoding="utf-8") as config:
        config.write(f"smiles: {json.dumps(HOSTILE)}\n# {HOSTILE}\n")
    page = Page(write_report(run_folder).page)
    assert HOSTILE in page.text
    # the data, the library and the page's own script
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
    run = read_run(run_folder)
    page = render(
        run,
        Evidence(),
        preset_rows(run),
        Recommendation(None, ""),
        None,
        "",
    )
    assert "Exports" in page


def test_a_target_of_the_configuration_is_used(run_folder):
    with open(run_folder / "config.yaml", "a", encoding="utf-8") as config:
        config.write("target_force_rmse_mev_per_a: 1.5\n")
    written = write_report(run_folder)
    assert written.recommendation.text.startswith("No preset meets the target of 1.5 meV/Å")
    assert write_report(run_folder, target_force_rmse_mev_per_a=1e9).recommendation.preset == "ultra-tiny"


def test_damaged_labels_are_told_on_the_page(run_folder):
    shard = next((run_folder / "labels").glob("shard-*.lbk"))
    shard.write_bytes(shard.read_bytes()[:-200])
    written = write_report(run_folder)
    assert any("damaged label shard" in note and "other labels are used" in note for note in written.notes)
    assert "damaged label shard" in Page(written.page).text


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
    text = " ".join(Page(written.page).text.split())
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
    text = Page(write_report(run_folder).page).text
    assert "validation structures, which chose the best weights (the run has no test set)" in " ".join(
        text.split()
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
    ("missing", "text"),
    [
        ("metrics.json", "copper: the run is not finished; got no metrics.json; remedy: start the command of the run again: it goes on where it was"),
        ("config.yaml", "copper: this is no run folder; got no config.yaml in it; wanted a folder that limbeck distill or limbeck train has written"),
    ],
)  # fmt: skip
def test_what_is_no_finished_run_is_refused_in_a_line(run_folder, missing, text):
    (run_folder / missing).unlink()
    with pytest.raises(InputError) as caught:
        read_run(run_folder)
    assert str(caught.value).removeprefix(str(run_folder.parent) + "/") == text


@pytest.mark.parametrize("content", ["", "[]", '{"run": {}}', '{"tiny": 3}'])
def test_metrics_that_judge_nobody_are_refused(run_folder, content):
    (run_folder / "metrics.json").write_text(content)
    with pytest.raises(InputError, match="metrics.json holds no judged student"):
        read_run(run_folder)


def test_the_command_writes_page_cards_and_json(made_run, tmp_path, capsys):
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
