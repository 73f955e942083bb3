"""Options that are declared once: name, type, default, rule and description in one place.

An option is a field of a frozen dataclass. From that declaration come the arguments of a call (with
its real signature), their documentation, the check of their values, and the keys of a recipe.
"""

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import numpy as np

Rule = Callable[[str, Any], None]
P = ParamSpec("P")
Owner = TypeVar("Owner")
Request = TypeVar("Request")
Result = TypeVar("Result")


def option(
    default: Any,
    help: str,
    rule: Rule | None = None,
    *,
    recipe: type | bool = True,
    kw_only: bool = False,
) -> Any:
    """A field of a dataclass that is an option.

    Args:
        help: one or more sentences about its meaning.
        rule: called with name and value; raises ValueError for a value that is not allowed.
        recipe: False excludes the option from recipes; a type replaces the annotated type in
            recipes.
        kw_only: it must be passed by keyword.
    """
    metadata = {"help": help, "rule": rule, "recipe": recipe}
    if kw_only:  # False would override the class's own setting
        return dataclasses.field(default=default, metadata=metadata, kw_only=True)
    return dataclasses.field(default=default, metadata=metadata)


def check_rules(options: Any, prefix: str = "") -> None:
    """Raise ValueError for the first option whose value breaks its rule.

    `prefix` is prepended to the option's name in messages: "sampler." for a section `sampler` of a
    recipe.
    """
    for field in dataclasses.fields(options):
        rule = field.metadata.get("rule")
        if rule is not None:
            rule(f"{prefix}{field.name}", getattr(options, field.name))


def recipe_section(name: str, *declarations: type) -> Any:
    """A frozen dataclass with the options of `declarations` that recipes may name.

    If several declare an option, the first wins.
    """
    fields: dict[str, tuple[str, Any, Any]] = {}
    for declaration in declarations:
        hints = get_type_hints(declaration)
        for field in dataclasses.fields(declaration):
            kind = field.metadata.get("recipe", False)
            if kind and field.init and field.name not in fields:
                kind = hints[field.name] if kind is True else kind
                copy = dataclasses.field(default=field.default, metadata=field.metadata)
                fields[field.name] = (field.name, kind, copy)
    namespace = {"__post_init__": check_rules}
    return dataclasses.make_dataclass(name, fields.values(), frozen=True, namespace=namespace)


def called_with(
    request: Callable[P, Request], first: str | None = None
) -> Callable[[Callable[[Owner, Request], Result]], Callable[Concatenate[Owner, P], Result]]:
    """Turn a method that takes one `request` into one that takes its options as arguments.

    Signature and documentation are those of the dataclass `request`, for type checkers and for
    `inspect.signature` and `help` alike. The option `first`, whatever its place in the dataclass,
    may also be passed as the first positional argument.
    """

    def decorate(
        method: Callable[[Owner, Request], Result],
    ) -> Callable[Concatenate[Owner, P], Result]:
        @functools.wraps(method)
        def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> Result:
            if first is not None and args:
                if first in kwargs:
                    raise TypeError(f"`{first}` was passed twice.")
                # The type of this call is that of the same arguments, all but the first by name.
                args, kwargs = args[1:], kwargs | {first: args[0]}  # type: ignore[assignment]
            return method(self, request(*args, **kwargs))

        own = inspect.signature(method)
        options = dict(inspect.signature(request).parameters)
        leading = [next(iter(own.parameters.values()))]
        if first is not None:
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            leading.append(options.pop(first).replace(kind=kind))
        described = own.replace(parameters=[*leading, *options.values()])
        vars(call)["__signature__"] = described
        call.__doc__ = f"{inspect.getdoc(method)}\n\nArgs:\n{_describe(request)}\n"
        return call

    return decorate


def _describe(request: Any) -> str:
    lines = []
    for field in dataclasses.fields(request):
        if field.init and "help" in field.metadata:
            text = f"{field.name}: {field.metadata['help']}"
            lines.append(
                textwrap.fill(text, 96, initial_indent="    ", subsequent_indent="        ")
            )
    return "\n".join(lines)


def positive_integer(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")


def number(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
        raise ValueError(f"`{name}` must be a number, got {value!r}.")


def fraction(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"`{name}` must be from 0 to 1, got {value!r}.")


def positive_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number above 0 and at most 1."""
    number(name, value)
    if not 0.0 < value <= 1.0:
        raise ValueError(f"`{name}` must be above 0 and at most 1, got {value!r}.")


def optional(rule: Rule) -> Rule:
    """The rule for values that are not None."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            rule(name, value)

    return check


def descending(name: str, value: Sequence[int]) -> None:
    """Raise ValueError unless `value` holds descending numbers of at least 0, one or more."""
    values = list(value)
    if not values or values[-1] < 0 or any(b >= a for a, b in pairwise(values)):
        raise ValueError(
            f"`{name}` must be descending numbers of at least 0, one or more, got {values}."
        )


def one_of(*allowed: Any) -> Rule:
    """The rule that a value is one of `allowed`."""

    def check(name: str, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}.")

    return check
