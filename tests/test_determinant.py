"""logdet and slogdet: the dense ones, sign included, at the price of one factorisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cases import BY_NAME, grid
from conformance import GENERAL, each_case, each_dtype, system
from reference import LAYOUTS, assert_same_pattern, assert_says, stored, to_layout, wide
from small import small
from torch.func import grad, vmap

import sparse_solver as ss
from sparse_solver.engines import REGISTRY, Declined
from sparse_solver.engines.triangles import determinant

f64 = torch.float64
ANY_MATRIX = GENERAL


def assert_determinant(got, D, tol=1e5):
    true = torch.linalg.slogdet(wide(D))
    tol = tol * torch.finfo(D.dtype).eps
    assert (got[0] - true[0]).abs() <= tol
    assert (got[1] - true[1]).abs() <= tol * max(1.0, true[1].abs().item())
    assert got[0].dtype == D.dtype
    assert got[1].dtype == (D.real.dtype if D.is_complex() else D.dtype)


# ---- values ----


@each_case
@each_dtype
def test_it_is_the_dense_one_under_every_assumption(case, dtype):
    A, D, _ = system(case, dtype)
    for word in ("auto", *case.words(dtype)):
        assert_determinant(ss.slogdet(A, assume=word), D)
        log, true = ss.logdet(A, assume=word), torch.logdet(wide(D))
        assert log.dtype == dtype
        if true.isnan():
            assert log.isnan()
        else:
            apart = (wide(log) - true).abs()
            if log.is_complex():  # an argument near pi may have either sign
                apart = ((wide(log) - true).exp() - 1).abs()
            assert apart <= 1e5 * torch.finfo(dtype).eps * max(1.0, true.abs().item())


@each_case
def test_views(case):
    A, D, _ = system(case, torch.complex128)
    for view, dense in ((A.T, D.T), (A.H, D.mH), (A.T.H, D.conj()), (A.T.T, D)):
        assert_determinant(ss.slogdet(view), dense)
        assert_determinant(ss.factorize(view).slogdet(), dense)
        assert ((ss.logdet(view) - torch.logdet(dense)).exp() - 1).abs() <= 1e-10


@pytest.mark.parametrize("layout", ["dense", *LAYOUTS])
def test_every_layout(layout):
    A, D, _ = system(BY_NAME["general"], f64)
    M = to_layout(D, layout).requires_grad_()
    log = ss.slogdet(M).logabsdet
    (g,) = torch.autograd.grad(log, M)
    if layout != "dense":
        assert_same_pattern(g, M)
    G = g.to_dense()
    true = torch.linalg.inv(D).T * (stored(M) if layout != "dense" else D != 0)
    assert torch.allclose(G, true)


def test_nothing_overflows():
    n = 400
    d = torch.full((n,), 1e300, dtype=f64)
    A = ss.Pattern(range(n), range(n), (n, n)).assemble(d)
    assert math.isclose(ss.logdet(A).item(), n * math.log(1e300), rel_tol=1e-14)
    assert math.isclose(ss.logdet(A * 1e-300 * 1e-300).item(), -n * math.log(1e300), rel_tol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_permutations(n):
    """The sign of every sort of permutation, also of those that a factorisation makes itself."""
    for seed in range(20):
        p = np.random.default_rng(seed).permutation(n)
        A = ss.Pattern(range(n), p, (n, n)).assemble(torch.ones(n, dtype=f64))
        for engine in ANY_MATRIX:
            sign, log = ss.slogdet(A, method=ss.Direct(engine=engine))
            assert sign == torch.linalg.det(A.to_dense()).round()
            assert log == 0
        one = np.ones(n)
        assert determinant(one, p, np.arange(n), one)[0] == np.linalg.det(np.eye(n)[p]).round()


def test_empty():
    A = ss.Pattern([], [], (0, 0)).assemble(torch.empty(0, dtype=f64))
    assert tuple(ss.slogdet(A)) == (1.0, 0.0)
    none = ss.SparseMatrix(
        ss.Pattern([0], [0], (1, 1)), torch.empty(0, 1, dtype=f64, requires_grad=True)
    )
    assert ss.logdet(none).shape == (0,)
    (g,) = torch.autograd.grad(ss.logdet(none).sum(), none.values)
    assert g.shape == (0, 1)


@each_dtype
@pytest.mark.parametrize("n", [3, 100])
def test_singular(dtype, n):
    i = torch.arange(n)
    P = ss.Pattern(torch.cat([i, i[1:], i[:-1]]), torch.cat([i, i[:-1], i[1:]]), (n, n))
    for values in (
        torch.cat(
            [torch.ones(1), torch.full((n - 2,), 2.0), torch.ones(1), -torch.ones(2 * n - 2)]
        ),  # Neumann
        torch.zeros(3 * n - 2),
    ):
        A = P.assemble(values.to(dtype).requires_grad_())
        for method in [ss.Direct(), *(ss.Direct(engine=e) for e in ANY_MATRIX)]:
            sign, log = ss.slogdet(A, method=method)
            assert (sign, log) == (0, -math.inf)
            assert ss.logdet(A, method=method).real == -math.inf
            with pytest.raises(ss.SingularMatrixError):
                log.backward()
    structurally = ss.Pattern([0, 1], [0, 0], (2, 2)).assemble(torch.ones(2, dtype=dtype))
    assert tuple(ss.slogdet(structurally)) == (0, -math.inf)


def test_a_singular_item_of_a_batch():
    P = ss.Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    v = torch.tensor([[1.0, 1, 1, 1], [2, 0, 0, 3]], dtype=f64, requires_grad=True)
    log = ss.logdet(P.assemble(v))
    assert log[0] == -math.inf
    assert torch.isclose(log[1], torch.tensor(6.0, dtype=f64).log())
    with pytest.raises(ss.SingularMatrixError) as info:
        log[1].backward()
    assert info.value.item == 0


def test_negative_and_indefinite():
    A, D, _ = system(BY_NAME["symmetric_indefinite"], f64)
    if torch.linalg.det(D) > 0:
        A = A * torch.ones((), dtype=f64)
        D = D.clone()
    swap = ss.Pattern([0, 1], [1, 0], (2, 2)).assemble(torch.ones(2, dtype=f64))
    assert ss.logdet(swap).isnan()
    assert ss.slogdet(swap).sign == -1
    with pytest.raises(ss.NotPositiveDefiniteError):
        ss.logdet(A, assume="spd")
    with pytest.raises(ValueError, match="spd"):
        ss.logdet(system(BY_NAME["general"], f64)[0], assume="spd")


def test_wrong_arguments():
    with pytest.raises(ValueError) as info:
        ss.logdet(torch.ones(2, 3))
    assert_says(info.value, (2, 3), "square")
    with pytest.raises(TypeError):
        ss.slogdet(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError):
        ss.logdet(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError):
        ss.logdet(torch.eye(2), assume="definite")


# ---- reuse ----


@pytest.mark.parametrize("m", [4, 12])
@pytest.mark.parametrize("assume", ["auto", "spd", "general"])
def test_value_and_gradient_take_one_factorisation(counts, m, assume):
    A = ss.SparseMatrix.from_scipy(grid(m))
    for _ in range(3):
        counts.reset()
        v = (A.values * (1 + torch.rand(()))).requires_grad_()
        M = ss.SparseMatrix(A.pattern, v)
        log = ss.logdet(M, assume=assume)
        log.backward()
        assert counts.factorisations == 1
        ss.solve(M, torch.ones(m * m, dtype=f64), assume=assume)  # with the same
        log = ss.logdet(M, assume=assume)
        assert counts.factorisations == 1


def test_a_factor_that_only_solves_hands_over_once(counts):
    A = ss.SparseMatrix.from_scipy(grid(12)).requires_grad_()
    path = "ldlt" if "rslab" in ANY_MATRIX else "diagonal"
    method = ss.Direct(engine="rslab" if "rslab" in ANY_MATRIX else "superlu")
    F = ss.factorize(A, assume="spd", method=method)
    assert F.info.path == path
    once = counts.factorisations
    true = torch.logdet(A.to_dense())
    for _ in range(2):
        assert torch.isclose(F.logdet(), true)
    F.logdet().backward()
    F.inverse_diagonal().sum().backward()
    assert counts.factorisations <= once + 1


def test_second_derivatives_take_no_further_factorisation(counts):
    A = ss.SparseMatrix.from_scipy(grid(9)).requires_grad_()
    (g,) = torch.autograd.grad(ss.logdet(A), A.values, create_graph=True)
    g.square().sum().backward()
    assert counts.factorisations == 1


def test_no_factor_outlives_its_graph(counts):
    import gc

    gc.collect()
    gc.disable()
    try:
        A = ss.SparseMatrix.from_scipy(grid(9))
        for _ in range(5):
            v = (A.values * (1 + torch.rand(()))).requires_grad_()
            log = ss.logdet(ss.SparseMatrix(A.pattern, v))
            log.backward()
        assert counts.live() <= 1
    finally:
        gc.enable()


def test_fixed_unknowns_leave_the_determinant_of_the_rest():
    A, D, _ = system(BY_NAME["general"], f64)
    fixed = torch.tensor([7, 3, 11])
    free = [i for i in range(40) if i not in fixed.tolist()]
    F = ss.factorize(A, fixed=(fixed, torch.zeros(3, dtype=f64)))
    assert_determinant(F.slogdet(), D[free][:, free])


def test_engines_say_what_they_decline():
    for engine in REGISTRY.values():
        for path in engine.opaque:
            assert path in engine.paths
    if "rslab" in ANY_MATRIX:
        A, _, _ = system(BY_NAME["spd_grid"], f64)
        rslab = REGISTRY["rslab"]
        values = A.values.numpy()
        numeric = rslab.factorize(rslab.analyze(A.pattern, "ldlt", values, 1), values, 1)
        for ask in (numeric.slogdet, numeric.factors, numeric.selected_inverse):
            with pytest.raises(Declined):
                ask()


def test_determinants_survive_a_factor_of_other_values():
    """KLU keeps pivots of old values; such a factor may be poor, and must not answer then."""
    A, _, _ = system(BY_NAME["general"], f64)
    for seed in range(10):
        v = A.values * 10.0 ** (
            8 * torch.randn(A.nnz, dtype=f64, generator=torch.Generator().manual_seed(seed))
        )
        M = ss.SparseMatrix(A.pattern, v)
        try:
            got = ss.slogdet(M)
        except torch.linalg.LinAlgError:
            continue
        ss.clear_cache()
        fresh = ss.slogdet(M)
        assert got.sign == fresh.sign
        assert torch.isclose(got.logabsdet, fresh.logabsdet, rtol=1e-8)


def test_a_factor_as_argument_of_transforms():
    S = small("spd")
    A = S.matrix(S.w)
    F = ss.factorize(A)
    g = grad(lambda F: F.logdet() + F.inverse_diagonal().sum())(F)
    v = A.values.clone().requires_grad_()
    D = ss.SparseMatrix(A.pattern, v).to_dense()
    (true,) = torch.autograd.grad(torch.logdet(D) + torch.linalg.inv(D).trace(), v)
    assert torch.allclose(g.matrix.values, true)
    batch = ss.SparseMatrix(A.pattern, torch.stack([A.values, 2 * A.values]))
    logs = vmap(lambda A: ss.logdet(A))(batch)
    assert torch.allclose(logs, torch.stack([torch.logdet(D), torch.logdet(2 * D)]))


def test_a_pickled_factor_answers():
    import pickle

    A, D, _ = system(BY_NAME["general"], f64)
    F = pickle.loads(pickle.dumps(ss.factorize(A)))
    assert_determinant(F.slogdet(), D)
    assert torch.allclose(F.inverse_diagonal(), torch.linalg.inv(D).diagonal())


def test_two_threads():
    from concurrent.futures import ThreadPoolExecutor

    A = ss.SparseMatrix.from_scipy(grid(9))
    F, true = ss.factorize(A), torch.linalg.inv(A.to_dense())

    def work(seed):
        for _ in range(5):
            v = (A.values * (1 + seed)).requires_grad_()
            log = ss.logdet(ss.SparseMatrix(A.pattern, v))
            (g,) = torch.autograd.grad(log, v)
            assert torch.allclose(g * (1 + seed), true[A.pattern.rows, A.pattern.cols])
            assert torch.allclose(F.inverse_diagonal(), true.diagonal())

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(work, seed) for seed in range(2)]:
            job.result(timeout=60)


@pytest.mark.parametrize("spread", [0, 2, 4, 8, 16])
@pytest.mark.parametrize("n", [5, 30, 90])
def test_random_matrices_of_all_scales(n, spread):
    """Whatever can be solved has a determinant and entries of its inverse; the rest is singular."""
    for seed in range(6):
        rng = np.random.default_rng(1000 * seed + n + spread)
        density = min(1.0, 4 / n)
        A = sp.coo_array(sp.random_array((n, n), density=density, rng=rng) + sp.eye_array(n))
        A.data = rng.standard_normal(A.nnz) * 10.0 ** rng.uniform(-spread, spread, A.nnz)
        M = ss.SparseMatrix.from_scipy(A)
        for engine in ANY_MATRIX:
            method = ss.Direct(engine=engine)
            got = ss.slogdet(M, method=method)
            if got.sign == 0:
                with pytest.raises(ss.SingularMatrixError):
                    ss.factorize(M, method=method)
                continue
            true = torch.linalg.slogdet(M.to_dense())
            assert got.sign == true[0]
            assert torch.isclose(got.logabsdet, true[1], rtol=1e-8, atol=1e-8)
            inverse = torch.linalg.inv(M.to_dense())
            d = ss.factorize(M, method=method).inverse_diagonal()
            assert (d - inverse.diagonal()).abs().max() <= 1e-6 * inverse.abs().max()
