"""How everything here is compiled: without the GIL, kept on disk, as the machine's own arithmetic."""

from __future__ import annotations

from typing import Any

__all__ = ["INNER", "KERNEL", "OUTER"]

OUTER: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}
INNER = {**OUTER, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # called by compiled code only
KERNEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "fastmath": {"contract"}}
