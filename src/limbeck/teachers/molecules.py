"""Teachers for molecules: SO3LR, GFN2-xTB, ANI-1x, AIMNet2."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from limbeck.core.labels import Labels
from limbeck.core.potential import Capabilities, Potential
from limbeck.core.structures import StructureBatch
from limbeck.errors import InputError
from limbeck.teachers.card import DTYPES, Loaded, TeacherCard
from limbeck.teachers.loaders import Batched, OneByOne, count_parameters, float64


def load_so3lr(card: TeacherCard, options: Mapping[str, Any], device: str, _: Path | None) -> Loaded:
    """The pretrained SO3LR. It sets torch's global default dtype, so it needs its own process.

    float64 by default: total energies are thousands of eV, so float32 resolves energy differences to about
    1 meV only.
    """
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    # stress costs about 5% and cannot be switched per structure
    calculator = SO3LRCalculator(device=device, default_dtype=options["dtype"], compute_stress=True)
    single = card.potential(calculator, precision=options["dtype"])
    # the calculator freezes all weights
    n_parameters = sum(count_parameters(network) for network in calculator.models)
    return Batched(single, lambda batch: _so3lr(calculator, batch)), n_parameters


def _so3lr(calculator: Any, batch: StructureBatch) -> Labels:
    """Several structures in one graph, built as in the package's calculator."""
    from so3krates_torch.data.atomic_data import AtomicData
    from so3krates_torch.data.utils import config_from_atoms
    from so3krates_torch.tools import torch_geometric

    calculator.key_specification.update(arrays_keys={calculator.charges_key: "Qs"})
    keys = calculator.key_specification
    cutoffs = {"cutoff": calculator.r_max, "cutoff_lr": calculator.r_max_lr}
    configs = [config_from_atoms(atoms, key_specification=keys) for atoms in batch.to_atoms()]
    graphs = [AtomicData.from_config(c, z_table=calculator.z_table, **cutoffs) for c in configs]
    joined = torch_geometric.batch.Batch.from_data_list(graphs).to(calculator.device)
    found = calculator.models[0](joined.to_dict(), compute_stress=True)
    stress = float64(found["stress"]).reshape(-1, 3, 3)
    stress[~batch.periodic] = np.nan
    return Labels(energy=float64(found["energy"]), forces=float64(found["forces"]), stress=stress)


class GFN2(Potential):
    """tblite's single points, each started from the wavefunction of the last structure with the same atoms.

    This saves SCF cycles, as in tblite's ASE calculator, and changes labels within the SCF tolerance
    (energies by 1e-8 eV, forces by 1e-4 eV/Å). Without a multiplicity, odd numbers of electrons have one
    unpaired electron and even ones none, the default of tblite.
    """

    def __init__(self, _: None, capabilities: Capabilities, name: str) -> None:
        self.name, self.capabilities = name, capabilities
        # atoms, charge and multiplicity; calculator; result
        self._last: tuple[tuple[bytes, float, int], Any, Any] | None = None

    def evaluate(self, batch: StructureBatch) -> Labels:
        """Raises tblite's TBLiteRuntimeError if the SCF does not converge."""
        energy = np.zeros(len(batch))
        forces, atom_energies = np.zeros((batch.n_atoms, 3)), np.zeros(batch.n_atoms)
        for s in range(len(batch)):
            atoms = slice(batch.offsets[s], batch.offsets[s + 1])
            state = float(batch.charge[s]), int(batch.spin[s])
            found = self._single_point(batch.numbers[atoms], batch.positions[atoms], *state)
            energy[s] = found["energy"] * Hartree
            forces[atoms] = -found["gradient"] * (Hartree / Bohr)
            atom_energies[atoms] = found["energies"] * Hartree
        return Labels(energy, forces, atom_energies=atom_energies)

    def _single_point(self, numbers: np.ndarray, positions: np.ndarray, charge: float, spin: int) -> Any:
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator

        same = (np.asarray(numbers, np.int64).tobytes(), charge, spin)
        found, last, self._last = None, self._last, None  # set again after a success
        if last is not None and last[0] == same:
            _, calculator, before = last
            # a bad initial guess: start anew below
            with contextlib.suppress(TBLiteRuntimeError):
                calculator.update(positions / Bohr)
                found = calculator.singlepoint(before)
        if found is None:
            unpaired = spin - 1 if spin else None
            calculator = Calculator("GFN2-xTB", numbers, positions / Bohr, charge=charge, uhf=unpaired)
            calculator.set("verbosity", 0)
            found = calculator.singlepoint()
        self._last = (same, calculator, found)
        return found


