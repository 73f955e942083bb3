"""LoRA in pipelines: diffusers' methods, with shared transformers and ones that load late."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from latte_ms import adapters
from latte_ms.adapters import LoraWeights, LowRank
from latte_ms.adapters.weights import modules
from latte_ms.generation.pipelines.folder import trained_transformer
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline
from latte_ms.weights import files
from tools import merge_lora


@pytest.fixture(scope="module")
def lora_files(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of LoRA weights for all attention of the tinier pipeline."""
    folder, paths = tmp_path_factory.mktemp("lora"), []
    shapes = modules(files.read(small_folder / "transformer").specs)
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        changes = {
            name: LowRank(
                rng.standard_normal((2, shape[1]), np.float32),
                rng.standard_normal((shape[0], 2), np.float32),
                1.0,
            )
            for name, shape in shapes.items()
            if ".attn" in name
        }
        paths.append(folder / str(seed) / "pytorch_lora_weights.safetensors")
        adapters.write(paths[-1], LoraWeights(changes))
    return paths


@pytest.fixture
def pipeline(small: LattePipeline) -> Iterator[LattePipeline]:
    yield small
    small.unfuse_lora()
    small.unload_lora_weights()


def latents(pipeline: Any, options: dict[str, Any]) -> np.ndarray:
    return pipeline(**options).frames.asnumpy()


def test_adapters_by_name(
    pipeline: LattePipeline, options: dict[str, Any], lora_files: list[Path], tmp_path: Path
) -> None:
    """Loaded, mixed, disabled, fused, saved and unloaded; the other pipeline shares them."""
    plain = latents(pipeline, options)
    pipeline.load_lora_weights(lora_files[0])
    assert pipeline.get_active_adapters() == ["default_0"]
    first = latents(pipeline, options)
    assert np.abs(first - plain).max() > 0.01 * np.abs(plain).max()
    pipeline.load_lora_weights(lora_files[1].parent, adapter_name="two")
    assert pipeline.get_list_adapters() == {"transformer": ["default_0", "two"]}
    assert pipeline.get_active_adapters() == ["two"]
    other = LatteVideoToVideoPipeline(**pipeline.components)
    other.set_adapters(["default_0", "two"], [1.0, {"transformer": 0.0}])
    np.testing.assert_array_equal(latents(pipeline, options), first)
    pipeline.disable_lora()
    np.testing.assert_array_equal(latents(pipeline, options), plain)
    pipeline.enable_lora()
    np.testing.assert_array_equal(latents(pipeline, options), first)
    with pytest.raises(ValueError, match="call `fuse_lora` to save them with it"):
        pipeline.save_pretrained(tmp_path / "not")
    pipeline.fuse_lora()
    assert (pipeline.fused_loras, pipeline.num_fused_loras) == ({"default_0", "two"}, 2)
    np.testing.assert_array_equal(latents(pipeline, options), first)
    pipeline.unfuse_lora()
    pipeline.save_lora_weights(tmp_path, adapter_name="default_0")
    pipeline.delete_adapters("two")
    pipeline.unload_lora_weights()
    assert pipeline.get_list_adapters() == {}
    np.testing.assert_array_equal(latents(pipeline, options), plain)
    pipeline.load_lora_weights(str(tmp_path))
    np.testing.assert_array_equal(latents(pipeline, options), first)


def test_a_callback_may_change_adapters(
    pipeline: LattePipeline, options: dict[str, Any], lora_files: list[Path]
) -> None:
    """The prompts' values, which are computed once per call, follow a change of their weights."""
    lora = adapters.read(lora_files[0])
    values = LoraWeights({name: lora[name] for name in lora if name.endswith("attn2.to_v")})
    pipeline.load_lora_weights(values)
    pipeline.disable_lora()

    def change(pipe: LattePipeline, index: int, t: Any, tensors: dict) -> dict[str, Any]:
        pipe.enable_lora()
        return {}

    unchanged = latents(pipeline, options)
    changed = latents(pipeline, {**options, "callback_on_step_end": change})
    assert np.abs(changed - unchanged).max() > 1e-3 * np.abs(unchanged).max()
    whole = latents(pipeline, options)
    assert np.abs(changed - whole).max() > 1e-3 * np.abs(whole).max(), "not from the first step on"


