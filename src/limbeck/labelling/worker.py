"""A teacher in a process of its own: ``python -m limbeck.labelling.worker``.

It imports ase, numpy and the teacher's package alone, so that the versions this package pins, its global
settings (SO3LR sets torch's default dtype) and its crashes do not affect the parent. Requests arrive on
standard input and answers leave on standard output; what the package prints goes to standard error.
"""

from __future__ import annotations

import traceback
from dataclasses import asdict
from typing import Any

from limbeck.core import child, messages
from limbeck.core.labels import Labels, join_labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.teachers.registry import LoadedTeacher, load_teacher


def main() -> None:
    """Serve until standard input ends or the parent dies."""
    inbox, answers_out = messages.open_inbox()
    opening, _ = inbox.get()
    try:
        loaded = load_teacher(**opening)
    except Exception as error:  # noqa: BLE001 - whatever the package raises must reach the parent
        messages.send(answers_out, {"error": _describe(error, "loading the teacher failed")})
        return
    capabilities = asdict(loaded.potential.capabilities)
    if capabilities["elements"] is not None:
        capabilities["elements"] = sorted(int(z) for z in capabilities["elements"])
    about = {"identity": asdict(loaded.identity), "n_parameters": loaded.n_parameters}
    messages.send(answers_out, {"capabilities": capabilities, **about})
    while True:
        request, arrays = inbox.get()
        labels, errors = _label(loaded, child.unpack_batch(arrays))
        values = {} if labels is None else {n: a for n, a in vars(labels).items() if a is not None}
        messages.send(answers_out, {"id": request["id"], "errors": errors}, values)


def _label(loaded: LoadedTeacher, batch: StructureBatch) -> tuple[Labels | None, dict[str, dict[str, Any]]]:
    """Labels of the structures that the teacher could treat, and the errors of the others by place."""
    errors: dict[str, dict[str, Any]] = {}

    def evaluate(some: StructureBatch, s: int) -> Labels | None:
        try:
            labels = loaded.potential.evaluate(some)
            shapes = {"energy": (len(some),), "forces": (some.n_atoms, 3), "atom_energies": (some.n_atoms,)}
            for name, wanted in shapes.items():
                value = getattr(labels, name)
                if value is not None and value.shape != wanted:
                    what = f"invalid shape of the teacher's {name}"
                    raise LimbeckError(what, got=value.shape, wanted=wanted)
        except Exception as error:  # noqa: BLE001 - one structure that fails must not end the others
            errors[str(s)] = _describe(error, f"teacher {loaded.card.name!r} failed on a structure")
            return None
        return labels

    labels = evaluate(batch, 0)
    if errors and len(batch) > 1:
        # one at a time, to find which one fails
        errors.clear()
        alone = [evaluate(batch.select([s]), s) for s in range(len(batch))]
        labels = join_labels([one for one in alone if one is not None])
    return labels, errors


def _describe(error: Exception, what: str) -> dict[str, Any]:
    if isinstance(error, LimbeckError):
        return child.pack_error(error)
    traceback.print_exc()  # to standard error, of which the parent keeps the last lines
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return child.pack_error(LimbeckError(what, got=text[:500]))


if __name__ == "__main__":
    main()
