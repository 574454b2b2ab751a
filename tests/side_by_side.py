"""Work on several threads at once, all of which must end."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["side_by_side"]


def side_by_side(work: Callable[[int], object], count: int = 1, seconds: float = 60) -> list:
    """What ``work(0) ... work(count - 1)`` return, each on a thread of its own; the first error of them
    is raised, and a thread that does not end is one.
    """
    found: dict[int, object] = {}
    errors: list[BaseException] = []

    def one(k: int) -> None:
        try:
            found[k] = work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(k,), daemon=True) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), f"still at work after {seconds} s"
    return [found[k] for k in range(count)]
