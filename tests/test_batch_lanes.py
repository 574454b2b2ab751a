"""Batches in the compiled kernel: every item right, judged by itself, whatever its neighbours are."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import BY_NAME, CASES, DTYPES
from conformance import system
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_solves
from test_laws import rescaled

import sparse_solver as ss
from sparse_solver.engines import batched

pytestmark = pytest.mark.usefixtures("lanes")
f64, c128 = torch.float64, torch.complex128
TOLERANCE = {torch.float32: 2e-3, torch.complex64: 2e-3, f64: 1e-9, c128: 1e-9}


def random_batch(n: int, batch: tuple[int, ...], dtype, seed: int, density: float = 0.5):
    """Regular matrices on a random pattern with a full diagonal, sparse and dense."""
    g = torch.Generator().manual_seed(seed)
    there = (torch.rand(n, n, generator=g) < density) | torch.eye(n, dtype=torch.bool)
    rows, cols = there.nonzero().T
    values = torch.randn(*batch, len(rows), generator=g, dtype=dtype)
    values[..., rows == cols] *= 3 * n**0.5
    dense = torch.zeros(*batch, n, n, dtype=dtype)
    dense[..., rows, cols] = values
    return ss.SparseMatrix(ss.Pattern(rows, cols, (n, n)), values), dense


def grids(items: int, side: int = 5, dtype=f64) -> ss.SparseMatrix:
    """Identity + Laplacian of a weighted grid graph, symmetric."""
    node = torch.arange(side * side).reshape(side, side)
    i = torch.cat([node[:-1].flatten(), node[:, :-1].flatten()])
    j = torch.cat([node[1:].flatten(), node[:, 1:].flatten()])
    d = torch.arange(side * side)
    P = ss.Pattern(torch.cat([d, i, j, i, j]), torch.cat([d, j, i, i, j]), (side * side,) * 2)
    w = torch.rand(items, len(i), dtype=dtype) + 0.5
    one = torch.ones(items, side * side, dtype=dtype)
    return P.assemble(torch.cat([one, -w, -w, w, w], -1))


def engine_of(A, **options) -> str:
    return ss.factorize(A, **options).info.engine


class Kernels:
    """How often batches were factored in lanes, and which are alive."""

    def __init__(self, monkeypatch) -> None:
        self.made, self.alive = 0, weakref.WeakSet()
        inner = batched.BatchNumeric.__init__

        def outer(numeric, *args) -> None:
            self.made += 1
            self.alive.add(numeric)
            inner(numeric, *args)

        monkeypatch.setattr(batched.BatchNumeric, "__init__", outer)


@pytest.fixture
def kernels(monkeypatch) -> Kernels:
    return Kernels(monkeypatch)


@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 12),
    batch=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    thin=st.lists(st.booleans(), min_size=3, max_size=3),
    lead=st.integers(0, 1),
    k=st.sampled_from([None, 1, 3]),
    mode=st.sampled_from([{}, {"adjoint": True}, {"transpose": True}]),
    seed=st.integers(0, 1000),
)
def test_any_shapes_broadcast_as_torch_does(dtype, n, batch, thin, lead, k, mode, seed):
    own = tuple(1 if t else s for s, t in zip(batch, thin, strict=False))
    A, D = random_batch(n, own, dtype, seed)
    right = batch if thin[0] else tuple(1 if t else s for s, t in zip(batch, thin[::-1], strict=False))
    b = torch.randn(*(2,) * lead, *right, n, 1 if k is None else k, dtype=dtype)
    if k is None and not lead and right == own:
        b = b.squeeze(-1)
    D = D.mH if "adjoint" in mode else D.mT if mode else D
    true = torch.linalg.solve(D, b)
    x = ss.solve(A, b, **mode)
    assert x.shape == true.shape
    assert torch.allclose(x, true, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_law_7_every_case_in_lanes(case, dtype):
    A, _, b = system(case, dtype, 2)
    items = [
        A.values,
        2 * A.values,
        torch.zeros_like(A.values),
        rescaled(case, dtype, 1).values,
        A.values,
    ]
    M = ss.SparseMatrix(A.pattern, torch.stack(items))
    for word in ("auto", *case.words(dtype)):
        x, info = ss.solve_ex(M, b, assume=word)
        assert info[2] > 0
        assert x[2].isnan().all()
        assert (info[[0, 1, 4]] == 0).all()
        assert torch.equal(x[0], x[4])
        for item in (0, 1, 3):
            if info[item] == 0:
                assert_solves(M[item].to_dense(), x[item], b)
        if info[3] != 0:
            assert ss.solve_ex(M[3], b, assume=word).info != 0
    if info[3] == 0:
        y, _ = ss.solve_ex(M, b, adjoint=True)
        assert_solves(M[3].to_dense(), y[3], b, adjoint=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_eliminations_agree_with_dense(dtype):
    symmetric = (1 + 0.5j if dtype.is_complex else 1) * grids(21).to(dtype)
    for A, path in ((symmetric, "ldlt"), (random_batch(9, (21,), dtype, 1)[0], "lu")):
        F = ss.factorize(A)
        assert (F.info.engine, F.info.path) == ("batched", path)
        b = torch.randn(A.shape[-1], 3, dtype=dtype)
        for mode in ({}, {"transpose": True}, {"adjoint": True}):
            D = A.to_dense()
            D = D.mH if "adjoint" in mode else D.mT if mode else D
            error = (F.solve(b, **mode) - torch.linalg.solve(D, b)).abs().max()
            assert error < TOLERANCE[dtype]


def test_what_an_item_gets_depends_on_it_alone():
    A, _ = random_batch(8, (37,), f64, 3)
    b = torch.randn(37, 8, dtype=f64)
    x = ss.solve(A, b)
    order = torch.randperm(37)
    assert torch.equal(ss.solve(A[order], b[order]), x[order])
    assert torch.equal(ss.solve(A[5:18], b[5:18]), x[5:18])


def test_weak_diagonals_get_matched_pivots():
    n, items = 10, 16
    rows = torch.cat([torch.arange(n), torch.arange(n)])
    cols = torch.cat([(torch.arange(n) + 1) % n, (torch.arange(n) + 4) % n])
    values = torch.randn(items, 2 * n, dtype=f64)
    values[:, :n] += 5 * values[:, :n].sign()
    A = ss.Pattern(rows, cols, (n, n)).assemble(values)
    F = ss.factorize(A)
    assert F.info.engine == "batched"
    assert "of them by engines" not in F.info.reason
    b = torch.randn(items, n, dtype=f64)
    assert torch.allclose(F.solve(b), torch.linalg.solve(A.to_dense(), b))


def test_failures_keep_nothing_alive(kernels):
    A = grids(12, 3)
    values = A.values.clone()
    values[4] = 0
    gc.disable()
    try:
        outcome = ss.solve_ex(ss.SparseMatrix(A.pattern, values), torch.ones(9, dtype=f64))
        assert outcome.info[4] > 0
        del outcome
        assert len(kernels.alive) == 0
    finally:
        gc.enable()


def test_unchecked_batches():
    A = grids(12, 3)
    b = torch.randn(12, 9, dtype=f64)
    method = ss.Direct(check=False)
    assert torch.allclose(ss.solve(A, b, method=method), torch.linalg.solve(A.to_dense(), b))


def test_one_factorisation_serves_every_derivative(kernels, counts):
    A = grids(16, 3)
    values, b = A.values.requires_grad_(), torch.randn(16, 9, dtype=f64, requires_grad=True)
    x = ss.solve(ss.SparseMatrix(A.pattern, values), b)
    (g,) = torch.autograd.grad(x.square().sum(), values, create_graph=True)
    g.square().sum().backward()
    assert (kernels.made, counts.factorisations) == (1, 16)
    torch.func.vmap(lambda v, c: ss.solve(ss.SparseMatrix(A.pattern, v), c))(
        values.detach(), b.detach()
    )
    assert (kernels.made, counts.factorisations) == (2, 32)


def test_no_factor_outlives_its_graph(kernels):
    A = grids(16, 3)
    gc.disable()
    try:
        for _ in range(3):
            v = A.values.clone().requires_grad_()
            x = ss.solve(ss.SparseMatrix(A.pattern, v), torch.ones(9, dtype=f64))
            loss = x.square().sum()
            assert len(kernels.alive) == 1
            loss.backward()
            assert len(kernels.alive) == 0
    finally:
        gc.enable()


def test_a_factor_keeps_its_numbers_while_others_are_made():
    A = grids(16, 4)
    b = torch.randn(16, 16, dtype=f64)
    F = ss.factorize(A)
    before = F.solve(b)
    plan = ss.analyze(A)
    for scale in (2.0, 1e-8, 1e8):
        plan.factorize(scale * A).solve(b)
        ss.solve(scale * A, b)
    A.values.zero_()
    assert torch.equal(F.solve(b), before)


def test_one_right_hand_side_is_never_copied(monkeypatch):
    seen = []
    inner = batched.BatchNumeric.solve

    def solve(numeric, b, *args):
        seen.append(b.strides[0])
        return inner(numeric, b, *args)

    monkeypatch.setattr(batched.BatchNumeric, "solve", solve)
    A = grids(16, 3)
    b = torch.randn(9, dtype=f64)
    assert torch.allclose(ss.solve(A, b), torch.linalg.solve(A.to_dense(), b))
    M = ss.SparseMatrix(A.pattern, A.values.reshape(4, 4, -1))
    assert torch.allclose(ss.solve(M, b), torch.linalg.solve(M.to_dense(), b))
    assert seen == [0, 0]


@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_items_asked_for_one_by_one(dtype):
    """What log-determinants and the like read: item i of a token's batch as a factor of its own."""
    from sparse_solver.derivatives.token import batch_of, factors_of

    A = grids(12, 3).to(dtype) * (1 + 0.5j if dtype.is_complex else 1)
    F = ss.factorize(A)
    b = torch.randn(9, dtype=dtype)
    for i, factored in enumerate(factors_of(F._token)):
        x = torch.from_numpy(factored.solve(b.numpy()))
        assert torch.allclose(x, torch.linalg.solve(A[i].to_dense(), b))
    assert len(batch_of(F._token)[0]) == 12
    with pytest.raises(IndexError):
        batch_of(F._token)[0][12]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_determinants_from_the_pivots(dtype):
    weak = random_batch(7, (13,), dtype, 6, density=1.0)[0]
    values = weak.values.clone()
    values[:, weak.pattern.diagonal] = 0
    for A in (
        grids(13).to(dtype),
        random_batch(8, (13,), dtype, 5)[0],
        ss.SparseMatrix(weak.pattern, values),
    ):
        F = ss.factorize(A)
        assert F.info.engine == "batched"
        sign, size = F.slogdet()
        true_sign, true_size = torch.linalg.slogdet(A.to_dense().to(c128 if dtype.is_complex else f64))
        tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        assert torch.allclose(sign, true_sign.to(dtype), **tolerance)
        assert torch.allclose(size, true_size.to(size.dtype), **tolerance)


