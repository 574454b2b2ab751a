"""Substitution in a front, for many right-hand sides: four rows of X and two vectors of columns at a
time, or fewer and more, stay in registers.

Rows of X lie where they lie: those below a front are read and written by their indices, and nothing is
gathered before or scattered after. Columns are whole vectors, so that there are no masks. In LLVM's
language for the same reason as `tile`.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ..compiler import Value, builtin
from ..compiler.types import INT
from .vectors import I64, Vectors

__all__ = ["subtract_below", "triangle_down", "triangle_up"]

_SHAPES = {4: (2, 1), 3: (2, 1), 2: (4, 1), 1: (8, 1)}  # rows of X in registers: vectors of each


class _Block:
    """Some rows of X, a vector or two of each."""

    def __init__(self, vectors: Vectors, pointers: list, first, width: int) -> None:
        self.vectors, self.builder, self.pointers = vectors, vectors.builder, pointers
        lanes = vectors.lanes
        self.offsets = [self.builder.add(first, ir.Constant(I64, v * lanes)) for v in range(width)]
        self.cells = [[self.builder.slot(vectors.kind) for _ in range(width)] for _ in pointers]
        for pointer, row in zip(pointers, self.cells, strict=True):
            for x, cell in zip(self._read(pointer), row, strict=True):
                self.builder.store(x, cell)

    def _read(self, pointer) -> list:
        return [self.vectors.load(pointer, offset) for offset in self.offsets]

    def less(self, steps, source: Callable, factors: Callable) -> None:
        """Subtract row source(step) times the number at factors(step)[q] from row q, for all steps."""
        with self.builder.count(steps) as step:
            x = self._read(source(step))
            for q, factor in enumerate(factors(step)):
                self._less(q, factor, x)

    def _less(self, q: int, factor, x: list) -> None:
        b, vectors = self.builder, self.vectors
        for part, form in enumerate([x, [self._turn(v) for v in x]][: vectors.parts]):
            number = b.load(b.gep(factor, [ir.Constant(I64, part)]))
            minus = b.fneg(vectors.all(number))
            for v, cell in zip(form, self.cells[q], strict=True):
                b.store(vectors.fma(v, minus, b.load(cell)), cell)

    def _turn(self, value):
        """i times complex numbers."""
        if not self.vectors.complex:
            return value
        return self.builder.fmul(self.vectors.swap(value), self.vectors.signs(-1.0, 1.0))

    def triangle(self, inverses: list, order: range, factor: Callable) -> None:
        """Divide the rows, in this order, by the diagonal; factor(p, q) is row q's in row p."""
        b = self.builder
        for place, q in enumerate(order):
            scale = self.vectors.all(inverses[q])
            for cell in self.cells[q]:
                b.store(b.fmul(b.load(cell), scale), cell)
            x = [b.load(cell) for cell in self.cells[q]]
            for p in order[place + 1 :]:
                self._less(p, factor(p, q), x)

    def write(self) -> None:
        """Back to X."""
        for pointer, row in zip(self.pointers, self.cells, strict=True):
            for offset, cell in zip(self.offsets, row, strict=True):
                self.vectors.store(self.builder.load(cell), pointer, offset)


def _blocks(b, vectors: Vectors, left, width, prepare: Callable) -> None:
    """prepare(rows) for as many rows as there are left, four at most; it returns what to do with
    (first, vectors), for all columns.
    """
    for rows, several in _SHAPES.items():
        last = rows == max(_SHAPES)
        with b.if_then(b.icmp_signed(">=" if last else "==", left, ir.Constant(I64, rows))):
            body, done = prepare(rows), ir.Constant(I64, 0)
            for vs in several:
                wide = ir.Constant(I64, vs * vectors.lanes)
                times = b.udiv(b.sub(width, done), wide)
                with b.count(times) as chunk:
                    body(b.add(done, b.mul(chunk, wide)), vs)
                done = b.add(done, b.mul(times, wide))


