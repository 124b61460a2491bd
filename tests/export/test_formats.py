"""Each format written, loaded again in its own process, held against the student, and used by the examples."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS

from limbeck import __version__
from limbeck.errors import LimbeckError
from limbeck.export.certificate import References
from limbeck.export.formats import OPSET, SUFFIXES, make_graph, write_format
from limbeck.export.runner import INPUT_NAMES, OUTPUT_NAMES
from limbeck.export.runtimes import Runtime
from limbeck.export.structures import MANY
from limbeck.runtime.student import Calculator, Student
from tests.export.tools import (
    STRUCTURES,
    make_model,
    need,
    slow_in_ci,
    small_graph,
    small_record,
    small_student,
)
from tests.students.tools import SYSTEMS

EXAMPLES = Path(__file__).parents[2] / "examples" / "exported"
START = SYSTEMS["triclinic"]


@pytest.fixture(scope="module")
def references():
    classes = {k: v for k, v in STRUCTURES.items() if k != "slab"}
    many = bulk("Si", cubic=True) * 3
    many.rattle(0.05, seed=0)
    return References(small_student(), classes | {MANY: [many]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


def written(kind, folder):
    """The file of a format, written once."""
    need(kind)
    path = folder / f"small{SUFFIXES[kind]}"
    if not path.is_file():
        write_format(small_graph(), kind, path)
    return path


@slow_in_ci
@pytest.mark.parametrize("kind", ["onnx", "torch-export", "torchscript"])
def test_parity_in_its_own_runtime(kind, folder, references):
    path = written(kind, folder)
    with Runtime() as runtime:
        assert runtime.load(path, kind, threads=1)["threads"] == 1
        loaded = runtime.load(path, kind)
        assert loaded["threads"] > 1
        comparison = references.compare(runtime)
        assert comparison.passes, comparison.failure()
        repeats = references.repeat(runtime, loaded["threads"])
    assert repeats.passes, repeats.failure()
    assert (repeats.atoms, repeats.repeats, repeats.threads) == (216, 20, loaded["threads"])
    card, record = loaded["card"], small_record()
    assert card == json.loads(small_graph().metadata)
    wanted = {
        "limbeck_version": __version__, "cutoff_a": 5.0, "weights": "float32", "student_sha256": "0" * 64,
        "elements": list(record.architecture.elements), "symbols": ["H", "C", "N", "O", "Si"],
    }  # fmt: skip
    assert {name: card[name] for name in wanted} == wanted
    assert card["energy_references_ev"]["14"] == record.baseline.references[14]
    assert set(card["inputs"]) == set(INPUT_NAMES)
    # nothing of the machine that traced it; weights once, and little else
    assert b"site-packages" not in path.read_bytes()
    assert path.stat().st_size < 4 * record.architecture.n_parameters + 600_000


@slow_in_ci
def test_the_onnx_file_is_plain(folder):
    need("onnx")
    import onnx

    model = onnx.load(written("onnx", folder))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert [value.name for value in model.graph.input] == list(INPUT_NAMES)
    assert [value.name for value in model.graph.output] == list(OUTPUT_NAMES)
    wanted = {"edge_index": [2, "edges"], "forces": ["atoms", 3], "stress": ["structures", 3, 3]}
    for value in [*model.graph.input, *model.graph.output]:
        size = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert size == wanted.get(value.name, size)
    # onnxruntime's ScatterND adds on several threads at once and loses addends where indices are equal
    adding = {node.op_type for node in model.graph.node if any(a.name == "reduction" for a in node.attribute)}
    assert adding == {"ScatterElements"}
    assert not {node.op_type for node in model.graph.node} & {"ScatterND", "Scatter"}
    numbers = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert numbers < small_record().architecture.n_parameters + 1000
    assert model.ByteSize() < 4.2 * numbers + 100_000


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_broken_file_and_a_dead_runtime_are_one_line(kind, tmp_path):
    need(kind)
    path = tmp_path / f"broken{SUFFIXES[kind]}"
    path.write_bytes(b"\x00\x01broken")
    with Runtime() as runtime:
        with pytest.raises(LimbeckError, match="its runtime refuses the export") as caught:
            runtime.load(path, kind)
        assert "\n" not in str(caught.value)
        runtime._child.process.kill()
        runtime._child.process.wait()
        with pytest.raises(LimbeckError, match="x.onnx: the runtime of the export died; got signal SIGKILL"):
            runtime.load("x.onnx", "onnx")


def test_a_runtime_holds_nothing_that_could_help_an_export():
    code = "import sys, limbeck.export.runner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name for name in done.stdout.split() if name.startswith("limbeck.")}
    assert loaded <= {f"limbeck.{n}" for n in "errors export export.runner core core.messages".split()}
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"ase", "torch"}


# ---- the example scripts, each in an environment of its own in which Limbeck does not exist ----


def make_environment(folder: Path, *without: str) -> Path:
    """A fresh environment whose packages are links to this one's, without those named; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    sources = {Path(folder) for folder in sys.path if folder.endswith("site-packages")}
    for entry in sorted(entry for source in sources for entry in source.iterdir()):
        # .pth files are left out too: an editable installation is one
        if entry.suffix == ".pth" or entry.name.lower().lstrip("_").startswith(without):
            continue
        if not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def run_example(python: Path, *arguments: object, absent: str) -> dict:
    """The JSON object that an example prints, in the environment that has none of the absent packages."""

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(python.parents[1])}
        command = [str(python), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")

    for name in absent.split():
        assert "ModuleNotFoundError" in call("-c", f"import {name}").stderr, f"{name} is there after all"
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@slow_in_ci
@pytest.mark.parametrize(
    ("script", "kind", "absent"),
    [("onnx_md", "onnx", "limbeck torch functorch"), ("torchscript_md", "torchscript", "limbeck")],
)
def test_dynamics_without_limbeck(script, kind, absent, folder, tmp_path):
    python, example = make_environment(tmp_path / "env", *absent.split()), EXAMPLES / f"{script}.py"
    structure, absent = tmp_path / "start.extxyz", absent.replace(" functorch", "")
    write(structure, START)
    found = run_example(python, example, written(kind, folder), structure, "--steps", 40, absent=absent)
    assert abs(found.get("drift_mev_per_atom", 0.0)) < 0.5
    assert 50 < found.get("temperature_k", 300.0) < 1000
    still = run_example(python, example, written(kind, folder), structure, "--steps", 0, absent=absent)
    wanted = float(small_student().evaluate([START]).energy[0])
    assert still["energy_ev"] == pytest.approx(wanted, abs=1e-5)


@slow_in_ci
def test_relaxation_with_torch_export(folder, tmp_path):
    python, structure = make_environment(tmp_path / "env", "limbeck"), tmp_path / "start.extxyz"
    write(structure, START)
    script, path = EXAMPLES / "torch_export_relax.py", written("torch-export", folder)
    options = ("--fmax", 0.01, "--steps", 12, "--cell")
    found = run_example(python, script, path, structure, *options, absent="limbeck")
    atoms = START.copy()
    atoms.calc = Calculator(small_student(), guarded=False)
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=12)
    assert found["energy_ev"] == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    assert found["volume_a3"] == pytest.approx(atoms.get_volume(), rel=1e-4)
    assert abs(atoms.get_volume() - START.get_volume()) > 0.01  # the cell moved


@slow_in_ci
def test_a_float64_student_keeps_its_digits_in_onnx(tmp_path):
    need("onnx")
    record = small_record(np.float64)
    graph = make_graph(make_model(record), student_hash="0" * 64, name="small", quantisation=None)
    path = tmp_path / "small.onnx"
    write_format(graph, "onnx", path)
    references = References(Student(record, threads=1), {k: STRUCTURES[k] for k in ("molecule", "triclinic")})
    with Runtime() as runtime:
        runtime.load(path, "onnx")
        comparison = references.compare(runtime)
    assert references.precision == "float64"
    assert comparison.passes, comparison.failure()
