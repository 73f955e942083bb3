"""The pickle inside a torch file, interpreted without importing or calling anything it names.

Python's own unpickler imports what the file asks for, resizes its memo to any index that the file
names and hashes any key. This one is a small stack machine for the opcodes that torch writes: a
global is looked up in a closed table and becomes an inert mark, and a "call" is one of the few
constructions below. A global or an opcode outside of the tables is refused at once.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from latte_ms.weights import dtypes
from latte_ms.weights.errors import WeightError


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
    """The object in `data`, its tensors as `StoredTensor`.

    Raises WeightError for a global or an opcode that no state dict needs, and for damaged data.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name not in _OPCODES:
                raise WeightError(
                    f"its pickle holds the opcode {opcode.name}, which state dicts do not need."
                )
            _OPCODES[opcode.name](machine, argument)
        return machine.stack.pop()
    except WeightError:
        raise
    except Exception as error:
        raise WeightError(f"its pickle is damaged ({type(error).__name__}: {error}).") from error


def _rebuild_tensor(
    storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any
) -> StoredTensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise WeightError("its pickle is damaged (a tensor without a storage or a shape).")
    if len(shape) != len(strides):
        raise WeightError("its pickle is damaged (a tensor has as many strides as dimensions).")
    # _rebuild_tensor_v3 names the dtype, after requires_grad and the hooks.
    named = len(rest) > 2 and isinstance(rest[2], TorchDtype)
    dtype = rest[2].dtype if named else storage.dtype
    if dtype is None:
        raise WeightError("its pickle is damaged (a tensor without a dtype).")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    return {_scalar(key): value for key, value in pairs}


def _set(items: Any = ()) -> set[Any]:
    return {_scalar(item) for item in items}


def _scalar(key: Any) -> Any:
    """A key as it is; hashing a container made for that purpose could take forever."""
    if not isinstance(key, str | bytes | int | float | None):
        raise WeightError(f"its pickle has a {type(key).__name__} as the key of a container.")
    return key


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
        """The container on the stack that an opcode adds to."""
        target = self.stack[-1]
        if type(target) is not kind:
            raise WeightError(f"its pickle is damaged (expected a {kind.__name__}).")
        return target

    def set_items(self, items: Any) -> None:
        pairs = zip(items[::2], items[1::2], strict=True)
        self.top(dict).update((_scalar(key), value) for key, value in pairs)

    def extend(self, items: Any) -> None:
        self.top(list).extend(items)

    def add_items(self, items: Any) -> None:
        self.top(set).update(map(_scalar, items))

    def memorise(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_global(self, module: str, attribute: str) -> None:
        if (module, attribute) not in _GLOBALS:
            raise WeightError(
                f"its pickle names the global `{module}.{attribute}`. Only tensors and plain "
                "containers are read, and nothing from the file was executed. If you trust its "
                "origin, open it in torch and save the state dict alone."
            )
        self.push(_GLOBALS[module, attribute])

    def reduce(self) -> None:
        function, arguments = self.pop_count(2)
        if not isinstance(function, Construction) or not isinstance(arguments, tuple):
            raise WeightError(
                "its pickle calls something that is not a constructor of a state dict."
            )
        self.push(function.make(*arguments))

    def push_storage(self) -> None:
        (identity,) = self.pop_count(1)
        if not (
            isinstance(identity, tuple)
            and len(identity) == 5
            and identity[0] == "storage"
            and isinstance(identity[1], StorageType)
            and isinstance(identity[2], str)
        ):
            raise WeightError("its pickle refers to an object that is not a tensor storage.")
        self.push(Storage(identity[2], identity[1].dtype))

    def ignore_attributes(self) -> None:
        """Attributes of an OrderedDict: torch stores module versions there, which are not used."""
        target, _ = self.pop_count(2)
        if type(target) is not dict:
            raise WeightError("its pickle sets attributes of an object that is not a dictionary.")
        self.push(target)


_ARGUMENTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
)
# What each opcode does; its argument follows it in the pickle.
_OPCODES: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_ARGUMENTS, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, i: machine.push(machine.memo[i])),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.memorise),
    "MEMOIZE": lambda machine, _: machine.memorise(len(machine.memo)),
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
    "STACK_GLOBAL": lambda machine, _: machine.push_global(*map(str, machine.pop_count(2))),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BINPERSID": lambda machine, _: machine.push_storage(),
    "BUILD": lambda machine, _: machine.ignore_attributes(),
}
