"""Tables of docs are what their scripts write, and their examples are read as configurations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from limbeck.sampling.config import SamplingConfig

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sampling_table", DOCS / "sampling_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_steps_is_fresh(table):
    text = table.TARGET.read_text(encoding="utf-8")
    assert text == table.render(), "run python docs/sampling_table.py"


def test_every_kind_has_an_example_that_loads(table):
    assert set(table.EXAMPLES) == set(table.step_models())
    pool = {"kind": "rattle", "name": "md", "stdev_a": 0.1}
    for kind, text in table.EXAMPLES.items():
        steps = [pool, yaml.safe_load(text)] if kind == "select" else [yaml.safe_load(text)]
        assert SamplingConfig(steps=steps).steps[-1].kind == kind


def test_every_key_of_every_kind_is_told(table):
    text = table.render()
    for model in table.step_models().values():
        for name, field in model.model_fields.items():
            assert name == "kind" or f"| `{field.alias or name}` |" in text
