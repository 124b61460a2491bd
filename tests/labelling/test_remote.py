"""A teacher in worker processes: same numbers, same order, isolation, failures with their cause."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from tests.labelling.conftest import make_frames

from limbeck.core.child import pack_error, unpack_error
from limbeck.core.potential import PotentialCalculator
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError, MissingPackageError
from limbeck.labelling import isolated_atom_energies, open_teacher

_LJ = {"sigma": 3.4, "epsilon": 0.0104, "rc": 7.0}


def _energy(atoms: Atoms, **options: float) -> float:
    atoms.calc = LennardJones(**options)
    return atoms.get_potential_energy()


def test_two_workers_give_ases_numbers_in_order() -> None:
    structures = make_frames(11)
    with open_teacher("ase.calculators.lj:LennardJones", options=_LJ, workers=2) as teacher:
        assert len(teacher.process_ids) == 2
        assert teacher.n_parameters is None
        labels = teacher.evaluate(StructureBatch.from_atoms(structures))
        none = teacher.evaluate(StructureBatch.from_atoms([]))
    for atoms in structures:
        atoms.calc = LennardJones(**_LJ)
    stress = [a.get_stress(voigt=False) if a.pbc.all() else np.full((3, 3), np.nan) for a in structures]
    np.testing.assert_array_equal(labels.energy, [a.get_potential_energy() for a in structures])
    np.testing.assert_array_equal(labels.forces, np.concatenate([a.get_forces() for a in structures]))
    np.testing.assert_array_equal(labels.stress, stress)
    assert (none.energy.shape, none.forces.shape) == ((0,), (0, 3))


def test_threads_evaluate_at_the_same_time(helper_calculators: Path, tmp_path: Path) -> None:
    """Two trajectories keep two workers busy: here neither evaluation ends before the other began."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    options = {"fifo": str(fifo), "first": str(tmp_path / "first")}
    argon = [Atoms("Ar2", [[0, 0, 0], [0, 0, 3.5 + 0.2 * k]]) for k in range(2)]
    energies: dict[int, float] = {}
    with open_teacher("helper_calculators:Meeting", options=options, workers=2) as teacher:
        assert teacher.thread_safe

        def evaluate(k: int) -> None:
            energies[k] = float(teacher.evaluate(StructureBatch.from_atoms([argon[k]])).energy[0])

        threads = [threading.Thread(target=evaluate, args=(k,), daemon=True) for k in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads), "one waits for the other"
    assert [energies[k] for k in range(2)] == [_energy(atoms) for atoms in argon]


@pytest.mark.parametrize(("own", "wanted"), [(None, "5000"), ("7", "7")])
def test_what_a_worker_is_given(
    helper_calculators: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, wanted: str
) -> None:
    """Its threads, which wait briefly unless the user sets their wait, and no import that it does not need.

    What a package prints does not enter the messages.
    """
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    log = tmp_path / "log"
    with open_teacher("helper_calculators:SpyEMT", options={"log": str(log)}, threads=3) as teacher:
        labels = teacher.evaluate(StructureBatch.from_atoms([bulk("Cu")]))
    assert np.isfinite(labels.energy[0])
    threads, spins, *modules = log.read_text().split("\n")
    assert (threads, spins) == ("3", wanted)
    heavy = {"pydantic", "typer", "rich", "torch", "yaml", "lightning_fabric", "safetensors", "vesin"}
    assert not {m.split(".")[0] for m in modules} & heavy
    ours = {m.split(".")[1] for m in modules if m.startswith("limbeck.")}
    assert ours == {"core", "errors", "labelling", "records", "teachers"}


def test_a_large_structure_does_not_block_the_pipes(helper_calculators: Path) -> None:
    """Requests and answers beyond a pipe's buffer cross each other."""
    batch = StructureBatch.from_atoms([bulk("Cu", cubic=True) * (20, 20, 20)] * 5)
    with open_teacher("helper_calculators:Zero") as teacher:
        assert teacher.evaluate(batch).forces.shape == (5 * 32_000, 3)


