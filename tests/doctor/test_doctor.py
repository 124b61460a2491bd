"""The doctor reports what is there, and for each thing made missing the line that repairs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from limbeck import cli
from limbeck.core import machine
from limbeck.core.machine import cgroup_cores, processor_name, vector_instructions
from limbeck.doctor import checks
from limbeck.doctor.checks import examine
from limbeck.students.engine import native_available
from limbeck.teachers import environments, get_card, list_cards
from limbeck.teachers.card import TeacherCard

BUILD = "pip install -c constraints.txt --force-reinstall --no-deps -e ."
COMPILER = "sudo apt install g++    (conda: conda install -c conda-forge cxx-compiler)"


def shown(finding) -> tuple:
    return finding.status, finding.detail, finding.remedy


def test_compilers(monkeypatch):
    monkeypatch.setenv("CXX", "mycxx -std=c++17")
    monkeypatch.setattr(checks.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(environments, "run_short", lambda command: (0, f"{' '.join(command)} 13.1\nmore", ""))
    assert shown(checks.check_compiler()) == ("ok", "mycxx -std=c++17: mycxx -std=c++17 --version 13.1", None)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(checks.shutil, "which", lambda name: "/bin/clang++" if name == "clang++" else None)
    assert checks.check_compiler().facts == {"name": "clang++", "version": "clang++ --version 13.1"}
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    assert shown(checks.check_compiler()) == ("missing", "none found; builds the core", COMPILER)


@pytest.mark.skipif(not native_available(), reason="the native core is not built")
def test_the_core_of_this_installation():
    from limbeck import _native

    finding = checks.check_core(True, vector_instructions())
    assert finding.status == "ok"
    assert finding.facts["used"] == _native.best_instruction_set()
    assert finding.facts["used"] in finding.facts["runs"]
    assert set(finding.facts["runs"]) <= set(finding.facts["compiled"]) <= set(checks.INSTRUCTION_SETS)


@pytest.mark.parametrize(
    ("code", "errors", "has_compiler", "reason", "remedy"),
    [
        (
            1,
            "Traceback\nImportError: cannot import name '_native'\n",
            True,
            "ImportError: cannot import name '_native'",
            BUILD,
        ),
        (1, "", False, "exit code 1", f"{COMPILER}, then {BUILD}"),
        (-4, "", True, "the process ended with SIGILL", BUILD),
    ],
)
def test_a_core_that_does_not_load(monkeypatch, code, errors, has_compiler, reason, remedy):
    monkeypatch.setattr(environments, "run_short", lambda *args: (code, "", errors))
    assert shown(checks.check_core(has_compiler, [])) == ("broken", f"does not load: {reason}", remedy)


@pytest.mark.parametrize(
    ("held", "vectors", "status", "detail"),
    [
        (["avx512", "avx2", "portable"], ["avx2"], "ok", "compiled for avx512, avx2, portable; uses avx2"),
        (["portable"], ["avx", "avx2"], "warning", "uses portable, though the processor has AVX2"),
        (["portable"], [], "ok", "loads; compiled for portable; uses portable"),
    ],
)
def test_what_a_core_is_compiled_for(monkeypatch, tmp_path, held, vectors, status, detail):
    (tmp_path / "_native.so").write_bytes(b"..".join(f"limbeck_{name}".encode() for name in held))
    used = "avx2" if "avx2" in held else "portable"
    answer = json.dumps({"file": str(tmp_path / "_native.so"), "used": used, "runs": [used]})
    monkeypatch.setattr(environments, "run_short", lambda *args: (0, f"a warning\n{answer}\n", ""))
    found = checks.check_core(True, vectors)
    assert (found.status, found.remedy) == (status, BUILD if status == "warning" else None)
    assert found.detail.endswith(detail)


@pytest.mark.parametrize(
    ("given", "container", "detail", "remedy"),
    [
        (None, None, "Limbeck takes 2; 4 cores, 2 usable", None),
        ("3", None, "OMP_NUM_THREADS=3; more threads than the 2 that can run at once are slow", 2),
        ("all", None, "OMP_NUM_THREADS is no number of threads and is ignored", 2),
        (
            None,
            1.5,
            "1.5 of them allowed by the container; more threads than the 1 that can run at once are slow",
            1,
        ),
    ],
)
def test_threads(monkeypatch, given, container, detail, remedy):
    """A machine of four cores, two of them usable."""
    for name in checks._SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: container)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    finding = checks.check_threads()
    assert finding.detail.endswith(detail)
    assert finding.status == ("warning" if remedy else "ok")
    assert finding.remedy == (remedy and f"export OMP_NUM_THREADS={remedy}")


def test_a_containers_limit_is_read_in_both_versions(tmp_path):
    older = tmp_path / "older"
    (older / "cpu").mkdir(parents=True)
    (older / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_cores(tmp_path) is None
    for folder, file, text, cores in (
        (tmp_path, "cpu.max", "150000 100000\n", 1.5),
        (tmp_path, "cpu.max", "max 100000\n", None),
        (older, "cpu/cpu.cfs_quota_us", "200000\n", 2.0),
        (older, "cpu/cpu.cfs_quota_us", "-1\n", None),
    ):
        (folder / file).write_text(text)
        assert cgroup_cores(folder) == cores


def test_processor_and_its_vectors(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 fma avx sse4_2\n")
    assert processor_name(info) == "Fast One"
    assert vector_instructions(info) == ["sse4_2", "avx", "fma", "avx2"]
    assert vector_instructions(tmp_path / "none") == []
    assert processor_name(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "gpus", "status", "detail"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", 0, "ok", "CPU; no GPU"),
        ("cuda: Optional[str] = None\n", 1, "warning", "CPU; 1 NVIDIA GPU(s) that it cannot use"),
        ("cuda: Optional[str] = '12.8'\n", 2, "ok", "CUDA 12.8; 2 NVIDIA GPU(s)"),
        ("cuda = None\nhip: Optional[str] = '6.4'\n", 0, "ok", "ROCm 6.4; no GPU"),
    ],
)
def test_builds_of_torch(monkeypatch, tmp_path, text, gpus, status, detail):
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(checks, "package_version", lambda name: "2.13.0")
    monkeypatch.setattr(checks, "module_file", lambda name: tmp_path / "__init__.py")
    monkeypatch.setattr(checks, "count_gpus", lambda: gpus)
    found = checks.check_torch()
    assert (found.status, found.detail) == (status, f"2.13.0, built for {detail}")
    assert ("pytorch.org" in (found.remedy or "")) == (status == "warning")


def test_limbecks_folder(monkeypatch, tmp_path):
    def state(name: str, free_gb: float) -> tuple:
        monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / name))
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * 1e9))
        found = checks.check_home()
        assert (found.remedy is None) == (found.status == "ok")
        return found.status, found.detail.removeprefix(f"{tmp_path / name}: ")

    assert state("not/there", 50) == ("ok", "50.0 GB free")
    full = "1.0 GB free, and an environment of a teacher takes up to 3"
    assert state("not/there", 1) == ("warning", full)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert state("not/there", 50) == ("warning", "cannot be written")
    (tmp_path / "file").touch()
    assert state("file", 50) == ("warning", f"{tmp_path}/file is a file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_teachers_here_elsewhere_and_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setattr(TeacherCard, "installed", property(lambda card: card.name == "chgnet"))
    monkeypatch.setattr(TeacherCard, "version", lambda card: "0.4.2")
    folder = environments.environment_folder(get_card("ani-1x"))
    (folder / "bin").mkdir(parents=True)
    (folder / "limbeck.json").write_text("{}")
    found = {card.name: shown(checks.check_teacher(card)) for card in list_cards()}
    assert found["chgnet"] == ("ok", "chgnet 0.4.2", None)
    remedy = "limbeck teachers install ani-1x --overwrite"
    assert found["ani-1x"] == ("warning", f"in {folder}, whose Python is gone", remedy)
    assert found["mace"] == ("missing", get_card("mace").domain, "limbeck teachers install mace")
    (folder / "bin" / "python").touch()
    assert shown(checks.check_teacher(get_card("ani-1x"))) == (
        "warning",
        f"in {folder}, made from an older list of versions",
        remedy,
    )
    monkeypatch.setattr(environments, "is_current", lambda card: True)
    assert shown(checks.check_teacher(get_card("ani-1x"))) == ("ok", f"in {folder}", None)


def test_packages_that_are_missing_and_one_of_two_that_is_enough(monkeypatch):
    monkeypatch.setattr(checks, "package_version", {"onnxruntime-gpu": "1.2"}.get)
    pip = "pip install -c constraints.txt"
    found = {f.name: shown(f) for f in checks.check_packages()}
    assert len(found) == 9
    assert found["onnx"] == ("missing", "exports to ONNX", f"{pip} onnx")
    assert found["rdkit"] == ("missing", "starts from SMILES", f"{pip} -e '.[molecules]'")
    assert found["onnxruntime"] == ("ok", "1.2", None)


def test_extras_named_in_remedies_are_there():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for _, (name, *_others), extra, _purpose in checks.PACKAGES:
        if extra:
            line = next(line for line in text.splitlines() if line.startswith(f"{extra} = ["))
            assert name in line


def test_what_is_not_there_is_no_crash():
    assert checks.module_file("limbeck_no_such_module") is None
    assert checks.package_version("limbeck-no-such-distribution") is None


@pytest.fixture
def healthy(monkeypatch):
    monkeypatch.setattr(checks, "package_version", lambda name: "9.9")
    monkeypatch.setattr(checks, "module_file", lambda name: Path("torch/__init__.py"))
    monkeypatch.setattr(checks.shutil, "which", lambda name: name)
    core = json.dumps({"file": "", "used": "portable", "runs": ["portable"]})
    monkeypatch.setattr(environments, "run_short", lambda command, environment=None: (0, core, ""))
    monkeypatch.setattr("limbeck.core.machine.vector_instructions", list)
    return monkeypatch


def test_the_command_prints_findings_and_json(healthy, capsys, tmp_path):
    assert cli.main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[1:3] == ["", "engine"]
    assert "ok       rdkit          9.9" in lines
    assert max(map(len, lines)) <= 160
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert (written["ok"], written["versions"]["limbeck"]) == (True, cli.root.__version__)
    assert list(written["findings"][0]) == ["group", "name", "status", "detail", "remedy", "facts"]
    assert {f["group"] for f in written["findings"]} == {
        "engine", "machine", "torch", "teachers", "exporters", "optional", "disk"
    }  # fmt: skip
    assert all(f["remedy"] for f in written["findings"] if f["status"] != "ok")


def test_without_torch_students_still_run(healthy, capsys, tmp_path):
    healthy.setattr(checks, "package_version", lambda name: None if name == "torch" else "9.9")
    assert checks.check_torch().remedy == "pip install 'limbeck[train]'"
    assert cli.main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 0
    assert "missing  torch          not installed; trains students" in capsys.readouterr().out
    assert json.loads((tmp_path / "doctor.json").read_text())["ok"] is True


def test_nothing_heavy_is_imported():
    code = "from limbeck.doctor.checks import examine; examine(); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "sevenn", "chgnet", "rdkit", "matplotlib", "onnx", "pydantic"}


def test_this_installation_is_in_order():
    diagnosis = examine()
    assert [f.name for f in diagnosis.broken] == []
