"""Whole steps in one compiled call: whose factors are used, who holds them, and for how long."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest
import torch
from conftest import tie
from reference import assert_solves
from side_by_side import side_by_side
from small import small
from test_step import warm

import sparse_solver as ss

pytestmark = pytest.mark.usefixtures("steps")


@pytest.fixture
def S():
    return warm(small("spd", n=8))


def test_edits_in_place(S):
    A, b = S.matrix(S.w), S.rhs(grad=False)
    x = ss.solve(A, b)
    A.values.numpy()[0] *= 3
    y = ss.solve(A, b)
    assert not torch.allclose(x, y)
    assert_solves(A.to_dense(), y, b)
    v = A.values.clone().requires_grad_()
    x = ss.solve(ss.SparseMatrix(S.pattern, v), b)
    with torch.no_grad():
        v.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_pending_backward_passes_keep_their_factors(counts, S):
    b = S.rhs(grad=False)
    ws = [(S.w * (1 + 0.1 * k)).requires_grad_() for k in range(1, 6)]
    counts.reset()
    gc.disable()
    try:
        xs = [S.solve(w, b, assume="auto") for w in ws]
        assert counts.live() == 5
        for w, x in zip(ws, xs, strict=True):
            x.square().sum().backward()
            (true,) = torch.autograd.grad(S.truth(w, b).square().sum(), w)
            assert torch.allclose(w.grad, true)
        assert counts.live() == 1  # x and its graph are still held
        ss.clear_cache()
        assert counts.live() == 0
    finally:
        gc.enable()


def test_the_pattern_holds_nothing(S):
    b = S.rhs(grad=False)
    S.solve(S.w * 7, b, assume="auto")
    life = tie(S.pattern.recent().store)
    step = weakref.ref(S.pattern.recent().step.kernel)
    gc.disable()
    try:
        ss.clear_cache()
        assert life() is None and step() is None and S.pattern.recent() is None
    finally:
        gc.enable()
    assert_solves(S.dense(S.w), S.solve(S.w, b, assume="auto"), b)


def test_the_least_recently_used_pattern_goes_first(S):
    b = S.rhs(grad=False)
    for n in range(9, 30):
        T = small("spd", n=n)
        T.solve(T.w, T.rhs(grad=False))
        S.solve(S.w * n, b, assume="auto")
    assert S.pattern.recent().step is not None


def test_equal_patterns_share_steps(counts, S):
    P = pickle.loads(pickle.dumps(S.pattern))
    counts.reset()
    for k in (1, 2, 3):
        A = ss.SparseMatrix(P, k * S.matrix(S.w).values)
        b = S.rhs(grad=False)
        assert_solves(A.to_dense(), ss.solve(A, b), b)
    assert counts.analyses == 0
    assert P.recent() is S.pattern.recent() is not None


def test_threads(S):
    ws = [S.w * (1 + 0.2 * k) for k in range(4)]
    b = S.rhs(grad=False)
    true = [S.truth(w, b) for w in ws]

    def work(k: int) -> None:
        for _ in range(200):
            w = ws[k].clone().requires_grad_()
            x = S.solve(w, b, assume="auto")
            x.sum().backward()
            assert torch.allclose(x, true[k])

    side_by_side(work, 4)


def test_other_answers_from_the_factor(counts, S):
    A, b = S.matrix(S.w * 1.9), S.rhs(grad=False)
    ss.solve(A, b)
    counts.reset()
    F = ss.factorize(A, method=ss.Direct(engine="simplicial"))
    D = A.to_dense()
    assert torch.allclose(F.logdet(), torch.logdet(D))
    assert torch.allclose(F.inverse_diagonal(), torch.linalg.inv(D).diagonal())
    assert counts.factorisations == 1
