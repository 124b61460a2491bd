"""Unit constants, taken from ASE; internally Limbeck uses eV, Å, fs and amu."""

from __future__ import annotations

from ase import units as _ase

FS = _ase.fs  #: ASE's time unit in one femtosecond (ASE counts time in Å sqrt(amu/eV))
GPA = _ase.GPa  #: eV/Å³ in one gigapascal
G_PER_CM3 = 1e24 / _ase.mol  #: g/cm³ in one amu/Å³
EV_TO_MEV = 1000.0  #: names that leave Python carry meV
