"""torch's threads at work for this library: who may have them, errors, Ctrl-C and fork."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from side_by_side import side_by_side

from sparse_solver.matrix import openmp
from sparse_solver.matrix.openmp import on_torchs_threads
from sparse_solver.matrix.threads import by_parts, dot

needs_a_team = pytest.mark.skipif(openmp._openmp() is None, reason="torch's OpenMP is not at hand")


@pytest.fixture
def two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class _Both:
    """Work that ends when two threads have come."""

    def __init__(self) -> None:
        self.idents: list[int] = []
        self.meeting = threading.Barrier(2)

    def __call__(self) -> None:
        self.idents.append(threading.get_ident())
        self.meeting.wait(20)


@needs_a_team
def test_this_thread_and_another_work_at_once(two):
    work = _Both()
    assert on_torchs_threads(work, 2)
    assert len(set(work.idents)) == 2 and threading.get_ident() in work.idents


@needs_a_team
def test_an_error_is_raised_after_all_have_ended(two):
    ended, meeting = [], threading.Barrier(2)

    def work():
        here = threading.get_ident() == threading.main_thread().ident
        meeting.wait(20)
        if not here:
            raise KeyError("of another thread")
        ended.append(True)

    with pytest.raises(KeyError, match="another"):
        on_torchs_threads(work, 2)
    assert ended


@needs_a_team
def test_work_that_asks_for_threads_itself_gets_on(two):
    """A finaliser that solves may run anywhere."""
    done = []
    assert on_torchs_threads(lambda: done.append(on_torchs_threads(lambda: None, 2)), 2)
    assert True in done


def test_others_than_the_main_thread_have_no_team(two):
    assert side_by_side(lambda _: on_torchs_threads(lambda: None, 2)) == [False]


def test_a_team_of_another_size_is_left_alone(two):
    done = []
    assert not on_torchs_threads(lambda: done.append(1), 3)
    assert not done


@pytest.mark.parametrize("reachable", [True, False])
def test_parts_are_done_once_each(two, reachable, monkeypatch):
    if not reachable:
        monkeypatch.setattr(openmp, "_openmp", lambda: None)
    for n in (2, 3, 101):
        found = by_parts(n, 10**6, lambda start, stop: list(range(start, stop)))
        assert sorted(sum(found, [])) == list(range(n))


@pytest.mark.parametrize("reachable", [True, False])
def test_an_error_in_a_part_is_raised_after_all_have_ended(two, reachable, monkeypatch):
    if not reachable:
        monkeypatch.setattr(openmp, "_openmp", lambda: None)
    ended, meeting = [], threading.Barrier(2)

    def part(start, stop):
        meeting.wait(20)
        if start:
            raise KeyError("of the second part")
        ended.append(True)

    with pytest.raises(KeyError, match="second"):
        by_parts(2, 10**6, part)
    assert ended


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("n", [0, 1, 70_000, 200_001])
def test_products_are_those_of_exact_sums(n, dtype):
    x, y = (np.random.default_rng(k).standard_normal(n).astype(dtype) for k in (1, 2))
    if np.dtype(dtype).kind == "c":
        x = x + 1j * y[::-1]
    exact = complex(np.sum(x.astype(np.clongdouble) * y))
    assert abs(dot(x, y) - exact) <= 1e3 * np.finfo(dtype).eps * max(1.0, np.abs(x * y).sum())


@needs_a_team
def test_8_children_can_use_torch_after_the_first_parent_lent_the_team():
    """GNU's OpenMP has threads in a child that only its parent has, and waits for them forever."""
    text = """
        import os, signal, threading, torch
        from sparse_solver.matrix.openmp import on_torchs_threads
        torch.set_num_threads(2)
        a = torch.ones(10**6)
        for _ in range(3):
            b, meeting = a + a, threading.Barrier(2)
            assert on_torchs_threads(lambda: meeting.wait(20), 2)
            child = os.fork()
            if not child:
                signal.alarm(20)
                assert torch.get_num_threads() == 2
                assert not on_torchs_threads(print, 2)
                right = (a + a).sum() == 2e6
                child = os.fork()
                if not child:
                    signal.alarm(20)
                    os._exit(0 if (a + a).sum() == 2e6 else 1)
                os._exit(0 if right and os.waitpid(child, 0)[1] == 0 else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert torch.get_num_threads() == 2
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "fine" in done.stdout
