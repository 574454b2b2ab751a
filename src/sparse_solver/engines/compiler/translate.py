"""From Python's syntax tree to LLVM's language.

Of Python there is: assignment, also of several names at once and with an operator; if, while, for over
a range, break, continue, return; arithmetic, comparisons, and/or/not, x if c else y; indices of
pointers and tuples, items of named tuples by name; `.real`, `.imag`, `.conjugate()`; min, max, float,
int, math.sqrt; calls of other functions of this language and of those that emit LLVM's language
themselves (`builtin`).

A variable has the type of what is assigned to it first; a function is compiled for each combination of
types it is called with. Indices are not checked, and negative ones do not count from the end. A step
of a range that is no literal must be positive. Names from outside stand for constants.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
from typing import Any

import numpy as np
from llvmlite import ir

from .arithmetic import Arithmetic
from .functions import Builtin, Function
from .types import BOOL, INT, REAL, Scalar, Tuple, Value, constant

__all__ = ["Program"]

_BITS = INT.parts[0]


class Program:
    """Functions compiled together, each once for each combination of types."""

    def __init__(self, name: str) -> None:
        self.module = ir.Module(name)
        self.of_numbers = False  # or of integers alone
        self.instances: dict[tuple, tuple[ir.Function, Any]] = {}

    def instance(self, f: Function, types: tuple) -> tuple[ir.Function, Any]:
        """The function for arguments of these types, and the type of its result, None for none."""
        key = f, types
        if key not in self.instances:
            self.instances[key] = None, None  # type: ignore[assignment]
            kinds = [part for t in types for part in t.parts]
            number = sum(g is f for g, _ in self.instances)
            name = f"{f.__module__}.{f.__name__}.{number}"
            made = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
            made.linkage = "internal"
            made.attributes.add("nounwind")
            self.instances[key] = made, _Body(self, f, made, types).result
        found = self.instances[key]
        if found[0] is None:
            raise TypeError(f"{f.__name__} calls itself")
        return found


class _Body:
    """The translation of one function for one combination of types."""

    def __init__(self, program: Program, f: Function, made: ir.Function, types: tuple) -> None:
        self.program, self.function, self.made = program, f, made
        self.builder = Arithmetic(made.append_basic_block())
        self.variables: dict[str, tuple[Any, list]] = {}  # name: (type, slots)
        self.loops: list[tuple[ir.Block, ir.Block]] = []  # where continue and break go
        self.result: Any = None
        self._returned = False
        names = [a.arg for a in f.tree.args.args]
        if len(names) != len(types):
            raise TypeError(f"{f.__name__} takes {len(names)} arguments, not {len(types)}")
        parts = iter(made.args)
        for name, kind in zip(names, types, strict=True):
            self._assign_name(name, Value(kind, [next(parts) for _ in kind.parts]))
        self._block(f.tree.body)
        if not self._done:
            if self.result is not None:
                raise TypeError(f"{f.__name__} may end without the result it has elsewhere")
            self.builder.ret_void()

    @property
    def _done(self) -> bool:
        return self.builder.block.is_terminated

    # Statements

    def _block(self, statements: list[ast.stmt]) -> None:
        for s in statements:
            if self._done:
                return
            try:
                getattr(self, f"_{type(s).__name__}")(s)
            except (TypeError, KeyError, AttributeError) as error:
                if isinstance(error, _Located):
                    raise
                where = f"{inspect.getfile(self.function.python)}:{s.lineno}"
                raise _Located(f"{where}, in {self.function.__name__}: {error}") from error

    def _Pass(self, s: ast.Pass) -> None:
        pass

    def _Expr(self, s: ast.Expr) -> None:
        if not isinstance(s.value, ast.Constant):  # a docstring
            self._value(s.value)

    def _Assign(self, s: ast.Assign) -> None:
        value = self._value(s.value)
        for target in s.targets:
            self._store(target, value)

    def _AugAssign(self, s: ast.AugAssign) -> None:
        b = self.builder
        if isinstance(s.target, ast.Subscript):
            place = b.place(self._value(s.target.value), self._value(s.target.slice))
            b.write(b.binary(s.op, b.read(place), self._value(s.value)), place)
        else:
            now = self._value(ast.Name(s.target.id, ast.Load()))  # type: ignore[union-attr]
            self._store(s.target, b.binary(s.op, now, self._value(s.value)))

    def _store(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._assign_name(target.id, value)
        elif isinstance(target, ast.Tuple):
            for k, item in enumerate(target.elts):
                self._store(item, value.item(k))
        elif isinstance(target, ast.Subscript):
            place = self.builder.place(self._value(target.value), self._value(target.slice))
            self.builder.write(value, place)
        else:
            raise TypeError(f"no assignment to {type(target).__name__}")

    def _assign_name(self, name: str, value: Value) -> None:
        if name not in self.variables:
            slots = [self.builder.slot(part) for part in value.type.parts]
            self.variables[name] = value.type, slots
        kind, slots = self.variables[name]
        for part, slot in zip(self.builder.to(value, kind).parts, slots, strict=True):
            self.builder.store(part, slot)

    def _If(self, s: ast.If) -> None:
        b = self.builder
        then, otherwise, end = (b.append_basic_block() for _ in range(3))
        b.cbranch(b.truth(self._value(s.test)), then, otherwise)
        reached = False
        for block, body in ((then, s.body), (otherwise, s.orelse)):
            b.position_at_end(block)
            self._block(body)
            if not self._done:
                b.branch(end)
                reached = True
        b.position_at_end(end)
        if not reached:
            b.unreachable()

    def _While(self, s: ast.While) -> None:
        b = self.builder
        head, body, end = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        forever = isinstance(s.test, ast.Constant) and s.test.value is True
        if forever:
            b.branch(body)
        else:
            b.cbranch(b.truth(self._value(s.test)), body, end)
        self._loop(s, body, head, end)
        if not self._done:
            b.branch(head)
        b.position_at_end(end)
        if forever and not any(isinstance(node, ast.Break) for node in ast.walk(s)):
            b.unreachable()

    def _For(self, s: ast.For) -> None:
        b, call = self.builder, s.iter
        if not isinstance(call, ast.Call) or self._outside(call.func) is not range:
            raise TypeError("for is for ranges")
        given = [b.to(self._value(a), INT).llvm for a in call.args]
        zero, one = (ir.Constant(_BITS, k) for k in (0, 1))
        start, stop, step = ([zero, *given, one] if len(given) == 1 else [*given, one])[:3]
        down = isinstance(step, ir.Constant) and step.constant < 0
        head, body, following, end = (b.append_basic_block() for _ in range(4))
        slot = b.slot(_BITS)
        b.store(start, slot)
        b.branch(head)
        b.position_at_end(head)
        i = b.load(slot)
        b.cbranch(b.icmp_signed(">" if down else "<", i, stop), body, end)
        b.position_at_end(body)
        self._store(s.target, Value(INT, (i,)))
        self._loop(s, body, following, end)
        if not self._done:
            b.branch(following)
        b.position_at_end(following)
        b.store(b.add(b.load(slot), step, flags=("nsw",)), slot)
        b.branch(head)
        b.position_at_end(end)

    def _loop(self, s: ast.For | ast.While, body: ir.Block, again: ir.Block, end: ir.Block) -> None:
        if s.orelse:
            raise TypeError("no else after a loop")
        self.builder.position_at_end(body)
        self.loops.append((again, end))
        self._block(s.body)
        self.loops.pop()

    def _Break(self, s: ast.Break) -> None:
        self.builder.branch(self.loops[-1][1])

    def _Continue(self, s: ast.Continue) -> None:
        self.builder.branch(self.loops[-1][0])

    def _Return(self, s: ast.Return) -> None:
        value = None if s.value is None else self._value(s.value)
        kind = None if value is None else value.type
        if not self._returned:
            self._returned, self.result = True, kind
            if kind is not None:
                self._set_result(kind)
        if (kind is None) != (self.result is None):
            raise TypeError("returns with and without a result")
        if value is None:
            self.builder.ret_void()
            return
        parts = self.builder.to(value, self.result).parts
        if len(parts) == 1:
            self.builder.ret(parts[0])
            return
        together = ir.Constant(self.made.ftype.return_type, ir.Undefined)
        for k, part in enumerate(parts):
            together = self.builder.insert_value(together, part, k)
        self.builder.ret(together)

    def _set_result(self, kind: Any) -> None:
        """The type of the result, known now that a return is met."""
        parts = kind.parts
        whole = parts[0] if len(parts) == 1 else ir.LiteralStructType(parts)
        self.made.ftype = ir.FunctionType(whole, self.made.ftype.args)
        self.made.type = self.made.ftype.as_pointer()
        self.made.return_value = ir.values.ReturnValue(self.made, whole)

    # Expressions

    def _value(self, e: ast.expr) -> Value:
        return getattr(self, f"_value_{type(e).__name__}")(e)

    def _value_Constant(self, e: ast.Constant) -> Value:
        return constant(e.value)

    def _value_Name(self, e: ast.Name) -> Value:
        if e.id in self.variables:
            kind, slots = self.variables[e.id]
            return Value(kind, [self.builder.load(slot) for slot in slots])
        return constant(self._outside(e))

    def _outside(self, e: ast.expr) -> Any:
        """What a name, or an attribute of one, means outside the function."""
        if isinstance(e, ast.Attribute):
            return getattr(self._outside(e.value), e.attr)
        assert isinstance(e, ast.Name)
        if e.id in self.variables:
            raise TypeError(f"{e.id} is a variable here")
        scope = self.function.python.__globals__
        found = scope.get(e.id, getattr(builtins, e.id, None))
        if found is None:
            raise TypeError(f"{e.id} is not known here")
        return found

    def _value_Attribute(self, e: ast.Attribute) -> Value:
        if isinstance(e.value, ast.Name) and e.value.id not in self.variables:
            return constant(self._outside(e))
        kind, b = None, self.builder
        if isinstance(e.value, ast.Name):
            kind, slots = self.variables[e.value.id]
            if isinstance(kind, Tuple) and kind.maker is not tuple:  # load nothing but the item
                k = kind.maker._fields.index(e.attr)
                item = Value(kind, slots).item(k)
                return Value(item.type, [b.load(slot) for slot in item.parts])
        x = self._value(e.value)
        if e.attr == "real" and isinstance(x.type, Scalar):
            return Value(x.type.real, x.parts[:1]) if x.type.kind in "fc" else x
        if e.attr == "imag" and isinstance(x.type, Scalar) and x.type.kind == "c":
            return Value(x.type.real, x.parts[1:])
        raise TypeError(f"{x.type.name} has no {e.attr}")

    def _value_Subscript(self, e: ast.Subscript) -> Value:
        x = self._value(e.value)
        if isinstance(x.type, Tuple):
            k = constant(ast.literal_eval(e.slice)).llvm.constant
            return x.item(k)
        return self.builder.read(self.builder.place(x, self._value(e.slice)))

    def _value_Tuple(self, e: ast.Tuple) -> Value:
        return self._tuple([self._value(item) for item in e.elts])

    def _tuple(self, items: list[Value], maker: Any = tuple) -> Value:
        kind = Tuple(tuple(item.type for item in items), maker)
        return Value(kind, [part for item in items for part in item.parts])

    def _value_BinOp(self, e: ast.BinOp) -> Value:
        return self.builder.binary(e.op, self._value(e.left), self._value(e.right))

    def _value_UnaryOp(self, e: ast.UnaryOp) -> Value:
        return self.builder.unary(e.op, self._value(e.operand))

    def _value_Compare(self, e: ast.Compare) -> Value:
        x, found = self._value(e.left), None
        for op, right in zip(e.ops, e.comparators, strict=True):
            y = self._value(right)
            part = self.builder.compare(op, x, y)
            found = part if found is None else Value(BOOL, (self.builder.and_(found.llvm, part.llvm),))
            x = y
        assert found is not None
        return found

    def _value_BoolOp(self, e: ast.BoolOp) -> Value:
        b, end = self.builder, self.builder.append_basic_block()
        settles = isinstance(e.op, ast.Or)
        incoming = []
        for k, operand in enumerate(e.values):
            bit = b.truth(self._value(operand))
            incoming.append((bit, b.block))
            if k == len(e.values) - 1:
                b.branch(end)
            else:
                following = b.append_basic_block()
                b.cbranch(bit, *((end, following) if settles else (following, end)))
                b.position_at_end(following)
        b.position_at_end(end)
        return Value(BOOL, (_phi(b, incoming),))

    def _value_IfExp(self, e: ast.IfExp) -> Value:
        b = self.builder
        then, otherwise, end = (b.append_basic_block() for _ in range(3))
        b.cbranch(b.truth(self._value(e.test)), then, otherwise)
        found, blocks = [], []
        for block, branch in ((then, e.body), (otherwise, e.orelse)):
            b.position_at_end(block)
            found.append(self._value(branch))
            blocks.append(b.block)
        for k, block in enumerate(blocks):
            b.position_at_end(block)
            found[k] = b.alike(found)[k]
            b.branch(end)
        b.position_at_end(end)
        pairs = zip(*(value.parts for value in found), strict=True)
        return Value(found[0].type, [_phi(b, list(zip(pair, blocks, strict=True))) for pair in pairs])

    def _value_Call(self, e: ast.Call) -> Value:
        b = self.builder
        if e.keywords:
            raise TypeError("no keywords in calls")
        if isinstance(e.func, ast.Attribute) and e.func.attr == "conjugate":
            x = self._value(e.func.value)
            if x.type.kind != "c":
                return x
            return Value(x.type, (x.parts[0], b.fneg(x.parts[1])))
        f = self._outside(e.func)
        values = [self._value(a) for a in e.args]
        if isinstance(f, Function):
            return self._call(f, values)
        if isinstance(f, Builtin):
            found = f.emit(b, *values)
            return self._tuple([]) if found is None else found
        if isinstance(f, type) and issubclass(f, tuple):
            return self._tuple(values, f)
        if f in (min, max):
            return b.extreme("<" if f is min else ">", values)
        if f in (int, np.int64):
            return b.to(values[0], INT)
        if f is float:
            return b.to(values[0], REAL)
        if f is math.sqrt:
            (x,) = values
            x = x if x.type.kind == "f" else b.to(x, REAL)
            name = f"llvm.sqrt.{'f32' if x.type.dtype.itemsize == 4 else 'f64'}"
            return Value(x.type, (b.call_llvm(name, x.type.parts[0], [x.llvm]),))
        raise TypeError(f"{ast.unparse(e.func)} can't be called here")

    def _call(self, f: Function, values: list[Value]) -> Value:
        made, result = self.program.instance(f, tuple(v.type for v in values))
        found = self.builder.call(made, [part for v in values for part in v.parts])
        if result is None:
            return self._tuple([])
        if len(result.parts) == 1:
            return Value(result, (found,))
        return Value(result, [self.builder.extract_value(found, k) for k in range(len(result.parts))])


class _Located(TypeError):
    """A mistake in a function, with the line."""


def _phi(b: Arithmetic, incoming: list) -> Any:
    found = b.phi(incoming[0][0].type)
    for value, block in incoming:
        found.add_incoming(value, block)
    return found
