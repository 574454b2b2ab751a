"""Is A singular, as far as its numbers can tell?

Three tests, the cheap ones first. (1) A certificate: a matrix whose diagonal exceeds the rest of its
row by at least m > 0 everywhere has an inverse no larger than 1 / m (Varah 1975), and nothing more
is asked. (2) A probe: one solve with a random vector, which a nearly singular matrix
answers with a huge one unless chance is against us by one in ten thousand. (3) Only if the probe
fires, the estimate of the condition number by Hager (1984) and Higham (1988), on the matrix with
rows and columns equilibrated (one after the other, by the diagonal, or both at once by Ruiz 2001),
decides.

References
----------
J. M. Varah, Linear Algebra Appl. 11 (1975) 3-5. N. J. Higham, ACM TOMS 14 (1988) 381-396,
algorithm 4.1. D. Ruiz, RAL-TR-2001-034.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from ..engines import Numeric
from ..errors import SingularMatrixError
from ..matrix.threads import dot
from .equations import NORMWISE, Equations

__all__ = ["is_dominant", "is_regular", "null_unknown", "probe", "probe_limit", "random_vector"]

MARGIN = 1e4  # units of eps above which the certificate is trusted over rounding
_LUCK = 0.25  # eps to this power: how small a share of a null vector the probe may happen to have
_SWEEPS = 8

Solve = Callable[[np.ndarray, bool], np.ndarray]


def is_dominant(eq: Equations) -> bool:
    """The certificate: strictly diagonally dominant rows, with a margin above rounding."""
    return eq.sizes.margin > MARGIN * eq.eps * eq.sizes.norm


def random_vector(n: int) -> np.ndarray:
    """The probe's right-hand side, the same at every call. Normal numbers: random signs would be
    exactly orthogonal to the null vectors of small floating parts every other time.
    """
    return _random(n).copy()


@lru_cache(maxsize=4)
def _random(n: int) -> np.ndarray:
    return np.random.default_rng(12345).standard_normal(n)


def probe(eq: Equations, numeric: Numeric, z: np.ndarray) -> bool:
    """Whether one solve raises the suspicion that A is singular."""
    with np.errstate(all="ignore"):
        column_sums = eq._sums(1 / eq.row_sums, transposed=True)
        rhs = (eq.row_sums * z).astype(eq.values.dtype)
        y = column_sums * numeric.solve(rhs)
        size = math.sqrt(dot(y.conj(), y).real)
    return not size < probe_limit(eq.eps, eq.n)


def probe_limit(eps: float, n: int) -> float:
    """How large the answer to a probe may be without raising suspicion."""
    return float(eps**_LUCK / (eps * np.sqrt(n)))


def _scalings(eq: Equations) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row and column scales (r, c), several: equilibrated forms of a matrix are many, and one in
    which it is well-conditioned proves that it is regular.
    """
    rows, cols = eq.pattern.rows.numpy(), eq.pattern.cols.numpy()
    magnitudes = eq.magnitudes.astype(np.float64)
    ones = np.ones(eq.n)

    def tallest(index: np.ndarray, scaled: np.ndarray) -> np.ndarray:
        top = np.zeros(eq.n)
        np.maximum.at(top, index, scaled)
        return np.where(top > 0, top, 1)

    r = 1 / tallest(rows, magnitudes)
    yield r, 1 / tallest(cols, magnitudes * r[rows])
    c = 1 / tallest(cols, magnitudes)
    yield 1 / tallest(rows, magnitudes * c[cols]), c
    if eq.diagonal.all():
        s = 1 / np.sqrt(eq.diagonal.astype(np.float64))
        yield s, s
    r, c = ones, ones
    for _ in range(_SWEEPS):
        scaled = magnitudes * r[rows] * c[cols]
        r, c = r / np.sqrt(tallest(rows, scaled)), c / np.sqrt(tallest(cols, scaled))
    yield r, c


def is_regular(eq: Equations, numeric: Numeric) -> bool | None:
    """True if the condition estimate says regular; None if this factor is too inaccurate to say: it is
    that of a matrix as far from A as its backward error, and so is the estimate.

    Raises
    ------
    SingularMatrixError
        If it says singular.
    """
    rhs = random_vector(eq.n).astype(eq.values.dtype)
    with np.errstate(all="ignore"):
        x = numeric.solve(rhs)
        size = np.abs(x).max()
        error = np.abs(eq.residual(x, rhs, False)).max() / (eq.sizes.norm * size + np.abs(rhs).max())
    if np.isfinite(size) and not error <= NORMWISE * eq.eps:
        return None
    rcond, direction = _rcond(eq, numeric)
    if rcond >= eq.eps:
        return True if rcond > error else None
    index = int(np.argmax(np.nan_to_num(np.abs(direction), nan=0.0, posinf=np.inf)))
    raise SingularMatrixError(
        f"A (shape {eq.pattern.shape}, {eq.values.dtype}) is singular to working precision "
        f"(rcond {rcond:.1e}); a null vector is largest at unknown {index}",
        index=index,
    )


def _rcond(eq: Equations, numeric: Numeric) -> tuple[float, np.ndarray]:
    """(rcond, direction): reciprocal condition number in the 1-norm of the best equilibrated form of
    A, and the vector that A^-1 enlarges most, in the equilibrated unknowns.
    """
    best = -1.0, np.zeros(eq.n)
    for r, c in _scalings(eq):
        found = _inverse_norm(eq, numeric, r, c)
        if found[0] > best[0]:
            best = found
        if best[0] >= eq.eps:
            break
    return best


def _inverse_norm(
    eq: Equations, numeric: Numeric, r: np.ndarray, c: np.ndarray
) -> tuple[float, np.ndarray]:
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

    *_, (r, c) = _scalings(eq)
    rows, cols = eq.pattern.rows.numpy(), eq.pattern.cols.numpy()
    wide = np.complex128 if eq.values.dtype.kind == "c" else np.float64
    scaled = eq.values.astype(wide) * r[rows] * c[cols]
    A = scipy.sparse.csc_array((scaled, (rows, cols)), shape=(eq.n, eq.n))
    # The shift is random in size so that no eigenvalue of a structured matrix can meet it.
    shift = 1e-9 * np.random.default_rng(1).uniform(1, 2, eq.n)
    try:
        lu = splu((A + scipy.sparse.diags_array(shift)).tocsc())
    except RuntimeError:
        return None
    v = random_vector(eq.n).astype(wide)
    with np.errstate(all="ignore"):
        for _ in range(3):  # inverse iteration for the smallest singular value
            v = lu.solve(lu.solve(v, "H"))
            v /= np.abs(v).max()
        # |A v| beside |v|: near zero for a null vector, up to the shift.
        if not float(np.abs(A @ v).max()) < 1e-6:
            return None
    return int(np.argmax(np.abs(v)))
