"""The pickle inside a torch file, interpreted without importing or calling anything it names.

Python's own unpickler imports what the file asks for, resizes its memo to any index that the file
names and hashes any key. This one is a small stack machine for the opcodes that torch writes: a
global is looked up in a closed table and becomes an inert mark, and a "call" is one of the few
constructions below. What other globals would make is never built: its name alone remains. An
opcode outside of the table is refused, and so is a pickle that takes more steps than state dicts
need.
"""

import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from latte_ms.messages import one_line
from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError

_MAX_STEPS = 1 << 19  # a tensor takes about forty
_MAX_DIMENSIONS = 64  # of a tensor; those that can be read have fewer
_MAX_ELEMENTS = 1 << 48  # of elements


@dataclass(frozen=True)
class StorageType:
    """A torch storage class; `dtype` is None for the untyped one."""

    dtype: str | None


@dataclass(frozen=True)
class TorchDtype:
    """A torch dtype object."""

    dtype: str


@dataclass(frozen=True)
class Construction:
    """A torch function or a container class, to be "called" by the machine itself."""

    make: Callable[..., Any]


@dataclass(frozen=True)
class Foreign:
    """A class or function that is not known here, or an object that it would have made."""

    name: str


@dataclass(frozen=True)
class ScriptedClass:
    """A class of TorchScript, whose code lies in the file and is not looked at."""


@dataclass(eq=False)
class ScriptedModule:
    """A module of TorchScript: parameters, submodules and other attributes by name."""

    attributes: dict[Any, Any]


@dataclass(frozen=True)
class Storage:
    """A block of elements in the member data/<key> of the file."""

    key: str
    dtype: str | None


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage: element offset, shape and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def span(self) -> int:
        """Number of elements of the storage from the first to the last one of the view."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


def read_pickle(data: bytes) -> Any:
    """The object in `data`, its tensors as `StoredTensor`, objects of other classes as `Foreign`.

    Raises WeightError for an opcode that no state dict needs, where the object itself is foreign,
    and for damaged data.
    """
    machine = _Machine()
    try:
        for name, argument in _instructions(data):
            machine.spend(1)
            _OPCODES[name](machine, argument)
        root = machine.stack.pop()
    except WeightError:
        raise
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise WeightError(f"its pickle is damaged ({reason}).") from error
    if isinstance(root, Foreign):
        raise WeightError(refusal(root))
    return root


def refusal(foreign: Foreign) -> str:
    """Why an object is not read, and what to do about it."""
    return (
        f"Its pickle names the global `{foreign.name}`. Only tensors and plain containers are "
        "read, and nothing from the file was executed. If you trust its origin, open it in torch "
        "and save the state dict alone."
    )


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Names of opcodes and their arguments; of an opcode that is refused, it is not read."""
    stream, name = io.BytesIO(data), ""
    while name != "STOP":
        opcode = _BY_CODE.get(stream.read(1).decode("latin-1"))
        if opcode is None:
            raise ValueError("unknown opcode, or no end")
        name = opcode.name
        if name not in _OPCODES:
            raise WeightError(f"its pickle holds the opcode {name}, which state dicts do not need.")
        yield name, opcode.arg.reader(stream) if opcode.arg else None


def _rebuild_tensor(
    storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any
) -> StoredTensor:
    for numbers in (shape, strides):
        if not isinstance(numbers, tuple | list) or len(numbers) > _MAX_DIMENSIONS:
            raise WeightError("its pickle is damaged (a tensor without a shape or strides).")
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n <= _MAX_ELEMENTS for n in numbers):
        raise WeightError("its pickle is damaged (a size that no tensor has).")
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise WeightError("its pickle is damaged (a tensor without a storage or strides).")
    # _rebuild_tensor_v3 names the dtype, after requires_grad and the hooks.
    named = len(rest) > 2 and isinstance(rest[2], TorchDtype)
    dtype = rest[2].dtype if named else storage.dtype
    if dtype is None:
        raise WeightError("its pickle is damaged (a tensor without a dtype).")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in pairs if _is_scalar(key)}


def _set(items: Any = ()) -> set[Any]:
    return {item for item in items if _is_scalar(item)}


