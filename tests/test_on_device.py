"""Tensors that are factored where they are: answers, derivatives, errors, what waits for the device.
With cuDSS on a GPU where there is one, and with a library object that stands for it.
"""

from __future__ import annotations

import pytest
import scipy.sparse as sp
import torch
from cases import BY_NAME, grid, neumann
from conformance import system
from devices import each_dtype
from fake_cudss import (
    ANALYSIS,
    GENERAL,
    INFO,
)
from reference import assert_solves

import sparse_solver as ss
from sparse_solver.planning.on_device import batch, equations, lone, planner

CUDSS = ss.Direct(engine="cudss")
UNCHECKED = ss.Direct(engine="cudss", check=False)


@pytest.fixture
def waits(monkeypatch):
    """How often something was read back."""
    seen = []

    def read(*facts, inner=equations.read):
        seen.append(len(facts))
        return inner(*facts)

    for module in (lone, batch, planner):
        monkeypatch.setattr(module, "read", read)
    return seen


def convection():
    """A grid with convection: unsymmetric, and not dominated by its diagonal."""
    A = grid(7) + 0.7 * sp.eye_array(49, k=1)
    return ss.SparseMatrix.from_scipy(A)


def test_a_factor_in_use_is_never_overwritten(there):
    A, b = there(convection()), there(torch.randn(49, 2, dtype=torch.float64))
    w = A.values.clone().requires_grad_()
    x = ss.solve(ss.SparseMatrix(A.pattern, w), b, method=CUDSS)  # waits for its backward pass
    for scale in (2.0, 3.0, 4.0):
        y = ss.solve(scale * A, b, method=CUDSS)
        assert torch.allclose(scale * y, x.detach())
    x.sum().backward()
    v = A.values.clone().requires_grad_()
    ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS).sum().backward()
    assert torch.allclose(w.grad, v.grad)


@each_dtype
@pytest.mark.parametrize("k", [None, 0, 1, 3, 200])
def test_right_hand_sides(there, dtype, k):
    A, D, b = (there(t) for t in system(BY_NAME["general"], dtype, k))
    for form in (b, b if k is None else b.mT.contiguous().mT):
        x = ss.solve(A, form, method=CUDSS)
        assert x.device.type == there.device.type
        assert_solves(D, x, b) if k != 0 else None
    if there.library is not None and k:
        assert there.library.columns[-1] == k  # as one block


@pytest.mark.parametrize("case", ["general", "spd_grid", "kkt"])
def test_one_wait_for_each_solve(fake, waits, case):
    A, _, b = system(BY_NAME[case], torch.float64)
    ss.solve(1.5 * A, b, method=CUDSS)
    v = A.values.clone().requires_grad_()
    waits.clear()
    fake.library.reads.clear()
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
    assert len(waits) == 1  # factor, probe, solve and judgement together
    assert fake.library.reads == [INFO]  # asked after that, when there is nothing left to wait for
    waits.clear()
    x.sum().backward()
    assert len(waits) == 1
    assert fake.library.reads == [INFO]
    F = ss.factorize(A, method=CUDSS)
    waits.clear()
    F.solve(b)
    assert len(waits) == 1


def test_one_wait_for_a_whole_batch(fake, waits):
    A, _, b = system(BY_NAME["general"], torch.float64, 2)
    v = torch.stack([A.values * s for s in (1.0, 2.0, 3.0)])
    ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
    waits.clear()
    v = v.clone().requires_grad_()
    x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
    assert len(waits) == 1
    waits.clear()
    x.sum().backward()
    assert len(waits) == 1


