"""Law 8: a child made by fork can use the library, whatever its parent did before."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from conformance import ENGINES, each_engine_for_definite

SCRIPT = """
    import multiprocessing, sys
    import numpy as np, torch
    import sparse_solver as ss

    def problem(m):
        n = m * m
        i = torch.arange(n)
        right, up = i[i % m != m - 1], i[i < n - m]
        r = torch.cat([i, right, right + 1, up, up + m])
        c = torch.cat([i, right + 1, right, up + m, up])
        v = torch.cat([torch.full((n,), 4.1), -torch.ones(len(r) - n)]).double()
        return ss.Pattern(r, c, (n, n)), v

    P, v = problem(60)
    b = torch.ones(3600, dtype=torch.float64)
    A = P.assemble(v)

    def child(queue, method, F, x):
        w = v.clone().requires_grad_()
        errors = [(F.solve(b) - x).abs().max().item()]            # the parent's factor
        y = ss.solve(P.assemble(2 * w), b, method=method)         # new values, the parent's plan
        errors.append((2 * y - x).abs().max().item())
        y.sum().backward()
        errors.append(0.0 if torch.isfinite(w.grad).all() else 1.0)
        Q, u = problem(40)                                        # a new pattern
        z = ss.solve(Q.assemble(u), torch.ones(1600, dtype=torch.float64), method=method)
        errors.append((Q.assemble(u) @ z - 1).abs().max().item())
        queue.put(errors)

    def check(engine):
        method = ss.Direct(engine=engine)
        x = ss.solve(A, b, method=method)
        F = ss.factorize(A, method=method)
        assert F.info.engine == engine
        queue = context.Queue()
        process = context.Process(target=child, args=(queue, method, F, x))
        process.start()
        errors = queue.get(timeout=60)
        process.join(30)
        assert process.exitcode == 0, process.exitcode
        assert max(errors) < 1e-8, errors
        assert (ss.solve(3 * A, b, method=method) * 3 - x).abs().max() < 1e-8

    context = multiprocessing.get_context("fork")
    for engine in sys.argv[1:]:
        check(engine)
        print(engine, "is fine", flush=True)
"""


@pytest.fixture(scope="module")
def done():
    """One process for all engines, each of which finds what those before it left."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *ENGINES]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork")
@each_engine_for_definite
def test_8_after_fork(engine, done):
    assert f"{engine} is fine\n" in done.stdout, done.stderr
