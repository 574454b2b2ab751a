"""Where GPU engines are tested: on a GPU where there is one; on the CPU with a library object that
stands for cuDSS, as far as that goes.
"""

from __future__ import annotations

import gc

import pytest
import torch
from cases import DTYPES
from fake_cudss import FakeCudss

import sparse_solver as ss
from sparse_solver.engines import REGISTRY
from sparse_solver.engines.cudss import Cudss
from sparse_solver.planning import on_device

WHY_NO_CUDSS = REGISTRY["cudss"].why_not()
# Single precision goes the same way with another number of bytes.
each_dtype = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(d, marks=() if d in (torch.float64, torch.complex128) else pytest.mark.slow)
        for d in DTYPES
    ],
    ids=lambda d: str(d).split(".")[1],
)
WHY_NO_GPU = None if torch.cuda.is_available() else "no CUDA device here"


class There:
    """A device, what serves it, and how to get there."""

    def __init__(self, device, library=None, engine=None):
        self.device, self.library, self.engine = torch.device(device), library, engine

    def __call__(self, thing):
        return thing.to(self.device)


def install(monkeypatch, library) -> Cudss:
    """Serve tensors on the CPU as if they were on a GPU, by this library."""
    engine = Cudss(load=lambda: library)
    engine.devices = ("cpu", "cuda")
    monkeypatch.setitem(REGISTRY, "cudss", engine)
    monkeypatch.setattr(on_device, "everywhere", True)
    return engine


def leave(engine, library) -> None:
    """Nothing of the library may be left alive."""
    ss.clear_cache()
    gc.collect()  # exceptions make cycles,
    gc.collect()  # and what a factor leaves to the next one outlives the first collection
    engine.close()
    left = library.alive()
    assert left == []


@pytest.fixture
def fake(monkeypatch, clean):
    """cuDSS 1.0 in place of a GPU's."""
    library = FakeCudss()
    engine = install(monkeypatch, library)
    yield There("cpu", library, engine)
    leave(engine, library)


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def there(request, monkeypatch, clean):
    """The fake, and the real library on a real GPU."""
    if request.param == "cuda":
        if WHY_NO_CUDSS is not None:
            pytest.skip(f"cudss: {WHY_NO_CUDSS}")
        yield There("cuda", None, REGISTRY["cudss"])
        return
    library = FakeCudss()
    engine = install(monkeypatch, library)
    yield There("cpu", library, engine)
    leave(engine, library)
