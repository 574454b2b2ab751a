"""The solve and its derivatives.

With x = A^-1 b (or A^-T b), for a change of the data:

    forward   A dx = db - dA x
    backward  A^H lambda = g,   b_bar = lambda,   A_bar_ij = -lambda_i conj(x_j) at the nonzeros

Both are solves with the same factor, so `_Solve` calls itself and every order of every mode
follows. Giles, "Collected matrix derivative results", section 2.3.1 (2008), has the dense formulas.

Two private operators carry the numbers, so that torch.compile, fake tensors and vmap see opaque
boxes: `factor(values) -> token` and `solve(values, b, token) -> x`. `_Solve` alone knows
derivatives. A pattern crosses as its integer handle, options as a string.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ..errors import code_of
from ..matrix import Pattern
from ..matrix.pattern import pattern_of
from ..matrix.plain import is_plain, numbers
from ..matrix.products import outer_numbers, product, sampled_outer
from ..matrix.rule import Rule
from ..planning import BatchFactored, Factored, Planner, obtain, on_device, planner_of
from .token import batch_of, factors_of, there_of, token_of, token_there

__all__ = ["factor", "solve"]

_library = torch.library.Library("sparse_solver", "DEF")
_library.define("factor(Tensor values, SymInt pattern, str how) -> Tensor")
_library.define("factor_ex(Tensor values, SymInt pattern, str how) -> (Tensor, Tensor)")
_library.define(
    "solve(Tensor values, Tensor b, Tensor token, SymInt pattern, str how, bool trans) -> Tensor"
)


# ---- the operators: plain numbers in, plain numbers out ----


def _factor(values: Tensor, pattern: int, how: str) -> Tensor:
    return _factor_plain(values, pattern_of(pattern), how)


def _factor_plain(values: Tensor, P: Pattern, how: str) -> Tensor:
    if not values.is_cpu or on_device.everywhere:
        there = on_device.obtain(P, how, values)
        if there is not None:
            return token_there(there, values.shape[:-1])
    v = numbers(values)
    if v.ndim == 1:
        return token_of([obtain(P, how, v)], ())
    return token_of(_factor_batch(planner_of(P, how, v.dtype), v), v.shape[:-1])


def _factor_ex(values: Tensor, pattern: int, how: str) -> tuple[Tensor, Tensor]:
    """A token (*B), and what happened to each item in torch.linalg's numbers."""
    P, shape = pattern_of(pattern), values.shape[:-1]
    planner = planner_of(P, how, numbers(values[..., :0]).dtype)
    there = _batch_there(planner, values)
    if there is None:
        batch = _factor_batch(planner, numbers(values), tolerant=True)
        token, errors = token_of(batch, shape), batch.errors
    else:
        token, errors = token_there(there, shape), there.errors
    info = torch.zeros(shape.numel(), dtype=torch.int32)
    for item, error in errors.items():
        info[item] = code_of(error, P.shape[0])
    return token, info.reshape(shape).to(values.device)


def _batch_there(planner: Planner, values: Tensor) -> on_device.DeviceBatch | None:
    """Factors, one per element of the token, on the device of values (*B, nnz), if one serves there."""
    if values.is_cpu and not on_device.everywhere:
        return None
    flat = values.reshape(values.shape[:-1].numel(), values.shape[-1])
    batch = on_device.anew(planner, flat, True)
    assert not isinstance(batch, on_device.Lone)
    return batch


def _factor_batch(planner: Planner, values: np.ndarray, tolerant: bool = False) -> BatchFactored:
    return BatchFactored(planner, _flattened(values, 1), tolerant)


def _flattened(a: np.ndarray, kept: int) -> np.ndarray:
    """All but the last `kept` dimensions in one, without copying what only repeats."""
    batch = a.shape[: a.ndim - kept]
    shape = math.prod(batch), *a.shape[a.ndim - kept :]
    if len(batch) > 1 and not any(a.strides[: len(batch)]) and shape[0]:
        return np.broadcast_to(a[(0,) * len(batch)], shape)
    return a.reshape(shape)


def _solve(values: Tensor, b: Tensor, token: Tensor, pattern: int, how: str, trans: bool) -> Tensor:
    """Values (*B, nnz), token (*B); b (*B, n) or (*B, n, k)."""
    if not b.is_cpu or on_device.everywhere:
        there = there_of(token)
        if there is None and factors_of(token) is None:  # a copy of a token
            found = on_device.obtain(pattern_of(pattern), how, values)
            there = None if found is None else (found, None)
        if there is not None:
            return _solve_there(*there, b, values.ndim - 1, trans)
    x = torch.from_numpy(_solve_numbers(values, numbers(b), token, pattern, how, trans))
    return x if b.is_cpu else x.to(b.device)


