"""Teach a network to see inside plates: 500 heat-conduction systems solved at once, in every step.

Each plate is a 10 x 10 grid whose conductivity kappa varies smoothly and is unknown. In three
experiments it is heated at another spot, and the temperature is read on its rim, with one per cent of
noise. A small network maps the readings of a plate to its log kappa. It never sees a true kappa: it is
trained by physics alone, so that the temperatures of the plate it guesses are those that were read,

    minimise   mean over plates of  ((u(kappa(readings)) - readings) / sigma)^2

Once trained it reads plates it has never met, without solving anything. Each step factors 500
matrices on one pattern, side by side, for all experiments and for the adjoint of all of them.

    python examples/heat_ensemble.py                # writes heat_ensemble.png
    python examples/heat_ensemble.py --plates 100   # fewer plates
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

import sparse_solver as ss

SIDE = 10
SPOTS = ((2, 2), (7, 4), (4, 8))  # heated, one for each experiment
WAVES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 1))  # that log kappa is made of
f64 = torch.float64


class Plates:
    """Steady heat conduction on one grid, for as many conductivities as are given."""

    def __init__(self) -> None:
        node = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
        self.i = torch.cat([node[:-1].flatten(), node[:, :-1].flatten()])
        self.j = torch.cat([node[1:].flatten(), node[:, 1:].flatten()])
        self.rim = torch.unique(torch.cat([node[0], node[-1], node[:, 0], node[:, -1]]))
        i, j, rim, n = self.i, self.j, self.rim, SIDE * SIDE
        self.pattern = ss.Pattern(torch.cat([i, j, i, j, rim]), torch.cat([j, i, i, j, rim]), (n, n))
        self.heat = torch.zeros(n, len(SPOTS), dtype=f64)
        for experiment, (x, y) in enumerate(SPOTS):
            self.heat[node[x, y], experiment] = 1.0
        at = (torch.arange(SIDE, dtype=f64) + 0.5) / SIDE
        self.waves = torch.stack(
            [torch.cos(math.pi * p * at)[:, None] * torch.cos(math.pi * q * at) for p, q in WAVES]
        ).flatten(1)

    def log_kappa(self, z: Tensor) -> Tensor:
        """Log conductivity (plates, n) of smooth fields with coefficients z (plates, waves)."""
        return 0.6 * z @ self.waves

    def readings(self, log_kappa: Tensor) -> Tensor:
        """Temperatures on the rim, (plates, rim, experiments)."""
        kappa = log_kappa.exp()
        flow = 2 / (1 / kappa[:, self.i] + 1 / kappa[:, self.j])  # between neighbours, in series
        cooling = torch.full((len(kappa), len(self.rim)), 0.1, dtype=f64)
        A = self.pattern.assemble(torch.cat([-flow, -flow, flow, flow, cooling], -1))
        return ss.solve(A, self.heat)[:, self.rim]


def network(inputs: int, width: int) -> torch.nn.Module:
    """Readings in, coefficients of log kappa out."""
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, len(WAVES)),
    ).to(f64)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.manual_seed(options.seed)
    plates = Plates()

    def measured(count: int) -> tuple[Tensor, Tensor, Tensor]:
        truth = plates.log_kappa(torch.randn(count, len(WAVES), dtype=f64))
        clean = plates.readings(truth)
        sigma = 0.01 * clean.std()
        return truth, clean + sigma * torch.randn_like(clean), sigma

    _, seen, sigma = measured(options.plates)
    unseen_truth, unseen, _ = measured(200)
    shift, spread = seen.mean(0), seen.std(0)
    net = network(shift.numel(), options.width)

    def guess(readings: Tensor) -> Tensor:
        return plates.log_kappa(net(((readings - shift) / spread).flatten(1)))

    def error() -> float:
        """Of log kappa, on plates never met, relative to how much they vary."""
        with torch.no_grad():
            return float((guess(unseen) - unseen_truth).norm() / unseen_truth.norm())

    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    misfits, errors = [], [error()]
    began = time.perf_counter()
    for _ in range(options.steps):
        optimizer.zero_grad()
        misfit = ((plates.readings(guess(seen)) - seen) / sigma).square().mean()
        misfit.backward()
        optimizer.step()
        schedule.step()
        misfits.append(misfit.item())
        errors.append(error())
    seconds = time.perf_counter() - began

    figures = {"start": errors[0], "end": errors[-1], "misfit": misfits[-1], "seconds": seconds}
    print(
        f"plates                {options.plates}, {SIDE * SIDE} unknowns, {len(SPOTS)} experiments each"
    )
    print(f"misfit, in noise      {math.sqrt(misfits[0]):.1f} -> {math.sqrt(misfits[-1]):.2f}")
    print(f"error of log kappa    {errors[0]:.2f} -> {errors[-1]:.3f} on 200 plates never met")
    print(f"time                  {1e3 * seconds / options.steps:.1f} ms per step")
    if options.output:
        draw(options.output, plates, misfits, errors, unseen_truth, guess(unseen).detach())
    return figures


def draw(
    path: str, plates: Plates, misfits: list[float], errors: list[float], truth: Tensor, guess: Tensor
) -> None:
    """Four plates never met, true and guessed, and the way there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(11, 4.4), width_ratios=[1, 1, 1, 1, 1.5])
    for column in range(4):
        for row, (field, name) in enumerate(((truth, "true"), (guess, "seen by the network"))):
            axis = axes[row, column]
            picture = field[column].reshape(SIDE, SIDE).numpy()
            axis.imshow(picture, cmap="inferno", vmin=-1.8, vmax=1.8, interpolation="bicubic")
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(f"log kappa, {name}", fontsize=8)
    for axis, series, label in (
        (axes[0, 4], [math.sqrt(m) for m in misfits], "misfit / noise"),
        (axes[1, 4], errors, "error on plates never met"),
    ):
        axis.semilogy(series)
        axis.set_title(label, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[1, 4].set_xlabel("step", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--plates", type=int, default=500)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="heat_ensemble.png", help="'' for no picture")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
