"""Exports and PyTorch students on a GPU; without one, only that no operator of the graph holds to the CPU."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from limbeck.artifact.file import StudentArtifact, read_student
from limbeck.core.neighbours import find_pairs
from limbeck.export.certificate import References
from limbeck.export.formats import SUFFIXES, Graph, make_graph, write_format
from limbeck.export.model import example_inputs
from limbeck.export.runner import INPUT_NAMES, OUTPUT_NAMES
from limbeck.export.structures import of_size, parity_structures
from limbeck.runtime.released import find_student
from limbeck.runtime.student import Student
from limbeck.students.engine import make_engine
from limbeck.students.specification import flatten
from tests.export.tools import make_model, need, small_graph
from tests.students.tools import random_record, rattled

EXAMPLES = Path(__file__).parents[2] / "examples" / "exported"
STUDENTS = ("silicon-ultra-tiny", "two elements")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available()")


@functools.cache
def record_of(student: str) -> StudentArtifact:
    if student == "two elements":
        return random_record("ultra-tiny", (6, 14), dtype=np.float32)
    return read_student(find_student(student))


@functools.cache
def graph_of(student: str) -> Graph:
    return make_graph(
        make_model(record_of(student)), student_hash="0" * 64, name="student", quantisation=None
    )


@functools.cache
def references_of(student: str) -> References:
    """The student on the CPU, in float32 and float64, on structures of 1 to hundreds of atoms."""
    record = record_of(student)
    classes = parity_structures(record)
    classes["large"] = [of_size(classes["triclinic"][0], 300, record.architecture.elements)]
    return References(Student(record, engine="torch", precision="float32", threads=1), classes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(student, format) -> path, written once."""
    folder = tmp_path_factory.mktemp("cuda")

    def _written(student: str, kind: str) -> Path:
        path = folder / f"{student.replace(' ', '-')}{SUFFIXES[kind]}"
        if not path.is_file():
            write_format(graph_of(student), kind, path)
        return path

    return _written


class CudaRuntime:
    """A loaded file in the place of a ``Runtime``, with its inputs on the GPU.

    Each case is evaluated three times, and the last counts: TorchScript fuses kernels after two.
    """

    def __init__(self, call) -> None:
        self.call = call

    def evaluate(self, inputs, name="model", calls=1):
        with torch.no_grad():
            for _ in range(3):
                outputs = self.call(*(torch.as_tensor(inputs[key], device="cuda") for key in INPUT_NAMES))
        assert {value.device.type for value in outputs} == {"cuda"}
        assert {value.dtype for value in outputs} == {torch.float64}
        return [{k: v.cpu().numpy() for k, v in zip(OUTPUT_NAMES, outputs, strict=True)}]


def load_program_moved(path: Path):
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(torch.export.load(path), "cuda").module()


def load_onnx(path: Path):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDAExecutionProvider")
    session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert session.get_providers()[0] == "CUDAExecutionProvider"

    def call(*inputs):
        feed = {name: value.cpu().numpy() for name, value in zip(INPUT_NAMES, inputs, strict=True)}
        return [torch.as_tensor(value, device="cuda") for value in session.run(list(OUTPUT_NAMES), feed)]

    return call


LOADERS = {
    "torchscript": ("torchscript", lambda path: torch.jit.load(path, map_location="cuda")),
    "torch-export, module moved": ("torch-export", lambda path: torch.export.load(path).module().to("cuda")),
    "torch-export, program moved": ("torch-export", load_program_moved),
    "onnx": ("onnx", load_onnx),
}


@on_gpu
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("loader", LOADERS)
def test_an_export_on_cuda_is_within_the_certificate(loader, student, written):
    kind, load = LOADERS[loader]
    need(kind)
    references = references_of(student)
    sizes = {len(batch.numbers) for _, batch in references.batches}
    assert min(sizes) <= 2
    assert max(sizes) >= 200
    comparison = references.compare(CudaRuntime(load(written(student, kind))))
    assert comparison.passes, comparison.failure()
    kinds = {"triclinic", "molecule", "isolated atom", "close pair", "large", "mixed batch"}
    assert kinds <= set(comparison.against_float64)


