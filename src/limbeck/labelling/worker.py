"""A teacher in a process of its own: ``python -m limbeck.labelling.worker``.

It imports ase, numpy and the teacher's package alone, so a teacher's pins, its global settings (SO3LR
sets torch's default dtype) and its crashes stay here. Requests come on standard input, answers leave on
what was standard output; whatever the teacher's package prints goes to standard error.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any

import numpy as np

from limbeck.core.labels import Labels, join_labels
from limbeck.core.potential import Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.labelling import pipe
from limbeck.teachers.registry import LoadedTeacher, load_teacher


def main() -> None:
    """Serve until standard input ends or the parent dies."""
    inbox, answers_out = open_inbox()
    opening, _ = inbox.get()
    try:
        loaded = load_teacher(
            opening["teacher"], opening["options"], opening["device"], trust=opening["trust"]
        )
    except Exception as error:  # noqa: BLE001 - whatever the package raises must reach the parent
        pipe.send(
            answers_out, {"kind": "error", "id": -1, "error": _describe(error, "loading the teacher failed")}
        )
        return
    pipe.send(answers_out, _greeting(loaded))
    while True:
        request, arrays = inbox.get()
        pipe.send(answers_out, *_answer(loaded, request, arrays))


def open_inbox() -> tuple[queue.SimpleQueue[pipe.Message], int]:
    """Requests as they come, and where answers go; whatever is printed goes to standard error from now on."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests_in, answers_out = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    inbox: queue.SimpleQueue[pipe.Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests_in, inbox), daemon=True).start()
    return inbox, answers_out


def _listen(descriptor: int, inbox: queue.SimpleQueue[pipe.Message]) -> None:
    """Fill the inbox at all times, so that the parent never blocks while it writes.

    The end of the stream ends the process, in the middle of an evaluation too: nobody waits for it.
    A child that the parent forked may hold the pipe open, so the parent's id is watched as well.
    """
    parent = os.getppid()

    def wait() -> None:
        while not select.select([descriptor], [], [], 1.0)[0]:
            if os.getppid() != parent:
                os._exit(0)

    while (message := pipe.receive(descriptor, wait)) is not None:
        inbox.put(message)
    os._exit(0)


def _greeting(loaded: LoadedTeacher) -> dict[str, Any]:
    return {
        "kind": "ready",
        "capabilities": pack_capabilities(loaded.potential.capabilities),
        "identity": asdict(loaded.identity),
        "n_parameters": loaded.n_parameters,
    }


def pack_capabilities(capabilities: Capabilities) -> dict[str, Any]:
    packed = asdict(capabilities)
    if capabilities.elements is not None:
        packed["elements"] = sorted(int(z) for z in capabilities.elements)
    return packed


def unpack_capabilities(packed: dict[str, Any]) -> Capabilities:
    elements = packed["elements"]
    return Capabilities(**{**packed, "elements": None if elements is None else frozenset(elements)})


def _answer(
    loaded: LoadedTeacher, request: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Labels of the structures that the teacher did not fail on, and the errors of those it did."""
    batch = pipe.unpack_batch(arrays)
    errors: dict[int, dict[str, Any]] = {}
    labels = _evaluate(loaded, batch, 0, errors)
    if errors and len(batch) > 1:
        # Which one it was only each alone can tell.
        errors = {}
        alone = [_evaluate(loaded, batch.select([s]), s, errors) for s in range(len(batch))]
        labels = join_labels([one for one in alone if one is not None])
    head = {"kind": "labels", "id": request["id"], "errors": {str(s): e for s, e in errors.items()}}
    if labels is None:
        return head, {}
    values = {"energy": labels.energy, "forces": labels.forces}
    if labels.stress is not None:
        values["stress"] = labels.stress
    if labels.atom_energies is not None:
        values["atom_energies"] = labels.atom_energies
    return head, values


def _evaluate(
    loaded: LoadedTeacher, batch: StructureBatch, s: int, errors: dict[int, dict[str, Any]]
) -> Labels | None:
    """Labels of ``batch``, or None with the reason under ``errors[s]``."""
    try:
        labels = loaded.potential.evaluate(batch)
        _check_shapes(labels, len(batch), batch.n_atoms)
    except Exception as error:  # noqa: BLE001 - one structure that fails must not end the others
        errors[s] = _describe(error, f"teacher {loaded.card.name!r} failed on a structure")
        return None
    return labels


def _check_shapes(labels: Labels, n_structures: int, n_atoms: int) -> None:
    shapes = {"energy": (n_structures,), "forces": (n_atoms, 3), "atom_energies": (n_atoms,)}
    for name, wanted in shapes.items():
        value = getattr(labels, name)
        if value is not None and value.shape != wanted:
            raise LimbeckError(f"the teacher's {name} has a wrong shape", got=value.shape, wanted=wanted)


def _describe(error: Exception, what: str) -> dict[str, Any]:
    if isinstance(error, LimbeckError):
        return pipe.pack_error(error)
    import traceback

    # The whole traceback goes to standard error, whose tail the parent keeps.
    traceback.print_exc()
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return pipe.pack_error(LimbeckError(what, got=text[:500]))


if __name__ == "__main__":
    main()
