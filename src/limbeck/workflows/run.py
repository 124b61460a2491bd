"""What the stages of a distillation share."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.config import DistillConfig
from limbeck.labelling.remote import WorkerPotential
from limbeck.progress import Progress, Say
from limbeck.records.run_folder import RunFolder, RunState


@dataclass
class Run:
    """A distillation in its folder: what its stages share."""

    config: DistillConfig
    folder: RunFolder
    teacher: WorkerPotential
    state: RunState
    progress: Progress
    say: Say

    def ticking(self, prefix: str = "") -> Progress:
        """The progress of a stage, with ``prefix`` before its tasks."""
        return self.state.ticking(self.progress, prefix)
