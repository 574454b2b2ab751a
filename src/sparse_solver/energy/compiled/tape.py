"""A program of scalar operations, and its derivatives as more of the same.

Operations are numbered in the order in which they are first met and written down once: a repeated
one gets the number it has, and what is constant, zero or one is simplified away. So derivatives stay
as small as by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["Tape", "UNARY"]

# name: (value, derivative from (tape, argument, result))
UNARY: dict[str, tuple[Callable[[float], float], Callable[[Tape, int, int], int]]] = {
    "sqrt": (math.sqrt, lambda t, a, y: t.div(t.const(0.5), y)),
    "exp": (math.exp, lambda t, a, y: y),
    "expm1": (math.expm1, lambda t, a, y: t.add(y, t.const(1))),
    "log": (math.log, lambda t, a, y: t.div(t.const(1), a)),
    "log1p": (math.log1p, lambda t, a, y: t.div(t.const(1), t.add(t.const(1), a))),
    "sin": (math.sin, lambda t, a, y: t.unary("cos", a)),
    "cos": (math.cos, lambda t, a, y: t.neg(t.unary("sin", a))),
    "tan": (math.tan, lambda t, a, y: t.add(t.const(1), t.mul(y, y))),
    "tanh": (math.tanh, lambda t, a, y: t.sub(t.const(1), t.mul(y, y))),
    "sinh": (math.sinh, lambda t, a, y: t.unary("cosh", a)),
    "cosh": (math.cosh, lambda t, a, y: t.unary("sinh", a)),
    "atan": (math.atan, lambda t, a, y: t.div(t.const(1), t.add(t.const(1), t.mul(a, a)))),
    "asin": (
        math.asin,
        lambda t, a, y: t.div(t.const(1), t.unary("sqrt", t.sub(t.const(1), t.mul(a, a)))),
    ),
    "acos": (
        math.acos,
        lambda t, a, y: t.div(t.const(-1), t.unary("sqrt", t.sub(t.const(1), t.mul(a, a)))),
    ),
    "abs": (abs, lambda t, a, y: t.unary("sign", a)),
    "sign": (lambda a: float((a > 0) - (a < 0)), lambda t, a, y: t.const(0)),
}
_COMPARE = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}

Node = tuple  # (operation, argument, ...): arguments are numbers of nodes, except for constants


class Tape:
    """Operations by number."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Node, int] = {}

    def _new(self, *node: object) -> int:
        at = self._known.get(node)
        if at is None:
            at = self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return at

    def value(self, i: int) -> float | None:
        """The number that i stands for, if it is a constant."""
        node = self.nodes[i]
        return node[1] if node[0] == "const" else None

    # ---- operations ----

    def const(self, c: float) -> int:
        """A number."""
        return self._new("const", float(c))

    def input(self, name: str) -> int:
        """A number given at run time, by the expression that reads it."""
        return self._new("input", name)

    def add(self, a: int, b: int) -> int:
        """a + b."""
        u, v = self.value(a), self.value(b)
        if u is not None and v is not None:
            return self.const(u + v)
        if u == 0:
            return b
        if v == 0:
            return a
        if self.nodes[b][0] == "neg":
            return self.sub(a, self.nodes[b][1])
        return self._new("add", *sorted((a, b)))

    def sub(self, a: int, b: int) -> int:
        """a - b."""
        u, v = self.value(a), self.value(b)
        if u is not None and v is not None:
            return self.const(u - v)
        if v == 0:
            return a
        if u == 0:
            return self.neg(b)
        if a == b:
            return self.const(0)
        return self._new("sub", a, b)

    def neg(self, a: int) -> int:
        """-a."""
        u = self.value(a)
        if u is not None:
            return self.const(-u)
        if self.nodes[a][0] == "neg":
            return self.nodes[a][1]
        if self.nodes[a][0] == "sub":
            return self.sub(self.nodes[a][2], self.nodes[a][1])
        return self._new("neg", a)

    def mul(self, a: int, b: int) -> int:
        """a b."""
        u, v = self.value(a), self.value(b)
        if u is not None and v is not None:
            return self.const(u * v)
        if u is not None:
            a, b, v = b, a, u
        if v == 0:
            return self.const(0)
        if v == 1:
            return a
        if v == -1:
            return self.neg(a)
        if self.nodes[a][0] == "neg":
            return self.neg(self.mul(self.nodes[a][1], b))
        if self.nodes[b][0] == "neg":
            return self.neg(self.mul(a, self.nodes[b][1]))
        return self._new("mul", *sorted((a, b)))

    def div(self, a: int, b: int) -> int:
        """a / b."""
        u, v = self.value(a), self.value(b)
        if v is not None and v != 0:
            return self.const(u / v) if u is not None else self.mul(a, self.const(1 / v))
        if u == 0:
            return a
        if u == 1:
            return self._new("div", a, b)
        # Many quotients share a divisor, and products are cheaper.
        return self.mul(a, self._new("div", self.const(1), b))

    def power(self, a: int, b: int) -> int:
        """a ** b."""
        v = self.value(b)
        if v == 0:
            return self.const(1)
        if v == 0.5:
            return self.unary("sqrt", a)
        if v is not None and v == int(v) and abs(v) <= 8:
            y = a
            for _ in range(int(abs(v)) - 1):
                y = self.mul(y, a)
            return y if v > 0 else self.div(self.const(1), y)
        return self._new("pow", a, b)

    def unary(self, name: str, a: int) -> int:
        """A function of one number, see UNARY."""
        u = self.value(a)
        if u is not None:
            try:
                return self.const(UNARY[name][0](u))
            except (ValueError, OverflowError):  # NaN and infinity are for run time
                pass
        return self._new(name, a)

    def compare(self, name: str, a: int, b: int) -> int:
        """A truth value."""
        u, v = self.value(a), self.value(b)
        if u is not None and v is not None:
            return self.const(float(_COMPARE[name](u, v)))
        return self._new(name, a, b)

    def where(self, c: int, a: int, b: int) -> int:
        """a if c, else b."""
        u = self.value(c)
        if u is not None:
            return a if u else b
        return a if a == b else self._new("where", c, a, b)

    # ---- derivatives ----

    def partials(self, i: int) -> list[tuple[int, int]]:
        """(argument, derivative with respect to it) of operation i, `where` excepted."""
        op, *args = self.nodes[i]
        if op in ("const", "input", "and", "or", "not") or op in _COMPARE:
            return []
        one = self.const(1)
        if op in UNARY:
            return [(args[0], UNARY[op][1](self, args[0], i))]
        a, b = (*args, args[0])[:2]
        if op == "add":
            return [(a, one), (b, one)]
        if op == "sub":
            return [(a, one), (b, self.const(-1))]
        if op == "neg":
            return [(a, self.const(-1))]
        if op == "mul":
            return [(a, b), (b, a)]
        if op == "div":  # 1 / b
            return [(b, self.neg(self.mul(i, i)))] if self.value(a) == 1 else self._quotient(i, a, b)
        if op == "pow":
            parts = [(a, self.mul(b, self.power(a, self.sub(b, one))))]
            if self.value(b) is None:
                parts.append((b, self.mul(i, self.unary("log", a))))
            return parts
        if op == "atan2":
            r = self.add(self.mul(a, a), self.mul(b, b))
            return [(a, self.div(b, r)), (b, self.neg(self.div(a, r)))]
        raise NotImplementedError(f"no derivative of {op}")

    def _quotient(self, i: int, a: int, b: int) -> list[tuple[int, int]]:
        inverse = self.div(self.const(1), b)
        return [(a, inverse), (b, self.neg(self.mul(i, inverse)))]

    def needed(self, outputs: Sequence[int]) -> list[int]:
        """The operations that outputs depend on, in an order in which they can be done."""
        seen, stack = set(outputs), list(outputs)
        while stack:
            op, *args = self.nodes[stack.pop()]
            if op not in ("const", "input"):
                fresh = [a for a in args if a not in seen]
                seen.update(fresh)
                stack += fresh
        return sorted(seen)  # arguments are always older than what uses them

    def gradient(self, y: int, inputs: Sequence[int]) -> list[int]:
        """dy/dx for each x of inputs, by one sweep back."""
        bar = {y: self.const(1)}
        zero = self.const(0)
        for i in reversed(self.needed([y])):
            g = bar.get(i)
            if g is None or g == zero:
                continue
            if self.nodes[i][0] == "where":
                _, c, a, b = self.nodes[i]
                shares = [(a, self.where(c, g, zero)), (b, self.where(c, zero, g))]
            else:
                shares = [(a, self.mul(g, d)) for a, d in self.partials(i)]
            for a, share in shares:
                bar[a] = self.add(bar[a], share) if a in bar else share
        return [bar.get(x, zero) for x in inputs]

    def tangents(self, outputs: Sequence[int], x: int) -> list[int]:
        """d output / dx for each output, by one sweep forth."""
        zero = self.const(0)
        dot = {x: self.const(1)}
        for i in self.needed(outputs):
            if i in dot or self.nodes[i][0] in ("const", "input"):
                continue
            if self.nodes[i][0] == "where":
                _, c, a, b = self.nodes[i]
                total = self.where(c, dot.get(a, zero), dot.get(b, zero))
            elif not any(a in dot for a in self.nodes[i][1:]):
                continue
            else:
                total = zero
                for a, d in self.partials(i):
                    if a in dot:
                        total = self.add(total, self.mul(d, dot[a]))
            if total != zero:
                dot[i] = total
        return [dot.get(y, zero) for y in outputs]

    def gauss_newton(self, outputs: Sequence[int], inputs: Sequence[int]) -> list[int]:
        """The upper half of J^T J for the Jacobian J of the outputs, row by row."""
        J = [self.tangents(outputs, x) for x in inputs]  # column by column
        return [self._dot(J[i], J[j]) for i in range(len(J)) for j in range(i, len(J))]

    def half_square(self, outputs: Sequence[int]) -> int:
        """Half the sum of their squares."""
        return self.mul(self.const(0.5), self._dot(outputs, outputs))

    def _dot(self, a: Sequence[int], b: Sequence[int]) -> int:
        total = self.const(0)
        for p, q in zip(a, b, strict=True):
            total = self.add(total, self.mul(p, q))
        return total

    def hessian(self, y: int, inputs: Sequence[int]) -> list[int]:
        """The upper half of the second derivative, row by row."""
        g = self.gradient(y, inputs)
        columns = [self.tangents(g[: j + 1], x) for j, x in enumerate(inputs)]
        n = len(inputs)
        return [columns[j][i] for i in range(n) for j in range(i, n)]
