"""Who may reuse a factor on a device: as `planning/cache.py`, without reading numbers back.

The latest factor of a single matrix is used again for the same tensor, unchanged: comparing numbers
would have to wait for the device. It hangs on the pattern's planner, and goes with it.
"""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from ...matrix import Pattern
from ..cache import _alone, _references, planner_of
from ..planner import Planner
from .batch import DeviceBatch
from .lone import Lone
from .planner import Attempt, DevicePlanner, Place, engine_for, numpy_dtype

__all__ = ["analyze", "anew", "obtain"]


class _Kept:
    """A factor and the tensor that it is of, which it does not keep alive."""

    def __init__(self, factor: Lone, values: Tensor) -> None:
        self.factor = factor
        self._tensor = weakref.ref(values)
        self._version = _version(values)

    def is_of(self, values: Tensor) -> bool:
        version = _version(values)
        return version is not None and self._tensor() is values and self._version == version


def _version(values: Tensor) -> int | None:
    return None if values.is_inference() else values._version


def place_of(planner: Planner, values: Tensor) -> Place | None:
    """Where these values are, and who plans there; None if copies go to the CPU.

    Raises
    ------
    ValueError
        If an engine was asked for that can't be used here.
    """
    if not planner.pattern.shape[0] or not values.numel():
        return None
    key = values.device, values.dtype
    found = planner.elsewhere.get(key)
    if found is None:
        engine = engine_for(*key, planner.assume, planner.method.engine)
        if engine is None:
            return None
        found = planner.elsewhere[key] = Place(DevicePlanner(planner, engine, values.device))
    return found


def _numbers(values: Tensor) -> Tensor:
    """(items, nnz), without graph, in memory of their own."""
    values = values.detach().resolve_conj().resolve_neg()
    shape = math.prod(values.shape[:-1]), values.shape[-1]
    return values.reshape(shape).clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def analyze(planner: Planner, values: Tensor) -> bool:
    """Analyse for values (*B, nnz) where they are; False if copies go to the CPU."""
    place = place_of(planner, values)
    if place is not None:
        place.planner.analyze(_numbers(values)[:1])
    return place is not None


@torch.no_grad()
def obtain(pattern: Pattern, how: str, values: Tensor) -> Lone | DeviceBatch | None:
    """The factor of values (nnz,) or (*B, nnz): the one kept if it is of the same tensor, else a new
    one, whose failures the first solve raises. None if copies go to the CPU.
    """
    planner = planner_of(pattern, how, numpy_dtype(values.dtype))
    place = place_of(planner, values)
    if place is None:
        return None
    there = place.planner
    if values.ndim > 1:
        return DeviceBatch(there, _numbers(values), now=False)
    kept: _Kept | None = place.kept
    if kept is not None and kept.is_of(values):
        return kept.factor
    place.kept = None
    spare: Attempt | None = None
    if kept is not None:
        factor = kept.factor
        kept = None
        if _references(factor) <= _alone():
            spare, factor.attempt = factor.attempt, None
        del factor
    made = Lone(there, _numbers(values), spare, now=False)
    if planner.method.reuse:
        place.kept = _Kept(made, values)
    return made


@torch.no_grad()
def anew(planner: Planner, values: Tensor, tolerant: bool = False) -> Lone | DeviceBatch | None:
    """A fresh factor, judged now, which no cache keeps; None if copies go to the CPU."""
    place = place_of(planner, values)
    if place is None:
        return None
    if values.ndim > 1:
        return DeviceBatch(place.planner, _numbers(values), tolerant)
    return Lone(place.planner, _numbers(values))
