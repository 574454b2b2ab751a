"""`engines()`: who could solve here, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass

from ..engines import REGISTRY

__all__ = ["EngineTable", "EngineEntry", "engines"]


@dataclass(frozen=True)
class EngineEntry:
    """One engine: its name, whether it can be used here and if not why, and what it can do.

    `kinds` are those of matrices: "general", "symmetric", "hermitian", "spd".
    """

    name: str
    available: bool
    why_not: str | None
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]
    kinds: tuple[str, ...]
    paths: dict[str, str]


class EngineTable(tuple[EngineEntry, ...]):
    """The engines in order of preference; prints as a table."""

    def __repr__(self) -> str:
        lines = [f"{'engine':<14}{'available':<11}{'devices':<9}{'matrices':<16}paths"]
        for e in self:
            lines.append(f"{e.name:<14}{'yes' if e.available else 'no':<11}{','.join(e.devices):<9}")
            lines[-1] += f"{'any' if 'general' in e.kinds else ', '.join(e.kinds):<16}"
            lines[-1] += e.why_not or "; ".join(f"{k}: {v}" for k, v in e.paths.items())
        return "\n".join(lines)


def engines() -> EngineTable:
    """The table of engines: name, available or why not, data types, devices, kinds of matrices, paths.

    Examples
    --------
    >>> import sparse_solver as ss
    >>> [e.name for e in ss.engines()]
    ['simplicial', 'multifrontal', 'rslab', 'superlu', 'cudss', 'cholespy']
    """
    return EngineTable(
        EngineEntry(name, e.why_not() is None, e.why_not(), e.dtypes, e.devices, e.kinds, dict(e.paths))
        for name, e in REGISTRY.items()
    )
