"""What a planner makes: a factorisation and how it came about; and what it may make it in."""

from __future__ import annotations

import numpy as np

from ..engines import Numeric, Symbolic
from .choose import Choice

__all__ = ["Attempt", "Spare"]


class Attempt:
    """A numeric factorisation and how it came about."""

    __slots__ = ("choice", "fresh", "numeric", "symbolic")

    def __init__(self, choice: Choice, symbolic: Symbolic, numeric: Numeric, fresh: bool) -> None:
        self.choice, self.symbolic, self.numeric = choice, symbolic, numeric
        self.fresh = fresh  # analysis and pivots were chosen for these very values


class Spare:
    """An old attempt that nobody else holds: recycled, or let go of, just before the next is made.

    So two never exist at once, and the engine's allocator finds the memory still warm.
    """

    def __init__(self, attempt: Attempt | None = None) -> None:
        self._attempt = attempt

    def fits(self, choice: Choice) -> bool:
        """Whether its storage is of use to `choice`."""
        old = self._attempt
        return old is not None and old.choice == choice and old.numeric.recyclable

    def take(self, symbolic: Symbolic, dtype: np.dtype) -> Numeric | None:
        """Its numeric part if new values can be factored in it; either way it is gone."""
        old, self._attempt = self._attempt, None
        if old is None or old.symbolic is not symbolic or old.numeric.dtype != dtype:
            return None
        return old.numeric if old.numeric.recyclable else None
