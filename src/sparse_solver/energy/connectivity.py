"""Which unknowns an element reads, and where in the matrix its second derivatives go.

Everything here depends on index tuples and shapes only; it is made once and kept. Arrays of
elements have the element as their last axis, see `per_element`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..matrix import Pattern, SparseMatrix
from ..matrix.gather import Slots, gather, scatter_sum
from ..matrix.plain import outside_transforms, refuse_compiling

__all__ = ["Connectivity", "HessianPlaces", "JacobianPlaces", "read_elements"]


def read_elements(elements: Any, name: str = "elements") -> Tensor:
    """Index tuples as int64 of shape (m, k), on the CPU, ours alone."""
    if not isinstance(elements, Tensor):
        elements = torch.as_tensor(np.asarray(elements))
    if (
        elements.numel()
        and elements.is_floating_point()
        or elements.is_complex()
        or elements.dtype == torch.bool
    ):
        raise TypeError(f"{name} has dtype {elements.dtype}; expected integers: {name}.long()")
    if elements.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(elements.shape)}; expected (m, k), the k nodes of each element "
            f"in a row" + (f": {name}[:, None]" if elements.ndim == 1 else "")
        )
    if not elements.numel():
        raise ValueError(f"{name} has shape {tuple(elements.shape)}; expected at least one element")
    elements = elements.detach().to("cpu", torch.int64, copy=True)
    if int(elements.min()) < 0:
        e = int((elements < 0).any(1).nonzero()[0])
        raise ValueError(f"{name}[{e}] = {elements[e].tolist()} has a negative index")
    return elements


class Connectivity:
    """Elements (m, k) over nodes, with the maps that gather and scatter nodal quantities."""

    def __init__(self, elements: Tensor, name: str = "elements") -> None:
        self.elements, self.name = elements, name
        self.m, self.k = elements.shape
        self.least_nodes = int(elements.max()) + 1
        self._slots: dict[tuple[int, int], Slots] = {}
        self._places: dict[Any, Any] = {}

    def check_nodes(self, n: int, what: str) -> None:
        """Raise unless `what`, with leading size n, has a value for every node that is named."""
        if n < self.least_nodes:
            e = int((self.elements >= n).any(1).nonzero()[0])
            raise ValueError(
                f"{what} has leading size {n}, but {self.name}[{e}] = {self.elements[e].tolist()}; "
                f"expected a leading size of at least {self.least_nodes}"
            )

    def unknowns(self, c: int) -> Tensor:
        """(k c, m) int64: unknown i c + j is component j of node i."""
        nodes = self.elements.mT.contiguous()  # (k, m)
        return (nodes[:, None] * c + torch.arange(c, device="cpu")[:, None]).reshape(-1, self.m)

    def slots(self, n: int, c: int) -> Slots:
        """The places of `unknowns(c)`, row by row, among n c."""
        known = self._slots.get((n, c))
        if known is None:
            refuse_compiling("an ElementSum or ResidualSum met a new number of nodes")
            with outside_transforms():
                known = Slots(self.unknowns(c).reshape(-1), n * c)
            self._slots[n, c] = known
        return known

    def pick(self, t: Tensor) -> Tensor:
        """Nodal values t (n, *tail) of each element: (k, *tail, m)."""
        n, tail = t.shape[0], t.shape[1:]
        c = tail.numel()
        return gather(t.reshape(n * c), self.slots(n, c)).reshape(self.k, *tail, self.m)

    def place(self, t: Tensor, n: int) -> Tensor:
        """The transpose of `pick`: t (k, *tail, m) summed to (n, *tail)."""
        tail = t.shape[1:-1]
        c = tail.numel()
        return scatter_sum(t.reshape(-1), self.slots(n, c)).reshape(n, *tail)

    def hessian_places(self, n: int, c: int) -> HessianPlaces:
        """Where second derivatives in x with c numbers per node go."""
        key = n, c
        if key not in self._places:
            refuse_compiling("an ElementSum met a new number of nodes")
            with outside_transforms():
                self._places[key] = HessianPlaces(self.unknowns(c), n * c)
        return self._places[key]

    def jacobian_places(self, n: int, c: int, rows: Connectivity, nrows: int, q: int) -> JacobianPlaces:
        """Where derivatives of residuals with q numbers per row node go."""
        key = n, c, nrows, q
        if key not in self._places:
            refuse_compiling("a ResidualSum met a new number of nodes")
            with outside_transforms():
                self._places[key] = JacobianPlaces(rows.unknowns(q), nrows * q, self.unknowns(c), n * c)
        return self._places[key]


class HessianPlaces:
    """The pattern of a Hessian, and the way of element Hessians to its values.

    Only the upper half of each element's Hessian is summed, into the upper half of the matrix; the
    lower half is read from it. So the matrix is symmetric to the last bit.

    Attributes
    ----------
    pattern : Pattern
        Of the whole matrix.
    p, q : LongTensor
        Local row and column of the entries summed, p <= q.
    """

    def __init__(self, unknowns: Tensor, size: int) -> None:
        kd, m = unknowns.shape
        self.p, self.q = torch.triu_indices(kd, kd, device="cpu").unbind()
        i, j = unknowns[self.p].reshape(-1), unknowns[self.q].reshape(-1)
        upper = Pattern(torch.minimum(i, j), torch.maximum(i, j), (size, size))
        slots = upper._slots
        index = torch.arange(len(i), device="cpu") if slots is None else slots.index
        self.slots = Slots(index, upper.nnz)
        # A node that an element names twice: (p, q) and (q, p) meet on the diagonal.
        twice = (i == j).reshape(-1, m) & (self.p != self.q)[:, None]
        self.weight = 1.0 + twice.double() if bool(twice.any()) else None
        off = torch.nonzero(upper.rows != upper.cols).squeeze(1)
        rows, cols = torch.cat([upper.rows, upper.cols[off]]), torch.cat([upper.cols, upper.rows[off]])
        self.pattern = Pattern(rows, cols, (size, size))
        source = torch.cat([torch.arange(upper.nnz, device="cpu"), off])
        mirror = source if self.pattern._slots is None else torch.empty_like(source)
        if self.pattern._slots is not None:
            mirror[self.pattern._slots.index] = source
        self.pattern._slots = None  # values come in canonical order from here on
        self.mirror = Slots(mirror, upper.nnz)

    def assemble(self, H: Tensor) -> SparseMatrix:
        """Element Hessians H (kd, kd, m) -> the matrix."""
        entries = H[self.p.to(H.device), self.q.to(H.device)]  # (kd (kd + 1) / 2, m)
        return self.assemble_upper(entries)

    def assemble_upper(self, entries: Tensor) -> SparseMatrix:
        """Upper halves (kd (kd + 1) / 2, m) -> the matrix."""
        if self.weight is not None:
            entries = entries * self.weight.to(entries)
        upper = scatter_sum(entries.reshape(-1), self.slots)
        return SparseMatrix(self.pattern, gather(upper, self.mirror))


class JacobianPlaces:
    """The pattern of a Jacobian, and the way of element Jacobians to its values."""

    def __init__(self, rows: Tensor, nrows: int, cols: Tensor, ncols: int) -> None:
        r = rows[:, None].expand(-1, cols.shape[0], -1).reshape(-1)
        c = cols[None].expand(rows.shape[0], -1, -1).reshape(-1)
        self.pattern = Pattern(r, c, (nrows, ncols))

    def assemble(self, J: Tensor) -> SparseMatrix:
        """Element Jacobians J (rows, columns, m) -> the matrix."""
        return self.pattern.assemble(J.reshape(-1))
