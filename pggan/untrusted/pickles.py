"""Read pickles of plain data without Python's unpickler, so that nothing in the file can be called.

Each opcode is carried out by a few lines of this module. Classes and functions in the file remain names; those in the
reader's list have a meaning, and any other name is an error. Time and memory are bounded by the size of the file:

- Dict keys are text or 64-bit integers. A tuple that contains the same tuple twice, and so on, takes exponential time
  to hash, and larger integers can be chosen to collide.
- Objects that occur more than once are counted each time, since whoever walks through the result visits them each time.
"""

from __future__ import annotations

import functools
import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import IO, Any

import numpy as np

# Limits; our choice. A checkpoint at 1024x1024 has 18,000 opcodes and 3,000 objects, nested 6 deep.
MAX_OPCODES, MAX_PARTS, MAX_DEPTH = 1_000_000, 200_000, 32
MAX_NAME = 100  # characters of a class's name in a message; our choice
SCALARS = (str, int, float, bool, type(None))
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
BYTE_ORDERS = ("<", ">", "|", "=")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOT_NEEDED = "which plain data does not need; nothing in the file was run"


class UntrustedFileError(ValueError):
    """A file is damaged, malicious, or something else. The message is a phrase without the file's name."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle refers to, as "module.name"."""

    text: str


@dataclass(eq=False)
class Record:
    """The name and state of an object, in place of an instance of its class."""

    name: str
    state: Any = field(default_factory=dict)

    def build(self, state: Any) -> None:
        self.state = state


@dataclass(eq=False)
class Array:
    """A NumPy array under construction, empty until BUILD sets its state."""

    value: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def build(self, state: Any) -> None:
        """Set the array, as numpy.ndarray.__setstate__ does."""
        _, shape, dtype, column_major, content = state  # _ is a version
        self.value = build_array(content, dtype, shape, column_major)


@dataclass(eq=False)
class DType:
    """A NumPy dtype under construction; BUILD sets its byte order."""

    value: np.dtype

    def build(self, state: Any) -> None:
        """Set the byte order; state: (version, byte order, ...)."""
        order: Any = state[1] if type(state[1]) is str else None  # anything else may take long to hash or compare
        if order not in BYTE_ORDERS:
            raise ValueError
        self.value = self.value.newbyteorder(order)


