"""Machine code: made by LLVM, kept on disk, called from Python.

The entries of a Python module are compiled together, once for each element type where they depend on
one. The code lies in a file of its own, named after all it depends on: the sources of the package and
of this one, the version of LLVM and the processor.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TypeAlias

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from ..stamps import places
from .functions import Function
from .translate import Program
from .types import INT, Pointer, Scalar

__all__ = ["Entry", "Floats", "Int32s", "Numbers", "address_of", "entry", "machine_code", "program"]

log = logging.getLogger("sparse_solver")
Int32s: TypeAlias = Any  # annotations of parameters, for `Entry`; those without are Ints
Floats: TypeAlias = Any
Numbers: TypeAlias = Any
_ARRAYS = {"Ints": np.int64, "Int32s": np.int32, "Floats": np.float64}  # beside Numbers
_WORD, _LANES = INT.parts[0], ".lanes"
_lock = RLock()  # a finaliser that runs while it is held may come back here

if hasattr(os, "register_at_fork"):
    # Held by another thread at the moment of a fork, it would stay locked in the child.
    def _new_lock() -> None:
        global _lock
        _lock = RLock()

    os.register_at_fork(after_in_child=_new_lock)


class Lanes(NamedTuple):
    """An entry that several threads call at once, each with a lane of its own.

    Attributes
    ----------
    words : callable
        Makes words of arguments: addresses of arrays, which must live on, and numbers.
    code : callable
        The function of these words.
    place : int
        Of the lane among them.
    everyone : int
        The address of a function of a task: the next lane, how many there are, words. It calls `code`
        with the next lane, unless all are taken.
    """

    words: Callable[[tuple[Any, ...]], list[int]]
    code: Callable[..., int]
    place: int
    everyone: int


class Entry(Function):
    """A function of the compiled language that Python calls; it runs without the GIL.

    Its parameters are contiguous arrays of int64 where they are not annotated otherwise: Int32s, Floats
    (float64), Numbers (of the element type), int for a number; inside, arrays are pointers, and outside
    they may be given by their addresses. `of` gives the function for an element type; called itself it
    must not depend on any. It returns an integer, 0 where nothing is said.
    """

    def __call__(self, *args: Any) -> int:
        return self.of(None)(*args)

    @lru_cache  # noqa: B019  entries live as long as their module
    def of(self, dtype: np.dtype | None) -> Callable[..., int]:
        """The function for this element type."""
        code, words = self._code(dtype), self._words(dtype)
        return lambda *args: code(*words(args))

    @lru_cache  # noqa: B019
    def by_lanes(self, dtype: np.dtype | None) -> Lanes:
        """The function for this element type, for threads that differ in the number called `lane`."""
        everyone = self.address(dtype, _LANES)
        return Lanes(self._words(dtype), self._code(dtype), self.names.index("lane"), everyone)

    def _code(self, dtype: np.dtype | None) -> Callable[..., int]:
        kinds = [ctypes.c_int64] * len(self.names)
        return ctypes.CFUNCTYPE(ctypes.c_int64, *kinds)(self.address(dtype))

    def _words(self, dtype: np.dtype | None) -> Callable[[tuple[Any, ...]], list[int]]:
        """What makes words of arguments: addresses of arrays, which must live on, and numbers."""
        elements = [_element(name, dtype) for name in self.parameters]
        arrays = [(k, e) for k, e in enumerate(elements) if e is not None]
        address, first = ctypes.addressof, ctypes.c_char.from_buffer

        def words(args: tuple[Any, ...]) -> list[int]:
            if len(args) != len(elements):
                raise TypeError(f"{self.__name__} takes {len(elements)} arguments, not {len(args)}")
            given = list(args)
            for k, element in arrays:
                array = given[k]
                if type(array) is int:  # an address already
                    continue
                if array.dtype != element:
                    raise TypeError(f"{self.__name__} takes an array of {element}, not {array.dtype}")
                try:
                    given[k] = address(first(array))  # in a third of the time that what follows takes
                except (TypeError, ValueError):  # read-only, empty, or in pieces
                    if not array.flags.c_contiguous:
                        raise TypeError(f"{self.__name__} takes contiguous arrays") from None
                    given[k] = array.ctypes.data
            return given

        return words

    @property
    def names(self) -> list[str]:
        """Of the parameters."""
        return [a.arg for a in self.tree.args.args]

    @property
    def parameters(self) -> list[str]:
        """The annotations."""
        given = (a.annotation for a in self.tree.args.args)
        return ["Ints" if annotation is None else ast.unparse(annotation) for annotation in given]

    def address(self, dtype: np.dtype | None, which: str = "") -> int:
        """Where its code begins, for this element type."""
        with _lock:
            _load(self.__module__, dtype)
            return _engine().get_function_address(_symbol(self, dtype) + which)


def entry(python: Callable) -> Entry:
    """Make a Python function an `Entry`."""
    return Entry(python)


def _element(annotation: str, dtype: np.dtype | None) -> np.dtype | None:
    if annotation == "int":
        return None
    if annotation == "Numbers":
        if dtype is None:
            raise TypeError("this function depends on the element type; ask for it by `of`")
        return dtype
    return np.dtype(_ARRAYS[annotation])


def _symbol(f: Entry, dtype: np.dtype | None) -> str:
    return f"{f.__module__}.{f.__name__}.{dtype}"


@lru_cache
def _load(module: str, dtype: np.dtype | None) -> None:
    """Make the entries of a module known to the engine."""
    name = f"{module.rpartition('.')[2]}-{dtype or 'any'}"
    code = _kept(name, module)
    if code is None:
        start = time.perf_counter()
        whole = program(module, dtype)
        code = machine_code(whole.module, whole.of_numbers)
        _keep(name, module, code)
        log.debug("compiled %s in %.2f s", name, time.perf_counter() - start)
    _add(code)


_alive: list = []  # code lives as long as its addresses are called


def _add(code: bytes) -> None:
    object_file = llvm.ObjectFileRef.from_data(code)
    _engine().add_object_file(object_file)
    _engine().finalize_object()
    _alive.extend((object_file, code))


def address_of(module: ir.Module, symbol: str) -> int:
    """Compile a module, for this process only: where the function of this name begins."""
    with _lock:
        _add(machine_code(module, False))
        return _engine().get_function_address(symbol)


def program(module: str, dtype: np.dtype | None) -> Program:
    """All entries of a module in LLVM's language; without dtype, those that depend on none."""
    found = Program(f"{module}-{dtype}")
    for f in vars(sys.modules[module]).values():
        if isinstance(f, Entry) and f.__module__ == module:
            if dtype is not None or "Numbers" not in f.parameters:
                _export(found, f, dtype)
                found.of_numbers |= bool({"Numbers", "Floats"} & set(f.parameters))
    return found


