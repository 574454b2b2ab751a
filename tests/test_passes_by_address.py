"""The passes as compiled calls make them: what the plain ones find, alone or with torch's threads."""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from side_by_side import side_by_side

import sparse_solver as ss
from sparse_solver.matrix import openmp
from sparse_solver.matrix.gather import Slots
from sparse_solver.planning import passes
from sparse_solver.planning.passes import layout, plain

pytest.importorskip("numba")
SIDE, N = 100, 10_000  # enough numbers for two threads of torch's
_Limits = ctypes.c_double * 3
_alive = []


def limits(normwise=1e300, componentwise=1e300, dominance=0):
    _alive.append(_Limits(normwise, componentwise, dominance))
    return ctypes.addressof(_alive[-1])


def threads_of(team):
    return ctypes.c_int64.from_address(team + 8).value


@pytest.fixture(params=["float32", "float64"])
def calls(request):
    assert passes.warm_up(request.param)
    return passes.passes_for(np.dtype(request.param)).calls


@pytest.fixture(params=["alone", "together"])
def team(request, calls):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.param == "alone" else 2)
    if request.param == "together" and openmp._openmp() is None:
        pytest.skip("torch's OpenMP is not at hand")
    given = calls.team(10**6)
    assert threads_of(given) == torch.get_num_threads()
    yield given
    torch.set_num_threads(before)


@pytest.fixture
def system(calls):
    """A symmetric matrix on a grid, and the row of addresses that describes it."""
    dtype = next(np.dtype(d) for d in ("f", "d") if passes.passes_for(np.dtype(d)).calls is calls)
    rng = np.random.default_rng(0)
    P = ss.gallery.grid_laplacian((SIDE, SIDE)).pattern
    assert P.is_symmetric  # the pairs are there from now on
    values = rng.standard_normal(P.nnz).astype(dtype)
    values = (values + values[P.transposed_order]).astype(dtype)
    x, b, z = rng.standard_normal((3, N)).astype(dtype)
    kept, diagonal = np.zeros_like(values), np.zeros(N, dtype)
    row = layout.Row(N, (*P.unsigned, *P.pairs), (kept, diagonal))
    return SimpleNamespace(**locals())


def at(*arrays):
    return [a.ctypes.data for a in arrays]


def prepared(calls, team, s, values, dominance=0.0):
    """The verdict."""
    return calls.prepare(team, s.row.at, values.ctypes.data, limits(dominance=dominance))


def test_facts_of_a_matrix(calls, team, system):
    s = system
    assert prepared(calls, team, s, s.values) == layout.UNFIT
    expected, found = plain.sizes(s.P, s.values), s.row.found
    np.testing.assert_array_equal(s.kept, s.values)
    np.testing.assert_array_equal(s.diagonal, expected.diagonal)
    names = [name for name, _ in layout.Found._fields_]
    assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]
    assert expected.mirrored and expected.lowest < 0


def test_verdicts(calls, team, system):
    s, i = system, system.P.diagonal
    values = s.values.copy()
    values[i] = 100  # four others in a row, of two or three each
    assert prepared(calls, team, s, values) == layout.DOMINANT
    share = s.row.found.margin / s.row.found.norm
    assert prepared(calls, team, s, 2 * values, 0.9 * share) == layout.DOMINANT
    assert prepared(calls, team, s, 4 * values, 1.1 * share) == layout.OTHERS
    values[i[N // 2]] = 0
    assert prepared(calls, team, s, values) == layout.UNFIT


def test_the_very_same_numbers_are_known(calls, team, system):
    prepared(calls, team, system, system.values)
    system.row.found.norm = 7
    assert prepared(calls, team, system, system.values) == layout.SAME
    assert system.row.found.norm == 7


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.999999])
def test_one_number_that_differs_from_its_mirror_image(calls, team, system, place):
    off = np.flatnonzero(system.P.rows.numpy() != system.P.cols.numpy())
    values = system.values.copy()
    values[system.P.diagonal] = 100
    assert prepared(calls, team, system, values) == layout.DOMINANT
    values[off[int(place * len(off))]] += 1
    assert prepared(calls, team, system, values) == layout.UNFIT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 0.5, 0.999999])
