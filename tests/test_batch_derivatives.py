"""Derivatives of batches, of every order and mode, in lanes and by engines alike."""

from __future__ import annotations

import os

import pytest
import torch
from reference import inv_solve

import sparse_solver as ss

f64, c128 = torch.float64, torch.complex128
ITEMS, N = 4, 3
ROWS, COLS = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
P = ss.Pattern(ROWS, COLS, (N, N))


@pytest.fixture(params=["lanes", "engines"], autouse=True)
def who(request):
    if request.param == "lanes":
        request.getfixturevalue("lanes")
        yield ss.Direct()
    else:
        yield ss.Direct(engine="superlu")


def data(dtype=f64, k: int | None = None, batch: tuple[int, ...] = (ITEMS,)):
    torch.manual_seed(1)
    v = torch.randn(*batch, len(ROWS), dtype=dtype)
    v[..., ROWS == COLS] += 4
    shape = (N,) if k is None else (N, k)
    return v.requires_grad_(), torch.randn(*batch, *shape, dtype=dtype, requires_grad=True)


def dense(v: torch.Tensor) -> torch.Tensor:
    flat = v.new_zeros(*v.shape[:-1], N * N)
    return flat.index_add(-1, ROWS * N + COLS, v).reshape(*v.shape[:-1], N, N)


def solve(v, b, method, **mode):
    return ss.solve(P.assemble(v), b, method=method, **mode)


def truth(v, b, **mode):
    vector = b.ndim == v.ndim
    x = inv_solve(dense(v), b.unsqueeze(-1) if vector else b, **mode)
    return x.squeeze(-1) if vector else x


@pytest.mark.parametrize("mode", [{}, {"adjoint": True}], ids=str)
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_first_and_second_order(dtype, k, mode, who):
    alone = who.engine != "auto"
    if alone and (dtype, k, mode) != (f64, 2, {"adjoint": True}):
        pytest.skip("one of them is enough for engines, whose derivatives test_derivatives.py checks")
    v, b = data(dtype, k, (2,) if alone else (ITEMS,))
    run = lambda v, b: solve(v, b, who, **mode)  # noqa: E731
    assert torch.autograd.gradcheck(run, (v, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, (v, b), check_fwd_over_rev=True)


@pytest.mark.parametrize("shapes", [((2, 1), (3, N, 1)), ((3,), (N,)), ((1, 3), (2, 1, N, 2))], ids=str)
def test_broadcasting_batches(shapes, who):
    batch, right = shapes
    v, _ = data(batch=batch)
    b = torch.randn(*right, dtype=f64, requires_grad=True)
    assert torch.allclose(solve(v, b, who), torch.linalg.solve(dense(v), b))
    assert torch.autograd.gradcheck(lambda v, b: solve(v, b, who), (v, b))


def test_gradients_equal_those_of_the_loop(who):
    v, b = data(k=3)
    g = torch.autograd.grad(solve(v, b, who).sin().sum(), (v, b))
    h = torch.autograd.grad(truth(v, b).sin().sum(), (v, b))
    for one, other in zip(g, h, strict=True):
        assert torch.allclose(one, other)


def test_vmap_over_values_is_the_batch(who, counts):
    v, b = (t.detach() for t in data())
    x = torch.func.vmap(lambda v, b: solve(v, b, who))(v, b)
    assert torch.equal(x, solve(v, b, who))
    assert torch.allclose(
        torch.func.vmap(lambda v: solve(v, b[0], who))(v), truth(v, b[:1].expand_as(b))
    )
    inner = torch.func.vmap(torch.func.vmap(lambda v, b: solve(v, b, who), (0, None)), (None, 0))(v, b)
    assert torch.allclose(inner[1, 2], truth(v[2], b[1]))


def test_vmap_over_right_hand_sides_of_a_batch(who):
    v, _ = data()
    b = torch.randn(7, ITEMS, N, dtype=f64)
    x = torch.func.vmap(lambda b: solve(v.detach(), b, who))(b)
    assert torch.allclose(x[3], truth(v, b[3]))


def test_functional_derivatives(who):
    v, b = (t.detach() for t in data())
    loss = lambda run: lambda v: run(v, b).pow(3).sum()  # noqa: E731
    ours, true = loss(lambda v, b: solve(v, b, who)), loss(truth)
    assert torch.allclose(torch.func.grad(ours)(v), torch.func.grad(true)(v))
    assert torch.allclose(torch.func.hessian(ours)(v), torch.func.hessian(true)(v))
    each = torch.func.vmap(torch.func.grad(lambda v, b: solve(v, b, who).pow(3).sum()))
    assert torch.allclose(each(v, b), torch.func.grad(true)(v))
    dv = torch.randn_like(v)
    tangent = lambda run: torch.func.jvp(lambda v: torch.func.jvp(run, (v,), (dv,))[1], (v,), (dv,))  # noqa: E731
    for got, expected in zip(tangent(ours), tangent(true), strict=True):
        assert torch.allclose(got, expected)


def test_compiled(who):
    v, b = data()
    step = torch.compile(
        lambda v, b: solve(v, b, who).square().sum(), backend="aot_eager", fullgraph=True
    )
    g = torch.autograd.grad(step(v, b), (v, b))
    h = torch.autograd.grad(truth(v, b).square().sum(), (v, b))
    for one, other in zip(g, h, strict=True):
        assert torch.allclose(one, other)


def test_bad_items_send_no_gradient_and_spoil_none(who):
    w = torch.tensor([1.0, 0.5], dtype=f64, requires_grad=True)

    def values(w):
        v = data()[0].detach() * w[0]
        return torch.cat([v[:2], v[2:3] * 0 * w[1], v[3:]])

    b = torch.ones(N, dtype=f64)
    x, info = ss.solve_ex(P.assemble(values(w)), b, method=who)
    assert info.ne(0).tolist() == [i == 2 for i in range(ITEMS)]
    (g,) = torch.autograd.grad(x[info == 0].sum(), w, create_graph=True)
    good = [0, 1, 3]
    assert torch.allclose(g, torch.autograd.grad(truth(values(w)[good], b.expand(3, N)).sum(), w)[0])
    assert torch.isfinite(torch.autograd.grad(g.sum(), w)[0]).all()
    F, info = ss.factorize_ex(P.assemble(values(w)), method=who)
    y = F.solve(b)
    assert y[2].isnan().all()
    (again,) = torch.autograd.grad(y[info == 0].sum(), w)
    assert torch.allclose(again, g)


def test_prescribed_unknowns_of_a_batch(who):
    v, b = data()
    at, given = torch.tensor([1]), torch.tensor([0.5], dtype=f64, requires_grad=True)
    run = lambda v, b, c: ss.solve(P.assemble(v), b, fixed=(at, c), method=who)  # noqa: E731
    assert torch.autograd.gradcheck(run, (v, b, given))
    bad = v.detach().clone()
    bad[3] = 0
    _, info = ss.solve_ex(P.assemble(bad), b.detach(), fixed=(at, given.detach()), method=who)
    assert info.ne(0).tolist() == [i == 3 for i in range(ITEMS)]
    assert info[3] in (1, 3)  # a free unknown, in the numbering of all


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_fork(who):
    v, b = data()
    F = ss.factorize(P.assemble(v), method=who)
    before = F.solve(b)
    pid = os.fork()
    if pid == 0:
        ok = torch.allclose(F.solve(b), before) and torch.allclose(solve(v, b, who), before)
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
