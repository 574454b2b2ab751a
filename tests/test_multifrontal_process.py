"""The multifrontal engine in processes of their own: import, compiling, fork, Ctrl-C, memory."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from definite import needs_engine

from sparse_solver.__main__ import main

pytestmark = needs_engine
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork, /proc")

GRID = """
    import faulthandler, os, sys, time, numpy as np, scipy.sparse as sp, torch
    import sparse_solver as ss
    from sparse_solver.engines import REGISTRY

    def grid(m, d):
        T = sp.diags_array([2.1 * np.ones(m), -np.ones(m - 1), -np.ones(m - 1)], offsets=[0, 1, -1])
        A = T
        for _ in range(d - 1):
            A = sp.kron(A, sp.eye_array(m)) + sp.kron(sp.eye_array(A.shape[0]), T)
        return ss.SparseMatrix.from_scipy(sp.csr_array(A))

    engine = REGISTRY["multifrontal"]
    faulthandler.dump_traceback_later(60, exit=True)  # rather than wait for good

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096
"""


def command(text: str, *args: str, setup: str = GRID) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(setup) + textwrap.dedent(text), *args]


def script(text: str, *args: str, timeout: float = 150, **options) -> str:
    done = subprocess.run(
        command(text, *args, **options), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_import_nor_small_solves_or_batches_or_single_ones_load_a_compiler():
    text = """
        def small(n, dtype):
            A = torch.eye(n, dtype=dtype) * 4
            A[0, -1] = A[-1, 0] = 1
            return A.to_sparse_coo()

        A = ss.SparseMatrix(ss.Pattern([0, 1], [0, 1], (2, 2)), torch.ones(5, 2))  # a small batch
        assert ss.solve(A, torch.ones(2)).eq(1).all()
        ss.engines(), repr(ss.engines())
        for n in (1, 5, 200):
            for dtype in (torch.float32, torch.float64, torch.complex128):
                A = small(n, dtype).requires_grad_()
                for assume in ("auto", "spd"):
                    ss.solve(A, torch.ones(n, dtype=dtype), assume=assume).abs().sum().backward()
                ss.analyze(A).factorize(A)
        A = grid(40, 2)
        x = ss.solve(A, torch.ones(1600, dtype=torch.float64))
        loaded = {"numba", "llvmlite", "pymetis", "threadpoolctl", "torch._dynamo"} & set(sys.modules)
        assert not loaded, loaded
        print("fine")
    """
    assert "fine" in script(text)


def test_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sparse_solver", "engines"])
    runpy.run_module("sparse_solver", run_name="__main__", alter_sys=True)
    listed = capsys.readouterr().out
    for word in ("multifrontal", "rslab", "superlu", "cholesky", "hermitian, spd"):
        assert word in listed
    for words, said in ((["warmup", "float16"], "complex128"), ([], "engines")):
        monkeypatch.setattr(sys, "argv", ["sparse_solver", *words])
        with pytest.raises(SystemExit) as error:
            main()
        text = capsys.readouterr().err
        assert error.value.code == 2
        assert all(word in text for word in ("warmup", said, *words))


@pytest.mark.slow
def test_warming_up_and_what_the_log_says(tmp_path):
    """Cold, then cached, then loaded."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    given = [sys.executable, "-m", "sparse_solver", "warmup", "float32"]
    for state in ("cold", "cached"):
        done = subprocess.run(given, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"float32: {state}, ready after")
    assert list(tmp_path.glob("compiled-multifrontal-float32-*"))
    text = """
        import logging
        from sparse_solver.engines import compiled
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        assert compiled(sys.argv[1]) == sys.argv[2]
        dtype = getattr(torch, sys.argv[1])
        A = grid(20, 2).to(dtype)
        ss.factorize(A, method=ss.Direct(engine="multifrontal"))
        assert compiled(sys.argv[1]) == "loaded"
    """
    for dtype, state in (("float32", "cached"), ("complex64", "cold"), ("complex64", "cached")):
        done = subprocess.run(
            command(text, dtype, state), capture_output=True, text=True, timeout=300, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert ("compiling the multifrontal engine for complex64" in done.stdout) == (state == "cold")
        assert f"the multifrontal engine is ready for {dtype} after" in done.stdout


@linux
def test_8_after_fork_with_a_team_of_threads():
    """Pools and locks of the parent do not exist in a child."""
    text = """
        import multiprocessing

        A = grid(17, 3)
        symbolic = engine.analyze(A.pattern, "cholesky", A.values.numpy(), 2)
        v, b = A.values.numpy(), np.ones((A.shape[0], 3))
        F = engine.factorize(symbolic, v, 2)
        x = F.solve(b)
        Z = F.selected_inverse()

        def child(queue):
            same = [(F.solve(b) == x).all(), (F.selected_inverse() == Z).all()]
            same += [(engine.factorize(symbolic, v, 2).solve(b) == x).all()]
            M = grid(15, 3)
            y = ss.solve(M, torch.ones(M.shape[0]).double(), method=ss.Direct(engine="multifrontal"))
            same += [(M @ y - 1).abs().max() < 1e-10]
            from threadpoolctl import threadpool_info
            teams = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
            queue.put((all(map(bool, same)), teams))

        from threadpoolctl import threadpool_limits, threadpool_info
        with threadpool_limits(2, user_api="blas"):
            teams = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
            context = multiprocessing.get_context("fork")
            for _ in range(4):
                queue = context.Queue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                right, found = queue.get(timeout=40)
                assert right
                assert found == teams, (found, teams)
                process.join(20)
                assert process.exitcode == 0
        assert (engine.factorize(symbolic, v, 2).solve(b) == x).all()
        print("fine")
        os._exit(0)
    """
    assert "fine" in script(text)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_ends_a_long_factorisation():
    text = """
        import signal
        # Jobs in the background of a shell are born deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        A = grid(30, 3)
        v, b = A.values.numpy(), np.ones(A.shape[0])
        symbolic = engine.analyze(A.pattern, "cholesky", v, 2)
        F = engine.factorize(symbolic, v, 2)
        x = F.solve(b)
        for threads in (1, 2, 1, 2):
            try:
                print("ready", flush=True)
                while True:
                    engine.factorize(symbolic, v, threads)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            assert (F.solve(b) == x).all()
        for threads in (1, 2):
            assert (engine.factorize(symbolic, v, threads).solve(b) == x).all()
        print("fine", flush=True)
    """
    process = subprocess.Popen(command(text), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for pause in (0.05, 0.05, 0.6, 0.6):
            assert process.stdout.readline() == "ready\n"
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            start = time.perf_counter()
            assert process.stdout.readline() == "interrupted\n"
            assert time.perf_counter() - start < 10
        assert process.stdout.readline() == "fine\n"
        process.wait(60)
    finally:
        process.kill()


@pytest.mark.slow
@linux
def test_memory_does_not_grow():
    text = """
        A = grid(60, 2)
        v, b = A.values.numpy(), np.ones((A.shape[0], 8))
        symbolic = engine.analyze(A.pattern, "cholesky", v, 2)
        F = None
        for step in range(80):
            F = engine.factorize(symbolic, v * (1 + step), 2, F if step % 2 else None)
            F.solve(b), F.selected_inverse(), F.half_solve(b)
            ss.solve((1.0 + step) * A, torch.ones(A.shape[0]).double(),
                     method=ss.Direct(engine="multifrontal"))
            if step == 29:
                early = resident()
        grown = (resident() - early) / 2**20
        assert grown < 4, f"{grown:.1f} MB more than after 30 steps"
        print("fine")
    """
    assert "fine" in script(text)


@pytest.mark.slow
@linux
def test_analyses_are_let_go():
    text = """
        import gc
        for step in range(60):
            A = grid(30 + step % 3, 2)
            F = engine.factorize(engine.analyze(A.pattern, "cholesky", A.values.numpy(), 1),
                                 A.values.numpy(), 1)
            F.solve(np.ones(A.shape[0])), F.selected_inverse()
            del F, A
            gc.collect()
            if step == 20:
                early = resident()
        grown = (resident() - early) / 2**20
        assert grown < 4, f"{grown:.1f} MB more than after 20 steps"
        print("fine")
    """
    assert "fine" in script(text)
