"""`minimize`: a minimum by Newton's method, and its derivatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..matrix.plain import refuse_compiling
from ..planning import Direct
from .descent import Descent
from .element_sum import check_project
from .implicit import Equations
from .progress import Callback, Newton
from .solution import solution
from .start import read_start

__all__ = ["minimize", "minimize_ex"]

_DIRECT = Direct()


def minimize(
    E: Any,
    x0: Tensor,
    params: tuple = (),
    *,
    nodal: tuple = (),
    fixed: tuple[Any, Tensor] | None = None,
    project: str = "psd",
    tol: float | None = None,
    max_iterations: int = 100,
    callback: Callback | None = None,
    method: Direct = _DIRECT,
) -> Tensor:
    r"""Minimise an energy by projected Newton steps with a line search.

    Parameters
    ----------
    E : ElementSum, a sum of such, or the like
        Called as ``E(x, *params)``, ``E.gradient(x, *params)`` and
        ``E.hessian(x, *params, project=...)``; with ``nodal=nodal`` if that is not empty.
    x0 : Tensor, shape (n, d) or (n,)
        Where to begin; E must be finite there. No gradient goes to it.
    params : tuple
        What E takes after x: constants of elements, or for a sum of energies a tuple for each term.
    nodal : tuple
        Nodal quantities, as E takes them.
    fixed : (indices, values), optional
        Prescribed unknowns, numbered ``i * d + c``: ``x.reshape(-1)[indices] = values``, shape (m,).
    project : {"psd", "none"}
        Whether Hessians are projected on the way; the derivatives always use the Hessian itself.
    tol : float, optional
        Converged when the gradient's largest entry is at most tol times the largest sum of the
        absolute values that cancel in an entry; 1.6e-10 (float32: 5e-5) if not given. It also counts
        as convergence when rounding errors of E allow no further step; `minimize_ex` tells.
    max_iterations : int
    callback : callable, optional
        Called with a `Progress` at each iterate.
    method : Direct

    Returns
    -------
    Tensor
        The minimum x, of x0's shape, differentiable in params, nodal and the prescribed values.

    Raises
    ------
    NotConvergedError
        With the attribute `info`, see `minimize_ex`.
    ValueError, TypeError
        Arguments that don't fit, E not finite at x0.

    Notes
    -----
    With :math:`g(x, p) = \partial E / \partial x = 0` at the minimum, :math:`H = \partial g/\partial x`
    and an incoming gradient :math:`\bar x`, the implicit function theorem gives
    :math:`\bar p = -(\partial g / \partial p)^T H^{-1} \bar x`: one solve, whatever way led to x.

    References
    ----------
    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed. (2006), chapters 3 and 6.
    W. W. Hager and H. Zhang, A new conjugate gradient method with guaranteed descent and an efficient
    line search, SIAM J. Optim. 16 (2005), for the test where energies can no longer be told apart.

    Examples
    --------
    A spring of rest length r with one end held at 0, drawn to 3 by another of strength k:

    >>> import torch, sparse_solver as ss
    >>> E = ss.ElementSum(lambda x, k, r: k * (x[1] - x[0] - r) ** 2 / 2, [[0, 1], [1, 2]])
    >>> k = torch.tensor([1.0, 3.0], requires_grad=True)
    >>> x = ss.minimize(E, torch.zeros(3), (k, 1.0), fixed=([0, 2], torch.tensor([0.0, 3.0])))
    >>> x.detach()
    tensor([0.0000, 1.7500, 3.0000])
    >>> x[1].backward()
    >>> k.grad
    tensor([-0.1875,  0.0625])
    """
    x, info = minimize_ex(
        E,
        x0,
        params,
        nodal=nodal,
        fixed=fixed,
        project=project,
        tol=tol,
        max_iterations=max_iterations,
        callback=callback,
        method=method,
    )
    if not info.converged:
        raise info.error("minimize")
    return x


def minimize_ex(
    E: Any,
    x0: Tensor,
    params: tuple = (),
    *,
    nodal: tuple = (),
    fixed: tuple[Any, Tensor] | None = None,
    project: str = "psd",
    tol: float | None = None,
    max_iterations: int = 100,
    callback: Callback | None = None,
    method: Direct = _DIRECT,
) -> tuple[Tensor, Newton]:
    """Minimise an energy, and report rather than raise if that fails.

    Parameters
    ----------
    E, x0, params, nodal, fixed, project, tol, max_iterations, callback, method
        As in `minimize`.

    Returns
    -------
    (x, info)
        x is NaN if ``info.converged`` is false; ``info.x`` has the last iterate. Under `vmap` info is
        that of the last item.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> E = ss.ElementSum(lambda x: (x[0] - 1) ** 4, [[0]])
    >>> x, info = ss.minimize_ex(E, torch.zeros(1), max_iterations=2)
    >>> info.converged, info.reason, x
    (False, 'max_iterations=2 reached', tensor([nan]))
    """
    refuse_compiling("minimize was called")
    for name in ("gradient", "hessian"):
        if not callable(getattr(E, name, None)):
            raise TypeError(
                f"E is a {type(E).__name__} without {name}(x, ...); expected an ElementSum: "
                "ElementSum(local_energy, elements)"
            )
    check_project(project)
    indices, values = read_start(x0, params, fixed, tol, max_iterations)
    equations = Equations(E.gradient, E.hessian, params, nodal, indices, method)

    def iteration(params: tuple, more: dict[str, Any]) -> Descent:
        return Descent(E, params, more, indices, project, method)

    return solution(equations, iteration, x0, values, tol, max_iterations, callback)
