"""When the own Cholesky takes over: by what reuse promises, never at the price of a first call."""

from __future__ import annotations

import logging
import re

import pytest
import scipy.sparse as sp
import torch
from cases import BY_NAME
from conformance import ENGINES, system
from definite import METHOD, matrix, needs_engine
from reference import assert_solves

import sparse_solver as ss
from sparse_solver.engines import REGISTRY
from sparse_solver.planning import choose, planner
from sparse_solver.planning.choose import Future, Work, choices

pytestmark = [
    needs_engine,
    pytest.mark.skipif("rslab" not in ENGINES, reason="rslab is not installed here"),
]
N = 10_000


def order(flops=1e9, uses=0, promised=False, compiled="loaded", **options):
    given = {"n": N, "nnz": 5 * N, "kind": "symmetric", "dtype": "float64", "path": "ldlt", **options}
    path = given.pop("path")
    return choices(**given, work=Work(path, flops, 10 * N), future=Future(uses, promised, compiled))


def ours(*args, **options) -> bool:
    return order(*args, **options)[0].engine == "multifrontal"


@pytest.mark.parametrize("compiled", ["loaded", "cached", "cold"])
@pytest.mark.parametrize("flops", [1e5, 1e7, 1e8, 2e9])
def test_a_single_call_stays_with_rslab(flops, compiled):
    assert order(flops, compiled=compiled)[0].engine == "rslab"
    future = Future(compiled=compiled)
    assert choices(N, 5 * N, "symmetric", "float64", future=future)[0].engine == "rslab"


@pytest.mark.parametrize(
    ("per_unknown", "wanted"), [(1e4, 3), (3e4, 3), (3.1e4, 2), (2e5, 2), (2.1e5, 1), (1e8, 1)]
)
def test_the_number_of_returns_by_flops_per_unknown(per_unknown, wanted):
    for uses in range(7):
        assert ours(per_unknown * N, uses) == (uses + 1 >= wanted)


def test_too_little_at_stake():
    assert not ours(1e5, 18, n=100)  # 19 times 1e5 flops
    assert ours(1e5, 19, n=100)
    assert not ours(1e8, 13, compiled="cached")
    assert ours(1e8, 14, compiled="cached")
    assert ours(5e9, compiled="cached")


def test_a_plan_stands_for_many_factorisations():
    assert ours(1e8, promised=True)
    assert ours(3e8, promised=True, compiled="cached")
    assert not ours(7e7, promised=True, compiled="cached")
    assert ours(7e7, 21, promised=True, compiled="cached")
    assert not ours(2e10, promised=True, compiled="cold")


def test_what_is_not_compiled_is_used_after_as_much_work_as_compiling_takes():
    for flops, uses in ((1e8, 600), (1e10, 6), (5.9e10, 2), (1e13, 1)):
        assert ours(flops, uses, compiled="cold")
        for before in (uses - 1, 0):
            assert not ours(flops, before, compiled="cold")
            assert not ours(flops, before, promised=True, compiled="cold")


def test_only_where_it_may_be_definite():
    for dtype in ("float32", "float64"):
        for kind in ("symmetric", "hermitian", "spd"):
            assert ours(uses=9, kind=kind, dtype=dtype)
    for dtype in ("complex64", "complex128"):
        assert ours(uses=9, kind="hermitian", dtype=dtype)
        assert ours(uses=9, kind="spd", dtype=dtype)
        assert not ours(uses=9, kind="symmetric", dtype=dtype)
    assert not ours(uses=9, kind="general")
    assert not ours(uses=9, engine="rslab")
    assert not ours(1e6, uses=10**6, path="klu")  # 10 flops per factor entry
    assert ours(1e9, uses=9, path="klu")


def test_the_others_are_asked_when_it_fails():
    for kind in ("symmetric", "spd"):
        assert order(uses=9, kind=kind)[1:] == order(kind=kind)


def test_when_asked_for_by_name():
    (only,) = order(engine="multifrontal", compiled="cold")
    assert (only.engine, only.path) == ("multifrontal", "cholesky")
    assert "asked for" in only.reason
    assert order(engine="multifrontal", kind="general") == ()
    assert order(engine="multifrontal", kind="symmetric", dtype="complex128") == ()


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(type(REGISTRY["multifrontal"]), "why_not", lambda self: "pip install numba")
    assert not ours(uses=9)
    assert order(engine="multifrontal") == ()
    A, _, b = system(BY_NAME["spd_grid"], torch.float64)
    with pytest.raises(RuntimeError, match="pip install numba"):
        ss.solve(A, b, method=METHOD)


def test_the_reasons():
    assert re.search(r"factorisation 3 on this pattern, 1.0e\+08 flops", order(1e8, 2)[0].reason)
    assert re.search(r"a plan promises reuse, 1.0e\+08", order(1e8, promised=True)[0].reason)
    reason = order(1e10, 30, compiled="cold")[0].reason
    assert re.search(r"30 factorisations of 1.0e\+10 flops each so far", reason)
    assert "compiling" in reason


# ---- in the planner ----


@pytest.fixture
def eager(monkeypatch):
    """As on a machine where all is compiled; the third factorisation of any size is ours."""
    monkeypatch.setattr(choose, "_RETURNS", ((float("inf"), 3),))
    monkeypatch.setattr(choose, "_AT_STAKE", {"loaded": 0.0, "cached": 0.0})
    monkeypatch.setattr(planner, "compiled", lambda dtype: "loaded")