def test_nothing_waits_unchecked(there, waits):
    A, D, b = (there(t) for t in system(BY_NAME["spd_grid"], torch.float64))
    values = torch.stack([A.values, 2 * A.values])
    batch = ss.SparseMatrix(A.pattern, values)
    for step in range(2):
        if there.device.type == "cuda" and step:
            torch.cuda.set_sync_debug_mode("error")  # the first time analyses, which may wait
        try:
            v = (A.values * (1 + step)).requires_grad_()
            x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=UNCHECKED)
            x.sum().backward()
            y, info = ss.solve_ex(A, b, method=UNCHECKED)
            z, infos = ss.solve_ex(batch, b, method=UNCHECKED)
        finally:
            if there.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert waits == []
    if there.library is not None:
        assert there.library.reads == []
        assert all(kind == GENERAL for kind, _ in there.library.matrices)  # nobody looked
    assert_solves(2 * D, x.detach(), b)
    assert_solves(D, y, b)
    assert int(info) == 0
    assert infos.tolist() == [0, 0]


def test_unchecked_failure_is_seen_in_info(there):
    P = ss.Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    v = there(torch.tensor([[2.0, 1.0, 1.0, 3.0], [float("nan"), 1.0, 1.0, 3.0]], dtype=torch.float64))
    b = there(torch.ones(2, dtype=torch.float64))
    _, info = ss.solve_ex(ss.SparseMatrix(P, v[1]), b, method=UNCHECKED)
    assert int(info) == -1
    x, info = ss.solve_ex(ss.SparseMatrix(P, v), b, method=UNCHECKED)
    assert info.tolist() == [0, -1]
    assert torch.allclose(x[0].cpu(), torch.tensor([0.4, 0.2], dtype=torch.float64))


@each_dtype
@pytest.mark.parametrize("case", ["general", "spd_grid", "kkt"])
def test_one_call_for_a_batch(there, dtype, case):
    A, D, b = (there(t) for t in system(BY_NAME[case], dtype, 3))
    scales = there(torch.linspace(1, 2, 20, dtype=torch.float64).to(dtype))
    M = ss.SparseMatrix(A.pattern, A.values * scales[:, None])
    for mode in ({}, {"adjoint": True}, {"transpose": True}):
        x = ss.solve(M, b, method=CUDSS, **mode)
        for i, s in enumerate(scales):
            assert_solves(s * D, x[i], b, **mode)
    if there.library is not None:
        assert there.library.phases.count(ANALYSIS) <= 2  # at most one is in use while another is made
        assert len(there.library.phases) < 20
    F = ss.factorize(M, method=CUDSS)
    assert "20 items side by side" in F.info.reason


def test_bad_items_leave_the_others_alone(there):
    A, D, b = (there(t) for t in system(BY_NAME["spd_grid"], torch.float64))
    v = torch.stack([A.values, 0 * A.values, -A.values, 2 * A.values]).requires_grad_()
    for assume, expected in (("auto", [0, 1, 0, 0]), ("spd", [0, 1, 1, 0])):
        x, info = ss.solve_ex(ss.SparseMatrix(A.pattern, v), b, assume=assume, method=CUDSS)
        assert (info != 0).int().tolist() == expected
        for i, bad in enumerate(expected):
            assert x[i].isnan().all() if bad else x[i].isfinite().all()
        (g,) = torch.autograd.grad(x[0].sum() + x[3].sum(), v)
        assert g.isfinite().all()
        assert not g[1].any()
    with pytest.raises(ss.SingularMatrixError) as caught:
        ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
    assert caught.value.item == 1
    F, info = ss.factorize_ex(ss.SparseMatrix(A.pattern, v.detach()), method=CUDSS)
    assert info[1] == 1
    assert F.solve(b)[1].isnan().all()
    assert_solves(D, F.solve(b)[0], b)