class _Front:
    """Pointers and distances in real numbers."""

    def __init__(self, b, numbers: tuple, distances: tuple) -> None:
        self.builder = b
        self.vectors = Vectors(b, numbers[0].type.to)
        self.numbers = [self.vectors.real_pointer(p.llvm) for p in numbers]
        parts = ir.Constant(I64, self.vectors.parts)
        self.distances = [b.mul(d.llvm, parts) for d in distances]

    def move(self, pointer, *steps: tuple):
        """The pointer moved on by the sum of products."""
        b = self.builder
        for count, distance in steps:
            count = ir.Constant(I64, count) if isinstance(count, int) else count
            pointer = b.gep(pointer, [b.mul(count, distance)])
        return pointer

    def number(self, pointer, count: int):
        """The pointer moved on by so many numbers."""
        return self.builder.gep(pointer, [ir.Constant(I64, count * self.vectors.parts)])

    def indexed(self, indices, X, k) -> Callable:
        """Row indices[p] of X."""
        b = self.builder

        def row(p):
            p = ir.Constant(I64, p) if isinstance(p, int) else p
            return self.move(X, (b.read(b.place(indices, Value(INT, (p,)))).llvm, k))

        return row

    def inverses(self, D, ldl, rows: int) -> list:
        """One over the diagonal."""
        b, one = self.builder, ir.Constant(self.vectors.real, 1.0)
        places = (self.number(self.move(D, (q, ldl)), q) for q in range(rows))
        return [b.fdiv(one, b.load(place)) for place in places]


@builtin
def triangle_down(b, L, ldl, j, left, X, k):
    """Rows j to j + min(4, left) of X = L^-1 X, those before being done.

    L (lower triangle), X rows of k numbers.
    """
    front = _Front(b, (L, X), (ldl, k))
    (L, X), (ldl, k) = front.numbers, front.distances
    unit = ir.Constant(I64, front.vectors.parts)
    row, x = front.move(L, (j.llvm, unit)), front.move(X, (j.llvm, k))
    D = front.move(row, (j.llvm, ldl))

    def prepare(rows: int) -> Callable:
        inverses = front.inverses(D, ldl, rows)

        def body(first, width: int) -> None:
            block = _Block(front.vectors, [front.move(x, (q, k)) for q in range(rows)], first, width)

            def factors(step):
                column = front.move(row, (step, ldl))
                return [front.number(column, q) for q in range(rows)]

            block.less(j.llvm, lambda step: front.move(X, (step, k)), factors)
            block.triangle(inverses, range(rows), lambda p, q: front.number(front.move(D, (q, ldl)), p))
            block.write()

        return body

    _blocks(b, front.vectors, left.llvm, k, prepare)


@builtin
def subtract_below(b, M, ldl, w, x, X, indices, left, k):
    """Rows indices[:min(4, left)] of X -= M x for w rows x."""
    front = _Front(b, (M, x, X), (ldl, k))
    (M, x, X), (ldl, k) = front.numbers, front.distances
    target = front.indexed(indices, X, k)

    def prepare(rows: int) -> Callable:
        pointers = [target(q) for q in range(rows)]

        def body(first, width: int) -> None:
            block = _Block(front.vectors, pointers, first, width)

            def factors(step):
                column = front.move(M, (step, ldl))
                return [front.number(column, q) for q in range(rows)]

            block.less(w.llvm, lambda step: front.move(x, (step, k)), factors)
            block.write()

        return body

    _blocks(b, front.vectors, left.llvm, k, prepare)


@builtin
def triangle_up(b, L, ldl, w, r, j, left, x, X, indices, k):
    """Rows j to j + min(4, left) of x = L11^-T (x - L21^T X[indices]), those after being done.

    L (w + r rows of w columns), x w rows of k numbers, r indices.
    """
    front = _Front(b, (L, x, X), (ldl, k))
    (L, x, X), (ldl, k) = front.numbers, front.distances
    unit = ir.Constant(I64, front.vectors.parts)
    column, mine = front.move(L, (j.llvm, ldl)), front.move(x, (j.llvm, k))
    D = front.move(column, (j.llvm, unit))
    source = front.indexed(indices, X, k)

    def prepare(rows: int) -> Callable:
        inverses = front.inverses(D, ldl, rows)
        columns = [front.move(column, (q, ldl)) for q in range(rows)]
        after = b.add(j.llvm, ir.Constant(I64, rows))
        rest = b.sub(w.llvm, after)

        def body(first, width: int) -> None:
            block = _Block(front.vectors, [front.move(mine, (q, k)) for q in range(rows)], first, width)

            def factors(start) -> Callable:
                return lambda step: [front.move(c, (b.add(start, step), unit)) for c in columns]

            block.less(r.llvm, source, factors(w.llvm))
            block.less(rest, lambda step: front.move(x, (b.add(after, step), k)), factors(after))
            backwards = range(rows - 1, -1, -1)
            block.triangle(inverses, backwards, lambda p, q: front.number(front.move(D, (p, ldl)), q))
            block.write()

        return body

    _blocks(b, front.vectors, left.llvm, k, prepare)
