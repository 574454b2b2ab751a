"""A robot on a sphere: where was it, and which of its measurements are wrong?

`sphere2500` is a standard problem of robotics: 2500 poses (R_i, t_i) along a spiral around a sphere,
and 4949 measurements (Q, s) of one pose seen from another: 2499 between successive poses and 2450 that
close a loop around the sphere. The most likely poses minimise

    chi^2 = sum over measurements  w | L log( (Q, s)^-1 (R_i, t_i)^-1 (R_j, t_j) ) |^2

with log that of rigid motions and L the square root of the information. It is an `ElementSum` of
residual blocks, minimised by Gauss-Newton steps on the manifold: each solves J^T J d = -J^T r, pose 0
held by `fixed=`, and carries the poses along d. Two linear solves give the start [1].

For w = 1 the minimum is 14806.8562: computed on the same file by both LevenbergMarquardtOptimizer and
GaussNewtonOptimizer of gtsam 4.3.0, with L = diag(100, 100, 25, 10, 10, 10) for (turn, shift). These
are the file's numbers, read as square roots: beside the file without noise the errors are 0.01, 0.01
and 0.04 rad and 0.1 m. And chi^2 comes out at 1.007 times the degrees of freedom, 14700.

Then 50 loops are closed wrongly, to a pose one to three steps off, which bends the sphere. The weights
of all closures are learned from one closure in ten that is kept aside:

    minimise over log w <= 0    chi^2 of what is kept aside / number  +  alpha mean |log w|

at the estimate from the others. Each gradient goes through that minimum by the implicit function
theorem, with the Hessian itself (not Gauss-Newton's J^T J), at the price of one more factorisation.

    python examples/pose_graph.py                          # writes pose_graph.png
    python examples/pose_graph.py --poses 500 --wrong 10   # a part of the sphere

The data, by M. Kaess, come with gtsam (pip install gtsam).

[1] L. Carlone, R. Tron, K. Daniilidis and F. Dellaert, "Initialization techniques for 3D SLAM: a survey
on rotation estimation and its use in pose graph optimization", ICRA 2015.
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

OPTIMUM = 14806.856202933643  # of all 2500 poses, by gtsam 4.3.0
ROOT = torch.tensor([100.0, 100.0, 25.0, 10.0, 10.0, 10.0], dtype=torch.float64)  # L


def product(p: Tensor, q: Tensor) -> Tensor:
    """The rotation q (..., 4), then p, as quaternions (scalar, vector) of any length."""
    (a, u), (b, v) = (p[..., :1], p[..., 1:]), (q[..., :1], q[..., 1:])
    scalar = a * b - (u * v).sum(-1, keepdim=True)
    return torch.cat([scalar, a * v + b * u + torch.linalg.cross(u, v)], -1)


def inverse(q: Tensor) -> Tensor:
    """The rotation back."""
    return torch.cat([q[..., :1], -q[..., 1:]], -1)


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """v (..., 3), rotated by q."""
    u, square = q[..., 1:], (q * q).sum(-1, keepdim=True)
    w = torch.linalg.cross(u, v)
    return v + 2 * (q[..., :1] * w + torch.linalg.cross(u, w)) / square


def turn(d: Tensor) -> Tensor:
    """The quaternion (1, d / 2): a rotation by almost |d| about d."""
    return torch.cat([torch.ones_like(d[..., :1]), d / 2], -1)


def from_angles(angles: Tensor) -> Tensor:
    """Rz(yaw) Ry(pitch) Rx(roll) for angles (..., 3) in the order roll, pitch, yaw."""
    axes = torch.eye(3, dtype=angles.dtype)
    c, s = (angles[..., None] / 2).cos(), (angles[..., None] / 2).sin() * axes
    roll, pitch, yaw = torch.cat([c, s], -1).unbind(-2)
    return product(product(yaw, pitch), roll)


def nearest(M: Tensor) -> Tensor:
    """The rotation nearest to a matrix (..., 3, 3): Davenport's q-method."""
    trace = M.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    skew = M - M.mT
    axial = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)[..., None]
    eye = torch.eye(3, dtype=M.dtype)
    K = torch.cat(
        [torch.cat([trace, axial.mT], -1), torch.cat([axial, M + M.mT - trace * eye], -1)], -2
    )
    return torch.linalg.eigh(K).eigenvectors[..., -1]


