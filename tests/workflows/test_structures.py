"""Sources and preparing steps through the command line."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read, write

from limbeck.config import load_config, resolved_yaml
from limbeck.planning.recipes import describe_system
from limbeck.planning.start import MOST_STARTS, PACKED_RELAX, relaxed_first, starting_structures
from limbeck.sampling.config import SamplingConfig

EMT = "ase.calculators.emt:EMT"
LIQUID = """liquid: {molecules: "6 O, 2 CO", density_g_per_cm3: 0.6}
sampling: {steps: [{kind: rattle, stdev_a: 0.02, n: 2}]}
"""


@pytest.fixture
def liquid(tmp_path):
    """Three boxes of a liquid."""
    pytest.importorskip("rdkit")
    pytest.importorskip("packmol")
    (tmp_path / "c.yaml").write_text(LIQUID)
    return tmp_path / "c.yaml"


def test_liquid_is_packed_and_sampled(done, liquid, tmp_path):
    out = tmp_path / "frames.extxyz"
    told = done(f"sample --config {liquid} --out {out}")
    assert "note: the boxes are as packed: with --teacher they are relaxed first" in told
    frames = read(out, ":")
    assert [f.info["group"] for f in frames[::2]] == [f"liquid#{k}/rattle-0.02A-b0" for k in range(3)]
    assert all(f.get_chemical_formula() == "C2H20O8" for f in frames)
    assert frames[0].get_masses().sum() * 1.66053907 / frames[0].get_volume() == pytest.approx(0.6, rel=1e-6)


def test_liquid_is_relaxed_where_there_is_a_teacher(done, liquid, tmp_path):
    liquid.write_text(LIQUID.replace("rattle, stdev_a: 0.02, n: 2", "thin, max: 2"))
    done(f"sample --config {liquid} --out {tmp_path}/packed.extxyz")
    done(f"sample --config {liquid} --teacher {EMT} --out {tmp_path}/relaxed.extxyz")
    packed, relaxed = (read(tmp_path / f"{name}.extxyz", ":") for name in ("packed", "relaxed"))
    for before, after in zip(packed, relaxed, strict=True):
        assert np.linalg.norm(after.positions - before.positions, axis=1).max() > 0.01
        assert after.info["config_type"] == "relax"


def test_relaxation_of_the_users_own_stays_the_only_one():
    liquid = load_config(liquid="8 O", density=0.5, teacher="so3lr")
    own = SamplingConfig(steps=[{"kind": "relax", "steps": 5}])
    assert relaxed_first(liquid, own) == own
    assert relaxed_first(liquid, SamplingConfig()).steps == (PACKED_RELAX,)
    assert relaxed_first(load_config(bulk="Cu", teacher="chgnet"), SamplingConfig()).steps == ()


def test_plan_counts_what_preparing_makes(done, tmp_path):
    """Slab and crystal, each with the one vacancy that it has besides, two rattles each."""
    (tmp_path / "c.yaml").write_text(
        """bulk: Cu
sampling:
  steps:
    - {kind: relax, steps: 7}
    - {kind: slab, miller: [1, 1, 1], layers: 4}
    - {kind: vacancy, where: surface, variants: 4}
    - {kind: rattle, stdev_a: 0.02, n: 2}
