"""Read 1797 handwritten digits, 100 of them labelled, on a graph whose edge weights are learned.

Neighbours on a graph of similar pictures should have similar labels: with the labels of some clamped,
the others' are harmonic, each the weighted mean of its neighbours' (Zhu, Ghahramani and Lafferty 2003).
What the weights are is left open,

    w_ij = exp(-sum_k s_k (x_ik - x_jk)^2)

and 64 scales s_k, one for each pixel, are too many to tune by hand. So we learn them from the labels
there are: clamp half of them, propagate, and descend the cross-entropy at the other half, each half in
its turn,

    L(s) = -mean over the labels not clamped of log u_label(s) + 0.01 |log s - mean of log s|^2

through the solve: ten right-hand sides, one for each digit, and for each half one analysis in all and
one factorisation per step. Then all 100 labels are clamped, and the 1697 that were never looked at tell
how good it is - against one scale for all pixels, chosen by the same labels. All this for several draws
of the 100.

    python examples/label_propagation.py             # writes label_propagation.png
    python examples/label_propagation.py --each 30   # 300 labels

X. Zhu, Z. Ghahramani and J. Lafferty, "Semi-supervised learning using Gaussian fields and harmonic
functions", ICML 2003. The digits come with scikit-learn: E. Alpaydin and C. Kaynak, "Optical
recognition of handwritten digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import sparse_solver as ss

SCALES = (0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # tried for all pixels alike


class Graph:
    """Pictures (n, pixels), joined if one is among the nearest of the other."""

    def __init__(self, x: Tensor, neighbours: int = 10) -> None:
        from scipy.spatial import cKDTree

        self.n = len(x)
        near = torch.from_numpy(cKDTree(x.numpy()).query(x.numpy(), neighbours + 1)[1][:, 1:])
        pairs = torch.stack([torch.arange(self.n).repeat_interleave(neighbours), near.ravel()], 1)
        self.edges = i, j = torch.unique(pairs.sort(1).values, dim=0).unbind(1)
        self.apart = (x[i] - x[j]).square()  # (edges, pixels)
        self.pattern = ss.Pattern(torch.cat([i, j, i, j]), torch.cat([i, j, j, i]), (self.n, self.n))
        self.zero = torch.zeros(self.n, dtype=x.dtype)

    def weights(self, log_scales: Tensor) -> Tensor:
        """One for each edge; none so small that a picture is cut off."""
        return torch.exp(-self.apart @ log_scales.exp()) + 1e-9

    def propagate(self, log_scales: Tensor, clamped: Tensor, labels: Tensor) -> Tensor:
        """(n, 10): how much each picture is each digit, by the labels (n,) of the clamped ones."""
        w = self.weights(log_scales)
        A = self.pattern.assemble(torch.cat([w, w, -w, -w]))
        known = torch.nn.functional.one_hot(labels[clamped], 10).to(w.dtype)
        return ss.solve(A, self.zero, fixed=(clamped, known))


def cross_entropy(u: Tensor, labels: Tensor) -> Tensor:
    """As if one label in 50 were wrong."""
    return torch.nn.functional.nll_loss(torch.log(0.98 * u + 0.002), labels)


@dataclass
class Draw:
    """What came of one draw of the labels."""

    common: float  # the one scale for all pixels
    history: list[float]  # cross-entropy at the labels not clamped
    log_scales: Tensor
    before: Tensor  # (n,) digits read with one scale; with the learned ones
    after: Tensor
    unseen: Tensor  # pictures whose labels were never looked at


def choose(labels: Tensor, each: int, seed: int) -> Tensor:
    """The pictures whose labels are shown: as many of each digit, first one half and then the other."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shown = torch.stack([shuffled[labels[shuffled] == digit][:each] for digit in range(10)])
    return shown.T.ravel()


