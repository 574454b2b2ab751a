"""The gradient of the triplets, made in one pass with that of the values, and where that may not be."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.autograd.graph import register_multi_grad_hook

import sparse_solver as ss
from sparse_solver.matrix.gather import Slots, awaiting, leave, scatter_sum
from sparse_solver.planning import Repeat

pytest.importorskip("numba")
SIDE = 75  # enough triplets for sums of our own
METHOD = ss.Direct(engine="multifrontal")
pytestmark = pytest.mark.usefixtures("compiled_passes")


@pytest.fixture
def made(monkeypatch):
    """For each pass back, whether it made the gradient of the triplets, too."""
    seen = []

    def adjoint(repeat, *args, inner=Repeat.adjoint):
        found = inner(repeat, *args)
        seen.append(found[2] is not None)
        return found

    monkeypatch.setattr(Repeat, "adjoint", adjoint)
    return seen


class Springs:
    """A grid of springs, each at both ends and between them, and 1 on the diagonal."""

    def __init__(self) -> None:
        self.node = torch.arange(SIDE * SIDE)
        grid = self.node.reshape(SIDE, SIDE)
        i = torch.cat([grid[:, :-1].ravel(), grid[:-1].ravel()])
        j = torch.cat([grid[:, 1:].ravel(), grid[1:].ravel()])
        rows, cols = torch.cat([self.node, i, j, i, j]), torch.cat([self.node, j, i, i, j])
        self.pattern, self.ends = ss.Pattern(rows, cols, (len(self.node),) * 2), (i, j)
        assert self.pattern._slots.count > 20_000
        generator = torch.Generator().manual_seed(0)
        self.w = torch.rand(len(i), dtype=torch.float64, generator=generator) + 0.5
        self.b = torch.rand(len(self.node), dtype=torch.float64, generator=generator)
        assert self.pattern.is_symmetric
        for k in range(3):  # what follows takes the short way
            ss.solve(self.assembled((1 + k) * self.w), self.b, method=METHOD)

    def assembled(self, w: torch.Tensor) -> ss.SparseMatrix:
        return self.pattern.assemble(torch.cat([torch.ones_like(self.b), -w, -w, w, w]))

    def pair(self, w: torch.Tensor) -> tuple[ss.SparseMatrix, torch.Tensor]:
        A = self.assembled(w)
        return A, ss.solve(A, self.b, method=METHOD)

    def expected(self, w: torch.Tensor, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The gradient of w for that of x, by hand: -(lambda_i - lambda_j) (x_i - x_j)."""
        i, j = self.ends
        lam = ss.solve(self.assembled(w.detach()), g, method=METHOD)
        return -(lam[i] - lam[j]) * (x[i] - x[j])


