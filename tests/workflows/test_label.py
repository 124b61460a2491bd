"""`limbeck label`: good labels are kept whatever fails, and a store becomes an extended XYZ file."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from limbeck.records.label_store import LabelStore

TEACHER = "failing_emt:FailingEMT"


def _copper(n: int, stretched: tuple[int, ...] = ()):
    frames = [bulk("Cu", cubic=True) for _ in range(n)]
    for k, atoms in enumerate(frames):
        if k in stretched:
            atoms.set_cell(atoms.cell * 1.2, scale_atoms=True)
        atoms.rattle(0.05, seed=k)
    return frames


def test_frames_that_fail_are_listed_and_the_others_stored(importable_here, run, tmp_path):
    path, store = tmp_path / "in.extxyz", tmp_path / "labels"
    frames = _copper(12, stretched=(0, 1, 2, 3, 4, 7, 9))
    write(path, frames)
    command = f"label {path} --teacher {TEACHER} --out {store} --extxyz {tmp_path}/out.extxyz"
    code, printed, err = run(command)
    assert code == 1
    lines = printed.splitlines()
    reason = "failed on a structure; got RuntimeError: SCF did not converge"
    assert [line.partition(":")[0] for line in lines[:5]] == [f"no label for frame {k}" for k in range(5)]
    assert all(line.endswith(reason) for line in lines[:5])
    assert lines[5] == "... and 2 more without a label"
    assert lines[6].startswith("5 new labels, 0 were there, 7 failed, in ")
    assert lines[7] == f"wrote 5 labels to {tmp_path / 'out.extxyz'}"
    assert f"error: {path}: the teacher failed on some frames; got 7 of 12 without a label" in err
    kept = np.concatenate([frames[k].positions for k in (5, 6, 8, 10, 11)])
    np.testing.assert_allclose(LabelStore(store).read().structures.positions, kept, atol=1e-8)
    # again: nothing is labelled twice, and the failures are still failures
    code, printed, _ = run(command)
    assert (code, "0 new labels, 5 were there, 7 failed" in printed) == (1, True)


def test_a_frame_left_out_of_training_is_named_by_its_place_in_the_file(importable_here, run, tmp_path):
    frames = _copper(4, stretched=(0,))
    frames[2] = frames[1].copy()
    frames[3].rattle(0.3, seed=1)
    write(tmp_path / "in.extxyz", frames)
    options = f"--out {tmp_path}/labels --set labelling.max_force_ev_per_a=5"
    code, printed, _ = run(f"label {tmp_path}/in.extxyz --teacher {TEACHER} {options}")
    assert code == 1
    (line,) = [line for line in printed.splitlines() if "left out of training" in line]
    assert line.startswith("frame 3 will be left out of training: force of ")


def test_the_store_as_extended_xyz(done, tmp_path):
    path, out = tmp_path / "in.extxyz", tmp_path / "labels.extxyz"
    command = f"label {path} --teacher ase.calculators.emt:EMT --out {tmp_path}/labels --extxyz {out}"
    frames = _copper(3)
    for n, new, present in ((2, 2, 0), (3, 1, 2)):
        write(path, frames[:n])
        printed = done(command)
        assert f"{new} new labels, {present} were there" in printed
        assert f"wrote {n} labels to {out}" in printed
    for atoms, labelled in zip(frames, read(out, ":"), strict=True):
        atoms.calc = EMT()
        assert labelled.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(labelled.get_forces(), atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(labelled.get_stress(), atoms.get_stress(), atol=1e-7)


def test_the_export_does_not_replace_the_structures(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", _copper(2))
    before = (tmp_path / "in.extxyz").read_bytes()
    text = refused(f"label in.extxyz --teacher {TEACHER} --out labels --extxyz {tmp_path}/in.extxyz")
    assert text.startswith(f"{tmp_path}/in.extxyz: the labels would replace the file of their structures;")
    assert (tmp_path / "in.extxyz").read_bytes() == before
