"""What the library's own engine is to reach, and the tables that tell whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import harness

FACTOR = {f"2d-{side}": 2.7 for side in (100, 300, 500, 700)}  # times as fast as the faster peer
FACTOR |= {"3d-20": 1.4, "3d-30": 1.4, "elasticity-20": 1.4, "3d-40": 1.15, "3d-60": 1.5}
SOLVE = {  # likewise, by the number of right-hand sides
    1: {"2d-500": 1.0, "2d-700": 1.0, "3d-40": 1.0, "3d-60": 1.0},
    16: {"2d-500": 1.0, "2d-700": 1.0, "3d-40": 0.85, "3d-60": 0.85},
}
ANALYSIS = dict.fromkeys(("2d-300", "2d-700", "3d-40", "3d-60"), 1.5)  # times rslab's at most
INVERSE = dict.fromkeys(("2d-500", "3d-40"), 2.2)  # times the own factorisation at most
MEMORY = {"3d-60": 1.25}  # times rslab's at most
COLUMNS = {"2d-500": 30.0}  # 128 columns, times one column at most
COLD, WARM = 9.0, 1.0  # s at most

Row = tuple[str, str, float, float | None, bool]  # what, against what, figure, target, more is better


def rows(results: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """Every figure that has a target, and those ratios that have none."""
    for name, found in results.items():
        times = {section: _best(found.get(section, {})) for section in _SECTIONS}
        yield from _faster(f"factorisation {name}", times["factor"], FACTOR.get(name))
        for columns in (1, 16):
            timed, target = times[f"solve {columns}"], SOLVE[columns].get(name)
            yield from _faster(f"solve {columns} rhs {name}", timed, target)
        yield from _ratio(f"analysis {name}", times["analysis"], "own", "rslab", ANALYSIS.get(name))
        yield from _ratio(f"inverse {name}", times["inverse"], "inverse", "factor", INVERSE.get(name))
        grown = {case: m["growth"] for case, m in found.get("memory", {}).items()}
        small = min((c for c in grown if c.startswith("rslab")), key=grown.__getitem__, default="")
        yield from _ratio(f"memory {name}", grown, "own", small, MEMORY.get(name))
        yield from _ratio(f"128 columns {name}", times["columns"], "128", "1", COLUMNS.get(name))
    start = results.get("start", {})
    for what, target in (("cold", COLD), ("warm", WARM)):
        if what in start:
            yield f"{what} start, seconds", "", start[what], target, False


_SECTIONS = ("factor", "solve 1", "solve 16", "analysis", "inverse", "columns")


def _best(timings: dict[str, Any]) -> dict[str, float]:
    return {name: t["best"] for name, t in timings.items()}


def _faster(what: str, times: dict[str, float], target: float | None) -> Iterator[Row]:
    peers = [name for name in times if not name.startswith("own")]
    if "own" in times and peers:
        peer = min(peers, key=times.__getitem__)
        yield what, peer, times[peer] / times["own"], target, True


def _ratio(
    what: str, found: dict[str, float], above: str, below: str, target: float | None
) -> Iterator[Row]:
    if above in found and found.get(below):
        yield what, below, found[above] / found[below], target, False


def report(results: dict[str, dict[str, Any]]) -> int:
    """Print all figures, then those with a target; return how many of them were missed."""
    by_time: dict[str, Callable[[float], str]] = dict.fromkeys(_SECTIONS, harness.seconds)
    for section, write in by_time.items():
        _print(section, results, lambda t: t["best"], write)
    _print("memory", results, lambda m: m["growth"], lambda size: f"{size / 2**20:.1f} MB")
    _print("factor_bytes", results, lambda size: size, lambda size: f"{size / 2**20:.1f} MB")
    if "start" in results:
        print("\nstart: " + ", ".join(f"{k} {harness.seconds(t)}" for k, t in results["start"].items()))
    lines, missed = [], 0
    for what, against, figure, target, more in rows(results):
        verdict = bound = "-"
        if target is not None:
            met = figure >= target if more else figure <= target
            missed += not met
            verdict, bound = "met" if met else "MISSED", f"[{'>=' if more else '<='} {target:g}]"
        lines.append([what, against, f"{figure:.2f}", bound, verdict])
    if lines:
        print("\n" + harness.table(["figure", "against", "ratio", "target", ""], lines))
    return missed


def _print(
    section: str,
    results: dict[str, dict[str, Any]],
    figure: Callable[[Any], float],
    write: Callable[[float], str],
) -> None:
    found = {name: r[section] for name, r in results.items() if section in r}
    head = list(dict.fromkeys(column for timings in found.values() for column in timings))
    if found:
        cells = [
            [name, *(write(figure(t[c])) if c in t else "-" for c in head)] for name, t in found.items()
        ]
        print("\n" + harness.table([section, *head], cells))
