"""A GPU that is not here is refused before any work, in the same words everywhere."""

from __future__ import annotations

import pytest
import torch
from ase.io import write

from limbeck.core.devices import require_device
from limbeck.errors import InputError

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


TEXT = "PyTorch finds no GPU here"


def test_devices():
    require_device("cpu")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(
            InputError, match=TEXT + ".*remedy: give --device cpu; limbeck doctor shows details"
        ):
            require_device(device)
    for device in ("gpu", "CUDA", "cuda:x", "mps", ""):
        with pytest.raises(InputError, match="unknown device; got .*; wanted cpu, cuda or cuda:1"):
            require_device(device)


def test_python_interface():
    from limbeck import Calculator, Student

    for make in (Calculator, Student.load):
        with pytest.raises(InputError, match=TEXT):
            make("silicon-tiny", device="cuda")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "{}", "--epochs", "1", "--out", "run"),
        ("validate", "silicon-tiny", "{}"),
        ("distill", "--bulk", "Cu", "--teacher", "ase.calculators.emt:EMT", "--budget", "1m", "--out", "run"),
        pytest.param(
            ("label", "{}", "--teacher", "ase.calculators.emt:EMT", "--out", "labels"),
            marks=pytest.mark.skipif(HAS_GPU, reason="the teacher's own process finds the GPU"),
        ),
        ("bench", "silicon-tiny"),
    ],
)
def test_commands_refuse_before_any_work(arguments, tmp_path, monkeypatch, capsys):
    from tests.workflows.conftest import labelled_copper

    from limbeck import cli

    monkeypatch.chdir(tmp_path)
    write("data.extxyz", labelled_copper(3))
    before = sorted(tmp_path.iterdir())
    code = cli.main([part.format("data.extxyz") for part in arguments] + ["--device", "cuda"])
    captured = capsys.readouterr()
    assert code == 2
    assert TEXT in captured.err
    assert captured.err.count("error: ") == 1
    assert sorted(tmp_path.iterdir()) == before