def load_gfn2(card: TeacherCard, _: Mapping[str, Any], __: str, ___: Path | None) -> Loaded:
    """GFN2-xTB on the CPU; not a network, so no number of parameters."""
    return card.potential(None, GFN2), None


_ANI_FOLDER = "resources/ani-1x_8x"
_ANI_MEMBERS = 8


def load_ani(card: TeacherCard, options: Mapping[str, Any], device: str, _: Path | None) -> Loaded:
    """The eight networks, read from files of the wheel, because ``ANI1x()`` would download them again.

    They were trained in float32; float64 resolves differences of energies of hundreds of Hartree.
    """
    import torch
    import torchani
    from torchani import AEVComputer, SpeciesConverter, neurochem
    from torchani.models import BuiltinEnsemble

    folder = Path(torchani.__file__).parent / _ANI_FOLDER
    constants = neurochem.Constants(str(next(folder.glob("*.params"))))
    shifter, zeros = neurochem.load_sae(str(folder / "sae_linfit.dat"), return_dict=True)
    networks = neurochem.load_model_ensemble(constants.species, str(folder / "train"), _ANI_MEMBERS)
    parts = SpeciesConverter(constants.species), AEVComputer(**constants), networks, shifter
    about = constants.species_to_tensor, constants, zeros
    model = BuiltinEnsemble(*parts, *about, periodic_table_index=True)
    model = model.to(device=device, dtype=getattr(torch, options["dtype"])).requires_grad_(False)
    return card.potential(model, AniPotential, precision=options["dtype"]), count_parameters(model)


class AniPotential(OneByOne):
    """The mean of an ANI ensemble, with one backward pass per structure."""

    def single(self, atoms: Atoms) -> Labels:
        import torch

        like = next(self.model.parameters())
        strain = torch.eye(3, dtype=like.dtype, device=like.device, requires_grad=True)
        periodic = {}
        if atoms.pbc.any():
            atoms.wrap()  # images are those of atoms inside the cell
            cell = torch.tensor(np.array(atoms.cell.complete()), dtype=like.dtype, device=like.device)
            periodic = {"cell": cell @ strain, "pbc": torch.tensor(atoms.pbc, device=like.device)}
        positions = torch.tensor(atoms.positions, dtype=like.dtype, device=like.device)
        positions.requires_grad_()
        numbers = torch.tensor(atoms.numbers, dtype=torch.long, device=like.device)[None]  # (1, N)
        of_atoms = self.model.atomic_energies((numbers, (positions @ strain)[None]), **periodic).energies[0]
        gradients = torch.autograd.grad(of_atoms.sum(), (positions, strain), allow_unused=True)
        by_atom, by_strain = (  # dE/dx (N, 3), dE/dstrain (3, 3); None for an atom without neighbours
            np.zeros(shape) if part is None else float64(part) * Hartree
            for part, shape in zip(gradients, ((len(atoms), 3), (3, 3)), strict=True)
        )
        atom_energies = float64(of_atoms) * Hartree
        stress = np.full((1, 3, 3), np.nan)
        if atoms.pbc.all():
            stress[0] = (by_strain + by_strain.T) / (2 * atoms.get_volume())
        return Labels(np.array([atom_energies.sum()]), -by_atom, stress, atom_energies)