def learn(graph: Graph, labels: Tensor, shown: Tensor, steps: int) -> Draw:
    """Learn from the labels of the pictures shown, clamping half of them and asking for the others."""
    first, second = shown.chunk(2)

    def missed(log_scales: Tensor) -> Tensor:
        first_asked = graph.propagate(log_scales, second, labels)[first]
        second_asked = graph.propagate(log_scales, first, labels)[second]
        u, truth = torch.cat([first_asked, second_asked]), torch.cat([labels[first], labels[second]])
        return cross_entropy(u, truth)

    pixels, dtype = graph.apart.shape[1], graph.apart.dtype
    with torch.no_grad():
        tried = [float(missed(torch.full((pixels,), s, dtype=dtype).log())) for s in SCALES]
    common = SCALES[int(np.argmin(tried))]
    start = torch.full((pixels,), common, dtype=dtype).log()
    log_scales = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([log_scales], lr=0.1)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = missed(log_scales)
        spread = (log_scales - log_scales.mean()).square().sum()
        (loss + 0.01 * spread).backward()
        optimizer.step()
        history.append(loss.item())
    found = log_scales.detach()
    history.append(float(missed(found)))
    before, after = (graph.propagate(s, shown, labels).argmax(1) for s in (start, found))
    unseen = torch.ones(graph.n, dtype=torch.bool).index_fill(0, shown, False)
    return Draw(common, history, found, before, after, torch.nonzero(unseen).squeeze(1))


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    from sklearn.datasets import load_digits

    options = parse(argv)
    torch.set_num_threads(options.threads)
    digits = load_digits()
    x, labels = torch.from_numpy(digits.data / 16.0), torch.from_numpy(digits.target).long()
    graph = Graph(x)
    draws = []
    began = time.perf_counter()
    print("draw      one scale: wrong        64 scales: wrong        cross-entropy")
    for seed in range(100, 100 + options.draws):
        d = learn(graph, labels, choose(labels, options.each, seed), options.steps)
        draws.append(d)
        wrong = [int((u != labels)[d.unseen].sum()) for u in (d.before, d.after)]
        way = f"{d.history[0]:.3f} -> {d.history[-1]:.3f}"
        print(f"{seed:>4}{d.common:>15g}: {wrong[0]:<22}{wrong[1]:<18}{way}")
    seconds = time.perf_counter() - began
    before, after = (
        torch.tensor([(getattr(d, a) != labels)[d.unseen].double().mean() for d in draws])
        for a in ("before", "after")
    )
    start, end = (float(np.mean([d.history[k] for d in draws])) for k in (0, -1))
    print(f"graph                 {graph.n} pictures, {len(graph.edges[0])} edges")
    print(
        f"time                  {seconds:.0f} s, {seconds / len(draws) / options.steps:.3f} s per step"
    )
    print(f"cross-entropy         {start:.3f} -> {end:.3f}, at the labels to learn from")
    print(f"wrong, never seen     {before.mean():.2%} -> {after.mean():.2%}, {len(draws)} draws")
    if options.output:
        plot(x, labels, draws, before, after, options.output)
        print(f"picture               {options.output}")
    return {
        "start": start,
        "end": end,
        "before": float(before.mean()),
        "after": float(after.mean()),
    }


def plot(
    x: Tensor, labels: Tensor, draws: list[Draw], before: Tensor, after: Tensor, path: str
) -> None:
    """Draw the way down, the errors, the scales, and digits read only with the learned ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(13, 3.4), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=[3, 1.35])
    axes = left.subplots(1, 3)
    for d in draws:
        axes[0].plot(d.history, color="C0", lw=1, alpha=0.6)
    axes[0].set(title="cross-entropy by draw", xlabel="step", ylim=(0, None))
    top = 105 * float(max(before.max(), after.max()))
    axes[1].plot([0, top], [0, top], color="0.6", lw=1)
    axes[1].plot(100 * before.numpy(), 100 * after.numpy(), "o")
    axes[1].set(title="unseen read wrong, %", xlabel="one scale", ylabel="64 scales")
    axes[1].set(xlim=(0, top), ylim=(0, top), aspect="equal")
    for ax in axes[:2]:
        ax.spines[["top", "right"]].set_visible(False)
    relative = torch.stack([d.log_scales - d.log_scales.mean() for d in draws]).mean(0)
    image = axes[2].imshow(relative.reshape(8, 8).exp().numpy(), cmap="viridis")
    axes[2].set_title("scales / their mean")
    axes[2].axis("off")
    left.colorbar(image, ax=axes[2], shrink=0.8)
    corrected = [
        (int(p), int(d.before[p]))
        for d in draws
        for p in d.unseen[(d.before != labels)[d.unseen] & (d.after == labels)[d.unseen]]
    ]
    several = {p: wrong for p, wrong in corrected}
    step = max(1, len(several) // 12)
    right.suptitle("wrong reading corrected", fontsize=11)
    for ax, (p, wrong) in zip(right.subplots(3, 4).flat, list(several.items())[::step]):
        ax.imshow(x[p].reshape(8, 8).numpy(), cmap="gray_r")
        ax.set_title(f"{wrong} → {int(labels[p])}", fontsize=9)
    for ax in right.axes:
        ax.axis("off")
    fig.savefig(path, dpi=80)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--each", type=int, default=10, help="known labels of each digit, an even number"
    )
    parser.add_argument("--draws", type=int, default=10, help="of those that are known")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps (default: 40)")
    parser.add_argument("--threads", type=int, default=1, help="more gain nothing at this size")
    parser.add_argument("--output", default="label_propagation.png", help="'' for none")
    options = parser.parse_args(argv)
    if options.each < 2 or options.each % 2:
        parser.error(f"--each {options.each}: half of the labels are clamped, so give an even number")
    return options


if __name__ == "__main__":
    main()