@pytest.mark.slow
def test_pipelines_of_other_transformers_see_nothing(
    pipeline: LattePipeline,
    small_folder: Path,
    options: dict[str, Any],
    lora_files: list[Path],
) -> None:
    """Two that are loaded late share one network, and its adapters, whoever loads it."""
    late = LattePipeline.from_pretrained(small_folder, low_memory=True)
    sharing = LattePipeline(**late.components)
    late.load_lora_weights(lora_files[0], adapter_name="late")
    assert "transformer" not in late._loaded, "it is not loaded for it"
    assert sharing.get_active_adapters() == ["late"]
    assert pipeline.get_list_adapters() == {}
    bad = small_folder.parent / "lora.safetensors"
    adapters.write(bad, LoraWeights({"x": LowRank(np.ones((1, 8)), np.ones((8, 1)), 1.0)}))
    with pytest.raises(ValueError, match=r"lora\.safetensors.*the network has no modules"):
        late.load_lora_weights(bad)
    found = latents(sharing, options)
    pipeline.load_lora_weights(lora_files[0])
    np.testing.assert_array_equal(found, latents(pipeline, options))
    direct = LattePipeline(**{**pipeline.components, "transformer": late.transformer})
    assert direct.get_active_adapters() == ["late"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.set_adapters("x"), r"`adapter_names` must be loaded adapters \(none\)"),
        (lambda p: p.set_adapters(["x"], [1.0, 2.0]), "must pair up"),
        (lambda p: p.set_adapters(["x"], "much"), "`adapter_weights` must be from"),
        (lambda p: p.set_adapters(["x"], {"unet": 1.0}), "objects with the key"),
        (lambda p: p.fuse_lora(components=["unet"]), "`components` must be"),
        (lambda p: p.unfuse_lora(components=[]), "`components` must be"),
        (lambda p: p.fuse_lora(lora_scale=float("nan")), "`lora_scale` must be from"),
        (lambda p: p.fuse_lora(safe_fusing=False), "`safe_fusing` must be True"),
        (lambda p: p.save_lora_weights("x"), "`adapter_name` must be one of"),
        (lambda p: p.save_lora_weights("x", safe_serialization=False), "never as pickles"),
        (lambda p: p.load_lora_weights("/nowhere at all"), "must be a file or a folder"),
        (lambda p: p.load_lora_weights({}), "no LoRA weights"),
        (lambda p: p.load_lora_weights({}, hotswap=True), "no LoRA weights"),
    ],
)
def test_wrong_arguments(pipeline: LattePipeline, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(pipeline)
    with pytest.raises(TypeError, match="`load_lora_weights` has no arguments"):
        pipeline.load_lora_weights("x", low_cpu_mem_use=True)


def test_the_merged_folder_gives_diffusers_the_same_frames(
    pipeline: LattePipeline,
    small_folder: Path,
    options: dict[str, Any],
    lora_files: list[Path],
    tmp_path: Path,
    error: Any,
) -> None:
    """1e-4 after two steps, fixed before looking; also of what `fuse_lora` and saving write."""
    target = tmp_path / "merged"
    sources = ["--source", small_folder, "--lora", lora_files[0], "--lora", lora_files[1]]
    arguments = [*sources, "--scale", 0.5, 0.25, "--target", target]
    assert merge_lora.main([str(part) for part in arguments]) == 0
    names = ["one", "two"]
    for name, path in zip(names, lora_files, strict=True):
        pipeline.load_lora_weights(path, name)
    pipeline.set_adapters(names, [0.5, 0.25])
    noise = np.random.default_rng(0).standard_normal((1, 4, 4, 2, 2)).astype(np.float32)
    embeddings = np.random.default_rng(1).standard_normal((2, 1, 5, 32)).astype(np.float32)
    own = {**options, "prompt": None, "negative_prompt": None, "latents": Tensor(noise)}
    own |= {"prompt_embeds": embeddings[0], "negative_prompt_embeds": embeddings[1]}
    found = latents(pipeline, own)
    pipeline.fuse_lora()
    pipeline.save_pretrained(tmp_path / "fused")
    kept = ("guidance_scale", "num_inference_steps", "height", "width", "video_length")
    theirs = {name: options[name] for name in kept}
    theirs |= {"prompt": None, "negative_prompt": None, "output_type": "latent"}
    theirs |= {"prompt_embeds": torch.from_numpy(embeddings[0]), "latents": torch.from_numpy(noise)}
    theirs |= {"negative_prompt_embeds": torch.from_numpy(embeddings[1])}
    for folder in (target, tmp_path / "fused"):
        reference = diffusers.LattePipeline.from_pretrained(
            folder, tokenizer=None, text_encoder=None
        )
        reference.set_progress_bar_config(disable=True)
        expected = reference(**theirs, clean_caption=False).frames.numpy()
        assert error(found, expected) <= 1e-4
    assert merge_lora.main([str(part) for part in arguments]) == 1, "it exists"
    assert merge_lora.main([*(str(part) for part in arguments), "--force"]) == 0


def test_a_transformer_of_another_folder_takes_adapters_before_it_is_loaded(
    pipeline: LattePipeline, small_folder: Path, lora_files: list[Path]
) -> None:
    """As `sample_t2v.py` does with both `transformer` and `lora`."""
    deferred = trained_transformer(small_folder / "transformer", "ema", ms.float32, None, False)
    other = LattePipeline.from_pretrained(small_folder, transformer=deferred)
    for one in (pipeline, other):
        one.load_lora_weights(lora_files[0], adapter_name="mine")
    ours, theirs = deferred.load(), pipeline.transformer
    assert other.get_active_adapters() == ["mine"]
    expected = dict(theirs.parameters_and_names())
    for name, parameter in ours.parameters_and_names():
        np.testing.assert_array_equal(parameter.asnumpy(), expected[name].asnumpy())
    other.unload_lora_weights()
    plain = deferred.load().parameters_dict()
    adapted = "transformer_blocks.0.attention.query.weight"
    assert not np.array_equal(plain[adapted].asnumpy(), expected[adapted].asnumpy())
