"""Blocks of eight items: full and not, items in rows and in lanes, columns used together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import assert_solves
from test_batch_lanes import engine_of, grids, random_batch

import sparse_solver as ss
from sparse_solver.engines import batched

pytestmark = pytest.mark.usefixtures("lanes")
f32, f64, c64, c128 = torch.float32, torch.float64, torch.complex64, torch.complex128
TOLERANCE = {f32: 2e-3, c64: 2e-3, f64: 1e-9, c128: 1e-9}


def assert_each_solves(D, x, b) -> None:
    for item in zip(D, x.detach(), b, strict=True):
        assert_solves(*item)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 20])
def test_gather_and_scatter(rows, dtype):
    from sparse_solver.engines.batched.moving import gather, scatter

    rng = np.random.default_rng(0)
    for count in (1, 5, 8):
        for step in (1, 3):
            stride = rows * step + 2
            flat = rng.standard_normal(8 * stride + 1).astype(dtype)
            if dtype[0] == "c":
                flat += 1j * rng.standard_normal(len(flat)).astype(dtype)
            block = np.zeros((rows, 8), dtype)
            gather(block, flat, 1, stride, step, rows, count)
            planes = block.view(flat.real.dtype).reshape(rows, -1, 8)  # real parts first
            found = planes[:, 0] if dtype[0] != "c" else planes[:, 0] + 1j * planes[:, 1]
            for lane in range(8):
                at = 1 + min(lane, count - 1) * stride
                np.testing.assert_array_equal(found[:, lane], flat[at : at + rows * step : step])
            out = np.zeros_like(flat)
            scatter(block, out, 1, stride, step, rows, count)
            there = np.zeros(len(flat), bool)
            for lane in range(count):
                there[1 + lane * stride :][: rows * step : step] = True
            np.testing.assert_array_equal(out, np.where(there, flat, 0))


def test_columns_used_together_have_the_same_rows():
    A = grids(1, side=9)
    plan = batched.eliminate(A.pattern, True)
    seen = set()
    for j in range(plan.n):
        r, end = plan.row_pointer[j], plan.row_pointer[j + 1]
        while r < end:
            size = plan.together[r]
            seen.add(int(size))
            rows = []
            for s in range(r, r + size):
                p, k = plan.row_place[s], plan.row_col[s]
                assert plan.index[p] == j and plan.pointer[k] <= p < plan.pointer[k + 1]
                rows.append(plan.index[p : plan.pointer[k + 1]].tolist())
            assert all(other == rows[0] for other in rows)
            if size == 4:  # which the loop for A = L U takes as two pairs
                assert plan.together[r + 2] == 2
            r += size
        assert r == end
    assert seen == {1, 2, 4}
    assert sorted(plan.row_place) == list(range(plan.nnz_factor))


@pytest.mark.parametrize("dtype", [f32, f64, c64, c128], ids=str)
@pytest.mark.parametrize("items", [4, 8, 9, 17])
@pytest.mark.parametrize("n", [2, 3, 12])
def test_any_number_of_items_of_any_size(n, items, dtype):
    A, dense = random_batch(n, (items,), dtype, seed=items)
    v, b = A.values.clone().requires_grad_(), torch.randn(items, n, dtype=dtype)
    assert engine_of(A) == "batched"
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b)
    assert_each_solves(dense, x, b)
    g = torch.randn_like(x)
    x.backward(g)
    w = A.values.clone().requires_grad_()
    i, j = A.pattern.rows, A.pattern.cols
    D = torch.zeros_like(dense).index_put((torch.arange(items)[:, None], i, j), w)
    torch.linalg.solve(D, b).backward(g)
    assert torch.allclose(v.grad, w.grad, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("k", [None, 1, 3])
def test_values_and_b_in_any_memory(k):
    A = grids(11)
    n, P = A.shape[-1], A.pattern
    b = torch.rand(n) if k is None else torch.rand(n, k)
    b = b.to(f64)
    expected = ss.solve(A, b.expand(11, *b.shape).contiguous())
    assert_each_solves(A.to_dense(), expected, b.expand(11, *b.shape))
    wide = torch.zeros(22, 2 * P.nnz, dtype=f64)
    wide[::2, ::2] = A.values
    for values in (A.values.mT.contiguous().mT, wide[::2, ::2]):
        assert not values.is_contiguous()
        assert torch.equal(ss.solve(ss.SparseMatrix(P, values), b.expand(11, *b.shape)), expected)
    one = ss.SparseMatrix(P, A.values[:1].expand(11, -1))
    x = ss.solve(one, b.expand(11, *b.shape))
    assert torch.equal(x, expected[:1].expand_as(x))


def test_an_item_is_what_it_is_among_any_others():
    A, b = grids(16), torch.rand(16, 25, dtype=f64)
    v = A.values.clone()
    i = A.pattern.triangles[0]
    off = int(i[(A.pattern.rows[i] != A.pattern.cols[i]).nonzero()[0, 0]])
    v[1, off] *= 1 + 4e-16  # symmetric up to rounding
    v[2, A.pattern.diagonal[0]] = 0  # not dominant
    v[3, 0] = float("nan")
    v[4] = 0
    v[5] *= 1e-200
    run = lambda *which: ss.solve_ex(ss.SparseMatrix(A.pattern, v[list(which)]), b[list(which)])  # noqa: E731
    together = run(*range(16))
    assert (together.info != 0).tolist()[:6] == [False, False, False, True, True, False]
    for item in (0, 1, 5, 6, 15):
        alone = run(*[item] * 8)
        assert torch.equal(alone.x[3], together.x[item]), item


def test_zero_right_hand_sides_and_gradients():
    A = grids(9)
    v, b = A.values.clone().requires_grad_(), torch.rand(9, 25, dtype=f64)
    b[3] = 0
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b)
    assert (x[3] == 0).all()
    x[:4].sum().backward()
    assert (v.grad[4:] == 0).all() and (v.grad[3] == 0).all() and (v.grad[0] != 0).any()


@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_every_derivative_through_a_full_and_a_broken_block(dtype):
    A, _ = random_batch(3, (9,), dtype, seed=5)
    P, v = A.pattern, A.values.clone().requires_grad_()
    b = torch.randn(9, 3, dtype=dtype, requires_grad=True)
    run = lambda v, b: ss.solve(ss.SparseMatrix(P, v), b)  # noqa: E731
    assert torch.autograd.gradcheck(run, (v, b), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (v, b))
    mapped = torch.func.vmap(run)(v.detach(), b.detach())
    assert torch.equal(mapped, run(v, b).detach())
