"""Replays of a text-to-video folder: its networks alone, and its pipeline with each scheduler.

Part of `tools/check_parity.py`.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from latte_ms import schedulers
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.vae.codec import Codec
from latte_ms.weights.pretrained import load_autoencoder
from tools.comparison import FORWARD, HALF, LOOP, Arrays, Comparison

# Recorded with an attention cache, which this project does not have.
SKIPPED = ("latent_pab",)
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
PLAIN_STEPS = 20  # of the recorded run without the attention cache


def text_to_video(
    folder: Path, config: dict[str, Any], arrays: Arrays, dtype: ms.Type
) -> Iterator[Comparison]:
    """Text encoder, transformer, both autoencoders, and whole runs of the pipeline."""
    half = dtype != ms.float32
    pipeline = LattePipeline.from_pretrained(folder / "pipeline", mindspore_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    for result in itertools.chain(
        _embeddings(pipeline, config, arrays),
        _transformer(pipeline, arrays),
        _autoencoders(folder, pipeline, arrays, dtype),
        _runs(pipeline, config, arrays),
        _outputs(folder, pipeline, config, arrays, dtype),
    ):
        name, value, expected, bound = result
        yield Comparison(name, value, expected, HALF if half else bound)


def _embeddings(
    pipeline: LattePipeline, config: dict[str, Any], arrays: Arrays
) -> Iterator[tuple[Any, ...]]:
    output = pipeline.encode_prompt(
        config["prompt"],
        negative_prompt=config["negative_prompt"],
        clean_caption=config["clean_caption"],
    )
    for name, tensor in zip(("prompt_embeds", "negative_prompt_embeds"), output, strict=True):
        assert tensor is not None
        yield name, tensor.asnumpy(), arrays[name], FORWARD


def _transformer(pipeline: LattePipeline, arrays: Arrays) -> Iterator[tuple[Any, ...]]:
    x, t, text = (Tensor(arrays[f"tr_{name}"]) for name in ("x", "t", "text"))
    network = pipeline.transformer
    yield "tr_out", network(x, t, text).asnumpy(), arrays["tr_out"], FORWARD
    spatial = network(x, t, text, None, False).asnumpy()
    yield "tr_out_spatial_only", spatial, arrays["tr_out_spatial_only"], FORWARD
    image = Tensor(np.ascontiguousarray(arrays["tr_x"][:, :, :1]))
    yield "tr_out_image", network(image, t, text).asnumpy(), arrays["tr_out_image"], FORWARD


def _autoencoders(
    folder: Path, pipeline: LattePipeline, arrays: Arrays, dtype: ms.Type
) -> Iterator[tuple[Any, ...]]:
    no_noise = np.zeros_like(arrays["vae_mean"])
    output = pipeline.vae(Tensor(arrays["vae_image"]), Tensor(no_noise))
    decoded, mean, log_variance = (tensor.asnumpy() for tensor in output)
    yield "vae_mean", mean, arrays["vae_mean"], FORWARD
    yield "vae_std", np.exp(0.5 * log_variance), arrays["vae_std"], FORWARD
    yield "vae_decode", decoded, arrays["vae_decode"], LOOP
    temporal = load_autoencoder(folder / "pipeline" / "vae_temporal_decoder", dtype)
    z = arrays["tvae_z"]
    codec = Codec(temporal, frames_per_chunk=len(z))
    pixels = codec.decode(z[None] * np.float32(temporal.config.scaling_factor))[0]
    yield "tvae_decode", pixels, arrays["tvae_decode"], LOOP


def _runs(
    pipeline: LattePipeline, config: dict[str, Any], arrays: Arrays
) -> Iterator[tuple[Any, ...]]:
    """Latents of each scheduler by diffusers' rules, with the pipeline's betas, else defaults."""
    own = pipeline.scheduler
    betas = {name: own.config[name] for name in BETAS}
    options = call_options(config, arrays) | {"output_type": "latent", "like_diffusers": True}
    for name in [name for name in arrays if name.startswith("latent_") and name not in SKIPPED]:
        kind, steps = name.removeprefix("latent_"), config["scheduler_steps"]
        if kind == "nopab":
            kind, steps = "ddim", PLAIN_STEPS
        pipeline.scheduler = own if kind == "ddim" else schedulers.create(kind, betas)
        output = pipeline(**options, num_inference_steps=steps)[0]
        yield name, output.asnumpy(), arrays[name], LOOP
    pipeline.scheduler = own


def _outputs(
    folder: Path,
    pipeline: LattePipeline,
    config: dict[str, Any],
    arrays: Arrays,
    dtype: ms.Type,
) -> Iterator[tuple[Any, ...]]:
    """Decoded frames: with guidance, without it, of an image, and by the temporal decoder."""
    options = call_options(config, arrays)
    steps = config["scheduler_steps"]
    frames = pipeline(**options, num_inference_steps=steps, output_type="ms")[0]
    yield "frames_ddim", frames.asnumpy(), arrays["frames_ddim"], LOOP
    plain = {"num_inference_steps": 4, "guidance_scale": 1.0, "mask_feature": False}
    frames = pipeline(**(options | plain), output_type="np")[0]
    yield "frames_nocfg", frames, arrays["frames_nocfg"], LOOP
    image = {"num_inference_steps": 4, "video_length": 1, "latents": arrays["latents"][:, :, :1]}
    frames = pipeline(**(options | image), output_type="ms")[0]
    yield "image_t2i", frames.asnumpy(), arrays["image_t2i"], LOOP
    pipeline.vae = load_autoencoder(folder / "pipeline" / "vae_temporal_decoder", dtype)
    chunks = {"num_inference_steps": 4, "decode_chunk_size": 4}
    frames = pipeline(**(options | chunks), output_type="ms")[0]
    yield "frames_temporal_vae", frames.asnumpy(), arrays["frames_temporal_vae"], LOOP


def call_options(config: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Arguments that all recorded runs share."""
    *_, height, width = arrays["vae_image"].shape
    return {
        "video_length": arrays["latents"].shape[2],
        "prompt": config["prompt"],
        "negative_prompt": config["negative_prompt"],
        "guidance_scale": config["guidance_scale"],
        "clean_caption": config["clean_caption"],
        "latents": arrays["latents"],
        "height": height,
        "width": width,
    }