def load_aimnet2(card: TeacherCard, _: Mapping[str, Any], device: str, path: Path | None) -> Loaded:
    """The model of a version-2 file (``.pt``); elements are those of the file.

    The file refers only to classes of aimnet and torch, and is read without unpickling code.
    """
    from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator

    if path is not None and path.suffix.lower() == ".jpt":
        wanted = "a model file in version 2 of the format, .pt, as downloaded by aimnet"
        raise InputError("unsupported format, which contains compiled code", got=".jpt", wanted=wanted)
    base = AIMNet2Calculator(str(path), device=device)
    species = (base.metadata or {}).get("implemented_species")
    if not species:
        raise InputError("model file without elements")
    if base.is_nse:
        what = "model with spin charges, which needs the multiplicity of each structure"
        raise InputError(what, wanted="a model for closed shells")
    elements = frozenset(int(z) for z in species)
    return card.potential(AIMNet2ASE(base), elements=elements), count_parameters(base.model)


# fmt: off
CARDS = (
    TeacherCard(
        name="so3lr", package="so3krates_torch", requirement="so3krates-torch==0.2.1",
        domain="organic molecules, their complexes, biomolecules and solvents (PBE0+MBD), closed shells",
        licence="MIT", citation="Kabylda et al., J. Am. Chem. Soc. 2025; doi 10.1021/jacs.5c09558",
        load=load_so3lr, weights="pretrained/so3lr/so3lr.model", batch_atoms=128,
        options={"dtype": "float64"}, choices={"dtype": DTYPES},
        # H C N O F P S Cl, the elements of the paper; the network accepts any.
        elements=frozenset([1, 6, 7, 8, 9, 15, 16, 17]),
        # Trained on whole molecules only: atomization energies from its own atoms are wrong (H2 8.2 eV, in
        # experiment 4.75; water 16.1 eV, in experiment 10.1).
        isolated_atoms=False,
        # The package reads info["charge"]. There is an input for spin, but training used singlets only.
        charge=True,
    ),
    TeacherCard(
        name="gfn2-xtb", package="tblite", requirement="tblite==0.8.0", environment="xtb",
        domain="molecules and complexes of H-Rn (semiempirical GFN2-xTB), no periodicity",
        licence="LGPL-3.0-or-later",
        citation="Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652; doi 10.1021/acs.jctc.8b01176",
        load=load_gfn2, elements=frozenset(range(1, 87)), atom_energies=True, charge=True, spin=True,
        # Periodic systems use the Γ point only, so a cell and its supercell differ (diamond, 8 and 16 atoms:
        # by 0.84 eV per atom).
        periodic=False, stress=False,
        # Its atoms have no spin: atomization energies are wrong (water 14.0 eV, in experiment 10.1; N2 14.8,
        # in experiment 9.9), and with bonds stretched to 4 Å some SCFs do not converge (CO).
        isolated_atoms=False,
    ),
    TeacherCard(
        name="ani-1x", package="torchani", requirement="torchani==2.2.4", environment="ani",
        domain="organic molecules (wB97X/6-31G*, active learning), neutral and closed-shell",
        licence="MIT", citation="Smith et al., J. Chem. Phys. 2018, 148, 241733; doi 10.1063/1.5023802",
        load=load_ani, weights=_ANI_FOLDER, smoke="torchani.neurochem",
        options={"dtype": "float64"}, choices={"dtype": DTYPES},
        elements=frozenset([1, 6, 7, 8]), atom_energies=True,
        # Atomic energies are a linear fit to molecules; the training set had no isolated atoms.
        isolated_atoms=False,
    ),
    TeacherCard(
        name="aimnet2", package="aimnet", requirement="aimnet==0.2.5",
        domain="organic and main-group molecules (wB97M-D3 or B97-3c), taken as neutral closed shells",
        licence="MIT", citation="Anstine et al., Chem. Sci. 2025, 16, 10228; doi 10.1039/D4SC08572H",
        load=load_aimnet2, smoke="aimnet.calculators", options={"model": None}, file_option="model",
        precision="float32", isolated_atoms=False,
        # In periodic structures Coulomb sum and dispersion are cut at 15 Å; the stress of a small cell
        # differed from the derivative of the energy by 1%.
        periodic=False, stress=False,
        # charges flow between separate molecules; only the total charge is fixed
        extensive=False,
    ),
)
# fmt: on
