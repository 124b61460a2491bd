"""What a run says of forces beyond its students' reach."""

from __future__ import annotations

import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from limbeck.config import config_from_values
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.records.metrics import LongRangeReport
from limbeck.records.time_budget import TimeBudget
from limbeck.students.specification import preset_architecture
from limbeck.workflows.evaluation import measure_reach
from limbeck.workflows.students import limits
from tests.validation.toys import label_set

TEACHER = AsePotential(LennardJones(sigma=2.3, epsilon=0.1, rc=5.0, smooth=True), Capabilities(), "lj")


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch):
    monkeypatch.setattr("limbeck.workflows.evaluation.SECONDS_BY_EPOCHS", 1e6)


def labelled_copper():
    frames = [bulk("Cu", cubic=True) * (2, 2, 2) for _ in range(2)]
    for k, frame in enumerate(frames):
        frame.rattle(0.1, seed=k)
    return label_set(frames, TEACHER.evaluate(StructureBatch.from_atoms(frames)))


def configuration(**entries):
    return config_from_values(
        {"bulk": "Cu", "teacher": "ase.calculators.emt:EMT", "presets": ["tiny"]} | entries
    )


def test_cutoff_and_receptive_field_are_measured():
    config = configuration(training={"cutoff": 4.0})
    cutoff, field = measure_reach(config, TEACHER, labelled_copper(), TimeBudget(None))
    assert (cutoff["radius_a"], field["radius_a"]) == (4.0, 8.0)
    assert cutoff["force_rms_mev_per_a"] > 0.1  # between 4 and 5 Å
    assert field["force_rms_mev_per_a"] == 0.0
    assert limits(preset_architecture("tiny", (29,), cutoff=4.0), [cutoff, field]) == {
        "receptive_field_a": 8.0,
        "long_range": "teacher's forces beyond 8.0 Å: below 0.05 meV/Å rms when atoms there move by 0.1 Å",
    }


def test_each_preset_has_its_own_field():
    config = configuration(presets=["original", "ultra-tiny"], training={"cutoff": 3.0})
    assert [r["radius_a"] for r in measure_reach(config, TEACHER, labelled_copper(), TimeBudget(None))] == [
        3.0,
        6.0,
        9.0,
    ]


def test_a_used_up_budget_leaves_a_reason():
    for report in measure_reach(configuration(), TEACHER, labelled_copper(), TimeBudget(60.0, before_s=60.0)):
        assert report["force_rms_mev_per_a"] is None
        assert report["reason"].startswith("the budget leaves too little time: two evaluations of ")
        said = LongRangeReport(**report).text()
        assert said == f"teacher's forces beyond {report['radius_a']:.1f} Å: not measured, {report['reason']}"
        assert "0.0 s" not in said
    card = limits(preset_architecture("tiny", (29,)), [report])  # a user of the student needs no times
    assert card["long_range"] == "teacher's forces beyond 10.0 Å: not measured"


def test_labels_without_a_teacher_are_not_measured():
    card = limits(preset_architecture("original", (29,)), None)
    assert card == {"receptive_field_a": 15.0, "long_range": "not measured"}