def test_vmap_over_values_and_right_hand_sides(there):
    A, _, b = (there(t) for t in system(BY_NAME["general"], torch.float64))
    v = torch.stack([A.values, 2 * A.values, 3 * A.values])
    B = torch.stack([b, 2 * b, b - 1, b + 1])

    def solve(v, b):
        return ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)

    over_b = torch.vmap(solve, (None, 0))(A.values, B)
    over_v = torch.vmap(solve, (0, None))(v, b)
    both = torch.vmap(torch.vmap(solve, (None, 0)), (0, None))(v, B)
    for i in range(4):
        assert torch.allclose(over_b[i], solve(A.values, B[i]))
        for j in range(3):
            assert torch.allclose(both[j, i], solve(v[j], B[i]))
    for j in range(3):
        assert torch.allclose(over_v[j], solve(v[j], b))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        ("general", torch.float64),
        *(
            pytest.param(case, dtype, marks=pytest.mark.slow)
            for case, dtype in (
                ("general", torch.complex128),
                ("spd_grid", torch.float64),
                ("spd_grid", torch.complex128),
            )
        ),
    ],
)
def test_derivatives(there, dtype, case):
    rows, cols, values, n = BY_NAME["triangular" if case == "general" else case].triplets(dtype)
    keep = (rows < 5) & (cols < 5)
    P = ss.Pattern(rows[keep], cols[keep], (5, 5))
    v = there(values[keep]).requires_grad_()
    b = there(torch.randn(5, 2, dtype=dtype)).requires_grad_()

    def solve(v, b, **mode):
        return ss.solve(P.assemble(v), b, method=CUDSS, **mode)

    some = {"nondet_tol": 1e-8 if v.is_cuda else 0.0}  # sums on a GPU are made in no fixed order
    kwargs = {"check_forward_ad": True, "check_batched_grad": case == "general", **some}
    assert torch.autograd.gradcheck(solve, (v, b), **kwargs)
    assert torch.autograd.gradcheck(lambda v, b: solve(v, b, adjoint=True), (v, b), **some)
    assert torch.autograd.gradgradcheck(solve, (v, b), check_fwd_over_rev=True, **some)
    batch = torch.stack([v.detach(), 2 * v.detach()]).requires_grad_()
    assert torch.autograd.gradcheck(solve, (batch, b), **some)


def test_func_transforms_agree_with_dense(there):
    P = ss.Pattern([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 0, 2], (3, 3))
    v = there(torch.tensor([3.0, 1.0, 4.0, 1.0, 1.0, 5.0], dtype=torch.float64))
    b = there(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    def f(v):
        return ss.solve(P.assemble(v), b, method=CUDSS).square().sum()

    def dense(v):
        D = torch.zeros(3, 3, dtype=v.dtype, device=v.device).index_put((P.rows, P.cols), v)
        return (torch.linalg.inv(D) @ b).square().sum()

    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd):
        assert torch.allclose(transform(f)(v), transform(dense)(v))


def test_torch_tensors_and_prescribed_unknowns(there):
    A, D, b = (there(t) for t in system(BY_NAME["general"], torch.float64))
    M = A.to_torch(torch.sparse_csr).requires_grad_()
    (g,) = torch.autograd.grad(ss.solve(M, b, method=CUDSS).sum(), M)
    assert g.layout == torch.sparse_csr
    idx, xc = there(torch.tensor([0, 3])), there(torch.tensor([1.0, -1.0], dtype=torch.float64))
    x = ss.solve(A, b, fixed=(idx, xc), method=CUDSS)
    assert torch.equal(x[idx], xc)
    r = D @ x - b
    assert r[[i for i in range(len(b)) if i not in (0, 3)]].abs().max() < 1e-10


def test_determinants_and_draws_come_from_the_cpu(there):
    A, D, _ = (there(t) for t in system(BY_NAME["spd_grid"], torch.float64))
    v = A.values.clone().requires_grad_()
    F = ss.factorize(ss.SparseMatrix(A.pattern, v), method=CUDSS)
    assert F.logdet().device.type == there.device.type
    assert torch.allclose(F.logdet(), torch.linalg.slogdet(D)[1])
    assert torch.allclose(F.inverse_diagonal(), torch.linalg.inv(D).diagonal())
    F.logdet().backward()
    assert v.grad.device.type == there.device.type
    assert F.rsample((3,)).shape == (3, len(D))


def outcome(call):
    try:
        call()
    except (ValueError, TypeError, torch.linalg.LinAlgError) as error:
        return type(error), getattr(error, "index", None), str(error)
    return None


