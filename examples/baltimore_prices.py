"""Where in Baltimore does a house cost more than its size explains?

211 sales of 1978 (libpysal's "baltim", Dubin 1992). The logarithm of a price is modelled as

    y = Z beta + x(s) + e,     e ~ N(0, sigma^2)

with a few properties Z of the house, and x(s) an unknown smooth surface over the city: a Matern
field, whose precision matrix on a grid is sparse (Lindgren, Rue and Lindstrom 2011),

    Q = tau^2 (kappa^4 C + 2 kappa^2 G + G C^-1 G)

C the cells' areas and G the Laplacian. Range, size and noise are found by maximising the exact
marginal likelihood, whose gradient is that of two log-determinants and a solve:

    log p(y) = (log det Q - log det Q_y - m log 2 pi sigma^2 - |y|^2 / sigma^2 + mu^T Q_y mu) / 2

Q_y the precision and mu the mean given y. The second derivatives at the maximum tell how sure the
three are. The surface's mean, its standard deviation and draws come from the factor of Q_y.

    python examples/baltimore_prices.py                 # writes baltimore_prices.png
    python examples/baltimore_prices.py --spacing 4     # the same on a coarser grid
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import struct
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

import sparse_solver as ss

NAMES = ("range", "size of the surface", "noise")
VAGUE = 1e-4  # prior precision of beta


def sales() -> dict[str, np.ndarray]:
    """The columns of baltim.dbf, a table of fixed-width text, as libpysal's wheel has it."""
    found = importlib.util.find_spec("libpysal")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this example reads a file of libpysal: pip install libpysal")
    raw = (Path(found.submodule_search_locations[0]) / "examples/baltim/baltim.dbf").read_bytes()
    count, header, width = struct.unpack("<IHH", raw[4:12])
    columns, start = {}, 1
    for at in range(32, header - 1, 32):
        name, size = raw[at : at + 11].split(b"\0")[0].decode(), raw[at + 16]
        begins = (header + row * width + start for row in range(count))
        columns[name] = np.array([float(raw[b : b + size]) for b in begins])
        start += size
    return columns


class Surface:
    """A grid over the houses, and the model's two precision matrices, their patterns built once."""

    def __init__(self, s: np.ndarray, Z: np.ndarray, spacing: float, margin: float) -> None:
        low, high = s.min(0) - margin, s.max(0) + margin
        self.shape = tuple(int(k) for k in np.ceil((high - low) / spacing) + 1)
        self.low, self.spacing = low, spacing
        n = self.n = math.prod(self.shape)
        C, G = self.finite_elements()
        parts = [C, G, G @ sp.diags_array(1 / C.diagonal()) @ G]
        self.prior, self.terms = aligned(parts, n)
        # Unknowns of Q_y: the surface at the grid's nodes, then beta.
        M = sp.hstack([self.interpolation(s), sp.csr_array(Z)]).tocsr()
        p = Z.shape[1]
        beta = sp.diags_array(np.r_[np.zeros(n), np.full(p, VAGUE)])
        whole = [sp.block_diag([A, sp.csr_array((p, p))]) for A in parts]
        self.posterior, self.posterior_terms = aligned([*whole, beta, M.T @ M], n + p)
        self.M = ss.SparseMatrix.from_scipy(M)

    def finite_elements(self) -> tuple[sp.sparray, sp.sparray]:
        """Areas of the cells, and the Laplacian with no flow through the rim."""
        # Differences of neighbours along each axis, and their squares summed.
        steps = [sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(k - 1, k)) for k in self.shape]
        D = [A.T @ A for A in steps]
        one = [sp.eye_array(k) for k in self.shape]
        G = sp.kron(D[0], one[1]) + sp.kron(one[0], D[1])
        return sp.eye_array(self.n) * self.spacing**2, sp.csr_array(G)

    def interpolation(self, s: np.ndarray) -> sp.csr_array:
        """The surface at places s (m, 2), between the four nodes around each."""
        t = (s - self.low) / self.spacing
        cell = np.minimum(t.astype(int), np.array(self.shape) - 2)
        t = t - cell
        rows, cols, weights = [], [], []
        for a in (0, 1):
            for b in (0, 1):
                rows.append(np.arange(len(s)))
                cols.append((cell[:, 0] + a) * self.shape[1] + cell[:, 1] + b)
                weights.append(np.abs(1 - a - t[:, 0]) * np.abs(1 - b - t[:, 1]))
        entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(cols))
        return sp.csr_array(entries, shape=(len(s), self.n))

    def precisions(self, theta: Tensor) -> tuple[ss.SparseMatrix, ss.SparseMatrix]:
        """Q and Q_y at theta = log (range, size, noise)."""
        reach, size, sigma = theta.exp()
        kappa2 = 8 / reach**2
        tau2 = 1 / (4 * math.pi * kappa2 * size**2)  # so that the surface deviates by `size`
        weights = torch.stack([tau2 * kappa2**2, 2 * tau2 * kappa2, tau2])
        Q = ss.SparseMatrix(self.prior, weights @ self.terms)
        weights = torch.cat([weights, torch.ones_like(weights[:1]), sigma[None] ** -2])
        return Q, ss.SparseMatrix(self.posterior, weights @ self.posterior_terms)

    def log_likelihood(self, theta: Tensor, y: Tensor) -> Tensor:
        """log p(y), the surface and beta integrated out."""
        Q, Q_y = self.precisions(theta)
        noise = 2 * theta[2]
        rhs = (self.M.T @ y) * (-noise).exp()
        mu = ss.solve(Q_y, rhs, assume="spd")
        logs = ss.logdet(Q, assume="spd") - ss.logdet(Q_y, assume="spd")
        p = len(rhs) - self.n
        misfit = (y @ y) * (-noise).exp() - rhs @ mu
        return (logs + p * math.log(VAGUE) - len(y) * (math.log(2 * math.pi) + noise) - misfit) / 2