def arc(z: Tensor) -> Tensor:
    """(1 - atan(u) / u) / u^2 for z = u^2, smooth at zero."""
    small = z < 0.01
    near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z).sqrt()
    series = torch.zeros_like(z)
    for k in range(8, 0, -1):
        series = 1 / (2 * k + 1) - near * series
    return torch.where(small, series, (1 - torch.atan(far) / far) / far**2)


def logarithm(q: Tensor, e: Tensor) -> Tensor:
    """(turn, shift) (6,) of the screw that moves by (q, e), by less than half a turn."""
    y = q[1:] / q[0]  # tan(angle / 2) times the axis
    z = (y * y).sum()
    k = arc(z)
    omega = 2 * (1 - z * k) * y
    cross = torch.linalg.cross
    return torch.cat([omega, e - cross(omega, e) / 2 + k * cross(y, cross(y, e))])


def misfit(
    d: Tensor, q: Tensor, t: Tensor, Q: Tensor, s: Tensor, root: Tensor, weight: Tensor
) -> Tensor:
    """Residual block of a measurement, with both poses moved by d = (turn, shift)."""
    q_i, q_j = product(q, turn(d[:, :3])).unbind()
    back = inverse(Q)
    shift = rotate(inverse(q_i), t[1] + d[1, 3:] - t[0] - d[0, 3:]) - s
    return (
        weight.sqrt() * root * logarithm(product(back, product(inverse(q_i), q_j)), rotate(back, shift))
    )


def apart(x: Tensor, Q: Tensor, weight: Tensor) -> Tensor:
    """Misfit of a row of two rotations, taken for free matrices."""
    return weight * (x[1] - rotate(inverse(Q), x[0])).square().sum() / 2


