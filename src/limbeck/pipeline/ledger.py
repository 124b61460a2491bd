"""Parts of a long command: each does its work, is skipped or fails, and the others go on.

What is finished is kept by the hash of what it was made from, one file a part, so that the same command
goes on after an interruption and repeats nothing.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from limbeck import __version__
from limbeck.core.files import write_whole
from limbeck.core.hashing import hash_file, hash_json
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.pipeline.telling import Say
from limbeck.progress import format_seconds

Verdict = Literal["done", "failed", "skipped"]


class Skip(Exception):
    """Raised by a part that has nothing to do; the text is the reason."""


@dataclass(frozen=True)
class Done:
    """What a part made.

    Attributes
    ----------
    result: JSON-able figures. files: what it wrote. finding: a sentence about what came out.
    """

    result: dict[str, Any] = field(default_factory=dict)
    files: Sequence[Path] = ()
    finding: str = ""


@dataclass(frozen=True)
class Outcome:
    """One part: what, of which student (None: of all), and how it ended.

    ``files``: path, bytes and sha256 of each. ``reused``: it was finished before, on the same inputs.
    """

    part: str
    student: str | None
    verdict: Verdict
    seconds: float
    reason: str = ""
    files: tuple[dict[str, Any], ...] = ()
    result: dict[str, Any] = field(default_factory=dict)
    reused: bool = False

    @property
    def title(self) -> str:
        return self.part if self.student is None else f"{self.part} of {self.student}"

    def line(self) -> str:
        """One line for people."""
        how = "done before" if self.reused else f"{self.verdict} in {format_seconds(self.seconds)}"
        how = "skipped" if self.verdict == "skipped" else how
        return f"{self.title}: {how}" + (f": {self.reason}" if self.reason else "")

    def to_dict(self) -> dict[str, Any]:
        """Its entry in the summary."""
        return {
            "part": self.part, "student": self.student, "verdict": self.verdict,
            "seconds": round(self.seconds, 2), "reason": self.reason or None, "reused": self.reused,
            "files": list(self.files),
        }  # fmt: skip


class Ledger:
    """Runs parts one after another and keeps what they come to.

    Parameters
    ----------
    folder: where finished parts are kept; their files, named from its parent, may be moved with it.
    overwrite: forget those of earlier commands.
    say: called with one line a part. debug: with the traceback of an unforeseen failure too.
    """

    def __init__(self, folder: Path, say: Say, *, overwrite: bool = False, debug: bool = False) -> None:
        self.folder, self.say, self.debug = folder, say, debug
        self.outcomes: list[Outcome] = []
        if overwrite:
            for path in folder.glob("*.json"):
                path.unlink()

    def run(
        self, part: str, student: str | None, inputs: dict[str, Any], work: Callable[[], Done]
    ) -> Outcome:
        """Do a part, or take what an earlier command made of the same ``inputs`` (JSON-able)."""
        key = hash_json({"part": part, "student": student, "inputs": inputs, "limbeck": __version__})
        kept = self._recall(key)
        return self._note(kept if kept is not None else self._attempt(part, student, key, work))

    def skip(self, part: str, student: str | None, reason: str) -> Outcome:
        """Note a part that is not done, and why."""
        return self._note(Outcome(part, student, "skipped", 0.0, reason))

    def fail(self, part: str, student: str | None, reason: str) -> Outcome:
        """Note a part that cannot even be tried."""
        return self._note(Outcome(part, student, "failed", 0.0, reason))

    def found(self, part: str, student: str | None = None) -> list[Outcome]:
        """Finished parts of that name."""
        return [
            one for one in self.outcomes
            if one.part == part and one.verdict == "done" and student in (None, one.student)
        ]  # fmt: skip

    def _note(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        self.say(outcome.line())
        return outcome

    def _attempt(self, part: str, student: str | None, key: str, work: Callable[[], Done]) -> Outcome:
        began = time.monotonic()
        try:
            done = work()
            files = tuple(_facts(path) for path in done.files)
        except Skip as reason:
            return Outcome(part, student, "skipped", time.monotonic() - began, str(reason))
        except MissingPackageError as error:
            return Outcome(part, student, "skipped", time.monotonic() - began, str(error))
        except Exception as error:  # noqa: BLE001  (whatever a part runs into, the others go on)
            if self.debug:
                self.say(traceback.format_exc())
            known = isinstance(error, LimbeckError)
            text = str(error) if known else f"internal error: {type(error).__name__}: {error}"
            return Outcome(part, student, "failed", time.monotonic() - began, " ".join(text.split()))
        spent = time.monotonic() - began
        outcome = Outcome(part, student, "done", spent, done.finding, files, done.result)
        kept = {
            **outcome.to_dict(), "result": self._named(done.result), "files": list(map(self._named, files))
        }  # fmt: skip
        write_whole(self.folder / f"{key}.json", json.dumps(kept, indent=1))
        return outcome

    def _named(self, entry: dict[str, Any]) -> dict[str, Any]:
        """``entry`` with its path, if any, as seen from the parent folder."""
        root = self.folder.parent.absolute()
        if "path" not in entry or not Path(entry["path"]).absolute().is_relative_to(root):
            return entry
        return entry | {"path": str(Path(entry["path"]).absolute().relative_to(root))}

    def _placed(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The opposite of ``_named``."""
        return entry | ({"path": str(self.folder.parent / entry["path"])} if "path" in entry else {})

    def _recall(self, key: str) -> Outcome | None:
        """The finished part of this key, if all its files are as it left them."""
        try:
            kept = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            files = tuple(map(self._placed, kept["files"]))
            whole = all(hash_file(one["path"]) == one["sha256"] for one in files)
            outcome = Outcome(
                kept["part"], kept["student"], "done", float(kept["seconds"]), kept["reason"] or "",
                files, self._placed(kept["result"]), reused=True,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError):
            return None  # done again, which is always right
        return outcome if whole else None


def _facts(path: Path) -> dict[str, Any]:
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": hash_file(path)}
