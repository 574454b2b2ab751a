"""Batches in the compiled kernel with items that fail there: each judged by itself, no other harmed."""

from __future__ import annotations

import pytest
import torch
from test_batch_lanes import engine_of, grids, random_batch

import sparse_solver as ss

pytestmark = pytest.mark.usefixtures("lanes")
f64, c128 = torch.float64, torch.complex128


def test_items_whose_pivots_fail_go_to_engines_that_pivot():
    A, _ = random_batch(8, (24,), f64, 4, density=1.0)
    values = A.values.clone()
    values[3::4, A.pattern.diagonal[0]] = 1e-18  # the first pivot of some orders
    values[3::4, A.pattern.diagonal[7]] = 0
    A = ss.SparseMatrix(A.pattern, values)
    b = torch.randn(24, 8, dtype=f64)
    F = ss.factorize(A)
    assert torch.allclose(F.solve(b), torch.linalg.solve(A.to_dense(), b), rtol=1e-8)
    assert torch.allclose(F.solve(b, transpose=True), torch.linalg.solve(A.to_dense().mT, b), rtol=1e-8)


def test_pivots_are_matched_anew_when_most_items_need_others():
    A, _ = random_batch(8, (24,), f64, 4, density=1.0)
    values = A.values.clone()
    values[1:, A.pattern.diagonal] = 0
    A = ss.SparseMatrix(A.pattern, values)
    F = ss.factorize(A)
    assert F.info.engine == "batched"
    b = torch.randn(24, 8, dtype=f64)
    assert torch.allclose(F.solve(b), torch.linalg.solve(A.to_dense(), b), rtol=1e-8)


def test_singular_and_nearly_singular_items():
    A = grids(12, 4)
    neumann = A.add_diagonal(-1.0)  # singular up to rounding, and for b = ones without a solution
    values = A.values.clone()
    values[7] = neumann.values[7]
    values[9] = 1e-20 * values[9]  # small, not singular
    M = ss.SparseMatrix(A.pattern, values)
    b = torch.randn(16, dtype=f64)
    x, info = ss.solve_ex(M, b)
    assert info.nonzero().flatten().tolist() == [7]
    assert 1 <= info[7] <= 16
    assert x[7].isnan().all()
    assert torch.allclose(x[9], torch.linalg.solve(M[9].to_dense(), b))
    with pytest.raises(ss.SingularMatrixError, match="item 7") as error:
        ss.solve(M, b)
    assert error.value.item == 7
    F, info = ss.factorize_ex(M)
    assert info[7] > 0
    assert F.solve(b)[7].isnan().all()
    assert torch.allclose(F.solve(b)[6], x[6])


def test_several_failed_items_are_all_named():
    A = grids(12, 3)
    values = A.values.clone()
    values[[2, 5, 6]] = 0
    with pytest.raises(ss.SingularMatrixError, match=r"item 2: .*2 more failed: items 5, 6"):
        ss.solve(ss.SparseMatrix(A.pattern, values), torch.ones(9, dtype=f64))


def test_nan_in_an_item_or_in_its_right_hand_side():
    A = grids(12, 3)
    values, b = A.values.clone(), torch.ones(12, 9, dtype=f64)
    values[4, 0] = float("nan")
    b[8, 2] = float("inf")
    x, info = ss.solve_ex(ss.SparseMatrix(A.pattern, values), b)
    assert info.tolist() == [10 if i in (4, 8) else 0 for i in range(12)]
    good = info == 0
    assert torch.allclose(x[good], torch.linalg.solve(A.to_dense(), b.nan_to_num(posinf=0))[good])
    with pytest.raises(ValueError, match="NaN"):
        ss.solve(ss.SparseMatrix(A.pattern, values), b)


@pytest.mark.parametrize("method", [ss.Direct(), ss.Direct(engine="superlu")], ids=str)
def test_a_bad_right_hand_side_spoils_no_later_solve(method):
    A = grids(12, 3)
    F = ss.factorize(A, method=method)
    b = torch.ones(12, 9, dtype=f64)
    bad = b.clone()
    bad[[3, 5], 1] = float("nan")
    with pytest.raises(ValueError, match="NaN") as error:
        F.solve(bad)
    assert error.value.item == 3
    assert torch.allclose(F.solve(b), torch.linalg.solve(A.to_dense(), b))


def test_definiteness_is_verified_by_item():
    A = grids(12, 3)
    values = A.values.clone()
    values[5, A.pattern.diagonal] -= 4.0
    M = ss.SparseMatrix(A.pattern, values)
    b = torch.ones(9, dtype=f64)
    _, info = ss.solve_ex(M, b, assume="spd")
    assert info.nonzero().flatten().tolist() == [5]
    assert ss.solve_ex(M, b).info.eq(0).all()
    with pytest.raises(ss.NotPositiveDefiniteError, match="item 5"):
        ss.solve(M, b, assume="spd")


@pytest.mark.parametrize("dtype", [f64, c128], ids=str)
def test_definite_batches_are_factored_in_lanes(dtype):
    assert engine_of(grids(12, 3).to(dtype), assume="spd") == "batched"


def test_symmetry_is_verified_by_item():
    A = grids(12, 3)
    values = A.values.clone()
    values[6, 1] += 0.25
    M = ss.SparseMatrix(A.pattern, values)
    b = torch.randn(12, 9, dtype=f64)
    assert torch.allclose(ss.solve(M, b), torch.linalg.solve(M.to_dense(), b))
    for word in ("symmetric", "spd", "hermitian"):
        with pytest.raises(ValueError, match=f'item 6: assume="{word}"'):
            ss.solve(M, b, assume=word)
    values[6, 1] -= 0.25
    values[6, 1] *= 1 + 2e-16  # the rounding of an assembly
    assert engine_of(ss.SparseMatrix(A.pattern, values), assume="symmetric") == "batched"


@pytest.mark.parametrize("bad", [float("nan"), 0.0])
def test_a_bad_first_item_sends_no_other_to_the_engines(bad):
    A, _ = random_batch(8, (12,), f64, 3)
    values = A.values.clone()
    values[0] = bad
    F, info = ss.factorize_ex(ss.SparseMatrix(A.pattern, values))
    assert info.ne(0).tolist() == [i == 0 for i in range(12)]
    assert F.info.engine == "batched"
    assert F.info.reason.endswith("1 of them by engines that pivot")
