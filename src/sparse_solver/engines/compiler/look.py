"""Is a tensor a vector in memory? Asked of torch by compiled code, through the C functions that DLPack
defines for that.

From Python that takes five calls of torch, most of them through tables of its bindings; where the
caches hold the numbers of a large system these take as long as a pass over ten thousand of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from llvmlite import ir

from .callables import api, as_builtin, method_of

__all__ = ["look"]

_CPU, _FLOAT = 1, 2  # of DLPack's devices and classes of numbers
_byte, _int, _word = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_object = _byte.as_pointer()
# DLTensor: data, device (two integers), dimensions and element type, shape, strides, offset.
_described = ir.LiteralStructType([*[_word] * 3, *[_word.as_pointer()] * 2, _word])
_DATA, _DEVICE, _KIND, _SHAPE, _STRIDES, _OFFSET = range(6)


class _Functions(ctypes.Structure):
    """DLPackExchangeAPI."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("older", "allocate", "export", "adopt", "describe")),
    )


@cache
def look() -> Callable[..., bool] | None:
    """A function of tensors: whether all are contiguous vectors of float32 or float64 in the host's
    memory. Lazy minus signs it does not see. None where torch or Python do not have what it takes.
    """
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or object.__basicsize__ != 2 * ctypes.sizeof(ctypes.c_void_p):
        return None
    taken, title = (ctypes.py_object, ctypes.c_char_p), b"dlpack_exchange_api"
    is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, *taken)(("PyCapsule_IsValid", ctypes.pythonapi))
    inside = ctypes.PYFUNCTYPE(ctypes.c_void_p, *taken)(("PyCapsule_GetPointer", ctypes.pythonapi))
    if not is_valid(capsule, title):
        return None
    functions = _Functions.from_address(inside(capsule, title))
    if functions.major != 1 or not functions.describe:
        return None
    return as_builtin(method_of("look", lambda f: _write(f, functions.describe)), None)


def _write(f: ir.Function, describe: int) -> None:
    _, args, count = f.args
    clear, boolean = (api(f.module, name) for name in ("PyErr_Clear", "PyBool_FromLong"))
    begin, loop, body, done, no = (f.append_basic_block(s) for s in ("", "loop", "body", "done", "no"))
    builder = ir.IRBuilder(begin)
    room = builder.alloca(_described)
    builder.branch(loop)

    builder.position_at_end(loop)
    k = builder.phi(_word)
    k.add_incoming(_word(0), begin)
    builder.cbranch(builder.icmp_signed("<", k, count), body, done)

    def go_on_if(condition: Any) -> None:
        following = f.append_basic_block()
        builder.cbranch(condition, following, no)
        builder.position_at_end(following)

    def is_one_of(value: Any, *wanted: int) -> Any:
        found = ir.Constant(ir.IntType(1), 0)
        for each in wanted:
            found = builder.or_(found, builder.icmp_unsigned("==", value, value.type(each)))
        return found

    def part(which: int) -> Any:
        return builder.load(builder.gep(room, [_int(0), _int(which)]))

    builder.position_at_end(body)
    given = builder.load(builder.gep(args, [k]))
    its_class = builder.load(builder.gep(builder.bitcast(given, _word.as_pointer()), [_word(1)]))
    go_on_if(is_one_of(its_class, id(torch.Tensor), id(torch.nn.Parameter)))
    kind = ir.FunctionType(_int, (_object, _described.as_pointer()))
    code = builder.inttoptr(_word(describe), kind.as_pointer())
    failed = builder.call(code, [given, room])
    with builder.if_then(builder.icmp_signed("!=", failed, _int(0)), likely=False):
        builder.call(clear, [])
        builder.branch(no)
    go_on_if(builder.icmp_unsigned("!=", part(_DATA), _word(0)))
    go_on_if(is_one_of(part(_DEVICE), _CPU))
    go_on_if(is_one_of(part(_KIND), *(_vector_of(bits) for bits in (32, 64))))
    go_on_if(is_one_of(part(_OFFSET), 0))
    steps, length = builder.load(part(_STRIDES)), builder.load(part(_SHAPE))
    go_on_if(builder.or_(is_one_of(steps, 1), builder.icmp_signed("<=", length, _word(1))))
    k.add_incoming(builder.add(k, _word(1)), builder.block)
    builder.branch(loop)

    for block, answer in ((done, 1), (no, 0)):
        builder.position_at_end(block)
        builder.ret(builder.call(boolean, [_word(answer)]))


def _vector_of(bits: int) -> int:
    """One dimension, and the element type: class, bits, and how many in one."""
    return 1 | _FLOAT << 32 | bits << 40 | 1 << 48
