"""Options declared once: signature, documentation, rules and recipes follow from there."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from latte_ms import options
from latte_ms.options import called_with, check_rules, option, recipe_section


@dataclass(frozen=True, kw_only=True)
class Shared:
    extra: float = option(0.0, "Shared by several.", options.fraction)


@dataclass(frozen=True)
class Call(Shared):
    prompt: str | None = option(None, "What to show.", recipe=False)
    steps: int = option(50, "Steps of the run.", options.positive_integer)
    times: list[int] | None = option(None, "Instead.", options.optional(options.descending))
    negative: str | list[str] = option("", "Not to show.", recipe=str)

    def __post_init__(self) -> None:
        check_rules(self)


@dataclass(frozen=True)
class VideoCall(Call):
    steps: int = dataclasses.field(init=False, default=7)
    video: str = option("", "To start from.", recipe=False, kw_only=True)
    strength: float = option(0.6, "Of the noise.", options.positive_fraction, kw_only=True)


class Pipeline:
    """Two methods of one declaration."""

    @called_with(Call)
    def __call__(self, request: Call) -> Call:
        """Sample videos."""
        return request

    @called_with(VideoCall, first="video")
    def from_video(self, request: VideoCall) -> VideoCall:
        """Sample from a video."""
        return request


def test_the_signature_is_that_of_the_declaration() -> None:
    signature = inspect.signature(Pipeline.__call__)
    assert list(signature.parameters) == ["self", "prompt", "steps", "times", "negative", "extra"]
    assert signature.parameters["steps"].default == 50
    assert signature.parameters["extra"].kind is inspect.Parameter.KEYWORD_ONLY
    assert signature.return_annotation is Call
    other = inspect.signature(Pipeline().from_video)
    assert list(other.parameters)[:2] == ["video", "prompt"]
    assert "steps" not in other.parameters


def test_the_documentation_names_every_option() -> None:
    text = inspect.getdoc(Pipeline.__call__)
    assert text is not None
    assert text.startswith("Sample videos.")
    for line in ("prompt: What to show.", "steps: Steps of the run.", "extra: Shared by several."):
        assert line in text


def test_arguments_become_the_request() -> None:
    request = Pipeline()("a cat", 3, extra=0.5)
    assert (request.prompt, request.steps, request.extra) == ("a cat", 3, 0.5)
    assert Pipeline().from_video("a.mp4", "a cat").video == "a.mp4"
    assert Pipeline().from_video(prompt="a cat", video="a.mp4").video == "a.mp4"
    with pytest.raises(TypeError, match="`video` was passed twice"):
        Pipeline().from_video("a.mp4", video="b.mp4")
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        Pipeline()(step=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        ({"steps": True}, "`steps` must be an integer of at least 1, got True"),
        ({"times": [3, 3]}, r"`times` must be descending .*got \[3, 3\]"),
        ({"times": [3, -1]}, r"`times` must be descending numbers of at least 0"),
        ({"times": []}, r"`times` must be descending .*got \[\]"),
        ({"extra": 1.5}, r"`extra` must be from 0 to 1, got 1\.5"),
        ({"extra": "1"}, r"`extra` must be from 0 to 1, got '1'"),
    ],
)
def test_rules_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pipeline()(**arguments)


def test_values_that_keep_the_rules() -> None:
    Pipeline()(steps=np.int64(3), times=np.array([5, 0]), extra=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`strength` must be above 0 and at most 1, got 0\.0"):
        Pipeline().from_video("a.mp4", strength=0.0)
    with pytest.raises(ValueError, match=r"`strength` must be a finite number, got None"):
        Pipeline().from_video("a.mp4", strength=None)  # type: ignore[arg-type]


def test_a_recipe_has_the_options_that_may_be_written_down() -> None:
    section = recipe_section("Section", Call, VideoCall)
    types = {field.name: field.type for field in dataclasses.fields(section)}
    assert types == {
        "extra": float,
        "steps": int,
        "times": list[int] | None,
        "negative": str,
        "strength": float,
    }
    assert section().steps == 50, "of the first declaration"
    with pytest.raises(ValueError, match="`steps` must be an integer"):
        section(steps=0)
