"""Half solves and how they change: W with A^-1 = W^H W, for Hermitian positive definite A.

With A = P^T L L^H P (Cholesky), W = L^-1 P. Let Phi take the lower triangle and half the diagonal;
for a change dA, symmetrised, and B = W dA W^H,

    dL = L Phi(L^-1 P dA P^T L^-H) = L Phi(B)        dW = -L^-1 dL W = -Phi(B) W

so two more operations carry all derivatives of both y = W b and x = W^H z:

    push(dA, v) = -Phi(B) v, or -Phi(B)^H v          dy = push(dA, y),   dx = W^H push(dA, z)^adjoint
    pull(u, v)  = the gradient of Re <u, -Phi(B) v> with respect to dA, at A's nonzeros

From L itself both cost about as much as a factorisation: the tangent and the reverse of the sparse
Cholesky recursion. From an engine's half solves alone they take n of these, in blocks.

References
----------
I. Murray, Differentiation of the Cholesky decomposition, arXiv:1602.07527 (2016).
"""

from __future__ import annotations

import numpy as np

from ..engines import Declined, Numeric, Triangles
from ..errors import InaccurateSolveError, NotPositiveDefiniteError
from .answers import Singular, ask, regular
from .blocks import multiply, unit_blocks
from .definite import first_bad_minor
from .equations import NORMWISE, Equations
from .factored import Factored
from .symmetry import classify

__all__ = ["Halves", "halves"]


def halves(f: Factored | Singular) -> Halves:
    """The half solves of f's matrix, kept with it.

    Raises
    ------
    ValueError
        If A is not Hermitian.
    NotPositiveDefiniteError
    """
    f = regular(f)
    found = f.notes.get("halves")
    if found is not None:
        return found
    eq = f.equations
    try:
        classify(eq.pattern, eq.values, "spd")
    except ValueError as error:
        raise ValueError(f"draws and half solves need a positive definite A; {error}") from None
    try:
        found = ask(f, lambda numeric: _halves(f, numeric), "spd") if eq.n else Halves(eq, None, None)
    except Declined as reason:
        index = first_bad_minor(eq.pattern, eq.values)
        if index is None:
            raise InaccurateSolveError(f"half solves (n = {eq.n}): {reason} accurately") from None
        raise NotPositiveDefiniteError(
            f"A (shape {eq.pattern.shape}) is not positive definite: its leading block up to unknown "
            f"{index} is not",
            index=index,
        ) from None
    f.notes["halves"] = found
    return found


def _halves(f: Factored, numeric: Numeric) -> Halves:
    eq = f.equations
    try:
        factors: Triangles | None = numeric.factors()
    except Declined:
        factors = None
    if factors is not None:
        factors = _cholesky(factors, f)
    try:
        numeric.half_solve(np.zeros((eq.n, 1), eq.values.dtype))
        own: Numeric | None = numeric
    except Declined:
        own = None
    if own is None and factors is None:
        raise Declined("no half solves: not a Cholesky factorisation")
    found = Halves(eq, own, factors)
    if f.planner.method.check:
        found.check()
    return found


def _cholesky(T: Triangles, f: Factored) -> Triangles | None:
    """L U if it is L D L^H of a symmetric permutation, D > 0, else None."""
    if not np.array_equal(T.row_place, T.col_place) or not np.array_equal(T.r, T.c):
        return None
    if not (T.d.real > 0).all():
        return None
    from .inverse import complete  # compiled loops: not before they are needed

    return complete(T, f.equations.pattern)