def test_threads_share_a_batch_and_its_pattern():
    torch.set_num_threads(2)
    try:
        A = grids(200, 8)
        D, b = A.to_dense(), torch.randn(200, 64, dtype=f64)
        F, true = ss.factorize(A), torch.linalg.solve(A.to_dense(), b)
        start = threading.Barrier(3)

        def work(scale: float) -> None:
            start.wait()
            for _ in range(5):
                assert torch.allclose(F.solve(b), true)
                assert torch.allclose(ss.solve(scale * A, b), true / scale)

        with ThreadPoolExecutor(3) as pool:
            for job in [pool.submit(work, s) for s in (1.0, 2.0, 3.0)]:
                job.result(timeout=120)
        assert D.shape == (200, 64, 64)
    finally:
        torch.set_num_threads(1)


def test_rescaled_items_of_a_case_the_lanes_know():
    """Items over sixteen orders of magnitude, as fresh factorisations would have them."""
    for name in ("spd_grid", "general"):
        case = BY_NAME[name]
        items = [rescaled(case, f64, seed) for seed in range(12)]
        M = ss.SparseMatrix(items[0].pattern, torch.stack([A.values for A in items]))
        b = torch.randn(M.shape[-1], dtype=f64)
        x, info = ss.solve_ex(M, b)
        for i, A in enumerate(items):
            _, alone = ss.solve_ex(A, b)
            if alone == 0:
                assert info[i] == 0
                assert_solves(A.to_dense(), x[i], b)
