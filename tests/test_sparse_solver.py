"""SparseSolver.apply, the original entry point: any layout, its own gradient."""

from __future__ import annotations

import pytest
import torch
from conformance import each_dtype
from reference import LAYOUTS, assert_same_pattern, assert_solves, inv_solve, stored, to_layout

import sparse_solver as ss


def random_edges(n: int = 10):
    """The original's example: I + weighted graph Laplacian of random edges; a random b."""
    g = torch.Generator().manual_seed(0)
    E = torch.unique(torch.randint(0, n, (n * 6, 2), generator=g), dim=0)
    d = torch.arange(n)
    i = torch.cat([d, E[:, 0], E[:, 1], E[:, 0], E[:, 1]])
    j = torch.cat([d, E[:, 1], E[:, 0], E[:, 0], E[:, 1]])
    w = 0.5 + torch.rand(len(E), generator=g, dtype=torch.float64)
    b = torch.rand(n, generator=g, dtype=torch.float64)
    return torch.stack([i, j]), w, b


def values_of(w):
    n = 10
    return torch.cat([torch.ones(n, dtype=w.dtype), -w, -w, w, w])


@pytest.mark.parametrize("coalesce", [True, False])
def test_the_original_example(coalesce):
    ij, w, b = random_edges()
    w_dense, w_sparse = w.clone().requires_grad_(), w.clone().requires_grad_()
    D = torch.zeros(10, 10, dtype=w.dtype).index_put(tuple(ij), values_of(w_dense), accumulate=True)
    (inv_solve(D, b) ** 2).sum().backward()
    A = torch.sparse_coo_tensor(ij, values_of(w_sparse), size=(10, 10))
    A = A.coalesce() if coalesce else A
    (ss.SparseSolver.apply(A, b) ** 2).sum().backward()
    assert torch.allclose(w_sparse.grad, w_dense.grad, rtol=1e-10)
    assert w_dense.grad.abs().max() > 1e-3


def matrix(dtype) -> torch.Tensor:
    D = torch.randn(6, 6, dtype=dtype) * (torch.rand(6, 6) < 0.5)
    return D + 4 * torch.eye(6, dtype=dtype)


def true_gradients(D, b, g):
    lam = inv_solve(D, g, adjoint=True)
    x = inv_solve(D, b)
    outer = lam[:, None] @ x[None].conj() if b.ndim == 1 else lam @ x.mH
    return -outer, lam


@pytest.mark.parametrize("entry", [ss.SparseSolver.apply, ss.solve], ids=["apply", "solve"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
@each_dtype
def test_gradient_in_its_own_layout_on_its_own_nonzeros(entry, layout, index_dtype, dtype):
    D = matrix(dtype)
    A = to_layout(D, layout, index_dtype).detach().requires_grad_()
    tol = {"rtol": 1e4 * torch.finfo(dtype).eps, "atol": 1e3 * torch.finfo(dtype).eps}
    for shape in ((6,), (6, 1), (6, 3)):
        b = torch.randn(shape, dtype=dtype).requires_grad_()
        x = entry(A, b)
        assert_solves(D, x, b.detach())
        g = torch.randn_like(x)
        # (torch's .backward() cannot accumulate into CSC, BSR and BSC leaves: use autograd.grad)
        g_A, g_b = torch.autograd.grad(x, (A, b), g)
        G, lam = true_gradients(D, b.detach(), g)
        assert_same_pattern(g_A, A)
        assert torch.allclose(g_A.to_dense(), G * stored(A), **tol)
        assert torch.allclose(g_b, lam, **tol)


def test_a_stored_zero_gets_a_gradient():
    i = torch.tensor([[0, 1, 2, 0, 2], [0, 1, 2, 1, 0]])
    v = torch.tensor([2.0, 3.0, 4.0, 0.0, 0.0], dtype=torch.float64)
    A = torch.sparse_coo_tensor(i, v, (3, 3)).coalesce().requires_grad_()
    b = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ss.SparseSolver.apply(A, b).sum().backward()
    assert A.grad._nnz() == 5
    G, _ = true_gradients(A.detach().to_dense(), b, torch.ones_like(b))
    assert torch.allclose(A.grad.coalesce().values(), G[tuple(A.detach().indices())])


def test_dense_as_the_original_did():
    D = matrix(torch.float64).requires_grad_()
    b = torch.randn(6, dtype=torch.float64, requires_grad=True)
    x = ss.SparseSolver.apply(D, b)
    assert_solves(D.detach(), x, b.detach())
    x.sum().backward()
    G, lam = true_gradients(D.detach(), b.detach(), torch.ones(6, dtype=torch.float64))
    assert D.grad.layout == torch.strided
    there = D.detach() != 0
    assert torch.allclose(D.grad[there], G[there])
    assert torch.allclose(b.grad, lam)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_twice_with_retain_graph(layout):
    A = to_layout(matrix(torch.float64), layout).detach().requires_grad_()
    b = torch.randn(6, dtype=torch.float64)
    loss = ss.SparseSolver.apply(A, b).square().sum()
    (once,) = torch.autograd.grad(loss, A, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, A)
    assert torch.equal(once.to_dense(), twice.to_dense())


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_gradients_accumulate(layout):
    A = to_layout(matrix(torch.float64), layout).requires_grad_()
    b = torch.randn(6, dtype=torch.float64)
    for _ in range(2):
        ss.SparseSolver.apply(A, b).sum().backward()
    G, _ = true_gradients(A.detach().to_dense(), b, torch.ones_like(b))
    assert torch.allclose(A.grad.to_dense(), 2 * G * (A.detach().to_dense() != 0))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_second_order_through_a_torch_constructor_raises(layout):
    """torch drops the graph of the gradient there: raise, and say what to use."""
    ij, w, b = random_edges()
    w.requires_grad_()
    A = torch.sparse_coo_tensor(ij, values_of(w), (10, 10)).coalesce()
    A = A.to_sparse_csr() if layout == "csr" else A
    loss = ss.solve(A, b).square().sum()
    with pytest.raises(RuntimeError, match="SparseMatrix"):
        torch.autograd.grad(loss, w, create_graph=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_second_order_of_a_leaf_is_right_or_refused(layout):
    D = matrix(torch.float64)
    A = to_layout(D, layout).detach().requires_grad_()
    b = torch.randn(6, dtype=torch.float64, requires_grad=True)
    loss = ss.solve(A, b).square().sum()
    try:
        (g,) = torch.autograd.grad(loss, b, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), A)
    except RuntimeError as error:
        assert "SparseMatrix" in str(error)
        return
    E = D.clone().requires_grad_()
    (g_true,) = torch.autograd.grad(inv_solve(E, b).square().sum(), b, create_graph=True)
    (h_true,) = torch.autograd.grad(g_true.square().sum(), E)
    assert torch.allclose(h.to_dense(), h_true * stored(A))
