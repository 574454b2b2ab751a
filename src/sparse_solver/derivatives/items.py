"""What operators over (values, token) share: numbers of each item in, one tensor out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..matrix import Pattern
from ..matrix.pattern import pattern_of
from ..matrix.plain import is_plain, numbers
from ..planning import (
    BatchFactored,
    Factored,
    Singular,
    factored_or_singular,
    obtain,
    on_device,
    planner_of,
)
from .token import batch_of, factors_of, token_of

__all__ = ["batched", "define", "explicit_factor", "library", "over_batch", "over_items"]

library = torch.library.Library("sparse_solver", "FRAGMENT")
Item = Factored | Singular


def define(schema: str, run: Callable[..., Tensor], fake: Callable[..., Tensor]) -> tuple[Any, Any]:
    """(run, operator): the same function of plain tensors, and opaque to compilers and transforms."""
    name = library.define(schema)

    def plain(values: Tensor, *rest: Any) -> Tensor:
        none = values.ndim > 1 and not values.shape[:-1].numel()
        return fake(values, *rest) if none else run(values, *rest)

    for device in ("CPU", "CUDA"):
        library.impl(name, plain, device)
    torch.library.register_fake(f"sparse_solver::{name}", fake, lib=library)
    return plain, getattr(torch.ops.sparse_solver, name).default


def over_items(
    compute: Callable[..., np.ndarray],
    values: Tensor,
    token: Tensor,
    pattern: int,
    how: str,
    *others: Tensor,
) -> Tensor:
    """``compute(factored, *others)`` for each item, stacked: values (*B, nnz), others (*B, ...)."""
    batch = values.shape[:-1]
    items = factors_of(token) or _items(numbers(values), pattern_of(pattern), how)
    arrays = [numbers(t).reshape(len(items), *t.shape[len(batch) :]) for t in others]
    results = []
    for i, item in enumerate(items):
        try:
            results.append(compute(item, *(a[i] for a in arrays)))
        except (torch.linalg.LinAlgError, NonFiniteError) as error:
            if batch:
                error.item = i  # type: ignore[union-attr]
            raise
    stacked = np.stack(results)
    return torch.from_numpy(stacked.reshape((*batch, *stacked.shape[1:]))).to(values.device)


def over_batch(
    compute: Callable[..., np.ndarray],
    values: Tensor,
    token: Tensor,
    pattern: int,
    how: str,
    *others: Tensor,
) -> Tensor | None:
    """``compute(batch, index, *others)``, which answers for a whole batch at once: others (items, ...),
    of the batch's items or of those in `index`. None for a matrix, and where one is repeated.
    """
    shape = values.shape[:-1]
    if not shape:
        return None
    found = batch_of(token)
    if found is None:
        if factors_of(token) is not None:
            return None
        found = _batch(numbers(values), pattern_of(pattern), how), None
    flat = [numbers(t).reshape(shape.numel(), *t.shape[len(shape) :]) for t in others]
    out = compute(*found, *flat)
    return torch.from_numpy(out.reshape(*shape, *out.shape[1:])).to(values.device)


# ---- factors that answer ----


def _items(values: np.ndarray, P: Pattern, how: str) -> Any:
    """One matrix: that of the cache. A batch: factors of its own. On the CPU, wherever A is."""
    how = on_device.host_how(how)
    if values.ndim == 1:
        return [factored_or_singular(lambda: obtain(P, how, values, True))]
    return _batch(values, P, how)


def _batch(values: np.ndarray, P: Pattern, how: str) -> BatchFactored:
    how = on_device.host_how(how)
    items = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
    return BatchFactored(planner_of(P, how, values.dtype), items, explicit=True)


def _factor_plain(values: Tensor, P: Pattern, how: str) -> Tensor:
    return token_of(_items(numbers(values), P, how), values.shape[:-1])


_, _factor_op = define(
    "explicit_factor(Tensor values, SymInt pattern, str how) -> Tensor",
    lambda values, pattern, how: _factor_plain(values, pattern_of(pattern), how),
    lambda values, pattern, how: torch.empty(values.shape[:-1], dtype=torch.int64, device="cpu"),
)


def _factor_vmap(info: Any, in_dims: tuple, values: Tensor, pattern: int, how: str) -> tuple:
    return _factor_op(values.movedim(in_dims[0], 0), pattern, how), 0


torch.library.register_vmap("sparse_solver::explicit_factor", _factor_vmap, lib=library)


def explicit_factor(values: Tensor, pattern: Pattern, how: str) -> Tensor:
    """A token (*B) for factors that answer more than solves, of values (*B, nnz); a singular matrix
    has one as well.
    """
    if not torch.compiler.is_compiling() and is_plain(values):
        return _factor_plain(values, pattern, how)
    return _factor_op(values.detach(), pattern.handle, how)


def batched(info: Any, in_dims: tuple, *tensors: Tensor) -> list[Tensor]:
    """Tensors with vmap's dimension first, expanded where they have none."""
    return [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=False)
    ]
