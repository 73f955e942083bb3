"""CLIP against transformers, with random weights: layers, towers, tokens, images and the score."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from mindspore import Tensor
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from latte_ms.media import write_mp4
from latte_ms.metrics.clip import load_clip
from latte_ms.metrics.clip.images import ImagePreparation
from latte_ms.metrics.clip.tokenizer import CLIPTokenizer
from latte_ms.metrics.clip_score import CLIPDetector, clip_score, prompt_of_name
from latte_ms.metrics.clips import ClipRule, Clips
from latte_ms.metrics.protocols import ClipProtocol

LENGTH = 16
SHORT = ClipProtocol(ClipRule(num_frames=3), ClipRule(num_frames=3))
MERGES = ["r e", "s t", "st a", "sta r</w>", "re d</w>", "m o", "v i", "n g</w>", "mo vi"]
TEXTS = [
    "a red star moving up",
    "A Red\n STAR, it's   moving: 2 times!",
    "caf\u00e9 \u65e5\u672c na\u0308ive \U0001f600 don't they'll",
    "",
    "a <|endoftext|> within",
]


def save_tokenizer(folder: Path) -> int:
    """A small vocabulary of bytes and pairs, in all files that transformers writes; its size."""
    characters = list(bytes_to_unicode().values())
    tokens = [*characters, *(f"{c}</w>" for c in characters)]
    tokens += [pair.replace(" ", "") for pair in MERGES] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    fast = transformers.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    fast.save_pretrained(folder)
    return len(vocabulary)


def random_clip(vocab_size: int, activation: str) -> transformers.CLIPModel:
    shared = {"num_hidden_layers": 2, "hidden_act": activation}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4} | shared
    vision = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 3} | shared
    text |= {"vocab_size": vocab_size, "max_position_embeddings": LENGTH}
    text |= {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1}
    vision |= {"image_size": 24, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for name, parameter in model.named_parameters():
        if name != "logit_scale":
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[transformers.CLIPModel, Path]:
    folder = tmp_path_factory.mktemp("clip")
    model = random_clip(save_tokenizer(folder), request.param)
    model.save_pretrained(folder)
    size = {"shortest_edge": 24}
    transformers.CLIPImageProcessor(size=size, crop_size=24).save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def detector(saved: tuple[transformers.CLIPModel, Path]) -> CLIPDetector:
    return CLIPDetector(saved[1])


def error(found: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


def test_a_layer_is_transformers(saved: tuple[transformers.CLIPModel, Path]) -> None:
    model, folder = saved
    x = np.random.default_rng(0).standard_normal((2, 7, 48)).astype(np.float32)
    block = load_clip(folder).network.vision.blocks[1]
    with torch.no_grad():
        expected = model.vision_model.encoder.layers[1](torch.from_numpy(x), None, None)[0]
    assert error(block(Tensor(x)).asnumpy(), expected) <= 1e-5


def test_both_towers_are_transformers(
    saved: tuple[transformers.CLIPModel, Path], detector: CLIPDetector
) -> None:
    model, folder = saved
    frames = np.random.default_rng(1).integers(0, 256, (3, 50, 40, 3), np.uint8)
    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder)
    pixels = processor(list(frames), return_tensors="pt")
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        images, texts = model.get_image_features(**pixels), model.get_text_features(**tokens)
    assert error(detector(frames), images) <= 1e-5
    assert error(detector.texts(TEXTS), texts) <= 1e-5


@pytest.mark.extended
def test_the_size_of_vit_l_14(tmp_path: Path) -> None:
    """Both towers of 428 million parameters, which the CLIP score of the literature uses."""
    size = save_tokenizer(tmp_path)
    text = {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1}
    text |= {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    vision |= {"num_hidden_layers": 24, "patch_size": 14}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.CLIPImageProcessor()
    processor.save_pretrained(tmp_path)
    frames = np.random.default_rng(1).integers(0, 256, (2, 240, 320, 3), np.uint8)
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(tmp_path)
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        images = model.get_image_features(**processor(list(frames), return_tensors="pt"))
        texts = model.get_text_features(**tokens)
    del model
    detector = CLIPDetector(tmp_path)
    assert error(detector(frames), images) <= 1e-5
    assert error(detector.texts(TEXTS), texts) <= 1e-5


def test_the_score_is_that_of_transformers(
    saved: tuple[transformers.CLIPModel, Path], detector: CLIPDetector, tmp_path: Path
) -> None:
    """100 max(cos, 0), averaged over frames, prompts of a video, and videos."""
    model, folder = saved
    rng, videos = np.random.default_rng(2), tmp_path / "videos"
    for name in ("one", "two", "three"):
        write_mp4(videos / f"{name}.mp4", rng.integers(0, 256, (5, 40, 48, 3), np.uint8), 8.0)
    prompts = {"one.mp4": TEXTS[:1], "three.mp4": TEXTS[1:3], "two.mp4": TEXTS[4:]}
    rows = [json.dumps({"path": p, "caption": c}) for p, own in prompts.items() for c in own]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    found = clip_score(
        videos, detector, tmp_path / "prompts.jsonl", protocol=SHORT, cache=tmp_path / "kept"
    )
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessor.from_pretrained(folder),
        transformers.CLIPTokenizerFast.from_pretrained(folder),
    )
    clips, expected = Clips(videos, "videos", ClipRule(num_frames=3, image_size=0)), {}
    for number, clip in enumerate(clips.clips):
        inputs = processor(
            text=prompts[clip.name],
            images=list(clips.read(number)),
            return_tensors="pt",
            **{"padding": True, "truncation": True, "max_length": LENGTH},
        )
        with torch.no_grad():
            result = model(**inputs)
        cosines = result.image_embeds @ result.text_embeds.T
        expected[clip.name] = float((100 * cosines.clamp(min=0)).mean())
    assert found.videos == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert max(expected.values()) > 0
    assert found.mean == pytest.approx(np.mean(list(expected.values())), rel=1e-5, abs=1e-4)
    assert "3 generated clips of 3 frames, CLIP, model.safetensors, SHA-256" in str(found)
    named = clip_score(videos, detector, protocol=SHORT, cache=tmp_path / "kept")
    assert set(named.videos) == set(prompts)
    assert named.videos != found.videos
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows[1:]))
    with pytest.raises(ValueError, match=r"a prompt for each video; 1 have none, .*one.mp4"):
        clip_score(videos, detector, tmp_path / "prompts.jsonl", protocol=SHORT)


def test_names_are_prompts() -> None:
    assert prompt_of_name("a/a_red_star_moving_up_seed12.mp4") == "a red star moving up"
    assert prompt_of_name("rain.mp4") == "rain"
    assert prompt_of_name("_seed3.mp4") == ""


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json merges.txt"])
def test_tokens_are_transformers(
    files: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "some").mkdir()
    size = save_tokenizer(tmp_path / "all")
    for name in files.split():
        shutil.copy(tmp_path / "all" / name, tmp_path / "some")
    tokenizer = CLIPTokenizer(tmp_path / "some", LENGTH, size)
    fast = transformers.CLIPTokenizerFast.from_pretrained(tmp_path / "all")
    slow = transformers.CLIPTokenizer.from_pretrained(tmp_path / "all")
    ids, last = tokenizer(TEXTS)
    for row, mark, text in zip(ids, last, TEXTS, strict=True):
        expected = fast(text, truncation=True, max_length=LENGTH)["input_ids"]
        np.testing.assert_array_equal(row[: len(expected)], expected)
        assert (row[len(expected) :] == size - 1).all()
        assert mark.sum() == 1
        assert mark[expected.index(size - 1)] == 1
    plain = slow(TEXTS[0], truncation=True, max_length=LENGTH)["input_ids"]
    np.testing.assert_array_equal(ids[0, : len(plain)], plain)
    tokenizer([" ".join(10 * ["red star"])])
    assert "A text has 20 tokens and CLIP reads 14; " in caplog.text
    assert caplog.text.strip().endswith("'" + " ".join(3 * ["red star"]) + "'")
    with pytest.raises(ValueError, match=rf"at most 500 tokens, as the network, got {size}"):
        CLIPTokenizer(tmp_path / "some", LENGTH, 500)


@pytest.mark.parametrize("shape", [(224, 224), (48, 100), (333, 97), (500, 512)])
def test_images_are_prepared_as_transformers_does(shape: tuple[int, int], tmp_path: Path) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (2, *shape, 3), np.uint8)
    processor = transformers.CLIPImageProcessor()
    processor.save_pretrained(tmp_path)
    expected = processor(list(frames), return_tensors="np")["pixel_values"]
    for folder in (tmp_path, tmp_path / "none"):
        found = ImagePreparation.from_folder(folder, 224)(frames)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def changed(folder: Path, name: str, **values: object) -> None:
    fields = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps(fields | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"model_type": "siglip"}, "`model_type` is 'siglip' instead of 'clip'"),
        ("config.json", {"text_config": 3}, "`text_config` must be an object, got 3"),
        ("config.json", {"vision_config": {"patch_size": 9}}, "must be divisible by `patch_size`"),
        ("config.json", {"text_config": {"hidden_act": "relu"}}, "`hidden_act` must be"),
        ("config.json", {"text_config": {"vocab_size": 1 << 22}}, "asks for at least"),
        ("config.json", {"projection_dim": 21}, "does not fit the network"),
        ("preprocessor_config.json", {"resample": 2}, "`resample` must be 3, got 2"),
        ("preprocessor_config.json", {"do_normalize": False}, "`do_normalize` must be True"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "`mean` must"),
        ("preprocessor_config.json", {"crop_size": 20}, "`crop_size` must be 24"),
        ("preprocessor_config.json", {"size": {"height": 9}}, "`size` must be a number"),
        ("tokenizer.json", {"model": 3}, "must be a file of CLIP's tokenizer"),
    ],
)
def test_folders_of_other_models_are_refused(
    file: str,
    values: dict[str, object],
    message: str,
    saved: tuple[transformers.CLIPModel, Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(saved[1], tmp_path / "clip")
    changed(tmp_path / "clip", file, **values)
    with pytest.raises(ValueError, match=message):
        load_clip(tmp_path / "clip")


def test_missing_files_are_named(
    saved: tuple[transformers.CLIPModel, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    with pytest.raises(FileNotFoundError, match=r"`clip_model` must be .*model.safetensors"):
        load_clip(folder)
    shutil.copytree(saved[1], folder)
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"`clip_model` must be .*tokenizer.json"):
        load_clip(folder)


def test_the_checksum_of_shards_is_that_of_their_values(
    saved: tuple[transformers.CLIPModel, Path], tmp_path: Path
) -> None:
    model, folder = saved
    marks = []
    for name, factor in (("one", 1.0), ("same", 1.0), ("other", 1.5)):
        model = transformers.CLIPModel.from_pretrained(folder)
        model.text_projection.weight.data *= factor
        model.save_pretrained(tmp_path / name, max_shard_size="60KB")
        assert len(list((tmp_path / name).glob("*.safetensors"))) > 1
        for file in folder.glob("*.json"):
            shutil.copy(file, tmp_path / name)
        marks.append(CLIPDetector(tmp_path / name).identity["weights"])
    assert marks[0].startswith("model.safetensors.index.json, SHA-256 ")
    assert marks[0] == marks[1]
    assert marks[0] != marks[2]


def test_older_files_hold_constants(
    saved: tuple[transformers.CLIPModel, Path], tmp_path: Path
) -> None:
    """A pytorch_model.bin with position ids, and a config.json whose `text_config_dict` counts."""
    model, folder = saved
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    positions = {
        f"{t}_model.embeddings.position_ids": torch.arange(9)[None] for t in ("text", "vision")
    }
    torch.save(model.state_dict() | positions, tmp_path / "clip" / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    older = {f"{key}_dict": config[key] for key in ("text_config", "vision_config")}
    changed(tmp_path / "clip", "config.json", text_config={}, vision_config=None, **older)
    expected = {p.name: p.asnumpy() for p in load_clip(folder).network.get_parameters()}
    for parameter in load_clip(tmp_path / "clip").network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), expected[parameter.name])