def test_what_is_not_finite_is_seen(calls, team, system, bad, place):
    wrong = system.values.copy()
    wrong[int(place * len(wrong))] = bad
    assert prepared(calls, team, system, wrong) == layout.UNFIT
    assert math.isnan(system.row.found.norm)
    prepared(calls, team, system, system.values)
    b = system.b.copy()
    b[int(place * N)] = bad
    assert calls.judge(team, system.row.at, *at(system.x, b), limits()) == -1


def test_residuals(calls, team, system):
    s = system
    prepared(calls, team, s, s.values)
    diagonal = np.abs(s.values[s.P.diagonal])
    _, top, reach, least = plain.residual(s.P, s.values, diagonal, s.x, s.b, False)
    assert calls.judge(team, s.row.at, *at(s.x, s.b), limits()) == top / reach
    assert calls.judge(team, s.row.at, *at(s.x, s.b), limits(normwise=0.999 * top / reach)) == -1
    assert calls.judge(team, s.row.at, *at(s.x, s.b), limits(componentwise=0.999 * top / least)) == -1


def test_gradients(calls, team, system):
    s = system
    prepared(calls, team, s, s.values)
    diagonal, out = np.abs(s.values[s.P.diagonal]), np.empty_like(s.values)
    expected, top, reach, _ = plain.adjoint(s.P, s.values, diagonal, s.x, s.b, s.z, False)
    given = team, s.row.at, *at(s.x, s.b, s.z, out)
    assert calls.adjoint(*given, 0, 0, limits()) == top / reach
    np.testing.assert_array_equal(out, expected)
    index = np.random.default_rng(1).permutation(
        np.append(np.arange(s.P.nnz), np.arange(0, s.P.nnz, 3))
    )
    slots, triplets = Slots(torch.from_numpy(index), s.P.nnz), np.empty(len(index), s.dtype)
    assert slots.table.is_full
    out[:] = 0
    assert calls.adjoint(*given, slots.table.at, triplets.ctypes.data, limits()) == top / reach
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(triplets, expected[index])


def test_sums_by_place_and_back(calls, team, system):
    rng = np.random.default_rng(1)
    index = rng.integers(0, 20_000, 90_001)
    assert set(np.bincount(index)) > {0, 1, 2}
    slots = Slots(torch.from_numpy(index), 20_000)
    triplets = rng.standard_normal(90_001).astype(system.dtype)
    sums, back = np.empty(20_000, system.dtype), np.empty_like(triplets)
    calls.sum(team, slots.table.at, *at(triplets, sums))
    expected = np.zeros(20_000, system.dtype)
    np.add.at(expected, index, triplets)  # in the order of the triplets, as it is promised
    np.testing.assert_array_equal(sums, expected)
    calls.take(team, slots.table.at, *at(sums, back))
    np.testing.assert_array_equal(back, sums[index])


def test_other_threads_are_not_given_torchs(calls):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ((few, more, many),) = side_by_side(lambda _: [calls.team(k) for k in (100, 50_000, 10**6)])
    finally:
        torch.set_num_threads(before)
    assert threads_of(few) == threads_of(more) == 1
    assert many is None  # `by_parts` starts some


def test_steps_from_another_thread_are_the_same():
    """The long way there, the short one here."""
    P = ss.gallery.grid_laplacian((220, 220)).pattern
    assert P.is_symmetric
    rng, before = torch.Generator().manual_seed(0), torch.get_num_threads()
    w = torch.rand(P.nnz, dtype=torch.float64, generator=rng)
    v = torch.where(P.rows == P.cols, 9.0, -1 - 0.1 * (w + w[P.transposed_order]))
    b = torch.rand(P.shape[0], dtype=torch.float64, generator=rng)

    def step(shift):
        values = (v + shift * (P.rows == P.cols)).requires_grad_()
        x = ss.solve(ss.SparseMatrix(P, values), b, method=ss.Direct(engine="multifrontal"))
        return x.detach(), *torch.autograd.grad(x.square().sum(), values)

    torch.set_num_threads(2)
    try:
        here = [step(k) for k in range(4)]
        (there,) = side_by_side(lambda _: [step(k) for k in range(4)])
    finally:
        torch.set_num_threads(before)
    for mine, other in zip(here, there, strict=True):
        for s, t in zip(mine, other, strict=True):
            assert torch.allclose(s, t, rtol=1e-12, atol=1e-14)
