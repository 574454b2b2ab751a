"""Batches in torch's own layouts, whose items may differ, and lists of any systems."""

from __future__ import annotations

import pytest
import torch
from reference import assert_same_pattern, assert_says

import sparse_solver as ss

f64 = torch.float64
B, N = 5, 6


def items(batch=(B,), seed: int = 0, equal_counts: bool = False) -> torch.Tensor:
    """Dense regular matrices, each with a pattern of its own."""
    g = torch.Generator().manual_seed(seed)
    if equal_counts:  # compressed layouts demand as many entries of each item
        one = items((), seed)
        shifts = range(int(torch.tensor(batch).prod()))
        return torch.stack([one.roll((s, s), (0, 1)) for s in shifts]).reshape(*batch, N, N)
    there = torch.rand(*batch, N, N, generator=g) < 0.4
    D = torch.randn(*batch, N, N, generator=g, dtype=f64) * there
    return D + 4 * torch.eye(N, dtype=f64)


def in_layout(layout: str, batch=(B,)) -> torch.Tensor:
    D = items(batch, equal_counts=layout in ("csr", "csc", "bsr"))
    if layout == "dense":
        return D
    if layout == "coo":
        return D.to_sparse().coalesce()
    if layout == "uncoalesced":
        C = D.to_sparse().coalesce()
        index = torch.cat([C.indices().flip(1), C.indices()], 1)
        return torch.sparse_coo_tensor(
            index, torch.cat([3 * C.values().flip(0), -2 * C.values()]), D.shape
        )
    if layout == "bsr":
        whole = torch.randn(*batch, N, N, dtype=f64) + 6 * torch.eye(N, dtype=f64)
        return whole.to_sparse_bsr((2, 3))
    return D.to_sparse_csr() if layout == "csr" else D.to_sparse_csc()


@pytest.mark.parametrize("right", [(N,), (B, N), (B, N, 2), (N, 2)], ids=str)
@pytest.mark.parametrize("layout", ["coo", "uncoalesced", "csr", "csc", "bsr", "dense"])
def test_torch_batches_and_their_gradients(layout, right):
    A = in_layout(layout).requires_grad_()
    b = torch.randn(*right, dtype=f64)
    D = A.detach().to_dense().requires_grad_()
    x, true = ss.solve(A, b), torch.linalg.solve(D, b)
    assert torch.allclose(x, true)
    (g,) = torch.autograd.grad(x.sin().sum(), A)
    (h,) = torch.autograd.grad(true.sin().sum(), D)
    if layout == "dense":  # at the nonzeros of any item
        assert torch.allclose(g, h * (D != 0).any(0))
        return
    assert_same_pattern(g, A)
    assert torch.allclose(g.to_dense(), h * (A.detach().to_dense() != 0))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_several_batch_dimensions(layout):
    A = in_layout(layout, (2, 3))
    b = torch.randn(3, N, 1, dtype=f64)
    assert torch.allclose(ss.solve(A, b), torch.linalg.solve(A.to_dense(), b))


def test_items_that_differ_share_the_union():
    A = in_layout("coo")
    M = ss.SparseMatrix.from_torch(A)
    assert M.shape == A.shape
    assert M.nnz == int((A.to_dense() != 0).any(0).sum())
    assert torch.equal(M.to_dense(), A.to_dense())
    empty = torch.sparse_coo_tensor(
        torch.empty(3, 0, dtype=torch.long), torch.empty(0, dtype=f64), (2, 3, 3)
    )
    assert ss.solve_ex(empty, torch.ones(3, dtype=f64)).info.ne(0).all()


def test_a_structure_seen_before_is_recognised():
    A = in_layout("csr")
    again = torch.sparse_csr_tensor(A.crow_indices(), A.col_indices(), 2 * A.values(), A.shape)
    assert ss.Pattern.from_torch(A) is ss.Pattern.from_torch(again)


def test_hybrid_batches_are_refused():
    hybrid = items().to_sparse(2)  # one dense dimension
    with pytest.raises(ValueError) as error:
        ss.solve(hybrid, torch.ones(N, dtype=f64))
    assert_says(error.value, "hybrid", (B, N, N))


# ---- lists ----


