"""Half solves, y = W b and x = W^H z with A^-1 = W^H W, and their derivatives.

W = L^-1 P for the Cholesky factorisation A = P^T L L^H P. With Phi the lower triangle with half the
diagonal, B = W dA W^H for dA symmetrised, and dW = -Phi(B) W (`planning.halves` derives it),

    push(dA, v) = -Phi(B) v        push'(dA, v) = -Phi(B)^H v
    pull(u, v)  = gradient of Re <u, push(dA, v)> with respect to dA

    y = W b    forward  dy = W db + push(dA, y)         backward  A_bar = pull(g, y),   b_bar = W^H g
    x = W^H z  forward  dx = W^H (dz + push'(dA, z))    backward  A_bar = pull(z, W g), z_bar = W g

push and pull are linear in what they are given, and each other's adjoint. Of A they depend through
W. Their derivatives in it, which second derivatives of half solves need, form W as a dense matrix:

    s = Re <u, -Phi(W M W^H) v>,  N = Phi(u v^H):   W_bar = -(N + N^H) W M,   A_bar = pull(W_bar, W)
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ..matrix.pattern import pattern_of
from ..matrix.plain import is_plain
from ..matrix.rule import Rule
from ..planning import Factored, Singular, halves
from .items import batched, define, over_items

__all__ = ["half_solve"]

_LARGE = 3000  # unknowns from which forming W deserves a word of warning


# ---- the operators ----


def _half(values: Tensor, b: Tensor, token: Tensor, pattern: int, how: str, adjoint: bool) -> Tensor:
    """Values (*B, nnz), b (*B, n, k), token (*B)."""

    def compute(f: Factored | Singular, b: np.ndarray) -> np.ndarray:
        return halves(f).solve(b, adjoint)

    return over_items(compute, values, token, pattern, how, b)


def _pull(values: Tensor, u: Tensor, v: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    """For u, v (*B, n, k)."""

    def compute(f: Factored | Singular, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return halves(f).pull(u, v)

    return over_items(compute, values, token, pattern, how, u, v)


def _push(
    values: Tensor, M: Tensor, v: Tensor, token: Tensor, pattern: int, how: str, adjoint: bool
) -> Tensor:
    """M (*B, nnz), v (*B, n, k)."""

    def compute(f: Factored | Singular, M: np.ndarray, v: np.ndarray) -> np.ndarray:
        return halves(f).push(M, v, adjoint)

    return over_items(compute, values, token, pattern, how, M, v)


def _like(t: Tensor) -> Tensor:
    return torch.empty_like(t, memory_format=torch.contiguous_format)


_rest = "Tensor token, SymInt pattern, str how"
_run_half, _half_op = define(
    f"half(Tensor values, Tensor b, {_rest}, bool adjoint) -> Tensor",
    _half,
    lambda values, b, *rest: _like(b),
)
_run_pull, _pull_op = define(
    f"half_pull(Tensor values, Tensor u, Tensor v, {_rest}) -> Tensor",
    _pull,
    lambda values, *rest: _like(values),
)
_run_push, _push_op = define(
    f"half_push(Tensor values, Tensor M, Tensor v, {_rest}, bool adjoint) -> Tensor",
    _push,
    lambda values, M, v, *rest: _like(v),
)


def half_solve(
    values: Tensor, b: Tensor, token: Tensor, pattern: int, how: str, adjoint: bool
) -> Tensor:
    """W b, or W^H b if `adjoint`, for b (*B, n, k); differentiable in values and b to any order."""
    if torch.compiler.is_compiling():
        _admit()
    return _Half.apply(values, b, token, pattern, how, adjoint)


# ---- the rules ----


class _Half(Rule):
    tensors = 3

    @staticmethod
    def forward(values, b, token, pattern, how, adjoint):  # type: ignore[no-untyped-def]
        run = _run_half if is_plain(values) and is_plain(b) else _half_op
        return run(values, b, token, pattern, how, adjoint)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        values, b, token, *ctx.how, ctx.adjoint = inputs
        saved = (values, b if ctx.adjoint else output, token)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        if g is None:
            return (None,) * 6
        values, v, token = ctx.saved_tensors
        b_bar = _Half.apply(values, g, token, *ctx.how, not ctx.adjoint)
        A_bar = None
        if ctx.needs_input_grad[0]:
            u, v = (v, b_bar) if ctx.adjoint else (g, v)
            A_bar = _Pull.apply(values, u, v, token, *ctx.how)
        return A_bar, b_bar, None, None, None, None

    @staticmethod
    def jvp(ctx, dA, db, *_):  # type: ignore[no-untyped-def]
        with fwAD._set_fwd_grad_enabled(True):
            values, v, token = ctx.saved_tensors
            values, v = (fwAD.unpack_dual(t, level=0).primal for t in (values, v))
            pushed = None if dA is None else _Push.apply(values, dA, v, token, *ctx.how, ctx.adjoint)
            if ctx.adjoint:
                change = db if pushed is None else pushed if db is None else db + pushed
                return _Half.apply(values, change, token, *ctx.how, True)
            if db is None:
                return pushed
            change = _Half.apply(values, db, token, *ctx.how, False)
            return change if pushed is None else change + pushed

    @staticmethod
    def vmap(info, in_dims, values, b, token, pattern, how, adjoint):  # type: ignore[no-untyped-def]
        dv, db, dt, *_ = in_dims
        if dv is None and dt is None:  # one matrix: the batch becomes columns
            b = b.movedim(db, -1)
            x = _Half.apply(values, b.flatten(-2), token, pattern, how, adjoint)
            return x.unflatten(-1, b.shape[-2:]), b.ndim - 1
        return _Half.apply(*batched(info, in_dims, values, b, token), pattern, how, adjoint), 0


class _Pull(Rule):
    tensors = 4

    @staticmethod
    def forward(values, u, v, token, pattern, how):  # type: ignore[no-untyped-def]
        plain = is_plain(values) and is_plain(u) and is_plain(v)
        return (_run_pull if plain else _pull_op)(values, u, v, token, pattern, how)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *saved, ctx.pattern, ctx.word = inputs
        ctx.how = ctx.pattern, ctx.word
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, G):  # type: ignore[no-untyped-def]
        if G is None:
            return (None,) * 6
        values, u, v, token = ctx.saved_tensors
        A_bar = _second(values, u, v, G, token, ctx.how) if ctx.needs_input_grad[0] else None
        u_bar = _Push.apply(values, G, v, token, *ctx.how, False)
        v_bar = _Push.apply(values, G, u, token, *ctx.how, True)
        return A_bar, u_bar, v_bar, None, None, None

    @staticmethod
    def jvp(ctx, dA, du, dv, *_):  # type: ignore[no-untyped-def]
        with fwAD._set_fwd_grad_enabled(True):
            values, u, v, token = ctx.saved_tensors
            values, u, v = (fwAD.unpack_dual(t, level=0).primal for t in (values, u, v))
            total = torch.zeros_like(values)
            if du is not None:
                total = total + _Pull.apply(values, du, v, token, *ctx.how)
            if dv is not None:
                total = total + _Pull.apply(values, u, dv, token, *ctx.how)
            if dA is not None:  # of -W^H N W, symmetrised
                W = _dense_W(values, u.shape[-2], token, ctx.how)
                dW = _Push.apply(values, dA, W, token, *ctx.how, False)
                N = _phi(u @ v.mH)
                change = dW.mH @ N @ W + W.mH @ N @ dW
                rows, cols = pattern_of(ctx.pattern).indices(values.device)
                total = total - ((change + change.mH) / 2)[..., rows, cols]
            return total

    @staticmethod
    def vmap(info, in_dims, values, u, v, token, pattern, how):  # type: ignore[no-untyped-def]
        return _Pull.apply(*batched(info, in_dims, values, u, v, token), pattern, how), 0


class _Push(Rule):
    tensors = 4

    @staticmethod
    def forward(values, M, v, token, pattern, how, adjoint):  # type: ignore[no-untyped-def]
        plain = is_plain(values) and is_plain(M) and is_plain(v)
        return (_run_push if plain else _push_op)(values, M, v, token, pattern, how, adjoint)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *saved, ctx.pattern, ctx.word, ctx.adjoint = inputs
        ctx.how = ctx.pattern, ctx.word
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        if g is None:
            return (None,) * 7
        values, M, v, token = ctx.saved_tensors
        left, right = (v, g) if ctx.adjoint else (g, v)
        A_bar = _second(values, left, right, M, token, ctx.how) if ctx.needs_input_grad[0] else None
        M_bar = _Pull.apply(values, left, right, token, *ctx.how)
        v_bar = _Push.apply(values, M, g, token, *ctx.how, not ctx.adjoint)
        return A_bar, M_bar, v_bar, None, None, None, None

    @staticmethod
    def jvp(ctx, dA, dM, dv, *_):  # type: ignore[no-untyped-def]
        with fwAD._set_fwd_grad_enabled(True):
            values, M, v, token = ctx.saved_tensors
            values, M, v = (fwAD.unpack_dual(t, level=0).primal for t in (values, M, v))
            total = torch.zeros_like(v)
            if dM is not None:
                total = total + _Push.apply(values, dM, v, token, *ctx.how, ctx.adjoint)
            if dv is not None:
                total = total + _Push.apply(values, M, dv, token, *ctx.how, ctx.adjoint)
            if dA is not None:
                W = _dense_W(values, v.shape[-2], token, ctx.how)
                dW = _Push.apply(values, dA, W, token, *ctx.how, False)
                half = dW @ _dense(M, v.shape[-2], ctx.pattern) @ W.mH
                change = _phi(half + half.mH)
                total = total - (change.mH if ctx.adjoint else change) @ v
            return total

    @staticmethod
    def vmap(info, in_dims, values, M, v, token, pattern, how, adjoint):  # type: ignore[no-untyped-def]
        return _Push.apply(*batched(info, in_dims, values, M, v, token), pattern, how, adjoint), 0


# ---- second derivatives, dense ----


def _second(values, u, v, M, token, how):  # type: ignore[no-untyped-def]
    """Gradient with respect to A of s = Re <u, -Phi(W M W^H) v> for fixed u, v and M."""
    n = u.shape[-2]
    W = _dense_W(values, n, token, how)
    N = _phi(u @ v.mH)
    W_bar = -(N + N.mH) @ W @ _dense(M, n, how[0])
    return _Pull.apply(values, W_bar, W, token, *how)


def _dense_W(values, n, token, how):  # type: ignore[no-untyped-def]
    if n > _LARGE:
        warnings.warn(
            f"second derivatives of half solves form matrices of shape ({n}, {n}): exact, but they "
            "take memory and time for that",
            stacklevel=2,
        )
    identity = torch.eye(n, dtype=values.dtype, device=values.device)
    return _Half.apply(values, identity.expand(*values.shape[:-1], n, n), token, *how, False)


def _dense(M, n, pattern):  # type: ignore[no-untyped-def]
    """M (*B, nnz) symmetrised, as (*B, n, n)."""
    rows, cols = pattern_of(pattern).indices(M.device)
    flat = M.new_zeros((*M.shape[:-1], n * n)).index_add(-1, rows * n + cols, M)
    D = flat.unflatten(-1, (n, n))
    return (D + D.mH) / 2


def _phi(D: Tensor) -> Tensor:
    """The lower triangle, half the diagonal."""
    return torch.tril(D) - torch.diag_embed(D.diagonal(dim1=-2, dim2=-1)) / 2


def _admit() -> None:
    for rule in (_Half, _Pull, _Push):
        torch.compiler.allow_in_graph(rule)


_admit._dynamo_marked_constant = True  # type: ignore[attr-defined]
