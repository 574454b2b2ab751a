"""`Pattern`: where the nonzeros are.

A pattern is immutable and compared by content. Whatever depends on structure alone - compressed
pointers, the transpose, where the diagonal lies, and above this layer the plans - is computed
once and hangs on it.
"""

from __future__ import annotations

import itertools
import weakref
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import _sparsetools  # type: ignore[attr-defined]
from torch import Tensor

from .gather import Slots, scatter_sum
from .plain import outside_transforms, refuse_compiling

if TYPE_CHECKING:
    from .sparse_matrix import SparseMatrix

__all__ = ["Pattern", "pattern_of"]

_UNIONS = 8  # remembered of one pattern
_handles = itertools.count(1)
_alive: weakref.WeakValueDictionary[int, Pattern] = weakref.WeakValueDictionary()


def _nothing() -> None:
    """What a dead weak reference gives when called."""


class Pattern:
    """The structure of a sparse matrix: its shape and the positions of its nonzeros.

    Built once from triplets; values arrive later through `assemble`, once per step of an
    optimisation, without sorting anything again.

    Parameters
    ----------
    rows, cols : integer tensors or array-likes, shape (m,)
        Positions of the triplets, in any order, duplicates allowed.
    shape : (int, int)
        Rows and columns of the matrix.

    Attributes
    ----------
    shape : tuple of int
    nnz : int
        Number of distinct positions.
    rows, cols : LongTensor, shape (nnz,)
        Canonical positions: row by row, ascending, unique.

    Raises
    ------
    TypeError
        If positions are not integers.
    ValueError
        If lengths differ or a position lies outside `shape`.

    Notes
    -----
    Equality and hash are by shape and canonical positions: two patterns built from the same
    triplets in different order are equal and share one plan.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> P = ss.Pattern([0, 1, 0, 0], [0, 1, 1, 1], (2, 2))
    >>> P
    Pattern(shape=(2, 2), nnz=3)
    >>> P.assemble(torch.tensor([1.0, 4.0, 2.0, 3.0])).to_dense()
    tensor([[1., 5.],
            [0., 4.]])
    """

    shape: tuple[int, int]
    nnz: int
    rows: Tensor
    cols: Tensor
    _slots: Slots | None  # None: triplets came in canonical order, without duplicates
    _with: Callable[[Tensor], SparseMatrix]  # a matrix of values that fit, see `sparse_matrix`
    handle: int  # an integer name, by which compiled graphs refer to the pattern

    def __init__(self, rows: Any, cols: Any, shape: Sequence[int]) -> None:
        refuse_compiling("a Pattern was made")
        shape_ = _check_shape(shape)
        with outside_transforms():
            r, c = _check_positions(rows, cols, shape_)
            indptr, order, slots = _canonical_order(r, c, shape_)
            if order is not None:
                r, c = r[order], c[order]
            else:
                r, c = r.copy(), c.copy()  # ours alone: later edits of the caller's stay out
            self._adopt(r, c, shape_, indptr)
            if slots is not None:
                self._slots = Slots(torch.from_numpy(slots), self.nnz)

    def _adopt(self, r: np.ndarray, c: np.ndarray, shape: tuple[int, int], p: np.ndarray) -> None:
        self.shape, self.nnz = shape, len(r)
        self.rows, self.cols = torch.from_numpy(r), torch.from_numpy(c)
        self.indptr = p  # (shape[0] + 1,) int64: row i is indptr[i]:indptr[i + 1]
        self._slots = None
        self._unions: dict[int, Pattern] = {}  # by the other's handle, which is never used twice
        self.derived: dict[int, Any] = {}  # what layers above keep about this structure
        self.recent: Callable[[], Any] = _nothing  # where they find what a repeated step needs
        self._devices: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.handle = next(_handles)
        _alive[self.handle] = self

    @classmethod
    def from_torch(cls, A: Tensor) -> Pattern:
        """Structure of a torch tensor: the stored entries of a sparse one (explicit zeros count),
        the nonzero entries of a dense one.
        """
        from .convert import read_structure

        return read_structure(A).pattern

    def assemble(self, values: Tensor) -> SparseMatrix:
        """Put values on the triplets this pattern was built with; duplicates add up.

        Parameters
        ----------
        values : Tensor, shape (*B, m)
            One value per triplet, in the order given to the constructor.

        Returns
        -------
        SparseMatrix
            With values of shape (*B, nnz); differentiable to any order.
        """
        slots = self._slots
        m = self.nnz if slots is None else slots.count
        shape = values.shape
        if not shape or shape[-1] != m:
            raise ValueError(
                f"values has shape {tuple(shape)}; this pattern was built from {m} "
                f"triplets, so values must have shape (..., {m})"
            )
        return self._with(values if slots is None else scatter_sum(values, slots))

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`rows` and `cols` on `device`, copied there once."""
        if device.type == "cpu":
            return self.rows, self.cols
        if device not in self._devices:
            with torch.inference_mode(False):  # graphs will save them
                self._devices[device] = self.rows.to(device), self.cols.to(device)
        return self._devices[device]

    # ---- facts that follow from the structure, each computed when first asked for ----

    @cached_property
    def csr(self) -> tuple[np.ndarray, np.ndarray]:
        """(indptr, columns) in the narrowest integers that hold them: what products read."""
        wide = max(self.nnz, *self.shape) >= 2**31
        kind = np.int64 if wide else np.int32
        return self.indptr.astype(kind), self.cols.numpy().astype(kind)

    @cached_property
    def unsigned(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """`csr` and `diagonal` as uint32, in which -1 is the largest number: what compiled loops read;
        None where they don't fit.
        """
        if max(self.nnz, *self.shape) >= 2**31:
            return None
        pointer, cols = (a.view(np.uint32) for a in self.csr)
        return pointer, cols, self.diagonal.astype(np.int32).view(np.uint32)

    @cached_property
    def _transposition(self) -> tuple[Pattern, np.ndarray]:
        with outside_transforms():
            return self._transpose()

    def _transpose(self) -> tuple[Pattern, np.ndarray]:
        r, c = self.cols.numpy(), self.rows.numpy()
        indptr, order, _ = _canonical_order(r, c, (self.shape[1], self.shape[0]))
        if order is None:
            order = np.arange(self.nnz)
        flipped = Pattern.__new__(Pattern)
        flipped._adopt(r[order], c[order], (self.shape[1], self.shape[0]), indptr)
        return flipped, order

    @property
    def T(self) -> Pattern:
        """The transposed structure (assembled from canonical values only)."""
        return self._transposition[0]

    @property
    def transposed_order(self) -> np.ndarray:
        """(nnz,) int64: nonzero k of the transpose is nonzero `transposed_order[k]` of this."""
        return self._transposition[1]

    @cached_property
    def transposed_slots(self) -> Slots:
        """`transposed_order`, for gathering."""
        return Slots(torch.from_numpy(self.transposed_order), self.nnz)

    @cached_property
    def is_symmetric(self) -> bool:
        """Whether (j, i) is a position wherever (i, j) is."""
        return self.shape[0] == self.shape[1] and self.T == self

    @cached_property
    def triangles(self) -> tuple[np.ndarray, np.ndarray]:
        """(upper, mirror) for a symmetric structure: nonzeros (i, j) with j >= i, row by row, and
        for each the nonzero at (j, i).
        """
        upper = np.flatnonzero(self.cols.numpy() >= self.rows.numpy())
        return upper, self.transposed_order[upper]

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`triangles` without the diagonal, as uint32, or None unless `is_symmetric` was found true
        before; it is not looked into for this.
        """
        if not self.__dict__.get("is_symmetric", False) or self.unsigned is None:
            return None
        return self._pairs

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        upper, mirror = self.triangles
        off = upper != mirror
        return upper[off].astype(np.uint32), mirror[off].astype(np.uint32)

    @cached_property
    def diagonal(self) -> np.ndarray:
        """(min(shape),) int64: the nonzero at (i, i), or -1 where there is none."""
        at = np.flatnonzero(self.rows.numpy() == self.cols.numpy())
        out = np.full(min(self.shape), -1, dtype=np.int64)
        out[self.rows.numpy()[at]] = at
        return out

    @cached_property
    def has_full_diagonal(self) -> bool:
        """Whether (i, i) is a position for every i."""
        return bool((self.diagonal >= 0).all())

    def union(self, other: Pattern) -> Pattern:
        """The positions of both, assembled from this one's values followed by the other's."""
        known = self._unions.get(other.handle)
        if known is None:
            rows, cols = torch.cat([self.rows, other.rows]), torch.cat([self.cols, other.cols])
            known = Pattern(rows, cols, self.shape)
            self._unions[other.handle] = known
            while len(self._unions) > _UNIONS:
                self._unions.pop(next(iter(self._unions)), None)
        return known

    # ---- identity ----

    @cached_property
    def _hash(self) -> int:
        crc = zlib.crc32(self.cols.numpy().data, zlib.crc32(self.indptr.data))
        return hash((self.shape, self.nnz, crc))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Pattern):
            return NotImplemented
        return (
            self.shape == other.shape
            and self.nnz == other.nnz
            and np.array_equal(self.indptr, other.indptr)
            and torch.equal(self.cols, other.cols)
        )

    def __repr__(self) -> str:
        return f"Pattern(shape={self.shape}, nnz={self.nnz})"

    def __reduce__(self) -> tuple:
        slots = None if self._slots is None else self._slots.index
        return _unpickle, (self.rows, self.cols, self.shape, slots)