def bad_systems():
    n = 16
    b = torch.ones(n, dtype=torch.float64)
    whole = ss.SparseMatrix.from_scipy(grid(4))
    flat = ss.SparseMatrix.from_scipy(neumann(4))
    yield "neumann", flat, b, "auto"
    yield "neumann spd", flat, b, "spd"
    yield "indefinite", whole.add_diagonal(-4.0), b, "spd"
    zero = whole.values.clone()
    zero[whole.pattern.rows == 5] = 0
    yield "zero row", ss.SparseMatrix(whole.pattern, zero), b, "auto"
    nan = whole.values.clone()
    nan[7] = float("nan")
    yield "nan in A", ss.SparseMatrix(whole.pattern, nan), b, "auto"
    worse = b.clone()
    worse[3] = float("inf")
    yield "inf in b", whole, worse, "auto"
    yield "columns of b", whole, torch.stack([b, worse], 1), "auto"
    tilted = whole.values.clone()
    tilted[1] += 1
    yield "not symmetric", ss.SparseMatrix(whole.pattern, tilted), b, "symmetric"
    empty = ss.Pattern([0, 1, 1], [0, 0, 1], (3, 3))
    yield "structure", empty.assemble(torch.ones(3, dtype=torch.float64)), b[:3], "auto"


@pytest.mark.parametrize(("name", "A", "b", "assume"), list(bad_systems()), ids=lambda v: str(v)[:20])
@pytest.mark.parametrize(
    "method",
    [pytest.param(CUDSS, id="cudss"), pytest.param(ss.Direct(), id="auto", marks=pytest.mark.slow)],
)
def test_errors_are_those_of_the_cpu(there, monkeypatch, name, A, b, assume, method):
    found = outcome(lambda: ss.solve(there(A), there(b), assume=assume, method=method))
    again = outcome(lambda: ss.factorize(there(A), assume=assume, method=method).solve(there(b)))
    _, info = ss.solve_ex(there(A), there(b), method=method) if assume == "auto" else (None, 1)
    monkeypatch.setattr("sparse_solver.planning.on_device.everywhere", False)
    expected = outcome(lambda: ss.solve(A, b, assume=assume))
    assert expected is not None
    assert found[:2] == again[:2] == expected[:2]
    assert int(info) != 0
    if name in ("nan in A", "inf in b", "columns of b", "not symmetric", "structure", "zero row"):
        assert found[2] == again[2] == expected[2]


@pytest.mark.slow
def test_compiled(there):
    A, D, b = (there(t) for t in system(BY_NAME["general"], torch.float64, 3))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(v, b):
        return ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS).square().sum()

    found = []
    for call in (f, f._torchdynamo_orig_callable):
        v = A.values.clone().requires_grad_()
        y = call(v, b)
        y.backward()
        found.append((y.detach(), v.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other)


def test_inference_mode(there):
    A, D, b = (there(t) for t in system(BY_NAME["general"], torch.float64))
    with torch.inference_mode():
        for _ in range(2):
            assert_solves(D, ss.solve(2 * A, b, method=CUDSS) * 2, b)
    v = A.values.clone().requires_grad_()
    ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS).sum().backward()
    assert v.grad.isfinite().all()


def test_nothing_to_solve(there):
    P, none = ss.Pattern([], [], (0, 0)), there(torch.empty(0, dtype=torch.float64))
    assert ss.solve(ss.SparseMatrix(P, none), none).shape == (0,)
    A, _, b = (there(t) for t in system(BY_NAME["general"], torch.float64))
    empty = ss.SparseMatrix(A.pattern, A.values.expand(0, -1))
    assert ss.solve(empty, b, method=ss.Direct()).shape == (0, len(b))
    x, info = ss.solve_ex(empty, b)
    assert x.shape == (0, len(b))
    assert info.shape == (0,)


def test_lists_and_energies_of_the_same_structure(there):
    A, D, b = (there(t) for t in system(BY_NAME["general"], torch.float64))
    B, E, c = (there(t) for t in system(BY_NAME["spd_grid"], torch.float64, 2))
    x, y = ss.solve([A, B], [b, c])
    assert_solves(D, x, b)
    assert_solves(E, y, c)
