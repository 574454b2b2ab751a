"""Real problems that ship with other packages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..matrix import SparseMatrix

_EXAMPLES = ("airfoil", "bar", "helmholtz_2D", "recirc_flow", "unit_cube")


@dataclass(frozen=True, eq=False)
class RealProblem:
    """A matrix from practice with the mesh it was assembled on.

    Attributes
    ----------
    name : str
        As given to `load`.
    matrix : SparseMatrix
        float64 or complex128.
    vertices : Tensor
        Coordinates, float64 of shape `(v, d)`. Those where a value is prescribed come last and have
        no unknown in the matrix.
    elements : Tensor
        Vertex numbers, int64 of shape `(m, p)`.
    near_nullspace : Tensor
        Vectors that the matrix nearly maps to zero (constants, rigid motions), float64 of shape
        `(n, r)`; what algebraic multigrid wants to know.
    """

    name: str
    matrix: SparseMatrix
    vertices: Tensor
    elements: Tensor
    near_nullspace: Tensor


def load(name: str) -> RealProblem:
    """Load a real problem that comes with pyamg.

    Parameters
    ----------
    name : str
        One of

        ============== ======== ===========================================================
        name           unknowns what it is
        ============== ======== ===========================================================
        "airfoil"      260      Poisson equation around a wing section, triangles
        "bar"          600      linear elasticity of a clamped bar, hexahedra
        "helmholtz_2D" 2880     waves, discontinuous triangles, complex
        "recirc_flow"  225      convection and diffusion, unsymmetric, quadrilaterals
        "unit_cube"    125      Poisson equation in a cube, tetrahedra
        ============== ======== ===========================================================

    Returns
    -------
    RealProblem
        Matrix, vertices, elements and near null space.

    Raises
    ------
    ValueError
        For an unknown name.
    ImportError
        If pyamg is not installed.

    References
    ----------
    .. [1] N. Bell, L. N. Olson, J. Schroder and B. Southworth, "PyAMG: Algebraic Multigrid Solvers
       in Python", Journal of Open Source Software 8(87), 2023, 5495.

    Examples
    --------
    >>> from sparse_solver import gallery
    >>> airfoil = gallery.load("airfoil")
    >>> airfoil.matrix.shape, airfoil.vertices.shape, airfoil.elements.shape
    (torch.Size([260, 260]), torch.Size([322, 2]), torch.Size([582, 3]))
    """
    if name not in _EXAMPLES:
        raise ValueError(f"name is {name!r}, expected one of {', '.join(map(repr, _EXAMPLES))}")
    try:
        from pyamg.gallery import load_example
    except ImportError as error:
        raise ImportError(
            f"gallery.load({name!r}) reads data of pyamg, which is not installed: "
            "pip install sparse_solver[examples]"
        ) from error
    data = load_example(name)
    elements = data["elements"].astype(np.int64)
    elements -= elements.min()  # recirc_flow counts from 1
    return RealProblem(
        name=name,
        matrix=SparseMatrix.from_scipy(sp.csr_array(data["A"])),
        vertices=torch.from_numpy(data["vertices"].astype(np.float64)),
        elements=torch.from_numpy(elements),
        near_nullspace=torch.from_numpy(data["B"].astype(np.float64)),
    )
