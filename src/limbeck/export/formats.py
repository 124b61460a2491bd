"""Writing the traced graph in each format, with what a user must know of the student inside the file."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ase.data import chemical_symbols
from torch import fx

from limbeck import __version__
from limbeck.artifact.file import StudentArtifact
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.export.model import ExportedStudent, to_program, trace_student
from limbeck.export.quantise import Quantisation
from limbeck.export.runner import INPUT_NAMES, OUTPUT_NAMES

FormatName = Literal["onnx", "torch-export", "torchscript"]
SUFFIXES: dict[FormatName, str] = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".torchscript.pt"}
FORMATS: tuple[FormatName, ...] = tuple(SUFFIXES)
OPSET = 20  #: of ONNX, as in `sums.py`; onnxruntime has all of it that students need since 1.20
METADATA_KEY = "limbeck"  #: in every format: one JSON object
_FOLDED = 64  # elements: constants above are weights, which are kept as they are


@dataclass(frozen=True)
class Graph:
    """A traced student: the graph, the module it comes from, and the metadata that goes into files."""

    traced: fx.GraphModule
    model: ExportedStudent
    metadata: str


def make_graph(
    model: ExportedStudent, *, student_hash: str, name: str, quantisation: Quantisation | None
) -> Graph:
    """Trace a student once for all formats."""
    card = make_metadata(model.record, student_hash=student_hash, name=name, quantisation=quantisation)
    with _quiet():
        return Graph(trace_student(model), model, json.dumps(card, sort_keys=True))


def make_metadata(
    record: StudentArtifact, *, student_hash: str, name: str, quantisation: Quantisation | None
) -> dict[str, Any]:
    """What every file holds in addition to the graph, JSON-able."""
    arch, teacher = record.architecture, record.card.get("teacher") or {}
    return {
        "format_version": 1,
        "limbeck_version": __version__,
        "student": name,
        "student_sha256": student_hash,
        "teacher": {k: teacher.get(k) for k in ("name", "version", "licence") if k in teacher},
        "elements": list(arch.elements),
        "symbols": [chemical_symbols[z] for z in arch.elements],
        "cutoff_a": arch.cutoff,
        **record.state.on_card(),
        "energy_references_ev": {str(z): record.baseline.references[z] for z in arch.elements},
        "precision": record.dtype,
        "weights": quantisation or record.dtype,
        "units": {
            "energy": "eV", "length": "Å", "forces": "eV/Å",
            "stress": "eV/Å³, positive in tension, zero without a cell",
        },
        "inputs": {
            "atomic_numbers": "(N,) int64",
            "positions": "(N, 3) float64, Å",
            "edge_index": "(2, E) int64: centre i, neighbour j; both directions of every pair",
            "edge_shift": "(E, 3) float64, Å, Cartesian: the vector is x_j + shift - x_i",
            "batch": "(N,) int64: structure of each atom",
            "cell": "(S, 3, 3) float64, Å, rows; zero without a cell",
        },
        "outputs": {
            "energy": "(S,) float64", "forces": "(N, 3) float64", "stress": "(S, 3, 3) float64",
            "atom_energies": "(N,) float64",
        },
    }  # fmt: skip


def check_installed(formats: tuple[FormatName, ...]) -> None:
    """MissingPackageError where a package that a format needs is not there."""
    needed = ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats else ()
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        got, remedy = f"no {', '.join(missing)}", "pip install -c constraints.txt -e '.[export]'"
        raise MissingPackageError("ONNX needs packages that are not installed", got=got, remedy=remedy)


def write_format(graph: Graph, kind: FormatName, path: Path) -> dict[str, Any]:
    """Write the graph to ``path`` and return the versions that wrote it; LimbeckError where that fails."""
    if kind not in FORMATS:
        raise InputError("unknown format", got=repr(kind), wanted=" or ".join(FORMATS))
    writers = {"onnx": _write_onnx, "torch-export": _write_program, "torchscript": _write_torchscript}
    with _quiet():
        try:
            more = writers[kind](graph, path)
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            text = str(error).split("\n")[0][:300]
            raise LimbeckError(f"the export to {kind} failed", where=path, got=text) from error
    return {"torch": torch.__version__, **more}


def _write_program(graph: Graph, path: Path) -> dict[str, Any]:
    program = to_program(graph.traced, graph.model)
    torch.export.save(program, path, extra_files={METADATA_KEY: graph.metadata})
    return {}


def _write_torchscript(graph: Graph, path: Path) -> dict[str, Any]:
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph.traced.graph, val_map={}))
    scripted = fx.GraphModule(graph.traced, copied)
    for node in scripted.graph.nodes:
        # TorchScript finds the overload by its arguments and knows no names of overloads
        if isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
    scripted.recompile()
    torch.jit.save(torch.jit.script(scripted), path, _extra_files={METADATA_KEY: graph.metadata})
    return {}


def _write_onnx(graph: Graph, path: Path) -> dict[str, Any]:
    import onnx
    import onnxscript.optimizer

    from limbeck.export import sums

    # exported without its own optimisation, which would fold half precision back to float32 and
    # keep transposed copies of weights
    program = torch.onnx.export(
        to_program(graph.traced, graph.model), dynamo=True, optimize=False, verbose=False,
        external_data=False, opset_version=OPSET,
        input_names=list(INPUT_NAMES), output_names=list(OUTPUT_NAMES),
        custom_translation_table=sums.translations(),
    )  # fmt: skip
    sums.add_distant_pair(program.model, graph.model.network.architecture.cutoff)
    limits = {"input_size_limit": _FOLDED, "output_size_limit": _FOLDED}
    onnxscript.optimizer.optimize_ir(program.model, onnx_shape_inference=False, **limits)
    proto = program.model_proto
    # leave out the trace's records, and name the open sizes
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    proto.graph.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    sizes = {"edge_index": "edges", "edge_shift": "edges"}
    sizes |= dict.fromkeys(("cell", "energy", "stress"), "structures")
    for value in [*proto.graph.input, *proto.graph.output]:
        value.ClearField("metadata_props")
        open_dimension = value.type.tensor_type.shape.dim[1 if value.name == "edge_index" else 0]
        open_dimension.dim_param = sizes.get(value.name, "atoms")
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, graph.metadata
    proto.producer_name, proto.producer_version = "limbeck", __version__
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return {"opset": OPSET, "onnx": onnx.__version__}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of missing packages, and that TorchScript is deprecated."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
