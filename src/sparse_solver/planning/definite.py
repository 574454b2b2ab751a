"""Is a matrix positive definite, and where does it stop being so?"""

from __future__ import annotations

import numpy as np

from ..engines import Declined, Numeric
from ..errors import NotPositiveDefiniteError
from ..matrix import Pattern
from .equations import Equations

__all__ = ["Definiteness", "first_bad_minor", "lowest"]

_BISECTED = 20_000  # unknowns up to which the first indefinite leading block is looked for


class Definiteness:
    """Whether Cholesky is worth a try on a pattern, and what becomes of matrices it gives up on.

    Parameters
    ----------
    pattern : Pattern
    demanded : bool
        Whether an engine was asked for that factors no other matrices.
    """

    def __init__(self, pattern: Pattern, demanded: bool) -> None:
        self.pattern, self.demanded = pattern, demanded
        self._misses, self._patience = 0, 0  # on matrices that were not definite

    def is_possible(self, kind: str, lowest: float) -> bool:
        """Whether to try, given the least diagonal entry; not again and again on others."""
        if kind == "spd" or self.demanded:
            return True
        if self._patience > 0:
            self._patience -= 1
            return False
        return lowest > 0

    def missed(self, kind: str, eq: Equations, reason: Declined) -> None:
        """After Cholesky gave up: an error if definiteness was promised, else other engines' turn."""
        self._misses += 1
        self._patience = 2**self._misses
        if kind != "spd" and not self.demanded:
            return
        index = reason.index
        if eq.n <= _BISECTED:
            index = first_bad_minor(self.pattern, eq.values)
        if index is not None:
            raise self._error(index, eq.n <= _BISECTED)

    def check(self, numeric: Numeric, eq: Equations) -> None:
        """An error where definiteness was promised, and inertia denies it or is not told."""
        if numeric.inertia is not None and numeric.inertia[0] == eq.n:
            return
        index = first_bad_minor(self.pattern, eq.values)
        if index is not None:
            raise self._error(index, True)

    def _error(self, index: int, leading: bool) -> NotPositiveDefiniteError:
        where = (
            f"its leading block up to unknown {index} is not"
            if leading
            else f"the pivot of unknown {index} is not, after others were eliminated"
        )
        return NotPositiveDefiniteError(
            f"A (shape {self.pattern.shape}) is not positive definite: {where}", index=index
        )


def lowest(pattern: Pattern, values: np.ndarray) -> float:
    """The least real part of a diagonal entry, zero for those not stored."""
    stored = pattern.diagonal >= 0
    return float(np.where(stored, values[pattern.diagonal].real, 0.0).min())


def first_bad_minor(pattern: Pattern, values: np.ndarray) -> int | None:
    """Smallest k such that the leading block A[:k+1, :k+1] is not positive definite, or None.

    Notes
    -----
    By interlacing, definiteness of leading blocks is lost once and for good, so bisection finds
    where, with about log2(n) factorisations. The same count as torch.linalg.cholesky_ex (less one).
    """
    rows, cols = pattern.rows.numpy(), pattern.cols.numpy()
    diagonal = values[pattern.diagonal].real
    diagonal = np.where(pattern.diagonal < 0, 0.0, diagonal)
    bad = np.flatnonzero(~(diagonal > 0))
    high = int(bad[0]) if len(bad) else pattern.shape[0] - 1
    if not len(bad) and _is_definite(rows, cols, values, high + 1):
        return None
    low = 0  # leading blocks of size <= low are definite; the block of size high + 1 is not
    while low < high:
        middle = (low + high) // 2
        if _is_definite(rows, cols, values, middle + 1):
            low = middle + 1
        else:
            high = middle
    return high


def _is_definite(rows: np.ndarray, cols: np.ndarray, values: np.ndarray, k: int) -> bool:
    import scipy.sparse
    from scipy.sparse.linalg import splu

    inside = (rows < k) & (cols < k)
    A = scipy.sparse.csc_array((values[inside], (rows[inside], cols[inside])), shape=(k, k))
    try:
        lu = splu(
            A,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:
        return False
    if not np.array_equal(lu.perm_r, lu.perm_c):  # left the diagonal, so met a zero there
        return False
    return bool((lu.U.diagonal().real > 0).all())
