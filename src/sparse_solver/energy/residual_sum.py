"""`ResidualSum`: equations that are sums over elements, and their sparse Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev

from ..matrix import SparseMatrix
from .arguments import check_nodes_tensor, element_inputs, one_tensor, refuse_closures
from .connectivity import Connectivity, read_elements
from .per_element import map_elements

__all__ = ["ResidualSum"]


class ResidualSum:
    r"""The residual :math:`R(x) = \sum_e P_e^T r(x_e, \dots)` of a residual r of one element.

    Parameters
    ----------
    local_residual : callable
        ``local_residual(x_elem, *nodal_elem, *element_i)``, as `ElementSum`'s `local_energy`, but
        returning the contributions of the element to the equations it has a part in: shape (q,) or
        (q, c).
    elements : integer array, shape (m, k)
        The nodes of each element.
    rows : integer array, shape (m, q), optional
        The equations, or nodes with c equations each, to which contributions are added. Those of the
        element's own nodes if not given. ``torch.arange(m)[:, None]`` makes a block for each element,
        as least squares want it.
    size : int, optional
        The number of rows: n if `rows` is not given, else the largest row that is named plus one.

    Examples
    --------
    Currents through diodes between nodes, with a shunt to ground at each:

    >>> import torch, sparse_solver as ss
    >>> def diode(v, s):
    ...     i = s * torch.expm1(v[0] - v[1])
    ...     return torch.stack([i + v[0], v[1] - i])
    >>> R = ss.ResidualSum(diode, [[0, 1], [1, 2]])
    >>> v, s = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([2.0, 1.0])
    >>> R(v, s)
    tensor([ 1.0000,  3.7183, -1.7183])
    >>> R.jacobian(v, s).to_dense()
    tensor([[ 3.0000, -2.0000,  0.0000],
            [-2.0000,  6.7183, -2.7183],
            [ 0.0000, -2.7183,  3.7183]])
    """

    def __init__(
        self,
        local_residual: Callable[..., Tensor],
        elements: Any,
        rows: Any = None,
        size: int | None = None,
    ) -> None:
        if not callable(local_residual):
            raise TypeError(
                f"local_residual is a {type(local_residual).__name__}; expected a function of one "
                "element: ResidualSum(local_residual, elements)"
            )
        self.local_residual = local_residual
        self._where = Connectivity(read_elements(elements))
        self._rows = self._where
        self._size = size
        if rows is not None:
            self._rows = Connectivity(read_elements(rows, "rows"), "rows")
            if self._rows.m != self._where.m:
                raise ValueError(
                    f"rows has shape {tuple(self._rows.elements.shape)} and elements "
                    f"{tuple(self._where.elements.shape)}; expected as many of one as of the other"
                )
            self._size = self._rows.least_nodes if size is None else size
        if self._size is not None:
            self._rows.check_nodes(self._size, f"size={self._size}")
        self._r = one_tensor(local_residual, "local_residual", scalar=False)
        self._seen = False  # whether local_residual was looked at for tensors that it closes over

    @property
    def elements(self) -> Tensor:
        """The index tuples, int64 of shape (m, k)."""
        return self._where.elements

    def __call__(self, x: Tensor, *element: Any, nodal: tuple = ()) -> Tensor:
        """The residual.

        Parameters
        ----------
        x : Tensor, shape (n, d) or (n,)
        *element : Tensor, shape (m, ...), or number
            A constant for each element; a number goes to all.
        nodal : tuple of Tensor, shape (n, ...)
            What is given by node besides x.

        Returns
        -------
        Tensor, shape (rows, c) or (rows,)
        """
        n, _, inputs = self._inputs(x, element, nodal)
        (r,) = map_elements(self._residual, *inputs, width=inputs[0].shape[:-1].numel())
        return self._rows.place(r, self._size or n)

    def _sizes(self, x: Tensor, *element: Any, nodal: tuple = ()) -> tuple[Tensor, Tensor]:
        """The residual, and the sum of the absolute values that cancel in it."""
        n, _, inputs = self._inputs(x, element, nodal)
        (r,) = map_elements(self._residual, *inputs, width=inputs[0].shape[:-1].numel())
        size = self._size or n
        return self._rows.place(r, size), self._rows.place(r.abs(), size)

    def jacobian(self, x: Tensor, *element: Any, nodal: tuple = ()) -> SparseMatrix:
        """The derivative of the residual in x, shape (rows * c, n * d); row and column numbers as in
        `ElementSum`: ``i * c + j`` for component j of node or row i.
        """
        n, c, inputs = self._inputs(x, element, nodal)
        width = inputs[0].shape[:-1].numel()
        (J,) = map_elements(self._jacobian, *inputs, width=width**2)
        per_row = J.shape[0] // max(1, self._rows.k)
        places = self._where.jacobian_places(n, c, self._rows, self._size or n, per_row)
        return places.assemble(J)

    def _inputs(self, x: Tensor, element: tuple, nodal: tuple) -> tuple[int, int, tuple[Tensor, ...]]:
        n, c = check_nodes_tensor(x, self._where)
        inputs = element_inputs(x, element, nodal, self._where)
        if not self._seen and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            refuse_closures(self._r, "local_residual", inputs)
            self._seen = True
        return n, c, inputs

    # ---- functions of one element, for `map_elements` ----

    def _residual(self, *inputs: Tensor) -> tuple[Tensor]:
        r = self._r(*inputs)
        q = self._rows.k
        if r.ndim not in (1, 2) or r.shape[0] != q:
            named = "nodes" if self._rows is self._where else "rows"
            raise ValueError(
                f"local_residual returned shape {tuple(r.shape)}; each element has {q} {named}, so "
                f"expected ({q},) or ({q}, c). Other equations: ResidualSum(..., rows=...)"
            )
        return (r,)

    def _jacobian(self, *inputs: Tensor) -> tuple[Tensor]:
        x = inputs[0]
        return (jacrev(self._residual_flat)(*inputs).reshape(-1, x.numel()),)

    def _residual_flat(self, *inputs: Tensor) -> Tensor:
        return self._residual(*inputs)[0].reshape(-1)

    def __repr__(self) -> str:
        name = getattr(self.local_residual, "__name__", type(self.local_residual).__name__)
        return f"ResidualSum({name}, elements of shape {tuple(self.elements.shape)})"
