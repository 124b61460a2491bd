"""The loop: it learns, it can be interrupted anywhere, both engines take the same steps."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.errors import InputError, LimbeckError
from limbeck.students.specification import Architecture, flatten, initial_weights
from limbeck.training.checkpoint import Checkpoint
from limbeck.training.config import TrainingConfig
from limbeck.training.data import TrainingData
from limbeck.training.loop import Stop
from limbeck.training.trainer import Trainer

from .tools import make_trainer, mixed_set, prepared


class Interrupted(Exception):
    """What the tests stop a run with."""


def stop_at(call: int):
    """A report that raises when it is called the ``call``-th time."""
    calls = []

    def report(done: float, text: str) -> None:
        calls.append(text)
        if len(calls) == call:
            raise Interrupted

    return report


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_lowers_the_error(tmp_path):
    trained = make_trainer(tmp_path, stop=Stop(epochs=15)).run()
    rows = rows_of(tmp_path)
    first = rows[0]["validation_force_rmse_mev_per_a"]
    assert trained.validation["force_rmse_mev_per_a"] < first / 2
    assert rows[-1]["done"] == 1.0
    assert trained.progress.epoch == 15
    assert rows[-1]["step"] == trained.progress.step
    assert trained.progress.labels_seen == 15 * 24
    assert trained.figures()["training_loss"] == rows[-1]["training_loss"] < rows[0]["training_loss"] / 4
    assert {"labels_per_s", "atom_steps_per_s", "learning_rate", "spent_s"} <= set(rows[0])


def test_it_learns_molecules_and_crystals_together(tmp_path):
    data = prepared(mixed_set(6))
    architecture = Architecture(
        (1, 8, 29, 79), hidden_dim=16, interactions=2, rbf=6, gate_width=8, readout_width=8, cutoff=4.0
    )
    start = flatten(architecture, initial_weights(architecture, seed=0, mean_neighbours=40.0))
    config = TrainingConfig(batch_atoms=24, threads=1)
    trained = Trainer(
        architecture, data, data, config, Stop(epochs=4), tmp_path, start=start, run_hash="mixed"
    ).run()
    first = rows_of(tmp_path)[0]
    assert trained.validation["force_rmse_mev_per_a"] < first["validation_force_rmse_mev_per_a"]
    assert np.isfinite(trained.flat).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Folder of a run of one epoch; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    make_trainer(folder, stop=Stop(epochs=1)).run()
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize(("call", "precision"), [(1, "float64"), (7, "float32"), (13, "float64")])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, call, precision):
    settings = {"stop": Stop(epochs=3), "precision": precision, "threads": 2}
    whole = make_trainer(tmp_path / "whole", **settings).run()
    with pytest.raises(Interrupted):
        make_trainer(tmp_path / "parts", **settings, report=stop_at(call)).run()
    resumed = make_trainer(tmp_path / "parts", **settings).run()
    np.testing.assert_array_equal(resumed.flat, whole.flat)
    assert resumed.validation == whole.validation
    ends = [Checkpoint.read(tmp_path / part / "last.safetensors") for part in ("whole", "parts")]
    for name in ("weights", "ema", "best", "optimizer_mean", "optimizer_left_0"):
        np.testing.assert_array_equal(ends[1].arrays[name], ends[0].arrays[name])
    assert (ends[1].progress.step, ends[1].progress.epoch) == (ends[0].progress.step, ends[0].progress.epoch)
    # a finished run is not repeated
    again = make_trainer(tmp_path / "parts", **settings, report=stop_at(1)).run()
    assert again.progress.step == whole.progress.step


@pytest.mark.parametrize("other", [{"run_hash": "other"}, {"preset": "tiny"}])
def test_a_checkpoint_of_another_run_is_refused(copied, other):
    with pytest.raises(
        InputError, match=r"last\.safetensors: .*belongs to another run.*delete it to train from"
    ):
        make_trainer(copied, stop=Stop(epochs=1), **other).run()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped header"])
def test_a_damaged_checkpoint_is_refused(copied, damage):
    path = copied / "last.safetensors"
    whole = path.read_bytes()
    flipped = whole[:40] + bytes([whole[40] ^ 0xFF]) + whole[41:]
    damaged = {"truncated": whole[:-100], "empty": b"", "text": b"weights" * 40, "flipped header": flipped}
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"last\.safetensors: damaged checkpoint.*delete it to train from"):
        make_trainer(copied, stop=Stop(epochs=1)).run()


def test_a_run_killed_while_it_writes_a_checkpoint_resumes(tmp_path):
    root = Path(__file__).parents[2]
    code = f"""
        import os, signal, sys
        sys.path[:0] = {[str(root), *sys.path]!r}
        from pathlib import Path
        from limbeck.training.loop import Stop
        from tests.training.tools import make_trainer
        fsync, calls = os.fsync, []
        def fatal(handle):
            calls.append(handle)
            if len(calls) == 9:
                os.ftruncate(handle, 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(handle)
        os.fsync = fatal
        make_trainer(Path(sys.argv[1]), stop=Stop(epochs=4)).run()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "killed")], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert Checkpoint.read(tmp_path / "killed" / "last.safetensors").progress.step == 8
    resumed = make_trainer(tmp_path / "killed", stop=Stop(epochs=4)).run()
    whole = make_trainer(tmp_path / "whole", stop=Stop(epochs=4)).run()
    np.testing.assert_array_equal(resumed.flat, whole.flat)


