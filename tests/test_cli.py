"""The command line: help with examples, exit codes, and errors of one line on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from limbeck import __version__, cli
from limbeck.errors import InputError, LimbeckError
from limbeck.teachers import teacher_names

COMMANDS = (
    "bench convert distill doctor export finalize info label lammps learning-curve lint report sample students teachers "
    "train validate"
).split()
KEYS = "--energy-key --forces-key --stress-key --virial-key "
STARTS = "--structures --smiles --bulk --liquid --density --teacher --recipe --temperatures --seed --device "


@pytest.fixture
def run(capsys):
    """run(*arguments) -> (exit code, stdout, stderr)."""

    def _run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


def test_the_public_commands_are_these():
    single = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert sorted([*single, *(group.name for group in cli.app.registered_groups)]) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_the_command(run, command):
    code, out, err = run(command, "--help")
    text = " ".join(out.split())
    assert (code, err) == (0, "")
    assert f"Example: limbeck {command}" in text
    assert "--debug" in text


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("distill", STARTS + KEYS + "--preset --budget --epochs --active-learning --val --workers --set --out --overwrite "
                    "--dry-run --json --trust"),
        ("sample", STARTS + "--config --workers --set --out --overwrite --trust"),
        ("lint", KEYS + "--elements --like --val --ignore --json"),
        ("label", "--teacher --workers --device --out --extxyz"),
        ("train", KEYS + "--preset --budget --epochs --val --seed --init --device --overwrite --out --json"),
        ("validate", KEYS + "--json --plots --worst --n-worst --device"),
        ("convert", "--out"),
        ("info", "--card-md --json"),
        ("report", KEYS + "--out --target-force-rmse --data --json"),
        ("finalize", KEYS + "--out --data --teacher --to --quantize --skip --target-force-rmse --budget --threads "
                     "--row-limit --trust --set --overwrite --json"),
        ("learning-curve", KEYS + "--preset --labels --times --widths --budget --seed --out --json --plot"),
        ("bench", "--teacher --batch --atoms --threads --device --engines --row-limit --budget --structures "
                  "--trust --set --json --plot"),
        ("export", "--to --quantize --force --structures --threads --out --json"),
    ],
)  # fmt: skip
def test_commands_take_the_documented_options(run, command, options):
    text = run(command, "--help")[1]
    assert [option for option in options.split() if option not in text] == []


def test_version_and_help(run):
    assert run("--version") == (0, f"limbeck {__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["distil"], "No such command 'distil'"),
        (["train", "--out", "x"], "Missing argument"),
        (["label", "f.extxyz", "--out", "x"], "Missing option '--teacher'"),
        (["distill", "--bugdet", "5m"], "No such option"),
        (["distill", "--seed", "one", "--bulk", "Si"], "Invalid value for '--seed'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run, arguments, text):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert text in err
    assert "; remedy: see 'limbeck" in err
    assert err.count("\n") == 1


SI = ["--bulk", "Si", "--teacher", "chgnet"]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["si.yaml"], ["si.yaml:3: ", "'bugdet'", "wanted 'budget'"]),
        (["no.yaml"], ["no.yaml: no such file"]),
        (
            ["--bulk", "Si", "--teacher", "chgnt"],
            ["--teacher: ", "got 'chgnt'; wanted 'chgnet'?", "module:callable"],
        ),
        ([*SI, "--preset", "tiny,hug"], ["--preset: ", "got 'hug'; wanted original or tiny or ultra-tiny"]),
        ([*SI, "--budget", "soon"], ["--budget: ", "got 'soon'", "90s, 20m or 1h30m"]),
        ([*SI, "--smiles", "CCO"], ["got --smiles, --bulk; wanted exactly one of --structures, --smiles"]),
        (
            ["--teacher", "chgnet"],
            ["wanted exactly one of structures, smiles, bulk, liquid", "--smiles SMILES"],
        ),
        (["--bulk", "Si"], ["no teacher given", "remedy: add --teacher NAME"]),
        (SI, ["no run folder given", "remedy: add --out RUN"]),
    ],
)
def test_input_errors_are_one_line_and_exit_2(run, tmp_path, monkeypatch, arguments, facts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "si.yaml").write_text("bulk: Si\nteacher: chgnet\nbugdet: 5m\n")
    out = [] if "no run folder given" in facts else ["--out", "run"]
    code, printed, err = run("distill", *arguments, *out)
    assert (code, printed, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert [fact for fact in facts if fact not in err] == []
    assert not (tmp_path / "run").exists()


def _failing(monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("limbeck.teachers.list_cards", fail)


MISSING = ModuleNotFoundError("No module named 'rdkit'", name="rdkit")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LimbeckError("the disk is full", where="here", remedy="free it"), 1, "error: here: the disk is full; remedy: free it"),
        (InputError("bad"), 2, "error: bad"),
        (ZeroDivisionError("two\nlines"), 1, "error: internal error: ZeroDivisionError: two lines; run with --debug for the traceback"),
        (MISSING, 2, "error: a package is missing; got no module 'rdkit'; remedy: pip install -c constraints.txt -e '.[all]'"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
    ],
)  # fmt: skip
def test_exit_code_and_line_follow_the_error_and_a_traceback_comes_only_with_debug(
    run, monkeypatch, error, code, line
):
    _failing(monkeypatch, error)
    assert run("teachers") == (code, "", line + "\n")
    got, _, err = run("teachers", "--debug")
    assert got == code
    assert ("Traceback (most recent call last)" in err) is (code != 130)
    assert err.splitlines()[-1] == line.removesuffix("; run with --debug for the traceback")


def test_teachers_are_listed_and_written_as_json(run, tmp_path):
    code, out, err = run("teachers", "--json", tmp_path / "teachers.json")
    assert (code, err) == (0, "")
    rows = json.loads((tmp_path / "teachers.json").read_text())
    assert [row["name"] for row in rows] == teacher_names()
    assert all(row["name"] in out for row in rows)
    assert all(row["installed"] or f"limbeck teachers install {row['name']}" in out for row in rows)
    assert max(map(len, out.splitlines())) <= 100


def test_install_names_an_unknown_teacher(run):
    code, _, err = run("teachers", "install", "maze")
    assert code == 2
    assert err.startswith("error: unknown teacher; got 'maze'; wanted 'mace'? known: ")


def test_a_model_file_needs_trust(run, tmp_path):
    frames, model = tmp_path / "frames.xyz", tmp_path / "x.model"
    frames.write_text("2\n\nSi 0 0 0\nSi 0 0 2.3\n")
    model.write_bytes(b"something")
    label = ["label", frames, "--teacher", "mace", "--out", tmp_path / "store"]
    code, _, err = run(*label, "--set", f"teacher.options.model={model}")
    assert code == 2
    assert err.startswith(f"error: teacher mace: {model}: mace-torch unpickles a model file")
    assert err.endswith("remedy: add --trust, or trust: true under teacher in the configuration\n")
    python = tmp_path / "no_python"
    code, _, err = run(
        *label, "--trust", "--set", f"teacher.options.model={model}", "--set", f"teacher.python={python}"
    )
    assert code == 2
    assert f"teacher mace: teacher.python {python}: no such file" in err


def test_a_closed_pipe_is_no_internal_error():
    reader = "import sys; sys.stdin.readline()"
    command = f"{sys.executable} -m limbeck.cli teachers | {sys.executable} -c '{reader}'"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_process_ends_without_taking_the_interpreter_apart():
    """What was registered for the exit runs; a destructor at the interpreter's end would print."""
    code = (
        "import atexit, os\n"
        "from limbeck.cli import command_line\n"
        "class Late:\n"
        "    def __del__(self, write=os.write): write(1, b'torn down')\n"
        "late = Late()\n"
        "atexit.register(lambda: print('registered'))\n"
        "command_line()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments, wanted in ((["--help"], 0), (["info", "nosuch.safetensors"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
        )
        assert done.returncode == wanted
        assert ("Usage" in done.stdout) is (wanted == 0)
        assert ("no such student file" in done.stderr) is (wanted == 2)
        assert "torn down" not in done.stdout
    plain = code.replace("command_line()", "")
    done = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, env=environment)
    assert "torn down" in done.stdout


def test_warnings_of_limbeck_are_one_line_without_a_place_in_the_code():
    code = (
        "import runpy, sys, warnings\n"
        "from limbeck.cli import entry\n"
        "entry.main = lambda: warnings.warn('elsewhere') or "
        "exec(compile('import warnings; warnings.warn(chr(97))', entry.__file__, 'exec')) or 0\n"
        "entry.command_line()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "warning: a\n" in done.stderr
    assert "<string>:3: UserWarning: elsewhere" in done.stderr  # others keep theirs
