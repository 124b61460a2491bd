"""Which frames to label: learning curves of students trained on equally many labels.

The pool are the labelled scout-driven MD frames of a finished run (``limbeck distill``); every way of
selecting draws its n labels from it, and a student is trained on them for a fixed number of steps.
Judged on the run's held-out teacher trajectories. What chooses the best weights is a fixed part of the
pool, whole trajectories that no method may draw from.

    python benchmarks/selection.py runs/3bpa --results rows-3bpa.jsonl
    python benchmarks/selection.py --collect rows-*.jsonl --json results/selection.json --plot curves.png
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

METHODS = (
    "random", "stride", "coverage", "coverage-squared", "farthest", "farthest-by-temperature", "ensemble"
)  # fmt: skip
VALIDATION = 48  # frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run folder with labels/ and heldout.extxyz")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--labels", default="50,100,200,400")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--preset", default="ultra-tiny")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps a student")
    parser.add_argument("--results", type=Path, help="a line a student; what is there is not repeated")
    parser.add_argument("--collect", type=Path, nargs="+", help="gather such files instead of training")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if args.collect:
        collect(args.collect, args.json, args.plot)
        return
    bench = Bench(args.run, args.preset, args.steps)
    done = set()
    if args.results.exists():
        rows = map(json.loads, args.results.read_text().splitlines())
        done = {(r["method"], r["labels"], r["seed"], r["preset"], r["steps"]) for r in rows}
    for n in map(int, args.labels.split(",")):
        for seed in map(int, args.seeds.split(",")):
            for method in args.methods.split(","):
                if (method, n, seed, args.preset, args.steps) not in done:
                    row = bench.row(method, n, seed)
                    print(json.dumps(row), flush=True)
                    with open(args.results, "a", encoding="utf-8") as handle:
                        handle.write(json.dumps(row) + "\n")


class Bench:
    """The pool, the validation frames and the held-out set of one run."""

    def __init__(self, run: Path, preset: str, steps: int) -> None:
        import yaml

        from limbeck.dataset.read import read_labelled
        from limbeck.labelling.store import LabelStore
        from limbeck.sampling.config import SamplingConfig

        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        sampling = SamplingConfig.model_validate(config["sampling"])
        scouted = [
            n
            for n, s in zip(sampling.names, sampling.steps, strict=True)
            if getattr(s, "driver", "") == "scout"
        ]
        labelled = LabelStore(run / "labels").read()
        labelled = labelled.select(np.flatnonzero(np.isin(labelled.step, scouted)))
        families = np.random.default_rng(0).permutation(np.unique(labelled.family))
        kept_back = np.isin(labelled.family, families[: max(1, len(families) // 10)])
        aside = np.random.default_rng(0).permutation(np.flatnonzero(kept_back))[:VALIDATION]
        self.validation = labelled.select(aside)
        self.pool = labelled.select(np.flatnonzero(~kept_back))
        self.frames = self.pool.structures.to_atoms()
        self.heldout = read_labelled(run / "heldout.extxyz")
        self.name, self.preset, self.steps = config["name"], preset, steps
        self.teacher = config["teacher"]["name"]

    def row(self, method: str, n: int, seed: int) -> dict[str, Any]:
        """Select, train, judge."""
        began = time.process_time()
        chosen = self.select(method, n, seed)
        selecting = time.process_time() - began
        student, trained = self.train(chosen, seed, self.steps, self.preset)
        return {
            "system": self.name, "teacher": self.teacher,
            "atoms": len(self.frames[0]), "pool": len(self.frames),
            "method": method, "labels": n, "seed": seed, "preset": self.preset, "steps": self.steps,
            "selecting_cpu_s": round(selecting, 2), "epochs": trained.progress.epoch,
            "chosen_by_temperature": counts(self.pool.temperature_k[chosen]),
            **self.judge(student),
        }  # fmt: skip

    def select(self, method: str, n: int, seed: int) -> np.ndarray:
        from limbeck.sampling.selection import select_frames

        frames = self.frames
        if method == "farthest-by-temperature":
            temperatures = np.unique(self.pool.temperature_k)
            shares = np.diff(np.linspace(0, n, len(temperatures) + 1).astype(int))
            chosen: list[int] = []
            for temperature, share in zip(temperatures, shares, strict=True):
                own = np.flatnonzero(self.pool.temperature_k == temperature)
                known = [frames[k] for k in chosen]
                chosen += own[
                    select_frames([frames[k] for k in own], share, "farthest", seed=seed, known=known)
                ].tolist()
            return np.array(chosen)
        if method == "ensemble":
            first = select_frames(frames, n // 2, "random", seed=seed)
            committee = [self.train(first, seed + 10 * k, self.steps // 4, "ultra-tiny")[0] for k in range(3)]
            rest = np.setdiff1d(np.arange(len(frames)), first)
            more = select_frames(
                [frames[k] for k in rest], n - len(first), "ensemble", seed=seed,
                known=[frames[k] for k in first], potentials=committee,
            )  # fmt: skip
            return np.concatenate([first, rest[more]])
        if method == "stride":  # evenly along the trajectories, one after the other
            order = np.argsort(self.pool.family, kind="stable")
            return order[((np.arange(n) + 0.5 + 0.25 * (seed - 1)) * len(order) / n).astype(int)]
        if method == "coverage-squared":
            from limbeck.sampling.coverage import covering_frames
            from limbeck.sampling.environments import describe_environments

            return covering_frames(describe_environments(frames, seed=seed), n, seed=seed, power=2.0)
        return select_frames(frames, n, method, seed=seed)  # type: ignore[arg-type]

    def train(self, chosen: np.ndarray, seed: int, steps: int, preset: str) -> Any:
        from limbeck.pipeline.lessons import Lesson
        from limbeck.pipeline.students import train_student
        from limbeck.runtime.student import Student
        from limbeck.training.config import TrainingConfig
        from limbeck.training.loop import Stop

        train = self.pool.select(chosen)
        lesson = Lesson(train, self.validation, None, "fixed", {"name": self.teacher})
        config = TrainingConfig(threads=1, batch_atoms=128, checks=20, checkpoint_s=1e9)
        batches = math.ceil(len(train) / max(1, 128 // int(train.structures.counts[0])))
        with tempfile.TemporaryDirectory() as folder:
            record, trained = train_student(
                preset, lesson, config, Stop(epochs=math.ceil(steps / batches)), Path(folder), seed=seed
            )
        return Student(record), trained

    def judge(self, student: Any) -> dict[str, Any]:
        """Held-out errors: of all, by temperature, of the worst frame."""
        labels = student.evaluate(self.heldout.structures)
        error = (labels.forces - self.heldout.labels.forces) * 1e3  # (N, 3) meV/Å
        of = self.heldout.structures.structure_of_atom
        frames = np.array([np.sqrt((error[of == s] ** 2).mean()) for s in range(len(self.heldout))])
        hot = self.heldout.temperature_k
        energy = (labels.energy - self.heldout.labels.energy) / self.heldout.structures.counts * 1e3
        return {
            "force_mae_mev_per_a": round(float(np.abs(error).mean()), 2),
            "force_rmse_mev_per_a": round(float(np.sqrt((error**2).mean())), 2),
            "worst_frame_force_rmse_mev_per_a": round(float(frames.max()), 2),
            "greatest_force_error_mev_per_a": round(float(np.abs(error).max()), 1),
            "energy_mae_mev_per_atom": round(float(np.abs(energy).mean()), 3),
            "force_mae_by_temperature": {
                f"{t:g}": round(float(np.abs(error[np.isin(of, np.flatnonzero(hot == t))]).mean()), 2)
                for t in np.unique(hot)
            },
        }


def counts(values: np.ndarray) -> dict[str, int]:
    kinds, number = np.unique(values, return_counts=True)
    return {f"{k:g}": int(c) for k, c in zip(kinds, number, strict=True)}


NAMES = ("system", "preset", "steps", "labels", "method")
MEASURES = ("force_mae_mev_per_a", "force_rmse_mev_per_a", "worst_frame_force_rmse_mev_per_a")


def collect(files: list[Path], json_to: Path | None, plot_to: Path | None) -> None:
    """Mean and standard deviation over seeds, a table on the screen, the figure."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    groups: dict[tuple[str, str, int, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in NAMES), []).append(row)
    curves = []
    order = {m: k for k, m in enumerate(METHODS)}
    for key in sorted(groups, key=lambda k: (*k[:4], order.get(k[4], 99))):
        seeds = groups[key]
        figures = {
            m: [round(float(f([r[m] for r in seeds])), 2) for f in (np.mean, np.std)] for m in MEASURES
        }
        curves.append(dict(zip(NAMES, key, strict=True)) | {"seeds": len(seeds)} | figures)
        print(
            *key[:4],
            f"{key[4]:24}",
            *(f"{a:7.1f} ±{b:5.1f}" for a, b in figures.values()),
            f"  ({len(seeds)})",
        )
    if json_to:
        text = ",\n  ".join(json.dumps(c) for c in curves)
        lines = ",\n  ".join(json.dumps(r) for r in rows)
        json_to.write_text(f'{{"curves": [\n  {text}\n ],\n "rows": [\n  {lines}\n ]}}\n', encoding="utf-8")
    if plot_to:
        plot(curves, plot_to)


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(c["system"], c["preset"], c["steps"]) for c in curves})
    figure, axes = pyplot.subplots(
        len(panels), len(MEASURES), figsize=(4 * len(MEASURES), 3.2 * len(panels)), squeeze=False
    )
    for panel, line in zip(panels, axes, strict=True):
        for measure, ax in zip(MEASURES, line, strict=True):
            for k, method in enumerate(METHODS):
                own = [
                    c
                    for c in curves
                    if (c["system"], c["preset"], c["steps"], c["method"]) == (*panel, method)
                ]
                if own:
                    x, (y, dy) = [c["labels"] for c in own], np.array([c[measure] for c in own]).T
                    ax.errorbar(x, y, dy, marker="o", ms=3, capsize=2, color=f"C{k}", label=method)
            ax.set(xscale="log", yscale="log", xlabel="labels", title="{} {}, {} steps".format(*panel))
            ax.set_ylabel(measure.replace("_mev_per_a", ", meV/Å").replace("_", " "), fontsize=8)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
