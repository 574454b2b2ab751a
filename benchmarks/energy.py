"""One Newton step of a neo-Hookean cantilever: gradient, Hessian, factorisation, solve.

    python benchmarks/energy.py                    # 100,000 triangles, about two minutes
    python benchmarks/energy.py --triangles 20000
    python benchmarks/energy.py --smoke            # tiny, for a test of this file

Against what a PyTorch user writes without this library: `vmap(hessian)` over the elements, a COO
tensor, `coalesce`, and the original solver over cholespy. All directions are compared before anything
is timed. Results go to benchmarks/results/energy.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

import sparse_solver as ss

AGREE = 1e-7  # relative difference allowed between two Newton directions
FASTER, SHARE = 5.0, 0.4  # targets: the ratio of the steps, the Hessian's part of ours


def neo_hookean(x: Tensor, inverse: Tensor, area: Tensor, mu: Tensor, lam: Tensor) -> Tensor:
    """Energy of a triangle; x holds its corners, `inverse` that of its edges at rest."""
    edges = torch.stack([x[1] - x[0], x[2] - x[0]], 1)
    F = (edges[:, :, None] * inverse[None]).sum(1)
    log_J = torch.log(F[0, 0] * F[1, 1] - F[0, 1] * F[1, 0])
    return area * (mu / 2 * ((F * F).sum() - 2 - 2 * log_J) + lam / 2 * log_J**2)


class Cantilever:
    """A beam of length 4 and height 1, held at the left, somewhat bent."""

    def __init__(self, triangles: int) -> None:
        rows = max(2, round((triangles / 8) ** 0.5))
        columns = 4 * rows
        i, j = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="ij")
        corner = [(i + a) * (rows + 1) + j + b for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
        pair = ([corner[k] for k in (0, 1, 2)], [corner[k] for k in (0, 2, 3)])
        self.elements = torch.cat([torch.stack(t, -1).reshape(-1, 3) for t in pair])
        axes = torch.linspace(0, 4, columns + 1).double(), torch.linspace(0, 1, rows + 1).double()
        self.rest = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        edges = (self.rest[self.elements[:, 1:]] - self.rest[self.elements[:, :1]]).mT
        m = len(self.elements)
        generator = torch.Generator().manual_seed(0)
        mu, lam = (1 + torch.rand(2, m, generator=generator, dtype=torch.float64)).unbind()
        self.params = (torch.linalg.inv(edges), torch.linalg.det(edges) / 2, mu, lam)
        self.fixed = torch.arange(2 * (rows + 1))
        self.load = torch.zeros_like(self.rest)
        self.load[:, 1] = -0.002 / len(self.rest)
        self.n = self.rest.numel()

    def state(self, t: float) -> Tensor:
        """Nodes of the beam bent by t; new values for each step."""
        x, y = self.rest.unbind(1)
        angle = 0.1 * t * x
        return torch.stack([x - (y - 0.5) * angle.sin(), (y - 0.5) * angle.cos() + 0.05 * t * x**2], 1)


Step = Callable[[Tensor], tuple[Tensor, float]]  # state -> (direction, seconds for the Hessian)


def ours(beam: Cantilever, compile: bool, project: str) -> Step:
    """This library; everything that depends on structure is made once."""
    E = ss.ElementSum(neo_hookean, beam.elements, compile=compile)
    zero = torch.zeros(len(beam.fixed), dtype=torch.float64)

    def step(x: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad():
            g = E.gradient(x, *beam.params) + beam.load
            start = time.perf_counter()
            H = E.hessian(x, *beam.params, project=project)
            seconds = time.perf_counter() - start
            return -ss.solve(H, g.reshape(-1), fixed=(beam.fixed, zero)), seconds

    return step


def without(beam: Cantilever) -> Step:
    """vmap(hessian), coalesce, and the original solver."""
    from original import original_solve

    dofs = (2 * beam.elements[:, :, None] + torch.arange(2)).reshape(-1, 6)
    rows = dofs[:, :, None].expand(-1, 6, 6).reshape(-1)
    cols = dofs[:, None, :].expand(-1, 6, 6).reshape(-1)
    held = torch.zeros(beam.n, dtype=torch.bool).index_fill(0, beam.fixed, True)
    free = torch.nonzero(~held).squeeze(1)
    number = torch.empty(beam.n, dtype=torch.int64).index_put((free,), torch.arange(len(free)))
    keep = torch.nonzero(~held[rows] & ~held[cols]).squeeze(1)
    indices = torch.stack([number[rows[keep]], number[cols[keep]]])
    local_hessian, local_gradient = vmap(hessian(neo_hookean)), vmap(grad(neo_hookean))

    def step(x: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad():
            corners = x[beam.elements]
            g = beam.load.index_add(
                0, beam.elements.reshape(-1), local_gradient(corners, *beam.params).reshape(-1, 2)
            )
            start = time.perf_counter()
            values = local_hessian(corners, *beam.params).reshape(-1)[keep]
            A = torch.sparse_coo_tensor(indices, values, (len(free),) * 2).coalesce()
            seconds = time.perf_counter() - start
            d = -original_solve(A, g.reshape(-1)[free])
            return torch.zeros(beam.n, dtype=x.dtype).index_put((free,), d), seconds

    return step


def measure(beam: Cantilever, budget: float) -> dict[str, Any]:
    """Compare the directions, then time the steps in turns."""
    steps = {
        "compiled": ours(beam, True, "none"),
        "eager": ours(beam, False, "none"),
        "vmap + coalesce + original": without(beam),
        "compiled, projected": ours(beam, True, "psd"),
        "eager, projected": ours(beam, False, "psd"),
    }
    x = beam.state(1.0)
    directions = {name: step(x)[0] for name, step in steps.items()}
    pairs = [("compiled", "vmap + coalesce + original"), ("eager", "vmap + coalesce + original")]
    pairs += [("compiled, projected", "eager, projected")]
    differences = {
        f"{a} - {b}": float((directions[a] - directions[b]).norm() / directions[b].norm())
        for a, b in pairs
    }
    if not all(d <= AGREE for d in differences.values()):
        raise SystemExit(f"Newton directions differ by more than {AGREE:g}: {differences}")

    assembly: dict[str, list[float]] = {name: [] for name in steps}
    state = torch.Generator().manual_seed(1)

    def timed(name: str) -> Callable[[], float]:
        def run() -> float:
            x = beam.state(1 + 0.1 * float(torch.rand((), generator=state)))
            start = time.perf_counter()
            _, seconds = steps[name](x)
            assembly[name].append(seconds)
            return time.perf_counter() - start

        return run

    timings = harness.interleave({name: timed(name) for name in steps}, budget=budget)
    return {
        "n": beam.n,
        "triangles": len(beam.elements),
        "differences": differences,
        "times": {name: t.to_dict() | {"hessian": min(assembly[name])} for name, t in timings.items()},
    }


def report(result: dict[str, Any]) -> None:
    """Print times, shares, ratios and targets."""
    times = result["times"]
    base = times["vmap + coalesce + original"]["best"]
    rows = []
    for name, t in times.items():
        ratio, share = base / t["best"], t["hessian"] / t["best"]
        target = name == "compiled"
        rows.append(
            [
                name,
                harness.seconds(t["best"]),
                harness.seconds(t["hessian"]),
                f"{ratio:.1f}x",
                harness.verdict(ratio, at_least=FASTER) if target else "-",
                f"{share:.0%}",
                harness.verdict(share, at_most=SHARE) if target else "-",
            ]
        )
    print(f"\n{result['triangles']} triangles, {result['n']} unknowns\n")
    head = ["Newton step", "step", "Hessian", "faster", "target", "Hessian / step", "target"]
    print(harness.table(head, rows))
    print(f"\nlargest relative difference: {max(result['differences'].values()):.1e}")


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--triangles", type=int, default=100_000)
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for each step")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--smoke", action="store_true", help="tiny, a few seconds in all")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "energy.json")
    args = parser.parse_args()
    if args.smoke:
        args.triangles, args.budget = 500, 0.1
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")
    print(harness.describe(harness.environment()))
    result = measure(Cantilever(args.triangles), args.budget)
    report(result)
    harness.write_json(args.out, {"benchmark": "energy", "results": result})


if __name__ == "__main__":
    main()
