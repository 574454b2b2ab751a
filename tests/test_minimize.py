"""minimize and root: they get there, or say so, and have the derivatives of where they got."""

from __future__ import annotations

import math

import pytest
import torch
from reference import assert_says
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, vmap

import sparse_solver as ss

F64 = torch.float64
N = 5
SPRINGS = torch.tensor([[i, i + 1] for i in range(N - 1)] + [[i, i + 2] for i in range(N - 2)])
FIXED = [0, 1, 2, 3]


def spring(x, k, r):
    return k * (torch.linalg.vector_norm(x[1] - x[0]) - r) ** 2 / 2


def weight(x, mass, g):
    return mass[0] * (x[0] * g).sum()


E = ss.ElementSum(spring, SPRINGS) + ss.ElementSum(weight, torch.arange(N)[:, None])
X0 = torch.stack([torch.arange(N), torch.tensor([0.0, 0.1, 0.2, 0.1, 0.3])], 1).double()


def inputs():
    m = len(SPRINGS)
    g = torch.tensor([0.0, 0.05], dtype=F64).expand(N, 2)
    c = torch.tensor([0.0, 0.0, 1.0, 0.1], dtype=F64)
    rest = 0.8 * torch.linalg.vector_norm(X0[SPRINGS[:, 1]] - X0[SPRINGS[:, 0]], dim=1)
    tensors = (torch.rand(m, dtype=F64) + 1, rest, g.clone(), torch.rand(N, dtype=F64), c)
    return tuple(t.requires_grad_() for t in tensors)


def equilibrium(k, r, g, mass, c, **options):
    given = {"nodal": ((), (mass,)), "fixed": (FIXED, c)} | options
    return ss.minimize(E, X0, ((k, r), (g,)), **given)


def unrolled(k, r, g, mass, c):
    """The same by many dense Newton steps, differentiated step by step."""
    free = torch.tensor([i for i in range(2 * N) if i not in FIXED])

    def energy(y):
        x = torch.zeros(2 * N, dtype=F64).index_put((torch.tensor(FIXED),), c)
        x = x.index_put((free,), y).reshape(N, 2)
        springs = sum(spring(x[e], k[i], r[i]) for i, e in enumerate(SPRINGS))
        return springs + sum(mass[i] * (x[i] * g[i]).sum() for i in range(N))

    with torch.no_grad():
        y = equilibrium(k, r, g, mass, c).reshape(-1)[free]
    for _ in range(3):
        y = y - torch.linalg.inv(jacrev(jacrev(energy))(y)) @ jacrev(energy)(y)
    return torch.zeros(2 * N, dtype=F64).index_put((free,), y).index_put((torch.tensor(FIXED),), c)


def test_it_is_a_minimum():
    given = inputs()
    x = equilibrium(*given).detach()
    k, r, g, mass, c = (t.detach() for t in given)
    assert torch.equal(x.reshape(-1)[FIXED], c)
    gradient = E.gradient(x, (k, r), (g,), nodal=((), (mass,))).reshape(-1)
    assert gradient[4:].abs().max() < 1e-9
    H = E.hessian(x, (k, r), (g,), nodal=((), (mass,))).to_dense()[4:, 4:]
    assert torch.linalg.eigvalsh(H).min() > 0


@pytest.mark.slow
def test_derivatives_against_finite_differences():
    given = inputs()
    assert gradcheck(equilibrium, given, check_forward_ad=True, fast_mode=True)


@pytest.mark.slow
def test_second_derivatives_against_finite_differences():
    given = inputs()
    k, *rest, c = (t.detach() for t in given)
    some = (k.requires_grad_(), c.requires_grad_())
    two = lambda k, c: equilibrium(k, *rest, c).sin().sum()  # noqa: E731
    assert gradgradcheck(two, some, check_fwd_over_rev=True, fast_mode=True)


