"""`tools/check_parity.py` on a text-to-video folder with other frame counts, recorded live."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.parity.live_pipeline import FRAMES, noise, save_live_pipeline
from tools.check_parity import replay

pytestmark = pytest.mark.slow

CONFIG = {
    "prompt": "a very long prompt about two dogs on a beach at night",
    "negative_prompt": "low quality",
    "guidance_scale": 5.0,
    "clean_caption": False,
    "scheduler_steps": 3,
}


@pytest.fixture(scope="module")
def recorded(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of diffusers with a pipeline of 4 frames, in the format of a parity folder."""
    folder = tmp_path_factory.mktemp("parity") / "t2v"
    save_live_pipeline(folder / "pipeline", reference)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with torch.no_grad():
        np.savez(folder / "io.npz", **record(folder / "pipeline"))
    return folder


def record(folder: Path) -> dict[str, np.ndarray]:
    pipeline = diffusers.LattePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    temporal = diffusers.AutoencoderKLTemporalDecoder.from_pretrained(
        folder, subfolder="vae_temporal_decoder"
    )
    rng = np.random.default_rng(0)
    arrays = {
        "latents": noise(1),
        "tr_x": rng.standard_normal((2, 4, FRAMES, 4, 4), np.float32),
        "tr_t": np.array([10, 700]),
        "tr_text": rng.standard_normal((2, 7, 32), np.float32),
        "vae_image": rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32),
        "tvae_z": rng.standard_normal((FRAMES, 4, 4, 4), np.float32),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    outputs = networks(pipeline, temporal, tensors) | runs(pipeline, temporal, tensors["latents"])
    return arrays | {name: np.asarray(value) for name, value in outputs.items()}


def networks(pipeline: Any, temporal: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    embeddings = pipeline.encode_prompt(CONFIG["prompt"], negative_prompt="low quality")
    inputs = {"encoder_hidden_states": tensors["tr_text"], "return_dict": False}
    transformer, vae = pipeline.transformer, pipeline.vae
    moments = vae.encode(tensors["vae_image"]).latent_dist
    spatial = {"enable_temporal_attentions": False}
    return {
        "prompt_embeds": embeddings[0],
        "negative_prompt_embeds": embeddings[1],
        "tr_out": transformer(tensors["tr_x"], tensors["tr_t"], **inputs)[0],
        "tr_out_spatial_only": transformer(tensors["tr_x"], tensors["tr_t"], **inputs, **spatial)[
            0
        ],
        "tr_out_image": transformer(tensors["tr_x"][:, :, :1], tensors["tr_t"], **inputs)[0],
        "vae_mean": moments.mean,
        "vae_std": moments.std,
        "vae_decode": vae.decode(moments.mean, return_dict=False)[0],
        "tvae_decode": temporal.decode(tensors["tvae_z"], num_frames=FRAMES, return_dict=False)[0],
    }


def runs(pipeline: Any, temporal: Any, latents: Any) -> dict[str, Any]:
    call = {name: CONFIG[name] for name in ("prompt", "negative_prompt", "guidance_scale")}
    call |= {"clean_caption": False, "height": 32, "width": 32, "latents": latents}
    call |= {"video_length": FRAMES, "num_inference_steps": CONFIG["scheduler_steps"]}

    def run(**changes: Any) -> Any:
        return pipeline(**(call | changes)).frames

    plain = {"guidance_scale": 1.0, "mask_feature": False, "num_inference_steps": 4}
    image = {"video_length": 1, "latents": latents[:, :, :1], "num_inference_steps": 4}
    results = {
        "latent_ddim": run(output_type="latent"),
        "frames_ddim": run(output_type="pt"),
        "frames_nocfg": run(output_type="np", **plain),
        "image_t2i": run(output_type="pt", **image),
    }
    pipeline.vae = temporal
    chunks = {"num_inference_steps": 4, "decode_chunk_size": 4}
    return results | {"frames_temporal_vae": run(output_type="pt", **chunks)}


def test_every_recorded_output_is_within_its_bound(recorded: Path) -> None:
    results = list(replay(recorded))
    assert len(results) == 14
    assert [result.name for result in results if not result.ok] == []


def test_another_frame_count_than_the_recorded_one_fails(recorded: Path, tmp_path: Path) -> None:
    """The number of frames is read from the arrays."""
    folder = tmp_path / "t2v"
    shutil.copytree(recorded, folder)
    arrays = dict(np.load(folder / "io.npz"))
    arrays["latents"] = np.concatenate((arrays["latents"], arrays["latents"]), 2)
    np.savez(folder / "io.npz", **arrays)
    with pytest.raises(ValueError, match=f"`video_length` must be 1 or .* {FRAMES}, got 8"):
        list(replay(folder))
