"""Composition of steps, determinism, resume, parallel trajectories, frames on disk."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError
from tests.sampling.support import Counting, hashes, sample

from limbeck.errors import InputError, LimbeckError
from limbeck.sampling import (
    SamplingConfig,
    bulk_structure,
    count_evaluations,
    count_frames,
    read_frames,
    run_sampling,
    write_frames,
)

MD_STEP = {"kind": "md", "frames": 3, "every_fs": 10, "equilibrate_fs": 10, "timestep_fs": 5}
STEPS = [
    {"kind": "supercell", "repeat": [2, 1, 1]},
    {"kind": "strain", "max": 0.03, "n": 3, "modes": ["volumetric", "shear"], "keep": False},
    {"kind": "rattle", "stdev_a": [0.02, 0.05], "n": 4},
    {"kind": "rattle", "from": "strain", "stdev_a": 0.02, "n": 1, "name": "both"},
    {**MD_STEP, "from": "strain", "temperature_K": [200, 400], "starts": 3},
]
CONFIG = SamplingConfig(seed=5, steps=STEPS)
STARTS = [bulk_structure("Cu")]


def run(teacher: Counting | None = None, **options) -> list[Atoms]:
    return run_sampling(STARTS, CONFIG, {"teacher": teacher or Counting()}, **options)


@pytest.fixture(scope="module")
def whole() -> list[str]:
    return hashes(run())


def test_composition_counts_and_provenance(whole):
    potential = Counting()
    frames = run(potential)
    assert len(frames) == count_frames(CONFIG, 1) == 8 + 6 + 2 * 3 * 3
    assert potential.calls == count_evaluations(CONFIG, 1) == 2 * 3 * (2 + 3 * 2 + 1)
    assert [f.info["config_type"] for f in frames] == ["rattle"] * 8 + ["both"] * 6 + ["md"] * 18
    assert all(len(f) == 8 for f in frames)
    group = [f.info["group"] for f in frames]
    assert group[:8] == [f"Cu#0/rattle-{a}A-b{k}" for a in ("0.02", "0.05") for k in range(4)]
    assert group[8:14] == [f"Cu#0/strain-{m}-b{k}" for m in ("volumetric", "shear") for k in range(3)]
    # Three trajectories over six strained starts: every other one, the rest at the second temperature.
    assert group[14::3] == [
        f"Cu#0/strain-{block}/md-{t}K-s{k}"
        for t, blocks in (
            (200, ["volumetric-b0", "volumetric-b2", "shear-b1"]),
            (400, ["volumetric-b1", "shear-b0", "shear-b2"]),
        )
        for k, block in enumerate(blocks)
    ]
    assert "temperature_K" not in frames[0].info
    assert frames[-1].info["temperature_K"] == 400.0
    assert hashes(frames) == whole
    assert len(set(whole)) == len(frames)


def test_other_seeds_and_the_held_out_set_share_nothing(whole):
    other = run_sampling(STARTS, CONFIG.model_copy(update={"seed": 6}), {"teacher": Counting()})
    held_out = run(prefix="test/")
    assert not set(whole) & {*hashes(other), *hashes(held_out)}
    assert all(f.info["group"].startswith("test/Cu#0/") for f in held_out)


def test_interrupted_run_repeats_no_trajectory(tmp_path, whole):
    # Nine evaluations a trajectory: the fourth is cut.
    with pytest.raises(RuntimeError, match="killed"):
        run(Counting(fail_after=30), cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 3
    for calls in (54 - 27, 0):
        teacher = Counting()
        assert hashes(run(teacher, cache_dir=tmp_path)) == whole
        assert teacher.calls == calls
    torn = next(tmp_path.glob("*.extxyz"))
    torn.write_text(torn.read_text()[:200])
    assert hashes(run(teacher, cache_dir=tmp_path)) == whole
    assert teacher.calls == 9
    other = Counting()
    other.name = "other"
    run(other, cache_dir=tmp_path)
    assert other.calls == 54


def test_parallel_trajectories_are_the_same(whole):
    told = []

    def progress(task, done, total=None, text=""):
        told.append((task, done, total))

    assert hashes(run(progress=progress, parallel=3)) == whole
    assert told[-1] == ("sampling", 54, 54)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    with pytest.raises(RuntimeError, match="killed"):
        run(Counting(fail_after=20), parallel=3)


def test_more_trajectories_than_starts_use_them_again():
    frames = sample(STARTS, {**MD_STEP, "temperature_K": 300, "starts": 3}, teacher=Counting())
    assert [f.info["group"] for f in frames[::3]] == [f"Cu#0/md-300K-s{k}" for k in range(3)]
    assert len(set(hashes(frames))) == 9


def test_starts_alone_and_kept():
    starts = [*STARTS, bulk("Cu", a=3.7, cubic=True)]
    starts[0].info["charge"] = 1.0
    large = sample(starts[:1], {"kind": "supercell", "repeat": [2, 1, 1]})
    del starts[0].info["charge"]
    assert [(len(f), f.info["charge"], f.info["group"]) for f in large] == [(8, 2.0, "Cu#0")]
    assert np.allclose(large[0].cell.lengths(), [7.22, 3.61, 3.61])
    one = SamplingConfig(
        start_index=[1], keep_starts=True, steps=[{"kind": "rattle", "stdev_a": 0.1, "n": 2}]
    )
    frames = run_sampling(starts, one, {})
    assert len(frames) == count_frames(one, 2) == 3
    assert frames[0].info["group"] == "start#0"
    with pytest.raises(InputError, match="start_index: no such starting structure; got 2; wanted 0 to 1"):
        run_sampling(starts, SamplingConfig(start_index=[2]), {})


def test_unphysical_trajectory_is_reported():
    violent = {"temperature_K": 300, "frames": 5, "timestep_fs": 200, "every_fs": 200, "equilibrate_fs": 0}
    notes: list[str] = []
    with pytest.raises(LimbeckError, match="sampling gave no frames") as caught:
        sample(STARTS, {"kind": "md", **violent}, teacher=Counting(), notes=notes)
    assert len(notes) == 1
    assert notes[0].startswith("Cu#0/md-300K-s0 ended at step 1 of 5 with 0 of 5 frames: ")
    assert notes[0] in str(caught.value)


def test_what_cannot_be_sampled():
    student_driven = {**MD_STEP, "temperature_K": 300, "driver": "student"}
    with pytest.raises(
        InputError, match="step md: no Potential .*; got driver student; wanted one of: teacher"
    ):
        sample(STARTS, student_driven, teacher=Counting())
    with pytest.raises(InputError, match="starting structures, frame 0: overlapping atoms"):
        run_sampling([Atoms("H2", [(0, 0, 0), (0, 0, 0.1)])], CONFIG, {})


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"kind": "rattle", "stdev_a": 0.1, "stdv": 1}], "stdv"),
        ([{"kind": "shake"}], "Input tag 'shake' found using 'kind' does not match"),
        (
            [{"kind": "rattle", "stdev_a": 0.1, "from": "md"}],
            "'rattle' draws from 'md'; wanted an earlier step",
        ),
        ([{"kind": "rattle", "stdev_a": 0.1, "name": "a"}] * 2, "two steps are named 'a'"),
        ([{"kind": "md", "temperature_K": -3}], "greater than 0"),
    ],
)
def test_bad_steps(steps, message):
    with pytest.raises(ValidationError) as caught:
        SamplingConfig(steps=steps)
    assert message in str(caught.value)


def test_config_survives_json():
    assert SamplingConfig.model_validate_json(CONFIG.model_dump_json(by_alias=True)) == CONFIG
    assert CONFIG.names == ("supercell", "strain", "rattle", "both", "md")


def test_frames_come_back_exactly(tmp_path):
    ion = molecule("NH3")
    ion.info.update(charge=-1, group="mine file.cif#0")
    frames = sample(ion, {"kind": "rattle", "stdev_a": [0.05, 0.1], "n": 3})
    frames += sample(STARTS, {**MD_STEP, "temperature_K": 300}, teacher=Counting())
    write_frames(tmp_path / "frames.extxyz", frames)
    back = read_frames(tmp_path / "frames.extxyz")
    assert hashes(back) == hashes(frames)
    assert [f.info for f in back] == [f.info for f in frames]
    assert back[0].info["charge"] == -1.0
