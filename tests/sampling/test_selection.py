"""Selection of frames: outliers, coverage, symmetry, what is known, disagreement of potentials."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.lj import LennardJones
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from limbeck.core.potential import AsePotential, Capabilities
from limbeck.errors import InputError, LimbeckError
from limbeck.sampling import SamplingConfig, count_frames, run_sampling, select_frames
from limbeck.sampling.coverage import covering_frames
from limbeck.sampling.environments import Environments, describe_environments
from limbeck.sampling.farthest import farthest_frames
from limbeck.sampling.selection import force_spread

soap = pytest.mark.usefixtures("dscribe")
DESCRIBED = ("coverage", "farthest")


@pytest.fixture
def dscribe():
    pytest.importorskip("dscribe", reason="dscribe is not installed")


def rattled(start: Atoms, n: int, stdev: float = 0.03, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        frame = start.copy()
        frame.positions += rng.normal(scale=stdev, size=frame.positions.shape)
        frames.append(frame)
    return frames


def ethanol() -> Atoms:
    return molecule("CH3CH2OH")


def moved(frame: Atoms, seed: int) -> Atoms:
    """Rotated, shifted and with its atoms in another order."""
    rng = np.random.default_rng(seed)
    copy = frame.copy()
    copy.rotate(rng.uniform(0, 360), rng.normal(size=3), rotate_cell=True)
    copy.positions += rng.normal(scale=5.0, size=3)
    return copy[rng.permutation(len(copy))]


def environments(points: np.ndarray, frame: list[int], element: list[int] | None = None) -> Environments:
    """Hand-made environments."""
    return Environments(
        vectors=np.asarray(points, np.float32).reshape(len(frame), -1),
        frame=np.array(frame),
        element=np.array(element or [1] * len(frame)),
        n_frames=max(frame) + 1,
    )


# ---- what is described ------------------------------------------------------------------------


@soap
@pytest.mark.parametrize(
    "frame",
    [
        Atoms("Ar", positions=[[0, 0, 0]]),
        bulk("Si"),
        bulk("NaCl", "rocksalt", 5.6) * (2, 1, 1),
        ethanol(),
        fcc111("Cu", (2, 2, 3), vacuum=8.0),
        Atoms("Cu2", positions=[[0, 0, 0], [1.3, 1.3, 0.5]], cell=[2.6, 2.6, 0], pbc=[True, True, False]),
    ],
    ids=["one atom", "crystal", "two elements", "molecule", "slab", "flat cell"],
)
def test_any_structure_is_described(frame):
    described = describe_environments([frame, *rattled(frame, 3)])
    assert described.vectors.shape[0] == 4 * len(frame)
    assert np.isfinite(described.vectors).all()
    assert described.element[: len(frame)].tolist() == frame.numbers.tolist()


@soap
def test_few_dimensions_keep_the_distances():
    from dscribe.descriptors import SOAP

    frames = rattled(ethanol(), 30)
    frames[7].positions[0] += 0.5
    whole = SOAP(
        r_cut=5.0, n_max=6, l_max=4, sigma=0.4, species=["C", "H", "O"], periodic=False,
        weighting={"function": "poly", "r0": 5.0, "m": 1, "c": 1}, compression={"mode": "mu1nu1"},
    )  # fmt: skip
    expected = cdist(*[np.concatenate(whole.create(frames))] * 2)
    few = describe_environments(frames)
    assert few.vectors.shape[1] <= 49
    np.testing.assert_allclose(cdist(few.vectors, few.vectors), expected, atol=0.03 * expected.max())


@soap
def test_what_the_sample_lacks_does_not_vanish(monkeypatch):
    """The principal axes come from other frames; the odd one differs beside them."""
    monkeypatch.setattr("limbeck.sampling.environments._FITTED", 18)
    frames = rattled(ethanol(), 40, stdev=0.002)
    frames[33].positions[8] += [0.0, 0.0, 0.3]
    assert select_frames(frames, 1, "farthest")[0] == 33


@soap
def test_many_environments_are_thinned_evenly():
    frames = rattled(bulk("Si", cubic=True), 10)
    described = describe_environments(frames, most=30, seed=3)
    assert np.bincount(described.frame).tolist() == [3] * 10
    again = describe_environments(frames, most=30, seed=3)
    np.testing.assert_array_equal(described.vectors, again.vectors)


# ---- farthest and coverage ----------------------------------------------------------------------


@soap
@pytest.mark.parametrize(
    "start", [ethanol(), bulk("Si", cubic=True), bulk("LiCl", "rocksalt", 5.13, cubic=True)]
)
def test_the_planted_outlier_is_taken_first(start):
    frames = rattled(start, 25)
    frames[17].positions[2] += [0.35, 0.2, -0.3]
    assert select_frames(frames, 3, "farthest")[0] == 17


@soap
@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
def test_rotation_translation_and_order_of_atoms_change_nothing(seed):
    for frames in (rattled(ethanol(), 12), rattled(bulk("LiCl", "rocksalt", 5.13), 12, 0.1)):
        other = [moved(a, seed + k) for k, a in enumerate(frames)]
        np.testing.assert_array_equal(
            select_frames(frames, 5, "farthest"), select_frames(other, 5, "farthest")
        )


@pytest.mark.parametrize("pick", [farthest_frames, covering_frames])
def test_duplicates_come_last(pick):
    points = np.array([0.0, 1.0, 2.0, 4.0, 7.0])
    described = environments(np.tile(points, 4), list(range(20)))
    chosen = pick(described, 8)
    assert sorted(points[chosen[:5] % 5]) == points.tolist()
    assert len(set(chosen.tolist())) == 8


@soap
@pytest.mark.parametrize("method", DESCRIBED)
def test_duplicated_frames_come_last(method):
    distinct = rattled(ethanol(), 6)
    frames = [moved(distinct[k % 6], k) for k in range(24)]
    assert sorted(select_frames(frames, 6, method) % 6) == list(range(6))


def test_farthest_points_on_a_line():
    """First the farthest from 4, the nearest to the mean 3.4, then Gonzalez's order."""
    described = environments([0.0, 1.0, 2.0, 10.0, 4.0], [0, 1, 2, 3, 4])
    assert farthest_frames(described, 5).tolist()[:4] == [3, 0, 4, 2]
    # with the ends known, the middle is farthest
    assert farthest_frames(environments([0.0, 10.0, 1.0, 5.0, 9.0], range(5)), 1, known=2).tolist() == [3]


