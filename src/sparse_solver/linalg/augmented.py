"""Systems solved through another one: with constraints, or with a known null space."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import NonFiniteError, code_of
from ..info import Info
from ..matrix import SparseMatrix
from .constraints import Saddle, read_constraints
from .contract import check_system, is_vector
from .factor import Factor, make_factor
from .fixed import read_fixed
from .nullspace import Deflation, read_nullspace
from .system import solve_system

__all__ = ["AugmentedFactor", "factor_augmented", "solve_augmented", "solve_augmented_ex"]


def _read(
    A: SparseMatrix, assume: str, fixed: Any, constraints: Any, nullspace: Any
) -> Saddle | Deflation:
    if nullspace is None:
        return read_constraints(A, constraints, assume)
    for name, given in (("fixed", fixed), ("constraints", constraints)):
        if given is not None:
            raise ValueError(
                f"nullspace and {name} were both given; with unknowns prescribed or constrained the "
                f"system has no null space of A's any more: leave one of them out"
            )
    return read_nullspace(A, nullspace)


def solve_augmented(
    A: SparseMatrix,
    b: Tensor,
    how: str,
    adjoint: bool,
    transpose: bool,
    fixed: Any,
    constraints: Any,
    nullspace: Any,
) -> Tensor:
    """`solve` with constraints or a null space; `how` begins with the word of `assume`."""
    check_system(A, b)
    system = _read(A, how.split("|")[0], fixed, constraints, nullspace)
    return _solve(system, A, b, how, adjoint, transpose, fixed, None)


def _solve(
    system: Saddle | Deflation,
    A: SparseMatrix,
    b: Tensor,
    how: str,
    adjoint: bool,
    transpose: bool,
    fixed: Any,
    factor: Factor | None,
) -> Tensor:
    rhs, vector, bad = system.enter(b, A.shape)
    options: dict[str, Any] = {"adjoint": adjoint, "transpose": transpose}
    if isinstance(system, Saddle):
        if transpose and not adjoint and system.matrix.dtype.is_complex:
            raise ValueError(
                "transpose=True is not offered for complex constraints, whose multipliers come with "
                "C^H; say adjoint=True"
            )
        reading = None if fixed is None else read_fixed(system.matrix.pattern, fixed)
        with system.own_numbering():
            if factor is not None:
                y = factor.solve(rhs, **options)
            else:
                y = solve_system(system.matrix, rhs, how, fixed=reading, **options)
    else:
        token = None if factor is None else factor._token
        y = solve_system(system.matrix, rhs, how, fixed=system.fixed(rhs), token=token, **options)
    x = system.leave(y, bad)  # type: ignore[arg-type]
    return x.squeeze(-1) if vector else x


def factor_augmented(
    A: SparseMatrix,
    how: str,
    fixed: Any,
    constraints: Any,
    nullspace: Any,
    *,
    reuse: bool = False,
) -> AugmentedFactor:
    """A factorisation that solves with constraints or a null space."""
    owned = SparseMatrix(A.pattern, A.values.clone())
    system = _read(owned, how.split("|")[0], fixed, constraints, nullspace)
    with system.own_numbering() if isinstance(system, Saddle) else nullcontext():
        if isinstance(system, Deflation):
            pins = system.reduction.fixed
            fixed = pins, torch.zeros(len(pins), dtype=A.dtype, device=A.device)
        factor = make_factor(system.matrix, how, fixed, reuse=reuse)
    return AugmentedFactor(owned, how, fixed, system, factor)


def solve_augmented_ex(
    A: SparseMatrix,
    b: Tensor,
    how: str,
    modes: dict[str, Any],
    fixed: Any,
    constraints: Any,
    nullspace: Any,
) -> tuple[Tensor, Tensor, Info | None]:
    """(x, info, details) as `solve_ex` gives them; the items of a batch one by one."""
    if len(A.shape) == 2:
        try:
            F = factor_augmented(A, how, fixed, constraints, nullspace, reuse=True)
            return F.solve(b, **modes), torch.zeros((), dtype=torch.int32, device=A.device), F.info
        except (torch.linalg.LinAlgError, NonFiniteError) as error:
            shape = tuple(b.shape)
            for _, values in filter(None, (fixed, constraints)):
                shape = shape if len(shape) > 1 or values.ndim == 1 else (*shape, values.shape[-1])
            x = b.new_full(shape, math.nan, dtype=torch.promote_types(A.dtype, b.dtype))
            code = code_of(error, A.shape[-1])
            return x, torch.tensor(code, dtype=torch.int32, device=A.device), None
    batch, tail = A.shape[:-2], 1 if is_vector(A.shape, b.shape) else 2
    if torch.broadcast_shapes(batch, b.shape[:-tail]) != batch or not batch.numel():
        raise ValueError(
            f"A has shape {tuple(A.shape)} and b {tuple(b.shape)}; solve_ex reports per item of A, so "
            "expected a batch of at least one, and b with no more batch dimensions than A"
        )
    columns = b.expand(*batch, *b.shape[-tail:]).reshape(-1, *b.shape[-tail:])
    more = (how, modes, fixed, constraints, nullspace)
    solved = [
        solve_augmented_ex(SparseMatrix(A.pattern, v), c, *more)
        for v, c in zip(A.values.reshape(-1, A.nnz), columns, strict=True)
    ]
    x = torch.stack([s[0] for s in solved]).reshape(*batch, *solved[0][0].shape)
    return x, torch.stack([s[1] for s in solved]).reshape(batch), solved[0][2]


class AugmentedFactor:
    """What `factorize` returns for ``constraints=`` or ``nullspace=``.

    Attributes
    ----------
    matrix : SparseMatrix
        A, as it was.
    info : Info
        Facts on the factorisation of the saddle-point matrix, or of A without some unknowns.
    """

    def __init__(
        self, matrix: SparseMatrix, how: str, fixed: Any, system: Saddle | Deflation, factor: Factor
    ) -> None:
        self.matrix, self._how, self._fixed = matrix, how, fixed
        self._system, self._factor = system, factor

    @property
    def shape(self) -> torch.Size:
        """(*B, n, n)."""
        return self.matrix.shape

    @property
    def info(self) -> Info:
        """Facts on the factorisation and the latest solve."""
        return self._factor.info

    def solve(self, b: Tensor, *, adjoint: bool = False, transpose: bool = False) -> Tensor:
        """Solve as `sparse_solver.solve` does with the same constraints or null space."""
        check_system(self.matrix, b)
        return _solve(
            self._system, self.matrix, b, self._how, adjoint, transpose, self._fixed, self._factor
        )

    def __repr__(self) -> str:
        kind = "constraints" if isinstance(self._system, Saddle) else "nullspace"
        return f"AugmentedFactor({kind}, shape={tuple(self.shape)}, dtype={self.matrix.dtype})"
