"""How failure is reported: exceptions, solve_ex and factorize_ex; and what survives it."""

from __future__ import annotations

import pickle

import pytest
import torch
from conformance import each_dtype
from reference import assert_says

import sparse_solver as ss

EYE = 2 * torch.eye(5, dtype=torch.float64)
A = ss.SparseMatrix.from_torch(EYE.to_sparse_coo())
B = torch.ones(5, dtype=torch.float64)


def test_the_classes():
    for error in (
        ss.SingularMatrixError,
        ss.NotPositiveDefiniteError,
        ss.NotConvergedError,
        ss.InaccurateSolveError,
    ):
        assert issubclass(error, torch.linalg.LinAlgError)
        raised = error("text", index=3, item=1)
        again = pickle.loads(pickle.dumps(raised))
        assert (again.index, again.item, str(again)) == (3, 1, str(raised))
        assert_says(raised, "text", "causes", "item 1")


@each_dtype
def test_solve_ex(dtype):
    M, b = A.to(dtype), B.to(dtype)
    outcome = ss.solve_ex(M, b)
    assert isinstance(outcome, tuple)
    x, info = outcome
    assert torch.equal(x, b / 2)
    assert info.dtype == torch.int32
    assert info.shape == ()
    assert info.item() == 0
    assert isinstance(outcome.details, ss.Info)
    assert outcome.details.n == 5
    D = EYE.to(dtype).clone()
    D[2, 2] = 0.0
    P = ss.Pattern(torch.arange(5), torch.arange(5), (5, 5))
    for rhs in (b, b[:, None], torch.ones(5, 3, dtype=dtype)):
        x, info = ss.solve_ex(P.assemble(D.diagonal()), rhs)
        assert info.item() == 3
        assert info.dtype == torch.int32
        assert x.shape == rhs.shape
        assert x.dtype == dtype
        assert x.isnan().all()


@each_dtype
def test_factorize_ex(dtype):
    F, info = ss.factorize_ex(A.to(dtype))
    assert isinstance(F, ss.Factor)
    assert (info.item(), info.dtype, info.shape) == (0, torch.int32, ())
    assert torch.equal(F.solve(B.to(dtype)), B.to(dtype) / 2)
    F, info = ss.factorize_ex(0 * A.to(dtype))
    assert F is None
    assert info.item() > 0
    indefinite = ss.SparseMatrix(A.pattern, torch.tensor([1, 1, -1, 1, 1]).to(dtype))
    assert ss.factorize_ex(indefinite, assume="spd")[1].item() == 3


def test_wrong_arguments_raise_in_solve_ex_too():
    one_sided = ss.Pattern([1], [3], (5, 5)).assemble(torch.ones(1, dtype=torch.float64))
    for call in (
        lambda: ss.solve_ex(A, B[:4]),
        lambda: ss.solve_ex(A, B, assume="SPD"),
        lambda: ss.solve_ex(A, B, adjoint=True, transpose=True),
        lambda: ss.solve_ex(A + one_sided, B, assume="symmetric"),
        lambda: ss.factorize_ex(A, assume="SPD"),
    ):
        with pytest.raises(ValueError):
            call()


def test_nothing_is_lost_after_a_failure():
    P = A.pattern
    good = torch.arange(1.0, 6.0, dtype=torch.float64)
    v, b = good.clone().requires_grad_(), B.clone().requires_grad_()
    x = ss.solve(P.assemble(v), b)
    for bad in (0 * good, good * float("nan")):
        with pytest.raises((ValueError, torch.linalg.LinAlgError)):
            ss.solve(P.assemble(bad), b)
    with pytest.raises(ValueError):
        ss.solve(P.assemble(v), b * float("inf"))
    with pytest.raises(ValueError):
        ss.solve(P.assemble(v), b[:3])
    assert torch.equal(ss.solve(P.assemble(v), b), x)
    x.sum().backward()
    assert torch.allclose(b.grad, 1 / good)
    assert torch.allclose(v.grad, -1 / good**2)
