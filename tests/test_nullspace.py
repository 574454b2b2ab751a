"""nullspace=: singular systems with a known null space."""

from __future__ import annotations

import pytest
import torch
from reference import assert_says
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jacrev, vmap

import sparse_solver as ss

N = 7
I = torch.arange(N)  # noqa: E741
J = (I + 1) % N
P = ss.Pattern(torch.cat([I, J, I, J]), torch.cat([I, J, J, I]), (N, N))


def ring(w):
    """A Laplacian of a ring: null space of constants for every w."""
    return P.assemble(torch.cat([w, w, -w, -w], -1))


def dense_ring(w):
    zero = torch.zeros(N, N, dtype=w.dtype)
    return zero.index_put((P.rows, P.cols), ring(w).values)


def truth(w, b, Z=None):
    """By the bordered matrix."""
    Z = torch.ones(N, 1, dtype=w.dtype) if Z is None else Z
    K = torch.cat([torch.cat([dense_ring(w), Z], 1), torch.cat([Z.mH, Z.new_zeros(1, 1)], 1)])
    return (torch.linalg.inv(K) @ torch.cat([b, b.new_zeros(1, *b.shape[1:])]))[:N]


def inputs(*shape, dtype=torch.float64):
    w = (torch.rand(N, dtype=dtype) + 1).requires_grad_()
    c = torch.randn(N, *shape, dtype=dtype, requires_grad=True)
    return w, c


def solve(w, c, nullspace="constant", **options):
    return ss.solve(ring(w), c - c.mean(0), nullspace=nullspace, **options)


@pytest.mark.parametrize("shape", [(), (3,), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_the_solution_orthogonal_to_constants(shape, dtype):
    w, c = inputs(*shape, dtype=dtype)
    x = solve(w, c)
    b = (c - c.mean(0)).detach()
    tol = {"atol": 1e-4} if dtype == torch.float32 else {}
    assert x.shape == c.shape
    assert torch.allclose(x, truth(w, b), **tol)
    assert torch.allclose(x.sum(0), x.new_zeros(shape), atol=1e-5)
    if dtype == torch.float64:
        assert torch.allclose(solve(w, c, assume="spd"), x)
        assert torch.allclose(solve(w, c, transpose=True), x)


def test_derivatives():
    given = inputs()
    assert gradcheck(solve, given, check_forward_ad=True)
    assert gradgradcheck(solve, given, check_fwd_over_rev=True)
    got = torch.autograd.grad(solve(*given).pow(3).sum(), given)
    true = torch.autograd.grad(truth(given[0], given[1] - given[1].mean(0)).pow(3).sum(), given)
    for p, q in zip(got, true, strict=True):
        assert torch.allclose(p, q)
    w, c = (t.detach() for t in given)
    for argnums in (0, 1):
        J = jacrev(solve, argnums=argnums)(w, c)
        assert torch.allclose(J, jacfwd(solve, argnums=argnums)(w, c))
    C = torch.randn(3, N, dtype=torch.float64)
    assert torch.allclose(vmap(lambda c: solve(w, c))(C), solve(w, C.T).T)
    W = torch.rand(3, N, dtype=torch.float64) + 1
    each = torch.stack([solve(w, c) for w in W])
    assert torch.allclose(vmap(lambda w: solve(w, c))(W), each)
    assert torch.allclose(ss.solve(ring(W), c - c.mean(), nullspace="constant"), each)


def test_inside_transforms_a_wrong_b_gives_nan():
    w, c = (t.detach() for t in inputs())
    x = vmap(lambda s: ss.solve(ring(w), c - c.mean() + s, nullspace="constant"))(
        torch.tensor([0.0, 1.0])
    )
    assert x[0].isfinite().all() and x[1].isnan().all()


def test_rigid_body_modes():
    """Free elastic bodies: three null vectors, forces in balance."""
    problem = ss.gallery.elasticity_elements((6, 3))
    A = problem.assemble(torch.rand(problem.num_weights, dtype=torch.float64) + 0.5)
    modes = ss.gallery.rigid_body_modes(problem.vertices)
    Q = torch.linalg.qr(modes).Q
    b = torch.randn(problem.n, 2, dtype=torch.float64)
    b = b - Q @ (Q.mT @ b)
    x = ss.solve(A, b, nullspace=modes, assume="spd")
    assert torch.allclose(A @ x, b)
    assert torch.allclose(Q.mT @ x, torch.zeros(3, 2, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(x, torch.linalg.pinv(A.to_dense(), hermitian=True) @ b)


def test_factor_and_ex(counts):
    w, c = inputs()
    F = ss.factorize(ring(w), nullspace="constant")
    x = F.solve(c - c.mean())
    y = F.solve(2 * (c - c.mean()), adjoint=True)
    assert torch.allclose(2 * x, y)
    torch.autograd.grad((x + y).square().sum(), (w, c))
    assert counts.factorisations == 1
    assert "nullspace" in repr(F) and F.info.n == N - 1
    x, info = ss.solve_ex(ring(w), c - c.mean(), nullspace="constant")
    assert int(info) == 0 and torch.allclose(2 * x, y)


def test_two_parts_are_still_singular():
    A = ss.SparseMatrix.from_torch(torch.block_diag(*[torch.tensor([[1.0, -1.0], [-1.0, 1.0]])] * 2))
    b = torch.tensor([1.0, -1.0, 2.0, -2.0])
    with pytest.raises(ss.SingularMatrixError):
        ss.solve(A, b, nullspace="constant")
    parts = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).T
    assert torch.allclose(ss.solve(A, b, nullspace=parts), b / 2)


def test_refusals():
    w, c = (t.detach() for t in inputs())
    A, b = ring(w), c - c.mean()
    bad = [
        (dict(nullspace="rigid"), b, ValueError, ("rigid", "constant")),
        (dict(nullspace="constant"), b + 1, ValueError, ("null space", "b - b.mean()", (N,))),
        (dict(nullspace=torch.eye(N).double()[:, :1]), b, ValueError, ("does not fit A", (N, N))),
        (dict(nullspace=torch.ones(N, 2).double()), b, ValueError, ("dependent", (N, 2))),
        (dict(nullspace=torch.ones(3).double()), b, ValueError, ((3,), (N, N))),
        (dict(nullspace=[1.0]), b, TypeError, ("list", "constant")),
        (dict(nullspace=torch.ones(N)), b, TypeError, ("float32", "float64")),
        (dict(nullspace="constant", fixed=([0], b[:1])), b, ValueError, ("fixed", "nullspace")),
    ]
    for options, rhs, kind, words in bad:
        with pytest.raises(kind) as error:
            ss.solve(A, rhs, **options)
        assert_says(error.value, *words)
    one_sided = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    with pytest.raises(ValueError, match="A\\^H Z"):
        ss.solve(one_sided, torch.tensor([1.0, -1.0]), nullspace="constant")
