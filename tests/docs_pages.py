"""Read the pages of docs/ and run what stands in their fenced blocks.

A comment on the line before a block says what a test changes, parts with ``;`` between:

    <!-- test: skip: REASON -->          not run: for installations only
    <!-- test: small -->                 `limbeck distill` or `train` with settings that end in seconds
    <!-- test: drop --budget -->         leave options out
    <!-- test: add --epochs 2 -->        add options; of those given twice, the last counts
    <!-- test: fails -->                 it ends in an error; the text block after it is the message
    <!-- test: files runs/si -->         a text block that lists files there
    <!-- test: given -->                 anywhere on a page: the folder holds a run and labelled files

Shell blocks hold `limbeck` and `python` commands; Python blocks of a page share one namespace; a YAML block
names its file in its first line; ``...`` in a message stands for anything.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limbeck import cli

SMALL = (
    "drop --budget --temperatures; add --set training.epochs=2 --set training.checkpoint_s=100 "
    "--set 'sampling.steps=[{kind: rattle, stdev_a: 0.1, n: 10}, {kind: strain, max: 0.04, n: 6}]' "
    "--set 'test.steps=[{kind: rattle, stdev_a: 0.05, n: 2}, "
    "{kind: md, temperature_K: 300, starts: 1, frames: 2, every_fs: 4, timestep_fs: 2}]' "
    "--set labelling.workers=1 --set validation.onpolicy_frames=2 --set validation.onpolicy_every_fs=4 "
    "--set validation.onpolicy_equilibrate_fs=4 --set validation.nve_fs=8"
)
_ORDER = re.compile(r"<!-- test: (.*) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: ``language``, ``text``, and the ``orders`` for its test."""

    where: str
    language: str
    text: str
    orders: tuple[str, ...]

    def order(self, word: str) -> str | None:
        """What stands behind the order ``word``, or None without one."""
        found = [o.removeprefix(word).strip(" :") for o in self.orders if re.match(rf"{word}\b", o)]
        return " ".join(found) if found else None


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for k, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = k
            continue
        found = _ORDER.fullmatch(lines[opened - 1].strip()) if opened else None
        orders = tuple(part.strip() for part in found[1].split(";")) if found else ()
        text = "\n".join(lines[opened + 1 : k])
        blocks.append(Block(f"{page.name}:{opened + 1}", lines[opened][3:].strip(), text, orders))
        opened = None
    assert opened is None, f"{page.name}:{opened}: a fence that is not closed"
    return blocks


def is_given(page: Path) -> bool:
    """Whether the page's folder holds a run and labelled files."""
    return "<!-- test: given -->" in page.read_text(encoding="utf-8")


class Reader:
    """Somebody who types what a page says, in ``folder`` (the working directory)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__docs__"}

    def follow(self, blocks: list[Block]) -> None:
        """Do all blocks; AssertionError where one does not do what the page says."""
        message: str | None = None
        for block in blocks:
            if block.order("skip") is not None:
                assert block.order("skip"), f"{block.where}: a skip needs its reason"
                continue
            if block.language == "text":
                self._compare(block, message)
                message = None
                continue
            assert message is None, f"{block.where}: the message is not shown"
            message = self._do(block)
        assert message is None, "the last message is not shown"

    def _do(self, block: Block) -> str | None:
        match block.language:
            case "python":
                return self._python(block)
            case "sh":
                return self._shell(block)
            case "yaml":
                name, _ = block.text.split("\n", 1)
                assert name.startswith("# "), f"{block.where}: the first line names the file"
                assert isinstance(yaml.safe_load(block.text), dict)
                (self.folder / name[2:].strip()).write_text(block.text, encoding="utf-8")
            case "json":
                json.loads(block.text)
            case "lammps":  # by tests/interfaces, where LAMMPS is installed
                pass
            case other:
                raise AssertionError(
                    f"{block.where}: blocks are sh, python, yaml, json or text, not {other!r}"
                )
        return None

    def _python(self, block: Block) -> str | None:
        fails = block.order("fails") is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                exec(compile(block.text, block.where, "exec"), self.namespace)
        except Exception as error:
            if not fails:
                raise
            return str(error)
        assert not fails, f"{block.where}: no error"
        return None

    def _shell(self, block: Block) -> str | None:
        fails, message = block.order("fails") is not None, None
        for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if words[0] == "python":
                command = [sys.executable, *changed(words[1:], block.orders)]
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, f"{block.where}: {line}\n{done.stderr}"
                continue
            assert words[0] == "limbeck", f"{block.where}: {words[0]} is run by no test"
            code, errors = call(changed(words[1:], block.orders))
            last = [text for text in errors.splitlines() if text.startswith("error: ")][-1:]
            assert (code != 0) == fails, f"{block.where}: {line}: exit {code}\n{errors}"
            message = last[0] if fails else None
        return message

    def _compare(self, block: Block, message: str | None) -> None:
        listed = block.order("files")
        if listed is not None:
            missing = [
                n for n in block.text.split("\n") if not (self.folder / listed / n.split()[0]).exists()
            ]
            assert missing == [], f"{block.where}: not there: {missing}"
            return
        assert message is not None, f"{block.where}: a text block shows an error or lists files"
        pattern = ".*".join(re.escape(part) for part in " ".join(block.text.split()).split("..."))
        assert re.fullmatch(pattern, " ".join(message.split())), f"{block.where}: it says\n{message}"


def call(arguments: list[str]) -> tuple[int, str]:
    errors = io.StringIO()
    quiet = contextlib.redirect_stdout(io.StringIO())
    with contextlib.redirect_stderr(errors), quiet, warnings.catch_warnings():
        warnings.simplefilter("default")
        code = cli.main(arguments)
    return code, errors.getvalue()


def changed(words: list[str], orders: tuple[str, ...]) -> list[str]:
    """The command with its options dropped and added."""
    for order in orders:
        if order == "small":
            words = changed(words, tuple(part.strip() for part in SMALL.split(";")))
        elif order.startswith("drop "):
            for option in order.split()[1:]:
                if option in words:
                    at = words.index(option)
                    words = words[:at] + words[at + 2 :]
        elif order.startswith("add "):
            words = words + shlex.split(order)[1:]
    return words
