"""Fixtures: a clean cache and fixed seeds for every test, and counts of what the engines did."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from devices import fake, there  # noqa: F401

import sparse_solver as ss

pytest.register_assert_rewrite("reference")


@pytest.hookimpl(tryfirst=True)  # before "-m" selects
def pytest_collection_modifyitems(items):
    """Element types for which some seconds would go into compiling are left to the slow run."""
    for item in items:
        name = item.name
        compiled = "multifrontal" in item.nodeid or "test_batch" in item.nodeid
        if compiled and any(dtype in name for dtype in ("float32", "complex64", "complex128")):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def settled():
    """What is there before a module's tests is no part of their collections: 0.2 s each otherwise."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # the interpreter's last collection is to find what is left


@pytest.fixture(autouse=True)
def clean():
    torch.manual_seed(0)
    ss.clear_cache()
    yield
    ss.clear_cache()


@pytest.fixture(scope="module")
def compiled_passes():
    """Passes over numbers in double precision are compiled, as after much use."""
    from sparse_solver.planning import passes

    assert passes.warm_up("float64")


@pytest.fixture(scope="module")
def lanes():
    """Batches of small systems go to the compiled kernel, however little work they are."""
    from sparse_solver.engines import batched
    from sparse_solver.planning import batch_choice

    if batched.load_kernels() is None:
        pytest.skip("numba can't be used here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_choice, "_COMPILE", 0.0)
        patch.setattr(batch_choice, "_LOAD", 0.0)
        yield


class _Life:
    """Dies with the memory it is tied to."""


def tie(tensor: torch.Tensor) -> weakref.ref:
    """A reference to something that lives as long as the tensor's memory."""
    life = tensor.untyped_storage()._life = _Life()
    return weakref.ref(life)


@pytest.fixture
def steps(monkeypatch):
    """Whole steps are compiled from the second factorisation on a pattern on."""
    from sparse_solver.planning import choose

    pytest.importorskip("numba")
    monkeypatch.setattr(choose, "_SIMPLICIAL_USES", dict.fromkeys(choose._SIMPLICIAL_USES, 1))


class Counts:
    """How often the engines analysed, factored and solved, and which Numerics are alive."""

    def __init__(self) -> None:
        self.reset()
        self._numerics: list[weakref.ref] = []

    def reset(self) -> None:
        self.analyses = self.factorisations = self.solves = self.columns = 0

    def live(self) -> int:
        self._numerics = [r for r in self._numerics if r() is not None]
        return len(self._numerics)

    def __repr__(self) -> str:
        return (
            f"analyses={self.analyses} factorisations={self.factorisations} "
            f"solves={self.solves} columns={self.columns} live={self.live()}"
        )


@pytest.fixture
def counts(monkeypatch, clean) -> Counts:
    """Wraps ``analyze``, ``factorize``, and ``solve`` and ``solve_at`` of the ``Numeric`` of every
    engine adapter, and compiled steps; a batch in lanes counts as that many factorisations.
    """
    from sparse_solver.engines import REGISTRY
    from sparse_solver.engines.batched import BatchNumeric, ready
    from sparse_solver.planning import Step

    seen, depth, lock, wrapped = Counts(), threading.local(), threading.Lock(), set()

    def wrap(cls, name, after) -> None:
        inner = getattr(cls, name)

        def outer(*args, **kwargs):
            depth.n = getattr(depth, "n", 0) + 1  # a call through super() counts once
            try:
                out = inner(*args, **kwargs)
            finally:
                depth.n -= 1
            if depth.n == 0:
                with lock:
                    after(out)
            return out

        monkeypatch.setattr(cls, name, outer)

    def analysed(_) -> None:
        seen.analyses += 1

    def factored(numeric) -> None:
        seen.factorisations += 1
        seen._numerics.append(weakref.ref(numeric))
        if type(numeric) not in wrapped:
            wrapped.add(type(numeric))
            for name in {"solve", "solve_at"} & set(dir(numeric)):
                wrap(type(numeric), name, solved)

    def solved(x) -> None:
        seen.solves += 1
        seen.columns += 1 if x is None or x.ndim == 1 else x.shape[-1]

    def factored_batch(numeric, *args, init=BatchNumeric.__init__) -> None:
        init(numeric, *args)
        with lock:
            if warming:
                return
            seen.factorisations += numeric.items
            seen._numerics.append(weakref.ref(numeric))

    def step_forward(step, values, b, kept, inner=Step.forward):
        verdict, store, x = inner(step, values, b, kept)
        with lock:
            if verdict >= 0:
                solved(x)
            if verdict >= 0 and store is not kept:
                seen.factorisations += 1
                seen._numerics.append(tie(store))
        return verdict, store, x

    def step_backward(step, *args, inner=Step.backward):
        found = inner(step, *args)
        with lock:
            if found is not None:
                solved(found[1])
        return found

    warming: list[bool] = []  # what compiles the kernels is no work

    def warm_up(dtype, inner=ready._use_everything) -> None:
        warming.append(True)
        inner(dtype)
        warming.pop()

    monkeypatch.setattr(ready, "_use_everything", warm_up)
    monkeypatch.setattr(BatchNumeric, "__init__", factored_batch)
    monkeypatch.setattr(Step, "forward", step_forward)
    monkeypatch.setattr(Step, "backward", step_backward)
    for cls in {type(engine) for engine in REGISTRY.values()}:
        wrap(cls, "analyze", analysed)
        wrap(cls, "factorize", factored)
    return seen
