"""What the gallery's problems claim to be, against references that share no code with them."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import sparse_solver as ss
from sparse_solver import gallery

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kron(*factors: np.ndarray) -> np.ndarray:
    return functools.reduce(np.kron, factors)


def symmetric(A: torch.Tensor) -> bool:
    return torch.allclose(A, A.T, rtol=1e-14, atol=0)


# ---- weighted graphs ----


def laplacian_by_loop(n: int, edges: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    A = torch.eye(n, dtype=w.dtype)
    for (i, j), weight in zip(edges.tolist(), w):
        e = torch.zeros(n, dtype=w.dtype)
        e[i] += 1
        e[j] -= 1  # a self loop cancels
        A += weight * torch.outer(e, e)
    return A


GRAPHS = [
    gallery.random_edge_graph(10, generator=seeded(0)),
    gallery.grid_graph((7,)),
    gallery.grid_graph((3, 4)),
    gallery.grid_graph((2, 3, 4)),
]


@pytest.mark.parametrize("problem", GRAPHS, ids=["random", "1d", "2d", "3d"])
def test_graph_is_identity_plus_laplacian(problem):
    w = random(problem.num_weights)
    expected = laplacian_by_loop(problem.n, problem.edges, w)
    torch.testing.assert_close(problem.assemble(w).to_dense(), expected)
    by_torch = torch.sparse_coo_tensor(problem.indices, problem.values(w), expected.shape)
    torch.testing.assert_close(by_torch.to_dense(), expected)


@pytest.mark.parametrize("shape", [(1,), (6,), (4, 5), (2, 3, 4)])
def test_grid_edges_join_neighbours_once(shape):
    edges = gallery.grid_graph(shape).edges
    at = np.stack(np.unravel_index(edges.numpy(), shape), -1)  # (m, 2, d)
    assert (np.abs(at[:, 0] - at[:, 1]).sum(-1) == 1).all()
    assert len(torch.unique(edges, dim=0)) == len(edges)
    assert len(edges) == sum((s - 1) * math.prod(shape) // s for s in shape)


def test_random_graph_draws_what_the_original_drew():
    edges = gallery.random_edge_graph(10, generator=seeded(0)).edges
    drawn = torch.randint(0, 10, (60, 2), generator=seeded(0))
    assert torch.equal(edges, torch.unique(drawn, dim=0))
    again = gallery.random_edge_graph(10, generator=seeded(0)).edges
    other = gallery.random_edge_graph(10, generator=seeded(1)).edges
    assert torch.equal(edges, again) and not torch.equal(edges, other)
    assert gallery.random_edge_graph(10, 7, generator=seeded(0)).num_weights <= 7


def test_cyclic_chain_is_the_originals():
    n = 6
    theta = random(n)
    x = random(n, seed=1)
    A = gallery.cyclic_chain(n).assemble(theta).to_dense()
    assert symmetric(A)
    energy = x @ x + (theta * (x - x.roll(-1)) ** 2).sum()
    torch.testing.assert_close(x @ A @ x, energy)
    e = torch.eye(n, dtype=F64)
    edges = torch.tensor([[i, (i + 1) % n] for i in range(n)])
    torch.testing.assert_close(A, laplacian_by_loop(n, edges, theta))
    assert torch.linalg.eigvalsh(A - e).min() > -1e-14


@pytest.mark.parametrize("n", [1, 2])
def test_shortest_chains(n):
    theta = random(n)
    A = gallery.cyclic_chain(n).assemble(theta).to_dense()
    edges = torch.tensor([[i, (i + 1) % n] for i in range(n)])
    torch.testing.assert_close(A, laplacian_by_loop(n, edges, theta))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_weights_choose_the_dtype(dtype):
    for problem in (gallery.cyclic_chain(5), gallery.grid_graph((2, 3))):
        assert problem.assemble(torch.ones(problem.num_weights, dtype=dtype)).dtype == dtype


def test_weights_may_be_batched_and_are_differentiable():
    elastic = gallery.elasticity_elements((2, 3))
    for problem in (gallery.grid_graph((3, 3)), gallery.cyclic_chain(5), elastic):
        w = random(2, 3, problem.num_weights)
        A = problem.assemble(w)
        assert A.shape == (2, 3, problem.n, problem.n)
        one = problem.assemble(w[1, 2]).to_dense()
        torch.testing.assert_close(A.to_dense()[1, 2], one)
        assert torch.autograd.gradcheck(problem.values, w[0, 0].clone().requires_grad_())


def test_wrong_number_of_weights_is_told():
    problem = gallery.grid_graph((3, 3))
    with pytest.raises(ValueError, match=r"\(11,\).*\(\*B, 12\).*GraphLaplacian"):
        problem.assemble(torch.ones(11))
    with pytest.raises(ValueError, match=r"\(\)"):
        problem.values(torch.tensor(1.0))


# ---- scalar equations on grids ----


def second_difference(s: int) -> np.ndarray:
    return 2 * np.eye(s) - np.eye(s, k=1) - np.eye(s, k=-1)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (1, 3)])
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
def test_grid_laplacian_has_the_known_matrix_and_spectrum(shape, boundary):
    A = gallery.grid_laplacian(shape, boundary).to_dense()
    expected, spectrum = 0, np.zeros(1)
    for axis, s in enumerate(shape):
        T = second_difference(s)
        if boundary == "neumann":
            T[0, 0] -= 1
            T[-1, -1] -= 1
        factors = [np.eye(k) for k in shape]
        factors[axis] = T
        expected = expected + kron(*factors)
        turns = {"dirichlet": np.arange(1, s + 1) / (s + 1), "neumann": np.arange(s) / s}[boundary]
        spectrum = np.add.outer(spectrum, 4 * np.sin(np.pi * turns / 2) ** 2).ravel()
    np.testing.assert_array_equal(A.numpy(), expected)
    np.testing.assert_allclose(np.linalg.eigvalsh(A.numpy()), np.sort(spectrum), atol=1e-12)


def test_grid_laplacian_chooses_the_dtype():
    assert gallery.grid_laplacian((3, 3), dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("wind", [(1.0, -2.0), (0.0, 3.0), (-1.5, 0.0)])
def test_convection_diffusion_with_constant_wind_is_a_kronecker_sum(wind):
    shape, eps = (4, 5), 0.03
    one_d = []
    for s, v in zip(shape, wind):
        h = 1 / (s + 1)
        backward, forward = np.eye(s) - np.eye(s, k=-1), np.eye(s, k=1) - np.eye(s)
        one_d.append(eps * second_difference(s) / h**2 + v * (backward if v > 0 else forward) / h)
    expected = np.kron(one_d[0], np.eye(5)) + np.kron(np.eye(4), one_d[1])
    A = gallery.convection_diffusion(shape, eps, wind).to_dense()
    np.testing.assert_allclose(A.numpy(), expected, atol=1e-12)


def test_convection_diffusion_is_an_unsymmetric_m_matrix():
    A = gallery.convection_diffusion((6, 7, 3)).to_dense()
    off = A - torch.diag(A.diagonal())
    assert not torch.allclose(A, A.T)
    assert bool((off <= 0).all()) and bool((A.diagonal() > 0).all())
    assert bool((torch.linalg.inv(A) >= -1e-14).all())
    P = gallery.convection_diffusion((6, 7)).pattern
    assert P.T == P


def test_upwind_differences_are_exact_for_linear_functions():
    shape = (7, 9)
    points = torch.cartesian_prod(*[torch.arange(1, s + 1, dtype=F64) / (s + 1) for s in shape])
    u = 2 + points @ torch.tensor([3.0, -1.0], dtype=F64)
    residual = gallery.convection_diffusion(shape, 0.1) @ u
    residual -= gallery.recirculating_wind(points) @ torch.tensor([3.0, -1.0], dtype=F64)
    inner = residual.reshape(shape)[1:-1, 1:-1]  # elsewhere a neighbour is the zero boundary
    torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-11)


def test_recirculating_wind_neither_diverges_nor_leaves_the_square():
    points = random(20, 2).requires_grad_()
    J = torch.autograd.functional.jacobian(lambda p: gallery.recirculating_wind(p).sum(0), points)
    divergence = J[0, :, 0] + J[1, :, 1]
    torch.testing.assert_close(divergence, torch.zeros(20, dtype=F64), rtol=0, atol=1e-14)
    left = gallery.recirculating_wind(torch.tensor([[0.0, 0.3]]))
    assert left[0, 0] == 0


def test_helmholtz_lets_a_plane_wave_pass_with_error_of_second_order():
    k, errors = 10.0, []
    for s in (41, 81, 161):
        A = gallery.helmholtz((s,), k).to_dense()
        b = torch.zeros(s, dtype=torch.complex128)
        b[0] = -2j * k
        x = torch.linspace(0, 1, s, dtype=F64)
        errors.append((torch.linalg.solve(A, b) - torch.exp(1j * k * x)).abs().max().item())
    assert errors[-1] < 0.02
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.5 < errors[1] / errors[2] < 4.5


def test_helmholtz_in_two_dimensions_passes_the_wave_along_one():
    k, s = 6.0, 33
    A = gallery.helmholtz((s, 3), k).to_dense()
    # Along y nothing may be lost: undo the absorption at the two faces y = 0 and y = 1.
    length = torch.full((s,), 1 / (s - 1), dtype=F64)
    length[[0, -1]] /= 2
    absorbed = torch.zeros(s, 3, dtype=torch.complex128)
    absorbed[:, 0] = absorbed[:, 2] = -1j * k * length
    A = A - torch.diag(absorbed.reshape(-1))
    b = torch.zeros(s, 3, dtype=torch.complex128)
    b[0] = -2j * k * torch.tensor([0.25, 0.5, 0.25])
    u = torch.linalg.solve(A, b.reshape(-1)).reshape(s, 3)
    wave = torch.exp(1j * k * torch.linspace(0, 1, s, dtype=F64))
    assert (u - wave[:, None]).abs().max() < 0.02


@pytest.mark.parametrize("shape", [(30,), (11, 8), (5, 6, 5)])
def test_helmholtz_is_complex_symmetric_and_indefinite(shape):
    A = gallery.helmholtz(shape).to_dense()
    assert torch.equal(A, A.T) and not torch.allclose(A, A.conj().T)
    real = torch.linalg.eigvalsh(A.real)
    assert real.min() < 0 < real.max()
    assert torch.linalg.cond(A) < 1e6  # absorption keeps it away from resonances
    assert gallery.helmholtz(shape, dtype=torch.complex64).dtype == torch.complex64


# ---- systems with a zero block ----


@pytest.mark.parametrize("shape", [(4, 5), (2, 3), (3, 3, 4)])
def test_stokes_is_a_saddle_point_with_the_right_inertia(shape):
    A = gallery.stokes(shape, 0.7).to_dense()
    cells = math.prod(shape)
    velocities = sum(cells - cells // s for s in shape)
    assert A.shape[0] == velocities + cells - 1
    assert symmetric(A)
    assert bool((A[velocities:, velocities:] == 0).all())
    spectrum = torch.linalg.eigvalsh(A)
    assert int((spectrum < 0).sum()) == cells - 1 and spectrum.abs().min() > 1e-3


def test_free_pressure_is_the_only_thing_stokes_may_lose():
    A = gallery.stokes((4, 5), pin_pressure=False).to_dense()
    spectrum = torch.linalg.eigvalsh(A).abs().sort().values
    assert spectrum[0] < 1e-13 < 1e-3 < spectrum[1]
    constant = torch.zeros(len(A), dtype=F64)
    constant[-20:] = 1
    assert (A @ constant).abs().max() == 0


def test_stokes_flow_loses_no_mass():
    nx, ny = 6, 5
    A = gallery.stokes((nx, ny)).to_dense()
    f = torch.zeros(len(A), dtype=F64)
    f[: (nx - 1) * ny + nx * (ny - 1)] = random((nx - 1) * ny + nx * (ny - 1)) - 0.5
    x = torch.linalg.solve(A, f)
    u, v = torch.zeros(nx + 1, ny, dtype=F64), torch.zeros(nx, ny + 1, dtype=F64)  # zero on walls
    u[1:-1] = x[: (nx - 1) * ny].reshape(nx - 1, ny)
    v[:, 1:-1] = x[(nx - 1) * ny :][: nx * (ny - 1)].reshape(nx, ny - 1)
    outflow = u[1:] - u[:-1] + v[:, 1:] - v[:, :-1]
    assert u.abs().max() > 1e-2
    assert outflow.abs().max() < 1e-13


def test_stokes_is_exact_for_flow_between_parallel_walls():
    """Poiseuille: u = y (H - y) solves -u'' = 2, and the reflection at walls must see just that."""
    nx, ny = 3, 6
    A = gallery.stokes((nx, ny)).to_dense()
    y = torch.arange(ny, dtype=F64) + 0.5
    profile = y * (ny - y) + 0.25  # what linear reflection at the walls makes of the parabola
    row = A[: (nx - 1) * ny, : (nx - 1) * ny]
    viscous = (row @ profile.repeat(nx - 1)).reshape(nx - 1, ny)
    along = 2 * profile - profile  # the missing neighbour beyond an end wall of the box
    torch.testing.assert_close(viscous - along, torch.full((nx - 1, ny), 2.0, dtype=F64))


def test_circuit_obeys_kirchhoff():
    nodes, sources = 40, 4
    A = gallery.circuit(nodes, sources, amplifiers=0, generator=seeded(0)).to_dense()
    assert symmetric(A)  # resistors and sources alone are reciprocal
    G = A[:nodes, :nodes]
    torch.testing.assert_close(G.sum(1), torch.zeros(nodes, dtype=F64), rtol=0, atol=1e-9)
    e = random(sources) + 1
    x = torch.linalg.solve(A, torch.cat([torch.zeros(nodes, dtype=F64), e]))
    voltages, currents = x[:nodes], x[nodes:]
    driven = A[nodes:, :nodes].argmax(1)
    torch.testing.assert_close(voltages[driven], e)
    assert abs(currents.sum()) < 1e-9 * currents.abs().max()  # nothing but sources is grounded
    assert voltages.min() >= e.min() - 1e-9 and voltages.max() <= e.max() + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_circuit_is_unsymmetric_and_regular_with_zeros_on_the_diagonal(seed):
    A = gallery.circuit(60, generator=seeded(seed))
    dense = A.to_dense()
    assert not torch.allclose(dense, dense.T) and A.pattern.T != A.pattern
    assert int((dense.diagonal() == 0).sum()) == 6
    scaled = dense / dense.abs().amax(1, keepdim=True)
    assert torch.linalg.cond(scaled) < 1e9
    again = gallery.circuit(60, generator=seeded(seed))
    assert torch.equal(again.to_dense(), dense)


# ---- words that are refused ----


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: gallery.grid_laplacian((3,), "periodic"), "'periodic'.*dirichlet"),
        (lambda: gallery.grid_laplacian(()), "at least one"),
        (lambda: gallery.grid_graph((3, 0)), r"\(3, 0\)"),
        (lambda: gallery.edge_graph(3, torch.ones(2, 3, dtype=torch.int64)), r"\(2, 3\).*\(m, 2\)"),
        (lambda: gallery.helmholtz((4, 4), dtype=torch.float64), "complex64"),
        (lambda: gallery.helmholtz((1, 4)), "at least 2"),
        (lambda: gallery.stokes((4,)), "2 or more axes"),
        (lambda: gallery.stokes((4, 4), 0.0), "viscosity"),
        (lambda: gallery.circuit(3, sources=4), "4 sources"),
        (lambda: gallery.circuit(3, sources=0, amplifiers=0), "at least one in all"),
        (lambda: gallery.convection_diffusion((3, 3), wind=(1.0, 2.0, 3.0)), r"\(9, 3\).*\(9, 2\)"),
        (lambda: gallery.load("aerofoil"), "'aerofoil'.*'airfoil'"),
    ],
)
def test_nonsense_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# ---- real data ----


REAL = ["airfoil", "bar", "helmholtz_2D", "recirc_flow", "unit_cube"]


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_pyamgs(name):
    pyamg_gallery = pytest.importorskip("pyamg.gallery", reason="pyamg is not installed")
    data = pyamg_gallery.load_example(name)
    problem = gallery.load(name)
    assert (abs(problem.matrix.to_scipy() - sp.csr_array(data["A"]))).max() == 0
    np.testing.assert_array_equal(problem.vertices.numpy(), data["vertices"])
    assert problem.elements.min() == 0
    assert problem.elements.max() == len(problem.vertices) - 1
    assert problem.near_nullspace.shape[0] == problem.matrix.shape[0]
    is_complex = name == "helmholtz_2D"
    assert problem.matrix.dtype == (torch.complex128 if is_complex else F64)


def test_missing_pyamg_names_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyamg.gallery", None)
    with pytest.raises(ImportError, match=r"pip install sparse_solver\[examples\]"):
        gallery.load("airfoil")


# ---- they are there to be solved ----

SOLVABLE = {
    "cyclic_chain": lambda: gallery.cyclic_chain(50).assemble(random(50)),
    "random_edge_graph": lambda: GRAPHS[0].assemble(random(GRAPHS[0].num_weights)),
    "grid_laplacian": lambda: gallery.grid_laplacian((7, 6)),
    "elasticity": lambda: gallery.elasticity((3, 2, 2)),
    "convection_diffusion": lambda: gallery.convection_diffusion((7, 6)),
    "stokes": lambda: gallery.stokes((5, 6)),
    "helmholtz": lambda: gallery.helmholtz((12, 12)),
    "circuit": lambda: gallery.circuit(50, generator=seeded(0)),
}


@pytest.mark.parametrize("name", SOLVABLE)
def test_solve_agrees_with_dense(name):
    A = SOLVABLE[name]()
    b = random(A.shape[0], 2).to(A.dtype)
    torch.testing.assert_close(ss.solve(A, b), torch.linalg.solve(A.to_dense(), b))
