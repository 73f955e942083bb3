"""Tensors of a file against the parameters of a network, without reading or changing any."""

import pytest

from latte_ms.weights import Spec, WeightError
from latte_ms.weights.maps import LATTE, T5_ENCODER
from latte_ms.weights.matching import Match, match

HALF = "float16"


def parameters() -> dict[str, Spec]:
    attention = {f"blocks.0.attention.{part}.bias": 8 for part in ("query", "key", "value")}
    sizes = {**attention, "y_embedder.weight": 5, "pos_embed": 3, "temp_embed": 4}
    return {name: Spec((size,), "float32") for name, size in sizes.items()}


def matched(**tensors: Spec) -> Match:
    named = {name.replace("__", "."): spec for name, spec in tensors.items()}
    return match(named, "disk", parameters(), LATTE, {})


def test_result_of_a_file_that_fits_in_part() -> None:
    result = matched(
        blocks__0__attn__qkv__bias=Spec((24,), HALF),
        y_embedder__embedding_table__weight=Spec((6,), HALF),
        pos_embed=Spec((3,), "int64"),
        x_embedder__weight=Spec((1,), HALF),
    )
    assert {name: group.memory for name, group in result.pairs.items()} == {
        "blocks.0.attn.qkv.bias": tuple(list(parameters())[:3])
    }
    assert result.missing == ["temp_embed"]
    assert result.unexpected == ["x_embedder.weight"]
    assert result.mismatched == {
        "y_embedder.embedding_table.weight": "shape (6,) instead of (5,)",
        "pos_embed": "dtype int64 for a parameter of dtype float32",
    }
    with pytest.raises(WeightError, match=r"x.pt does not fit the network \(1 missing, 1 unexp"):
        result.require_exact("x.pt")


def test_exact_result_raises_nothing() -> None:
    result = match(parameters(), "memory", parameters(), LATTE, {})
    result.require_exact("x.ckpt")
    assert list(result.pairs) == list(parameters())


def test_older_spelling_is_paired_under_the_name_in_the_file() -> None:
    old, table = "encoder.embed_tokens.weight", {"shared.weight": Spec((4, 2), "float32")}
    result = match({old: Spec((4, 2), HALF)}, "disk", table, T5_ENCODER, {})
    assert result.pairs[old].memory == ("shared.weight",)
    result.require_exact("folder")