def aligned(parts: list[sp.sparray], n: int) -> tuple[ss.Pattern, Tensor]:
    """One pattern for all of `parts`, and the values of each on it: (parts, nnz)."""
    coo = [sp.coo_array(A) for A in parts]
    rows, cols = (np.concatenate([A.coords[axis] for A in coo]) for axis in (0, 1))
    P = ss.Pattern(rows, cols, (n, n))
    rows_of = []
    for k in range(len(coo)):
        data = [A.data if k == j else np.zeros(A.nnz) for j, A in enumerate(coo)]
        rows_of.append(P.assemble(torch.from_numpy(np.concatenate(data))).values)
    return P, torch.stack(rows_of)


def fit(surface: Surface, y: Tensor, steps: int) -> Tensor:
    """The theta of largest likelihood, by L-BFGS."""
    theta = torch.tensor(
        [math.log(20.0), math.log(0.3), math.log(0.3)], dtype=y.dtype, requires_grad=True
    )
    search = torch.optim.LBFGS(
        [theta], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = -surface.log_likelihood(theta, y)
        loss.backward()
        return loss

    search.step(closure)
    return theta.detach()


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Fit, report, draw; the figures reported are returned."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    table = sales()
    s = np.stack([table["X"], table["Y"]], 1)
    y = torch.from_numpy(np.log(table["PRICE"]))
    Z = np.stack([np.ones(len(y)), np.log(table["SQFT"]), table["NBATH"], table["AGE"] / 100], 1)
    surface = Surface(s, Z, options.spacing, options.margin)
    print(f"sales                 {len(y)}")
    print(f"unknowns              {surface.posterior.shape[0]}")

    start = time.perf_counter()
    theta = fit(surface, y, options.steps)
    seconds = time.perf_counter() - start
    likelihood = surface.log_likelihood(theta, y).item()
    hessian = torch.autograd.functional.hessian(lambda t: surface.log_likelihood(t, y), theta)
    deviation = torch.linalg.inv(-hessian).diagonal().sqrt()
    print(f"log likelihood        {likelihood:.3f}")
    print(f"seconds for the fit   {seconds:.1f}")
    for name, t, d in zip(NAMES, theta, deviation, strict=True):
        print(f"{name:<21} {t.exp():.3f}   (within a factor of {d.exp():.2f})")

    _, Q_y = surface.precisions(theta)
    F = ss.factorize(Q_y, assume="spd")
    mean = F.solve((surface.M.T @ y) * (-2 * theta[2]).exp())
    deviation_of_surface = F.inverse_diagonal().sqrt()
    draws = F.sample((2,), mean, torch.Generator().manual_seed(options.seed))
    beta, error = mean[surface.n :], deviation_of_surface[surface.n :]
    for name, b, e in zip(
        ("log size", "bathrooms", "century of age"), beta[1:], error[1:], strict=True
    ):
        print(f"{name:<21} {b:+.3f} +- {e:.3f}")
    if options.output:
        picture(options.output, surface, s, mean, deviation_of_surface, draws)
        print(f"picture               {options.output}")
    names = ("range", "size", "noise")
    return {"likelihood": likelihood, **{k: v.item() for k, v in zip(names, theta.exp(), strict=True)}}


def picture(
    path: str, surface: Surface, s: np.ndarray, mean: Tensor, deviation: Tensor, draws: Tensor
) -> None:
    """Mean, standard deviation and two draws of the surface, as factors of the price."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    extent = [
        bound
        for axis in (0, 1)
        for bound in (
            surface.low[axis],
            surface.low[axis] + surface.spacing * (surface.shape[axis] - 1),
        )
    ]
    fig, axes = plt.subplots(1, 4, figsize=(15, 4.0), layout="constrained", sharex=True, sharey=True)
    fields = [mean, deviation, *draws]
    titles = ["mean of the surface", "its standard deviation", "a draw given the sales", "another"]
    top = max(mean[: surface.n].abs().max().item(), draws[:, : surface.n].abs().max().item())
    for ax, field, title in zip(axes, fields, titles, strict=True):
        image = field[: surface.n].reshape(surface.shape).T.numpy()
        signed = {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
        style = {"cmap": "viridis", "vmin": 0} if field is deviation else signed
        shown = ax.imshow(image, origin="lower", extent=extent, interpolation="bilinear", **style)
        ax.plot(*s.T, ".", color="k", ms=2, alpha=0.6)
        ax.set(title=title, xticks=[], yticks=[])
        fig.colorbar(shown, ax=ax, orientation="horizontal", label="of log price", shrink=0.9)
    fig.suptitle(
        "Baltimore 1978: what a house's place adds to the logarithm of its price (dots: 211 sales)"
    )
    fig.savefig(path, dpi=110)
    plt.close(fig)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spacing", type=float, default=1.5, help="of the grid (default: 1.5)")
    parser.add_argument("--margin", type=float, default=15.0, help="of the grid around the houses")
    parser.add_argument("--steps", type=int, default=50, help="of L-BFGS, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="baltimore_prices.png", help="the picture; '' for none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
