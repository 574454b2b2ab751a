"""The compiled language means what Python means, and code on disk is never that of other sources."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("llvmlite")
from sparse_solver.engines.compiler import Floats, Int32s, Numbers, entry, function
from sparse_solver.engines.compiler.native import program
from sparse_solver.engines.compiler.types import INT

EDGE = [-7, -3, -2, -1, 0, 1, 2, 3, 7, 2**30]


@entry
def integers(x: int, y: int, out):
    out[0], out[1], out[2] = x + y, x - y, x * y
    if y != 0:
        out[3], out[4] = x // y, x % y
    out[5], out[6], out[7] = min(x, y, 3), max(x, y), ~x
    out[8], out[9] = -x, x << 3
    out[10] = x >> 2
    out[11] = 1 if x < y else 2 if x == y else 3
    out[12] = (x < y) + (0 <= x < 5) + (x != y and y > 0) + (x == 1 or y == 2 or not x >= y)
    out[13] = x & y | 1
    a, b = x, y
    a, b = b, a
    out[14], out[15] = a, b
    return x * 2


@pytest.mark.parametrize("x", EDGE)
@pytest.mark.parametrize("y", EDGE)
def test_integers(x, y):
    given, wanted = np.zeros(16, np.int64), np.zeros(16, np.int64)
    assert integers(x, y, given) == integers.python(x, y, wanted)
    assert (given == wanted).all(), (given, wanted)


@function
def _first_divisor(n):
    """Ends early, from within a loop."""
    for d in range(2, n):
        if n % d == 0:
            return d
    return n


@entry
def loops(n: int, out):
    count = 0
    for i in range(n):
        if i == 3:
            continue
        if i > 8:
            break
        for j in range(n - 1, -1, -2):
            out[i] += j
        for _ in range(2, n, 3):
            count += 1
    i = n
    while True:
        i -= 1
        if i < 0 or count > 1000000:
            break
        while i % 3 != 0:
            i -= 1
        out[i] += _first_divisor(i + 2)
    out[n] = count
    return count


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12])
def test_loops(n):
    given, wanted = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    assert loops(n, given) == loops.python(n, wanted)
    assert (given == wanted).all()


class _Pair(NamedTuple):
    numbers: object
    factor: object


@function
def _scaled(pair, i):
    return pair.numbers[i] * pair.factor, i + 1


@entry
def numbers(n: int, short: Int32s, x: Numbers, y: Numbers, real: Floats):
    pair = _Pair(x, 2)
    for i in range(n):
        half, after = _scaled(pair, i)
        y[i] = half + x[i] * x[i].conjugate() - 1 / (1 + (x[i] * x[i].conjugate()).real)
        y[i] -= x[after - 1] * 2
        y[i] = y[i] if real[i] > 0.25 else -y[i]
        real[i] = max(real[i], 0.75) / (short[i] + 3)
        short[i] = short[i] + after


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_numbers(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(9)
    x = (x + 1j * rng.standard_normal(9)).astype(dtype) if "complex" in dtype else x.astype(dtype)
    found = []
    for run in (numbers.of(np.dtype(dtype)), numbers.python):
        y, real, short = np.zeros_like(x), np.linspace(0, 1, 9), np.arange(9, dtype=np.int32) - 2
        run(9, short, x, y, real)
        found.append((y, real, short))
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=8 * np.finfo(x.dtype).eps)


def test_single_precision_stays_single():
    made = program(__name__, np.dtype("float32"))
    (scaled,) = (f for g, _ in made.instances if g is _scaled for f in [made.instances[g, _][0]])
    assert "double" not in str(scaled).replace("double %", "")


def test_arguments_are_checked():
    out = np.zeros(16, np.int64)
    with pytest.raises(TypeError, match="takes 3 arguments, not 2"):
        integers(1, out)
    with pytest.raises(TypeError, match="int64, not float64"):
        integers(1, 2, np.zeros(16))
    with pytest.raises(TypeError, match="contiguous"):
        integers(1, 2, np.zeros(32, np.int64)[::2])
    with pytest.raises(TypeError, match="depends on the element type"):
        numbers(1, out, out, out, out)
    out.flags.writeable = False
    loops(0, np.zeros(1, np.int64))


def _unknown(x):
    return nowhere + x  # noqa: F821


def _two_types(x):
    y = x
    y = 0.5
    return y


def _itself(x):
    return _calls_itself(x)


_calls_itself = function(_itself)


def _sometimes(x):
    if x > 0:
        return x


def _sliced(x):
    return x[1:]


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (_unknown, "nowhere is not known"),
        (_two_types, "float64 is not int64"),
        (_sometimes, "may end without the result"),
        (_sliced, "Slice"),
    ],
)
def test_mistakes_are_told_with_their_line(mistake, said):
    from sparse_solver.engines.compiler.translate import Program

    with pytest.raises(TypeError, match=said) as caught:
        Program("test").instance(function(mistake), (INT,))
    assert mistake.__name__ in str(caught.value)
    with pytest.raises(TypeError, match="calls itself"):
        Program("test").instance(_calls_itself, (INT,))


def test_each_function_of_the_engine_is_compiled_once():
    """For each element type; another would be compiled for nothing."""
    package = "sparse_solver.engines.multifrontal"
    integer = "minimum_fill", "twins", "separation", "tree", "supernodes", "schedule"
    for name in (*integer, "kernels", "substitution", "inversion", "factor", "solve", "selected"):
        importlib.import_module(f"{package}.{name}")
        for dtype in [None] if name in integer else ["float64", "complex64"]:
            made = program(f"{package}.{name}", None if dtype is None else np.dtype(dtype))
            functions = [f for f, _ in made.instances]
            assert functions, name
            twice = {f.__name__ for f in functions if functions.count(f) > 1}
            assert twice <= {"_search"}, (name, twice)  # in integers of 32 and of 64 bits


@pytest.mark.slow
def test_code_on_disk_is_that_of_these_sources(tmp_path):
    """Another source, a damaged file, no place to write: the right answer each time."""
    source = (
        "from sparse_solver.engines.compiler import entry\n@entry\ndef f(n: int):\n    return n + {}\n"
    )
    file, cache = tmp_path / "somewhere.py", tmp_path / "cache"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])

    def run() -> str:
        command = [sys.executable, "-c", "import somewhere; print(somewhere.f(1))"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kept():
        return sorted(cache.rglob("*.o"))

    file.write_text(source.format(1))
    assert run() == "2"
    (first,) = kept()
    assert run() == "2"
    assert kept() == [first]
    file.write_text(source.format(2))
    assert run() == "3"
    (second,) = kept()
    assert second != first
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])
    assert run() == "3"
    assert second.read_bytes() == whole
    environment["NUMBA_CACHE_DIR"] = str(file / "no folder")
    assert run() == "3"