def stretch(t: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Misfit of two positions that should be v apart."""
    return weight * (t[1] - t[0] - v).square().sum() / 2


Poses = tuple[Tensor, Tensor]  # rotations (n, 4), positions (n, 3)


class PoseGraph:
    """Measurements (Q, s) of pose j seen from pose i; pose 0 is held."""

    def __init__(self, pairs: Tensor, Q: Tensor, s: Tensor, n: int) -> None:
        self.pairs, self.Q, self.s, self.n = pairs, Q, s, n
        self.root = ROOT.expand(len(pairs), 6)
        self.energy = ss.ElementSum.least_squares(misfit, pairs)  # half of chi^2
        self.rows, self.springs = ss.ElementSum(apart, pairs), ss.ElementSum(stretch, pairs)
        self.still = torch.zeros(n, 6, dtype=torch.float64)
        self.fixed = (torch.arange(6), torch.zeros(6, dtype=torch.float64))
        self.steps = 0  # of Gauss-Newton, so far

    def relaxation(self, w: Tensor) -> Poses:
        """Poses from two linear problems: rotations as free matrices, then positions."""
        zero, first = torch.zeros(self.n, 3, dtype=torch.float64), torch.arange(3)
        eye = torch.eye(3, dtype=torch.float64)
        b = torch.zeros(3 * self.n, 3, dtype=torch.float64)  # a right-hand side for each row
        x = ss.solve(self.rows.hessian(zero, self.Q, w), b, fixed=(first, eye))
        q = nearest(x.reshape(self.n, 3, 3).mT)
        v = rotate(q[self.pairs[:, 0]], self.s)
        A, g = self.springs.hessian(zero, v, w), self.springs.gradient(zero, v, w)
        t = ss.solve(A, -g.reshape(-1), fixed=(first, torch.zeros(3, dtype=torch.float64)))
        return q, t.reshape(self.n, 3)

    def chi2(self, poses: Poses, w: Tensor, d: Tensor | None = None) -> Tensor:
        """chi^2, of the poses moved by d."""
        d = self.still if d is None else d
        return 2 * self.energy(d, self.Q, self.s, self.root, w, nodal=poses)

    @torch.no_grad()
    def gauss_newton(
        self, poses: Poses, w: Tensor, tol: float = 1e-8, history: list | None = None
    ) -> Poses:
        """Poses where no step is longer than tol (rad, m); one factorisation for each step."""
        given = (self.Q, self.s, self.root, w)
        chi2 = float(self.chi2(poses, w))
        for _ in range(100):
            if history is not None:
                history.append(chi2)
            g = self.energy.gradient(self.still, *given, nodal=poses).reshape(-1)
            # For a least-squares energy "psd" means J^T J.
            A = self.energy.hessian(self.still, *given, nodal=poses, project="psd")
            d = -ss.solve(A, g, fixed=self.fixed).reshape(self.still.shape)
            self.steps += 1
            before, chi2, length = chi2, float("inf"), 2.0
            while chi2 > before * (1 + 1e-9) and length > 1e-3:
                length /= 2
                moved = move(poses, length * d)
                chi2 = float(self.chi2(moved, w))
            poses = moved
            if float(d.abs().max()) < tol:
                return poses
        raise RuntimeError(f"Gauss-Newton still moves by {float(d.abs().max()):.1e} after 100 steps")

    def minimum(self, poses: Poses, w: Tensor, tol: float = 1e-7) -> Tensor:
        """How far (n, 6) the minimum is from poses nearby: almost zero, but differentiable in w."""
        given = (self.Q, self.s, self.root, w)
        return ss.minimize(
            self.energy, self.still, given, nodal=poses, fixed=self.fixed, project="none", tol=tol
        )


def move(poses: Poses, d: Tensor) -> Poses:
    """The poses, moved by d (n, 6): the retraction."""
    q = product(poses[0], turn(d[:, :3]))
    return q / torch.linalg.vector_norm(q, dim=-1, keepdim=True), poses[1] + d[:, 3:]


def read(poses: int) -> tuple[PoseGraph, PoseGraph]:
    """The measurements among the first poses, and the same without noise."""
    package, graphs = find_spec("gtsam"), []
    if package is None or package.origin is None:
        raise SystemExit("the data of this example come with gtsam; pip install gtsam")
    folder = Path(package.origin).parent / "Data"
    for name in ("sphere2500.txt", "sphere2500_groundtruth.txt"):
        lines = [line.split()[1:9] for line in (folder / name).open() if line.strip()]
        table = torch.tensor(np.array(lines, dtype=np.float64))
        table = table[(table[:, :2] < poses).all(1)]
        pairs, s, Q = table[:, :2].long(), table[:, 2:5].contiguous(), from_angles(table[:, 5:])
        graphs.append(PoseGraph(pairs, Q, s, int(pairs.max()) + 1))
    return graphs[0], graphs[1]


class Puzzle:
    """The graph with wrong closures among the others, a tenth of the true ones kept aside."""

    def __init__(self, graph: PoseGraph, wrong: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        pairs, Q, s, n = graph.pairs, graph.Q, graph.s, graph.n
        closures = torch.nonzero(pairs[:, 1] - pairs[:, 0] > 1).squeeze(1)
        closures = closures[torch.randperm(len(closures), generator=generator)]
        aside, taken = closures[: len(closures) // 10], closures[-wrong:]
        self.judge = PoseGraph(pairs[aside], Q[aside], s[aside], n)
        # What was measured of pose j is said of a pose one to three steps before or after it.
        off = torch.randint(1, 4, (wrong,), generator=generator)
        off *= 2 * torch.randint(0, 2, (wrong,), generator=generator) - 1
        i, j = pairs[taken].unbind(1)
        j = torch.where(j + off < n, j + off, j - off)
        kept = torch.ones(len(pairs), dtype=torch.bool)
        kept[aside] = False
        self.graph = PoseGraph(
            torch.cat([pairs[kept], torch.stack([i, j], 1)]),
            torch.cat([Q[kept], Q[taken]]),
            torch.cat([s[kept], s[taken]]),
            n,
        )
        pairs = self.graph.pairs
        self.closures = torch.nonzero(pairs[:, 1] - pairs[:, 0] > 1).squeeze(1)
        self.wrong = self.closures >= len(pairs) - wrong
        self.equal = torch.ones(len(aside), dtype=torch.float64)

    def weights(self, log_w: Tensor) -> Tensor:
        """Of all measurements, from those of the closures."""
        ones = torch.ones(len(self.graph.pairs), dtype=torch.float64)
        return ones.index_put((self.closures,), log_w.exp())

    def estimate(self, poses: Poses, w: Tensor, tol: float = 1e-6) -> tuple[Poses, Tensor]:
        """Poses near the minimum, and how far it is from them; differentiable in w."""
        poses = self.graph.gauss_newton(poses, w.detach(), tol=1e-2)
        return poses, self.graph.minimum(poses, w, tol)

    def error(self, poses: Poses, d: Tensor) -> Tensor:
        """chi^2 of what is kept aside, by its number; the poses are moved by d."""
        return self.judge.chi2(poses, self.equal, d) / (6 * len(self.equal))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    graph, exact = read(options.poses)
    ones = torch.ones(len(graph.pairs), dtype=torch.float64)
    truth = exact.relaxation(ones)[1]

    def rms(poses: Poses) -> float:
        return float((poses[1] - truth).square().sum(1).mean().sqrt())

    poses, path = graph.relaxation(ones), []
    began = time.perf_counter()
    best = graph.gauss_newton(poses, ones, history=path)
    per_step = (time.perf_counter() - began) / graph.steps
    freedom = 6 * (len(graph.pairs) - graph.n + 1)
    print(f"graph                 {graph.n} poses, {len(graph.pairs)} measurements")
    print(f"Gauss-Newton          {graph.steps} steps, {per_step:.2f} s each")
    for k, chi2 in enumerate(path):
        above = f", {chi2 - OPTIMUM:+.1e} against gtsam's {OPTIMUM:.4f}" if graph.n == 2500 else ""
        print(f"  chi^2 at {k}           {chi2:.4f}{above}")
    print(f"chi^2 / freedom       {path[-1]:.1f} / {freedom} = {path[-1] / freedom:.4f}")
    print(f"rms error             {rms(best):.2f} m of the positions")

    puzzle = Puzzle(graph, options.wrong)
    log_w = torch.zeros(len(puzzle.closures), dtype=torch.float64)
    with torch.no_grad():  # what could be had if one knew which are wrong
        known = puzzle.weights(torch.where(puzzle.wrong, -25.0, log_w))
        sound = puzzle.error(*puzzle.estimate(puzzle.graph.relaxation(known), known)).item()
        w = puzzle.weights(log_w)
        poses, d = puzzle.estimate(puzzle.graph.relaxation(w), w)
        bent = poses = move(poses, d)
    log_w.requires_grad_()
    optimizer = torch.optim.Adam([log_w], lr=options.rate)
    history: list[float] = []
    began = time.perf_counter()
    for step in range(options.steps + 1):
        optimizer.zero_grad()
        poses, d = puzzle.estimate(poses, puzzle.weights(log_w))
        error = puzzle.error(poses, d)
        history.append(error.item())
        poses = move(poses, d.detach())
        if step < options.steps:
            (error + options.alpha * log_w.abs().mean()).backward()
            optimizer.step()
            with torch.no_grad():
                log_w.clamp_(max=0.0)
    seconds = (time.perf_counter() - began) / (options.steps + 1)

    learned = log_w.detach().exp()
    wrong, right = learned[puzzle.wrong], learned[~puzzle.wrong]
    found, lost = int((wrong < 0.3).sum()), int((right < 0.3).sum())
    print(f"wrong closures        {len(wrong)} among {len(learned)}")
    print(f"gradient steps        {options.steps}, {seconds:.2f} s each")
    print(f"chi^2 kept aside      {history[0]:.3f} -> {history[-1]:.3f}; {sound:.3f} without the wrong")
    print(f"rms error             {rms(bent):.2f} -> {rms(poses):.2f} m of the positions")
    print(f"weight below 0.3      {found} of {len(wrong)} wrong, {lost} of {len(right)} right closures")
    if options.output:
        plot(puzzle, (best, bent, poses), truth, learned, path, (history, sound), options.output)
        print(f"picture               {options.output}")
    return {
        "chi2": path[-1],
        "freedom": freedom,
        "start": history[0],
        "end": history[-1],
        "sound": sound,
        "before": rms(bent),
        "after": rms(poses),
        "found": found / max(1, len(wrong)),
        "lost": lost / len(right),
    }


def plot(
    puzzle: Puzzle,
    poses: tuple[Poses, ...],
    truth: Tensor,
    learned: Tensor,
    path: list,
    course: tuple[list, float],
    file: str,
) -> None:
    """Draw the estimates, their errors, the weights and the ways there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    fig = plt.figure(figsize=(12, 7), layout="constrained")
    grid = fig.add_gridspec(2, 3, height_ratios=(1.5, 1))
    titles = ["all closures right", "50 wrong", "50 wrong, weights learned"]
    titles = [t.replace("50", str(int(puzzle.wrong.sum()))) for t in titles]
    far = float((poses[1][1] - truth).norm(dim=1).max())
    spheres = []
    middle, eye = truth.mean(0), torch.tensor([0.47, -0.81, 0.34], dtype=torch.float64)
    for k, (title, (_, t)) in enumerate(zip(titles, poses)):
        ax = fig.add_subplot(grid[0, k], projection="3d")
        off = (t - truth).norm(dim=1)
        front = torch.nonzero((t[1:] - middle) @ eye > 0).squeeze(1)  # what the eye sees
        segments = torch.stack([t[:-1], t[1:]], 1)[front].numpy()
        lines = Line3DCollection(segments, cmap="viridis", lw=1.3)
        lines.set_array(off[front].numpy())
        lines.set_clim(0, far)
        ax.add_collection3d(lines)
        ax.set(xlim=(-50, 50), ylim=(-50, 50), zlim=middle[2].item() + np.array([-50.0, 50.0]))
        ax.set_title(f"{title}\nrms error {float(off.square().mean().sqrt()):.2f} m", fontsize=11)
        ax.set_box_aspect((1, 1, 1), zoom=1.45)
        ax.view_init(20, -60)
        ax.set_axis_off()
        spheres.append(ax)
    fig.colorbar(lines, ax=spheres, shrink=0.7, label="distance from the true position [m]")
    ax = fig.add_subplot(grid[1, 0])
    above = np.array(path) - path[-1]
    above = above[above > 1e-12 * path[-1]]  # the rest is rounding
    ax.semilogy(above, "o-")
    ax.set(title="$\\chi^2$ above its minimum", xlabel="Gauss-Newton step", xticks=range(len(above)))
    curve = fig.add_subplot(grid[1, 1])
    curve.semilogy(course[0], lw=2, label="weights learned")
    curve.axhline(course[1], color="0.6", ls="--", label="wrong ones left out")
    curve.set(title="$\\chi^2$ kept aside, by its number", xlabel="step of the weights")
    curve.set_yticks(ticks := [2, 5, 10, 20], [str(t) for t in ticks])
    curve.minorticks_off()
    curve.legend(frameon=False)
    rest = fig.add_subplot(grid[1, 2])
    bins = np.linspace(-3.0, 0.0, 25)
    for mask, name in ((~puzzle.wrong, "right"), (puzzle.wrong, "wrong")):
        share = np.full(int(mask.sum()), 100 / max(1, int(mask.sum())))
        values = learned[mask].log10().clamp(min=-3)
        rest.hist(values.numpy(), bins, weights=share, alpha=0.7, label=f"{name} closures")
    rest.set(title="learned weights", xlabel="$\\log_{10} w$", ylabel="%")
    rest.legend(frameon=False)
    for axes in (ax, rest, curve):
        axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(file, dpi=80)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--poses", type=int, default=2500, help="how many of the 2500")
    parser.add_argument("--wrong", type=int, default=50, help="closures to a wrong pose")
    parser.add_argument("--steps", type=int, default=16, help="of the weights")
    parser.add_argument("--rate", type=float, default=0.5, help="of Adam")
    parser.add_argument("--alpha", type=float, default=5.0, help="price of weights other than one")
    parser.add_argument("--threads", type=int, default=1, help="more gain nothing at this size")
    parser.add_argument("--output", default="pose_graph.png", help="the picture; '' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
