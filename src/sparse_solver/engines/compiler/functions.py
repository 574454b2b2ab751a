"""Functions of the compiled language, and those that emit LLVM's language themselves."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

__all__ = ["Builtin", "Function", "builtin", "function"]


class Function:
    """A function of the compiled language. Called from Python it is Python."""

    __name__: str

    def __init__(self, python: Callable) -> None:
        self.python = python
        functools.update_wrapper(self, python)

    def __call__(self, *args: Any) -> Any:
        return self.python(*args)

    @functools.cached_property
    def tree(self) -> ast.FunctionDef:
        """Its syntax tree, with line numbers as in the file."""
        lines, first = inspect.getsourcelines(self.python)
        (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
        assert isinstance(tree, ast.FunctionDef)
        return ast.increment_lineno(tree, first - 1)  # type: ignore[type-var]


def function(python: Callable) -> Function:
    """Make a Python function one of the compiled language, for others of it to call."""
    return Function(python)


class Builtin:
    """A function whose calls emit LLVM's language."""

    def __init__(self, emit: Callable) -> None:
        self.emit, self.__doc__ = emit, emit.__doc__


def builtin(emit: Callable) -> Any:
    """``emit(builder, *values)`` returns the value of a call, or None."""
    return Builtin(emit)
