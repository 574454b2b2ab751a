"""Where does a matrix stop being positive definite?"""

from __future__ import annotations

import numpy as np

from ..matrix import Pattern

__all__ = ["first_bad_minor"]


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