def pattern_of(handle: int) -> Pattern:
    """The living pattern with this handle."""
    pattern = _alive.get(handle)
    if pattern is None:
        raise RuntimeError(
            "the Pattern that this compiled function was traced with no longer exists; keep a "
            "reference to it, or pass it (or a SparseMatrix on it) as an argument"
        )
    return pattern


def _unpickle(rows: Tensor, cols: Tensor, shape: tuple[int, int], slots: Tensor | None) -> Pattern:
    pattern = Pattern(rows, cols, shape)
    pattern._slots = None if slots is None else Slots(slots, pattern.nnz)
    return pattern


def _check_shape(shape: Sequence[int]) -> tuple[int, int]:
    try:
        nrows, ncols = (int(s) for s in shape)
    except (TypeError, ValueError):
        raise ValueError(f"shape must be two integers (rows, columns), got {shape!r}") from None
    if nrows < 0 or ncols < 0:
        raise ValueError(f"shape must not be negative, got {(nrows, ncols)}")
    return nrows, ncols


def _check_positions(rows: Any, cols: Any, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    out = []
    for name, given in (("rows", rows), ("cols", cols)):
        array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
        if array.ndim != 1:
            raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
        out.append(array.astype(np.int64, copy=False))
    r, c = out
    if len(r) != len(c):
        raise ValueError(f"rows has {len(r)} entries and cols {len(c)}; they must pair up")
    for name, array, size in (("rows", r, shape[0]), ("cols", c, shape[1])):
        if len(array) and (array.min() < 0 or array.max() >= size):
            k = int(np.flatnonzero((array < 0) | (array >= size))[0])
            raise ValueError(
                f"{name}[{k}] = {array[k]} is out of range for shape {shape}: indices must lie in "
                f"[0, {size})"
            )
    return r, c


def _canonical_order(
    r: np.ndarray, c: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Row pointer, the triplet that represents each position, and the place of each triplet.

    The last two are None where the triplets are canonical already. Bucket sort by row, then within
    rows: linear time, where sorting keys would not be.
    """
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(r, minlength=shape[0]), out=indptr[1:])
    step = np.diff(r)
    if bool(np.all((step > 0) | ((step == 0) & (np.diff(c) > 0)))):
        return indptr, None, None
    m = len(r)
    cols, order = np.empty(m, np.int64), np.empty(m, np.int64)
    _sparsetools.coo_tocsr(*shape, m, r, c, np.arange(m), indptr, cols, order)
    _sparsetools.csr_sort_indices(shape[0], indptr, cols, order)
    rows = r[order]
    fresh = np.ones(m, dtype=bool)
    fresh[1:] = (np.diff(rows) != 0) | (np.diff(cols) != 0)
    slots = np.empty(m, np.int64)
    slots[order] = np.cumsum(fresh, dtype=np.int64) - 1
    first = order[fresh]
    np.cumsum(np.bincount(rows[fresh], minlength=shape[0]), out=indptr[1:])
    return indptr, first, slots
