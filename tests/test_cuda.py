"""CUDA tensors: by an engine that works where they are if there is one, by copies otherwise, and info
says which.
"""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME
from conformance import each_dtype, system
from reference import assert_solves

import sparse_solver as ss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@each_dtype
@pytest.mark.parametrize("mode", [{}, {"transpose": True}, {"adjoint": True}], ids=["N", "T", "H"])
def test_there_and_back(dtype, mode):
    A, D, b = system(BY_NAME["general"], dtype, 2)
    v = A.values.cuda().requires_grad_()
    b = b.cuda().requires_grad_()
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b, **mode)
    assert x.device.type == "cuda"
    assert_solves(D, x.cpu(), b.detach().cpu(), **mode)
    x.abs().sum().backward()
    assert v.grad.device.type == b.grad.device.type == "cuda"
    w, c = A.values.clone().requires_grad_(), b.detach().cpu().requires_grad_()
    ss.solve(ss.SparseMatrix(A.pattern, w), c, **mode).abs().sum().backward()
    assert torch.allclose(v.grad.cpu(), w.grad)
    assert torch.allclose(b.grad.cpu(), c.grad)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_torch_matrices(layout):
    A, D, b = system(BY_NAME["general"], torch.float64)
    M = A.to_torch(layout).cuda().requires_grad_()
    x = ss.solve(M, b.cuda())
    assert_solves(D, x.cpu().detach(), b)
    (G,) = torch.autograd.grad(x.sum(), M)
    assert G.device.type == "cuda"
    assert G.layout == layout


def test_info_says_so():
    A, _, b = system(BY_NAME["general"], torch.float64)
    F = ss.factorize(A.to("cuda"), method=ss.Direct(engine="superlu"))  # which works on the CPU
    assert F.solve(b.cuda()).device.type == "cuda"
    assert "cuda" in F.info.transfer
    F = ss.factorize(A.to("cuda"))
    assert (F.info.transfer is None) == (F.info.engine == "cudss")
    assert ss.factorize(A).info.transfer is None
    assert ss.solve_ex(A.to("cuda"), b.cuda()).info.device.type == "cuda"


def test_devices_do_not_mix():
    A, _, b = system(BY_NAME["general"], torch.float64)
    with pytest.raises((ValueError, TypeError), match="(?s)cuda.*cpu|cpu.*cuda"):
        ss.solve(A.to("cuda"), b)


def test_second_order():
    A, _, b = system(BY_NAME["triangular"], torch.float64)

    def f(v):
        return ss.solve(ss.SparseMatrix(A.pattern, v), b.to(v.device)).square().sum()

    H = torch.func.hessian(f)(A.values)
    assert torch.allclose(torch.func.hessian(f)(A.values.cuda()).cpu(), H)


@each_dtype
def test_determinants_entries_of_the_inverse_and_draws(dtype):
    A, _, _ = system(BY_NAME["spd_grid"], dtype)
    found = []
    for device in ("cpu", "cuda"):
        v = A.values.to(device).requires_grad_()
        F = ss.factorize(ss.SparseMatrix(A.pattern, v))
        draw = F.rsample((2,), generator=torch.Generator(device).manual_seed(0))
        assert draw.device.type == device
        answers = (
            F.slogdet()[1],
            F.inverse_diagonal().abs().sum(),
            F.selected_inverse().values.abs().sum(),
        )
        (g,) = torch.autograd.grad(sum(answers) + 0 * draw.abs().sum(), v)
        found.append([t.detach().cpu() for t in (*answers, F.slogdet()[0], g)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4)
