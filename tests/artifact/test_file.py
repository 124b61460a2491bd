"""Student files: round trip, damage, refusals, the golden file of each format."""

from __future__ import annotations

import json
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from limbeck import __version__, _native
from limbeck.artifact.file import FORMAT_VERSION, StudentArtifact, read_card, read_student, write_student
from limbeck.errors import InputError, LimbeckError
from limbeck.runtime.student import Student
from limbeck.students.baseline import Baseline
from limbeck.students.specification import Architecture
from tests.students.tools import random_weights

GOLDEN = Path(__file__).parent / "golden"


def small_record(dtype=np.float32) -> StudentArtifact:
    arch = Architecture((1, 14), 3, 2, 2, gate_width=2, readout_width=2, energy_scale=0.5)
    weights = {k: v.astype(dtype) for k, v in random_weights(arch).items()}
    card = {
        "preset": "small",
        "data": {"shortest_pair_a": {"H-H": 0.7, "H-Si": 1.5}, "temperature_k": [300.0, 1e3]},
        "note": 'é€😀 "quoted" \\ \n\t\x7f',
        "metrics": {"force_r2": float("nan"), "worst": float("-inf")},
    }
    return StudentArtifact(arch, Baseline({1: -1.0, 14: -5.25}, {(1, 14): 1.2}), weights, card)


def assert_same(back: StudentArtifact, record: StudentArtifact) -> None:
    assert (back.architecture, back.baseline) == (record.architecture, record.baseline)
    assert back.weights.keys() == record.weights.keys()
    for name, value in record.weights.items():
        np.testing.assert_array_equal(back.weights[name], value)
        assert back.weights[name].dtype == value.dtype


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_student(tmp_path / "s.safetensors", small_record())
    return tmp_path / "s.safetensors"


scalars = st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(allow_nan=False)
plain = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(
    seed=st.integers(0, 99),
    dtype=st.sampled_from([np.float32, np.float64]),
    card=st.dictionaries(st.sampled_from(["teacher", "data", "metrics", "preset", "training"]), plain),
    references=st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=2),
    radius=st.floats(0.1, 3.0),
)
@settings(max_examples=40, deadline=None)
def test_round_trip(seed, dtype, card, references, radius):
    base = small_record(dtype)
    weights = {k: v.astype(dtype) for k, v in random_weights(base.architecture, seed).items()}
    baseline = Baseline(dict(zip((1, 14), references, strict=True)), {(1, 14): radius, (14, 14): 2.0})
    record = StudentArtifact(base.architecture, baseline, weights, card)
    with tempfile.TemporaryDirectory() as folder:
        write_student(Path(folder) / "s.safetensors", record)
        back = read_student(Path(folder) / "s.safetensors")
    assert_same(back, record)
    assert (back.card, back.dtype) == (card, record.dtype)


def test_what_a_card_has(path):
    card, own = read_card(path), small_record()
    wanted = {
        "format_version": 1, "limbeck_version": __version__, "elements": [1, 14], "cutoff_a": 5.0,
        "dtype": "float32", "energy_references_ev": {"1": -1.0, "14": -5.25}, "zbl_radius_a": {"1-14": 1.2},
    }  # fmt: skip
    assert {k: v for k, v in card.items() if k not in ("architecture", *own.card)} == wanted
    assert card["architecture"] == own.architecture.to_dict()


