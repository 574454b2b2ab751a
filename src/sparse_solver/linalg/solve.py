"""`solve` and `solve_ex`: A x = b."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..derivatives.step import quick
from ..errors import NonFiniteError, code_of
from ..info import Info
from ..matrix import SparseMatrix
from ..matrix.plain import is_plain
from ..planning import Direct, on_device
from .augmented import solve_augmented, solve_augmented_ex
from .contract import check_method, check_system, is_vector, read_matrix
from .factor import make_factor
from .fixed import read_fixed
from .lists import check_lists, each_item, is_list, solve_list
from .outcomes import batch_behind, info_of, solve_inside
from .system import nan_where, solve_system

__all__ = ["SolveOutcome", "solve", "solve_ex"]

_DIRECT = Direct()


def solve(
    A: Tensor | SparseMatrix,
    b: Tensor,
    *,
    assume: str = "auto",
    method: Direct = _DIRECT,
    adjoint: bool = False,
    transpose: bool = False,
    fixed: tuple[Any, Tensor] | None = None,
    constraints: tuple[Tensor | SparseMatrix, Tensor] | None = None,
    nullspace: str | Tensor | None = None,
) -> Tensor:
    r"""Solve :math:`A x = b`, differentiably.

    The plan of A's structure is kept and used again whenever that structure comes back; the
    factor is used again for equal values, and by the backward pass. x is accurate or an error is
    raised.

    Parameters
    ----------
    A : Tensor or SparseMatrix, shape (*B, n, n), or a list of them
        Any torch layout, or a SparseMatrix, through which derivatives of every order flow; float32,
        float64, complex64 or complex128. A dense matrix is read by its nonzeros. Symmetric matrices
        store both triangles. A batch is one pattern with values (*B, nnz): of torch tensors, whose
        items may differ, the union. A list has systems of any structures and sizes.
    b : Tensor, shape (n,), (*B, n) or (*B, n, k), or a list of them
        By the rule of `torch.linalg.solve`; batch dimensions broadcast. Same precision as A; real with
        complex A and complex with real A are understood.
    assume : {"auto", "general", "symmetric", "hermitian", "spd"}
        What A is. "auto" finds out and is always right. Other words are verified.
    method : Direct
        How to solve.
    adjoint, transpose : bool
        Solve A^H x = b, or A^T x = b, with the factor of A.
    fixed : (indices, values), optional
        Prescribed unknowns: ``x[indices] = values``, of shape (m,) or (m, k). The equations of these
        unknowns are dropped and b is not read there. `assume` is said of the matrix that remains.
    constraints : (C, d), optional
        Equality constraints: x solves ``A x + C^H mu = b``, ``C x = d`` for some multipliers mu; for
        symmetric A it makes the energy stationary among all x with C x = d. C, of shape (m, n), is a
        SparseMatrix or a torch matrix of any layout, d of shape (m,) or (m, k); both have gradients.
    nullspace : "constant" or Tensor, shape (n,) or (n, r), optional
        A is singular, and these vectors span the null spaces of A and of A^H ("constant": pure
        Neumann problems; see also `gallery.rigid_body_modes`). x is the solution orthogonal to
        them; b must be orthogonal to them too. Gradients are meant for changes of A that keep them.

    Returns
    -------
    Tensor
        x, of b's shape (of shape (n, k) if `values` has columns and b none); a list for lists.

    Raises
    ------
    ValueError
        Shapes, unknown words, NaN or infinity in A or b, A not what `assume` says, a null space that
        is not A's, b with a part in it.
    TypeError
        Data types that don't fit.
    SingularMatrixError, NotPositiveDefiniteError, InaccurateSolveError
        All kinds of `torch.linalg.LinAlgError`. Of a batch or a list, `.item` and the text name the
        first item that failed; `solve_ex` serves the others.

    Notes
    -----
    With :math:`\lambda = A^{-H} g` for an incoming gradient :math:`g`, the gradient of b is
    :math:`\lambda` and that of A is :math:`-\lambda_i \bar x_j` at A's own nonzeros, in A's own
    layout: the gradient of an unstructured matrix, whatever `assume` says.

    Accurate means a normwise backward error of at most 1e3 eps and a componentwise one of at most
    1e7 eps.

    References
    ----------
    M. Giles, Collected matrix derivative results for forward and reverse mode algorithmic
    differentiation (2008), section 2.3.1. N. J. Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed. (2002), chapters 7 and 12.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> P = ss.Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    >>> w = torch.tensor([2.0, 1.0, 1.0, 3.0], requires_grad=True)
    >>> x = ss.solve(P.assemble(w), torch.tensor([5.0, 10.0]))
    >>> x.detach()
    tensor([1., 3.])
    >>> x.sum().backward()
    >>> w.grad
    tensor([-0.4000, -1.2000, -0.2000, -0.6000])
    """
    augmented = constraints is not None or nullspace is not None
    if fixed is None and not (augmented or adjoint or transpose):
        x = quick(A, b, assume, method)
        if x is not None:
            return x
    if is_list(A):
        check_lists(A, b, fixed, augmented)  # type: ignore[arg-type]
        modes = {"adjoint": adjoint, "transpose": transpose}
        return solve_list(A, b, assume, method, modes)  # type: ignore[arg-type, return-value]
    how = check_method(assume, method)
    A = read_matrix(A)
    if augmented:
        return solve_augmented(A, b, how, adjoint, transpose, fixed, constraints, nullspace)
    if fixed is None:
        return solve_system(A, b, how, adjoint=adjoint, transpose=transpose)
    whole = A if A._base is None else A._base
    reading = read_fixed(whole.pattern, fixed)
    return solve_system(A, b, how, adjoint=adjoint, transpose=transpose, fixed=reading)


class SolveOutcome(NamedTuple):
    """What `solve_ex` returns, and with it unseen by unpacking, `.details`."""

    x: Tensor
    info: Tensor


class _Outcome(SolveOutcome):
    details: Info | None


def solve_ex(
    A: Tensor | SparseMatrix,
    b: Tensor,
    *,
    assume: str = "auto",
    method: Direct = _DIRECT,
    adjoint: bool = False,
    transpose: bool = False,
    fixed: tuple[Any, Tensor] | None = None,
    constraints: tuple[Tensor | SparseMatrix, Tensor] | None = None,
    nullspace: str | Tensor | None = None,
) -> SolveOutcome:
    """Solve A x = b and report numerical failure instead of raising it.

    Parameters
    ----------
    A, b, assume, method, adjoint, transpose, fixed, constraints, nullspace
        As in `solve`. Wrong arguments still raise.

    Returns
    -------
    (x, info)
        `info` is int32 of shape ``A.shape[:-2]``, or (m,) for a list of m matrices, whose x is a list:
        0 where x is good; i > 0 where A is singular or not definite, unknown i (1-based) the first
        involved; -1 where no accurate solution was found; n + 1 for NaN or infinity in the input. x is
        NaN where info is not 0, and sends no gradient from there. The tuple's attribute `details` is
        an `Info`, or None after a failure, for lists and inside transforms of torch.func. There, and
        in compiled code, only what factoring finds out is reported, and failures of a solve raise.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> x, info = ss.solve_ex(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.ones(2))
    >>> int(info) > 0, x
    (True, tensor([nan, nan]))
    """
    augmented = constraints is not None or nullspace is not None
    if is_list(A):
        check_lists(A, b, fixed, augmented)  # type: ignore[arg-type]
        modes = {"adjoint": adjoint, "transpose": transpose}
        return _solve_list(A, b, assume, method, modes)  # type: ignore[arg-type]
    how = check_method(assume, method)
    A = read_matrix(A)
    check_system(A, b)
    options: dict[str, Any] = {"adjoint": adjoint, "transpose": transpose}
    if augmented:
        return _outcome(*solve_augmented_ex(A, b, how, options, fixed, constraints, nullspace))
    if torch.compiler.is_compiling() or not is_plain(A.values) or not is_plain(b):
        return _outcome(*solve_inside(A, b, how, fixed, options), None)
    if len(A.shape) > 2:
        return _solve_items(A, b, how, method, fixed, options)
    details = None
    try:
        F = make_factor(A, how, fixed, reuse=True)
        x = F.solve(b, **options)
        if _unseen(A, method):
            return _outcome(x, _finite(x, 0), None)
        code, details = 0, F.info
    except (torch.linalg.LinAlgError, NonFiniteError) as error:
        code = code_of(error, A.shape[-1])
        shape = b.shape if fixed is None else _shape_with(b.shape, fixed[1].shape)
        x = b.new_full(shape, float("nan"), dtype=torch.promote_types(A.dtype, b.dtype))
    return _outcome(x, torch.tensor(code, dtype=torch.int32, device=A.device), details)


def _unseen(A: SparseMatrix, method: Direct) -> bool:
    """Whether nothing may be read back: on a device, if nothing is to be checked."""
    return not method.check and (not A.values.is_cpu or on_device.everywhere)


def _finite(x: Tensor, batch: int) -> Tensor:
    """`info` as x alone tells it, where it is: -1 for items with NaN or infinity."""
    return x.detach().isfinite().flatten(batch).all(-1).to(torch.int32) - 1


def _outcome(x: Tensor, info: Tensor, details: Info | None) -> SolveOutcome:
    outcome = _Outcome(x, info)
    outcome.details = details
    return outcome


def _shape_with(b: torch.Size, values: torch.Size) -> tuple[int, ...]:
    return tuple(b) if len(b) > 1 or len(values) == 1 else (*b, values[-1])


def _solve_list(
    A: Sequence[Tensor | SparseMatrix],
    b: Sequence[Tensor],
    assume: str,
    method: Direct,
    modes: dict[str, bool],
) -> SolveOutcome:
    def one(item: int) -> SolveOutcome:
        M = read_matrix(A[item])
        if len(M.shape) > 2:
            raise ValueError(
                f"A[{item}] has shape {tuple(M.shape)}; a list for solve_ex holds single matrices"
            )
        return solve_ex(M, b[item], assume=assume, method=method, **modes)  # type: ignore[arg-type]

    solved = each_item(A, one)
    device = solved[0].info.device if solved else None
    info = torch.tensor([int(s.info) for s in solved], dtype=torch.int32, device=device)
    return _outcome([s.x for s in solved], info, None)  # type: ignore[arg-type]


def _solve_items(
    A: SparseMatrix,
    b: Tensor,
    how: str,
    method: Direct,
    fixed: tuple[Any, Tensor] | None,
    modes: dict[str, Any],
) -> SolveOutcome:
    """A batch, whose failed items leave the others whole."""
    tail = 1 if is_vector(A.shape, b.shape) else 2
    batch = A.shape[:-2]
    if torch.broadcast_shapes(batch, b.shape[:-tail]) != batch:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and b has shape {tuple(b.shape)}; solve_ex reports per item "
            "of A, so b must not have more batch dimensions than A: expand A's values"
        )
    F = make_factor(A, how, fixed, reuse=True, tolerant=True)
    items = batch_behind(F)
    assert items is not None
    items.recording = True
    try:
        x = F.solve(b, **modes)
    finally:
        items.recording = False
    if _unseen(A, method):
        return _outcome(x, _finite(x, len(batch)), None)
    info = info_of(F)
    if items.errors:
        x = nan_where(info != 0, x, A.shape, b.shape)
    return _outcome(x, info, F.info if math.prod(batch) else None)
