"""The cuDSS engine: what it calls and when, what waits for the device, who owns what. Tests that take
`there` run on a GPU as well, where there is one.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import scipy.sparse as sp
import torch
from cases import BY_NAME, grid, neumann
from conformance import each_dtype, system
from devices import install, leave
from fake_cudss import (
    ANALYSIS,
    FACTORIZATION,
    GENERAL,
    HERMITIAN,
    HPD,
    INFO,
    REFACTORIZATION,
    SPD,
    SYMMETRIC,
    FakeCudss,
)
from reference import assert_says, assert_solves

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


# ---- what is called ----


def test_a_loop_analyses_once_and_refactors_in_place(fake):
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    for step in range(4):
        v = (A.values * (1 + step / 10)).requires_grad_()
        x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
        x.sum().backward()
    kinds = fake.library.phases
    assert kinds.count(ANALYSIS) == 1
    assert kinds.count(FACTORIZATION) == 1
    assert kinds.count(REFACTORIZATION) == 3
    assert fake.library.alive("data") == ["data"]


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


def test_plans_keep_one_factor_ready(fake):
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    plan = ss.analyze(A, method=CUDSS)
    assert plan.info.engine == "cudss"
    F = plan.factorize(A)
    for scale in (2.0, 3.0, 4.0, 5.0):
        F = plan.factorize(scale * A)
        assert_solves(scale * A.to_dense(), F.solve(b), b)
    assert fake.library.phases.count(ANALYSIS) == 2  # the one in use while the next is made, and that
    assert len(fake.library.alive("data")) == 2
    del F, plan
    ss.clear_cache()
    gc.collect()
    engine = fake.engine
    assert engine.handle(torch.device("cpu")).pointer is not None
    assert fake.library.alive("data", "dense", "csr", "config") == []


@pytest.mark.parametrize("assume", ["auto", "true"])
@each_dtype
def test_what_each_kind_is_for_the_library(fake, dtype, assume):
    complex_ = dtype.is_complex
    expected = {
        "general": GENERAL,
        "spd_grid": (HPD if complex_ else SPD)
        if assume == "true"
        else (HERMITIAN if complex_ else SYMMETRIC),
        "kkt": HERMITIAN if complex_ else SYMMETRIC,
    }
    for name, kind in expected.items():
        A, D, b = system(BY_NAME[name], dtype, 3)
        word = BY_NAME[name].words(dtype)[-1] if assume == "true" else "auto"
        if name == "spd_grid" and assume == "true":
            word = "spd"
        F = ss.factorize(A, assume=word, method=CUDSS)
        for mode in ({}, {"transpose": True}, {"adjoint": True}):
            assert_solves(D, F.solve(b, **mode), b, **mode)
        assert fake.library.matrices[-1][0] == kind, name
    assert set(fake.library.modes) <= {0, 2 if complex_ else 1}
    assert len(set(fake.library.modes)) == 2


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


# ---- what waits for the device ----


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


# ---- batches ----


@each_dtype
@pytest.mark.parametrize("case", ["general", "spd_grid", "kkt"])
def test_batches_are_one_call(there, dtype, case):
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


# ---- derivatives ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("case", ["general", "spd_grid"])
def test_derivatives(there, dtype, case):
    rows, cols, values, n = BY_NAME["triangular" if case == "general" else case].triplets(dtype)
    keep = (rows < 5) & (cols < 5)
    P = ss.Pattern(rows[keep], cols[keep], (5, 5))
    v = there(values[keep]).requires_grad_()
    b = there(torch.randn(5, 2, dtype=dtype)).requires_grad_()

    def solve(v, b, **mode):
        return ss.solve(P.assemble(v), b, method=CUDSS, **mode)

    kwargs = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(solve, (v, b), **kwargs)
    assert torch.autograd.gradcheck(lambda v, b: solve(v, b, adjoint=True), (v, b))
    assert torch.autograd.gradgradcheck(solve, (v, b), check_fwd_over_rev=True)
    batch = torch.stack([v.detach(), 2 * v.detach()]).requires_grad_()
    assert torch.autograd.gradcheck(solve, (batch, b))


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


# ---- the same errors as on the CPU ----


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
@pytest.mark.parametrize("method", [CUDSS, ss.Direct()], ids=["cudss", "auto"])
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


def test_a_failure_does_not_stay(fake):
    A, D, b = system(BY_NAME["spd_grid"], torch.float64)
    for scale in (1.0, -1.0, 2.0, -1.0, 3.0):
        if scale < 0:
            with pytest.raises(ss.NotPositiveDefiniteError):
                ss.solve(scale * A, b, assume="spd", method=CUDSS)
        else:
            assert_solves(scale * D, ss.solve(scale * A, b, assume="spd", method=CUDSS), b)


def test_kept_pivots_that_suit_no_more(fake):
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    fake.library.weak_refactorisation = True
    for scale in (1.0, 2.0):
        x = ss.solve(scale * A, b, method=CUDSS)
        assert_solves(scale * A.to_dense(), x, b)
    assert fake.library.phases.count(ANALYSIS) == 2
    assert fake.library.phases.count(REFACTORIZATION) == 1


def test_refinement_and_a_solver_that_is_no_good(fake):
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    fake.library.error = 1e-6
    F = ss.factorize(A, method=CUDSS)
    assert_solves(A.to_dense(), F.solve(b), b)
    assert F.info.iterations >= 1
    fake.library.error = 10.0
    with pytest.raises(ss.InaccurateSolveError) as caught:
        F.solve(b)
    assert_says(caught.value, "cudss", "backward error")
    G = ss.factorize(A)
    assert_solves(A.to_dense(), G.solve(b), b)  # by the CPU
    assert "copies" in G.info.transfer


def test_perturbed_pivots_are_found_out(fake):
    """cuDSS may replace a zero pivot and say nothing."""
    fake.library.blind = True
    b = torch.ones(16, dtype=torch.float64)
    with pytest.raises(ss.SingularMatrixError):
        ss.solve(ss.SparseMatrix.from_scipy(neumann(4)), b, assume="symmetric", method=CUDSS)


# ---- threads, memory, ends ----


def test_threads_take_turns(fake):
    A, D, b = system(BY_NAME["general"], torch.float64, 2)
    F = ss.factorize(A, method=CUDSS)

    def work(seed):
        for step in range(20):
            s = 1.0 + seed + step
            v = (A.values * s).requires_grad_()
            x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
            x.sum().backward()
            assert_solves(s * D, x.detach(), b)
            assert_solves(D, F.solve(b, transpose=True), b, transpose=True)

    with ThreadPoolExecutor(3) as pool:
        for job in [pool.submit(work, seed) for seed in range(3)]:
            job.result(timeout=60)


def test_a_finaliser_may_run_while_the_handle_is_held(fake):
    """As the collector's may, in the middle of a call of the same thread."""
    A = convection()
    F = ss.factorize(A, method=CUDSS)
    handle = fake.engine.handle(torch.device("cpu"))
    done = threading.Event()

    def work():
        nonlocal F
        with handle.running():
            del F
            gc.collect()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert done.wait(20)


