"""Runs exported files as messages request it: ``python -m limbeck.export.runner``.

It imports NumPy, the messages and the runtime of the format, nothing else: no student, no Potential.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from limbeck.core.messages import open_inbox, send

INPUT_NAMES = ("atomic_numbers", "positions", "edge_index", "edge_shift", "batch", "cell")
OUTPUT_NAMES = ("energy", "forces", "stress", "atom_energies")

Call = Callable[[list[np.ndarray]], Sequence[np.ndarray]]


def load(path: str, kind: str, threads: int | None) -> tuple[Call, dict[str, Any]]:
    """A function from the six input arrays to the four outputs; the file's card, versions and threads.

    ``threads``: None takes the runtime's default; two where that is one, for one cannot show a race.
    """
    if kind == "onnx":
        return _load_onnx(path, threads)
    import torch

    torch.set_num_threads(threads or max(2, torch.get_num_threads()))
    card = {"limbeck": ""}
    if kind == "torch-export":
        call = torch.export.load(path, extra_files=card).module()
    else:
        call = torch.jit.load(path, _extra_files=card)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = call(*(torch.from_numpy(array) for array in arrays))
        return [value.numpy() for value in outputs]

    facts = {"versions": {"torch": torch.__version__}, "threads": torch.get_num_threads()}
    return run, {"card": json.loads(card["limbeck"]), **facts}


def _load_onnx(path: str, threads: int | None) -> tuple[Call, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    before, processors = _count_threads(), os.cpu_count() or 1
    options.intra_op_num_threads = threads or (0 if processors > 1 else 2)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return session.run(list(OUTPUT_NAMES), dict(zip(INPUT_NAMES, arrays, strict=True)))

    card = json.loads(session.get_modelmeta().custom_metadata_map["limbeck"])
    # a session does not report how many it took: it starts all but the calling one
    taken = threads or (_count_threads() - before + 1 if before else processors)
    return run, {"card": card, "versions": {"onnxruntime": onnxruntime.__version__}, "threads": taken}


def _count_threads() -> int:
    """Threads of this process, 0 where the system does not list them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def serve() -> None:
    """Load files, take inputs, evaluate them and time that, until the parent has no more requests."""
    inbox, answers_out = open_inbox()
    models: dict[str, Call] = {}
    inputs: list[np.ndarray] = []
    while True:
        ask, arrays = inbox.get()
        answer: dict[str, Any] = {"seconds": []}
        found: dict[str, np.ndarray] = {}
        if arrays:
            inputs = [arrays[name].copy() for name in INPUT_NAMES]  # those of a message are read-only
        try:
            if "path" in ask:
                models[ask["name"]], answer = load(ask["path"], ask["kind"], ask["threads"])
            else:
                for number in range(ask["calls"]):
                    began = time.perf_counter()
                    outputs = models[ask["name"]](inputs)
                    answer["seconds"].append(time.perf_counter() - began)
                    if ask["keep"]:
                        found |= {f"{number}/{k}": v for k, v in zip(OUTPUT_NAMES, outputs, strict=True)}
        except Exception as error:  # noqa: BLE001  (whatever a runtime finds wrong with a file is the answer)
            answer = {"error": f"{type(error).__name__}: {error}"}
        send(answers_out, answer, found)


if __name__ == "__main__":
    serve()
