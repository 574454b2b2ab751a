"""The problems of these benchmarks: identity + weighted Laplacian of a grid graph; elasticity."""

from __future__ import annotations

import numpy as np
import torch


class GridProblem:
    """A(w) = I + sum_e w_e (e_i - e_j)(e_i - e_j)^T over the edges (i, j) of a grid.

    This is the matrix of the original library's README. With its b of ones the solution is
    constant and the gradient exactly zero, so b is random here.
    """

    def __init__(self, side: int, dimension: int, seed: int = 0) -> None:
        self.name = f"{dimension}d-{side}"
        self.n = side**dimension
        self.generator = torch.Generator().manual_seed(seed)
        i, j = (torch.from_numpy(ends) for ends in grid_edges(side, dimension))
        nodes = torch.arange(self.n)
        self.rows = torch.cat([nodes, i, j, i, j])
        self.cols = torch.cat([nodes, j, i, i, j])
        self.indices = torch.stack([self.rows, self.cols])
        self.ones = torch.ones(self.n, dtype=torch.float64)
        self.b = torch.rand(self.n, dtype=torch.float64, generator=self.generator)
        self.edges = len(i)

    def weights(self) -> torch.Tensor:
        """Return new random edge weights, a leaf that requires grad."""
        w = torch.rand(self.edges, dtype=torch.float64, generator=self.generator) + 0.5
        return w.requires_grad_()

    def values(self, w: torch.Tensor) -> torch.Tensor:
        """Values of the triplets (rows, cols), in their order; those of one place add up."""
        return torch.cat([self.ones, -w, -w, w, w])


def grid_edges(side: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of every edge of a grid with `side` nodes in each direction."""
    node = np.arange(side**dimension).reshape((side,) * dimension)
    ends = [(np.delete(node, -1, axis), np.delete(node, 0, axis)) for axis in range(dimension)]
    i = np.concatenate([first.ravel() for first, _ in ends])
    j = np.concatenate([second.ravel() for _, second in ends])
    return i, j


class Elasticity:
    """A cube of side^3 free nodes, clamped at one face; w are the Young's moduli of its elements."""

    def __init__(self, side: int, seed: int = 0) -> None:
        from sparse_solver.gallery import elasticity_elements

        self.name = f"elasticity-{side}"
        self._family = elasticity_elements((side, side - 1, side - 1))
        held = 3 * side * side  # of the face where the first coordinate is zero
        self._free = (self._family.indices >= held).all(0)
        self.rows, self.cols = self._family.indices[:, self._free] - held
        self.n = self._family.n - held
        self.generator = torch.Generator().manual_seed(seed)
        self.b = torch.rand(self.n, dtype=torch.float64, generator=self.generator)

    def weights(self) -> torch.Tensor:
        """Return new random moduli."""
        m = self._family.num_weights
        return torch.rand(m, dtype=torch.float64, generator=self.generator) + 0.5

    def values(self, w: torch.Tensor) -> torch.Tensor:
        """Values of the triplets (rows, cols), in their order; those of one place add up."""
        return self._family.values(w)[self._free]


def parse_matrix(name: str) -> GridProblem | Elasticity:
    """Turn "2d-500" or "elasticity-20" into the problem of that name."""
    kind, _, side = name.partition("-")
    return Elasticity(int(side)) if kind == "elasticity" else parse(name)


def parse(name: str) -> GridProblem:
    """Turn "2d-500" into the problem of that name."""
    dimension, side = name.split("d-")
    return GridProblem(int(side), int(dimension))
