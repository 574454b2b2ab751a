"""The loops by addresses, for calls in a microsecond, over torch's threads where these are lent.

A system is a row of addresses: of indptr, cols, the places of the diagonal, mates, values, row sums and
diagonal, after n and the number of nonzeros. A team says how a function is run on all of torch's
threads at once: the address of what does that, how many they are (1: the caller alone), and the address
of the function, which draws parts of a task until none is left: who comes late finds less to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from .loops import OPTIONS, adjoint, residual, sizes, sum_up, take

__all__ = ["compile_calls"]

_PARALLEL, _THREADS, _FUNCTION, _TEAM = range(4)  # of a team; last its length, as below
_DRAWN, _PARTS, _COUNT, _WHAT, _FACTS, _GIVEN = range(6)  # of a task
_SIZES, _RESIDUAL, _ADJOINT, _SUM, _TAKE = range(5)  # what to do
_TASK, _SYSTEM = _GIVEN + 6, 9
_EACH = 3  # parts for each thread
_LINE = 8  # numbers in a cache line, a part's own for what it finds out
_bits, _byte = ir.IntType(64), ir.IntType(8).as_pointer()
_function = ir.FunctionType(ir.VoidType(), [_byte]).as_pointer()
_parallel = ir.FunctionType(ir.VoidType(), [_function, _byte, ir.IntType(32), ir.IntType(32)])


@intrinsic
def _at(typingctx, address, kind):
    """The pointer to what is at an address: numbers of this class, or what `kind` points to."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), codegen


@intrinsic
def _address(typingctx, pointer):
    def codegen(context, builder, sig, args):
        return builder.ptrtoint(args[0], _bits)

    return types.int64(pointer), codegen


