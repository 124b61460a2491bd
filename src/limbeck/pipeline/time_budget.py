"""The time a run has spent, over all its interruptions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from limbeck.core.files import write_whole
from limbeck.errors import InputError
from limbeck.progress import Progress


class RunClock:
    """Counts the seconds of a run and keeps small facts that must survive (``state.json``).

    Time is written at most every ten seconds, so a kill loses no more than that of the count.

    Parameters
    ----------
    folder: the run folder.
    began: ``time.monotonic()`` that this run counts from; now unless given.
    """

    def __init__(self, folder: Path, began: float | None = None) -> None:
        self.path = folder / "state.json"
        self._state: dict[str, Any] = {"spent_s": 0.0, "facts": {}}
        if self.path.exists():
            try:
                self._state = json.loads(self.path.read_text())
                self._before = float(self._state["spent_s"])
                dict(self._state["facts"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    "damaged state of a run",
                    where=self.path,
                    got=str(error),
                    remedy="delete it; labels and checkpoints are kept",
                ) from error
        else:
            self._before = 0.0
        self._saved = time.monotonic()
        self._began = self._saved if began is None else began

    @property
    def spent_s(self) -> float:
        """Seconds of this and all earlier runs in the folder."""
        return self._before + time.monotonic() - self._began

    def tick(self) -> None:
        """Write the time if ten seconds went by."""
        if time.monotonic() - self._saved > 10:
            self.save()

    def save(self) -> None:
        """Write the time now."""
        self._state["spent_s"] = round(self.spent_s, 2)
        write_whole(self.path, json.dumps(self._state, indent=1))
        self._saved = time.monotonic()

    def ticking(self, progress: Progress, prefix: str = "") -> Progress:
        """``progress`` with ``prefix`` before its tasks, which also writes the time now and then."""

        def tick(task: str, done: int, total: int | None = None, text: str = "") -> None:
            self.tick()
            progress(f"{prefix} {task}".strip(), done, total, text)

        return tick

    def get(self, name: str) -> Any:
        """A fact, or None."""
        return self._state["facts"].get(name)

    def once(self, name: str, value: Any) -> Any:
        """``value`` the first time a run asks, and the same again after an interruption."""
        if name not in self._state["facts"]:
            self.put(name, value)
        return self._state["facts"][name]

    def put(self, name: str, value: Any) -> None:
        """Set a fact."""
        self._state["facts"][name] = value
        self.save()
