"""Springs cut to length so that a beam hangs straight under its own weight.

A truss of masses and springs is clamped at its left end. Gravity bends it to the equilibrium of

    E(x, r) = sum over springs  k/2 (|x_i - x_j| / r - 1)^2 r   -   sum over masses  m g . x

which `minimize` finds by Newton's method. Which rest lengths r make the loaded beam straight? L-BFGS
changes them; each gradient goes through the equilibrium, at the price of one more solve:

    minimise over r    mean |x(r) - straight|^2 / cell^2  +  alpha mean (log (r / r_0))^2

    python examples/mass_spring_cantilever.py             # writes mass_spring_cantilever.png
    python examples/mass_spring_cantilever.py --cells 12  # a shorter beam
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

import sparse_solver as ss


def spring(x: Tensor, stiffness: Tensor, rest: Tensor) -> Tensor:
    """Energy of a spring whose stiffness is that of a rod of its length."""
    stretch = torch.linalg.vector_norm(x[1] - x[0]) / rest - 1
    return stiffness / 2 * stretch**2 * rest


def weight(x: Tensor, mass: Tensor, gravity: Tensor) -> Tensor:
    """Potential energy of a mass."""
    return -mass * (x[0] * gravity).sum()


class Beam:
    """A lattice of square cells with both diagonals, `cells` long and `rows` high."""

    def __init__(self, cells: int, rows: int, droop: float) -> None:
        i, j = torch.meshgrid(torch.arange(cells + 1), torch.arange(rows + 1), indexing="ij")
        self.straight = torch.stack([i, j], -1).reshape(-1, 2).double()
        number = i * (rows + 1) + j
        pairs = [
            (number[:-1], number[1:]),
            (number[:, :-1], number[:, 1:]),
            (number[:-1, :-1], number[1:, 1:]),
            (number[:-1, 1:], number[1:, :-1]),
        ]
        self.springs = torch.cat([torch.stack([a.ravel(), b.ravel()], 1) for a, b in pairs])
        ends = self.straight[self.springs]
        self.length = torch.linalg.vector_norm(ends[:, 1] - ends[:, 0], dim=1)
        nodes = torch.arange(len(self.straight))[:, None]
        self.energy = ss.ElementSum(spring, self.springs) + ss.ElementSum(weight, nodes)
        self.stiffness = torch.ones_like(self.length)
        # By beam theory the tip droops by q l^4 / (8 k I), with I / q = h (h + 2) / (12 m g) here.
        mass = droop * 8 * rows * (rows + 2) / 12 / cells**4
        self.mass = torch.full((len(nodes),), mass, dtype=torch.float64)
        self.gravity = torch.tensor([0.0, -1.0]).double().expand(len(nodes), 2)
        held = torch.arange(rows + 1)
        self.indices = torch.cat([2 * held, 2 * held + 1])
        self.values = self.straight.reshape(-1)[self.indices]
        self.start = self.straight  # where Newton begins: the last equilibrium
        self.newton_steps = 0

    def equilibrium(self, rest: Tensor) -> Tensor:
        """Positions (n, 2) under gravity for springs of these rest lengths; differentiable."""
        params = ((self.stiffness, rest), (self.mass, self.gravity))
        fixed = (self.indices, self.values)
        x, info = ss.minimize_ex(self.energy, self.start, params, fixed=fixed)
        if not info.converged:  # from far away: begin anew
            x = ss.minimize(self.energy, self.straight, params, fixed=fixed)
        self.start = x.detach()
        self.newton_steps += info.iterations
        return x


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    beam = Beam(options.cells, options.rows, options.droop)
    log_ratio = torch.zeros_like(beam.length, requires_grad=True)

    def loss(log_ratio: Tensor) -> Tensor:
        x = beam.equilibrium(beam.length * log_ratio.exp())
        return (x - beam.straight).square().mean() + options.alpha * log_ratio.square().mean()

    with torch.no_grad():
        drooping = beam.equilibrium(beam.length)
    beam.newton_steps = 0
    optimizer = torch.optim.LBFGS(
        [log_ratio], max_iter=options.steps, line_search_fn="strong_wolfe", tolerance_change=0
    )
    history: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(log_ratio)
        value.backward()
        history.append(value.item())
        return value

    began = time.perf_counter()
    optimizer.step(closure)
    seconds = time.perf_counter() - began
    each = beam.newton_steps / len(history)
    rest = (beam.length * log_ratio.detach().exp()).detach()
    with torch.no_grad():
        loaded = beam.equilibrium(rest)
        # What the springs would look like without load: the same energy with no gravity.
        beam.mass = 0 * beam.mass
        free = beam.equilibrium(rest)

    tip = [float((x - beam.straight).norm(dim=1).max()) for x in (drooping, loaded)]
    changed = float(log_ratio.detach().abs().max())
    print(f"beam                  {len(beam.straight)} masses, {len(beam.springs)} springs")
    print(f"equilibria            {len(history)}, {each:.1f} Newton steps each")
    print(f"time                  {seconds / len(history):.4f} s per equilibrium and gradient")
    print(f"loss                  {history[0]:.4g} -> {history[-1]:.4g}")
    print(f"largest displacement  {tip[0]:.4f} -> {tip[1]:.4f} cells")
    print(f"rest lengths          changed by at most {100 * changed:.1f} %")
    if options.output:
        plot(beam, drooping, loaded, free, log_ratio.detach(), history, options.output)
        print(f"picture               {options.output}")
    return {
        "start": history[0],
        "end": history[-1],
        "before": tip[0],
        "after": tip[1],
        "seconds": seconds,
    }


def plot(
    beam: Beam,
    drooping: Tensor,
    loaded: Tensor,
    free: Tensor,
    log_ratio: Tensor,
    history: list,
    path: str,
) -> None:
    """Draw the beam before and after, with and without its load."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    fig, axes = plt.subplots(2, 2, figsize=(11, 6), layout="constrained")
    span = 100 * float(log_ratio.abs().max())
    states = [
        (axes[0, 0], "all springs of equal length: it droops", drooping, 0 * log_ratio),
        (axes[0, 1], "springs cut to length: straight under load", loaded, log_ratio),
        (axes[1, 0], "the same springs without load", free, log_ratio),
    ]
    for ax, title, x, color in states:
        lines = LineCollection(x[beam.springs].numpy(), cmap="coolwarm", lw=1.2)
        lines.set_array(100 * color.numpy())
        lines.set_clim(-span, span)
        ax.add_collection(lines)
        ax.plot(*x.reshape(-1)[beam.indices].reshape(2, -1).numpy(), "ks", ms=4)
        ax.axhline(0, color="0.7", lw=0.8, ls="--", zorder=0)
        ax.set(title=title, aspect="equal", xticks=[], yticks=[])
        ax.autoscale()
        ax.spines[:].set_visible(False)
    fig.colorbar(lines, ax=axes[:, 0], label="change of rest length [%]", shrink=0.6)
    axes[1, 1].semilogy(history, lw=2)
    axes[1, 1].set(title="loss", xlabel="equilibria")
    axes[1, 1].spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=80)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=40, help="length of the beam")
    parser.add_argument("--rows", type=int, default=4, help="height of the beam")
    parser.add_argument("--droop", type=float, default=12.0, help="of the tip, about, in cells")
    parser.add_argument("--steps", type=int, default=60, help="of L-BFGS")
    parser.add_argument("--alpha", type=float, default=1e-6, help="price of changing springs")
    parser.add_argument("--threads", type=int, default=1, help="more gain nothing at this size")
    parser.add_argument("--output", default="mass_spring_cantilever.png", help="'' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
