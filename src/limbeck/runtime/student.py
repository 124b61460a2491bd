"""A student file as a Potential."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from limbeck.artifact.file import StudentRecord, read_student
from limbeck.core.labels import Labels
from limbeck.core.machine import available_threads
from limbeck.core.neighbours import find_pairs
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.runtime.released import find_student
from limbeck.students.engine import EngineKind, Precision, make_engine
from limbeck.students.specification import Architecture, flatten


class Student(Potential):
    """A trained student: network, references and core repulsion.

    Attributes
    ----------
    name: preset, or the file's name.
    cutoff: Å.
    record: everything the file holds.
    """

    thread_safe = False

    def __init__(
        self,
        record: StudentRecord,
        *,
        name: str | None = None,
        threads: int | None = None,
        precision: Precision | None = None,
        engine: EngineKind = "auto",
        device: str = "cpu",
    ) -> None:
        self._options = {
            "name": name, "threads": threads, "precision": precision, "engine": engine, "device": device
        }  # fmt: skip
        arch = record.architecture
        self.record, self.cutoff = record, arch.cutoff
        self.name = name or str(record.card.get("preset") or "student")
        chosen: Precision = precision or ("float64" if record.dtype == "float64" else "float32")
        self._engine = make_engine(
            arch, kind=engine, precision=chosen, threads=threads or available_threads(), device=device
        )
        self._engine.set_weights(flatten(arch, record.weights, np.float64))
        self.capabilities = Capabilities(
            elements=frozenset(arch.elements),
            stress=True,
            atom_energies=True,
            precision=chosen,
        )

    @classmethod
    def load(cls, path: Path | str, **options: Any) -> Student:
        """Read a student file, or a released student by name such as ``"silicon-tiny"``.

        Raises
        ------
        InputError: no such file or name, or a file that is damaged.
        """
        found = find_student(path)
        record = read_student(found)
        return cls(record, name=found.stem, **options)

    def __getstate__(self) -> dict[str, Any]:
        # the engine holds memory of the compiled core: a copy makes its own
        return {"record": self.record, **self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def architecture(self) -> Architecture:
        """Hyperparameters."""
        return self.record.architecture

    @property
    def card(self) -> dict[str, Any]:
        """Provenance: teacher, data, metrics."""
        return self.record.card

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        return self.record.architecture.n_parameters

    def evaluate(self, batch: StructureBatch | Iterable[Atoms]) -> Labels:
        """Energies (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³ where periodic, atomic energies.

        Raises
        ------
        InputError: an element the student does not know, positions that are not finite.
        """
        if not isinstance(batch, StructureBatch):
            batch = StructureBatch.from_atoms(batch)
        self._check(batch)
        pairs = find_pairs(batch, self.cutoff)
        self._engine.set_structures(batch, pairs)
        out = self._engine.evaluate(np.arange(len(batch)))
        base, virial = self.record.baseline.evaluate(batch, pairs)
        periodic = batch.periodic
        stress = np.full((len(batch), 3, 3), np.nan)
        total = out.virial + virial
        stress[periodic] = total[periodic] / batch.volume[periodic, None, None]
        atom_energies = out.atom_energies + base.atom_energies
        return Labels(
            energy=out.energy + base.energy,
            forces=out.forces + base.forces,
            stress=stress,
            atom_energies=atom_energies,
        )

    def _check(self, batch: StructureBatch) -> None:
        known = self.record.architecture.elements
        strange = sorted(set(np.unique(batch.numbers).tolist()) - set(known))
        if strange:
            from ase.data import chemical_symbols

            names = ", ".join(
                chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z) for z in strange
            )
            raise InputError(
                "the student does not know an element",
                where=self.name,
                got=names,
                wanted=" ".join(chemical_symbols[z] for z in known),
                remedy="train a student on structures that hold it",
            )
        if not (np.isfinite(batch.positions).all() and np.isfinite(batch.cell).all()):
            atom = int(np.flatnonzero(~np.isfinite(batch.positions).all(axis=1))[:1].sum())
            raise InputError(
                "positions or cell are not finite", where=f"{self.name}, atom {atom}", got="NaN or inf"
            )
