"""torch.compile, export and tracing: the operators stay opaque, the answers stay the same."""

from __future__ import annotations

import gc
import shutil

import pytest
import torch
from small import EXACT, small
from torch.func import grad, hessian, jvp, vmap

import sparse_solver as ss

# torch's own notices while it compiles
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

each_dtype = pytest.mark.parametrize("dtype", EXACT, ids=["float64", "complex128"])
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))),
    reason="inductor needs a C++ compiler",
)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(f, backend="aot_eager", **options):
    return torch.compile(f, backend=backend, fullgraph=True, **options)


@each_dtype
@pytest.mark.parametrize("mode", [{}, {"transpose": True}, {"adjoint": True}], ids=["N", "T", "H"])
def test_forward_and_backward(counts, dtype, mode):
    S = small("general", dtype)
    w, b = S.param(), S.rhs(2)
    f = compiled(lambda w, b: ss.solve(S.pattern.assemble(w), b, **mode))
    x = f(w, b)
    g = torch.randn_like(x)
    got = torch.autograd.grad(x, (w, b), g)
    assert counts.factorisations == 1
    y = S.truth(w, b, **mode)
    assert torch.allclose(x, y)
    for p, q in zip(got, torch.autograd.grad(y, (w, b), g), strict=True):
        assert torch.allclose(p, q)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_shapes_and_surroundings(shape):
    """The solve amid other operations, twice in one graph."""
    S = small("spd", n=6)
    w, b = S.param(), S.rhs(*shape)

    def f(w, b, solve):
        y = solve(w.exp(), b.sin())
        return (solve(w, y) * y).sum()

    f_lib = compiled(lambda w, b: f(w, b, lambda w, b: ss.solve(S.matrix(w + 5), b, assume="spd")))
    S5 = lambda w, b: S.truth(w + 5, b)  # noqa: E731
    g = torch.autograd.grad(f_lib(w, b), (w, b))
    true = torch.autograd.grad(f(w, b, S5), (w, b))
    for p, q in zip(g, true, strict=True):
        assert torch.allclose(p, q)


def test_new_values_do_not_recompile(counts):
    S = small("general", n=6)
    b = S.rhs(grad=False)
    backend = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    f = compiled(lambda w: ss.solve(S.pattern.assemble(w), b), backend)
    for step in range(5):
        w = (S.w * (1 + 0.1 * step)).requires_grad_()
        x = f(w)
        x.sum().backward()
        assert torch.allclose(x, S.truth(w, b))
    assert backend.frame_count == 1
    assert counts.factorisations == 5


def test_8_patterns_as_arguments_recompile_at_most_once():
    """Four patterns of equal nnz and different structure."""
    n = 8
    backend = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    f = compiled(lambda A, b: ss.solve(A, b), backend)
    g = torch.Generator().manual_seed(0)
    for _ in range(4):
        d, p = torch.arange(n), torch.randperm(n, generator=g)
        rows, cols = torch.cat([d, d]), torch.cat([d, (p + (p == d)) % n])
        keep = torch.cat([torch.ones(n, dtype=torch.bool), cols[n:] != d])
        rows, cols = rows[keep][: 2 * n - 2], cols[keep][: 2 * n - 2]
        v = torch.cat([torch.full((n,), 4.0), torch.rand(len(rows) - n, generator=g)]).double()
        A = ss.Pattern(rows, cols, (n, n)).assemble(v)
        b = torch.randn(n, generator=g, dtype=torch.float64)
        D = torch.zeros(n, n, dtype=v.dtype).index_put((rows, cols), v, accumulate=True)
        assert torch.allclose(f(A, b), torch.linalg.inv(D) @ b)
    assert backend.frame_count <= 2