def test_derivatives_against_an_unrolled_iteration():
    given = inputs()
    x, y = equilibrium(*given).reshape(-1), unrolled(*given)
    assert torch.allclose(x, y)
    w = torch.randn_like(y)
    got = torch.autograd.grad((x * w).sin().sum(), given, create_graph=True)
    true = torch.autograd.grad((y * w).sin().sum(), given, create_graph=True)
    for p, q in zip(got, true, strict=True):
        assert torch.allclose(p, q, atol=1e-7)
    got = torch.autograd.grad(got[1].square().sum(), given)
    for p, q in zip(got, torch.autograd.grad(true[1].square().sum(), given), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_transforms():
    given = tuple(t.detach() for t in inputs())
    for argnums in (0, 3, 4):
        J = jacrev(equilibrium, argnums=argnums)(*given)
        assert torch.allclose(J, jacfwd(equilibrium, argnums=argnums)(*given), atol=1e-7)
    k, *rest = given
    K = torch.stack([k, 2 * k])
    each = torch.stack([equilibrium(k, *rest) for k in K])
    assert torch.allclose(vmap(lambda k: equilibrium(k, *rest))(K), each)
    H = hessian(lambda k: equilibrium(k, *rest).square().sum())(k)
    assert torch.allclose(H, H.mT, atol=1e-6)
    with pytest.raises(RuntimeError, match="minimize was called inside a compiled function"):
        torch.compile(lambda k: equilibrium(k, *rest), backend="eager", fullgraph=True)(k)


def test_one_more_factorisation_for_any_number_of_gradients(counts):
    given = inputs()
    seen = []
    x = equilibrium(*given, callback=seen.append)
    steps = seen[-1].iteration
    assert counts.factorisations >= steps
    counts.reset()
    torch.autograd.grad(x.sum(), given, retain_graph=True)
    torch.autograd.grad(x.square().sum(), given, retain_graph=True)
    assert counts.factorisations == 1
    assert counts.analyses == 0


def test_a_quadratic_energy_factors_once_in_all(counts):
    n = 30
    A = ss.ElementSum(lambda x, w: w * (x[1] - x[0]) ** 2 / 2, [[i, i + 1] for i in range(n - 1)])
    w = (torch.rand(n - 1, dtype=F64) + 1).requires_grad_()
    c = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    x = ss.minimize(A, torch.zeros(n, dtype=F64), (w,), fixed=([0, n - 1], c))
    ramp = torch.cat([w.new_zeros(1), torch.cumsum(1 / w, 0)]) / (1 / w).sum()
    assert torch.allclose(x, ramp)
    got = torch.autograd.grad(x.pow(3).sum(), w)[0]
    assert torch.allclose(got, torch.autograd.grad(ramp.pow(3).sum(), w)[0])
    assert counts.factorisations == 1


def test_progress_is_told():
    given, seen = inputs(), []
    k, r, g, mass, c = given
    x, info = ss.minimize_ex(
        E, X0, ((k, r), (g,)), nodal=((), (mass,)), fixed=(FIXED, c), callback=seen.append
    )
    assert info.converged and info.reason == "gradient below tolerance"
    assert [p.iteration for p in seen] == list(range(info.iterations + 1))
    assert info.residuals == [p.residual for p in seen]
    assert all(b.energy <= a.energy + 1e-12 for a, b in zip(seen, seen[1:]))
    assert torch.equal(info.x, x.detach()) and torch.equal(seen[-1].x, info.x)


def test_buckling_needs_projection():
    """A bar compressed along its axis: the Hessian is indefinite, the projected one goes downhill."""
    rod = ss.ElementSum(spring, SPRINGS)
    rest = 1.5 * torch.linalg.vector_norm(X0[SPRINGS[:, 1]] - X0[SPRINGS[:, 0]], dim=1)
    ends = X0[[0, 1, 4]].reshape(-1)
    fixed = ([0, 1, 2, 3, 8, 9], ends)
    x, info = ss.minimize_ex(rod, X0, (1.0, rest), fixed=fixed)
    assert info.converged
    H = rod.hessian(x, 1.0, rest).to_dense()[4:8, 4:8]
    assert torch.linalg.eigvalsh(H).min() > -1e-9
    bare, plain = ss.minimize_ex(rod, X0, (1.0, rest), fixed=fixed, project="none")
    if not plain.converged:
        assert "psd" in plain.reason and bare.isnan().all()


def test_barriers_and_float32():
    B = ss.ElementSum(lambda x, w: w * x.sum() - torch.log(x).sum(), [[0], [1], [2]])
    for dtype in (torch.float32, F64):
        w = torch.tensor([1.0, 2.0, 4.0], dtype=dtype, requires_grad=True)
        x = ss.minimize(B, torch.full((3,), 0.01, dtype=dtype), (w,))
        assert x.dtype == dtype
        assert torch.allclose(x, 1 / w, rtol=1e-4 if dtype == torch.float32 else 1e-9)
        (g,) = torch.autograd.grad(x.sum(), w)
        assert torch.allclose(g, -1 / w**2, rtol=1e-3)
    with pytest.raises(ValueError, match="x0"):
        ss.minimize(B, -torch.ones(3, dtype=F64), (w,))


def test_starting_at_the_minimum_and_at_rest():
    S = ss.ElementSum(spring, [[0, 1]])
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=F64)
    held = ([0, 1, 3], torch.zeros(3, dtype=F64))
    y, info = ss.minimize_ex(S, x, (1.0, 1.0), fixed=held)
    assert info.converged and info.iterations == 0 and torch.equal(x, y)
    y, info = ss.minimize_ex(S, x + 1e-13, (1.0, 1.0), fixed=held)
    assert info.converged and torch.allclose(x, y)


def test_failure_is_reported():
    k, r, g, mass, c = inputs()
    args = (E, X0, ((k, r), (g,)))
    options = dict(nodal=((), (mass,)), fixed=(FIXED, c), max_iterations=1)
    with pytest.raises(ss.NotConvergedError) as error:
        ss.minimize(*args, **options)
    assert_says(error.value, "minimize", "1 steps", "max_iterations=1", "residual")
    assert error.value.info.x.isfinite().all()
    x, info = ss.minimize_ex(*args, **options)
    assert not info.converged and x.isnan().all() and not x.requires_grad
    unbounded = ss.ElementSum(lambda x: x.sum(), [[0], [1]])
    _, info = ss.minimize_ex(unbounded, torch.zeros(2, dtype=F64))
    assert not info.converged and "downhill" in info.reason


