"""Many right-hand sides: shortcuts taken for large blocks change no answer and no derivative."""

from __future__ import annotations

import pytest
import torch
from reference import assert_solves, inv_solve
from small import KINDS, small

import sparse_solver as ss
from sparse_solver.engines import rslab
from sparse_solver.matrix import products
from sparse_solver.planning import equations, factored
from sparse_solver.planning.passes import plain

f64, c128 = torch.float64, torch.complex128


@pytest.fixture
def all_large(monkeypatch):
    """Blocks count as large whatever their size, and few numbers are handled at a time."""
    monkeypatch.setattr(factored, "_MANY", 0)
    monkeypatch.setattr(plain, "_IN_CACHE", 7)
    monkeypatch.setattr(products, "_AT_ONCE", 5)
    monkeypatch.setattr(products, "_IN_CACHE", 5)
    monkeypatch.setattr(rslab, "_COLUMN_WORK", 0)
    for name, value in (("_FEWEST", 2), ("_MOST", 4), ("_ROWS", 3)):
        monkeypatch.setattr(rslab, name, value)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("all_large", "two_threads")
@pytest.mark.parametrize("mode", [{}, {"transpose": True}, {"adjoint": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_solutions(kind, dtype, mode):
    s = small(kind, dtype)
    b = s.rhs(9, grad=False)
    x = ss.solve(s.matrix(s.w), b, **mode)
    assert_solves(s.dense(s.w), x, b, **mode)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_derivatives_of_every_kind(dtype):
    s = small("general", dtype)
    w, b = s.param(), s.rhs(3)
    run = lambda w, b: s.solve(w, b)  # noqa: E731
    assert torch.autograd.gradcheck(run, (w, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, (w, s.rhs(2)))
    x = torch.func.vmap(lambda w: s.solve(w, b))(torch.stack([w, 2 * w]))
    assert torch.allclose(x[1], inv_solve(s.dense(2 * w), b))


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_products_and_outer_products(dtype):
    torch.manual_seed(0)
    i, j = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 3])
    v, x = torch.randn(2, 5, dtype=dtype), torch.randn(2, 4, 2, dtype=dtype)
    y = torch.randn(2, 4, 2, dtype=dtype)
    D = torch.zeros(2, 4, 4, dtype=dtype)
    D[:, i, j] = v
    assert torch.allclose(products.product(v, x, i, j, 4, vector=False), D @ x)
    whole = y @ x.mH
    assert torch.allclose(products.sampled_outer(y, x, i, j, vector=False), whole[:, i, j])
    for f, pair in (
        (lambda v, x: products.product(v, x, i, j, 4, vector=False), (v, x)),
        (lambda y, x: products.sampled_outer(y, x, i, j, vector=False), (y, x)),
    ):
        pair = tuple(t.clone().requires_grad_() for t in pair)
        assert torch.autograd.gradcheck(f, pair, check_forward_ad=True, check_batched_grad=True)
        if dtype.is_complex:  # of twice as many numbers: the first of the batch
            pair = tuple(t.detach()[0].requires_grad_() for t in pair)
        assert torch.autograd.gradgradcheck(f, pair, check_fwd_over_rev=True)


def test_a_bad_column_among_many_is_found(all_large, monkeypatch):
    s = small("spd", f64)
    A, b = s.matrix(s.w), s.rhs(6, grad=False)
    F = ss.factorize(A)
    b[2, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        F.solve(b)
    x, ok = None, equations.Equations.are_surely_accurate
    eq = equations.Equations(A.pattern, A.values.numpy())
    b = s.rhs(6, grad=False)
    x = torch.linalg.solve(A.to_dense(), b)
    assert ok(eq, x.numpy(), b.numpy(), False)[0]
    assert ok(eq, x.numpy(), b.numpy(), True)[0]
    x[1, 3] *= 1 + 1e-9
    assert not ok(eq, x.numpy(), b.numpy(), False)[0]


def test_who_has_no_transposed_block_solve_says_so():
    general, spd = small("general", f64), small("spd", f64)
    assert (
        "column"
        in ss.factorize(general.matrix(general.w), method=ss.Direct(engine="rslab")).info.columns
    )
    method = ss.Direct(engine="rslab")
    assert ss.factorize(spd.matrix(spd.w), assume="spd", method=method).info.columns is None
    assert ss.factorize(spd.matrix(spd.w), method=ss.Direct(engine="superlu")).info.columns is None


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("k", [0, 1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_any_number_of_columns_by_blocks(dtype, k, threads):
    s = small("symmetric", dtype)
    A, b = s.matrix(s.w), s.rhs(k, grad=False)
    F = ss.factorize(A, method=ss.Direct(engine="rslab", threads=threads))
    assert F.info.engine == "rslab"
    wide = torch.zeros(*b.shape[:-1], 2 * k, dtype=dtype)
    wide[..., ::2] = b
    for given in (b, wide[..., ::2], b.mT.contiguous().mT):
        x = F.solve(given)
        assert x.shape == b.shape
        assert torch.allclose(s.dense(s.w) @ x, b)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_number_among_columns_is_noticed(bad):
    s = small("symmetric", f64)
    b = s.rhs(9, grad=False)
    b[-1, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        ss.solve(s.matrix(s.w), b)
