"""The core's reader of student files against Python's: the same students read, the same files refused.

Refusals with their lines: ``test_file.py``.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from limbeck import _native
from limbeck.artifact.file import StudentArtifact, read_student, write_student
from limbeck.errors import InputError
from limbeck.students.baseline import Baseline
from limbeck.students.specification import PRESETS, flatten
from tests.artifact.test_file import small_record
from tests.students.tools import random_record

RELEASED = sorted((Path(__file__).parents[2] / "students").glob("*.safetensors"))
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))


def pair_table(pairs: dict[tuple[int, int], float], elements: tuple[int, ...]) -> np.ndarray:
    """(Z, Z), symmetric, zero where no pair is given; pairs of other elements are left out."""
    return np.array([[pairs.get((min(a, b), max(a, b)), 0.0) for b in elements] for a in elements])


def assert_same(path: Path, native: dict, record: StudentArtifact) -> None:
    """Every field of the core's reading is what Python read, to the last bit."""
    arch, baseline = record.architecture, record.baseline
    assert native["hyperparameters"] == {
        "features": arch.hidden_dim, "interactions": arch.interactions, "radial": arch.rbf,
        "gate_width": arch.gate_width, "readout_width": arch.readout_width, "elements": len(arch.elements),
        "cutoff": arch.cutoff, "norm_offset": arch.norm_offset, "energy_scale": arch.energy_scale,
        "core": list(arch.core_a),
    }  # fmt: skip
    assert tuple(native["elements"]) == arch.elements
    assert native["weights"].dtype == np.float64
    np.testing.assert_array_equal(native["weights"], flatten(arch, record.weights, np.float64))
    types = {value.dtype for value in record.weights.values()}
    assert native["dtype"] == ("float64" if np.dtype(np.float64) in types else "float32")
    np.testing.assert_array_equal(native["references"], [baseline.references[z] for z in arch.elements])
    np.testing.assert_array_equal(native["zbl_radius"], pair_table(baseline.zbl_radius, arch.elements))
    assert native["card"] == card_text(path)


def header_text(path: Path) -> str:
    data = path.read_bytes()
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]].decode()


def card_text(path: Path) -> str:
    return json.loads(header_text(path))["__metadata__"]["limbeck"]


@pytest.mark.parametrize("path", RELEASED + GOLDEN, ids=lambda path: path.stem)
def test_students_of_the_repository(path):
    native, record = _native.read_student(str(path)), read_student(path)
    assert_same(path, native, record)
    shortest = {
        tuple(sorted(atomic_numbers[symbol] for symbol in pair.split("-"))): distance
        for pair, distance in record.card.get("data", {}).get("shortest_pair_a", {}).items()
    }
    assert shortest or path in GOLDEN
    np.testing.assert_array_equal(native["shortest_pair"], pair_table(shortest, record.architecture.elements))


def mixed_record() -> StudentArtifact:
    """Weights of two types, and a baseline of elements that the student does not have."""
    record = small_record()
    weights = record.weights | {"readout.0.weight": record.weights["readout.0.weight"].astype(np.float64)}
    baseline = Baseline({1: -1.0, 14: -5.25, 92: 3.0}, {(1, 92): 2.0, (14, 14): -1.0, (1, 14): 1.2})
    return replace(record, baseline=baseline, weights=weights)


RECORDS = [
    random_record(preset, seed=3, dtype=kind) for preset in PRESETS for kind in (np.float32, np.float64)
]


@pytest.mark.parametrize("record", [*RECORDS, mixed_record()])
def test_written_students(tmp_path, record):
    path = tmp_path / "s.safetensors"
    write_student(path, record)
    native = _native.read_student(str(path))
    assert_same(path, native, record)
    assert _native.Hyperparameters(**native["hyperparameters"]).parameters == len(native["weights"])


