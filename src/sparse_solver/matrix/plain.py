"""Is a tensor just numbers in memory?"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_plain"]

_TYPES = (Tensor, torch.nn.Parameter)
_LEGACY_VMAP = torch._C._parse_dispatch_key("Batched")  # what is_grads_batched still uses


def is_plain(t: Tensor) -> bool:
    """Whether `t` can be read as memory here and now.

    False inside torch.func transforms, under tracing and fake tensors, and for tensor subclasses:
    there the numbers must be reached through the dispatcher.
    """
    return (
        type(t) in _TYPES
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
        and not torch._C._dispatch_keys(t).has(_LEGACY_VMAP)
        and torch._C._len_torch_dispatch_stack() == 0
    )
