"""Where the time of one step goes: user code, this library, the engine.

The engine's part is what its `analyze`, `factorize`, `solve` and `solve_at` take, seen through
wrappers. The user's part is the expression that makes the values, the loss, and their backward, cut out
by hooks on x and on what is assembled. All the rest is the library's own, `Pattern.assemble` among it.
There is no hook on A.values: a gradient that is watched is made in another way than one that is not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import harness
from problems import GridProblem

ENGINE_CALLS = ("analyze", "factorize", "solve", "solve_at")
PARTS = ("user", "library", "engine")
SHARE = 0.15  # of a step at most, for n >= LARGE
LARGE = 10_000
FIXED = 50e-6  # s at most, forward and backward each, for n = SMALL
SMALL = 9


class EngineClock:
    """Seconds spent inside the engines; a call made by another engine call counts once. What the clock
    itself takes around them, which caches full of an engine's numbers make long, is neither theirs nor
    the library's.
    """

    def __init__(self) -> None:
        self.seconds = self.own = 0.0
        self._inside = False

    def read(self) -> tuple[float, float]:
        """(seconds, the clock's own), and begin anew."""
        found = self.seconds, self.own
        self.seconds = self.own = 0.0
        return found

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added up here."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            called = time.perf_counter()
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                stop = time.perf_counter()
                self._inside = False
                self.seconds += stop - start
                self.own += start - called + time.perf_counter() - stop

        return timed


@contextlib.contextmanager
def watched_engines() -> Iterator[EngineClock]:
    """Let a clock run while any engine class of the library works."""
    clock = EngineClock()
    patched = []
    for cls in _engine_classes():
        for name in ENGINE_CALLS:
            if inspect.isfunction(vars(cls).get(name)):
                patched.append((cls, name, vars(cls)[name]))
                setattr(cls, name, clock.wrap(vars(cls)[name]))
    try:
        yield clock
    finally:
        for cls, name, function in patched:
            setattr(cls, name, function)


def _engine_classes() -> set[type]:
    package = importlib.import_module("sparse_solver.engines")
    classes = set()
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        members = vars(importlib.import_module(module.name)).values()
        classes |= {c for c in members if inspect.isclass(c) and c.__module__ == module.name}
    return classes


def measure(problem: GridProblem, budget: float) -> dict[str, Any]:
    """Split the fastest quarter of the steps made in about `budget` seconds."""
    import sparse_solver as ss

    P = ss.Pattern(problem.rows, problem.cols, (problem.n, problem.n))
    samples = []
    with watched_engines() as clock:
        one_step(problem, P, clock)
        end = time.perf_counter() + budget
        while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 2000):
            samples.append(one_step(problem, P, clock))
    samples.sort(key=_total)
    fastest = samples[: max(1, len(samples) // 4)]
    split = {key: sum(s[key] for s in fastest) / len(fastest) for key in fastest[0]}
    return {"n": problem.n, "steps": len(samples), **split}


def _total(split: Mapping[str, float]) -> float:
    return sum(split[f"{part} {way}"] for part in PARTS for way in ("forward", "backward"))


def one_step(problem: GridProblem, P: Any, clock: EngineClock) -> dict[str, float]:
    """Return the seconds of each part of one step."""
    import sparse_solver as ss

    now = time.perf_counter
    mark = {}

    def at(name: str) -> Callable[[Any], None]:
        def note(_: Any) -> None:
            mark[name] = now()

        return note

    w = problem.weights()
    clock.read()
    start = now()
    values = problem.values(w)
    made = now()
    A = P.assemble(values)
    assembled = now()
    x = ss.solve(A, problem.b)
    solved = now()
    loss = x.square().sum()
    lost = now()
    engine_forward, clock_forward = clock.read()
    x.register_hook(at("x"))
    values.register_hook(at("values"))
    begun = now()
    loss.backward()
    end = now()
    engine_backward, clock_backward = clock.read()
    return {
        "user forward": (made - start) + (lost - solved),
        "assemble forward": assembled - made,
        "library forward": (solved - made) - engine_forward - clock_forward,
        "engine forward": engine_forward,
        "user backward": (mark["x"] - begun) + (end - mark["values"]),
        "library backward": (mark["values"] - mark["x"]) - engine_backward - clock_backward,
        "engine backward": engine_backward,
    }


def report(splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one line for each direction of each problem; "assemble" is a part of the library's."""
    if not splits:
        return
    rows = []
    for name, split in splits.items():
        step = _total(split)
        library = split["library forward"] + split["library backward"]
        for way in ("forward", "backward"):
            parts = [harness.seconds(split[f"{part} {way}"]) for part in PARTS]
            parts.append(harness.seconds(split["assemble forward"]) if way == "forward" else "-")
            target = "-"
            if split["n"] == SMALL:
                target = _microseconds_verdict(split[f"library {way}"])
            elif split["n"] >= LARGE and way == "backward":
                target = harness.verdict(100 * library / step, at_most=100 * SHARE)
            share = f"{100 * library / step:.1f} %" if way == "backward" else ""
            rows.append([f"{name} {way}", *parts, share, target])
    head = ["problem", *PARTS, "(assemble)", "library's share of the step", "target"]
    print("\n" + harness.table(head, rows))


def _microseconds_verdict(t: float) -> str:
    return harness.verdict(t / 1e-6, at_most=FIXED / 1e-6) + " us"
