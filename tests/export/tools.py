"""A small random student, traced once for all tests, and structures of sizes that no trace has seen."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from limbeck.core.structures import StructureBatch
from limbeck.export.formats import Graph, make_graph
from limbeck.export.model import ExportedStudent
from limbeck.export.quantise import store_weights
from limbeck.export.runner import INPUT_NAMES, OUTPUT_NAMES
from limbeck.export.runtimes import make_inputs
from limbeck.runtime.student import Student
from tests.students.tools import SYSTEMS, random_record

#: classes as a certificate knows them; 1 to 43 atoms, none to hundreds of edges, 1 to 8 structures
STRUCTURES = {name: [atoms] for name, atoms in SYSTEMS.items()} | {"all": list(SYSTEMS.values())}


def slow_in_ci(test):
    """Takes long, and ``make test`` runs it all the same."""
    return pytest.mark.slow(pytest.mark.ci(test))


@functools.cache
def small_record(dtype=np.float32):
    return random_record("ultra-tiny", dtype=dtype)


@functools.cache
def small_student() -> Student:
    return Student(small_record(), threads=1)


@functools.cache
def small_graph() -> Graph:
    return make_graph(make_model(), student_hash="0" * 64, name="small", quantisation=None)


def make_model(record=None) -> ExportedStudent:
    return store_weights(record or small_record(), None)


def need(kind: str) -> None:
    """Skip the test where the extra of a format is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        pytest.importorskip(package)


def evaluate(call, frames, cutoff: float = 5.0) -> dict[str, np.ndarray]:
    inputs = make_inputs(StructureBatch.from_atoms(frames), cutoff)
    outputs = call(*(torch.from_numpy(inputs[name]) for name in INPUT_NAMES))
    return {name: value.detach().numpy() for name, value in zip(OUTPUT_NAMES, outputs, strict=True)}


class HereRuntime:
    """A module in this process in the place of a ``Runtime``; ``spoil`` may change what it answers."""

    def __init__(self, call, spoil=lambda outputs: None) -> None:
        self.call, self.spoil = call, spoil

    def evaluate(self, inputs, name="model", calls=1):
        found = []
        for _ in range(calls):
            outputs = self.call(*(torch.from_numpy(inputs[key]) for key in INPUT_NAMES))
            found.append({k: v.detach().numpy().copy() for k, v in zip(OUTPUT_NAMES, outputs, strict=True)})
            self.spoil(found[-1])
        return found