def test_a_failing_structure_is_named_and_costs_no_other(helper_calculators: Path) -> None:
    structures = [Atoms("Ar2", [[0, 0, 0], [0, 0, 4]]), Atoms("ArHe", [[0, 0, 0], [0, 0, 4]])]
    failed = r"structure 1 \(ArHe\): .*; got RuntimeError: SCF did not converge"
    with open_teacher("helper_calculators:Failing") as teacher:
        with pytest.raises(LimbeckError, match=failed):
            teacher.evaluate(StructureBatch.from_atoms(structures * 3))
        # answers to the evaluation that was given up must not be taken for these
        pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 4.5]])
        assert PotentialCalculator(teacher).get_potential_energy(pair) == _energy(pair)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_in_a_batch_costs_no_other_label(helper_calculators: Path, workers: int) -> None:
    """Pairs are handed out several at once; where one fails each is evaluated alone."""
    symbols = ["Ar2", "ArHe", "Ar2", "Ar2", "He2", "Ar2", "Ar2", "Ar2", "Ar2", "He2", "Ar2"]
    pairs = [Atoms(name, [[0, 0, 0], [0, 0, 3.5 + 0.1 * k]]) for k, name in enumerate(symbols)]
    batch = StructureBatch.from_atoms(pairs)
    options = {"capabilities": {"batch_atoms": 6}}
    with open_teacher("helper_calculators:Failing", options=options, workers=workers) as teacher:
        assert teacher.capabilities.batch_atoms == 6
        found = dict(teacher.stream(batch))
    assert sorted(found) == list(range(len(pairs)))
    for s, atoms in enumerate(pairs):
        if 2 in atoms.numbers:
            assert str(found[s]).startswith(f"structure {s} (")
            assert str(found[s]).endswith("got RuntimeError: SCF did not converge")
            continue
        assert found[s].energy == [_energy(atoms)]
        np.testing.assert_array_equal(found[s].forces, atoms.get_forces())


@pytest.mark.parametrize(
    ("symbol", "cause"), [("Ne", "signal SIGKILL"), ("Kr", "exit code 3, its last words: last words")]
)
def test_a_dead_worker_is_noticed(helper_calculators: Path, symbol: str, cause: str) -> None:
    with open_teacher("helper_calculators:Failing", workers=2) as teacher:
        for _ in range(2):
            with pytest.raises(LimbeckError) as caught:
                teacher.evaluate(StructureBatch.from_atoms([Atoms(symbol), Atoms("Ar")]))
            assert (caught.value.where, caught.value.got) == ("teacher helper_calculators:Failing", cause)
            assert "fewer workers" in caught.value.remedy


def test_wrong_shapes_are_refused(helper_calculators: Path) -> None:
    pair = StructureBatch.from_atoms([Atoms("Ar2", [[0, 0, 0], [0, 0, 4]])])
    with (
        open_teacher("helper_calculators:Zero", options={"rows": 1}) as teacher,
        pytest.raises(LimbeckError, match=r"structure 0 \(Ar2\): .*forces; got \(1, 3\); wanted \(2, 3\)"),
    ):
        teacher.evaluate(pair)


def test_the_worker_dies_with_its_parent(helper_calculators: Path, tmp_path: Path) -> None:
    """Killed in the middle of an evaluation that never ends; the kernel then frees the worker's lock."""
    log = tmp_path / "held"
    code = f"""
import os, signal, threading
from ase import Atoms
from limbeck.core.structures import StructureBatch
from limbeck.labelling import open_teacher
teacher = open_teacher("helper_calculators:Endless", options={{"log": {str(log)!r}}})
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
teacher.evaluate(StructureBatch.from_atoms([Atoms("Ar")]))
"""
    parent = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert parent.returncode == -signal.SIGKILL
    lock = threading.Thread(target=lambda: fcntl.flock(os.open(log, os.O_RDWR), fcntl.LOCK_EX), daemon=True)
    lock.start()
    lock.join(timeout=20)
    assert not lock.is_alive(), "the worker outlived its parent by 20 s"


def test_errors_cross_the_process_boundary_as_they_are() -> None:
    error = MissingPackageError("gone", where="here", got=3, wanted="x", remedy="pip install x")
    again = unpack_error(pack_error(error))
    assert type(again) is MissingPackageError
    assert str(again) == str(error)
    for name, workers, facts in (
        ("no_such_module:X", 1, "teacher no_such_module:X: .*; got No module named"),
        ("nothing", 1, "got 'nothing'; wanted .*module:callable"),
        ("so3lr", 0, "teacher so3lr: .*workers; got 0; wanted 1 or more"),
    ):
        with pytest.raises(InputError, match=facts):
            open_teacher(name, workers=workers)


def test_isolated_atoms_only_where_claimed() -> None:
    name = "ase.calculators.emt:EMT"
    with open_teacher(name) as teacher:
        assert isolated_atom_energies(teacher, [29]) is None
    with open_teacher(name, options={"capabilities": {"isolated_atoms": True}}) as teacher:
        energies = isolated_atom_energies(teacher, [79, 29, 29])
        # EMT counts from the bulk metal: minus its cohesive energy parameter, 3.51 eV for copper.
        assert energies == {29: pytest.approx(3.51, abs=0.01), 79: pytest.approx(3.80, abs=0.01)}
    teacher.close()
    with pytest.raises(LimbeckError, match="ase.calculators.emt:EMT: .*closed"):
        teacher.evaluate(StructureBatch.from_atoms([bulk("Cu")]))
