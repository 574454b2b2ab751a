"""Finite elements: diffusion on simplices and linear elasticity on bricks, weighted by element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..matrix import SparseMatrix
from .family import MatrixFamily, grid_numbering, square_from_triplets, triplet_pattern


@dataclass(frozen=True, eq=False)
class ElementMatrices(MatrixFamily):
    """The family `A(w) = sum_e w_e P_e^T K_e P_e` of weighted element matrices.

    Attributes
    ----------
    indices, pattern
        As in `MatrixFamily`; element after element, each row by row, `t = m q^2` triplets.
    vertices : Tensor
        Coordinates, of shape `(v, d)`.
    elements : Tensor
        Vertex numbers of the elements, int64 of shape `(m, p)`.
    dofs : Tensor
        Unknowns of the elements, int64 of shape `(m, q)`: the vertices themselves for a scalar
        equation, `d * vertex + component` for displacements.
    local : Tensor
        Element matrices K_e for unit weight, of shape `(m, q, q)`.
    measure : Tensor
        Area or volume of the elements, of shape `(m,)`.
    """

    vertices: Tensor
    elements: Tensor
    dofs: Tensor
    local: Tensor
    measure: Tensor

    @property
    def num_weights(self) -> int:
        """Number of elements m."""
        return self.local.shape[0]

    def _values(self, weights: Tensor) -> Tensor:
        local = self.local.to(weights.device)
        return (weights[..., None, None] * local).flatten(-3)


def _element_matrices(
    vertices: Tensor, elements: Tensor, dofs: Tensor, local: Tensor, measure: Tensor, n: int
) -> ElementMatrices:
    q = dofs.shape[1]
    rows = dofs[:, :, None].expand(-1, q, q).reshape(-1)
    cols = dofs[:, None, :].expand(-1, q, q).reshape(-1)
    indices = torch.stack([rows, cols])
    pattern = triplet_pattern(indices, n)
    return ElementMatrices(indices, pattern, vertices, elements, dofs, local, measure)


def diffusion(vertices: Tensor, elements: Tensor) -> ElementMatrices:
    """Stiffness matrix of `-div(kappa grad u)` in linear (P1) elements, kappa given by element.

    Parameters
    ----------
    vertices : Tensor
        Coordinates, of shape `(n, d)`; the dtype of the matrix.
    elements : Tensor
        Vertex numbers of segments, triangles or tetrahedra, of shape `(m, d + 1)`.

    Returns
    -------
    ElementMatrices
        With kappa as the weights, `(*B, m)`. For positive kappa the matrix is positive
        semidefinite, and the constant vectors of each connected part are its null space: prescribe
        values on a part of the boundary by `sparse_solver.solve(A, b, fixed=...)`.

    Raises
    ------
    ValueError
        If the shapes do not fit or an element has no volume.

    Notes
    -----
    `K_e[a, b] = |e| grad(phi_a) . grad(phi_b)` with the barycentric coordinates phi, whose
    gradients are the columns of the inverse of the matrix of the element's edges.

    References
    ----------
    .. [1] J. Alberty, C. Carstensen and S. A. Funken, "Remarks around 50 lines of Matlab: short
       finite element implementation", Numerical Algorithms 20, 1999, 117-137.

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> vertices = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> problem = gallery.diffusion(vertices, torch.tensor([[0, 1, 2]]))
    >>> problem.assemble(torch.tensor([2.0])).to_dense()
    tensor([[ 2., -1., -1.],
            [-1.,  1.,  0.],
            [-1.,  0.,  1.]])
    """
    n, d = vertices.shape
    if elements.ndim != 2 or elements.shape[1] != d + 1:
        raise ValueError(
            f"elements has shape {tuple(elements.shape)}, expected (m, {d + 1}): simplices of "
            f"vertices of shape {tuple(vertices.shape)}"
        )
    elements = elements.to(torch.int64)
    corners = vertices[elements]  # (m, d + 1, d)
    edges = corners[:, 1:] - corners[:, :1]  # (m, d, d)
    measure = torch.linalg.det(edges).abs() / math.factorial(d)
    if bool((measure == 0).any()):
        flat = int((measure == 0).nonzero()[0, 0])
        raise ValueError(f"element {flat} with vertices {elements[flat].tolist()} has no volume")
    # phi_b(x) for b >= 1 is column b - 1 of inv(edges) times (x - corner 0); phi_0 = 1 - the others
    others = torch.linalg.inv(edges).mT
    gradients = torch.cat([-others.sum(1, keepdim=True), others], dim=1)  # (m, d + 1, d)
    local = measure[:, None, None] * (gradients @ gradients.mT)
    return _element_matrices(vertices, elements, elements, local, measure, n)


def elasticity_elements(
    shape: tuple[int, ...],
    poisson_ratio: float = 0.3,
    spacing: float | Sequence[float] = 1.0,
    *,
    dtype: torch.dtype = torch.float64,
) -> ElementMatrices:
    """Linear elasticity on a grid of rectangles or hexahedra, Young's modulus given by element.

    Parameters
    ----------
    shape : tuple of int
        Elements along each of two axes (plane strain) or three.
    poisson_ratio : float
        nu, in (-1, 0.5).
    spacing : float or sequence of float
        Edge length of the elements, for all axes or for each.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    ElementMatrices
        With Young's modulus as the weights, `(*B, m)`. The matrix is positive semidefinite; its
        null space is spanned by `rigid_body_modes(problem.vertices)`. Unknown `d i + c` is
        component c of the displacement of vertex i; vertices are numbered in row-major order.

    Raises
    ------
    ValueError
        For other than two or three axes, or a Poisson ratio outside (-1, 0.5).

    Notes
    -----
    `K_e[(a, i), (b, j)]` is the integral over the element, exact by two Gauss points per axis, of
    `lambda d_i phi_a d_j phi_b + mu d_j phi_a d_i phi_b + mu delta_ij grad(phi_a) . grad(phi_b)`
    with multilinear shape functions phi and Lame's parameters `lambda = nu / ((1 + nu)(1 - 2 nu))`
    and `mu = 1 / (2 (1 + nu))`.

    References
    ----------
    .. [1] T. J. R. Hughes, "The Finite Element Method", Dover, 2000, sections 2.7-2.9 and 3.2-3.9.
    .. [2] E. Andreassen et al., "Efficient topology optimization in MATLAB using 88 lines of code",
       Structural and Multidisciplinary Optimization 43, 2011, 1-16.

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> problem = gallery.elasticity_elements((8, 3))
    >>> problem.n, problem.num_weights, tuple(problem.local.shape)
    (72, 24, (24, 8, 8))
    """
    d = len(shape)
    if d not in (2, 3):
        raise ValueError(f"shape is {shape!r}, expected the elements along 2 or 3 axes")
    if not -1 < poisson_ratio < 0.5:
        raise ValueError(f"poisson_ratio is {poisson_ratio}, expected a number in (-1, 0.5)")
    h = torch.as_tensor(spacing, dtype=torch.float64).expand(d)

    number = grid_numbering(tuple(s + 1 for s in shape))
    axes = [torch.arange(s + 1, dtype=torch.float64) * step for s, step in zip(shape, h.tolist())]
    vertices = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
    corner = torch.cartesian_prod(*[torch.arange(2)] * d)  # (2^d, d), row-major as the grid is
    first = number[tuple(slice(None, -1) for _ in shape)].reshape(-1)
    strides = torch.tensor(number.stride())
    elements = first[:, None] + (corner * strides).sum(1)  # (m, 2^d)
    dofs = (d * elements[:, :, None] + torch.arange(d)).flatten(1)

    K = _brick_stiffness(corner.double(), h, poisson_ratio)
    m = elements.shape[0]
    local = K.to(dtype).expand(m, -1, -1)
    measure = h.prod().to(dtype).expand(m)
    n = d * vertices.shape[0]
    return _element_matrices(vertices.to(dtype), elements, dofs, local, measure, n)


def _brick_stiffness(corner: Tensor, h: Tensor, nu: float) -> Tensor:
    """Stiffness `(d 2^d, d 2^d)` of a brick with edges h and Young's modulus 1."""
    d = h.numel()
    lame, shear = nu / ((1 + nu) * (1 - 2 * nu)), 1 / (2 * (1 + nu))
    gauss = torch.tensor([0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12)], dtype=h.dtype)
    points = torch.cartesian_prod(*[gauss] * d)  # (g, d)
    # phi_a(x) = prod_k (x_k where the corner is at 1, 1 - x_k where it is at 0)
    factor = torch.where(corner == 1, points[:, None], 1 - points[:, None])  # (g, 2^d, d)
    gradient = torch.empty_like(factor)
    for axis in range(d):
        others = [k for k in range(d) if k != axis]
        sign = 2 * corner[:, axis] - 1
        gradient[:, :, axis] = sign * factor[:, :, others].prod(-1) / h[axis]
    weight = h.prod() / points.shape[0]
    dot = torch.einsum("gak,gbk,ij->aibj", gradient, gradient, torch.eye(d, dtype=h.dtype))
    divergence = torch.einsum("gai,gbj->aibj", gradient, gradient)
    transposed = torch.einsum("gaj,gbi->aibj", gradient, gradient)
    K = weight * (lame * divergence + shear * (transposed + dot))
    return K.reshape(d * corner.shape[0], -1)


