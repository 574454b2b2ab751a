"""Systems with a zero diagonal block: Stokes flow and electric circuits."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import scipy.sparse as sp
import torch

from ..matrix import SparseMatrix
from .family import square_from_triplets


def stokes(
    shape: tuple[int, ...],
    viscosity: float = 1.0,
    *,
    pin_pressure: bool = True,
    dtype: torch.dtype = torch.float64,
) -> SparseMatrix:
    """Stokes flow in a closed box on a staggered (marker-and-cell) grid: a saddle point.

    Parameters
    ----------
    shape : tuple of int
        Cells along each of two or more axes, each at least 2; the unit of length is a cell's edge.
    viscosity : float
        mu, positive.
    pin_pressure : bool
        Whether the first cell's pressure is set to zero and left out. Otherwise the matrix is
        singular: pressures are then determined up to a constant.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    SparseMatrix
        `[[mu L, G], [G^T, 0]]`, symmetric and indefinite: it has as many negative eigenvalues as
        pressures. The unknowns are the velocities across the inner faces, axis after axis and in
        row-major order - for 2-D `(nx - 1) ny` and then `nx (ny - 1)` of them - followed by the
        pressures, one for each cell (but the first).

    Raises
    ------
    ValueError
        For fewer than two axes or two cells along an axis, or a viscosity that is not positive.

    Notes
    -----
    Discretises `-mu Laplace(u) + grad(p) = f`, `-div(u) = g` with u = 0 on the walls. Tangential
    velocities, which live half a cell from the walls, are reflected there. The scheme satisfies
    the inf-sup condition.

    References
    ----------
    .. [1] F. H. Harlow and J. E. Welch, "Numerical calculation of time-dependent viscous
       incompressible flow of fluid with free surface", Physics of Fluids 8, 1965, 2182-2189.

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> A = gallery.stokes((4, 5))
    >>> A.shape
    torch.Size([50, 50])
    >>> int((torch.linalg.eigvalsh(A.to_dense()) < 0).sum())  # 20 cells, one pinned
    19
    """
    d = len(shape)
    if d < 2 or min(shape) < 2:
        raise ValueError(f"shape is {shape!r}, expected at least 2 cells along 2 or more axes")
    if not viscosity > 0:
        raise ValueError(f"viscosity is {viscosity}, expected a positive number")
    laplacians, gradients = [], []
    for axis in range(d):
        terms = []
        for k in range(d):
            # along its own axis a velocity vanishes at walls it lives on, otherwise it is reflected
            second = [
                _second_difference(shape[k] - 1, 2.0)
                if k == axis
                else _second_difference(shape[k], 3.0)
            ]
            eyes = [sp.eye_array(shape[j] - (j == axis)) for j in range(d)]
            terms.append(reduce(sp.kron, eyes[:k] + second + eyes[k + 1 :]))
        laplacians.append(viscosity * sum(terms[1:], terms[0]))
        s = shape[axis]
        step = sp.diags_array([-np.ones(s - 1), np.ones(s - 1)], offsets=[0, 1], shape=(s - 1, s))
        whole = [sp.eye_array(shape[j]) for j in range(d)]
        gradients.append(reduce(sp.kron, whole[:axis] + [step] + whole[axis + 1 :]))
    L = sp.block_diag(laplacians)
    G = sp.csc_array(sp.vstack(gradients))[:, 1 if pin_pressure else 0 :]
    A = sp.block_array([[L, G], [G.T, None]], format="csr")
    return SparseMatrix.from_scipy(A).to(dtype)


def _second_difference(s: int, end: float) -> sp.dia_array:
    """Return tridiag(-1, 2, -1) of order s whose first and last diagonal entries grow to `end`."""
    diagonal = np.full(s, 2.0)
    diagonal[0] += end - 2
    diagonal[-1] += end - 2
    off = -np.ones(s - 1)
    return sp.diags_array([diagonal, off, off], offsets=[0, 1, -1])


def circuit(
    nodes: int,
    sources: int | None = None,
    amplifiers: int | None = None,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> SparseMatrix:
    """Modified nodal analysis of a random network of resistors, voltage sources and amplifiers.

    Parameters
    ----------
    nodes : int
        Nodes apart from the ground.
    sources : int, optional
        Voltage sources, each from the ground to a node of its own; by default a tenth of the nodes
        but at least one.
    amplifiers : int, optional
        Transconductances, each with a load resistor, at a node of its own; by default a fifth of
        the nodes.
    generator : torch.Generator, optional
        Source of all choices; the same seed gives the same circuit.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    SparseMatrix
        `[[G, B], [B^T, 0]]` of order `nodes + sources`: voltages, then currents through the
        sources. The diagonal is zero for the latter, values and structure are unsymmetric if there
        are amplifiers, and the matrix is never singular.

    Raises
    ------
    ValueError
        If there are more sources or amplifiers than nodes, or neither (nothing is grounded then).

    Notes
    -----
    The resistors join the nodes in a chain of random order, and as many again join random pairs;
    their conductances spread over four orders of magnitude. An amplifier at node o that is driven
    by node c adds its load g > 0 at `(o, o)` and a transconductance below g in size at `(o, c)`,
    so that G stays weakly chained diagonally dominant, as does what remains of it when the nodes
    of the sources are eliminated; hence the matrix is regular.

    References
    ----------
    .. [1] C. Ho, A. Ruehli and P. Brennan, "The modified nodal approach to network analysis", IEEE
       Transactions on Circuits and Systems 22(6), 1975, 504-509.

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> A = gallery.circuit(100, generator=torch.Generator().manual_seed(0))
    >>> A.shape, int((A.to_dense().diagonal() == 0).sum())
    (torch.Size([110, 110]), 10)
    """
    sources = max(1, nodes // 10) if sources is None else sources
    amplifiers = nodes // 5 if amplifiers is None else amplifiers
    if not (0 <= sources <= nodes and 0 <= amplifiers <= nodes and sources + amplifiers > 0):
        raise ValueError(
            f"got {sources} sources and {amplifiers} amplifiers for {nodes} nodes, expected at "
            "most one of each per node and at least one in all"
        )

    def draw(count: int) -> torch.Tensor:
        return torch.randint(0, nodes, (count,), generator=generator)

    def uniform(count: int, low: float, high: float) -> torch.Tensor:
        random = torch.rand(count, generator=generator, dtype=torch.float64)
        return low + (high - low) * random

    chain = torch.randperm(nodes, generator=generator)
    i, j = torch.cat([chain[:-1], draw(nodes)]), torch.cat([chain[1:], draw(nodes)])
    resistors = torch.exp(uniform(i.numel(), math.log(1e-2), math.log(1e2)))
    keep = i != j  # a resistor from a node to itself carries no current
    i, j, g = i[keep], j[keep], resistors[keep]

    o = torch.randperm(nodes, generator=generator)[:amplifiers]
    c = draw(amplifiers)
    load = torch.exp(uniform(amplifiers, 0.0, math.log(1e2)))
    gain = load * uniform(amplifiers, -0.95, 0.95)

    at = torch.randperm(nodes, generator=generator)[:sources]
    current = nodes + torch.arange(sources)
    one = torch.ones(sources, dtype=torch.float64)

    rows = torch.cat([i, j, i, j, o, o, at, current])
    cols = torch.cat([i, j, j, i, o, c, current, at])
    values = torch.cat([g, g, -g, -g, load, gain, one, one])
    indices = torch.stack([rows, cols])
    return square_from_triplets(indices, values.to(dtype), nodes + sources)