def test_a_matrix_as_argument_and_as_result():
    S = small("general")
    A, b = S.matrix(S.w), S.rhs(grad=False)

    @compiled
    def f(A, b):
        # dynamo refuses operators between an object and a tensor: A @ b needs its long name here
        return 2 * A, ss.solve(A.T, b), A.__matmul__(b)

    B, x, y = f(A, b)
    assert isinstance(B, ss.SparseMatrix)
    assert torch.allclose(B.to_dense(), 2 * S.dense(S.w))
    assert torch.allclose(x, S.truth(S.w, b, transpose=True))
    assert torch.allclose(y, S.dense(S.w) @ b)


def test_gradients_inside():
    S = small("general")
    w, b = S.w, S.rhs(grad=False)
    w1 = torch.randn_like(w)
    B = torch.randn(3, S.n, dtype=w.dtype)

    def inside(solve):
        def loss(w, b):
            return solve(w, b).pow(3).sum()

        return lambda w, b, B: (
            grad(loss)(w, b),
            jvp(lambda w: solve(w, b), (w,), (w1,))[1],
            vmap(lambda b: solve(w, b))(B),
            vmap(grad(loss), in_dims=(None, 0))(w, B),
        )

    got = compiled(inside(lambda w, b: ss.solve(S.pattern.assemble(w), b)))(w, b, B)
    for p, q in zip(got, inside(S.truth)(w, b, B), strict=True):
        assert torch.allclose(p, q)


def test_hessian_inside():
    S = small("general")
    b = S.rhs(grad=False)

    def of(solve):
        return lambda w: hessian(lambda w: solve(w, b).pow(3).sum())(w)

    H = compiled(of(lambda w, b: ss.solve(S.pattern.assemble(w), b)))(S.w)
    assert torch.allclose(H, of(S.truth)(S.w))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_grad(guard):
    S = small("general")
    f = compiled(lambda w, b: ss.solve(S.pattern.assemble(w), b))
    with guard():
        x = f(S.w, S.rhs(grad=False).clone())
    assert not x.requires_grad
    b = S.rhs()
    x = f(S.param(), b)
    x.sum().backward()
    assert torch.allclose(x, S.truth(S.w, b))


def test_no_numeric_is_left_behind(counts):
    S = small("general", n=6)
    b = S.rhs(grad=False)
    f = compiled(lambda w: ss.solve(S.pattern.assemble(w), b).square().sum())
    f(S.param()).backward()
    ss.clear_cache()
    gc.collect()
    gc.disable()
    try:
        for step in range(5):
            w = (S.w * (1 + 0.1 * step)).requires_grad_()
            loss = f(w)
            loss.backward()
            assert counts.live() <= 1
    finally:
        gc.enable()
    assert counts.factorisations == 6


def test_errors_come_through():
    P = ss.Pattern([0, 1], [0, 1], (2, 2))
    f = compiled(lambda v, b: ss.solve(P.assemble(v), b))
    b = torch.ones(2, dtype=torch.float64)
    assert torch.allclose(f(torch.tensor([2.0, 4.0]).double(), b), torch.tensor([0.5, 0.25]).double())
    with pytest.raises(ss.SingularMatrixError):
        f(torch.tensor([2.0, 0.0]).double(), b)


def test_a_pattern_made_inside_says_so():
    def f(v, b):
        P = ss.Pattern(torch.tensor([0, 1]), torch.tensor([0, 1]), (2, 2))
        return ss.solve(P.assemble(v), b)

    v, b = torch.tensor([2.0, 4.0]).double(), torch.ones(2).double()
    try:
        x = compiled(f)(v, b)
    except Exception as error:
        assert "Pattern" in str(error)
    else:
        assert torch.allclose(x, b / v)


@pytest.mark.slow
def test_graph_breaks_are_survived():
    """Without fullgraph, making a factor breaks the graph, no more."""
    S = small("general")
    b = S.rhs(grad=False)
    f = torch.compile(lambda w, b: ss.factorize(S.pattern.assemble(w)).solve(b), backend="eager")
    assert torch.allclose(f(S.w, b), S.truth(S.w, b))


