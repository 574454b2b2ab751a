"""`BatchFactored`: many matrices on one pattern, each solved accurately or said not to be.

Small ones are eliminated side by side on pivots decided beforehand (lanes.py, engines/batched). Every
item is judged as a single matrix is: by Varah's certificate or a random probe when factored, by its
backward errors when solved. Items that fail go one by one through a `Factored` with its ladder of
engines, which also finds the words for their failure. Large items go there at once, over threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

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

__all__ = ["BatchFactored"]

_SIZEABLE = 2000  # unknowns from which the engines' work outweighs the interpreter's, for threads
_FAILURES = (torch.linalg.LinAlgError, NonFiniteError)
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

    Attributes
    ----------
    errors : dict of int to Exception
        Failed items.
    recording : bool
        Whether items that fail while solving are kept in `errors` too.

    Raises
    ------
    ValueError
        If an item contradicts `assume`, or holds NaN or infinity.
    LinAlgError
        The failure of the first item that has one, with its number in `.item`.
    """

    def __init__(self, planner: Planner, values: np.ndarray, tolerant: bool = False) -> None:
        self.planner = planner
        self._count, self.dtype = len(values), values.dtype
        self.errors: dict[int, Exception] = {}
        self.recording = False
        self._items: dict[int, Factored] = {}
        self._numeric: BatchNumeric | None = None
        self._reason, self._steps = "an empty batch", 0
        self._residual: float | None = None
        self._shared = False
        self._served: set[int] = set()  # items solved by engines
        if not self._count or not planner.pattern.shape[0]:
            return
        lanes = _lanes(planner)
        self._numeric, self._reason = lanes.factor(values)
        if self._numeric is None:
            left: Iterable[int] = range(self._count)
        else:
            wrong = BAD | INDEFINITE | (0 if planner.assume == "auto" else UNSYMMETRIC)
            left = np.flatnonzero(self._numeric.verdicts & wrong).tolist()
        self._served = set(left)
        self._factor(values, sorted(self._served))
        if self.errors and not tolerant:
            raise _first(self.errors)

    def _factor(self, values: np.ndarray, which: list[int]) -> None:
        if not which:
            return
        planner = self._planner_of_items(len(which))

        def make(item: int) -> None:
            self._items[item] = Factored(planner, values[item].copy())

        self.errors |= self._each(which[:1], make)  # alone, so that all share its analysis
        self.errors |= self._each(which[1:], make)

    def _each(self, which: list[int], work: Callable[[int], None]) -> dict[int, Exception]:
        """Do something for some items, over threads where they are large; the failures by item."""
        failed: dict[int, Exception] = {}

        def one(k: int) -> None:
            item = which[k]
            try:
                work(item)
            except _FAILURES as error:
                failed[item] = _named(error, item)
            except ValueError as error:
                raise ValueError(f"item {item}: {error}") from error

        share(one, len(which), self.planner.threads if self._sizeable else 1)
        return failed

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
            raise self.errors[item]
        found = self._items.get(item)
        if found is None:
            if not 0 <= item < self._count:
                raise IndexError(f"item {item} of a batch of {self._count}")
            if self._numeric is None:  # a system without unknowns
                values = np.empty(self.planner.pattern.nnz, self.dtype)
            else:
                values = self._numeric.values_of(item)
            try:
                found = Factored(self.planner, values)
            except _FAILURES as error:
                raise _named(error, item) from None
            self._items[item] = found
        return found

    # ---- numbers ----

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        """x with A_i x_i = b_i, or A_i^T x_i = b_i, for b of shape (items, n) or (items, n, k).

        Failed items are zero: constant, so that no derivative passes through them.
        """
        if not self._count or b.size == 0:
            return np.zeros(b.shape, b.dtype)
        if self._numeric is None:
            x, left = np.empty(b.shape, b.dtype), list(range(self._count))
        else:
            # Checked whatever the method says: pivots decided beforehand need it.
            x, bad, self._residual, self._steps = self._numeric.solve(
                b, transposed, NORMWISE, COMPONENTWISE
            )
            left = sorted(self._served.union(bad.tolist()))

        def one(item: int) -> None:
            x[item] = 0
            if item not in self.errors:
                x[item] = self[item].solve(b[item], transposed)

        failed = self._each(left, one)
        if failed and not self.recording:
            raise _first(failed)
        self.errors |= failed
        return x

    def outer(self, y: np.ndarray, x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """-y_i conj(x_j) at the nonzeros (i, j), summed over columns: (items, nnz)."""
        if self._numeric is not None:
            return self._numeric.outer(y, x, i, j)
        return outer_numbers(-y, x, i, j, y.ndim == 2)

    def slogdet(self) -> tuple[np.ndarray, np.ndarray]:
        """(sign, log|det|), (items,) both: (0, -inf) for singular items, NaN for other failures.

        Raises
        ------
        Declined
            If an item is served by an engine that offers none.
        """
        real = np.empty(0, self.dtype).real.dtype
        if self._numeric is not None:
            sign, size = self._numeric.slogdet()
            left: Iterable[int] = self._served
        else:
            sign, size = np.ones(self._count, self.dtype), np.zeros(self._count, real)
            left = range(self._count)
        for item in left:
            error = self.errors.get(item)
            if error is not None:
                singular = isinstance(error, SingularMatrixError)
                sign[item], size[item] = (0, -np.inf) if singular else (np.nan, np.nan)
            elif (attempt := self[item].attempt) is not None:
                sign[item], size[item] = attempt.numeric.slogdet()
        return sign, size

    def info(self, **facts: object) -> Info:
        """Facts on the batch and its latest solve."""
        numeric, served = self._numeric, self._served
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


def _named(error: Exception, item: int) -> Exception:
    """The failure of an item, without the frames that it passed through, which would keep factors."""
    error.item = item  # type: ignore[attr-defined]
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _first(failed: dict[int, Exception]) -> Exception:
    """The first of several failures, naming the others."""
    first, *others = sorted(failed)
    error = failed[first]
    if others and hasattr(error, "message"):
        names = ", ".join(map(str, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
        error.message += f" (and {len(others)} more failed: items {names})"
    return error


def _lanes(planner: Planner) -> Lanes:
    lanes = planner.lanes
    if lanes is None:
        lanes = planner.lanes = Lanes(planner)
    return lanes
