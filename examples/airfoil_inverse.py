"""Recover the conductivity around a wing section from noisy temperatures.

The mesh is pyamg's airfoil, each triangle split into four twice. Heat flows through it as
-div(kappa grad u) = f with linear finite elements; kappa varies in space and is unknown. In six
experiments the rim and the wing are held at other temperatures, or the plate is heated, and the
temperature u is read, with one per cent of noise, at 400 of 4780 vertices. Starting from kappa = 1,
200 steps of Adam look for the field that explains what was read:

    minimise   mean ((u(kappa) - seen) / sigma)^2  +  alpha |grad log kappa|^2

Each step factors one matrix A(kappa). The temperatures of all experiments and, by the adjoint, the
gradient with respect to thousands of unknowns come from that one factorisation.

    python examples/airfoil_inverse.py               # writes airfoil_inverse.png
    python examples/airfoil_inverse.py --refine 1    # the same on a coarser mesh
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor
from tqdm import tqdm

import sparse_solver as ss
from sparse_solver import gallery


class Plate:
    """Steady heat conduction on a triangle mesh, in all experiments at once."""

    def __init__(self, vertices: Tensor, triangles: Tensor) -> None:
        self.vertices, self.triangles = vertices, triangles
        self.problem = gallery.diffusion(vertices, triangles)  # A(kappa), its pattern built once
        self.boundary = boundary_vertices(triangles)
        x, y = (vertices[self.boundary] / 5).unbind(1)
        wing = (x.hypot(y) < 0.5).to(x.dtype)
        # Held at: (boundary vertices, experiments). In the last one the plate is heated instead,
        # without which kappa could be told only up to a factor.
        self.held = torch.stack([x, y, x * y, x**2 - y**2, wing, 0 * x], 1)
        corner_shares = (self.problem.measure / 3).repeat_interleave(3)
        self.area = torch.zeros_like(vertices[:, 0]).index_add(0, triangles.ravel(), corner_shares)
        self.heat = torch.zeros(len(vertices), self.held.shape[1], dtype=x.dtype)
        self.heat[:, -1] = self.area

    def temperatures(self, log_kappa: Tensor) -> Tensor:
        """Temperatures (n, experiments) for log kappa (n,) at the vertices."""
        kappa = log_kappa[self.triangles].mean(1).exp()  # positive, one value per triangle
        A = self.problem.assemble(kappa)
        return ss.solve(A, self.heat, fixed=(self.boundary, self.held))


def boundary_vertices(triangles: Tensor) -> Tensor:
    """Vertices on edges that belong to one triangle only."""
    sides = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(1).values
    edges, count = torch.unique(sides, dim=0, return_counts=True)
    return torch.unique(edges[count == 1])


def true_log_kappa(vertices: Tensor) -> Tensor:
    """The field to be found: a well conducting wake behind the wing, and three spots."""
    x, y = vertices.unbind(1)

    def spot(cx: float, cy: float, radius: float) -> Tensor:
        return torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)

    width = 0.5 + 0.3 * (x - 1).clamp(min=0)
    wake = torch.exp(-((y / width) ** 2)) * torch.sigmoid(4 * (x - 1))
    spots = 1.1 * spot(-2.4, 1.6, 1.2) - 1.2 * spot(-1.6, -2.2, 1.3) - 0.9 * spot(1.2, 2.9, 1.1)
    return 1.2 * wake + spots


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)

    airfoil = gallery.load("airfoil")
    mesh = airfoil.vertices, airfoil.elements
    for _ in range(options.refine):
        mesh = gallery.refine_triangles(*mesh)
    plate = Plate(*mesh)
    n = len(plate.vertices)

    # The readings come from a mesh refined once more: the model never saw its own answer.
    finer = Plate(*gallery.refine_triangles(*mesh))
    share = plate.area.index_fill(0, plate.boundary, 0)  # as many sensors here as there, by area
    sensors = torch.multinomial(share, options.sensors, generator=generator)
    seen = finer.temperatures(true_log_kappa(finer.vertices))[sensors]
    sigma = options.noise * seen.std(0)
    seen = seen + sigma * torch.randn(seen.shape, generator=generator, dtype=seen.dtype)

    truth = true_log_kappa(plate.vertices).exp()

    def relative_error(kappa: Tensor) -> float:
        difference = plate.area * (kappa - truth) ** 2
        return math.sqrt(float(difference.sum() / (plate.area * truth**2).sum()))

    roughness = plate.problem.assemble(torch.ones_like(plate.problem.measure))
    log_kappa = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_kappa], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    misfits, errors = [], [relative_error(log_kappa.detach().exp())]

    began = time.perf_counter()
    progress = tqdm(range(options.steps), desc="fitting kappa", unit="step", mininterval=0.5)
    for _ in progress:
        optimizer.zero_grad()
        u = plate.temperatures(log_kappa)
        misfit = ((u[sensors] - seen) / sigma).square().mean()
        loss = misfit + options.alpha * (log_kappa @ (roughness @ log_kappa))
        loss.backward()
        optimizer.step()
        schedule.step()
        misfits.append(misfit.item())
        errors.append(relative_error(log_kappa.detach().exp()))
        progress.set_postfix(misfit=f"{misfits[-1]:.3g}", error=f"{errors[-1]:.3f}", refresh=False)
    seconds = time.perf_counter() - began

    kappa = log_kappa.detach().exp()
    report(plate, kappa, sensors, misfits, errors, seconds)
    if options.output:
        plot(plate, truth, kappa, sensors, misfits, errors, options.output)
        print(f"picture               {options.output}")
    ratio = errors[-1] / errors[0]
    if options.steps >= 200:
        assert ratio <= 0.2, f"the error fell only to {ratio:.3f} of the start's"
    return {"start": errors[0], "end": errors[-1], "ratio": ratio, "seconds": seconds}


def report(
    plate: Plate, kappa: Tensor, sensors: Tensor, misfits: list, errors: list, seconds: float
) -> None:
    """Print what was solved and how well."""
    n, k = plate.heat.shape
    steps = len(misfits)
    A = plate.problem.assemble(kappa[plate.triangles].mean(1))
    info = ss.analyze(A, fixed=(plate.boundary, plate.held)).info
    print(f"mesh                  {n} vertices, {len(plate.triangles)} triangles")
    print(f"data                  {k} experiments read at {len(sensors)} vertices")
    print(f"engine                {info.engine} {info.path}: {info.reason}")
    print(f"factorisations        {steps}, each for {k} solves forward and {k} backward")
    print(f"time                  {seconds / steps:.4f} s per step, {seconds:.1f} s in all")
    print(f"misfit                {misfits[0]:.1f} -> {misfits[-1]:.3f} (1 = noise)")
    print(f"relative error        {errors[0]:.4f} -> {errors[-1]:.4f}")
    print(f"end / start           {errors[-1] / errors[0]:.3f}")


def plot(
    plate: Plate,
    truth: Tensor,
    kappa: Tensor,
    sensors: Tensor,
    misfits: list,
    errors: list,
    path: str,
) -> None:
    """Draw truth, start, result and its error, the mesh, and the way there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.tri import Triangulation

    x, y = plate.vertices.numpy().T
    mesh = Triangulation(x, y, plate.triangles.numpy())
    fig = plt.figure(figsize=(13.5, 7.2), layout="constrained")
    grid = fig.add_gridspec(2, 12, height_ratios=[1.2, 1])

    limits = {"vmin": float(truth.min()), "vmax": float(truth.max()), "cmap": "viridis"}
    span = float((kappa - truth).abs().max())
    fields = [
        ("true conductivity $\\kappa$", truth, limits),
        (f"start, and {len(sensors)} sensors", torch.ones_like(truth), limits),
        (f"recovered in {len(misfits)} steps", kappa, limits),
        ("recovered $-$ true", kappa - truth, {"vmin": -span, "vmax": span, "cmap": "RdBu_r"}),
    ]
    panels, images = [], []
    for i, (title, field, style) in enumerate(fields):
        ax = fig.add_subplot(grid[0, 3 * i : 3 * i + 3], aspect="equal", title=title)
        ax.axis("off")
        images.append(ax.tripcolor(mesh, field.numpy(), shading="gouraud", **style))
        panels.append(ax)
    panels[1].plot(*plate.vertices[sensors].numpy().T, ".", ms=2.5, color="white")
    below = {"orientation": "horizontal", "pad": 0.02}
    fig.colorbar(images[2], ax=panels[:3], aspect=50, shrink=0.6, **below)
    fig.colorbar(images[3], ax=panels[3], aspect=20, shrink=0.8, **below)

    near = fig.add_subplot(grid[1, :4], aspect="equal", title="the mesh near the wing")
    near.triplot(mesh, lw=0.5, color="0.45")
    near.set(xlim=(-0.35, 1.35), ylim=(-0.5, 0.5), xticks=[], yticks=[])

    steps = len(misfits)
    curves = [
        (grid[1, 4:8], misfits, "misfit of the temperatures", 1, "noise", "tab:blue"),
        (grid[1, 8:], errors, "relative error of $\\kappa$", 0, "", "tab:red"),
    ]
    for place, values, title, level, name, color in curves:
        ax = fig.add_subplot(place, title=title, xlabel="step", xlim=(0, steps))
        ax.plot(values, lw=2, color=color)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        if level:
            ax.set_yscale("log")
            ax.axhline(level, color="0.4", ls="--", lw=1)
            ax.annotate(name, (0.02 * steps, level), va="bottom", color="0.4")
        else:
            ax.set_ylim(0, None)
            ax.annotate(f"{values[-1]:.3f}", (steps, values[-1]), ha="right", va="bottom", color=color)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refine", type=int, default=2, help="splits of the mesh (default: 2)")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps (default: 200)")
    parser.add_argument("--sensors", type=int, default=400, help="vertices read (default: 400)")
    parser.add_argument("--noise", type=float, default=0.01, help="relative to u's deviation")
    parser.add_argument("--alpha", type=float, default=0.1, help="weight of the smoothness")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more gain nothing at this size")
    parser.add_argument("--output", default="airfoil_inverse.png", help="the picture; '' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
