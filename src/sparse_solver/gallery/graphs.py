"""Weighted graphs: the problems of the original pytorch-sparse-solve and of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .family import MatrixFamily, grid_edges, triplet_pattern


@dataclass(frozen=True, eq=False)
class GraphLaplacian(MatrixFamily):
    """The family `A(w) = I + sum_e w_e (e_i - e_j)(e_i - e_j)^T` over the edges e = (i, j).

    Attributes
    ----------
    indices, pattern
        As in `MatrixFamily`. The triplets are the n diagonal positions, then `(i, j)`, `(j, i)`,
        `(i, i)`, `(j, j)`, each for all m edges; their values are `1, -w, -w, w, w`.
    edges : Tensor
        Vertex numbers, int64 of shape `(m, 2)`. Self loops add nothing to the matrix.
    """

    edges: Tensor

    @property
    def num_weights(self) -> int:
        """Number of edges m."""
        return self.edges.shape[0]

    def _values(self, weights: Tensor) -> Tensor:
        ones = weights.new_ones(*weights.shape[:-1], self.n)
        return torch.cat([ones, -weights, -weights, weights, weights], dim=-1)


def edge_graph(n: int, edges: Tensor) -> GraphLaplacian:
    """Identity plus the weighted Laplacian of a graph given by its edges.

    Parameters
    ----------
    n : int
        Number of vertices.
    edges : Tensor
        Vertex numbers in `[0, n)`, of an integer dtype and shape `(m, 2)`.

    Returns
    -------
    GraphLaplacian
        Positive definite for non-negative weights.

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> path = gallery.edge_graph(3, torch.tensor([[0, 1], [1, 2]]))
    >>> path.assemble(torch.tensor([1.0, 10.0])).to_dense()
    tensor([[  2.,  -1.,   0.],
            [ -1.,  12., -10.],
            [  0., -10.,  11.]])
    """
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"edges has shape {tuple(edges.shape)}, expected (m, 2)")
    edges = edges.to(torch.int64)
    i, j = edges.unbind(1)
    diagonal = torch.arange(n, device=edges.device)
    indices = torch.stack([torch.cat([diagonal, i, j, i, j]), torch.cat([diagonal, j, i, i, j])])
    return GraphLaplacian(indices, triplet_pattern(indices, n), edges)


def random_edge_graph(
    n: int, edges: int | None = None, *, generator: torch.Generator | None = None
) -> GraphLaplacian:
    """Identity plus the Laplacian of a random graph, the README problem of pytorch-sparse-solve.

    Parameters
    ----------
    n : int
        Number of vertices.
    edges : int, optional
        Number of edges drawn, `6 n` by default. Repeated draws count once, so that the graph has
        somewhat fewer; `(i, j)` and `(j, i)` are two edges, and self loops may occur.
    generator : torch.Generator, optional
        Source of the edges; the same seed gives the same graph.

    Returns
    -------
    GraphLaplacian
        With one weight per distinct edge.

    References
    ----------
    .. [1] A. Jacobson and A. Ramakrishnan, pytorch-sparse-solve,
       https://github.com/alecjacobson/pytorch-sparse-solve

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> problem = gallery.random_edge_graph(100, generator=torch.Generator().manual_seed(0))
    >>> weights = torch.ones(problem.num_weights)
    >>> problem.assemble(weights).to_dense().sum(1).allclose(torch.ones(100))
    True
    """
    draws = 6 * n if edges is None else edges
    drawn = torch.randint(0, n, (draws, 2), generator=generator)
    return edge_graph(n, torch.unique(drawn, dim=0))


def grid_graph(shape: tuple[int, ...]) -> GraphLaplacian:
    """Identity plus the weighted Laplacian of a d-dimensional grid graph, the benchmark problem.

    Parameters
    ----------
    shape : tuple of int
        Points along each axis; numbered in row-major order.

    Returns
    -------
    GraphLaplacian
        With one weight per pair of nearest neighbours: all edges along the first axis, then the
        second, and so on.

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> problem = gallery.grid_graph((3, 3))
    >>> problem.n, problem.num_weights, problem.pattern.nnz
    (9, 12, 33)
    """
    n = int(torch.tensor(shape).prod())
    return edge_graph(n, grid_edges(shape))


@dataclass(frozen=True, eq=False)
class CyclicChain(MatrixFamily):
    """The family of `cyclic_chain`; triplets `(i, i)`, then `(i, i + 1)`, then `(i + 1, i)`."""

    @property
    def num_weights(self) -> int:
        """Number of links, as many as unknowns."""
        return self.n

    def _values(self, weights: Tensor) -> Tensor:
        diagonal = 1 + weights + weights.roll(1, dims=-1)
        return torch.cat([diagonal, -weights, -weights], dim=-1)


def cyclic_chain(n: int) -> CyclicChain:
    """Springs that join neighbours on a ring, the benchmark problem of pytorch-sparse-solve.

    Parameters
    ----------
    n : int
        Number of unknowns and of springs.

    Returns
    -------
    CyclicChain
        Tridiagonal but for two corners; positive definite for non-negative weights.

    Notes
    -----
    `x^T A x = |x|^2 + sum_i theta_i (x_i - x_{i+1})^2` with indices modulo n: the diagonal is
    `1 + theta_i + theta_{i-1}`, and `-theta_i` stands at `(i, i + 1)` and `(i + 1, i)`.

    References
    ----------
    .. [1] A. Jacobson and A. Ramakrishnan, pytorch-sparse-solve,
       https://github.com/alecjacobson/pytorch-sparse-solve

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> gallery.cyclic_chain(4).assemble(torch.tensor([1.0, 2.0, 3.0, 4.0])).to_dense()
    tensor([[ 6., -1.,  0., -4.],
            [-1.,  4., -2.,  0.],
            [ 0., -2.,  6., -3.],
            [-4.,  0., -3.,  8.]])
    """
    here = torch.arange(n)
    there = here.roll(-1)
    indices = torch.stack([torch.cat([here, here, there]), torch.cat([here, there, here])])
    return CyclicChain(indices, triplet_pattern(indices, n))
