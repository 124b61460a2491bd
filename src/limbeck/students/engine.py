"""Engines, which evaluate and train a student's network without its baseline: the native core or PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from limbeck.core.devices import require_torch
from limbeck.core.machine import available_threads
from limbeck.core.neighbours import Pairs
from limbeck.core.structures import StructureBatch
from limbeck.errors import LimbeckError
from limbeck.students.specification import Architecture, initial_weights

Precision = Literal["float32", "float64"]
EngineKind = Literal["auto", "native", "torch"]


@dataclass(frozen=True)
class Outputs:
    """Energy (S,) eV, forces (N, 3) eV/Å, strain derivative dE/dε (S, 3, 3) eV, atomic energies (N,)."""

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray


class Engine(ABC):
    """A student's network and its gradients; arrays in and out are float64, weights are in ``precision``."""

    name: str
    architecture: Architecture
    precision: Precision

    @abstractmethod
    def set_structures(self, batch: StructureBatch, pairs: Pairs) -> None:
        """Load the structures that later calls choose from."""

    @abstractmethod
    def set_weights(self, flat: np.ndarray) -> None:
        """Load the weights, flat, in the order of ``Architecture.parameter_shapes``."""

    @abstractmethod
    def evaluate(self, chosen: np.ndarray) -> Outputs:
        """Outputs for the structures at ``chosen`` (integers), in that order."""

    @abstractmethod
    def gradient(self, energy: np.ndarray, forces: np.ndarray, virial: np.ndarray) -> np.ndarray:
        """dL/dw, flat, from dL/d(energy, forces and virial of the last evaluate)."""


def native_hyperparameters(architecture: Architecture) -> Any:
    """An architecture for the core."""
    from limbeck import _native

    fields = architecture.to_dict()
    del fields["name"]
    fields |= {"elements": len(architecture.elements), "core": list(fields.pop("core_a", ()))}
    return _native.Hyperparameters(features=fields.pop("hidden_dim"), radial=fields.pop("rbf"), **fields)


class NativeEngine(Engine):
    """The C++ core: hand-derived passes, no graph, one thread a structure."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        precision: Precision = "float32",
        threads: int = 1,
        instruction_set: str | None = None,
    ) -> None:
        from limbeck import _native

        self.architecture, self.precision = architecture, precision
        self.instruction_set = instruction_set or _native.best_instruction_set()
        self.name = f"native-{self.instruction_set}"
        kinds = {"float32": (_native.TrainerF32, np.float32), "float64": (_native.TrainerF64, np.float64)}
        trainer, self._dtype = kinds[precision]
        self._core = trainer(native_hyperparameters(architecture), max(1, threads), self.instruction_set)

    def set_structures(self, batch: StructureBatch, pairs: Pairs) -> None:
        species = self.architecture.species(batch.numbers).astype(np.int32)
        arrays = (batch.offsets, pairs.first, pairs.second, pairs.vectors, pairs.offsets)
        self._core.set_structures(species, *(np.ascontiguousarray(array) for array in arrays))

    def set_weights(self, flat: np.ndarray) -> None:
        self._core.set_weights(np.ascontiguousarray(flat, self._dtype))

    def evaluate(self, chosen: np.ndarray) -> Outputs:
        return Outputs(*self._core.evaluate(np.ascontiguousarray(chosen, np.int64)))

    def gradient(self, energy: np.ndarray, forces: np.ndarray, virial: np.ndarray) -> np.ndarray:
        return self._core.gradient(*(np.ascontiguousarray(a, np.float64) for a in (energy, forces, virial)))


class TorchEngine(Engine):
    """The torch reference on any device; gradients by autograd."""

    def __init__(
        self, architecture: Architecture, *, precision: Precision = "float32", device: str = "cpu"
    ) -> None:
        require_torch(f"the engine on {device}")
        import torch

        from limbeck.students.painn import PaiNN

        self.name = f"torch-{device}"
        self.architecture, self.precision, self.device = architecture, precision, device
        self._dtype = torch.float64 if precision == "float64" else torch.float32
        weights = initial_weights(architecture, seed=0, mean_neighbours=1.0)
        self._model = PaiNN(architecture, weights, self._dtype).to(device)
        self._outputs: tuple[Any, ...] | None = None

    def set_structures(self, batch: StructureBatch, pairs: Pairs) -> None:
        self._batch, self._pairs = batch, pairs

    def set_weights(self, flat: np.ndarray) -> None:
        import torch

        with torch.no_grad():
            self._model.flat.copy_(torch.as_tensor(np.asarray(flat), dtype=self._dtype))

    def evaluate(self, chosen: np.ndarray) -> Outputs:
        import torch

        from limbeck.students.painn import make_graph

        every = self._pairs
        rows = [np.arange(every.offsets[s], every.offsets[s + 1]) for s in chosen]
        index = np.concatenate([np.zeros(0, np.int64), *rows])
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        pairs = Pairs(every.first[index], every.second[index], every.vectors[index], offsets)
        batch = self._batch.select(chosen)
        graph = make_graph(self.architecture, batch, pairs, dtype=self._dtype, device=self.device)
        # the training loop calls this from an autograd function, where gradients are off
        with torch.enable_grad():
            self._outputs = self._model(graph)
        return Outputs(*(t.detach().cpu().numpy().astype(np.float64) for t in self._outputs))

    def gradient(self, energy: np.ndarray, forces: np.ndarray, virial: np.ndarray) -> np.ndarray:
        import torch

        if self._outputs is None:
            raise LimbeckError("gradient() without evaluate()", wanted="evaluate() first")
        seeds = [torch.as_tensor(a, dtype=self._dtype, device=self.device) for a in (energy, forces, virial)]
        (grad,) = torch.autograd.grad(self._outputs[:3], self._model.flat, grad_outputs=seeds)
        self._outputs = None
        return grad.cpu().numpy()


def native_available() -> bool:
    """Whether the compiled core can be imported."""
    try:
        from limbeck import _native  # noqa: F401
    except ImportError:
        return False
    return True


def require_native() -> None:
    """LimbeckError unless the compiled core can be imported."""
    if not native_available():
        wanted = "a C++17 compiler when Limbeck was installed"
        remedy = "pip install -c constraints.txt -e . (or use engine: torch)"
        raise LimbeckError("the native core is not built", wanted=wanted, remedy=remedy)


def make_engine(
    architecture: Architecture,
    *,
    kind: EngineKind = "auto",
    precision: Precision = "float32",
    threads: int | None = None,
    device: str = "cpu",
) -> Engine:
    """The native core on the CPU where it is built, else PyTorch."""
    if kind == "auto":
        kind = "native" if device == "cpu" and native_available() else "torch"
    if kind == "native":
        require_native()
        return NativeEngine(architecture, precision=precision, threads=threads or available_threads())
    return TorchEngine(architecture, precision=precision, device=device)