@torch.no_grad()
def _solve_there(
    factor: on_device.Lone | on_device.DeviceBatch,
    index: np.ndarray | None,
    b: Tensor,
    batch: int,
    trans: bool,
) -> Tensor:
    """x on the device of b, whose first `batch` dimensions are those of the token."""
    b = b.detach().resolve_conj().resolve_neg()
    items, n = math.prod(b.shape[:batch]), b.shape[batch]
    if not b.numel():
        return torch.zeros_like(b, memory_format=torch.contiguous_format)
    flat = b.reshape(items, n, b.numel() // (items * n))
    some = {} if index is None else {"index": index}
    return factor.solve(flat, trans, **some).reshape(b.shape).contiguous()


def _solve_numbers(
    values: Tensor, b: np.ndarray, token: Tensor, pattern: int, how: str, trans: bool
) -> np.ndarray:
    found = batch_of(token)
    if values.ndim == 1 and found is None:
        factors = factors_of(token)
        factored = factors[0] if factors else obtain(pattern_of(pattern), how, numbers(values))
        return factored.solve(b, trans)
    if found is None:
        v = numbers(values)
        found = _factor_batch(planner_of(pattern_of(pattern), how, v.dtype), v), None
    batch, index = found
    items = _flattened(b, b.ndim - values.ndim + 1)
    return batch.solve(items, trans, index).reshape(b.shape)


def _conjugate(a: np.ndarray) -> np.ndarray:
    return a.conj() if a.dtype.kind == "c" else a  # of real numbers it would be a copy


def _gradient_numbers(
    lam: np.ndarray, x: np.ndarray, token: Tensor, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """-lambda_i conj(x_j) at the nonzeros (i, j): (row, column) or, if `trans`, (column, row)."""
    vector = x.ndim == token.ndim + 1
    batch = batch_of(token) if token.ndim else None
    if batch is None or batch[1] is not None:
        return outer_numbers(-lam, x, i, j, vector)
    kept = 1 if vector else 2
    return (
        batch[0].outer(_flattened(lam, kept), _flattened(x, kept), i, j).reshape(*token.shape, len(i))
    )


for _device in ("CPU", "CUDA"):
    _library.impl("factor", _factor, _device)
    _library.impl("factor_ex", _factor_ex, _device)
    _library.impl("solve", _solve, _device)


@torch.library.register_fake("sparse_solver::factor", lib=_library)
def _(values: Tensor, pattern: int, how: str) -> Tensor:
    return torch.empty(values.shape[:-1], dtype=torch.int64, device="cpu")


@torch.library.register_fake("sparse_solver::factor_ex", lib=_library)
def _(values: Tensor, pattern: int, how: str) -> tuple[Tensor, Tensor]:
    token = torch.empty(values.shape[:-1], dtype=torch.int64, device="cpu")
    return token, values.new_empty(values.shape[:-1], dtype=torch.int32)


@torch.library.register_fake("sparse_solver::solve", lib=_library)
def _(values: Tensor, b: Tensor, token: Tensor, pattern: int, how: str, trans: bool) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _factor_vmap(info: Any, in_dims: tuple, values: Tensor, pattern: int, how: str) -> tuple:
    return factor_op(values.movedim(in_dims[0], 0), pattern, how), 0


def _factor_ex_vmap(info: Any, in_dims: tuple, values: Tensor, pattern: int, how: str) -> tuple:
    return factor_ex_op(values.movedim(in_dims[0], 0), pattern, how), (0, 0)


torch.library.register_vmap("sparse_solver::factor", _factor_vmap, lib=_library)
torch.library.register_vmap("sparse_solver::factor_ex", _factor_ex_vmap, lib=_library)
factor_op = torch.ops.sparse_solver.factor.default
factor_ex_op = torch.ops.sparse_solver.factor_ex.default
solve_op = torch.ops.sparse_solver.solve.default


# ---- what the layers above call ----


def factor(values: Tensor, pattern: Pattern, how: str) -> Tensor:
    """A token (*B) for the factor of values (*B, nnz); no derivative."""
    if not torch.compiler.is_compiling() and is_plain(values):
        return _factor_plain(values, pattern, how)
    return factor_op(values.detach(), pattern.handle, how)


def factor_ex(values: Tensor, pattern: Pattern, how: str) -> tuple[Tensor, Tensor]:
    """(token, info), (*B) both: failed items solve to zero, and `info` tells why; no derivative."""
    return factor_ex_op(values.detach(), pattern.handle, how)


def factor_anew(values: Tensor, planner: Planner, tolerant: bool = False) -> Tensor:
    """A token (*B) for fresh factors of values (*B, nnz), which no cache keeps; if `tolerant`, with
    the failures of a batch's items kept on the batch rather than raised.
    """
    if not values.is_cpu or on_device.everywhere:
        there = on_device.anew(planner, values, tolerant)
        if there is not None:
            return token_there(there, values.shape[:-1])
    v = numbers(values)
    if v.ndim == 1:
        return token_of([Factored(planner, v.copy())], ())
    return token_of(_factor_batch(planner, v, tolerant), v.shape[:-1])


def solve(
    values: Tensor,
    b: Tensor,
    token: Tensor,
    rows: Tensor,
    cols: Tensor,
    pattern: int,
    how: str,
    trans: bool,
) -> Tensor:
    """x with A x = b, or A^T x = b if `trans`; differentiable in values and b to any order.

    Parameters
    ----------
    values : Tensor, shape (*B, nnz)
    b : Tensor, shape (*B, n) or (*B, n, k)
    token : LongTensor, shape (*B)
        From `factor(values, pattern, how)`.
    rows, cols : LongTensor, shape (nnz,)
    pattern : int
        The pattern's handle.
    how : str
        ``assume + method.key``.
    """
    if torch.compiler.is_compiling():
        _admit()
    return _Solve.apply(values, b, token, rows, cols, pattern, how, trans)


class _Solve(Rule):
    tensors = 3

    @staticmethod
    def forward(values, b, token, rows, cols, pattern, how, trans):  # type: ignore[no-untyped-def]
        if is_plain(b):
            return _solve(values, b, token, pattern, how, trans)
        return solve_op(values, b, token, pattern, how, trans)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        values, _, token, rows, cols, ctx.pattern, ctx.how, ctx.trans = inputs
        saved = (values, output, token, rows, cols)
        ctx.save_for_backward(*saved)
        if fwAD._current_level >= 0 or torch._C._are_functorch_transforms_active():
            ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        if g is None:
            return (None,) * 8
        given = *ctx.saved_tensors, ctx.pattern, ctx.how, ctx.trans, ctx.needs_input_grad[0]
        return *adjoint(g, *given), *(None,) * 6

    @staticmethod
    def jvp(ctx, dA, db, *_):  # type: ignore[no-untyped-def]
        # Inside a jvp rule forward mode is off; without this a jvp of a jvp would be zero.
        with fwAD._set_fwd_grad_enabled(True):
            values, x, token, rows, cols = ctx.saved_tensors
            values, x = (fwAD.unpack_dual(t, level=0).primal for t in (values, x))
            rhs = db
            if dA is not None:
                i, j = (cols, rows) if ctx.trans else (rows, cols)
                vector = x.ndim == values.ndim
                change = product(dA, x, i, j, x.shape[-1 if vector else -2], vector=vector)
                rhs = -change if db is None else db - change
            return _Solve.apply(values, rhs, token, rows, cols, ctx.pattern, ctx.how, ctx.trans)

    @staticmethod
    def vmap(info, in_dims, values, b, token, rows, cols, pattern, how, trans):  # type: ignore[no-untyped-def]
        dv, db, dt, *_ = in_dims
        rest = (rows, cols, pattern, how, trans)
        if dv is None and dt is None:
            # One matrix, many right-hand sides: they become columns of one solve.
            b = b.movedim(db, -1)
            if b.ndim - 1 == values.ndim:
                x = _Solve.apply(values, b, token, *rest)
            else:
                x = _Solve.apply(values, b.flatten(-2), token, *rest).unflatten(-1, b.shape[-2:])
            return x, x.ndim - 1
        size = info.batch_size
        values, b, token = (
            t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in ((values, dv), (b, db), (token, dt))
        )
        return _Solve.apply(values, b, token, *rest), 0


def adjoint(
    g: Tensor,
    values: Tensor,
    x: Tensor,
    token: Tensor,
    rows: Tensor,
    cols: Tensor,
    pattern: int,
    how: str,
    trans: bool,
    wanted: bool,
) -> tuple[Tensor | None, Tensor]:
    """(A_bar if `wanted`, b_bar) of `_Solve` for the gradient g of x."""
    vector, A_bar = x.ndim == values.ndim, None
    i, j = (cols, rows) if trans else (rows, cols)
    here = g.is_cpu and not on_device.everywhere
    if here and not torch.is_grad_enabled() and is_plain(g) and fwAD._current_level < 0:
        # No graph to build: the same two lines as below on bare numbers.
        factors = factors_of(token) if wanted and vector and not token.ndim else None
        if factors and not g.is_complex():
            y, A_numbers = factors[0].adjoint(numbers(g), numbers(x), trans)
            return torch.from_numpy(A_numbers), torch.from_numpy(y)
        lam_numbers = _solve_numbers(values, _conjugate(numbers(g)), token, pattern, how, not trans)
        lam_numbers = _conjugate(lam_numbers)
        if wanted:
            places = i.numpy(), j.numpy()
            A_bar = torch.from_numpy(_gradient_numbers(lam_numbers, numbers(x), token, *places))
        return A_bar, torch.from_numpy(lam_numbers)
    # A^H lambda = g  <=>  A^T conj(lambda) = conj(g)
    lam = _Solve.apply(values, g.conj(), token, rows, cols, pattern, how, not trans).conj()
    if wanted:
        A_bar = sampled_outer(-lam, x, i, j, vector=vector)
    return A_bar, lam


def _admit() -> None:
    """Let compiled code contain `_Solve` whole: dynamo does not trace rules with a jvp of their own."""
    torch.compiler.allow_in_graph(_Solve)


# Called by the tracer itself, as the result of a "constant" function is. Said at import instead, it
# would import all of dynamo, which takes five times as long as the rest of this library.
_admit._dynamo_marked_constant = True  # type: ignore[attr-defined]
