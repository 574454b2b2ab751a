"""Every available engine x every case it factors x every dtype, as one decorator."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, CASES, DTYPES, Case

import sparse_solver as ss
from sparse_solver.engines import REGISTRY


def available_engines() -> list[str]:
    return [row.name for row in ss.engines() if row.available and "cpu" in row.devices]


ENGINES = available_engines()
GENERAL = [name for name in ENGINES if "general" in REGISTRY[name].kinds]  # for any square matrix

each_engine = pytest.mark.parametrize("engine", GENERAL)
each_engine_for_definite = pytest.mark.parametrize("engine", ENGINES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).split(".")[1])
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def factors(engine: str, dtype: torch.dtype) -> bool:
    """Whether the engine knows this element type."""
    return str(dtype).split(".")[1] in REGISTRY[engine].dtypes


def widest(engine: str) -> torch.dtype:
    """complex128, or float64 for an engine of real matrices."""
    return torch.complex128 if factors(engine, torch.complex128) else torch.float64


def _rows(single=()):
    """An engine that does not factor every square matrix is asked for the definite ones."""
    for engine in ENGINES:
        for case in CASES:
            for dtype in DTYPES:
                if not factors(engine, dtype):
                    continue
                if engine in GENERAL or "spd" in case.words(dtype):
                    name = f"{str(dtype).split('.')[1]}-{case.name}-{engine}"
                    marks = single if dtype in (torch.float32, torch.complex64) else ()
                    yield pytest.param(engine, case, dtype, id=name, marks=marks)


each_engine_case_dtype = pytest.mark.parametrize(("engine", "case", "dtype"), list(_rows()))
# Laws of reuse, views and order: single precision goes the same way with another number of bytes.
each_engine_case_double = pytest.mark.parametrize(
    ("engine", "case", "dtype"), list(_rows(single=pytest.mark.slow))
)


def some_case(engine: str) -> Case:
    """The most general matrix of the table that this engine factors."""
    return BY_NAME["general" if engine in GENERAL else "spd_grid"]


def words(engine: str, case: Case, dtype: torch.dtype) -> tuple[str, ...]:
    """What may be assumed of the matrix with this engine."""
    return tuple(w for w in case.words(dtype) if engine in GENERAL or w != "general")


def system(case: Case, dtype: torch.dtype, k: int | None = None):
    """The library's A, the dense truth and a right-hand side."""
    rows, cols, values, n = case.triplets(dtype)
    A = ss.Pattern(rows, cols, (n, n)).assemble(values)
    shape = (n,) if k is None else (n, k)
    return A, case.dense(dtype), torch.randn(shape, dtype=dtype)


__all__ = [
    "ENGINES",
    "GENERAL",
    "REGISTRY",
    "each_case",
    "each_dtype",
    "each_engine",
    "each_engine_case_double",
    "each_engine_case_dtype",
    "each_engine_for_definite",
    "factors",
    "some_case",
    "system",
    "widest",
    "words",
]
