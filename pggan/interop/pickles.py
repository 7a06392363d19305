"""Read pickles of arrays and plain data without Python's unpickler, so that nothing in the file can be called.

Each opcode is carried out by a few lines of this module. Classes and functions in the file remain names; the few that
plain data and NumPy arrays are made of have a meaning here, and any other name is an error.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import WeightsError

# Opcodes that push their argument (names and meanings: the standard library's pickletools).
PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
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
NOT_NEEDED = "which arrays and plain data do not need; nothing in the file was run"


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle refers to, as "module.name"."""

    text: str


@dataclass(eq=False)
class Record:
    """The name and state of an object, in place of an instance of its class."""

    name: str
    state: Any = field(default_factory=dict)


@dataclass(eq=False)
class Array:
    """A NumPy array under construction, empty until BUILD sets its state."""

    value: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(eq=False)
class DType:
    """A NumPy dtype under construction; BUILD sets its byte order."""

    value: np.dtype


def read_pickle(data: bytes, records: tuple[str, ...] = ()) -> Any:
    """Return the content of a pickle of any protocol.

    It may hold numbers, text, bytes, lists, tuples, dicts, NumPy arrays and the specified records. Python 2's strings
    become text, decoded as Latin-1.

    Args:
        data: the pickle.
        records: classes, as "module.name"; their objects become `Record`s with their plain state.

    Raises:
        WeightsError: the pickle is damaged or refers to anything else.
    """
    machine = PickleMachine(records)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.execute(opcode.name, argument)
        return resolve_records(machine.stack.pop(), {})
    except WeightsError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, AttributeError, RecursionError):
        raise WeightsError("damaged, or not a pickle of arrays and plain data") from None


class PickleMachine:
    """The pickle machine: a stack, a memo, and the opcodes that act on them.

    The method `do_x` carries out opcode X. A MARK starts a new stack; `below` holds those it interrupts.

    Args:
        records: see `read_pickle`.
    """

    def __init__(self, records: tuple[str, ...]):
        self.records = records
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def execute(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode. Raises WeightsError for one that plain data does not need."""
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
            items = self.pop_mark()
            self.stack.append(self.construct(Name(argument.replace(" ", ".")), tuple(items)))
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            operation = getattr(self, f"do_{opcode.lower()}", None)
            if operation is None:
                raise WeightsError(f"pickle opcode {opcode} is not allowed: arrays and plain data do not need it")
            operation()

    def pop_mark(self) -> list[Any]:
        """Return the items pushed since the last mark, and continue with the stack below it."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def do_mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def do_pop(self) -> None:
        self.stack.pop()

    def do_tuple(self) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def do_list(self) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def do_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def do_append(self) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def do_appends(self) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.top(dict)[key] = value

    def do_setitems(self) -> None:
        items = self.pop_mark()
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def top(self, kind: type) -> Any:
        """Return the top of the stack, which must be of exactly this type."""
        if type(self.stack[-1]) is not kind:  # no subclass: only what the file's own opcodes have built
            raise TypeError
        return self.stack[-1]

    def do_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(f"{module}.{name}"))

    def do_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.construct(function, arguments))

    do_newobj = do_reduce  # NEWOBJ calls the class's __new__, which for the names allowed here is the same

    def do_obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.stack.append(self.construct(function, tuple(arguments)))

    def do_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Record):
            made.state = state
        elif isinstance(made, DType):  # state: (version, byte order, ...)
            made.value = made.value.newbyteorder(BYTE_ORDERS[state[1]])
        elif isinstance(made, Array):  # state of numpy.ndarray.__setstate__; _ is a version
            _, shape, dtype, column_major, content = state
            made.value = build_array(content, dtype, shape, column_major)
        else:
            raise TypeError

    def construct(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return what calling a name would return, for the few names that arrays and plain data need.

        Raises:
            WeightsError: any other name.
        """
        if not isinstance(function, Name):
            raise TypeError  # read_pickle reports all of these as damage
        name = function.text.replace("numpy._core.", "numpy.core.")  # NumPy 2 renamed the module
        # how protocols 0 and 1 write objects; the class is the first argument
        if name in ("copy_reg._reconstructor", "copyreg._reconstructor"):
            name = arguments[0].text
        if name in self.records:
            return Record(name)
        if name == "numpy.core.multiarray._reconstruct" and arguments[0] == Name("numpy.ndarray"):
            return Array()
        if name == "numpy.core.multiarray.scalar":
            return build_array(arguments[1], arguments[0], (), False)[()].item()
        if name == "numpy.core.numeric._frombuffer":  # protocol 5
            return Array(build_array(arguments[0], arguments[1], arguments[2], arguments[3] == "F"))
        if name == "numpy.dtype":
            return DType(parse_dtype(arguments[0]))
        # how protocol 2 and below write bytes
        if name == "_codecs.encode" and arguments[1] in ("latin1", "latin-1"):
            return arguments[0].encode("latin-1")
        if name == "collections.OrderedDict" and arguments in ((), ([],)):
            return {}
        raise WeightsError(f"refers to {function.text}, {NOT_NEEDED}")


def parse_dtype(text: str) -> np.dtype:
    """Return the dtype for its name, such as "f4". Raises WeightsError unless it is one of numbers."""
    if not isinstance(text, str) or np.dtype(text).kind not in "biuf":
        raise WeightsError(f"holds arrays of dtype {text}, which are not numbers")
    return np.dtype(text)


def build_array(content: Any, dtype: DType, shape: tuple[int, ...], column_major: bool) -> np.ndarray:
    """Return an array as a view of the file's own bytes, so that no shape can claim more memory than the file has."""
    # Python 2 pickled the bytes as text
    raw = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if column_major else "C")


def resolve_records(value: Any, seen: dict[int, Any]) -> Any:
    """Replace the objects under construction in a value by what they became.

    An object that occurs twice, or inside itself, is converted once: `seen` maps ids to results.

    Raises:
        WeightsError: the value contains the name of a class or function.
    """
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, Array):
        return value.value
    if isinstance(value, DType):
        return value.value
    if isinstance(value, Name):
        raise WeightsError(f"refers to {value.text}, {NOT_NEEDED}")
    if isinstance(value, list):
        made: Any = seen.setdefault(id(value), [])  # registered before its items, which may refer to it
        made.extend(resolve_records(item, seen) for item in value)
        return made
    if isinstance(value, dict):
        made = seen.setdefault(id(value), {})
        made.update({key: resolve_records(item, seen) for key, item in value.items()})
        return made
    if isinstance(value, Record):
        made = seen.setdefault(id(value), Record(value.name))
        made.state = resolve_records(value.state, seen)
        return made
    if isinstance(value, tuple):
        return seen.setdefault(id(value), tuple(resolve_records(item, seen) for item in value))
    return value
