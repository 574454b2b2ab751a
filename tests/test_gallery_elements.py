"""The gallery's finite elements: exactness, null spaces, and agreement with other codes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from sparse_solver import gallery

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def symmetric(A: torch.Tensor) -> bool:
    return torch.allclose(A, A.T, rtol=1e-14, atol=0)


def square_mesh() -> tuple[torch.Tensor, torch.Tensor]:
    vertices = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1], [0.4, 0.55]], dtype=F64)
    return vertices, torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])


def cube_mesh() -> tuple[torch.Tensor, torch.Tensor]:
    """Six tetrahedra around the main diagonal of a sheared cube."""
    corners = torch.cartesian_prod(*[torch.arange(2)] * 3)
    steps = {tuple(c): i for i, c in enumerate(corners.tolist())}
    tets = []
    for order in itertools.permutations(range(3)):
        at, tet = [0, 0, 0], [0]
        for axis in order:
            at[axis] = 1
            tet.append(steps[tuple(at)])
        tets.append(tet)
    shear = torch.tensor([[1, 0.2, 0], [0, 1, 0.3], [0.1, 0, 1]], dtype=F64)
    return corners.to(F64) @ shear, torch.tensor(tets)


MESHES = {
    "segments": (torch.tensor([[0.0], [0.3], [1.0]], dtype=F64), torch.tensor([[0, 1], [1, 2]])),
    "triangles": gallery.refine_triangles(*square_mesh()),
    "tetrahedra": cube_mesh(),
}


@pytest.mark.parametrize("name", MESHES)
def test_diffusion_energy_of_linear_functions_is_exact(name):
    vertices, elements = MESHES[name]
    problem = gallery.diffusion(vertices, elements)
    g = random(vertices.shape[1], seed=2)
    kappa = random(problem.num_weights, seed=3) + 0.5
    u = 1 + vertices @ g
    A = problem.assemble(kappa)
    # integral of kappa |grad u|^2, with volumes by another formula: Cayley-Menger determinants
    energy = (kappa * volumes(vertices, elements)).sum() * (g @ g)
    torch.testing.assert_close(u @ (A @ u), energy)
    torch.testing.assert_close(problem.measure, volumes(vertices, elements))
    spectrum = torch.linalg.eigvalsh(A.to_dense())
    assert abs(spectrum[0]) < 1e-13 and spectrum[1] > 1e-3  # constants alone are lost
    assert symmetric(A.to_dense())


def volumes(vertices: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
    corners = vertices[elements]
    p = elements.shape[1]
    d = p - 1
    border = torch.ones(len(elements), p + 1, p + 1, dtype=F64)
    border[:, 0, 0] = 0
    border[:, 1:, 1:] = torch.cdist(corners, corners).square()
    factor = (-1) ** (d + 1) / (2**d * math.factorial(d) ** 2)
    return (factor * torch.linalg.det(border)).sqrt()


def test_diffusion_passes_the_patch_test():
    vertices, triangles = gallery.refine_triangles(*gallery.refine_triangles(*square_mesh()))
    u = 1 + vertices @ torch.tensor([2.0, -3.0], dtype=F64)
    A = gallery.diffusion(vertices, triangles).assemble(torch.ones(len(triangles), dtype=F64))
    edge = ((vertices == 0) | (vertices == 1)).any(1)
    residual = (A @ u)[~edge]
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-13)


def test_diffusion_on_a_right_angled_grid_is_the_five_point_stencil():
    s = 5
    number = torch.arange(s * s).reshape(s, s)
    a, b, c, d = (number[i : s - 1 + i, j : s - 1 + j].reshape(-1) for i in (0, 1) for j in (0, 1))
    triangles = torch.cat([torch.stack([a, c, b], 1), torch.stack([d, b, c], 1)])
    vertices = torch.cartesian_prod(*[torch.arange(s, dtype=F64)] * 2)
    A = gallery.diffusion(vertices, triangles).assemble(torch.ones(len(triangles), dtype=F64))
    inner = number[1:-1, 1:-1].reshape(-1)
    stencil = gallery.grid_laplacian((s - 2, s - 2)).to_dense()
    torch.testing.assert_close(A.to_dense()[inner][:, inner], stencil)


def test_diffusion_refuses_flat_elements_and_odd_shapes():
    vertices = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"element 1 .*\[0, 1, 2\] has no volume"):
        gallery.diffusion(vertices, torch.tensor([[0, 1, 3], [0, 1, 2]]))
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(m, 3\)"):
        gallery.diffusion(vertices, torch.tensor([[0, 1, 2, 3]]))


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2)])
def test_free_elasticity_loses_the_rigid_motions_and_nothing_else(shape):
    problem = gallery.elasticity_elements(shape, spacing=[0.5, 2.0, 1.5][: len(shape)])
    modulus = random(problem.num_weights) + 0.1
    A = problem.assemble(modulus).to_dense()
    R = gallery.rigid_body_modes(problem.vertices)
    d = len(shape)
    assert R.shape == (problem.n, d * (d + 1) // 2)
    assert torch.linalg.matrix_rank(R) == R.shape[1]
    torch.testing.assert_close(A @ R, torch.zeros_like(R), rtol=0, atol=1e-12)
    spectrum = torch.linalg.eigvalsh(A)
    assert spectrum[R.shape[1] - 1] < 1e-12 and spectrum[R.shape[1]] > 1e-3
    assert symmetric(A)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_elasticity_stores_the_right_energy_for_constant_strain(shape):
    d, nu, E = len(shape), 0.27, 3.0
    spacing = [0.5, 2.0, 1.5][:d]
    problem = gallery.elasticity_elements(shape, nu, spacing)
    gradient = random(d, d, seed=4) - 0.5
    u = (problem.vertices @ gradient.T).reshape(-1)
    A = problem.assemble(torch.full((problem.num_weights,), E, dtype=F64))
    # Hooke's law by the compliance: strain = ((1 + nu) stress - nu tr(stress) I) / E in 3-D
    strain = torch.zeros(3, 3, dtype=F64)
    strain[:d, :d] = (gradient + gradient.T) / 2
    i = torch.eye(3, dtype=F64)
    compliance = ((1 + nu) * torch.eye(9, dtype=F64) - nu * torch.outer(i.ravel(), i.ravel())) / E
    stress = torch.linalg.solve(compliance, strain.ravel()).reshape(3, 3)
    volume = math.prod(s * h for s, h in zip(shape, spacing))
    torch.testing.assert_close(u @ (A @ u), (stress * strain).sum() * volume)
    # ... and no force inside the body
    at = torch.cartesian_prod(*[torch.arange(s + 1) for s in shape])
    inside = ((at > 0) & (at < torch.tensor(shape))).all(1)
    force = (A @ u).reshape(-1, d)[inside]
    assert len(force) > 0
    torch.testing.assert_close(force, torch.zeros_like(force), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 2), (4, 2, 2)])
def test_clamped_elasticity_is_positive_definite_and_a_part_of_the_free_one(shape):
    free = gallery.elasticity(shape, clamped=False).to_dense()
    A = gallery.elasticity(shape).to_dense()
    held = len(free) - len(A)
    assert held == len(shape) * math.prod(s + 1 for s in shape[1:])
    torch.testing.assert_close(A, free[held:, held:])
    assert torch.linalg.eigvalsh(A).min() > 1e-4


def test_a_long_cantilever_bends_as_beam_theory_says():
    length, height = 40, 4
    A = gallery.elasticity((length, height), 0.0)
    load = torch.zeros(A.shape[0], dtype=F64)
    tip = torch.arange(A.shape[0] - 2 * (height + 1), A.shape[0]).reshape(-1, 2)[:, 1]
    load[tip] = 1 / len(tip)
    deflection = torch.linalg.solve(A.to_dense(), load)[tip].mean()
    euler = length**3 / (3 * height**3 / 12)
    assert abs(deflection / euler - 1) < 0.05  # shear adds a little, linear elements lose a little


def test_elasticity_is_pyamgs_up_to_the_numbering():
    pyamg_gallery = pytest.importorskip("pyamg.gallery", reason="pyamg is not installed")
    theirs, _ = pyamg_gallery.linear_elasticity((3, 3), E=1.0, nu=0.3)  # all sides held
    problem = gallery.elasticity_elements((4, 4), 0.3)
    inner = torch.arange(25).reshape(5, 5)[1:-1, 1:-1].T.reshape(-1)  # x fastest
    dofs = (2 * inner[:, None] + torch.arange(2)).reshape(-1)
    ours = problem.assemble(torch.ones(problem.num_weights, dtype=F64)).to_dense()[dofs][:, dofs]
    np.testing.assert_allclose(ours.numpy(), theirs.toarray(), atol=1e-12)


def test_elasticity_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="2 or 3 axes"):
        gallery.elasticity_elements((4,))
    with pytest.raises(ValueError, match="0.5"):
        gallery.elasticity_elements((4, 4), 0.5)


def test_refined_triangles_keep_area_vertices_and_nesting():
    vertices, triangles = square_mesh()
    finer, small = gallery.refine_triangles(vertices, triangles)
    assert torch.equal(finer[: len(vertices)], vertices)
    assert len(finer) == len(vertices) + 8 and len(torch.unique(finer, dim=0)) == len(finer)
    areas = volumes(finer, small).reshape(-1, 4)
    torch.testing.assert_close(areas, volumes(vertices, triangles)[:, None].expand(-1, 4) / 4)
    centres = finer[small].mean(1).reshape(-1, 4, 2).mean(1)
    torch.testing.assert_close(centres, vertices[triangles].mean(1))
    sides = finer[small][:, 1:] - finer[small][:, :1]
    assert bool((torch.linalg.det(sides) > 0).all())  # orientation as before


def test_the_airfoil_matrix_is_p1_diffusion_on_its_mesh():
    pytest.importorskip("pyamg", reason="pyamg is not installed")
    airfoil = gallery.load("airfoil")
    n = airfoil.matrix.shape[0]
    problem = gallery.diffusion(airfoil.vertices, airfoil.elements)
    ours = problem.assemble(torch.ones(problem.num_weights, dtype=F64)).to_dense()[:n, :n]
    torch.testing.assert_close(ours, airfoil.matrix.to_dense(), rtol=1e-10, atol=1e-10)
