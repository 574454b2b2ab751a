"""Who factors how often, and who owns what: counted, never timed."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from conformance import ENGINES, GENERAL
from reference import assert_solves, to_layout
from small import small

import sparse_solver as ss


@pytest.fixture
def S():
    return small("general", n=8)


def steps(S, count: int):
    g = torch.Generator().manual_seed(1)
    for _ in range(count):
        w = S.w * (1 + 0.1 * torch.randn(S.w.shape, generator=g, dtype=S.w.dtype))
        yield w.requires_grad_()


@pytest.mark.parametrize(
    ("engine", "kind"),
    [*itertools.product(GENERAL, ["general", "symmetric"]), *itertools.product(ENGINES, ["spd"])],
)
def test_new_values_on_one_pattern(counts, engine, kind):
    S = small(kind, n=8)
    b = S.rhs()
    for w in steps(S, 20):
        x = S.solve(w, b, assume="auto", method=ss.Direct(engine=engine))
        x.square().sum().backward()
        assert torch.allclose(x, S.truth(w, b))
    assert (counts.analyses, counts.factorisations) == (1, 20)


def test_the_same_values_twice(counts, S):
    b, c = S.rhs(), S.rhs(3)
    for rhs in (b, c, b):
        for mode in ({}, {"adjoint": True}, {"transpose": True}):
            S.solve(S.w, rhs, **mode)
    assert (counts.analyses, counts.factorisations) == (1, 1)


def test_forward_and_backward(counts, S):
    w, b = S.param(), S.rhs()
    S.solve(w, b).square().sum().backward()
    assert (counts.analyses, counts.factorisations, counts.solves) == (1, 1, 2)


def test_double_backward_and_second_backward(counts, S):
    w, b = S.param(), S.rhs()
    (g,) = torch.autograd.grad(S.solve(w, b).square().sum(), w, create_graph=True)
    g.sum().backward(retain_graph=True)
    g.square().sum().backward()
    assert counts.factorisations == 1


def test_views_share_the_factor(counts, S):
    A, b = S.matrix(S.w), S.rhs()
    for M in (A, A.T, A.mT, A.H, A.T.T):
        ss.solve(M, b)
        ss.solve(M, b, adjoint=True)
    assert (counts.analyses, counts.factorisations) == (1, 1)


def test_a_complex_right_hand_side_uses_the_real_factor(counts, S):
    ss.solve(S.matrix(S.w), S.rhs(dtype=torch.complex128))
    assert (counts.factorisations, counts.solves, counts.columns) == (1, 1, 2)


@pytest.mark.parametrize("layout", ["coo", "uncoalesced", "csr", "csc", "bsr"])
def test_a_new_torch_tensor_at_each_step(counts, S, layout):
    b = S.rhs()
    for w in steps(S, 5):
        A = to_layout(S.dense(w.detach()), layout).requires_grad_()
        x = ss.solve(A, b)
        assert_solves(S.dense(w), x, b)
        torch.autograd.grad(x.square().sum(), A)
    assert (counts.analyses, counts.factorisations) == (1, 5)


def test_layouts_share_the_plan_and_the_factor(counts, S):
    D, b = S.dense(S.w), S.rhs()
    for layout in ("coo", "csr", "csc"):
        ss.solve(to_layout(D, layout), b)
    assert (counts.analyses, counts.factorisations) == (1, 1)


def test_triplets_in_another_order_share_the_plan(counts, S):
    order = torch.randperm(len(S.rows))
    Q = ss.Pattern(S.rows[order], S.cols[order], (S.n, S.n))
    b = S.rhs()
    for w in steps(S, 3):
        x, y = S.solve(w, b), ss.solve(Q.assemble(w[order]), b, assume="general")
        assert torch.allclose(x, y)
    assert counts.analyses == 1


def test_two_patterns_in_turn(counts, S):
    T = small("spd", n=7)
    b, c = S.rhs(), T.rhs()
    for v, w in zip(steps(S, 4), steps(T, 4), strict=True):
        S.solve(v, b)
        T.solve(w, c)
    assert (counts.analyses, counts.factorisations) == (2, 8)


@pytest.mark.parametrize("edit", ["data", "numpy", "no_grad", "optimiser"])
@pytest.mark.parametrize("kind", ["SparseMatrix", "coo", "csr"])
def test_edits_in_place_are_noticed(counts, S, edit, kind):
    D, b = S.dense(S.w), S.rhs(grad=False)
    A = S.matrix(S.w) if kind == "SparseMatrix" else to_layout(D, kind)
    values = A.values if kind == "SparseMatrix" else A.values()
    x = ss.solve(A, b)
    if edit == "data":
        values.data[0] *= 3
    elif edit == "numpy":
        values.numpy()[0] *= 3
    elif edit == "no_grad":
        with torch.no_grad():
            values.mul_(3)
    else:
        leaf = values.requires_grad_() if kind == "SparseMatrix" else values
        leaf.grad = torch.ones_like(leaf)
        torch.optim.SGD([leaf], lr=0.1).step()
    y = ss.solve(A, b)
    assert not torch.allclose(x, y)
    assert_solves(A.to_dense().detach(), y, b)
    assert (counts.analyses, counts.factorisations) == (1, 2)


def test_edits_of_the_indices_are_noticed():
    D = torch.eye(4, dtype=torch.float64) * 3
    D[0, 2] = 1.0
    A = D.to_sparse_csr()
    b = torch.arange(1.0, 5.0, dtype=torch.float64)
    ss.solve(A, b)
    A.col_indices()[1] = 3
    D[0, 2], D[0, 3] = 0.0, 1.0
    assert_solves(D, ss.solve(A, b), b)


def test_reuse_false(counts, S):
    b = S.rhs(grad=False)
    for _ in range(3):
        S.solve(S.w, b, method=ss.Direct(reuse=False))
    assert counts.factorisations == 3
    assert counts.live() == 0
    S.solve(S.param(), b, method=ss.Direct(reuse=False)).sum().backward()
    assert counts.factorisations == 4
    S.solve(S.w, b)
    assert counts.factorisations == 5  # it left nothing in the cache


def test_factorize_always_factors(counts, S):
    A, b = S.matrix(S.w), S.rhs()
    ss.solve(A, b)
    plan = ss.analyze(A)
    for k in range(3):
        ss.factorize(A)
        plan.factorize(A)
        assert counts.factorisations == 3 + 2 * k
    ss.solve(A, b)
    assert counts.factorisations == 7  # and does not disturb the cache


def test_a_factor_solves_many_times(counts, S):
    A = S.matrix(S.w).requires_grad_()
    F = ss.factorize(A)
    for k in range(5):
        b = S.rhs(k + 1)
        x = F.solve(b, adjoint=k % 2 == 1)
        x.square().sum().backward()
    assert (counts.analyses, counts.factorisations) == (1, 1)


def test_a_plan_analyses_once(counts, S):
    plan = ss.analyze(S.matrix(S.w))
    assert counts.analyses == 1
    for w in steps(S, 5):
        plan.factorize(S.matrix(w)).solve(S.rhs()).sum().backward()
    assert (counts.analyses, counts.factorisations) == (1, 5)


def test_a_plan_from_a_pattern_alone(counts):
    for kind in ("spd", "general"):
        S = small(kind, n=8)
        plan = ss.analyze(S.pattern)
        b = S.rhs(grad=False)
        for w in steps(S, 3):
            assert torch.allclose(plan.factorize(S.matrix(w)).solve(b), S.truth(w, b))
    assert counts.factorisations == 6


def test_a_second_system_between_forward_and_backward(counts, S):
    b = S.rhs(grad=False)
    first, second, third = steps(S, 3)
    x = S.solve(first, b)
    S.solve(second, b).sum().backward()
    S.solve(third.detach(), b)
    x.square().sum().backward()
    (true,) = torch.autograd.grad(S.truth(first, b).square().sum(), first)
    assert torch.allclose(first.grad, true)
    assert counts.factorisations == 3


def test_many_pending_backward_passes(counts, S):
    b = S.rhs(grad=False)
    ws = list(steps(S, 10))
    xs = [S.solve(w, b) for w in ws]
    assert counts.live() == 10
    for w, x in reversed(list(zip(ws, xs, strict=True))):
        x.square().sum().backward()
        (true,) = torch.autograd.grad(S.truth(w, b).square().sum(), w)
        assert torch.allclose(w.grad, true)
    assert counts.factorisations == 10
    assert counts.live() == 1


def test_a_factor_owns_its_values(S):
    A, b = S.matrix(S.w), S.rhs(grad=False)
    v = A.values.clone().requires_grad_()
    F = ss.factorize(ss.SparseMatrix(A.pattern, v))
    x = F.solve(b)
    (true,) = torch.autograd.grad(x.square().sum(), v, retain_graph=True)
    with torch.no_grad():
        v.mul_(100)
    ss.solve(ss.SparseMatrix(A.pattern, v), b)
    assert torch.equal(F.solve(b), x)
    (g,) = torch.autograd.grad(x.square().sum(), v)
    assert torch.equal(g, true)
    (g,) = torch.autograd.grad(F.solve(b).square().sum(), v)
    assert torch.equal(g, true)


def test_plans_pickle(counts, S):
    plan = ss.analyze(S.matrix(S.w))
    again = pickle.loads(pickle.dumps(plan))
    b = S.rhs(grad=False)
    assert again.pattern == plan.pattern
    assert torch.allclose(again.factorize(S.matrix(S.w)).solve(b), S.truth(S.w, b))
    assert (again.info.engine, again.info.path) == (plan.info.engine, plan.info.path)
    values = torch.tensor([5.0, 6.0], dtype=b.dtype)
    plan = ss.analyze(S.matrix(S.w), fixed=(torch.tensor([2, 0]), values))
    x = pickle.loads(pickle.dumps(plan)).factorize(S.matrix(S.w)).solve(b)
    assert x[[2, 0]].tolist() == [5.0, 6.0]


def test_factors_pickle(S):
    F = ss.factorize(S.matrix(S.param()))
    G = pickle.loads(pickle.dumps(F))
    b = S.rhs(grad=False)
    assert torch.allclose(G.solve(b), S.truth(S.w, b))


def test_a_plan_takes_equal_patterns_only(S):
    plan = ss.analyze(S.pattern)
    other = small("spd", n=8)
    with pytest.raises(ValueError, match="(?s)pattern|Pattern"):
        plan.factorize(other.matrix(other.w))
    with pytest.raises((TypeError, ValueError), match="(?s)SparseMatrix"):
        plan.factorize(S.w)
    Q = ss.Pattern(S.rows.flip(0), S.cols.flip(0), (S.n, S.n))
    b = S.rhs(grad=False)
    x = plan.factorize(Q.assemble(S.w.flip(0))).solve(b)
    assert torch.allclose(x, S.truth(S.w, b))
    x = plan.factorize(to_layout(S.dense(S.w), "csr")).solve(b)
    assert torch.allclose(x, S.truth(S.w, b))


def test_numpy_memory_behind_the_values_may_change_after_a_solve():
    memory = np.array([2.0, 4.0])
    A = ss.Pattern([0, 1], [0, 1], (2, 2)).assemble(torch.from_numpy(memory))
    b = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    x = ss.solve(A, b)
    memory[:] = [1.0, 1.0]
    x.sum().backward()
    assert b.grad.tolist() == [0.5, 0.25]
    assert ss.solve(A, b).tolist() == [1.0, 1.0]