def elasticity(
    shape: tuple[int, ...],
    poisson_ratio: float = 0.3,
    *,
    clamped: bool = True,
    dtype: torch.dtype = torch.float64,
) -> SparseMatrix:
    """Stiffness matrix of a cantilever of unit squares or cubes with Young's modulus 1.

    Parameters
    ----------
    shape : tuple of int
        Elements along each of two or three axes.
    poisson_ratio : float
        nu, in (-1, 0.5).
    clamped : bool
        Whether the face where the first coordinate is zero is held. Its unknowns, the first ones,
        are then left out and the matrix is positive definite; otherwise rigid motions make it
        singular.
    dtype : torch.dtype
        Of the values.

    Returns
    -------
    SparseMatrix
        Symmetric.

    See Also
    --------
    elasticity_elements : the same, with a modulus for each element.

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> gallery.elasticity((8, 3)).shape, gallery.elasticity((8, 3), clamped=False).shape
    (torch.Size([64, 64]), torch.Size([72, 72]))
    """
    problem = elasticity_elements(shape, poisson_ratio, dtype=dtype)
    values = problem.values(torch.ones(problem.num_weights, dtype=dtype))
    held = len(shape) * math.prod(s + 1 for s in shape[1:]) if clamped else 0
    free = (problem.indices >= held).all(0)
    return square_from_triplets(problem.indices[:, free] - held, values[free], problem.n - held)


