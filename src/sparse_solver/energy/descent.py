"""Newton's method downhill: projected Hessians, and a line search that survives rounding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import InaccurateSolveError, NotPositiveDefiniteError, SingularMatrixError
from ..linalg import solve
from ..matrix import SparseMatrix
from ..planning import Direct
from .progress import Callback, Newton, Progress, log

__all__ = ["Descent"]

_DECREASE = 1e-4  # of what the slope promises, that a step must bring (Armijo)
_FLATTER = 0.9  # how much of the slope may be left where energies can no longer be told apart
_HALVINGS = 50
_NEAR = 0.3  # what a whole step leaves of the gradient where the Hessian need not be projected,
_FLAT = 1e-3  # or what it gained of the energy
_PATIENCE = 3  # steps to wait after that was tried in vain
_SHIFTS = 12  # tries at making a singular projected Hessian definite


class Descent:
    """Newton's method on numbers, without graphs."""

    def __init__(
        self, E: Any, params: tuple, more: dict, indices: Tensor | None, project: str, method: Direct
    ) -> None:
        self.E, self.params, self.more = E, params, more
        self.indices, self.project, self.method = indices, project, method

    def energy(self, x: Tensor) -> tuple[float, float]:
        """(E, the sum of absolute values that may cancel in it)."""
        sizes = getattr(self.E, "_sizes", None)
        if sizes is None:
            e = float(self.E(x, *self.params, **self.more))
            return e, abs(e)
        e, size = sizes(x, *self.params, **self.more)
        return float(e), float(size)

    def gradient(self, x: Tensor) -> tuple[Tensor, float]:
        """(gradient at free unknowns, zero elsewhere; largest sum of what cancels in it)."""
        forces = getattr(self.E, "_forces", None)
        if forces is None:
            g = self.E.gradient(x, *self.params, **self.more)
            scale = g.abs().amax() if g.numel() else g.sum()
        else:
            g, sizes = forces(x, *self.params, **self.more)
            scale = sizes.amax() if g.numel() else g.sum()
        if self.indices is not None:
            g = g.reshape(-1).index_fill(0, self.indices, 0.0).reshape(x.shape)
        return g, float(scale)

    def hessian(self, x: Tensor, project: str) -> SparseMatrix:
        """H, or its projection."""
        return self.E.hessian(x, *self.params, project=project, **self.more)

    def direction(self, H: SparseMatrix, g: Tensor, tries: int) -> Tensor | None:
        """-H^-1 g at free unknowns, with H shifted if that alone makes it go down; or None."""
        fixed = None if self.indices is None else (self.indices, g.new_zeros(len(self.indices)))
        shift, largest = 0.0, float(H.diagonal().abs().max())
        for _ in range(tries):
            try:
                A = H if shift == 0 else H.add_diagonal(shift)
                d = -solve(A, g.reshape(-1), fixed=fixed, method=self.method).reshape(g.shape)
                if float((d * g).sum()) < 0 or not bool(g.any()):
                    return d
                failure = "not downhill"
            except (SingularMatrixError, NotPositiveDefiniteError, InaccurateSolveError) as error:
                failure = error.message.split("\n", 1)[0]
            shift = max(100 * shift, 1e3 * torch.finfo(g.dtype).eps * largest)
            log.info("shift the Hessian by %.1e: %s", shift, failure)
        return None

    def run(
        self,
        x0: Tensor,
        c: Tensor,
        tol: float,
        max_iterations: int,
        callback: Callback | None,
        info: Newton,
    ) -> Tensor:
        """The minimum, or the last iterate; `info` tells which."""
        x = x0.detach().clone()
        if self.indices is not None:
            x.view(-1)[self.indices] = c.detach()
        energy, size = self.energy(x)
        g, scale = self.gradient(x)
        if not math.isfinite(energy) or not math.isfinite(scale):
            raise ValueError(
                f"E is {energy} at x0 (with prescribed values put in), its gradient "
                f"{'finite' if math.isfinite(scale) else 'not finite'}; begin where both are finite"
            )
        residual, step, near, wait = _largest(g), 1.0, False, 0
        info.record(Progress(0, x, energy, residual, scale, step), callback)
        for iteration in range(1, max_iterations + 1):
            if residual <= tol * scale:
                info.end(True, "gradient below tolerance")
                return x
            d = found = None
            if near:
                d = self.direction(self.hessian(x, "none"), g, 1)
                found = None if d is None else self.search(x, d, g, energy, size)
                wait = _PATIENCE if found is None else 0
            if found is None:
                tries = _SHIFTS if self.project == "psd" else 1
                d = self.direction(self.hessian(x, self.project), g, tries)
                found = None if d is None else self.search(x, d, g, energy, size)
            if d is None:
                hint = "" if self.project == "psd" else '; try project="psd"'
                info.end(False, f"the Hessian gives no direction downhill{hint}")
                return x
            if found is None:
                slope = float((d * g).sum())
                if -slope <= _noise(x, size) or _largest(d) <= 8 * torch.finfo(x.dtype).eps * _largest(
                    x
                ):
                    info.end(True, "rounding errors allow no further step")
                else:
                    info.end(False, "no step along Newton's direction lowers the energy")
                return x
            gained = energy - found[1]
            x, energy, size, step = found
            g, now = self.gradient(x)
            before, residual, scale = residual, _largest(g), max(scale, now)
            # Where whole steps succeed the Hessian itself soon does better than its projection.
            close = step == 1 and (residual < _NEAR * before or gained < _FLAT * size)
            near, wait = self.project == "psd" and close and wait == 0, max(0, wait - 1)
            info.record(Progress(iteration, x, energy, residual, scale, step), callback)
        converged = residual <= tol * scale
        info.end(
            converged,
            "gradient below tolerance" if converged else f"max_iterations={max_iterations} reached",
        )
        return x

    def search(
        self, x: Tensor, d: Tensor, g: Tensor, energy: float, size: float
    ) -> tuple[Tensor, float, float, float] | None:
        """(x + t d, its energy, ..., t) for the first t of 1, 1/2, 1/4, ... that will do."""
        slope, t = float((d * g).sum()), 1.0
        for _ in range(_HALVINGS):
            y = x + t * d
            now, at = self.energy(y)
            if now <= energy + _DECREASE * t * slope:
                return y, now, at, t
            if now <= energy + _noise(x, size):  # false for NaN
                flat = float((d * self.gradient(y)[0]).sum())
                if abs(flat) <= _FLATTER * abs(slope):
                    return y, now, at, t
            t /= 2
        return None


def _noise(x: Tensor, size: float) -> float:
    """The difference of two energies that may be due to rounding."""
    return 64 * torch.finfo(x.dtype).eps * size


def _largest(t: Tensor) -> float:
    return float(t.abs().amax()) if t.numel() else 0.0
