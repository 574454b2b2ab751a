"""Products with a sparse matrix and their derivatives: A x, and outer products at the nonzeros."""

from __future__ import annotations

import torch
from torch import Tensor

from .pattern import Pattern
from .plain import is_plain

__all__ = ["multiply", "sampled_outer", "scatter_rows"]

_AT_ONCE = 1 << 22  # numbers held by one temporary of `sampled_outer`


def multiply(pattern: Pattern, values: Tensor, x: Tensor) -> Tensor:
    """A x for values (*B, nnz) and x (m,), (*B, m) or (*B, m, k)."""
    n, m = pattern.shape
    rows, cols = pattern.indices(values.device)
    vector = x.ndim == 1 or x.shape == (*values.shape[:-1], m)
    if not vector and (x.ndim < 2 or x.shape[-2] != m) or vector and x.shape[-1] != m:
        raise ValueError(
            f"A has shape {(*values.shape[:-1], n, m)} and x {tuple(x.shape)}; expected x of shape "
            f"({m},) or (..., {m}, k)"
        )
    if vector:
        return scatter_rows((values * x.index_select(-1, cols))[..., None], rows, n).squeeze(-1)
    return scatter_rows(values[..., None] * x.index_select(-2, cols), rows, n)


def scatter_rows(t: Tensor, rows: Tensor, n: int) -> Tensor:
    """Sum the entries of t (*B, nnz, k) by row: (*B, n, k)."""
    return t.new_zeros((*t.shape[:-2], n, t.shape[-1])).index_add(-2, rows, t)


def sampled_outer(y: Tensor, x: Tensor, rows: Tensor, cols: Tensor, *, vector: bool) -> Tensor:
    """y_i conj(x_j) at the nonzeros, summed over right-hand sides.

    Parameters
    ----------
    y, x : Tensor, shape (*B, n) if `vector` else (*B, n, k)
    rows, cols : LongTensor, shape (nnz,)

    Returns
    -------
    Tensor, shape (*B, nnz)
    """
    x = x.conj()
    if vector:
        return y.index_select(-1, rows) * x.index_select(-1, cols)
    if torch.is_grad_enabled() or not is_plain(y):
        return (y.index_select(-2, rows) * x.index_select(-2, cols)).sum(-1)
    # No graph to build: sum over blocks of nonzeros, so that nnz x k numbers never exist at once.
    width = max(1, _AT_ONCE // max(1, y[..., :1, :].numel()))
    pieces = [
        (y.index_select(-2, r) * x.index_select(-2, c)).sum(-1)
        for r, c in zip(rows.split(width), cols.split(width), strict=True)
    ]
    return torch.cat(pieces, -1) if pieces else y.new_zeros(rows.shape)
