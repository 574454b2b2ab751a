"""Every available engine x every case x every dtype, as one decorator."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, DTYPES, Case

import sparse_solver as ss
from sparse_solver.engines import REGISTRY


def available_engines() -> list[str]:
    return [row.name for row in ss.engines() if row.available]


ENGINES = available_engines()

each_engine = pytest.mark.parametrize("engine", ENGINES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).split(".")[1])
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def each_engine_case_dtype(test):
    return each_engine(each_case(each_dtype(test)))


def system(case: Case, dtype: torch.dtype, k: int | None = None):
    """The library's A, the dense truth and a right-hand side."""
    rows, cols, values, n = case.triplets(dtype)
    A = ss.Pattern(rows, cols, (n, n)).assemble(values)
    shape = (n,) if k is None else (n, k)
    return A, case.dense(dtype), torch.randn(shape, dtype=dtype)


__all__ = [
    "ENGINES",
    "REGISTRY",
    "each_case",
    "each_dtype",
    "each_engine",
    "each_engine_case_dtype",
    "system",
]
