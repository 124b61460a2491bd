"""What an export is compared on: test structures, and those that break exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii

from limbeck.artifact.file import StudentArtifact
from limbeck.core.building import best_repeats, element_crystal, rattled, set_density, side_by_side
from limbeck.core.reading import read_any
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.runtime.student import check_known

Structures = dict[str, list[Atoms]]  #: by class
MOST = 100  #: test structures
MANY, MANY_ATOMS = "many atoms", 1000  #: the class that is repeated on all threads
TEST, VALIDATION = "test.extxyz", "validation.extxyz"  #: of a run; no student trained on either
_GAP_A = 3.0  # between copies of a molecule
_RATTLES_A = (0.0, 0.01, 0.02, 0.04)
_FAR_A = (300.0, -200.0, 100.0)  # where float32 has lost 1e-5 Å
# from ASE's G2 set, the more elements of the student the better
_MOLECULES = (
    "CH3CONH2", "CH3CH2OH", "CH3CH2NH2", "CH3COOH", "CH3CH2SH", "CH3CH2Cl", "C6H6", "NaCl", "LiF", "SiO",
    "H2O", "NH3", "CO2", "CH4", "SiH4", "PH3", "SH2", "HCl", "N2", "O2", "H2",
)  # fmt: skip


def parity_structures(
    record: StudentArtifact, *, student_file: Path | None = None, given: Path | None = None
) -> Structures:
    """Class of structures -> structures, each class with one at least.

    The first class is what the student is for: ``test`` from ``given`` or the ``test.extxyz`` in the folder
    of the student's file, else ``generated`` from the elements at the card's density. A run's ``test.extxyz``
    is filled up to ``MOST`` by its ``validation.extxyz``. Then come a triclinic cell with atoms gone far
    from it, a cell smaller than the cutoff, a molecule, one isolated atom an element, two atoms a pair of
    elements so close that core repulsion acts, and a structure large enough to keep several threads busy.

    Raises
    ------
    InputError: ``given`` cannot be read, or holds elements that the student does not know.
    """
    elements, data = record.architecture.elements, record.card.get("data") or {}
    crystal, own = make_crystal(elements), make_molecule(elements)
    density = data.get("density_g_per_cm3")
    if density is not None:
        set_density(crystal, float(np.mean(density)))  # radii alone put LiCl at 1.6 times its volume
    typical = own if "density_g_per_cm3" in data and density is None else enlarged(crystal, 8)
    first = {"generated": [_rattled(typical, width, k) for k, width in enumerate(_RATTLES_A)]}
    path = given or (student_file.parent / TEST if student_file is not None else None)
    if path is not None and (path == given or path.is_file()):
        frames = _spread(_read(path, elements), MOST)
        more = path.with_name(VALIDATION)
        if path.name == TEST and len(frames) < MOST and more.is_file():
            frames += _spread(_read(more, elements), MOST - len(frames))
        first = {"test": StructureBatch.from_atoms(frames).to_atoms()}
    small = smaller_than(crystal, record.architecture.cutoff)
    sheared = enlarged(crystal, 4)
    shear = np.array([[1, 0.2, 0.1], [0, 0.95, -0.2], [0.05, 0, 1.05]])
    sheared.set_cell(sheared.cell.array @ shear, scale_atoms=True)
    gone = _rattled(sheared, 0.05, 11)
    gone.positions += _FAR_A
    close = [
        Atoms(pair, positions=[[0.3, -0.2, 0.1], [0.3 + 0.75 * radius, -0.2, 0.1]])
        for pair, radius in sorted(record.baseline.zbl_radius.items())
        if radius > 0 and set(pair) <= set(elements)
    ]
    return {
        **first,
        "triclinic": [gone],
        "cell smaller than the cutoff": [_rattled(small, 0.05, 12)],
        "molecule": [_rattled(own, 0.03, 13)],
        "isolated atom": [Atoms([z], positions=[[0.3, -0.2, 0.1]]) for z in elements],
        **({"close pair": close} if close else {}),
        MANY: [of_size(typical, MANY_ATOMS, elements)],
    }


def of_size(base: Atoms, atoms: int, elements: tuple[int, ...]) -> Atoms:
    """About ``atoms`` atoms: copies of a structure, or of one made of the elements where it is larger."""
    if len(base) > 1.5 * atoms:
        base = make_crystal(elements) if base.pbc.all() else make_molecule(elements)
    copies = max(1, round(atoms / len(base)))
    many = enlarged(base, atoms) if base.pbc.any() else side_by_side(base, copies, _GAP_A)
    return _rattled(many, 0.02, 0)


def make_crystal(elements: tuple[int, ...]) -> Atoms:
    """A few atoms in a cell: an element's own lattice, else all elements on a cubic lattice."""
    if len(elements) == 1 and (crystal := element_crystal(elements[0], cubic=False)) is not None:
        return crystal
    length = 1.5 * max(covalent_radii[a] + covalent_radii[b] for a in elements for b in elements)
    numbers = list(elements) if len(elements) > 1 else list(elements) * 2
    places = np.outer(np.arange(len(numbers)), [length, 0, 0])
    return Atoms(numbers, positions=places, cell=[len(numbers) * length, length, length], pbc=True)


def enlarged(atoms: Atoms, size: int) -> Atoms:
    """Repeated to about ``size`` atoms, evenly in all periodic directions."""
    return atoms * best_repeats(atoms, size)[1]


def smaller_than(crystal: Atoms, cutoff: float) -> Atoms:
    """The crystal, pressed together where its shortest vector would not be shorter than the cutoff (Å)."""
    small = crystal.copy()
    factor = min(1.0, 0.9 * cutoff / small.cell.lengths().min())
    small.set_cell(factor * small.cell.array, scale_atoms=True)
    return small


def make_molecule(elements: tuple[int, ...]) -> Atoms:
    """A molecule that chemistry knows where the elements allow one, else a few atoms of the crystal."""
    known = set(elements)
    fitting = [atoms for atoms in map(molecule, _MOLECULES) if set(atoms.numbers.tolist()) <= known]
    if fitting:
        return max(fitting, key=lambda atoms: (len(set(atoms.numbers.tolist())), len(atoms)))
    cluster = enlarged(make_crystal(elements), 30)
    near = np.argsort(np.linalg.norm(cluster.positions - cluster.positions.mean(0), axis=1))[:5]
    return Atoms(cluster.numbers[near], positions=cluster.positions[near])


def _read(path: Path, elements: tuple[int, ...]) -> list[Atoms]:
    frames = [frame for frame in read_any(path) if len(frame)]
    if not frames:
        raise InputError("no structures", where=path, got="an empty file", wanted="one at least")
    check_known(StructureBatch.from_atoms(frames), elements, path)
    return frames


def _spread(frames: list[Atoms], most: int) -> list[Atoms]:
    """At most this number, evenly from the first to the last."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    return [frames[k] for k in chosen]


def _rattled(atoms: Atoms, width_a: float, seed: int) -> Atoms:
    return rattled(atoms, width_a, np.random.default_rng([seed, 7]))
