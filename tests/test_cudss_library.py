"""What can be known of cuDSS itself without a GPU: numbers and signatures of its headers, its version,
configurations and descriptors, and how it says that there is no device. Needs a wheel of it and
cuBLAS. ``SPARSE_SOLVER_CUDSS`` may name the library's file.
"""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_int32, c_size_t
from pathlib import Path

import pytest
import torch

from sparse_solver.engines.base import Declined
from sparse_solver.engines.cudss import Cudss, binding

FILE = binding.find_library()
missing = pytest.mark.skipif(FILE is None, reason="no wheel of cuDSS is installed: nvidia-cudss-cu12")


@pytest.fixture(scope="module")
def library():
    try:
        return binding.load(FILE)
    except OSError as error:
        pytest.skip(f"{FILE} can't be loaded: {error}")


def header(name: str) -> str:
    places = [Path(str(FILE)).parent.parent / "include"]
    for place in places:
        if (place / name).exists():
            return (place / name).read_text()
    pytest.skip("the headers are not beside the library")


def enumerators(text: str) -> dict[str, int]:
    """All names of a header's enumerations, counted as C does."""
    found: dict[str, int] = {}
    cuda = {
        f"CUDA_{t}": k for t, k in zip(("R_32F", "R_64F", "C_32F", "C_64F"), (0, 1, 4, 5), strict=True)
    }
    cuda |= {"CUDA_R_32I": 10, "CUDA_R_64I": 24}
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    for body in re.findall(r"typedef enum \w+ \{(.*?)\}", text, flags=re.S):
        at = -1
        for entry in filter(None, (e.strip() for e in body.split(","))):
            name, _, value = (part.strip() for part in entry.partition("="))
            at = eval(value, cuda, found) if value else at + 1  # a constant expression of these names
            found[name] = at
    return found


@missing
def test_numbers_are_those_of_the_header():
    names = enumerators(header("cudss_data_types.h"))
    expected = {
        "PHASE_ANALYSIS": binding.ANALYSIS,
        "PHASE_FACTORIZATION": binding.FACTORIZATION,
        "PHASE_REFACTORIZATION": binding.REFACTORIZATION,
        "PHASE_SOLVE": binding.SOLVE,
        "CONFIG_MATCHING_ALG": binding.MATCHING_ALG,
        "CONFIG_SOLVE_MODE": binding.SOLVE_MODE,
        "CONFIG_UBATCH_SIZE": binding.UBATCH_SIZE,
        "MATCHING_ALG_NONE": binding.NO_MATCHING,
        "SOLVE_MODE_NORMAL": binding.NORMAL,
        "SOLVE_MODE_TRANSPOSE": binding.TRANSPOSED,
        "SOLVE_MODE_CONJUGATE_TRANSPOSE": binding.ADJOINT,
        "DATA_INFO": binding.INFO,
        "DATA_LU_NNZ": binding.LU_NNZ,
        "DATA_MEMORY_ESTIMATES": binding.MEMORY_ESTIMATES,
        "MTYPE_GENERAL": binding.GENERAL,
        "MTYPE_SYMMETRIC": binding.SYMMETRIC,
        "MTYPE_HERMITIAN": binding.HERMITIAN,
        "MTYPE_SPD": binding.SPD,
        "MTYPE_HPD": binding.HPD,
        "MVIEW_FULL": binding.FULL,
        "MVIEW_UPPER": binding.UPPER,
        "BASE_ZERO": binding.BASE_ZERO,
        "LAYOUT_COL_MAJOR": binding.COL_MAJOR,
        "STATUS_ALLOC_FAILED": binding.NO_MEMORY,
    }
    for name, number in expected.items():
        if f"CUDSS_{name}" in names or not name.startswith("SOLVE_MODE"):  # 0.8 has no such names
            assert names[f"CUDSS_{name}"] == number, name


@missing
def test_signatures_are_those_of_the_header():
    text = " ".join(header("cudss.h").split())
    for name, arguments in binding._SIGNATURES.items():
        (found,) = re.findall(rf"CUDSSAPI {name}\((.*?)\);", text)
        kinds = [a.strip() for a in found.split(",")]
        assert len(kinds) == len(arguments), name
        for kind, argument in zip(kinds, arguments, strict=True):
            size = ctypes.sizeof(argument)
            assert size == (8 if "*" in kind or re.search(r"_t \w+$|int64_t|size_t", kind) else 4) or (
                re.search(r"cud\w+(Type|Param|View\w*|Base|Layout)_?\w* ", kind) and size == 4
            ), (name, kind)


@missing
def test_version_configuration_and_descriptors(library):
    version = binding.version_of(library)
    assert version.why_not is None
    config = binding.created(library, "cudssConfigCreate")
    for parameter, number in ((binding.SOLVE_MODE, binding.ADJOINT), (binding.UBATCH_SIZE, 7)):
        binding.set_config(library, config, parameter, number)
        value, written = c_int32(), c_size_t()
        get = library.cudssConfigGet
        get.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, c_size_t, ctypes.c_void_p)
        assert get(config, parameter, byref(value), 4, byref(written)) == 0
        if version[0] >= 1:
            assert value.value == number
    binding.check(library, "cudssConfigDestroy", config)
    crow, cols = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    values, b = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    structure = (2, 2, 2, crow.data_ptr(), None, cols.data_ptr(), values.data_ptr(), 10, 10, 1, 0, 0, 0)
    A = binding.created(library, "cudssMatrixCreateCsr", after=structure)
    B = binding.created(library, "cudssMatrixCreateDn", after=(2, 1, 2, b.data_ptr(), 1, 0))
    for matrix, tensor in ((A, values), (B, b)):
        binding.check(library, "cudssMatrixSetValues", matrix, tensor.data_ptr())
        binding.check(library, "cudssMatrixDestroy", matrix)


@missing
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device(library):
    engine = Cudss(load=lambda: library)
    assert engine.why_not() is None
    with pytest.raises(Declined, match="no CUDA device"):
        engine.handle(torch.device("cpu"))
    with pytest.raises(binding.CudssError, match="status"):
        binding.created(library, "cudssCreate")
    engine.close()


def test_versions():
    assert binding.Version(1, 0, 0).why_not is None
    assert binding.Version(1, 4, 2).transposes
    assert binding.Version(0, 8, 0).why_not is None
    assert not binding.Version(0, 8, 0).transposes
    for other in ((0, 7, 1), (0, 9, 0), (2, 0, 0)):
        assert "cuDSS " + ".".join(map(str, other)) in binding.Version(*other).why_not
