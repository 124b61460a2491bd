"""The run folder: nothing that is not a run's own is ever removed."""

from __future__ import annotations

import pytest

from limbeck.errors import InputError
from limbeck.pipeline.run_folder import RunFolder


def test_a_users_files_are_left_alone(tmp_path):
    (tmp_path / "config.yaml").write_text("bulk: Cu\n")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="the run folder holds files of something else"):
            RunFolder(tmp_path).prepare("bulk: Cu\n", overwrite=overwrite)
    assert (tmp_path / "config.yaml").read_text() == "bulk: Cu\n"


def test_overwrite_removes_what_a_run_wrote_and_no_more(tmp_path):
    run = tmp_path / "run"
    RunFolder(run).prepare("seed: 1\n", overwrite=False)
    (run / "labels").mkdir()
    (run / "labels" / "shard-00000.lbk").write_bytes(b"x")
    (run / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="got other values of seed;"):
        RunFolder(run).prepare("seed: 2\n", overwrite=False)
    assert (run / "labels").exists()
    RunFolder(run).prepare("seed: 2\n", overwrite=True)
    assert not (run / "labels").exists()
    assert (run / "notes.txt").read_text() == "mine"
    (run / "metrics.json").write_text("{}")
    RunFolder(run).prepare("seed: 2\n", overwrite=False)
    said: list[str] = []
    RunFolder(run).say_if_finished(said.append)
    assert "is finished and its students stay as they are; remedy: --overwrite starts over" in said[0]
    RunFolder(run).prepare("seed: 2\n", overwrite=True)
    RunFolder(run).say_if_finished(said.append)
    assert not (run / "metrics.json").exists()
    assert len(said) == 1


def test_another_budget_or_place_is_the_same_run(tmp_path):
    RunFolder(tmp_path / "run").prepare(
        "budget: 10m\nout: a\nseed: 1\nlabelling: {workers: 1}\n", overwrite=False
    )
    (tmp_path / "run" / "labels").mkdir()
    RunFolder(tmp_path / "run").prepare(
        "budget: 9m\nout: b\nseed: 1\nlabelling: {workers: 2}\n", overwrite=False
    )
