"""Between items, each in a row of memory, and lanes: eight by eight numbers at a time, transposed in
registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .lanes import _address, _plane, _planes, _scalar, _vector, _wide, get, put
from .layout import OPTIONS, WIDTH

__all__ = ["gather", "put_eight", "scatter"]

_HALF = [list(range(k, 2 * WIDTH, 2)) for k in (0, 1)]  # real parts, imaginary parts
_MIXED = [[p // 2 + WIDTH * (p % 2) + k * WIDTH // 2 for p in range(WIDTH)] for k in (0, 1)]


def _shuffle(builder: Any, x: Any, y: Any, mask: list[int]) -> Any:
    kind = ir.VectorType(ir.IntType(32), WIDTH)
    return builder.shuffle_vector(x, y, ir.Constant(kind, mask))


def _transposed(builder: Any, rows: list) -> list:
    """Eight vectors of eight: one exchange for each bit of the places."""
    bit = 1
    while bit < WIDTH:
        first = [p if not p & bit else WIDTH + (p ^ bit) for p in range(WIDTH)]
        other = [p | bit if not p & bit else WIDTH + p for p in range(WIDTH)]
        for k in range(WIDTH):
            if not k & bit:
                pair = rows[k], rows[k | bit]
                rows[k], rows[k | bit] = (_shuffle(builder, *pair, mask) for mask in (first, other))
        bit *= 2
    return rows


def _item(context: Any, builder: Any, array: Any, value: Any, at: Any, stride: Any, lane: int) -> Any:
    """Where eight numbers of item `lane` lie in the flat array, as a pointer to real scalars."""
    data = context.make_array(array)(context, builder, value).data
    base = builder.bitcast(data, _scalar(array.dtype).as_pointer())
    place = builder.add(_wide(builder, at), builder.mul(ir.Constant(stride.type, lane), stride))
    return builder.gep(base, [builder.mul(place, ir.Constant(place.type, _planes(array.dtype)))])


def _vectors(builder: Any, array: Any, address: Any) -> list:
    """The one or two vectors of a row, as pointers."""
    kind = _vector(array.dtype).as_pointer()
    return [builder.bitcast(_plane(builder, address, k), kind) for k in range(_planes(array.dtype))]


def _load(builder: Any, pointer: Any) -> Any:
    found = builder.load(pointer)
    found.align = 4
    return found


@intrinsic
def _take_eight(typing: Any, block: Any, row: Any, flat: Any, at: Any, stride: Any) -> tuple:
    """Rows `row` to `row + 7` of a block from flat[at + stride * lane:][:8] for each lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, row, source, at, stride = args
        planes: list[list] = [[] for _ in range(_planes(flat.dtype))]
        for lane in range(WIDTH):
            address = _item(context, builder, flat, source, at, stride, lane)
            parts = [_load(builder, p) for p in _vectors(builder, flat, address)]
            if len(parts) == 2:  # numbers in memory are pairs
                parts = [_shuffle(builder, *parts, mask) for mask in _HALF]
            for plane, part in zip(planes, parts, strict=True):
                plane.append(part)
        planes = [_transposed(builder, plane) for plane in planes]
        for k in range(WIDTH):
            place = builder.add(_wide(builder, row), ir.Constant(ir.IntType(64), k))
            address = _address(context, builder, block, to, place)
            for plane, pointer in zip(planes, _vectors(builder, block, address), strict=True):
                builder.store(plane[k], pointer).align = 4
        return context.get_dummy_value()

    return types.void(block, row, flat, at, stride), generate


@intrinsic
def put_eight(typing: Any, block: Any, row: Any, flat: Any, at: Any, stride: Any) -> tuple:
    """Rows `row` to `row + 7` of a block to flat[at + stride * lane:][:8] for each lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, row, to, at, stride = args
        planes: list[list] = [[] for _ in range(_planes(flat.dtype))]
        for k in range(WIDTH):
            place = builder.add(_wide(builder, row), ir.Constant(ir.IntType(64), k))
            address = _address(context, builder, block, source, place)
            for plane, pointer in zip(planes, _vectors(builder, block, address), strict=True):
                plane.append(_load(builder, pointer))
        planes = [_transposed(builder, plane) for plane in planes]
        for lane in range(WIDTH):
            parts = [plane[lane] for plane in planes]
            if len(parts) == 2:
                parts = [_shuffle(builder, *parts, mask) for mask in _MIXED]
            address = _item(context, builder, flat, to, at, stride, lane)
            for part, pointer in zip(parts, _vectors(builder, flat, address), strict=True):
                builder.store(part, pointer).align = 4
        return context.get_dummy_value()

    return types.void(block, row, flat, at, stride), generate


@njit(**OPTIONS)
def gather(block, flat, at, stride, step, rows, count):
    """Row i of a block, for i below `rows`, from flat[at + stride * lane + step * i]; lanes from
    `count` on repeat the one before.
    """
    if count == WIDTH and step == 1 and rows >= WIDTH:
        for i in range(0, rows, WIDTH):
            k = min(i, rows - WIDTH)  # the last eight overlap those before
            _take_eight(block, k, flat, at + k, stride)
        return
    for lane in range(WIDTH):
        source = at + min(lane, count - 1) * stride
        for i in range(rows):
            put(block, i, lane, flat[source + i * step])


@njit(**OPTIONS)
def scatter(block, flat, at, stride, step, rows, count):
    """The way back, of the first `count` lanes."""
    if count == WIDTH and step == 1 and rows >= WIDTH:
        for i in range(0, rows, WIDTH):
            k = min(i, rows - WIDTH)
            put_eight(block, k, flat, at + k, stride)
        return
    for lane in range(count):
        target = at + lane * stride
        for i in range(rows):
            flat[target + i * step] = get(block, i, lane)
