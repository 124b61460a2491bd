from __future__ import annotations

import os
import stat

import pytest

from limbeck.core.files import write_whole
from limbeck.errors import LimbeckError


@pytest.mark.parametrize("data", [b"bytes", "text Å", lambda path: path.write_bytes(b"written")])
def test_writes_and_replaces(tmp_path, data):
    path = tmp_path / "new" / "folder" / "a.json"
    write_whole(path, data)
    first = path.read_bytes()
    assert first in (b"bytes", "text Å".encode(), b"written")
    write_whole(path, "other")
    assert path.read_text() == "other"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    if step != "write":
        monkeypatch.setattr(os, step, full)
    with pytest.raises(LimbeckError) as caught:
        write_whole(path, full if step == "write" else "new")
    text = str(caught.value)
    assert text.startswith(
        f"{path}: cannot write the file; got No space left on device; wanted a writable folder"
    )
    assert text.endswith("nothing was overwritten")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_another_error_leaves_nothing_behind(tmp_path):
    def broken(_path):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "a.txt", broken)
    assert list(tmp_path.iterdir()) == []
