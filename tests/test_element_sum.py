"""ElementSum, sums of them and ResidualSum: values and derivatives of every order and mode."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_says
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, vmap

import sparse_solver as ss
from sparse_solver.energy import per_element

F64 = torch.float64
TRIANGLES = torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 1, 0]])
N = 5


def local(x, nod, a):
    """Not convex, uses everything it is given, and tells the nodes apart."""
    F = torch.stack([x[1] - x[0], x[2] - x[0]], 1)
    J = F[0, 0] * F[1, 1] - F[0, 1] * F[1, 0]
    return a[0] * ((F * F).sum() + torch.sin(J)) * a[1] + (nod * x.square().sum(1) ** 2).sum()


def whole(x, a, nod):
    return sum(local(x[e], nod[e], a[i]) for i, e in enumerate(TRIANGLES))


def inputs(grad=True):
    x = torch.randn(N, 2, dtype=F64, requires_grad=grad)
    a = torch.rand(len(TRIANGLES), 2, dtype=F64).requires_grad_(grad)
    nod = torch.rand(N, dtype=F64).requires_grad_(grad)
    return x, a, nod


E = ss.ElementSum(local, TRIANGLES)
VERBS = {
    "energy": lambda x, a, nod: E(x, a, nodal=(nod,)),
    "gradient": lambda x, a, nod: E.gradient(x, a, nodal=(nod,)),
    "hessian": lambda x, a, nod: E.hessian(x, a, nodal=(nod,)).values,
}
each_verb = pytest.mark.parametrize("verb", VERBS)


@pytest.fixture(params=[False, True], ids=["whole", "chunks"])
def chunks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(per_element, "_LEAST", 3)
        monkeypatch.setattr(per_element, "_AT_ONCE", 1)


def test_values_against_a_loop_and_dense_derivatives(chunks):
    x, a, nod = inputs()
    assert torch.allclose(E(x, a, nodal=(nod,)), whole(x, a, nod))
    assert torch.allclose(E.gradient(x, a, nodal=(nod,)), jacrev(whole)(x, a, nod))
    H = E.hessian(x, a, nodal=(nod,)).to_dense()
    assert torch.allclose(H, hessian(whole)(x, a, nod).reshape(2 * N, 2 * N))
    assert torch.equal(H, H.mT)


@each_verb
def test_derivatives_of_every_order(verb):
    given_ = inputs()
    assert gradcheck(VERBS[verb], given_, check_forward_ad=True, fast_mode=True)
    forward_too = {"check_fwd_over_rev": True} if verb == "energy" else {}
    assert gradgradcheck(VERBS[verb], given_, fast_mode=True, **forward_too)


def test_derivatives_in_chunks(chunks):
    assert gradcheck(VERBS["gradient"], inputs(), check_forward_ad=True, fast_mode=True)


@each_verb
def test_transforms(verb):
    f, given_ = VERBS[verb], inputs(grad=False)
    for argnums in range(3):
        J = jacrev(f, argnums=argnums)(*given_)
        assert torch.allclose(J, jacfwd(f, argnums=argnums)(*given_))
    x, a, nod = given_
    X, A = torch.randn(3, N, 2, dtype=F64), torch.rand(3, len(TRIANGLES), 2, dtype=F64)
    assert torch.allclose(vmap(lambda x: f(x, a, nod))(X), torch.stack([f(x, a, nod) for x in X]))
    both = torch.stack([f(x, a, nod) for x, a in zip(X, A, strict=True)])
    assert torch.allclose(vmap(f, in_dims=(0, 0, None))(X, A, nod), both)


@pytest.mark.parametrize(
    "verbs", [("energy", "gradient"), pytest.param(("hessian",), marks=pytest.mark.slow)], ids=str
)
def test_compile(verbs):
    given_ = inputs()
    E.hessian(*given_[:2], nodal=given_[2:])  # patterns are made outside

    def squares(x, a, nod):
        return sum((VERBS[verb](x, a, nod) ** 2).sum() for verb in verbs)

    compiled = torch.compile(squares, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(*given_), given_)
    for p, q in zip(got, torch.autograd.grad(squares(*given_), given_), strict=True):
        assert torch.allclose(p, q)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 7),
    m=st.integers(1, 6),
    k=st.integers(1, 3),
    d=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, F64]),
    seed=st.integers(0, 99),
)
def test_shapes_dtypes_and_repeated_nodes(n, m, k, d, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    elements = torch.randint(n, (m, k), generator=g)  # an element may name a node twice
    x = torch.randn((n, d) if d else (n,), generator=g, dtype=dtype)
    w = torch.rand(m, generator=g, dtype=dtype)
    weigh = torch.arange(1, k + 1)

    def f(x, w):
        flat = x.reshape(k, -1)
        return w * (weigh[:, None] * flat).sum().cos() + (flat**3).sum()

    def total(x):
        zero = x.sum() * 0
        return sum((f(x[e], w[i]) for i, e in enumerate(elements)), zero)

    S = ss.ElementSum(f, elements)
    tol = {"atol": 1e-4 if dtype == torch.float32 else 1e-10}
    assert S(x, w).shape == () and S(x, w).dtype == dtype
    assert torch.allclose(S(x, w), total(x), **tol)
    g1, H = S.gradient(x, w), S.hessian(x, w)
    assert g1.shape == x.shape and g1.dtype == H.dtype == dtype
    assert torch.allclose(g1, jacrev(total)(x), **tol)
    assert H.shape == (x.numel(), x.numel())
    assert torch.allclose(H.to_dense(), jacrev(jacrev(total))(x).reshape(H.shape), **tol)


def test_projection():
    x, a, nod = (t.detach() for t in inputs())
    args = dict(nodal=(-nod,), project="psd")
    H = E.hessian(x, -a, **args)
    expected = torch.zeros(2 * N, 2 * N, dtype=F64)
    for i, e in enumerate(TRIANGLES):
        h = hessian(local)(x[e], -nod[e], -a[i]).reshape(6, 6)
        lam, U = torch.linalg.eigh(h)
        at = (2 * e[:, None] + torch.arange(2)).reshape(-1)
        expected[at[:, None], at] += U @ (lam.clamp(min=0)[:, None] * U.mT)
    assert torch.allclose(H.to_dense(), expected)
    assert torch.equal(H.to_dense(), H.to_dense().mT)
    convex = ss.ElementSum(lambda x: (x**4).sum(), TRIANGLES)
    same = convex.hessian(x), convex.hessian(x, project="psd")
    assert torch.equal(same[0].values, same[1].values)


def test_projection_has_first_derivatives_and_refuses_second():
    x, a, nod = inputs()

    def f(x, a, nod):
        return E.hessian(x, -a, nodal=(-nod,), project="psd").values

    assert gradcheck(f, (x, a, nod))
    (g,) = torch.autograd.grad(f(x, a, nod).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        g.sum().backward()


def test_gauss_newton():
    def r(x, a):
        return torch.stack([x[0] * x[1], torch.sin(x[2]) + a.sum(), x[1] ** 2])

    S = ss.ElementSum.least_squares(r, TRIANGLES)
    x, a = torch.randn(N, dtype=F64), torch.rand(len(TRIANGLES), 2, dtype=F64)
    J = torch.cat([jacrev(lambda x, i=i, e=e: r(x[e], a[i]))(x) for i, e in enumerate(TRIANGLES)])
    rest = torch.cat([r(x[e], a[i]) for i, e in enumerate(TRIANGLES)])
    assert torch.allclose(S(x, a), rest.square().sum() / 2)
    assert torch.allclose(S.gradient(x, a), J.mT @ rest)
    assert torch.allclose(S.hessian(x, a, project="psd").to_dense(), J.mT @ J)
    total = hessian(lambda x: sum(r(x[e], a[i]).square().sum() / 2 for i, e in enumerate(TRIANGLES)))
    assert torch.allclose(S.hessian(x, a).to_dense(), total(x))


def test_sum_of_energies():
    x, a, nod = inputs()
    ends = torch.tensor([[0, 4], [3, 1]])
    spring = ss.ElementSum(lambda x, k: k * (x[1] - x[0]).square().sum() / 2, ends)
    point = ss.ElementSum(lambda x: x.square().sum(), [[4]])
    k = torch.rand(2, dtype=F64, requires_grad=True)
    S = E + spring + point
    params, nodal = ((a,), (k,), ()), ((nod,), (), ())

    def total(x):
        own = sum(k[i] * (x[e[1]] - x[e[0]]).square().sum() / 2 for i, e in enumerate(ends))
        return whole(x, a, nod) + own + x[4].square().sum()

    assert torch.allclose(S(x, *params, nodal=nodal), total(x))
    assert torch.allclose(S.gradient(x, *params, nodal=nodal), jacrev(total)(x))
    H = S.hessian(x, *params, nodal=nodal)
    assert torch.allclose(H.to_dense(), hessian(total)(x).reshape(2 * N, 2 * N))
    assert H.pattern is S.hessian(x, *params, nodal=nodal).pattern
    assert gradcheck(lambda k: S.hessian(x, (a,), (k,), (), nodal=nodal).values, k)
    for wrong in ((a, k, ()), ((a,), (k,)), ()):
        with pytest.raises(TypeError, match="3 terms"):
            S(x, *wrong, nodal=nodal)
    with pytest.raises(TypeError, match="tuple of 3 tuples"):
        S(x, *params, nodal=(nod,))
    with pytest.raises(TypeError):
        E + 1


def test_the_pattern_is_made_once():
    x, a, nod = inputs()
    first = E.hessian(x, a, nodal=(nod,)).pattern
    assert E.hessian(2 * x, a, nodal=(nod,), project="psd").pattern is first
    assert E.hessian(torch.cat([x, x]), a, nodal=(torch.cat([nod, nod]),)).pattern is not first


def test_residuals_at_nodes_and_by_element():
    def r(x, a):
        return torch.stack([x[0] * x[1] + a, x[1].sin(), x[2] * a])

    a = torch.rand(len(TRIANGLES), dtype=F64, requires_grad=True)
    x = torch.randn(N, 2, dtype=F64, requires_grad=True)
    for R, size in (
        (ss.ResidualSum(r, TRIANGLES), N),
        (ss.ResidualSum(r, TRIANGLES, rows=torch.arange(12).reshape(4, 3)), 12),
        (ss.ResidualSum(r, TRIANGLES, rows=TRIANGLES + 1, size=9), 9),
    ):
        rows = R._rows.elements

        def total(x, a, rows=rows, size=size):
            out = torch.zeros(size, 2, dtype=F64)
            for i, e in enumerate(TRIANGLES):
                out = out.index_add(0, rows[i], r(x[e], a[i]))
            return out

        assert torch.allclose(R(x, a), total(x, a))
        J = R.jacobian(x, a)
        assert J.shape == (2 * size, 2 * N)
        assert torch.allclose(J.to_dense(), jacrev(total)(x, a).reshape(J.shape))
        f = lambda x, a, R=R: R.jacobian(x, a).values  # noqa: E731
        assert gradcheck(f, (x, a), check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(f, (x, a), fast_mode=True)
        assert gradcheck(R, (x, a), check_forward_ad=True)


def test_numbers_for_all_and_integer_constants():
    x = torch.randn(N, dtype=F64)
    which = torch.arange(len(TRIANGLES))
    S = ss.ElementSum(lambda x, k, i: k * x[0] ** 2 * i, TRIANGLES)
    expected = sum(2.5 * x[e[0]] ** 2 * i for i, e in enumerate(TRIANGLES))
    assert torch.allclose(S(x, 2.5, which), expected)
    k = torch.tensor(2.5, dtype=F64, requires_grad=True)
    assert gradcheck(lambda k: S(x, k, which), k)


def test_closures_that_want_gradients_are_refused():
    mu = torch.tensor(2.0, dtype=F64, requires_grad=True)
    S = ss.ElementSum(lambda x: mu * x.sum() ** 2, TRIANGLES)
    x = torch.randn(N, dtype=F64)
    for call in (S, S.gradient, S.hessian):
        with pytest.raises(ValueError, match="requires grad"):
            call(x)
    with torch.no_grad():
        S(x)
    R = ss.ResidualSum(lambda x: mu * x, TRIANGLES)
    with pytest.raises(ValueError, match="requires grad"):
        R(x)


def test_refusals():
    x, a, nod = (t.detach() for t in inputs())
    ok = dict(nodal=(nod,))
    cases = [
        (lambda: ss.ElementSum(3, TRIANGLES), TypeError, ("int", "function")),
        (lambda: ss.ElementSum(local, TRIANGLES.double()), TypeError, ("float64", ".long()")),
        (lambda: ss.ElementSum(local, [0, 1]), ValueError, ((2,), "(m, k)", "[:, None]")),
        (lambda: ss.ElementSum(local, [[0, -1]]), ValueError, ("elements[0]", "negative")),
        (lambda: ss.ElementSum(local, TRIANGLES[:0]), ValueError, ((0, 3), "at least one")),
        (lambda: E(x[:3], a, **ok), ValueError, ("leading size 3", "elements[1]", "at least 5")),
        (lambda: E(x.long(), a, **ok), TypeError, ("int64", "float64")),
        (lambda: E(x[None], a, **ok), ValueError, ((1, N, 2), "vmap")),
        (lambda: E([1.0], a, **ok), TypeError, ("list",)),
        (lambda: E(x, a[:2], **ok), ValueError, ((2, 2), "4 elements", "nodal=")),
        (lambda: E(x, a, nodal=nod), TypeError, ("nodal=(t,)",)),
        (lambda: E(x, a, nodal=(nod[:2],)), ValueError, ((2,), "5 nodes")),
        (lambda: E(x, a.float(), **ok), TypeError, ("float32", "float64")),
        (lambda: E(x, (a,), **ok), TypeError, ("tuple", "each term")),
        (lambda: E.hessian(x, a, project="yes", **ok), ValueError, ("yes", "psd")),
        (lambda: ss.ElementSum(lambda x: x, [[0]])(x), ValueError, ((1, 2), "scalar")),
        (lambda: ss.ElementSum(lambda x: 1.0, [[0]])(x), TypeError, ("float", "torch.Tensor")),
        (lambda: ss.ResidualSum(lambda x: x[0], TRIANGLES)(x), ValueError, ((2,), "3 nodes")),
        (lambda: ss.ResidualSum(local, TRIANGLES, rows=[[0]]), ValueError, ((1, 1), (4, 3))),
        (lambda: ss.ResidualSum(local, TRIANGLES, size=2), ValueError, ("size=2", "at least 5")),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind) as error:
            call()
        assert_says(error.value, *words)
