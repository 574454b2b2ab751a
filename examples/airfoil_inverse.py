"""Recover a conductivity field around a wing section from noisy temperatures.

The mesh is pyamg's airfoil. Heat flows through it as `-div(kappa grad u) = f`, where the
conductivity kappa varies in space and is unknown. In each of five experiments the rim and the wing
are held at other temperatures, and the temperature is observed, with noise, at a part of the mesh's
vertices. Starting from a constant, 200 steps of Adam find the kappa that explains what was seen:

    minimise  mean |u(kappa)[sensors] - observed|^2 / noise^2  +  alpha (grad log kappa)^2

Each step assembles and factors one matrix A(kappa); the solutions of all experiments and the
gradient with respect to kappa, by the adjoint, both come from that one factorisation.

    python examples/airfoil_inverse.py                        # writes airfoil_inverse.png
    python examples/airfoil_inverse.py --refine 0 --sensors 1 # the mesh as it is: a few seconds
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import sparse_solver as ss
from sparse_solver import gallery


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example and return what it measured."""
    options = parse(argv)
    generator = torch.Generator().manual_seed(options.seed)

    # The wing section as pyamg ships it, each triangle split into four `refine` times.
    airfoil = gallery.load("airfoil")
    vertices, triangles = airfoil.vertices, airfoil.elements
    for _ in range(options.refine):
        vertices, triangles = gallery.refine_triangles(vertices, triangles)
    n = len(vertices)
    problem = gallery.diffusion(vertices, triangles)
    boundary = boundary_vertices(triangles)
    held = experiments(vertices[boundary])  # (m, k) temperatures, one column per experiment

    def temperatures(log_kappa: Tensor) -> Tensor:
        kappa = log_kappa[triangles].mean(1).exp()  # one positive value per triangle
        A = problem.assemble(kappa)
        f = heat(vertices, triangles, problem.measure, held.shape[1])
        return ss.solve(A, f, fixed=(boundary, held))

    # What the sensors see, from the true field on a mesh once more refined, so that the model
    # which explains the observations is not the one that made them.
    truth = true_log_kappa(vertices)
    sensors = torch.randperm(n, generator=generator)[: math.ceil(options.sensors * n)]
    seen = observe(vertices, triangles)[sensors]
    sigma = options.noise * seen.std(0)
    seen = seen + sigma * torch.randn(seen.shape, generator=generator, dtype=seen.dtype)

    smoothness = problem.assemble(torch.ones(problem.num_weights, dtype=vertices.dtype))
    log_kappa = torch.zeros(n, dtype=vertices.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([log_kappa], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)

    area = torch.zeros(n, dtype=vertices.dtype).index_add(
        0, triangles.reshape(-1), (problem.measure / 3).repeat_interleave(3)
    )

    def error(guess: Tensor) -> float:
        difference, exact = guess.detach().exp() - truth.exp(), truth.exp()
        return math.sqrt(float((area * difference**2).sum() / (area * exact**2).sum()))

    history = {"loss": [], "error": [error(log_kappa)]}
    started = time.perf_counter()
    bar = tqdm(range(options.steps), desc="fitting kappa", unit="step")
    for _ in bar:
        optimizer.zero_grad()
        u = temperatures(log_kappa)
        misfit = ((u[sensors] - seen) / sigma).square().mean()
        loss = misfit + options.alpha * log_kappa @ (smoothness @ log_kappa)
        loss.backward()
        optimizer.step()
        schedule.step()
        history["loss"].append(misfit.item())
        history["error"].append(error(log_kappa))
        bar.set_postfix(misfit=f"{misfit.item():.3g}", error=f"{history['error'][-1]:.3f}")
    seconds = (time.perf_counter() - started) / options.steps
    print(history["error"][0], history["error"][-1], history["loss"][0], history["loss"][-1], min(history["error"]), seconds, n)
    import pickle
    pickle.dump((vertices, triangles, truth, log_kappa.detach(), sensors, history), open("/tmp/gallery_helper/inv.pkl", "wb"))


def observe(vertices, triangles):
    n = len(vertices)
    finer, small = gallery.refine_triangles(vertices, triangles)
    problem = gallery.diffusion(finer, small)
    boundary = boundary_vertices(small)
    kappa = true_log_kappa(finer)[small].mean(1).exp()
    held = experiments(finer[boundary])
    f = heat(finer, small, problem.measure, held.shape[1])
    return ss.solve(problem.assemble(kappa), f, fixed=(boundary, held))[:n]


def heat(vertices, triangles, measure, k):
    area = torch.zeros(len(vertices), dtype=vertices.dtype).index_add(
        0, triangles.reshape(-1), (measure / 3).repeat_interleave(3)
    )
    f = vertices.new_zeros(len(vertices), k)
    f[:, -1] = area
    return f


def boundary_vertices(triangles: Tensor) -> Tensor:
    sides = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(1).values
    edges, count = torch.unique(sides, dim=0, return_counts=True)
    return torch.unique(edges[count == 1])


def experiments(points: Tensor) -> Tensor:
    x, y = (points / 5).unbind(1)
    wing = (points.norm(dim=1) < 3).to(points.dtype)
    return torch.stack([x, y, x * y, x**2 - y**2, wing, 0*x], 1)


def true_log_kappa(points: Tensor) -> Tensor:
    x, y = points.unbind(1)
    def bump(cx, cy, r, s=1.0):
        return torch.exp(-(((x - cx) / r) ** 2 + ((y - cy) / (r * s)) ** 2))
    width = 0.5 + 0.3 * (x - 1).clamp(min=0)
    wake = torch.exp(-((y / width) ** 2)) * torch.sigmoid(4 * (x - 1))
    return 1.2 * wake + 1.1 * bump(-2.4, 1.6, 1.2) - 1.2 * bump(-1.6, -2.2, 1.3) - 0.9 * bump(1.2, 2.9, 1.1)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refine", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sensors", type=float, default=0.3)
    parser.add_argument("--noise", type=float, default=0.005)
    parser.add_argument("--alpha", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)

if __name__ == "__main__":
    main()
