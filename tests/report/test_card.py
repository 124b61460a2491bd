"""Cards for model hubs: front matter that parses, figures of the student, text that stays text."""

from __future__ import annotations

import copy

import pytest
import yaml

from limbeck.artifact.file import read_card
from limbeck.report.card import model_card
from limbeck.runtime.released import find_student, list_students

RELEASED = [student.name for student in list_students()]
# as the teachers' own repositories state them, in the spelling of model hubs
LICENCES = {"sevennet-0": "mit", "so3lr": "mit", "chgnet": "bsd-3-clause"}


def parts(card: str) -> tuple[dict, str]:
    """Front matter and body."""
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_student_has_a_card_with_its_figures(name):
    card = read_card(find_student(name))
    head, body = parts(model_card(card, f"{name}.safetensors"))
    assert head["license"] == LICENCES[card["teacher"]["name"]]
    assert head["library_name"] == "limbeck"
    assert head["base_model"] == card["teacher"]["name"]
    results = {r["dataset"]["type"]: r["metrics"] for r in head["model-index"][0]["results"]}
    assert set(results) == {"limbeck-test", "limbeck-validation", "limbeck-on-policy"}
    wanted = card["metrics"]["test"]["force_rmse_mev_per_a"]
    assert {m["type"]: m["value"] for m in results["limbeck-test"]}["force_rmse_mev_per_a"] == pytest.approx(
        wanted, rel=1e-5
    )
    for title in ("Intended use", "Limits", "Training data", "Evaluation", "How to use"):
        assert f"## {title}\n" in body
    assert card["data"]["content_hash"] in body
    assert f'Calculator("{name}.safetensors")' in body


def test_unknown_and_unusual_licences_are_named():
    card = read_card(find_student(RELEASED[0]))
    card["teacher"]["licence"] = "ASL (academic)"
    head, _ = parts(model_card(card, "s.safetensors"))
    assert (head["license"], head["license_name"]) == ("other", "ASL (academic)")
    card["teacher"] = {"name": "labels of x.extxyz"}
    head, body = parts(model_card(card, "s.safetensors"))
    assert head["license"] == "unknown"
    assert "base_model" not in head
    assert "trained on labels of x.extxyz" in body
    assert "the errors of its labels" in body


def test_a_bare_card_is_enough():
    card = read_card(find_student(RELEASED[0]))
    bare = {key: card[key] for key in ("architecture", "elements", "dtype")}
    head, body = parts(model_card(bare, "s.safetensors"))
    assert "model-index" not in head
    assert "Not recorded." in body


def test_text_from_outside_breaks_neither_yaml_nor_markdown():
    card = copy.deepcopy(read_card(find_student(RELEASED[0])))
    hostile = "x: [\n---\n# `boo` <script>"
    card["teacher"] |= {"name": hostile, "licence": hostile, "citation": hostile}
    card["run"] = {"name": hostile, "command": hostile}
    head, body = parts(model_card(card, "s.safetensors"))
    assert head["base_model"] == "x: [ --- # `boo` <script>"
    assert "<script" not in body
    assert "\n# `boo`" not in body


def test_info_writes_the_card(tmp_path, capsys):
    from limbeck import cli

    out = tmp_path / "card.md"
    assert cli.main(["info", RELEASED[0], "--card-md", str(out)]) == 0
    assert "architecture:" in capsys.readouterr().out
    assert parts(out.read_text(encoding="utf-8"))[0]["library_name"] == "limbeck"