def test_like_is_compared_with_like():
    """Frame 2 repeats the position of another element; frame 1 lies between."""
    described = environments([0.0, 0.0, 1.0, 10.0], [0, 0, 1, 2], [1, 6, 1, 6])
    assert farthest_frames(described, 1, known=1).tolist() == [2]
    described = environments([0.0, 10.0, 1.0, 10.0], [0, 0, 1, 2], [1, 6, 1, 6])
    assert farthest_frames(described, 1, known=1).tolist() == [1]


def test_coverage_takes_the_middle_of_the_largest_cluster_and_leaves_the_outlier():
    points = [*np.linspace(-1, 1, 11), *np.linspace(9, 11, 5), 40.0]
    described = environments(points, range(17))
    assert covering_frames(described, 1).tolist() == [8]  # the median of all
    chosen = covering_frames(described, 3)
    near = [min(abs(points[c] - x) for c in chosen) for x in (0.0, 10.0, 40.0)]
    assert max(near) < 1.1
    assert 16 in chosen  # three clusters, three frames
    assert 16 not in covering_frames(environments([*points[:16], 12.0], range(17)), 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_coverage_is_greedy(seed):
    """Each frame lowers the sum of distances most, against a plain search over all."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.arange(12), 3)
    element = np.tile([1, 6, 6], 12)
    described = environments(rng.normal(size=(36, 2)), frame.tolist(), element.tolist())
    known = int(rng.integers(0, 3))
    chosen = covering_frames(described, 4, known=known)
    x = described.vectors
    apart = np.where(element[:, None] == element, cdist(x, x), np.inf)
    to_frame = np.array([apart[:, frame == f].min(axis=1) for f in range(12)])[:, frame >= known]  # (F, E)
    taken = list(range(known))
    for pick in chosen:
        start = to_frame[taken].min(axis=0) if taken else np.full(to_frame.shape[1], to_frame.max())
        left = np.minimum(start, to_frame).sum(axis=1)
        assert left[pick] <= left[known:].min() + 1e-3
        taken.append(int(pick))


@soap
@pytest.mark.parametrize("method", DESCRIBED)
def test_known_frames_are_not_taken_again(method):
    frames = rattled(ethanol(), 10)
    other = frames[4].copy()
    other.positions[3] += 0.6
    chosen = select_frames([moved(frames[1], 5), other, moved(frames[2], 6)], 1, method, known=frames)
    assert chosen.tolist() == [1]


@pytest.mark.parametrize("method", ["random", *DESCRIBED])
def test_the_same_seed_takes_the_same_frames(method):
    if method != "random":
        pytest.importorskip("dscribe", reason="dscribe is not installed")
    frames = rattled(bulk("Si", cubic=True), 30)
    first = select_frames(frames, 10, method, seed=4)
    assert first.tolist() == select_frames(frames, 10, method, seed=4).tolist()
    assert len(set(first.tolist())) == 10
    if method == "random":
        assert first.tolist() != select_frames(frames, 10, method, seed=5).tolist()


@pytest.mark.parametrize("method", ["random", "coverage", "farthest", "ensemble"])
def test_as_many_as_there_are_means_all(method):
    frames = rattled(ethanol(), 3)
    for n in (3, 4):
        assert select_frames(frames, n, method).tolist() == [0, 1, 2]
    assert select_frames(frames[:1], 1, method).tolist() == [0]
    assert select_frames([], 2, method).tolist() == []


@soap
def test_mixed_sizes_and_elements():
    frames = [*rattled(ethanol(), 4), *rattled(molecule("H2O"), 4), Atoms("Ar"), *rattled(bulk("Si"), 4)]
    holds = [frozenset(a.get_chemical_symbols()) for a in frames]
    chosen = select_frames(frames, 4, "farthest")
    assert {"C", "O", "H", "Ar", "Si"} == set().union(*(holds[k] for k in chosen))
    assert {holds[k] for k in select_frames(frames, 3, "coverage")} == {holds[0], holds[4], holds[9]}


# ---- ensemble ---------------------------------------------------------------------------------


def lennard_jones(epsilon: float) -> AsePotential:
    calculator = LennardJones(sigma=2.0, epsilon=epsilon, rc=8.0, smooth=False)
    return AsePotential(calculator, Capabilities(stress=False, atom_energies=False), f"lj {epsilon}")


def dimers(distances: list[float]) -> list[Atoms]:
    return [Atoms("Ar2", positions=[[0, 0, 0], [d, 0, 0]]) for d in distances]


def test_spread_of_forces_is_analytic():
    """Forces are linear in epsilon, so the spread is its standard deviation times the unit force."""
    distances = [1.9, 2.0, 2.2449241, 3.0, 5.0]
    epsilons = [0.5, 1.0, 1.8]
    unit = [abs(24 * (2 * (2 / r) ** 12 - (2 / r) ** 6) / r) for r in distances]
    spread = force_spread(dimers(distances), [lennard_jones(e) for e in epsilons])
    np.testing.assert_allclose(spread, np.std(epsilons) * np.array(unit), rtol=1e-6, atol=1e-6)


@soap
def test_ensemble_takes_what_is_disputed():
    distances = [2.2449241, 4.0, 1.8, 5.0, 2.25, 1.9, 6.0, 2.24]
    pair = [lennard_jones(1.0), lennard_jones(1.1)]
    assert set(select_frames(dimers(distances), 1, "ensemble", potentials=pair).tolist()) <= {2, 5}
    assert set(select_frames(dimers(distances), 2, "ensemble", potentials=pair).tolist()) <= {2, 5, 1, 4}


# ---- errors -----------------------------------------------------------------------------------


def test_errors_say_what_is_wanted():
    frames = rattled(ethanol(), 4)
    with pytest.raises(InputError, match="cannot select so few frames; got 0; wanted at least 1"):
        select_frames(frames, 0)
    with pytest.raises(InputError, match="no such way of selecting; got best; wanted random, coverage"):
        select_frames(frames, 1, "best")
    with pytest.raises(InputError, match="an ensemble needs potentials that can differ; got 0"):
        select_frames(frames, 1, "ensemble")
    frames[2].positions[0] = np.nan
    with pytest.raises(InputError, match="frames to select from, frame 2"):
        select_frames(frames, 1, "farthest")
    with pytest.raises(InputError, match="no frames to describe"):
        describe_environments([])


def test_without_dscribe_one_line_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "dscribe.descriptors", None)
    with pytest.raises(LimbeckError, match=r"needs dscribe.*pip install 'limbeck\[selection\]'"):
        select_frames(rattled(ethanol(), 4), 1, "farthest")


# ---- as a step of sampling ----------------------------------------------------------------------

STEPS = [
    {"kind": "rattle", "stdev_a": 0.02, "n": 5, "name": "small"},
    {"kind": "rattle", "stdev_a": 0.2, "n": 20, "name": "pool"},
]


def sampled(*steps: dict) -> list[Atoms]:
    config = SamplingConfig(seed=2, steps=[*STEPS, *steps])
    frames = run_sampling([bulk("Cu", cubic=True)], config, {})
    assert len(frames) == count_frames(config, 1)
    return frames


@soap
def test_a_step_thins_an_earlier_step():
    whole = sampled()
    few = sampled({"kind": "select", "of": "pool", "share": 0.3, "method": "coverage"})
    assert [a.info["step"] for a in few] == ["small"] * 5 + ["pool"] * 6
    places = [next(k for k, a in enumerate(whole) if np.array_equal(a.positions, b.positions)) for b in few]
    assert places == sorted(places)
    chosen = select_frames(whole[5:], 6, "farthest", known=whole[:5])
    few = sampled({"kind": "select", "of": "pool", "n": 6, "method": "farthest"})
    np.testing.assert_array_equal(
        [a.positions for a in few[5:]], [whole[5 + k].positions for k in sorted(chosen)]
    )


def test_later_steps_draw_from_what_is_left():
    frames = sampled(
        {"kind": "select", "of": "pool", "n": 2, "method": "random"},
        {"kind": "rattle", "from": "pool", "stdev_a": 0.01, "n": 3, "name": "again"},
        {"kind": "select", "of": "small", "n": 99, "method": "random"},
    )
    assert [a.info["step"] for a in frames] == ["small"] * 5 + ["pool"] * 2 + ["again"] * 6


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"of": "pool"}, "wanted exactly one of n, share"),
        ({"of": "pool", "n": 2, "share": 0.5}, "wanted exactly one of n, share"),
        (
            {"of": "later", "n": 2},
            r"'select' selects of 'later'; wanted an earlier step that makes frames \(small",
        ),
        ({"of": "pool", "n": 2, "method": "best"}, "'random', 'coverage' or 'farthest'"),
    ],
)
def test_a_step_that_cannot_be(step, text):
    with pytest.raises(ValueError, match=text):
        SamplingConfig(steps=[*STEPS, {"kind": "select", **step}])


def test_a_selection_is_summarised():
    from limbeck.sampling.config import summary

    steps = [
        *STEPS,
        {"kind": "select", "of": "pool", "n": 6},
        {"kind": "select", "of": "small", "share": 0.25, "method": "coverage"},
    ]
    assert summary(SamplingConfig(steps=steps)).endswith(
        "; select 6 of pool, random; select 25% of small, coverage"
    )
