"""Threads that end, finalisers that solve, and views of matrices that are edited."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

import sparse_solver as ss

f64 = torch.float64

FIRST_USE = """
    import threading

    def use(solve=True):
        global ss, torch, A
        import torch, sparse_solver as ss
        A = (torch.eye(400) * 4 + torch.diag(torch.ones(399), 1)).double()
        if solve:
            ss.solve(A, torch.ones(400).double())

    {first}
    t = threading.Thread(target=use); t.start(); t.join()   # a thread uses the engine, and ends
    F = ss.factorize(A)

    def work():
        for _ in range(100):
            F.solve(torch.randn(400, 3).double())

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print("fine")
"""

FINALISER = """
    import gc
    from sparse_solver.planning import cache

    ss.clear_cache()
    A = torch.eye(3).double() * 2
    B = torch.eye(4).double()

    class Solves:
        def __del__(self):
            ss.solve(A, torch.ones(3).double())

    class Collects(dict):   # a collection starts inside a look-up that holds the lock
        def get(self, *args):
            s = Solves(); s.me = s; del s
            gc.collect()
            return super().get(*args)

    slots = cache._slots
    ss.solve(B, torch.ones(4).double())
    for key in list(slots):
        slots[key] = Collects(slots[key])
    ss.solve(B, torch.ones(4).double())
    print("fine")
"""


@pytest.mark.parametrize(
    "script",
    [
        FIRST_USE.format(first=""),
        FIRST_USE.format(first="use(solve=False)") + FINALISER,
    ],
    ids=["imported in a thread", "imported before, and a finaliser"],
)
def test_in_a_process_of_its_own(script):
    code = textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == script.count("print(") * "fine\n", (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr  # of a thread or a finaliser


def matrix(n: int = 3) -> ss.SparseMatrix:
    P = ss.Pattern(*torch.ones(n, n).nonzero().T, (n, n))
    return ss.SparseMatrix(P, torch.randn(n * n, dtype=f64))


def test_views_follow_their_matrix():
    A, x = matrix(), torch.randn(3, dtype=f64)
    B = A.T
    assert torch.allclose(B @ x, A.to_dense().T @ x)
    A.values.mul_(2)
    assert torch.allclose(B @ x, A.to_dense().T @ x)
    assert torch.allclose(B.to_dense() @ ss.solve(B, x), x)


def test_asking_a_view_for_gradients_asks_its_matrix():
    A = matrix()
    B = A.T.requires_grad_()
    ss.solve(B, torch.ones(3, dtype=f64)).sum().backward()
    assert B.requires_grad
    assert A.values.grad is not None


def test_values_that_are_not_contiguous():
    P = ss.Pattern(range(600), range(600), (600, 600))
    v, b = (torch.rand(1200, dtype=f64) + 1)[::2], torch.ones(600, dtype=f64)
    for _ in range(2):
        assert torch.allclose(ss.solve(ss.SparseMatrix(P, v), b), 1 / v)


def test_sums_and_diagonals_keep_their_pattern():
    A, B = matrix(), ss.SparseMatrix(ss.Pattern([0, 2], [1, 0], (3, 3)), torch.ones(2, dtype=f64))
    assert (A + B).pattern is (A + B).pattern
    assert A.add_diagonal(2.0).pattern is A.pattern
    assert torch.allclose(A.add_diagonal(2.0).to_dense(), A.to_dense() + 2 * torch.eye(3))
