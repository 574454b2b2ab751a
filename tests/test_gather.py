"""Sums of triplets by compiled calls, which pass addresses."""

from __future__ import annotations

import ctypes
import threading

import pytest
import torch
from side_by_side import side_by_side

from sparse_solver.matrix.gather import Slots, scatter_sum
from sparse_solver.planning import passes

pytest.importorskip("numba")
COUNT, SIZE = 25_000, 8_000


@pytest.fixture(autouse=True, scope="module")
def compiled():
    assert passes.warm_up("float64")


def sample(seed):
    g = torch.Generator().manual_seed(seed)
    index = torch.randint(0, SIZE, (COUNT,), generator=g)
    return index, torch.rand(COUNT, dtype=torch.float64, generator=g)


def test_addresses_are_of_arrays_that_are_held():
    """Two threads that come first at once make the arrays twice."""
    slots = Slots(sample(0)[0], SIZE)
    table = slots.table
    slots._singles = slots._narrow = None
    assert slots.singles[0] is not table.held[0]
    assert list(table[3:]) == [a.ctypes.data for a in table.held]
    assert table.at == ctypes.addressof(table)


def test_threads_that_come_first_at_once():
    for seed in range(10):
        index, t = sample(seed)
        true = torch.zeros(SIZE, dtype=torch.float64).index_add(0, index, t)
        slots, start = Slots(index, SIZE), threading.Barrier(4)

        def work(_, t=t, slots=slots, start=start):
            start.wait()
            return [scatter_sum(t, slots) for _ in range(4)]

        assert all(torch.equal(f, true) for found in side_by_side(work, 4) for f in found)


def test_unusual_triplets():
    index, t = sample(1)
    true = torch.zeros(SIZE, dtype=torch.float64).index_add(0, index, t)
    slots = Slots(index, SIZE)
    apart = torch.stack([t, t], 1)[:, 0]
    lazy = torch.complex(t, t).conj().imag
    assert torch.equal(scatter_sum(apart, slots), true) and torch.equal(scatter_sum(lazy, slots), -true)
    g = torch.rand(SIZE, 2, dtype=torch.float64)
    for given in (t.clone(), apart.clone()):
        given.requires_grad_()
        for weights in (g[:, 0], g[:, 0].contiguous(), g[:1, 0].expand(SIZE)):
            (found,) = torch.autograd.grad(scatter_sum(given, slots), given, weights)
            assert torch.equal(found, weights[index])
    rows = torch.autograd.grad(scatter_sum(given, slots), given, g.T, is_grads_batched=True)
    assert torch.equal(rows[0], g.T[:, index])
