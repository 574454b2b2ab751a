"""`Direct`: what to do, said once, hashable, comparable."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ..engines import REGISTRY

__all__ = ["ASSUMPTIONS", "Direct", "decode"]

ASSUMPTIONS = ("auto", "general", "symmetric", "hermitian", "spd")


@dataclass(frozen=True)
class Direct:
    """Solve by factorisation.

    Parameters
    ----------
    engine : str, default "auto"
        A name from `sparse_solver.engines()`, or "auto" for the one that suits matrix and machine.
    check : bool, default True
        Judge every solution by its backward error and every factor by its conditioning; refine,
        factor anew or change engine where needed, and raise rather than return a wrong answer.
    reuse : bool, default True
        Keep the plan and the latest factor, and use them again for equal structure and values.
    threads : int, optional
        Threads for the engine; `torch.get_num_threads()` if not given.

    Examples
    --------
    >>> import sparse_solver as ss
    >>> ss.Direct(engine="superlu")
    Direct(engine='superlu', check=True, reuse=True, threads=None)
    """

    engine: str = "auto"
    check: bool = True
    reuse: bool = True
    threads: int | None = None
    key: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self) -> None:
        if self.engine != "auto" and self.engine not in REGISTRY:
            names = ", ".join(map(repr, ("auto", *REGISTRY)))
            raise ValueError(f"engine={self.engine!r} is unknown; expected one of {names}")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise ValueError(f"threads must be a positive integer or None, got {self.threads!r}")
        key = f"|{self.engine}|{self.check:d}|{self.reuse:d}|{self.threads or ''}"
        object.__setattr__(self, "key", key)


@lru_cache(maxsize=256)
def decode(how: str) -> tuple[str, Direct]:
    """(assume, method) from ``assume + method.key``, the form that crosses compiled graphs."""
    assume, engine, check, reuse, threads = how.split("|")
    return assume, Direct(engine, check == "1", reuse == "1", int(threads) if threads else None)
