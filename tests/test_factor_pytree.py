"""A Factor passes through torch.func and tree functions, and never with a factor of other values."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map

import sparse_solver as ss

f64 = torch.float64


def problem(n: int = 4):
    g = torch.Generator().manual_seed(0)
    P = ss.Pattern(*torch.ones(n, n).nonzero().T, (n, n))
    v = torch.randn(n * n, generator=g, dtype=f64) + 3 * torch.eye(n, dtype=f64).reshape(-1)
    return ss.SparseMatrix(P, v), torch.randn(n, generator=g, dtype=f64)


def test_the_same_leaves_keep_the_factor(counts):
    A, b = problem()
    F = ss.factorize(A)
    made = counts.factorisations
    G = tree_map(lambda t: t, F)
    assert torch.allclose(G.solve(b), torch.linalg.solve(A.to_dense(), b))
    assert counts.factorisations == made


def test_other_leaves_are_factored():
    A, b = problem()
    G = tree_map(lambda t: 2 * t, ss.factorize(A))
    assert torch.allclose(G.solve(b), torch.linalg.solve(2 * A.to_dense(), b))


def test_gradients_and_batches_over_a_factor():
    A, b = problem()
    F = ss.factorize(A)
    got = torch.func.grad(lambda F: F.solve(b).square().sum())(F).matrix.values
    D = A.to_dense()
    true = torch.func.grad(lambda D: (torch.linalg.inv(D) @ b).square().sum())(D)
    assert torch.allclose(got, true.reshape(-1))
    batch = tree_map(lambda t: torch.stack([t, 2 * t]), F)
    x = torch.func.vmap(lambda F: F.solve(b))(batch)
    assert torch.allclose(x, torch.linalg.solve(torch.stack([D, 2 * D]), b.expand(2, -1)))


def test_prescribed_values_are_leaves():
    A, b = problem()
    c = torch.randn(2, dtype=f64)
    F = ss.factorize(A, fixed=([0, 2], c))
    got = torch.func.grad(lambda F: F.solve(b).sum())(F)._fixed[1]
    true = torch.func.grad(lambda c: ss.solve(A, b, fixed=([0, 2], c)).sum())(c)
    assert torch.allclose(got, true)
