"""Wrong input raises, says what was given and what was expected, and loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conformance import each_dtype
from reference import assert_says, assert_solves

import sparse_solver as ss

EYE = 2 * torch.eye(5, dtype=torch.float64)
A = ss.SparseMatrix.from_torch(EYE.to_sparse_coo())
B = torch.ones(5, dtype=torch.float64)

VERBS = {
    "solve": lambda A, **o: ss.solve(A, B, **o),
    "solve_ex": lambda A, **o: ss.solve_ex(A, B, **o),
    "factorize": lambda A, **o: ss.factorize(A, **o),
    "factorize_ex": lambda A, **o: ss.factorize_ex(A, **o),
    "analyze": lambda A, **o: ss.analyze(A, **o),
}
each_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())


def message(error, call) -> str:
    with pytest.raises(error) as info:
        call()
    return str(info.value)


# ---- shapes ----


@each_verb
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (0, 2)])
def test_not_square(verb, shape):
    D = torch.ones(shape, dtype=torch.float64)
    for M in (ss.SparseMatrix.from_torch(D.to_sparse_coo()), D.to_sparse_csr(), D):
        assert_says(message(ValueError, lambda M=M: verb(M)), shape, "square")


@pytest.mark.parametrize(
    ("shape", "words"),
    [((4,), ["b"]), ((6, 2), ["b"]), ((1, 5), ["b.mT"]), ((), ["b"]), ((2, 5), ["b.mT"])],
)
def test_a_right_hand_side_that_does_not_fit(shape, words):
    b = torch.ones(shape, dtype=torch.float64)
    for call in (
        lambda: ss.solve(A, b),
        lambda: ss.solve(EYE.to_sparse_csr(), b),
        lambda: ss.solve(A, b, adjoint=True),
        lambda: ss.solve_ex(A, b),
        lambda: ss.factorize(A).solve(b),
        lambda: ss.SparseSolver.apply(A, b),
    ):
        text = message(ValueError, call)
        assert_says(text, (5, 5), shape, "(5,)", "expected", *words)


def test_hybrid_tensors_and_batches_of_torch_tensors():
    hybrid = torch.sparse_coo_tensor([[0, 1], [0, 1]], torch.ones(2, 3), (2, 2, 3))
    assert_says(message(ValueError, lambda: ss.solve(hybrid, torch.ones(2))), (2, 2, 3), "hybrid")
    for bad in (torch.ones(5), torch.ones(2, 5, 4).to_sparse_csr()):
        assert_says(message(ValueError, lambda bad=bad: ss.solve(bad, B)), tuple(bad.shape))


# ---- dtypes and devices ----


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.uint8]
)
def test_dtypes_that_cannot_be_factored(dtype):
    M = ss.SparseMatrix(A.pattern, A.values.to(dtype))
    T = EYE.to(dtype).to_sparse_coo()
    for bad in (M, T, EYE.to(dtype)):
        text = message(TypeError, lambda bad=bad: ss.solve(bad, B))
        assert_says(text, str(dtype), "float64", ".to(torch.float64)")
    text = message(TypeError, lambda: ss.solve(A, B.to(dtype)))
    assert_says(text, str(dtype), "float64", "b.to(torch.float64)")


def test_precisions_do_not_mix():
    for M, b in ((A, B.float()), (A.to(torch.float32), B), (A.to(torch.complex64), B)):
        text = message(TypeError, lambda M=M, b=b: ss.solve(M, b))
        assert_says(text, str(M.dtype), str(b.dtype), "b.to(")
    with pytest.raises(TypeError):
        ss.factorize(A).solve(B.float())


def test_devices_do_not_mix():
    b = B.to("meta")
    text = message((ValueError, TypeError), lambda: ss.solve(A, b))
    assert_says(text, "cpu", "meta", "b.to(")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sp.csr_array(EYE.numpy()), ["from_scipy"]),
        (lambda: EYE.numpy(), ["torch.Tensor"]),
        (lambda: EYE.tolist(), ["list", "SparseMatrix"]),
        (lambda: None, ["NoneType"]),
    ],
)
def test_a_matrix_of_the_wrong_type(make, words):
    assert_says(message(TypeError, lambda: ss.solve(make(), B)), *words)


@pytest.mark.parametrize("b", [np.ones(5), [1.0] * 5, 1.0, None, B.to_sparse()])
def test_a_right_hand_side_of_the_wrong_type(b):
    assert_says(message(TypeError, lambda: ss.solve(A, b)), "b ")


# ---- numbers ----


@each_verb
@each_dtype
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_in_A(verb, bad, dtype):
    D = EYE.to(dtype, copy=True)
    D[3, 1] = 1.0
    values = D.to_sparse_csr().values().clone()
    values[3] = bad  # entry (3, 1)
    M = ss.SparseMatrix.from_torch(D.to_sparse_csr())
    M = ss.SparseMatrix(M.pattern, values)
    if verb in (VERBS["solve_ex"], VERBS["factorize_ex"]):
        first, info = ss.solve_ex(M, B.to(dtype)) if verb is VERBS["solve_ex"] else verb(M)
        assert info.item() == 6
        assert first is None or first.isnan().all()
    elif verb is VERBS["analyze"]:
        pass  # structure alone; the numbers are judged when they are factored
    else:
        call = {"solve": lambda: ss.solve(M, B.to(dtype)), "factorize": lambda: verb(M)}
        name = "solve" if verb is VERBS["solve"] else "factorize"
        assert_says(message(ValueError, call[name]), "row 3", "column 1")


@each_dtype
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(5,), (5, 2)])
def test_not_finite_in_b(bad, dtype, shape):
    b = torch.ones(shape, dtype=dtype)
    b[2] = bad
    M = A.to(dtype)
    for call in (
        lambda: ss.solve(M, b),
        lambda: ss.solve(M, b, adjoint=True),
        lambda: ss.factorize(M).solve(b),
    ):
        assert_says(message(ValueError, call), "b", "nan")
    x, info = ss.solve_ex(M, b)
    assert info.item() == 6
    assert x.isnan().all()
    assert x.shape == shape


def malformed(outer, inner, layout):
    values = torch.ones(len(inner), dtype=torch.float64)
    return torch.sparse_compressed_tensor(
        torch.tensor(outer),
        torch.tensor(inner),
        values,
        (3, 3),
        layout=layout,
        check_invariants=False,
    )


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ([0, 1, 2, 3], [0, 1, 3]),
        ([0, 1, 2, 3], [0, -1, 2]),
        ([0, 1, 2, 3], [0, 1, 2**40]),
        ([0, 2, 1, 3], [0, 1, 2]),
        ([0, 1, 2, 5], [0, 1, 2]),
        ([1, 1, 2, 3], [0, 1, 2]),
    ],
)
def test_indices_out_of_range(layout, outer, inner):
    """torch does not check them; a library that reads out of bounds would crash."""
    M = malformed(outer, inner, layout)
    with pytest.raises(ValueError):
        ss.solve(M, torch.ones(3, dtype=torch.float64))


def test_coo_indices_out_of_range():
    rows = torch.tensor([0, 1, 2])
    M = torch.sparse_coo_tensor(torch.stack([rows, rows]), torch.ones(3).double(), (3, 3))
    M._indices()[0, 2] = 7
    assert_says(message(ValueError, lambda: ss.solve(M, B[:3])), "7", "out of range", (3, 3))


# ---- words ----


@each_verb
def test_unknown_words(verb):
    for assume in ("SPD", "definite", "", None, 3):
        text = message((ValueError, TypeError), lambda a=assume: verb(A, assume=a))
        assert_says(text, "assume", "auto", "general", "symmetric", "hermitian", "spd")
    for method in ("direct", None, 3, ss.Direct):
        text = message((ValueError, TypeError), lambda m=method: verb(A, method=m))
        assert_says(text, "method", "Direct")
    with pytest.raises(TypeError):
        verb(A, asume="spd")
    with pytest.raises(TypeError):
        verb(A, engine="superlu")


def test_unknown_engines_and_options():
    text = message(ValueError, lambda: ss.Direct(engine="cholmod"))
    assert_says(text, "cholmod", *(row.name for row in ss.engines()), "auto")
    for threads in (0, -1, 1.5, "two"):
        assert_says(message((ValueError, TypeError), lambda t=threads: ss.Direct(threads=t)), "threads")


# ---- symmetry ----


def unsymmetric(dtype=torch.float64):
    D = EYE.to(dtype).clone()
    D[1, 3], D[3, 1] = 1.0, 1.5
    return D


@each_verb
@pytest.mark.parametrize("assume", ["symmetric", "hermitian", "spd"])
def test_not_symmetric_though_assumed_so(verb, assume):
    M = unsymmetric().to_sparse_csr()
    assert_says(message(ValueError, lambda: verb(M, assume=assume)), "A[1, 3]", "1.5", assume)


@each_verb
@pytest.mark.parametrize("assume", ["symmetric", "hermitian", "spd"])
@pytest.mark.parametrize("upper", [True, False])
def test_one_stored_triangle(verb, assume, upper):
    D = EYE.clone()
    D[1, 3] = 1.0
    M = (D if upper else D.T).to_sparse_csr()
    assert_says(message(ValueError, lambda: verb(M, assume=assume)), "from_triangle", assume)


def test_unsymmetric_pattern():
    D = EYE.clone()
    D[1, 3] = D[4, 0] = 1.0
    text = message(ValueError, lambda: ss.solve(D.to_sparse_csr(), B, assume="symmetric"))
    assert_says(text, 'assume="symmetric"', "is stored and")


def test_complex_symmetries_are_told_apart():
    D = EYE.to(torch.complex128, copy=True)
    D[1, 3] = D[3, 1] = 1j
    S = D.to_sparse_csr()
    D2 = D.clone()
    D2[3, 1] = -1j
    H = D2.to_sparse_csr()
    b = B.to(torch.complex128)
    assert_solves(D, ss.solve(S, b, assume="symmetric"), b)
    assert_solves(D2, ss.solve(H, b, assume="hermitian"), b)
    assert_solves(D2, ss.solve(H, b, assume="spd"), b)
    for M, assume in ((S, "hermitian"), (S, "spd"), (H, "symmetric")):
        assert_says(message(ValueError, lambda M=M, a=assume: ss.solve(M, b, assume=a)), assume)


@each_dtype
def test_symmetric_up_to_rounding_is_symmetric(dtype):
    """The last bits of an assembly differ: |a_ij - a_ji| <= 8 eps max(sqrt|a_ii a_jj|, |a_ij|)."""
    eps = torch.finfo(dtype).eps
    D = EYE.to(dtype).clone()
    D[1, 3], D[3, 1] = 1.0, 1.0 + 4 * eps
    D[0, 4], D[4, 0] = 3e-17, 0.0  # tiny beside the diagonal
    rows = torch.tensor([0, 1, 2, 3, 4, 1, 3, 0, 4])
    cols = torch.tensor([0, 1, 2, 3, 4, 3, 1, 4, 0])
    P = ss.Pattern(rows, cols, (5, 5))
    M = P.assemble(D[rows, cols])
    b = B.to(dtype)
    for assume in ("symmetric", "spd") if not dtype.is_complex else ("symmetric",):
        assert_solves(D, ss.solve(M, b, assume=assume), b)
    D[3, 1] = 1.0 + 40 * eps
    M = P.assemble(D[rows, cols])
    with pytest.raises(ValueError):
        ss.solve(M, b, assume="symmetric")
    assert_solves(D, ss.solve(M, b), b)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("verb", ["solve", "logdet", "batch"])
def test_a_trace_would_keep_the_factor_as_a_constant(verb):
    """torch.jit.trace records tensors, and a factor is none: that of the example would be kept."""
    P = ss.Pattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    values = torch.tensor([4.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    b = torch.ones(2, dtype=torch.float64)

    def function(values):
        A = P.assemble(values.expand(3, 4) if verb == "batch" else values)
        return ss.logdet(A) if verb == "logdet" else ss.solve(A, b)

    with pytest.raises(RuntimeError, match=r"torch.jit.trace would keep .* use torch.compile"):
        torch.jit.trace(function, (values,))
    assert torch.isfinite(function(values)).all()  # and nothing is left of it