test: {seed: 9, steps: [{kind: rattle, stdev_a: 0.05, n: 4}]}
"""
    )
    told = done(f"distill {tmp_path}/c.yaml --teacher {EMT} --preset ultra-tiny --budget 10m --dry-run")
    assert "frames to label: 6 of 16 atoms" in told
    steps = "relax to 0.05 eV/Å in at most 7 steps; slab 111, 4 layers thick, 12 Å vacuum; vacancy"
    assert f"sampled: {steps}" in told


def test_folder(done, refused, tmp_path):
    folder = tmp_path / "polymorphs"
    folder.mkdir()
    write(folder / "fcc.cif", bulk("Cu", cubic=True))
    write(folder / "bcc.vasp", bulk("Cu", "bcc", a=2.87, cubic=True))
    (folder / "notes.txt").write_text("two of them")
    out = tmp_path / "frames.extxyz"
    told = done(f"sample --structures {folder} --out {out}")
    assert "1 files are no structures by their names: notes.txt" in told
    assert {f.info["group"].split("/")[0] for f in read(out, ":")} == {"fcc.cif#0", "bcc.vasp#0"}
    (folder / "bad.cif").write_text("hello")
    line = refused(f"sample --structures {folder} --out {tmp_path}/no.extxyz")
    assert line.startswith(f"{folder}: 1 of 3 structure files cannot be used; got bad.cif; the first: ")


def test_long_trajectory_is_thinned(tmp_path):
    frames, atoms = [], bulk("Cu", cubic=True)
    for k in range(MOST_STARTS + 50):
        atoms = atoms.copy()
        atoms.positions += np.random.default_rng(k).normal(scale=0.003, size=atoms.positions.shape)
        frames.append(atoms)
    write(tmp_path / "run.traj", frames)
    notes: list[str] = []
    starts = starting_structures(load_config(structures=tmp_path / "run.traj"), notes)
    assert len(starts) == MOST_STARTS
    assert len({a.info["group"] for a in starts}) == 5
    assert notes == [
        f"{tmp_path / 'run.traj'}: {MOST_STARTS} of {MOST_STARTS + 50} frames are starting structures, evenly spaced"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--density", "0.9"], "--density: a density without a liquid; wanted --liquid, such as '48 O, 8 CCO'"),
        (["--bulk", "Si", "--density", "0.9"], "--density: a density without a liquid"),
        (["--bulk", "Si", "--liquid", "8 O"], "several starting points; got --bulk, --liquid; wanted exactly one of"),
        (["--liquid", "8 O"], "liquid: the size of the box is not settled; got neither; wanted one of"),
        (["--liquid", "O", "--density", "1"], "--liquid: liquid.molecules: not a composition; got 'O'"),
        (["--liquid", "8 O", "--density", "998"], "--density: liquid.density_g_per_cm3: no liquid is so dense; got 998 g/cm³"),
        (["--liquid", "8 O", "--density", "-1"], "--density: wrong value for 'liquid.density_g_per_cm3'; got -1.0; wanted greater than 0"),
        (["--liquid", "8 Oxy", "--density", "0.5"], "--liquid: not a SMILES; got 'Oxy'"),
    ],
)  # fmt: skip
def test_bad_liquids(refused, tmp_path, arguments, message):
    pytest.importorskip("rdkit")
    pytest.importorskip("packmol")
    assert refused("sample", *arguments, "--out", tmp_path / "x.extxyz").startswith(message)


def test_liquid_survives_yaml(tmp_path):
    config = load_config(liquid="8 O, 2 CCO", density=0.5)
    (tmp_path / "c.yaml").write_text(resolved_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config
    assert load_config(tmp_path / "c.yaml", density=0.7).liquid.density_g_per_cm3 == 0.7
    (tmp_path / "box.yaml").write_text("liquid: {molecules: 8 O, box_a: 9}\n")
    changed = load_config(tmp_path / "box.yaml", density=0.7).liquid
    assert (changed.box_a, changed.density_g_per_cm3) == (None, 0.7)
    assert load_config(tmp_path / "box.yaml", bulk="Cu").liquid is None


def test_constraints_of_a_file_are_told(done, tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(FixAtoms([0, 1]))
    write(tmp_path / "POSCAR_sel", atoms, format="vasp")
    out = tmp_path / "POSCAR_frames.extxyz"
    told = done(f"sample --structures {tmp_path}/POSCAR_sel --out {out}")
    assert "constraints (selective dynamics) are not kept: all atoms move" in told
    # and what Limbeck wrote it reads, whatever the name looks like
    assert len(starting_structures(load_config(structures=out))) == len(read(out, ":", format="extxyz"))


def droplet(cell: bool) -> list:
    """27 water molecules on a grid, as CP2K's -pos-1.xyz holds them or in their box."""
    atoms = molecule("H2O")
    atoms.set_cell(3.2 * np.eye(3))
    atoms = atoms.repeat(3)
    turned = atoms.copy()
    turned.rattle(0.05, seed=1)
    for box in (atoms, turned):
        box.pbc = cell
        if not cell:
            box.cell = None
    return [atoms, turned]


@pytest.mark.parametrize(("cell", "system"), [(False, "molecule or cluster in vacuum"), (True, "crystal")])
def test_the_plan_names_system_cell_and_recipe(tmp_path, cell, system):
    path = tmp_path / "water-pos-1.xyz"
    write(path, droplet(cell), format="extxyz" if cell else "xyz")
    config = load_config(structures=path, teacher="so3lr")
    notes: list[str] = []
    line = describe_system(config, starting_structures(config, notes))
    many = [note for note in notes if "27 separate molecules and no cell" in note]
    assert len(many) == (not cell)
    where = "cell" if cell else "no cell"
    assert line.startswith(f"system: {system}; 2 structures of 81 atoms; {where}")
    assert f"recipe {'crystal' if cell else 'molecule'} at 300, 500, 700, 1000 K" in line
