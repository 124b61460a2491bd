"""SevenNet-0, -l3i5 and -MF-0: equivariant message passing trained on MPtrj crystals, float32.

Source: Park, Kim, Hwang, Han, J. Chem. Theory Comput. 2024, 20, 4857 (doi 10.1021/acs.jctc.4c00190);
MF-0: Kim et al., J. Am. Chem. Soc. 2025, 147, 1042 (doi 10.1021/jacs.4c14455).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from limbeck.core.labels import Labels
from limbeck.core.potential import AsePotential, Potential
from limbeck.core.structures import StructureBatch
from limbeck.teachers.card import TeacherCard
from limbeck.teachers.loaders import Batched
from limbeck.teachers.support import count_parameters

# The element map of the checkpoints: H-Bi and Ac-Pu, the 89 elements of MPtrj (Deng et al. 2023).
MPTRJ_ELEMENTS = frozenset([*range(1, 84), *range(89, 95)])
_MODEL = {"sevennet-0": "7net-0", "sevennet-l3i5": "7net-l3i5", "sevennet-mf-0": "7net-mf-0"}


def _card(name: str, weights: str, domain: str, batch_atoms: int = 32) -> TeacherCard:
    return TeacherCard(
        name=name,
        package="sevenn",
        distribution="sevenn",
        requirement="sevenn==0.13.0",
        extra="sevennet",
        elements=MPTRJ_ELEMENTS,
        domain=f"inorganic crystals ({domain}; molecules off domain",
        licence="MIT",
        citation="Park et al., J. Chem. Theory Comput. 2024, 20, 4857; doi 10.1021/acs.jctc.4c00190",
        atom_energies=True,
        # Separated atoms cost what PBE says of them: H2O -10.3, H2 -4.8, Si -4.1, Cu -3.4 eV; those of
        # MF-0 too: H2O -10.7, H2 -5.1, Si -4.1 for PBE, -10.0, -4.9, -4.4 for r2SCAN.
        isolated_atoms=True,
        # The checkpoint says is_parity = False: equivariant to rotations alone.
        reflection=False,
        precision="float32",
        batch_atoms=batch_atoms,
        weights=weights,
    )


CARDS = (
    _card(
        "sevennet-0",
        "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "MPtrj, PBE and PBE+U relaxations), version of 11 July 2024",
    ),
    _card(
        "sevennet-l3i5",
        "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth",
        "MPtrj, PBE and PBE+U relaxations), l = 3, five interactions: more accurate, about 2.5 times slower",
        batch_atoms=16,
    ),
    replace(
        _card(
            "sevennet-mf-0",
            "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
            "MPtrj), one network of two fidelities: option modal is PBE (and PBE+U) or R2SCAN",
        ),
        citation="Kim et al., J. Am. Chem. Soc. 2025, 147, 1042; doi 10.1021/jacs.4c14455",
        options={"modal": "PBE"},
        choices={"modal": ("PBE", "R2SCAN")},
    ),
)


def load(card: TeacherCard, options: Mapping[str, Any], device: str) -> tuple[Potential, int]:
    """The pretrained SevenNet on ``device`` and its number of parameters; sets nothing global."""
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator(model=_MODEL[card.name], device=device, modal=options.get("modal"))
    # Its authors' count leaves out the frozen shifts and scales of the elements.
    n_parameters = count_parameters(calculator.model, frozen=False)
    one_by_one = AsePotential(calculator, card.capabilities, card.name)
    return Batched(one_by_one, _Together(calculator)), n_parameters


class _Together:
    """Several structures in one graph, as the package's own inference script does."""

    def __init__(self, calculator: Any) -> None:
        self.calculator = calculator

    def __call__(self, batch: StructureBatch) -> Labels:
        import sevenn._keys as keys
        from torch_geometric.data import Batch

        model = self.calculator.model
        joined = Batch.from_data_list(self._graphs(batch)).to(self.calculator.device)
        model.set_is_batch_data(True)
        try:
            found = model(joined)
        finally:
            # The calculator, which takes what is alone, needs the other form.
            model.set_is_batch_data(False)

        def array(key: str) -> np.ndarray:
            return found[key].detach().cpu().numpy().astype(np.float64)

        # The package's stress is positive in compression and ordered xx yy zz xy yz zx.
        voigt = -array(keys.PRED_STRESS)[:, [0, 1, 2, 4, 5, 3]]  # (S, 6)
        stress = np.array([voigt_6_to_full_3x3_stress(row) for row in voigt])  # (S, 3, 3)
        stress[~batch.periodic] = np.nan
        return Labels(
            energy=array(keys.PRED_TOTAL_ENERGY).reshape(-1),
            forces=array(keys.PRED_FORCE),
            stress=stress,
            atom_energies=array(keys.ATOMIC_ENERGY).reshape(-1),
        )

    def _graphs(self, batch: StructureBatch) -> list[Any]:
        import sevenn._keys as keys
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        graphs = []
        for atoms in batch.to_atoms():
            arrays = unlabeled_atoms_to_graph(atoms, self.calculator.cutoff, with_shift=False)
            graph = AtomGraphData.from_numpy_dict(arrays)
            if self.calculator.modal:
                graph[keys.DATA_MODALITY] = self.calculator.modal
            graphs.append(graph)
        return graphs
