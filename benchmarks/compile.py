"""How long the multifrontal engine takes to compile: whole, and module by module.

python benchmarks/compile.py [float64 float32 ...] [--json FILE]

The start is measured in processes of their own, once with an empty cache (cold) and then with a full
one (warm). The table tells where the time goes: translation from Python to LLVM's language, LLVM, and
how many functions there are, each compiled once for each combination of types it is called with.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from typing import Any

import apart
import numpy as np

PACKAGE = "sparse_solver.engines.multifrontal"
ANALYSIS = (
    "minimum_fill",
    "twins",
    "separation",
    "tree",
    "supernodes",
    "schedule",
)  # the same for all element types
NUMBERS = "kernels", "substitution", "inversion", "factor", "solve", "selected"


def module(name: str, dtype: str | None) -> dict[str, Any]:
    """Seconds and sizes of one module."""
    from sparse_solver.engines.compiler.native import machine_code, program

    importlib.import_module(f"{PACKAGE}.{name}")
    start = time.perf_counter()
    made = program(f"{PACKAGE}.{name}", None if dtype is None else np.dtype(dtype))
    translated = time.perf_counter()
    code = machine_code(made.module, made.of_numbers)
    done = time.perf_counter()
    functions = {f.__name__ for f, _ in made.instances}
    return {
        "translation": translated - start,
        "llvm": done - translated,
        "functions": len(functions),
        "instances": len(made.instances),
        "bytes": len(code),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dtypes", nargs="*", default=["float64"])
    parser.add_argument("--json", help="write all figures there")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for dtype in given.dtypes:
        results[dtype] = apart.startup(cold=True, runs=3, dtype=dtype)
        print(f"{dtype:11s} cold {results[dtype]['cold']:.2f} s, warm {results[dtype]['warm']:.2f} s")
    print(f"\n{'module':24s} {'translation':>11s} {'LLVM':>8s} {'functions':>9s} {'code':>8s}")
    parts = [(name, None) for name in ANALYSIS]
    for name, dtype in parts + [(name, dtype) for dtype in given.dtypes for name in NUMBERS]:
        found = module(name, dtype)
        label = f"{name} {dtype or ''}".strip()
        results[label] = found
        print(
            f"{label:24s} {found['translation']:9.2f} s {found['llvm']:6.2f} s"
            f" {found['instances']:9d} {found['bytes'] / 1000:5.0f} kB"
        )
    if given.json:
        with open(given.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