@pytest.fixture(params=[1, 2], ids="threads={}".format)
def S(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield Springs()
    torch.set_num_threads(before)


def test_one_pass_for_both(S, made):
    for k in (1.0, 1.3, 0.7):
        w = (k * S.w).requires_grad_()
        _, x = S.pair(w)
        x.square().sum().backward()
        x = x.detach()
        assert torch.allclose(w.grad, S.expected(w, 2 * x, x), rtol=1e-10)
    assert made == [True] * 3


def test_every_bit_as_in_two_passes(S, made):
    w = S.w.clone().requires_grad_()
    A, x = S.pair(w)
    (together,) = torch.autograd.grad(x.square().sum(), w)
    A, x = S.pair(w)
    A.values.register_hook(lambda g: None)
    (apart,) = torch.autograd.grad(x.square().sum(), w)
    assert made == [True, False] and torch.equal(together, apart)


def test_hooks_see_the_gradient_and_may_change_it(S, made):
    w = S.w.clone().requires_grad_()
    (plain,) = torch.autograd.grad(S.pair(w)[1].square().sum(), w)
    made.clear()

    def edit(g):
        g.mul_(2)  # not allowed

    def edit_unseen(g):
        g.data.mul_(2)  # by torch

    for how in (lambda g: 2 * g, edit, edit_unseen):
        A, x = S.pair(w)
        A.values.register_hook(how)
        (doubled,) = torch.autograd.grad(x.square().sum(), w)
        assert torch.allclose(doubled, 2 * plain)
    A, x = S.pair(w)
    seen = []
    register_multi_grad_hook((A.values,), lambda gradients: seen.extend(gradients))
    (same,) = torch.autograd.grad(x.square().sum(), w)
    assert torch.equal(same, plain) and seen[0].shape == (S.pattern.nnz,)
    assert made == [False] * 4
    A, x = S.pair(w)
    A.values.grad_fn.register_prehook(lambda gradients: tuple(2 * g for g in gradients))
    (doubled,) = torch.autograd.grad(x.square().sum(), w)
    assert torch.equal(doubled, 2 * plain)


def test_gradients_that_come_from_elsewhere_too(S, made):
    w = S.w.clone().requires_grad_()
    weights = torch.rand(S.pattern.nnz, dtype=torch.float64)
    (one,) = torch.autograd.grad(S.pair(w)[1].square().sum(), w)
    (other,) = torch.autograd.grad((S.assembled(w).values * weights).sum(), w)
    A, x = S.pair(w)
    y = ss.solve(A, 3 * S.b, method=METHOD)
    loss = x.square().sum() + y.square().sum() + (A.values * weights).sum()
    (found,) = torch.autograd.grad(loss, w)
    assert torch.allclose(found, 10 * one + other, rtol=1e-10)


def test_gradients_of_the_values_themselves(S, made):
    w = S.w.clone().requires_grad_()
    A, x = S.pair(w)
    A.values.retain_grad()
    x.square().sum().backward()
    x = x.detach()
    P, lam = S.pattern, ss.solve(A, 2 * x, method=METHOD).detach()
    A_bar = -lam[P.rows] * x[P.cols]
    assert torch.allclose(A.values.grad, A_bar)
    made.clear()
    A, x = S.pair(w)
    (found,) = torch.autograd.grad(x.square().sum(), A.values, retain_graph=True)
    assert torch.allclose(found, A_bar) and made == [False]
    assert A.values.grad_fn.both is None
    found, of_w = torch.autograd.grad(x.square().sum(), (A.values, w), retain_graph=True)
    assert torch.allclose(found, A_bar) and torch.allclose(of_w, w.grad)
    found.numpy()[:] *= 2  # behind torch's back
    (doubled,) = torch.autograd.grad(A.values, w, found)
    assert torch.allclose(doubled, 2 * w.grad)


def test_triplets_that_are_a_leaf(S, made):
    t = torch.cat([torch.ones_like(S.b), -S.w, -S.w, S.w, S.w]).requires_grad_()
    (found,) = torch.autograd.grad(
        ss.solve(S.pattern.assemble(t), S.b, method=METHOD).square().sum(), t
    )
    assert made == [True]
    x = ss.solve(S.pattern.assemble(t), S.b, method=METHOD)
    x.square().sum().backward()
    lam = ss.solve(S.assembled(S.w), 2 * x.detach(), method=METHOD)
    expected = (-lam[S.pattern.rows] * x.detach()[S.pattern.cols])[S.pattern._slots.index]
    assert torch.allclose(found, expected) and torch.equal(found, t.grad)


def test_what_was_left_is_for_that_pass_alone(S):
    w = S.w.clone().requires_grad_()
    A, _ = S.pair(w)
    g = torch.ones(S.pattern.nnz, dtype=torch.float64)
    (plain,) = torch.autograd.grad(A.values, w, g, retain_graph=True)
    leave(A.values.grad_fn, g, torch.zeros(S.pattern._slots.count, dtype=torch.float64))
    assert torch.equal(torch.autograd.grad(A.values, w, g)[0], plain)


def test_once_it_was_in_vain_it_is_not_tried_again(S, made):
    w = S.w.clone().requires_grad_()
    for _ in range(3):
        A = S.assembled(w)
        xs = [ss.solve(A, k * S.b, method=METHOD) for k in (1, 2)]
        sum(x.square().sum() for x in xs).backward()
    assert made[2:] == [False] * 4
    ss.solve(S.assembled(w), S.b, method=METHOD).square().sum().backward()
    assert torch.allclose(w.grad / 16, torch.autograd.grad(S.pair(w)[1].square().sum(), w)[0])


def test_not_for_others(S, made):
    w, b = S.w.clone().requires_grad_(), S.b.clone().requires_grad_()
    x = ss.solve(S.assembled(w), b, method=METHOD)
    torch.autograd.grad(x.sum(), b)
    assert True not in made


def test_second_derivatives(S, made):
    w = S.w.clone().requires_grad_()
    (first,) = torch.autograd.grad(S.pair(w)[1].square().sum(), w, create_graph=True)
    assert not made
    (along,) = torch.autograd.grad(first.sum(), w)
    h, ends = 1e-6, []
    for shift in (-h, h):
        v = (S.w + shift).requires_grad_()
        ends.append(torch.autograd.grad(S.pair(v)[1].square().sum(), v)[0])
    assert torch.allclose(along, (ends[1] - ends[0]) / (2 * h), rtol=1e-5, atol=1e-6)


def test_places_without_triplets():
    index = torch.arange(30_000) % 20_000
    t = torch.rand(30_000, dtype=torch.float64, requires_grad=True)
    asked = []
    for size, table_there in ((20_000, True), (20_001, False)):
        sums = scatter_sum(t, Slots(index, size))
        # Called in a backward pass, where alone there is an answer.
        y = sums * 1
        y.register_hook(lambda g, sums=sums: asked.append(awaiting(sums)))
        y.sum().backward()
        assert (asked.pop() != (None, None)) == table_there


@pytest.mark.parametrize("keep", [False, True])
def test_factors_and_gradients_go_with_what_is_saved(S, counts, keep):
    w = S.w.clone().requires_grad_()
    A, x = S.pair(w)
    ss.clear_cache()
    gc.collect()
    factor = weakref.ref(x.grad_fn.known[-1])
    loss, node = x.square().sum(), A.values.grad_fn
    gc.disable()
    try:
        loss.backward(retain_graph=keep)
        assert (factor() is not None) == keep
        assert node.both is None
    finally:
        gc.enable()
    if keep:
        once, made = w.grad.clone(), counts.factorisations
        loss.backward()
        assert torch.equal(w.grad, 2 * once) and counts.factorisations == made
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
