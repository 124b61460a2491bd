"""The native core against PyTorch in float64, and against finite differences."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from limbeck import _native
from limbeck.core.neighbours import find_pairs
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError, LimbeckError
from limbeck.students.engine import Engine, NativeEngine, Outputs, TorchEngine, make_engine
from limbeck.students.specification import PRESETS, Architecture, flatten, preset_architecture, unflatten

from .tools import ORGANIC_AND_SILICON, SYSTEMS, random_weights

FRAMES = list(SYSTEMS.values())
BATCH = StructureBatch.from_atoms(FRAMES)
PAIRS = find_pairs(BATCH, 5.0)
EVERY = np.arange(len(BATCH))
INSTRUCTION_SETS = [name for name in ("portable", "avx2", "avx512") if _native.runs_here(name)]
ODD = Architecture(ORGANIC_AND_SILICON, hidden_dim=21, interactions=3, rbf=5, gate_width=13, readout_width=7)


def architecture_of(name: str) -> Architecture:
    return ODD if name == "odd widths" else preset_architecture(name, ORGANIC_AND_SILICON)


def loaded(engine: Engine, seed: int = 0) -> Engine:
    engine.set_structures(BATCH, PAIRS)
    engine.set_weights(flatten(engine.architecture, random_weights(engine.architecture, seed), np.float64))
    return engine


def largest_relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), 1e-300))


def worst(a: Outputs, b: Outputs) -> float:
    return max(largest_relative(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def assert_within_float32(found: Outputs, exact: Outputs, batch: StructureBatch) -> None:
    assert np.abs(found.forces - exact.forces).max() <= 1e-5 + 2e-5 * np.abs(exact.forces).max()
    size = np.bincount(batch.structure_of_atom, np.abs(exact.atom_energies))
    assert (np.abs(found.energy - exact.energy) <= 1e-6 * size + 1e-6).all()


@pytest.fixture(scope="module")
def torch_engines() -> dict[str, Engine]:
    names = (*PRESETS, "odd widths")
    return {name: loaded(TorchEngine(architecture_of(name), precision="float64")) for name in names}


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", [*PRESETS, "odd widths"])
def test_native_equals_torch(name, isa, torch_engines):
    native = loaded(NativeEngine(architecture_of(name), precision="float64", instruction_set=isa))
    whole = torch_engines[name].evaluate(EVERY)
    assert np.abs(whole.forces).max() > 0.1  # eV/Å: the comparison is of something
    assert worst(native.evaluate(EVERY), whole) < 1e-10
    if isa == INSTRUCTION_SETS[-1]:
        for s in EVERY:  # alone and in another order
            alone = native.evaluate(np.array([s]))
            assert largest_relative(alone.energy, whole.energy[[s]]) < 1e-10, list(SYSTEMS)[s]
        rows = BATCH.atom_index(EVERY[::-1])
        assert largest_relative(native.evaluate(EVERY[::-1]).forces, whole.forces[rows]) < 1e-10
    if name in PRESETS:
        single = loaded(NativeEngine(architecture_of(name), instruction_set=isa)).evaluate(EVERY)
        assert_within_float32(single, whole, BATCH)


def random_seeds(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dL/d(energy, forces, virial) of a random loss."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=n) for n in (len(BATCH), (BATCH.n_atoms, 3), (len(BATCH), 3, 3)))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_threads_agree(precision):
    seeds, outputs, gradients = random_seeds(0), [], []
    for threads in (1, 2, 4):
        engine = loaded(NativeEngine(architecture_of("tiny"), precision=precision, threads=threads))
        outputs.append(engine.evaluate(EVERY))
        gradients.append(engine.gradient(*seeds))
        engine.evaluate(EVERY)
        np.testing.assert_array_equal(engine.gradient(*seeds), gradients[-1])  # repeats bit for bit
    assert worst(outputs[1], outputs[0]) == worst(outputs[2], outputs[0]) == 0.0
    tolerance = 1e-5 if precision == "float32" else 1e-13
    assert max(largest_relative(g, gradients[0]) for g in gradients[1:]) < tolerance


@pytest.mark.parametrize("name", [*PRESETS, "odd widths"])
def test_gradient_of_a_random_loss(name, torch_engines):
    """dL/dw of L = a·E + b·F + c·virial: native against torch's second derivatives, and differences."""
    architecture, seeds = architecture_of(name), random_seeds(5)
    native = loaded(NativeEngine(architecture, precision="float64", threads=2))
    reference = torch_engines[name]
    native.evaluate(EVERY)
    reference.evaluate(EVERY)
    gradient, wanted = native.gradient(*seeds), reference.gradient(*seeds)
    parts, wanted_parts = (unflatten(architecture, flat) for flat in (gradient, wanted))
    for weight in parts:  # a wrong part must not hide behind a large one
        assert largest_relative(parts[weight], wanted_parts[weight]) < 1e-9, weight

    flat = flatten(architecture, random_weights(architecture), np.float64)
    direction = np.random.default_rng(6).normal(size=len(flat)) / np.sqrt(len(flat))

    def loss(step: float) -> float:
        native.set_weights(flat + step * direction)
        out = native.evaluate(EVERY)
        values = (out.energy, out.forces, out.virial)
        return float(sum((s * o).sum() for s, o in zip(seeds, values, strict=True)))

    h = 1e-3
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-6)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_float32_gradient_is_close(isa):
    seeds, gradients = random_seeds(6), []
    seeds[2][:] = 0
    for precision in ("float32", "float64"):
        engine = loaded(NativeEngine(architecture_of("tiny"), precision=precision, instruction_set=isa))
        engine.evaluate(EVERY)
        gradients.append(engine.gradient(*seeds).astype(float))
    assert largest_relative(*gradients) < 1e-3


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_lone_atoms_alone_have_energy_and_gradient(kind):
    architecture = architecture_of("ultra-tiny")
    engine = make_engine(architecture, kind=kind, precision="float64", threads=1)
    batch = BATCH.select([list(SYSTEMS).index("isolated atom")] * 2)
    engine.set_structures(batch, find_pairs(batch, 5.0))
    engine.set_weights(flatten(architecture, random_weights(architecture), np.float64))
    out = engine.evaluate(np.arange(2))
    assert (out.forces == 0).all()
    assert (out.virial == 0).all()
    gradient = engine.gradient(np.ones(2), np.zeros((2, 3)), np.zeros((2, 3, 3)))
    assert gradient[-1] == pytest.approx(2 * architecture.energy_scale)  # the readout's last bias


