"""The laws of the engine contract for cuDSS: the same table as for every engine (test_laws.py)."""

from __future__ import annotations

import pytest
import test_laws
import torch
from cases import CASES, DTYPES
from conformance import system

LAWS = [
    test_laws.test_1_the_answer_is_accurate,
    test_laws.test_1_transposed_and_adjoint_answers_are_accurate,
    test_laws.test_2_the_adjoint_is_the_adjoint,
    test_laws.test_3_new_values_as_from_fresh,
    test_laws.test_4_a_factor_outlives_later_factors,
    test_laws.test_5_slogdet_is_the_dense_one,
    test_laws.test_7_a_batch_equals_the_loop_over_its_items,
    test_laws.test_9_same_bits_twice_and_nothing_changed,
]


@pytest.fixture
def moved(there, monkeypatch):
    """The table's systems, on the device."""
    if there.device.type != "cpu":
        rescaled = test_laws.rescaled
        monkeypatch.setattr(test_laws, "system", lambda *a: tuple(map(there, system(*a))))
        monkeypatch.setattr(test_laws, "rescaled", lambda *a: there(rescaled(*a)))
    return there


# The others go through the same code with another number of bytes.
PAIRS = [
    *(
        pytest.param("cudss", d, marks=[] if d == torch.complex128 else pytest.mark.slow)
        for d in DTYPES
    ),
    pytest.param("auto", torch.float64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "dtype"), PAIRS, ids=lambda v: str(v).split(".")[-1])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__[5:])
def test_laws_over_all_cases(moved, law, dtype, engine):
    for case in CASES:
        torch.manual_seed(0)
        if moved.device.type == "cuda" and law is test_laws.test_9_same_bits_twice_and_nothing_changed:
            pytest.skip("sums on a GPU are made in no fixed order")
        law(engine, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).split(".")[1])
def test_auto_is_right_when_symmetry_comes_and_goes(there, dtype):
    if there.device.type == "cuda":
        pytest.skip("the table's matrices are made on the CPU")
    test_laws.test_auto_is_right_when_symmetry_comes_and_goes("cudss", dtype)


def test_threads(there):
    if there.device.type == "cuda":
        pytest.skip("the table's matrices are made on the CPU")
    test_laws.test_8_two_threads_on_one_pattern("cudss")
    test_laws.test_8_two_threads_on_one_factor("cudss")
    test_laws.test_op_flags_agree_with_the_views("cudss")
