"""Repeated solves by the own Cholesky, compiled calls around it: as the general way, or left to it."""

from __future__ import annotations

import gc

import pytest
import torch
from reference import assert_solves

import sparse_solver as ss
from sparse_solver.planning import Repeat

pytest.importorskip("numba")
METHOD = ss.Direct(engine="multifrontal")
pytestmark = pytest.mark.usefixtures("compiled_passes")


@pytest.fixture
def taken(monkeypatch):
    """What became of each solve that tried the short way, there and back."""
    seen = []

    def solve(repeat, *args, inner=Repeat.solve):
        found = inner(repeat, *args)
        seen.append(found is not None)
        return found

    def adjoint(repeat, *args, inner=Repeat.adjoint):
        seen.append("back")
        return inner(repeat, *args)

    monkeypatch.setattr(Repeat, "solve", solve)
    monkeypatch.setattr(Repeat, "adjoint", adjoint)
    return seen


class Grid:
    """Diagonals of 5 to 6 on a grid of 25 x 25, and symmetric couplings near -1."""

    def __init__(self) -> None:
        self.pattern = ss.gallery.grid_laplacian((25, 25)).pattern
        P = self.pattern
        self.rows, self.cols, self.n = P.rows, P.cols, P.shape[0]
        self.generator = torch.Generator().manual_seed(0)

    def values(self, shift: float = 5.0) -> torch.Tensor:
        d, r = self.random() + shift, 0.1 * self.random()
        return torch.where(self.rows == self.cols, d[self.rows], -1 - (r[self.rows] + r[self.cols]))

    def random(self) -> torch.Tensor:
        return torch.rand(self.n, dtype=torch.float64, generator=self.generator)

    def solve(self, v: torch.Tensor, b: torch.Tensor, **options) -> torch.Tensor:
        return ss.solve(ss.SparseMatrix(self.pattern, v), b, method=METHOD, **options)

    def dense(self, v: torch.Tensor) -> torch.Tensor:
        D = torch.zeros(self.n, self.n, dtype=v.dtype)
        return D.index_put((self.rows, self.cols), v)

    def step(self, v: torch.Tensor, b: torch.Tensor | None = None, **options) -> torch.Tensor:
        """x, after a look at it and at both gradients."""
        v, b = v.detach().requires_grad_(), (self.random() if b is None else b).requires_grad_()
        x = self.solve(v, b, **options)
        D = self.dense(v.detach())
        assert_solves(D, x.detach(), b.detach())
        A_bar, b_bar = torch.autograd.grad(x.square().sum(), (v, b))
        y = torch.linalg.solve(D.T, 2 * x.detach())
        assert torch.allclose(b_bar, y)
        assert torch.allclose(A_bar, -y[self.rows] * x.detach()[self.cols])
        return x.detach()


@pytest.fixture
def G():
    G = Grid()
    for _ in range(2):
        G.step(G.values())
    return G


@pytest.mark.parametrize("assume", ["auto", "symmetric", "spd"])
def test_answers_and_gradients(taken, counts, assume):
    G = Grid()
    for _ in range(6):
        G.step(G.values(), assume=assume)
    assert taken[-2:] == [True, "back"] and taken.count(True) >= 4
    assert counts.factorisations == 6 and counts.solves == 12


def test_the_same_values_are_factored_once(G, taken, counts):
    v, b = G.values(), G.random()
    counts.reset()
    x = G.step(v, b)
    assert torch.equal(G.step(v, b), x)
    assert counts.factorisations == 1 and taken.count(True) == 2


def test_matrices_that_are_not_dominant_are_probed(G, taken):
    for _ in range(2):
        G.step(G.values(4.5))
    assert True in taken
    P = ss.gallery.grid_laplacian((25, 25), "neumann")
    neumann = torch.zeros(G.pattern.nnz, dtype=torch.float64) + P.values
    assert P.pattern == G.pattern
    with pytest.raises(torch.linalg.LinAlgError):
        G.solve(neumann, G.random())
    G.step(G.values())


