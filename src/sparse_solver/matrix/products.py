"""Products with a sparse matrix and their derivatives: A x, and outer products at the nonzeros."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from .pattern import Pattern
from .rule import Rule
from .threads import by_parts

__all__ = ["multiply", "outer_numbers", "product", "sampled_outer"]

_AT_ONCE = 1 << 22  # numbers that one temporary may hold
_IN_CACHE = 1 << 17  # and of `outer_numbers`


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
    if not vector and _is_large(values, x):
        return _Product.apply(values, x, rows, cols, n)
    if vector:
        x = x.unsqueeze(-1)
    y = _product(values, x, rows, cols, n)
    return y.squeeze(-1) if vector else y


def _product(values: Tensor, x: Tensor, rows: Tensor, cols: Tensor, n: int) -> Tensor:
    terms = values[..., None] * x.index_select(-2, cols)
    return terms.new_zeros((*terms.shape[:-2], n, terms.shape[-1])).index_add(-2, rows, terms)


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
    if vector:
        return y.index_select(-1, rows) * x.conj().index_select(-1, cols)
    if _is_large(rows, x) and y.shape == x.shape:
        return _Outer.apply(y, x, rows, cols)
    return _sampled(y, x, rows, cols)


def _sampled(y: Tensor, x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    return (y.index_select(-2, rows) * x.conj().index_select(-2, cols)).sum(-1)


def _is_large(entries: Tensor, x: Tensor) -> bool:
    """Whether a number for each nonzero and each column would be too many."""
    if torch.compiler.is_compiling() or entries.ndim > 1 and entries.shape[:-1] != x.shape[:-2]:
        return False
    items = x.numel() // max(1, x.shape[-1] * x.shape[-2])
    return entries.shape[-1] * x.shape[-1] * items > _AT_ONCE


def _columns(entries: int, x: Tensor) -> Iterator[slice]:
    """Columns of x, few enough at a time."""
    k = x.shape[-1]
    width = max(1, _AT_ONCE * k * x.shape[-2] // max(1, entries * x.numel()))
    return (slice(start, start + width) for start in range(0, k, width))


class _Product(Rule):
    """A x, some columns at a time, so that nnz x k numbers never exist at once, nor in a graph."""

    tensors = 2

    @staticmethod
    def forward(values: Tensor, x: Tensor, rows: Tensor, cols: Tensor, n: int) -> Tensor:
        parts = [
            _product(values, x[..., block], rows, cols, n) for block in _columns(values.shape[-1], x)
        ]
        return torch.cat(parts, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        values, x, ctx.rows, ctx.cols, ctx.n = inputs
        ctx.save_for_backward(values, x)
        ctx.save_for_forward(values, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        values, x = ctx.saved_tensors
        v_bar = x_bar = None
        if ctx.needs_input_grad[0]:
            v_bar = sampled_outer(g, x, ctx.rows, ctx.cols, vector=False)
        if ctx.needs_input_grad[1]:
            x_bar = product(values.conj(), g, ctx.cols, ctx.rows, x.shape[-2], vector=False)
        return v_bar, x_bar, None, None, None

    @staticmethod
    def jvp(ctx: Any, dv: Tensor | None, dx: Tensor | None, *_: None) -> Tensor:  # type: ignore[override]
        with fwAD._set_fwd_grad_enabled(True):
            values, x = (fwAD.unpack_dual(t, level=0).primal for t in ctx.saved_tensors)
            pairs = [(v, c) for v, c in ((dv, x), (values, dx)) if v is not None and c is not None]
            return _sum_of(product(v, c, ctx.rows, ctx.cols, ctx.n, vector=False) for v, c in pairs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, values: Tensor, x: Tensor, *rest: Any) -> tuple:  # type: ignore[override]
        values, x = _in_front(info, in_dims, values, x)
        return product(values, x, *rest, vector=False), 0


class _Outer(Rule):
    """y_i conj(x_j) at the nonzeros, some columns at a time."""

    tensors = 2

    @staticmethod
    def forward(y: Tensor, x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        return _sum_of(
            _sampled(y[..., block], x[..., block], rows, cols) for block in _columns(len(rows), x)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        y, x, ctx.rows, ctx.cols = inputs
        ctx.save_for_backward(y, x)
        ctx.save_for_forward(y, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        y, x = ctx.saved_tensors
        i, j, n = ctx.rows, ctx.cols, x.shape[-2]
        y_bar = product(g, x, i, j, n, vector=False) if ctx.needs_input_grad[0] else None
        x_bar = product(g.conj(), y, j, i, n, vector=False) if ctx.needs_input_grad[1] else None
        return y_bar, x_bar, None, None

    @staticmethod
    def jvp(ctx: Any, dy: Tensor | None, dx: Tensor | None, *_: None) -> Tensor:  # type: ignore[override]
        with fwAD._set_fwd_grad_enabled(True):
            y, x = (fwAD.unpack_dual(t, level=0).primal for t in ctx.saved_tensors)
            pairs = [(u, v) for u, v in ((dy, x), (y, dx)) if u is not None and v is not None]
            return _sum_of(sampled_outer(u, v, ctx.rows, ctx.cols, vector=False) for u, v in pairs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, y: Tensor, x: Tensor, *rest: Any) -> tuple:  # type: ignore[override]
        y, x = _in_front(info, in_dims, y, x)
        return sampled_outer(y, x, *rest, vector=False), 0


def _sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    return functools.reduce(torch.add, terms)


def _in_front(info: Any, in_dims: tuple, *tensors: Tensor) -> list[Tensor]:
    """The mapped dimension first, in both."""
    return [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=False)
    ]


def outer_numbers(
    y: np.ndarray, x: np.ndarray, rows: np.ndarray, cols: np.ndarray, vector: bool
) -> np.ndarray:
    """As `sampled_outer`, in blocks of nonzeros, so that nnz x k numbers never exist at once."""
    x = x.conj() if x.dtype.kind == "c" else x
    if vector:
        out = np.empty((*y.shape[:-1], len(rows)), y.dtype)

        def entries(start: int, stop: int) -> None:
            part, (i, j) = out[..., start:stop], (rows[start:stop], cols[start:stop])
            np.multiply(y.take(i, axis=-1), x.take(j, axis=-1), out=part)

        by_parts(len(rows), out.size, entries)
        return out
    out = np.empty((*y.shape[:-2], len(rows)), y.dtype)
    width = max(1, _IN_CACHE * y.shape[-2] // max(1, y.size))
    for start in range(0, len(rows), width):
        block = slice(start, start + width)
        pair = y.take(rows[block], axis=-2), x.take(cols[block], axis=-2)
        np.einsum("...ek,...ek->...e", *pair, out=out[..., block])
    return out
