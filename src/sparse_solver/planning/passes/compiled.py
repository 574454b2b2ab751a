"""The passes by compiled loops, for one real dtype."""

from __future__ import annotations

import ctypes
from _thread import get_ident as _ident

import numpy as np
from torch import get_num_threads

from ...engines.compiler import callable_at, look
from ...matrix import Pattern, openmp
from ...matrix.openmp import address_of_parallel, torchs_threads
from ...matrix.plain import use_look
from ...matrix.threads import WORTH_SHARING, by_parts
from . import plain
from .calls import compile_calls
from .loops import compile_for

__all__ = ["Calls", "Compiled"]

_NONE = np.empty(0, np.uint32)
_EACH = 12_000  # numbers that are worth a thread of torch's
_kept: list = []  # compiled functions live as long as their addresses are called


class Calls:
    """Loops as Python calls them with addresses; see `calls`."""

    def __init__(self, dtype: np.dtype) -> None:
        use_look(look())
        *found, each = compile_calls(dtype)
        _kept.extend((*found, each))
        kinds = {"int64": int, "float64": float}
        self.prepare, self.judge, self.adjoint, self.sum, self.take = (
            callable_at(f.address, len(f._sig.args), kinds[str(f._sig.return_type)]) for f in found
        )
        self._rows = (ctypes.c_int64 * 3)(0, 1, 0), (ctypes.c_int64 * 3)(0, 0, each.address)
        self._alone, self._torchs = map(ctypes.addressof, self._rows)
        self._threads, self._enough = 0, 1 << 63  # in the second row, and numbers worth so many

    def team(self, numbers: int) -> int | None:
        """Who passes over so many numbers, the first that each of these calls is given. None where that
        is work for several threads, but not for torch's.
        """
        if numbers >= self._enough and get_num_threads() == self._threads and _ident() == openmp.home:
            return self._torchs  # as last time
        if numbers < 2 * _EACH:
            return self._alone
        threads = torchs_threads(2, numbers // _EACH)
        if threads:
            if threads != self._threads:
                row = self._rows[1]  # the main thread's alone
                row[0], row[1] = address_of_parallel(), threads
                self._threads, self._enough = threads, threads * _EACH
            return self._torchs
        return self._alone if numbers < WORTH_SHARING or get_num_threads() == 1 else None


class Compiled:
    """What the module `plain` offers, with the same results."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        found = compile_for(dtype)
        self._sizes, self._residual, self._columns, self._outer, self._mirrored = found[:5]
        self.sum, self.take, self._adjoint = found[5:]
        self._none = np.empty(0, dtype)
        self.calls = Calls(dtype)

    def sizes(
        self, pattern: Pattern, values: np.ndarray, room: np.ndarray | None = None
    ) -> plain.Sizes:
        """As `plain.sizes`."""
        if pattern.unsigned is None:
            return plain.sizes(pattern, values, room)
        pointer, _, at = pattern.unsigned
        n = len(pointer) - 1
        diagonal = np.empty(n, self.dtype)
        pairs = plain.pairs_of(pattern)
        look, copy = pairs or (_NONE, _NONE), self._none if room is None else room
        given = pointer, at, *look, values, copy, diagonal
        found = by_parts(n, len(values), lambda start, stop: self._sizes(*given, start, stop))
        facts = found[0] if len(found) == 1 else _joined(found, "max min min min min")
        norm, least, margin, lowest, same = facts
        same = None if pairs is None else bool(same)
        return plain.Sizes(diagonal, norm, least, margin, lowest, same)

    def residual(
        self,
        pattern: Pattern,
        values: np.ndarray,
        diagonal: np.ndarray,
        x: np.ndarray,
        b: np.ndarray,
        transposed: bool,
        wanted: bool = True,
    ) -> tuple[np.ndarray, float, float, float]:
        """As `plain.residual`."""
        if pattern.unsigned is None:
            return plain.residual(pattern, values, diagonal, x, b, transposed)
        pointer, cols, _ = pattern.unsigned
        r = np.empty(len(b), self.dtype) if wanted or transposed else self._none
        given = pointer, cols, values, x, b, diagonal, transposed, r
        work = 0 if transposed else len(values)  # by columns threads would meet in r
        found = by_parts(len(b), work, lambda start, stop: self._residual(*given, start, stop))
        top, reach, least = found[0] if len(found) == 1 else _joined(found, "max max min")
        return r, top, reach, least

    def columns(
        self, pattern: Pattern, values: np.ndarray, diagonal: np.ndarray, x: np.ndarray, b: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `plain.columns`."""
        if pattern.unsigned is None:
            return plain.columns(pattern, values, diagonal, x, b)
        pointer, cols, _ = pattern.unsigned
        (n, k), x = x.shape, np.ascontiguousarray(x)

        def part(start: int, stop: int) -> tuple[np.ndarray, ...]:
            r, top, reach, least = np.zeros((4, k), self.dtype)
            least[:] = np.inf
            self._columns(pointer, cols, values, x, b, diagonal, r, top, reach, least, start, stop)
            return top, reach, least

        return plain.joined_columns(by_parts(n, len(values) * k, part))

    def outer(self, pattern: Pattern, y: np.ndarray, x: np.ndarray, swapped: bool) -> np.ndarray:
        """As `plain.outer`."""
        if pattern.unsigned is None:
            return plain.outer(pattern, y, x, swapped)
        pointer, cols, _ = pattern.unsigned
        out = np.empty(len(cols), self.dtype)
        given = pointer, cols, np.ascontiguousarray(y), np.ascontiguousarray(x), swapped, out
        n = len(pointer) - 1
        by_parts(n, len(cols), lambda start, stop: self._outer(*given, start, stop))
        return out

    def adjoint(
        self,
        pattern: Pattern,
        values: np.ndarray,
        diagonal: np.ndarray,
        y: np.ndarray,
        b: np.ndarray,
        x: np.ndarray,
        swapped: bool,
    ) -> tuple[np.ndarray, float, float, float]:
        """As `plain.adjoint`."""
        if pattern.unsigned is None:
            return plain.adjoint(pattern, values, diagonal, y, b, x, swapped)
        pointer, cols, _ = pattern.unsigned
        out = np.empty(len(cols), self.dtype)
        given = pointer, cols, values, diagonal, y, b, x, swapped, out
        n = len(b)
        found = by_parts(n, len(cols), lambda start, stop: self._adjoint(*given, start, stop))
        top, reach, least = found[0] if len(found) == 1 else _joined(found, "max max min")
        return out, top, reach, least

    def mirrored(self, values: np.ndarray, upper: np.ndarray, mirror: np.ndarray) -> bool:
        """As `plain.mirrored`."""
        given = values, upper, mirror
        return all(
            by_parts(len(upper), len(values), lambda start, stop: self._mirrored(*given, start, stop))
        )


def _joined(parts: list[tuple[float, ...]], how: str) -> list[float]:
    """Facts on the whole from facts on its parts, NaN from NaN."""
    columns = zip(how.split(), zip(*parts, strict=True), strict=True)
    return [float(getattr(np, name)(column)) for name, column in columns]
