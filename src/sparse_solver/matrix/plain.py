"""Is a tensor just numbers in memory?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import numpy as np
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

__all__ = ["are_ordinary", "are_vectors", "conjugate", "is_of_the_host", "is_plain", "name_of"]
__all__ += ["numbers", "outside_transforms", "refuse_compiling", "use_look"]

# Looked up once: on cold caches each look takes as long as what is done with it.
_keys, _modes = torch._C._dispatch_keys, torch._C._len_torch_dispatch_stack
_transforms, _inference = torch._C._are_functorch_transforms_active, torch.is_inference_mode_enabled

_WRAPPERS = ("FuncTorchBatched", "FuncTorchGradWrapper", "Python", "Functionalize", "Batched")
_WRAPPED = 0  # bits of a tensor's dispatch keys that tell that it stands for something else
for _key in map(torch._C._parse_dispatch_key, _WRAPPERS):
    _WRAPPED |= torch._C.DispatchKeySet(_key).raw_repr()  # type: ignore[arg-type]


def is_plain(t: Tensor) -> bool:
    """Whether `t` can be read as memory here and now.

    False inside torch.func transforms, under tracing and fake tensors, and for tensor subclasses:
    there the numbers must be reached through the dispatcher.
    """
    return not _keys(t).raw_repr() & _WRAPPED and not _transforms() and not _modes()


_ORDINARY = _keys(torch.empty(0, device="cpu")).raw_repr()


_look: Callable[..., bool] | None = None


def are_ordinary(s: Tensor, t: Tensor) -> bool:
    """Whether both are dense numbers on the host and nothing but autograd, in reverse, watches: what
    `is_plain` says, no lazy conjugate, no inference mode, no dual numbers.
    """
    return _keys(s).raw_repr() == _keys(t).raw_repr() == _ORDINARY and _is_quiet()


def are_vectors(s: Tensor, t: Tensor) -> bool:
    """Whether both are ordinary, contiguous and of one dimension. Tensors made in inference mode may
    pass: they are as good where they are not saved, and torch refuses to save them.
    """
    if _look is None or not _look(s, t):
        return are_ordinary(s, t) and _is_row(s) and _is_row(t)
    return not s.is_neg() and not t.is_neg() and _is_quiet()


def _is_quiet() -> bool:
    return not _transforms() and not _modes() and not _inference() and fwAD._current_level < 0


def _is_row(t: Tensor) -> bool:
    return t.dim() == 1 and t.is_contiguous()


def use_look(look: Callable[..., bool] | None) -> None:
    """Ask this first whether tensors are contiguous vectors in the host's memory."""
    global _look
    _look = look


def is_of_the_host(t: Tensor) -> bool:
    """Whether torch's operations may bring `t` together with a tensor of the host, kept from earlier: a
    quick look, without that at its dispatch keys, which takes longer than a small assembly.
    """
    return type(t) is Tensor and t.is_cpu and not _transforms() and not _modes()


@lru_cache(maxsize=16)
def name_of(dtype: np.dtype) -> str:
    """The name of an element type, which NumPy puts together anew each time it is asked."""
    return dtype.name


def numbers(t: Tensor) -> np.ndarray:
    """The memory of a plain tensor, brought to the host, without its graph."""
    return t.numpy(force=True)


def refuse_compiling(what: str) -> None:
    """Raise if a compiler is tracing: structure is not made of tensors, so it cannot be traced."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{what} inside a compiled function; make patterns, plans and factors outside and call "
            "pattern.assemble(values) and solve(A, b) inside"
        )


def outside_transforms() -> AbstractContextManager[object]:
    """Leave torch.func's transforms for a while, to work on structure: indices are never wrapped."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return nullcontext()
    return temporarily_clear_interpreter_stack()


def conjugate(t: Tensor) -> Tensor:
    """conj(t), in the form that the mode at work can differentiate."""
    if not t.is_complex():
        return t
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return t.conj()
    return torch.conj_physical(t)  # lazy views of dual tensors break in vectorised Jacobians