def _export(program: Program, f: Entry, dtype: np.dtype | None) -> None:
    """A function with the C conventions that calls the instance for these types."""
    elements = [_element(name, dtype) for name in f.parameters]
    types = tuple(INT if e is None else Pointer(Scalar(e)) for e in elements)
    made, result = program.instance(f, types)
    outer = ir.Function(program.module, ir.FunctionType(_WORD, made.ftype.args), _symbol(f, dtype))
    builder = ir.IRBuilder(outer.append_basic_block())
    found = builder.call(made, outer.args)
    if result not in (None, INT):
        raise TypeError(f"{f.__name__} must return an integer or nothing, not {result.name}")
    builder.ret(ir.Constant(_WORD, 0) if result is None else found)
    if "lane" in f.names:
        outer.attributes.add("noinline")
        _export_lanes(program, outer, f.names.index("lane"))


def _export_lanes(program: Program, code: ir.Function, place: int) -> None:
    """`Lanes.everyone` of this code."""
    kind = ir.FunctionType(ir.VoidType(), [_WORD.as_pointer()])
    everyone = ir.Function(program.module, kind, code.name + _LANES)
    builder = ir.IRBuilder(everyone.append_basic_block())
    task = everyone.args[0]

    def word(k: int) -> Any:
        return builder.load(builder.gep(task, [ir.Constant(_WORD, k)]))

    lane = builder.atomic_rmw("add", task, ir.Constant(_WORD, 1), "monotonic")
    with builder.if_then(builder.icmp_signed("<", lane, word(1))):
        given = [lane if k == place else word(2 + k) for k in range(len(code.args))]
        for k, parameter in enumerate(code.args):
            if isinstance(parameter.type, ir.PointerType):
                given[k] = builder.inttoptr(given[k], parameter.type)
        builder.call(code, given)
    builder.ret_void()


def machine_code(module: ir.Module, of_numbers: bool) -> bytes:
    """What LLVM makes of it: an object file."""
    machine = _machine()
    parsed = llvm.parse_assembly(str(module))
    parsed.triple, parsed.data_layout = machine.triple, str(machine.target_data)
    parsed.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    # What is worth unrolling is written out (`tile`, `strips`, `wide`); lists of integers are walked
    # through one by one: looking for more takes LLVM as long as all the rest.
    tuning.loop_unrolling = False
    tuning.loop_vectorization = of_numbers
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(parsed, builder)
    return machine.emit_object(parsed)


def _machine() -> Any:
    """The processor at hand, for code that runs in this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    reloc = "static" if target.name.startswith("x86") else "default"
    cpu, features = _processor()
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )


@lru_cache
def _processor() -> tuple[str, str]:
    try:
        return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM does not know
        return llvm.get_host_cpu_name(), ""


@lru_cache
def _engine() -> Any:
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())


# Files


def _files(name: str, module: str) -> tuple[list[Path], str]:
    """Folders where the code may be, and the name of its file there."""
    package = Path(str(sys.modules[module].__file__)).parent
    where, key = _keys(package)
    return [place / f"{package.name}-{where}" for place in places()], f"{name}-{key}.o"


@lru_cache
def _keys(package: Path) -> tuple[str, str]:
    """Of what may differ between processes, and of the sources, of which one version is kept."""
    where = " ".join((str(package), llvmlite.__version__, *_processor()))
    sources = hashlib.sha256()
    for folder in (Path(__file__).parent, package):
        for file in sorted(folder.glob("*.py")):
            sources.update(file.read_bytes())
    return hashlib.sha256(where.encode()).hexdigest()[:12], sources.hexdigest()[:20]


def _kept(name: str, module: str) -> bytes | None:
    folders, file = _files(name, module)
    for folder in folders:
        try:
            whole = (folder / file).read_bytes()
        except OSError:
            continue
        check, code = whole[:32], whole[32:]
        if hashlib.sha256(code).digest() == check:
            return code
    return None


def _keep(name: str, module: str, code: bytes) -> None:
    """Write a file, in one step, where one may write; delete those of other versions."""
    folders, file = _files(name, module)
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(code).digest() + code)
            os.replace(temporary, folder / file)
            for other in folder.glob(f"{name}-*.o"):
                if other.name != file:
                    other.unlink(missing_ok=True)
            return
        except OSError:
            continue
