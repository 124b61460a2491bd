"""Files of earlier versions have other words for the same things."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from limbeck.artifact.file import read_card
from limbeck.core.earlier import provenance, with_new_keys

STUDENT = Path(__file__).resolve().parents[2] / "students" / "silicon-hot-tiny.safetensors"


def test_a_bundled_student_of_an_earlier_version_has_the_present_keys():
    data = STUDENT.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    stored = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["limbeck"])
    card = read_card(STUDENT)
    assert card["metrics"]["test"] == stored["metrics"]["heldout"]
    assert card["data"]["n_groups"] == stored["data"]["n_families"]
    seen, before = card["active_learning"], stored["rounds"]
    assert [one["students"]["tiny"]["stable"] for one in seen] == [
        one["students"]["tiny"]["survived"] for one in before
    ]
    assert "rounds" not in card


@pytest.mark.parametrize(
    ("entries", "group", "kind"),
    [
        ({"family": "a", "step": "md"}, "a", "md"),
        ({"group": "b", "family": "a", "config_type": "bulk", "step": "md"}, "b", "bulk"),
        ({}, "", ""),
    ],
)
def test_provenance_in_old_and_present_words(entries, group, kind):
    assert (provenance(entries, "group"), provenance(entries, "config_type")) == (group, kind)


def test_a_number_of_repeated_timings_keeps_its_key():
    assert with_new_keys({"latency": [{"rounds": 5}]}) == {"latency": [{"rounds": 5}]}
