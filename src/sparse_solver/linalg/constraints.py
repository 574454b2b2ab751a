"""Linear equality constraints: A x + C^H mu = b, C x = d.

For symmetric A that is the stationary point of x^H A x / 2 - b^H x among all x with C x = d (a
minimum if A is definite there). One symmetric indefinite, or general, matrix

    K = [ A  C^H ]
        [ C   0  ]

carries both, so derivatives in A, C, b and d of every order are those of a solve with K.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..matrix import Pattern, SparseMatrix
from ..matrix.plain import outside_transforms, refuse_compiling
from .contract import REAL, is_vector

__all__ = ["Saddle", "read_constraints"]

_KEPT = 8  # saddle-point patterns of one pattern


class Saddle:
    """The system with A's unknowns followed by one multiplier for each constraint.

    Attributes
    ----------
    matrix : SparseMatrix
        K, shape (*B, n + m, n + m).
    """

    def __init__(self, A: SparseMatrix, C: SparseMatrix, d: Tensor) -> None:
        self.n, self.d = A.shape[-1], d
        pattern = _saddle_pattern(A.pattern, C.pattern)
        dtype = torch.promote_types(A.dtype, C.dtype)
        below, batch = C.values, torch.broadcast_shapes(A.shape[:-2], C.shape[:-2])
        parts = (A.values, below.conj() if below.is_complex() else below, below)
        self.matrix = pattern.assemble(
            torch.cat([v.to(dtype).expand(*batch, v.shape[-1]) for v in parts], -1)
        )

    def enter(self, b: Tensor, A_shape: Any) -> tuple[Tensor, bool, None]:
        """(the right-hand side of K, whether x is to be a vector, nothing)."""
        vector = is_vector(A_shape, b.shape)
        columns = b.unsqueeze(-1) if vector else b
        d = self.d.unsqueeze(-1) if self.d.ndim == 1 else self.d
        try:
            k = torch.broadcast_shapes(columns.shape[-1:], d.shape[-1:])
        except RuntimeError:
            raise ValueError(
                f"b has shape {tuple(b.shape)} and the right-hand side d of the constraints "
                f"{tuple(self.d.shape)}; expected the same number of columns, {columns.shape[-1]}, or "
                "none"
            ) from None
        dtype = torch.promote_types(b.dtype, d.dtype)
        columns = columns.expand(*columns.shape[:-1], *k).to(dtype)
        d = d.expand(*columns.shape[:-2], *d.shape[:-1], *k).to(dtype)
        return torch.cat([columns, d], -2), vector and self.d.ndim == 1, None

    def leave(self, y: Tensor, _: None) -> Tensor:
        """x from the solution with K."""
        return y[..., : self.n, :]

    @contextmanager
    def own_numbering(self) -> Iterator[None]:
        """Say of an error at a multiplier which constraint it is."""
        try:
            yield
        except torch.linalg.LinAlgError as error:
            at = getattr(error, "index", None)
            if at is not None and at >= self.n:
                error.index = None  # no unknown of the caller's
                error.message += (
                    f": constraint {at - self.n} says what others say already, or contradicts them "
                    "(unknowns from n on are the multipliers of constraints)"
                )
            raise


def read_constraints(A: SparseMatrix, constraints: Any, assume: str) -> Saddle:
    """The saddle-point system of ``constraints=(C, d)``, checked."""
    if not isinstance(constraints, (tuple, list)) or len(constraints) != 2:
        given = type(constraints).__name__
        raise ValueError(f"constraints must be a pair (C, d) for C x = d, got {given}")
    if assume == "spd":
        raise ValueError(
            'assume="spd" cannot hold with constraints: their saddle-point matrix is indefinite; say '
            'assume="symmetric" (or "hermitian", or "auto")'
        )
    C, d = constraints
    if not isinstance(C, SparseMatrix):
        if not isinstance(C, Tensor):
            raise TypeError(
                f"C of constraints is a {type(C).__name__}; expected a torch.Tensor or a SparseMatrix"
            )
        C = SparseMatrix.from_torch(C)
    n = A.shape[-1]
    if C.shape[-1] != n:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and C of constraints {tuple(C.shape)}; expected (m, {n}), a "
            "row for each constraint"
        )
    m = C.shape[-2]
    if not isinstance(d, Tensor):
        raise TypeError(f"d of constraints is a {type(d).__name__}; expected a torch.Tensor")
    if d.ndim not in (1, 2) or d.shape[0] != m:
        raise ValueError(
            f"C of constraints has shape {tuple(C.shape)} and d {tuple(d.shape)}; expected d of shape "
            f"({m},) or ({m}, k)"
        )
    for name, dtype in (("C", C.dtype), ("d", d.dtype)):
        if REAL.get(dtype) != REAL[A.dtype]:
            raise TypeError(
                f"A has dtype {A.dtype} and {name} of constraints {dtype}; write {name}.to({A.dtype})"
            )
    return Saddle(A, C, d)


def _saddle_pattern(A: Pattern, C: Pattern) -> Pattern:
    """K's structure, assembled from A's, C^H's and C's values; kept on A's pattern."""
    key = -C.handle  # never the name of anything else: other names are not negative
    known = A.derived.get(key)
    if known is None:
        for other, (c, pattern) in _saddles(A):
            if c == C:
                return pattern if other == key else A.derived.setdefault(key, (C, pattern))[1]
        refuse_compiling("constraints with a new structure were given")
        n, m = A.shape[0], C.shape[0]
        with outside_transforms():
            rows = torch.cat([A.rows, C.cols, C.rows + n])
            cols = torch.cat([A.cols, C.rows + n, C.cols])
            known = C, Pattern(rows, cols, (n + m, n + m))
        A.derived[key] = known
        for oldest, _ in _saddles(A)[:-_KEPT]:
            A.derived.pop(oldest, None)
    return known[1]


def _saddles(A: Pattern) -> list[tuple[int, Any]]:
    return [(k, v) for k, v in tuple(A.derived.items()) if isinstance(k, int) and k < 0]
