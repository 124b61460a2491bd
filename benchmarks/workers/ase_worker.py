"""Energy, forces and stress through an ASE calculator; atoms move a little before each call.

    python ase_worker.py KIND      KIND: limbeck, graph-pes, chgnet, sevennet, nep

Energy, forces and (for periodic structures) stress are requested from the atoms, as a user does; the
calculators compute all of them at once. That of graph-pes would compute each separately, so it gets a
single call for all, which favours it.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from serve import Opened, serve

KIND = sys.argv[1]
THREADS = int(os.environ["OMP_NUM_THREADS"])
STEP_A = 1e-3
FRAMES = 8
PHASE_CALLS = 60
#: beyond half of any skin: the neighbour list has to be rebuilt
JUMP_A = 2.0


def load_limbeck(model: str) -> Calculator:
    import limbeck

    return limbeck.Calculator(model)


def load_graph_pes(model: str) -> Calculator:
    """Random weights; ``model`` is channels x layers x radial features, as ``64x2x12``."""
    import torch
    from graph_pes.models import PaiNN
    from graph_pes.utils.nn import PerElementParameter

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    channels, layers, radial = (int(n) for n in model.split("x"))
    network = PaiNN(channels=channels, layers=layers, radial_features=radial, cutoff=5.0)
    for parameter in network.parameters():
        if isinstance(parameter, PerElementParameter):
            parameter.register_elements([14])
    # pairs within the skin are evaluated too: the default of 1 Å would be slower
    return network.ase_calculator(skin=0.1)


def load_chgnet(model: str) -> Calculator:
    import torch
    from chgnet.model.dynamics import CHGNetCalculator

    torch.set_num_threads(THREADS)
    return CHGNetCalculator(use_device="cpu")


def load_sevennet(model: str) -> Calculator:
    import torch
    from sevenn.calculator import SevenNetCalculator

    torch.set_num_threads(THREADS)
    return SevenNetCalculator(model, device="cpu")


def load_nep(model: str) -> Calculator:
    from calorine.calculators import CPUNEP

    return CPUNEP(model)


LOADERS: dict[str, tuple[Callable[[str], Calculator], tuple[str, ...]]] = {
    "limbeck": (load_limbeck, ("ase", "numpy", "vesin")),
    "graph-pes": (load_graph_pes, ("graph-pes", "torch", "ase", "numpy")),
    "chgnet": (load_chgnet, ("chgnet", "torch", "ase", "numpy")),
    "sevennet": (load_sevennet, ("sevenn", "torch", "e3nn", "ase", "numpy")),
    "nep": (load_nep, ("calorine", "ase", "numpy")),
}


def displaced(atoms: Atoms, jump: bool) -> list[np.ndarray]:
    """Positions to cycle through; with ``jump``, every second frame is far from the one before."""
    rng = np.random.default_rng(0)
    frames = [atoms.positions + rng.normal(scale=STEP_A, size=(len(atoms), 3)) for _ in range(FRAMES)]
    return [frame + (JUMP_A if jump and k % 2 else 0.0) for k, frame in enumerate(frames)]


def open_model(model: str, case: dict[str, Any]) -> Opened:
    """``model`` as the loader takes it; with ``:jump`` appended, every call needs a new neighbour list."""
    name, _, variant = model.partition(":")
    atoms = ase.io.read(case["file"])
    atoms.calc = None
    calculator = LOADERS[KIND][0](name)
    positions = itertools.cycle(displaced(atoms, variant == "jump"))
    properties = ["energy", "forces", "stress"] if atoms.pbc.all() else ["energy", "forces"]

    def ask_at_once() -> None:
        atoms.positions = next(positions)
        calculator.calculate(atoms, properties, ["positions"])

    def ask() -> None:
        atoms.positions = next(positions)
        atoms.get_potential_energy()
        atoms.get_forces()
        if "stress" in properties:
            atoms.get_stress()

    step = ask_at_once if KIND == "graph-pes" else ask
    if step is ask:
        atoms.calc = calculator
    step()
    force = np.asarray(calculator.results["forces"], np.float64)
    if not np.isfinite(force).all():
        raise ValueError(f"{KIND} {model}: forces are not finite")
    facts: dict[str, Any] = {"force_rms_ev_per_a": float(np.sqrt(np.mean(force**2)))}
    if case.get("phases"):
        facts["phases_us_per_atom"] = phases(calculator, atoms, positions)
    return Opened(step, facts)


def phases(calculator: Any, atoms: Atoms, positions: Any) -> dict[str, float]:
    """Median time of each phase of the native engine, µs per atom."""
    from limbeck import _native

    core = calculator._session._system._core
    times = []
    for _ in range(PHASE_CALLS):
        *_, seconds = core.evaluate(next(positions), atoms.cell.array, False, True)
        times.append(seconds)
    medians = 1e6 * np.median(times, axis=0) / len(atoms)
    return dict(zip(_native.PHASES, medians.tolist(), strict=True))


def describe() -> dict[str, Any]:
    versions = {}
    for name in LOADERS[KIND][1]:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    if KIND == "limbeck":
        import limbeck

        versions["limbeck"] = limbeck.__version__
    return {"versions": versions}


if __name__ == "__main__":
    serve(open_model, describe)
