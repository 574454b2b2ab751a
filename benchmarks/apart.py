"""What has to be measured in a process of its own: peak memory, compilation, the start.

python benchmarks/apart.py memory own 3d-60 2
python benchmarks/apart.py start float64
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def _run(*arguments: str, **settings: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    environment = {**os.environ, **settings}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def memory(case: str, problem: str, threads: int) -> dict[str, Any]:
    """Growth of a process's largest resident set over analysis, factorisation and one solve."""
    return _run("memory", case, problem, str(threads))


def startup(cold: bool, runs: int, dtype: str = "float64") -> dict[str, float]:
    """Seconds to compile the own engine (if `cold`), and to start with it on disk."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, float] = {}
        settings = {"NUMBA_CACHE_DIR": folder} if cold else {}
        if cold:
            first = _run("start", dtype, **settings)
            assert first["state"] == "cold", first
            found["cold"] = first["warm_up"]
        else:
            _run("start", dtype)
        again = [_run("start", dtype, **settings) for _ in range(runs)]
        assert all(a["state"] == "cached" for a in again), again
        found["warm"] = min(a["warm_up"] for a in again)
        return found


def _resident(largest: bool) -> int:
    """Bytes of this process. Linux's ru_maxrss would begin at what the parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        field = "VmHWM:" if largest else "VmRSS:"
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return 1024 * int(line.split()[1])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _memory(case: str, problem: str, threads: int) -> dict[str, Any]:
    import numpy as np
    from candidates import CANDIDATES, Matrix

    def use(name: str) -> float:
        M = Matrix(name)
        candidate = CANDIDATES[case](M, threads)
        before, peak_before = _resident(largest=False), _resident(largest=True)
        candidate.analyse()
        candidate.factor()
        candidate.solve(1)
        figures["growth"] = _resident(largest=True) - peak_before
        figures["above_resident"] = _resident(largest=True) - before
        figures["factor"] = candidate.memory
        indices = M.pattern.rows.numpy(), M.pattern.cols.numpy()
        product = np.bincount(indices[0], M.values[candidate.turn] * candidate.x[indices[1]], M.n)
        return float(np.linalg.norm(product - M.b) / np.linalg.norm(M.b))

    figures: dict[str, Any] = {}
    use("3d-4")  # code and libraries are loaded, and not counted
    figures["residual"] = use(problem)
    return figures


def _start(dtype: str) -> dict[str, Any]:
    from sparse_solver.engines.multifrontal import ready

    return {"state": ready.state(dtype), "warm_up": ready.warm_up(dtype)}


if __name__ == "__main__":
    if sys.argv[1] == "memory":
        answer = _memory(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        answer = _start(sys.argv[2])
    print(json.dumps(answer))
