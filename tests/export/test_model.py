"""The module behind every format, and its trace, against the native engine and PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import fx

from limbeck.core.structures import StructureBatch
from limbeck.export.model import cell_volume, example_inputs, to_program, zbl_energy
from limbeck.export.runner import INPUT_NAMES
from limbeck.export.runtimes import make_inputs
from limbeck.runtime.student import Student
from limbeck.students.baseline import zbl
from tests.export.tools import STRUCTURES, evaluate, make_model, small_graph, small_record, small_student
from tests.students.tools import SYSTEMS


@pytest.fixture(scope="module")
def program():
    graph = small_graph()
    return to_program(graph.traced, graph.model)


def assert_same(found, wanted, frames, *, relative):
    """Within ``relative`` of the forces and of the atoms' energies, and stress zero without a cell."""
    force = relative * (0.5 + np.abs(wanted.forces).max(initial=0.0))
    assert np.abs(found["forces"] - wanted.forces).max() <= force
    size = np.abs(wanted.atom_energies).max()
    assert np.abs(found["atom_energies"] - wanted.atom_energies).max() <= relative * size
    assert np.abs(found["energy"] - wanted.energy).max() <= relative * size * len(found["forces"])
    for s, atoms in enumerate(frames):
        if atoms.pbc.all():
            assert np.abs(found["stress"][s] - wanted.stress[s]).max() <= force
        elif not atoms.cell.rank:
            assert (found["stress"][s] == 0).all()
        np.testing.assert_array_equal(found["stress"][s], found["stress"][s].T)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_module_and_its_trace_are_the_student(name, program):
    frames, record = STRUCTURES[name], small_record(np.float64)
    exact = Student(record, engine="torch", threads=1).evaluate(frames)
    assert_same(evaluate(make_model(record), frames), exact, frames, relative=1e-12)
    wanted = small_student().evaluate(frames)
    with torch.no_grad():  # the backward pass is in the graph: nothing is differentiated any more
        for call in (small_graph().traced, program.module()):
            assert_same(evaluate(call, frames), wanted, frames, relative=3e-6)


def test_neighbours_beyond_the_cutoff_change_nothing():
    atoms = SYSTEMS["triclinic"]
    model = make_model(small_record(np.float64))
    skin = evaluate(model, [atoms], 6.0)
    np.testing.assert_allclose(skin["forces"], evaluate(model, [atoms])["forces"], rtol=0, atol=1e-14)


def test_no_operator_names_a_device_and_no_constant_is_large(program):
    traced: fx.GraphModule = small_graph().traced
    assert not [n for n in traced.graph.nodes if "device" in n.kwargs]
    held = dict(traced.named_buffers())
    record = small_record()
    weights = {name: v for name, v in held.items() if name.startswith("network_weight_")}
    assert sum(v.numel() for v in weights.values()) == record.architecture.n_parameters
    assert max(v.numel() for name, v in held.items() if name not in weights) <= 119
    assert not [name for name in held if name.startswith("_tensor_constant")]
    with torch.inference_mode():
        outputs = program.module()(*example_inputs(small_graph().model))
    assert not any(value.requires_grad for value in outputs)
    # a number in the graph is rounded to float32 by the ONNX exporter: 1e-8 of every repulsion
    for node in traced.graph.nodes:
        if getattr(node.meta.get("val"), "dtype", None) == torch.float64 and "clamp" not in str(node.target):
            numbers = [x for x in node.args if isinstance(x, float)]
            assert numbers == np.float32(numbers).tolist(), node.format_node()


def test_an_unknown_element_gives_nan_and_a_number_that_is_none_an_error():
    suspicious = Atoms("OXe", positions=[[0, 0, 0], [0, 0, 2.0]])
    found = evaluate(small_graph().traced, [suspicious, SYSTEMS["molecule"]])
    assert np.isnan(found["energy"][0])
    assert np.isnan(found["forces"][1]).all()
    assert np.isfinite(found["energy"][1])
    for number in (-1, 119):
        inputs = make_inputs(StructureBatch.from_atoms([Atoms("O")]), 5.0)
        inputs["atomic_numbers"][:] = number
        with pytest.raises((IndexError, RuntimeError)):
            small_graph().traced(*(torch.from_numpy(inputs[name]) for name in INPUT_NAMES))


def test_repulsion_is_that_of_the_baseline_and_the_volume_a_determinant():
    rng = np.random.default_rng(0)
    z1, z2 = rng.integers(1, 80, (2, 50))
    r, radius = rng.uniform(0.05, 3.0, 50), rng.uniform(0.5, 2.5, 50)
    wanted, slope = zbl(z1, z2, r, radius)
    distance = torch.from_numpy(r).requires_grad_()
    energy = zbl_energy(torch.from_numpy(z1), torch.from_numpy(z2), distance, torch.from_numpy(radius))
    np.testing.assert_allclose(energy.detach(), wanted, rtol=1e-12)
    (derivative,) = torch.autograd.grad(energy.sum(), distance)
    np.testing.assert_allclose(derivative, slope, rtol=1e-10, atol=1e-12)

    cells = np.random.default_rng(1).normal(size=(7, 3, 3))
    cells[3] = 0
    np.testing.assert_allclose(cell_volume(torch.from_numpy(cells)), np.abs(np.linalg.det(cells)), atol=1e-12)


def test_both_directions_of_every_pair_are_listed():
    atoms = SYSTEMS["two atoms in a cell smaller than the cutoff"]
    inputs = make_inputs(StructureBatch.from_atoms([atoms, atoms]), 5.0)
    (i, j), shift = inputs["edge_index"], inputs["edge_shift"]
    listed = {(a, b, *np.round(s, 6)) for a, b, s in zip(i, j, shift, strict=True)}
    assert len(listed) == len(i)
    assert {(b, a, *np.round(-s, 6)) for a, b, s in zip(i, j, shift, strict=True)} == listed
    assert i.max() == 3
