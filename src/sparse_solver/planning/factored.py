"""`Factored`: one matrix, factored, that solves accurately or says that it can't."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engines import Declined
from ..errors import InaccurateSolveError, NonFiniteError
from ..info import Info
from .attempt import Attempt, Spare
from .conditioning import is_regular
from .equations import COMPONENTWISE, NORMWISE, Equations
from .passes import passes_for
from .planner import Planner

__all__ = ["Factored"]

log = logging.getLogger("sparse_solver")

_MANY = 1 << 18  # numbers of a block of right-hand sides from which copies cost more than arithmetic
_STEPS = 3  # of refinement; each must halve the error to be worth the next


class Factored:
    """Equations, and an attempt at factoring them that is replaced by a better one when an answer
    is not good enough.

    Parameters
    ----------
    planner : Planner
    values : array, shape (nnz,)
        A snapshot that nobody else writes to, unless there is room for one.
    spare : Spare, optional
        An old factorisation, used up.
    explicit : bool
        Prefer an engine that answers more than solves: determinants, entries of the inverse.
    room : array, shape (nnz,), optional
        Where to put the snapshot.
    """

    __slots__ = ("__weakref__", "attempt", "equations", "kind", "notes", "planner", "residual", "steps")

    def __init__(
        self,
        planner: Planner,
        values: np.ndarray,
        spare: Spare | None = None,
        explicit: bool = False,
        room: np.ndarray | None = None,
    ) -> None:
        self.planner = planner
        self.equations = Equations(planner.pattern, values, room)
        self.steps = 0
        self.residual: float | None = None
        self.kind = "general"
        self.attempt: Attempt | None = None
        self.notes: dict[str, Any] = {}  # what `answers.py` found out, and who helped
        if self.equations.n:
            self.kind, self.attempt = planner.factorize(self.equations, spare, explicit)

    @classmethod
    def known(cls, planner: Planner, values: np.ndarray, kind: str, attempt: Attempt) -> Factored:
        """Around an attempt that was judged already."""
        self = cls.__new__(cls)
        self.planner, self.equations = planner, Equations(planner.pattern, values)
        self.steps, self.residual, self.kind, self.attempt, self.notes = 0, None, kind, attempt, {}
        return self

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        """x with A x = b, or A^T x = b, for b of shape (n,) or (n, k), this dtype.

        Raises
        ------
        NonFiniteError
            If b holds NaN or infinity.
        SingularMatrixError, InaccurateSolveError
            If neither refinement nor another analysis nor another engine gives an accurate x.
        """
        if self.attempt is None or b.size == 0:
            return np.zeros_like(b)
        b = np.ascontiguousarray(b)
        if not self.planner.method.check:
            return self._unchecked(b, transposed)
        x, accurate = self._refined(self.attempt, b, transposed)
        return x if accurate else self._solved_otherwise(b, transposed)

    def adjoint(self, g: np.ndarray, x: np.ndarray, swapped: bool) -> tuple[np.ndarray, np.ndarray]:
        """(y, A_bar) for real vectors: A^T y = g, A_bar_ij = -y_i x_j at the nonzeros; or A y = g, and
        -y_j x_i, if `swapped`.

        Raises
        ------
        As `solve`.
        """
        eq = self.equations
        if self.attempt is not None and eq.mirrored and self.planner.method.check:
            g = np.ascontiguousarray(g)
            try:
                y = self.attempt.numeric.solve(g, not swapped)
            except Declined as reason:
                log.info("%s", reason)
            else:
                found = eq.adjoint(y, g, np.ascontiguousarray(x), swapped)
                if found is not None:
                    self.steps, (A_bar, self.residual) = 0, found
                    return y, A_bar
        y = self.solve(g, not swapped)
        return y, passes_for(y.dtype).outer(eq.pattern, y, x, swapped)

    def _solved_otherwise(self, b: np.ndarray, transposed: bool) -> np.ndarray:
        """x where refinement did not help."""
        assert self.attempt is not None
        finite = np.isfinite(b)
        if not finite.all():
            at = np.argwhere(~finite)[0].tolist()
            raise NonFiniteError(
                f"b (shape {b.shape}) holds {int((~finite).sum())} entries that are NaN or infinite, "
                f"the first at {at}"
            )
        first = self.residual
        for attempt in self.planner.others(self.attempt, self.equations, self.kind):
            x, accurate = self._refined(attempt, b, transposed)
            if accurate:
                self.attempt = attempt
                return x
        try:
            is_regular(self.equations, self.attempt.numeric)
        except Declined as reason:
            log.info("%s", reason)
        raise InaccurateSolveError(
            f"A x = b (n = {self.equations.n}, {self.equations.values.dtype}) could not be solved to "
            f"{NORMWISE:.0e} eps normwise and {COMPONENTWISE:.0e} eps componentwise: backward error "
            f"{first:.1e} with {self.attempt.choice.engine}, {self.residual:.1e} with the last engine "
            "tried"
        )

    def _unchecked(self, b: np.ndarray, transposed: bool) -> np.ndarray:
        assert self.attempt is not None
        try:
            return self.attempt.numeric.solve(b, transposed)
        except Declined as reason:  # a factor inherited through a fork
            log.info("%s", reason)
        self.kind, self.attempt = self.planner.factorize(self.equations)
        return self.attempt.numeric.solve(b, transposed)

    def _refined(self, attempt: Attempt, b: np.ndarray, transposed: bool) -> tuple[np.ndarray, bool]:
        """A solution after refinement (Higham, section 12.1), and whether it is accurate."""
        eq, solve = self.equations, attempt.numeric.solve
        try:
            x = solve(b, transposed)
        except Declined as reason:  # a factor inherited through a fork, for example
            log.info("%s", reason)
            self.steps, self.residual = 0, math.inf
            return b, False
        if b.ndim == 2 and b.size > _MANY:
            accurate, error = eq.are_surely_accurate(x, b, transposed)
            if accurate:
                self.steps, self.residual = 0, error
                return x, True
        r, accurate, error = eq.judge(x, b, transposed)
        step = 0
        if not accurate:
            with np.errstate(all="ignore"):
                x, accurate, error, step = self._improved(solve, x, r, error, b, transposed)
        self.steps, self.residual = step, error
        return x, accurate

    def _improved(
        self,
        solve: Callable[[np.ndarray, bool], np.ndarray],
        x: np.ndarray,
        r: np.ndarray,
        error: float,
        b: np.ndarray,
        transposed: bool,
    ) -> tuple[np.ndarray, bool, float, int]:
        eq, accurate, step = self.equations, False, 0
        while not accurate and step < _STEPS and math.isfinite(error):
            y = x + solve(r, transposed)
            r, accurate, smaller = eq.judge(y, b, transposed)
            step += 1
            if not accurate and not smaller <= max(error / 2, NORMWISE * eq.eps):
                break
            x, error = y, smaller
        return x, accurate, error, step

    def info(self, **facts: object) -> Info:
        """Facts, the latest solve's among them."""
        return self.planner.info(
            self.kind, self.attempt, iterations=self.steps, residual=self.residual, **facts
        )
