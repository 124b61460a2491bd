from __future__ import annotations

import builtins
import subprocess
import sys

import numpy as np
import pytest

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.report.error_figures import write_plots
from limbeck.validation.run import validate
from tests.validation.toys import copper_frames, emt, label_set


def case(count: int, kelvin: list[float] | None, noise: float = 0.05):
    frames = copper_frames(count)
    truth = emt().evaluate(StructureBatch.from_atoms(frames))
    rng = np.random.default_rng(0)
    energy, forces = (v + noise * rng.normal(size=v.shape) for v in (truth.energy, truth.forces))
    labelled = label_set(frames, Labels(energy, forces, truth.stress), kelvin=kelvin)
    return validate(emt(), labelled), labelled


def test_files_are_whole_png_images(tmp_path):
    from matplotlib.image import imread

    files = write_plots(*case(24, [300.0] * 12 + [600.0] * 12), tmp_path / "plots")
    assert [f.name for f in files] == ["forces.png", "energies.png", "force_errors.png", "temperatures.png"]
    assert sorted(f.name for f in (tmp_path / "plots").iterdir()) == sorted(f.name for f in files)
    for file in files:
        pixels = imread(file)
        assert pixels.shape[0] > 500
        assert pixels[..., :3].std() > 0.05


@pytest.mark.parametrize(("kelvin", "files"), [(None, 3), ([300.0], 4)])
def test_one_structure_and_perfect_predictions_can_be_drawn(tmp_path, kelvin, files):
    assert len(write_plots(*case(1, kelvin, noise=0.0), tmp_path)) == files


def test_missing_matplotlib_is_said_before_anything_is_evaluated(monkeypatch, tmp_path):
    from limbeck.workflows.stages import run_validate

    report = case(1, None)
    original = builtins.__import__

    def refuse(name, *rest, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for draw in (
        lambda: write_plots(*report, tmp_path),
        lambda: run_validate("no such student", tmp_path / "no such labels", plots=tmp_path),
    ):
        with pytest.raises(MissingPackageError, match=r"plots need matplotlib; got not installed.*\[plots\]"):
            draw()


def test_unwritable_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LimbeckError, match=r"forces\.png: cannot write the file"):
        write_plots(*case(1, None), tmp_path / "file")


def test_import_costs_neither_matplotlib_nor_torch():
    code = (
        "import sys, limbeck.validation, limbeck.report, limbeck.testing; "
        "assert not {'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
