"""The order of the work in a solve: which part of a sweep waits for which."""

from __future__ import annotations

import numpy as np

from .schedule import Tasks

__all__ = ["ASSEMBLE", "BACK", "CHUNK", "DIAGONAL", "SUBTREE", "UPDATE", "solve_tasks"]

CHUNK = 512  # rows of a task; a multiple of every width of blocks
SUBTREE, ASSEMBLE, DIAGONAL, UPDATE = range(4)
BACK = 4  # added to the kind of what belongs to the sweep back


def solve_tasks(
    bounds: np.ndarray,
    width: np.ndarray,
    below: np.ndarray,
    up: np.ndarray,
    block: np.ndarray,
    forwards: bool = True,
    backwards: bool = True,
) -> Tasks:
    """Both sweeps, or one; a front's way back begins when its own way there is done."""
    tasks = Tasks()
    done = _forwards(tasks, bounds, width, below, up, block) if forwards else {}
    if backwards:
        _backwards(tasks, bounds, width, below, up, block, done)
    return tasks


def _parents(bounds: np.ndarray, up: np.ndarray, t: int) -> list[int]:
    """Fronts above all subtrees that have children in subtree task t."""
    above = up[bounds[t] : bounds[t + 1]]
    return np.unique(above[above >= bounds[-1]]).tolist()


def _pieces(m: int, c1: int) -> range:
    """Pieces of CHUNK rows, counted from a front's first, with rows from c1 on."""
    return range(c1 // CHUNK, -(-m // CHUNK)) if c1 < m else range(0)


def _forwards(
    tasks: Tasks,
    bounds: np.ndarray,
    width: np.ndarray,
    below: np.ndarray,
    up: np.ndarray,
    block: np.ndarray,
) -> dict[int, int]:
    """Subtrees; then each front above them: what its children add, and its block columns, one after
    the other on every piece of rows. Returns the last task on the columns of front s, and that of
    subtree task t by ~t.
    """
    top = int(bounds[-1])
    done: dict[int, int] = {}
    before: dict[int, list[int]] = {}
    for t in range(len(bounds) - 1):
        done[~t] = tasks.add(SUBTREE, t)
        for s in _parents(bounds, up, t):
            before.setdefault(s, []).append(done[~t])
    for s in range(top, len(width)):
        w, b = int(width[s]), int(block[s])
        m = w + int(below[s])
        latest = tasks.add(ASSEMBLE, s, needs=tuple(before.get(s, ())))
        last: dict[int, int] = {}  # on each piece
        for j in range(-(-w // b)):
            latest = tasks.add(DIAGONAL, s, j, needs=(last.get(j * b // CHUNK, latest),))
            for q in _pieces(m, min((j + 1) * b, w)):
                needs = (latest, last[q]) if q in last else (latest,)
                last[q] = tasks.add(UPDATE, s, j, q, needs)
        done[s] = latest
        before.setdefault(int(up[s]), []).extend((latest, *last.values()))
    return done


def _backwards(
    tasks: Tasks,
    bounds: np.ndarray,
    width: np.ndarray,
    below: np.ndarray,
    up: np.ndarray,
    block: np.ndarray,
    done: dict[int, int],
) -> None:
    """The same in the opposite order; a block column takes from the pieces in turn, the last first."""
    top = int(bounds[-1])
    solved: dict[int, int] = {}  # the last task of each front
    for s in range(len(width) - 1, top - 1, -1):
        w, b = int(width[s]), int(block[s])
        m = w + int(below[s])
        needs = (*_known(done, s), *_known(solved, int(up[s])))
        ready = tasks.add(BACK + ASSEMBLE, s, needs=needs)
        diagonal: dict[int, int] = {}
        for j in range(-(-w // b) - 1, -1, -1):
            latest, c1 = ready, min((j + 1) * b, w)
            for q in reversed(_pieces(m, c1)):
                first = max(c1, q * CHUNK)
                needs = (latest, diagonal[first // b]) if first < w else (latest,)
                latest = tasks.add(BACK + UPDATE, s, j, q, needs)
            diagonal[j] = tasks.add(BACK + DIAGONAL, s, j, needs=(latest,))
        solved[s] = diagonal[0]
    for t in range(len(bounds) - 1):
        needs = (*_known(done, ~t), *(solved[s] for s in _parents(bounds, up, t)))
        tasks.add(BACK + SUBTREE, t, needs=needs)


def _known(tasks: dict[int, int], key: int) -> tuple[int, ...]:
    return (tasks[key],) if key in tasks else ()
