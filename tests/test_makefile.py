"""What `make demo` runs and leaves, with a program in limbeck's place that only notes its words."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMBECK = """#!/bin/sh
echo "$@" >> "{log}"
[ "$1" != report ] || touch "$2/report.html"
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_ends_with_a_page(tmp_path):
    environment, out, log = tmp_path / "venv", tmp_path / "demo", tmp_path / "log"
    (environment / "bin").mkdir(parents=True)
    out.mkdir()
    for name in ("python", "limbeck"):
        program = environment / "bin" / name
        program.write_text(LIMBECK.format(log=log))
        program.chmod(0o755)
    for number, stamp in enumerate(
        (".build-tools", ".installed-demo")
    ):  # installed already, one after the other
        (environment / stamp).touch()
        os.utime(environment / stamp, times=(2e9 + number, 2e9 + number))
    done = subprocess.run(
        ["make", "demo", f"VENV={environment}", f"OUT={out}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    distill, report = log.read_text().splitlines()
    assert distill == f"distill examples/demo.yaml --budget 600s --out {out}"
    assert report == f"report {out}"
    assert done.stdout.splitlines()[-1].endswith(f"{out}/report.html")
    assert (out / "report.html").exists()


def test_the_demo_installs_what_its_page_needs():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    (demo,) = extras["demo"]
    assert "report" in demo.removeprefix("limbeck[").removesuffix("]").split(",")
