"""The adapter: this package's Cholesky as one engine among the others.

Nothing here imports LLVM before a matrix is analysed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...matrix import Pattern
from ..base import Declined, Engine, Numeric, Symbolic, is_installed
from ..triangles import Triangles

__all__ = ["Multifrontal"]

_MOST = 2**30  # rows of fronts are int32, those included that subtrees keep for rows above them


class _CholeskyNumeric(Numeric):
    recyclable = True

    def __init__(self, factor: Any, pattern: Pattern, seconds: float) -> None:
        self.factor, self.pattern, self.seconds = factor, pattern, seconds
        self.dtype = factor.panels.dtype
        self.nnz_factor = factor.analysis.nnz_factor
        self.memory = int(factor.panels.nbytes)
        self.inertia = pattern.shape[0], 0, 0

    def solve(self, b: np.ndarray, transposed: bool = False) -> np.ndarray:
        if transposed and self.dtype.kind == "c":  # A^T = conj(A)
            return self.factor.solve(b.conj()).conj()
        return self.factor.solve(b)

    def solve_at(self, x: int, b: int) -> None:
        """A^-1 b for the contiguous vector at address b, put to where x is."""
        self.factor.solve_at(x, b)

    def half_solve(self, b: np.ndarray, adjoint: bool = False) -> np.ndarray:
        return self.factor.half_solve(b, adjoint)

    def slogdet(self) -> tuple[complex, float]:
        return 1.0, self.factor.logdet()

    def selected_inverse(self) -> np.ndarray:
        return self.factor.selected_inverse(self.pattern.transposed_order)

    def factors(self) -> Triangles:
        from .columns import triangles

        return triangles(self.factor)


class Multifrontal(Engine):
    """A Cholesky factorisation written for this library."""

    name = "multifrontal"
    paths = {
        "cholesky": "multifrontal Cholesky, selected inverse and half solves, for definite matrices"
    }
    kinds = ("hermitian", "spd")
    looks_at_values = False

    def why_not(self) -> str | None:
        return None if is_installed("llvmlite") else "pip install llvmlite"

    def analyze(self, pattern: Pattern, path: str, values: np.ndarray, threads: int) -> Symbolic:
        from .analysis import analyse
        from .ordering import fill_reducing
        from .team import Scratch

        start = time.perf_counter()
        if not pattern.is_symmetric:
            raise Declined("multifrontal: the pattern is not symmetric")
        if max(pattern.nnz, pattern.shape[0]) >= _MOST:
            raise Declined(f"multifrontal: {pattern} is too large for 32-bit indices")
        indptr, indices = pattern.indptr, pattern.cols.numpy()
        analysis = analyse(indptr, indices, fill_reducing(pattern, threads))
        facts = analysis.nnz_factor, analysis.flops, time.perf_counter() - start
        scratch = Scratch(analysis.size * values.itemsize)  # no more than the factor
        return Symbolic(pattern, path, (analysis, scratch), None, *facts)

    def factorize(
        self, symbolic: Symbolic, values: np.ndarray, threads: int, recycle: Numeric | None = None
    ) -> Numeric:
        from .numeric import Cholesky

        start = time.perf_counter()
        analysis, scratch = symbolic.handle
        storage = recycle.factor.panels if isinstance(recycle, _CholeskyNumeric) else None
        values = np.ascontiguousarray(values)
        factor = Cholesky(analysis, values, threads, scratch, storage)
        if factor.bad is not None:
            raise Declined(
                f"multifrontal: the pivot of unknown {factor.bad} is not positive", index=factor.bad
            )
        return _CholeskyNumeric(factor, symbolic.pattern, time.perf_counter() - start)
