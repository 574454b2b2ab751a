"""What can go wrong, and what to do about it.

Wrong arguments raise `ValueError` or `TypeError`. Numerical failures raise one of the classes
below, all of them kinds of `torch.linalg.LinAlgError`, so code written for `torch.linalg.solve`
catches them unchanged. Causes and remedies are listed here, beside the classes, and nowhere else.
"""

from __future__ import annotations

import torch

__all__ = [
    "InaccurateSolveError",
    "NonFiniteError",
    "NotConvergedError",
    "NotPositiveDefiniteError",
    "SingularMatrixError",
    "code_of",
]


class _NumericalError(torch.linalg.LinAlgError):  # type: ignore[misc]
    """A failure of the numbers, not of the call.

    Attributes
    ----------
    index : int or None
        The unknown concerned, 0-based, in the caller's numbering.
    item : int or None
        The item of a batch concerned, 0-based; None where there is no batch.
    """

    remedy = ""

    def __init__(self, message: str, *, index: int | None = None, item: int | None = None) -> None:
        self.message, self.index, self.item = message, index, item
        super().__init__(message)

    def __str__(self) -> str:
        where = "" if self.item is None else f"item {self.item}: "
        return f"{where}{self.message}\n{self.remedy}".rstrip()

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.message, self.index, self.item)


def _rebuild(
    cls: type[_NumericalError], message: str, index: int | None, item: int | None
) -> _NumericalError:
    return cls(message, index=index, item=item)


class SingularMatrixError(_NumericalError):
    """A has no inverse, or none that its floating-point numbers can tell from singular."""

    remedy = (
        "Causes: (a) an unknown that no equation determines (a floating part, a pure Neumann "
        "problem): prescribe it with solve(A, b, fixed=(indices, values)); (b) a row or column "
        "that is empty or all zeros; (c) two equations that say the same; (d) a matrix too "
        "ill-conditioned for its dtype: try A.to(torch.float64)."
    )


class NotPositiveDefiniteError(_NumericalError):
    """`assume="spd"` was said of a matrix that has an eigenvalue that is not positive."""

    remedy = (
        'Causes: (a) A is indefinite: say assume="symmetric" (or "hermitian", or "auto"); '
        "(b) a weight or a step length made it so: look at the values at the index above; "
        "(c) A is singular up to rounding: add a small multiple of the identity."
    )


class NotConvergedError(_NumericalError):
    """An iteration used up its steps before it reached its tolerance."""

    remedy = (
        "Causes: (a) too few iterations; (b) a tolerance below what the dtype allows; "
        "(c) a missing or weak preconditioner."
    )


class InaccurateSolveError(_NumericalError):
    """Every engine at hand was tried, with refinement, and none solved to the promised accuracy."""

    remedy = (
        "Causes: (a) a matrix so ill-conditioned that this dtype cannot hold the answer: try "
        "A.to(torch.float64); (b) entries of wildly different units: rescale rows and columns. "
        "Direct(check=False) returns the answer as it is."
    )


class NonFiniteError(ValueError):
    """NaN or infinity among the numbers of A or b."""

    def __init__(self, message: str, *, item: int | None = None) -> None:
        self.message, self.item = message, item
        super().__init__(message)

    def __str__(self) -> str:
        return self.message if self.item is None else f"item {self.item}: {self.message}"

    def __reduce__(self) -> tuple:
        return _rebuild_value, (type(self), self.message, self.item)


def _rebuild_value(cls: type[NonFiniteError], message: str, item: int | None) -> NonFiniteError:
    return cls(message, item=item)


def code_of(error: Exception, n: int) -> int:
    """A failure with n unknowns as torch.linalg's `info` numbers tell it."""
    if isinstance(error, NonFiniteError):
        return n + 1
    index = getattr(error, "index", None)
    if isinstance(error, (InaccurateSolveError, NotConvergedError)) or index is None:
        return -1
    return index + 1
