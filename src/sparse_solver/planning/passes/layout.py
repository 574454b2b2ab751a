"""What compiled calls read of a system: a row of words.

First n, and how many nonzeros and pairs of them there are; then the addresses of indptr, cols, the
places of the diagonal, both nonzeros of each pair, values and diagonal; and room for five numbers that
`prepare` finds out.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

__all__ = [
    "AT", "COLS", "DIAGONAL", "FOUND", "INDPTR", "LENGTH", "MIRROR", "NNZ", "PAIRS",
    "UPPER", "VALUES", "N", "row",
]  # fmt: skip

N, NNZ, PAIRS, INDPTR, COLS, AT, UPPER, MIRROR, VALUES, DIAGONAL, FOUND = range(11)
LENGTH = FOUND + 5
_Row, _Found = ctypes.c_int64 * LENGTH, ctypes.c_double * 5


def row(n: int, structure: tuple[np.ndarray, ...], numbers: tuple[np.ndarray, ...]) -> Any:
    """The row for these arrays, in the order of the places.

    Returns
    -------
    ctypes array
        With its address `at`, its room `found`, and `structure` held; `numbers` must be held elsewhere.
    """
    arrays = (*structure, *numbers)
    made: Any = _Row(n, len(structure[1]), len(structure[-1]), *(a.ctypes.data for a in arrays))
    made.held, made.at = structure, ctypes.addressof(made)
    made.found = _Found.from_address(made.at + 8 * FOUND)
    return made