def test_fixed_inside():
    S = small("general", n=6)
    w, b = S.param(), S.rhs()
    at, c = torch.tensor([4, 1]), torch.randn(2, dtype=torch.float64, requires_grad=True)
    f = lambda w, b, c: ss.solve(S.pattern.assemble(w), b, fixed=(at, c))  # noqa: E731
    eager = f(w, b, c)
    x = compiled(f)(w, b, c)
    assert torch.allclose(x, eager)
    for p, q in zip(
        torch.autograd.grad(x.square().sum(), (w, b, c)),
        torch.autograd.grad(eager.square().sum(), (w, b, c)),
        strict=True,
    ):
        assert torch.allclose(p, q)


def test_make_fx_with_fake_tensors():
    from torch.fx.experimental.proxy_tensor import make_fx

    S = small("general")
    b = S.rhs(grad=False)
    f = lambda w, b: ss.solve(S.pattern.assemble(w), b)  # noqa: E731
    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(f, tracing_mode=mode, _allow_non_fake_inputs=True)(S.w, b)
        w = 1.1 * S.w
        assert torch.allclose(graph(w, b), S.truth(w, b)), mode


def test_export():
    S = small("general")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(S.w.clone())

        def forward(self, b):
            return ss.solve(S.pattern.assemble(self.w), b)

    b = S.rhs(grad=False)
    program = torch.export.export(Model(), (b,))
    assert torch.allclose(program.module()(b), S.truth(S.w, b))


def operators():
    import sparse_solver.derivatives.solve  # noqa: F401

    library = torch.ops.sparse_solver
    return library.factor.default, library.solve.default


@each_dtype
def test_opcheck(dtype):
    S = small("general", dtype)
    factor, solve = operators()
    A = S.matrix(S.w)
    how = "auto" + ss.Direct().key
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(factor, (A.values, A.pattern.handle, how), test_utils=tests[:2])
    token = factor(A.values, A.pattern.handle, how)
    for b in (S.rhs(grad=False), S.rhs(3, grad=False)):
        for trans in (False, True):
            args = (A.values, b, token, A.pattern.handle, how, trans)
            torch.library.opcheck(solve, args, test_utils=tests[:2])


@needs_compiler
def test_inductor(counts, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # no pool of workers
    S = small("general")
    w, b = S.param(), S.rhs()
    f = compiled(lambda w, b: ss.solve(S.pattern.assemble(w.sin() + w), b).square().sum(), "inductor")
    got = torch.autograd.grad(f(w, b), (w, b))
    assert counts.factorisations == 1
    true = torch.autograd.grad(S.truth(w.sin() + w, b).square().sum(), (w, b))
    for p, q in zip(got, true, strict=True):
        assert torch.allclose(p, q)


@needs_compiler
@pytest.mark.slow
@each_dtype
@pytest.mark.parametrize("mode", [{}, {"transpose": True}, {"adjoint": True}], ids=["N", "T", "H"])
def test_inductor_of_every_mode(dtype, mode):
    S = small("general", dtype)
    w, b = S.param(), S.rhs(2)
    f = compiled(lambda w, b: ss.solve(S.pattern.assemble(2 * w), b, **mode), "inductor")
    x = f(w, b)
    g = torch.randn_like(x)
    y = S.truth(2 * w, b, **mode)
    assert torch.allclose(x, y)
    got, true = (torch.autograd.grad(t, (w, b), g) for t in (x, y))
    assert torch.allclose(got[0], true[0])
    assert torch.allclose(got[1], true[1])


@needs_compiler
@pytest.mark.slow
def test_compiled_autograd(counts):
    S = small("general", n=6)
    b = S.rhs(grad=False)
    with torch._dynamo.utils.maybe_enable_compiled_autograd(True, fullgraph=False):
        for step in range(3):
            w = (S.w * (1 + 0.1 * step)).requires_grad_()
            S.solve(w, b).square().sum().backward()
            true = torch.autograd.grad(S.truth(w, b).square().sum(), w)[0]
            assert torch.allclose(w.grad, true)
