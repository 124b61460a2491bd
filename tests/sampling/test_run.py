"""Composition of steps, determinism, resume, parallel trajectories, frames on disk."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from pydantic import ValidationError

from limbeck.core.hashing import hash_structure
from limbeck.core.potential import AsePotential, Capabilities
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


class Counting(AsePotential):
    """EMT that counts, can be told to fail, and is made anew for each thread's evaluation."""

    thread_safe = True

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(EMT(), Capabilities(elements=frozenset({29}), stress=False), "emt")
        self.calls, self.fail_after = 0, fail_after

    def evaluate(self, batch):
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise RuntimeError("killed")
        fresh = AsePotential(EMT(), self.capabilities, self.name)
        return fresh.evaluate(batch)


def config(**changes) -> SamplingConfig:
    return SamplingConfig(**{"seed": 5, "steps": STEPS, **changes})


def hashes(frames: list[Atoms]) -> list[str]:
    return [hash_structure(f) for f in frames]


def test_composition_counts_and_provenance():
    potential = Counting()
    frames = run_sampling([bulk_structure("Cu")], config(), {"teacher": potential})
    assert len(frames) == count_frames(config(), 1) == 8 + 6 + 2 * 3 * 3
    assert potential.calls == count_evaluations(config(), 1) == 2 * 3 * (2 + 3 * 2 + 1)
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
    assert len(set(hashes(frames))) == len(frames)


def test_same_seed_same_frames():
    def make(seed=5, prefix=""):
        return hashes(
            run_sampling([bulk_structure("Cu")], config(seed=seed), {"teacher": Counting()}, prefix=prefix)
        )

    assert make() == make()
    assert not set(make()) & set(make(seed=6))
    assert not set(make()) & set(make(prefix="test/"))


def test_held_out_families_differ():
    frames = run_sampling([bulk_structure("Cu")], config(), {"teacher": Counting()}, prefix="test/")
    assert all(f.info["group"].startswith("test/Cu#0/") for f in frames)


