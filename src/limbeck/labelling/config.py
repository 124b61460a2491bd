"""Settings of the labelling stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LabellingConfig(BaseModel):
    """How labels are computed and which are kept.

    Attributes
    ----------
    workers: number of teacher processes.
    threads: threads of each; None divides the available cores among the workers.
    device: ``cpu``, ``cuda`` or ``cuda:1``.
    max_force_ev_per_a: labels with a force longer than this are dropped and listed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    device: str = "cpu"
    max_force_ev_per_a: float = Field(default=50.0, gt=0)
