"""Interpolation weights as smooth as biharmonic ones that stay between 0 and 1.

A horse, from its silhouette, is deformed by moving a few points. How much each vertex follows each of
them is told by weights: w_h = 1 at point h, 0 at the others. Harmonic weights stay between 0 and 1 but
have spikes; biharmonic ones are smooth but overshoot. Following Wang and Solomon (2021), we keep the
harmonic equation but let its diffusion tensor vary,

    minimise over A   sum_h  1/2 |Laplacian of w_h|^2   where  div(A grad w_h) = 0,  w = I at the points

so the weights keep the maximum principle whatever A is. On a triangle a tensor is three weights, one
per edge, and positive ones give the discrete equation that principle; so logarithms of edge weights are
what is optimised, through one sparse factorisation per step.

    python examples/quasi_harmonic_weights.py               # writes quasi_harmonic_weights.png
    python examples/quasi_harmonic_weights.py --spacing 16  # the same on a coarser mesh

Y. Wang and J. Solomon, "Fast Quasi-Harmonic Weights for Geometric Data Interpolation", ACM Transactions
on Graphics 40(4), 2021. The silhouette comes with scikit-image.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

import sparse_solver as ss
from sparse_solver import gallery

POINTS = {  # row and column in the picture
    "head": (85, 385),
    "tail": (255, 22),
    "hind hoof": (320, 85),
    "other hind hoof": (315, 128),
    "fore hoof": (322, 262),
    "other fore hoof": (322, 318),
    "rump": (95, 80),
    "withers": (105, 270),
    "belly": (160, 190),
}
SHOWN = list(POINTS).index("belly")
MOVED = {"head": (-60.0, -70.0), "tail": (-20.0, 120.0), "other fore hoof": (70.0, 60.0)}


def horse_mesh(spacing: float) -> tuple[Tensor, Tensor]:
    """Vertices (n, 2) and triangles of the silhouette that comes with scikit-image."""
    from matplotlib.path import Path
    from scipy.spatial import Delaunay
    from skimage import data, measure

    picture = np.pad(~data.horse(), 4).astype(float)  # 1 inside
    outline = max(measure.find_contours(picture, 0.5), key=len)
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(outline, axis=0).T))]
    at = np.linspace(0, length[-1], int(length[-1] / spacing), endpoint=False)
    rim = np.stack([np.interp(at, length, outline[:, k]) for k in (0, 1)], 1)
    rows, columns = (np.arange(0, size, spacing * f) for size, f in zip(picture.shape, (0.866, 1.0)))
    r, c = np.meshgrid(rows, columns, indexing="ij")
    c = c + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    inner = np.stack([r.ravel(), c.ravel()], 1)
    shape = Path(rim)
    away = np.min(np.linalg.norm(inner[:, None] - rim[None], axis=2), axis=1) > 0.6 * spacing
    points = np.concatenate([rim, inner[shape.contains_points(inner) & away]])
    triangles = Delaunay(points).simplices
    triangles = triangles[shape.contains_points(points[triangles].mean(1))]
    used, triangles = np.unique(triangles, return_inverse=True)
    vertices = points[used][:, ::-1] * [1, -1]  # (column, row) to (x, y)
    return torch.from_numpy(vertices.copy()), torch.from_numpy(triangles.reshape(-1, 3))


class Shape:
    """A mesh with the operators on it."""

    def __init__(self, vertices: Tensor, triangles: Tensor, handles: Tensor) -> None:
        self.vertices, self.triangles, self.handles = vertices, triangles, handles
        self.n = len(vertices)
        sides = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(1).values
        self.edges = torch.unique(sides, dim=0)
        i, j = self.edges.unbind(1)
        self.pattern = ss.Pattern(torch.cat([i, j, i, j]), torch.cat([i, j, j, i]), (self.n, self.n))
        problem = gallery.diffusion(vertices, triangles)
        self.laplacian = problem.assemble(torch.ones_like(problem.measure))  # cotangent weights
        corners = (problem.measure / 3).repeat_interleave(3)
        self.mass = torch.zeros(self.n, dtype=vertices.dtype).index_add(0, triangles.ravel(), corners)
        self.delta = torch.eye(len(handles), dtype=vertices.dtype)
        self.zero = torch.zeros(self.n, dtype=vertices.dtype)

    def cotangents(self) -> Tensor:
        """The edge weights of the isotropic tensor, made positive."""
        L = self.laplacian  # above the diagonal its nonzeros are the edges, in the same order
        return -L.values[L.pattern.rows < L.pattern.cols].clamp(max=-0.05)

    def weights(self, log_edges: Tensor) -> Tensor:
        """(n, handles): harmonic for the tensor that these edge weights stand for."""
        w = log_edges.exp()
        A = self.pattern.assemble(torch.cat([w, w, -w, -w]))
        return ss.solve(A, self.zero, fixed=(self.handles, self.delta))

    def roughness(self, w: Tensor) -> Tensor:
        """Half the integral of the squared Laplacian, over all weights."""
        Lw = self.laplacian @ w
        return (Lw.square() / self.mass[:, None]).sum() / 2

    def biharmonic(self) -> Tensor:
        """(n, handles): the smoothest of all, without bounds."""
        L = self.laplacian.to_scipy()
        B = ss.SparseMatrix.from_scipy(L @ (L / self.mass.numpy()[:, None]))
        return ss.solve(B, self.zero, fixed=(self.handles, self.delta))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    vertices, triangles = horse_mesh(options.spacing)
    spots = torch.tensor(list(POINTS.values()), dtype=torch.float64).flip(1) * torch.tensor([1.0, -1.0])
    handles = torch.cdist(spots, vertices).argmin(1)
    shape = Shape(vertices, triangles, handles)

    biharmonic = shape.biharmonic()
    target = float(shape.roughness(biharmonic))
    log_edges = shape.cotangents().log().requires_grad_()
    harmonic = shape.weights(log_edges).detach()
    optimizer = torch.optim.Adam([log_edges], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps, eta_min=0.005)
    history = []
    began = time.perf_counter()
    for _ in range(options.steps):
        optimizer.zero_grad()
        loss = shape.roughness(shape.weights(log_edges)) / target
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    seconds = time.perf_counter() - began
    weights = shape.weights(log_edges).detach()
    history.append(float(shape.roughness(weights)) / target)

    print(
        f"mesh                  {shape.n} vertices, {len(triangles)} triangles, {len(handles)} points"
    )
    print(f"time                  {seconds / options.steps:.4f} s per step, {seconds:.1f} s in all")
    print("weights               roughness / biharmonic     smallest     largest")
    for name, w in (("harmonic", harmonic), ("quasi-harmonic", weights), ("biharmonic", biharmonic)):
        rough = float(shape.roughness(w)) / target
        print(f"  {name:<20}{rough:>22.3f}{float(w.min()):>13.4f}{float(w.max()):>12.4f}")
    assert weights.min() >= -1e-12 and weights.max() <= 1 + 1e-12, "the maximum principle is violated"
    if options.output:
        plot(shape, harmonic, weights, biharmonic, history, options.output)
        print(f"picture               {options.output}")
    return {
        "start": history[0],
        "end": history[-1],
        "overshoot": float(-biharmonic.min()),
        "smallest": float(weights.min()),
        "largest": float(weights.max()),
        "seconds": seconds,
    }


def plot(
    shape: Shape, harmonic: Tensor, weights: Tensor, biharmonic: Tensor, history: list, path: str
) -> None:
    """Draw one weight of each kind, deformations made with all of them, and the way down."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.tri import Triangulation

    fig, axes = plt.subplots(2, 4, figsize=(13, 6.2), layout="constrained")
    x, y = shape.vertices.numpy().T
    mesh = Triangulation(x, y, shape.triangles.numpy())
    moves = torch.zeros(len(shape.handles), 2, dtype=torch.float64)
    for name, move in MOVED.items():
        moves[list(POINTS).index(name)] = torch.tensor(move)
    kinds = [("harmonic", harmonic), ("quasi-harmonic", weights), ("biharmonic", biharmonic)]
    levels = np.linspace(-0.2, 1.0, 25)
    for k, (name, w) in enumerate(kinds):
        ax = axes[0, k]
        image = ax.tricontourf(mesh, w[:, SHOWN].numpy(), levels, cmap="RdYlBu_r", extend="both")
        ax.tricontour(mesh, w[:, SHOWN].numpy(), [0.0], colors="k", linewidths=0.6)
        ax.plot(*shape.vertices[shape.handles].numpy().T, "k.", ms=5)
        ax.set_title(f"{name}: {float(w.min()):.3f} ... {float(w.max()):.3f}")
        moved = (shape.vertices + w @ moves).numpy()
        axes[1, k].triplot(*moved.T, shape.triangles.numpy(), lw=0.35, color="0.35")
        axes[1, k].plot(*moved[shape.handles].T, "r.", ms=5)
        for ax in axes[:, k]:
            ax.set_aspect("equal")
            ax.axis("off")
    fig.colorbar(image, ax=axes[0, :3], shrink=0.7, label="weight of the point in the belly")
    axes[0, 3].semilogy(history, lw=2)
    axes[0, 3].axhline(1, color="0.4", ls="--", lw=1)
    axes[0, 3].annotate("biharmonic", (0, 1), va="bottom", color="0.4")
    axes[0, 3].set(title="roughness / biharmonic", xlabel="step", xlim=(0, None))
    axes[0, 3].spines[["top", "right"]].set_visible(False)
    ax = axes[1, 3]
    line = shape.vertices[shape.handles[SHOWN], 1]
    band = (shape.vertices[:, 1] - line).abs() < 8
    for name, w in kinds:
        order = shape.vertices[band, 0].argsort()
        ax.plot(shape.vertices[band, 0][order], w[band, SHOWN][order], ".-", lw=1, ms=3, label=name)
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set(title="a section through the belly", xlabel="x")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=75)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spacing", type=float, default=7.0, help="of vertices, in pixels")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps (default: 300)")
    parser.add_argument("--threads", type=int, default=1, help="more gain nothing at this size")
    parser.add_argument("--output", default="quasi_harmonic_weights.png", help="'' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
