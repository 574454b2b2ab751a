"""The compiled passes give what the plain ones do, bit for bit, and are not waited for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparse_solver as ss
from sparse_solver.planning import passes
from sparse_solver.planning.passes import plain


@pytest.fixture
def compiled(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(passes, "_compiled", {})
    assert passes.warm_up("float64") and passes.warm_up("float32")
    return passes


def problem(n, dtype, full=True, seed=0):
    rng = np.random.default_rng(seed)
    rows, cols = rng.integers(0, n, (2, 6 * n))
    if full:
        rows, cols = np.append(rows, np.arange(n)), np.append(cols, np.arange(n))
    P = ss.Pattern(rows, cols, (n, n))
    values, x, b = (rng.standard_normal(m).astype(dtype) for m in (P.nnz, n, n))
    return P, values, x, b


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "full"), [(1, True), (7, False), (50, True), (40_000, False)])
def test_same_bits(compiled, n, full, dtype):
    P, values, x, b = problem(n, dtype, full)
    own = compiled.passes_for(values.dtype)
    assert own is not plain
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):  # the largest is shared
            torch.set_num_threads(threads)
            found = plain.sizes(P, values)
            same(own.sizes(P, values), found)
            for one in (own, plain):
                room = np.zeros_like(values)
                same(one.sizes(P, values, room), found)
                np.testing.assert_array_equal(room, values)
            for transposed in (False, True):
                given = P, values, found.diagonal, x, b, transposed
                same(own.residual(*given), plain.residual(*given))
                same(own.residual(*given, False)[1:], plain.residual(*given)[1:])
            for swapped in (False, True):
                given = P, x, b, swapped
                same([own.outer(*given)], [plain.outer(*given)])
                given = P, values, found.diagonal, x, b, x[::-1].copy(), swapped
                same(own.adjoint(*given), plain.adjoint(*given))
            here = np.arange(P.nnz)
            assert own.mirrored(values, here, here)
            for changed in (0, P.nnz // 2, P.nnz - 1):
                there = here.copy()
                there[changed] = (changed + 1) % P.nnz
                assert own.mirrored(values, here, there) == plain.mirrored(values, here, there)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(compiled, bad):
    P, values, x, b = problem(30, "float64")
    own = compiled.passes_for(values.dtype)
    diagonal = own.sizes(P, values).diagonal
    for at in (0, 15, P.nnz - 1):
        wrong = values.copy()
        wrong[at] = bad
        assert not np.isfinite(own.sizes(P, wrong).norm)
        here = np.arange(P.nnz)
        assert own.mirrored(wrong, here, here) == plain.mirrored(wrong, here, here)
    for at in (0, 15, 29):
        for transposed in (False, True):
            for which in (0, 1):
                vectors = [x.copy(), b.copy()]
                vectors[which][at] = bad
                given = P, values, diagonal, *vectors
                for wanted in (False, True):
                    assert not np.isfinite(own.residual(*given, transposed, wanted)[1])
                assert not np.isfinite(own.adjoint(*given, x, transposed)[1])


def test_nothing_without_unknowns(compiled):
    P = ss.Pattern([], [], (0, 0))
    found = compiled.passes_for(np.dtype(float)).sizes(P, np.empty(0))
    same(found, plain.sizes(P, np.empty(0)))


def test_only_when_it_pays(monkeypatch):
    asked = []
    monkeypatch.setattr(passes, "_compiled", {})
    monkeypatch.setattr(passes, "warm_up", asked.append)
    double = np.dtype("float64")
    for state, uses in (("cold", 1e9), ("on disk", 1e9)):
        monkeypatch.setattr(passes, "state", lambda dtype, state=state: state)
        passes.consider(1, 100, double)
        passes.consider(50, 100, double)
        assert not asked
        passes.consider(uses, 100, double)
        assert asked.pop() == "float64"
    monkeypatch.setattr(passes, "state", lambda dtype: "none")
    passes.consider(10**9, 100, np.dtype("complex128"))
    assert not asked


def test_solutions_do_not_change(compiled, monkeypatch):
    P, values, _, b = problem(60, "float64")
    v = torch.from_numpy(values).requires_grad_()
    answers = []
    for _ in range(2):
        ss.clear_cache()
        x = ss.solve(ss.SparseMatrix(P, v), torch.from_numpy(b))
        answers.append((x.detach(), *torch.autograd.grad(x.square().sum(), v)))
        monkeypatch.setattr(passes, "_compiled", {})
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (50, 40), (3000, 17)])
def test_same_bits_of_columns(compiled, n, k, dtype):
    P, values, _, _ = problem(n, dtype)
    rng = np.random.default_rng(1)
    x, b = (rng.standard_normal((n, k)).astype(dtype) for _ in "xb")
    diagonal = plain.sizes(P, values).diagonal
    own = compiled.passes_for(values.dtype)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):  # the largest is shared
            torch.set_num_threads(threads)
            for bad in (0.0, np.nan, np.inf):
                x[n // 2, k // 2] += dtype_of(bad, x)
                given = P, values, diagonal, x, b
                with np.errstate(all="ignore"):
                    same(own.columns(*given), plain.columns(*given))
    finally:
        torch.set_num_threads(before)


def dtype_of(number, array):
    return array.dtype.type(number)


def test_many_columns_are_worth_compiled_passes(compiled, monkeypatch):
    asked = []
    monkeypatch.setattr(passes, "_compiled", {})
    monkeypatch.setattr(passes, "_beside", 0)
    monkeypatch.setattr(passes, "consider", lambda *given: asked.append(given))
    for _ in range(2):
        passes.passes_for(np.dtype("float64"), 8000)
    passes.passes_for(np.dtype("float64"))
    assert [given[:2] for given in asked] == [(1, 1000), (1, 2000)]
