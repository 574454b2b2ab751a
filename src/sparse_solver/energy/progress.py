"""What Newton's method tells about its way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import NotConvergedError

__all__ = ["Callback", "Newton", "Progress", "default_tolerance", "log"]

log = logging.getLogger("sparse_solver")


@dataclass(frozen=True)
class Progress:
    """One iterate of Newton's method, as given to a callback.

    Attributes
    ----------
    iteration : int
        0 for x0.
    x : Tensor
        The iterate; a callback that keeps it should copy it.
    energy : float or None
        E(x); None for `root`.
    residual : float
        Largest absolute entry of the gradient, or of the residual, at free unknowns.
    scale : float
        What it is measured by: the largest sum of absolute contributions of elements.
    step : float
        Length of the step that led here, 1 for a full one.
    """

    iteration: int
    x: Tensor
    energy: float | None
    residual: float
    scale: float
    step: float


@dataclass
class Newton:
    """How an iteration of Newton's method went.

    Attributes
    ----------
    converged : bool
    reason : str
        Why it ended.
    iterations : int
        Steps taken.
    energy : float or None
    residual, scale : float
        As in `Progress`, of the last iterate. Converged means residual <= tol * scale, or that
        rounding errors allow no further progress.
    residuals : list of float
        Of all iterates.
    x : Tensor or None
        The last iterate, without a graph.
    """

    converged: bool = False
    reason: str = "not started"
    iterations: int = 0
    energy: float | None = None
    residual: float = float("nan")
    scale: float = 0.0
    residuals: list[float] = field(default_factory=list)
    x: Tensor | None = field(default=None, repr=False)

    def record(self, progress: Progress, callback: Callback | None) -> None:
        """Take note of an iterate and show it."""
        self.iterations, self.energy, self.x = progress.iteration, progress.energy, progress.x
        self.residual, self.scale = progress.residual, progress.scale
        self.residuals.append(progress.residual)
        energy = "" if progress.energy is None else f"energy {progress.energy:.10g}, "
        log.debug("step %d: %sresidual %.2e", progress.iteration, energy, progress.residual)
        if callback is not None:
            callback(progress)

    def end(self, converged: bool, reason: str) -> Newton:
        """The same, ended."""
        self.converged, self.reason = converged, reason
        return self

    def error(self, what: str) -> NotConvergedError:
        """The failure in words."""
        error = NotConvergedError(
            f"{what} stopped after {self.iterations} steps: {self.reason}; residual "
            f"{self.residual:.2e} at a scale of {self.scale:.2e}"
        )
        error.info = self  # type: ignore[attr-defined]
        return error


Callback = Callable[[Progress], Any]


def default_tolerance(eps: float) -> float:
    """Well above rounding errors, well below what an optimiser notices: 1.6e-10, in float32 5e-5."""
    return eps**0.625
