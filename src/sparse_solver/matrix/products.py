"""Products with a sparse matrix and their derivatives: A x, and outer products at the nonzeros."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .pattern import Pattern

__all__ = ["multiply", "outer_numbers", "product", "sampled_outer"]

_AT_ONCE = 1 << 22  # numbers held by one temporary of `outer_numbers`


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
    return product(values, x, rows, cols, n, vector=vector)


def product(values: Tensor, x: Tensor, rows: Tensor, cols: Tensor, n: int, *, vector: bool) -> Tensor:
    """A x with n rows, for x (*B, m) if `vector` else (*B, m, k); A^T x with rows and cols changed."""
    if vector:
        x = x.unsqueeze(-1)
    terms = values[..., None] * x.index_select(-2, cols)
    y = terms.new_zeros((*terms.shape[:-2], n, terms.shape[-1])).index_add(-2, rows, terms)
    return y.squeeze(-1) if vector else y


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
    return (y.index_select(-2, rows) * x.index_select(-2, cols)).sum(-1)


def outer_numbers(
    y: np.ndarray, x: np.ndarray, rows: np.ndarray, cols: np.ndarray, vector: bool
) -> np.ndarray:
    """As `sampled_outer`, in blocks of nonzeros, so that nnz x k numbers never exist at once."""
    x = x.conj() if x.dtype.kind == "c" else x
    if vector:
        out = y.take(rows, axis=-1)
        out *= x.take(cols, axis=-1)
        return out
    out = np.empty((*y.shape[:-2], len(rows)), y.dtype)
    width = max(1, _AT_ONCE * y.shape[-2] // max(1, y.size))
    for start in range(0, len(rows), width):
        block = slice(start, start + width)
        pair = y.take(rows[block], axis=-2), x.take(cols[block], axis=-2)
        np.einsum("...ek,...ek->...e", *pair, out=out[..., block])
    return out
