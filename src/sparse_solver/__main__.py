"""``python -m sparse_solver warmup``: compile what would otherwise be compiled when first needed."""

from __future__ import annotations

import argparse

from .engines import REGISTRY, batched, simplicial
from .engines.multifrontal import ready
from .planning import passes


def main() -> None:
    """Read the command line and do as it says."""
    parser = argparse.ArgumentParser(prog="python -m sparse_solver", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    warmup = commands.add_parser(
        "warmup",
        help="compile the multifrontal and simplicial engines, the kernels of batches and the passes",
    )
    dtypes = REGISTRY["multifrontal"].dtypes
    warmup.add_argument("dtypes", nargs="*", default=["float64"], help=f"of {', '.join(dtypes)}")
    commands.add_parser("engines", help="list the engines and what keeps any from being used")
    given = parser.parse_args()
    if given.command == "engines":
        from .linalg import engines

        print(engines())
        return
    why_not = REGISTRY["multifrontal"].why_not()
    if why_not is not None:
        parser.exit(1, f"the multifrontal engine can't be used: {why_not}\n")
    for dtype in given.dtypes:
        if dtype not in dtypes:
            parser.error(f"unknown element type {dtype!r}; expected some of {', '.join(dtypes)}")
        before = ready.state(dtype)
        print(f"{dtype}: {before}, ready after {ready.warm_up(dtype):.1f} s")
        before = batched.state(dtype)
        batched.warm_up(dtype)
        print(f"{dtype}, batches: {before}, ready")
        before = simplicial.state(dtype)
        if dtype in REGISTRY["simplicial"].dtypes:
            simplicial.warm_up(dtype)
            print(f"{dtype}, small definite matrices: {before}, ready")
        before = passes.state(dtype)
        passes.warm_up(dtype)
        print(f"{dtype}, passes: {before}, ready")


if __name__ == "__main__":
    main()
