"""From an iteration to a differentiable solution: the way that `minimize` and `root` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .implicit import Equations, stationary_point
from .progress import Callback as Report
from .progress import Newton, default_tolerance

__all__ = ["solution"]


class _Iteration(Protocol):
    def run(
        self,
        x0: Tensor,
        c: Tensor,
        tol: float,
        max_iterations: int,
        callback: Report | None,
        info: Newton,
    ) -> Tensor: ...


def solution(
    equations: Equations,
    iteration: Callable[[tuple, dict[str, Any]], _Iteration],
    x0: Tensor,
    values: Tensor,
    tol: float | None,
    max_iterations: int,
    callback: Report | None,
) -> tuple[Tensor, Newton]:
    """(x, info): x differentiable by the implicit function theorem, NaN where it did not converge.

    `iteration` makes the iteration for detached parameters; `values` are the prescribed unknowns.
    """
    info = Newton()

    def iterate(x0: Tensor, c: Tensor, p: Sequence[Tensor]) -> Tensor:
        info.__init__()  # type: ignore[misc]
        steps = iteration(*equations.arguments([t.detach() for t in p]))
        limit = default_tolerance(torch.finfo(x0.dtype).eps) if tol is None else tol
        with torch.no_grad():
            return steps.run(x0, c, limit, max_iterations, callback, info)

    x = stationary_point(equations, iterate, x0.detach(), values)
    return (x if info.converged else torch.full_like(x, math.nan).detach()), info
