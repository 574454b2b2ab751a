"""Many matrices on one pattern, factored side by side where their numbers are; those that fail go on
one by one, as `Lone`s. The counterpart of `planning/batch.py`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ...engines import Declined
from ...info import Info
from ..batch import FAILURES, each, first_of
from .equations import TensorEquations, read
from .lone import Lone, Pending, refined
from .planner import Attempt, DevicePlanner

__all__ = ["DeviceBatch"]

log = logging.getLogger("sparse_solver")


class DeviceBatch:
    """Factors of values (items, nnz), items at least one.

    Parameters
    ----------
    planner : DevicePlanner
    values : Tensor, shape (items, nnz)
        A snapshot that nobody else writes to.
    tolerant : bool
        Keep failures in `errors` rather than raise the first; failed items then solve to zero.
    now : bool
        Wait for the outcome; else the first solve does.

    Attributes
    ----------
    errors : dict of int to Exception
        Failed items.
    recording : bool
        Whether items that fail while solving are kept in `errors` too.
    """

    def __init__(
        self, planner: DevicePlanner, values: Tensor, tolerant: bool = False, now: bool = True
    ) -> None:
        self.planner, self.values, self.tolerant = planner, values, tolerant
        self.errors: dict[int, Exception] = {}
        self.recording = False
        self.attempt: Attempt | None = None
        self.steps, self.residual = 0, 0.0
        self._items: dict[int, Lone] = {}
        self._pending: Pending | None = None
        self.kind = "general"
        if len(values) == 1 or "general" not in planner.engine.kinds:
            self._alone(range(len(values)))
            return
        self.equations = TensorEquations(planner.structure, values)
        self._begin()
        if now:
            self.settle()

    def _begin(self) -> None:
        planner = self.planner
        try:
            self.kind = planner.kind(self.equations)
            self.attempt = planner.attempt(planner.paths(self.kind)[0], self.values)
            if planner.method.check:
                solve = self.attempt.numeric.solve
                self._pending = Pending(planner, self.equations, self.kind, solve)
        except (Declined, *FAILURES) as reason:  # of all items: no values would do on this structure
            self._scatter(reason)

    def _scatter(self, reason: Exception) -> None:
        """Not side by side, then."""
        log.info("%s", reason)
        self.attempt = self._pending = None
        self._alone(range(len(self)))

    def __len__(self) -> int:
        return len(self.values)

    def settle(self) -> None:
        """Wait for the outcome; raise the first failure unless failures are kept."""
        if self._pending is not None:
            self._weigh(read(self._pending.facts))

    def _weigh(self, rows: list[list[float]]) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None and self.attempt is not None
        planner, eq = self.planner, self.equations
        planner.dominant = all(row[2] for row in rows)
        if planner.assume == "auto" and not all(fits for _, fits, _, _ in rows):
            planner.forget_kind()
            self._begin()
            self.settle()
            return
        if not planner.dominant and not pending.probed:
            quiet = eq.is_quiet(self.attempt.numeric.solve(eq.probe()))
            for row, (fact,) in zip(rows, read(quiet.unsqueeze(1)), strict=True):
                row[3] = fact
        good = [bool(f and s and (d or q)) for f, s, d, q in rows]
        if self.kind == "spd" and self.attempt.numeric.failed():
            good = [False] * len(rows)  # one of them is not definite, and it is not said which
        self._alone(i for i, fine in enumerate(good) if not fine)

    def _alone(self, which: Iterable[int]) -> None:
        """Factor these by themselves."""

        def make(item: int) -> None:
            self._items[item] = Lone(self.planner, self.values[item : item + 1].clone())

        self.errors |= each(which, make)
        if self.errors and not self.tolerant:
            raise first_of(self.errors)

    def solve(self, b: Tensor, transposed: bool = False, index: np.ndarray | None = None) -> Tensor:
        """x with A_i x_i = b_i, or A_i^T x_i = b_i, for b (items, n, k); or as many b as `index` has
        items.

        Failed items are zero: constant, so that no derivative passes through them.
        """
        if index is not None:
            return self._solve_some(index, b, transposed)
        bad: list[int] = []
        attempt, pending = self.attempt, self._pending
        try:
            if attempt is None:
                x = torch.zeros_like(b)
            elif not self.planner.method.check:
                return attempt.numeric.solve(b, transposed)
            else:
                facts = () if pending is None else (pending.facts,)
                out = refined(self.equations, attempt.numeric.solve, b, transposed, *facts)
                if pending is not None and self._pending is pending:
                    self._weigh(out.rest)
                    if self.attempt is not attempt:
                        return self.solve(b, transposed)
                bad = [i for i, good in enumerate(out.good) if not good]
                if 2 * len(bad) > len(self) and len(self._items) < len(bad) and not attempt.fresh:
                    # Pivots that suit these values, since those at hand don't.
                    self.attempt = self.planner.attempt(attempt.path, self.values, fresh=True)
                    return self.solve(b, transposed)
                x, self.steps = out.x, out.steps
                accurate = [e for e, good in zip(out.errors, out.good, strict=True) if good]
                self.residual = max(accurate, default=0.0)
        except Declined as reason:  # no memory, or a factor inherited through a fork
            self._scatter(reason)
            return self.solve(b, transposed)
        left = sorted({*bad, *self._items, *self.errors})
        if left:
            x = x.clone()

        def one(item: int) -> None:
            x[item] = 0
            if item not in self.errors:
                if item not in self._items:
                    self._items[item] = Lone(self.planner, self.values[item : item + 1].clone())
                x[item] = self._items[item].solve(b[item : item + 1], transposed)[0]

        failed = each(left, one)
        if failed and not self.recording:
            raise first_of(failed)
        self.errors |= failed
        return x

    def _solve_some(self, index: np.ndarray, b: Tensor, transposed: bool) -> Tensor:
        """Repetitions of an item become columns."""
        count = np.bincount(index, minlength=len(self))
        order = np.argsort(index, kind="stable")
        turn = np.empty(len(index), np.int64)  # which repetition each is
        turn[order] = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        at = torch.from_numpy(index).to(b.device), torch.from_numpy(turn).to(b.device)
        wide = b.new_zeros((len(self), int(count.max(initial=0)), *b.shape[1:]))
        wide[at] = b
        n, k = b.shape[1:]
        packed = wide.transpose(1, 2).reshape(len(self), n, -1)
        x = self.solve(packed, transposed).reshape(len(self), n, -1, k)
        return x.transpose(1, 2)[at]

    def info(self) -> Info:
        """Facts on the batch and its latest solve."""
        if self.attempt is None:
            inner = next(iter(self._items.values()), None)
            base = self.planner.info() if inner is None else inner.info()
            return dataclasses.replace(base, reason=f"{base.reason}; {len(self)} items one by one")
        facts = {"iterations": self.steps, "residual": self.residual}
        base = self.planner.info(self.kind, self.attempt, **facts)
        reason = f"{base.reason}; {len(self)} items side by side"
        if self._items:
            reason += f", {len(self._items)} of them by themselves"
        return dataclasses.replace(base, reason=reason)
