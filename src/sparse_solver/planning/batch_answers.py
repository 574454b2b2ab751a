"""What a batch answers besides solves: determinants, and entries of the inverses (see `answers.py`).

Items in the lanes answer together, where that is accurate; each of the others by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import SingularMatrixError
from . import answers, blocks
from .batch import FAILURES, BatchFactored, first_of, named
from .conditioning import random_vector
from .equations import COMPONENTWISE
from .factored import Factored
from .planner import Planner

__all__ = ["chains", "slogdets"]

_ROW = 1e3  # units of eps by which products of A and entries of its inverse may miss one
_SOUND = 30.0  # units of eps
_SMALL = 256  # unknowns up to which 2 n solves in lanes beat a factorisation of each item by an engine
_AT_ONCE = 1 << 21  # numbers of one temporary


def slogdets(batch: BatchFactored) -> tuple[np.ndarray, np.ndarray]:
    """(sign, log|det|), (items,) both: (0, -inf) for singular items, NaN for other failures."""
    found = batch.notes.get("slogdet")
    if found is None:
        found = batch.notes["slogdet"] = _slogdets(batch)
    return found


def _slogdets(batch: BatchFactored) -> tuple[np.ndarray, np.ndarray]:
    if batch.numeric is None:
        real = np.empty(0, batch.dtype).real.dtype
        sign, size = np.ones(len(batch), batch.dtype), np.zeros(len(batch), real)
    else:
        sign, size = batch.numeric.slogdet()

    def one(item: int) -> None:
        try:
            sign[item], size[item] = answers.slogdet(batch[item])
        except SingularMatrixError:
            sign[item], size[item] = 0, -np.inf
        except FAILURES:
            known = item in batch.errors
            sign[item], size[item] = (np.nan, np.nan) if known else _afresh(batch, item)

    _for_each(sorted(_left(batch)), one)
    return sign, size


def _afresh(batch: BatchFactored, item: int) -> tuple[complex, float]:
    """The answer for an item analysed alone: for others' pivots it may not look singular, and is."""
    own, values = batch.planner, batch[item].equations.values
    planner = Planner(own.pattern, own.assume, own.method)
    made = answers.factored_or_singular(lambda: Factored(planner, values, None, True))
    return answers.slogdet(made)


def _left(batch: BatchFactored) -> set[int]:
    """Items that must answer by themselves: nothing refines a determinant, so factors are sound that
    solve to nearly full accuracy without refinement.
    """
    numeric = batch.numeric
    if numeric is None:
        return set(range(len(batch)))
    found = batch.notes.get("left")
    if found is None:
        sound = numeric.is_stable()
        if not sound.all():
            b = random_vector(numeric.plan.n).astype(batch.dtype)
            b = np.broadcast_to(b, (len(batch), len(b)))
            _, bad, _, steps = numeric.solve(b, False, _SOUND, COMPONENTWISE)
            sound |= steps == 0
            sound[bad] = False
        found = batch.notes["left"] = batch.served.union(np.flatnonzero(~sound).tolist())
    return found


def chains(batch: BatchFactored, Ms: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
    """`answers.chain` of each item, or of those in `index`, for Ms (items, m, nnz): (items, nnz).

    Failed items are zero: constant, so that no derivative passes through them.

    Raises
    ------
    SingularMatrixError
        If the batch is one for such answers, and an item is singular.
    """
    if batch.errors and batch.explicit:
        raise first_of(batch.errors)
    if Ms.shape[1] == 0:
        found = batch.notes.get("inverse")
        if found is None:
            found = batch.notes["inverse"] = _inverses(batch)
        return found.copy() if index is None else found[index]
    items = range(len(batch)) if index is None else index.tolist()
    n = batch.planner.pattern.shape[0]
    if batch.numeric is not None and (n <= _SMALL or Ms.shape[1] > 1):
        try:
            return _by_solves(batch, Ms, index)
        except FAILURES:  # tiny entries of an inverse beside large ones; one by one they get their due
            pass
    out = np.zeros((len(items), batch.planner.pattern.nnz), batch.dtype)

    def one(k: int) -> None:
        if items[k] not in batch.errors:
            out[k] = answers.chain(batch[items[k]], Ms[k])

    _for_each(range(len(items)), one, items)
    return out


def _inverses(batch: BatchFactored) -> np.ndarray:
    left = _left(batch)
    if batch.numeric is None:
        out = np.zeros((len(batch), batch.planner.pattern.nnz), batch.dtype)
    else:
        out, bad = batch.numeric.inverse(_ROW)
        left = left.union(bad.tolist())

    def one(item: int) -> None:
        out[item] = 0 if item in batch.errors else answers.chain(batch[item])

    _for_each(sorted(left), one)
    return out


def _by_solves(batch: BatchFactored, Ms: np.ndarray, index: np.ndarray | None) -> np.ndarray:
    """Column i of the products for the nonzeros (i, j) of row i, as `blocks.chain`, in lanes."""
    P, (items, m, nnz) = batch.planner.pattern, Ms.shape
    rows, cols, n = P.rows.numpy(), P.cols.numpy(), P.shape[0]
    out = np.empty((items, nnz), batch.dtype)
    width = max(1, _AT_ONCE // max(1, max(items, len(batch)) * n))
    for start in range(0, n, width):
        stop = min(start + width, n)
        unit = np.zeros((n, stop - start), batch.dtype)
        unit[np.arange(start, stop), np.arange(stop - start)] = 1
        X = batch.solve(np.broadcast_to(unit, (len(batch), *unit.shape)))
        X = X if index is None else X[index]
        for s in range(m - 1, -1, -1):
            product = np.stack([blocks.multiply(P, M, x) for M, x in zip(Ms[:, s], X, strict=True)])
            X = batch.solve(product, index=index)
        here = slice(P.indptr[start], P.indptr[stop])
        out[:, here] = X[:, cols[here], rows[here] - start]
    return out


def _for_each(
    which: Sequence[int], work: Callable[[int], None], names: Sequence[int] | None = None
) -> None:
    for k in which:
        try:
            work(k)
        except FAILURES as error:
            raise named(error, k if names is None else names[k]) from None