class Halves:
    """W, W^H, `push` and `pull` on numbers; see the top of this file.

    Parameters
    ----------
    eq : Equations
    own : Numeric or None
        With half solves of its own.
    factors : Triangles or None
        A Cholesky factorisation, the one of `own` where that is there.
    """

    def __init__(self, eq: Equations, own: Numeric | None, factors: Triangles | None) -> None:
        self.eq, self.own, self.T = eq, own, factors
        if factors is not None:
            # L L^H = P A P^T: the engine's L times the square roots of its pivots, less its scales.
            self.scale = factors.r  # by user's numbering
            self.root = np.sqrt(factors.d.real)

    def check(self) -> None:
        """Raise `Declined` unless W^H W is an accurate inverse."""
        b = np.random.default_rng(3).standard_normal((self.eq.n, 1)).astype(self.eq.values.dtype)
        with np.errstate(all="ignore"):
            x = self.solve(self.solve(b), True)
            r = self.eq.residual(x, b, False)
            error = np.abs(r).max() / (self.eq.sizes.norm * np.abs(x).max() + np.abs(b).max())
        if not error <= NORMWISE * self.eq.eps:
            raise Declined(f"half solves are inaccurate: backward error {error:.1e}")

    # ---- W ----

    def solve(self, b: np.ndarray, adjoint: bool = False) -> np.ndarray:
        """W b, or W^H b, for b (n, k)."""
        if not b.size:
            return np.zeros_like(b)
        if self.own is not None:
            return self.own.half_solve(np.ascontiguousarray(b), adjoint)
        x = self._into_user(self._upper(b)) if adjoint else self._lower(self._from_user(b))
        return x.astype(b.dtype, copy=False)

    def _from_user(self, b: np.ndarray) -> np.ndarray:
        """P S b."""
        assert self.T is not None
        x = np.empty(b.shape, self.T.d.dtype)
        x[self.T.row_place] = b * self.scale[:, None]
        return x

    def _into_user(self, x: np.ndarray) -> np.ndarray:
        """S P^T x."""
        assert self.T is not None
        return x[self.T.row_place] * self.scale[:, None]

    def _lower(self, x: np.ndarray) -> np.ndarray:
        """L^-1 x, over x where it can."""
        from . import takahashi

        T = self.T
        assert T is not None
        x = np.ascontiguousarray(x, T.d.dtype)
        takahashi.lower_solve(T.lp, T.li, T.lx, x)
        x /= self.root[:, None]
        return x

    def _upper(self, z: np.ndarray) -> np.ndarray:
        """L^-H z."""
        from . import takahashi

        T = self.T
        assert T is not None
        x = np.ascontiguousarray(z / self.root[:, None], T.d.dtype)
        takahashi.upper_solve(T.lp, T.li, T.lx, x)
        return x

    # ---- how W changes ----

    def push(self, M: np.ndarray, v: np.ndarray, adjoint: bool = False) -> np.ndarray:
        """-Phi(B) v, or -Phi(B)^H v, with B = W M W^H for M (nnz,), symmetrised; v (n, k)."""
        if not v.size:
            return np.zeros_like(v)
        M = _hermitian(self.eq, M)
        pushed = self._push_blocks if self.T is None else self._push_factors
        return pushed(M, v, adjoint).astype(v.dtype, copy=False)

    def pull(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The gradient (nnz,) of Re <u, -Phi(W M W^H) v> with respect to M; u, v (n, k)."""
        if not u.size:
            return np.zeros(self.eq.pattern.nnz, u.dtype)
        pulled = self._pull_blocks if self.T is None else self._pull_factors
        return _hermitian(self.eq, pulled(u, v)).astype(u.dtype, copy=False)

    def _push_factors(self, M: np.ndarray, v: np.ndarray, adjoint: bool) -> np.ndarray:
        from . import takahashi
        from .inverse import Places

        T = self.T
        assert T is not None
        places = Places(T, self.eq.pattern)
        t = places.write(M, T.d.dtype)
        takahashi.lu_tangent(T.d, T.lp, T.li, T.lx, T.up, T.uj, T.ux, t)
        # L diag(root) changes by dL diag(root) + L diag(dd / (2 root)).
        columns = np.repeat(np.arange(len(T.d)), np.diff(T.lp))
        droot = t[len(T.li) + len(T.uj) : -1].real / (2 * self.root)
        dl = t[: len(T.li)] * self.root[columns] + T.lx * droot[columns]
        import scipy.sparse

        n = self.eq.n
        dL = scipy.sparse.csc_array((dl, T.li, T.lp), shape=(n, n))
        if adjoint:  # Phi(B)^H = dL^H L^-H
            x = self._upper(v)
            return -(dL.conj().T @ x + droot[:, None] * x)
        return -self._lower(dL @ v + droot[:, None] * v)  # Phi(B) = L^-1 dL

    def _pull_factors(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        from . import takahashi
        from .inverse import Places

        T = self.T
        assert T is not None
        # Re <u, -L^-1 dL v> = Re <L_bar, dL>
        x = self._upper(u)
        columns = np.repeat(np.arange(len(T.d)), np.diff(T.lp))
        f = np.zeros(len(T.li), T.d.dtype)
        fd = np.zeros(len(T.d))
        for k in range(x.shape[1]):
            y = v[:, k].conj()
            f -= x[T.li, k] * y[columns]
            fd -= (x[:, k] * y).real
        takahashi.reverse(T.lp, T.li, T.lx * self.root[columns], self.root, f, fd)
        z = np.zeros(len(T.li) + len(T.uj) + len(T.d) + 1, T.d.dtype)
        z[: len(T.li)] = f  # of the lower triangle; `_hermitian` halves and mirrors it
        z[len(T.li) + len(T.uj) : -1] = fd
        return Places(T, self.eq.pattern).read(z)

    def _push_blocks(self, M: np.ndarray, v: np.ndarray, adjoint: bool) -> np.ndarray:
        out, n = np.zeros(v.shape, v.dtype), self.eq.n
        for at, E in unit_blocks(n, v.dtype, "the derivative of half solves"):
            # Columns of B, of which Phi keeps the lower part.
            B = self.solve(multiply(self.eq.pattern, M, self.solve(E, True)))
            B *= _phi(n, at)
            if adjoint:
                out[at] -= B.conj().T @ v
            else:
                out -= B @ v[at]
        return out

    def _pull_blocks(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        pattern, n = self.eq.pattern, self.eq.n
        rows, cols = pattern.rows.numpy(), pattern.cols.numpy()
        out = np.zeros(pattern.nnz, u.dtype)
        for at, E in unit_blocks(n, u.dtype, "the derivative of half solves"):
            # Columns of -W^H Phi(u v^H) W; prefix sums apply Phi(u v^H) without forming it.
            w = self.solve(E)
            y = np.zeros_like(w)
            for k in range(u.shape[1]):
                terms = v[:, k].conj()[:, None] * w
                y -= u[:, k, None] * (np.cumsum(terms, 0) - terms / 2)
            X = self.solve(y, True)
            here = (cols >= at.start) & (cols < at.stop)
            out[here] = X[rows[here], cols[here] - at.start]
        return out


def _phi(n: int, at: slice) -> np.ndarray:
    """The columns `at` of Phi's weights: 1 below the diagonal, 1/2 on it."""
    i, j = np.arange(n)[:, None], np.arange(at.start, at.stop)[None, :]
    return (i > j) + 0.5 * (i == j)


def _hermitian(eq: Equations, M: np.ndarray) -> np.ndarray:
    """(M + M^H) / 2 on A's (symmetric) pattern."""
    return (M + M[eq.pattern.transposed_order].conj()) / 2
