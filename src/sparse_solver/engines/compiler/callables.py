"""Compiled functions that Python calls as quickly as its own builtins.

A call through ctypes looks up how each argument is to be converted, in code and tables of its own; a
system of nine unknowns is solved in that time, and where the caches hold the numbers of a large one it
takes several times as long. So a function here is a builtin of CPython, whose code, in LLVM's language,
turns Python's integers into words, releases the GIL and calls.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from .native import address_of

__all__ = ["api", "as_builtin", "callable_at", "method_of"]

_FASTCALL = 0x0080  # CPython's METH_FASTCALL: (self, pointer to arguments, their number)
_word, _real, _object = ir.IntType(64), ir.DoubleType(), ir.IntType(8).as_pointer()
# CPython's only quick way to 64 bits where its long has them; 32 on Windows.
_AS_WORD = "PyLong_AsLong" if ctypes.sizeof(ctypes.c_long) == 8 else "PyLong_AsLongLong"
_API = {  # of CPython, by name: what it returns and takes
    _AS_WORD: (_word, (_object,)),
    "PyLong_FromLongLong": (_object, (_word,)),
    "PyFloat_FromDouble": (_object, (_real,)),
    "PyBool_FromLong": (_object, (_word,)),
    "PyErr_Clear": (ir.VoidType(), ()),
    "PyErr_Occurred": (_object, ()),
    "PyErr_BadArgument": (ir.IntType(32), ()),
    "PyEval_SaveThread": (_object, ()),
    "PyEval_RestoreThread": (ir.VoidType(), (_object,)),
}


_numbers = itertools.count()
_alive: list[Method] = []  # functions refer to them, and nobody tells when the last one goes


class Method(ctypes.Structure):
    """CPython's PyMethodDef, for functions that are given where their arguments are, and how many."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("code", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def method_of(title: str, write: Callable[[ir.Function], None]) -> Method:
    """The method whose code `write` puts into a function: of self, the arguments' place and number."""
    # Two threads that come first at once both compile it, and either's function may live on.
    name = f"sparse_solver.{title}.{next(_numbers)}"
    module = ir.Module(name)
    kind = ir.FunctionType(_object, (_object, _object.as_pointer(), _word))
    write(ir.Function(module, kind, name))
    method = Method(title.encode(), address_of(module, name), _FASTCALL, None)
    _alive.append(method)
    return method


def as_builtin(method: Method, itself: object) -> Callable[..., Any]:
    """A builtin of CPython, whose code is given `itself` as its `self`."""
    given = ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p
    make = ctypes.PYFUNCTYPE(ctypes.py_object, *given)(("PyCFunction_NewEx", ctypes.pythonapi))
    return make(ctypes.addressof(method), itself, None)


def callable_at(address: int, count: int, result: type = int) -> Callable[..., Any]:
    """The compiled function at an address, for Python; it runs without the GIL.

    Parameters
    ----------
    address : int
        Where the code begins, which must live on.
    count : int
        How many arguments it takes: integers of 64 bits or pointers, given as integers.
    result : {int, float}
        What it returns: an integer of 64 bits or a double.
    """
    return as_builtin(_method(count, result), address)


@cache
def _method(count: int, result: type) -> Method:
    """How functions of so many arguments are called, whose address is `self`."""
    return method_of("compiled", lambda f: _write(f, count, result))


def _write(f: ir.Function, count: int, result: type) -> None:
    """The code: check the number of arguments, read them, call, and make an object of what comes."""
    itself, args, given = f.args
    its = {name: api(f.module, name) for name in _API}
    builder = ir.IRBuilder(f.append_basic_block())
    refused, nothing = f.append_basic_block("refused"), ir.Constant(_object, None)

    def go_on_if(condition: Any) -> None:
        following = f.append_basic_block()
        builder.cbranch(condition, following, refused)
        builder.position_at_end(following)

    go_on_if(builder.icmp_signed("==", given, ir.Constant(_word, count)))
    objects = [builder.load(builder.gep(args, [ir.Constant(_word, k)])) for k in range(count)]
    address, *words = (builder.call(its[_AS_WORD], [o]) for o in (itself, *objects))
    odd = ir.Constant(ir.IntType(1), 0)  # -1 may be a number, or mean that there was none
    for word in words:
        odd = builder.or_(odd, builder.icmp_signed("==", word, ir.Constant(_word, -1)))
    with builder.if_then(odd, likely=False):
        error = builder.call(its["PyErr_Occurred"], [])
        go_on_if(builder.icmp_unsigned("==", error, nothing))

    kind = ir.FunctionType(_real if result is float else _word, [_word] * count)
    code = builder.inttoptr(address, kind.as_pointer())
    state = builder.call(its["PyEval_SaveThread"], [])
    found = builder.call(code, words)
    builder.call(its["PyEval_RestoreThread"], [state])
    made = "PyFloat_FromDouble" if result is float else "PyLong_FromLongLong"
    builder.ret(builder.call(its[made], [found]))

    builder.position_at_end(refused)
    error = builder.call(its["PyErr_Occurred"], [])
    with builder.if_then(builder.icmp_unsigned("==", error, nothing)):
        builder.call(its["PyErr_BadArgument"], [])
    builder.ret(nothing)


def api(module: ir.Module, name: str) -> ir.Function:
    """A function of CPython, for code in this module."""
    place = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    llvm.add_symbol(name, place)
    returned, taken = _API[name]
    return ir.Function(module, ir.FunctionType(returned, taken), name)
