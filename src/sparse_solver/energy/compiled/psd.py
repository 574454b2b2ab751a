"""Projection of one small symmetric matrix to the positive semidefinite ones, in compiled code."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["make_psd"]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def make_psd(h: np.ndarray, q: int, work: np.ndarray) -> None:
    """Replace h, the upper half of a matrix row by row, by its projection; work is (3, q, q)."""
    A, L, U = work[0], work[1], work[2]
    at, scale = 0, 0.0
    for i in range(q):
        scale = max(scale, abs(h[at]))
        for j in range(i, q):
            A[i, j] = A[j, i] = h[at]
            at += 1
    if not np.isfinite(scale):
        return
    # Cholesky of A + shift I, which few elements fail
    shift = 2.2e-13 * scale + 2.3e-308
    definite = True
    for j in range(q):
        for i in range(j, q):
            s = A[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            if i == j:
                s += shift
                if not s > 0.0:
                    definite = False
                    break
                L[j, j] = np.sqrt(s)
            else:
                L[i, j] = s / L[j, j]
        if not definite:
            break
    if definite:
        return
    # Jacobi's rotations: A becomes diagonal, U collects the eigenvectors
    for i in range(q):
        for j in range(q):
            U[i, j] = 1.0 if i == j else 0.0
    for _ in range(30):
        off = total = 0.0
        for i in range(q):
            for j in range(q):
                total += A[i, j] ** 2
                if i != j:
                    off += A[i, j] ** 2
        if off <= 1e-28 * total:
            break
        for i in range(q):
            for j in range(i + 1, q):
                if A[i, j] == 0.0:
                    continue
                theta = (A[j, j] - A[i, i]) / (2 * A[i, j])
                t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1))
                t = -t if theta < 0 else t
                c = 1.0 / np.sqrt(t * t + 1)
                s = t * c
                A[i, i] -= t * A[i, j]
                A[j, j] += t * A[i, j]
                A[i, j] = A[j, i] = 0.0
                for k in range(q):
                    if k != i and k != j:
                        a, b = A[k, i], A[k, j]
                        A[k, i] = A[i, k] = c * a - s * b
                        A[k, j] = A[j, k] = s * a + c * b
                for k in range(q):
                    a, b = U[k, i], U[k, j]
                    U[k, i], U[k, j] = c * a - s * b, s * a + c * b
    at = 0
    for i in range(q):
        for j in range(i, q):
            s = 0.0
            for k in range(q):
                s += max(A[k, k], 0.0) * U[i, k] * U[j, k]
            h[at] = s
            at += 1
