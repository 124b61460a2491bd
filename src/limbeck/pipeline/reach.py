"""What a run says of its teacher's reach: forces from beyond the students' receptive fields."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import DistillConfig
from limbeck.core.labels import LabelledSet
from limbeck.core.potential import Potential
from limbeck.students.specification import Architecture, preset_architecture
from limbeck.validation.longrange import MOST_ATOMS, LongRangeReport, long_range_force

REACH_SHARE = 0.02  #: of a budget goes to measuring how far the teacher reaches
SECONDS_BY_EPOCHS = 36.0  #: where training ends by epochs
#: kB of memory that an evaluation may take for each atom; a teacher that runs out of it ends the run
KB_AN_ATOM = 6000


def receptive_field_a(architecture: Architecture) -> float:
    """How far the energy of an atom reaches, Å."""
    return architecture.cutoff * architecture.interactions


def measure_reach(
    config: DistillConfig, teacher: Potential, test: LabelledSet, spent_s: float
) -> list[dict[str, Any]]:
    """Reports as dicts, by radius: the students' cutoff and their receptive fields.

    Measured on the last frame of the hottest test trajectory. The smallest receptive field comes
    first, then the cutoff, then larger fields, while the share of the budget lasts.
    """
    elements = tuple(int(z) for z in np.unique(test.structures.numbers))
    cutoff = config.training.cutoff
    fields = sorted(
        {receptive_field_a(preset_architecture(p, elements, cutoff=cutoff)) for p in config.presets}
    )
    warm = np.nan_to_num(test.temperature_k)
    hottest = int(np.flatnonzero(warm == warm.max())[-1])
    structures = test.structures.select([hottest]).to_atoms()
    allowed = SECONDS_BY_EPOCHS
    if config.budget is not None:
        allowed = min(REACH_SHARE * config.budget, max(config.budget - spent_s, 0.0))
    ends, most = time.monotonic() + allowed, _atoms_that_fit()
    reports: dict[float, LongRangeReport] = {}
    for radius in dict.fromkeys([fields[0], cutoff, *fields]):
        left = max(ends - time.monotonic(), 0.0)
        reports[radius] = long_range_force(
            teacher, structures, radius, seed=config.seed, budget_s=left, max_atoms=most
        )
    return [asdict(reports[radius]) for radius in sorted(reports)]


def _atoms_that_fit() -> int:
    """So large may a structure be that memory holds its evaluation, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return MOST_ATOMS
    free = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([MOST_ATOMS, *(kb // KB_AN_ATOM for kb in free)])


def limits(architecture: Architecture, reach: list[dict[str, Any]] | None) -> dict[str, Any]:
    """What a card says of the interactions that its student cannot see."""
    field = receptive_field_a(architecture)
    own = [LongRangeReport(**report) for report in reach or () if report["radius_a"] == field]
    if not own:
        return {"receptive_field_a": field, "long_range": "not measured"}
    # why it was not measured concerns the run (its metrics.json has it), not who uses the student
    return {"receptive_field_a": field, "long_range": own[0].text(reason=False)}
