"""A quick look at tensors says yes only where torch's own answers, together, do."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import sparse_solver as ss
from sparse_solver.matrix import plain
from sparse_solver.planning import passes

pytest.importorskip("llvmlite")
from sparse_solver.engines.compiler import look

pytestmark = pytest.mark.skipif(look() is None, reason="this torch has no DLPack functions for C")
DTYPES = (torch.float32, torch.float64)


class Quantity(torch.Tensor):
    """A tensor of somebody else's."""


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def zoo():
    t = torch.rand(6, dtype=torch.float64)
    with torch.inference_mode():
        yield "of inference", t.clone()
    yield "complex", torch.rand(6, dtype=torch.complex128)
    yield "conjugate", torch.rand(6, dtype=torch.complex128).conj()
    yield "imaginary part", torch.rand(1, dtype=torch.complex128).conj().imag
    for dtype in (torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.uint8):
        yield str(dtype), torch.ones(6, dtype=dtype)
    yield "negative", torch._neg_view(t)
    yield "zero", torch._efficientzerotensor((6,), dtype=torch.float64)
    yield "strided", torch.rand(12, dtype=torch.float64)[::2]
    yield "expanded", torch.rand(1, dtype=torch.float64).expand(6)
    yield "matrix", t.reshape(2, 3)
    yield "scalar", t[0]
    yield "sparse", t.to_sparse()
    yield "csr", torch.eye(6, dtype=torch.float64).to_sparse_csr()
    yield "meta", t.to("meta")
    yield "functional", torch._to_functional_tensor(t)
    yield "subclass", t.as_subclass(Quantity)
    yield "nested", torch.nested.nested_tensor([t, t])
    with FakeTensorMode():
        yield "fake", torch.rand(6, dtype=torch.float64)
    gone = []
    torch.func.grad(lambda x: (gone.append(x), x.sum())[1])(t)
    torch.func.vmap(lambda x: (gone.append(x), x.sum())[1])(t.reshape(1, 6))
    torch.func.functionalize(lambda x: (gone.append(x), x.sum())[1])(t)
    for k, wrapper in enumerate(gone):
        yield f"of a transform that has ended, {k}", wrapper


ODD = list(zoo())


@pytest.fixture
def looked(monkeypatch):
    monkeypatch.setattr(plain, "_look", look())


@pytest.mark.parametrize(("name", "odd"), ODD, ids=[name for name, _ in ODD])
def test_what_may_be_no_vector_of_the_host(monkeypatch, name, odd):
    t = torch.rand(6, dtype=torch.float64)
    answers = []
    for function in (None, look()):
        monkeypatch.setattr(plain, "_look", function)
        assert plain.are_vectors(t, t) and plain.are_vectors(t, t)
        found = [plain.are_vectors(odd, odd), plain.are_vectors(odd, t), plain.are_vectors(t, odd)]
        assert found == [found[0]] * 3
        answers.append(found[0])
    assert look()(odd) == (name in ("of inference", "negative", "imaginary part"))
    # torch itself refuses to save tensors of inference, and this is as good as that.
    assert answers[0] == answers[1] or name == "of inference"


def test_what_is_no_tensor():
    for thing in (None, 3.0, [1.0], object(), torch.rand(3).numpy()):
        assert look()(thing) is False and look()(torch.rand(3), thing) is False
    assert look()() is True


@given(dtype=st.sampled_from(DTYPES), n=st.integers(0, 50), start=st.integers(0, 9))
def test_vectors(dtype, n, start):
    plain.use_look(look())
    t = torch.rand(n + start, dtype=dtype)
    leaf = torch.rand(n, dtype=dtype, requires_grad=True)
    vectors = (t[start:], leaf, 2 * leaf, torch.nn.Parameter(t), t.detach())
    for v in vectors:
        if n:  # what is empty may have no address
            assert look()(v) is True and look()(v, *vectors) is True
        assert plain.are_vectors(v, v) and plain.are_vectors(v, t)


@pytest.mark.parametrize("surrounding", ["dual", "inference", "mode", "grad", "vmap", "functionalize"])
def test_not_where_something_watches(looked, surrounding):
    t = torch.rand(6, dtype=torch.float64)
    found = []

    def ask(x):
        found.extend([plain.are_vectors(t, t), plain.are_vectors(t, t)])
        return x.sum()

    if surrounding == "dual":
        with fwAD.dual_level():
            ask(t)
    elif surrounding == "inference":
        with torch.inference_mode():
            ask(t)
    elif surrounding == "mode":
        with Mode():
            ask(t)
    else:
        x = t.reshape(1, 6) if surrounding == "vmap" else t
        getattr(torch.func, surrounding)(ask)(x)
    assert found == [False, False]


@pytest.mark.parametrize("capsule", [None, "nothing of the sort"])
def test_other_torches(monkeypatch, capsule):
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", capsule)
    assert look.__wrapped__() is None


def test_negative_views_are_solved_for(looked):
    """Numbers in memory that mean their opposites."""
    assert passes.warm_up("float64")
    P = ss.gallery.grid_laplacian((30, 30)).pattern
    v = torch.where(P.rows == P.cols, 5.0, -1.0).double()
    b = torch.rand(P.shape[0], dtype=torch.float64)
    xs = [ss.solve(ss.SparseMatrix(P, v), c) for c in (b, b, torch._neg_view(b))]
    assert torch.allclose(xs[2], -xs[0])
