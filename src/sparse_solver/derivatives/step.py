"""A repeated solve for one vector, in plain eager mode, where calls take longer than looks.

The rule is that of `solve`: x = A^-1 b, A^H lambda = g, b_bar = lambda, A_bar_ij = -lambda_i conj(x_j).
Whatever a solve of the same kind found out about the pattern is not asked again, and nothing is done
for transforms, which are never active here. Small definite systems take a compiled call there and one
back. What is saved then is the factor itself, a tensor. Where anything is unusual, forward leaves to
the general path, and backward goes on as the general rule does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..engines.simplicial import KEPT, SOLVED
from ..matrix import SparseMatrix
from ..matrix.gather import awaiting, leave
from ..matrix.plain import are_ordinary, are_vectors
from ..matrix.rule import directly
from ..planning import Direct, Step, cache, on_device, renewed, touch
from .solve import adjoint
from .token import refuse_traces, token_of, token_of_nothing

__all__ = ["quick"]

_is_compiling = torch.compiler.is_dynamo_compiling  # what else traces brings its own tensors
_hooked = torch._C._autograd._top_saved_tensors_default_hooks
_is_kept = torch._C._autograd._get_current_graph_task_keep_graph


class _Unusual(Exception):
    """This step is for the general path."""


def quick(A: SparseMatrix | Tensor, b: Tensor, assume: str, method: Direct) -> Tensor | None:
    """x with A x = b by a short way, or None where there is none for it."""
    if _is_compiling() or type(A) is not SparseMatrix:
        return None
    pattern = A._pattern
    if pattern is None:
        return None
    slot = pattern.recent()
    if slot is None or type(method) is not Direct or assume != slot.assume or method.key != slot.key:
        return None
    values = A._values
    if not (
        isinstance(b, Tensor)
        and values is not None  # a transposed view whose structure was looked at, and no more
        and values.dtype is b.dtype is slot.dtype  # type: ignore[union-attr]
        and are_vectors(values, b)  # type: ignore[arg-type]
        and b.numel() == pattern.shape[0]
        and values.numel() == pattern.nnz  # type: ignore[union-attr]
        and _hooked(False) is None  # checkpoints expect to see what they saw the first time
    ):
        return None
    if cache._latest is not pattern.recent:  # the look alone saves a call
        touch(pattern)
    step = slot.step
    if type(step) is not Step:
        return None if on_device.everywhere else _through_known(values, b, slot)
    try:
        return _apply(values, b, slot, step)
    except _Unusual:
        return None


@directly
class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, b, slot, step):  # type: ignore[no-untyped-def]
        verdict, store, x = step.forward(values, b, slot.store)
        if verdict < 0:
            slot.step = None
            raise _Unusual
        if not verdict & KEPT:
            slot.factored, slot.store = None, store
        if not verdict & SOLVED:
            raise _Unusual
        ctx.to_save = values, x, store  # all that save_for_backward does
        ctx.step = step
        return x

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        values, x, store = ctx.saved_tensors
        step = ctx.step
        if not torch.is_grad_enabled() and (are_vectors(g, x) or are_ordinary(g, x)):
            # Hooks on what was saved may give it back in other strides.
            found = step.backward(store.contiguous(), g.contiguous(), x.contiguous())
            if found is not None:
                return *found, None, None
        token, P = token_of([step.factored(store)], ()), step.planner.pattern
        system = P.rows, P.cols, P.handle, step.assume + step.key, False
        return *adjoint(g, values, x, token, *system, ctx.needs_input_grad[0]), None, None


@directly
class _Known(torch.autograd.Function):
    """By any engine, on a slot that is known. `known` is its planner and step, and the factor, until a
    backward pass that frees what is saved.

    Forward only makes the node, and x without numbers: `_through_known` solves then. After an engine at
    work the caches hold its numbers, and a node takes three times as long.
    """

    @staticmethod
    def forward(ctx, values, b, known):  # type: ignore[no-untyped-def]
        refuse_traces()
        ctx.known, x = known, b.new_empty(b.numel())
        ctx.to_save = values, x
        return x

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        values, x = ctx.saved_tensors
        wanted, (planner, step, factored) = ctx.needs_input_grad[0], ctx.known
        if not _is_kept():
            ctx.known[-1] = None
        if wanted and factored is not None and not torch.is_grad_enabled():
            if step is not None and are_vectors(g, x):
                node, table = awaiting(values)
                A_bar, b_bar, triplets = step.adjoint(factored, g, x, table)
                if triplets is not None:
                    leave(node, A_bar, triplets)
                return A_bar, b_bar, None
            if are_ordinary(g, x) and not g.is_complex():
                y, A_bar = factored.adjoint(g.detach().numpy(), x.detach().numpy(), False)
                return torch.from_numpy(A_bar), torch.from_numpy(y), None
        P = planner.pattern
        token = token_of([factored], ()) if factored is not None else token_of_nothing()
        system = P.rows, P.cols, P.handle, planner.assume + planner.method.key, False
        return *adjoint(g, values, x, token, *system, wanted), None


# Without what torch does for transforms, which are never active here.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Step).apply  # type: ignore[misc]
_apply_known: Callable[..., Tensor] = super(torch.autograd.Function, _Known).apply  # type: ignore[misc]


def _through_known(values: Tensor, b: Tensor, slot: Any) -> Tensor:
    """x by `_Known`, with its numbers. What is saved shares x's memory: hooks that would have copied it
    before there was anything in it are for the general path.
    """
    step = slot.step
    known = [slot.planner, step, None]
    x = _apply_known(values, b, known)
    factored = None if step is None else step.solve(slot, values, b, x)
    if factored is None:
        factored = renewed(slot, values.detach().numpy())
        x.detach().numpy()[:] = factored.solve(b.detach().numpy())
    known[-1] = factored
    return x