def test_no_memory_is_asked_for_twice(fake):
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    ss.solve(A, b, method=CUDSS)
    fake.library.full = 1
    assert_solves(2 * A.to_dense(), ss.solve(2 * A, b, method=CUDSS), b)
    fake.library.full = 10**6
    with pytest.raises(ss.InaccurateSolveError, match="out of memory"):
        ss.solve(3 * A, b, method=CUDSS)
    F = ss.factorize(3 * A)
    assert_solves(3 * A.to_dense(), F.solve(b), b)
    assert F.info.engine != "cudss"
    fake.library.full = 0
    assert_solves(4 * A.to_dense(), ss.solve(4 * A, b, method=CUDSS), b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_the_handle_alone(fake):
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    F = ss.factorize(A, method=CUDSS)
    F.solve(b)
    before = len(fake.library.phases), len(fake.library.alive())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            F.solve(b)
        except ss.InaccurateSolveError:
            code = 0 if len(fake.library.phases) == before[0] else 2
        del F
        gc.collect()
        os._exit(code if len(fake.library.alive()) == before[1] else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_solves(A.to_dense(), F.solve(b), b)


SHUTDOWN = """
    import sys
    sys.path.insert(0, {tests!r})
    import torch, sparse_solver as ss
    from fake_cudss import FakeCudss
    from sparse_solver.engines import REGISTRY
    from sparse_solver.engines.cudss import Cudss
    from sparse_solver.planning import on_device
    library = FakeCudss()
    REGISTRY["cudss"] = engine = Cudss(load=lambda: library)
    engine.devices = ("cpu", "cuda")
    on_device.everywhere = True
    A = torch.eye(5, dtype=torch.float64) * 3
    A[0, 1] = 1
    kept = ss.factorize(A, method=ss.Direct(engine="cudss"))
    x = ss.solve(A.to_sparse(), torch.ones(5, dtype=torch.float64), method=ss.Direct(engine="cudss"))
    print(x[4].item())
"""


def test_the_end_of_the_interpreter():
    code = textwrap.dedent(SHUTDOWN).format(tests=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("0.333")


# ---- versions ----


@each_dtype
def test_0_8_has_no_transposed_solve(monkeypatch, clean, dtype):
    library = FakeCudss(version=(0, 8, 0))
    engine = install(monkeypatch, library)
    for name in ("general", "spd_grid"):
        A, D, b = system(BY_NAME[name], dtype, 6)
        F = ss.factorize(A, method=CUDSS)
        for mode in ({}, {"transpose": True}, {"adjoint": True}):
            assert_solves(D, F.solve(b, **mode), b, **mode)
    assert set(library.modes) == {0}
    M = ss.SparseMatrix(A.pattern, torch.stack([A.values * s for s in range(1, 21)]))
    x = ss.solve(M, b, method=CUDSS)
    for i in range(20):
        assert_solves((i + 1) * D, x[i], b)
    assert library.columns[-1] == 1  # batches column by column
    del F, x, M
    leave(engine, library)


@pytest.mark.parametrize("version", [(0, 7, 1), (2, 0, 0)])
def test_other_versions_are_refused(monkeypatch, clean, version):
    engine = install(monkeypatch, FakeCudss(version=version))
    assert_says(engine.why_not(), "cuDSS", ".".join(map(str, version)), "nvidia-cudss-cu12")
    A, D, b = system(BY_NAME["general"], torch.float64)
    F = ss.factorize(A)
    assert_solves(D, F.solve(b), b)
    assert F.info.engine != "cudss"
    engine.devices = ("cuda",)
    with pytest.raises(ValueError, match="(?s)cudss.*cuDSS.*method=Direct"):
        ss.factorize(A, method=CUDSS)


def test_a_library_without_a_device(monkeypatch, clean):
    library = FakeCudss(no_device=True)
    engine = install(monkeypatch, library)
    A, D, b = system(BY_NAME["general"], torch.float64)
    F = ss.factorize(A)
    assert_solves(D, F.solve(b), b)
    assert "copies" in F.info.transfer
    with pytest.raises(ss.InaccurateSolveError, match="no CUDA device"):
        ss.solve(A, b, method=CUDSS)
    leave(engine, library)


def test_on_the_cpu_it_is_refused_with_the_reason():
    A, _, b = system(BY_NAME["general"], torch.float64)
    with pytest.raises(ValueError, match="(?s)'cudss' works on tensors on cuda.*method=Direct"):
        ss.solve(A, b, method=CUDSS)
    (row,) = [row for row in ss.engines() if row.name == "cudss"]
    assert row.devices == ("cuda",)
    assert row.available == (row.why_not is None)
    if not torch.cuda.is_available():
        assert "CUDA" in row.why_not
