"""The base of every derivative rule in this library."""

from __future__ import annotations

from typing import Any

import torch
from torch._functorch.utils import unwrap_dead_wrappers

__all__ = ["Rule"]


class Rule(torch.autograd.Function):
    """An `autograd.Function` with a lean `apply`.

    torch binds arguments to the signature of `forward` at each call, which costs more than solving
    a small system. Rules are called with all their arguments, by position, so nothing needs binding.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """The rule applied to all its arguments, by position."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)  # type: ignore[misc]
        return super(torch.autograd.Function, cls).apply(  # type: ignore[misc]
            *unwrap_dead_wrappers(args)
        )
