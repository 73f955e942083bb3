"""Pipelines on disk: reading, writing, omitted components, networks loaded when needed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from latte_ms import schedulers, weights
from latte_ms.generation.pipelines.folder import shard_bytes
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder

NETWORKS = {"text_encoder", "vae", "transformer"}
WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def copied(small_folder: Path, tmp_path: Path) -> Path:
    """A pipeline that a test may damage."""
    return Path(shutil.copytree(small_folder, tmp_path / "pipeline"))


def dtypes(network: Any) -> set[str]:
    return {str(parameter.dtype) for parameter in network.get_parameters()}


@pytest.mark.slow
def test_a_saved_pipeline_gives_the_same_video(
    small: LattePipeline, small_folder: Path, options: dict[str, Any]
) -> None:
    again = LattePipeline.from_pretrained(small_folder)
    again.set_progress_bar_config(disable=True)
    expected, result = (pipe(**options).frames.asnumpy() for pipe in (small, again))
    np.testing.assert_array_equal(result, expected)


def test_the_folder_equals_that_of_diffusers(small_folder: Path, pipeline_folder: Path) -> None:
    """Index, configurations, tokenizer and names of weights are those that diffusers wrote."""
    written, theirs = (
        json.loads((folder / "model_index.json").read_text())
        for folder in (small_folder, pipeline_folder)
    )
    assert written == theirs
    for name in ("text_encoder/model", f"vae/{WEIGHTS}"):
        files = [folder / f"{name}.safetensors" for folder in (small_folder, pipeline_folder)]
        first, second = map(weights.read, files)
        assert first.specs == second.specs
        assert all(np.array_equal(first[key], second[key]) for key in first)
    for name in ("spiece.model", "tokenizer_config.json", "special_tokens_map.json"):
        parts = [folder / "tokenizer" / name for folder in (small_folder, pipeline_folder)]
        if name.endswith("json"):
            first, second = (json.loads(part.read_text()) for part in parts)
            assert first == second
        else:
            assert parts[0].read_bytes() == parts[1].read_bytes()


def test_dtypes_by_component(small_folder: Path) -> None:
    pipeline = LattePipeline.from_pretrained(
        small_folder, mindspore_dtype={"transformer": ms.float16, "default": ms.float32}
    )
    assert dtypes(pipeline.transformer) == {"Float16"}
    assert dtypes(pipeline.vae) == dtypes(pipeline.text_encoder) == {"Float32"}
    pipeline = LattePipeline.from_pretrained(small_folder, parameter_dtype={"vae": ms.float16})
    assert dtypes(pipeline.vae) == {"Float16"}
    assert dtypes(pipeline.transformer) == {"Float32"}
    with pytest.raises(ValueError, match=r"`mindspore_dtype` must have some .*got \['unet'\]"):
        LattePipeline.from_pretrained(small_folder, mindspore_dtype={"unet": ms.float16})


@pytest.mark.slow
def test_float16_is_near_float32(
    small: LattePipeline, small_folder: Path, options: dict[str, Any]
) -> None:
    half = LattePipeline.from_pretrained(small_folder, mindspore_dtype=ms.float16)
    half.set_progress_bar_config(disable=True)
    frames = [pipe(**(options | {"output_type": "np"})).frames for pipe in (small, half)]
    assert np.abs(frames[0] - frames[1]).max() < 0.05


def test_variants(copied: Path, small: LattePipeline, tmp_path: Path) -> None:
    """File names have the variant; a component without it uses plain files; none at all fails."""
    half = LattePipeline.from_pretrained(copied, parameter_dtype=ms.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16")
    saved = sorted(path.name for path in (tmp_path / "half").rglob("*.safetensors"))
    assert saved == [f"{WEIGHTS}.fp16.safetensors"] * 2 + ["model.fp16.safetensors"]
    again = LattePipeline.from_pretrained(tmp_path / "half", variant="fp16")
    key = again.transformer.proj_out.weight.asnumpy()
    exact = small.transformer.proj_out.weight.asnumpy()
    np.testing.assert_array_equal(key, exact.astype(np.float16))
    with pytest.raises(ValueError, match=r"`variant` \(=None\)|variants found: `fp16`"):
        LattePipeline.from_pretrained(tmp_path / "half")
    shutil.copy(tmp_path / "half" / "vae" / saved[0], copied / "vae")
    mixed = LattePipeline.from_pretrained(copied, variant="fp16")
    np.testing.assert_array_equal(mixed.transformer.proj_out.weight.asnumpy(), exact)
    with pytest.raises(ValueError, match=r"`variant` \(='bf16'\) is in no component of"):
        LattePipeline.from_pretrained(copied, variant="bf16")


@pytest.mark.slow
def test_shards(copied: Path, small: LattePipeline, options: dict[str, Any]) -> None:
    file = copied / "transformer" / f"{WEIGHTS}.safetensors"
    tensors = weights.read(file)
    arrays = {name: np.array(tensors[name]) for name in tensors}
    file.unlink()
    weights.write(copied / "transformer", {"": weights.from_arrays(arrays)}, shard_size=1000)
    assert len(list((copied / "transformer").glob("*-of-*.safetensors"))) > 1
    sharded = LattePipeline.from_pretrained(copied)
    sharded.set_progress_bar_config(disable=True)
    expected, result = (pipe(**options).frames.asnumpy() for pipe in (small, sharded))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.slow
def test_options_of_saving_are_those_of_diffusers(
    small: LattePipeline, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Names and order; shards of a variant, then one file that replaces them."""
    small.save_pretrained(tmp_path, True, "fp16", "10KB")
    for folder, stem in (("transformer", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model")):
        names = {path.name for path in (tmp_path / folder).glob("*")}
        assert f"{stem}.safetensors.index.fp16.json" in names
        assert f"{stem}.fp16-00001-of-{len(names) - 2:05d}.safetensors" in names
    for size in (None, 10_000_000):
        again = LattePipeline.from_pretrained(tmp_path, variant="fp16")
        again.set_progress_bar_config(disable=True)
        expected, result = (pipe(**options).frames.asnumpy() for pipe in (small, again))
        np.testing.assert_array_equal(result, expected)
        small.save_pretrained(
            save_directory=tmp_path, safe_serialization=True, variant="fp16", max_shard_size=size
        )
        for folder in NETWORKS:
            assert len(list((tmp_path / folder).iterdir())) == 2, "configuration and weights"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"safe_serialization": False}, r"`safe_serialization` must be True: .*, got False"),
        ({"safe_serialization": "fp16"}, r"`safe_serialization` must be True: .*, got 'fp16'"),
        ({"variant": True}, r"`variant` must be letters, digits, `_` and `-` .*, got True"),
        ({"variant": "a.b"}, r"`variant` must be letters, digits, `_` and `-` .*, got 'a\.b'"),
        ({"max_shard_size": 0}, r"`max_shard_size` must be a number of bytes above 0.*, got 0"),
        ({"max_shard_size": True}, r"`max_shard_size` must be .*, got True"),
        ({"max_shard_size": "10"}, r"`max_shard_size` must be .* such as '10GB', got '10'"),
        ({"max_shard_size": "0GB"}, r"`max_shard_size` must be .* such as '10GB', got '0GB'"),
        ({"push_to_hub": True}, r"`push_to_hub` must be False, got True: .*upload_folder"),
    ],
)
def test_refused_options_of_saving(
    small: LattePipeline, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small.save_pretrained(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists(), "refused before anything is written"


def test_shard_sizes() -> None:
    sizes = {"10KB": 10_000, "1.5mb": 1_500_000, " 5 GB ": 5_000_000_000, "2TB": 2 * 10**12}
    assert {text: shard_bytes(text) for text in sizes} == sizes
    assert shard_bytes(17) == 17
    assert shard_bytes(None) is None


def test_components_may_be_passed_or_omitted(
    small: LattePipeline, small_folder: Path, tmp_path: Path
) -> None:
    pipeline = LattePipeline.from_pretrained(
        small_folder, transformer=small.transformer, tokenizer=None, text_encoder=None
    )
    assert pipeline.transformer is small.transformer
    assert pipeline.tokenizer is None
    assert pipeline.text_encoder is None
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == index["tokenizer"] == [None, None]
    assert not (tmp_path / "text_encoder").exists()
    again = LattePipeline.from_pretrained(tmp_path)
    assert again.text_encoder is None


def test_the_temporal_decoder(pipeline_folder: Path, tmp_path: Path) -> None:
    pipeline = LattePipeline.from_pretrained(
        pipeline_folder, temporal_decoder=True, transformer=None, text_encoder=None, tokenizer=None
    )
    assert isinstance(pipeline.vae, AutoencoderKLTemporalDecoder)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKLTemporalDecoder"]
    assert isinstance(LattePipeline.from_pretrained(tmp_path).vae, AutoencoderKLTemporalDecoder)


@pytest.mark.slow
def test_other_numbers_of_frames(small_folder: Path, options: dict[str, Any]) -> None:
    pipeline = LattePipeline.from_pretrained(small_folder, temporal_interpolation=True)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(**(options | {"video_length": 6})).frames
    assert frames.shape == (1, 4, 6, 2, 2)
    deferred = LattePipeline.from_pretrained(
        small_folder, temporal_interpolation=True, low_memory=True
    )
    deferred.check_inputs(**(options | {"video_length": 6}))


@pytest.mark.slow
def test_networks_are_loaded_when_they_are_needed(
    small: LattePipeline, small_folder: Path, options: dict[str, Any]
) -> None:
    pipeline = LattePipeline.from_pretrained(small_folder, low_memory=True)
    pipeline.set_progress_bar_config(disable=True)

    def unloaded() -> set[str]:
        return NETWORKS - pipeline._loaded.keys()

    assert unloaded() == NETWORKS
    encoded = pipeline.prompt_arguments(
        options.pop("prompt"), options.pop("negative_prompt"), clean_caption=False
    )
    assert unloaded() == {"vae", "transformer"}
    pipeline.free_text_encoder()
    pipeline.free_text_encoder()  # a second time changes nothing
    assert unloaded() == NETWORKS
    result = pipeline(**options, **encoded).frames.asnumpy()
    assert unloaded() == {"text_encoder", "vae"}
    options |= {"prompt": "a cat wearing sunglasses", "negative_prompt": "low quality"}
    again = pipeline(**options).frames.asnumpy()
    assert unloaded() == {"text_encoder", "vae"}, "loaded again, used, and freed"
    expected = small(**options).frames.asnumpy()
    for frames in (result, again):
        np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_text_encoder_without_a_folder_is_freed_for_good(small: LattePipeline) -> None:
    small.free_text_encoder()
    assert small.text_encoder is None
    with pytest.raises(ValueError, match="Prompts need a `tokenizer`"):
        small.encode_prompt("a cat")


def test_a_streamed_text_encoder(
    small: LattePipeline, small_folder: Path, options: dict[str, Any]
) -> None:
    streamed = LattePipeline.from_pretrained(
        small_folder, streamed_text_encoder=True, transformer=None, vae=None
    )
    result, _ = streamed.encode_prompt("a cat wearing sunglasses")
    expected, _ = small.encode_prompt("a cat wearing sunglasses")
    np.testing.assert_allclose(result.asnumpy(), expected.asnumpy(), rtol=0, atol=1e-5)


def test_the_hub(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id of the hub, read offline from a cache in huggingface_hub's layout."""
    revision = "0" * 40
    root = tmp_path / "models--someone--latte-small"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    shutil.copytree(small_folder, root / "snapshots" / revision)
    without = {"text_encoder": None, "tokenizer": None, "vae": None}
    pipeline = LattePipeline.from_pretrained(
        "someone/latte-small", cache_dir=tmp_path, local_files_only=True, **without
    )
    assert isinstance(pipeline.transformer.config, LatteT2VConfig)
    with pytest.raises(OSError, match="`someone/not-there` cannot be downloaded from the hub"):
        LattePipeline.from_pretrained(
            "someone/not-there", cache_dir=tmp_path, local_files_only=True
        )


def test_unknown_arguments_are_refused(small_folder: Path) -> None:
    with pytest.raises(TypeError, match=r"no arguments \['torch_dtype'\]; the dtype is"):
        LattePipeline.from_pretrained(small_folder, torch_dtype="float16")


def test_missing_files(copied: Path) -> None:
    """Each is reported before a network is loaded."""
    for name, message in (
        (f"transformer/{WEIGHTS}.safetensors", r"`transformer` must be a folder with config\.json"),
        ("vae/config.json", r"`vae` must be a folder with config\.json"),
        ("tokenizer/spiece.model", r"`tokenizer` must be a folder with spiece\.model"),
        ("scheduler/scheduler_config.json", r"`scheduler` must be a folder with"),
        ("model_index.json", r"A pipeline must be a folder with model_index\.json"),
    ):
        content = (copied / name).read_bytes()
        (copied / name).unlink()
        with pytest.raises(FileNotFoundError, match=message):
            LattePipeline.from_pretrained(copied, low_memory=True)
        (copied / name).write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"is neither a folder nor an id of the hub"):
        LattePipeline.from_pretrained(copied / "nowhere")


def test_other_models(copied: Path) -> None:
    for name, message in (
        ("transformer/config.json", r"LatteTransformer3DModel, its `_class_name` is 'Other'"),
        ("vae/config.json", r"`_class_name` is 'Other'"),
        ("scheduler/scheduler_config.json", r"`_class_name` must be one of .*got 'Other'"),
        ("model_index.json", r"must describe a LattePipeline, its `_class_name` is 'Other'"),
    ):
        content = json.loads((copied / name).read_text())
        (copied / name).write_text(json.dumps(content | {"_class_name": "Other"}))
        with pytest.raises(ValueError, match=message):
            LattePipeline.from_pretrained(copied, low_memory=True)
        (copied / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "text_encoder/config.json",
        "vae/config.json",
        "transformer/config.json",
        "scheduler/scheduler_config.json",
    ],
)
@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_damaged_configurations_are_named(copied: Path, name: str, content: bytes) -> None:
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(copied / name))):
        LattePipeline.from_pretrained(copied, low_memory=True)


def test_the_current_scheduler_is_saved(small: LattePipeline, tmp_path: Path) -> None:
    small.scheduler = schedulers.create("dpm", small.scheduler.config, use_karras_sigmas=True)
    small.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]
    read = LattePipeline.from_pretrained(tmp_path, low_memory=True).scheduler
    assert read.config.use_karras_sigmas is True
    assert read.config.clip_sample is False, "settings of the first scheduler are passed on"


def test_a_component_of_pickles_says_how_to_convert_it(copied: Path) -> None:
    file = copied / "transformer" / f"{WEIGHTS}.safetensors"
    arrays = dict(weights.read(file))
    weights.write(file.with_suffix(".bin"), {"": weights.from_arrays(arrays)})
    file.unlink()
    command = f"latte-convert --source {file.with_suffix('.bin')} --target {file.parent}"
    with pytest.raises(FileNotFoundError, match=re.escape(command)):
        LattePipeline.from_pretrained(copied)
