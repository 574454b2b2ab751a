"""`BatchFactored`: many matrices on one pattern, each solved accurately or said not to be.

Small ones are eliminated side by side on pivots decided beforehand (lanes.py, engines/batched). Every
item is judged as a single matrix is: by Varah's certificate or a random probe when factored, by its
backward errors when solved. Items that fail go one by one through a `Factored` with its ladder of
engines, which also finds the words for their failure. Large items go there at once, over threads.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ..engines.batched import BAD, INDEFINITE, UNSYMMETRIC, BatchNumeric
from ..errors import NonFiniteError, SingularMatrixError
from ..info import Info
from ..matrix.products import outer_numbers
from ..matrix.threads import share
from .equations import COMPONENTWISE, NORMWISE
from .factored import Factored
from .lanes import Lanes
from .planner import Planner

__all__ = ["FAILURES", "BatchFactored", "each", "first_of", "named"]

_SIZEABLE = 2000  # unknowns from which the engines' work outweighs the interpreter's, for threads
FAILURES = (torch.linalg.LinAlgError, NonFiniteError)
_NAMED = 5  # failed items that a message lists


class BatchFactored:
    """Factors of values (items, nnz) on one pattern; item i is a `Factored`, made when asked for.

    Parameters
    ----------
    planner : Planner
    values : array, shape (items, nnz)
        Copied.
    tolerant : bool
        Keep failures in `errors` rather than raise the first; failed items then solve to zero.
    explicit : bool
        For answers besides solves: prefer engines that give them, and keep items that are singular,
        whose determinant is known, in `errors`. Nothing else is answered where there are any.

    Attributes
    ----------
    errors : dict of int to Exception
        Failed items.
    numeric : BatchNumeric or None
        The factors of all items in lanes, of which those in `served` are no good.
    served : set of int
        Items for which engines answer.
    notes : dict
        What `batch_answers.py` found out.
    recording : bool
        Whether items that fail while solving are kept in `errors` too.

    Raises
    ------
    ValueError
        If an item contradicts `assume`, or holds NaN or infinity.
    LinAlgError
        The failure of the first item that has one, with its number in `.item`.
    """

    def __init__(
        self, planner: Planner, values: np.ndarray, tolerant: bool = False, explicit: bool = False
    ) -> None:
        self.planner, self.explicit = planner, explicit
        self._count, self.dtype = len(values), values.dtype
        self.errors: dict[int, Exception] = {}
        self.recording = False
        self._items: dict[int, Factored] = {}
        self.numeric: BatchNumeric | None = None
        self.notes: dict[str, Any] = {}
        self._reason, self._steps = "an empty batch", 0
        self._residual: float | None = None
        self._shared = False
        self.served: set[int] = set()  # items solved by engines
        if not self._count or not planner.pattern.shape[0]:
            return
        lanes = _lanes(planner)
        self.numeric, self._reason = lanes.factor(values)
        if self.numeric is None:
            left: Iterable[int] = range(self._count)
        else:
            left = np.flatnonzero(self.numeric.verdicts & (BAD | INDEFINITE | UNSYMMETRIC)).tolist()
        self.served = set(left)
        self._factor(values, sorted(self.served))
        fatal = {
            i: e
            for i, e in self.errors.items()
            if not explicit or not isinstance(e, SingularMatrixError)
        }
        if fatal and not tolerant:
            raise first_of(fatal)

    def _factor(self, values: np.ndarray, which: list[int]) -> None:
        if not which:
            return
        planner = self._planner_of_items(len(which))

        def make(item: int) -> None:
            self._items[item] = Factored(planner, values[item].copy(), None, self.explicit)

        self.errors |= self._each(which[:1], make)  # alone, so that all share its analysis
        self.errors |= self._each(which[1:], make)

    def _each(self, which: list[int], work: Callable[[int], None]) -> dict[int, Exception]:
        """Do something for some items, over threads where they are large; the failures by item."""
        return each(which, work, self.planner.threads if self._sizeable else 1)

    def _planner_of_items(self, items: int) -> Planner:
        """One thread for each of several large items, rather than all for one after the other."""
        self._shared = items > 1 and self.planner.threads > 1 and self._sizeable
        if not self._shared:
            return self.planner
        lanes = _lanes(self.planner)
        if lanes.solo is None:
            method = dataclasses.replace(self.planner.method, threads=1)
            own = self.planner
            lanes.solo = Planner(own.pattern, own.assume, method, own.promised)
        return lanes.solo

    @property
    def _sizeable(self) -> bool:
        return self.planner.pattern.shape[0] >= _SIZEABLE

    # ---- as a sequence of factors ----

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, item: int) -> Factored:
        """The factor of one item by an engine, made now if the lanes had it until here."""
        if item in self.errors:
            raise copy.copy(self.errors[item])
        found = self._items.get(item)
        if found is None:
            if not 0 <= item < self._count:
                raise IndexError(f"item {item} of a batch of {self._count}")
            if self.numeric is None:  # a system without unknowns
                values = np.empty(self.planner.pattern.nnz, self.dtype)
            else:
                values = self.numeric.values_of(item)
            try:
                found = Factored(self.planner, values, None, self.explicit)
            except FAILURES as error:
                raise named(error, item) from None
            self._items[item] = found
        return found

    # ---- numbers ----

    def solve(
        self, b: np.ndarray, transposed: bool = False, index: np.ndarray | None = None
    ) -> np.ndarray:
        """x with A_i x_i = b_i, or A_i^T x_i = b_i, for b of shape (items, n) or (items, n, k); or as
        many b as `index` has items.

        Failed items are zero: constant, so that no derivative passes through them.
        """
        if self.errors and self.explicit:
            raise first_of(self.errors)
        if index is not None:
            return self._solve_some(index, b, transposed)
        if not self._count or b.size == 0:
            return np.zeros(b.shape, b.dtype)
        if self.numeric is None:
            x, left = np.empty(b.shape, b.dtype), list(range(self._count))
        else:
            # Checked whatever the method says: pivots decided beforehand need it.
            x, bad, self._residual, steps = self.numeric.solve(b, transposed, NORMWISE, COMPONENTWISE)
            self._steps = int(steps.max())
            left = sorted(self.served.union(bad.tolist()))

        def one(item: int) -> None:
            x[item] = 0
            if item not in self.errors:
                x[item] = self[item].solve(b[item], transposed)

        failed = self._each(left, one)
        if failed and not self.recording:
            raise first_of(failed)
        self.errors |= failed
        return x

    def _solve_some(self, index: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
        """Repetitions of an item become columns."""
        count = np.bincount(index, minlength=len(self))
        order = np.argsort(index, kind="stable")
        turn = np.empty(len(index), np.int64)  # which repetition each is
        turn[order] = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        columns = b[..., None] if b.ndim == 2 else b
        wide = np.zeros((len(self), int(count.max(initial=0)), *columns.shape[1:]), b.dtype)
        wide[index, turn] = columns
        n, k = columns.shape[1:]
        packed = np.ascontiguousarray(np.moveaxis(wide, 1, 2)).reshape(len(self), n, -1)
        x = self.solve(packed, transposed).reshape(len(self), n, -1, k)
        return x[index, :, turn].reshape(b.shape)

    def outer(self, y: np.ndarray, x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """-y_i conj(x_j) at the nonzeros (i, j), summed over columns: (items, nnz)."""
        if self.numeric is not None:
            return self.numeric.outer(y, x, i, j)
        return outer_numbers(-y, x, i, j, y.ndim == 2)

    def info(self, **facts: object) -> Info:
        """Facts on the batch and its latest solve."""
        numeric, served = self.numeric, self.served
        if numeric is None:
            inner = next(iter(self._items.values()), None)
            base = self.planner.info() if inner is None else inner.info()
            how = f"; {self._count} items"
            if self._shared:
                how += f" over {self.planner.threads} threads"
            reason = f"{base.reason}{how} ({self._reason})"
            return dataclasses.replace(base, reason=reason, **facts)  # type: ignore[arg-type]
        plan, kind, reason = numeric.plan, self.planner.assume, self._reason
        if kind == "auto":
            kind = "symmetric" if plan.symmetric else "general"
        if served:
            reason += f"; {len(served)} of them by engines that pivot"
        return Info(
            engine="batched",
            path="ldlt" if plan.symmetric else "lu",
            reason=reason,
            kind=kind,
            n=plan.n,
            nnz=plan.nnz,
            nnz_factor=plan.nnz_factor * (1 if plan.symmetric else 2) + plan.n,
            flops=plan.flops,
            memory=numeric.memory,
            threads=self.planner.threads,
            analyze_seconds=_lanes(self.planner).seconds,
            factor_seconds=numeric.seconds,
            iterations=self._steps,
            residual=self._residual,
            **facts,  # type: ignore[arg-type]
        )


def each(which: Iterable[int], work: Callable[[int], None], threads: int = 1) -> dict[int, Exception]:
    """``work(item)`` for each of these items; the failures by item."""
    items = list(which)
    failed: dict[int, Exception] = {}

    def one(k: int) -> None:
        item = items[k]
        try:
            work(item)
        except FAILURES as error:
            failed[item] = named(error, item)
        except ValueError as error:
            raise ValueError(f"item {item}: {error}") from error

    share(one, len(items), threads)
    return failed


def named(error: Exception, item: int) -> Exception:
    """The failure of an item, without the frames that it passed through, which would keep factors."""
    error.item = item  # type: ignore[attr-defined]
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def first_of(failed: dict[int, Exception]) -> Exception:
    """The first of several failures, naming the others."""
    first, *others = sorted(failed)
    error = copy.copy(failed[first])  # whoever catches it may write on it
    if others and hasattr(error, "message"):
        names = ", ".join(map(str, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
        error.message += f" (and {len(others)} more failed: item{'s' * (len(others) > 1)} {names})"
    return error


def _lanes(planner: Planner) -> Lanes:
    lanes = planner.lanes
    if lanes is None:
        lanes = planner.lanes = Lanes(planner)
    return lanes
