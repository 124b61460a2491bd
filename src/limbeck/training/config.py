"""Settings of training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """Settings of the training loop; the defaults are what the examples use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: float = Field(5.0, gt=0.5, le=20.0, description="student cutoff, Å")
    epochs: int | None = Field(None, ge=1, description="number of epochs, instead of a time budget")
    batch_atoms: int | None = Field(
        None, ge=1, description="atoms a batch, at least one structure; 256, on a GPU 2048"
    )
    optimizer: Literal["soap", "adamw"] = "soap"
    learning_rate: float = Field(4e-3, gt=0, description="peak of the schedule")
    warmup: float = Field(0.02, ge=0, lt=1, description="fraction of the run")
    weight_decay: float = Field(0.05, ge=0)
    loss: Literal["huber", "mse"] = "huber"
    huber_delta: float = Field(0.1, gt=0, description="in units of the rms force of the labels")
    force_weight: float = Field(1.0, ge=0)
    energy_weight: tuple[float, float] = Field((10.0, 200.0), description="at the start and at the end")
    stress_weight: float = Field(1.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    clip_norm: float = Field(10.0, gt=0)
    checks: int = Field(40, ge=1, description="validations over the run")
    checkpoint_s: float = Field(20.0, gt=0, description="seconds between checkpoints")
    precision: Literal["float32", "float64"] = "float32"
    engine: Literal["auto", "native", "torch"] = "auto"
    threads: int | None = Field(None, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    tensorboard: bool = False

    @property
    def atoms_a_batch(self) -> int:
        """``batch_atoms``, or its default by device (docs/decisions.md)."""
        if self.batch_atoms is not None:
            return self.batch_atoms
        return 256 if self.device == "cpu" else 2048