def test_a_card_with_all_that_json_and_python_write(tmp_path):
    path = tmp_path / "s.safetensors"
    write_student(path, small_record())
    native = _native.read_student(str(path))
    assert_same(path, native, small_record())
    np.testing.assert_array_equal(native["shortest_pair"], [[0.7, 1.5], [1.5, 0.0]])
    card = json.loads(native["card"])
    assert card["note"] == small_record().card["note"]
    assert np.isnan(card["metrics"]["force_r2"])
    # Python's reader takes the last of two members of one name; the core refuses such a file
    twice = card_text(path).replace('"rbf": 2', '"rbf": 3, "rbf": 2')
    path.write_bytes(save(dict(load(path.read_bytes())), metadata={"limbeck": twice}))
    read_student(path)
    with pytest.raises(ValueError, match="the name 'rbf' twice in a JSON object at byte"):
        _native.read_student(str(path))


def no_name_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice in one object")
    return dict(pairs)


def names_stand_once(path: Path) -> bool:
    try:
        for text in (header_text(path), card_text(path)):
            json.loads(text, object_pairs_hook=no_name_twice)
    except ValueError:
        return False
    return True


def agree(path: Path) -> bool:
    """Both readers refuse the file, in one line each that begins with its path, or read the same."""
    try:
        record = read_student(path)
    except InputError:
        record = None
    try:
        native = _native.read_student(str(path))
    except ValueError as error:
        line = str(error)
        assert line.startswith(f"{path}: ")
        assert "\n" not in line
        assert record is None or not names_stand_once(path), line
        return False
    assert record is not None, "the core reads what Python refuses"
    assert_same(path, native, record)
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a small student, by the type of its weights."""
    path = tmp_path_factory.mktemp("whole") / "s.safetensors"
    files = {}
    for dtype in (np.float32, np.float64):
        write_student(path, small_record(dtype))
        files[np.dtype(dtype).name] = path.read_bytes()
    return files


places = st.floats(0, 1, exclude_max=True)
payloads = st.binary(min_size=1, max_size=6) | st.sampled_from([b"0", b"9", b"-", b"e", b'"', b",", b"null"])
changes = st.lists(
    st.tuples(st.sampled_from(["set", "flip", "delete", "insert"]), places, payloads), min_size=1, max_size=3
)
FIXED = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def changed(data: bytearray, kind: str, at: int, payload: bytes) -> bytearray:
    match kind:
        case "set":
            data[at : at + len(payload)] = payload
        case "flip":
            data[at] ^= 1 << (payload[0] % 8)
        case "delete":
            del data[at : at + payload[0] % 16]
        case "insert":
            data[at:at] = payload
    return data


def test_changed_bytes_and_digits_are_judged_alike(tmp_path, whole):
    """With ``fits`` the header's length follows the change, so that later checks are reached."""
    path, verdicts, of_digits = tmp_path / "s.safetensors", Counter(), Counter()

    @FIXED
    @given(changes=changes, dtype=st.sampled_from(sorted(whole)), fits=st.booleans(), head=st.booleans())
    def change_bytes(changes, dtype, fits, head):
        data = bytearray(whole[dtype])
        length = struct.unpack("<Q", data[:8])[0]
        data_size = len(data) - 8 - length
        for kind, place, payload in changes:
            end = min(8 + length if head else len(data), len(data))
            data = changed(data, kind, int(place * end), payload) if end else data
        if fits and len(data) > 8 + data_size:
            data[:8] = struct.pack("<Q", len(data) - 8 - data_size)
        path.write_bytes(data)
        verdicts[agree(path)] += 1

    @FIXED
    @given(place=places, digit=st.sampled_from("0123456789.-+eE _"))
    def change_digit(place, digit):
        """The file stays JSON more often than not."""
        data = bytearray(whole["float32"])
        header = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
        digits = [k for k, c in enumerate(header) if chr(c) in "0123456789"]
        data[8 + digits[int(place * len(digits))]] = ord(digit)
        path.write_bytes(data)
        of_digits[agree(path)] += 1

    change_bytes()
    assert verdicts[True] > 10
    assert verdicts[False] > 100
    change_digit()
    assert min(of_digits[True], of_digits[False]) > 30