def test_interrupted_run_repeats_no_trajectory(tmp_path):
    starts = [bulk_structure("Cu")]
    whole = hashes(run_sampling(starts, config(), {"teacher": Counting()}))
    # Nine evaluations a trajectory: the fourth is cut.
    with pytest.raises(RuntimeError, match="killed"):
        run_sampling(starts, config(), {"teacher": Counting(fail_after=30)}, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 3
    second = Counting()
    assert hashes(run_sampling(starts, config(), {"teacher": second}, cache_dir=tmp_path)) == whole
    assert second.calls == 54 - 27
    third = Counting()
    assert hashes(run_sampling(starts, config(), {"teacher": third}, cache_dir=tmp_path)) == whole
    assert third.calls == 0
    torn = next(tmp_path.glob("*.extxyz"))
    torn.write_text(torn.read_text()[:200])
    fourth = Counting()
    assert hashes(run_sampling(starts, config(), {"teacher": fourth}, cache_dir=tmp_path)) == whole
    assert fourth.calls == 9


def test_another_potential_does_not_use_the_cache(tmp_path):
    starts = [bulk_structure("Cu")]
    run_sampling(starts, config(), {"teacher": Counting()}, cache_dir=tmp_path)
    other = Counting()
    other.name = "other"
    run_sampling(starts, config(), {"teacher": other}, cache_dir=tmp_path)
    assert other.calls == 54


def test_parallel_trajectories_are_the_same():
    starts, told = [bulk_structure("Cu")], []
    serial = hashes(run_sampling(starts, config(), {"teacher": Counting()}))

    def progress(task, done, total=None, text=""):
        told.append((task, done, total))

    assert hashes(run_sampling(starts, config(), {"teacher": Counting()}, progress, parallel=3)) == serial
    assert told[-1] == ("sampling", 54, 54)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    with pytest.raises(RuntimeError, match="killed"):
        run_sampling(starts, config(), {"teacher": Counting(fail_after=20)}, parallel=3)


def test_more_trajectories_than_starts_use_them_again():
    plan = SamplingConfig(steps=[{**MD_STEP, "temperature_K": 300, "starts": 3}])
    frames = run_sampling([bulk_structure("Cu")], plan, {"teacher": Counting()})
    assert [f.info["group"] for f in frames[::3]] == [f"Cu#0/md-300K-s{k}" for k in range(3)]
    assert len(set(hashes(frames))) == 9


def test_starts_alone_and_kept():
    starts = [bulk_structure("Cu"), bulk("Cu", a=3.7, cubic=True)]
    large = run_sampling(starts, SamplingConfig(steps=[{"kind": "supercell", "repeat": [1, 1, 2]}]), {})
    assert [len(f) for f in large] == [8, 8]
    one = SamplingConfig(
        start_index=[1], keep_starts=True, steps=[{"kind": "rattle", "stdev_a": 0.1, "n": 2}]
    )
    frames = run_sampling(starts, one, {})
    assert len(frames) == count_frames(one, 2) == 3
    assert frames[0].info["group"] == "start#0"
    with pytest.raises(
        InputError, match="sampling, start_index: no such starting structure; got 2; wanted 0 to 1"
    ):
        run_sampling(starts, SamplingConfig(start_index=[2]), {})


def test_unphysical_trajectory_is_reported():
    violent = {"temperature_K": 300, "frames": 5, "timestep_fs": 200, "every_fs": 200, "equilibrate_fs": 0}
    hot = SamplingConfig(steps=[{"kind": "md", **violent}])
    notes: list[str] = []
    with pytest.raises(LimbeckError) as caught:
        run_sampling([bulk_structure("Cu")], hot, {"teacher": Counting()}, notes=notes)
    assert len(notes) == 1
    assert notes[0].startswith("Cu#0/md-300K-s0 ended at step 1 of 5 with 0 of 5 frames: ")
    assert str(caught.value) == (
        f"sampling: sampling gave no frames; got {notes[0]}; "
        "remedy: start from relaxed structures, or lower temperature_K or timestep_fs"
    )


def test_driver_without_potential():
    plan = SamplingConfig(steps=[{**MD_STEP, "temperature_K": 300, "driver": "interim"}])
    with pytest.raises(InputError) as caught:
        run_sampling([bulk_structure("Cu")], plan, {"teacher": Counting()})
    assert str(caught.value) == (
        "step md: no Potential for the driver of a step; got driver interim; wanted one of: teacher; "
        "remedy: give a teacher"
    )


def test_bad_start_is_refused():
    with pytest.raises(InputError, match="starting structures, frame 0: overlapping atoms"):
        run_sampling([Atoms("H2", [(0, 0, 0), (0, 0, 0.1)])], config(), {})


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
    made = config()
    assert SamplingConfig.model_validate_json(made.model_dump_json(by_alias=True)) == made
    assert made.names == ("supercell", "strain", "rattle", "both", "md")


def test_frames_come_back_exactly(tmp_path):
    ion = molecule("NH3")
    ion.info.update(charge=-1, group="mine file.cif#0")
    frames = run_sampling(
        [ion], SamplingConfig(steps=[{"kind": "rattle", "stdev_a": [0.05, 0.1], "n": 3}]), {}
    )
    frames += run_sampling([bulk_structure("Cu")], config(), {"teacher": Counting()})
    write_frames(tmp_path / "frames.extxyz", frames)
    back = read_frames(tmp_path / "frames.extxyz")
    assert hashes(back) == hashes(frames)
    assert [f.info for f in back] == [f.info for f in frames]
    assert back[0].info["charge"] == -1.0


def test_charge_and_family_of_a_supercell():
    start = bulk_structure("Cu")
    start.info["charge"] = 1.0
    frames = run_sampling([start], SamplingConfig(steps=[{"kind": "supercell", "repeat": [2, 1, 1]}]), {})
    assert frames[0].info["charge"] == 2.0
    assert frames[0].info["group"] == "Cu#0"
    assert np.allclose(frames[0].cell.lengths(), [7.22, 3.61, 3.61])
