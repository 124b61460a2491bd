"""Small model files with random weights, each made by its own package's code, in its environment.

    python build_model.py mace OUT

Run by the environment's Python, where neither Limbeck nor pytest is installed.
"""

from __future__ import annotations

import sys


def mace(path: str) -> None:
    # First, because it lets e3nn load its own constants.
    import mace.calculators  # noqa: F401  # isort: skip
    import numpy as np
    import torch
    from e3nn import o3
    from mace import modules

    torch.set_default_dtype(torch.float64)
    model = modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=4,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([-0.5, -1.0, -1.5, -2.0]),
        avg_num_neighbors=8.0,
        atomic_numbers=[1, 6, 8, 14],
        correlation=2,
        radial_type="bessel",
        atomic_inter_scale=1.5,
        atomic_inter_shift=0.1,
    )
    torch.save(model, path)


def orb(path: str) -> None:
    import torch
    from orb_models.forcefield import pretrained

    pretrained.load_model = lambda model, *_, **__: model
    model = pretrained.ORB_PRETRAINED_MODELS["orb-v3-conservative-inf-omat"](device="cpu", compile=False)
    torch.save(model.state_dict(), path)


if __name__ == "__main__":
    import torch

    torch.manual_seed(0)
    {"mace": mace, "orb": orb}[sys.argv[1]](sys.argv[2])
