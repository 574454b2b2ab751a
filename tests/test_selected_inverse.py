"""selected_inverse and inverse_diagonal: exact entries of the inverse, with derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_NAME, grid
from conformance import ENGINES, GENERAL, each_case, each_dtype, factors, system
from reference import wide
from small import EXACT, KINDS, small
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import sparse_solver as ss
from sparse_solver.planning import answers, blocks

f64 = torch.float64
ANY_MATRIX = GENERAL
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of vmap
each_exact = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
each_kind = pytest.mark.parametrize("kind", KINDS)
ROUTES = pytest.mark.parametrize("small_ones", [0, 64], ids=["factors", "solves"])


# Without refinement, so that another engine is asked for entries of the inverse.
INACCURATE = [("superlu", "complex_symmetric"), ("superlu", "zero_diagonal")]


def who_answered(F) -> set[str]:
    """The engines whose factors the answers came from."""
    (f,) = F._token.untyped_storage()._sparse_solver_factors
    return {attempt.choice.engine for attempt in f.notes.get("helpers") or [f.attempt]}


def close(got, true, D, dtype, factor=1e4):
    eps = torch.finfo(dtype).eps * torch.linalg.cond(wide(D)).clamp(max=1e4)
    return bool(((wide(got) - true).abs() <= factor * eps * true.abs().max()).all())


@each_case
@each_dtype
@ROUTES
def test_entries_of_the_inverse(case, dtype, small_ones, monkeypatch):
    monkeypatch.setattr(answers, "SMALL", small_ones)
    A, D, _ = system(case, dtype)
    inverse = torch.linalg.inv(wide(D))
    for engine in ANY_MATRIX:
        F = ss.factorize(A, method=ss.Direct(engine=engine))
        S = F.selected_inverse()
        assert isinstance(S, ss.SparseMatrix)
        assert S.pattern is A.pattern
        assert S.dtype == dtype
        assert close(S.values, inverse[A.pattern.rows, A.pattern.cols], D, dtype)
        d = F.inverse_diagonal()
        assert d.dtype == dtype
        assert d.shape == (A.shape[0],)
        assert close(d, inverse.diagonal(), D, dtype)
        if small_ones == 0 and (engine, case.name) not in INACCURATE:
            assert who_answered(F) == {engine}


@each_dtype
@pytest.mark.parametrize("name", ["spd_grid", "spd_zeros", "arrow"])
def test_each_engines_own_factors_are_read(name, dtype, monkeypatch):
    """Another engine's would be right as well, and hide that this one's can't be used."""
    monkeypatch.setattr(answers, "SMALL", 0)
    A, D, _ = system(BY_NAME[name], dtype)
    for engine in ENGINES:
        if not factors(engine, dtype):
            continue
        F = ss.factorize(A, assume="spd", method=ss.Direct(engine=engine))
        d = F.inverse_diagonal()
        assert close(d, torch.linalg.inv(wide(D)).diagonal(), D, dtype)
        hidden = engine == "cholespy" or (engine, F.info.path) == ("rslab", "ldlt")
        assert F.info.engine == engine
        assert (engine in who_answered(F)) == (not hidden)


@each_case
def test_views(case):
    A, D, _ = system(case, torch.complex128)
    for view, dense in ((A.T, D.T), (A.H, D.mH)):
        F, inverse = ss.factorize(view), torch.linalg.inv(dense)
        S = F.selected_inverse()
        assert close(S.values, inverse[view.pattern.rows, view.pattern.cols], D, D.dtype)
        assert close(F.inverse_diagonal(), inverse.diagonal(), D, D.dtype)


def _checks():
    """The rule is one for all kinds of complex matrices."""
    for small_ones in (0, 64):
        for kind in KINDS:
            for dtype in EXACT:
                slow = kind != "general" and dtype.is_complex
                yield pytest.param(small_ones, kind, dtype, marks=[pytest.mark.slow] if slow else [])


