"""The MBB beam: where to put half of the material so that a beam is as stiff as can be.

Compliance minimisation with SIMP, a sensitivity filter and optimality criteria, the setting of the 99-
and 88-line MATLAB codes: 150 x 50 elements, volume fraction 0.5, penalisation 3, filter radius 6. Those
codes carry their gradient by hand. Here the compliance

    c(rho) = f . u(rho),     K(rho) u = f,     E(rho) = E_min + rho^3 (E_0 - E_min)

is computed by one `solve`, and its gradient is what `backward` says.

    python examples/topology_optimization.py                  # writes topology_optimization.png
    python examples/topology_optimization.py --size 60 20 --radius 2.4

O. Sigmund, "A 99 line topology optimization code written in Matlab", Structural and Multidisciplinary
Optimization 21, 2001, 120-127. E. Andreassen, A. Clausen, M. Schevenels, B. S. Lazarov and O. Sigmund,
"Efficient topology optimization in MATLAB using 88 lines of code", ibid. 43, 2011, 1-16.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

import sparse_solver as ss
from sparse_solver import gallery

E_MIN, PENALTY, MOVE = 1e-9, 3.0, 0.2
# Compliances in the second paper (sensitivity filter), by size and radius of the filter.
PUBLISHED = {(60, 20, 2.4): 216.81, (150, 50, 6.0): 219.52}


class HalfBeam:
    """The right half: symmetry at the left, a roller at the lower right, the load at the top left."""

    def __init__(self, nx: int, ny: int, radius: float) -> None:
        self.nx, self.ny = nx, ny
        # Plane stress with nu = 0.3 is plane strain with nu' = nu / (1 + nu) and a modulus E' that
        # belongs to it; `gallery.elasticity_elements` is plane strain.
        nu = 0.3
        self.problem = gallery.elasticity_elements((nx, ny), poisson_ratio=nu / (1 + nu))
        self.modulus = (1 + 2 * nu) / (1 + nu) ** 2
        number = torch.arange((nx + 1) * (ny + 1)).reshape(nx + 1, ny + 1)  # (column, row from below)
        fixed = torch.cat([2 * number[0], 2 * number[-1, :1] + 1])
        self.fixed = (fixed, torch.zeros(len(fixed), dtype=torch.float64))
        self.load = torch.zeros(self.problem.n, dtype=torch.float64)
        self.load[2 * number[0, -1] + 1] = -1.0
        self.filter, self.sums = cone_filter(nx, ny, radius)

    def compliance(self, density: Tensor) -> Tensor:
        """c(rho) for densities (nx ny,); differentiable."""
        E = self.modulus * (E_MIN + density**PENALTY * (1 - E_MIN))
        u = ss.solve(self.problem.assemble(E), self.load, fixed=self.fixed)
        return self.load @ u

    def filtered(self, density: Tensor, gradient: Tensor) -> Tensor:
        """Sigmund's sensitivity filter."""
        return (self.filter @ (density * gradient)) / self.sums / density.clamp(min=1e-3)


def cone_filter(nx: int, ny: int, radius: float) -> tuple[ss.SparseMatrix, Tensor]:
    """Weights max(0, radius - distance) between elements, and their sums."""
    number = torch.arange(nx * ny).reshape(nx, ny)
    reach = int(radius)
    rows, cols, values = [], [], []
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            weight = radius - (i * i + j * j) ** 0.5
            if weight > 0 and abs(i) < nx and abs(j) < ny:
                a = number[max(0, -i) : nx - max(0, i), max(0, -j) : ny - max(0, j)].reshape(-1)
                b = number[max(0, i) : nx - max(0, -i), max(0, j) : ny - max(0, -j)].reshape(-1)
                rows.append(a)
                cols.append(b)
                values.append(torch.full((len(a),), weight, dtype=torch.float64))
    P = ss.Pattern(torch.cat(rows), torch.cat(cols), (nx * ny, nx * ny))
    H = P.assemble(torch.cat(values))
    return H, H @ torch.ones(nx * ny, dtype=torch.float64)


def optimality_criteria(density: Tensor, gradient: Tensor, volume: float) -> Tensor:
    """rho sqrt(-dc / lambda) within the move limit, with lambda found by bisection."""
    low, high = 0.0, 1e9
    step = density * (-gradient).clamp(min=0).sqrt()
    while (high - low) / (low + high) > 1e-6:
        middle = (low + high) / 2
        new = step / middle**0.5
        new = torch.minimum(torch.maximum(new, density - MOVE), density + MOVE).clamp(0, 1)
        low, high = (middle, high) if float(new.mean()) > volume else (low, middle)
    return new


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    nx, ny = options.size
    beam = HalfBeam(nx, ny, options.radius)
    density = torch.full((nx * ny,), options.volume, dtype=torch.float64)
    history: list[float] = []
    began = time.perf_counter()
    for _ in range(options.steps):
        density.requires_grad_()
        c = beam.compliance(density)
        (gradient,) = torch.autograd.grad(c, density)
        density = density.detach()
        new = optimality_criteria(density, beam.filtered(density, gradient), options.volume)
        change = float((new - density).abs().max())
        density = new
        history.append(c.item())
        if change <= 0.01:
            break
    steps, seconds = len(history), time.perf_counter() - began
    history.append(float(beam.compliance(density)))
    published = PUBLISHED.get((nx, ny, options.radius)) if options.volume == 0.5 else None

    print(f"beam                  {nx} x {ny} elements, {beam.problem.n} unknowns")
    print(f"time                  {seconds / steps:.4f} s per step, {seconds:.1f} s in all")
    print(f"compliance            {history[0]:.2f} -> {history[-1]:.2f} in {steps} steps")
    print(f"published             {published or 'none for this setting'}")
    print(f"volume                {float(density.mean()):.4f}, last change {change:.4f}")
    if options.output:
        plot(beam, density, history, options.output)
        print(f"picture               {options.output}")
    return {
        "start": history[0],
        "end": history[-1],
        "steps": steps,
        "published": published or float("nan"),
        "volume": float(density.mean()),
        "seconds": seconds,
    }


def plot(beam: HalfBeam, density: Tensor, history: list, path: str) -> None:
    """Draw the whole beam, and the way there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    half = density.reshape(beam.nx, beam.ny).T.flip(0)  # rows from above
    fig, axes = plt.subplots(2, 1, figsize=(9, 5), layout="constrained", height_ratios=[1.3, 1])
    axes[0].imshow(torch.cat([half.flip(1), half], 1), cmap="gray_r", vmin=0, vmax=1)
    axes[0].set(title=f"compliance {history[-1]:.1f} with half of the material", xticks=[], yticks=[])
    axes[1].semilogy(history, lw=2)
    axes[1].set(xlabel="step", ylabel="compliance", xlim=(0, None))
    axes[1].spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=80)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=[150, 50], help="elements (150 50)")
    parser.add_argument("--radius", type=float, default=6.0, help="of the filter, in elements")
    parser.add_argument("--volume", type=float, default=0.5, help="fraction of material")
    parser.add_argument("--steps", type=int, default=250, help="at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="topology_optimization.png", help="'' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
