"""Released students by name, whatever lies in the working directory."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.artifact.file import write_student
from limbeck.errors import InputError
from limbeck.runtime import released
from limbeck.runtime.released import find_student
from tests.students.tools import random_record


def test_a_folder_of_that_name_hides_no_student(tmp_path, monkeypatch):
    folder, here = tmp_path / "released", tmp_path / "here"
    write_student(folder / "silicon-tiny.safetensors", random_record(dtype=np.float32))
    monkeypatch.setattr(released, "_folders", lambda: [folder])
    (here / "silicon-tiny").mkdir(parents=True)
    (here / "run").mkdir()
    monkeypatch.chdir(here)
    assert find_student("silicon-tiny") == folder / "silicon-tiny.safetensors"
    with pytest.raises(InputError, match="no such student; got 'run'; wanted a .safetensors file or one of"):
        find_student("run")
    # a file without a suffix is one's own
    (here / "mine").write_bytes(b"")
    assert str(find_student("mine")) == "mine"
