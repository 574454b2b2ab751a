"""An analysis that tells the work, and the one to factor with: made once it is known who factors."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conformance import ENGINES
from definite import matrix, needs_engine
from reference import assert_solves

import sparse_solver as ss
from sparse_solver.engines import REGISTRY, Declined, rslab
from sparse_solver.planning import choose, planner

pytestmark = pytest.mark.skipif("rslab" not in ENGINES, reason="rslab is not installed here")
RSLAB = ss.Direct(engine="rslab")


@pytest.fixture
def improved(monkeypatch) -> list:
    """Paths of the analyses improved, where every matrix is heavy and none goes to KLU first."""
    monkeypatch.setattr(rslab, "_HEAVY", 0.0)
    monkeypatch.setattr(rslab, "_HEAVY_PER_UNKNOWN", 0.0)
    monkeypatch.setattr(choose, "_MODEST", 0)
    monkeypatch.setattr(choose, "_PER_UNKNOWN", {True: 0.0, False: 0.0})
    seen, inner = [], rslab.Rslab.improved

    def outer(self, symbolic, values, threads):
        assert symbolic.provisional
        out = inner(self, symbolic, values, threads)
        assert not out.provisional and out.flops <= symbolic.flops and out.seconds > symbolic.seconds
        seen.append(symbolic.path)
        return out

    monkeypatch.setattr(rslab.Rslab, "improved", outer)
    return seen


@pytest.fixture
def own(monkeypatch) -> None:
    """The own Cholesky at once."""
    monkeypatch.setattr(choose, "_RETURNS", ((float("inf"), 1),))
    monkeypatch.setattr(choose, "_AT_STAKE", {"loaded": 0.0, "cached": 0.0})
    monkeypatch.setattr(planner, "compiled", lambda dtype: "loaded")


@pytest.fixture
def cold(monkeypatch) -> None:
    monkeypatch.setattr(planner, "compiled", lambda dtype: "cold")


def right(A):
    return torch.linspace(1, 2, A.shape[0], dtype=A.dtype)


def unsymmetric(A):
    v = A.values.clone()
    v[A.pattern.rows < A.pattern.cols] *= 0.5
    return ss.SparseMatrix(A.pattern, v)


@pytest.mark.parametrize("method", [ss.Direct(), RSLAB])
def test_improved_once(improved, counts, cold, method):
    A = matrix("grid_9_3d")
    for s in (1.0, 2.0, 3.0):
        assert_solves(s * A.to_dense(), ss.solve(s * A, right(A), method=method), right(A))
    assert (improved, counts.analyses, counts.factorisations) == (["ldlt"], 1, 3)
    B = unsymmetric(A)
    assert_solves(B.to_dense(), ss.solve(B, right(A), method=method), right(A))
    assert improved == ["ldlt", "lu"]


def test_not_where_there_is_little_work(counts, cold, monkeypatch):
    monkeypatch.setattr(rslab.Rslab, "improved", None)
    A = matrix("grid_9_3d")
    for method in (ss.Direct(), RSLAB):
        assert_solves(A.to_dense(), ss.solve(A, right(A), method=method), right(A))


def test_what_an_engine_does_not_leave_for_later(monkeypatch):
    A = matrix("grid_9_3d")
    engine, values = REGISTRY["superlu"], A.values.numpy()
    symbolic = engine.analyze(A.pattern, "lu", values, 1)
    assert not symbolic.provisional
    assert engine.improved(symbolic, values, 1) is symbolic


@needs_engine
def test_not_where_another_engine_factors(improved, own):
    A = matrix("grid_9_3d")
    F = ss.factorize(A)
    assert (F.info.engine, improved) == ("multifrontal", [])


@needs_engine
def test_after_cholesky_gave_up(improved, own):
    """A positive diagonal, but an eigenvalue below zero; and a diagonal that tells at once."""
    for k, shift in enumerate((-0.5, -6.2)):
        A = matrix("grid_9_3d").add_diagonal(shift)
        F = ss.factorize(A)
        assert_solves(A.to_dense(), F.solve(right(A)), right(A))
        assert (F.info.engine, improved) == ("rslab", ["ldlt"] * (k + 1))


@needs_engine
def test_a_plan_leaves_nothing_for_the_first_factorisation(improved, own, counts):
    A = matrix("grid_9_3d")
    for M, engine in ((A, "multifrontal"), (A.add_diagonal(-6.2), "rslab"), (unsymmetric(A), "rslab")):
        improved.clear()
        counts.reset()
        plan = ss.analyze(M)
        before = list(improved), counts.analyses
        assert len(improved) == (engine == "rslab")
        F = plan.factorize(M)
        assert F.info.engine == engine
        assert (improved, counts.analyses) == before
        assert_solves(M.to_dense(), F.solve(right(A)), right(A))


@needs_engine
@pytest.mark.usefixtures("own")
def test_a_plan_knows_what_the_own_cholesky_will_take():
    A = matrix("grid_9_3d")
    plan = ss.analyze(A)
    assert plan.info.engine == "multifrontal"
    assert (plan.info.flops, plan.info.nnz_factor) == (
        plan.factorize(A).info.flops,
        plan.factorize(A).info.nnz_factor,
    )


def test_a_plan_and_its_copy(improved, cold):
    A = matrix("grid_9_3d")
    plan = ss.analyze(A)
    assert improved == ["ldlt"]
    copy = pickle.loads(pickle.dumps(plan))
    assert improved == ["ldlt"] * 2
    assert_solves(A.to_dense(), copy.factorize(A).solve(right(A)), right(A))
    assert improved == ["ldlt"] * 2


def test_reuse_is_judged_by_what_rslab_really_does(improved, cold, monkeypatch):
    """By the analysis that it factors with, not by the provisional one."""
    A = matrix("grid_9_3d")
    plan = ss.analyze(A)
    kept = plan._planner._symbolics["rslab", "ldlt"]
    assert plan.info.flops == kept.flops
    monkeypatch.setattr(choose, "_COLD", 4 * kept.flops - 1)
    engines = [plan.factorize(float(s) * A).info.engine for s in range(1, 6)]
    if REGISTRY["multifrontal"].why_not() is None:
        assert engines == ["rslab"] * 4 + ["multifrontal"]


def test_from_several_threads(improved, cold):
    A = matrix("grid_9_3d")
    D, b = A.to_dense(), right(A)
    shared = planner.Planner(A.pattern, "auto", RSLAB)
    shared.order("symmetric", A.values.numpy())

    def one(s: float):
        values = s * A.values.numpy()
        attempt = shared.attempt(shared.order("symmetric", values)[0], values)
        return attempt.numeric.solve(b.numpy())

    with ThreadPoolExecutor(4) as pool:
        for s, x in zip(range(1, 9), pool.map(one, np.arange(1.0, 9.0)), strict=True):
            assert_solves(s * D, torch.from_numpy(x), b)


def test_without_a_second_ordering(improved, cold, monkeypatch):
    """If the library gives up on it, it is said as of any other analysis."""

    def declined(*args):
        raise Declined("no room")

    monkeypatch.setattr(rslab.Rslab, "improved", declined)
    A = matrix("grid_9_3d")
    F = ss.factorize(A)
    assert F.info.path != "ldlt"
    assert_solves(A.to_dense(), F.solve(right(A)), right(A))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
def test_what_a_parent_left_for_later(improved, cold):
    A = matrix("grid_9_3d")
    values, b = A.values.numpy(), right(A).numpy()
    shared = planner.Planner(A.pattern, "auto", RSLAB)
    choice = shared.order("symmetric", values)[0]
    assert improved == []
    gc.collect()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        try:
            shared.attempt(choice, values)
        except Declined as reason:
            queue.put(str(reason))
        x = shared.attempt(choice, values, fresh=True).numeric.solve(b)
        queue.put(np.abs(A.to_scipy() @ x - b).max())

    process = context.Process(target=child)
    process.start()
    assert "forked" in queue.get(timeout=60)
    assert queue.get(timeout=60) < 1e-9
    process.join(30)
    assert process.exitcode == 0