def _is_scalar(key: Any) -> bool:
    """Others are left out: hashing a container made for that purpose could take forever."""
    return isinstance(key, str | bytes | int | float | None)


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Construction(_dictionary),
    ("__builtin__", "set"): Construction(_set),
    ("builtins", "set"): Construction(_set),
    ("torch", "Size"): Construction(tuple),
    ("torch._utils", "_rebuild_tensor"): Construction(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Construction(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Construction(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Construction(lambda data, *_: data),
    ("torch.storage", "UntypedStorage"): StorageType(None),
    **{("torch", row.storage): StorageType(row.name) for row in dtypes.BY_STORAGE.values()},
    **{("torch", row.name): TorchDtype(row.name) for row in dtypes.TABLE},
}


class _Machine:
    """Stack, open marks and memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = _MAX_STEPS

    def spend(self, steps: int) -> None:
        """Count steps: a pickle of a few bytes can name a long list again and again."""
        self.left -= steps
        if self.left < 0:
            raise WeightError(f"its pickle takes more than {_MAX_STEPS} steps.")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_count(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise WeightError("its pickle is damaged (the stack is empty).")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def top(self, kind: type) -> Any:
        """The container on the stack that an opcode adds to; what a foreign one gets is lost."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return kind()
        if type(target) is not kind:
            raise WeightError(f"its pickle is damaged (expected a {kind.__name__}).")
        return target

    def set_items(self, items: Any) -> None:
        pairs = zip(items[::2], items[1::2], strict=True)
        self.top(dict).update(_dictionary(pairs))

    def extend(self, items: Any) -> None:
        self.top(list).extend(items)

    def add_items(self, items: Any) -> None:
        self.top(set).update(_set(items))

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_global(self, module: Any, attribute: Any) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise WeightError("its pickle is damaged (the name of a global is not a string).")
        if module.split(".")[0] == "__torch__":
            self.push(ScriptedClass())
            return
        unknown = Foreign(ascii(f"{module}.{attribute}"[:_LONGEST_NAME])[1:-1])
        self.push(_GLOBALS.get((module, attribute), unknown))

    def reduce(self) -> None:
        function, arguments = self.pop_count(2)
        if isinstance(function, Foreign):
            self.push(function)
            return
        if not isinstance(function, Construction) or not isinstance(arguments, tuple):
            raise WeightError(
                "its pickle calls something that is not a constructor of a state dict."
            )
        if arguments and isinstance(arguments[0], Foreign):  # a tensor of a foreign storage
            self.push(arguments[0])
            return
        self.spend(len(arguments) + sum(len(a) for a in arguments[:1] if isinstance(a, _SIZED)))
        self.push(function.make(*arguments))

    def new_object(self, count: int, opcode: str) -> None:
        """An object of a class, the first of `count` values, without its initialisation."""
        made, *_ = self.pop_count(count)
        if isinstance(made, ScriptedClass):
            made = ScriptedModule({})
        elif not isinstance(made, Foreign):
            raise WeightError(
                f"its pickle holds the opcode {opcode} on something that is not a class."
            )
        self.push(made)

    def push_storage(self) -> None:
        (identity,) = self.pop_count(1)
        if not (
            isinstance(identity, tuple)
            and len(identity) == 5
            and identity[0] == "storage"
            and isinstance(identity[1], StorageType | Foreign)
            and isinstance(identity[2], str)
        ):
            raise WeightError("its pickle refers to an object that is not a tensor storage.")
        kind = identity[1]
        self.push(kind if isinstance(kind, Foreign) else Storage(identity[2], kind.dtype))

    def build(self) -> None:
        """Give an object its attributes.

        Those of an OrderedDict are left out: torch stores module versions there.
        """
        target, state = self.pop_count(2)
        if isinstance(target, ScriptedModule):
            if type(state) is not dict:
                raise WeightError("its pickle sets attributes that are not a dictionary.")
            target.attributes.update(state)
        elif type(target) is not dict and not isinstance(target, Foreign):
            raise WeightError("its pickle sets attributes of an object that is not a dictionary.")
        self.push(target)


_BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}
_SIZED = (str, bytes, bytearray, tuple, list, dict, set)
_LONGEST_NAME = 200  # characters of a global that are kept
# LONG4 and the opcodes of numbers in digits are left out: such numbers are too long to be used.
_ARGUMENTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING"),
)
# What each opcode does; its argument follows it in the pickle.
_OPCODES: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_ARGUMENTS, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, i: machine.push(machine.memo[i])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.memoize),
    "MEMOIZE": lambda machine, _: machine.memoize(len(machine.memo)),
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_count(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_count(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_count(3)),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_count(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop_count(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, name: machine.push_global(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.push_global(*machine.pop_count(2)),
    "FROZENSET": lambda machine, _: machine.push(_set(machine.pop_to_mark())),
    "POP": lambda machine, _: machine.pop_count(1),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "NEWOBJ": lambda machine, _: machine.new_object(2, "NEWOBJ"),
    "NEWOBJ_EX": lambda machine, _: machine.new_object(3, "NEWOBJ_EX"),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BINPERSID": lambda machine, _: machine.push_storage(),
    "BUILD": lambda machine, _: machine.build(),
}
