"""Files are read to their end or refused: formats, empty lines, damage, elements."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from tests.validation.toys import label_set

from limbeck.core.labels import Labels, concatenate_labelled
from limbeck.core.potential import AsePotential, Capabilities
from limbeck.core.reading import format_of, read_any
from limbeck.core.structures import StructureBatch
from limbeck.dataset.read import read_labelled
from limbeck.errors import InputError


def frames(n: int = 3) -> list[Atoms]:
    """Rattled copper in skewed cells with EMT labels."""
    made = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * np.tri(3, k=-1)), scale_atoms=True)
        atoms.rattle(0.1, seed=k)
        results = {name: EMT().get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        made.append(atoms)
    return made


@pytest.fixture
def text(tmp_path) -> str:
    """Three frames as extended XYZ; each takes six lines."""
    write(tmp_path / "base.xyz", frames(), format="extxyz")
    return (tmp_path / "base.xyz").read_text()


def read_text(folder: Path, content: str | bytes, name: str = "mine.xyz") -> list[Atoms]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_any(path)


def assert_equal(found: list[Atoms], wanted: list[Atoms]) -> None:
    assert [a.get_chemical_formula() for a in found] == [a.get_chemical_formula() for a in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.positions == pytest.approx(other.positions, abs=1e-7)
        assert one.cell.array == pytest.approx(other.cell.array)
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy())
        assert one.get_forces() == pytest.approx(other.get_forces(), abs=1e-7)
        assert one.get_stress() == pytest.approx(other.get_stress(), abs=1e-8)


def test_empty_lines_end_no_file(tmp_path, text):
    lines = text.splitlines(keepends=True)
    for at in (0, 6, 12, 18):
        joined = "".join([*lines[:at], "\n", "  \t\n", *lines[at:]])
        assert_equal(read_text(tmp_path, joined), frames())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n", "\r"),
        lambda t: b"\xef\xbb\xbf" + t.encode(),
        lambda t: t.replace("energy=", 'note="\u00c5" energy=').encode("latin-1"),
        lambda t: t.replace("energy=", "note=\"say 'hi'\" energy="),
        lambda t: t.replace("Lattice=", "lattice=").replace("Properties=", "properties="),
        lambda t: t.rstrip("\n"),
    ],
)
def test_what_editors_and_programs_do_to_a_file(tmp_path, text, change):
    assert_equal(read_text(tmp_path, change(text)), frames())


def test_compressed_files(tmp_path, text):
    assert_equal(read_text(tmp_path, gzip.compress(text.encode()), "mine.extxyz.gz"), frames())
    with pytest.raises(InputError, match=r"mine\.xyz\.gz: cannot read the file; got EOFError"):
        read_text(tmp_path, gzip.compress(text.encode())[:-100], "mine.xyz.gz")


def test_a_stress_of_six_numbers_is_in_voigt_order(tmp_path, text):
    six = text
    for atoms in frames():
        nine = " ".join(str(x) for x in atoms.get_stress(voigt=False).ravel(order="F"))
        assert nine in text
        six = six.replace(nine, " ".join(str(x) for x in atoms.get_stress()))
    assert_equal(read_text(tmp_path, six), frames())
    with pytest.raises(InputError, match=r"line 1 \(frame 0\).*expecting special 3x3 matrix"):
        read_text(tmp_path, text.replace('stress="', 'stress="1 '))


@pytest.mark.parametrize(
    ("damage", "place", "what"),
    [
        (lambda lines: lines[:10], "line 7 (frame 1)", "ends before its last atom; got 2 atoms; wanted 4"),
        (lambda lines: ["3\n", *lines[1:]], "line 6 (frame 1)", "does not begin with its number of atoms"),
        (lambda lines: ["5\n", *lines[1:]], "line 1 (frame 0)", "got 1 columns for atom 4, 7 for the others"),
        (lambda lines: [*lines, "the end\n"], "line 19 (frame 3)", "got 'the end'"),
        (lambda lines: [*lines[:-1], lines[-1][:30]], "line 13 (frame 2)", "columns for atom 3, 7 for the"),
        (lambda lines: [*lines[:8], "Cu 1 2 ***** 0 0 0\n", *lines[9:]], "line 7 (frame 1)", "'*****'"),
        (
            lambda lines: [lines[0], "note=Bob's " + lines[1], *lines[2:]],
            "line 1 (frame 0)",
            "quotation mark",
        ),
    ],
)
def test_damage_is_reported_with_its_line(tmp_path, text, damage, place, what):
    with pytest.raises(InputError) as caught:
        read_text(tmp_path, "".join(damage(text.splitlines(keepends=True))))
    assert str(caught.value).startswith(f"{tmp_path}/mine.xyz, {place}: ")
    assert what in str(caught.value)


def test_a_file_that_ends_within_a_number(tmp_path, text):
    with pytest.warns(UserWarning, match=r"mine\.xyz: the last line is shorter .* is the file cut off\?"):
        read_text(tmp_path, text[:-4])


def test_words_in_the_comment_of_a_plain_file(tmp_path):
    found = read_text(tmp_path, "2\nBob's run, E = -3\nH 0 0 0\nH 0 0 0.74\n")
    assert found[0].get_chemical_formula() == "H2"


@pytest.mark.parametrize(
    ("name", "format"),
    [("POSCAR_frames.extxyz", "extxyz"), ("OUTCAR_train.xyz", "extxyz"), ("XDATCAR.extxyz.gz", "extxyz"),
     ("CONTCAR.cif", "cif"), ("POSCAR", "vasp"), ("mine.vasp", "vasp"), ("POSCAR_relaxed", "vasp")],
)  # fmt: skip
def test_the_extension_goes_before_the_name(tmp_path, name, format):
    write(tmp_path / name, bulk("NaCl", "rocksalt", 5.6), format=format)
    assert format_of(tmp_path / name) == format
    assert read_any(tmp_path / name)[0].get_chemical_formula() == "ClNa"


SALT, METHANOL = bulk("NaCl", "rocksalt", 5.6, cubic=True), molecule("CH3OH")


@pytest.mark.parametrize(
    ("name", "format", "atoms", "joins"),
    [
        ("a.sdf", "sdf", METHANOL, True), ("a.gro", "gromacs", SALT, True), ("a.pdb", None, SALT, True),
        ("a.cif", None, SALT, True), ("XDATCAR", "vasp-xdatcar", SALT, True), ("a.xyz", "xyz", SALT, True),
        ("POSCAR", "vasp", SALT, False), ("POSCAR", "vasp", bulk("C"), False),
        ("a.mol", "mol", METHANOL, False), ("a.gen", "gen", SALT, False), ("a.xsf", "xsf", SALT, False),
        ("a.res", "res", SALT, False), ("coord", "turbomole", METHANOL, False),
        ("a.g96", "gromos", METHANOL, False),
    ],
)  # fmt: skip
def test_joined_files_are_read_whole_or_refused(tmp_path, name, format, atoms, joins):
    path = tmp_path / name
    write(path, atoms, format=format)
    assert [len(a) for a in read_any(path)] == [len(atoms)]
    path.write_bytes(2 * path.read_bytes())
    if joins:
        assert [len(a) for a in read_any(path)] == 2 * [len(atoms)]
    else:
        with pytest.raises(
            InputError, match=r"a part of the file would stay unread; got 1 structure, and more"
        ):
            read_any(path)


def test_velocities_of_a_poscar_are_no_second_structure(tmp_path):
    write(tmp_path / "CONTCAR", SALT, format="vasp")
    moving = (
        (tmp_path / "CONTCAR").read_text() + "\n" + 8 * " 0.1 0.2 0.3\n" + "\n 1\n 0.5\n" + 8 * " 0 0 0\n"
    )
    found = read_text(tmp_path, moving, "CONTCAR")
    assert found[0].positions == pytest.approx(SALT.get_positions())


DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0.0 5.0
0.0 5.0
0.0 5.0
ITEM: ATOMS id type {} x y z
1 1 {} 0.0 0.0 0.0
2 2 {} 2.5 2.5 2.5
"""


