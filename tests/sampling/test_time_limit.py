"""What a sampling makes where time is short. The clock is the number of evaluations; nothing waits."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from tests.sampling.support import Counting, copper, hashes, sample
from tests.sampling.test_run import MD_STEP, STARTS, run

from limbeck.sampling import MD, Melt, TimeLimit
from limbeck.sampling.schedule import Effort, Schedule, even_order


def limited(evaluations: float, potential: Counting, **changes) -> TimeLimit:
    return TimeLimit(lambda: evaluations - potential.calls, **changes)


def test_fewer_trajectories_are_made_whole(tmp_path):
    """Six trajectories of 9 evaluations and 3 frames, and time for three of them."""
    potential, notes = Counting(), []
    limit = limited(27, potential, planned_s={"teacher": 0.25})
    frames = run(potential, cache_dir=tmp_path, notes=notes, limit=limit)
    assert potential.calls == 27
    made = [frame for frame in frames if frame.info["config_type"] == "md"]
    assert sorted(Counter(frame.info["group"] for frame in made).values()) == [3, 3, 3]
    assert {frame.info["temperature_K"] for frame in made} == {200.0, 400.0}
    assert notes == [
        "md: there was time for 3 of 6 trajectories, all whole: 9 of 18 frames",
        "md: an evaluation of the teacher took 1 s, 4.0 times as long as planned",
    ]
    # they are those of a sampling without a limit, in its order
    whole = hashes(run())
    assert hashes(frames) == [h for h in whole if h in set(hashes(frames))]
    # called again, what was left out stays so, whatever time there is
    again, said = Counting(), []
    limit = limited(1000, again)
    assert hashes(run(again, cache_dir=tmp_path, notes=said, limit=limit)) == hashes(frames)
    assert (again.calls, said) == (0, notes[:1])


def test_without_time_each_temperature_has_the_state_it_came_to():
    potential, notes = Counting(), []
    frames = run(potential, notes=notes, limit=limited(0, potential), prefix="test/")
    made = [frame for frame in frames if frame.info["config_type"] == "md"]
    assert [frame.info["group"].rpartition("/")[2] for frame in made] == ["md-200K-s0", "md-400K-s2"]
    assert not any("temperature_K" in frame.info for frame in made)
    assert potential.calls == 4
    assert notes == ["test md: there was time for 2 of 6 trajectories, none of them whole: 2 of 18 frames"]


def test_several_at_a_time_keep_to_the_limit_too():
    potential = Counting()
    frames = run(potential, limit=limited(36, potential), parallel=2)
    made = [frame for frame in frames if frame.info["config_type"] == "md"]
    assert {frame.info.get("temperature_K") for frame in made} == {200.0, 400.0}
    # at most the last of each thread is shortened
    assert sum(n < 3 for n in Counter(frame.info["group"] for frame in made).values()) <= 2
    assert 18 <= potential.calls <= 36 + 2


@pytest.mark.parametrize("fail_after", [5, 20])
def test_a_failure_ends_all_threads(fail_after):
    potential = Counting(fail_after=fail_after)
    with pytest.raises(RuntimeError, match="killed"):
        run(potential, limit=limited(1000, potential), parallel=3)
    assert potential.calls <= fail_after + 2 * 3


def test_where_not_all_temperatures_can_be_reached_some_are():
    """A trajectory's first frame comes after 12 of 22 evaluations; 30 are enough for two of them."""
    step = MD(
        temperature_K=(100, 200, 300, 400), frames=6, every_fs=10, equilibrate_fs=50, timestep_fs=5, starts=1
    )
    assert step.size(4) == (6, 23, 12)
    potential, notes = Counting(), []
    frames = sample(STARTS, step, teacher=potential, notes=notes, limit=limited(30, potential))
    assert [frame.info["temperature_K"] for frame in frames] == [100.0, 300.0]
    assert notes == ["md: there was time for 2 of 4 trajectories, none of them whole: 2 of 24 frames"]
    # twice the time is for all of them
    potential = Counting()
    frames = sample(STARTS, step, teacher=potential, limit=limited(60, potential))
    assert {frame.info["temperature_K"] for frame in frames} == {100.0, 200.0, 300.0, 400.0}


