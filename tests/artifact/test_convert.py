"""Torch state dicts of Limbeck students become student files; anything else is refused, never run."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.artifact.convert import convert_checkpoint
from limbeck.artifact.file import StudentArtifact, read_student
from limbeck.cli import main
from limbeck.errors import InputError
from limbeck.students.specification import flatten
from tests.artifact.test_file import assert_same
from tests.students.tools import checkpoint_state, random_record


@pytest.fixture(scope="module")
def record() -> StudentArtifact:
    return random_record("ultra-tiny", (1, 8), dtype=np.float32)


def tensors(record: StudentArtifact, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + k: torch.from_numpy(v.copy()) for k, v in record.weights.items()}


def flat(record: StudentArtifact) -> torch.Tensor:
    return torch.from_numpy(flatten(record.architecture, record.weights))


def entry(record: StudentArtifact) -> dict:
    return json.loads(checkpoint_state(record)["limbeck"])


def plain(record: StudentArtifact) -> dict:
    fields = {"elements": [1, 8], "cutoff": 5.0, "energy_scale": record.architecture.energy_scale}
    radii = entry(record)["zbl_radius_a"]
    return fields | {"energy_references_ev": record.baseline.references, "zbl_radius_a": radii}


def convert(content, tmp_path: Path) -> StudentArtifact:
    torch.save(content, tmp_path / "old.pt")
    convert_checkpoint(tmp_path / "old.pt", tmp_path / "new.safetensors")
    return read_student(tmp_path / "new.safetensors")


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "module._orig_mod.model."])
@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("names", ["by name", "flat"])
def test_wrapped_weights(tmp_path, record, prefix, wrapper, names):
    state = tensors(record, prefix) if names == "by name" else {prefix + "flat": flat(record)}
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer_state_dict": {"lr": 0.1}}
    back = convert(content | {"limbeck": entry(record)}, tmp_path)
    assert_same(back, record)
    assert back.card["preset"] == "ultra-tiny"
    assert back.card["converted_from"]["file"] == "old.pt"
    assert len(back.card["converted_from"]["sha256"]) == 64


def test_wrappers_of_wrappers_text_and_float64(tmp_path, record):
    state = {"model_state_dict": {"state_dict": tensors(record, "module.")}}
    assert_same(convert({"state_dict": state | {"limbeck": json.dumps(entry(record))}}, tmp_path), record)
    assert_same(convert(checkpoint_state(record), tmp_path), record)
    doubles = {k: v.double() for k, v in tensors(record).items()}
    assert convert({"state_dict": doubles, "limbeck": entry(record)}, tmp_path).dtype == "float64"


@pytest.mark.parametrize("names", ["by name", "flat"])
def test_the_preset_is_found_from_the_shapes(tmp_path, record, names):
    state = tensors(record) if names == "by name" else {"flat": flat(record)}
    back = convert({"model_state_dict": state} | plain(record), tmp_path)
    # what is known by shapes alone is older than core radii
    assert_same(back, replace(record, architecture=replace(record.architecture, core_a=())))
    assert back.card["preset"] == "ultra-tiny"


def without(record, name):
    return {k: v for k, v in ({"model_state_dict": tensors(record)} | plain(record)).items() if k != name}


def changed(record, **change):
    state = {k: v for k, v in (tensors(record) | change).items() if v is not None}
    return {"state_dict": state, "limbeck": entry(record)}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda r: changed(r, embedding=torch.zeros(3, 3)), r"weight 'embedding' has the wrong shape; got \(3, 3\); wanted \(2, 32\)"),
        (lambda r: changed(r, embedding=None), r"the weights do not fit the architecture; got names such as \['embedding'\]"),
        (lambda r: changed(r, other=torch.zeros(1)), r"the weights do not fit the architecture; got names such as \['other'\]"),
        (lambda r: changed(r, embedding=torch.full((2, 32), torch.nan)), "weight 'embedding' is not finite"),
        (lambda r: changed(r, embedding=torch.zeros(2, 32, dtype=torch.int64)), r"weight 'embedding' has the wrong type; got torch.int64"),
        (lambda r: changed(r) | {"state_dict": tensors(r) | tensors(r, "model.")}, "two weights have one name; got 'embedding'"),
        (lambda r: {"flat": flat(r)[:-1], "limbeck": entry(r)}, r"weight 'flat' has the wrong shape; got \(\d+,\); wanted \(\d+,\)"),
        (lambda r: {"flat": flat(r)[:-1]} | plain(r), "the weights fit no preset; got .* wanted for 2 elements: original "),
        (lambda r: {"conv1.weight": torch.zeros(3, 3)} | plain(r), "the weights fit no preset; got 9 values in 1 arrays such as 'conv1.weight'"),
        (lambda r: {"state_dict": {"epoch": 3}, "limbeck": entry(r)}, "the checkpoint holds no weights"),
        (lambda r: [1, 2], "the checkpoint holds no state dict; got list; wanted a dict"),
        (lambda r: {"state_dict": tensors(r), "limbeck": "{"}, "the entry 'limbeck' is no JSON object"),
        (lambda r: {"state_dict": tensors(r), "limbeck": "[]"}, "the entry 'limbeck' is no JSON object; got list"),
        (lambda r: {"state_dict": tensors(r), "limbeck": entry(r) | {"architecture": {"rbf": 3}}}, "its model card lacks a valid"),
        (lambda r: {"state_dict": tensors(r), "limbeck": entry(r) | {"energy_references_ev": {"1": 0.0}}}, r"no energy reference for Z = \[8\]"),
        (lambda r: {"state_dict": tensors(r)} | plain(r) | {"cutoff": -1.0}, "wanted positive numbers"),
        (lambda r: {"state_dict": tensors(r)} | plain(r) | {"elements": 3}, "elements, cutoff or energy_scale do not fit"),
        *((lambda r, name=name: without(r, name), f"the checkpoint lacks what its weights need; got no {name}; remedy: add an entry")
          for name in ("elements", "cutoff", "energy_scale", "energy_references_ev", "zbl_radius_a")),
    ],
)  # fmt: skip
def test_misfits_are_refused_with_the_reason(tmp_path, record, make, text):
    with pytest.raises(InputError, match=text) as caught:
        convert(make(record), tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'old.pt'}: ")
    assert not (tmp_path / "new.safetensors").exists()


class Trap:
    """Pickled, it would create a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_code_is_never_executed(tmp_path, old_format, capsys):
    trap = tmp_path / "sprung"
    content = {"state_dict": {"flat": torch.zeros(3)}, "limbeck": Trap(trap)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not old_format)
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert trap.exists()  # the trap works
    trap.unlink()
    text = r"evil.pt: the checkpoint holds pickled code, which is never executed; got [\w.]+; wanted a state dict: tensors and plain values; remedy: save model.state_dict\(\), not the model$"
    with pytest.raises(InputError, match=text):
        convert_checkpoint(tmp_path / "evil.pt", tmp_path / "new.safetensors")
    assert not trap.exists()
    assert main(["convert", str(tmp_path / "evil.pt"), "--out", str(tmp_path / "new.safetensors")]) == 2
    assert "which is never executed" in capsys.readouterr().err
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Trap(trap), protocol=2))
    with pytest.raises(InputError, match=r"evil.pt: "):
        convert_checkpoint(tmp_path / "evil.pt", tmp_path / "new.safetensors")
    assert not trap.exists()
    assert not (tmp_path / "new.safetensors").exists()


def test_damaged_and_missing_files(tmp_path, record):
    torch.save(checkpoint_state(record), tmp_path / "old.pt")
    whole = (tmp_path / "old.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "no checkpoint")
    damaged = (b"", b"hello", whole[:100], whole[: len(whole) // 2], whole[:-30], whole[10:])
    for content in (*damaged, (tmp_path / "zip.pt").read_bytes()):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"bad.pt: this is no torch checkpoint, or it is damaged"):
            convert_checkpoint(tmp_path / "bad.pt", tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"none.pt: no such checkpoint; wanted a torch .pt file$"):
        convert_checkpoint(tmp_path / "none.pt", tmp_path / "x.safetensors")
