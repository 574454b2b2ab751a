"""`root`: a root by Newton's method, and its derivatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..matrix.plain import refuse_compiling
from ..planning import Direct
from .implicit import Equations
from .progress import Callback, Newton
from .search import Search
from .solution import solution
from .start import read_start

__all__ = ["root", "root_ex"]

_DIRECT = Direct()


def root(
    residual: Any,
    x0: Tensor,
    params: tuple = (),
    *,
    nodal: tuple = (),
    fixed: tuple[Any, Tensor] | None = None,
    tol: float | None = None,
    max_iterations: int = 100,
    callback: Callback | None = None,
    method: Direct = _DIRECT,
) -> Tensor:
    r"""Solve :math:`r(x, p) = 0` by Newton steps with a line search on :math:`|r|`.

    Parameters
    ----------
    residual : ResidualSum, or a callable with a Jacobian
        ``residual(x, *params)``, with as many entries as x, and ``residual.jacobian(x, *params)``, a
        SparseMatrix; both with ``nodal=nodal`` if that is not empty.
    x0 : Tensor, shape (n, d) or (n,)
        Where to begin. No gradient goes to it.
    params, nodal : tuple
        What the residual takes besides x.
    fixed : (indices, values), optional
        Prescribed unknowns, numbered ``i * d + c``; the equations of the same numbers are dropped.
    tol : float, optional
        Converged when the residual's largest entry is at most tol times the largest sum of the
        absolute values that cancel in an entry; 1.6e-10 (float32: 5e-5) if not given. It also counts
        as convergence when rounding errors allow no further step; `root_ex` tells.
    max_iterations : int
    callback : callable, optional
        Called with a `Progress` at each iterate.
    method : Direct

    Returns
    -------
    Tensor
        The root x, of x0's shape, differentiable in params, nodal and the prescribed values.

    Raises
    ------
    NotConvergedError
        With the attribute `info`, see `root_ex`.
    SingularMatrixError
        If the Jacobian is singular on the way.

    Notes
    -----
    With :math:`J = \partial r / \partial x` at the root and an incoming gradient :math:`\bar x`, the
    implicit function theorem gives :math:`\bar p = -(\partial r / \partial p)^T J^{-T} \bar x`.

    Examples
    --------
    Square roots of a, each by itself:

    >>> import torch, sparse_solver as ss
    >>> R = ss.ResidualSum(lambda x, a: x**2 - a, [[0], [1]])
    >>> a = torch.tensor([4.0, 9.0], requires_grad=True)
    >>> x = ss.root(R, torch.ones(2), (a,))
    >>> x.detach()
    tensor([2., 3.])
    >>> x.sum().backward()
    >>> a.grad
    tensor([0.2500, 0.1667])
    """
    x, info = root_ex(
        residual,
        x0,
        params,
        nodal=nodal,
        fixed=fixed,
        tol=tol,
        max_iterations=max_iterations,
        callback=callback,
        method=method,
    )
    if not info.converged:
        raise info.error("root")
    return x


def root_ex(
    residual: Any,
    x0: Tensor,
    params: tuple = (),
    *,
    nodal: tuple = (),
    fixed: tuple[Any, Tensor] | None = None,
    tol: float | None = None,
    max_iterations: int = 100,
    callback: Callback | None = None,
    method: Direct = _DIRECT,
) -> tuple[Tensor, Newton]:
    """Solve r(x, p) = 0, and report rather than raise if the iteration fails.

    Parameters
    ----------
    residual, x0, params, nodal, fixed, tol, max_iterations, callback, method
        As in `root`.

    Returns
    -------
    (x, info)
        x is NaN if ``info.converged`` is false; ``info.x`` has the last iterate. Under `vmap` info is
        that of the last item.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> R = ss.ResidualSum(lambda x: x**2 - 4, [[0]])
    >>> x, info = ss.root_ex(R, torch.ones(1, dtype=torch.float64))
    >>> info.converged, info.iterations
    (True, 5)
    """
    refuse_compiling("root was called")
    if not callable(residual) or not callable(getattr(residual, "jacobian", None)):
        raise TypeError(
            f"residual is a {type(residual).__name__}; expected a ResidualSum, or a callable with "
            "jacobian(x, *params) -> SparseMatrix"
        )
    indices, values = read_start(x0, params, fixed, tol, max_iterations)
    equations = Equations(residual, residual.jacobian, params, nodal, indices, method)

    def iteration(params: tuple, more: dict[str, Any]) -> Search:
        return Search(residual, params, more, indices, method)

    return solution(equations, iteration, x0, values, tol, max_iterations, callback)