class Reaction:
    """-u'' + a u^3 = f as a residual by hand, to show that any object with a Jacobian will do."""

    def __init__(self, n):
        self.L = ss.gallery.grid_laplacian((n,))

    def __call__(self, u, a, f):
        return self.L @ u + a * u**3 - f

    def jacobian(self, u, a, f):
        return self.L.add_diagonal(3 * a * u**2)


def test_root_of_an_own_residual(counts):
    n = 8
    a = torch.rand(n, dtype=F64, requires_grad=True)
    f = torch.randn(n, dtype=F64, requires_grad=True)

    def u(a, f):
        return ss.root(Reaction(n), torch.zeros(n, dtype=F64), (a, f))

    x, info = ss.root_ex(Reaction(n), torch.zeros(n, dtype=F64), (a, f))
    assert info.converged and info.energy is None
    assert Reaction(n)(x, a, f).abs().max() < 1e-9
    assert counts.factorisations == info.iterations
    counts.reset()
    torch.autograd.grad(x.sum(), (a, f), retain_graph=True)
    torch.autograd.grad(x.sum(), (a, f))
    assert counts.factorisations == 1
    assert gradcheck(u, (a, f), check_forward_ad=True)
    assert gradgradcheck(u, (a, f), fast_mode=True)


def test_root_of_element_sums_with_fixed_unknowns():
    def upwind(x, v, a):  # not the gradient of anything
        flow = v * x[0] + a * (x[0] - x[1]) ** 3
        return torch.stack([flow, -flow])

    n = 6
    R = ss.ResidualSum(upwind, [[i, i + 1] for i in range(n - 1)])
    v = (torch.rand(n - 1, dtype=F64) + 1).requires_grad_()
    a = torch.rand(n - 1, dtype=F64, requires_grad=True)
    c = torch.tensor([1.0, 0.3], dtype=F64, requires_grad=True)

    def x(v, a, c):
        return ss.root(R, torch.zeros(n, dtype=F64), (v, a), fixed=([0, n - 1], c))

    assert R(x(v, a, c), v, a)[1:-1].abs().max() < 1e-9
    assert gradcheck(x, (v, a, c), check_forward_ad=True)
    assert gradgradcheck(x, (v, a, c), fast_mode=True)
    V = torch.stack([v, 2 * v]).detach()
    assert torch.allclose(vmap(lambda v: x(v, a, c))(V), torch.stack([x(v, a, c) for v in V]))


def test_root_failures():
    no_root = ss.ResidualSum(lambda x: x**2 + 1, [[0]])
    x, info = ss.root_ex(no_root, torch.ones(1, dtype=F64))
    assert not info.converged and math.isnan(x)
    with pytest.raises(ss.NotConvergedError, match="root stopped"):
        ss.root(no_root, torch.ones(1, dtype=F64))
    with pytest.raises(ss.SingularMatrixError):
        ss.root(ss.ResidualSum(lambda x: x**2 - 1, [[0], [1]]), torch.zeros(2, dtype=F64))
    tall = ss.ResidualSum(lambda x: x, [[0], [1]], rows=[[0], [3]])
    with pytest.raises(ValueError, match="as many equations as unknowns"):
        ss.root(tall, torch.ones(2, dtype=F64))


def test_refusals():
    S, x = ss.ElementSum(lambda x: (x**2).sum(), [[0], [1]]), torch.ones(2, dtype=F64)
    one = torch.ones(1, dtype=F64)
    cases = [
        (lambda: ss.minimize(lambda x: x, x), TypeError, ("gradient", "ElementSum")),
        (lambda: ss.root(lambda x: x, x), TypeError, ("jacobian", "ResidualSum")),
        (lambda: ss.minimize(S, [1.0]), TypeError, ("list",)),
        (lambda: ss.minimize(S, x.long()), TypeError, ("int64",)),
        (lambda: ss.minimize(S, x, x), TypeError, ("params=(t,)",)),
        (lambda: ss.minimize(S, x, project="no"), ValueError, ("no", "psd")),
        (lambda: ss.minimize(S, x, tol=-1.0), ValueError, ("-1.0",)),
        (lambda: ss.minimize(S, x, max_iterations=-1), ValueError, ("-1",)),
        (lambda: ss.minimize(S, x, fixed=([2], one)), ValueError, ("index 2", "2 unknowns")),
        (lambda: ss.minimize(S, x, fixed=([0, 0], one)), ValueError, ("repeats",)),
        (lambda: ss.minimize(S, x, fixed=([0], one[None])), ValueError, ((1, 1),)),
        (lambda: ss.minimize(S, x, fixed=([0], one.float())), TypeError, ("float32", "float64")),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind) as error:
            call()
        assert_says(error.value, *words)
