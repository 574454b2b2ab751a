"""What is compiled on this machine? Answered without importing the compiler.

Compiled code is kept on disk, beside the source or in the user's cache. An empty file of ours,
named after everything that would make it compile again, says that all of it is there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["forget_other_versions", "is_stamped", "places", "stamp"]


@lru_cache
def places() -> tuple[Path, ...]:
    """Where compiled code may be kept; the first that can be written to is taken."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return (Path(given),)
    here = Path(__file__).parent / "__pycache__"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody's home
        return (here,)
    return here, cache / "sparse_solver"


@lru_cache
def _key(sources: tuple[Path, ...]) -> str:
    """What the files say, not when they were written: installers give all versions the same time."""
    try:
        facts = [version("numba"), version("llvmlite")]
    except PackageNotFoundError:
        facts = []
    facts += [sys.version, platform.machine(), platform.processor(), str(Path(__file__).parent)]
    digest = hashlib.sha1(" ".join(facts).encode())
    for file in sources:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def is_stamped(what: str, sources: Iterable[Path]) -> bool:
    """Whether `what`, compiled from these files, is on disk; "*" stands for anything."""
    name = f"compiled-{what}-{_key(tuple(sources))}"
    return any(True for place in places() for _ in place.glob(name))


def stamp(what: str, sources: Iterable[Path]) -> None:
    """Say that it is, if there is a place to say it."""
    for place in places():
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / f"compiled-{what}-{_key(tuple(sources))}").touch()
            return
        except OSError:
            continue


def forget_other_versions(cache: str | Path) -> None:
    """Delete what numba kept in this folder of other versions of the package: it looks at the file of
    a function alone, and would go on using code that was inlined from another file as it was.
    """
    for file in Path(cache).glob("*.nb?"):
        file.unlink(missing_ok=True)
