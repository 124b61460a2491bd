"""Files in the formats that users have, ../shared/field: what is read, and what is reported."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from limbeck import cli
from limbeck.core.reading import read_any
from limbeck.dataset.read import read_labelled, split_isolated_atoms

REF = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
NAMES = ("--energy-key", "REF_energy", "--forces-key", "REF_forces")


@pytest.fixture
def command(shared_field, tmp_path, monkeypatch, capsys):
    """command(words, with {} for the folder) -> exit code and all output, warnings included."""
    monkeypatch.chdir(tmp_path)

    def _run(text: str) -> tuple[int, str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            code = cli.main(text.format(shared_field).split())
        captured = capsys.readouterr()
        notes = "".join(f"warning: {one.message}\n" for one in caught)
        return code, captured.out + captured.err + notes

    return _run


@pytest.mark.parametrize(
    ("name", "frames", "crystals", "keys"),
    [
        ("joined.xyz", 40, 40, {}),
        ("iso_blank.xyz", 41, 40, REF),
        ("mace.xyz", 41, 40, REF),
        ("OUTCAR_train.extxyz", 40, 40, {}),
        ("voigt.xyz", 40, 40, {}),
        ("nep_lowerlattice_only.xyz", 40, 40, {"virial_key": "virial"}),
        ("nep_forces.xyz", 40, 40, {"virial_key": "virial"}),
    ],
)
def test_every_frame_is_read(shared_field, name, frames, crystals, keys):
    labelled = read_labelled(shared_field / name, **keys)
    lines = (shared_field / name).read_text().splitlines()
    counts = [int(line) for line in lines if re.fullmatch(r" *\d+ *", line)]
    assert len(labelled) == len(counts) == frames
    assert labelled.structures.counts.tolist() == counts
    rest, _ = split_isolated_atoms(labelled)
    assert rest.structures.periodic.all()
    assert len(rest) == crystals
    assert rest.frame.tolist() == list(range(frames - crystals, frames))


def test_stress_is_the_same_however_it_is_written(shared_field):
    """The files hold the same frames: nine numbers, six in Voigt order, the virial."""
    whole = read_labelled(shared_field / "joined.xyz")
    for name, keys in (("voigt.xyz", {}), ("nep_forces.xyz", {"virial_key": "virial"}),
                       ("nep_lowerlattice_only.xyz", {"virial_key": "virial"})):  # fmt: skip
        other = read_labelled(shared_field / name, **keys)
        assert other.labels.stress == pytest.approx(whole.labels.stress, abs=2e-9)
        assert np.array_equal(other.structures.cell, whole.structures.cell)


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        ("lint {}/joined.xyz", 0, "0 errors, 0 warnings in 40 structures"),
        ("lint {}/nep_forces.xyz", 0, "--virial-key virial"),
        ("lint {}/OUTCAR_train.extxyz", 0, "0 errors, 0 warnings in 40 structures"),
        ("lint {}/voigt.xyz --stress-key stress", 0, "0 errors, 0 warnings in 40 structures"),
        ("lint {}/slab_ttf.xyz", 0, "stress counts only where all three directions repeat"),
        ("lint {}/slab_ttf.xyz --stress-key stress", 2, "stress counts only where all three directions repeat"),
        ("lint {}/ref_vasporder.xyz --stress-key REF_stress", 0, "xy, yz, xz (correlation 1.00)"),
        ("label {}/types.lammpstrj --teacher sevennet-0 --out labels", 2, "the atoms have no elements"),
        ("sample --structures {}/types.lammpstrj --out f.extxyz", 2, "dump_modify ID element Na Cl"),
        ("sample --structures {}/conf.data --out f.extxyz", 0, "1 is Na, 2 is Cl"),
        ("sample --structures {}/POSCAR_sel --out POSCAR_f.extxyz", 0, "constraints (selective dynamics)"),
        ("lint {}/mace.xyz", 2, "remedy: name the entry with --energy-key"),
    ],
)  # fmt: skip
def test_facts_in_the_output_of_commands(command, words, code, fact):
    got, text = command(words)
    assert fact in text
    assert got == code


def test_limbeck_reads_what_it_writes(command, tmp_path):
    assert command("sample --structures {}/POSCAR_sel --out POSCAR_f.extxyz")[0] == 0
    found = {frame.get_chemical_formula() for frame in read_any(tmp_path / "POSCAR_f.extxyz")}
    assert found <= {"Si8", "Si64"}


def test_frames_have_the_numbers_of_the_file(command, tmp_path, shared_field):
    from tests.workflows.test_finalize import write_untrained

    write_untrained(tmp_path / "s.safetensors", "ultra-tiny")
    words = "validate s.safetensors {}/mace_test.xyz --worst w.extxyz --json v.json " + " ".join(NAMES)
    code, text = command(words)
    assert code == 0, text
    listed = json.loads((tmp_path / "v.json").read_text())["s"]["run"]["worst_frames"]
    whole = read_any(shared_field / "mace_test.xyz")
    assert sorted(one["index"] for one in listed) == list(range(1, len(whole)))
    for one, frame in zip(listed, read_any(tmp_path / "w.extxyz"), strict=True):
        assert frame.info["frame"] == one["index"]
        assert frame.positions == pytest.approx(whole[one["index"]].positions)
    assert f"frame {listed[0]['index']}: force RMSE" in text


def test_waters_without_a_cell(shared_field):
    from limbeck.config import load_config
    from limbeck.planning.recipes import describe_system
    from limbeck.planning.start import starting_structures

    config = load_config(structures=Path(shared_field / "water-pos-1.xyz"), teacher="so3lr")
    notes: list[str] = []
    line = describe_system(config, starting_structures(config, notes))
    assert "27 separate molecules and no cell" in notes[0]
    assert "molecule or cluster in vacuum; 6 structures of 81 atoms; no cell; recipe molecule" in line
