"""What the cache keeps, for how long, and that nobody waits for it."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
import torch
from conformance import ENGINES, GENERAL, REGISTRY, each_engine_for_definite
from reference import assert_solves
from side_by_side import side_by_side
from small import small

import sparse_solver as ss
from sparse_solver.engines import Numeric


@pytest.fixture
def S():
    return small("general", n=8)


def steps(S, count: int):
    for step in range(count):
        yield (S.w * (1 + 0.1 * step)).requires_grad_()


def test_the_cache_keeps_eight_patterns(counts):
    systems = [small("spd", n=k) for k in range(4, 13)]  # nine
    rhs = [S.rhs(grad=False) for S in systems]
    for S, b in zip(systems, rhs, strict=True):
        S.solve(S.w, b)
    assert counts.analyses == 9
    assert counts.live() <= 8
    for S, b in list(zip(systems, rhs, strict=True))[1:]:
        S.solve(S.w, b)
    assert counts.analyses == 9
    systems[0].solve(systems[0].w, rhs[0])  # the oldest was dropped
    assert counts.analyses == 10
    assert counts.live() <= 8


def test_clear_cache(counts, S):
    b = S.rhs(grad=False)
    w = S.param()
    x = S.solve(w, b)
    ss.clear_cache()
    x.sum().backward()  # a pending backward keeps what it needs
    assert counts.factorisations == 1
    S.solve(S.w, b)
    assert (counts.analyses, counts.factorisations) == (2, 2)


def test_dtypes_and_assumptions_do_not_mix(counts):
    S = small("spd", n=8)
    b = S.rhs(grad=False)
    A = S.matrix(S.w)
    for assume in ("auto", "general", "spd", "symmetric"):
        for dtype in (torch.float64, torch.float32, torch.complex128):
            x = ss.solve(A.to(dtype), b.to(dtype), assume=assume)
            assert x.dtype == dtype
            assert_solves(A.to_dense().to(dtype), x, b.to(dtype))


def test_threads_see_each_others_plans(counts, S):
    b = S.rhs(grad=False)

    def work(seed: int) -> None:
        for k in range(20):
            w = S.w * (1 + 0.01 * ((k + seed) % 7))
            assert torch.allclose(S.solve(w, b), S.truth(w, b))

    S.solve(S.w, b)
    side_by_side(work, 3)
    assert counts.analyses == 1


@each_engine_for_definite
def test_numerics_do_not_wait_for_the_collector(counts, engine):
    S = small("general" if engine in GENERAL else "spd", n=8)
    gc.collect()
    gc.disable()
    try:
        kept = []
        for w in steps(S, 5):
            x = S.solve(w, S.rhs(), method=ss.Direct(engine=engine))
            loss = x.square().sum()
            loss.backward()
            kept.append((x, loss))
            assert counts.live() <= 1
        F = ss.factorize(S.matrix(S.w), method=ss.Direct(engine=engine))
        F.solve(S.rhs())
        assert counts.live() == 2
        del F
        assert counts.live() == 1
        ss.clear_cache()
        assert counts.live() == 0
    finally:
        gc.enable()


def test_failures_leave_nothing_behind(counts, S):
    b = S.rhs(grad=False)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(ss.SingularMatrixError):
                S.solve(0 * S.w, b)
            assert S.solve(S.w, b).isfinite().all()
        assert counts.live() <= 1
    finally:
        gc.enable()


def test_the_cache_is_bounded_in_bytes(counts, monkeypatch):
    from sparse_solver.planning import cache

    systems = [small("spd", n=k) for k in range(6, 10)]
    monkeypatch.setattr(cache, "max_bytes", lambda: 1)
    for S in systems:
        S.solve(S.w, S.rhs(grad=False))
        assert counts.live() == 1  # the newest stays, whatever its size
    assert counts.analyses == 4
    S = systems[0]
    S.solve(S.w, S.rhs(grad=False))
    assert counts.analyses == 4  # plans are kept
    assert counts.factorisations == 5


@pytest.mark.skipif("rslab" not in ENGINES, reason="rslab is not installed here")
@pytest.mark.parametrize("before", ["nothing", "a failed compile"])
def test_storage_that_nobody_holds_is_used_again(S, monkeypatch, before):
    """In-place refactorisation: after backward, or without a graph, but never under a held x."""
    recycled = []
    cls = type(REGISTRY["rslab"])
    inner = cls.factorize

    def factorize(*args, **kwargs):
        given = [*args[1:], *kwargs.values()]
        recycled.append(any(isinstance(a, Numeric) for a in given))
        return inner(*args, **kwargs)

    monkeypatch.setattr(cls, "factorize", factorize)
    if before != "nothing":
        made_inside = lambda v: ss.Pattern([0], [0], (1, 1)).assemble(v).values + torch.ones(3)[5]  # noqa: E731
        with pytest.raises(Exception):  # noqa: B017
            torch.compile(made_inside, backend="aot_eager", fullgraph=True)(torch.ones(1))
    b = S.rhs(grad=False)
    for w in steps(S, 4):
        S.solve(w, b).sum().backward()
    assert recycled == [False, True, True, True]
    recycled.clear()
    ss.clear_cache()
    held = [S.solve(w, b) for w in steps(S, 4)]
    assert recycled == [False] * 4
    for x, w in zip(held, steps(S, 4), strict=True):
        assert torch.allclose(x, S.truth(w, b))


def test_a_finaliser_may_solve(monkeypatch):
    """Evicting a factor runs arbitrary code: no lock may be held meanwhile."""
    other = small("spd", n=5)
    b = other.rhs(grad=False)
    seen = []

    def solve_again() -> None:
        other.solve(other.w * (1 + len(seen)), b)
        ss.solve(other.matrix(other.w).to_torch(), b)
        seen.append(1)

    for cls in {type(engine) for engine in REGISTRY.values()}:
        inner = cls.factorize

        def factorize(*args, _inner=inner, **kwargs):
            numeric = _inner(*args, **kwargs)
            if len(seen) < 5:
                weakref.finalize(numeric, solve_again)
            return numeric

        monkeypatch.setattr(cls, "factorize", factorize)

    def work(_: int) -> None:
        systems = [small("general", n=k) for k in range(4, 14)]  # more than are kept
        for T in systems:
            T.solve(T.w, T.rhs(grad=False))
            T.solve(2 * T.w, T.rhs(grad=False))
            ss.factorize(T.matrix(T.w))
        ss.clear_cache()

    side_by_side(work)
    assert len(seen) >= 5


def test_threads_that_change_the_values_under_each_other():
    """Six threads, three matrices on one pattern, switched as often as Python can."""
    P = ss.Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    b = torch.ones(2, dtype=torch.float64)
    matrices = [P.assemble(torch.tensor([2.0 + k, 1.0, 1.0, 3.0]).double()) for k in range(3)]
    true = [torch.linalg.inv(A.to_dense()) @ b for A in matrices]

    def work(k: int) -> None:
        for step in range(300):
            i = (step * (k + 1) + k) % 3
            assert torch.allclose(ss.solve(matrices[i], b), true[i])

    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        side_by_side(work, 6, seconds=120)
    finally:
        sys.setswitchinterval(kept)


def test_clearing_the_cache_while_others_solve(S):
    b = S.rhs(grad=False)
    stop, cleared = threading.Event(), []

    def clear() -> None:
        while not stop.is_set():
            ss.clear_cache()
            cleared.append(1)

    kept = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # else each step waits for its turn, and few are disturbed
    thread = threading.Thread(target=clear)
    thread.start()
    try:
        for w in steps(S, 50):
            x = S.solve(w, b)
            x.sum().backward()
            assert torch.allclose(x, S.truth(w, b))
    finally:
        sys.setswitchinterval(kept)
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert len(cleared) > 50
