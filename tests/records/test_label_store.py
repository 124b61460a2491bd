"""The label store: every label is whole or absent, whatever happens to its files."""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import compare_atoms
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.messages import decode, encode
from limbeck.errors import InputError, LimbeckError
from limbeck.records.label_record import (
    _HEADER,
    MAGIC,
    LabelRecord,
    TeacherIdentity,
    _checksum,
    collect,
    make_record,
    pack_record,
    scan,
    unpack_record,
)
from limbeck.records.label_store import LabelStore


def label_record(seed: int, group: str = "", spin: int = 0) -> LabelRecord:
    """A record with random numbers; even seeds have stress, seeds divisible by 3 atomic energies."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 4
    atoms = Atoms(numbers=rng.integers(1, 80, n), positions=rng.normal(size=(n, 3)))
    if seed % 2 == 0:
        atoms.set_cell(rng.normal(size=(3, 3)) + 4 * np.eye(3))
        atoms.pbc = True
    atoms.info.update(group=group or f"käse-{seed % 3}", config_type="md", temperature_K=300.0)
    if spin:
        atoms.info["spin"] = spin
    labels = Labels(
        energy=rng.normal(size=1),
        forces=rng.normal(size=(n, 3)),
        stress=rng.normal(size=(1, 3, 3)) if seed % 2 == 0 else None,
        atom_energies=rng.normal(size=n) if seed % 3 == 0 else None,
    )
    identity = TeacherIdentity("toy", "1.0", "0" * 64, "{}", "float64")
    return make_record(atoms, labels, identity, order=seed)


def assert_same_record(a: LabelRecord, b: LabelRecord) -> None:
    assert (a.key, a.order, a.identity) == (b.key, b.order, b.identity)
    assert_same_set(a.label, b.label)


def assert_same_set(a: LabelledSet, b: LabelledSet) -> None:
    for one, other in ((a.structures, b.structures), (a.labels, b.labels), (a, b)):
        for field in dataclasses.fields(one):
            x, y = getattr(one, field.name), getattr(other, field.name)
            if isinstance(x, np.ndarray):
                np.testing.assert_array_equal(x, y, err_msg=field.name)
                assert x.dtype.kind == y.dtype.kind, field.name
            else:
                assert (x is None) == (y is None), field.name


def test_records_come_back_exactly(tmp_path: Path) -> None:
    records = [label_record(i) for i in (3, 1, 0, 2)]
    with LabelStore(tmp_path / "labels") as store:
        assert store.append_many(records) == 4
        assert not store.append(records[1])
        assert store.append(label_record(4))
    again = LabelStore(tmp_path / "labels")
    assert len(again) == 5
    assert records[0].key in again
    assert "0" * 64 not in again
    for got, i in zip(again.records(), range(5), strict=True):
        assert_same_record(got, label_record(i))
    assert again.keys() == [label_record(i).key for i in range(5)]


def test_charge_and_spin_come_back(tmp_path: Path) -> None:
    ion = molecule("CH3OH")
    ion.info.update(total_charge=1, multiplicity=2)
    labels = Labels(np.array([-1.0]), np.zeros((6, 3)))
    with LabelStore(tmp_path / "labels") as store:
        store.append(make_record(ion, labels, TeacherIdentity("mine", "1", "0")))
    for _ in range(2):  # from the shards, then from the packed arrays
        (atoms,) = LabelStore(tmp_path / "labels").read().to_atoms()
        assert (atoms.info["charge"], atoms.info["spin"]) == (1.0, 2)
    LabelStore(tmp_path / "labels").export_extxyz(tmp_path / "out.extxyz")
    again = read(tmp_path / "out.extxyz")
    assert (again.info["charge"], again.info["spin"]) == (1.0, 2)


def test_stores_of_versions_without_spin(tmp_path: Path) -> None:
    assert "spin" not in decode(pack_record(label_record(0))[32:])[1]
    assert "spin" in decode(pack_record(label_record(0, spin=3))[32:])[1]
    with LabelStore(tmp_path) as store:
        store.append_many([label_record(0), label_record(1)])
        whole = store.read()
    cache = tmp_path / "packed" / "labels.npz"
    with np.load(cache) as packed:
        kept = {name: packed[name] for name in packed.files if name != "spin"}
    np.savez(cache, **kept)
    before = cache.stat().st_mtime_ns
    assert_same_set(LabelStore(tmp_path).read(), whole)
    assert cache.stat().st_mtime_ns == before


def test_a_test_set_among_other_labels_is_read_by_name_only(tmp_path: Path) -> None:
    """Earlier versions stored it there, under a prefix."""
    own = [label_record(i) for i in (0, 3)]
    test_set = [label_record(i, group=f"heldout/md-{i}") for i in (1, 2, 6)]
    with LabelStore(tmp_path / "labels") as store:
        store.append_many([*own, *test_set])
        with pytest.warns(UserWarning, match="labels: 3 of 5 labels are left out"):
            assert_same_set(store.read(), dataclasses.replace(collect(own), frame=np.array([0, 3])))
        with pytest.warns(UserWarning, match="of a test set"):
            assert store.export_extxyz(tmp_path / "own.extxyz") == 2
        by_name = store.read([r.key for r in test_set])
        assert_same_set(by_name, dataclasses.replace(collect(test_set), frame=np.array([1, 2, 4])))
        with LabelStore(tmp_path / "test") as test:
            assert (store.copy_earlier_test(test), store.copy_earlier_test(test)) == (3, 0)
            # labels of nothing else are somebody's own: a test set labelled by another teacher
            assert_same_set(test.read(), collect(test_set))


def test_labels_are_in_the_file_before_they_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the process costs nothing that was written; only a power cut needs the sync."""
    synced = []
    monkeypatch.setattr("limbeck.records.label_store.sync_file", synced.append)
    with LabelStore(tmp_path) as store:
        assert store.append_many([label_record(1), label_record(2)], sync=False) == 2
        assert synced == []
        assert len(LabelStore(tmp_path)) == 2
        store.sync()
        store.sync()
        assert len(synced) == 1
        store.append_many([label_record(3)], sync=False)
    assert len(synced) == 2