def test_every_truncation_is_refused(path):
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 3), len(whole) + 1):
        path.write_bytes((whole + b"\0")[:length])
        with pytest.raises(InputError, match=r"s.safetensors: this is no student file"):
            read_student(path)
    # so is the card alone: no command prints the card of a file that cannot be used
    for damaged in (whole[:-1], whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"got {len(damaged):,} bytes of {len(whole):,}: damaged"):
            read_card(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its header length does not fit the file"),
        (b"\x80\x04pickle" * 9, "its header length does not fit the file"),
        (struct.pack("<Q", 2**63) + b"{}", "its header length does not fit the file"),
        (struct.pack("<Q", 2) + b"{}", "no Limbeck card in its metadata"),
        (struct.pack("<Q", 2) + b"[]", "no Limbeck card in its metadata"),
        (save({"x": np.zeros(3)}), "no Limbeck card in its metadata"),
        (save({"x": np.zeros(3)}, metadata={"limbeck": "{"}), "no Limbeck card in its metadata"),
        (save({"x": np.zeros(3)}, metadata={"limbeck": "[1]"}), "its card is no JSON object"),
        (save({"x": np.zeros(3)}, metadata={"limbeck": '{"format_version": 1}'}), "its model card lacks a valid 'architecture'"),
        # beyond what JSON holds
        *((save({"x": np.zeros(3)}, metadata={"limbeck": text}), "no Limbeck card in its metadata")
          for text in ("[" * 100_000, "9" * 5000, '{"a":' * 50_000)),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_the_reason(tmp_path, content, reason):
    other = tmp_path / "o.safetensors"
    other.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_student(other)
    wanted = f"{other}: this is no student file; got {reason}; wanted a .safetensors file written by Limbeck; remedy: limbeck convert reads older .pt files"
    assert str(caught.value) == wanted


def test_missing_file(tmp_path):
    for path, text in (
        (tmp_path / "x.safetensors", r"x.safetensors: no such student file; remedy: limbeck students"),
        (tmp_path, "cannot read the student file; got Is a directory"),
        (tmp_path / "é€ \n.safetensors", "no such student file"),
    ):
        with pytest.raises(InputError, match=text) as python:
            read_student(path)
        with pytest.raises(ValueError) as native:
            _native.read_student(str(path))
        assert str(native.value) == str(python.value)


@pytest.mark.parametrize(("change", "weights", "text", "alike"), [
    (lambda c: None, {"embedding": np.full((2, 3), np.nan, np.float32)}, "weight 'embedding' is not finite; remedy: train the student again", True),
    (lambda c: None, {"readout.1.bias": np.array([np.inf], np.float32)}, "weight 'readout.1.bias' is not finite", True),
    (lambda c: None, {"embedding": np.zeros((3, 2), np.float32)}, r"weight 'embedding' has the wrong shape; got \(3, 2\); wanted \(2, 3\)", True),
    (lambda c: None, {"embedding": np.zeros((2, 3), np.int32)}, "weight 'embedding' has the wrong type; got int32", False),
    (lambda c: None, {"extra": np.zeros(1, np.float32)}, r"do not fit the architecture; got names such as \['extra'\]", True),
    (lambda c: None, {"embedding": None}, r"do not fit the architecture; got names such as \['embedding'\]", True),
    (lambda c: c.update(format_version=2), {}, "unknown student file format; got 2; wanted format 1; remedy: upgrade Limbeck$", True),
    (lambda c: c.pop("format_version"), {}, "unknown student file format", True),
    (lambda c: c.pop("energy_references_ev"), {}, "its model card lacks a valid 'energy_references_ev'", True),
    (lambda c: c["energy_references_ev"].pop("14"), {}, r"no energy reference for Z = \[14\]", True),
    (lambda c: c["energy_references_ev"].update({"1": float("nan")}), {}, "references or ZBL radii that are not finite", True),
    (lambda c: c["energy_references_ev"].update({"-3": 0.0}), {}, "atomic numbers beyond 1 to 118", True),
    (lambda c: c["zbl_radius_a"].update({"1-500": 1.0}), {}, "atomic numbers beyond 1 to 118", True),
    (lambda c: c["zbl_radius_a"].update({"1": 1.0}), {}, "its model card lacks a valid", False),
    (lambda c: c.update(zbl_radius_a=[1]), {}, "its model card lacks a valid", False),
    (lambda c: c["architecture"].update(cutoff=-1.0), {}, "wanted positive numbers", False),
    (lambda c: c["architecture"].update(hidden_dim="three"), {}, "wanted integers", False),
    (lambda c: c["architecture"].update(hidden_dim=4), {}, "has the wrong shape", True),
    (lambda c: c["architecture"].update(interactions=4096), {"extra": np.zeros(1, np.float32)}, "s.safetensors: ", True),
    (lambda c: c["architecture"].pop("rbf"), {}, "its model card lacks a valid", False),
    (lambda c: c.update(architecture=None), {}, "its model card lacks a valid", False),
])  # fmt: skip
def test_a_spoilt_file_is_refused_by_python_and_the_core(path, change, weights, text, alike):
    card, arrays = read_card(path), dict(load(path.read_bytes())) | weights
    change(card)
    arrays = {name: value for name, value in arrays.items() if value is not None}
    path.write_bytes(save(arrays, metadata={"limbeck": json.dumps(card)}))
    with pytest.raises(InputError, match=text) as python:
        read_student(path)
    with pytest.raises(ValueError) as native:
        _native.read_student(str(path))
    assert str(native.value).startswith(f"{path}: ")
    if alike:  # else Python's line has Python's own words
        assert str(native.value) == str(python.value)


@pytest.mark.parametrize("wrong", [np.full((2, 3), np.nan, np.float32), np.zeros((3, 2), np.float32)])
def test_weights_that_do_not_fit_are_not_written(path, wrong):
    record, before = small_record(), path.read_bytes()
    with pytest.raises(InputError, match="weight 'embedding' "):
        write_student(path, replace(record, weights=record.weights | {"embedding": wrong}))
    assert path.read_bytes() == before


def test_a_type_that_numpy_lacks_is_refused(path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save as save_torch

    weights = {name: torch.from_numpy(v.copy()).bfloat16() for name, v in load(path.read_bytes()).items()}
    path.write_bytes(save_torch(weights, metadata={"limbeck": json.dumps(read_card(path))}))
    with pytest.raises(InputError, match="no student file; got damaged or truncated|has the wrong type"):
        read_student(path)


def test_no_place_to_write(path):
    blocked = path.parent / "file"
    blocked.write_text("not a folder")
    with pytest.raises(LimbeckError, match="s.safetensors: cannot write the file; got "):
        write_student(blocked / "s.safetensors", small_record())


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_golden_file_gives_the_figures_it_gave(version, engine):
    """Written once by this format's writer; the figures are those of PyTorch in float64 then."""
    wanted = json.loads((GOLDEN / f"format-{version}.json").read_text())
    path = GOLDEN / f"format-{version}.safetensors"
    student = Student.load(path, precision="float64", engine=engine, threads=1)
    frames = read(GOLDEN / "structures.extxyz", ":")
    labels = student.evaluate(frames)
    np.testing.assert_allclose(labels.energy, wanted["energy_ev"], rtol=1e-10)
    np.testing.assert_allclose(labels.forces, wanted["forces_ev_per_a"], atol=1e-9)
    periodic = [frame.pbc.all() for frame in frames]
    np.testing.assert_allclose(labels.stress[periodic], wanted["stress_ev_per_a3"], atol=1e-10)
    assert student.card["preset"] == "ultra-tiny"
