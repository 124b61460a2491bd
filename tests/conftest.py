"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of reference data: $LIMBECK_SHARED_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LIMBECK_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}: set LIMBECK_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def shared_field() -> Path:
    """Folder of files in the shapes that users have: ../shared/field beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "field"
    if not folder.is_dir():
        pytest.skip(f"no files of the field at {folder}")
    return folder