def test_other_values_on_the_same_pattern(G, taken):
    lower = G.rows > G.cols
    for k in range(3):
        v = G.values()
        G.step(v)
        with pytest.raises(ValueError, match="multifrontal"):
            G.solve(torch.where(lower, 0.5 * v, v), G.random())  # unsymmetric
        with pytest.raises(ss.NotPositiveDefiniteError):
            G.solve(torch.where((G.rows == G.cols) & (G.rows == 7 + k), -v, v), G.random())
        G.step(torch.where(lower, v * (1 + 2e-16), v))  # symmetric up to rounding
        for bad in (float("nan"), float("inf")):
            w = v.clone()
            w[11] = bad
            with pytest.raises(ValueError, match="A has 1 entries that are NaN or infinite"):
                G.solve(w, G.random())
            b = G.random()
            b[3] = bad
            with pytest.raises(ValueError, match="b .* holds 1 entries that are NaN or infinite"):
                G.solve(v, b)
    G.step(G.values())
    G.step(G.values())
    assert taken[-2:] == [True, "back"]


def test_pending_graphs_keep_their_factors(G, counts):
    gc.disable()
    try:
        vs = [G.values().requires_grad_() for _ in range(4)]
        xs = [G.solve(v, G.random()) for v in vs]
        assert counts.live() == 4
        for v, x in zip(vs, xs, strict=True):
            (A_bar,) = torch.autograd.grad(x.square().sum(), v)
            y = torch.linalg.solve(G.dense(v.detach()).T, 2 * x.detach())
            assert torch.allclose(A_bar, -y[G.rows] * x.detach()[G.cols])
        assert counts.live() == 1
        ss.clear_cache()
        assert counts.live() == 0
    finally:
        gc.enable()


def test_a_factor_of_the_users_stays(G):
    v, b = G.values(), G.random()
    F = ss.factorize(ss.SparseMatrix(G.pattern, v), method=METHOD)
    x, logdet = F.solve(b), F.logdet()
    for _ in range(3):
        G.step(G.values())
    assert torch.equal(F.solve(b), x) and torch.equal(F.logdet(), logdet)


def test_what_was_found_out_of_other_values_is_forgotten(G):
    for _ in range(3):
        v = G.values()
        G.step(v)
        A = ss.SparseMatrix(G.pattern, v)
        assert torch.allclose(ss.logdet(A, method=METHOD), torch.logdet(G.dense(v)))
        G.step(v)


def test_second_derivatives_and_unusual_gradients(G):
    v, b = G.values().requires_grad_(), G.random()
    w = torch.rand(G.pattern.nnz, dtype=torch.float64)
    (g,) = torch.autograd.grad(G.solve(v, b).square().sum(), v, create_graph=True)
    (h,) = torch.autograd.grad(g @ w, v)
    (g,) = torch.autograd.grad(torch.linalg.solve(G.dense(v), b).square().sum(), v, create_graph=True)
    assert torch.allclose(h, torch.autograd.grad(g @ w, v)[0])
    g = torch.ones(2 * G.n, dtype=torch.float64)[::2]
    for given in (g, g.clone().requires_grad_(), g[:1].expand(G.n)):
        (found,) = torch.autograd.grad(G.solve(v, b), v, given)
        x = G.solve(v, b).detach()
        y = torch.linalg.solve(G.dense(v.detach()).T, torch.ones_like(x))
        assert torch.allclose(found, -y[G.rows] * x[G.cols])


def test_edits_in_place(G):
    v, b = G.values(), G.random()
    x = G.solve(v, b)
    v.numpy()[G.pattern.diagonal[3]] *= 3
    y = G.solve(v, b)
    assert not torch.allclose(x, y)
    assert_solves(G.dense(v), y, b)
    v.requires_grad_()
    x = G.solve(v, b)
    with torch.no_grad():
        v.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()