def test_spent_time_is_kept(tmp_path):
    budget = Stop(budget_s=0.6)
    with pytest.raises(Interrupted):
        make_trainer(tmp_path, stop=budget, report=stop_at(12)).run()
    before = Checkpoint.read(tmp_path / "last.safetensors").progress
    assert 0.1 < before.spent_s < 0.6
    trained = make_trainer(tmp_path, stop=budget).run()
    assert trained.progress.step > before.step
    rows = rows_of(tmp_path)
    spent = [row["spent_s"] for row in rows if row["step"] > before.step]
    assert min(spent) >= round(before.spent_s, 2)
    assert 0.6 <= trained.progress.spent_s < 3.0
    # the schedule reached its end with the budget, as far as the speed of the machine allows
    assert rows[-1]["learning_rate"] < 0.5 * max(row["learning_rate"] for row in rows)


NO_GPU = "no GPU that torch can use: torch.cuda.is_available() is false"
GPU = pytest.param({"device": "cuda"}, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU))


@pytest.mark.parametrize("other", [{"engine": "native"}, GPU], ids=["native", "cuda"])
def test_both_engines_take_the_same_steps(tmp_path, other):
    flats = []
    for name, engine in (("other", other), ("torch", {"engine": "torch"})):
        # not SOAP: its eigenvectors may turn where rounding differs
        settings = {"stop": Stop(epochs=2), "precision": "float64", "optimizer": "adamw", **engine}
        trainer = make_trainer(tmp_path / name, **settings)
        trainer.run()
        flats.append(trainer.student.flat.detach().cpu().numpy().copy())
    assert np.abs(flats[0] - flats[1]).max() < 1e-8 * np.abs(flats[1]).max()
    start = make_trainer(tmp_path / "start", stop=Stop(epochs=1), precision="float64").student.flat
    assert np.abs(flats[1] - start.detach().numpy()).max() > 1e-3  # and they are steps


def rewritten(path, edit):
    """Apply ``edit`` to a checkpoint's metadata and arrays."""
    from safetensors import safe_open
    from safetensors.numpy import save

    with safe_open(path, framework="numpy") as handle:
        body = json.loads(handle.metadata()["limbeck-checkpoint"])
        arrays = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    edit(body, arrays)
    path.write_bytes(save(arrays, metadata={"limbeck-checkpoint": json.dumps(body)}))


def _before_soap(body, arrays):
    """As Limbeck wrote them when it trained with Adam alone."""
    del body["format"], body["limbeck"]
    body["progress"]["adam_steps"] = body["progress"].pop("optimizer_steps")
    for name in [name for name in arrays if name.startswith("optimizer_")]:
        del arrays[name]


