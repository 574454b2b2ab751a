"""Singular systems whose null space is known: pure Neumann problems, free elastic bodies.

Let the orthonormal columns of Z span the null spaces of A and of A^H, and let Z^H b = 0. With as many
unknowns prescribed as Z has columns the rest is regular; from its solution y follows

    x = (I - Z Z^H) y,

the solution orthogonal to Z. So a definite A stays definite, where a bordered matrix would not be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..matrix import SparseMatrix
from ..matrix.plain import is_plain, outside_transforms
from .contract import REAL, is_vector
from .fixed import Reduction, reduce_pattern

__all__ = ["Deflation", "read_nullspace"]

_ROUNDINGS = 1e4  # eps: how well A Z = 0 and Z^H b = 0 must hold


class Deflation:
    """How to solve with a singular A whose null space is spanned by Z.

    Attributes
    ----------
    matrix : SparseMatrix
        A.
    Z : Tensor, shape (n, r)
        Orthonormal columns.
    reduction : Reduction
        Prescribes r unknowns that Z tells apart.
    """

    def __init__(self, A: SparseMatrix, Z: Tensor, pins: Tensor) -> None:
        self.matrix, self.Z = A, Z
        self.reduction: Reduction = reduce_pattern(A.pattern, pins)
        numbers = A.detach()
        rests = [(B @ Z).abs().amax((-2, -1)) for B in (numbers, numbers.H)]  # each (*B)
        rest = torch.maximum(*rests)
        self._bad = rest > _ROUNDINGS * torch.finfo(A.dtype).eps * _row_sum(numbers)
        if is_plain(rest) and bool(self._bad.any()):
            raise ValueError(
                f"nullspace does not fit A (shape {tuple(A.shape)}): the largest entry of A Z is "
                f"{float(rests[0].max()):.1e} and of A^H Z {float(rests[1].max()):.1e}, for "
                "orthonormal Z; expected 0 up to rounding. For a regular A leave it out"
            )

    def enter(self, b: Tensor, A_shape: Any) -> tuple[Tensor, bool, Tensor | None]:
        """(b in columns without its rounding-level part in Z, whether x is to be a vector, which
        columns have no solution, where that cannot be raised).
        """
        vector = is_vector(A_shape, b.shape)
        columns = b.unsqueeze(-1) if vector else b
        Z = self.Z.to(torch.promote_types(self.Z.dtype, b.dtype))
        part = Z.mH @ columns.to(Z.dtype)  # (*B, r, k)
        size = torch.linalg.vector_norm(columns, dim=-2, keepdim=True)
        wrong = part.abs() > _ROUNDINGS * torch.finfo(b.dtype).eps * size
        if is_plain(wrong) and bool(wrong.any()):
            share = float((part.abs() / size).nan_to_num(0.0).max())
            raise ValueError(
                f"b (shape {tuple(b.shape)}) has a part in the null space, {share:.1e} of its length, "
                "so A x = b has no solution; take it out if that is meant: b - Z @ (Z.mH @ b) with "
                "orthonormal Z (for a constant one: b - b.mean())"
            )
        columns = columns - Z @ part
        if is_plain(wrong) and is_plain(self._bad):
            return columns, vector, None
        return columns, vector, wrong.any(-2, keepdim=True) | self._bad[..., None, None]

    def leave(self, y: Tensor, bad: Tensor | None) -> Tensor:
        """The solution orthogonal to Z from one that vanishes at the prescribed unknowns; inside
        transforms, where nothing can be raised, NaN where there is none.
        """
        Z = self.Z.to(torch.promote_types(self.Z.dtype, y.dtype))
        x = y - Z @ (Z.mH @ y)
        return x if bad is None else torch.where(bad, torch.nan, x)

    def fixed(self, columns: Tensor) -> tuple[Reduction, Tensor]:
        """The prescribed unknowns, as `solve_system` takes them."""
        return self.reduction, columns.new_zeros(len(self.reduction.fixed), columns.shape[-1])


def _row_sum(A: SparseMatrix) -> Tensor:
    """The largest sum of absolute values in a row: (*B)."""
    size = A.values.abs()
    rows, _ = A.pattern.indices(A.device)
    return size.new_zeros(*size.shape[:-1], A.shape[-1]).index_add(-1, rows, size).amax(-1)


def read_nullspace(A: SparseMatrix, nullspace: Any) -> Deflation:
    """The deflated system of ``nullspace="constant"`` or a basis (n, r), checked."""
    n = A.shape[-1]
    if n == 0:
        raise ValueError("nullspace was given for a matrix of shape (0, 0), which has none")
    A = A if A._base is None else SparseMatrix(A.pattern, A.values)
    if isinstance(nullspace, str):
        if nullspace != "constant":
            raise ValueError(
                f'nullspace={nullspace!r} is unknown; expected "constant" or a basis (n, r)'
            )
        Z = torch.full((n, 1), n**-0.5, dtype=A.dtype, device=A.device)
        # Any will do; the unknown with the most neighbours leaves the least fill.
        return Deflation(A, Z, torch.tensor([int(np.argmax(np.diff(A.pattern.indptr)))]))
    if not isinstance(nullspace, Tensor):
        raise TypeError(
            f'nullspace is a {type(nullspace).__name__}; expected "constant" or a tensor (n, r)'
        )
    if nullspace.ndim not in (1, 2) or nullspace.shape[0] != n or nullspace.numel() == 0:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and nullspace {tuple(nullspace.shape)}; expected ({n},) or "
            f"({n}, r), vectors as columns"
        )
    if REAL.get(nullspace.dtype) != REAL[A.dtype] or nullspace.is_complex() and not A.dtype.is_complex:
        raise TypeError(
            f"A has dtype {A.dtype} and nullspace {nullspace.dtype}; write nullspace.to({A.dtype})"
        )
    with outside_transforms():
        basis = nullspace.detach().reshape(n, -1).to(A.dtype)
        Z, R = torch.linalg.qr(basis)
        diagonal = R.diagonal().abs()
        if bool((diagonal <= n * torch.finfo(A.dtype).eps * diagonal.max()).any()):
            raise ValueError(
                f"the columns of nullspace (shape {tuple(nullspace.shape)}) are linearly dependent"
            )
        return Deflation(A, Z, _pins(Z))


def _pins(Z: Tensor) -> Tensor:
    """Unknowns at which the columns of Z are well told apart: pivoted QR of Z^H."""
    from scipy.linalg import qr

    pivots = qr(Z.mH.cpu().resolve_conj().numpy(), mode="r", pivoting=True)[1]
    return torch.from_numpy(np.sort(pivots[: Z.shape[1]]).astype(np.int64))
