"""The loops by addresses, for calls in a microsecond, over torch's threads where these are lent.

A system is a row of words, see `layout`; where triplets go is told by `Slots.table`. A team says how a
function is run on all of torch's threads at once: the address of what does that, how many they are (1:
the caller alone), and the address of the function, which draws parts of a task until none is left: who
comes late finds less to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from . import layout
from .loops import OPTIONS, adjoint, residual, sizes, spread, sum_up, take

__all__ = ["compile_calls"]

_PARALLEL, _THREADS, _FUNCTION, _TEAM = range(4)  # of a team; last its length, as below
_DRAWN, _PARTS, _COUNT, _WHAT, _FACTS, _GIVEN = range(6)  # of a task
_SIZES, _RESIDUAL, _ADJOINT, _SUM, _TAKE = range(5)  # what to do
_TASK = _GIVEN + 7
_PLACES, _TRIPLETS, _OTHERS, _SINGLE, _WHICH, _POINTER, _ORDER, _INDEX = range(8)  # of `Slots.table`
_EACH = 3  # parts for each thread
_ROWS = 2048  # about as many in a part of what is passed over twice, the second time in the cache
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
    n, nnz = system[layout.N], system[layout.NNZ]
    indptr = _vector(system[layout.INDPTR], np.uint32, n + 1)
    cols, values = system[layout.COLS], _vector(system[layout.VALUES], like, nnz)
    return indptr, _vector(cols, np.uint32, nnz), values, _vector(system[layout.DIAGONAL], like, n)


@njit(**OPTIONS)
def _singles(slots):
    """`Slots.singles` by the words of `Slots.table`."""
    single = _vector(slots[_SINGLE], np.uint32, slots[_PLACES])
    which = _vector(slots[_WHICH], np.uint32, slots[_OTHERS])
    pointer = _vector(slots[_POINTER], np.uint32, slots[_OTHERS] + 1)
    return single, which, pointer, _vector(slots[_ORDER], np.uint32, pointer[slots[_OTHERS]])


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
            slots = _vector(given[0], np.int64, _INDEX + 1)
            triplets = _vector(given[1], task, slots[_TRIPLETS])
            of_places = _vector(given[2], task, slots[_PLACES])
            if what == _SUM:
                sum_up(*_singles(slots), triplets, of_places, start, stop)
            else:
                index = _vector(slots[_INDEX], np.uint32, slots[_TRIPLETS])
                take(index, of_places, triplets, start, stop)
        else:
            system = _vector(given[0], np.int64, layout.LENGTH)
            n, nnz = system[layout.N], system[layout.NNZ]
            indptr, cols, values, diagonal = _matrix(system, task)
            if what == _SIZES:
                at, pairs = _vector(system[layout.AT], np.uint32, n), system[layout.PAIRS]
                upper = _vector(system[layout.UPPER], np.uint32, pairs)
                mirror = _vector(system[layout.MIRROR], np.uint32, pairs)
                new = _vector(given[1], task, nnz)
                seen = sizes(indptr, at, upper, mirror, new, values, diagonal, start, stop)
                # Of the first two `_done` finds the largest, of the others the least.
                found[0], found[1], found[2], found[3], found[4] = seen
                found[1] = -found[1]
            else:
                x, b = _vector(given[1], task, n), _vector(given[2], task, n)
                if what == _RESIDUAL:
                    none = _vector(given[1], task, 0)
                    seen = residual(indptr, cols, values, x, b, diagonal, False, none, start, stop)
                else:
                    z, out = _vector(given[3], task, n), _vector(given[4], task, nnz)
                    seen = adjoint(indptr, cols, values, diagonal, x, b, z, False, out, start, stop)
                    if given[5] != 0:
                        slots = _vector(given[5], np.int64, _INDEX + 1)
                        triplets = _vector(given[6], task, slots[_TRIPLETS])
                        spread(*_singles(slots), out, triplets, indptr[start], indptr[stop])
                found[0], found[1], found[2] = seen
        k = _draw(own.ctypes.data)


@njit(**OPTIONS)
def _done(team, what, count, given, like):
    """Do all of range(count). The largest of the first two facts of all parts, NaN if one of the first
    is, and the least of the others.
    """
    own = carray(team, (_TEAM,))
    threads = own[_THREADS]
    parts = _EACH * threads if threads > 1 else 1
    if what == _ADJOINT:
        parts = max(parts, count // _ROWS)
    facts, task = np.zeros((parts, _LINE)), np.empty(_TASK, np.int64)
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


def _prepare(team, system, v, limits):
    """Make v the system's values, and put their `sizes` into its room. The verdict: SAME, and nothing
    done, if these very numbers are there; UNFIT if a sum is not finite, the diagonal not positive or A
    not symmetric; DOMINANT if the diagonal is, by more than the third of the limits times the norm.
    """
    nnz = system[layout.NNZ]
    new, old = carray(v, (nnz,)), _vector(system[layout.VALUES], v, nnz)
    e = 0
    while e < nnz and new[e] == old[e]:
        e += 1
    if e == nnz:
        return layout.SAME
    found = _done(team, _SIZES, system[layout.N], (_address(system), _address(v)), v)
    norm, least, margin, lowest, mirrored = found[0], -found[1], found[2], found[3], found[4]
    room = _vector(_address(system) + 8 * layout.FOUND, np.float64, 4)
    room[0], room[1], room[2], room[3] = norm, least, margin, lowest
    if not (norm < np.inf and lowest > 0 and mirrored != 0):
        return layout.UNFIT
    return layout.DOMINANT if margin > limits[2] * norm else layout.OTHERS


@njit(**OPTIONS)
def _error(facts, limits):
    """As `Equations.judge` bounds it by (normwise, componentwise); -1 where that does not accept."""
    top, reach, least = facts[0], facts[1], facts[2]
    if not reach > 0:
        return -1.0
    error = top / reach
    return error if error <= limits[0] and top <= limits[1] * least else -1.0


def _judge(team, system, x, b, limits):
    """The normwise backward error of x for A x = b, or -1 where it may not be accurate."""
    given = _address(system), _address(x), _address(b)
    return _error(_done(team, _RESIDUAL, system[layout.N], given, x), limits)


def _adjoint(team, system, y, b, x, out, slots, triplets, limits):
    """`adjoint`, and the error of y as above. Unless `slots` is null, `triplets` gets what `take` finds
    in `out`, while it is at hand; each place must have a triplet.
    """
    given = (
        *(_address(system), _address(y), _address(b), _address(x), _address(out)),
        *(_address(slots), _address(triplets)),
    )
    return _error(_done(team, _ADJOINT, system[layout.N], given, x), limits)


def _sum(team, slots, triplets, out):
    _done(team, _SUM, slots[_PLACES], (_address(slots), _address(triplets), _address(out)), out)
    return 0


def _take(team, slots, values, out):
    _done(team, _TAKE, slots[_TRIPLETS], (_address(slots), _address(out), _address(values)), out)
    return 0


def _on_each_thread(task):
    _do(task)


def compile_calls(dtype: np.dtype) -> tuple[Any, ...]:
    """(prepare, judge, adjoint, sum, take) by addresses for this real dtype, and a team's function."""
    f = types.CPointer(types.float64 if dtype.char == "d" else types.float32)
    i, d = types.int64, types.float64
    row, limits = types.CPointer(i), types.CPointer(d)
    signatures = {
        _prepare: i(row, row, f, limits),
        _judge: d(row, row, f, f, limits),
        _adjoint: d(row, row, f, f, f, f, row, f, limits),
        _sum: i(row, row, f, f),
        _take: i(row, row, f, f),
        _on_each_thread: types.void(f),
    }
    return tuple(
        cfunc(s, cache=True, error_model="numpy")(function) for function, s in signatures.items()
    )