def test_packed_arrays_equal_the_records(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    assert len(store.read()) == 0
    store.append_many(label_record(i) for i in range(7))
    fresh = store.read()
    cache = tmp_path / "packed" / "labels.npz"
    assert cache.is_file()
    stamp = cache.stat().st_mtime_ns
    cached = LabelStore(tmp_path).read()
    assert cache.stat().st_mtime_ns == stamp
    assert_same_set(fresh, collect(list(store.records())))
    assert_same_set(cached, fresh)
    assert np.isnan(cached.labels.stress[1]).all()
    assert np.isnan(cached.labels.atom_energies[cached.structures.atom_index([1])]).all()

    store.append(label_record(7))
    assert len(store.read()) == 8

    blob = bytearray(cache.read_bytes())
    blob[len(blob) // 2] ^= 1
    cache.write_bytes(bytes(blob))
    assert_same_set(store.read(), collect(list(store.records())))

    some = store.read([label_record(i).key for i in (2, 0)])
    assert_same_set(some, dataclasses.replace(collect([label_record(2), label_record(0)]), frame=some.frame))
    with pytest.raises(InputError, match="got 1 of 1 missing, the first 00"):
        store.read(["0" * 64])


def test_extxyz_out_and_in(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels")
    store.append_many(label_record(i) for i in range(0, 12, 3))
    assert store.export_extxyz(tmp_path / "labels.xyz") == 4
    # ASE's stress is the symmetric mean; a teacher's is symmetric, the toy's is not.
    for atoms, wanted in zip(read(tmp_path / "labels.xyz", ":"), store.read().to_atoms(), strict=True):
        assert not compare_atoms(atoms, wanted, tol=1e-8)
        assert atoms.info == wanted.info
        assert atoms.calc.results.keys() == wanted.calc.results.keys()
        for name, value in wanted.calc.results.items():
            np.testing.assert_allclose(atoms.calc.results[name], value, atol=1e-8)


def test_shards_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LabelStore(tmp_path)
    monkeypatch.setattr("limbeck.records.label_store.SHARD_BYTES", 1500)
    for i in range(6):
        store.append(label_record(i))
    names = [p.name for p in sorted(tmp_path.glob("*.lbk"))]
    assert names[:2] == ["shard-00000.lbk", "shard-00001.lbk"]
    assert [r.order for r in LabelStore(tmp_path).records()] == list(range(6))


def test_a_torn_tail_is_set_aside_and_named(tmp_path: Path) -> None:
    with LabelStore(tmp_path) as store:
        store.append_many(label_record(i) for i in range(3))
    shard = tmp_path / "shard-00000.lbk"
    blob = shard.read_bytes()
    shard.write_bytes(blob[:-10])
    good, _ = scan(blob)
    start, stop = good[2].start, len(blob) - 10
    with pytest.warns(UserWarning, match="damaged label shard") as caught:
        store = LabelStore(tmp_path)
    aside = tmp_path / "damaged" / f"shard-00000-bytes-{start}-{stop}.bin"
    assert f"{shard}: bytes {start} to {stop} set aside as {aside}" in str(caught[0].message)
    assert aside.read_bytes() == blob[start:stop]
    assert len(store) == 2
    # set aside once, without another warning; new labels go to a new shard
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with LabelStore(tmp_path) as store:
            assert store.append(label_record(2))
        assert (tmp_path / "shard-00001.lbk").is_file()
        assert len(LabelStore(tmp_path)) == 3


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_costs_only_the_records_it_touches(data: st.DataObject) -> None:
    records = [label_record(i) for i in range(6)]
    framed = [pack_record(r) for r in records]
    starts = np.cumsum([0, *(len(f) for f in framed)])
    blob = b"".join(framed)
    start = data.draw(st.integers(0, len(blob) - 1), label="start")
    end = min(start + data.draw(st.integers(1, 40), label="size"), len(blob))
    kind = data.draw(st.sampled_from(["flip", "cut", "delete", "insert", "zero"]), label="kind")
    stop, new = {
        "flip": (start + 1, bytes([blob[start] ^ 1 << data.draw(st.integers(0, 7), label="bit")])),
        "cut": (len(blob), b""),
        "delete": (end, b""),
        "insert": (start, data.draw(st.binary(min_size=1, max_size=60) | st.just(MAGIC), label="junk")),
        "zero": (end, bytes(end - start)),
    }[kind]
    intact = [r for r, a, b in zip(records, starts, starts[1:], strict=False) if b <= start or a >= stop]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Path(folder, "shard-00000.lbk").write_bytes(blob[:start] + new + blob[stop:])
        with LabelStore(folder) as store:
            assert {r.key for r in intact} <= set(store.keys())
            assert len(store) >= len(records) - 2 or kind in ("cut", "delete", "zero")
            got = {r.key: r for r in store.records()}
            for record in intact:
                assert_same_record(got[record.key], record)
            assert len(store.read()) == len(store)
            missing = [r for r in records if r.key not in store]
            assert store.append_many(missing) == len(missing)
        assert len(LabelStore(folder)) == len(records)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """What another process wrote is read before the next label is."""
    early = LabelStore(tmp_path)
    code = f"""
import sys
from limbeck.records.label_store import LabelStore
store = LabelStore({str(tmp_path)!r})
store.append_many([])
print("writing", flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        store = LabelStore(tmp_path)
        assert len(store) == 0
        with pytest.raises(LimbeckError) as caught:
            store.append(label_record(0))
        assert (caught.value.where, caught.value.got) == (tmp_path, f"process {other.pid}")
    with store:
        assert store.append(label_record(0))
    assert not early.append(label_record(0))
    assert len(early) == 1


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond ``free_bytes``, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_whole_labels(tmp_path: Path) -> None:
    with LabelStore(tmp_path) as store:
        store.append(label_record(0))
        size = (tmp_path / "shard-00000.lbk").stat().st_size
        with full_disk(size + 50), pytest.raises(LimbeckError) as caught:
            store.append(label_record(1))
        assert (caught.value.where, caught.value.got) == (tmp_path / "shard-00000.lbk", "File too large")
        assert (tmp_path / "shard-00000.lbk").stat().st_size == size
        assert label_record(1).key not in store
        assert store.append(label_record(1))
    assert len(LabelStore(tmp_path)) == 2


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LimbeckError, match="file/labels: .*; got Not a directory"):
        LabelStore(tmp_path / "file" / "labels").append(label_record(0))
    with pytest.raises(InputError, match="file: .*; got a file; wanted a folder"):
        LabelStore(tmp_path / "file")


def test_nothing_in_a_record_is_executed() -> None:
    data = pack_record(label_record(0))
    assert_same_record(unpack_record(data), label_record(0))
    with pytest.raises(ValueError, match="array 'x' has the forbidden dtype"):
        decode(encode({}, {"x": np.zeros(1)}).replace(b"<f8", b"|O8"))
    for junk in (b"", b"\x00\x00", b"\x02\x00\x00\x00{}"):
        with pytest.raises(ValueError):
            decode(junk)


def test_no_records_are_an_empty_set() -> None:
    empty = collect([])
    assert len(empty) == len(empty.labels.energy) == len(empty.temperature_k) == 0
    assert empty.labels.forces.shape == (0, 3)


def test_the_shortest_record_and_a_torn_head() -> None:
    """A head of an empty payload is a record; less than a head is damaged, wherever it stands."""
    head = _HEADER.pack(MAGIC, 0, _checksum(b""))
    assert scan(head) == ([slice(0, 32)], [])
    assert scan(head + head[:-1]) == ([slice(0, 32)], [slice(32, 63)])
    assert scan(MAGIC) == ([], [slice(0, 8)])
