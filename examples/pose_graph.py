"""A robot on a sphere: where was it, and which of its measurements can be trusted?

`sphere2500` is a standard problem of robotics: 2500 poses (R_i, t_i) along a spiral around a sphere,
and 4949 noisy measurements (Q, s) of one pose seen from another. The most likely poses minimise

    f = sum over measurements  w ( 100 |R_j - R_i Q|^2 + 10 |t_j - t_i - R_i s|^2 ),

started at its relaxation without the constraint that R be a rotation (two linear solves) and continued
by Gauss-Newton and Newton steps on 15,000 unknowns. For w = 1 the global minimum is known: 1687.

Then a few measurements are spoilt, and the weights w are learned so that the estimate comes close to
the true positions. Each gradient goes through the minimum by the implicit function theorem, with the
exact Hessian, at the price of one solve.

    python examples/pose_graph.py                # writes pose_graph.png
    python examples/pose_graph.py --poses 400    # only the first poses

The data come with gtsam. D. Rosen, L. Carlone, A. Bandeira and J. Leonard, "SE-Sync: a certifiably
correct algorithm for synchronization over the special Euclidean group", International Journal of
Robotics Research 38, 2019, table 1 ("sphere"). L. Carlone, R. Tron, K. Daniilidis and F. Dellaert,
"Initialization techniques for 3D SLAM", ICRA 2015 (the relaxation).
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import sparse_solver as ss

PUBLISHED = 1687.0  # of all 2500 poses
COMPILE = find_spec("numba") is not None  # several times faster, not needed
TURN, SHIFT = 100.0, 10.0  # precisions of rotations and translations


def rotation(angles: Tensor) -> Tensor:
    """Rz(yaw) Ry(pitch) Rx(roll) for angles (..., 3) in the order roll, pitch, yaw."""
    (a, b, c), (p, q, r) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        torch.stack([b * c, p * q * c - a * r, a * q * c + p * r], -1),
        torch.stack([b * r, p * q * r + a * c, a * q * r - p * c], -1),
        torch.stack([-q, p * b, a * b], -1),
    ]
    return torch.stack(rows, -2)


def turn(d: Tensor) -> Tensor:
    """The rotation by the quaternion (1, d / 2), normalised: smooth, and 1 + [d]x near d = 0."""
    x, y, z = (d / 2).unbind(-1)
    rows = [
        torch.stack([1 + x * x - y * y - z * z, 2 * (x * y - z), 2 * (x * z + y)], -1),
        torch.stack([2 * (x * y + z), 1 - x * x + y * y - z * z, 2 * (y * z - x)], -1),
        torch.stack([2 * (x * z - y), 2 * (y * z + x), 1 - x * x - y * y + z * z], -1),
    ]
    return torch.stack(rows, -2) / (1 + x * x + y * y + z * z)[..., None, None]


def measured(d: Tensor, R: Tensor, t: Tensor, Q: Tensor, s: Tensor, weight: Tensor) -> Tensor:
    """Residual of a measurement after both poses moved by d = (turn, shift); f is half its square."""
    R_i, R_j = R[0] @ turn(d[0, :3]), R[1] @ turn(d[1, :3])
    t_i, t_j = t[0] + d[0, 3:], t[1] + d[1, 3:]
    turned = (2 * TURN) ** 0.5 * (R_j - R_i @ Q).reshape(-1)
    shifted = (2 * SHIFT) ** 0.5 * (t_j - t_i - (R_i * s).sum(-1))
    return weight.sqrt() * torch.cat([turned, shifted])


class PoseGraph:
    """Measurements between poses; pose 0 is held."""

    def __init__(self, pairs: Tensor, Q: Tensor, s: Tensor) -> None:
        self.pairs, self.Q, self.s = pairs, Q, s
        self.n = int(pairs.max()) + 1
        self.energy = ss.ElementSum.least_squares(measured, pairs, compile=COMPILE)
        self.fixed = (torch.arange(6), torch.zeros(6, dtype=torch.float64))
        self.still = torch.zeros(self.n, 6, dtype=torch.float64)

    def relaxation(self) -> tuple[Tensor, Tensor]:
        """Poses from two linear problems: rotations as free matrices, then positions."""
        first = torch.arange(3)
        # A row x of R: sum |x_j - x_i Q|^2. The three rows are three right-hand sides.
        rows = ss.ElementSum(lambda x, Q: (x[1] - x[:1] @ Q).square().sum() / 2, self.pairs)
        zero = torch.zeros(self.n, 3, dtype=torch.float64)
        eye = torch.eye(3, dtype=torch.float64)
        x = ss.solve(rows.hessian(zero, self.Q), zero.reshape(-1), fixed=(first, eye))
        U, _, V = torch.linalg.svd(x.reshape(self.n, 3, 3).mT)
        sign = torch.ones(self.n, 1, 3, dtype=torch.float64)
        sign[:, 0, 2] = torch.linalg.det(U @ V)
        R = (U * sign) @ V
        where = ss.ElementSum(lambda t, v: (t[1] - t[0] - v).square().sum() / 2, self.pairs)
        v = (R[self.pairs[:, 0]] @ self.s[..., None]).squeeze(-1)
        H, g = where.hessian(zero, v), where.gradient(zero, v)
        t = ss.solve(H, -g.reshape(-1), fixed=(first, torch.zeros(3, dtype=torch.float64)))
        return R, t.reshape(self.n, 3)

    def improve(self, R: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor, ss.Newton]:
        """The poses at a minimum near (R, t)."""
        with torch.no_grad():
            d, info = ss.minimize_ex(
                self.energy, self.still, (self.Q, self.s, w), nodal=(R, t), fixed=self.fixed, tol=1e-8
            )
        if not info.converged:
            raise info.error("the estimate")
        return R @ turn(d[:, :3]), t + d[:, 3:], info

    def positions(self, R: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """Positions (n, 3) at the minimum, of which (R, t) is one; differentiable in w."""
        d = ss.minimize(
            self.energy, self.still, (self.Q, self.s, w), nodal=(R, t), fixed=self.fixed, tol=1e-8
        )
        return t + d[:, 3:]


def read(poses: int) -> tuple[PoseGraph, PoseGraph]:
    """The measurements among the first poses, and the same without noise."""
    import gtsam

    folder, graphs = Path(gtsam.__file__).parent / "Data", []
    for name in ("sphere2500.txt", "sphere2500_groundtruth.txt"):
        lines = [line.split()[1:9] for line in (folder / name).open() if line.strip()]
        table = torch.tensor(np.array(lines, dtype=np.float64))
        table = table[(table[:, :2] < poses).all(1)]
        graphs.append(PoseGraph(table[:, :2].long(), rotation(table[:, 5:]), table[:, 2:5]))
    return graphs[0], graphs[1]


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    graph, exact = read(options.poses)
    _, truth = exact.relaxation()
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(len(graph.pairs), dtype=torch.float64)
    R, t = graph.relaxation()
    began = time.perf_counter()
    relaxed = float(graph.energy(graph.still, graph.Q, graph.s, ones, nodal=(R, t)))
    R, t, info = graph.improve(R, t, ones)
    per_step = (time.perf_counter() - began) / max(1, info.iterations)

    # Some measurements between poses far apart in time come out turned and shifted at random.
    closures = torch.nonzero((graph.pairs[:, 1] - graph.pairs[:, 0]).abs() > 1).squeeze(1)
    count = int(options.spoilt * len(closures))
    spoilt = closures[torch.randperm(len(closures), generator=generator)[:count]]
    s, Q = graph.s.clone(), graph.Q.clone()
    s[spoilt] += 4 * torch.randn(count, 3, generator=generator).double()
    Q[spoilt] = Q[spoilt] @ turn(torch.randn(count, 3, generator=generator).double())
    bad = PoseGraph(graph.pairs, Q, s)
    R_bad, t_bad, _ = bad.improve(R, t, ones)

    log_w = torch.zeros_like(ones, requires_grad=True)
    optimizer = torch.optim.Adam([log_w], lr=options.rate)
    history, R_w, t_w = [], R_bad, t_bad
    began = time.perf_counter()
    for _ in range(options.steps):
        optimizer.zero_grad()
        w = log_w.exp()
        with torch.no_grad():
            R_w, t_w, _ = bad.improve(R_w, t_w, w.detach())
        loss = (bad.positions(R_w, t_w, w) - truth).square().sum(1).mean()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    seconds = (time.perf_counter() - began) / max(1, options.steps)

    def error(t: Tensor) -> float:
        return float((t - truth).square().sum(1).mean().sqrt())

    kept = torch.ones(len(closures), dtype=torch.bool)
    kept[torch.isin(closures, spoilt)] = False
    w = log_w.detach().exp()
    published = PUBLISHED if graph.n == 2500 else None
    print(f"graph                 {graph.n} poses, {len(graph.pairs)} measurements")
    print(f"f                     {relaxed:.1f} (relaxed) -> {info.energy:.2f}")
    print(f"published optimum     {published or 'only for all poses'}")
    print(f"time                  {per_step:.3f} s per Newton step, {info.iterations} steps")
    print(f"spoilt measurements   {count} of {len(closures)} closures")
    print(f"rms error             {error(t):.3f} of the positions")
    print(
        f"  some spoilt         {error(t_bad):.3f} -> {error(t_w):.3f} by weights, {seconds:.2f} s per step"
    )
    for name, some in (("spoilt", spoilt), ("other", closures[kept])):
        print(f"median weight         {float(w[some].median()):.3f} of {name} closures")
    if options.output:
        plot(t, t_bad, t_w, w, closures, kept, history, options.output)
        print(f"picture               {options.output}")
    return {
        "f": info.energy,
        "published": published or float("nan"),
        "start": history[0],
        "end": history[-1],
        "spoilt": float(w[spoilt].median()),
        "others": float(w[closures[kept]].median()),
    }


def plot(
    t: Tensor,
    t_bad: Tensor,
    t_w: Tensor,
    w: Tensor,
    closures: Tensor,
    kept: Tensor,
    history: list,
    path: str,
) -> None:
    """Draw the three estimates, the weights and the way there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(13, 3.6), layout="constrained")
    titles = ["all measurements good", "some spoilt", "some spoilt, weights learned"]
    for k, (title, x) in enumerate(zip(titles, (t, t_bad, t_w))):
        ax = fig.add_subplot(1, 5, k + 1, projection="3d")
        ax.plot(*x.T.numpy(), lw=0.35, color="tab:blue")
        ax.set(title=title, box_aspect=(1, 1, 1))
        ax.set_axis_off()
    ax = fig.add_subplot(1, 5, 4)
    bins = np.linspace(-3, 1, 33)
    for mask, name in ((kept, "good"), (~kept, "spoilt")):
        share = np.full(int(mask.sum()), 1 / max(1, int(mask.sum())))
        ax.hist(w[closures[mask]].log10().numpy(), bins, weights=share, alpha=0.7, label=name)
    ax.set(title="learned weights", xlabel="log10 w", yticks=[])
    ax.legend(frameon=False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax = fig.add_subplot(1, 5, 5)
    ax.semilogy(history, lw=2)
    ax.set(title="mean squared error", xlabel="step")
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=75)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--poses", type=int, default=2500, help="how many of the 2500")
    parser.add_argument("--spoilt", type=float, default=0.02, help="share of spoilt closures")
    parser.add_argument("--steps", type=int, default=30, help="of the weights")
    parser.add_argument("--rate", type=float, default=0.2, help="of Adam")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="pose_graph.png", help="the picture; '' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
