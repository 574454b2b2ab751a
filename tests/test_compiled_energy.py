"""ElementSum(..., compile=True): the same numbers and derivatives from a compiled loop."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jacrev, vmap

import sparse_solver as ss

pytest.importorskip("numba", reason="numba is not installed")

F64 = torch.float64
g = torch.Generator().manual_seed(1)
TETS = torch.stack([torch.randperm(7, generator=g)[:4] for _ in range(9)])


def neo_hookean(x, D, mu, lam):
    F = torch.stack([x[1] - x[0], x[2] - x[0], x[3] - x[0]], 1) @ D
    J = torch.linalg.det(F)
    return mu / 2 * ((F * F).sum() - 3 - 2 * torch.log(J.abs())) + lam / 2 * torch.log(J.abs()) ** 2


def with_nodes(x, mass, D, mu, lam):
    E = (x[[1, 2, 3]] - x[torch.tensor([0])]).mT @ D
    C = torch.linalg.inv(E.mT @ E + torch.eye(3, dtype=x.dtype))
    return (mass * x.square().sum(1)).sum() * mu + lam * torch.einsum("ij,ij->", C, C) + D.mean()


def functions(x, D, mu, lam):
    """Of few numbers: each is unrolled and compiled, with its derivatives."""
    u, v = x[0], x[1]
    a, b, c = u[:1], v[1:2], v[2:]
    parts = [
        torch.sin(a) * torch.cos(b) + torch.tan(0.1 * c),
        torch.exp(-a.abs()) + torch.log1p(b**2) + torch.expm1(0.1 * c),
        torch.tanh(a) / (2 + torch.sigmoid(b)) + torch.sqrt(1 + c**2),
        torch.maximum(a, b) - torch.minimum(b, c) + torch.clamp(c, -0.5, 0.5),
        torch.where(a > b, a * b, c) + torch.relu(a) + torch.atan(b) + torch.sinh(0.1 * c),
        torch.atan2(a, 2 + b**2) + (1 + a**2) ** 1.3 + 2.0 ** (0.1 * b) + torch.rsqrt(1 + c**2),
        torch.cosh(0.1 * a) + torch.reciprocal(2 + b**2),
    ]
    total = torch.stack(parts).sum() + torch.linalg.cross(u, v).sum() + torch.dot(u, v)
    total = total + torch.linalg.vector_norm(u - v) + torch.linalg.vector_norm(v, ord=1)
    return total * mu + lam * torch.prod(2 + u**2)


def inputs(dtype=F64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=g, dtype=dtype)
    m = len(TETS)
    D = torch.randn(m, 3, 3, generator=g, dtype=dtype)
    mu, lam = torch.rand(m, generator=g, dtype=dtype), torch.rand(m, generator=g, dtype=dtype)
    return x, D, mu, lam


def pair(f):
    elements = TETS[:, :2] if f is functions else TETS  # few nodes: all is unrolled and compiled
    return ss.ElementSum(f, elements), ss.ElementSum(f, elements, compile=True)


@pytest.mark.parametrize(
    "f",
    [*(pytest.param(f, marks=pytest.mark.slow) for f in (neo_hookean, with_nodes)), functions],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), F64])
def test_the_same_numbers(f, dtype):
    plain, fast = pair(f)
    x, *rest = inputs(dtype)
    more = {"nodal": (torch.rand(7, dtype=dtype),)} if f is with_nodes else {}
    tol = {"rtol": 1e-3 if dtype == torch.float32 else 1e-9}
    assert torch.allclose(fast(x, *rest, **more), plain(x, *rest, **more), **tol)
    for verb in ("gradient", "hessian"):
        for project in ({"project": "none"}, {"project": "psd"}) if verb == "hessian" else ({},):
            a = getattr(plain, verb)(x, *rest, **more, **project)
            b = getattr(fast, verb)(x, *rest, **more, **project)
            a, b = (t.values if verb == "hessian" else t for t in (a, b))
            assert a.dtype == b.dtype == dtype
            assert torch.allclose(a, b, atol=tol["rtol"] * float(a.abs().max()))


@pytest.mark.slow
def test_the_same_derivatives():
    plain, fast = pair(neo_hookean)
    x, D, mu, lam = inputs()
    mu.requires_grad_(), x.requires_grad_()
    for f in (fast, fast.gradient, lambda *a: fast.hessian(*a).values):
        assert gradcheck(
            lambda x, mu, f=f: f(x, D, mu, lam), (x, mu), check_forward_ad=True, fast_mode=True
        )
        assert gradgradcheck(lambda mu, f=f: f(x.detach(), D, mu, lam) ** 2, mu, fast_mode=True)
    x, mu = x.detach(), mu.detach()
    J = jacrev(lambda mu: fast.gradient(x, D, mu, lam))(mu)
    assert torch.allclose(J, jacfwd(lambda mu: plain.gradient(x, D, mu, lam))(mu))
    X = torch.stack([x, 1.1 * x])
    each = torch.stack([plain.hessian(x, D, mu, lam).values for x in X])
    assert torch.allclose(vmap(lambda x: fast.hessian(x, D, mu, lam).values)(X), each)


def test_threads(monkeypatch):
    from sparse_solver.energy.compiled import kernel

    elements = torch.stack([torch.randperm(5, generator=g)[:2] for _ in range(50)])
    f = lambda x, k: k * (x[0] * x[1] ** 2).cos()  # noqa: E731
    x, k = torch.randn(5, dtype=F64), torch.rand(50, dtype=F64)
    H = ss.ElementSum(f, elements).hessian(x, k)
    monkeypatch.setattr(kernel, "_WORTH", 10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        fast = ss.ElementSum(f, elements, compile=True)
        assert torch.allclose(fast.hessian(x, k).values, H.values)
        assert torch.equal(fast.hessian(x, k).values, fast.hessian(x, k).values)
        assert torch.allclose(fast.gradient(x, k), ss.ElementSum(f, elements).gradient(x, k))
    finally:
        torch.set_num_threads(threads)


def test_second_derivatives_of_determinants_at_rest():
    """torch's own are NaN at the identity, and wrong under vmap of forward over reverse."""
    triangles, x = [[0, 1, 2]], torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=F64)

    def f(x):
        return torch.linalg.det(torch.stack([x[1] - x[0], x[2] - x[0]], 1)).log() ** 2

    def by_hand(x):
        a, b = x[1] - x[0], x[2] - x[0]
        return (a[0] * b[1] - a[1] * b[0]).log() ** 2

    H = ss.ElementSum(by_hand, triangles).hessian(x).to_dense()
    assert torch.allclose(H, jacrev(jacrev(by_hand))(x).reshape(6, 6))
    for compile in (False, True):
        assert torch.allclose(ss.ElementSum(f, triangles, compile=compile).hessian(x).to_dense(), H)


