"""The laws of the engine contract, for every engine, structure and dtype of the table."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from cases import BY_NAME
from conformance import (
    each_dtype,
    each_engine,
    each_engine_case_double,
    each_engine_case_dtype,
    each_engine_for_definite,
    some_case,
    system,
    widest,
    words,
)
from reference import assert_solves, op, wide

import sparse_solver as ss


def rescaled(case, dtype, seed: int):
    """Other values on the case's pattern, sizes over 16 orders, of the same symmetry."""
    rows, cols, values, n = case.triplets(dtype)
    g = torch.Generator().manual_seed(seed)
    if "spd" in case.words(dtype):
        d = 10.0 ** (8 * torch.rand(n, generator=g, dtype=torch.float64) - 4)
        scale = d[rows] * d[cols]
    else:
        s = 10.0 ** (16 * torch.rand(n, n, generator=g, dtype=torch.float64) - 8)
        if len(case.words(dtype)) > 1:
            s = s.triu() + s.triu(1).T
        scale = s[rows, cols]
    return ss.Pattern(rows, cols, (n, n)).assemble((values * scale).to(dtype))


@each_engine_case_dtype
def test_1_the_answer_is_accurate(engine, case, dtype):
    for k in (None, 3):
        A, D, b = system(case, dtype, k)
        for word in ("auto", *words(engine, case, dtype)):
            x = ss.solve(A, b, assume=word, method=ss.Direct(engine=engine))
            assert x.dtype == dtype
            assert_solves(D, x, b)


@each_engine_case_double
def test_1_transposed_and_adjoint_answers_are_accurate(engine, case, dtype):
    for k in (None, 3):
        A, D, b = system(case, dtype, k)
        for word in ("auto", *words(engine, case, dtype)):
            F = ss.factorize(A, assume=word, method=ss.Direct(engine=engine))
            for mode in ({"transpose": True}, {"adjoint": True}):
                assert_solves(D, F.solve(b, **mode), b, **mode)


@each_engine_case_double
def test_2_the_adjoint_is_the_adjoint(engine, case, dtype):
    A, D, b = system(case, dtype)
    c = torch.randn_like(b)
    F = ss.factorize(A, method=ss.Direct(engine=engine))
    x, y = F.solve(b), F.solve(c, adjoint=True)
    left, right = torch.vdot(wide(c), wide(x)), torch.vdot(wide(y), wide(b))
    D = wide(D)
    size = torch.linalg.inv(D).norm() * (D.norm() * wide(x).norm() + b.norm()) * c.norm()
    assert (left - right).abs() <= 1e3 * torch.finfo(dtype).eps * size


@each_engine_case_double
def test_3_new_values_as_from_fresh(engine, case, dtype):
    method = ss.Direct(engine=engine)
    A, _, b = system(case, dtype)
    plan = ss.analyze(A, method=method)
    for new in (rescaled(case, dtype, 1), A, rescaled(case, dtype, 2)):
        _, info = ss.solve_ex(new, b, method=ss.Direct(engine=engine, reuse=False))
        for answer in (
            lambda new=new: plan.factorize(new).solve(b),
            lambda new=new: ss.solve(new, b, method=method),
        ):
            try:
                x = answer()
            except torch.linalg.LinAlgError:
                assert info != 0
            else:
                assert_solves(new.to_dense(), x, b)


@each_engine_case_double
def test_4_a_factor_outlives_later_factors(engine, case, dtype):
    A, D, b = system(case, dtype, 2)
    plan = ss.analyze(A, method=ss.Direct(engine=engine))
    first = plan.factorize(A)
    before = first.solve(b), first.solve(b, adjoint=True)
    for scale in (2.0, 1e-6, 1e6):
        later = plan.factorize(scale * A)
        assert_solves(scale * D, later.solve(b), b)
    after = first.solve(b), first.solve(b, adjoint=True)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert_solves(D, after[0], b)


@each_engine_case_dtype
def test_5_slogdet_is_the_dense_one(engine, case, dtype):
    A, D, _ = system(case, dtype)
    sign, logabs = ss.factorize(A, method=ss.Direct(engine=engine)).slogdet()
    true_sign, true_logabs = torch.linalg.slogdet(wide(D))
    tol = 1e5 * torch.finfo(dtype).eps
    assert (sign - true_sign).abs() <= tol
    assert (logabs - true_logabs).abs() <= tol * max(1.0, true_logabs.abs().item())


