"""A finished run of copper, made by hand in seconds: EMT labels, two untrained students, every file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

TEACHER = "ase.calculators.emt:EMT"


def labelled_frame(seed: int, kelvin: float | None, group: str, step: str) -> Atoms:
    """A rattled cell of copper and gold with EMT's labels."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.numbers[0] = 79
    atoms.rattle(0.03 if kelvin is None else kelvin / 8000, seed=seed)
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info = {"group": group, "config_type": step} | ({} if kelvin is None else {"temperature_K": kelvin})
    return atoms


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder; tests that change it take ``run_folder``."""
    from limbeck.dataset.read import labelled_from_atoms, read_labelled
    from limbeck.planning.plan import untrained_student
    from limbeck.records.label_record import TeacherIdentity, make_record
    from limbeck.records.label_store import LabelStore
    from limbeck.validation.run import validate
    from limbeck.workflows.evaluation import card_metrics
    from limbeck.workflows.students import save_student

    folder = tmp_path_factory.mktemp("runs") / "copper"
    folder.mkdir()
    frames = [labelled_frame(k, None, f"Cu#0/rattle-{k}", "rattle") for k in range(12)]
    frames += [labelled_frame(20 + k, 600.0, "Cu#0/md-600K", "md") for k in range(8)]
    test = [
        labelled_frame(50 + k, t, f"heldout/Cu#0/md-{t:.0f}K", "md") for t in (300.0, 900.0) for k in range(8)
    ]
    identity = TeacherIdentity(TEACHER, "3", "a" * 64)
    for name, part in (("labels", frames), ("test", test)):
        with LabelStore(folder / name) as store:
            for order, frame in enumerate(part):
                labels = labelled_from_atoms([frame], "frame").labels
                store.append(make_record(frame, labels, identity, order=order))
    write(folder / "structures.extxyz", frames[:1])
    write(folder / "test.extxyz", test)
    labelled = read_labelled(folder / "test.extxyz")
    metrics: dict[str, Any] = {}
    for preset, rate in (("tiny", 20_000.0), ("ultra-tiny", 50_000.0)):
        student = untrained_student(preset, frames[0], 4.0)
        report = validate(student, labelled)
        metrics[preset] = {
            "validation": report.metrics,
            "test": report.metrics,
            "on_policy": {"all": report.metrics["all"]},
            "run": {
                "parameters": student.n_parameters,
                "on_policy": {"temperature_k": 900.0, "stable": True, "reason": ""},
                "nve": {"drift_mev_per_atom_per_ps": 0.002, "energy_std_mev_per_atom": 0.01, "completed": True,
                        "reason": "", "temperature_k": 900.0, "timestep_fs": 1.0, "duration_fs": 1000.0},
                "atoms_per_s": rate,
                "speedup": rate / 100.0,
            },
        }  # fmt: skip
        card = {
            "preset": preset,
            "teacher": {"name": TEACHER, "version": "3", "licence": "LGPL-2.1", "weights_hash": "a" * 64},
            "data": {"n_structures": 20, "n_atoms": 160, "elements": {"Cu": 140, "Au": 20}, "content_hash": "b" * 64,
                     "temperature_k": [600.0, 600.0], "shortest_pair_a": {"Au-Cu": 2.3}},
            "training": {"epochs": 3, "labels_seen": 60, "seconds": 1.0, "seed": 0, "split": "by group"},
            "metrics": card_metrics(metrics[preset]),
            "run": {"name": "copper", "command": "limbeck distill --bulk Cu"},
        }  # fmt: skip
        save_student(folder / f"{preset}.safetensors", student.record, **card)
        log = folder / "train" / preset / "log.jsonl"
        log.parent.mkdir(parents=True)
        rows = [
            {"step": k, "epoch": k, "spent_s": 2.0 * k, "validation_force_rmse_mev_per_a": 900.0 / k,
             "validation_energy_mae_mev_per_atom": 20.0 / k}
            for k in range(1, 9)
        ]  # fmt: skip
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reach = {"radius_a": 8.0, "displacement_a": 0.1, "force_rms_mev_per_a": 1.5, "share": 0.002,
             "n_atoms_probed": 4, "n_atoms": 500, "reason": ""}  # fmt: skip
    metrics["run"] = {
        "name": "copper", "command": "limbeck distill --bulk Cu",
        "teacher": {"name": TEACHER, "parameters": None, "atoms_per_s": 100.0, "long_range": [reach]},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(
        f"# Limbeck run: the resolved configuration\nname: copper\nbulk: Cu\nteacher:\n  name: {TEACHER}\nseed: 0\n"
    )
    return folder


@pytest.fixture
def run_folder(made_run: Path, tmp_path: Path) -> Path:
    """A copy of the run to change."""
    return Path(shutil.copytree(made_run, tmp_path / "copper"))


@pytest.fixture(scope="session")
def complete_run(made_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with everything that other commands add."""
    folder = Path(shutil.copytree(made_run, tmp_path_factory.mktemp("complete") / "copper"))
    complete(folder)
    return folder


