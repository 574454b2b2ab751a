"""Batches of torch matrices: one union pattern for all items, and where each stored entry goes.

Items may differ in pattern and in number of entries. A position that only some items store is an
explicit zero of the others; gradients come back at the entries that each item stores.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .gather import Slots, gather, scatter_sum
from .pattern import Pattern

__all__ = ["BatchPlaces", "read_batch", "read_batch_values", "write_batch"]

_Triplets = tuple[np.ndarray, np.ndarray, np.ndarray]


class BatchPlaces:
    """Where the stored entries of a batch lie in values (*B, nnz) laid out in a row.

    Attributes
    ----------
    batch : tuple of int
    slots : Slots or None
        None where stored order is that of the values.
    stored : LongTensor
        The places that at least one stored entry has, ascending.
    """

    def __init__(self, batch: tuple[int, ...], pattern: Pattern, flat: np.ndarray) -> None:
        self.batch = batch
        size = math.prod(batch) * pattern.nnz
        in_order = len(flat) == size and bool((flat == np.arange(size)).all())
        self.slots = None if in_order else Slots(torch.from_numpy(flat), size)
        self.stored = torch.from_numpy(np.unique(flat))


def read_batch(
    layout: torch.layout, shape: tuple[int, ...], blocks: tuple[int, ...], indices: tuple[Tensor, ...]
) -> tuple[Pattern, BatchPlaces]:
    """The union pattern of a tensor of more than two dimensions, and the places of its entries."""
    batch, (n, m) = shape[:-2], shape[-2:]
    if layout == torch.strided:  # indices: where any item has a nonzero, (2, nnz)
        rows, cols = indices[0].numpy()
        pattern = Pattern(rows, cols, (n, m))
        return pattern, BatchPlaces(batch, pattern, np.arange(math.prod(batch) * pattern.nnz))
    item, rows, cols = (
        _coo(indices[0], batch) if layout == torch.sparse_coo else _compressed(layout, blocks, indices)
    )
    keys, place = np.unique(rows * m + cols, return_inverse=True)
    pattern = Pattern(keys // max(m, 1), keys % max(m, 1), (n, m))
    return pattern, BatchPlaces(batch, pattern, item * pattern.nnz + place)


def _coo(index: Tensor, batch: tuple[int, ...]) -> _Triplets:
    where = index.numpy().astype(np.int64)
    item = np.zeros(where.shape[1], np.int64)
    for size, at in zip(batch, where, strict=False):
        item = item * size + at
    return item, where[-2], where[-1]


def _compressed(
    layout: torch.layout, blocks: tuple[int, ...], indices: tuple[Tensor, ...]
) -> _Triplets:
    """Items all store equally many entries (torch demands it), at positions of their own."""
    pointer, minor = (i.numpy().astype(np.int64).reshape(-1, i.shape[-1]) for i in indices)
    per_item = minor.shape[1]
    item = np.repeat(np.arange(len(minor)), per_item)
    lines = np.arange(pointer.shape[1] - 1)
    major = np.concatenate([np.repeat(lines, np.diff(p)) for p in pointer] or [lines[:0]])
    by_rows = layout in (torch.sparse_csr, torch.sparse_bsr)
    rows, cols = (major, minor.ravel()) if by_rows else (minor.ravel(), major)
    if not blocks:
        return item, rows, cols
    h, w = blocks
    inner_rows, inner_cols = np.arange(h)[:, None], np.arange(w)[None, :]
    spread = np.zeros((1, h, w), np.int64)
    return (
        (item[:, None, None] + spread).ravel(),
        (rows[:, None, None] * h + inner_rows + spread).ravel(),
        (cols[:, None, None] * w + inner_cols + spread).ravel(),
    )


def read_batch_values(stored: Tensor, places: BatchPlaces) -> Tensor:
    """Canonical values (*B, nnz) from stored entries (m,)."""
    flat = stored.clone() if places.slots is None else scatter_sum(stored, places.slots)
    return flat.reshape(*places.batch, flat.shape[0] // max(1, math.prod(places.batch)))


def write_batch(
    values: Tensor,
    layout: torch.layout,
    shape: tuple[int, ...],
    blocks: tuple[int, ...],
    indices: tuple[Tensor, ...],
    pattern: Pattern,
    places: BatchPlaces,
) -> Tensor:
    """A torch tensor of that layout with canonical `values` (*B, nnz) at its own entries."""
    flat, device = values.reshape(-1), values.device
    if layout == torch.sparse_coo:
        at = places.stored
        item, entry = at // max(1, pattern.nnz), at % max(1, pattern.nnz)
        where = [pattern.rows[entry], pattern.cols[entry]]
        for size in reversed(places.batch):
            where.insert(0, item % size)
            item = item // size
        index = torch.stack(where).to(device)
        kept = flat.index_select(0, at.to(device))
        return torch.sparse_coo_tensor(index, kept, shape, is_coalesced=True, check_invariants=False)
    stored = flat if places.slots is None else gather(flat, places.slots)
    pointer, minor = (i.to(device) for i in indices)
    stored = stored.reshape(*minor.shape, *blocks)
    return torch.sparse_compressed_tensor(
        pointer, minor, stored, shape, layout=layout, check_invariants=False
    )
