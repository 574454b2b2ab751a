"""A thousand steps hold no more memory than a hundred (slow: left out by default)."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import sys
    import torch
    import sparse_solver as ss
    from sparse_solver.planning import passes

    passes.warm_up("float64")  # else the compiler is loaded on the way, 100 MB, once

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096

    m, steps, method = 60, int(sys.argv[2]), ss.Direct(engine=sys.argv[1])
    n = m * m
    i = torch.arange(n)
    right, up = i[i % m != m - 1], i[: n - m]
    s, t = torch.cat([right, up]), torch.cat([right + 1, up + m])
    P = ss.Pattern(torch.cat([i, s, t, s, t]), torch.cat([i, t, s, s, t]), (n, n))
    b = torch.randn(n, dtype=torch.float64)
    for step in range(steps):
        w = torch.rand(len(s), dtype=torch.float64).requires_grad_()
        A = P.assemble(torch.cat([torch.ones(n), -w, -w, w, w]))
        if sys.argv[3] == "torch":
            A = A.to_torch(torch.sparse_coo)
        x = ss.solve(A, b, method=method)
        x.square().sum().backward()
        if step == steps // 10:
            early = resident()
    grown = (resident() - early) / 2**20
    assert grown <= float(sys.argv[4]), f"{grown:.1f} MB more than after {steps // 10} steps"
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
# SuperLU's own allocations wander by some MB either way.
@pytest.mark.parametrize(("engine", "limit"), [("auto", "5"), ("superlu", "20")])
@pytest.mark.parametrize("kind", ["SparseMatrix", "torch"])
def test_memory_does_not_grow(engine, limit, kind):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), engine, "600", kind, limit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
