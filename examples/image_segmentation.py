"""Cut a motorcycle out of a cluttered picture, with edge weights learned through the solve.

A random walker starts at every pixel; the label of a pixel is that of the scribble its walker most
likely meets first (Grady 2006). These probabilities are harmonic on the grid of pixels: zero flow
everywhere but at the scribbles, where they are 0 or 1. All there is to choose is how easily a walker
steps from pixel p to its neighbour q. Grady takes the difference of their colours c; here a metric
W (6 x 15) is learned,

    w_pq = exp(-beta |c_p - c_q|^2)        and        w_pq = exp(-12 tanh(|W (f_p - f_q)|^2 / 12))

for 15 features f of a pixel: its colour, sharp and blurred, and the contrast around it. W begins as
Grady's metric with the best beta, and descends the cross-entropy of the probabilities in every other
64 x 64 tile of the picture. Both are then compared in the other tiles, with the same scribbles and with
other seeds.

Neither colours nor scribbles made the reference: it is the depth that was measured together with the
picture, by structured light. Motorcycle is what stands nearer than the garage and out of the floor.

    python examples/image_segmentation.py              # writes image_segmentation.png
    python examples/image_segmentation.py --shrink 4   # every fourth pixel

L. Grady, "Random walks for image segmentation", IEEE PAMI 28(11), 2006. L. Cerrone, A. Zeilmann and
F. Hamprecht, "End-to-end learned random walker for seeded image segmentation", CVPR 2019. D. Scharstein
et al., "High-resolution stereo datasets with subpixel-accurate ground truth", GCPR 2014; the picture
comes with scikit-image.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor

import sparse_solver as ss

MOTORCYCLE = [  # scribbles, as (column, row) of their corners
    [(170, 192), (230, 200), (300, 228)],
    [(150, 243), (225, 243), (285, 285)],
    [(205, 325), (330, 352)],
    [(133, 300), (140, 350), (175, 386), (225, 383)],
    [(385, 230), (470, 205)],
    [(400, 275), (440, 330)],
    [(528, 160), (548, 170)],
    [(568, 250), (590, 330)],
    [(565, 290), (630, 300)],
    [(565, 390), (610, 430), (645, 430)],
]
GARAGE = [
    [(20, 440), (200, 450), (350, 470)],
    [(60, 60), (130, 40), (260, 60)],
    [(330, 30), (340, 100)],
    [(60, 320), (100, 400)],
    [(70, 90), (280, 90)],
    [(235, 415), (310, 405)],
    [(400, 30), (500, 60)],
    [(560, 60), (700, 60)],
    [(620, 180), (690, 240)],
    [(610, 140), (680, 140)],
    [(400, 430), (480, 460), (600, 485)],
    [(700, 330), (720, 450)],
]
TILE = 64  # pixels; every other one is for learning
FAR = 12.0  # distances saturate here: no weight is less than exp(-12)
BETAS = (130.0, 1e3, 3e3, 1e4, 3e4, 1e5)  # the first is scikit-image's default


def load() -> tuple[np.ndarray, np.ndarray]:
    """The picture (h, w, 3) in 0 ... 1 and the reference (h, w): 1 motorcycle, 0 not, nan not known."""
    from skimage import data

    picture, _, disparity = data.stereo_motorcycle()
    known = np.isfinite(disparity)
    rows, columns = np.indices(disparity.shape)
    bottom = known & (rows >= 455)  # floor alone: a plane, whose disparity is affine in row and column
    basis = np.stack([np.ones_like(rows), rows, columns], -1).astype(float)
    plane = basis @ np.linalg.lstsq(basis[bottom], disparity[bottom], rcond=None)[0]
    near = np.where(known, disparity, 0.0) > np.maximum(plane + 1.5, 34.0)
    return picture / 255.0, np.where(known, near, np.nan)


def draw(shape: tuple[int, int], scribbles: list) -> np.ndarray:
    """Where these polylines pass, five pixels wide."""
    from scipy.ndimage import binary_dilation
    from skimage.draw import line

    mask = np.zeros(shape, bool)
    for corners in scribbles:
        for (c0, r0), (c1, r1) in zip(corners, corners[1:]):
            mask[line(r0, c0, r1, c1)] = True
    return binary_dilation(mask, iterations=2)


def features(picture: np.ndarray) -> np.ndarray:
    """(h, w, 15): the colour; blurred to three widths; the contrast at these widths."""
    from scipy.ndimage import gaussian_filter

    blurred = [gaussian_filter(picture, (s, s, 0)) for s in (1.0, 2.0, 4.0)]
    gray = picture.mean(2)
    variance = [gaussian_filter(gray**2, s) - gaussian_filter(gray, s) ** 2 for s in (1.0, 2.0, 4.0)]
    contrast = np.sqrt(np.maximum(np.stack(variance, -1), 0.0))
    return np.concatenate([picture, *blurred, contrast], -1)


class Walk:
    """Random walks on a picture: who meets which seed first?"""

    def __init__(self, picture: np.ndarray) -> None:
        self.shape = h, w = picture.shape[:2]
        self.n = h * w
        nodes = torch.arange(self.n).reshape(h, w)
        across = torch.stack([nodes[:, :-1].ravel(), nodes[:, 1:].ravel()])
        down = torch.stack([nodes[:-1].ravel(), nodes[1:].ravel()])
        i, j = torch.cat([across, down], 1)
        self.pattern = ss.Pattern(torch.cat([i, j, i, j]), torch.cat([i, j, j, i]), (self.n, self.n))
        self.zero = torch.zeros(self.n, dtype=torch.float64)
        self.f = torch.from_numpy(features(picture))
        # W is in units of what neighbours usually differ by, beta in those of scikit-image.
        self.unit = torch.from_numpy(np.sqrt(np.mean(np.diff(self.f, axis=0) ** 2, axis=(0, 1))))
        self.scale = float(10 * picture.std() * 3**0.5)

    def distances(self, z: Tensor) -> Tensor:
        """|z_p - z_q|^2 of all pairs of neighbours, for z (h, w, any)."""
        across, down = (z[:, 1:] - z[:, :-1]).square(), (z[1:] - z[:-1]).square()
        return torch.cat([across.sum(2).ravel(), down.sum(2).ravel()])

    def grady(self, beta: float) -> Tensor:
        """Weights by colour alone, as scikit-image has them."""
        return torch.exp(-beta / self.scale * self.distances(self.f[..., :3])) + 1e-10

    def learned(self, W: Tensor) -> Tensor:
        """Weights by the metric W."""
        return torch.exp(-FAR * torch.tanh(self.distances(self.f / self.unit @ W.T) / FAR))

    def start(self, beta: float) -> Tensor:
        """W whose metric is Grady's, but for a trace of everything else."""
        W = 0.05 * torch.randn(6, len(self.unit), generator=torch.Generator().manual_seed(0))
        W = W.to(self.unit.dtype)
        W[:3, :3] += torch.diag(self.unit[:3] * (beta / self.scale) ** 0.5)
        return W

    def probability(self, w: Tensor, seeds: Tensor) -> Tensor:
        """(n,) to meet a seed of the object first; seeds (n,): 1 on it, 0 off it, -1 elsewhere."""
        A = self.pattern.assemble(torch.cat([w, w, -w, -w]))
        planted = torch.nonzero(seeds >= 0).squeeze(1)
        return ss.solve(A, self.zero, fixed=(planted, seeds[planted].double()))


