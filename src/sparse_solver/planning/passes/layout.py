"""What compiled calls read of a system: a row of words.

First n, and how many nonzeros and pairs of them there are; then the addresses of indptr, cols, the
places of the diagonal, both nonzeros of each pair, values and diagonal; and room for what `prepare`
finds out.
"""

from __future__ import annotations

import ctypes

import numpy as np

__all__ = [
    "AT", "COLS", "DIAGONAL", "DOMINANT", "FOUND", "INDPTR", "LENGTH", "MIRROR", "NNZ", "OTHERS",
    "PAIRS", "SAME", "UNFIT", "UPPER", "VALUES", "Found", "N", "Row",
]  # fmt: skip

N, NNZ, PAIRS, INDPTR, COLS, AT, UPPER, MIRROR, VALUES, DIAGONAL, FOUND = range(11)
UNFIT, SAME, OTHERS, DOMINANT = range(-1, 3)  # what `prepare` says of the numbers it is given


class Found(ctypes.Structure):
    """What `prepare` finds out, of `Sizes` and by its names; it holds its row."""

    norm: float
    least: float
    margin: float
    lowest: float
    _fields_ = tuple((name, ctypes.c_double) for name in ("norm", "least", "margin", "lowest"))


LENGTH = FOUND + len(Found._fields_)
_Words = ctypes.c_int64 * LENGTH


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
    found : Found
    """

    __slots__ = ("_structure", "at", "found")

    def __init__(
        self, n: int, structure: tuple[np.ndarray, ...], numbers: tuple[np.ndarray, ...]
    ) -> None:
        places = (a.ctypes.data for a in (*structure, *numbers))
        words = _Words(n, len(structure[1]), len(structure[-1]), *places)
        self._structure, self.at = structure, ctypes.addressof(words)
        self.found = Found.from_buffer(words, 8 * FOUND)
