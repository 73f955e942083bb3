"""The pickle inside a torch file, interpreted without importing or calling anything it names.

Python's own unpickler imports what the file asks for. This one is a small stack machine over the
opcodes that torch writes: a global is looked up in a closed table and becomes an inert mark, and a
"call" is one of the few constructions below. A global or an opcode outside of the tables is
refused before anything else of the file is looked at.
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
class ElementType:
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


def _typed(storage: Storage, offset: int, shape: Any, strides: Any, dtype: str) -> StoredTensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise WeightError("its pickle is damaged (a tensor without a storage or a shape).")
    if len(shape) != len(strides):
        raise WeightError("its pickle is damaged (a tensor has as many strides as dimensions).")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise WeightError("its pickle is damaged (a tensor without an element type).")
    return _typed(storage, offset, shape, strides, storage.dtype)


def _rebuild_tensor_v3(storage: Storage, offset: int, shape: Any, strides: Any, *rest: Any) -> Any:
    kind = rest[2]  # after requires_grad and the hooks
    if not isinstance(kind, ElementType):
        raise WeightError("its pickle is damaged (a tensor without an element type).")
    return _typed(storage, offset, shape, strides, kind.dtype)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


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
    ("torch._utils", "_rebuild_tensor_v3"): Construction(_rebuild_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Construction(_rebuild_parameter),
    ("torch.storage", "UntypedStorage"): StorageType(None),
    **{("torch", row.storage): StorageType(row.name) for row in dtypes.BY_STORAGE.values()},
    **{("torch", row.name): ElementType(row.name) for row in dtypes.TABLE},
}


class _Machine:
    """Stack, open marks and memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

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


def _find_global(machine: _Machine, name: str) -> None:
    module, _, attribute = name.partition(" ")
    _push_global(machine, module, attribute)


def _stack_global(machine: _Machine, _: Any) -> None:
    module, attribute = machine.pop_count(2)
    _push_global(machine, str(module), str(attribute))


def _push_global(machine: _Machine, module: str, attribute: str) -> None:
    found = _GLOBALS.get((module, attribute))
    if found is None:
        raise WeightError(
            f"its pickle names the global `{module}.{attribute}`. Only tensors and plain "
            "containers are read, and nothing from the file was executed. If you trust its "
            "origin, open it in torch and save the state dict alone."
        )
    machine.push(found)


def _reduce(machine: _Machine, _: Any) -> None:
    function, arguments = machine.pop_count(2)
    if not isinstance(function, Construction) or not isinstance(arguments, tuple):
        raise WeightError("its pickle calls something that is no constructor of a state dict.")
    machine.push(function.make(*arguments))


def _persistent(machine: _Machine, _: Any) -> None:
    (identity,) = machine.pop_count(1)
    if not (
        isinstance(identity, tuple)
        and len(identity) == 5
        and identity[0] == "storage"
        and isinstance(identity[1], StorageType)
        and isinstance(identity[2], str)
    ):
        raise WeightError("its pickle refers to an object that is no tensor storage.")
    machine.push(Storage(identity[2], identity[1].dtype))


def _build(machine: _Machine, _: Any) -> None:
    """Attributes of an OrderedDict: torch keeps module versions there, which nobody needs here."""
    target, _state = machine.pop_count(2)
    if type(target) is not dict:
        raise WeightError("its pickle sets attributes of an object that is no dictionary.")
    machine.push(target)


def _container(machine: _Machine, kind: type) -> Any:
    target = machine.stack[-1]
    if type(target) is not kind:
        raise WeightError(f"its pickle is damaged (expected a {kind.__name__}).")
    return target


def _set_item(machine: _Machine, _: Any) -> None:
    key, value = machine.pop_count(2)
    _container(machine, dict)[_scalar(key)] = value


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    pairs = zip(items[::2], items[1::2], strict=True)
    _container(machine, dict).update((_scalar(key), value) for key, value in pairs)


def _append(machine: _Machine, _: Any) -> None:
    (value,) = machine.pop_count(1)
    _container(machine, list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    _container(machine, list).extend(items)


def _add_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    _container(machine, set).update(map(_scalar, items))


def _push_argument(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _ignore(machine: _Machine, _: Any) -> None:
    """Protocol, frame and stop say nothing about the object."""


def _get(machine: _Machine, index: int) -> None:
    machine.push(machine.memo[index])


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _push_tuple_to_mark(machine: _Machine, _: Any) -> None:
    machine.push(tuple(machine.pop_to_mark()))


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(machine.pop_count(count))


def _new(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


_ARGUMENTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
)
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_ARGUMENTS, _push_argument),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignore),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
    "MARK": _mark,
    "NONE": _new(lambda: None),
    "NEWTRUE": _new(lambda: True),
    "NEWFALSE": _new(lambda: False),
    "EMPTY_TUPLE": _new(tuple),
    "EMPTY_LIST": _new(list),
    "EMPTY_DICT": _new(dict),
    "EMPTY_SET": _new(set),
    "TUPLE": _push_tuple_to_mark,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _add_items,
    "GLOBAL": _find_global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BINPERSID": _persistent,
    "BUILD": _build,
}
