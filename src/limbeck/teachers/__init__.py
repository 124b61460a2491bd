"""Teachers: accurate, slow potentials. A card describes a teacher, a loader returns its Potential."""

from __future__ import annotations

from limbeck.teachers.card import TeacherCard, TeacherIdentity
from limbeck.teachers.registry import check_supported, get_card, list_cards, load_teacher, teacher_names

__all__ = [
    "TeacherCard",
    "TeacherIdentity",
    "check_supported",
    "get_card",
    "list_cards",
    "load_teacher",
    "teacher_names",
]
