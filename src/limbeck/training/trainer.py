"""The training loop, on lightning-fabric, over any engine."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from limbeck.core.files import write_whole
from limbeck.errors import InputError, LimbeckError
from limbeck.students.engine import NativeEngine, make_engine
from limbeck.students.specification import Architecture
from limbeck.training.checkpoint import Checkpoint, other_version
from limbeck.training.config import TrainingConfig
from limbeck.training.data import TrainingData, epoch_batches
from limbeck.training.loop import Progress, Stop, Trained
from limbeck.training.loss import batch_loss, energy_weight, learning_rate
from limbeck.training.optimizer import Soap
from limbeck.training.trainable import TrainableStudent, evaluate_errors

#: times that a diverging run may return to its best weights, at half the learning rate each
MOST_RESTARTS = 6

#: called with (fraction done, line of text)
Report = Callable[[float, str], None]


class Trainer:
    """Trains one student; ``run`` may be interrupted at any moment and called again."""

    def __init__(
        self,
        architecture: Architecture,
        train: TrainingData,
        validation: TrainingData,
        config: TrainingConfig,
        stop: Stop,
        folder: Path,
        *,
        start: np.ndarray,
        run_hash: str,
        seed: int = 0,
        report: Report | None = None,
    ) -> None:
        if not len(train) or not len(validation):
            raise InputError(
                "no training or validation structures",
                got=f"{len(train)} training and {len(validation)} validation structures",
                wanted="at least one of each",
                remedy="label more structures or change --val",
            )
        self.config, self.stop, self.folder, self.run_hash = config, stop, folder, run_hash
        self.train, self.validation, self.seed, self.report = train, validation, seed, report
        options = config.model_dump(include={"precision", "threads", "device"})
        engine, self.validator = (make_engine(architecture, kind=config.engine, **options) for _ in range(2))
        engine.set_structures(train.structures, train.pairs)
        self.validator.set_structures(validation.structures, validation.pairs)
        loggers: list[Any] = []
        if config.tensorboard:
            from lightning_fabric.loggers import TensorBoardLogger

            loggers = [TensorBoardLogger(folder, name="tensorboard", version="")]
        self.fabric = Fabric(accelerator="cpu", devices=1, loggers=loggers)
        student = TrainableStudent(engine, start)
        soap = config.optimizer == "soap"
        self.optimizer = Soap(
            student.flat,
            architecture.parameter_shapes().values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            block=architecture.hidden_dim if soap else None,
            betas=(0.95, 0.95) if soap else (0.9, 0.99),
        )
        self.student, self.stepper = self.fabric.setup(student, self.optimizer)
        flat = self.student.flat.detach()
        self.ema, self.best = flat.clone(), flat.clone()
        self.progress, self.best_errors = Progress(), dict[str, float]()
        self.text = ""  # errors of the last check, for the progress bar
        self.losses: list[float] = []  # of the batches since the last check
        self.force_scale = float(np.sqrt(np.mean(train.forces**2))) or 1.0
        self.labels = [torch.from_numpy(values) for values in (train.energy, train.forces, train.virial)]

    @contextlib.contextmanager
    def _few_torch_threads(self) -> Iterator[None]:
        """One thread of torch next to the native engine, and the caller's number again afterwards.

        Several would wait for each other in a busy loop on the engine's cores; on a busy machine the
        optimiser's step then takes a second instead of a millisecond.
        """
        before = torch.get_num_threads()
        if isinstance(self.student.engine, NativeEngine):
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    # ---- the loop -------------------------------------------------------------------------

    def run(self) -> Trained:
        """Train to the end of the budget or the last epoch and return the best weights."""
        with self._few_torch_threads():
            return self._train()

    def _train(self) -> Trained:
        self._resume()
        last_saved = last_shown = time.monotonic()
        while not self.progress.finished:
            rng = np.random.default_rng([self.seed, self.progress.epoch])
            batches = epoch_batches(self.train.structures.counts, self.config.atoms_a_batch, rng)
            for batch in batches[self.progress.batch_in_epoch :]:
                began = time.monotonic()
                self.step(batch, len(batches))
                self.progress.spent_s += time.monotonic() - began
                done = self.stop.done(self.progress, len(batches))
                if done >= (self.progress.checks_done + 1) / self.config.checks:
                    self._check(done)
                if self.report and self.text and time.monotonic() - last_shown > 1:
                    self.report(min(done, 1.0), self.text)
                    last_shown = time.monotonic()
                if time.monotonic() - last_saved > self.config.checkpoint_s:
                    self._save()
                    last_saved = time.monotonic()
                if done >= 1:
                    break
            if self.progress.batch_in_epoch >= len(batches):
                self.progress.epoch, self.progress.batch_in_epoch = self.progress.epoch + 1, 0
            if self.stop.done(self.progress, len(batches)) >= 1:
                if self.losses:  # the last state is always validated, even when no check was due
                    self._check(1.0)
                self.progress.finished = True
                self._save()
        return Trained(self.best.numpy().copy(), self.progress, dict(self.best_errors))

    def step(self, chosen: np.ndarray, n_batches: int) -> None:
        """One step of the optimiser on the structures at ``chosen``, in an epoch of ``n_batches``."""
        with self._few_torch_threads():
            self._step(chosen, n_batches)

    def _step(self, chosen: np.ndarray, n_batches: int) -> None:
        config, progress = self.config, self.progress
        done = self.stop.done(progress, n_batches)
        rate = learning_rate(done, config.learning_rate, config.warmup) / 2**progress.restarts
        self.optimizer.param_groups[0]["lr"] = rate
        self.stepper.zero_grad(set_to_none=True)
        index = torch.from_numpy(chosen)
        rows = (index, torch.from_numpy(self.train.structures.atom_index(chosen)), index)
        outputs = zip(self.student(chosen), self.labels, rows, strict=True)
        loss = batch_loss(
            [found - label[row] for found, label, row in outputs],
            torch.from_numpy(self.train.structures.counts[chosen]).double(),
            force_scale=self.force_scale,
            weights=(energy_weight(done, config.energy_weight), config.force_weight, config.stress_weight),
            kind=config.loss,
            delta=config.huber_delta,
        )
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.student, self.stepper, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        if bool(torch.isfinite(norm)):
            self.stepper.step()
            self.losses.append(float(loss.detach()))
        else:
            self._fall_back()
        progress.step += 1
        progress.batch_in_epoch += 1
        progress.labels_seen += len(chosen)
        # a short average at first, so that the initial weights do not stay in it
        decay = min(config.ema_decay, (1 + progress.step) / (10 + progress.step))
        with torch.no_grad():
            self.ema.lerp_(self.student.flat, 1 - decay)

    def _fall_back(self) -> None:
        """Back to the best weights so far, at half the learning rate."""
        self.progress.restarts += 1
        if self.progress.restarts > MOST_RESTARTS:
            raise LimbeckError(
                "training diverged: the gradient is not finite",
                where=f"step {self.progress.step}",
                remedy="lower training.learning_rate or look for outliers among the labels",
            )
        self.optimizer.clear()
        with torch.no_grad():
            self.student.flat.copy_(self.best)
            self.ema.copy_(self.best)

    # ---- validation, checkpoints, log -------------------------------------------------------

    def _check(self, done: float) -> None:
        began = time.monotonic()
        errors = evaluate_errors(self.validator, self.ema.numpy(), self.validation)
        progress = self.progress
        progress.checks_done = int(done * self.config.checks + 1e-9)
        # Mean absolute errors: a few outliers dominate a root mean square, and would select weights from the
        # middle of the run. NaN (from a label) is never the best.
        score = errors["force_mae_mev_per_a"] + 4 * errors["energy_mae_mev_per_atom"]
        if score < progress.best_score:
            progress.best_score, progress.best_step = score, progress.step
            self.best.copy_(self.ema)
            self.best_errors = errors
        rate = progress.labels_seen / max(progress.spent_s, 1e-9)
        progress.training_loss = float(np.mean(self.losses)) if self.losses else None
        row = {
            "step": progress.step,
            "epoch": progress.epoch,
            "done": round(done, 5),
            "spent_s": round(progress.spent_s, 2),
            "labels_per_s": round(rate, 2),
            "atom_steps_per_s": round(rate * self.train.structures.n_atoms / len(self.train), 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "restarts": progress.restarts,
            "training_loss": progress.training_loss,
            **{f"validation_{k}": v for k, v in errors.items()},
        }
        self.losses.clear()
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        numbers = {k: v for k, v in row.items() if k != "step" and v is not None}
        self.fabric.log_dict(numbers, step=progress.step)
        self.text = (
            f"epoch {progress.epoch}  force RMSE {errors['force_rmse_mev_per_a']:.1f} meV/Å  "
            f"energy MAE {errors['energy_mae_mev_per_atom']:.2f} meV/atom  {rate:.0f} labels/s"
        )
        if progress.restarts:
            self.text += f"  (diverged {progress.restarts} times: learning rate / {2**progress.restarts})"
        if self.report:
            self.report(min(done, 1.0), self.text)
        # checks count towards the budget
        progress.spent_s += time.monotonic() - began

    def _cut_log(self, step: int) -> None:
        """Drop rows of steps that an interruption lost; they will be repeated."""
        path = self.folder / "log.jsonl"
        if path.exists():
            rows = [r for r in path.read_text(encoding="utf-8").splitlines() if r.endswith("}")]
            kept = [r for r in rows if json.loads(r)["step"] <= step]
            write_whole(path, "".join(f"{r}\n" for r in kept))

    def _save(self) -> None:
        tensors = {"weights": self.student.flat.detach(), "ema": self.ema, "best": self.best}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        arrays |= {f"optimizer_{name}": array for name, array in self.optimizer.arrays().items()}
        self.progress.optimizer_steps = self.optimizer.steps
        saved = Checkpoint(arrays, self.progress, self.run_hash, dict(self.best_errors))
        saved.write(self.folder / "last.safetensors")

    def _resume(self) -> None:
        path = self.folder / "last.safetensors"
        if not path.exists():
            return
        saved = Checkpoint.read(path)
        if saved.run != self.run_hash or saved.arrays["weights"].shape != tuple(self.student.flat.shape):
            raise InputError(
                "the checkpoint belongs to another run",
                where=path,
                got="other data, settings or preset",
                remedy="use another --out, or delete it to train from the start",
            )
        kept = {"weights": self.student.flat, "ema": self.ema, "best": self.best}
        try:
            with torch.no_grad():
                for name, tensor in kept.items():
                    tensor.copy_(torch.from_numpy(saved.arrays[name]))
            averaged = {k.removeprefix("optimizer_"): v for k, v in saved.arrays.items()}
            self.optimizer.load(averaged, saved.progress.optimizer_steps)
        except (KeyError, RuntimeError) as error:  # of the same run, so another optimiser wrote it
            raise other_version(path, f"arrays that do not fit: {' '.join(str(error).split())}") from error
        self.progress, self.best_errors = saved.progress, saved.extra
        self._cut_log(saved.progress.step)
