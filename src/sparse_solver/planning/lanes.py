"""How the batches on one planner are eliminated, and what they have taught so far."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from ..engines import batched
from ..engines.batched import BAD, UNSYMMETRIC, BatchNumeric, Elimination
from ..errors import SingularMatrixError
from ..matrix.plain import name_of
from .batch_choice import BatchChoice, batch_choice, loop_seconds
from .conditioning import probe_limit, random_vector
from .equations import NORMWISE
from .planner import Planner
from .structural import check_structure
from .symmetry import classify

__all__ = ["Lanes"]

_ASKED = 8  # items of which one must do to plan by
_PAUSE = 16  # batches left to the engines after one that failed in the lanes for the most part
_spent = 0.0  # estimated seconds of all batches of this process


class Lanes:
    """Eliminations of one pattern, and whether they are of use.

    Parameters
    ----------
    planner : Planner
        Of the pattern; says what is assumed, and serves what fails here.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.spare: deque[np.ndarray] = deque(maxlen=1)
        self._plans: dict[str, Elimination | None] = {}
        self._unsymmetric = False  # an item was, though its batch's first was not
        self._pause = 0
        self._sound = False  # whether some values on this structure make a regular matrix
        self.solo: Planner | None = None  # for large items, an engine's thread each
        self.seconds = 0.0  # of planning

    def factor(self, values: np.ndarray) -> tuple[BatchNumeric | None, str]:
        """Factors of values (items, nnz) judged, or None; and the reason for either."""
        global _spent
        P = self.planner.pattern
        items, n = len(values), P.shape[0]
        _spent += loop_seconds(items, n)
        choice = self._choose(values, None)
        if not choice.lanes:
            return None, choice.reason
        if self._pause:
            self._pause -= 1
            return None, "a batch before this one could not do without pivoting"
        if not self._sound:
            try:
                check_structure(P)
            except SingularMatrixError:
                return None, "structurally singular"
            self._sound = True
        plan = None
        for first in values[:_ASKED]:
            if plan is None and np.isfinite(first).all():
                symmetric, mirrored = self._symmetry(first)
                if symmetric is None:
                    return None, "the pattern is not symmetric"
                plan = self._plan(first, symmetric)
        if plan is None:
            return None, "no row can be matched with each column"
        choice = self._choose(values, plan)
        if not choice.lanes:
            return None, choice.reason
        return self._attempts(plan, values, mirrored), choice.reason

    def _choose(self, values: np.ndarray, plan: Elimination | None) -> BatchChoice:
        items, n = len(values), self.planner.pattern.shape[0]
        flops = None if plan is None else plan.flops
        dtype, engine = name_of(values.dtype), self.planner.method.engine
        state = batched.state(dtype)
        choice = batch_choice(items, n, engine, flops=flops, state=state, spent=_spent)
        if choice.lanes and plan is not None and not batched.warm_up(dtype):
            return batch_choice(items, n, "auto", state="missing")
        return choice

    def _symmetry(self, first: np.ndarray) -> tuple[bool | None, int]:
        """(whether L D L^T will do, which symmetry to test: none, A = A^T, A = A^H)."""
        P, assume = self.planner.pattern, self.planner.assume
        if assume == "general":
            return False, 0
        if assume == "auto":
            same = P.is_symmetric and not self._unsymmetric
            same = same and classify(P, first, "auto") == "symmetric"
            return same, int(same)
        if not P.is_symmetric:
            return None, 0
        hermitian = first.dtype.kind == "c" and assume in ("hermitian", "spd")
        return not hermitian, 2 if hermitian else 1

    def _plan(self, first: np.ndarray, symmetric: bool) -> Elimination | None:
        """The elimination kept, or one made, on matched pivots where the diagonal is weak."""
        began = time.perf_counter()
        P = self.planner.pattern
        weak = self.planner.assume != "spd" and batched.weak_diagonal(P, first)
        key = "matched" if weak else "symmetric" if symmetric else "general"
        if self._plans.get(key) is None:  # other values may be easier to match
            self._plans[key] = batched.eliminate(P, symmetric and not weak, first if weak else None)
            self.seconds = time.perf_counter() - began
        return self._plans[key]

    def _attempts(self, plan: Elimination, values: np.ndarray, mirrored: int) -> BatchNumeric:
        numeric = self._judged(plan, values, mirrored)
        P = self.planner.pattern
        unsymmetric = (numeric.verdicts & (UNSYMMETRIC | BAD)) == UNSYMMETRIC
        if self.planner.assume == "auto" and unsymmetric.any():
            self._unsymmetric = True
            general = self._plan(values[int(np.argmax(unsymmetric))], False)
            if general is None:
                return numeric
            numeric = self._judged(general, values, 0)
        bad = (numeric.verdicts & BAD) != 0
        finite = np.isfinite(numeric.norms[:, 0])
        if 2 * (bad & finite).sum() > len(values) and self.planner.assume != "spd":
            # Pivots that suit most of this batch, since those at hand don't.
            matched = batched.eliminate(P, False, values[int(np.argmax(bad & finite))])
            if matched is not None:
                again = self._judged(matched, values, mirrored if self.planner.assume != "auto" else 0)
                if (again.verdicts & BAD).astype(bool).sum() < bad.sum():
                    self._plans["matched"] = matched
                    numeric, bad = again, (again.verdicts & BAD) != 0
        if 2 * (bad & finite).sum() > len(values):
            self._pause = _PAUSE
        return numeric

    def _judged(self, plan: Elimination, values: np.ndarray, mirrored: int) -> BatchNumeric:
        planner = self.planner
        definite = planner.assume == "spd"
        numeric = BatchNumeric(plan, values, mirrored, definite, planner.threads, self.spare)
        # Whatever the method says: pivots decided beforehand need it.
        numeric.suspect(random_vector(plan.n), probe_limit(numeric.eps, plan.n), NORMWISE)
        return numeric
