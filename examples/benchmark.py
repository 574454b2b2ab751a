"""Time of d|A(theta)^-1 b|^2 / d theta for the cyclic chain, against other ways to get it.

This is the benchmark of the original pytorch-sparse-solve, taken on to a million unknowns. A(theta)
is tridiagonal but for two corners (`gallery.cyclic_chain`), so that a sparse method can take time
proportional to n, while a dense one needs n^3. New theta at every run, as in an optimisation; all
gradients are compared before anything is timed; packages that are not installed are left out.

Only the dense method gets more than one thread: a chain gives the others nothing to share out, and
on a busy machine some would spend their time waiting for the second core.

    python examples/benchmark.py                   # minutes; writes benchmark.png, benchmark.json
    python examples/benchmark.py --max-power 10    # seconds
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparse_solver import gallery

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import harness  # noqa: E402
from peers import PEERS  # noqa: E402

Solve = Callable[[Tensor], Tensor]
AGREE = 1e-8  # relative difference allowed between two gradients
ALL_THREADS = torch.get_num_threads()


class Chain:
    """A cyclic chain of n springs with a random right-hand side, as `PEERS` take a problem."""

    def __init__(self, n: int) -> None:
        self.n, self.family = n, gallery.cyclic_chain(n)
        self.indices, self.values = self.family.indices, self.family.values
        self.rows, self.cols = self.indices
        self.generator = torch.Generator().manual_seed(0)
        self.b = torch.rand(n, dtype=torch.float64, generator=self.generator)

    def theta(self) -> Tensor:
        """Return new spring constants, a leaf that requires grad."""
        return torch.rand(self.n, dtype=torch.float64, generator=self.generator).requires_grad_()


def dense(chain: Chain) -> Solve:
    """What one writes without sparse solvers."""

    def solve(values: Tensor) -> Tensor:
        A = torch.zeros(chain.n, chain.n, dtype=torch.float64)
        A = A.index_put((chain.rows, chain.cols), values, accumulate=True)
        return torch.linalg.solve(A, chain.b)

    return solve


def torch_sparse_solve(chain: Chain) -> Solve:
    """KLU by https://github.com/flaport/torch_sparse_solve, which has no wheels."""
    import torch_sparse_solve as kluflaport

    def solve(values: Tensor) -> Tensor:
        A = torch.sparse_coo_tensor(chain.indices, values, (chain.n, chain.n)).coalesce()
        return kluflaport.solve(A[None], chain.b[None, :, None])[0, :, 0]

    return solve


OURS, DENSE = "sparse_solver", "torch, dense"
METHODS: dict[str, Callable[[Chain], Solve]] = {
    DENSE: dense,
    "torch_sparse_solve": torch_sparse_solve,
    "torch-sla": PEERS["torch-sla"],
    "SciPy splu, adjoint by hand": PEERS["splu"],
    "original algorithm": PEERS["original"],
    OURS: PEERS["ours"],
}


