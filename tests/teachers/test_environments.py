"""Environments of teachers, with a tiny package from a local folder: no network, no real teacher."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.labelling import open_teacher
from limbeck.teachers import environments, get_card, registry
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.environments import (
    Interpreter,
    check_python,
    environment_folder,
    find_base,
    find_interpreter,
    install_environment,
    installed_python,
    is_current,
    limbeck_home,
    read_pins,
)

PACKAGE = "limbeck_test_teacher"
_PYPROJECT = f"""
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{PACKAGE.replace("_", "-")}"
version = "1.0"
"""
# A wheel by hand: no build tool is fetched.
_BACKEND = f'''
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "{PACKAGE}-1.0-py3-none-any.whl"
    info = "{PACKAGE}-1.0.dist-info/"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.write("{PACKAGE}.py")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: {PACKAGE.replace("_", "-")}\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def card(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> TeacherCard:
    """A teacher whose package is a folder; numpy and ase come from this environment by a .pth file."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(_PYPROJECT)
    (source / "backend.py").write_text(_BACKEND)
    (source / f"{PACKAGE}.py").write_text("from ase.calculators.emt import EMT\n")
    pins = tmp_path / "pins"
    pins.mkdir()
    (pins / "tiny.txt").write_text(f"# a list\n{source}\n")
    monkeypatch.setattr(environments, "PINS", pins)
    run = environments._run

    def with_this_environments_packages(command: list[str], *rest: object) -> None:
        """Its pip too: to unpack another takes seconds."""
        venv = command[1:3] == ["-m", "venv"]
        run([*command[:3], "--without-pip", *command[3:]] if venv else command, *rest)
        if venv:
            (site,) = Path(command[3]).glob("lib/python*/site-packages")
            folders = [p for p in sys.path if p.endswith("site-packages")]
            (site / "borrowed.pth").write_text("\n".join(folders) + "\n")

    monkeypatch.setattr(environments, "_run", with_this_environments_packages)
    python = "{}.{}".format(*sys.version_info)
    names = {"name": "tiny", "environment": "tiny", "package": PACKAGE, "requirement": f"{PACKAGE}==1.0"}
    return dataclasses.replace(get_card("chgnet"), **names, pythons=(python,))


def _leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith((".lock", ".log")))


def test_home_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, folder in (
        ("HOME", ".local/share/limbeck"),
        ("XDG_DATA_HOME", "limbeck"),
        ("LIMBECK_HOME", ""),
    ):
        monkeypatch.delenv("LIMBECK_HOME", raising=False)
        if name == "HOME":
            monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        monkeypatch.setenv(name, str(tmp_path / name))
        assert limbeck_home() == tmp_path / name / folder


def test_an_environment_is_made_once_and_found(card: TeacherCard, home: Path) -> None:
    assert installed_python(card) is None
    with pytest.raises(MissingPackageError, match="remedy: limbeck teachers install tiny"):
        find_interpreter(card)
    messages: list[str] = []
    python = install_environment(card, say=messages.append)
    assert python == home / "teachers" / "tiny" / "bin" / "python"
    assert find_interpreter(card) == Interpreter(python, "installed")
    assert is_current(card)
    assert _leftovers(home / "teachers") == ["tiny"]
    made = (environment_folder(card) / "limbeck.json").stat().st_mtime_ns
    install_environment(card, say=messages.append)
    assert str(home / "teachers" / "tiny") in messages[-1]
    assert made == (environment_folder(card) / "limbeck.json").stat().st_mtime_ns
    install_environment(card, say=messages.append, overwrite=True)
    assert made != (environment_folder(card) / "limbeck.json").stat().st_mtime_ns
    assert _leftovers(home / "teachers") == ["tiny"]

    # Another list makes it anew; a base interpreter that went away leaves nothing that counts.
    (environments.PINS / "tiny.txt").write_text(f"{read_pins(card)[0]}\n# and\nase\n")
    assert not is_current(card)
    python.unlink()
    python.symlink_to(home / "gone")
    assert installed_python(card) is None


def test_a_worker_runs_there_with_this_very_limbeck(
    card: TeacherCard, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its package is found, and what PYTHONPATH names for this process is not."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "limbeck_only_mine.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    python = install_environment(card, say=lambda _: None)
    with open_teacher(f"{PACKAGE}:EMT", python=python) as teacher:
        labels = teacher.evaluate(StructureBatch.from_atoms([bulk("Cu")]))
    assert np.isfinite(labels.energy[0])
    place = Interpreter(python, "installed")
    command = place.command("limbeck.teachers.smoke", working_folder=False)
    run = lambda *names: subprocess.run(  # noqa: E731
        [*command, *names], env=place.environment(), capture_output=True, text=True, check=False
    )
    assert run(PACKAGE).returncode == 0
    assert "No module named 'limbeck_only_mine'" in run("limbeck_only_mine").stderr


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "backend.py",
            "raise OSError(28, 'No space left on device')",
            "environment of teacher tiny: pip failed; got ",
        ),
        (
            f"{PACKAGE}.py",
            "import limbeck_no_such",
            "cannot import the package; got ModuleNotFoundError: No module",
        ),
    ],
)
def test_a_failed_installation_leaves_nothing(
    card: TeacherCard, home: Path, name: str, content: str, text: str
) -> None:
    (Path(read_pins(card)[0]) / name).write_text(content)
    with pytest.raises(LimbeckError) as caught:
        install_environment(card, say=lambda _: None)
    assert text in str(caught.value)
    assert f"remedy: see {home / 'teachers' / 'tiny.log'}" in str(caught.value)
    assert _leftovers(home / "teachers") == []
    assert installed_python(card) is None