@pytest.mark.parametrize(
    ("edit", "got"),
    [
        (_before_soap, r"format 1 \(Limbeck 0.1.0\)"),
        (lambda body, _: body.update(format=3, limbeck="9.9"), r"format 3 \(Limbeck 9.9\)"),
        (lambda _, arrays: arrays.pop("optimizer_left_0"), "arrays that do not fit: 'left_0'"),
    ],
)
def test_a_checkpoint_of_another_version_is_not_called_damaged(copied, edit, got):
    path, log = copied / "last.safetensors", copied / "log.jsonl"
    rewritten(path, edit)
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(
        InputError, match=f"another version of Limbeck; got {got}; wanted format 2 .*; remedy: "
    ):
        make_trainer(copied, stop=Stop(epochs=1)).run()
    assert (path.read_bytes(), log.read_bytes()) == before


def test_a_checkpoint_of_this_format_without_its_number_is_resumed(copied):
    def older(body, _):
        del body["format"], body["progress"]["training_loss"]

    rewritten(copied / "last.safetensors", older)
    assert make_trainer(copied, stop=Stop(epochs=1)).run().progress.finished


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_callers_torch_keeps_its_threads(tmp_path, three_threads):
    inside = []
    settings = {"stop": Stop(epochs=1), "report": lambda *_: inside.append(torch.get_num_threads())}
    make_trainer(tmp_path / "whole", **settings).run()
    assert set(inside) == {1}
    assert torch.get_num_threads() == 3
    with pytest.raises(Interrupted):
        make_trainer(tmp_path / "cut", stop=Stop(epochs=1), report=stop_at(1)).run()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("engine", "threads"), [("native", 1), ("torch", 3)])
def test_no_step_leaves_torchs_threads_on_the_native_engines_cores(
    tmp_path, monkeypatch, three_threads, engine, threads
):
    trainer = make_trainer(tmp_path, stop=Stop(epochs=1), engine=engine)
    inside, advance = [], trainer.optimizer.step
    record = lambda *_, **__: (inside.append(torch.get_num_threads()), advance())  # noqa: E731
    monkeypatch.setattr(trainer.optimizer, "step", record)
    trainer.step(np.arange(4), 1)
    assert (inside, torch.get_num_threads()) == ([threads], 3)


def test_divergence_is_one_line(tmp_path):
    with pytest.raises(LimbeckError, match=r"^step \d+: training diverged.*training.learning_rate"):
        make_trainer(tmp_path, stop=Stop(epochs=2), learning_rate=1e30).run()


def test_a_run_that_diverges_once_continues(tmp_path):
    trainer = make_trainer(tmp_path, stop=Stop(epochs=10))
    step, calls = trainer.student.engine.gradient, []

    def gradient(*seeds):
        calls.append(1)
        return step(*seeds) * (np.nan if len(calls) == 25 else 1.0)

    trainer.student.engine.gradient = gradient
    trained = trainer.run()
    rows = rows_of(tmp_path)
    assert [rows[0]["restarts"], rows[-1]["restarts"]] == [0, 1]
    assert trained.validation["force_rmse_mev_per_a"] < rows[0]["validation_force_rmse_mev_per_a"] / 2
    assert max(row["learning_rate"] for row in rows[len(rows) // 2 :]) <= trainer.config.learning_rate / 2


def test_an_interrupted_run_that_diverged_ends_with_the_same_weights(tmp_path):
    def run(folder, report=None):
        trainer = make_trainer(folder, stop=Stop(epochs=6), report=report, precision="float64")
        step = trainer.student.engine.gradient

        def gradient(*seeds):
            diverges = trainer.progress.step == 20 and not trainer.progress.restarts
            return step(*seeds) * (np.nan if diverges else 1.0)

        trainer.student.engine.gradient = gradient
        return trainer.run()

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop_at(25))
    assert whole.progress.restarts == 1
    assert np.array_equal(run(tmp_path / "parts").flat, whole.flat)


def test_no_training_structures(tmp_path):
    trainer = make_trainer(tmp_path, stop=Stop(epochs=1))
    data = prepared(mixed_set(1))
    empty = TrainingData(
        data.structures.select([]), data.pairs, np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3, 3))
    )
    with pytest.raises(InputError, match="got 0 training and 8 validation structures; wanted at least one"):
        Trainer(
            trainer.student.engine.architecture, empty, trainer.validation, trainer.config, Stop(epochs=1),
            tmp_path, start=np.zeros(1), run_hash="",
        )  # fmt: skip
