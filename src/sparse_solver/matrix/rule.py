"""The base of every derivative rule in this library."""

from __future__ import annotations

from typing import Any

import torch

unwrap_if_dead = torch._C._functorch.unwrap_if_dead

__all__ = ["Rule", "directly"]


def directly(cls: Any) -> Any:
    """Let autograd call the backward of an `autograd.Function` itself: torch looks for it anew at each
    call, through two functions of its own.
    """
    cls._backward_cls.apply = cls.backward
    return cls


class Rule(torch.autograd.Function):
    """An `autograd.Function` with a lean `apply`.

    torch binds arguments to the signature of `forward` at each call, which costs more than solving
    a small system. Rules are called with all their arguments, by position, so nothing needs binding;
    the first `tensors` of them may come out of a transform that has ended.
    """

    tensors = 1

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The rule applied to all its arguments, by position."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)  # type: ignore[misc]
        return super(
            torch.autograd.Function, cls
        ).apply(  # type: ignore[misc]
            *map(unwrap_if_dead, args[: cls.tensors]), *args[cls.tensors :]
        )
