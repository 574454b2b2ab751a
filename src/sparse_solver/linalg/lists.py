"""Lists of systems of any structures and sizes: `solve([A1, A2, ...], [b1, b2, ...])` and its kin.

Items on one pattern are stacked into a batch. Others are factored over threads, where they are large
enough; their solves and their derivatives are those of single systems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..derivatives import solve as rule
from ..errors import NonFiniteError
from ..matrix import SparseMatrix
from ..matrix.plain import is_plain
from ..matrix.threads import share
from ..planning import Direct
from .contract import check_method, check_system, read_matrix
from .system import orient, solve_system

__all__ = ["check_lists", "each_item", "is_list", "solve_list"]

_SIZEABLE = 2000  # unknowns from which a factorisation outweighs the interpreter's share
_FEWEST = 4  # items on one pattern from which they are stacked
T = TypeVar("T")


def is_list(A: Any) -> bool:
    """Whether a verb was given several matrices."""
    return isinstance(A, (list, tuple)) and all(isinstance(M, (Tensor, SparseMatrix)) for M in A)


def check_lists(A: Sequence[Any], b: Any, fixed: Any, augmented: bool = False) -> None:
    """Raise unless there is one right-hand side for each matrix, and nothing said of their unknowns."""
    several = isinstance(b, (list, tuple))
    if not several or len(b) != len(A):
        given = f"{len(b)} of them" if several else f"a {type(b).__name__}"
        raise ValueError(
            f"A is a list of {len(A)} matrices and b is {given}; expected a list of {len(A)} "
            "right-hand sides: solve([A1, A2], [b1, b2])"
        )
    if fixed is not None:
        raise ValueError(
            "fixed= prescribes unknowns of one structure; for a list of matrices call solve for each: "
            "[solve(A, b, fixed=f) for A, b, f in zip(As, bs, fs)]"
        )
    if augmented:
        raise ValueError(
            "constraints= and nullspace= are said of one matrix; for a list of matrices call solve for "
            "each: [solve(A, b, nullspace=Z) for A, b, Z in zip(As, bs, Zs)]"
        )


def each_item(items: Sequence[Any], work: Callable[[int], T]) -> list[T]:
    """``[work(0), work(1), ...]``; errors are given their item."""
    out = []
    for item in range(len(items)):
        try:
            out.append(work(item))
        except (torch.linalg.LinAlgError, NonFiniteError) as error:
            error.item = item  # type: ignore[union-attr]
            raise
        except (ValueError, TypeError) as error:
            raise type(error)(f"item {item}: {error}") from error
    return out


def solve_list(
    A: Sequence[Tensor | SparseMatrix],
    b: Sequence[Tensor],
    assume: str,
    method: Direct,
    modes: dict[str, Any],
) -> list[Tensor]:
    """x of each system, in order."""

    def checked(item: int) -> SparseMatrix:
        M = read_matrix(A[item])
        check_system(M, b[item])
        return M

    how = check_method(assume, method)
    matrices = each_item(A, checked)
    if _stackable(matrices, b):
        whole = SparseMatrix(matrices[0].pattern, torch.stack([M.values for M in matrices]))
        # As columns: (items, n) could be taken for the matrix of one system.
        columns = torch.stack([c.unsqueeze(-1) if c.ndim == 1 else c for c in b])
        x = solve_system(whole, columns, how, **modes)
        return list((x.squeeze(-1) if b[0].ndim == 1 else x).unbind(0))
    tokens, how = _factor_each(matrices, assume, method)

    def solved(item: int) -> Tensor:
        return solve_system(matrices[item], b[item], how, token=tokens[item], **modes)

    return each_item(A, solved)


def _stackable(matrices: list[SparseMatrix], b: Sequence[Tensor]) -> bool:
    if len(matrices) < _FEWEST:
        return False
    first = matrices[0]
    return all(
        M._base is None
        and M.ndim == 2
        and M.dtype == first.dtype
        and M.device == first.device
        and c.shape == b[0].shape
        and c.dtype == b[0].dtype
        and M.pattern == first.pattern
        for M, c in zip(matrices, b, strict=True)
    )


def _factor_each(
    matrices: list[SparseMatrix], assume: str, method: Direct
) -> tuple[list[Tensor | None], str]:
    """Tokens made over threads, one thread to an item; None for those to be made when solved with."""
    tokens: list[Tensor | None] = [None] * len(matrices)
    threads = method.threads or torch.get_num_threads()
    single = [orient(M, False, False)[0] for M in matrices]
    large = [k for k, M in enumerate(single) if M.ndim == 2 and M.shape[-1] >= _SIZEABLE]
    plain = not torch.compiler.is_compiling() and all(is_plain(M.values) for M in single)
    if threads == 1 or len(large) < 2 or not plain:
        return tokens, check_method(assume, method)
    how = check_method(assume, dataclasses.replace(method, threads=1))
    errors: dict[int, Exception] = {}

    def work(k: int) -> None:
        M = single[large[k]]
        try:
            tokens[large[k]] = rule.factor(M.values.detach(), M.pattern, how)
        except (torch.linalg.LinAlgError, ValueError) as error:
            errors[large[k]] = error

    share(work, len(large), threads)

    def report(item: int) -> None:
        if item in errors:
            raise errors[item]

    each_item(matrices, report)
    return tokens, how
