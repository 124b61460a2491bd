"""The structures behind a report: labels trained on, those compared on, and each student's answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from limbeck.core.labels import LabelledSet
from limbeck.core.scans import scan_mask
from limbeck.records.metrics import ValidationReport


@dataclass(frozen=True)
class Evidence:
    """What figures are made of.

    Attributes
    ----------
    learned: labels that students learned from and that chose their best weights; None where they are
        not in the run folder.
    compared: the labelled set that students are compared on, None where its file is missing.
    what: how it is called. reports: preset -> predictions and errors on it.
    starts: starting structures. notes: what could not be read or is shown in part.
    """

    learned: LabelledSet | None = None
    compared: LabelledSet | None = None
    what: str = "test"
    reports: dict[str, ValidationReport] = field(default_factory=dict)
    starts: list[Atoms] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> list[tuple[str, LabelledSet]]:
        """(name, set) of what is there, those learned from first, without contact scans."""
        found = []
        for name, labelled in (("training labels", self.learned), (f"{self.what} frames", self.compared)):
            if labelled is not None and len(labelled):
                scans = scan_mask(labelled.config_type)
                some = scans.any() and not scans.all()
                found.append((name, labelled.select(np.flatnonzero(~scans)) if some else labelled))
        return found