@pytest.fixture
def full_folder(run_folder: Path) -> Path:
    """A copy of the complete run to change."""
    complete(run_folder)
    return run_folder


@pytest.fixture
def change(run_folder: Path) -> Callable[..., None]:
    """change(name, edit): rewrite a JSON file of the run with ``edit`` applied to what it holds."""

    def _change(name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
        path = run_folder / name
        value = json.loads(path.read_text()) if path.exists() else {}
        edit(value)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))

    return _change


def bench_rows() -> dict[str, Any]:
    """A benchmark as bench.json has it, with a row that was skipped."""
    rows = []
    for model, engine, rate in (
        ("tiny", "native", 2e4),
        ("ultra-tiny", "native", 5e4),
        (TEACHER, "teacher", 300.0),
    ):
        for atoms, batch in ((16, 1), (1000, 1), (16, 8)):
            total = atoms * batch
            rows.append(
                {
                    "model": model, "preset": None if engine == "teacher" else model, "parameters": 1000,
                    "engine": engine, "device": "cpu", "threads": 2, "system": f"Cu{atoms}", "atoms": atoms,
                    "batch": batch, "latency_ms_median": 1e3 * total / rate, "latency_ms_iqr": 0.1,
                    "structures_per_s": rate / atoms, "atoms_per_s": rate, "peak_memory_mb": 5.0,
                    "speedup_vs_teacher": rate / 300.0, "skipped": None,
                }
            )  # fmt: skip
    figures = ("latency_ms_median", "latency_ms_iqr", "structures_per_s", "atoms_per_s", "peak_memory_mb")
    skipped = {"atoms": 4000, "batch": 1, "speedup_vs_teacher": None, "skipped": "longer than 20 s"}
    rows.append(rows[-1] | dict.fromkeys(figures) | skipped)
    return {"what": "energies and forces", "machine": {"processor": "a processor", "cores": 2},
            "settings": {"threads": 2}, "versions": {"numpy": "2"}, "rows": rows}  # fmt: skip


def certificate(name: str, verdict: str = "pass") -> dict[str, Any]:
    """An export's certificate."""
    parity = {"n_structures": 8, "energy_mev": 0.001, "force_mev_per_a": 0.0042, "stress_mev_per_a3": None,
              "share": 0.4, "worst": "force of structure 1", "widened": 0}  # fmt: skip
    return {
        "format": "onnx", "path": f"elsewhere/{name}", "bytes": 12_000, "sha256": "c" * 64, "opset": 18,
        "verdict": verdict, "n_structures": 8, "parity": {"against_student": {"test": parity}},
        "latency": [{"atoms": 16, "export_ms": 4.0, "native_ms": 1.0}],
    }  # fmt: skip


def learning_curve() -> dict[str, Any]:
    """What ``limbeck learning-curve --preset tiny`` leaves, with a point that it had no time for."""
    own = {"labels": 20, "seconds": 30.0, "preset": "tiny", "parameters": 70_000, "skipped": None,
           "force_rmse_mev_per_a": 30.0, "energy_mae_mev_per_atom": 1.0, "epochs": 9.0, "trained_s": 30.0}  # fmt: skip
    points = [
        own,
        own | {"labels": 10, "force_rmse_mev_per_a": 60.0},
        own | {"seconds": 10.0, "force_rmse_mev_per_a": 33.0},
        own | {"preset": "ultra-tiny", "parameters": 21_000, "force_rmse_mev_per_a": 31.0},
        {
            "labels": 5,
            "seconds": 30.0,
            "preset": "tiny",
            "parameters": 70_000,
            "skipped": "no time left in 2 min",
        },
    ]
    return {"preset": "tiny", "limit": "data", "text": "Data limits tiny: doubling labels helps.", "points": points,
            "test_structures": 16, "trained_in_run_s": 600.0, "busy": ""}  # fmt: skip


def complete(folder: Path) -> None:
    """Give a run everything that other commands would add."""
    (folder / "bench.json").write_text(json.dumps(bench_rows()))
    (folder / "exports").mkdir(exist_ok=True)
    (folder / "exports" / "tiny.onnx.certificate.json").write_text(json.dumps(certificate("tiny.onnx")))
    (folder / "learning-curve").mkdir(exist_ok=True)
    (folder / "learning-curve" / "tiny.json").write_text(json.dumps(learning_curve()))
    (folder / "learning-curve" / "times-0123.json").write_text("[1.0, 2.0]")
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    student = {"test": {"force_rmse_mev_per_a": 24.0}, "on_policy": None, "runs": 4, "stable": 3,
               "shortest_ps": 0.4, "mean_ps": 1.9, "reasons": ["start 2: atoms collided"]}  # fmt: skip
    metrics["run"]["active_learning"] = [{"number": 0, "labels": 156, "students": {"tiny": student}}]
    path.write_text(json.dumps(metrics))


def unpack(values: Any) -> np.ndarray:
    """Numbers of a trace, packed or not."""
    import base64

    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), f"<{values['dtype']}")
    return np.asarray(values)
