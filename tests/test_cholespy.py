"""The cholespy engine: on arrays as every engine, and on tensors where they are. Its substitution on a
GPU is tested where there is one; the library is the same on the CPU.
"""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, grid
from conformance import system
from reference import assert_says, assert_solves

import sparse_solver as ss
from sparse_solver.engines import REGISTRY
from sparse_solver.planning import on_device
from sparse_solver.planning.on_device.planner import engine_for

CHOLESPY = ss.Direct(engine="cholespy")
ENGINE = REGISTRY["cholespy"]
pytestmark = pytest.mark.skipif(ENGINE.why_not() is not None, reason=str(ENGINE.why_not()))
REAL = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(params=["arrays", "tensors", pytest.param("cuda", marks=pytest.mark.gpu)])
def there(request, monkeypatch):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    monkeypatch.setattr(on_device, "everywhere", request.param == "tensors")
    return lambda thing: thing.to("cuda" if request.param == "cuda" else "cpu")


@REAL
@pytest.mark.parametrize("k", [None, 1, 5, 128, 129, 300])
def test_answers_for_any_number_of_columns(there, dtype, k):
    A, D, b = (there(t) for t in system(BY_NAME["spd_grid"], dtype, k))
    for assume in ("auto", "spd"):
        F = ss.factorize(A, assume=assume, method=CHOLESPY)
        for mode in ({}, {"transpose": True}, {"adjoint": True}):
            x = F.solve(b, **mode)
            assert x.dtype == dtype
            assert_solves(D, x, b, **mode)
        assert F.info.engine == "cholespy"


def test_derivatives(there):
    A = there(ss.SparseMatrix.from_scipy(grid(3)))
    v = A.values.clone().requires_grad_()
    b = there(torch.randn(9, 2, dtype=torch.float64)).requires_grad_()

    def solve(v, b):
        half = ss.SparseMatrix(A.pattern, v)
        whole = ss.SparseMatrix(A.pattern, (half.values + half.mT.values) / 2)
        return ss.solve(whole, b, method=CHOLESPY)

    some = {"nondet_tol": 1e-8 if v.is_cuda else 0.0}  # sums on a GPU are made in no fixed order
    assert torch.autograd.gradcheck(solve, (v, b), check_forward_ad=True, **some)
    assert torch.autograd.gradgradcheck(solve, (v, b), **some)


def test_batches_item_by_item(there):
    A, D, b = (there(t) for t in system(BY_NAME["spd_grid"], torch.float64))
    v = torch.stack([A.values, -A.values, 2 * A.values])
    x, info = ss.solve_ex(ss.SparseMatrix(A.pattern, v), b, assume="spd", method=CHOLESPY)
    assert (info != 0).tolist() == [False, True, False]
    assert_solves(D, x[0], b)
    assert_solves(2 * D, x[2], b)


def test_what_is_not_definite(there):
    A = there(ss.SparseMatrix.from_scipy(grid(4)).add_diagonal(-4.0))
    b = there(torch.ones(16, dtype=torch.float64))
    for assume in ("auto", "spd"):
        with pytest.raises(ss.NotPositiveDefiniteError) as caught:
            ss.solve(A, b, assume=assume, method=CHOLESPY)
        assert caught.value.index == 0
    G, _, c = (there(t) for t in system(BY_NAME["general"], torch.float64))
    with pytest.raises(ValueError) as refused:
        ss.solve(G, c, method=CHOLESPY)
    assert_says(refused.value, "cholespy", "A = A^H", "method=Direct()")


def test_complex_numbers_are_refused():
    A, _, b = system(BY_NAME["spd_grid"], torch.complex128)
    with pytest.raises(ValueError, match="float64, not this one .*complex128"):
        ss.solve(A, b, method=CHOLESPY)


def test_when_it_is_chosen(monkeypatch):
    """On the CPU by name alone; on a GPU for matrices said to be definite, if cuDSS is missing."""
    A, _, _ = system(BY_NAME["spd_grid"], torch.float64)
    assert ss.factorize(A, assume="spd").info.engine != "cholespy"
    gpu, double = torch.device("cuda:0"), torch.float64
    monkeypatch.setattr(REGISTRY["cudss"], "_looked", True)
    monkeypatch.setattr(REGISTRY["cudss"], "_why_not", "not here")
    assert engine_for(gpu, double, "spd", "auto") is ENGINE
    assert engine_for(gpu, double, "auto", "auto") is None
    assert engine_for(gpu, torch.complex128, "spd", "auto") is None
    assert engine_for(gpu, double, "auto", "cholespy") is ENGINE
    assert engine_for(gpu, double, "spd", "rslab") is None
    with pytest.raises(ValueError, match="not here"):
        engine_for(gpu, double, "spd", "cudss")
    monkeypatch.setattr(REGISTRY["cudss"], "_why_not", None)
    assert engine_for(gpu, double, "spd", "auto") is REGISTRY["cudss"]
    assert engine_for(gpu, double, "auto", "auto") is REGISTRY["cudss"]


def test_another_gpu_is_declined():
    class Elsewhere(torch.Tensor):
        is_cuda = True
        device = torch.device("cuda:1")

    A, _, _ = system(BY_NAME["spd_grid"], torch.float64)
    symbolic = ENGINE.analyze(A.pattern, "cholesky", A.values[None], 1)
    values = A.values[None].as_subclass(Elsewhere)
    with pytest.raises(Exception, match="GPU 0 alone"):
        ENGINE.factorize(symbolic, values, 1)