def test_a_lammps_dump_needs_elements(tmp_path):
    with pytest.raises(InputError) as caught:
        read_text(tmp_path, DUMP.format("", "", ""), "run.lammpstrj")
    assert "the atoms have no elements; got a LAMMPS dump with the columns id type x y z" in str(caught.value)
    assert "dump_modify ID element Na Cl" in str(caught.value)
    named = read_text(tmp_path, DUMP.format("element", "Na", "Cl"), "run.lammpstrj")
    assert named[0].get_chemical_formula() == "ClNa"


DATA = """LAMMPS data file

2 atoms
2 atom types

0.0 5.0 xlo xhi
0.0 5.0 ylo yhi
0.0 5.0 zlo zhi
{}
Atoms # atomic

1 1 0.0 0.0 0.0
2 2 2.5 2.5 2.5
"""


@pytest.mark.parametrize("name", ["conf.data", "data.salt", "salt.lmp"])
def test_lammps_data_need_elements(tmp_path, name):
    masses = DATA.format("\nMasses\n\n1 22.98977\n2 35.45 # Cl\n")
    with pytest.warns(UserWarning, match="from their masses: 1 is Na, 2 is Cl"):
        found = read_text(tmp_path, masses, name)
    assert found[0].get_chemical_formula() == "ClNa"
    for wrong, fault in (("", "no Masses"), ("\nMasses\n\n1 15.035\n2 35.45\n", "a mass of 15.035")):
        with pytest.raises(
            InputError, match=f"the atoms have no elements; got a LAMMPS data file with {fault}"
        ):
            read_text(tmp_path, DATA.format(wrong), name)


def test_atomic_energies_pass_through_extxyz(tmp_path):
    emt = AsePotential(EMT(), Capabilities(atom_energies=True), "emt")
    copper, water = frames(2), [molecule("H2O")] * 2
    whole = concatenate_labelled(
        [
            label_set(copper, emt.evaluate(StructureBatch.from_atoms(copper))),
            label_set(water, Labels(np.zeros(2), np.zeros((6, 3)))),
        ]
    )
    write(tmp_path / "labels.extxyz", whole.to_atoms())
    back = read_labelled(tmp_path / "labels.extxyz").labels.atom_energies
    np.testing.assert_allclose(back, whole.labels.atom_energies, atol=1e-7)
    assert np.isfinite(back).tolist() == [True] * 8 + [False] * 6
