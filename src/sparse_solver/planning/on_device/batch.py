"""Many matrices on one pattern, factored side by side where their numbers are; those that fail go on
one by one, as `Lone`s. The counterpart of `planning/batch.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from ...engines import Declined
from ...info import Info
from ..batch import FAILURES, first_of, named
from .equations import TensorEquations, read
from .lone import Lone, Pending, refined
from .planner import Attempt, DevicePlanner

__all__ = ["DeviceBatch"]


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
        self.kind = planner.kind(self.equations)
        try:
            self.attempt = planner.attempt(planner.paths(self.kind)[0], values)
            if planner.method.check:
                solve = self.attempt.numeric.solve
                self._pending = Pending(planner, self.equations, self.kind, solve)
        except Declined:
            self.attempt = None
            self._alone(range(len(values)))
            return
        if now:
            self.settle()

    def __len__(self) -> int:
        return len(self.values)

    def settle(self) -> None:
        """Wait for the outcome; raise the first failure unless failures are kept."""
        if self._pending is not None:
            self._weigh(read(self._pending.facts))

    def _weigh(self, rows: list[list[float]]) -> None:
        pending, self._pending = self._pending, None
        assert pending is not None and self.attempt is not None
        good = [f and s and (d or q and pending.probed) for f, s, d, q in rows]
        self.planner.dominant = all(row[2] for row in rows)
        if not all(row[1] for row in rows):
            self.planner.forget_kind()
        if self.kind == "spd" and self.attempt.numeric.failed():
            good = [False] * len(rows)  # one of them is not definite, and it is not said which
        self._alone(i for i, fine in enumerate(good) if not fine)

    def _alone(self, which: Iterable[int]) -> None:
        """Factor these by themselves."""

        def make(item: int) -> None:
            self._items[item] = Lone(self.planner, self.values[item : item + 1].clone())

        self.errors |= self._each(which, make)
        if self.errors and not self.tolerant:
            raise first_of(self.errors)

    def _each(self, which: Iterable[int], work: Callable[[int], None]) -> dict[int, Exception]:
        failed: dict[int, Exception] = {}
        for item in which:
            try:
                work(item)
            except FAILURES as error:
                failed[item] = named(error, item)
            except ValueError as error:
                raise ValueError(f"item {item}: {error}") from error
        return failed

    def solve(self, b: Tensor, transposed: bool = False, index: np.ndarray | None = None) -> Tensor:
        """x with A_i x_i = b_i, or A_i^T x_i = b_i, for b (items, n, k); or as many b as `index` has
        items.

        Failed items are zero: constant, so that no derivative passes through them.
        """
        if index is not None:
            return self._solve_some(index, b, transposed)
        bad: list[int] = []
        if self.attempt is None:
            x = torch.zeros_like(b)
        elif not self.planner.method.check:
            return self.attempt.numeric.solve(b, transposed)
        else:
            pending = self._pending
            facts = () if pending is None else (pending.facts,)
            out = refined(self.equations, self.attempt.numeric.solve, b, transposed, *facts)
            if pending is not None and self._pending is pending:
                self._weigh(out.rest)
            x, self.steps = out.x, out.steps
            bad = [i for i, good in enumerate(out.good) if not good]
            self.residual = max(
                (e for e, g in zip(out.errors, out.good, strict=True) if g), default=0.0
            )
        left = sorted({*bad, *self._items, *self.errors})
        if left:
            x = x.clone()

        def one(item: int) -> None:
            x[item] = 0
            if item not in self.errors:
                if item not in self._items:
                    self._items[item] = Lone(self.planner, self.values[item : item + 1].clone())
                x[item] = self._items[item].solve(b[item : item + 1], transposed)[0]

        failed = self._each(left, one)
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
