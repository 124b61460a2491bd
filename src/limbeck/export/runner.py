"""Runs exported files where nothing of Limbeck is loaded: a program of its own, told what to do by lines.

Each line on standard input is a JSON object, each answer a line of standard output that begins with
``MARK``. It imports NumPy and the runtime of the format, nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MARK = "limbeck-runner:"
INPUT_NAMES = ("atomic_numbers", "positions", "edge_index", "edge_shift", "batch", "cell")
OUTPUT_NAMES = ("energy", "forces", "stress", "atom_energies")

#: function from inputs to outputs, the file's own card, versions, threads
Loaded = tuple[Callable[[list[np.ndarray]], list[np.ndarray]], dict[str, Any], dict[str, str], int]


def load(path: str, kind: str, threads: int | None) -> Loaded:
    """A function from the six input arrays to the four outputs, with what there is to say of it.

    ``threads``: None takes the runtime's default; two where that is one, for one cannot show a race.
    """
    if kind == "onnx":
        return _load_onnx(path, threads)
    import torch

    torch.set_num_threads(threads or max(2, torch.get_num_threads()))
    card = {"limbeck": ""}
    if kind == "torch-export":
        program = torch.export.load(path, extra_files=card)
        call = program.module()
        text = card["limbeck"]
    elif kind == "aot-inductor":
        call = torch._inductor.aoti_load_package(path)
        text = call.get_metadata()["limbeck"]
    elif kind == "torchscript":
        call = torch.jit.load(path, _extra_files=card)
        text = card["limbeck"]
    else:
        raise ValueError(f"unknown format {kind!r}")

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            outputs = call(*(torch.from_numpy(array) for array in arrays))
        return [value.numpy() for value in outputs]

    return run, json.loads(text), {"torch": torch.__version__}, torch.get_num_threads()


def _load_onnx(path: str, threads: int | None) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    before, processors = _count_threads(), os.cpu_count() or 1
    options.intra_op_num_threads = threads or (0 if processors > 1 else 2)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = list(OUTPUT_NAMES)

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return session.run(wanted, dict(zip(INPUT_NAMES, arrays, strict=True)))

    card = json.loads(session.get_modelmeta().custom_metadata_map["limbeck"])
    # a session does not say how many it took: it starts all but the calling one
    taken = threads or (_count_threads() - before + 1 if before else processors)
    return run, card, {"onnxruntime": onnxruntime.__version__}, taken


def _count_threads() -> int:
    """Threads of this process, 0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def read_cases(path: str) -> list[list[np.ndarray]]:
    """Case after case: the six arrays."""
    with np.load(path) as held:
        return [[held[f"{k}/{name}"] for name in INPUT_NAMES] for k in range(int(held["count"]))]


def answer(value: Any) -> None:
    print(MARK + json.dumps(value), flush=True)


def serve() -> None:
    """One request a line, until the input ends."""
    models: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {}
    cases: list[list[np.ndarray]] = []
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            if ask["do"] == "load":
                run, card, versions, threads = load(ask["path"], ask["kind"], ask["threads"])
                models[ask["name"]] = run
                answer({"card": card, "versions": versions, "threads": threads})
            elif ask["do"] == "cases":
                cases = read_cases(ask["path"])
                answer({"cases": len(cases)})
            elif ask["do"] == "evaluate":
                found: dict[str, Any] = {}
                order = range(len(cases)) if ask["order"] is None else ask["order"]
                for k, case in enumerate(order):
                    for name, value in zip(OUTPUT_NAMES, models[ask["name"]](cases[case]), strict=True):
                        found[f"{k}/{name}"] = np.asarray(value)
                np.savez(ask["path"], **found)
                answer({"count": len(order)})
            elif ask["do"] == "time":
                seconds = []
                for _ in range(ask["calls"]):
                    began = time.perf_counter()
                    models[ask["name"]](cases[ask["case"]])
                    seconds.append(time.perf_counter() - began)
                answer({"seconds": seconds})
        except Exception as error:  # noqa: BLE001  (whatever a runtime says of a file is the answer)
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    serve()
