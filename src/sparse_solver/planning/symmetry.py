"""What kind of matrix is this? Decided by its numbers, never by hope."""

from __future__ import annotations

import numpy as np

from ..matrix import Pattern
from .passes import passes_for

__all__ = ["ROUNDINGS", "classify"]

ROUNDINGS = 8  # units of eps by which mirrored entries of an assembled matrix may differ


def classify(pattern: Pattern, values: np.ndarray, assume: str, mirrored: bool | None = None) -> str:
    """The kind of A: "general", "symmetric" (A = A^T), "hermitian" (A = A^H, complex) or "spd".

    `mirrored` says whether A = A^T exactly, where that is known.

    Raises
    ------
    ValueError
        If `assume` claims a symmetry that the numbers do not have.

    Notes
    -----
    Mirrored entries count as equal if |a_ij - a_ji| <= 8 eps max(sqrt|a_ii a_jj|, |a_ij|): the
    order in which an assembly adds its terms makes that much difference.
    """
    if assume == "general" or (assume == "auto" and not pattern.is_symmetric):
        return "general"
    if not pattern.is_symmetric:
        raise ValueError(_not_symmetric(pattern, assume))
    upper, mirror = pattern.triangles
    if mirrored is None and values.dtype.kind != "c":
        mirrored = passes_for(values.dtype).mirrored(values, upper, mirror)
    if mirrored:
        return "spd" if assume == "spd" else "symmetric"
    above, below = values[upper], values[mirror]
    if values.dtype.kind != "c":
        if _equal(pattern, values, above, below):
            return "spd" if assume == "spd" else "symmetric"
    else:
        if assume != "symmetric" and _equal(pattern, values, above, below.conj()):
            return "spd" if assume == "spd" else "hermitian"
        if assume in ("auto", "symmetric") and _equal(pattern, values, above, below):
            return "symmetric"
    if assume == "auto":
        return "general"
    k = int(np.argmax(np.abs(above - (below if assume == "symmetric" else below.conj()))))
    i, j = int(pattern.rows[upper[k]]), int(pattern.cols[upper[k]])
    raise ValueError(
        f'assume="{assume}" but A[{i}, {j}] = {above[k]} and A[{j}, {i}] = {below[k]}. '
        'Say assume="general" or "auto", or make A symmetric: (A + A.mH) * 0.5'
    )


def _equal(pattern: Pattern, values: np.ndarray, above: np.ndarray, below: np.ndarray) -> bool:
    if (above == below).all():
        return True
    upper, _ = pattern.triangles
    eps = np.finfo(values.dtype).eps
    diagonal = np.where(pattern.diagonal < 0, 0.0, np.abs(values[pattern.diagonal]))
    root = np.sqrt(diagonal)
    scale = root[pattern.rows.numpy()[upper]] * root[pattern.cols.numpy()[upper]]
    return bool((np.abs(above - below) <= ROUNDINGS * eps * np.maximum(scale, np.abs(above))).all())


def _not_symmetric(pattern: Pattern, assume: str) -> str:
    if pattern.shape[0] != pattern.shape[1]:
        return f"A has shape {pattern.shape}; only a square matrix can be solved with"
    rows, cols = pattern.rows.numpy(), pattern.cols.numpy()
    text = f'assume="{assume}" but the nonzeros of A are not symmetric'
    if (rows >= cols).all() or (rows <= cols).all():
        return f"{text}: only one triangle is stored. Write SparseMatrix.from_triangle(A) to mirror it"
    there = set(zip(cols.tolist(), rows.tolist(), strict=True))
    i, j = next(p for p in zip(rows.tolist(), cols.tolist(), strict=True) if p not in there)
    return f'{text}: ({i}, {j}) is stored and ({j}, {i}) is not. Say assume="general" or "auto"'
