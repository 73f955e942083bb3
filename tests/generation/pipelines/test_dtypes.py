"""Dtypes of the networks of a pipeline: by component, checked before any file is read."""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from latte_ms.generation.pipelines.folder import Dtypes, choose_dtypes
from latte_ms.generation.pipelines.latte import LattePipeline

NOWHERE = "someone/latte-that-is-nowhere"  # an id of the hub


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mindspore_dtype": "float16"}, r"`mindspore_dtype` must be one of .*, got 'float16'"),
        ({"mindspore_dtype": ms.int8}, r"`mindspore_dtype` must be one of .*, got mindspore\.int8"),
        ({"mindspore_dtype": ms.bfloat16}, r"`mindspore_dtype` bfloat16 has no CPU kernels"),
        (
            {"mindspore_dtype": {"default": ms.float16, "vae": "half"}},
            r"`mindspore_dtype\[\"vae\"\]` must be one of \[mindspore\.float32, .*, got 'half'",
        ),
        ({"mindspore_dtype": {"vae": ms.bfloat16}}, r"bfloat16 has no CPU kernels"),
        (
            {"mindspore_dtype": {"unet": ms.float16}},
            r"`mindspore_dtype` must have some of the keys \[.*'default'\], got \['unet'\]",
        ),
        ({"parameter_dtype": np.float16}, r"`parameter_dtype` must be one of .*numpy\.float16"),
        (
            {"parameter_dtype": {"tokenizer": ms.float16}},
            r"`parameter_dtype` must have .*'tokenizer'",
        ),
        (
            {"parameter_dtype": {"default": 16}},
            r"`parameter_dtype\[\"default\"\]` must be .*got 16",
        ),
        (
            {"parameter_dtype": ms.bfloat16},
            r"`parameter_dtype\[\"text_encoder\"\]` bfloat16 has no CPU kernels",
        ),
        (
            {"parameter_dtype": {"text_encoder": ms.float16}, "streamed_text_encoder": True},
            r"`parameter_dtype` must have no \"text_encoder\" together with `streamed_text_encoder`"
            r".*got mindspore\.float16",
        ),
        ({"use_safetensors": False}, r"`use_safetensors` must be True or None: .*got False"),
        ({"variant": 16}, r"`variant` must be letters, digits, `_` and `-` .*got 16"),
        ({"variant": ""}, r"`variant` must be .*got ''"),
        ({"variant": "../x"}, r"`variant` must be .*got '\.\./x'"),
    ],
)
def test_wrong_options_are_refused_before_any_download(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LattePipeline.from_pretrained(NOWHERE, local_files_only=True, **arguments)


def test_a_dtype_for_all_and_dtypes_by_component() -> None:
    half, full = Dtypes(ms.float16, None), Dtypes(ms.float32, None)
    assert choose_dtypes(None, None, False) == dict.fromkeys(
        ("text_encoder", "vae", "transformer"), full
    )
    result = choose_dtypes({"default": ms.float16, "vae": ms.float32}, None, False)
    assert result == {"text_encoder": half, "vae": full, "transformer": half}
    result = choose_dtypes(None, {"vae": ms.bfloat16}, False)
    assert result["vae"].parameter == ms.bfloat16, "the kernels convert its weights first"
    assert result["transformer"].parameter is None
    assert set(choose_dtypes(ms.float16, None, False, ["tokenizer", "vae"])) == {"vae"}


@pytest.mark.parametrize("parameter", [ms.float16, {"default": ms.float16}, ms.bfloat16])
def test_a_parameter_dtype_does_not_apply_to_a_streamed_text_encoder(parameter: Any) -> None:
    result = choose_dtypes(None, parameter, streamed=True)
    assert result["text_encoder"].parameter is None
    assert result["transformer"].parameter in (ms.float16, ms.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_streamed_text_encoder_with_float16_networks(
    small: LattePipeline, small_folder: Path, options: dict[str, Any], low_memory: bool
) -> None:
    pipeline = LattePipeline.from_pretrained(
        small_folder,
        parameter_dtype=ms.float16,
        streamed_text_encoder=True,
        low_memory=low_memory,
        use_safetensors=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    result, expected = (pipe(**options).frames.asnumpy() for pipe in (pipeline, small))
    assert np.abs(result - expected).max() < 0.01 * np.abs(expected).max()
    for network in (pipeline.transformer, pipeline.vae):
        assert {str(parameter.dtype) for parameter in network.get_parameters()} == {"Float16"}