def cross_entropy(u: Tensor, truth: Tensor) -> Tensor:
    """As if one label in 200 were wrong."""
    return torch.nn.functional.binary_cross_entropy(0.99 * u + 0.005, truth)


def overlap(u: Tensor, truth: Tensor) -> float:
    """Intersection over union of what is found and what is there."""
    found, there = u > 0.5, truth > 0.5
    return float((found & there).sum() / (found | there).sum())


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the example; return its key figures."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    picture, reference = load()
    drawn = np.where(draw(reference.shape, GARAGE), 0, -1)
    drawn[draw(reference.shape, MOTORCYCLE)] = 1
    rows, columns = np.indices(reference.shape) // TILE
    k = options.shrink
    walk = Walk(picture[::k, ::k])
    seeds, truth, odd = (
        torch.from_numpy(np.ascontiguousarray(a[::k, ::k])).ravel()
        for a in (drawn, reference, (rows + columns) % 2)
    )
    judged = ~truth.isnan() & (seeds < 0)
    used, held = (torch.nonzero(judged & (odd == t)).squeeze(1) for t in (0, 1))

    def figures(u: Tensor) -> list[float]:
        both = [(float(cross_entropy(u[t], truth[t])), overlap(u[t], truth[t])) for t in (used, held)]
        return [*both[0], *both[1]]

    with torch.no_grad():
        tried = {beta: walk.probability(walk.grady(beta), seeds) for beta in BETAS}
    by_hand = {beta: figures(u) for beta, u in tried.items()}
    beta = min(by_hand, key=lambda b: by_hand[b][0])
    W = walk.start(beta).requires_grad_()
    optimizer = torch.optim.Adam([W], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps, eta_min=0.005)
    history: list[float] = []
    began = time.perf_counter()
    for _ in range(options.steps):
        optimizer.zero_grad()
        u = walk.probability(walk.learned(W), seeds)
        loss = cross_entropy(u[used], truth[used])
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    seconds = time.perf_counter() - began
    W = W.detach()
    u = walk.probability(walk.learned(W), seeds)
    history.append(float(cross_entropy(u[used], truth[used])))
    found = figures(u)

    # Other seeds: labels of pixels picked at random from the tiles that were used
    pick = torch.randperm(len(used), generator=torch.Generator().manual_seed(0))[: options.clicks]
    clicks = torch.full_like(seeds, -1)
    clicks[used[pick]] = truth[used[pick]].to(clicks.dtype)
    clicked = [figures(walk.probability(w, clicks)) for w in (walk.grady(beta), walk.learned(W))]

    print(f"picture               {walk.n} pixels, {int((seeds >= 0).sum())} of them in scribbles")
    print(f"time                  {seconds / options.steps:.2f} s per step, {seconds:.0f} s in all")
    print("                      tiles to learn from           other tiles")
    print("weights               cross-entropy   overlap       cross-entropy   overlap")
    table = {f"Grady, beta {b:g}": by_hand[b] for b in BETAS} | {"learned": found}
    table |= dict(zip((f"clicks, beta {beta:g}", "clicks, learned"), clicked))
    for name, row in table.items():
        print(f"  {name:<20}{row[0]:>13.4f}{row[1]:>10.3f}{row[2]:>20.4f}{row[3]:>10.3f}")
    print(f"best by the tiles to learn from: beta {beta:g}")
    if options.output:
        plot(walk, picture[::k, ::k], seeds, truth, tried[beta], u, beta, W, history, options.output)
        print(f"picture               {options.output}")
    return {
        "start": history[0],
        "end": history[-1],
        "held_by_hand": by_hand[beta][2],
        "held": found[2],
        "overlap_by_hand": by_hand[beta][3],
        "overlap": found[3],
        "clicks_by_hand": clicked[0][3],
        "clicks": clicked[1][3],
        "smallest": float(u.min()),
        "largest": float(u.max()),
    }


