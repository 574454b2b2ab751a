"""Entries of the inverse: at A's nonzeros, and its diagonal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..derivatives.chain import inverse_entries
from ..derivatives.items import explicit_factor
from ..matrix import Pattern, SparseMatrix
from ..matrix.gather import Slots, gather, scatter_sum
from ..matrix.plain import is_plain, outside_transforms

__all__ = ["inverse_diagonal_of", "selected_inverse_of"]

_COMPLETION = -1  # the key of a completion in `pattern.derived`


class _Completion:
    """A pattern with its mirror image and its diagonal: there, entries of the inverse at the
    transposed nonzeros include those at the nonzeros and on the diagonal.

    Attributes
    ----------
    pattern : Pattern
    own, mirrored, diagonal : Slots
        Places in it of (i, j) and of (j, i) for the first pattern's nonzeros, and of (i, i).
    """

    def __init__(self, P: Pattern) -> None:
        n, i = P.shape[0], torch.arange(P.shape[0], device="cpu")
        rows, cols = torch.cat([P.rows, P.cols, i]), torch.cat([P.cols, P.rows, i])
        self.pattern = Pattern(rows, cols, P.shape)
        slots = self.pattern._slots
        at = torch.arange(len(rows), device="cpu") if slots is None else slots.index
        parts = torch.split(at, [P.nnz, P.nnz, n])
        self.own, self.mirrored, self.diagonal = (Slots(p, self.pattern.nnz) for p in parts)


def _completion(P: Pattern) -> _Completion:
    with outside_transforms():
        found = P.derived.get(_COMPLETION)
        if found is None:
            found = P.derived.setdefault(_COMPLETION, _Completion(P))
        return found


def _completed(
    A: SparseMatrix, how: str, notes: dict[str, Any], failed: Tensor | None
) -> tuple[Tensor, Tensor, _Completion]:
    """(values, token, completion); the token is kept in `notes`, which belong to these very values.
    Items that `failed` have no factor: the identity stands in for them.
    """
    C = _completion(A.pattern)
    values = scatter_sum(A.values, C.own)
    if failed is not None:
        identity = values.new_zeros(values.shape[-1])
        identity[C.diagonal.index.to(values.device)] = 1
        values = torch.where(failed.unsqueeze(-1), identity, values)
    token = notes.get("completed")
    if token is None:
        token = explicit_factor(values, C.pattern, how)
        if is_plain(A.values):
            notes["completed"] = token
    return values, token, C


def selected_inverse_of(
    A: SparseMatrix,
    how: str,
    token: Tensor | None,
    notes: dict[str, Any],
    failed: Tensor | None = None,
) -> SparseMatrix:
    """(A^-1)_ij at A's nonzeros (i, j)."""
    P = A.pattern
    if P.is_symmetric:
        T = inverse_entries(A.values, _token(A, how, token), P.handle, how)
        return SparseMatrix(P, gather(T, P.transposed_slots))
    values, token, C = _completed(A, how, notes, failed)
    T = inverse_entries(values, token, C.pattern.handle, how)
    return SparseMatrix(P, gather(T, C.mirrored))


def inverse_diagonal_of(
    A: SparseMatrix,
    how: str,
    token: Tensor | None,
    notes: dict[str, Any],
    failed: Tensor | None = None,
) -> Tensor:
    """(A^-1)_ii, (*B, n)."""
    P = A.pattern
    if P.has_full_diagonal:  # no mirror images needed: (i, i) is its own
        T = inverse_entries(A.values, _token(A, how, token), P.handle, how)
        return gather(T, Slots(torch.from_numpy(P.diagonal), P.nnz))
    values, token, C = _completed(A, how, notes, failed)
    return gather(inverse_entries(values, token, C.pattern.handle, how), C.diagonal)


def _token(A: SparseMatrix, how: str, token: Tensor | None) -> Tensor:
    return explicit_factor(A.values, A.pattern, how) if token is None else token
