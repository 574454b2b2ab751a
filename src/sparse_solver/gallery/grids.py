"""Scalar equations on regular grids: Laplacian, convection and diffusion, Helmholtz."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..matrix import SparseMatrix
from .family import grid_edges, grid_numbering, square_from_triplets


def grid_laplacian(
    shape: tuple[int, ...],
    boundary: Literal["dirichlet", "neumann"] = "dirichlet",
    *,
    dtype: torch.dtype = torch.float64,
) -> SparseMatrix:
    """Negative Laplacian on a d-dimensional grid, by the 2d+1-point stencil with unit spacing.

    Parameters
    ----------
    shape : tuple of int
        Points along each axis; unknowns are numbered in row-major order.
    boundary : {"dirichlet", "neumann"}
        With "dirichlet" the points just outside the grid hold zero and the matrix is positive
        definite. With "neumann" nothing crosses the boundary: this is the Laplacian of the grid
        graph, singular with the constant vector in its null space.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    SparseMatrix
        Symmetric, `(n, n)` with `n = prod(shape)`.

    Raises
    ------
    ValueError
        For an empty shape or an unknown boundary.

    Notes
    -----
    The eigenvalues are sums over the axes of `4 sin(k pi / (2 s + 2))^2`, `k = 1 ... s`, for
    Dirichlet and `4 sin(k pi / (2 s))^2`, `k = 0 ... s - 1`, for Neumann conditions on s points.

    References
    ----------
    .. [1] G. Strang, "The discrete cosine transform", SIAM Review 41(1), 1999, 135-147.

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> gallery.grid_laplacian((3,)).to_dense()
    tensor([[ 2., -1.,  0.],
            [-1.,  2., -1.],
            [ 0., -1.,  2.]], dtype=torch.float64)
    >>> gallery.grid_laplacian((20, 20, 20), "neumann").shape
    torch.Size([8000, 8000])
    """
    if boundary not in ("dirichlet", "neumann"):
        raise ValueError(f'boundary is {boundary!r}, expected "dirichlet" or "neumann"')
    n = grid_numbering(shape).numel()
    i, j = grid_edges(shape).unbind(1)
    if boundary == "dirichlet":
        degree = torch.full((n,), 2.0 * len(shape), dtype=dtype)
    else:
        degree = torch.bincount(torch.cat([i, j]), minlength=n).to(dtype)
    diagonal = torch.arange(n)
    indices = torch.stack([torch.cat([diagonal, i, j]), torch.cat([diagonal, j, i])])
    minus_ones = torch.full((2 * i.numel(),), -1.0, dtype=dtype)
    return square_from_triplets(indices, torch.cat([degree, minus_ones]), n)


def recirculating_wind(points: Tensor) -> Tensor:
    """Divergence-free vortex in the unit square (or cube): the "double glazing" wind.

    Parameters
    ----------
    points : Tensor
        Coordinates in `[0, 1]^d` with `d >= 2`, of shape `(n, d)`.

    Returns
    -------
    Tensor
        Velocities `(2 y (1 - x^2), -2 x (1 - y^2), 0, ...)` with x and y scaled to `[-1, 1]`, of
        shape `(n, d)`.
    """
    x, y = 2 * points[:, 0] - 1, 2 * points[:, 1] - 1
    wind = torch.zeros_like(points)
    wind[:, 0] = 2 * y * (1 - x**2)
    wind[:, 1] = -2 * x * (1 - y**2)
    return wind


def convection_diffusion(
    shape: tuple[int, ...],
    diffusion: float = 1e-2,
    wind: Sequence[float] | Callable[[Tensor], Tensor] = recirculating_wind,
    *,
    dtype: torch.dtype = torch.float64,
) -> SparseMatrix:
    """Steady convection and diffusion in the unit cube by first-order upwind differences.

    Parameters
    ----------
    shape : tuple of int
        Interior points along each axis; the spacing along an axis of s points is `1 / (s + 1)`.
    diffusion : float
        The coefficient epsilon, at least zero.
    wind : sequence of float, or callable
        The velocity: one number per axis, or a function from points `(n, d)` to velocities
        `(n, d)`. By default a vortex, which needs at least two axes.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    SparseMatrix
        Unsymmetric, with a symmetric structure and non-positive entries off the diagonal (an
        M-matrix if epsilon is positive).

    Notes
    -----
    Discretises `-epsilon Laplace(u) + wind . grad(u)` with u = 0 on the boundary; the derivative
    along each axis is taken towards where the wind comes from.

    References
    ----------
    .. [1] H. Elman, D. Silvester and A. Wathen, "Finite Elements and Fast Iterative Solvers",
       2nd ed., Oxford University Press, 2014, chapter 6 (example 6.1.4 for the wind).

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> gallery.convection_diffusion((3,), diffusion=0.0, wind=(1.0,)).to_dense()
    tensor([[ 4.,  0.,  0.],
            [-4.,  4.,  0.],
            [ 0., -4.,  4.]], dtype=torch.float64)
    """
    point = grid_numbering(shape)
    n, d = point.numel(), len(shape)
    axes = [torch.arange(1, s + 1, dtype=torch.float64) / (s + 1) for s in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(n, d)
    if callable(wind):
        velocity = wind(points)
    else:
        velocity = torch.as_tensor(tuple(wind), dtype=torch.float64).expand(n, -1)
    if tuple(velocity.shape) != (n, d):
        raise ValueError(f"wind has shape {tuple(velocity.shape)}, expected {(n, d)}")

    rows, cols, values = [point.reshape(-1)], [point.reshape(-1)], [points.new_zeros(n)]
    for axis, s in enumerate(shape):
        h = 1.0 / (s + 1)
        before = -(diffusion / h**2 + velocity[:, axis].clamp(min=0) / h)  # coefficient of u(x - h)
        after = -(diffusion / h**2 - velocity[:, axis].clamp(max=0) / h)  # coefficient of u(x + h)
        values[0] = values[0] - before - after
        low, high = (point.narrow(axis, k, s - 1).reshape(-1) for k in (0, 1))
        rows += [high, low]
        cols += [low, high]
        values += [before[high], after[low]]
    indices = torch.stack([torch.cat(rows), torch.cat(cols)])
    return square_from_triplets(indices, torch.cat(values).to(dtype), n)


def helmholtz(
    shape: tuple[int, ...],
    wavenumber: float | None = None,
    *,
    dtype: torch.dtype = torch.complex128,
) -> SparseMatrix:
    """Time-harmonic waves in the unit cube with an absorbing boundary.

    Parameters
    ----------
    shape : tuple of int
        Points along each axis, boundary included, at least 2; the spacing along an axis of s points
        is `1 / (s - 1)`.
    wavenumber : float, optional
        k; by default such that the coarsest axis has ten points per wave length.
    dtype : torch.dtype
        complex64 or complex128.

    Returns
    -------
    SparseMatrix
        Complex symmetric (`A = A^T`), neither hermitian nor, for k large enough, definite.

    Notes
    -----
    The weak form is `(grad u, grad v) - k^2 (u, v) - i k (u, v)_boundary`, in multilinear elements
    with the integrals taken by the trapezoidal rule at the grid points along the axes that are not
    differentiated. `exp(i k x)` passes through the boundary unreflected at normal incidence: it
    solves the system whose right-hand side is `-2 i k` times the weights of the face `x = 0`, up to
    an error of second order.

    References
    ----------
    .. [1] B. Engquist and A. Majda, "Absorbing boundary conditions for the numerical simulation of
       waves", Mathematics of Computation 31, 1977, 629-651.

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> A = gallery.helmholtz((20, 20)).to_dense()
    >>> A.equal(A.T), A.equal(A.conj().T)
    (True, False)
    """
    if not dtype.is_complex:
        raise ValueError(f"dtype is {dtype}, expected torch.complex64 or torch.complex128")
    if len(shape) == 0 or min(shape) < 2:
        raise ValueError(f"shape is {shape!r}, expected at least 2 points along each axis")
    k = 2 * math.pi * (min(shape) - 1) / 10 if wavenumber is None else wavenumber

    stiffness, mass = [], []
    for s in shape:
        h = 1.0 / (s - 1)
        ends = np.zeros(s)
        ends[[0, -1]] = 1
        off = np.full(s - 1, -1 / h)
        diagonal = (2 - ends) / h - 1j * k * ends
        stiffness.append(sp.diags_array([diagonal, off, off], offsets=[0, 1, -1]))
        mass.append(sp.diags_array(h * (1 - ends / 2)))

    A = -(k**2) * reduce(sp.kron, mass)
    for axis in range(len(shape)):
        factors = [stiffness[a] if a == axis else mass[a] for a in range(len(shape))]
        A = A + reduce(sp.kron, factors)
    return SparseMatrix.from_scipy(sp.csr_array(A)).to(dtype)
