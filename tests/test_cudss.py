"""The cuDSS engine: what it calls and when, who owns what, and how things end; with a library object
that stands for cuDSS (fake_cudss.py).
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
from conformance import system
from devices import each_dtype, install, leave
from fake_cudss import (
    ANALYSIS,
    FACTORIZATION,
    GENERAL,
    HERMITIAN,
    HPD,
    REFACTORIZATION,
    SPD,
    SYMMETRIC,
    FakeCudss,
)
from reference import assert_says, assert_solves

import sparse_solver as ss

CUDSS = ss.Direct(engine="cudss")


def convection():
    """A grid with convection: unsymmetric, and not dominated by its diagonal."""
    A = grid(7) + 0.7 * sp.eye_array(49, k=1)
    return ss.SparseMatrix.from_scipy(A)


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
    gc.collect()
    gc.disable()
    try:
        del F
        assert len(fake.library.alive("data")) == 1  # which the plan keeps ready
        del plan
        ss.clear_cache()
        assert fake.library.alive("data", "dense", "csr", "config") == []
    finally:
        gc.enable()


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
        with handle.running(lambda: None):
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
    other = ss.SparseMatrix.from_scipy(grid(5))
    ss.solve(other, b[:25], method=CUDSS)
    assert len(fake.library.alive("data")) == 2
    fake.library.full = 2  # room not to be had by letting go of what this pattern has ready
    assert_solves(2.5 * A.to_dense(), ss.solve(2.5 * A, b, method=CUDSS), b)
    assert len(fake.library.alive("data")) == 1
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
    for scale in (-1.0, 1.0):  # a failure that can't be reset is not taken for the next one's
        _, info = ss.solve_ex(scale * A, b, assume="spd", method=CUDSS)
        assert (info != 0) == (scale < 0)
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


def test_nothing_outlives_its_last_holder(fake):
    """Without the collector's help: after a backward pass only the cache holds a factor."""
    A, b = convection(), torch.randn(49, dtype=torch.float64)
    gc.collect()
    gc.disable()
    try:
        for scale in (1.0, 2.0, 3.0):
            v = (scale * A.values).requires_grad_()
            x = ss.solve(ss.SparseMatrix(A.pattern, v), b, method=CUDSS)
            loss = x.square().sum()
            loss.backward()
            batch = ss.SparseMatrix(A.pattern, torch.stack([v.detach(), 2 * v.detach()]))
            ss.solve(batch, b, method=CUDSS)
        del x, loss
        assert len(fake.library.alive("data")) == 2  # the cache's, and one for the next batch
        ss.clear_cache()
        assert fake.library.alive("data", "dense", "csr", "config") == []
    finally:
        gc.enable()


def test_batches_that_are_no_longer_what_they_were(fake):
    """Symmetric, then not; dominated by their diagonal, then not; suited to the pivots, then not."""
    b = torch.randn(49, dtype=torch.float64)
    union = ss.SparseMatrix.from_scipy(
        grid(7) + 0.7 * sp.eye_array(49, k=1) + 0.7 * sp.eye_array(49, k=-1)
    )
    P, upright = union.pattern, union.values
    slanted = torch.where(P.rows > P.cols, 0.5, 1.0).double() * upright
    dominant = upright + 9.0 * (P.rows == P.cols)
    fake.library.weak_refactorisation = True
    plan = ss.analyze(union, method=CUDSS)
    for values in (upright, slanted, dominant, upright, slanted, 2 * slanted):
        M = ss.SparseMatrix(P, torch.stack([values * s for s in (1.0, 2.0, 3.0)]))
        before = len(fake.library.phases)
        F = plan.factorize(M)
        x = F.solve(b)
        for i in range(3):
            assert_solves((i + 1) * ss.SparseMatrix(P, values).to_dense(), x[i], b)
        assert F.info.reason.endswith("3 items side by side")
        assert len(fake.library.phases) - before < 12