each_check = pytest.mark.parametrize(("small_ones", "kind", "dtype"), list(_checks()), ids=str)


@each_check
def test_gradcheck(kind, dtype, small_ones, monkeypatch):
    monkeypatch.setattr(answers, "SMALL", small_ones)
    S = small(kind, dtype, n=3)

    def diagonal(w):
        return ss.factorize(S.matrix(w), assume=kind).inverse_diagonal()

    def entries(w):
        return ss.factorize(S.matrix(w), assume=kind).selected_inverse().values

    assert gradcheck(diagonal, (S.param(),), check_forward_ad=True, check_batched_grad=True)
    assert gradcheck(entries, (S.param(),), check_forward_ad=True)


@each_check
def test_gradgradcheck(kind, dtype, small_ones, monkeypatch):
    monkeypatch.setattr(answers, "SMALL", small_ones)
    S = small(kind, dtype, n=3)

    def entries(w):
        return ss.factorize(S.matrix(w), assume=kind).selected_inverse().values

    assert gradgradcheck(entries, (S.param(),), check_fwd_over_rev=True)


@each_exact
@pytest.mark.parametrize("name", ["general", "spd_zeros", "kkt", "many_blocks", "circuit"])
def test_first_derivatives_of_larger_ones(name, dtype):
    A, D, _ = system(BY_NAME[name], dtype)
    M = torch.randn(A.nnz, dtype=dtype)
    N = torch.linalg.inv(D)
    change = -N @ ss.SparseMatrix(A.pattern, M).to_dense() @ N
    P = A.pattern

    def f(v):
        return ss.factorize(ss.SparseMatrix(P, v)).selected_inverse().values

    tangent = jvp(f, (A.values,), (M,))[1]
    assert torch.allclose(
        tangent, change[P.rows, P.cols], rtol=1e-6, atol=1e-9 * change.abs().max().item()
    )


def test_blocks_and_factors_agree():
    """Several blocks of unit vectors, against Takahashi's recursion and its tangent."""
    A = ss.SparseMatrix.from_scipy(grid(13))
    M = np.random.default_rng(0).standard_normal(A.nnz)
    F = ss.factorize(A.add_diagonal(torch.rand(169, dtype=f64)))
    (f,) = F._token.untyped_storage()._sparse_solver_factors
    for Ms in ([], [M]):
        quick, sure = answers.chain(f, Ms), blocks.chain(f, Ms)
        assert np.abs(quick - sure).max() <= 1e-13 * np.abs(sure).max()
    assert f.notes["helpers"] or not answers.is_opaque(f.attempt.choice)


def test_many_blocks_say_that_they_take_long(monkeypatch):
    monkeypatch.setattr(blocks, "_MANY", 1)
    with pytest.warns(UserWarning, match="n = 100 by 100 solves"):
        list(blocks.unit_blocks(100, np.dtype(float), "entries of the inverse"))


@each_exact
def test_transforms(dtype):
    S = small("general", dtype)

    def f(w):
        return ss.factorize(S.matrix(w)).inverse_diagonal()

    def true(w):
        return torch.linalg.inv(S.dense(w)).diagonal()

    def loss(f):
        return lambda w: f(w).abs().square().sum()

    W = S.w + 0.1 * torch.randn(3, len(S.w), dtype=dtype)
    pairs = [
        (grad(loss(f))(S.w), grad(loss(true))(S.w)),
        (vmap(f)(W), torch.stack([true(w) for w in W])),
        (vmap(grad(loss(f)))(W), torch.stack([grad(loss(true))(w) for w in W])),
    ]
    if not dtype.is_complex:
        pairs += [
            (jacrev(f)(S.w), jacrev(true)(S.w)),
            (jacfwd(f)(S.w), jacrev(true)(S.w)),
            (hessian(loss(f))(S.w), hessian(loss(true))(S.w)),
        ]
    for got, dense in pairs:
        assert torch.allclose(got, dense)


