"""`Lanes`: one number of each of eight matrices, in one SIMD register (or two).

numba vectorises loops, not the straight line that eight matrices make together, so the vector
instructions are spelt out here. A row of a block is ``Lanes.WIDTH`` numbers; complex rows keep their
real parts first and their imaginary parts after, in the memory of a complex array of the same shape,
which nothing but these functions may read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from .layout import WIDTH

__all__ = [
    "absolute",
    "add",
    "conjugate",
    "fma",
    "fms",
    "from_real",
    "get",
    "largest",
    "load",
    "mul",
    "put",
    "real_part",
    "reciprocal",
    "root",
    "size",
    "smallest",
    "splat",
    "store",
    "sub",
    "zero",
]

_CONTRACT = ("contract",)  # a product and a sum may become one instruction
_int = ir.IntType(64)


class Lanes(types.Type):
    """The numba type of eight numbers."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(f"Lanes({dtype})")


def _real(dtype: types.Type) -> types.Type:
    return dtype.underlying_float if isinstance(dtype, types.Complex) else dtype


def _scalar(dtype: types.Type) -> ir.Type:
    return ir.DoubleType() if _real(dtype) == types.float64 else ir.FloatType()


def _vector(dtype: types.Type) -> ir.Type:
    return ir.VectorType(_scalar(dtype), WIDTH)


def _planes(dtype: types.Type) -> int:
    return 2 if isinstance(dtype, types.Complex) else 1


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        vector = _vector(kind.dtype)
        whole = ir.LiteralStructType([vector, vector]) if _planes(kind.dtype) == 2 else vector
        super().__init__(manager, kind, whole)


def _split(builder: Any, dtype: types.Type, value: Any) -> list:
    if _planes(dtype) == 1:
        return [value]
    return [builder.extract_value(value, 0), builder.extract_value(value, 1)]


def _join(builder: Any, parts: list) -> Any:
    if len(parts) == 1:
        return parts[0]
    whole = ir.Constant(ir.LiteralStructType([p.type for p in parts]), ir.Undefined)
    for k, part in enumerate(parts):
        whole = builder.insert_value(whole, part, k)
    return whole


def _wide(builder: Any, index: Any) -> Any:
    return index if index.type.width == 64 else builder.sext(index, _int)


def _address(context: Any, builder: Any, array: Any, value: Any, row: Any, lane: Any = None) -> Any:
    """Of a row of `array` (rows, WIDTH), as a pointer to its real scalars."""
    data = context.make_array(array)(context, builder, value).data
    base = builder.bitcast(data, _scalar(array.dtype).as_pointer())
    at = builder.mul(_wide(builder, row), ir.Constant(_int, WIDTH * _planes(array.dtype)))
    return builder.gep(base, [at if lane is None else builder.add(at, _wide(builder, lane))])


def _plane(builder: Any, address: Any, k: int) -> Any:
    return builder.gep(address, [ir.Constant(_int, k * WIDTH)])


# ---- memory ----


@intrinsic
def load(typing: Any, array: Any, row: Any) -> tuple:
    """Row `row` of a block."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, array, *args)
        parts = []
        for k in range(_planes(array.dtype)):
            pointer = builder.bitcast(_plane(builder, address, k), _vector(array.dtype).as_pointer())
            part = builder.load(pointer)
            part.align = 4
            parts.append(part)
        return _join(builder, parts)

    return Lanes(array.dtype)(array, row), generate


@intrinsic
def store(typing: Any, array: Any, row: Any, value: Any) -> tuple:
    """Write a row of a block."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, array, *args[:2])
        for k, part in enumerate(_split(builder, array.dtype, args[2])):
            pointer = builder.bitcast(_plane(builder, address, k), _vector(array.dtype).as_pointer())
            builder.store(part, pointer).align = 4
        return context.get_dummy_value()

    return types.void(array, row, value), generate


@intrinsic
def get(typing: Any, array: Any, row: Any, lane: Any) -> tuple:
    """The number of one matrix in a row."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, array, *args)
        return _join_scalar(context, builder, array, address)

    return array.dtype(array, row, lane), generate


def _join_scalar(context: Any, builder: Any, array: Any, address: Any) -> Any:
    parts = [builder.load(_plane(builder, address, k)) for k in range(_planes(array.dtype))]
    if len(parts) == 1:
        return parts[0]
    number = context.make_complex(builder, array.dtype)
    number.real, number.imag = parts
    return number._getvalue()


@intrinsic
def put(typing: Any, array: Any, row: Any, lane: Any, value: Any) -> tuple:
    """Write the number of one matrix into a row."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, array, *args[:3])
        if _planes(array.dtype) == 1:
            parts = [args[3]]
        else:
            number = context.make_complex(builder, array.dtype, value=args[3])
            parts = [number.real, number.imag]
        for k, part in enumerate(parts):
            builder.store(part, _plane(builder, address, k))
        return context.get_dummy_value()

    return types.void(array, row, lane, array.dtype), generate


# ---- arithmetic ----


def _times(B: Any, x: list, y: list) -> list:
    if len(x) == 1:
        return [B.fmul(x[0], y[0], flags=_CONTRACT)]
    return _fused(B, [ir.Constant(x[0].type, [0.0] * WIDTH)] * 2, x, y, False)


def _fused(B: Any, c: list, x: list, y: list, minus: bool) -> list:
    """C + x y, or c - x y."""

    def plus(s: Any, u: Any, v: Any) -> Any:
        return B.fadd(s, B.fmul(u, v, flags=_CONTRACT), flags=_CONTRACT)

    def less(s: Any, u: Any, v: Any) -> Any:
        return B.fsub(s, B.fmul(u, v, flags=_CONTRACT), flags=_CONTRACT)

    one, other = (less, plus) if minus else (plus, less)
    if len(c) == 1:
        return [one(c[0], x[0], y[0])]
    return [
        other(one(c[0], x[0], y[0]), x[1], y[1]),
        one(one(c[1], x[0], y[1]), x[1], y[0]),
    ]