class Tried:
    """Which engines were asked to factor."""

    def __init__(self, monkeypatch) -> None:
        self.engines: list[str] = []
        for engine in REGISTRY.values():
            self._wrap(monkeypatch, type(engine), engine.name)

    def _wrap(self, monkeypatch, cls, name) -> None:
        inner = cls.factorize

        def factorize(*args, **kwargs):
            self.engines.append(name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(cls, "factorize", factorize)


@pytest.fixture
def tried(monkeypatch):
    return Tried(monkeypatch)


@pytest.mark.parametrize("assume", ["auto", "symmetric", "spd"])
def test_definite_matrices_move_when_they_come_back(eager, tried, assume):
    A = matrix("grid_9_3d")
    b = torch.randn(A.shape[0], dtype=A.dtype)
    for s in (1.0, 2.0, 3.0, 4.0, 5.0):
        v = (s * A.values).requires_grad_()
        x = ss.solve(ss.SparseMatrix(A.pattern, v), b, assume=assume)
        assert_solves(s * A.to_dense(), x, b)
        x.sum().backward()
        assert torch.isfinite(v.grad).all()
    assert tried.engines == ["rslab"] * 2 + ["multifrontal"] * 3
    assert ss.factorize(matrix("scattered")).info.engine == "rslab"  # another pattern starts anew


def test_a_plan_moves_at_once(eager, tried):
    plan = ss.analyze(matrix("grid_9_3d"))
    assert plan.info.engine == "multifrontal"
    F = plan.factorize(matrix("grid_9_3d"))
    assert "a plan promises reuse" in F.info.reason
    assert tried.engines == ["multifrontal"]


def test_nothing_moves_before_it_is_compiled(eager, tried, monkeypatch):
    monkeypatch.setattr(planner, "compiled", lambda dtype: "cold")
    A, b = matrix("grid_9_3d"), torch.ones(729, dtype=torch.float64)
    for s in range(1, 12):
        ss.solve(float(s) * A, b)
    assert set(tried.engines) == {"rslab"}
    work = planner.Planner(A.pattern, "auto", ss.Direct())
    work.kind(A.values.numpy())
    monkeypatch.setattr(choose, "_COLD", 1e6)
    for s in range(1, 12):
        ss.solve(float(s) * A, b)
    assert tried.engines[-1] == "multifrontal"


def test_indefinite_matrices_are_not_tried_again_and_again(eager, tried):
    """A positive diagonal, but an eigenvalue below zero."""
    A = matrix("grid_9_3d").add_diagonal(-0.5)
    D, b = A.to_dense(), torch.ones(729, dtype=torch.float64)
    assert (A.diagonal() > 0).all()
    assert torch.linalg.eigvalsh(D)[0] < 0
    for s in range(1, 101):
        assert_solves(s * D, ss.solve(float(s) * A, b), b)
    tries = [k for k, name in enumerate(tried.engines) if name == "multifrontal"]
    assert 2 <= len(tries) <= 6
    assert tried.engines.count("rslab") == 100
    gaps = [late - early for early, late in zip(tries, tries[1:], strict=False)]
    assert all(late > early for early, late in zip(gaps, gaps[1:], strict=False))


def test_a_negative_diagonal_is_not_tried_at_all(eager, tried):
    A = matrix("grid_9_3d").add_diagonal(-6.2)
    D, b = A.to_dense(), torch.ones(729, dtype=torch.float64)
    for s in range(1, 8):
        assert_solves(s * D, ss.solve(float(s) * A, b), b)
    assert set(tried.engines) == {"rslab"}


def test_an_indefinite_matrix_that_was_assumed_definite(eager):
    A = matrix("grid_9_3d")
    b = torch.ones(729, dtype=torch.float64)
    for s in (1.0, 2.0, 3.0):
        ss.solve(s * A, b, assume="spd")
    bad = A.add_diagonal(-0.5)
    expected = torch.linalg.cholesky_ex(bad.to_dense()).info.item() - 1
    with pytest.raises(ss.NotPositiveDefiniteError) as info:
        ss.solve(bad, b, assume="spd")
    assert info.value.index == expected
    assert_solves(A.to_dense(), ss.solve(A, b, assume="spd"), b)


def test_definite_and_indefinite_values_in_turn(eager):
    A = matrix("grid_9_3d")
    b = torch.ones(729, dtype=torch.float64)
    for s in range(1, 30):
        M = float(s) * (A if s % 3 else A.add_diagonal(-0.5))
        assert_solves(M.to_dense(), ss.solve(M, b), b)


@pytest.mark.slow  # compiles for another element type
def test_complex_matrices(eager, tried):
    A = matrix("grid_9_3d", torch.complex128)
    S = A.to_scipy()
    b = torch.randn(729, dtype=torch.complex128)
    for s in (1.0, 2.0, 3.0, 4.0):
        assert_solves(s * A.to_dense(), ss.solve(s * A, b), b)
    assert tried.engines[-1] == "multifrontal"
    tried.engines.clear()
    symmetric = ss.SparseMatrix.from_scipy(sp.csr_array(S.real + 0.1j * S.real))
    for s in (1.0, 2.0, 3.0, 4.0):
        assert_solves(s * symmetric.to_dense(), ss.solve(s * symmetric, b), b)
    assert "multifrontal" not in tried.engines


def test_the_log_says_who_takes_over(eager, caplog):
    A, b = matrix("grid_9_3d"), torch.ones(729, dtype=torch.float64)
    with caplog.at_level(logging.DEBUG, logger="sparse_solver"):
        for s in (1.0, 2.0, 3.0):
            ss.solve(s * A, b)
    assert "factorisation 3 on this pattern" in caplog.text
    assert "own Cholesky" in caplog.text
