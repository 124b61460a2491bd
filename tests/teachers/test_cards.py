"""Cards, refusals and ``module:callable``; no teacher's package is imported here."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.potential import AsePotential, Capabilities
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, MissingPackageError
from limbeck.teachers import check_supported, get_card, list_cards, load_teacher, teacher_names
from limbeck.teachers.custom import make_card
from limbeck.teachers.loaders import RightHandedCells, VacuumPadded, groups
from limbeck.teachers.registry import check_teacher


def _refusal(name: str, *frames: Atoms) -> str:
    with pytest.raises(InputError) as caught:
        check_supported(get_card(name), StructureBatch.from_atoms(frames))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_and_cards() -> None:
    names = "sevennet-0 sevennet-l3i5 sevennet-mf-0 chgnet chgnet-r2scan orb mattersim so3lr gfn2-xtb ani-1x "
    assert teacher_names() == (names + "aimnet2 mace nequip deepmd pet-mad").split()
    for card in list_cards():
        assert card.licence
        assert card.domain
        assert "doi" in card.citation
        assert card.remedy == f"limbeck teachers install {card.name}"
        assert card.elements is not None or card.file_option is not None


def test_cards_import_no_heavy_package() -> None:
    code = "import limbeck.teachers as t, sys; t.list_cards(); print(*{m.split('.')[0] for m in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sevenn", "chgnet", "so3krates_torch", "pydantic"} & set(found.stdout.split())


def test_missing_package_gives_the_line_that_installs_it() -> None:
    card = dataclasses.replace(get_card("chgnet"), package="limbeck_no_such_package")
    assert not card.installed
    with pytest.raises(MissingPackageError) as caught:
        card.require()
    assert (caught.value.wanted, caught.value.remedy) == ("chgnet==0.4.2", "limbeck teachers install chgnet")


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        (
            "sevenet-O",
            {},
            "unknown teacher; got 'sevenet-O'; wanted 'sevennet-0'. known: .*, or module:callable",
        ),
        ("so3lr", {"dtpye": "float32"}, "unknown option 'dtpye' for teacher 'so3lr'; wanted dtype;"),
        ("chgnet", {"x": 1}, "unknown option 'x' for teacher 'chgnet'; wanted no options"),
        ("so3lr", {"dtype": "float16"}, "unknown dtype for .*; got float16; wanted float32 or float64$"),
        ("sevennet-mf-0", {"modal": "PBE0"}, "unknown modal for .*; got PBE0; wanted PBE or R2SCAN$"),
        ("orb", {"model": "orb-v4"}, "unknown model for teacher 'orb'; got orb-v4; wanted orb-v3"),
        ("ase.calculators.emt:EMT", {"x": object()}, "not plain values; .*wanted numbers, strings"),
    ],
)
def test_teachers_and_options_are_checked_by_name(name: str, options: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        check_teacher(name, options)


def test_untrained_elements_are_refused() -> None:
    molecules = [molecule("H2O"), molecule("SiH4"), Atoms("LiH", positions=[[0, 0, 0], [0, 0, 1.6]])]
    where = "structure 1 (H4Si): teacher 'so3lr' was not trained on Li, Si; wanted H, C-F, P, S, Cl; "
    assert _refusal("so3lr", *molecules).startswith(where)
    assert "(Po): teacher 'chgnet' was not trained on Po; wanted H-Bi, Ac-Pu;" in _refusal(
        "chgnet", bulk("Si"), bulk("Po", "sc", a=3.3)
    )


def test_periodicity_it_cannot_treat_is_refused() -> None:
    slab = bulk("Si")
    slab.pbc = [True, True, False]
    text = _refusal("chgnet", bulk("Si"), slab)
    assert text.startswith("structure 1 (Si2): teacher 'chgnet' treats only structures that repeat")
    assert "; got pbc TTF; wanted pbc TTT and a cell; remedy: give it a cell (atoms.center(vacuum=8)" in text
    assert "treats only structures without periodicity; got pbc TTT" in _refusal("gfn2-xtb", bulk("C"))
    assert "got pbc FFF without a cell" in _refusal("chgnet", molecule("H2O"))
    check_supported(get_card("so3lr"), StructureBatch.from_atoms([molecule("H2O"), bulk("C")]))


def _ion(**info: object) -> Atoms:
    ion = molecule("OH")
    ion.info.update(info)
    return ion


def test_one_total_charge_in_a_set() -> None:
    text = _refusal("so3lr", molecule("H2O"), _ion(total_charge=-1))
    assert text.startswith("structure 1 (HO): structures of different total charge in one set; ")
    assert "got total charge -1 here and 0 in structure 0; wanted one total charge" in text
    assert "different multiplicity in one set" in _refusal("gfn2-xtb", _ion(spin=2), _ion(multiplicity=4))


@pytest.mark.parametrize("name", [card.name for card in list_cards()])
def test_charge_and_spin_only_where_the_teacher_treats_them(name: str) -> None:
    def frame(**info: int) -> Atoms:
        atoms = bulk("NaCl", "rocksalt", a=5.6) if name.startswith("chgnet") else molecule("OH")
        atoms.info.update(info)
        return atoms

    treated = {"so3lr": ["charge"], "gfn2-xtb": ["charge", "spin"]}.get(name, [])
    charge = "total charge; got total charge -1; wanted total charge 0"
    for info, field, text in (
        *(({key: -1}, "charge", charge) for key in ("charge", "total_charge", "overall_charge")),
        ({"total_spin": 2}, "spin", "multiplicity; got multiplicity 2"),
    ):
        if field in treated:
            check_supported(get_card(name), StructureBatch.from_atoms([frame(**info)]))
        else:
            assert f"teacher {name!r} does not treat a {text}" in _refusal(name, frame(**info))
    check_supported(get_card(name), StructureBatch.from_atoms([frame(spin=1)]))


def test_a_callable_declares_whether_it_supports_charges() -> None:
    name, batch = "ase.calculators.emt:EMT", StructureBatch.from_atoms([_ion(charge=-1)])
    silent = make_card(name, load_teacher(name).potential.capabilities)
    with pytest.raises(InputError, match=r"declare it: --set 'teacher.options.capabilities={charge: true}'"):
        check_supported(silent, batch)
    declared = load_teacher(name, {"capabilities": {"charge": True}}).potential.capabilities
    check_supported(make_card(name, declared), batch)


def test_any_ase_calculator_with_keywords() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    batch = StructureBatch.from_atoms([atoms])
    loaded = load_teacher("ase.calculators.emt:EMT")
    atoms.calc = EMT()
    labels = loaded.potential.evaluate(batch)
    assert labels.energy[0] == atoms.get_potential_energy()
    np.testing.assert_array_equal(labels.forces, atoms.get_forces())
    np.testing.assert_allclose(labels.stress[0], atoms.get_stress(voigt=False))
    assert loaded.card.elements is None

    lj = "ase.calculators.lj:LennardJones"
    narrow, wide = (load_teacher(lj, {"sigma": 2.3, "rc": rc}) for rc in (5.0, 9.0))
    assert narrow.potential.evaluate(batch).energy[0] != wide.potential.evaluate(batch).energy[0]
    assert narrow.identity.options != wide.identity.options
    assert narrow.identity.weights_hash == wide.identity.weights_hash


def test_capabilities_may_be_declared() -> None:
    declared = {"elements": ["Cu", 79], "stress": False, "periodic": False}
    loaded = load_teacher("ase.calculators.emt:EMT", {"capabilities": declared})
    assert loaded.potential.capabilities == Capabilities(
        elements=frozenset({29, 79}), stress=False, periodic=False, isolated_atoms=False
    )
    assert loaded.card.elements == {29, 79}
    with pytest.raises(InputError, match="unknown capability 'strss'; wanted stress"):
        load_teacher("ase.calculators.emt:EMT", {"capabilities": {"strss": False}})


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("no_such_module:X", {}, "teacher no_such_module:X: cannot import the teacher; got No module"),
        (
            "ase.calculators.emt:EMTT",
            {},
            "no callable 'EMTT' in module 'ase.calculators.emt'; wanted .*emt:EMT$",
        ),
        ("ase.build:bulk", {"nope": 1}, "teacher ase.build:bulk: invalid arguments of the callable; got"),
        ("builtins:dict", {}, "callable does not return an ASE calculator; got dict; wanted an ase"),
        (":EMT", {}, "teacher :EMT: cannot import the teacher; got Empty module name"),
    ],
)
def test_wrong_callables(name: str, options: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        load_teacher(name, options)


def test_the_files_of_a_calculator_are_part_of_its_identity(tmp_path: Path) -> None:
    """Other weights under the same name give another identity; a log that grows does not."""
    weights, log = tmp_path / "model.npz", tmp_path / "run.log"
    weights.write_bytes(b"one")
    options = {"model": str(weights), "logfile": str(log)}
    before = load_teacher("ase.calculators.emt:EMT", options).identity
    log.write_text("something")
    assert load_teacher("ase.calculators.emt:EMT", options).identity == before
    weights.write_bytes(b"two")
    assert load_teacher("ase.calculators.emt:EMT", options).identity.weights_hash != before.weights_hash


class PeriodicOnly(EMT):
    """As a package that treats all structures as periodic and divides by det(cell)."""

    def calculate(self, atoms: Atoms, *args: object) -> None:
        assert atoms.pbc.all()
        super().calculate(atoms, *args)
        self.results["stress"] = self.results["stress"] * np.sign(np.linalg.det(atoms.cell))


def test_restricted_packages_get_vacuum_and_right_handed_cells() -> None:
    slab, crystal, cluster = fcc111("Cu", (2, 2, 2)), bulk("Cu", cubic=True), molecule("H2O")
    left = crystal.copy()
    left.set_cell(-crystal.cell.array)
    for seed, atoms in enumerate((slab, crystal, left, cluster)):
        atoms.rattle(0.1, seed=seed)
    batch = StructureBatch.from_atoms([slab, crystal, left, cluster])
    wanted = AsePotential(EMT(), Capabilities(), "emt").evaluate(batch)
    restricted = AsePotential(PeriodicOnly(), Capabilities(), "restricted")
    labels = RightHandedCells(VacuumPadded(restricted, 8.0)).evaluate(batch)
    np.testing.assert_allclose(labels.energy, wanted.energy, rtol=1e-9)
    np.testing.assert_allclose(labels.forces, wanted.forces, rtol=0, atol=1e-9)
    np.testing.assert_allclose(labels.stress, wanted.stress, rtol=0, atol=1e-9)


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(0, 64))
def test_groups_cover_all_in_order_and_keep_to_the_limit(counts: list[int], batch_atoms: int) -> None:
    found = list(groups(np.array(counts, np.int64), batch_atoms))
    assert [s for group in found for s in group] == list(range(len(counts)))
    sums = [sum(counts[s] for s in group) for group in found]
    assert all(n <= batch_atoms or len(group) == 1 for n, group in zip(sums, found, strict=True))
    assert all(n + counts[later[0]] > batch_atoms for n, later in zip(sums, found[1:], strict=False))
