"""Tokens: how a factor travels through graphs, transforms and compiled code.

A token is an int64 tensor, one number per matrix, whose *storage* owns the factors. Saved for
backward, it keeps them alive exactly as long as autograd keeps saved tensors; through views,
wrappers of torch.func and tensors saved by compiled code the storage stays the same. A token that
was copied owns nothing: then the matrix is factored again, which is right, only slower.
"""

from __future__ import annotations

import itertools
import weakref

import torch
from torch import Tensor

from ..planning import Factored

__all__ = ["factors_of", "token_of"]

_names = itertools.count(1)
_named: weakref.WeakValueDictionary[int, Factored] = weakref.WeakValueDictionary()


def token_of(factors: list[Factored], shape: tuple[int, ...] | torch.Size) -> Tensor:
    """A token of this shape that owns `factors`, one per element."""
    names = [next(_names) for _ in factors]
    _named.update(zip(names, factors, strict=True))
    if shape:
        token = torch.tensor(names, dtype=torch.int64).reshape(shape)
    else:
        token = torch.scalar_tensor(names[0], dtype=torch.int64)
    token.untyped_storage()._sparse_solver_factors = factors  # type: ignore[attr-defined]
    return token


def factors_of(token: Tensor) -> list[Factored | None]:
    """The factors, None for each that is no longer alive."""
    if token.ndim == 0:
        return [_named.get(int(token))]
    return [_named.get(name) for name in token.reshape(-1).tolist()]
