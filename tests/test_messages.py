"""Values and errors in messages are exact where they are short, and short where they are long."""

import pytest

from latte_ms.messages import one_line, shown
from latte_ms.options import (
    check_each,
    descending,
    fraction,
    frame_rate,
    integers,
    number,
    positive_integer,
    seed,
    text,
)


@pytest.mark.parametrize("value", ["a cat", 5, -1.5, None, True, [1, 2], {"a": "b"}, ("é",), 2**64])
def test_a_short_value_is_its_repr(value: object) -> None:
    assert shown(value) == repr(value)


def test_a_long_value_is_shortened() -> None:
    assert shown("x" * 200_001) == f"'{'x' * 80}'... (200001 characters)"
    assert shown(10**5000) == "an integer of 16610 bits"
    assert shown(list(range(1000))) == "[0, 1, 2, 3, 4, 5, 6, 7, ...] (1000 values)"
    assert len(shown([["x" * 1000] * 1000] * 1000)) < 8000
    assert len(shown({f"key{i}": "x" * 1000 for i in range(1000)})) < 1000


def test_a_message_has_one_line() -> None:
    assert one_line("a\n b\t c") == "a b c"
    long = one_line("begin " + "x " * 100_000 + "end")
    assert len(long) < 600
    assert long.startswith("begin x")


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        pytest.param(positive_integer, 10**5000, id="huge count"),
        (positive_integer, True),
        (positive_integer, 1.0),
        (positive_integer, "x" * 10_000),
        (integers(0, 5), 6),
        (seed, 2**63),
        pytest.param(fraction, 10**5000, id="huge fraction"),
        (fraction, float("nan")),
        pytest.param(number, 10**5000, id="huge number"),
        (number, [1.0] * 10_000),
        (frame_rate, 0),
        (frame_rate, float("inf")),
        (descending, ["a"]),
        (descending, 5),
        (descending, [float("nan")]),
        (text, ""),
        (text, " "),
        (text, 5),
    ],
)
def test_a_rule_refuses_any_value_in_a_short_message(rule: object, value: object) -> None:
    class Owner:
        field = value

    with pytest.raises(ValueError, match=r"^`part\.field` must be ") as error:
        check_each(Owner(), {"field": rule}, "part.")  # type: ignore[dict-item]
    assert len(str(error.value)) < 300