@each_exact
def test_batches(dtype):
    S = small("general", dtype)
    W = S.w + 0.1 * torch.randn(2, 3, len(S.w), dtype=dtype)
    F = ss.factorize(S.pattern.assemble(W))
    inverse = torch.linalg.inv(torch.stack([S.dense(w) for w in W.reshape(6, -1)])).reshape(2, 3, 4, 4)
    assert torch.allclose(F.inverse_diagonal(), inverse.diagonal(dim1=-2, dim2=-1))
    P = S.pattern
    assert torch.allclose(F.selected_inverse().values, inverse[..., P.rows, P.cols])


def test_an_unsymmetric_pattern_is_completed_once(counts):
    A, _, _ = system(BY_NAME["unsymmetric_pattern"], f64)
    F = ss.factorize(A.requires_grad_())
    assert counts.factorisations == 1
    for _ in range(3):
        F.selected_inverse().values.sum().backward()
        F.inverse_diagonal().sum().backward()
    assert counts.factorisations == 2


@pytest.mark.parametrize("m", [5, 12])
def test_a_symmetric_one_takes_what_is_there(counts, m):
    A = ss.SparseMatrix.from_scipy(grid(m))
    F = ss.factorize(A)
    for _ in range(3):
        F.selected_inverse()
        F.inverse_diagonal()
    assert counts.factorisations <= 2  # one more where the first only solves
    assert counts.solves <= 8


def test_a_diagonal_that_is_not_stored():
    P = ss.Pattern([0, 1, 1, 2, 2], [1, 0, 2, 1, 2], (3, 3))
    A = P.assemble(torch.tensor([2.0, 2.0, 1.0, 1.0, 5.0], dtype=f64))
    d = ss.factorize(A).inverse_diagonal()
    assert torch.allclose(d, torch.linalg.inv(A.to_dense()).diagonal())


def test_fixed_unknowns():
    A, D, _ = system(BY_NAME["spd_grid"], f64)
    fixed = torch.tensor([30, 2])
    free = [i for i in range(49) if i not in (2, 30)]
    F = ss.factorize(A, fixed=(fixed, torch.ones(2, dtype=f64)))
    inverse = torch.linalg.inv(D[free][:, free])
    assert torch.allclose(F.inverse_diagonal(), inverse.diagonal())
    S = F.selected_inverse()
    assert torch.allclose(S.to_dense(), inverse * (D[free][:, free] != 0))


@pytest.mark.parametrize("engine", ["auto", *ANY_MATRIX])
def test_a_factorisation_that_is_no_good_is_not_asked(engine, monkeypatch):
    """Wrong entries of the inverse are noticed, and found otherwise."""
    from sparse_solver.planning import inverse

    A = ss.SparseMatrix.from_scipy(grid(10))
    true = torch.linalg.inv(A.to_dense()).diagonal()
    entries = inverse.entries
    monkeypatch.setattr(inverse, "entries", lambda *args: entries(*args) * (1 + 1e-6))
    d = ss.factorize(A, method=ss.Direct(engine=engine)).inverse_diagonal()
    assert torch.allclose(d, true, rtol=1e-12)


def test_a_selected_inverse_of_an_engines_own(monkeypatch):
    """An engine that has one is asked for it, and its entries are checked like any."""
    from sparse_solver.engines.superlu import _SuperLUNumeric

    A, D, _ = system(BY_NAME["spd_grid"], f64)
    monkeypatch.setattr(answers, "SMALL", 0)
    P, inverse = A.pattern, torch.linalg.inv(D)
    asked = []

    def own(self):
        asked.append(self)
        return inverse[P.rows, P.cols].numpy()

    monkeypatch.setattr(_SuperLUNumeric, "selected_inverse", own)
    F = ss.factorize(A, method=ss.Direct(engine="superlu"))
    assert torch.allclose(F.selected_inverse().values, inverse[P.rows, P.cols])
    assert len(asked) == 1