def rigid_body_modes(vertices: Tensor) -> Tensor:
    """Translations and infinitesimal rotations of points, the null space of free elasticity.

    Parameters
    ----------
    vertices : Tensor
        Coordinates, of shape `(v, d)` with d = 2 or 3.

    Returns
    -------
    Tensor
        Of shape `(d v, d (d + 1) / 2)`, components of one vertex next to each other; the columns
        are not orthogonal.

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> gallery.rigid_body_modes(torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    tensor([[ 1.,  0., -0.],
            [ 0.,  1.,  0.],
            [ 1.,  0., -1.],
            [ 0.,  1.,  2.]])
    """
    v, d = vertices.shape
    translations = torch.eye(d, dtype=vertices.dtype).repeat(v, 1)
    rotations = []
    for i in range(d):
        for j in range(i + 1, d):
            mode = torch.zeros_like(vertices)
            mode[:, i], mode[:, j] = -vertices[:, j], vertices[:, i]
            rotations.append(mode.reshape(-1))
    return torch.cat([translations, torch.stack(rotations, 1)], 1)


def refine_triangles(vertices: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
    """Split each triangle into four at the midpoints of its edges.

    Parameters
    ----------
    vertices : Tensor
        Coordinates, of shape `(n, d)`.
    elements : Tensor
        Vertex numbers, of shape `(m, 3)`.

    Returns
    -------
    vertices : Tensor
        The old vertices first, under their old numbers, then one for each edge.
    elements : Tensor
        Of shape `(4 m, 3)`; those of old triangle e are `4 e ... 4 e + 3`, with its orientation.

    Examples
    --------
    >>> import torch
    >>> from sparse_solver import gallery
    >>> vertices = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> finer, triangles = gallery.refine_triangles(vertices, torch.tensor([[0, 1, 2]]))
    >>> finer[3:].tolist(), triangles.tolist()
    ([[0.5, 0.0], [0.0, 0.5], [0.5, 0.5]], [[0, 3, 4], [1, 5, 3], [2, 4, 5], [3, 5, 4]])
    """
    n = vertices.shape[0]
    a, b, c = elements.to(torch.int64).unbind(1)
    sides = torch.stack([torch.stack(pair, 1) for pair in ((a, b), (b, c), (c, a))], 1)  # (m, 3, 2)
    low, high = sides.sort(-1).values.unbind(-1)
    keys, where = torch.unique(low * n + high, return_inverse=True)  # one number for each edge
    edges = torch.stack([keys // n, keys % n], 1)
    ab, bc, ca = (n + where).unbind(1)
    quarters = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    finer = torch.stack([torch.stack(quarter, 1) for quarter in quarters], 1).reshape(-1, 3)
    return torch.cat([vertices, vertices[edges].mean(1)]), finer
