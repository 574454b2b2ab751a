"""What compiled calls read of a system: a row of words.

First n, and how many nonzeros and pairs of them there are; then the addresses of indptr, cols, the
places of the diagonal, both nonzeros of each pair, values and diagonal; and room for four numbers that
`prepare` finds out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

__all__ = [
    "AT", "COLS", "DIAGONAL", "FOUND", "INDPTR", "LENGTH", "MIRROR", "NNZ", "PAIRS",
    "UPPER", "VALUES", "N", "Row",
]  # fmt: skip

N, NNZ, PAIRS, INDPTR, COLS, AT, UPPER, MIRROR, VALUES, DIAGONAL, FOUND = range(11)
LENGTH = FOUND + 4
_Words, _Found = ctypes.c_int64 * LENGTH, ctypes.c_double * 4


class Row:
    """The row for these arrays, in the order of the places.

    Parameters
    ----------
    n : int
    structure : tuple of arrays
        Held.
    numbers : tuple of arrays
        Of values and diagonal, which must be held elsewhere.

    Attributes
    ----------
    at : int
        Where the row lies.
    found : sequence of float
        What `prepare` finds out: `Sizes.norm`, `.least`, `.margin` and `.lowest`. It holds the row.
    """

    __slots__ = ("_structure", "at", "found")

    def __init__(
        self, n: int, structure: tuple[np.ndarray, ...], numbers: tuple[np.ndarray, ...]
    ) -> None:
        places = (a.ctypes.data for a in (*structure, *numbers))
        words = _Words(n, len(structure[1]), len(structure[-1]), *places)
        self._structure, self.at = structure, ctypes.addressof(words)
        self.found: Sequence[float] = _Found.from_buffer(words, 8 * FOUND)  # type: ignore[assignment]
