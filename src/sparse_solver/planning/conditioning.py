"""Is A singular, as far as its numbers can tell?

Three tests, the cheap ones first. (1) A certificate: a row-scaled matrix with diagonal margin m_i =
(|a_ii| - sum_j!=i |a_ij|) / sum_j |a_ij| > 0 has an inverse no larger than 1 / min m_i (Varah 1975),
so nothing more is asked. (2) A probe: one solve with random signs, which a nearly singular matrix
answers with a huge vector unless chance is against us by one in a hundred. (3) Only if the probe
fires, the estimate of the condition number by Hager (1984) and Higham (1988), on the matrix with
rows and columns equilibrated (Ruiz 2001), decides.

References
----------
J. M. Varah, Linear Algebra Appl. 11 (1975) 3-5. N. J. Higham, ACM TOMS 14 (1988) 381-396,
algorithm 4.1. D. Ruiz, RAL-TR-2001-034.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engines import Numeric
from .equations import Equations

__all__ = ["inverse_norm", "is_dominant", "null_unknown", "probe"]

_MARGIN = 1e4  # units of eps above which the certificate is trusted over rounding
_LUCK = 0.01  # a random sign vector meets a given direction by less with one percent probability
_SWEEPS = 5

Solve = Callable[[np.ndarray, bool], np.ndarray]


def is_dominant(eq: Equations) -> bool:
    """The certificate: strictly diagonally dominant rows, with a margin above rounding."""
    if not eq.n:
        return True
    # margin > t  <=>  2 |a_ii| > (1 + t) row sum
    return bool((2 * eq.diagonal > (1 + _MARGIN * eq.eps) * eq.row_sums).all())


def signs(n: int) -> np.ndarray:
    """The probe's fixed right-hand side, +-1."""
    return np.random.default_rng(12345).integers(0, 2, n).astype(np.float64) * 2 - 1


def probe(eq: Equations, numeric: Numeric, z: np.ndarray) -> bool:
    """Whether one solve raises the suspicion that A is singular."""
    with np.errstate(all="ignore"):
        column_sums = eq._sums(1 / eq.row_sums, transposed=True)
        rhs = (eq.row_sums * z).astype(eq.values.dtype)
        y = column_sums * numeric.solve(rhs)
        size = float(np.linalg.norm(y))
    return not size < _LUCK / (eq.eps * np.sqrt(eq.n))


def _equilibrate(eq: Equations) -> tuple[np.ndarray, np.ndarray]:
    """Row and column scales under which every row and column has maximum near one."""
    rows, cols = eq.pattern.rows.numpy(), eq.pattern.cols.numpy()
    r, c = np.ones(eq.n), np.ones(eq.n)
    magnitudes = eq.magnitudes.astype(np.float64)
    for _ in range(_SWEEPS):
        scaled = magnitudes * r[rows] * c[cols]
        tallest, widest = np.zeros(eq.n), np.zeros(eq.n)
        np.maximum.at(tallest, rows, scaled)
        np.maximum.at(widest, cols, scaled)
        r /= np.sqrt(np.where(tallest > 0, tallest, 1))
        c /= np.sqrt(np.where(widest > 0, widest, 1))
    return r, c


def inverse_norm(eq: Equations, numeric: Numeric) -> tuple[float, np.ndarray]:
    """(rcond, direction): reciprocal condition number of the equilibrated A in the 1-norm, and the
    vector that A^-1 enlarges most, in the equilibrated unknowns.
    """
    r, c = _equilibrate(eq)
    rows, cols = eq.pattern.rows.numpy(), eq.pattern.cols.numpy()
    scaled = eq.magnitudes * r[rows] * c[cols]
    norm = float(np.bincount(cols, scaled, eq.n).max(initial=0.0))
    dtype = eq.values.dtype

    def inverse(v: np.ndarray) -> np.ndarray:
        return numeric.solve((v / r).astype(dtype)) / c

    def adjoint(v: np.ndarray) -> np.ndarray:
        return numeric.solve((v.conj() / c).astype(dtype), True).conj() / r

    with np.errstate(all="ignore"):
        estimate, direction = _hager(inverse, adjoint, eq.n)
    if not np.isfinite(estimate):
        return 0.0, direction
    return (1 / (norm * estimate) if estimate > 0 else 0.0), direction


def _hager(inverse: Callable, adjoint: Callable, n: int) -> tuple[float, np.ndarray]:
    y = inverse(np.full(n, 1 / n))
    best, direction = float(np.abs(y).sum()), y
    previous = -1
    for _ in range(5):
        if not np.isfinite(best):
            return best, direction
        size = np.abs(y)
        xi = np.where(size > 0, y / np.where(size > 0, size, 1), 1)
        j = int(np.argmax(np.abs(adjoint(xi))))
        if j == previous:
            break
        previous = j
        e = np.zeros(n)
        e[j] = 1
        y = inverse(e)
        estimate = float(np.abs(y).sum())
        if not estimate > best:
            break
        best, direction = estimate, y
    # Higham's safeguard against the rare vectors that fool the iteration.
    alternating = (1 + np.arange(n) / max(1, n - 1)) * np.where(np.arange(n) % 2, -1, 1)
    y = inverse(alternating)
    estimate = 2 * float(np.abs(y).sum()) / (3 * n)
    return (estimate, y) if estimate > best else (best, direction)


def null_unknown(eq: Equations) -> int | None:
    """The unknown with the largest share in a null vector of A, or None if A seems regular.

    For matrices that no engine could factor: inverse iteration on the equilibrated matrix, shifted
    off its singularity.
    """
    import scipy.sparse
    from scipy.sparse.linalg import splu

    r, c = _equilibrate(eq)
    rows, cols = eq.pattern.rows.numpy(), eq.pattern.cols.numpy()
    wide = np.complex128 if eq.values.dtype.kind == "c" else np.float64
    scaled = eq.values.astype(wide) * r[rows] * c[cols]
    A = scipy.sparse.csc_array((scaled, (rows, cols)), shape=(eq.n, eq.n))
    # The shift is random in size so that no eigenvalue of a structured matrix can meet it.
    shift = 1e-9 * np.random.default_rng(1).uniform(1, 2, eq.n)
    try:
        lu = splu((A.conj().T @ A + scipy.sparse.diags_array(shift)).tocsc())
    except RuntimeError:
        return None
    v = signs(eq.n).astype(wide)
    for _ in range(3):
        v = lu.solve(v)
        v /= np.abs(v).max()
    # |A v| beside |v|: near zero for a null vector; the normal equations halve the digits.
    if float(np.abs(A @ v).max()) > 1e-6:
        return None
    return int(np.argmax(np.abs(v)))
