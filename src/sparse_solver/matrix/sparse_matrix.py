"""`SparseMatrix`: numbers on a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .gather import Slots, gather, scatter_sum
from .pattern import Pattern
from .products import multiply

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["SparseMatrix"]


class SparseMatrix:
    """A sparse matrix as a pattern and a tensor of values: the input through which derivatives of
    every order flow.

    Parameters
    ----------
    pattern : Pattern
        Structure of shape (n, m).
    values : Tensor, shape (*B, nnz)
        Entries in the pattern's canonical order. For values in the order of the triplets a pattern
        was built with, write ``pattern.assemble(values)`` instead.

    Attributes
    ----------
    T, mT, H, mH : SparseMatrix
        Transpose and conjugate transpose. They are views: solving with one uses A's plan and factor.

    Notes
    -----
    A light value type: nothing is copied, nothing is checked twice, and it is a pytree whose one
    leaf is `values`.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> P = ss.Pattern([0, 0, 1], [0, 1, 1], (2, 2))
    >>> A = ss.SparseMatrix(P, torch.tensor([2.0, 1.0, 4.0]))
    >>> A @ torch.tensor([1.0, 1.0])
    tensor([3., 4.])
    >>> A.T.to_dense()
    tensor([[2., 0.],
            [1., 4.]])
    """

    __slots__ = ("_base", "_conjugate", "_pattern", "_values")

    # A view (transpose of `_base`, conjugated or not) makes its pattern and values when first read.
    _pattern: Pattern | None
    _values: Tensor | None
    _base: SparseMatrix | None
    _conjugate: bool

    def __init__(self, pattern: Pattern, values: Tensor) -> None:
        if values.ndim == 0 or values.shape[-1] != pattern.nnz:
            raise ValueError(
                f"values has shape {tuple(values.shape)}; this pattern has {pattern.nnz} nonzeros, so "
                f"values must have shape (..., {pattern.nnz}). Values in the order of the triplets go "
                "through pattern.assemble(values)"
            )
        self._pattern, self._values = pattern, values
        self._base, self._conjugate = None, False

    # ---- what it is ----

    @property
    def pattern(self) -> Pattern:
        """The structure."""
        if self._pattern is None:
            assert self._base is not None
            self._pattern = self._base.pattern.T
        return self._pattern

    @property
    def values(self) -> Tensor:
        """Entries in canonical order, (*B, nnz)."""
        if self._values is not None:
            return self._values
        assert self._base is not None  # a view: read anew each time, for the base may be edited
        values = gather(self._base.values, self._base.pattern.transposed_slots)
        return values.conj() if self._conjugate else values

    @property
    def _like(self) -> Tensor:
        return self._values if self._base is None else self._base._like  # type: ignore[return-value]

    @property
    def shape(self) -> torch.Size:
        """(*B, n, m)."""
        if self._base is None:
            return torch.Size((*self._like.shape[:-1], *self.pattern.shape))
        *batch, n, m = self._base.shape
        return torch.Size((*batch, m, n))

    @property
    def ndim(self) -> int:
        """Number of dimensions, batch included."""
        return self._like.ndim + 1

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the values."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where the values live."""
        return self._like.device

    @property
    def nnz(self) -> int:
        """Stored entries per item."""
        return self.pattern.nnz

    @property
    def requires_grad(self) -> bool:
        """Whether the values are part of a graph."""
        return self._like.requires_grad

    @property
    def T(self) -> SparseMatrix:
        """Transpose (of the last two dimensions)."""
        return self._flipped(False)

    @property
    def mT(self) -> SparseMatrix:
        """Transpose (of the last two dimensions)."""
        return self._flipped(False)

    @property
    def H(self) -> SparseMatrix:
        """Conjugate transpose."""
        return self._flipped(self.dtype.is_complex)

    @property
    def mH(self) -> SparseMatrix:
        """Conjugate transpose."""
        return self._flipped(self.dtype.is_complex)

    def _flipped(self, conjugate: bool) -> SparseMatrix:
        if self._base is not None:
            same = self._conjugate == conjugate
            return self._base if same else SparseMatrix(self._base.pattern, self._base.values.conj())
        view = SparseMatrix.__new__(SparseMatrix)
        view._pattern = view._values = None
        view._base, view._conjugate = self, conjugate
        return view

    # ---- arithmetic ----

    def __matmul__(self, x: Tensor) -> Tensor:
        """A @ x for x of shape (m,), (*B, m) or (*B, m, k), by the rule of torch.linalg.solve."""
        if not isinstance(x, Tensor):
            return NotImplemented
        return multiply(self.pattern, self.values, x)

    def __add__(self, other: SparseMatrix) -> SparseMatrix:
        if not isinstance(other, SparseMatrix):
            return NotImplemented
        if self.shape[-2:] != other.shape[-2:]:
            raise ValueError(f"cannot add matrices of shapes {tuple(self.shape)}, {tuple(other.shape)}")
        if self.pattern == other.pattern:
            return SparseMatrix(self.pattern, self.values + other.values)
        union = self.pattern.union(other.pattern)
        batch = torch.broadcast_shapes(self.values.shape[:-1], other.values.shape[:-1])
        both = (v.expand(*batch, v.shape[-1]) for v in (self.values, other.values))
        return union.assemble(torch.cat(tuple(both), -1))

    def __neg__(self) -> SparseMatrix:
        return SparseMatrix(self.pattern, -self.values)

    def __sub__(self, other: SparseMatrix) -> SparseMatrix:
        if not isinstance(other, SparseMatrix):
            return NotImplemented
        return self + -other

    def __mul__(self, s: Any) -> SparseMatrix:
        """Scale by a number, or by a tensor of numbers that broadcasts against the batch."""
        if isinstance(s, SparseMatrix):
            return NotImplemented
        if isinstance(s, Tensor) and s.ndim:
            s = s[..., None]
        return SparseMatrix(self.pattern, self.values * s)

    __rmul__ = __mul__

    def __truediv__(self, s: Any) -> SparseMatrix:
        return self * (1 / s)

    def add_diagonal(self, d: Any) -> SparseMatrix:
        """A + diag(d), for d a number or of shape (*B, n)."""
        n, m = self.pattern.shape
        k = min(n, m)
        d = torch.as_tensor(d, dtype=None if isinstance(d, Tensor) else self.dtype, device=self.device)
        d = d.expand(*d.shape[:-1], k) if d.ndim else d.expand(k)
        if self.pattern.has_full_diagonal and n == m:
            at = torch.from_numpy(self.pattern.diagonal).to(self.device)
            values = self.values.expand(
                torch.broadcast_shapes(self.shape[:-2], d.shape[:-1]) + (self.nnz,)
            )
            return SparseMatrix(self.pattern, values.index_add(-1, at, d.expand(*values.shape[:-1], k)))
        i = torch.arange(k, device="cpu")
        return self + SparseMatrix(Pattern(i, i, (n, m)), d)

    def diagonal(self) -> Tensor:
        """Entries (i, i), zero where none is stored: (*B, min(n, m))."""
        at = torch.from_numpy(self.pattern.diagonal).to(self.device)
        values = torch.nn.functional.pad(self.values, (0, 1))  # place -1 reads the added zero
        return values[..., at]

    def __getitem__(self, i: Any) -> SparseMatrix:
        """An item (or a slice) of a batch."""
        if self.values.ndim == 1:
            raise IndexError(f"A of shape {tuple(self.shape)} is no batch; to_dense() can be indexed")
        batch = self.values.shape[:-1]
        at = torch.arange(batch.numel(), device=self.device).reshape(batch)[i]
        return SparseMatrix(self.pattern, self.values.reshape(batch.numel(), self.nnz)[at])

    # ---- as tensors do ----

    def to(self, *args: Any, **kwargs: Any) -> SparseMatrix:
        """Values cast or moved, as `Tensor.to`."""
        return SparseMatrix(self.pattern, self.values.to(*args, **kwargs))

    def detach(self) -> SparseMatrix:
        """The same numbers without their graph."""
        return SparseMatrix(self.pattern, self.values.detach())

    def requires_grad_(self, requires_grad: bool = True) -> SparseMatrix:
        """Ask for gradients of the values, in place."""
        self._like.requires_grad_(requires_grad)  # of a view: of what it views
        return self

    def conj(self) -> SparseMatrix:
        """Complex conjugate, entry by entry."""
        return SparseMatrix(self.pattern, self.values.conj())

    def __repr__(self) -> str:
        return (
            f"SparseMatrix(shape={tuple(self.shape)}, nnz={self.nnz}, dtype={self.dtype}, "
            f"device={self.device})"
        )

    def __reduce__(self) -> tuple:
        return SparseMatrix, (self.pattern, self.values)

    # ---- from and to other forms ----

    @classmethod
    def from_torch(cls, A: Tensor) -> SparseMatrix:
        """From a torch matrix of any layout; first derivatives flow back in that layout.

        A dense `A` is read by its nonzeros.
        """
        from .convert import read_structure, read_values

        structure = read_structure(A)
        return cls(structure.pattern, read_values(A, structure))

    @classmethod
    def from_scipy(cls, A: scipy.sparse.spmatrix | scipy.sparse.sparray) -> SparseMatrix:
        """From a SciPy sparse matrix or array; duplicates add up."""
        coo = A.tocoo()
        pattern = Pattern(coo.row, coo.col, coo.shape)
        return pattern.assemble(torch.from_numpy(np.array(coo.data)))

    @classmethod
    def from_triangle(cls, A: Any, *, hermitian: bool | None = None) -> SparseMatrix:
        """The whole symmetric matrix of which `A` stores one triangle.

        Parameters
        ----------
        A : SparseMatrix or Tensor
            Lower or upper triangular, shape (n, n).
        hermitian : bool, optional
            Mirror entries conjugated. Must be said for complex A; real A needs no word.

        Raises
        ------
        ValueError
            If both triangles hold entries, or A is complex and `hermitian` was not given.
        """
        A = A if isinstance(A, SparseMatrix) else cls.from_torch(A)
        P = A.pattern
        if bool((P.rows < P.cols).any()) and bool((P.rows > P.cols).any()):
            raise ValueError(
                f"{A!r} stores entries on both sides of the diagonal; expected one triangle"
            )
        if A.dtype.is_complex and hermitian is None:
            raise ValueError("A is complex: say from_triangle(A, hermitian=True) or hermitian=False")
        off = torch.nonzero(P.rows != P.cols).squeeze(1)
        whole = Pattern(torch.cat([P.rows, P.cols[off]]), torch.cat([P.cols, P.rows[off]]), P.shape)
        mirrored = A.values[..., off.to(A.device)]
        mirrored = mirrored.conj() if hermitian else mirrored
        return whole.assemble(torch.cat([A.values, mirrored], -1))

    def to_dense(self) -> Tensor:
        """(*B, n, m) strided; differentiable to any order."""
        n, m = self.pattern.shape
        rows, cols = self.pattern.indices(torch.device("cpu"))
        flat = scatter_sum(self.values, Slots(rows * m + cols, n * m))
        return flat.reshape(*self.values.shape[:-1], n, m)

    def to_torch(self, layout: torch.layout = torch.sparse_coo) -> Tensor:
        """A torch tensor of that layout (COO or CSR or CSC, or strided), first derivatives only."""
        if layout == torch.strided:
            return self.to_dense()
        if self.values.ndim != 1:
            raise ValueError(f"{self!r} is a batch; to_torch takes one matrix: A[i].to_torch(layout)")
        rows, cols = self.pattern.indices(self.device)
        if layout == torch.sparse_coo:
            index = torch.stack([rows, cols])
            return torch.sparse_coo_tensor(index, self.values, self.shape, is_coalesced=True)
        if layout == torch.sparse_csr:
            indptr = torch.from_numpy(self.pattern.indptr).to(self.device)
            return torch.sparse_csr_tensor(indptr, cols, self.values, self.shape)
        if layout == torch.sparse_csc:
            flip = self.T
            indptr = torch.from_numpy(flip.pattern.indptr).to(self.device)
            _, minor = flip.pattern.indices(self.device)
            return torch.sparse_csc_tensor(indptr, minor, flip.values, self.shape)
        raise ValueError(f"layout must be strided, sparse_coo, sparse_csr or sparse_csc, got {layout}")

    def to_scipy(self) -> scipy.sparse.csr_array:
        """A SciPy CSR array of the values (a copy, without graph)."""
        import scipy.sparse

        values = self.values.detach().cpu().resolve_conj().resolve_neg().numpy().copy()
        return scipy.sparse.csr_array(
            (values, self.pattern.cols.numpy().copy(), self.pattern.indptr.copy()), shape=self.shape
        )


def _flatten(A: SparseMatrix) -> tuple[list[Tensor], Pattern]:
    return [A.values], A.pattern


def _unflatten(leaves: Any, pattern: Pattern) -> SparseMatrix:
    # Transforms put placeholders where tensors were, so nothing may be checked here.
    (values,) = leaves
    return _on(pattern, values)


def _on(pattern: Pattern, values: Tensor) -> SparseMatrix:
    """Values on a pattern of which it is known that they fit."""
    A = SparseMatrix.__new__(SparseMatrix)
    A._pattern, A._values = pattern, values
    A._base, A._conjugate = None, False
    return A


Pattern._with = _on  # type: ignore[method-assign, assignment]


torch.utils._pytree.register_pytree_node(
    SparseMatrix, _flatten, _unflatten, serialized_type_name="sparse_solver.SparseMatrix"
)
