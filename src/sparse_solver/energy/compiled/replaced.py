"""Numbers from one function, derivatives from another that computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.func import vmap

from ...matrix.plain import is_plain
from ..per_element import vjp

__all__ = ["replaced"]


def replaced(run: Callable[..., Tensor], exact: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``run(*tensors)`` on plain CPU tensors, with the derivatives of ``exact(*tensors)``."""
    if torch.compiler.is_compiling():
        return exact(*tensors)
    return _Replaced.apply(run, exact, *tensors)


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(run: Any, exact: Any, *tensors: Tensor) -> Tensor:
        if all(is_plain(t) and t.device.type == "cpu" for t in tensors):
            return run(*tensors)
        return exact(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.exact, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        tensors = ctx.saved_tensors
        wanted = [i for i, need in enumerate(ctx.needs_input_grad[2:]) if need]
        _, back = vjp(_partial(ctx.exact, tensors, wanted), *(tensors[i] for i in wanted))
        out: list[Tensor | None] = [None] * len(tensors)
        for i, t in zip(wanted, back(g), strict=True):
            out[i] = t
        return None, None, *out

    @staticmethod
    def jvp(ctx: Any, _0: Any, _1: Any, *dots: Tensor | None) -> Tensor:  # type: ignore[override]
        # Inside a jvp rule forward mode is off; without this a jvp of a jvp would be zero.
        with fwAD._set_fwd_grad_enabled(True):
            tensors = [fwAD.unpack_dual(t, level=0).primal for t in ctx.saved_tensors]
            moving = [i for i, t in enumerate(dots) if t is not None and tensors[i].is_floating_point()]
            y, back = vjp(_partial(ctx.exact, tensors, moving), *(tensors[i] for i in moving))
            _, forth = vjp(back, torch.zeros_like(y))
            return forth(tuple(dots[i] for i in moving))[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, run: Any, exact: Any, *tensors: Tensor) -> tuple:  # type: ignore[override]
        return vmap(exact, in_dims=in_dims[2:])(*tensors), 0


def _partial(exact: Callable[..., Tensor], tensors: Any, wanted: list[int]) -> Callable[..., Tensor]:
    def partial(*some: Tensor) -> Tensor:
        whole = list(tensors)
        for i, t in zip(wanted, some, strict=True):
            whole[i] = t
        return exact(*whole)

    return partial
