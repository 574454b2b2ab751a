"""Who factors a batch, decided by size alone; and nothing compiled or imported before it pays."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

import sparse_solver as ss
from sparse_solver.engines import stamps
from sparse_solver.engines.batched import ready
from sparse_solver.matrix.threads import share
from sparse_solver.planning.batch_choice import batch_choice, loop_seconds


@pytest.mark.parametrize(
    ("lanes", "word", "arguments"),
    [
        (True, "side by side", {}),
        (False, "too few", {"items": 3}),
        (False, "'rslab'", {"engine": "rslab"}),
        (False, "dense blocks", {"n": 50_000}),
        (False, "dense blocks", {"flops": 1e9}),
        (True, "side by side", {"flops": 1e6}),
        (False, "numba", {"state": "missing"}),
        (False, "compiler", {"state": "cold", "spent": 1.0}),
        (True, "side by side", {"state": "cold", "spent": 100.0}),
        (False, "compiler", {"state": "on disk", "spent": 0.01}),
        (True, "side by side", {"state": "on disk", "spent": 1.0}),
    ],
    ids=str,
)
def test_choices_and_their_reasons(lanes, word, arguments):
    facts = {"items": 100, "n": 50, "engine": "auto", **arguments}
    choice = batch_choice(facts.pop("items"), facts.pop("n"), facts.pop("engine"), **facts)
    assert choice.lanes == lanes
    assert word in choice.reason


def test_loops_take_longer_for_more_and_for_larger():
    assert loop_seconds(10, 100) > loop_seconds(5, 100) > loop_seconds(5, 10)


def test_without_numba_engines_serve_batches(monkeypatch):
    from sparse_solver.planning import batch_choice as module

    monkeypatch.setattr(module, "_COMPILE", 0.0)
    monkeypatch.setattr(module, "_LOAD", 0.0)
    monkeypatch.setattr(ready, "load_kernels", lambda: None)
    monkeypatch.setattr(ready, "_compiled", set())
    A = ss.SparseMatrix(ss.Pattern([0, 1], [0, 1], (2, 2)), torch.ones(8, 2))
    F = ss.factorize(A)
    assert "numba" in F.info.reason
    assert F.solve(torch.ones(2)).eq(1).all()


@pytest.mark.slow
def test_readiness_is_remembered_on_disk(monkeypatch, tmp_path, lanes):
    monkeypatch.setattr(stamps, "places", lambda: (tmp_path / "new",))
    monkeypatch.setattr(ready, "forget_other_versions", lambda _: None)
    monkeypatch.setattr(ready, "_on_disk", lru_cache(ready._on_disk.__wrapped__))
    monkeypatch.setattr(ready, "_compiled", set())
    assert ready.state("float64") == "cold"
    assert ready.warm_up("float64")
    assert ready.state("float64") == "compiled"
    monkeypatch.setattr(ready, "_compiled", set())
    assert ready.state("float64") == "on disk"
    assert ready.state("complex64") == "cold"


def test_info_of_a_batch_by_engines():
    A = ss.SparseMatrix(ss.Pattern([0, 1], [0, 1], (2, 2)), torch.ones(3, 2))
    assert "3 items" in ss.factorize(A).info.reason
    assert "asked for" in ss.factorize(A, method=ss.Direct(engine="superlu")).info.reason


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_work_is_shared_once_each(threads):
    done = []
    share(done.append, 20, threads)
    assert sorted(done) == list(range(20))
    share(done.append, 0, threads)

    def fails(k: int) -> None:
        if k == 3:
            raise KeyError(k)

    with pytest.raises(KeyError):
        share(fails, 20, threads)


def test_large_items_by_engines_over_threads():
    torch.set_num_threads(2)
    try:
        n, items = 2100, 3
        i = torch.arange(n)
        P = ss.Pattern(torch.cat([i, i[1:]]), torch.cat([i, i[:-1]]), (n, n))
        values = torch.cat([2 + torch.rand(items, n), torch.rand(items, n - 1)], 1).double()
        A = P.assemble(values)
        F = ss.factorize(A)
        assert "over 2 threads" in F.info.reason
        b = torch.rand(items, n, dtype=torch.float64)
        assert torch.allclose(A @ F.solve(b), b)
        values[1] = 0
        values[2] = 0
        with pytest.raises(ss.SingularMatrixError, match=r"item 1.*1 more failed: item 2"):
            ss.factorize(P.assemble(values))
    finally:
        torch.set_num_threads(1)
