"""Networks of pipelines: shared, replaced and freed; offloading, tiling and slicing."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.generation.pipelines.folder import Deferred
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline

NETWORKS = ("text_encoder", "vae", "transformer")


@pytest.fixture
def unloaded(small_folder: Path) -> LattePipeline:
    """A pipeline that has loaded no network."""
    pipeline = LattePipeline.from_pretrained(small_folder, low_memory=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_networks_that_are_not_loaded_yet_are_shared(unloaded: LattePipeline) -> None:
    other = LatteVideoToVideoPipeline(**unloaded.components)
    assert isinstance(other.components["transformer"], Deferred)
    for name in NETWORKS:
        assert getattr(other, name) is getattr(unloaded, name)
    assert other.codec is unloaded.codec


def test_a_network_is_loaded_again_when_no_pipeline_holds_it(unloaded: LattePipeline) -> None:
    other = LattePipeline(**unloaded.components)
    first = weakref.ref(unloaded.text_encoder)
    assert other.text_encoder is first()
    unloaded.free_text_encoder()
    assert first() is not None, "the other pipeline holds it"
    other.free_text_encoder()
    assert first() is None
    assert unloaded.text_encoder is other.text_encoder


@pytest.mark.slow
def test_a_shared_text_encoder_is_freed_by_each_pipeline(
    unloaded: LattePipeline, options: dict[str, Any]
) -> None:
    """Also by a pipeline that received it after it was loaded."""
    unloaded.encode_prompt("a cat")
    other = LattePipeline(**unloaded.components)
    other.set_progress_bar_config(disable=True)
    held = weakref.ref(unloaded.text_encoder)
    for pipeline in (unloaded, other):
        pipeline(**options)
        assert isinstance(pipeline.components["text_encoder"], Deferred)
    assert held() is None


@pytest.mark.slow
def test_a_text_encoder_set_by_the_user_is_not_freed(
    unloaded: LattePipeline, small: LattePipeline, options: dict[str, Any]
) -> None:
    unloaded.encode_prompt("a cat")
    unloaded.text_encoder = small.text_encoder
    for _ in range(2):
        unloaded(**options)
        assert unloaded.components["text_encoder"] is small.text_encoder
    unloaded.text_encoder = None
    assert unloaded.text_encoder is None


def test_offloading_by_groups_says_what_to_do_instead(small: LattePipeline) -> None:
    with pytest.raises(RuntimeError, match=r"PyNative .* `from_pretrained\(\.\.\., low_memory"):
        small.enable_group_offload("Ascend", offload_type="leaf_level")


@pytest.mark.slow
def test_tiling_and_slicing_are_settings_of_the_autoencoder(
    small: LattePipeline, small_folder: Path
) -> None:
    others = {"transformer": None, "text_encoder": None, "tokenizer": None}
    small.vae = vae = LattePipeline.from_pretrained(small_folder, **others).vae
    latents = np.random.default_rng(0).standard_normal((1, 1, 4, 3, 6), np.float32)
    whole = small.codec.decode(latents)
    vae.enable_tiling(tile_size=32)
    vae.enable_slicing()
    assert np.abs(small.codec.decode(latents) - whole).max() > 1e-3
    small.disable_vae_tiling()
    small.disable_vae_slicing()
    assert vae.tile_size is None
    assert not vae.slicing
    np.testing.assert_array_equal(small.codec.decode(latents), whole)
    small.enable_vae_tiling()
    assert vae.tile_size == vae.config.sample_size
    vae.disable_tiling()
    small.enable_vae_slicing()
    assert vae.slicing
    assert LattePipeline(**small.components).codec.autoencoder.slicing
    with pytest.raises(ValueError, match=r"`tile_size` must be a multiple of 32 .*got 20"):
        small.enable_vae_tiling(20)