def test_each_step_has_its_share():
    melt = Melt(
        melt_K=2000, quench_to_K=500, heat_fs=50, hold_fs=50, cool_fs=50, frames=5, starts=4, timestep_fs=5
    )
    steps = [{**MD_STEP, "temperature_K": [200, 400], "starts": 6}, melt]
    potential, notes = Counting(), []
    whole = 12 * 9 + 4 * 31
    sample(STARTS, *steps, teacher=potential, notes=notes, limit=limited(whole / 2, potential))
    assert notes == [
        "md: there was time for 6 of 12 trajectories, all whole: 18 of 36 frames",
        "melt: there was time for 2 of 4 trajectories, all whole: 10 of 20 frames",
    ]


def test_labels_of_the_frames_fit_into_the_time():
    """54 evaluations and 18 labels, and time for half of both."""
    potential = Counting()
    frames = run(potential, limit=limited(36, potential, labels=True))
    made = sum(frame.info["config_type"] == "md" for frame in frames)
    assert made == 9
    assert potential.calls + made <= 36


def test_a_rate_that_recovers_is_seen_while_others_are_at_work():
    """Two threads: what does not fit for one is weighed again once the other has finished quickly."""
    now = [0.0]
    schedule = Schedule([Effort(10, 1)] * 4, range(4), 2, lambda: 100.0 - now[0])
    slow, quick = schedule.take(), schedule.take()
    for _ in range(3):
        now[0] += 15.0
        slow.tick()
    schedule.finish(slow)
    assert 10 * schedule.seconds > 55.0  # nothing fits
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(schedule.take()))
    waiting.start()
    for _ in range(20):
        now[0] += 0.1
        quick.tick()
    assert not taken
    schedule.finish(quick)
    waiting.join(10)
    assert [turn.index for turn in taken] == [2]
    now[0] = 99.9
    schedule.finish(taken[0])
    assert schedule.take() is None


@pytest.mark.parametrize(("conditions", "starts", "each"), [(4, 13, 13), (4, 1, 5), (3, 2, 8), (1, 7, 7)])
def test_every_beginning_of_the_order_is_even(conditions, starts, each):
    groups = [c for c in range(conditions) for _ in range(each)]
    start = [k % starts for _ in range(conditions) for k in range(each)]
    order = even_order(groups, start)
    assert sorted(order) == list(range(len(groups)))
    for n in range(1, len(order) + 1):
        seen = Counter(groups[k] for k in order[:n])
        assert max(seen.values()) - min(seen[c] for c in range(conditions)) <= 1
        for c in range(conditions):
            seen = Counter(start[k] for k in order[:n] if groups[k] == c)
            assert max(seen.values(), default=0) - min(seen[s] for s in range(starts)) <= 1
    # a quarter of many starts comes from all quarters of their list
    if starts >= 8:
        quarter = [start[k] for k in order if groups[k] == 0][:4]
        assert len({4 * k // starts for k in quarter}) >= 3


def test_starts_of_one_structure_differ_between_temperatures():
    order = even_order([0] * 4 + [1] * 4, [0, 1, 2, 3] * 2)
    assert len({k % 4 for k in order[:2]}) == 2


def test_each_start_is_used_before_any_is_used_again():
    potential, starts = Counting(), [copper(group=f"Cu{k}") for k in range(2)]
    step = {**MD_STEP, "temperature_K": 300, "starts": 8}
    frames = sample(starts, step, teacher=potential, limit=limited(20, potential))
    assert {frame.info["group"].split("/")[0] for frame in frames} == {"Cu0", "Cu1"}
