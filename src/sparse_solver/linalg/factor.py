"""`analyze`, `factorize`, and what they return: `Plan` and `Factor`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..derivatives import solve as rule
from ..derivatives.token import batch_of, factors_of, there_of
from ..info import Info
from ..matrix import Pattern, SparseMatrix
from ..matrix.plain import is_plain, numbers, refuse_compiling
from ..planning import Direct, Planner, on_device, planner_for, planner_of
from ..planning.symmetry import classify
from .answers import Answers
from .contract import check_method, read_matrix
from .fixed import Reduction, read_fixed
from .system import nan_where, solve_system

__all__ = ["Factor", "Plan", "analyze", "factorize", "make_factor"]

_DIRECT = Direct()
Prescribed = tuple[Reduction, Tensor]


class Factor(Answers):
    """A factorisation of A: solve with it as often as you like; gradients go to A.

    Made by `factorize` or `Plan.factorize`. It owns a copy of A's values, so later edits of A change
    neither it nor a pending backward pass.

    Attributes
    ----------
    matrix : SparseMatrix
        A, as it was.
    info : Info
        Facts on the factorisation and the latest solve.
    """

    def __init__(
        self,
        matrix: SparseMatrix,
        how: str,
        token: Tensor | None,
        fixed: Prescribed | None,
        failed: Tensor | None = None,
    ) -> None:
        self.matrix, self._how, self._token, self._fixed = matrix, how, token, fixed
        self._failed = failed  # (*B) bool: items without a factor, from factorize_ex
        self._notes: dict[str, Any] = {}

    @property
    def shape(self) -> torch.Size:
        """(*B, n, n)."""
        return self.matrix.shape

    def solve(self, b: Tensor, *, adjoint: bool = False, transpose: bool = False) -> Tensor:
        """Solve A x = b; see `sparse_solver.solve`.

        Parameters
        ----------
        b : Tensor, shape (n,), (*B, n) or (*B, n, k)
        adjoint, transpose : bool
            Solve A^H x = b, or A^T x = b.

        Returns
        -------
        Tensor
            x, of b's shape; differentiable in A, b and prescribed values.

        Examples
        --------
        >>> import torch, sparse_solver as ss
        >>> F = ss.factorize(torch.tensor([[2.0, 0.0], [1.0, 4.0]]))
        >>> F.solve(torch.tensor([2.0, 9.0]))
        tensor([1., 2.])
        >>> F.solve(torch.tensor([2.0, 8.0]), transpose=True)
        tensor([0., 2.])
        """
        options: dict[str, Any] = {"adjoint": adjoint, "transpose": transpose}
        x = solve_system(self.matrix, b, self._how, fixed=self._fixed, token=self._token, **options)
        return x if self._failed is None else nan_where(self._failed, x, self.matrix.shape, b.shape)

    @property
    def info(self) -> Info:
        """Facts on the factorisation and the latest solve."""
        there = None if self._token is None else there_of(self._token)
        if there is not None:
            return there[0].info()
        batch = None if self._token is None else batch_of(self._token)
        factors = None if self._token is None or batch else factors_of(self._token)
        if not factors and not batch:
            raise RuntimeError("this Factor was rebuilt by a transform; its info is with the original")
        device = self.matrix.device
        moved = None if device.type == "cpu" else f"{device} served by a CPU engine through copies"
        return (batch[0] if batch else factors[0]).info(transfer=moved)  # type: ignore[index]

    def __repr__(self) -> str:
        return f"Factor(shape={tuple(self.shape)}, dtype={self.matrix.dtype})"

    def __reduce__(self) -> tuple:
        fixed = None if self._fixed is None else (self._fixed[0].fixed, self._fixed[1].detach())
        return _refactor, (self.matrix.detach(), self._how, fixed)


def _refactor(matrix: SparseMatrix, how: str, fixed: tuple[Tensor, Tensor] | None) -> Factor:
    return Plan(matrix.pattern, how, fixed).factorize(matrix)


class _Rest:
    """What a Factor is besides its tensors; equal only to itself."""

    def __init__(self, factor: Factor) -> None:
        self.factor = factor


def _flatten(F: Factor) -> tuple[list[Tensor], _Rest]:
    leaves = [F.matrix.values] if F._fixed is None else [F.matrix.values, F._fixed[1]]
    return leaves, _Rest(F)


def _unflatten(leaves: Iterable[Any], rest: _Rest) -> Factor:
    values, *prescribed = leaves
    F = rest.factor
    fixed = None if F._fixed is None else (F._fixed[0], prescribed[0])
    matrix = SparseMatrix.__new__(SparseMatrix)
    matrix._pattern, matrix._values = F.matrix.pattern, values
    matrix._base, matrix._conjugate = None, False
    # The token belongs to these very values. For others solve finds or makes a factor of theirs.
    same = values is F.matrix.values
    return Factor(matrix, F._how, F._token if same else None, fixed, F._failed if same else None)


torch.utils._pytree.register_pytree_node(
    Factor, _flatten, _unflatten, serialized_type_name="sparse_solver.Factor"
)


class Plan:
    """The outcome of analysing a structure: who will factor, how, and why.

    Made by `analyze`. Picklable: structure, options and prescribed indices are stored, and the copy
    analyses again where the engine's own object cannot be stored.

    Attributes
    ----------
    pattern : Pattern
    assume : str
    method : Direct
    info : Info
        Engine, path, reason, predicted size and work.
    """

    def __init__(self, pattern: Pattern, how: str, fixed: tuple[Any, Tensor] | None = None) -> None:
        self.pattern, self._how = pattern, how
        self._fixed = None if fixed is None else read_fixed(pattern, fixed)
        inner = pattern if self._fixed is None else self._fixed[0].pattern
        self._planner = planner_for(inner, how, promised=True)

    @property
    def assume(self) -> str:
        """What was said of the matrices to come."""
        return self._planner.assume

    @property
    def method(self) -> Direct:
        """How they will be factored."""
        return self._planner.method

    @property
    def info(self) -> Info:
        """Engine, path, reason, predicted size and work."""
        if self._planner.elsewhere and not self._planner.analysed:
            return next(reversed(self._planner.elsewhere.values())).planner.info()
        return self._planner.info()

    def factorize(self, A: Tensor | SparseMatrix) -> Factor:
        """Factor values on this plan's structure.

        Parameters
        ----------
        A : Tensor or SparseMatrix
            With a pattern equal to the plan's.

        Raises
        ------
        ValueError
            If the pattern differs.
        TypeError
            For bare values: wrap them, so that the order of triplets is never mistaken for that of
            nonzeros.
        """
        if isinstance(A, Tensor) and A.layout == torch.strided and A.ndim == 1:
            raise TypeError(
                "plan.factorize takes a matrix, not bare values: write pattern.assemble(values) for "
                "values in triplet order, SparseMatrix(pattern, values) for canonical order"
            )
        A = read_matrix(A)
        if A.pattern != self.pattern:
            raise ValueError(
                f"A has {A.pattern}, this plan is for {self.pattern}, with other positions; make a "
                "plan of its own: analyze(A)"
            )
        return _factor(self._planner, A, self._how, self._fixed)

    def __repr__(self) -> str:
        return f"Plan({self.pattern}, engine={self.info.engine!r}, path={self.info.path!r})"

    def __reduce__(self) -> tuple:
        fixed = None if self._fixed is None else (self._fixed[0].fixed, self._fixed[1].detach())
        return _restore, (self.pattern, self._how, fixed, self._planner.analysed)


def _restore(
    pattern: Pattern,
    how: str,
    fixed: tuple[Tensor, Tensor] | None,
    analysed: list[tuple[str, np.dtype]],
) -> Plan:
    plan = Plan(pattern, how, fixed)
    for kind, dtype in analysed:
        plan._planner.order(kind, np.ones(plan._planner.pattern.nnz, dtype))
    return plan


def analyze(
    A: Tensor | SparseMatrix | Pattern,
    *,
    assume: str = "auto",
    method: Direct = _DIRECT,
    fixed: tuple[Any, Tensor] | None = None,
) -> Plan:
    """Plan the factorisation of matrices on A's structure.

    Parameters
    ----------
    A : Tensor, SparseMatrix or Pattern
        Shape (n, n). From a Pattern alone, a symmetric structure is taken for a symmetric matrix;
        values that say otherwise are analysed when they come.
    assume, method
        As in `solve`.
    fixed : (indices, values), optional
        Prescribed unknowns, as in `solve`; kept by the plan and by the factors it makes.

    Returns
    -------
    Plan

    Raises
    ------
    SingularMatrixError
        If no values on this structure make a regular matrix.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> plan = ss.analyze(ss.Pattern([0, 1], [0, 1], (2, 2)))
    >>> plan.info.n, plan.info.kind
    (2, 'symmetric')
    """
    refuse_compiling("analyze was called")
    how = check_method(assume, method)
    if isinstance(A, Pattern):
        if A.shape[0] != A.shape[1]:
            raise ValueError(f"the pattern has shape {A.shape}; expected a square one")
        pattern, values = A, None
    else:
        A = read_matrix(A)
        pattern, values = A.pattern, A
    plan = Plan(pattern, how, fixed)
    planner = plan._planner
    if planner.pattern.shape[0] == 0:
        return plan
    if values is None and on_device.is_elsewhere(method):
        return plan  # values will tell the device
    if values is None:
        ones = np.ones(planner.pattern.nnz)
        # With ones, a symmetric structure is a symmetric matrix, and one that is not is refused.
        kind = classify(planner.pattern, ones, assume)
        planner.order(kind, ones)
    else:
        inner = values if plan._fixed is None else plan._fixed[0].matrix(values)
        if not inner.values.is_cpu or on_device.everywhere:
            if on_device.analyze(planner, inner.values):
                return plan
        items = numbers(inner.values.cpu()).reshape(math.prod(inner.shape[:-2]), inner.nnz)
        for first in items[:1]:
            planner.order(classify(planner.pattern, first, assume), first)
    return plan


def factorize(
    A: Tensor | SparseMatrix,
    *,
    assume: str = "auto",
    method: Direct = _DIRECT,
    fixed: tuple[Any, Tensor] | None = None,
    constraints: tuple[Tensor | SparseMatrix, Tensor] | None = None,
    nullspace: str | Tensor | None = None,
) -> Any:
    """Factor A, always anew.

    Parameters
    ----------
    A : Tensor or SparseMatrix, shape (*B, n, n)
    assume, method
        As in `solve`.
    fixed : (indices, values), optional
        Prescribed unknowns, as in `solve`; every ``F.solve(b)`` takes them on.
    constraints, nullspace : optional
        As in `solve`; every ``F.solve(b)`` honours them.

    Returns
    -------
    Factor
        With `constraints` or `nullspace` an object with `solve`, `info`, `shape` and `matrix` alone.

    Raises
    ------
    ValueError, TypeError, SingularMatrixError, NotPositiveDefiniteError, InaccurateSolveError
        As `solve`.

    Examples
    --------
    >>> import torch, sparse_solver as ss
    >>> F = ss.factorize(torch.eye(3) * 2)
    >>> F.solve(torch.ones(3))
    tensor([0.5000, 0.5000, 0.5000])
    """
    refuse_compiling("factorize was called")
    if isinstance(A, (list, tuple)):
        raise TypeError(
            f"A is a list of {len(A)} matrices; factor each, [factorize(M) for M in A], or write "
            "solve(A, b)"
        )
    if constraints is not None or nullspace is not None:
        from .augmented import factor_augmented

        how = check_method(assume, method)
        return factor_augmented(read_matrix(A), how, fixed, constraints, nullspace)
    return make_factor(read_matrix(A), check_method(assume, method), fixed, reuse=False)


def make_factor(
    A: SparseMatrix,
    how: str,
    fixed: tuple[Any, Tensor] | None,
    *,
    reuse: bool,
    tolerant: bool = False,
) -> Factor:
    """A Factor of its own, or if `reuse` one that shares what the cache has for these values.

    If `tolerant`, a batch keeps its items' failures rather than raise them.
    """
    reading = None if fixed is None else read_fixed(A.pattern, fixed)
    inner = A.pattern if reading is None else reading[0].pattern
    return _factor(planner_for(inner, how), A, how, reading, reuse, tolerant)


def _factor(
    planner: Planner,
    A: SparseMatrix,
    how: str,
    fixed: Prescribed | None,
    reuse: bool = False,
    tolerant: bool = False,
) -> Factor:
    owned = SparseMatrix(A.pattern, A.values.clone())
    inner = owned if fixed is None else fixed[0].matrix(owned)
    values = inner.values
    with nullcontext() if fixed is None else fixed[0].own_numbering():
        plain = is_plain(values)  # inside transforms: by the operator
        if not plain or reuse and not tolerant:
            token = rule.factor(values, planner.pattern, how)
        else:
            if reuse:
                planner = planner_of(planner.pattern, how, numbers(values[:0].cpu()).dtype)
            token = rule.factor_anew(values, planner, tolerant)
    return Factor(owned, how, token, fixed)
