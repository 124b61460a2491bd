"""Learning curves: the verdict on curves whose limit is known, nested subsets, and the command."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from ase.io import write

from limbeck.config import LabelKeys
from limbeck.dataset.read import labelled_from_atoms
from limbeck.errors import InputError
from limbeck.planning.limit import find_limit, fit_slope
from limbeck.planning.plan import untrained_student
from limbeck.workflows.curve_data import nested_order, read_curve_data
from limbeck.workflows.learning_curve import (
    CurveSettings,
    Point,
    busy_machine,
    limit_of,
    plan_points,
    shorter_than_run,
)

from .conftest import labelled_copper

LABELS, TIMES, WIDTHS = (100, 200, 400, 800), (20, 60, 180), (21_000, 71_000, 405_000)


def curves(data=0.0, budget=0.0, capacity=0.0, floor=1.0, noise=0.0, seed=0):
    """An error that is a sum of a power law of each resource and a floor, at the student (800, 180, 71000)."""
    rng = np.random.default_rng(seed)

    def error(n, t, p):
        raw = floor + data * (n / 800) ** -0.5 + budget * (t / 180) ** -0.5 + capacity * (p / 71_000) ** -0.4
        return 10 * raw * float(np.exp(noise * rng.normal()))

    own = error(800, 180, 71_000)

    def at(x, centre, value):
        return (x, own if x == centre else value)

    return own, {
        "labels": [at(n, 800, error(n, 180, 71_000)) for n in LABELS],
        "time": [at(t, 180, error(800, t, 71_000)) for t in TIMES],
        "width": [at(p, 71_000, error(800, 180, p)) for p in WIDTHS],
    }


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        ({"data": 5.0, "budget": 0.3, "capacity": 0.3}, "data"),
        ({"data": 0.3, "budget": 5.0, "capacity": 0.3}, "budget"),
        ({"data": 0.3, "budget": 0.3, "capacity": 5.0}, "capacity"),
        ({"floor": 20.0, "data": 0.2, "budget": 0.2, "capacity": 0.2}, "none"),
    ],
)
def test_the_limit_of_known_curves_is_found(parts, limit, noise):
    own, series = curves(**parts, noise=noise, seed=1)
    found = find_limit("tiny", own, series)
    assert found.limit == limit
    assert "tiny" in found.text
    assert f"{own:.1f} meV/Å" in found.text


def test_gains_are_those_of_a_doubling():
    # error ~ N^-1/2: a doubling takes 1 - 2^-1/2 away
    own, series = curves(data=5.0, floor=0.0)
    found = find_limit("tiny", own, series)
    assert found.slopes["labels"] == pytest.approx(0.5)
    assert found.gains == pytest.approx({"labels": 1 - 2**-0.5, "time": 0.0, "width": 0.0}, abs=1e-12)
    assert "doubling labels changes its force RMSE, now 50.0 meV/Å, by -29%" in found.text
    x = np.array([1.0, 3.0, 10.0, 40.0])
    y = 7 * x**-0.3 * np.array([1.1, 0.9, 1.05, 0.97])
    assert fit_slope(x, y) == pytest.approx(-np.polyfit(np.log(x), np.log(y), 1)[0])


@pytest.mark.parametrize(
    ("name", "error", "series", "limit", "text"),
    [
        ("tiny", *curves(data=5.0, budget=4.0), "data", "with budget close behind"),
        # a far worse narrow student says nothing of a wider one, which here is no better
        ("tiny", 30.0, {"width": [(21e3, 90.0), (71e3, 30.0), (405e3, 30.0)]}, "none", ""),
        # the widest has but the narrower to compare with
        ("original", 30.0, {"width": [(71e3, 60.0), (405e3, 30.0)]}, "capacity", ""),
        ("tiny", 30.0, {"labels": [(100, 60.0), (200, 30.0)]}, "data",
         "the training time, the parameters: not measured"),
        ("tiny", 30.0, {"labels": [(100, 60.0)]}, "unknown", ""),
        # a change that is past any use is no figure
        ("tiny", 40.0, {"time": [(14, 60.0), (42, 40.0)], "width": [(71e3, 40.0), (405e3, 8e3)]}, "budget",
         "doubling the parameters by more than +100%"),
    ],
)  # fmt: skip
def test_the_limit_of_partial_curves(name, error, series, limit, text):
    found = find_limit(name, error, series)
    assert found.limit == limit
    assert text in found.text


def test_points_near_the_student_come_first():
    points = plan_points(
        CurveSettings("tiny", labels=(50, 100, 200), times=(10.0, 30.0), widths=("ultra-tiny", "original"))
    )
    assert points[0] == Point(200, 30.0, "tiny")
    assert points[1:4] == [Point(100, 30.0, "tiny"), Point(200, 10.0, "tiny"), Point(200, 30.0, "original")]
    assert points[4:] == [Point(50, 30.0, "tiny"), Point(200, 30.0, "ultra-tiny")]


def test_rows_that_were_not_trained_count_nothing_and_a_busy_machine_is_reported():
    row = {"labels": 200, "seconds": 30.0, "preset": "tiny", "parameters": 71_000, "skipped": None}
    own = row | {"force_rmse_mev_per_a": 30.0, "trained_s": 30.0, "epochs": 15.0}
    half = own | {"labels": 100, "force_rmse_mev_per_a": 60.0, "epochs": 29.0}  # 97 labels/s beside 100
    lost = row | {"labels": 50, "skipped": "no time left"}
    assert limit_of("tiny", [own, half, lost]).slopes["labels"] == pytest.approx(1.0)
    assert limit_of("tiny", [row | {"skipped": "no time left"}, half]).limit == "unknown"
    assert busy_machine([own, half, own | {"preset": "original", "epochs": 2.0}, lost]) == ""
    busy = busy_machine([own, half, own | {"seconds": 10.0, "trained_s": 15.0, "epochs": 1.0}])
    assert "tiny trained on 13.3 to 100 labels/s" in busy


def test_a_curve_of_shorter_trainings_than_the_runs_says_so():
    assert shorter_than_run("tiny", 42.0, None) == shorter_than_run("tiny", 600.0, 718.0) == ""
    told = shorter_than_run("tiny", 42.0, 718.0)
    assert told.startswith("the run's own tiny trained 11 min 58 s, these 42 s at most")
    assert "--times 80s,239s,718s" in told


@pytest.fixture
def finished(tmp_path):
    """A run folder as far as curves need one, with a configuration of an earlier version."""
    folder = tmp_path / "run"
    folder.mkdir()
    training = "training:\n  epochs: 30\n  learning_rate: null\n  weight_decay: 0.1\n"
    (folder / "config.yaml").write_text(f"# Limbeck run: the resolved configuration\nseed: 0\n{training}")
    (folder / "metrics.json").write_text(json.dumps({"tiny": {"run": {"training": {"seconds": 718.3}}}}))
    write(folder / "labels", labelled_copper(20), format="extxyz")
    for k, name in enumerate(("test", "validation")):
        write(folder / f"{name}.extxyz", labelled_copper(6, seed=1 + k))
    return folder


def test_a_run_of_an_earlier_version_has_its_settings_and_times(finished):
    data = read_curve_data(finished, LabelKeys(), 0, print)
    assert (data.settings.learning_rate, data.settings.weight_decay) == (4e-3, 0.1)
    assert data.settings.epochs is None  # how long is what a curve varies
    assert data.trained_s == {"tiny": 718.3}
    config = finished / "config.yaml"
    config.write_text(config.read_text().replace("weight_decay: 0.1", "weight_decay: much"))
    with pytest.raises(
        InputError, match=r"config.yaml:6: wrong value for 'weight_decay'; got 'much'; wanted"
    ):
        read_curve_data(finished, LabelKeys(), 0, print)


def test_subsets_are_nested_hold_whole_families_and_every_element():
    frames = []
    for k in range(12):
        atoms = labelled_copper(1, seed=k)[0]
        atoms.info |= {
            "group": f"md-{k // 3}",
            "config_type": "md",
            "temperature_K": 300.0 * (1 + k // 3 % 2),
        }
        if k >= 9:
            atoms.numbers[0] = 47
        frames.append(atoms)
    labelled = labelled_from_atoms(frames, "here")
    order = nested_order(labelled, seed=0)
    assert sorted(order) == list(range(12))
    groups = labelled.group[order]
    # each group stands together
    assert len([1 for a, b in itertools.pairwise(groups) if a != b]) == 3
    # silver is in one group of four, which stands among the first two
    assert "md-3" in set(groups[:6])
    # both temperatures are in the first two groups
    assert set(labelled.temperature_k[order[:6]]) == {300.0, 600.0}
    assert (nested_order(labelled, seed=0) == order).all()


@pytest.mark.slow
@pytest.mark.ci
def test_the_command_trains_judges_and_goes_on(run, tmp_path):
    data, out, told = tmp_path / "copper.extxyz", tmp_path / "curve", tmp_path / "curve.json"
    write(data, labelled_copper(40))
    options = ("--preset", "ultra-tiny", "--labels", "10,26", "--times", "1s,2s", "--widths", "none")
    arguments = ("learning-curve", data, *options, "--budget", "10m", "--out", out, "--json", told)
    code, printed, err = run(*arguments)
    assert code == 0, err
    found = json.loads(told.read_text())
    assert found["test_structures"] == 8
    assert [(p["labels"], p["seconds"]) for p in found["points"]] == [(26, 2.0), (10, 2.0), (26, 1.0)]
    assert all(p["skipped"] is None and p["force_rmse_mev_per_a"] > 0 for p in found["points"])
    assert found["text"] in printed
    assert set(found["slopes"]) == {"labels", "time"}
    assert run(*arguments, "--plot", tmp_path / "curve.png")[0] == 0
    assert json.loads(told.read_text())["points"] == found["points"]  # nothing was trained again
    # for the report of a run that the folder stands in
    assert json.loads((out / "ultra-tiny.json").read_text()) == json.loads(told.read_text())
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def trained(monkeypatch) -> list[float]:
    """A training is an untrained student, 50 s after its time on a clock of its own; their times."""
    clock, times = [1000.0], list[float]()

    def train(preset, sets, config, stop, folder, **_):
        times.append(stop.budget_s)
        clock[0] += stop.budget_s + 50  # for preparing
        progress = SimpleNamespace(labels_seen=20, spent_s=stop.budget_s)
        record = untrained_student(preset, labelled_copper(1)[0], 4.0).record
        return record, SimpleNamespace(progress=progress, validation={})

    monkeypatch.setattr("limbeck.workflows.learning_curve.train_student", train)
    monkeypatch.setattr("limbeck.workflows.learning_curve.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("limbeck.cli.results.invocation", lambda _: SimpleNamespace(began=clock[0] - 5))
    return times


def test_times_that_the_budget_gave_stand_when_the_command_goes_on(run, copper_file, tmp_path, trained):
    arguments = ("learning-curve", copper_file, "--preset", "tiny", "--widths", "none", "--labels", 26)
    assert run(*arguments, "--out", tmp_path / "out", "--budget", "10m")[0] == 0
    assert run(*arguments, "--out", tmp_path / "out", "--budget", "10m")[0] == 0
    (kept,) = (tmp_path / "out").glob("times-*.json")
    assert set(trained) <= set(json.loads(kept.read_text()))
    assert len(trained) <= 3
    longest = max(trained)
    assert run(*arguments, "--out", tmp_path / "out", "--budget", "20m")[0] == 0
    assert max(trained) > 1.5 * longest


def test_a_point_that_would_outlast_the_budget_is_not_begun(run, copper_file, tmp_path, trained):
    """The second costs what the first did beyond its training time."""
    options = ("--preset", "tiny", "--widths", "none", "--labels", "10,26", "--times", "10s,20s")
    arguments = ("learning-curve", copper_file, *options, "--out", tmp_path / "out")
    assert run(*arguments, "--json", tmp_path / "told.json", "--budget", "180s")[0] == 0
    points = json.loads((tmp_path / "told.json").read_text())["points"]
    # 70 s each; the third would take 60 s where 35 s are left
    assert [p["skipped"] for p in points] == [None, None, "no time left in 3 min 00 s"]
    assert trained == [20.0, 20.0]


def test_wrong_numbers_are_refused(refused, copper_file, tmp_path):
    base = ("learning-curve", copper_file, "--out", tmp_path / "out")
    assert "unknown preset; got 'tini'" in refused(*base, "--preset", "tini")
    assert "--labels: not a list of numbers" in refused(*base, "--preset", "tiny", "--labels", "5,x")
    line = refused(*base, "--preset", "tiny", "--labels", "5,500")
    assert "--labels: numbers of labels that there are not; got [5, 500]; wanted from 2 to 26" in line
    assert "plots are PNG" in refused(*base, "--preset", "tiny", "--plot", "curve.html")
    assert not (tmp_path / "out").exists()
