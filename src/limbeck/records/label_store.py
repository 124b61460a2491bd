"""The label store: append-only shards, and a cache of them as packed arrays."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limbeck.core.files import write_whole
from limbeck.core.labels import LabelledSet, Labels
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.records.label_record import (
    LabelRecord,
    TeacherIdentity,
    collect,
    pack_record,
    scan,
    unpack_head,
    unpack_record,
)

#: prefix of the groups of a test set that earlier versions stored among the training labels
_EARLIER_TEST = "heldout/"
#: a shard that has grown beyond this is followed by a new one
SHARD_BYTES = 64 << 20
_STRUCTURE_FIELDS = tuple(StructureBatch.__dataclass_fields__)
_LABEL_FIELDS = tuple(Labels.__dataclass_fields__)
_ORIGIN_FIELDS = ("group", "config_type", "temperature_k")


@dataclass(frozen=True)
class _Entry:
    """Where a record is stored, its place in the order of reading, and its checksum."""

    shard: Path
    span: slice
    order: int
    checksum: bytes


class LabelStore:
    """A folder of labels, read by any number of processes and written by one at a time.

    Opening reads every shard. Damaged regions are copied to ``damaged/`` with a warning.
    The first append creates the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._unsynced: set[Path] = set()
        if self.path.exists() and not self.path.is_dir():
            raise InputError("not a label store", where=self.path, got="a file", wanted="a folder")
        self._scan()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write all labels to disk and release the lock; safe to call twice."""
        self.sync()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def keys(self) -> list[str]:
        """Keys in the order of :meth:`read`: that of the structures given to the teacher, not that of its
        answers, so that an interrupted and an uninterrupted run read the same.
        """
        return sorted(self._entries, key=lambda k: (self._entries[k].order, k))

    def check_teacher(self, identity: TeacherIdentity) -> None:
        """InputError where the store holds labels of another teacher, other weights or options."""
        for other in sorted(self._teachers, key=str):
            for part in ("name", "weights_hash", "options"):
                if getattr(other, part) != getattr(identity, part):
                    what = part.replace("_", " ")
                    raise InputError(
                        "the label store holds labels of another teacher",
                        where=self.path,
                        got=f"{identity.name}, {what} {str(getattr(identity, part))[:60]}",
                        wanted=f"{other.name}, {what} {str(getattr(other, part))[:60]}",
                        remedy="choose another folder: energies of two teachers do not mix",
                    )

    def append(self, record: LabelRecord) -> bool:
        """Store one label as :meth:`append_many` does; False where its key is present already."""
        return self.append_many([record]) == 1

    def append_many(self, records: Iterable[LabelRecord], *, sync: bool = True) -> int:
        """Store labels with one fsync and return the number of new ones.

        Without ``sync`` they are safe from the death of this process, and from a power cut after the next
        :meth:`sync`.

        Raises
        ------
        LimbeckError: another process is writing, no permission, or the disk is full.
        """
        self._acquire()
        new: dict[str, bytes] = {}
        for record in records:
            if record.key not in self._entries and record.key not in new:
                new[record.key] = pack_record(record)
        if not new:
            return 0
        shard = self._shard_to_append()
        position = append_whole(shard, b"".join(new.values()))
        for data in new.values():
            self._enter(shard, slice(position, position + len(data)), data)
            position += len(data)
        self._sizes[shard] = position
        self._unsynced.add(shard)
        if sync:
            self.sync()
        return len(new)

    def sync(self) -> None:
        """Wait until every stored label is on disk; raises LimbeckError where that fails."""
        for shard in sorted(self._unsynced):
            sync_file(shard)
        self._unsynced.clear()

    def records(self) -> Iterator[LabelRecord]:
        """Every label in the order of :meth:`keys`, read from the shards."""
        blobs: dict[Path, memoryview] = {}
        for key in self.keys():
            entry = self._entries[key]
            if entry.shard not in blobs:
                blobs[entry.shard] = memoryview(entry.shard.read_bytes())
            yield unpack_record(blobs[entry.shard][entry.span])

    def read(self, keys: Sequence[str] | None = None) -> LabelledSet:
        """All labels, or those of ``keys`` in that order; InputError where a key is not in the store.

        Without ``keys``, labels of a test set that an earlier version of Limbeck stored among the training
        labels are left out, with a warning.
        """
        labelled = self._read_packed()
        if keys is not None:
            place = {key: i for i, key in enumerate(self.keys())}
            missing = [key for key in keys if key not in place]
            if missing:
                raise InputError(
                    "labels are missing from the store",
                    where=self.path,
                    got=f"{len(missing)} of {len(keys)} missing, the first {missing[0][:12]}",
                    remedy="label these structures first (limbeck label resumes where it stopped)",
                )
            return labelled.select([place[key] for key in keys])
        test = _of_earlier_test(labelled)
        if not test.any() or test.all():  # a store of a test set alone is read as such
            return labelled
        warnings.warn(
            f"{self.path}: {int(test.sum())} of {len(labelled)} labels are left out: they are of a test set "
            "that an earlier version of Limbeck stored here",
            stacklevel=2,
        )
        return labelled.select(np.flatnonzero(~test))

    def copy_earlier_test(self, test: LabelStore) -> int:
        """Copy the test set that an earlier version stored here to ``test``; the number of new labels."""
        if not _of_earlier_test(self._read_packed()).any():
            return 0
        return test.append_many(r for r in self.records() if _of_earlier_test(r.label)[0])

    def export_extxyz(self, path: Path | str) -> int:
        """Write the labels that :meth:`read` gives as extended XYZ (8 decimals); their number."""
        from ase.io import write

        frames = self.read().to_atoms()
        write_whole(path, lambda temporary: write(temporary, frames, format="extxyz"))
        return len(frames)

    def content_hash(self) -> str:
        """SHA-256 over the checksums of all records, in reading order."""
        digest = hashlib.sha256(b"packed-1")
        for key in self.keys():
            digest.update(self._entries[key].checksum)
        return digest.hexdigest()

    def _acquire(self) -> None:
        """Become the writer, or raise LimbeckError."""
        if self._lock is not None:
            return
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(handle):
            owner = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise LimbeckError(
                "another process is writing to the label store",
                where=self.path,
                got=f"process {owner or 'unknown'}",
                wanted="one writer at a time",
                remedy="wait until it ends or choose another folder",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._lock = handle
        # another process may have written since this store was opened
        if {p: p.stat().st_size for p in self._shards()} != self._sizes:
            self._scan()

    def _shard_to_append(self) -> Path:
        existing = self._shards()
        if existing and existing[-1] not in self._broken and self._sizes[existing[-1]] < SHARD_BYTES:
            return existing[-1]
        number = int(existing[-1].stem.removeprefix("shard-")) + 1 if existing else 0
        return self.path / f"shard-{number:05d}.lbk"

    def _shards(self) -> list[Path]:
        return sorted(self.path.glob("shard-[0-9][0-9][0-9][0-9][0-9].lbk"))

    def _scan(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._teachers: set[TeacherIdentity] = set()
        self._sizes: dict[Path, int] = {}
        self._broken: set[Path] = set()
        for shard in self._shards():
            try:
                blob = shard.read_bytes()
            except OSError as error:
                raise LimbeckError("cannot read labels", where=shard, got=error.strerror) from error
            self._sizes[shard] = len(blob)
            good, damaged = scan(blob)
            for span in good:
                self._enter(shard, span, memoryview(blob)[span])
            for span in damaged:
                self._broken.add(shard)
                self._set_aside(shard, span, blob[span])

    def _enter(self, shard: Path, span: slice, data: bytes | memoryview) -> None:
        meta, checksum = unpack_head(data)
        self._entries.setdefault(meta["key"], _Entry(shard, span, meta["order"], checksum))
        self._teachers.add(TeacherIdentity(**meta["identity"]))

    def _set_aside(self, shard: Path, span: slice, data: bytes) -> None:
        """Copy a damaged region to ``damaged/`` and warn, once for each region."""
        if self._lock is None and self._someone_writes():
            return  # a record that is just being written looks like a damaged tail
        copy = self.path / "damaged" / f"{shard.stem}-bytes-{span.start}-{span.stop}.bin"
        if copy.exists() and copy.read_bytes() == data:
            return
        try:
            write_whole(copy, data)
            kept = f"set aside as {copy}"
        except LimbeckError as error:
            kept = f"left where they are ({error.got})"
        warnings.warn(
            f"damaged label shard {shard}: bytes {span.start} to {span.stop} {kept}; other labels are used",
            stacklevel=4,
        )

    def _someone_writes(self) -> bool:
        try:
            handle = os.open(self.path / "lock", os.O_RDWR)
        except OSError:
            return False  # no lock file, or not ours to write: a writer cannot be detected
        try:
            return not _try_lock(handle)
        finally:
            os.close(handle)

    def _read_packed(self) -> LabelledSet:
        """All labels from the cache, which is made anew where it does not match the shards."""
        wanted = self.content_hash()
        cache = self.path / "packed" / "labels.npz"
        labelled = _load_packed(cache, wanted)
        if labelled is None:
            labelled = collect(list(self.records()))
            if self.path.is_dir():
                try:
                    write_whole(cache, lambda temporary: _save_packed(temporary, labelled, wanted))
                except LimbeckError as error:
                    # a store without permission to write can be read, only more slowly
                    warnings.warn(f"packed labels are not cached: {error}", stacklevel=3)
        return labelled


def _of_earlier_test(labelled: LabelledSet) -> np.ndarray:
    """(S,) bool."""
    return np.char.startswith(labelled.group, _EARLIER_TEST)


def _save_packed(path: Path, labelled: LabelledSet, content_hash: str) -> None:
    arrays = {**vars(labelled.structures), **vars(labelled.labels)}
    arrays |= {name: getattr(labelled, name) for name in _ORIGIN_FIELDS}
    present = {name: value for name, value in arrays.items() if value is not None}
    np.savez(path, content_hash=np.array(content_hash), **present)


def _load_packed(path: Path, content_hash: str) -> LabelledSet | None:
    """The cached set where it belongs to these shards and every array's CRC is right, else None.

    It is read into memory, not mapped: where a mapped file shrinks, SIGBUS ends the process.
    """
    try:
        with np.load(path, allow_pickle=False) as packed:
            if str(packed["content_hash"]) != content_hash:
                return None
            arrays = {name: packed[name] for name in packed.files}
            origin = {name: arrays[name] for name in _ORIGIN_FIELDS}  # named otherwise in earlier versions
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return LabelledSet(
        # caches of earlier versions have no spin
        structures=StructureBatch(**{name: arrays[name] for name in _STRUCTURE_FIELDS if name in arrays}),
        labels=Labels(**{name: arrays[name] for name in _LABEL_FIELDS if name in arrays}),
        **origin,
    )


def append_whole(path: Path, data: bytes) -> int:
    """Append ``data`` and return where it starts; where that fails, the file stays as it was."""
    with _writing(path):
        new = not path.exists()
        with open(path, "ab", buffering=0) as shard:
            start, view = shard.tell(), memoryview(data)
            try:
                while view:
                    view = view[shard.write(view) :]
            except OSError:
                shard.truncate(start)  # or half a record would be reported as damaged at the next opening
                raise
        if new:
            _sync(path.parent)  # the directory entry of a new file
    return start


def sync_file(path: Path) -> None:
    """Wait until a shard is on disk."""
    with _writing(path):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LimbeckError(
            "cannot write labels",
            where=path,
            got=error.strerror or str(error),
            wanted="a writable folder with free space",
            remedy="free some space or choose another folder and run again; stored labels are kept",
        ) from error


def _try_lock(handle: int) -> bool:
    """Take the lock where no other process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
