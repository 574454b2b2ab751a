"""One function of one element, mapped over all elements, with derivatives of every order.

`map_elements(h, *inputs)` is vmap(h) over the *last* axis of every input: with the element innermost
in memory each step of h is one pass over a long row of numbers. It runs in chunks, so memory stays
bounded, and keeps no graph: the backward pass is again a map, of the function

    (inputs of an element, incoming gradient) -> pulled back by vjp(h)

and forward mode a map of the transpose of that. So the family is closed under differentiation and
under vmap, and every order in every mixture of modes follows from the few lines below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor, func
from torch.func import vmap

__all__ = ["LocalFunction", "map_elements", "vjp"]

LocalFunction = Callable[..., tuple[Tensor, ...]]

_AT_ONCE = 1 << 22  # numbers in the largest temporary of a chunk, about
_LEAST = 256  # elements of a chunk


def vjp(f: Callable[..., Any], *primals: Tensor) -> tuple[Any, Callable[..., tuple]]:
    """(f(*primals), pullback)."""
    out, back = func.vjp(f, *primals)[:2]
    return out, back


def map_elements(h: LocalFunction, *inputs: Tensor, width: int = 1) -> tuple[Tensor, ...]:
    """h for every element: inputs (..., m) -> outputs (..., m), differentiable to any order.

    Parameters
    ----------
    h : callable
        Takes the inputs of one element and returns a tuple of tensors.
    inputs : Tensor, shape (..., m)
        Floating-point ones are differentiated.
    width : int
        Numbers that h's largest intermediate holds for one element; decides the size of a chunk.
    """
    if torch.compiler.is_compiling():  # a compiler fuses and schedules by itself
        return vmap(h, in_dims=-1, out_dims=-1)(*inputs)
    return _Map.apply(h, width, *inputs)


def _run(h: LocalFunction, width: int, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    m = inputs[0].shape[-1]
    mapped = vmap(h, in_dims=-1, out_dims=-1)
    chunk = max(_LEAST, _AT_ONCE // max(1, width))
    if m <= chunk:
        return mapped(*inputs)
    starts = range(0, m, chunk)
    parts = [mapped(*(t[..., s : s + chunk] for t in inputs)) for s in starts]
    return tuple(torch.cat(part, -1) for part in zip(*parts, strict=True))


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(h: LocalFunction, width: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        # No output may be an input itself, or a view of it: autograd would take it for one.
        return tuple(t.clone() if _same_memory(t, inputs) else t for t in _run(h, width, inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.h, ctx.width, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple:  # type: ignore[override]
        inputs, h = ctx.saved_tensors, ctx.h
        wanted = [i for i, need in enumerate(ctx.needs_input_grad[2:]) if need]
        pulled = iter(map_elements(_pullback(h, wanted, len(inputs)), *inputs, *g, width=ctx.width))
        return (None, None, *(next(pulled) if i in wanted else None for i in range(len(inputs))))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple:  # type: ignore[override]
        # Inside a jvp rule forward mode is off; without this a jvp of a jvp would be zero.
        with fwAD._set_fwd_grad_enabled(True):
            inputs = [fwAD.unpack_dual(t, level=0).primal for t in ctx.saved_tensors]
            dots = tangents[2:]
            moving = [i for i, t in enumerate(dots) if t is not None and inputs[i].is_floating_point()]
            given = [dots[i] for i in moving]
            pushed = _pushforward(ctx.h, moving, len(inputs))
            return map_elements(pushed, *inputs, *given, width=ctx.width)  # type: ignore[arg-type]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, h: LocalFunction, width: int, *inputs: Tensor) -> tuple:  # type: ignore[override]
        dims = in_dims[2:]
        inner = tuple(None if d is None else 0 for d in dims)
        inputs = tuple(t if d is None else t.movedim(d, 0) for t, d in zip(inputs, dims))
        out = map_elements(vmap(h, in_dims=inner), *inputs, width=width * info.batch_size)
        return out, (0,) * len(out)


def _same_memory(t: Tensor, inputs: Sequence[Tensor]) -> bool:
    return any(t is s or t._base is not None and t._base is s for s in inputs)


def _split(wanted: list[int], args: Sequence[Tensor], h: LocalFunction) -> Callable[..., Any]:
    def partial(*some: Tensor) -> tuple[Tensor, ...]:
        whole = list(args)
        for i, t in zip(wanted, some, strict=True):
            whole[i] = t
        return h(*whole)

    return partial


def _pullback(h: LocalFunction, wanted: list[int], count: int) -> LocalFunction:
    """(inputs, g) -> gradients of the wanted inputs."""

    def pull(*args: Tensor) -> tuple[Tensor, ...]:
        inputs, g = args[:count], args[count:]
        _, back = vjp(_split(wanted, inputs, h), *(inputs[i] for i in wanted))
        return back(tuple(g))

    return pull


def _pushforward(h: LocalFunction, moving: list[int], count: int) -> LocalFunction:
    """(inputs, tangents of the moving ones) -> tangents of the outputs."""

    def push(*args: Tensor) -> tuple[Tensor, ...]:
        inputs, dots = args[:count], args[count:]
        # The pullback is linear in g and its transpose is what is asked for. Not torch.func.jvp:
        # there is none inside a forward mode that torch.func did not begin.
        out, back = vjp(_split(moving, inputs, h), *(inputs[i] for i in moving))
        zero = tuple(map(torch.zeros_like, out))
        _, forth = vjp(back, zero)  # type: ignore[arg-type]
        return forth(tuple(dots))[0]

    return push
