"""Tokens: how a factor travels through graphs, transforms and compiled code.

A token is an int64 tensor with an element per matrix, whose *storage* owns the factors into which the
elements point: a list, or for a batch a `BatchFactored`, which is one too. Saved for backward, it
keeps them alive exactly as long as autograd keeps saved tensors; through views, wrappers of torch.func
and tensors saved by compiled code the storage stays the same. A token that was copied owns nothing:
then the matrix is factored again, which is right, only slower.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..planning import BatchFactored, Factored
from ..planning.on_device import DeviceBatch, Lone

__all__ = [
    "batch_of",
    "factors_of",
    "refuse_traces",
    "there_of",
    "token_of",
    "token_of_nothing",
    "token_there",
]

_ZERO = np.zeros((), np.int64)
_traced = torch._C._get_tracing_state


def refuse_traces() -> None:
    """A recorded token would be a constant: the factor of the values traced, for all others."""
    if _traced() is not None:
        raise RuntimeError(
            "torch.jit.trace would keep this factorisation as a constant, and the trace would answer "
            "wrongly for other values; use torch.compile, or torch.export, instead"
        )


def token_of(factors: list[Factored] | BatchFactored, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """A token of this shape that owns `factors`, one per element."""
    refuse_traces()
    if shape:
        token = torch.from_numpy(np.arange(len(factors), dtype=np.int64).reshape(shape))
    else:
        token = token_of_nothing()
    token.untyped_storage()._sparse_solver_factors = factors  # type: ignore[attr-defined]
    return token


def token_of_nothing() -> Tensor:
    """A token that owns no factor."""
    return torch.from_numpy(_ZERO.copy())  # the quickest tensor there is


def token_there(factor: Lone | DeviceBatch, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """A token of this shape that owns factors on a device, out of sight for the functions below."""
    refuse_traces()
    token = torch.arange(max(1, math.prod(shape)), device="cpu").reshape(shape)
    token.untyped_storage()._sparse_solver_there = factor  # type: ignore[attr-defined]
    return token


def there_of(token: Tensor) -> tuple[Lone | DeviceBatch, np.ndarray | None] | None:
    """(factor on a device, which of its items the elements are); as `batch_of`."""
    owned = getattr(token.untyped_storage(), "_sparse_solver_there", None)
    if owned is None or isinstance(owned, Lone):
        return None if owned is None else (owned, None)
    if token.numel() == len(owned) and token.is_contiguous():
        return owned, None
    index = token.reshape(-1).numpy()
    return owned, None if np.array_equal(index, np.arange(len(owned))) else index


def factors_of(token: Tensor) -> list[Factored] | None:
    """The factors, one per element, or None for a copy, which owns none."""
    owned = getattr(token.untyped_storage(), "_sparse_solver_factors", None)
    if owned is None or token.ndim == 0 and len(owned) == 1 and isinstance(owned, list):
        return owned
    return [owned[i] for i in token.reshape(-1).tolist()]


def batch_of(token: Tensor) -> tuple[BatchFactored, np.ndarray | None] | None:
    """(batch, which of its items the elements are), the latter None for all of them in order; None
    for a copy.
    """
    owned = getattr(token.untyped_storage(), "_sparse_solver_factors", None)
    if not isinstance(owned, BatchFactored):
        return None
    if token.numel() == len(owned) and token.is_contiguous():
        return owned, None  # a token's elements are never written to
    index = token.reshape(-1).numpy()
    return owned, None if np.array_equal(index, np.arange(len(owned))) else index
