"""Parts of `limbeck finalize` over a content-hash cache: each is done, skipped or fails, the others go on.

A finished part is one file, named by the hash of what the part was made from, so the same command resumes
after an interruption, repeats nothing, and redoes what changed.
"""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from limbeck import __version__
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file, hash_json
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.progress import Say, format_seconds


class Done(NamedTuple):
    """What a part made: JSON-able values, files, and a sentence about what came out."""

    result: dict[str, Any]
    files: Sequence[Path] = ()
    finding: str = ""


@dataclass(frozen=True)
class Outcome:
    """One part: what, of which student (None: of all), and how it ended: done, failed or skipped.

    ``files``: path, bytes and sha256 of each. ``reused``: it was finished before, from the same inputs.
    """

    part: str
    student: str | None
    verdict: str
    reason: str | None = None
    seconds: float = 0.0
    files: tuple[dict[str, Any], ...] = ()
    result: dict[str, Any] = field(default_factory=dict)
    reused: bool = False

    @property
    def title(self) -> str:
        return self.part if self.student is None else f"{self.part} of {self.student}"


class Parts:
    """Does the parts of one command and has their outcomes.

    Parameters
    ----------
    out: the folder of all files; the cache in it moves with it. LimbeckError where it cannot be written.
    skip: first words of parts to leave out. deadline: of ``time.monotonic()``, of a command of ``budget_s``.
    overwrite: forget what earlier commands finished.
    """

    def __init__(
        self, out: Path, skip: frozenset[str], deadline: float, budget_s: float, say: Say,
        *, overwrite: bool = False, debug: bool = False,
    ) -> None:  # fmt: skip
        self.out, self.skip, self.deadline, self.budget_s = out, skip, deadline, budget_s
        self.say, self.debug = say, debug
        self.outcomes: list[Outcome] = []
        self.cache = out / ".finalize"
        for path in self.cache.glob("*.json") if overwrite else ():
            path.unlink()
        write_whole(self.cache / "README", "Finished parts of limbeck finalize; --overwrite forgets them.\n")

    def run(
        self, part: str, student: str | None, work: Callable[[], Done], inputs: object,
        needs_s: float = -math.inf,
    ) -> Outcome:  # fmt: skip
        """Do a part, or take what an earlier command made of the same ``inputs`` (JSON-able; None: do it).

        Work that is not finished is begun only where ``needs_s`` seconds are left.
        """
        if part.split()[0] in self.skip:
            return self.note(Outcome(part, student, "skipped", "asked for by --skip"))
        key = hash_json({"part": part, "student": student, "inputs": inputs, "limbeck": __version__})
        file = None if inputs is None else self.cache / f"{key}.json"
        kept = file and self._recall(part, student, file)
        if kept is None and self.deadline - time.monotonic() < needs_s:
            budget = f"the budget, {format_seconds(self.budget_s)}, is used up"
            reason = f"{budget}; the same command resumes it"
            return self.note(Outcome(part, student, "skipped", reason))
        return self.note(kept or self._attempt(part, student, work, file))

    def note(self, outcome: Outcome) -> Outcome:
        """Keep and say how a part ended."""
        self.outcomes.append(outcome)
        how = "done before" if outcome.reused else f"{outcome.verdict} in {format_seconds(outcome.seconds)}"
        how = "skipped" if outcome.verdict == "skipped" else how
        self.say(": ".join(filter(None, (outcome.title, how, outcome.reason))))
        return outcome

    def found(self, part: str, student: str | None = None) -> list[Outcome]:
        """Finished parts whose name begins with ``part``, of one student or of any."""
        done = [one for one in self.outcomes if one.part.startswith(part) and one.verdict == "done"]
        return [one for one in done if student in (None, one.student)]

    def _attempt(
        self, part: str, student: str | None, work: Callable[[], Done], file: Path | None
    ) -> Outcome:
        began = time.monotonic()
        try:
            done = work()
            files = tuple(facts(path) for path in done.files)
        except MissingPackageError as error:
            return Outcome(part, student, "skipped", str(error))
        except Exception as error:  # noqa: BLE001  (whatever a part runs into, the others go on)
            if self.debug:
                self.say(traceback.format_exc())
            kind = "" if isinstance(error, LimbeckError) else f"internal error: {type(error).__name__}: "
            reason = " ".join(f"{kind}{error}".split())
            return Outcome(part, student, "failed", reason, time.monotonic() - began)
        spent = time.monotonic() - began
        if file is not None:
            named = [one | {"path": os.path.relpath(one["path"], self.out)} for one in files]
            kept = {"seconds": spent, "reason": done.finding, "files": named, "result": done.result}
            write_whole(file, json.dumps(kept, indent=1))
        return Outcome(part, student, "done", done.finding, spent, files, done.result)

    def _recall(self, part: str, student: str | None, file: Path) -> Outcome | None:
        """The finished part, if all its files are as it left them."""
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            files = tuple(one | {"path": str(self.out / one["path"])} for one in kept["files"])
            if any(hash_file(one["path"]) != one["sha256"] for one in files):
                return None
            done = (kept["reason"], kept["seconds"], files, kept["result"])
            return Outcome(part, student, "done", *done, reused=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # done again, which is always right


def facts(path: Path) -> dict[str, Any]:
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": hash_file(path)}
