"""Captions are cleaned letter for letter as diffusers cleans them."""

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import bs4
import pytest

from latte_ms.text.cleaning import clean_caption, normalise_prompt

# What the rules react to, put together at random.
PIECES = (
    *("a cat", "dog's", "Jc6640vc", "ab12", "6640vc231", "j2d1a2a", "123456", "12", "3:45 ", "7"),
    *("http://", "https:/x", "www:", "example.com", "a.b.ru/c-d", "me@it.org", "@nick", "#123"),
    *(
        "#SALE",
        "#12345",
        "1.2.3.4",
        "640x480",
        "2\u044503",
        "1.5\u00d72",
        "page 3",
        "x.jpg",
        ".png",
    ),
    *("click on it", "free shipping", "free download free", "mp4 images", "worldwide "),
    *("<b>", "</b>", "<person>", "<", ">", "&amp;", "&quot", "&lt;", "&#39;", "<!--", "-->", "<a"),
    *('"', "''", '"""', "`", "\u00ab", "\u201d", "\u2019", "...", " . ", ",", "/", ";", ":", "+"),
    *("-", "_", "\u2014", "\uff0d", "a-b-c", "d_e_f", "\\n", "\n", "\t", "  ", "%41", "%zz", "\\"),
    *("\u4e2d", "\u31d0", "\u3300", "\u30a0", "\u00a9", "\u00bd", "~", "(x)", "[y]", "{z}", "|"),
    *(
        "\u00c3\u00b6",
        "\u00e2\u20ac\u0153",
        "\ufb01",
        "\U0001f431",
        "\u0130",
        "\u200b",
        "\x00",
        "é",
    ),
)
COUNT = 3000


def random_captions() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def stored(reference: Path) -> list[tuple[str, str]]:
    """Captions and what diffusers makes of them in two passes."""
    text = (reference / "text" / "captions.json").read_text(encoding="utf-8")
    return [(caption, cleaned) for caption, cleaned in json.loads(text)]


@pytest.fixture(scope="module")
def of_diffusers() -> Callable[[str, bool], str]:
    from diffusers.pipelines.latte import pipeline_latte as latte

    pipeline = object.__new__(latte.LattePipeline)  # the method reads no state

    def cleaned(caption: str, clean: bool) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(pipeline._text_preprocessing(caption, clean_caption=clean)[0])

    return cleaned


def test_stored_captions(stored: list[tuple[str, str]]) -> None:
    assert len(stored) > 40
    assert {caption: normalise_prompt(caption, True) for caption, _ in stored} == dict(stored)


def test_stored_captions_live(
    stored: list[tuple[str, str]], of_diffusers: Callable[[str, bool], str]
) -> None:
    for clean in (True, False):
        wrong = [c for c, _ in stored if normalise_prompt(c, clean) != of_diffusers(c, clean)]
        assert wrong == []


def test_random_captions_live(of_diffusers: Callable[[str, bool], str]) -> None:
    compared, wrong = 0, []
    for caption in random_captions():
        try:
            expected = of_diffusers(caption, True)
        except bs4.ParserRejectedMarkup:
            with pytest.raises(ValueError, match="broken markup"):
                normalise_prompt(caption, True)
            continue
        compared += 1
        if normalise_prompt(caption, True) != expected:
            wrong.append(caption)
    assert wrong == []
    assert compared > COUNT * 0.9


def test_two_passes_differ_from_one() -> None:
    assert clean_caption("-:cat") == ":cat"
    assert normalise_prompt("-:cat", True) == "cat"


def test_not_cleaned_is_lower_cased_and_stripped() -> None:
    assert (
        normalise_prompt("  A <b>Cat</b> &amp; http://x.com \n", False)
        == "a <b>cat</b> &amp; http://x.com"
    )


def test_a_caption_that_no_parser_reads_is_named() -> None:
    with pytest.raises(ValueError, match=r"broken markup, got .*odd"):
        clean_caption("odd <![x[ markup")


def test_no_warning_reaches_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert normalise_prompt("image.png", True) == normalise_prompt("http://a.com", True)[:0]
        normalise_prompt("<?xml version='1.0'?><a>b</a>", True)
