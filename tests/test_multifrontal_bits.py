"""The multifrontal engine gives the same bits, whoever does the work and wherever the numbers lie."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from definite import (
    ENGINE,
    METHOD,
    STRUCTURES,
    analysed,
    everything,
    factored,
    matrix,
    needs_engine,
    rescaled,
    rhs,
)

import sparse_solver as ss
from sparse_solver.engines.multifrontal import inverse_tasks, schedule

pytestmark = needs_engine


@pytest.mark.parametrize("name", ["hub", "forest", "full_400", "grid_30", "chain", "grid_22_3d"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=["float64", "complex64"])
def test_the_same_bits_for_any_number_of_threads(name, dtype):
    A = matrix(name, dtype)
    symbolic, b = analysed(A), rhs(A, 5)
    first = everything(factored(A, 1, symbolic), b)
    for threads in (1, 2, 3, 4, 4):
        assert everything(factored(A, threads, symbolic), b) == first, threads
    assert everything(factored(A, 2), b) == first  # another analysis


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_kept_plan_and_recycled_storage_give_the_same_bits(name):
    A = matrix(name)
    symbolic, b = analysed(A), rhs(A, 2)
    old = factored(A, 2, symbolic)
    for seed in (1, 2):
        new = rescaled(A, seed)
        fresh = everything(factored(new, 2), b)
        assert everything(factored(new, 2, symbolic), b) == fresh
        recycled = factored(new, 2, symbolic, recycle=old)
        assert recycled.factor.panels is old.factor.panels
        assert everything(recycled, b) == fresh
        old = recycled


@pytest.mark.parametrize("name", ["grid_100", "grid_22_3d"])
def test_the_same_bits_where_every_place_is_used_again(name, monkeypatch):
    """Update matrices and the inverse's Y take the first place that fits, whoever they wait for."""
    A = matrix(name)
    b, roomy = rhs(A, 2), analysed(A)
    for module in (schedule, inverse_tasks):
        monkeypatch.setattr(module, "_SHARE", 0.0)
    monkeypatch.setattr(schedule, "_LITTLE", 0)
    tight = analysed(A)
    room = [np.array([s.handle[0].kept, s.handle[0].y_room]) for s in (tight, roomy)]
    assert (room[0] <= room[1]).all() and room[0][0] < room[1][0]
    expected = everything(factored(A, 1, roomy), b)
    for threads in (1, 2, 4, 4, 4):
        assert everything(factored(A, threads, tight), b) == expected, threads


def test_storage_that_somebody_holds_is_never_touched(monkeypatch):
    given = []
    inner = type(ENGINE).factorize

    def factorize(self, symbolic, values, threads, recycle=None):
        given.append(recycle is not None)
        return inner(self, symbolic, values, threads, recycle)

    monkeypatch.setattr(type(ENGINE), "factorize", factorize)
    A = matrix("grid_30")
    b = torch.from_numpy(rhs(A))
    scales = (1.0, 2.0, 0.5, 4.0)
    for s in scales:  # nobody holds any of them
        assert torch.allclose(A @ (s * ss.solve(s * A, b, method=METHOD)), b)
    assert given == [False, True, True, True]
    given.clear()
    ss.clear_cache()
    held = []
    for s in scales:
        v = (s * A.values).requires_grad_()
        held.append((v, ss.solve(ss.SparseMatrix(A.pattern, v), b, method=METHOD)))
    factors = [ss.factorize(s * A, method=METHOD) for s in scales]
    assert given == [False] * 8
    x = factors[0].solve(b)
    for s, (v, y), F in zip(scales, held, factors, strict=True):
        assert torch.allclose(s * F.solve(b), x, rtol=1e-12)
        y.sum().backward()
        true = -s * ss.solve(A, torch.ones_like(b))[A.pattern.rows] * x[A.pattern.cols] / s**3
        assert torch.allclose(v.grad, true)
    del held, factors, F
    gc.collect()
    given.clear()
    for s in (3.0, 5.0):
        ss.solve(s * A, b, method=METHOD)
    assert given[-1]
