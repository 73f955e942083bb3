"""Options that are declared once: name, type, default, rule and description in one place.

An option is a field of a frozen dataclass. From that declaration come the arguments of a call (with
its real signature), their documentation, the check of their values, and the keys of a recipe.
"""

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import numpy as np

from latte_ms.messages import shown

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
    alias: str = "",
) -> Any:
    """A field of a dataclass that is an option.

    Args:
        help: one or more sentences about its meaning.
        rule: called with name and value; raises ValueError for a value that is not allowed.
        recipe: False excludes the option from recipes; a type replaces the annotated type in
            recipes.
        kw_only: it must be passed by keyword.
        alias: another name that callers and recipes may use for it.
    """
    metadata = {"help": help, "rule": rule, "recipe": recipe, "alias": alias}
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


def check_each(owner: Any, rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Raise ValueError for the first attribute of `owner` whose value breaks its rule.

    Dots in a name lead into nested attributes. `prefix` is prepended to it in messages.
    """
    for name, rule in rules.items():
        rule(f"{prefix}{name}", functools.reduce(getattr, name.split("."), owner))


def check_present(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise ValueError for the first of the `values` that breaks its rule; some may be left out."""
    for name, rule in rules.items():
        if name in values:
            rule(name, values[name])


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
            named = without_aliases(request, kwargs)
            return method(self, request(*args, **named))

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


def without_aliases(owner: Any, values: Mapping[Any, Any]) -> dict[Any, Any]:
    """`values` with each alias of an option of the dataclass `owner` replaced by its name.

    Raises ValueError where an option is given by both names, with different values.
    """
    renamed = dict(values)
    for field in dataclasses.fields(owner):
        alias = field.metadata.get("alias")
        if alias and field.init and alias in renamed:
            value = renamed.pop(alias)
            if renamed.setdefault(field.name, value) != value:
                raise ValueError(
                    f"`{alias}` is another name of `{field.name}`; "
                    f"got {shown(value)} and {shown(renamed[field.name])}."
                )
    return renamed


def _describe(request: Any) -> str:
    lines = []
    for field in dataclasses.fields(request):
        if field.init and "help" in field.metadata:
            text = f"{field.name}: {field.metadata['help']}"
            lines.append(
                textwrap.fill(text, 96, initial_indent="    ", subsequent_indent="        ")
            )
    return "\n".join(lines)


def integers(least: int, most: int) -> Rule:
    """The rule that a value is an integer from `least` to `most`."""

    def check(name: str, value: Any) -> None:
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_integer or value < least:
            raise ValueError(
                f"`{name}` must be an integer of at least {least}, got {shown(value)}."
            )
        if value > most:
            raise ValueError(f"`{name}` must be at most {most}, got {shown(value)}.")

    return check


MANY = 1_000_000  # of anything that takes memory or time for each
positive_integer = integers(1, MANY)
seed = integers(0, 2**62)  # the seeds of all videos of a call then fit in 64 bits


def number(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number."""
    if not _is_real(value) or not np.isfinite(float(value)):
        raise ValueError(f"`{name}` must be a finite number, got {shown(value)}.")


def numbers(least: float, most: float) -> Rule:
    """The rule that a value is a number from `least` to `most`."""

    def check(name: str, value: Any) -> None:
        if not _is_real(value) or not least <= float(value) <= most:
            raise ValueError(f"`{name}` must be from {least:g} to {most:g}, got {shown(value)}.")

    return check


def positive(most: float) -> Rule:
    """The rule that a value is a number above 0 and at most `most`."""

    def check(name: str, value: Any) -> None:
        number(name, value)
        if not 0.0 < value <= most:
            raise ValueError(f"`{name}` must be above 0 and at most {most:g}, got {shown(value)}.")

    return check


fraction = numbers(0.0, 1.0)
positive_fraction = positive(1.0)
frame_rate = positive(1000.0)  # frames a second


def text(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{name}` must be a non-empty string, got {shown(value)}.")


def boolean(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false, got {shown(value)}.")


def items(rule: Rule, least: int, most: int) -> Rule:
    """The rule that a value is a list of `least` to `most` items, each by `rule`."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise ValueError(
                f"`{name}` must be a list of {least} to {most} items, got {shown(value)}."
            )
        for place, item in enumerate(value):
            rule(f"{name}[{place}]", item)

    return check


def _is_real(value: Any) -> bool:
    """A number other than a boolean; an integer too large for a float is none."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return False
    return isinstance(value, Real) and not isinstance(value, bool)


def optional(rule: Rule) -> Rule:
    """The rule for values that are not None."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            rule(name, value)

    return check


def descending(name: str, value: Sequence[int]) -> None:
    """Raise ValueError unless `value` holds descending numbers of at least 0, one or more."""
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    real = all(_is_real(one) and np.isfinite(one) for one in values)
    if not real or not values or values[-1] < 0 or any(b >= a for a, b in pairwise(values)):
        raise ValueError(
            f"`{name}` must be descending numbers of at least 0, one or more, got {shown(value)}."
        )


def one_of(*allowed: Any) -> Rule:
    """The rule that a value is one of `allowed`."""

    def check(name: str, value: Any) -> None:
        if not is_one_of(value, allowed):
            raise ValueError(f"`{name}` must be one of {list(allowed)}, got {shown(value)}.")

    return check


def is_one_of(value: Any, allowed: Sequence[Any]) -> bool:
    """Whether `value` is in `allowed`; False and True are not 0 and 1."""
    return any(isinstance(value, bool) == isinstance(o, bool) and value == o for o in allowed)