def test_an_interrupted_installation_does_not_count(
    card: TeacherCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGKILL: a partial folder lies there, and no record; the next installation clears it."""
    partial = home / "teachers" / ".tiny.partial"
    partial.mkdir(parents=True)
    (partial / "half").write_text("a file")
    assert installed_python(card) is None

    def interrupt(*_: object) -> None:
        assert not (partial / "half").exists()
        partial.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(environments, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        install_environment(card, say=lambda _: None)
    assert _leftovers(home / "teachers") == []


def test_places_that_cannot_be_used(card: TeacherCard, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not an environment"):
        install_environment(card, folder=other, overwrite=True)
    assert (other / "thesis.tex").exists()
    # A file where a folder must be fails for every user; root may write anywhere else.
    home.write_text("")
    with pytest.raises(LimbeckError) as caught:
        install_environment(card)
    assert caught.value.where == str(home / "teachers")
    assert "LIMBECK_HOME" in caught.value.remedy


def test_two_installations_do_not_meet(card: TeacherCard, home: Path) -> None:
    with (
        environments._lock(environment_folder(card)),
        pytest.raises(LimbeckError, match="another installation"),
    ):
        install_environment(card)


def test_a_fitting_interpreter_is_wanted(card: TeacherCard) -> None:
    assert find_base(card) == Path(sys.executable)
    none = dataclasses.replace(card, pythons=("2.7",))
    for asked, python, text in (
        (none, None, r"got Python [\d.]+ and no other on PATH; wanted Python 2\.7; remedy"),
        (card, Path("/bin/ls"), "unsuitable interpreter .*; got no Python interpreter"),
        (none, Path(sys.executable), r"unsuitable interpreter .*; got Python 3\.\d+; wanted Python 2\.7"),
    ):
        with pytest.raises(InputError, match=text):
            find_base(asked, python)


def test_teacher_python_is_checked(tmp_path: Path) -> None:
    here = Path(sys.executable)
    check_python(here, ["numpy"], "mace")
    (tmp_path / "text").write_text("print(1)")
    for name, script in (("silent", ""), ("old", 'echo \'limbeck-probe [[3, 9, 1], ["numpy", "ase"]]\'\n')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / name).chmod(0o755)
    for python, what, got in (
        (tmp_path / "gone", "no such file", None),
        (tmp_path / "text", "not an executable file", None),
        (tmp_path, "not an executable file", None),
        (tmp_path / "silent", "not a Python interpreter", "exit code 0 and no answer"),
        (tmp_path / "old", "Python is too old", "3.9.1"),
        (here, "missing packages in the environment", "no limbeck_no_such"),
    ):
        with pytest.raises(LimbeckError) as caught:
            check_python(python, ["limbeck_no_such"] * (python == here), "mace")
        assert (caught.value.what, caught.value.got, caught.value.exit_code) == (what, got, 2)
        assert caught.value.where == f"teacher mace: teacher.python {python}"
    assert caught.value.wanted == "numpy, ase, limbeck_no_such"
    assert caught.value.remedy == f"{here} -m pip install limbeck_no_such"


def test_every_teacher_has_a_list_of_pins() -> None:
    for card in registry.list_cards():
        pins = read_pins(card)
        assert card.requirement in pins
        assert all("==" in pin for pin in pins)
        assert {"ase", "numpy"} <= {pin.partition("==")[0].lower() for pin in pins}
    assert len(read_pins(get_card("mace"))) > 30
    assert "torch==2.13.0" in read_pins(get_card("orb"))


def _refusal(name: str, options: dict) -> InputError:
    with pytest.raises(InputError) as caught:
        registry.check_teacher(name, options)
    return caught.value


def test_model_files_are_checked_before_any_process_starts(tmp_path: Path) -> None:
    mace, there = get_card("mace"), tmp_path / "there.model"
    assert _refusal("mace", {}).what == "missing model of teacher 'mace'"
    (tmp_path / "empty.model").write_bytes(b"")
    there.write_bytes(b"something")
    for path, what, got in (
        (tmp_path / "gone.model", "no such file", None),
        (tmp_path / "empty.model", "not a model file", "an empty file"),
        (tmp_path, "not a model file", "a folder"),
    ):
        error = _refusal("mace", {"model": str(path)})
        assert (error.what, error.got, error.where) == (what, got, f"teacher mace: model {path}")
        assert error.wanted.startswith("a model file, or one of small, medium")
    error = _refusal("mace", {"model": str(there)})
    assert (error.where, "unpickles a model file" in error.what) == (f"teacher mace: {there}", True)
    assert error.remedy == "add --trust, or trust: true under teacher in the configuration"
    registry.check_teacher("mace", {"model": str(there)}, trust=True)
    registry.check_teacher("mace", {"model": "small"})  # its package's own model
    registry.check_teacher("orb", {"weights": str(there)})  # read without unpickling
    error = _refusal("deepmd", {"model": str(there)})
    assert (error.what, error.got, error.wanted) == (
        "unknown type of model file",
        "there.model",
        ".pth or .pt",
    )
    assert error.remedy == "dp convert-backend model.pb model.pth"
    assert mace.of({"model": "small"}).licence == "MIT"
    assert mace.of({"model": "off-small"}).elements == {1, 6, 7, 8, 9, 15, 16, 17, 35, 53}


def test_a_model_file_is_known_by_its_contents(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.model", "same.model", "other.model"))
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"weightz")
    card = get_card("mace")
    identities = [card.identity({"model": str(p)}, card.capabilities, p) for p in (one, same, other)]
    assert identities[0] == identities[1] != identities[2]
    assert json.loads(identities[0].options) == {"dtype": "float64", "head": None}
