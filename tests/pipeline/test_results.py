"""What a run says at its end."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from limbeck.core.machine import usable_cores
from limbeck.pipeline.results import say_results


@pytest.mark.parametrize(("share", "noted"), [(0.9, False), (3.0, True)])
def test_speeds_of_a_busy_machine_are_remarked_on(tmp_path, share, noted):
    said: list[str] = []
    errors = {"force_rmse_mev_per_a": 1.0, "force_r2": 1.0, "energy_mae_mev_per_atom": 1.0}
    judged = {"heldout": {"all": errors}, "validation": {"all": errors}, "run": {"parameters": 1}}
    teacher = {"name": "emt", "parameters": None, "atoms_per_s": 1.0}
    metrics = {"tiny": judged, "run": {"teacher": teacher, "load": share * usable_cores(), "speed_atoms": 1}}
    say_results(metrics, tmp_path, ["tiny"], SimpleNamespace(heldout=[0], hottest_k=math.pi), said.append)
    assert any("measure them again" in line for line in said) is noted
