"""Newton's method for equations, with a line search on the norm of the residual."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import InaccurateSolveError, SingularMatrixError
from ..linalg import solve
from ..planning import Direct
from .progress import Callback, Newton, Progress

__all__ = ["Search"]

_DECREASE = 1e-4  # of the residual's norm, relative to the step, that a step must bring
_HALVINGS = 40


class Search:
    """Newton's method on numbers, without graphs."""

    def __init__(
        self, R: Any, params: tuple, more: dict, indices: Tensor | None, method: Direct
    ) -> None:
        self.R, self.params, self.more = R, params, more
        self.indices, self.method = indices, method

    def residual(self, x: Tensor) -> tuple[Tensor, float, float]:
        """(r at free unknowns, zero elsewhere; its norm; the largest sum of what cancels in it)."""
        sizes = getattr(self.R, "_sizes", None)
        if sizes is None:
            r = self.R(x, *self.params, **self.more)
            size = r.abs()
        else:
            r, size = sizes(x, *self.params, **self.more)
        if r.numel() != x.numel():
            raise ValueError(
                f"the residual has shape {tuple(r.shape)} and x {tuple(x.shape)}; expected as many "
                "equations as unknowns. For least squares: minimize(ElementSum.least_squares(...), ...)"
            )
        r = r.reshape(x.shape)
        if self.indices is not None:
            r = r.reshape(-1).index_fill(0, self.indices, 0.0).reshape(x.shape)
        return r, float(r.norm()), float(size.amax()) if size.numel() else 0.0

    def run(
        self,
        x0: Tensor,
        c: Tensor,
        tol: float,
        max_iterations: int,
        callback: Callback | None,
        info: Newton,
    ) -> Tensor:
        """The root, or the last iterate; `info` tells which."""
        x = x0.detach().clone()
        if self.indices is not None:
            x.view(-1)[self.indices] = c.detach()
        r, norm, scale = self.residual(x)
        if not math.isfinite(norm):
            raise ValueError("the residual is not finite at x0 (with prescribed values put in)")
        info.record(Progress(0, x, None, _largest(r), scale, 1.0), callback)
        for iteration in range(1, max_iterations + 1):
            if _largest(r) <= tol * scale:
                info.end(True, "residual below tolerance")
                return x
            J = self.R.jacobian(x, *self.params, **self.more)
            fixed = None if self.indices is None else (self.indices, x.new_zeros(len(self.indices)))
            try:
                d = -solve(J, r.reshape(-1), fixed=fixed, method=self.method).reshape(x.shape)
            except InaccurateSolveError as error:
                info.end(False, f"a step could not be computed: {error.message}")
                return x
            except SingularMatrixError:
                if iteration == 1:
                    raise
                info.end(False, "the Jacobian became singular on the way")
                return x
            t, found = 1.0, False
            for _ in range(_HALVINGS):
                y = x + t * d
                s, now, at = self.residual(y)
                if now <= (1 - _DECREASE * t) * norm:  # false for NaN
                    found = True
                    break
                t /= 2
            if not found:
                eps = torch.finfo(x.dtype).eps
                if _largest(d) <= 64 * eps * _largest(x) or _largest(r) <= 64 * eps * scale:
                    info.end(True, "rounding errors allow no further step")
                else:
                    info.end(False, "no step along Newton's direction lowers the residual")
                return x
            x, r, norm, scale = y, s, now, max(scale, at)
            info.record(Progress(iteration, x, None, _largest(r), scale, t), callback)
        converged = _largest(r) <= tol * scale
        info.end(
            converged,
            "residual below tolerance" if converged else f"max_iterations={max_iterations} reached",
        )
        return x


def _largest(t: Tensor) -> float:
    return float(t.abs().amax()) if t.numel() else 0.0