@intrinsic
def _draw(typingctx, address):
    """The integer at an address, which is one more for whoever draws next."""

    def codegen(context, builder, sig, args):
        place = builder.inttoptr(args[0], _bits.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(_bits, 1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def _run(typingctx, parallel, function, task, threads):
    """Call function(task) on so many threads, and come back when all have."""

    def codegen(context, builder, sig, args):
        own = [builder.inttoptr(a, t) for a, t in zip(args[1:3], (_function, _byte), strict=True)]
        count = builder.trunc(args[3], ir.IntType(32))
        call = builder.inttoptr(args[0], _parallel.as_pointer())
        builder.call(call, [*own, count, ir.Constant(ir.IntType(32), 0)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@njit(**OPTIONS)
def _vector(address, kind, count):
    return carray(_at(address, kind), (count,))


@njit(**OPTIONS)
def _matrix(system, like):
    """(indptr, cols, values, diagonal)."""
    n, nnz = system[0], system[1]
    indices = _vector(system[2], np.uint32, n + 1), _vector(system[3], np.uint32, nnz)
    return *indices, _vector(system[6], like, nnz), _vector(system[8], like, n)


@njit(**OPTIONS)
def _do(task):
    """Draw parts of a task and do them. It is given as a pointer to the type of the numbers."""
    own = _vector(_address(task), np.int64, _TASK)
    what, parts, count, given = own[_WHAT], own[_PARTS], own[_COUNT], own[_GIVEN:]
    facts = carray(_at(own[_FACTS], np.float64), (parts, _LINE))
    k = _draw(own.ctypes.data)
    while k < parts:
        start, stop, found = count * k // parts, count * (k + 1) // parts, facts[k]
        if what == _SUM or what == _TAKE:
            places, m = given[0], given[1]
            index, triplets = _vector(given[2], np.uint32, m), _vector(given[3], task, m)
            of_places = _vector(given[4], task, places)
            if what == _SUM:
                pointer = _vector(given[5], np.uint32, places + 1)
                sum_up(pointer, index, triplets, of_places, start, stop)
            else:
                take(index, of_places, triplets, start, stop)
        else:
            system = _vector(given[0], np.int64, _SYSTEM)
            n, nnz = system[0], system[1]
            indptr, cols, values, diagonal = _matrix(system, task)
            if what == _SIZES:
                at, mates = _vector(system[4], np.uint32, n), _vector(system[5], np.uint32, nnz)
                new, sums = _vector(given[1], task, nnz), _vector(system[7], task, n)
                seen = sizes(indptr, at, mates, new, values, sums, diagonal, start, stop)
                found[0], found[2], found[3], found[4] = seen[0], seen[1], seen[2], seen[3]
            else:
                x, b = _vector(given[1], task, n), _vector(given[2], task, n)
                if what == _RESIDUAL:
                    none = _vector(given[1], task, 0)
                    seen = residual(indptr, cols, values, x, b, diagonal, False, none, start, stop)
                else:
                    z, out = _vector(given[3], task, n), _vector(given[4], task, nnz)
                    seen = adjoint(indptr, cols, values, diagonal, x, b, z, False, out, start, stop)
                found[0], found[1], found[2] = seen
        k = _draw(own.ctypes.data)


@njit(**OPTIONS)
def _done(team, what, count, given, like):
    """Do all of range(count). The largest of the first two facts of all parts, NaN if one of the first
    is, and the least of the others.
    """
    own = carray(team, (_TEAM,))
    threads = own[_THREADS]
    facts, task = np.zeros((_EACH * threads if threads > 1 else 1, _LINE)), np.empty(_TASK, np.int64)
    task[_DRAWN], task[_PARTS], task[_COUNT], task[_WHAT] = 0, len(facts), count, what
    task[_FACTS] = facts.ctypes.data
    for k in range(len(given)):
        task[_GIVEN + k] = given[k]
    if threads > 1:
        _run(own[_PARALLEL], own[_FUNCTION], task.ctypes.data, threads)
    else:
        _do(_at(task.ctypes.data, like))
    a, b, c, d, e = facts[0, 0], facts[0, 1], facts[0, 2], facts[0, 3], facts[0, 4]
    for k in range(1, len(facts)):
        f = facts[k]
        a = f[0] if f[0] > a or f[0] != f[0] else a
        b, c, d, e = max(b, f[1]), min(c, f[2]), min(d, f[3]), min(e, f[4])
    return a, b, c, d, e


def _prepare(team, system, v, facts):
    """`sizes` of v, which becomes the system's values, into facts: norm, margin, lowest and whether
    mirrored. Or 1 and nothing else, if they are these very numbers.
    """
    n, nnz, place = system[0], system[1], system[6]
    new, old = carray(v, (nnz,)), _vector(place, v, nnz)
    e = 0
    while e < nnz and new[e] == old[e]:
        e += 1
    if e == nnz:
        return 1
    found = _done(team, _SIZES, n, (_address(system), _address(v)), v)
    facts[0], facts[1], facts[2], facts[3] = found[0], found[2], found[3], found[4]
    return 0


@njit(**OPTIONS)
def _error(facts, normwise, componentwise):
    """As `Equations.judge` bounds it; -1 where that does not accept."""
    top, reach, least = facts[0], facts[1], facts[2]
    if not reach > 0:
        return -1.0
    error = top / reach
    return error if error <= normwise and top <= componentwise * least else -1.0


def _judge(team, system, x, b, normwise, componentwise):
    """The normwise backward error of x for A x = b, or -1 where it may not be accurate."""
    given = _address(system), _address(x), _address(b)
    return _error(_done(team, _RESIDUAL, system[0], given, x), normwise, componentwise)


def _adjoint(team, system, y, b, x, out, normwise, componentwise):
    """`adjoint`, and the error of y as above."""
    given = _address(system), _address(y), _address(b), _address(x), _address(out)
    return _error(_done(team, _ADJOINT, system[0], given, x), normwise, componentwise)


def _sum(team, places, m, pointer, order, triplets, out):
    given = places, m, _address(order), _address(triplets), _address(out), _address(pointer)
    _done(team, _SUM, places, given, out)
    return 0


def _take(team, places, m, index, values, out):
    given = places, m, _address(index), _address(out), _address(values)
    _done(team, _TAKE, m, given, out)
    return 0


def _on_each_thread(task):
    _do(task)


def compile_calls(dtype: np.dtype) -> tuple[Any, ...]:
    """(prepare, judge, adjoint, sum, take) by addresses for this real dtype, and a team's function."""
    f = types.CPointer(types.float64 if dtype.char == "d" else types.float32)
    u, i, d = types.CPointer(types.uint32), types.int64, types.float64
    row = types.CPointer(i)
    signatures = {
        _prepare: i(row, row, f, types.CPointer(d)),
        _judge: d(row, row, f, f, d, d),
        _adjoint: d(row, row, f, f, f, f, d, d),
        _sum: i(row, i, i, u, u, f, f),
        _take: i(row, i, i, u, f, f),
        _on_each_thread: types.void(f),
    }
    return tuple(
        cfunc(s, cache=True, error_model="numpy")(function) for function, s in signatures.items()
    )
