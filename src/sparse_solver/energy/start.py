"""What `minimize` and `root` accept, checked at the door."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..linalg.fixed import check_indices

__all__ = ["read_start"]


def read_start(
    x0: Any, params: Any, fixed: Any, tol: float | None, max_iterations: int
) -> tuple[Tensor | None, Tensor]:
    """(indices of prescribed unknowns or None, their values)."""
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        given = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise TypeError(f"x0 is {given}; expected a float32 or float64 tensor of shape (n, d) or (n,)")
    if not isinstance(params, (tuple, list)):
        raise TypeError(
            f"params is a {type(params).__name__}; expected the tuple that comes after x: params=(t,)"
        )
    if tol is not None and not tol >= 0:
        raise ValueError(f"tol is {tol}; expected a number >= 0 or None")
    if max_iterations < 0:
        raise ValueError(f"max_iterations is {max_iterations}; expected a number >= 0")
    if fixed is None:
        return None, x0.new_zeros(0)
    indices, values = check_indices(x0.numel(), fixed)
    if values.ndim != 1:
        raise ValueError(
            f"fixed has values of shape {tuple(values.shape)}; expected ({len(indices)},), one for "
            "each unknown i * d + c of x.reshape(-1)"
        )
    if values.dtype != x0.dtype:
        raise TypeError(
            f"x0 has dtype {x0.dtype} and the values of fixed {values.dtype}; write "
            f"values.to({x0.dtype})"
        )
    return indices.to(x0.device), values