def plot(
    walk: Walk,
    picture: np.ndarray,
    seeds: Tensor,
    truth: Tensor,
    by_hand: Tensor,
    u: Tensor,
    beta: float,
    W: Tensor,
    history: list[float],
    path: str,
) -> None:
    """Draw scribbles, probabilities, what holds walkers up, and the way down."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    h, w = walk.shape
    rows, columns = (a * 500 // h // TILE for a in np.indices((h, w)))
    extent = (0, 741, 500, 0)
    fig, axes = plt.subplots(2, 3, figsize=(12, 5.6), layout="constrained")
    outline = np.nan_to_num(truth.reshape(h, w).numpy())
    shown = np.where(((rows + columns) % 2)[..., None], 0.45, 1.0) * (0.7 * picture + 0.3)
    for label, color in ((1, (1.0, 0.9, 0.0)), (0, (0.0, 0.9, 1.0))):
        shown[seeds.reshape(h, w).numpy() == label] = color
    axes[0, 0].imshow(shown, extent=extent)
    axes[0, 0].set_title("scribbles; dark: tiles held back")
    for ax, p, name in ((axes[0, 1], by_hand, f"beta = {beta:g}"), (axes[0, 2], u, "learned")):
        image = ax.imshow(p.reshape(h, w).numpy(), cmap="RdYlBu_r", vmin=0, vmax=1, extent=extent)
        ax.contour(outline, [0.5], colors="k", linewidths=0.5, extent=(0, 741, 0, 500))
        ax.set_title(f"P(motorcycle), {name}")
    fig.colorbar(image, ax=axes[0, 1:], shrink=0.8)
    pairs = (
        (axes[1, 1], walk.grady(beta), f"beta = {beta:g}"),
        (axes[1, 2], walk.learned(W), "learned"),
    )
    for ax, weights, name in pairs:
        down = -weights[h * (w - 1) :].reshape(h - 1, w).log().numpy()
        across = -weights[: h * (w - 1)].reshape(h, w - 1).log().numpy()
        barrier = np.maximum(down[:, :-1], across[:-1])
        image = ax.imshow(barrier, cmap="gray_r", vmin=0, vmax=FAR, extent=extent)
        ax.set_title(f"-log w, {name}")
    fig.colorbar(image, ax=axes[1, 1:], shrink=0.8)
    for ax in axes.flat[[0, 1, 2]]:
        ax.set(xlim=(0, 741), ylim=(500, 0))
        ax.axis("off")
    for ax in axes[1, 1:]:  # a detail: the front wheel
        ax.set(xlim=(480, 741), ylim=(470, 230))
        ax.axis("off")
    axes[1, 0].plot(history, lw=2)
    axes[1, 0].set(title="cross-entropy, tiles to learn from", xlabel="step")
    axes[1, 0].spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=60)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shrink", type=int, default=1, help="take every so-many-th pixel")
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps (default: 50)")
    parser.add_argument("--clicks", type=int, default=1000, help="the other seeds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="image_segmentation.png", help="'' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