@on_gpu
@pytest.mark.parametrize(
    ("script", "calculator", "kind"),
    [
        ("torchscript_md", "TorchScriptCalculator", "torchscript"),
        ("torch_export_relax", "TorchExportCalculator", "torch-export"),
    ],
)
def test_an_example_runs_on_cuda(script, calculator, kind, written):
    """Its calculator as it is, which follows its atoms from one structure to another."""
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = written("silicon-ultra-tiny", kind)
    here, there = (getattr(module, calculator)(path, device) for device in ("cpu", "cuda"))
    for repeat in (1, 2):
        atoms = rattled(bulk("Si", cubic=True).repeat((repeat, 1, 1)), 0)
        here.calculate(atoms)
        there.calculate(atoms)
        for name, most in {"energy": 2e-5, "forces": 5e-5, "stress": 1e-5}.items():
            np.testing.assert_allclose(there.results[name], here.results[name], rtol=0, atol=most)


class StudentRuntime:
    """A student in the place of a ``Runtime``."""

    def __init__(self, student: Student, references: References) -> None:
        self.student, self.batches = student, iter([batch for _, batch in references.batches])

    def evaluate(self, inputs, name="model", calls=1):
        """Of the batch that the inputs were made of."""
        found = vars(self.student.evaluate(next(self.batches)))
        # an export's stress is zero without a cell, a student's is NaN
        return [found | {"stress": np.nan_to_num(found["stress"])}]


@on_gpu
@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_on_cuda_agrees_with_the_cpu(student):
    references = references_of(student)
    moved = Student(record_of(student), precision="float32", device="cuda")
    assert moved.backend.name == "torch-cuda"
    comparison = references.compare(StudentRuntime(moved, references))
    assert comparison.passes, comparison.failure()
    moved = Student(record_of(student), precision="float64", device="cuda")
    for (_, batch), exact in zip(references.batches, references.exact, strict=True):
        found = vars(moved.evaluate(batch))
        largest = 1e-10 * (1 + np.abs(exact["forces"]).max())
        for name in ("forces", "stress"):
            np.testing.assert_allclose(found[name], exact[name], rtol=0, atol=largest)
        for name in ("atom_energies", "energy"):
            np.testing.assert_allclose(found[name], exact[name], rtol=1e-11, atol=1e-10)


@on_gpu
def test_gradients_of_a_loss_on_cuda_are_those_of_the_cpu():
    record = record_of("two elements")
    arch = record.architecture
    batch = references_of("two elements").batches[0][1]
    rng, gradients = np.random.default_rng(0), []
    energy, forces = rng.normal(size=len(batch)), rng.normal(size=(len(batch.numbers), 3))
    for device in ("cpu", "cuda"):
        engine = make_engine(arch, kind="torch", precision="float64", device=device)
        engine.set_weights(flatten(arch, record.weights, np.float64))
        engine.set_structures(batch, find_pairs(batch, arch.cutoff))
        engine.evaluate(np.arange(len(batch)))
        gradients.append(engine.gradient(energy, forces, np.zeros((len(batch), 3, 3))))
    largest = np.abs(gradients[0]).max()
    assert largest > 0
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-9 * largest)


def test_no_operator_holds_to_the_cpu():
    """Every operator is given tensors of a GPU that PyTorch pretends to have, which needs none."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    graph = small_graph()
    inputs, buffers = example_inputs(graph.model), dict(graph.traced.named_buffers())

    def pretend(value: torch.Tensor, device: str = "cuda") -> torch.Tensor:
        return torch.empty(value.shape, dtype=value.dtype, device=device)

    def run(**kept: str) -> set[str]:
        held = {name: pretend(value, kept.get(name, "cuda")) for name, value in buffers.items()}
        outputs = torch.func.functional_call(graph.traced, held, tuple(pretend(value) for value in inputs))
        return {value.device.type for value in outputs}

    with FakeTensorMode():
        assert run() == {"cuda"}
        with pytest.raises(RuntimeError, match="same device|two different devices"):
            run(reference_of="cpu")
