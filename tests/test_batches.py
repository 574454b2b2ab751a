"""Batches by engines: right answers, shapes and outcomes, item by item."""

from __future__ import annotations

import pytest
import torch

import sparse_solver as ss

f64, c128 = torch.float64, torch.complex128


def full(n: int) -> ss.Pattern:
    return ss.Pattern(*torch.ones(n, n).nonzero().T, (n, n))


@pytest.mark.parametrize("complex_b", [False, True])
@pytest.mark.parametrize(
    ("batch", "n", "shape"),
    [
        ((2,), 2, (2,)),  # shapes in which a vector and a matrix can be mistaken for each other
        ((4,), 4, (4, 2)),
        ((3,), 5, (3, 5)),
        ((3,), 5, (5, 2)),
        ((2, 3), 4, (3, 4, 1)),
        ((), 3, (10, 3, 2)),
        ((), 3, (4, 5, 3, 2)),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"transpose": True}, {"adjoint": True}], ids=str)
def test_shapes_are_those_of_torch_linalg_solve(batch, n, shape, complex_b, mode):
    A = ss.SparseMatrix(full(n), torch.randn(*batch, n * n, dtype=f64))
    b = torch.randn(*shape, dtype=c128 if complex_b else f64)
    D = A.to_dense().to(b.dtype)
    expected = torch.linalg.solve(D.mT if mode else D, b)
    for right in (b, b.conj()):
        x = ss.solve(A, right, **mode)
        true = expected if right is b else expected.conj()
        assert x.shape == true.shape
        assert torch.allclose(x, true)


def test_one_matrix_is_factored_once_for_a_batch_of_right_hand_sides(counts):
    A = ss.SparseMatrix(full(3), torch.randn(9, dtype=f64))
    b = torch.randn(10, 3, 2, dtype=f64)
    assert torch.allclose(ss.solve(A, b), torch.linalg.solve(A.to_dense(), b))
    ss.solve(A, b)
    assert counts.factorisations == 1


def test_gradients_of_a_batch():
    v = torch.randn(2, 9, dtype=f64, requires_grad=True)
    b = torch.randn(3, dtype=f64, requires_grad=True)
    P = full(3)
    assert torch.autograd.gradcheck(lambda v, b: ss.solve(ss.SparseMatrix(P, v), b), (v, b))
    u = torch.randn(9, dtype=f64, requires_grad=True)
    c = torch.randn(2, 3, 2, dtype=f64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, c: ss.solve(ss.SparseMatrix(P, u), c), (u, c))


def test_empty_batches_and_empty_systems():
    P = full(3)
    none = ss.SparseMatrix(ss.Pattern([], [], (0, 0)), torch.zeros(3, 0))
    assert ss.solve(none, torch.zeros(3, 0)).shape == (3, 0)
    assert ss.factorize(torch.zeros(0, 0)).solve(torch.zeros(0)).shape == (0,)
    A = ss.SparseMatrix(P, torch.randn(2, 9, dtype=f64))
    c = torch.randn(3, dtype=f64)
    x = ss.solve(A, torch.randn(2, 3, dtype=f64), fixed=(torch.arange(3), c))
    assert torch.equal(x, c.expand(2, 3))
    x, info = ss.solve_ex(ss.SparseMatrix(P, torch.zeros(0, 9)), torch.zeros(0, 3))
    assert x.shape == (0, 3)
    assert info.shape == (0,)


def test_outcomes_by_item():
    values = torch.stack([torch.eye(3, dtype=f64), torch.ones(3, 3, dtype=f64)]).reshape(2, 9)
    A, b = ss.SparseMatrix(full(3), values), torch.ones(3, dtype=f64)
    x, info = ss.solve_ex(A, b)
    assert info[0] == 0 < info[1]
    assert torch.equal(x[0], b)
    assert x[1].isnan().all()
    F, info = ss.factorize_ex(A)
    assert info[0] == 0 < info[1]
    assert torch.equal(F.solve(b)[0], b)
    assert F.solve(b)[1].isnan().all()
    with pytest.raises(ss.SingularMatrixError, match="item 1") as error:
        ss.solve(A, b)
    assert error.value.item == 1


def test_batches_that_do_not_fit():
    A = ss.SparseMatrix(full(3), torch.randn(2, 9, dtype=f64))
    with pytest.raises(ValueError, match=r"\(2, 3, 3\).*\(4, 3, 1\)"):
        ss.solve(A, torch.randn(4, 3, 1, dtype=f64))


def test_items_are_indexed_never_nonzeros():
    A = ss.SparseMatrix(full(3), torch.randn(9, 9, dtype=f64))
    assert torch.equal(A[3].to_dense(), A.to_dense()[3])
    assert torch.equal(A[..., 0].to_dense(), A.to_dense()[0])
    assert torch.equal(A[2:4].to_dense(), A.to_dense()[2:4])