def step(chain: Chain, solve: Solve, theta: Tensor, threads: int) -> float:
    """Put the gradient into theta.grad; return the seconds it took."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    solve(chain.values(theta)).square().sum().backward()
    return time.perf_counter() - began


def run(chain: Chain, solve: Solve, threads: int) -> float:
    """Return the seconds of a step with new values."""
    return step(chain, solve, chain.theta(), threads)


def measure(options: argparse.Namespace) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """Return seconds for each method and n, and why methods stopped or were left out."""
    times: dict[str, dict[int, float]] = {name: {} for name in METHODS}
    notes: dict[str, str] = {}
    for power in range(options.min_power, options.max_power + 1):
        n = 2**power
        chain = Chain(n)
        theta = chain.theta()
        gradients, steps = {}, {}
        for name in METHODS:
            if name in notes:
                continue
            if reason := too_long(times[name], n, options.limit):
                notes[name] = reason
                continue
            try:
                solve = METHODS[name](chain)
            except ImportError as error:
                notes[name] = f"left out: {error}"
                continue
            copy = theta.detach().clone().requires_grad_()
            threads = ALL_THREADS if name == DENSE else 1
            step(chain, solve, copy, threads)
            gradients[name] = copy.grad
            steps[name] = partial(run, chain, solve, threads)
        if not steps:
            break
        compare(gradients, n)
        for name, timing in harness.interleave(steps, options.budget).items():
            times[name][n] = timing.best
        row = [f"{name} {harness.seconds(times[name][n])}" for name in steps]
        print(f"n = 2^{power:<3}" + "   ".join(row), flush=True)
    torch.set_num_threads(ALL_THREADS)
    return {name: t for name, t in times.items() if t}, notes


def too_long(times: dict[int, float], n: int, limit: float) -> str:
    """Say so if the times so far let the next size take longer than the limit."""
    if len(times) < 2:
        return ""
    before, last = list(times.values())[-2:]
    expected = last * max(last / before, 1)
    return f"stopped before n = {n}: a run would take {expected:.0f} s" if expected > limit else ""


def compare(gradients: dict[str, Tensor], n: int) -> None:
    """Stop if two gradients differ."""
    (first, reference), *others = gradients.items()
    for name, gradient in others:
        difference = float((gradient - reference).norm() / reference.norm())
        if not difference <= AGREE:
            raise SystemExit(f"n = {n}: gradients of {name} and {first} differ by {difference:.1e}")


def exponent(times: dict[int, float]) -> float:
    """Slope of log time over log n, fitted to the larger half of the sizes."""
    n, t = np.array(sorted(times.items())).T
    half = len(n) // 2 if len(n) > 2 else 0
    return float(np.polyfit(np.log(n[half:]), np.log(t[half:]), 1)[0]) if len(n) > 1 else np.nan


def plot(times: dict[str, dict[int, float]], path: Path) -> None:
    """Draw time over n with guides of the first three powers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {
        DENSE: ("o", "tab:blue"),
        "torch_sparse_solve": ("v", "tab:brown"),
        "torch-sla": ("P", "tab:purple"),
        "SciPy splu, adjoint by hand": ("D", "tab:green"),
        "original algorithm": ("^", "tab:orange"),
        OURS: ("s", "tab:red"),
    }
    fig, ax = plt.subplots(figsize=(8.5, 6), layout="constrained")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for name, of in times.items():
        marker, color = styles[name]
        label = f"{name}:  $n^{{{exponent(of):.2f}}}$"
        width = 3 if name == OURS else 1.8
        ax.plot(list(of), list(of.values()), marker=marker, color=color, label=label, lw=width)
    ax.set_title(r"time of $\partial\,|A(\theta)^{-1} b|^2 / \partial\theta$, cyclic chain")
    ax.set(xlabel="unknowns $n$", ylabel="seconds")
    ax.legend(title="method and fitted order", loc="lower right", fontsize="small")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)

    every = [t for of in times.values() for t in of.values()]
    sizes = sorted({n for of in times.values() for n in of})
    bottom, top = min(every) / 3, max(every) * 4
    ax.set(xlim=(sizes[0] / 1.3, sizes[-1] * 1.3), ylim=(bottom, top))
    for p, name in ((1, "n"), (2, "n^2"), (3, "n^3")):
        # from the first point of our curve to where the picture ends
        n0, t0 = sizes[0], times.get(OURS, next(iter(times.values())))[sizes[0]]
        n1 = min(sizes[-1], n0 * (max(every) / t0) ** (1 / p))
        t1 = t0 * (n1 / n0) ** p
        ax.plot([n0, n1], [t0, t1], "--", color="0.4", lw=1, zorder=0)
        ax.annotate(
            rf"$\mathcal{{O}}({name})$", (n1, t1), xytext=(-4, 2), textcoords="offset points",
            ha="right", va="bottom", color="0.3",
        )  # fmt: skip
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main(argv: list[str] | None = None) -> dict[str, dict[int, float]]:
    """Measure, print, draw, write; return seconds for each method and n."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--min-power", type=int, default=8, help="from n = 2^8 (default)")
    parser.add_argument("--max-power", type=int, default=20, help="to n = 2^20 (default)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per method and size")
    parser.add_argument("--limit", type=float, default=60.0, help="longest run in seconds")
    parser.add_argument("--output", type=Path, default=Path("benchmark.png"))
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")

    environment = harness.environment()
    print(harness.describe(environment))
    times, notes = measure(options)
    print()
    for name, of in times.items():
        n, t = max(of.items())
        print(f"{name:<28} n^{exponent(of):.2f}   {harness.seconds(t):>8} at n = {n}")
    for name, note in notes.items():
        print(f"{name:<28} {note}")
    plot(times, options.output)
    record = {
        "environment": environment,
        "benchmark": "cyclic chain",
        "seconds": times,
        "exponents": {name: exponent(of) for name, of in times.items()},
        "notes": notes,
    }
    beside = options.output.with_suffix(".json")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten: {options.output}, {beside}")
    return times


if __name__ == "__main__":
    main()
