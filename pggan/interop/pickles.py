"""Pickles of arrays and plain data, read without Python's unpickler: nothing in the file can be called.

Each opcode of the file is carried out by a few lines of this module. What it names as classes or functions are only
names here; the few that plain data and NumPy arrays are made of have a meaning, every other one is refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import WeightsError

PUSHED = {  # opcodes whose argument is the value
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
BYTE_ORDERS: dict[str, Any] = {order: order for order in "<>|="}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, as "module.name"."""

    text: str


@dataclass(eq=False)
class Record:
    """An object of a class that is not built: its class and its state."""

    name: str
    state: Any = field(default_factory=dict)


@dataclass(eq=False)
class Array:
    """A NumPy array on its way; empty until its state comes."""

    value: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(eq=False)
class DType:
    """A NumPy type on its way; its byte order comes later."""

    value: np.dtype


def read_pickle(data: bytes, records: tuple[str, ...] = ()) -> Any:
    """The content of a pickle of any protocol: numbers, text, bytes, lists, tuples, dicts, NumPy arrays, `Record`.

    Python 2's strings come as text, read as Latin-1.

    Args:
        records: classes ("module.name") whose objects are read as their plain state.

    Raises:
        WeightsError: the pickle names anything else, or is damaged.
    """
    machine = Machine(records)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.carry_out(opcode.name, argument)
        return plain(machine.stack.pop(), {})
    except WeightsError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, AttributeError, RecursionError):
        raise WeightsError("it is damaged, or no pickle of arrays and plain data") from None


class Machine:
    """The stack and the memo of a pickle, and what its opcodes do to them. A mark begins a stack of its own."""

    def __init__(self, records: tuple[str, ...]):
        self.records = records
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def carry_out(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in PUSHED:
            stack.append(argument)
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode]())
        elif opcode in TUPLES:
            stack[-TUPLES[opcode] :] = [tuple(stack[-TUPLES[opcode] :])]
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "GLOBAL":
            stack.append(Name(argument.replace(" ", ".")))
        elif opcode == "INST":
            items = self.since_mark()
            self.stack.append(self.made(Name(argument.replace(" ", ".")), tuple(items)))
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            operation = getattr(self, f"do_{opcode.lower()}", None)
            if operation is None:
                raise WeightsError(f"its opcode {opcode} has no place in a pickle of arrays and plain data")
            operation()

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def do_mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def do_pop(self) -> None:
        self.stack.pop()

    def do_tuple(self) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def do_list(self) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def do_dict(self) -> None:
        items = self.since_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def do_append(self) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def do_appends(self) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict)[key] = value

    def do_setitems(self) -> None:
        items = self.since_mark()
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError
        return self.stack[-1]

    def do_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(f"{module}.{name}"))

    def do_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.made(function, arguments))

    do_newobj = do_reduce

    def do_obj(self) -> None:
        function, *arguments = self.since_mark()
        self.stack.append(self.made(function, tuple(arguments)))

    def do_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Record):
            made.state = state
        elif isinstance(made, DType):
            made.value = made.value.newbyteorder(BYTE_ORDERS[state[1]])
        elif isinstance(made, Array):
            _, shape, dtype, column_major, content = state
            made.value = array(content, dtype, shape, column_major)
        else:
            raise TypeError

    def made(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What calling a name would make, for the few names that arrays and plain data need."""
        if not isinstance(function, Name):
            raise TypeError
        name = function.text.replace("numpy._core.", "numpy.core.")
        if name in ("copy_reg._reconstructor", "copyreg._reconstructor"):
            name = arguments[0].text
        if name in self.records:
            return Record(name)
        if name == "numpy.core.multiarray._reconstruct" and arguments[0] == Name("numpy.ndarray"):
            return Array()
        if name == "numpy.core.multiarray.scalar":
            return array(arguments[1], arguments[0], (), False)[()].item()
        if name == "numpy.core.numeric._frombuffer":
            return Array(array(arguments[0], arguments[1], arguments[2], arguments[3] == "F"))
        if name == "numpy.dtype":
            return DType(numeric(arguments[0]))
        if name == "_codecs.encode" and arguments[1] in ("latin1", "latin-1"):
            return arguments[0].encode("latin-1")
        if name == "collections.OrderedDict" and arguments in ((), ([],)):
            return {}
        raise WeightsError(f"it names {function.text}, which arrays and plain data do not need; nothing was run")


def numeric(text: str) -> np.dtype:
    """The type of numbers that a text names. Raises WeightsError for types of other things."""
    if not isinstance(text, str) or np.dtype(text).kind not in "biuf":
        raise WeightsError(f"it holds arrays of {text}, which are no numbers")
    return np.dtype(text)


def array(content: Any, dtype: DType, shape: tuple[int, ...], column_major: bool) -> np.ndarray:
    """A view of the file's own bytes, so that no shape can ask for more memory than the file has."""
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if column_major else "C")


def plain(value: Any, seen: dict[int, Any]) -> Any:
    """The value with its arrays and records in place; a thing that is there twice, or within itself, is made once."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Array):
        return value.value
    if isinstance(value, DType):
        return value.value
    if isinstance(value, Name):
        raise WeightsError(f"it names {value.text}, which arrays and plain data do not need; nothing was run")
    if isinstance(value, list):
        made: Any = seen.setdefault(id(value), [])
        made.extend(plain(item, seen) for item in value)
        return made
    if isinstance(value, dict):
        made = seen.setdefault(id(value), {})
        made.update({key: plain(item, seen) for key, item in value.items()})
        return made
    if isinstance(value, Record):
        made = seen.setdefault(id(value), Record(value.name))
        made.state = plain(value.state, seen)
        return made
    if isinstance(value, tuple):
        return seen.setdefault(id(value), tuple(plain(item, seen) for item in value))
    return value