@each_engine_case_double
def test_7_a_batch_equals_the_loop_over_its_items(engine, case, dtype):
    """One singular item, and items of very different sizes; by the engine, item after item."""
    A, _, b = system(case, dtype, 2)
    method = ss.Direct(engine=engine)
    items = [A.values, 2 * A.values, torch.zeros_like(A.values), rescaled(case, dtype, 1).values]
    x, info = ss.solve_ex(ss.SparseMatrix(A.pattern, torch.stack(items)), b, method=method)
    assert info[2] > 0
    assert x[2].isnan().all()
    for item in (0, 1, 3):
        M = ss.SparseMatrix(A.pattern, items[item])
        _, alone = ss.solve_ex(M, b, method=method)
        assert (info[item] == 0) == (alone == 0)
        if info[item] == 0:
            assert_solves(M.to_dense(), x[item], b)


@each_engine_case_double
def test_9_same_bits_twice_and_nothing_changed(engine, case, dtype):
    A, _, b = system(case, dtype, 2)
    kept = A.values.clone(), b.clone()
    method = ss.Direct(engine=engine, reuse=False)
    x, again = ss.solve(A, b, method=method), ss.solve(A, b, method=method)
    assert torch.equal(x, again)
    assert x.dtype == dtype
    assert torch.equal(A.values, kept[0])
    assert torch.equal(b, kept[1])


@each_engine
@each_dtype
def test_auto_is_right_when_symmetry_comes_and_goes(engine, dtype):
    """One pattern; symmetric, then unsymmetric, then hermitian, then definite values."""
    rows, cols, values, n = BY_NAME["unsymmetric_values"].triplets(dtype)
    P, b = ss.Pattern(rows, cols, (n, n)), torch.randn(n, dtype=dtype)
    D = torch.zeros(n, n, dtype=dtype).index_put((rows, cols), values)
    eye = torch.eye(n, dtype=dtype)
    for M in (D + D.T, D, D + D.mH, D, D + D.mH + 9 * eye, D - 2 * D.mH, D + D.T + 1e-3 * D):
        A = P.assemble(M[rows, cols])
        assert_solves(M, ss.solve(A, b, method=ss.Direct(engine=engine)), b)


@each_engine_for_definite
def test_8_two_threads_on_one_pattern(engine):
    A, D, _ = system(some_case(engine), torch.float64)
    start = threading.Barrier(2)

    def work(seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        start.wait()
        for step in range(15):
            s = 1.0 + step + seed / 2
            b = torch.randn(A.shape[0], generator=g, dtype=D.dtype, requires_grad=True)
            x = ss.solve(s * A, b, method=ss.Direct(engine=engine))
            assert_solves(s * D, x, b)
            (g_b,) = torch.autograd.grad(x, b, torch.ones_like(x))
            assert_solves(s * D, g_b, torch.ones_like(x), transpose=True)

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(work, seed) for seed in range(2)]:
            job.result(timeout=60)


@each_engine_for_definite
def test_8_two_threads_on_one_factor(engine):
    A, D, b = system(BY_NAME["spd_grid"], widest(engine), 3)
    F = ss.factorize(A, method=ss.Direct(engine=engine))
    start = threading.Barrier(2)

    def work(mode: dict) -> None:
        start.wait()
        for _ in range(25):
            assert_solves(D, F.solve(b, **mode), b, **mode)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(work, mode) for mode in ({}, {"adjoint": True})]
        for job in jobs:
            job.result(timeout=60)


@each_engine_for_definite
def test_op_flags_agree_with_the_views(engine):
    A, D, b = system(some_case(engine), widest(engine))
    method = ss.Direct(engine=engine)
    for mode, view in (({"transpose": True}, A.mT), ({"adjoint": True}, A.mH)):
        x = ss.solve(A, b, method=method, **mode)
        assert_solves(op(D, **mode), x, b)
        assert torch.allclose(x, ss.solve(view, b, method=method), rtol=1e-10, atol=1e-12)