def _call(B: Any, name: str, *args: Any) -> Any:
    kind = args[0].type
    suffix = "f64" if isinstance(kind.element, ir.DoubleType) else "f32"
    function = ir.FunctionType(kind, [kind] * len(args))
    module = B.module
    name = f"llvm.{name}.v{WIDTH}{suffix}"
    declared = module.globals.get(name) or ir.Function(module, function, name)
    return B.call(declared, args)


def _choose(B: Any, order: str, x: Any, y: Any) -> Any:
    """Larger or smaller, where one NaN makes the outcome NaN."""
    better = B.or_(B.fcmp_ordered(order, x, y), B.fcmp_unordered("uno", x, x))
    return B.select(better, x, y)


def _scaled(B: Any, x: list) -> tuple:
    """(s, x / s, |x / s|^2) for complex x, s its larger part: squares of x might leave the range."""
    tiny = 2.0**-1022 if isinstance(x[0].type.element, ir.DoubleType) else 2.0**-126
    s = ir.Constant(x[0].type, [tiny] * WIDTH)
    for part in x:
        s = _choose(B, ">", s, _call(B, "fabs", part))
    u = [B.fdiv(part, s) for part in x]
    return s, u, B.fadd(B.fmul(u[0], u[0]), B.fmul(u[1], u[1]))


def _modulus(B: Any, x: list) -> list:
    if len(x) == 1:
        return [_call(B, "fabs", x[0])]
    s, _, square = _scaled(B, x)
    return [B.fmul(s, _call(B, "sqrt", square))]


def _taxicab(B: Any, x: list) -> list:
    sizes = [_call(B, "fabs", part) for part in x]
    return [sizes[0] if len(sizes) == 1 else B.fadd(*sizes)]


def _inverse(B: Any, x: list) -> list:
    one = ir.Constant(x[0].type, [1.0] * WIDTH)
    if len(x) == 1:
        return [B.fdiv(one, x[0])]
    s, u, square = _scaled(B, x)
    over = B.fdiv(B.fdiv(one, square), s)
    return [B.fmul(u[0], over), B.fneg(B.fmul(u[1], over))]


def _typed(combine: Callable, real: bool, kinds: tuple) -> tuple:
    """What an intrinsic of Lanes returns; `combine` works on lists of planes."""
    dtype = kinds[0].dtype

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = (_split(builder, kind.dtype, a) for kind, a in zip(kinds, args, strict=True))
        return _join(builder, combine(builder, *parts))

    return Lanes(_real(dtype) if real else dtype)(*kinds), generate


# numba reads the number of arguments off the function, so there is a maker for each.


def _unary(combine: Callable, real: bool = False) -> Any:
    @intrinsic
    def operation(typing: Any, x: Any) -> tuple:
        return _typed(combine, real, (x,))

    return operation


def _binary(combine: Callable) -> Any:
    @intrinsic
    def operation(typing: Any, x: Any, y: Any) -> tuple:
        return _typed(combine, False, (x, y))

    return operation


def _ternary(combine: Callable) -> Any:
    @intrinsic
    def operation(typing: Any, c: Any, x: Any, y: Any) -> tuple:
        return _typed(combine, False, (c, x, y))

    return operation


mul = _binary(_times)
add = _binary(lambda B, x, y: [B.fadd(a, b) for a, b in zip(x, y, strict=True)])
sub = _binary(lambda B, x, y: [B.fsub(a, b) for a, b in zip(x, y, strict=True)])
fma = _ternary(lambda B, c, x, y: _fused(B, c, x, y, False))  # c + x y
fms = _ternary(lambda B, c, x, y: _fused(B, c, x, y, True))  # c - x y
largest = _binary(lambda B, x, y: [_choose(B, ">", x[0], y[0])])  # of real numbers
smallest = _binary(lambda B, x, y: [_choose(B, "<", x[0], y[0])])
reciprocal = _unary(_inverse)
conjugate = _unary(lambda B, x: [x[0], *(B.fneg(part) for part in x[1:])])
root = _unary(lambda B, x: [_call(B, "sqrt", x[0])])  # of real numbers
absolute = _unary(_modulus, real=True)
size = _unary(_taxicab, real=True)  # |Re x| + |Im x|: |x| up to sqrt 2, and overflows no sooner than x
real_part = _unary(lambda B, x: x[:1], real=True)


# ---- constants ----


@intrinsic
def splat(typing: Any, array: Any, number: Any) -> tuple:
    """A real number in every lane, of the type of a row of the real block `array`."""
    dtype = array.dtype

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = args[1]
        if _scalar(dtype) != number.type:
            number = builder.fptrunc(number, _scalar(dtype))
        vector = ir.Constant(_vector(dtype), ir.Undefined)
        for lane in range(WIDTH):
            vector = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), lane))
        return vector

    return Lanes(dtype)(array, types.float64), generate


@intrinsic
def from_real(typing: Any, array: Any, x: Any) -> tuple:
    """Real x as a row of `array`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(args[1].type, [0.0] * WIDTH)
        return _join(builder, [args[1], *[nothing] * (_planes(array.dtype) - 1)])

    return Lanes(array.dtype)(array, x), generate


@intrinsic
def zero(typing: Any, array: Any) -> tuple:
    """Zeros, of the type of a row of `array`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.Constant(_vector(array.dtype), [0.0] * WIDTH)
        return _join(builder, [nothing] * _planes(array.dtype))

    return Lanes(array.dtype)(array), generate
