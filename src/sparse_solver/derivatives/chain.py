"""Entries of the inverse at A's nonzeros, transposed, and all their derivatives.

    K(M_1, ..., M_m)_ij = (A^-1 M_1 A^-1 ... M_m A^-1)_ji    at A's nonzeros (i, j)

is linear in each M (given on A's pattern), and since dA^-1 = -A^-1 dA A^-1,

    forward   dK = -sum_s K(M_1, ..., M_s, dA, M_s+1, ..., M_m)  +  sum_s K(..., dM_s, ...)
    backward  with H = conj(G), G the incoming gradient: sum_ij H_ij K_ij is the trace of
              H A^-1 M_1 A^-1 ... M_m A^-1, in which anything can be moved to the end, so
              conj(M_bar_s) = K(M_s+1, ..., M_m, H, M_1, ..., M_s-1)
              conj(A_bar) = -sum_s K(M_s+1, ..., M_m, H, M_1, ..., M_s)

Derivatives of such chains are such chains: one rule has all orders. Without any M it is the gradient
of log det A; with one, the derivative of that.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from ..matrix.plain import are_ordinary, is_plain
from ..matrix.rule import Rule
from ..planning import BatchFactored, chains
from ..planning import chain as chain_numbers
from .items import batched, define, over_batch, over_items
from .token import factors_of

__all__ = ["chain", "inverse_entries", "known_entries"]


def _numbers(values: Tensor, Ms: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    """Values (*B, nnz), Ms (*B, m, nnz), token (*B)."""

    def compute(batch: BatchFactored, index: np.ndarray | None, Ms: np.ndarray) -> np.ndarray:
        return chains(batch, Ms, index)

    found = over_batch(compute, values, token, pattern, how, Ms)
    return over_items(chain_numbers, values, token, pattern, how, Ms) if found is None else found


_run, _op = define(
    "chain(Tensor values, Tensor Ms, Tensor token, SymInt pattern, str how) -> Tensor",
    _numbers,
    lambda values, Ms, token, pattern, how: torch.empty_like(
        values, memory_format=torch.contiguous_format
    ),
)


def inverse_entries(values: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    """(A^-1)_ji at the nonzeros (i, j), (*B, nnz), differentiable in values to any order."""
    none = values.detach().new_empty((*values.shape[:-1], 0, values.shape[-1]))
    return chain(values, none, token, pattern, how)


def known_entries(values: Tensor, token: Tensor, g: Tensor) -> Tensor | None:
    """The same of a matrix, to be read and never written to, for they are the factor's own; without
    derivatives. None where these are wanted, or where general ways are.
    """
    if values.dim() > 1 or torch.is_grad_enabled() or not are_ordinary(g, values):
        return None
    factors = factors_of(token)
    return None if factors is None else torch.from_numpy(chain_numbers(factors[0]))


def chain(values: Tensor, Ms: Tensor, token: Tensor, pattern: int, how: str) -> Tensor:
    """K(M_1, ..., M_m), (*B, nnz), for Ms (*B, m, nnz); differentiable in both to any order."""
    if torch.compiler.is_compiling():
        _admit()
    return _Chain.apply(values, Ms, token, pattern, how)


class _Chain(Rule):
    tensors = 3

    @staticmethod
    def forward(values, Ms, token, pattern, how):  # type: ignore[no-untyped-def]
        if is_plain(values) and is_plain(Ms):
            return _run(values, Ms, token, pattern, how)
        return _op(values, Ms, token, pattern, how)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        values, Ms, token, *ctx.how = inputs
        ctx.save_for_backward(values, Ms, token)
        ctx.save_for_forward(values, Ms, token)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        if g is None:
            return (None,) * 5
        values, Ms, token = ctx.saved_tensors
        m = Ms.shape[-2]
        H = g.conj().unsqueeze(-2)
        A_bar = M_bar = None
        if ctx.needs_input_grad[0]:
            turns = (torch.cat([Ms[..., s:, :], H, Ms[..., :s, :]], -2) for s in range(m + 1))
            A_bar = -sum(_Chain.apply(values, turn, token, *ctx.how) for turn in turns).conj()
        if ctx.needs_input_grad[1]:
            turns = (torch.cat([Ms[..., s + 1 :, :], H, Ms[..., :s, :]], -2) for s in range(m))
            bars = [_Chain.apply(values, turn, token, *ctx.how).conj() for turn in turns]
            M_bar = torch.stack(bars, -2) if m else torch.zeros_like(Ms)
        return A_bar, M_bar, None, None, None

    @staticmethod
    def jvp(ctx, dA, dMs, *_):  # type: ignore[no-untyped-def]
        # Inside a jvp rule forward mode is off; without this a jvp of a jvp would be zero.
        with fwAD._set_fwd_grad_enabled(True):
            values, Ms, token = ctx.saved_tensors
            values, Ms = (fwAD.unpack_dual(t, level=0).primal for t in (values, Ms))
            m = Ms.shape[-2]
            words = []
            if dA is not None:
                N = -dA.unsqueeze(-2)
                words += [torch.cat([Ms[..., :s, :], N, Ms[..., s:, :]], -2) for s in range(m + 1)]
            if dMs is not None:
                words += [
                    torch.cat([Ms[..., :s, :], dMs[..., s : s + 1, :], Ms[..., s + 1 :, :]], -2)
                    for s in range(m)
                ]
            if not words:
                return torch.zeros_like(values)
            return sum(_Chain.apply(values, word, token, *ctx.how) for word in words)

    @staticmethod
    def vmap(info, in_dims, values, Ms, token, pattern, how):  # type: ignore[no-untyped-def]
        return _Chain.apply(*batched(info, in_dims, values, Ms, token), pattern, how), 0


def _admit() -> None:
    torch.compiler.allow_in_graph(_Chain)


_admit._dynamo_marked_constant = True  # type: ignore[attr-defined]
