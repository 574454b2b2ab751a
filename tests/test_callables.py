"""Compiled functions as builtins: every number arrives, and what is no number is refused."""

from __future__ import annotations

import ctypes
import gc
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from side_by_side import side_by_side

pytest.importorskip("llvmlite")
from sparse_solver.engines.compiler import callable_at, callables

COUNT = 7
WORDS = st.integers(-(2**63), 2**63 - 1)
_seen: list[tuple[int, ...]] = []
_word = ctypes.c_int64


@ctypes.CFUNCTYPE(_word, *[_word] * COUNT)
def _note(*args):
    _seen.append(args)
    return args[0]


@ctypes.CFUNCTYPE(ctypes.c_double, _word)
def _half(k):
    return k / 2


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


note, half = callable_at(address(_note), COUNT), callable_at(address(_half), 1, float)


@given(st.lists(WORDS, min_size=COUNT, max_size=COUNT))
def test_all_words_arrive_and_one_comes_back(words):
    _seen.clear()
    assert note(*words) == words[0]
    assert _seen == [tuple(words)]


def test_doubles_come_back():
    assert [half(k) for k in (3, -1, 0)] == [1.5, -0.5, 0.0]


def test_without_arguments():
    nothing = ctypes.CFUNCTYPE(_word)(lambda: 5)
    assert callable_at(address(nothing), 0)() == 5


@pytest.mark.parametrize("bad", ["1", 1.0, None, 2**63, -(2**63) - 1])
@pytest.mark.parametrize("place", [0, 3, COUNT - 1])
def test_what_is_no_word_is_refused_before_the_call(bad, place):
    _seen.clear()
    words = [-1] * COUNT  # what an error looks like, too
    words[place] = bad
    with pytest.raises((TypeError, OverflowError)):
        note(*words)
    assert not _seen
    assert note(*[-1] * COUNT) == -1  # and no error is left behind


@pytest.mark.parametrize("count", [0, 1, COUNT - 1, COUNT + 1])
def test_the_number_of_arguments_is_checked(count):
    with pytest.raises(TypeError):
        note(*[1] * count)


def test_threads_that_come_first_at_once():
    callables._method.cache_clear()
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return callable_at(address(_note), COUNT)

    made = side_by_side(work, 4)
    gc.collect()
    assert [f(*range(k, k + COUNT)) for k, f in enumerate(made)] == [0, 1, 2, 3]


@pytest.mark.skipif(hasattr(ctypes, "windll"), reason="poll is a function of Unix")
def test_other_threads_go_on_meanwhile():
    sleep, begun, found = callable_at(address(ctypes.CDLL(None).poll), 3), threading.Event(), []

    def work():
        begun.set()
        found.append(sleep(0, 0, 2000))  # ms

    other = threading.Thread(target=work)
    other.start()
    begun.wait()
    time.sleep(0.01)
    assert not found  # with the GIL held, this would be asked two seconds later
    other.join()
    assert found == [0]
