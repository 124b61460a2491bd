"""Labelling resumes where it was stopped and repeats nothing that was stored."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from tests.labelling.conftest import make_frames

from limbeck.core.potential import AsePotential, Capabilities
from limbeck.errors import InputError, LimbeckError
from limbeck.labelling import label, open_teacher
from limbeck.records.label_record import TeacherIdentity
from limbeck.records.label_store import LabelStore
from limbeck.teachers import get_card

_IDENTITY = TeacherIdentity("toy", "1", "f" * 64)

# A run in a process of its own; sys.argv: where to die, the store, the log, this folder.
_RUN = """
import os, signal, sys
die, folder, log, here = sys.argv[1:]
sys.path.insert(0, here)
from conftest import make_frames
from limbeck.labelling import label, open_teacher
from limbeck.records import label_store as shards
from limbeck.records.label_store import LabelStore

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def progress(task, done, total=None, text=""):
    if die == "after a label" and done == 5:
        kill()

whole, appended = shards.append_whole, []
def torn(path, data):
    appended.append(path)
    if die == "within a label" and len(appended) == 6:
        with open(path, "ab") as stream:
            stream.write(data[: len(data) // 2])
        kill()
    return whole(path, data)
shards.append_whole = torn

with open_teacher("helper_calculators:CountingLJ", options={"log": log}) as teacher, LabelStore(folder) as store:
    report = label(make_frames(14), teacher, store, progress=progress)
print(report.present, report.labelled, report.total)
"""


def _run(die: str, folder: Path, log: Path) -> subprocess.CompletedProcess[str]:
    arguments = [die, str(folder), str(log), str(Path(__file__).parent)]
    command = [sys.executable, "-W", "ignore", "-c", _RUN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("die", ["after a label", "within a label"])
def test_killed_and_started_again(helper_calculators: Path, tmp_path: Path, die: str) -> None:
    folder, log = tmp_path / "labels", tmp_path / "evaluations.log"
    first = _run(die, folder, log)
    assert first.returncode == -signal.SIGKILL, first.stderr
    count_before = len(log.read_text().splitlines())
    second = _run("never", folder, log)
    assert second.returncode == 0, second.stderr
    present, labelled, total = map(int, second.stdout.split())
    assert present + labelled == total == 14
    assert present == 5
    evaluated = log.read_text().splitlines()
    # only what was being computed is evaluated again: one being stored, two in the worker
    assert len(evaluated) - count_before == labelled
    assert len(evaluated) <= 14 + 3
    assert len(set(evaluated)) == 14


def test_labels_are_the_teachers_and_keep_their_origin(tmp_path: Path) -> None:
    structures = make_frames(6)
    calls = []
    with open_teacher("ase.calculators.lj:LennardJones", workers=2) as teacher, LabelStore(tmp_path) as store:
        report = label([*structures, structures[2]], teacher, store, progress=lambda *a: calls.append(a))
        labelled = store.read(report.keys)
        assert [r.identity for r in store.records()] == [teacher.identity] * 6
    assert (report.total, report.labelled, report.present) == (6, 6, 0)
    assert report.complete
    assert report.keys[6] == report.keys[2]
    for atoms, stored in zip([*structures, structures[2]], labelled.to_atoms(), strict=True):
        atoms.calc = LennardJones()
        assert stored.get_potential_energy() == atoms.get_potential_energy()
        assert stored.info == atoms.info
    assert [c[1:3] for c in calls] == [(done, 6) for done in range(7)]
    assert calls[-1][3].endswith("labels/s")


def test_a_store_holds_the_labels_of_one_teacher(tmp_path: Path) -> None:
    store, structures = LabelStore(tmp_path / "store"), make_frames(2)
    teacher = AsePotential(LennardJones(), Capabilities(), "toy")
    assert label(structures, teacher, store, identity=_IDENTITY).labelled == 2
    for other, differing in (
        (replace(_IDENTITY, options='{"rc": 3}'), "options {.rc.: 3}"),
        (replace(_IDENTITY, weights_hash="a" * 64), "weights hash a"),
        (replace(_IDENTITY, name="another"), "another, name another"),
    ):
        with pytest.raises(InputError, match=f"store: .*another teacher; got .*{differing}"):
            label(structures, teacher, store, identity=other)
    # the same after reading it again; another version of the package is the same teacher
    store.close()
    with LabelStore(tmp_path / "store") as again:
        with pytest.raises(InputError, match="remedy: choose another folder"):
            label(structures, teacher, again, identity=replace(_IDENTITY, weights_hash="a" * 64))
        same = label(structures, teacher, again, identity=replace(_IDENTITY, version="2"))
        assert (same.labelled, same.present) == (0, 2)
        with pytest.raises(InputError, match="label: .*; wanted identity=Teacher"):
            label(structures, teacher, again)


def test_the_deadline_stops_cleanly(tmp_path: Path) -> None:
    structures = make_frames(8)
    with open_teacher("ase.calculators.lj:LennardJones") as teacher, LabelStore(tmp_path) as store:
        none = label(structures, teacher, store, deadline_s=0.0)
        assert (none.labelled, none.complete) == (0, False)
        some = label(structures, teacher, store, deadline_s=1e-6)
        assert not some.complete
        assert some.labelled == len(store) <= 2
        rest = label(structures, teacher, store, deadline_s=1e6)
        assert (rest.complete, rest.present) == (True, some.labelled)


def _pairs(symbol: str, n: int) -> list[Atoms]:
    return [Atoms(f"{symbol}2", [[0, 0, 0], [0, 0, 3.5 + 0.1 * i]]) for i in range(n)]


def test_failures_are_listed_and_all_failing_ends_the_run(helper_calculators: Path, tmp_path: Path) -> None:
    """Faulty structures at the start do not hide the others."""
    bad, good = _pairs("He", 15), _pairs("Ar", 5)
    with open_teacher("helper_calculators:Failing") as teacher, LabelStore(tmp_path / "labels") as store:
        with pytest.raises(LimbeckError, match="failed on a structure; got RuntimeError: SCF did not"):
            label(bad, teacher, store)
        report = label([*bad, *good], teacher, store)
        assert report.complete
        assert (report.labelled, [f.index for f in report.failed]) == (5, list(range(15)))
        assert report.failed[0].reason.endswith("got RuntimeError: SCF did not converge")
        distances = [r.label.structures.positions[1, 2] for r in store.records()]
        assert distances == pytest.approx([3.5, 3.6, 3.7, 3.8, 3.9])
        # stored labels show that the teacher works, so failures are listed and nothing is raised
        again = label([*bad, *good], teacher, store)
        assert (again.present, again.labelled, len(again.failed)) == (5, 0, 15)
        with pytest.raises(LimbeckError, match="died; got signal SIGKILL"):
            label([Atoms("Ne")], teacher, store)


def test_unsupported_structures_are_refused_before_any_label(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels")
    teacher = AsePotential(LennardJones(), Capabilities(), "toy")
    with pytest.raises(InputError, match=r"structure 1 \(H4Si\): .*so3lr.*Si"):
        label([molecule("H2O"), molecule("SiH4")], teacher, store, identity=_IDENTITY, card=get_card("so3lr"))
    assert not (tmp_path / "labels").exists()
