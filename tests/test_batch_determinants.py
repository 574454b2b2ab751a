"""Determinants and entries of the inverse of batches, in lanes and by engines alike."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, DTYPES
from conformance import system
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import wide
from test_batch_derivatives import COLS, ITEMS, ROWS, N, P, data, dense
from test_batch_lanes import grids, random_batch
from test_laws import rescaled
from torch.autograd import grad, gradcheck, gradgradcheck

import sparse_solver as ss
from sparse_solver.engines.batched import BatchNumeric
from sparse_solver.planning import batch_answers

f64, c128 = torch.float64, torch.complex128
each_exact = pytest.mark.parametrize("dtype", [f64, c128], ids=str)


@pytest.fixture(params=["lanes", "engines"])
def who(request):
    if request.param == "engines":
        return ss.Direct(engine="superlu")
    request.getfixturevalue("lanes")
    return ss.Direct()


def log(v, method):
    return ss.slogdet(P.assemble(v), method=method).logabsdet


def true_log(v):
    return torch.linalg.slogdet(dense(v))[1]


@each_exact
def test_derivatives_of_every_order_and_mode(dtype, who):
    v, _ = data(dtype)
    if who.engine != "auto" and dtype == c128:
        pytest.skip("one of them is enough for engines, whose derivatives test_determinant.py checks")
    run = lambda v: log(v, who)  # noqa: E731
    assert gradcheck(run, v, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, v, check_fwd_over_rev=True, check_batched_grad=True)
    gradient = lambda v: grad(run(v).sum(), v, create_graph=True)[0]  # noqa: E731
    if not dtype.is_complex:
        assert gradgradcheck(gradient, v)


def test_transforms(who):
    v = data()[0].detach()
    ours, true = (lambda v: log(v, who).pow(2).sum()), (lambda v: true_log(v).pow(2).sum())
    assert torch.allclose(torch.func.hessian(ours)(v), torch.func.hessian(true)(v))
    one = torch.func.vmap(torch.func.grad(lambda v: log(v, who)))
    assert torch.allclose(one(v), grad(true_log(w := v.clone().requires_grad_()).sum(), w)[0])
    nested = torch.func.vmap(torch.func.vmap(lambda v: log(v, who)))
    two = torch.stack([v, 2 * v])
    assert torch.allclose(nested(two), true_log(two))
    jac = torch.func.jacrev(lambda v: log(v, who))(v)
    assert torch.allclose(jac, torch.func.jacrev(true_log)(v))


def test_compiled(who):
    v, _ = data()
    step = torch.compile(lambda v: log(v, who).sum(), backend="aot_eager", fullgraph=True)
    assert torch.allclose(grad(step(v), v)[0], grad(true_log(v).sum(), v)[0])


def test_several_batch_dimensions_and_none(who):
    v, _ = data(batch=(2, 3))
    A = P.assemble(v)
    for log_ in (ss.slogdet(A, method=who), ss.factorize(A, method=who).slogdet()):
        assert torch.allclose(log_.sign, torch.linalg.slogdet(dense(v))[0])
        assert torch.allclose(log_.logabsdet, true_log(v))
    empty = torch.zeros(2, 0, len(v[0, 0]), dtype=f64, requires_grad=True)
    sign, size = ss.slogdet(P.assemble(empty), method=who)
    assert sign.shape == size.shape == (2, 0)
    assert grad(size.sum(), empty)[0].shape == empty.shape
    nothing = ss.SparseMatrix(ss.Pattern([], [], (0, 0)), torch.zeros(5, 0, dtype=f64))
    assert ss.logdet(nothing, method=who).equal(torch.zeros(5, dtype=f64))


def test_entries_of_the_inverse(who):
    v, _ = data()
    D = torch.linalg.inv(dense(v))
    F = ss.factorize(P.assemble(v), method=who)
    S = F.selected_inverse()
    assert torch.allclose(S.values, D[:, S.pattern.rows, S.pattern.cols])
    assert torch.allclose(F.inverse_diagonal(), D.diagonal(dim1=-2, dim2=-1))
    c = torch.randn(ITEMS, N, dtype=f64)
    (g,) = grad((F.inverse_diagonal() * c).sum(), v)
    (h,) = grad((D.diagonal(dim1=-2, dim2=-1) * c).sum(), v)
    assert torch.allclose(g, h)


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_case_of_the_table(case, dtype):
    """Law 5 and law 7: equal to the dense one, item by item, whatever stands beside it."""
    A, _, _ = system(case, dtype)
    items = [A.values, 2 * A.values, rescaled(case, dtype, 1).values, A.values, -A.values]
    values = torch.stack(items).requires_grad_()
    tolerance = 1e5 * torch.finfo(dtype).eps
    for word in ("auto", *case.words(dtype)):
        M = ss.SparseMatrix(A.pattern, values if word != "spd" else values[:4])
        sign, logabs = ss.slogdet(M, assume=word)
        true_sign, true_log = torch.linalg.slogdet(wide(M.to_dense()))
        # Over sixteen orders of magnitude a matrix may be singular to working precision.
        lost = ss.slogdet(M[2], assume=word).sign == 0
        assert (sign[2] == 0) == lost
        here = torch.tensor([i != 2 or not lost for i in range(len(sign))])
        assert (sign - true_sign)[here].abs().max() <= tolerance
        assert ((logabs - true_log).abs() <= tolerance * true_log.abs().clamp(min=1))[here].all()
        if lost:
            continue
        (g,) = grad(logabs.sum(), values)
        for i in (0, 1):
            (alone,) = grad(ss.slogdet(ss.SparseMatrix(A.pattern, values[i])).logabsdet, values)
            bound = 1e3 * tolerance * alone[i].abs().max()
            assert (g[i] - alone[i]).abs().max() <= bound
    zero = torch.stack([A.values, 0 * A.values, A.values, A.values])
    sign, logabs = ss.slogdet(ss.SparseMatrix(A.pattern, zero))
    assert (sign[1], logabs[1]) == (0, -math.inf)
    assert torch.isfinite(logabs[[0, 2, 3]]).all()


@pytest.mark.usefixtures("lanes")
def test_value_and_gradient_take_one_factorisation_in_lanes(counts, monkeypatch):
    A = grids(16)
    v = A.values.clone().requires_grad_()
    made = []
    inner = BatchNumeric.inverse
    monkeypatch.setattr(BatchNumeric, "inverse", lambda self, *a: made.append(1) or inner(self, *a))
    y = ss.logdet(ss.SparseMatrix(A.pattern, v))
    (g,) = grad(y.sum(), v, create_graph=True)
    assert (counts.factorisations, len(made)) == (16, 1)
    (h,) = grad(g.square().sum(), v)
    assert counts.factorisations == 16
    w = A.values.clone().requires_grad_()
    rows, cols = A.pattern.rows, A.pattern.cols
    D = torch.zeros(16, 25, 25, dtype=f64).index_put((torch.arange(16)[:, None], rows, cols), w)
    (true,) = grad(torch.linalg.slogdet(D)[1].sum(), w, create_graph=True)
    assert torch.allclose(g, true)
    assert torch.allclose(h, grad(true.square().sum(), w)[0])


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("small", [0, 256])
def test_both_ways_to_second_derivatives(small, monkeypatch):
    monkeypatch.setattr(batch_answers, "_SMALL", small)
    monkeypatch.setattr(batch_answers, "_AT_ONCE", 60)  # two unit vectors at a time
    A, _ = random_batch(5, (6,), f64, 1)
    v = A.values.clone().requires_grad_()
    run = lambda v: ss.logdet(ss.SparseMatrix(A.pattern, v).add_diagonal(9.0)).sum()  # noqa: E731
    assert torch.autograd.gradgradcheck(run, v)


def test_failed_items_of_a_batch(who):
    v = data()[0].detach().clone()
    v[2] = 0
    v[3, 0] = math.nan
    v.requires_grad_()
    F, info = ss.factorize_ex(P.assemble(v), method=who)
    assert info.ne(0).tolist() == [False, False, True, True]
    sign, size = F.slogdet()
    assert (sign[2], size[2]) == (0, -math.inf)
    assert size[3].isnan()
    assert torch.allclose(size[:2], true_log(v)[:2])
    (g,) = grad(size[:2].sum(), v)
    assert torch.allclose(g[:2], torch.linalg.inv(dense(v[:2])).mT[:, ROWS, COLS])
    assert g[2:].eq(0).all()
    assert F.inverse_diagonal()[2:].isnan().all()
    assert F.selected_inverse().values[2:].isnan().all()
    with pytest.raises(ValueError, match="item 3"):
        ss.logdet(P.assemble(v), method=who)
    sign, size = ss.slogdet(P.assemble(v[:3]), method=who)
    assert size[2] == -math.inf
    with pytest.raises(ss.SingularMatrixError, match="item 2"):
        grad(size[0], v)


@pytest.mark.usefixtures("lanes")
def test_an_unsymmetric_item_among_symmetric_ones_is_seen():
    A = grids(8, 3)
    values = A.values.clone()
    at = (A.pattern.rows < A.pattern.cols).nonzero()[0]
    values[5, at] *= 0.5
    values[6] = 0  # from which no general pivots can be chosen
    M = ss.SparseMatrix(A.pattern, values)
    assert torch.allclose(ss.slogdet(M).logabsdet, torch.linalg.slogdet(M.to_dense())[1])
    values[5] = 0
    values[6] = A.values[6]
    values[6, at] *= 0.5
    M = ss.SparseMatrix(A.pattern, values)
    assert torch.allclose(ss.slogdet(M).logabsdet, torch.linalg.slogdet(M.to_dense())[1])


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("scale", [1e-24, 1e-15, 1.0, 1e15, 1e25])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_units_of_complex_numbers(dtype, scale):
    """Squares of moduli would leave the range of single precision."""
    A, _ = random_batch(6, (8,), dtype, 3)
    A = scale * A
    true = torch.linalg.slogdet(A.to_dense().to(c128))[1].to(A.values.real.dtype)
    F = ss.factorize(A)
    assert F.info.engine == "batched"
    assert "of them by engines" not in F.info.reason
    assert torch.allclose(F.slogdet().logabsdet, true, rtol=1e-5)


def test_gaussian_log_densities(who):
    A = grids(6, 3)
    x = torch.randn(6, 9, dtype=f64)
    true = torch.distributions.MultivariateNormal(
        torch.zeros(9, dtype=f64), precision_matrix=A.to_dense()
    )
    assert torch.allclose(ss.gaussian_log_prob(A, x, method=who), true.log_prob(x))


@pytest.mark.usefixtures("lanes")
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), items=st.integers(4, 12), seed=st.integers(0, 10_000))
def test_determinants_of_integers(n, items, seed):
    """Known exactly, and zero for many: a zero may come out as rounding, or be said not to be known."""
    g = torch.Generator().manual_seed(seed)
    there = (torch.rand(n, n, generator=g) < 0.7) | torch.eye(n, dtype=torch.bool)
    rows, cols = there.nonzero().T
    values = torch.randint(-1, 2, (items, len(rows)), generator=g).to(f64)
    A = ss.SparseMatrix(ss.Pattern(rows, cols, (n, n)), values)
    det = torch.linalg.det(A.to_dense()).round()
    try:
        sign, size = ss.slogdet(A)
    except ss.InaccurateSolveError as error:
        assert det[error.item] == 0
        return
    assert torch.allclose(sign * size.exp(), det, atol=1e-12)
    assert torch.equal(sign[det != 0], det[det != 0].sign())
