from __future__ import annotations

import builtins
import subprocess
import sys

import numpy as np
import pytest

from limbeck.core.labels import Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError, MissingPackageError
from limbeck.validation.plots import write_plots
from limbeck.validation.run import validate

from .toys import copper_frames, emt, label_set


@pytest.fixture(scope="module")
def case():
    frames = copper_frames(24)
    truth = emt().evaluate(StructureBatch.from_atoms(frames))
    rng = np.random.default_rng(0)
    reference = Labels(
        truth.energy + 0.01 * rng.normal(size=24),
        truth.forces + 0.05 * rng.normal(size=truth.forces.shape),
        truth.stress,
    )
    labelled = label_set(frames, reference, kelvin=[300.0] * 12 + [600.0] * 12)
    return validate(emt(), labelled), labelled


def test_files_are_whole_png_images(case, tmp_path):
    from matplotlib.image import imread

    report, labelled = case
    files = write_plots(report, labelled, tmp_path / "plots")
    assert [f.name for f in files] == ["forces.png", "energies.png", "force_errors.png", "temperatures.png"]
    assert sorted(f.name for f in (tmp_path / "plots").iterdir()) == sorted(f.name for f in files)
    for file in files:
        pixels = imread(file)
        assert pixels.shape[0] > 500
        assert pixels[..., :3].std() > 0.05


def test_without_temperatures_there_is_no_figure_of_them(case, tmp_path):
    _, labelled = case
    unknown = label_set(labelled.structures.to_atoms(), labelled.labels)
    files = write_plots(validate(emt(), unknown), unknown, tmp_path)
    assert "temperatures.png" not in [f.name for f in files]


def test_one_structure_and_perfect_predictions_can_be_drawn(tmp_path):
    frames = copper_frames(1)
    labelled = label_set(frames, emt().evaluate(StructureBatch.from_atoms(frames)), kelvin=[300.0])
    assert len(write_plots(validate(emt(), labelled), labelled, tmp_path)) == 4


def test_missing_matplotlib_is_said(case, tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        MissingPackageError,
        match=r"plots need matplotlib; got not installed; "
        r"remedy: pip install -c constraints.txt -e '.\[plots\]'",
    ):
        write_plots(*case, tmp_path)


def test_missing_matplotlib_is_said_before_anything_is_evaluated(monkeypatch, tmp_path):
    from limbeck.pipeline.commands import run_validate

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match="plots need matplotlib"):
        run_validate("no such student", tmp_path / "no such labels", plots=tmp_path)


def test_unwritable_folder_is_said(case, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LimbeckError, match=r"forces\.png: cannot write the file"):
        write_plots(*case, tmp_path / "file")


def test_import_costs_neither_matplotlib_nor_torch():
    code = (
        "import sys, limbeck.validation, limbeck.testing; "
        "assert not {'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
