"""Reading other people's matrices, and handing ours back.

`read(A)` turns any torch matrix, or batch of them, into a pattern and canonical values through which
first derivatives flow back in A's own layout. Recognising a structure seen before - also in a *new*
tensor with equal indices, as an optimisation loop makes at every step - is a comparison, not a sort.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .convert_batch import BatchPlaces, read_batch, read_batch_values, write_batch
from .gather import Slots, gather, scatter_sum
from .pattern import Pattern
from .plain import outside_transforms, refuse_compiling

__all__ = ["COMPRESSED", "Structure", "read_structure", "read_values", "write"]

COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_LAYOUTS = (torch.strided, torch.sparse_coo, *COMPRESSED)
_REMEMBERED = 8


@dataclass(frozen=True, eq=False)
class Structure:
    """How one torch tensor stores a pattern: its own index tensors, and where its entries go."""

    layout: torch.layout
    shape: tuple[int, ...]
    blocks: tuple[int, ...]  # block size of BSR / BSC, else ()
    indices: tuple[Tensor, ...]  # own copies, so edits of the tensor are noticed
    pattern: Pattern
    slots: Slots | None  # place of each stored entry; None: stored order is canonical
    places: BatchPlaces | None = None  # instead of slots, for a batch

    def fits(self, layout: torch.layout, shape: Any, blocks: Any, indices: Any) -> bool:
        """Whether a tensor with these indices has this structure."""
        return (
            self.layout == layout
            and self.shape == shape
            and self.blocks == blocks
            and all(a.shape == b.shape for a, b in zip(self.indices, indices, strict=True))
            and all(map(_same, self.indices, indices))
        )


def _same(kept: Tensor, given: Tensor) -> bool:
    return kept.dtype == given.dtype and torch.equal(kept, given.to(kept.device))


_recent: deque[Structure] = deque(maxlen=_REMEMBERED)
_lock = threading.Lock()


def forget() -> None:
    """Drop the remembered structures."""
    with _lock:
        _recent.clear()


def check_matrix(A: Tensor) -> None:
    """Raise unless `A` is a torch matrix, or a batch of them, of a layout we read."""
    if A.layout not in _LAYOUTS:
        raise TypeError(f"A has layout {A.layout}; expected one of {', '.join(map(str, _LAYOUTS))}")
    if A.layout != torch.strided and A.dense_dim() > 0:
        raise ValueError(
            f"A is a hybrid tensor with {A.dense_dim()} dense dimension(s), shape {tuple(A.shape)}; "
            "each stored entry must be one number"
        )
    if A.ndim < 2:
        raise ValueError(
            f"A has shape {tuple(A.shape)}; expected a matrix (n, n) or a batch of them (*B, n, n)"
        )


def read_structure(A: Tensor) -> Structure:
    """The structure of `A`, recognised if it was among the last few."""
    refuse_compiling("the structure of a torch matrix was read")
    with outside_transforms():
        check_matrix(A)
        return _read_structure(A)


def _read_structure(A: Tensor) -> Structure:
    shape = tuple(A.shape)
    blocks: tuple[int, ...] = ()
    if A.layout == torch.strided:
        there = A.detach() != 0
        there = there.reshape(-1, *shape[-2:]).any(0) if A.ndim > 2 else there
        indices: tuple[Tensor, ...] = (there.nonzero().T.contiguous(),)
    elif A.layout == torch.sparse_coo:
        indices = (A.detach()._indices(),)
    elif A.layout in (torch.sparse_csr, torch.sparse_bsr):
        indices = (A.detach().crow_indices(), A.detach().col_indices())
    else:
        indices = (A.detach().ccol_indices(), A.detach().row_indices())
    if A.layout in (torch.sparse_bsr, torch.sparse_bsc):
        blocks = tuple(A.detach().values().shape[-2:])
    for known in tuple(_recent):
        if known.fits(A.layout, shape, blocks, indices):
            return known
    kept = tuple(i.cpu().clone() for i in indices)
    if A.ndim > 2:
        pattern, places = read_batch(A.layout, shape, blocks, kept)
        known = Structure(A.layout, shape, blocks, kept, pattern, None, places)
    else:
        rows, cols = _TRIPLETS[A.layout](kept, blocks)
        pattern = Pattern(rows, cols, shape)
        known = Structure(A.layout, shape, blocks, kept, pattern, pattern._slots)
    with _lock:
        _recent.append(known)
    return known


def _coo_triplets(indices: tuple[Tensor, ...], blocks: tuple[int, ...]) -> tuple[Any, Any]:
    return indices[0][0].numpy(), indices[0][1].numpy()


def _compressed_triplets(indices: tuple[Tensor, ...], blocks: tuple[int, ...]) -> tuple[Any, Any]:
    pointer, minor = (i.numpy().astype(np.int64) for i in indices)
    return np.repeat(np.arange(len(pointer) - 1), np.diff(pointer)), minor


def _spread(rows: np.ndarray, cols: np.ndarray, blocks: tuple[int, ...]) -> tuple[Any, Any]:
    """Entry positions of row-major blocks at block positions (rows, cols)."""
    h, w = blocks
    i = rows[:, None, None] * h + np.arange(h)[:, None] + np.zeros((1, 1, w), np.int64)
    j = cols[:, None, None] * w + np.arange(w)[None, :] + np.zeros((1, h, 1), np.int64)
    return i.ravel(), j.ravel()


_TRIPLETS: dict[torch.layout, Callable[[tuple[Tensor, ...], tuple[int, ...]], tuple[Any, Any]]] = {
    torch.strided: _coo_triplets,
    torch.sparse_coo: _coo_triplets,
    torch.sparse_csr: _compressed_triplets,
    torch.sparse_csc: lambda i, b: _compressed_triplets(i, b)[::-1],
    torch.sparse_bsr: lambda i, b: _spread(*_compressed_triplets(i, b), b),
    torch.sparse_bsc: lambda i, b: _spread(*_compressed_triplets(i, b)[::-1], b),
}


def read_values(A: Tensor, structure: Structure) -> Tensor:
    """Canonical values (*B, nnz) of `A`, with the graph back to it."""
    if A.layout == torch.strided:
        rows, cols = structure.pattern.indices(A.device)
        return A[..., rows, cols]
    with outside_transforms():  # they refuse sparse tensors, to which A is a constant anyway
        return _ReadValues.apply(A, structure)


class _ReadValues(torch.autograd.Function):
    """Stored entries to canonical values; backward writes the gradient in A's own layout.

    torch's constructors of sparse tensors lose the graph of what they are given, so a second
    derivative through them would be dropped in silence. We raise instead.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, structure: Structure) -> Tensor:
        ctx.structure = structure
        stored = A._values() if A.layout == torch.sparse_coo else A.values().reshape(-1)
        if structure.places is not None:
            return read_batch_values(stored, structure.places)
        if structure.slots is None:
            return stored.clone()  # a view would tie the gradient's life to A's storage
        return scatter_sum(stored, structure.slots)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # type: ignore[override]
        if torch.is_grad_enabled() and g.requires_grad:
            raise RuntimeError(
                "create_graph=True through a torch sparse tensor: torch drops the graph of sparse "
                "gradients, so the second derivative would be wrong without a word. Build the "
                "matrix as A = pattern.assemble(values) (a sparse_solver.SparseMatrix) and "
                "differentiate with respect to values."
            )
        return write(g, ctx.structure), None


def write(values: Tensor, structure: Structure) -> Tensor:
    """A torch tensor of the structure's layout with canonical `values` (*B, nnz)."""
    shape, device = structure.shape, values.device
    if structure.places is not None:
        where = structure.blocks, structure.indices, structure.pattern, structure.places
        return write_batch(values, structure.layout, shape, *where)
    if structure.layout == torch.sparse_coo:
        P = structure.pattern
        index = torch.stack(P.indices(device))
        return torch.sparse_coo_tensor(index, values, shape, is_coalesced=True, check_invariants=False)
    stored = values if structure.slots is None else gather(values, structure.slots)
    if structure.blocks:
        stored = stored.reshape(-1, *structure.blocks)
    pointer, minor = (i.to(device) for i in structure.indices)
    return torch.sparse_compressed_tensor(
        pointer, minor, stored, shape, layout=structure.layout, check_invariants=False
    )
