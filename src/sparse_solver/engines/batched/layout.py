"""Numbers that the compiled kernels and their callers agree on."""

from typing import Any

WIDTH = 8  # matrices in a block, one per SIMD lane
DOMINANT, UNSYMMETRIC, INDEFINITE, BAD = 1, 2, 4, 8  # verdicts on an item, summed
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
}
