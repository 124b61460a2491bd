"""Configurations: errors of one line, overrides, and YAML that loads to what was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.config import (
    DistillConfig,
    format_budget,
    load_config,
    load_label_config,
    load_label_keys,
    load_train_config,
    parse_budget,
    resolved_yaml,
)
from limbeck.config.documents import dump_yaml, read_document
from limbeck.errors import InputError
from limbeck.sampling.config import SamplingConfig

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def load(tmp_path):
    """load(text, *overrides, **options): that text as a file ``run.yaml``, then load_config."""

    def _load(text: str, *overrides: str, **options: object) -> DistillConfig:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides, **options)

    return _load


BAD = [
    ("bulk: Si\nteecher: chgnet\n", "run.yaml:2: unknown key 'teecher'; wanted 'teacher'"),
    ("bulk: Si\nlabelling: {workes: 2}\n", "run.yaml:2: unknown key 'labelling.workes'; wanted 'workers' in 'labelling'"),
    (
        "bulk: Si\nsampling:\n  steps:\n    - {kind: rattle, stdev: 0.1}\n",
        "run.yaml:4: unknown key 'sampling.steps.0.stdev'; wanted 'stdev_a' in 'sampling.steps.0'",
    ),
    (
        "bulk: Si\nsampling:\n  steps:\n    - {kind: ratle, stdev_a: 0.1}\n",
        "run.yaml:4: unknown kind 'ratle' in 'sampling.steps.0'; wanted 'rattle'",
    ),
    (
        "bulk: Si\nsampling:\n  steps: [{n: 3}, {kind: rattle}, {kind: md}]\n",
        "run.yaml: keys 'sampling.steps.0.kind', 'sampling.steps.1.stdev_a', 'sampling.steps.2.temperature_K' are missing; "
        "wanted values for them",
    ),
    ("bulk: Si\nsampling:\n  steps: [{n: 3}]\n", "run.yaml:3: key 'sampling.steps.0.kind' is missing; wanted a value for it"),
    (
        "bulk: Si\nsampling:\n  steps:\n    - kind: rattle\n      stdev_a: many\n",
        "run.yaml:5: wrong value for 'sampling.steps.0.stdev_a'; got 'many'; wanted a tuple or a number",
    ),
    ("bulk: Si\nlabelling: {workers: two}\n", "run.yaml:2: wrong value for 'labelling.workers'; got 'two'; wanted a integer"),
    ("bulk: Si\nlabelling: 2\n", "run.yaml:2: wrong value for 'labelling'; got 2; wanted keys and values"),
    (
        "bulk: Si\nteacher: sevenet-0\n",
        "run.yaml:2: teacher.name: unknown teacher; got 'sevenet-0'; wanted 'sevennet-0'? known: sevennet-0, "
        "sevennet-l3i5, sevennet-mf-0, chgnet, chgnet-r2scan, orb, mattersim, so3lr, gfn2-xtb, ani-1x, "
            "aimnet2, mace, nequip, deepmd, pet-mad, or module:callable",
    ),
    (
        "bulk: Si\npresets: [tiny, orignal]\n",
        "run.yaml:2: presets: unknown preset; got 'orignal'; wanted original or tiny or ultra-tiny; "
        "remedy: did you mean 'original'?",
    ),
    ("bulk: Si\npresets: [tiny, tiny]\n", "run.yaml:2: presets: one or several presets are needed, each once; got tiny, tiny"),
    (
        "bulk: Si\nbudget: 20 parsecs\n",
        "run.yaml:2: budget: not a length of time; got '20 parsecs'; wanted such as 90s, 20m or 1h30m",
    ),
    ("bulk: Si\nbudget: 0\n", "run.yaml:2: budget: the budget is too short; got 0 s; wanted one second or more"),
    (
        "bulk: Si\nval: 1.5\n",
        "run.yaml:2: val: not a fraction; got 1.5; wanted more than 0 and less than 1, or a labelled file",
    ),
    (
        "bulk: Si\nsmiles: NO\n",
        "run.yaml: several starting points; got smiles, bulk; wanted exactly one of structures, smiles, bulk, liquid; "
        "remedy: give --structures FILE, --smiles SMILES, --bulk SYMBOL or --liquid MOLECULES",
    ),
    (
        "",
        "run.yaml: one starting point is needed; got none, and no teacher or out; wanted exactly one of structures, smiles, bulk, liquid; "
        "remedy: give --structures FILE, --smiles SMILES, --bulk SYMBOL or --liquid MOLECULES",
    ),
    ("bulk: Si\nseed: 1\nbulk: Ge\n", "run.yaml:3: key 'bulk' stands twice; got it first in line 1; remedy: keep one of them"),
    ("bulk: Si\nlabelling:\n  workers: 1\n  workers: 2\n", "run.yaml:4: key 'labelling.workers' stands twice; got it first in line 3; remedy: keep one of them"),
    ("bulk: Si\nseed: [1\n", "run.yaml:3:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ("bulk: Si\n\tseed: 1\n", "run.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
    ("bulk: !!python/object:os.system x\n", "run.yaml:1:7: not valid YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'"),
    ("- bulk\n", "run.yaml: not a configuration; got a list at the top; wanted keys and values, such as 'teacher: sevennet-0'"),
    ("a: &x [*x]\n", "run.yaml:1: an alias refers to itself"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_file_gives_one_line(load, tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load(text)
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file; wanted a YAML configuration$"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot read the configuration; got Is a directory$"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(InputError, match="cannot read the configuration; got not UTF-8 text$"):
        load_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.cutof=3",
            "--set training.cutof=3: unknown key 'training.cutof'; wanted 'cutoff' in 'training'",
        ),
        ("epochs", "--set: not an override; got 'epochs'; wanted key.subkey=value"),
        ("a..b=1", "--set: not an override; got 'a..b=1'; wanted key.subkey=value"),
        ("bulk.x=1", "--set bulk.x=1: 'bulk' is a single value and has no 'x'; got 'Si'"),
        (
            "sampling.steps.3.n=1",
            "--set sampling.steps.3.n=1: no entry '3' in 'sampling.steps'; wanted a number from 0 to 0",
        ),
    ],
)
def test_bad_override_names_itself(load, override, message):
    with pytest.raises(InputError) as caught:
        load("bulk: Si\nsampling:\n  steps: [{kind: strain}]\n", override)
    assert str(caught.value) == message


def test_overrides_go_from_left_to_right_after_file_and_options(load):
    text = "bulk: Si\nteacher: chgnet\nseed: 1\nsampling:\n  steps: [{kind: strain, n: 2}]\n"
    config = load(
        text, "seed=3", "sampling.steps.0.n=5", "seed=4", "teacher.options.model_name=r2scan", seed=2
    )
    assert config.seed == 4
    assert config.sampling is not None
    assert config.sampling.steps[0].n == 5
    assert config.required_teacher().options == {"model_name": "r2scan"}
    assert load(text, seed=2).seed == 2


def test_an_option_replaces_the_starting_point_and_the_teachers_options(load):
    text = "bulk: Si\nteacher: {name: chgnet, options: {model_name: r2scan}}\n"
    config = load(text, smiles="NO", teacher="so3lr", presets="tiny, ultra-tiny", budget="1h30m", workers=3)
    assert (config.source, config.smiles, config.bulk) == ("smiles", "NO", None)
    assert (config.required_teacher().name, config.required_teacher().options) == ("so3lr", {})
    assert (config.presets, config.budget, config.labelling.workers) == (("tiny", "ultra-tiny"), 5400.0, 3)
    assert load(text, teacher="chgnet").required_teacher().options == {"model_name": "r2scan"}


def test_paths_start_at_the_file_or_at_the_current_folder(load, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load("structures: mine.cif\nval: held.extxyz\n", out="run")
    assert config.structures == tmp_path / "mine.cif"
    assert config.val == tmp_path / "held.extxyz"
    assert config.run_folder() == elsewhere / "run"
    assert load("bulk: Si\n", "val=0.25").val == 0.25
    assert load("bulk: Si\n", structures="a.cif").structures == elsewhere / "a.cif"


def test_what_distill_needs_is_asked_for(load):
    config = load("bulk: Si\n")
    with pytest.raises(
        InputError, match=r"^no teacher given; wanted the name of a teacher; remedy: add --teacher NAME"
    ):
        config.required_teacher()
    with pytest.raises(InputError, match=r"^no run folder given; wanted a folder; remedy: add --out RUN$"):
        config.run_folder()


def test_configurations_of_label_and_train():
    assert load_label_config(teacher="ase.calculators.emt:EMT", workers=2).labelling.workers == 2
    config = load_train_config(("keys.energy_key=E",), presets="tiny", epochs=3, val="0.2", forces_key="F")
    assert (config.presets, config.training.epochs, config.val) == (("tiny",), 3, 0.2)
    assert (config.keys.energy_key, config.keys.forces_key) == ("E", "F")
    with pytest.raises(
        InputError, match=r"both a budget and a number of epochs are given; got 20m and 3; wanted one of"
    ):
        load_train_config(budget="20m", epochs=3)
    with pytest.raises(InputError, match=r"both --stress-key and --virial-key are given; got 's' and 'v'"):
        load_label_keys(stress_key="s", virial_key="v")


def test_yaml_scalars_are_those_of_version_1_2(load):
    config = load("smiles: NO\nname: on\nvalidation: {nve_fs: 1e3}\n")
    assert (config.smiles, config.name, config.validation.nve_fs) == ("NO", "on", 1000.0)
    assert load("bulk: Si\nname: 2024-01-01\n").name == "2024-01-01"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_load_and_their_resolved_form_is_the_same_configuration(path, tmp_path):
    config = load_config(path)
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved_yaml(config), encoding="utf-8")
    assert load_config(saved) == config


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
FINITE = st.floats(0.001, 1000.0)
STEPS = st.one_of(
    st.builds(lambda a, n: {"kind": "rattle", "stdev_a": a, "n": n}, st.lists(FINITE, min_size=1, max_size=3), st.integers(1, 50)),
    st.builds(lambda m, n: {"kind": "strain", "max": m, "n": n}, st.floats(0.001, 0.5), st.integers(1, 50)),
    st.builds(lambda t, f: {"kind": "md", "temperature_K": t, "every_fs": f, "keep": True}, FINITE, FINITE),
    st.builds(lambda n: {"kind": "supercell", "max_atoms": n}, st.integers(1, 500)),
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(TEXT, NESTED, max_size=5))
def test_dumped_yaml_reads_back_to_the_same_values(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(dump_yaml(values), encoding="utf-8", newline="")
    assert read_document(path).values == values


@settings(deadline=None)
@given(
    source=st.sampled_from(["structures", "smiles", "bulk"]),
    text=TEXT,
    options=st.dictionaries(TEXT, NESTED, max_size=3),
    budget=st.none() | st.floats(1, 1e6) | st.integers(1, 10**6),
    presets=st.permutations(["original", "tiny", "ultra-tiny"]).flatmap(lambda p: st.integers(1, 3).map(lambda n: p[:n])),
    val=st.floats(0.001, 0.999) | st.just("held.extxyz"),
    steps=st.none() | st.lists(STEPS, max_size=3),
    nve_fs=st.floats(0, 1e6),
)  # fmt: skip
def test_resolved_yaml_round_trips(
    tmp_path_factory, source, text, options, budget, presets, val, steps, nve_fs
):
    config = DistillConfig(
        **{source: text},
        teacher={"name": "m.n:f", "options": options},
        budget=budget,
        presets=presets,
        val=val,
        sampling=None if steps is None else SamplingConfig(steps=steps),
        validation={"nve_fs": nve_fs},
    )
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(resolved_yaml(config), encoding="utf-8", newline="")
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400), ("1h 5m 3s", 3903), (" 2H ", 7200), (45, 45)],
)  # fmt: skip
def test_budgets_are_read(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "20 parsecs", "1m1h", "-5m", "nan", "1e3", True, None, float("inf"), [20]]
)
def test_what_is_not_a_budget_is_refused(text):
    with pytest.raises(InputError, match="not a length of time; got .*; wanted such as 90s, 20m or 1h30m"):
        parse_budget(text)


@given(st.integers(1000, 10**10))
def test_budgets_survive_being_written(milliseconds):
    seconds = milliseconds / 1000
    assert parse_budget(format_budget(seconds)) == seconds


def test_without_budget_and_epochs_each_preset_has_its_default_minutes():
    several = load_config(bulk="Si", teacher="sevennet-0", presets="tiny,original")
    assert several.with_end().budget == 60 * 60
    assert load_config(bulk="Si", budget="90s").with_end().budget == 90
    assert load_config(bulk="Si", epochs=3).with_end().budget is None


def test_teacher_and_folder_are_asked_for_at_once(load):
    config = load("bulk: Si\n")
    with pytest.raises(
        InputError, match="^no teacher given; wanted the name of a teacher; remedy: add --teacher"
    ):
        config.required_teacher()
    with pytest.raises(
        InputError, match="no teacher and no run folder given; .*add --teacher NAME and --out RUN"
    ):
        config.required_teacher(writes=True)


def test_names_of_labels_go_with_a_validation_file(tmp_path):
    named = {"bulk": "Si", "teacher": "sevennet-0", "energy_key": "REF_energy"}
    config = load_config(**named, val=tmp_path / "val.xyz")
    assert config.keys.energy_key == "REF_energy"
    assert load_config(bulk="Si").keys.model_dump() == dict.fromkeys(config.keys.model_dump())
    with pytest.raises(InputError, match="names of labels without a file; wanted --val FILE beside them"):
        load_config(**named)