def test_nothing_chosen_and_no_evaluation():
    native = loaded(NativeEngine(architecture_of("ultra-tiny")))
    engine = loaded(TorchEngine(architecture_of("ultra-tiny"), precision="float64"))
    zeros = np.zeros(1), np.zeros((1, 3)), np.zeros((1, 3, 3))
    with pytest.raises(LimbeckError, match=r"wanted evaluate\(\) first"):
        engine.gradient(*zeros)
    with pytest.raises(ValueError, match=r"wanted evaluate\(\) first"):
        native.gradient(*zeros)
    out = native.evaluate(np.zeros(0, np.int64))
    assert (out.energy.shape, out.forces.shape, out.virial.shape) == ((0,), (0, 3), (0, 3, 3))


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_an_unknown_element_is_refused(kind):
    engine = make_engine(preset_architecture("ultra-tiny", (1, 8)), kind=kind, threads=1)
    with pytest.raises(InputError, match=r"does not know; got Z = \[6, 14\]; wanted Z among \[1, 8\]"):
        loaded(engine).evaluate(EVERY)


class TestBindings:
    """The compiled core refuses what would read beyond its arrays."""

    good: ClassVar = {
        "species": np.zeros(2, np.int32), "atom_offsets": np.array([0, 2]), "first": np.zeros(1, np.int32),
        "second": np.ones(1, np.int32), "vectors": np.ones((1, 3)), "pair_offsets": np.array([0, 1]),
    }  # fmt: skip

    def core(self, features=4):
        hyper = _native.Hyperparameters(
            features=features, interactions=1, radial=2, gate_width=3, readout_width=2, elements=1, cutoff=5.0,
            norm_offset=0.1, energy_scale=1.0,
        )  # fmt: skip
        return _native.TrainerF64(hyper, 1, "portable"), hyper

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"species": np.array([0, 1], np.int32)}, r"species\[1\]: got 1, wanted 0 to 0"),
            ({"species": np.array([0, -1], np.int32)}, r"species\[1\]: got -1, wanted 0 to 0"),
            ({"second": np.array([2], np.int32)}, "pair 0: atom index out of range"),
            ({"first": np.array([-1], np.int32)}, "pair 0: atom index out of range"),
            ({"vectors": np.zeros((1, 3))}, "pair 0: wanted a finite vector longer than zero"),
            ({"vectors": np.full((1, 3), np.nan)}, "pair 0: wanted a finite vector longer than zero"),
            ({"vectors": np.ones((2, 3))}, r"wanted \(P,\), \(P,\), \(P, 3\)"),
            ({"atom_offsets": np.array([0, 3], np.int64)}, "wanted 0 first and the total last"),
            ({"pair_offsets": np.array([0], np.int64)}, r"wanted equal lengths S \+ 1"),
            ({"atom_offsets": np.array([0, 3, 2]), "pair_offsets": np.array([0, 0, 1])}, "wanted ascending|out of range"),
        ],
    )  # fmt: skip
    def test_structures(self, change, text):
        core, _ = self.core()
        core.set_structures(**self.good)
        with pytest.raises(ValueError, match=text):
            core.set_structures(**(self.good | change))

    def test_weights_choice_and_seeds(self):
        core, hyper = self.core()
        with pytest.raises(ValueError, match="wanted set_structures"):
            core.evaluate(np.zeros(1, np.int64))
        core.set_structures(**self.good)
        with pytest.raises(ValueError, match=f"weights: got 3 values, wanted {hyper.parameters}"):
            core.set_weights(np.zeros(3))
        bad = np.zeros(hyper.parameters)
        bad[5] = np.inf
        with pytest.raises(ValueError, match=r"weights\[5\] is not finite"):
            core.set_weights(bad)
        core.set_weights(np.zeros(hyper.parameters))
        for outside in (-1, 1):
            with pytest.raises(ValueError, match=f"structure {outside} is out of range"):
                core.evaluate(np.array([outside], np.int64))
        core.evaluate(np.zeros(1, np.int64))
        seeds = [np.zeros(1), np.zeros((2, 3)), np.zeros((1, 3, 3))]
        core.gradient(*seeds)
        for k in range(3):
            with pytest.raises(ValueError, match=r"wanted the shapes of the last evaluate\(\)"):
                core.gradient(*seeds[:k], np.zeros(5), *seeds[k + 1 :])
        with pytest.raises(ValueError, match="does not run the instruction set sse9"):
            _native.TrainerF32(hyper, 1, "sse9")
        with pytest.raises(ValueError, match="hyperparameters must be positive"):
            self.core(features=0)
