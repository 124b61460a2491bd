"""The architecture of students: hyperparameters, presets, and the names and shapes of weights.

PaiNN (Schütt, Unke, Gastegger 2021, arXiv:2102.03150) with a single linear layer before the filter product
and a narrow update network. Weights without any effect are left out: the first interaction receives no
vectors, the last passes none on.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from limbeck.core.pairwise import smooth_step
from limbeck.errors import InputError

#: Å; shorter waves are damped in the initial filters
SMOOTH_A = 2.0


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters of one student.

    Attributes
    ----------
    elements: atomic numbers, ascending; the species index is the place in this tuple.
    hidden_dim, interactions, rbf: F, L, B.
    gate_width, readout_width: hidden widths of the update and of the readout.
    cutoff: Å.
    norm_offset: e in sqrt(|V v|² + e²), which keeps the energy smooth where a vector vanishes.
    energy_scale: eV for one unit of network output.
    core_a: (Z, Z) Å row by row, or empty: below it the network's part of a pair fades (C2), to zero at half
        of it, where only the baseline's ZBL repulsion is left: no extrapolated energy exceeds that.
    """

    elements: tuple[int, ...]
    hidden_dim: int
    interactions: int
    rbf: int
    gate_width: int
    readout_width: int
    cutoff: float = 5.0
    norm_offset: float = 0.1
    energy_scale: float = 1.0
    core_a: tuple[float, ...] = ()
    name: str = "painn"

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Weights by name, in the order of the flat array that the native core reads."""
        f, b, h, r = self.hidden_dim, self.rbf + 1, self.gate_width, self.readout_width
        shapes: dict[str, tuple[int, ...]] = {"embedding": (len(self.elements), f)}
        for layer in range(self.interactions):
            message = 2 if layer == 0 else 3
            update = 2 if layer == self.interactions - 1 else 3
            shapes |= {
                f"interactions.{layer}.phi.weight": (f, message * f),
                f"interactions.{layer}.phi.bias": (message * f,),
                f"interactions.{layer}.filter.weight": (b, message * f),
                f"interactions.{layer}.mix.weight": (f, 2 * f),
                f"interactions.{layer}.gate.weight": (2 * f, h),
                f"interactions.{layer}.gate.bias": (h,),
                f"interactions.{layer}.out.weight": (h, update * f),
                f"interactions.{layer}.out.bias": (update * f,),
            }
        shapes |= {"readout.0.weight": (f, r), "readout.0.bias": (r,)}
        return shapes | {"readout.1.weight": (r,), "readout.1.bias": (1,)}

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        return int(sum(np.prod(shape) for shape in self.parameter_shapes().values()))

    def species(self, numbers: np.ndarray) -> np.ndarray:
        """Species index of each atomic number, (N,); an unknown element raises InputError."""
        known = np.array(self.elements)
        place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        unknown = np.unique(np.asarray(numbers)[known[place] != numbers])
        if len(unknown):
            got, wanted = f"Z = {unknown.tolist()}", f"Z among {list(self.elements)}"
            raise InputError("an element that the student does not know", got=got, wanted=wanted)
        return place

    def to_dict(self) -> dict[str, Any]:
        """JSON-able fields."""
        fields = asdict(self) | {"elements": list(self.elements), "core_a": list(self.core_a)}
        if not self.core_a:
            del fields["core_a"]  # as in older files
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Architecture:
        """Inverse of ``to_dict``; unknown, missing or invalid fields raise InputError."""
        try:
            elements = tuple(int(z) for z in fields["elements"])
            core_a = tuple(float(r) for r in fields.get("core_a", ()))
            return cls(**(fields | {"elements": elements, "core_a": core_a}))._checked()
        except (KeyError, TypeError, ValueError) as error:
            wanted, remedy = "the fields of a PaiNN student", "upgrade Limbeck or make the student file again"
            raise InputError("invalid architecture", got=error, wanted=wanted, remedy=remedy) from error

    def _checked(self) -> Architecture:
        counts = (self.hidden_dim, self.interactions, self.rbf, self.gate_width, self.readout_width)
        lengths = (self.cutoff, self.norm_offset, self.energy_scale)
        if not all(type(n) is int and 1 <= n <= 4096 for n in counts):
            raise ValueError(f"widths and counts {counts}, wanted integers from 1 to 4096")
        if not all(isinstance(x, (int, float)) and 0 < x < float("inf") for x in lengths):
            raise ValueError(f"cutoff, norm_offset, energy_scale {lengths}, wanted positive numbers")
        if not self.elements or list(self.elements) != sorted({z for z in self.elements if 0 < z < 119}):
            raise ValueError(f"elements {self.elements}, wanted ascending atomic numbers")
        if self.core_a and len(self.core_a) != len(self.elements) ** 2:
            raise ValueError(f"{len(self.core_a)} core radii, wanted one for each pair of elements")
        if not all(0 <= r < float("inf") for r in self.core_a):
            raise ValueError(f"core_a {self.core_a}, wanted distances")
        if self.name != "painn":
            raise ValueError(f"name {self.name!r}, wanted 'painn'")
        return self


#: preset -> F, L, B, widths of gate and readout
_PRESETS = {"original": (128, 3, 20, 80, 64), "tiny": (64, 2, 12, 48, 32), "ultra-tiny": (32, 2, 10, 32, 16)}
PRESETS: tuple[str, ...] = tuple(_PRESETS)


def check_preset(name: str) -> str:
    """The name itself, or InputError with the nearest preset."""
    if name not in _PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        remedy = f"did you mean {near!r}?"
        raise InputError("unknown preset", got=repr(name), wanted=" or ".join(PRESETS), remedy=remedy)
    return name


def preset_architecture(preset: str, elements: tuple[int, ...], *, cutoff: float = 5.0) -> Architecture:
    """Architecture of a preset for the given elements; InputError where either is unknown or missing."""
    shape = _PRESETS[check_preset(preset)]
    if not elements:
        raise InputError("a student needs at least one element", got="none")
    return Architecture(tuple(sorted({int(z) for z in elements})), *shape, cutoff=cutoff)


def initial_amplitudes(architecture: Architecture) -> np.ndarray:
    """Size of a filter's initial weights by radial function, (B + 1,): damped short waves, then the constant.

    Their mean square is 1. With equal waves a random filter is as rough as its shortest wave and, where
    labels are few, stays so: presets with more waves generalised worse.
    """
    wavelength = 2 * architecture.cutoff / np.arange(1, architecture.rbf + 1)  # Å
    fading = np.exp(-((SMOOTH_A / wavelength) ** 2) / 2)
    return np.append(fading * np.sqrt(architecture.rbf / (fading**2).sum()), 1.0)


def basis_power(architecture: Architecture, distance: np.ndarray) -> np.ndarray:
    """Mean square of a random initial filter at each distance (Å), (P,): a weighted sum of squared waves."""
    x = np.asarray(distance, np.float64) / architecture.cutoff
    envelope = np.where(x < 1, 1 - smooth_step(x), 0.0)
    waves = np.sin(np.pi * x[:, None] * np.arange(1, architecture.rbf + 1)) / distance[:, None]  # (P, B)
    size = initial_amplitudes(architecture)
    return (((waves * size[:-1]) ** 2).sum(1) + size[-1] ** 2) * envelope**2


def initial_weights(
    architecture: Architecture, *, seed: int, mean_neighbours: float, power: float = 0.0
) -> dict[str, np.ndarray]:
    """Random float64 weights that give features and messages of unit size at the start.

    The variance of a sum of messages is about half of ``mean_neighbours`` or, where short bonds make it
    larger, ``power``: the mean over atoms of ``basis_power`` summed over neighbours.
    """
    rng = np.random.default_rng(seed)
    variance = max(mean_neighbours / 2, power, 0.5)
    # the update is cubic in the features, which grow doubly exponentially unless it starts small
    quiet = 0.3 ** (architecture.interactions - 1)
    weights = {}
    for name, shape in architecture.parameter_shapes().items():
        if name.endswith("bias"):
            weights[name] = np.zeros(shape)
        elif name == "embedding":
            weights[name] = rng.normal(size=shape)
        elif "filter" in name:
            amplitudes = initial_amplitudes(architecture)[:, None]
            weights[name] = amplitudes * rng.normal(size=shape) / np.sqrt(variance)
        else:
            # large random forces at the start would cost the first epochs
            size = quiet if "out.weight" in name else 0.1 if name == "readout.1.weight" else 1.0
            weights[name] = size * rng.normal(size=shape) / np.sqrt(shape[0])
    return weights


def flatten(
    architecture: Architecture, weights: dict[str, np.ndarray], dtype: type = np.float32
) -> np.ndarray:
    """Weights as the flat array the native core reads."""
    return np.concatenate([np.asarray(weights[k], dtype).ravel() for k in architecture.parameter_shapes()])


def unflatten(architecture: Architecture, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Inverse of ``flatten``; the arrays are views."""
    shapes = architecture.parameter_shapes()
    parts = np.split(flat, np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def with_cores(architecture: Architecture, zbl_radius: Mapping[tuple[int, int], float]) -> Architecture:
    """The same architecture with ``core_a`` where ZBL is fully on: half its radius, (Z, Z') -> Å."""
    pairs = itertools.product(architecture.elements, repeat=2)
    cores = tuple(zbl_radius.get((min(pair), max(pair)), 0.0) / 2 for pair in pairs)
    return replace(architecture, core_a=cores)