def test_least_squares():
    def r(x, a):
        return torch.stack([x[0] * a, x[1].sin() * x[0]]) * x[1]

    sums = [ss.ElementSum.least_squares(r, TETS[:, :2], compile=c) for c in (False, True)]
    x, a = inputs()[0], torch.rand(len(TETS), dtype=F64)
    for project in ("none", "psd"):
        H = [E.hessian(x, a, project=project).values for E in sums]
        assert torch.allclose(*H)
    assert torch.allclose(*(E.gradient(x, a) for E in sums))
    assert torch.allclose(*(E(x, a) for E in sums))


def test_minimize_with_it(counts):
    elements = torch.tensor([[i, i + 1] for i in range(20)])
    f = lambda x, k: k * ((x[1] - x[0]).square().sum() - 1) ** 2 + 0.1 * x[0, 1]  # noqa: E731
    x0 = torch.stack([torch.arange(21.0), torch.zeros(21)], 1).double()
    fixed = ([0, 1, 40, 41], torch.tensor([0.0, 0.0, 18.0, 0.0], dtype=F64))
    k = torch.ones(20, dtype=F64, requires_grad=True)
    found = [
        ss.minimize(ss.ElementSum(f, elements, compile=c), x0, (k,), fixed=fixed) for c in (False, True)
    ]
    assert torch.allclose(*found)
    grads = [torch.autograd.grad(x.square().sum(), k)[0] for x in found]
    assert torch.allclose(*grads, atol=1e-7)


def test_what_it_does_not_know():
    with pytest.raises(NotImplementedError, match="names a node twice"):
        ss.ElementSum(lambda x: x.sum(), [[0, 0]], compile=True)
    E = ss.ElementSum(lambda x: torch.linalg.eigvalsh(x.mT @ x).sum(), TETS, compile=True)
    x = inputs()[0]
    with pytest.raises(NotImplementedError, match="compile=True does not know"):
        E(x)
    E = ss.ElementSum(lambda x: torch.linalg.vector_norm(x, ord=3), TETS, compile=True)
    with pytest.raises(NotImplementedError, match="norm"):
        E(x)
