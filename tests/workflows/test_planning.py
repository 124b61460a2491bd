"""How a budget is shared, and that it bounds the whole command."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from ase.build import bulk, fcc111, graphene, molecule
from ase.spacegroup import crystal as crystal_of

from limbeck.config import DistillConfig, ValidationConfig, load_config
from limbeck.errors import InputError
from limbeck.planning import plan as planning
from limbeck.planning.plan import Costs, shortened
from limbeck.planning.recipes import Recipe, default_sampling, default_test_set, recipe_of, starts_to_train_on
from limbeck.records.time_budget import TimeBudget
from limbeck.sampling.config import SamplingConfig, count_evaluations, count_frames, summary
from limbeck.sampling.defects import Vacancy
from limbeck.sampling.dynamics import MD
from limbeck.sampling.liquids import Liquid, pack_liquid
from limbeck.sampling.perturb import Rattle
from limbeck.sampling.preparing import Relax, Supercell

EMT = "ase.calculators.emt:EMT"

needs_packmol = pytest.mark.skipif(
    not all(map(find_spec, ("packmol", "rdkit"))), reason="needs the extra liquids (packmol, rdkit)"
)


def recipe(starts, **settings) -> Recipe:
    return recipe_of(DistillConfig(bulk="Cu", **settings), starts)


def sampling_of(starts, labels, **settings):
    return default_sampling(starts, recipe(starts, **settings), labels, 0)


def _plan(monkeypatch, budget, label_s, step_s=2e-3, spent_s=0.0, **settings):
    """The plan for copper where a label takes ``label_s``."""
    steps = dict.fromkeys(("original", "tiny", "ultra-tiny"), step_s)
    monkeypatch.setattr(planning, "measure", lambda *_: Costs(label_s, steps, 1))
    config = DistillConfig(bulk="Cu", teacher=EMT, presets=("tiny", "ultra-tiny"), budget=budget, **settings)
    return planning.plan(config, [bulk("Cu", cubic=True)], None, TimeBudget(budget, before_s=spent_s))


@pytest.mark.parametrize(
    ("budget", "label_s"), [(60, 0.005), (60, 0.05), (300, 0.005), (300, 0.8), (1800, 0.05), (1800, 0.8)]
)
def test_the_parts_fit_into_the_budget_and_training_gets_most(monkeypatch, budget, label_s):
    spent = 8.0
    plan = _plan(monkeypatch, budget, label_s, spent_s=spent)
    training = sum(plan.training_s.values())
    parts = plan.test_set_s + plan.labelling_s + plan.interim_students * plan.interim_s + plan.finishing_s
    parts += sum(plan.checking_s.values()) + training
    assert parts == pytest.approx(budget - spent, abs=0.5)
    assert training > (0.3 if label_s < 0.5 else 0.15) * (budget - spent)
    assert plan.training_s["tiny"] / plan.training_s["ultra-tiny"] == pytest.approx(2.0 / 1.5)
    assert plan.labels_until_s == pytest.approx(spent + 0.5 * (budget - spent), abs=0.5)


def test_more_time_gives_more_labels_and_a_better_judge(monkeypatch):
    short, long = (_plan(monkeypatch, budget, 0.1) for budget in (120, 7200))
    assert long.frames > 5 * short.frames
    assert long.test_frames == 60
    assert short.test_frames < 30
    assert short.check_factor < long.check_factor == 1.0


def test_what_the_user_chose_is_not_scaled(monkeypatch):
    sampling = SamplingConfig(steps=(Rattle(stdev_a=0.05, n=50),))
    test = SamplingConfig(steps=(MD(temperature_K=300.0, frames=20),))
    own = ValidationConfig(onpolicy_frames=10)
    settings = {"sampling": sampling, "test": test, "validation": own}
    plan = _plan(monkeypatch, 300, 0.05, **settings)
    assert (plan.sampling, plan.test, plan.check_factor) == (sampling, test, 1.0)
    assert (plan.frames, plan.test_frames) == (50, 20)
    assert plan.labels_until_s is None
    # 1000 steps of the teacher and 70 labels
    assert plan.test_set_s + plan.labelling_s == pytest.approx(0.05 * (1001 + 70))
    with pytest.raises(planning.InputError, match="; remedy: raise --budget, or sample fewer frames"):
        _plan(monkeypatch, 50, 0.05, **settings)


def test_a_plan_survives_the_state_file(monkeypatch):
    plan = _plan(monkeypatch, 300, 0.05)
    assert planning.Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_default_steps_fit_the_kind_of_system():
    crystal, slab = bulk("Cu", cubic=True), fcc111("Cu", (2, 2, 2), vacuum=8.0)
    boxed = molecule("H2O")
    boxed.set_cell([30.0, 30.0, 30.0])
    boxed.pbc = True
    water = molecule("H2O")
    assert [recipe([a]).kind for a in (crystal, slab, boxed, water)] == [
        "crystal", "surface", "molecule", "molecule"
    ]  # fmt: skip

    def kinds(starts, **settings):
        return [step.kind for step in sampling_of(starts, 60, **settings).steps]

    assert kinds([crystal]) == ["supercell", "strain", "rattle", "md", "md"]
    assert kinds([crystal], recipe="melt") == ["supercell", "strain", "rattle", "md", "melt", "md"]
    # no strain: a slab has one side open, a box is mostly empty, a mixture is both
    for starts in ([slab * (3, 3, 1)], [boxed], [water]):
        assert kinds(starts) == ["rattle", "md", "md"]
    # whatever is small where it repeats is enlarged, beside what is large or no crystal too
    for starts in ([slab], [graphene(vacuum=8.0)], [crystal, water]):
        assert kinds(starts) == ["supercell", "rattle", "md", "md"]
    assert kinds([crystal, crystal * (3, 3, 3)])[0] == "supercell"
    assert kinds([bulk("Cu", cubic=True) * (3, 3, 3)])[0] == "strain"
    for kind in ("crystal", "melt", "liquid", "surface", "molecule"):
        for labels in (50, 400, 2000):
            chosen = default_sampling([crystal], Recipe(kind, (300.0, 900.0)), labels, 0)
            made = count_frames(chosen, [crystal])
            assert 0.6 * labels < made < 1.5 * labels, (kind, labels)


def test_a_recipe_is_refused_where_it_does_not_fit():
    crystal, slab, ethanol = bulk("Cu", cubic=True), fcc111("Cu", (2, 2, 4), vacuum=8.0), molecule("CH3CH2OH")
    for starts, name, words in (
        ([crystal], "surface", "got a crystal; wanted surface; remedy: give a slab"),
        ([ethanol], "melt", "got a molecule; wanted crystal; remedy: give the crystal that melts"),
        ([slab], "crystal", "got a surface; wanted crystal"),
        ([crystal, ethanol], "molecule", r"structure 0 \(Cu4\).*got a crystal; wanted molecule"),
    ):
        with pytest.raises(InputError, match=words):
            recipe(starts, recipe=name)
    # who says every step knows what they do
    own = SamplingConfig(steps=(Rattle(stdev_a=0.05, n=5),))
    assert recipe([crystal], recipe="surface", sampling=own).kind == "surface"


@pytest.mark.parametrize("wrong", ["inf", "1e9", "-300", "hot", "nan", "0", "300,", ""])
def test_temperatures_that_make_no_sense(wrong):
    with pytest.raises(InputError, match="^--temperatures: wrong value for 'temperatures_K"):
        load_config(bulk="Cu", temperatures_K=wrong)


def test_temperatures_are_sorted_once_each():
    config = load_config(bulk="Cu", temperatures_K="900,300,300,600")
    assert recipe_of(config, [bulk("Cu", cubic=True)]).temperatures_K == (300.0, 600.0, 900.0)


def test_a_plan_remarks_on_what_it_lacks(monkeypatch):
    few = SamplingConfig(steps=(Supercell(max_atoms=32), Vacancy(add=False)))
    poor, rich, still = (
        "\n".join(_plan(monkeypatch, *times, **settings).lines(""))
        for times, settings in (((75, 0.6), {}), ((1800, 0.05), {}), ((300, 0.05), {"sampling": few}))
    )
    assert "note: no dynamics is sampled" in poor
    assert "a larger --budget has time for it" in poor
    assert "no close contacts are sampled" in poor
    assert "remedy: a larger --budget" in poor
    assert "note: 1 frames are too few to learn from: steps that prepare add none" in still
    assert "remedy: {kind: contacts, n: 8} under sampling.steps" in still
    assert not any(what in rich for what in ("no dynamics", "close contacts", "too few"))


def test_contacts_are_scanned_where_they_are_few_of_the_labels():
    for starts, labels, scanned in (
        ([bulk("Cu", cubic=True)], 100, True),
        ([bulk("Cu", cubic=True)], 70, False),
        ([molecule("C2H6NH")], 300, False),
        ([molecule("C2H6NH")], 600, True),
    ):
        kinds = [step.kind for step in sampling_of(starts, labels).steps]
        assert ("contacts" in kinds) == scanned


def test_a_melt_is_held_out_molten():
    copper = bulk("Cu", cubic=True)
    melt = default_test_set([copper], recipe([copper], recipe="melt", temperatures_K=(500, 1500)), 1e5, 0)
    cell, crystal, melting, molten = melt.steps
    assert cell.kind == "supercell"
    assert crystal.temperatures == (500.0,)
    assert melting.melt_K > 1500 == melting.quench_to_K
    assert not melting.keep
    assert (molten.from_, molten.temperatures) == ("melting", (1500.0,))


@needs_packmol
def test_a_liquid_is_held_out_from_a_box_that_training_leaves_alone():
    boxes = pack_liquid(Liquid(molecules="8 O", density_g_per_cm3=1.0, n_packings=3), 0)
    liquid = recipe(boxes)
    assert liquid.kind == "liquid"
    test = default_test_set(boxes, liquid, 1e5, 0)
    assert test.start_index == (2,)
    assert starts_to_train_on(boxes, liquid, test) == (0, 1)
    chosen = test.model_copy(update={"start_index": (-3,)})
    assert starts_to_train_on(boxes, liquid, chosen) == (1, 2)
    # a single box must serve for both, and conformers and polymorphs are all needed
    for starts in (boxes[:1], [bulk("Cu"), bulk("Cu", "bcc", a=2.87)]):
        assert (
            starts_to_train_on(starts, recipe(starts), default_test_set(starts, recipe(starts), 9, 0)) is None
        )


def test_each_kind_of_start_is_held_out():
    """A temperature each: one of many polymorphs alone would say nothing of the others."""
    starts = [bulk("Cu", cubic=True), bulk("Cu", "bcc", a=2.87, cubic=True), molecule("H2O")]
    for atoms, name in zip(starts, ("fcc.cif#0", "bcc.cif#0", "mine.xyz#0"), strict=True):
        atoms.info["group"] = name
    conformers = [molecule("CH3CH2OH") for _ in range(4)]
    for k, atoms in enumerate(conformers):
        atoms.info["group"] = f"smiles#{k}"

    def held(starts, evaluations=1e5):
        return default_test_set(starts, recipe(starts), evaluations, 0).start_index

    assert held(starts) == (0, 1, 2)
    assert held(starts, 0) == (0,)
    assert held([starts[0], *conformers]) == (0, 1)
    assert held(conformers) == (0,)


def test_defects_and_temperatures_of_the_users_sampling_are_held_out():
    starts = [bulk("Si", cubic=True)]
    sampling = SamplingConfig(
        steps=(
            Supercell(max_atoms=64), Vacancy(add=False), Relax(), Rattle(stdev_a=0.05, n=5),
            MD(temperature_K=(200.0, 500.0), frames=4),
        )
    )  # fmt: skip
    config = DistillConfig(bulk="Si", sampling=sampling)
    chosen = default_test_set(starts, recipe_of(config, starts), 1e5, 0, sampling)
    assert [step.kind for step in chosen.steps] == ["supercell", "vacancy", "md"]
    assert chosen.steps[-1].temperatures == (200.0, 500.0)
    given = recipe_of(config.model_copy(update={"temperatures_K": (900.0,)}), starts)
    assert given.temperatures_K == (900.0,)


def test_default_test_keeps_to_its_evaluations():
    starts = [bulk("Cu", cubic=True)]
    sizes = []
    for evaluations in (100, 500, 5000):
        test = default_test_set(starts, recipe(starts), evaluations, 0)
        assert count_evaluations(test, 1) + count_frames(test, 1) <= evaluations
        sizes.append(count_frames(test, 1))
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 60
    # as little as can be where nothing fits
    assert count_frames(default_test_set(starts, recipe(starts), 0, 0), 1) == 4


def test_shortened_checks_take_the_share_of_time():
    starts, costs, whole = [bulk("Cu")], Costs(0.1, {}, 1), ValidationConfig()
    full = costs.check_s(whole, starts, 2e-3)
    # 2 x 250 + 20 x 50 fs in steps of 1 fs, 1000 fs in steps of 0.5 fs, 20 labels
    assert full == pytest.approx(2e-3 * (1500 + 2000) + 20 * 0.1)
    for factor in (0.5, 0.2):
        assert costs.check_s(shortened(whole, factor), starts, 2e-3) == pytest.approx(factor * full, rel=0.15)
    assert shortened(whole, 1.0) is whole
    assert shortened(ValidationConfig(onpolicy_frames=0, nve_fs=0), 0.1).nve_fs == 0


def test_molecular_and_organic_crystals_stay_cooler_than_an_oxide():
    nitrogen = crystal_of(["N"], [(0.056,) * 3], spacegroup=205, cellpar=[5.65] * 3 + [90] * 3)
    argon, salt = bulk("Ar", "fcc", a=5.26, cubic=True), bulk("NaCl", "rocksalt", a=5.64)
    oxide, organic = bulk("MgO", "rocksalt", a=4.2), molecule("C6H6")
    organic.center(vacuum=1.0)
    organic.pbc = True
    found = [recipe([atoms]) for atoms in (nitrogen, argon, organic, salt, oxide)]
    assert {one.kind for one in found} == {"crystal"}
    assert [one.temperatures_K[-1] for one in found] == [1000.0, 1000.0, 1000.0, 1200.0, 1200.0]
    said = summary(sampling_of([oxide], 200))
    assert said.startswith(
        "supercell of at most 64 atoms; strain 0.05; rattle 0.03, 0.08, 0.15 Å; md 300, 600, 900, 1200 K"
    )
    # the dynamics of two interim_students, told once
    assert said.endswith(" fs (twice)")
    assert said.count("md ") == 1
    assert summary(default_test_set([organic], recipe([organic]), 1000, 0)).endswith(
        "md 300, 500, 1000 K, 1 fs"
    )


def test_break_even_is_the_cost_over_the_time_saved_in_each_step():
    # two workers label in half the time that a step of MD takes the teacher: 0.2 s, less 0.1 s
    costs = Costs(0.1, {"tiny": 0.1, "original": 0.3}, 2)
    assert costs.break_even_steps(600.0, "tiny") == 6000
    assert costs.break_even_steps(600.0, "original") is None  # slower than its teacher