def systems(sizes=(3, 7, 5)):
    g = torch.Generator().manual_seed(2)
    Ds = [torch.randn(n, n, generator=g, dtype=f64) + 3 * n * torch.eye(n, dtype=f64) for n in sizes]
    Ds = [
        D * ((torch.rand(D.shape, generator=g) < 0.6) | torch.eye(len(D), dtype=torch.bool)) for D in Ds
    ]
    bs = [torch.randn(len(D), *shape, generator=g, dtype=f64) for D, shape in zip(Ds, [(), (2,), ()])]
    return Ds, bs


@pytest.mark.parametrize("mode", [{}, {"adjoint": True}, {"transpose": True}], ids=str)
def test_lists_of_different_systems(mode):
    Ds, bs = systems()
    As = [Ds[0].to_sparse(), ss.SparseMatrix.from_torch(Ds[1]), Ds[2].to_sparse_csr()]
    xs = ss.solve(As, bs, **mode)
    for x, D, b in zip(xs, Ds, bs, strict=True):
        assert torch.allclose(x, torch.linalg.solve(D.mT if mode else D, b))


def test_gradients_of_lists():
    Ds, bs = systems()
    patterns = [ss.Pattern.from_torch(D) for D in Ds]
    values = [D[P.rows, P.cols].requires_grad_() for D, P in zip(Ds, patterns, strict=True)]

    def run(*values):
        return tuple(ss.solve([ss.SparseMatrix(P, v) for P, v in zip(patterns, values)], bs))

    assert torch.autograd.gradcheck(run, values)
    assert torch.autograd.gradgradcheck(run, values)


@pytest.mark.parametrize("k", [(), (2,)])
def test_a_list_on_one_pattern_is_a_batch(k, counts):
    Ds = [items((), 3) * (1 + s) for s in range(N)]  # as many items as unknowns
    P = ss.Pattern.from_torch(Ds[0])
    bs = [torch.randn(N, *k, dtype=f64) for _ in Ds]
    xs = ss.solve([ss.SparseMatrix(P, D[P.rows, P.cols]) for D in Ds], bs)
    for x, D, b in zip(xs, Ds, bs, strict=True):
        assert torch.allclose(x, torch.linalg.solve(D, b))
    assert counts.analyses <= 1


def test_large_items_of_a_list_over_threads(counts):
    torch.set_num_threads(2)
    try:
        g = torch.Generator().manual_seed(0)
        As, bs = [], []
        for n in (2100, 2200, 2300):
            i = torch.arange(n)
            P = ss.Pattern(torch.cat([i, i[1:]]), torch.cat([i, i[:-1]]), (n, n))
            values = torch.cat([2 + torch.rand(n, generator=g), torch.rand(n - 1, generator=g)]).to(f64)
            As.append(P.assemble(values.requires_grad_()))
            bs.append(torch.rand(n, generator=g, dtype=f64))
        xs = ss.solve(As, bs)
        for x, A, b in zip(xs, As, bs, strict=True):
            assert torch.allclose(A @ x, b)
        sum(x.sum() for x in xs).backward()
        assert counts.factorisations == 3
        As[1].values.data.zero_()
        with pytest.raises(ss.SingularMatrixError, match="item 1"):
            ss.solve(As, bs)
    finally:
        torch.set_num_threads(1)


def test_outcomes_of_lists():
    Ds, bs = systems()
    Ds[1] = Ds[1] * 0 + 1
    As = [D.to_sparse() for D in Ds]
    xs, info = ss.solve_ex(As, bs)
    assert info.ne(0).tolist() == [False, True, False]
    assert xs[1].isnan().all()
    assert torch.allclose(xs[2], torch.linalg.solve(Ds[2], bs[2]))
    with pytest.raises(ss.SingularMatrixError, match="item 1") as error:
        ss.solve(As, bs)
    assert error.value.item == 1
    assert ss.solve([], []) == []


def test_lists_that_do_not_fit():
    Ds, bs = systems()
    As = [D.to_sparse() for D in Ds]
    for call, words in (
        (lambda: ss.solve(As, bs[:2]), ("3 matrices", "2 of them")),
        (lambda: ss.solve(As, bs[0]), ("3 matrices", "Tensor")),
        (lambda: ss.solve(As, bs[::-1]), ("item 0", (3, 3))),
        (lambda: ss.solve(As, bs, fixed=([0], bs[0][:1])), ("fixed",)),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert_says(error.value, *words)
    with pytest.raises(TypeError, match="list of 3"):
        ss.factorize(As)