def read_pickle(
    data: bytes | IO[bytes] | mmap,
    constructors: Mapping[str, Callable[..., Any]],
    leaves: Iterable[type] = (),
    load_persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the content of a pickle: numbers, text, lists, tuples, dicts, and the results of `constructors`.

    All protocols are supported. Python 2's strings become text, decoded as Latin-1.

    Args:
        data: the pickle, or a file at its beginning, which is left at its end.
        constructors: functions to call in place of the classes and functions in the file, by "module.name".
        leaves: further types that the result may contain.
        load_persistent: returns the object for a persistent ID (see Python's pickle module).

    Raises:
        UntrustedFileError: the pickle is damaged, refers to anything else, or exceeds the limits of this module.
    """
    machine = PickleMachine(constructors, load_persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]  # lacks mmap
            if count > MAX_OPCODES:
                raise ValueError
            machine.execute(opcode.name, argument)
        return Resolver((*SCALARS, *leaves)).resolve(machine.stack.pop())
    except UntrustedFileError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, AttributeError, RuntimeError):
        raise UntrustedFileError("damaged, or not a file of plain data") from None


def read_snapshot(data: bytes | IO[bytes], records: Iterable[str] = ()) -> Any:
    """Return the content of a pickle of plain data and NumPy arrays.

    Args:
        data: the pickle.
        records: classes, as "module.name"; their objects become `Record`s with their plain state.

    Raises:
        UntrustedFileError: see `read_pickle`.
    """
    makers = {name: lambda *_, name=name: Record(name) for name in records}
    try:
        return read_pickle(data, ARRAY_CONSTRUCTORS | makers, (bytes, bytearray))
    finally:
        encode_latin1.cache_clear()


class PickleMachine:
    """The pickle machine: a stack, a memo, and the opcodes that act on them.

    The method `do_x` carries out opcode X. A MARK starts a new stack; `below` holds those it interrupts.

    Args:
        constructors, load_persistent: see `read_pickle`.
    """

    def __init__(
        self, constructors: Mapping[str, Callable[..., Any]], load_persistent: Callable[[Any], Any] | None = None
    ):
        self.constructors, self.load_persistent = constructors, load_persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def execute(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode. Raises UntrustedFileError for one that plain data does not need."""
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
                raise UntrustedFileError(f"pickle opcode {opcode} is not allowed: plain data does not need it")
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
        self.stack.append({})
        self.set_items(items)

    def do_append(self) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def do_appends(self) -> None:
        items = self.pop_mark()
        self.top(list).extend(items)

    def do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def do_setitems(self) -> None:
        items = self.pop_mark()
        self.set_items(items)

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values, which alternate in `items`, to the dict at the top of the stack."""
        for key in items[::2]:
            # exact types: anything else may take long to hash, see the top of this module
            if type(key) is not str and not (type(key) is int and -(2**63) <= key < 2**63):
                raise TypeError
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def top(self, kind: type) -> Any:
        """Return the top of the stack, which must be of exactly this type."""
        if type(self.stack[-1]) is not kind:  # no subclass: only what the file's own opcodes have built
            raise TypeError
        return self.stack[-1]

    def do_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:  # formatting a nested tuple may take forever
            raise TypeError
        self.stack.append(Name(f"{module}.{name}"))

    def do_binpersid(self) -> None:
        if self.load_persistent is None:
            raise UntrustedFileError("pickle opcode BINPERSID is not allowed: plain data does not need it")
        self.stack.append(self.load_persistent(self.stack.pop()))

    def do_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.construct(function, arguments))

    do_newobj = do_reduce  # NEWOBJ calls the class's __new__, which for the names allowed here is the same

    def do_obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.stack.append(self.construct(function, tuple(arguments)))

    def do_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, (Record, Array, DType)):
            made.build(state)
        elif type(made) is not dict:  # an OrderedDict's state are its attributes, such as a state dict's _metadata
            raise TypeError

    def construct(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return what the reader's constructor for a name returns. Raises UntrustedFileError for any other name."""
        if type(function) is not Name or type(arguments) is not tuple:
            raise TypeError  # read_pickle reports all of these as damage
        name = function.text.replace("numpy._core.", "numpy.core.")  # NumPy 2 renamed the module
        # how protocols 0 and 1 write objects; the class is the first argument
        if name in ("copy_reg._reconstructor", "copyreg._reconstructor"):
            name = arguments[0].text
        if name not in self.constructors:
            raise UntrustedFileError(f"refers to {function.text[:MAX_NAME]}, {NOT_NEEDED}")
        return self.constructors[name](*arguments)


class Resolver:
    """Replaces the objects under construction in a value by what they became, and counts all parts of the value.

    Args:
        leaves: types, besides those under construction, that the value may contain.
    """

    def __init__(self, leaves: tuple[type, ...]):
        self.leaves, self.parts = leaves, 0

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Return the value's final form.

        Raises:
            UntrustedFileError: it contains another type, the name of a class or function, too many objects, or too
                deeply nested ones, such as a list that contains itself.
        """
        self.parts += 1
        if self.parts > MAX_PARTS or depth > MAX_DEPTH:
            raise UntrustedFileError("contains too many objects, or too deeply nested ones")
        if type(value) in self.leaves:
            return value
        if type(value) in (list, tuple):
            return type(value)(self.resolve(item, depth + 1) for item in value)
        if type(value) is dict:
            return {key: self.resolve(item, depth + 1) for key, item in value.items()}
        if isinstance(value, Record):
            return Record(value.name, self.resolve(value.state, depth + 1))
        if isinstance(value, (Array, DType)):
            return value.value
        if isinstance(value, Name):
            raise UntrustedFileError(f"refers to {value.text[:MAX_NAME]}, {NOT_NEEDED}")
        raise TypeError


def make_ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """Return an empty dict, which is how pickles of an OrderedDict begin. Raises TypeError for other arguments."""
    if type(items) not in (list, tuple) or items:
        raise TypeError
    return {}


def make_array(kind: Any, *_: Any) -> Array:
    """Return an empty array in place of numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")."""
    if kind != Name("numpy.ndarray"):
        raise UntrustedFileError(f"holds a subclass of NumPy's arrays, {NOT_NEEDED}")
    return Array()


def make_dtype(text: Any, *_: Any) -> DType:
    """Return the dtype for its name, such as "f4". Raises UntrustedFileError unless it is one of numbers."""
    if type(text) is not str or len(text) > 8 or np.dtype(text).kind not in "biuf":  # "float128" is the longest
        raise UntrustedFileError("contains arrays of a non-numeric dtype")
    return DType(np.dtype(text))


def build_array(content: Any, dtype: DType, shape: tuple[int, ...], column_major: bool) -> np.ndarray:
    """Return an array as a view of the file's own bytes, so that no shape can claim more memory than the file has."""
    # Python 2 pickled the bytes as text
    raw = encode_latin1(content) if isinstance(content, str) else content
    if not all(type(n) is int for n in shape):
        raise TypeError
    return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if column_major else "C")


def make_bytes(text: Any, encoding: Any) -> bytes:
    """Return bytes from the text that protocol 2 and below write for them. Raises TypeError for other encodings."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError
    return encode_latin1(text)


@functools.cache  # a file can refer to one large text a million times
def encode_latin1(text: str) -> bytes:
    """Return text as Latin-1 bytes; the same object for the same text."""
    return text.encode("latin-1")


ARRAY_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": make_bytes,
    "collections.OrderedDict": make_ordered_dict,
    "numpy.core.multiarray._reconstruct": make_array,
    "numpy.core.multiarray.scalar": lambda dtype, content: build_array(content, dtype, (), False)[()].item(),
    "numpy.core.numeric._frombuffer": lambda content, dtype, shape, order: Array(  # protocol 5
        build_array(content, dtype, shape, order == "F")
    ),
    "numpy.dtype": make_dtype,
}
