"""Values that a text-to-video recipe accepts, and the names of the files."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms import config
from latte_ms.data.video_file import read_video
from latte_ms.generation.pipelines.video_to_video import VideoRequest, to_pixels
from latte_ms.generation.text_recipe import TextToVideoRecipe
from latte_ms.media import write_mp4
from scripts.sample_t2v import DEFAULT_RECIPE

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs" / "t2v"


def recipe(**fields: Any) -> TextToVideoRecipe:
    """A recipe as from a file with these keys."""
    defaults = {"pipeline": "p", "output": "o", "prompt": "a cat"}
    return config.from_dict(TextToVideoRecipe, defaults | fields)


@pytest.mark.parametrize("name", ["t2v", "t2i", "v2v"])
def test_recipes_of_the_repository(name: str) -> None:
    cfg = config.load(TextToVideoRecipe, RECIPES / f"{name}.yaml")
    assert cfg.all_prompts
    options = cfg.options
    sizes = (options.height, options.width)
    assert (options.num_inference_steps, options.guidance_scale, *sizes) == (50, 7.5, 512, 512)
    assert options.video_length == (1 if name == "t2i" else None), "the model's own"


def test_a_missing_source_video_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"`video` is not a file: inputs/drive\.mp4"):
        config.load(TextToVideoRecipe, RECIPES / "v2v.yaml").check_files()


def test_prompts_replace_each_other(tmp_path: Path) -> None:
    """A prompt or a file instead of the list; each prompt once."""
    file = tmp_path / "prompts.txt"
    file.write_text("a dog\n\n# a comment\n  two cats \n #2\na dog\n", encoding="utf-8")
    listed = ["a bird", "a cat", "a bird"]
    assert recipe(prompt="", prompts=listed).all_prompts == ["a bird", "a cat"]
    assert recipe(prompt=" a cow ", prompts=listed).all_prompts == ["a cow"]
    from_file = recipe(prompt="", prompts=listed, prompts_file=str(file))
    assert from_file.all_prompts == ["a dog", "two cats"]
    with pytest.raises(ValueError, match=r"one of `prompt` and `prompts_file`, got both: 'a cow'"):
        recipe(prompt="a cow", prompts_file=str(file))


def test_prompts_from_the_command_line(tmp_path: Path) -> None:
    """With colons and commas, as a shell passes them; the recipe's prompts are not sampled."""
    for text in ("a cat", "a cat, a dog", "3 cats", "a man's hat"):
        cfg = config.load(TextToVideoRecipe, RECIPES / "t2i.yaml", [f"prompt={text}"])
        assert cfg.all_prompts == [text]
    cfg = config.load(TextToVideoRecipe, RECIPES / "t2i.yaml", ["prompt='Scene: a cat'"])
    assert cfg.all_prompts == ["Scene: a cat"]


def test_the_commands_of_the_readme_sample_their_prompts() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    script = "python scripts/sample_t2v.py "
    lines = [line for line in text.splitlines() if line.startswith(script)]
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix(script))
        path = words.pop(words.index("--config") + 1) if "--config" in words else DEFAULT_RECIPE
        overrides = [word for word in words if word != "--config"]
        cfg = config.load(TextToVideoRecipe, ROOT / path, overrides)
        found.append((cfg.all_prompts, cfg.seed))
    assert found == [(["a red star moving up"], 0), (["a dog in a spacesuit"], 7)]


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """The first line is a comment, not a prompt that begins with the mark."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("# a comment\r\na cat\r\n".encode("utf-8-sig"))
    assert recipe(prompt="", prompts_file=str(file)).all_prompts == ["a cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("café\n".encode("latin-1"), r"`prompts_file` must be UTF-8 text, got .*prompts\.txt: "),
        ("a cat\n".encode("utf-16"), r"`prompts_file` must be UTF-8 text, got .*prompts\.txt: "),
        (b"\n# a comment\n", r"`prompts_file` .* must hold a prompt, got none in .*prompts\.txt"),
    ],
)
def test_files_without_prompts(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        recipe(prompt="", prompts=["a bird"], prompts_file=str(file))


def test_frames_to_start_from(tmp_path: Path) -> None:
    """From the middle of the file; a file that is too short or no video is refused."""
    path = tmp_path / "in.mp4"
    write_mp4(path, np.random.default_rng(0).integers(0, 256, (9, 24, 40, 3), np.uint8))
    cfg = recipe(video=str(path), video_length=4, frame_interval=2)
    (request,) = cfg.requests().values()
    assert isinstance(request, VideoRequest)
    np.testing.assert_array_equal(request.pixels, to_pixels(read_video(path)[1:8:2]))
    message = r"`video` must have at least 10 frames, for 4 at an interval of 3, got 9: "
    with pytest.raises(ValueError, match=message + r".*in\.mp4"):
        recipe(video=str(path), video_length=4, frame_interval=3).requests()
    path.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"`video` must be a video .*in\.mp4: cannot be opened"):
        recipe(video=str(path)).requests(default_length=4)


def test_requests_have_the_options_of_the_recipe() -> None:
    """One per prompt; what a recipe leaves out has the default of the pipeline's call."""
    cfg = config.load(
        TextToVideoRecipe,
        RECIPES / "t2v.yaml",
        ["guidance_rescale=0.7", "negative_prompt=blurry", "seed=3", "num_images_per_prompt=2"],
    )
    requests = cfg.requests()
    assert list(requests) == cfg.all_prompts
    for prompt, request in requests.items():
        assert (request.prompt, request.generator, request.output_type) == (prompt, 3, "np")
        assert (request.guidance_rescale, request.negative_prompt) == (0.7, "blurry")
        assert (request.num_images_per_prompt, request.clean_caption) == (2, True)


def test_unknown_options_are_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Unknown key 'guidance_scal'\. Nearest: guidance_scale"):
        recipe(guidance_scal=2.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " "}, "`prompts` must hold a prompt, got none"),
        ({"scheduler": "dimm"}, r"`scheduler` must be one of \['ddim'.*got 'dimm'"),
        ({"formats": ["webm"]}, r"`formats` must be one or more of .*got \['webm'\]"),
        (
            {"num_inference_steps": 0},
            "`num_inference_steps` must be an integer of at least 1, got 0",
        ),
        ({"decode_chunk_size": 0}, "`decode_chunk_size` must be an integer"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"tile_size": -32}, "`tile_size` must be an integer of at least 0, got -32"),
        ({"timesteps": [500, 500]}, r"`timesteps` must be descending .*got \[500, 500\]"),
        ({"timesteps": [500, -1]}, r"`timesteps` must be descending .*got \[500, -1\]"),
        ({"strength": 0.0}, r"`strength` must be above 0 and at most 1, got 0\.0"),
        ({"fps": 0.0}, "`fps` must be above 0"),
        ({"parameter_precision": "int8"}, "`parameter_precision` must be one of .*got 'int8'"),
    ],
)
def test_bad_recipes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**fields)


def test_missing_files(tmp_path: Path) -> None:
    for name in ("video", "prompts_file"):
        with pytest.raises(FileNotFoundError, match=rf"`{name}` is not a file: .*nowhere"):
            recipe(
                **{"prompt": "", "prompts": ["a"], name: str(tmp_path / "nowhere")}
            ).check_files()


def test_options_of_the_hub(tmp_path: Path) -> None:
    recipe(pipeline="someone/latte", revision="main", cache_dir=str(tmp_path / "new")).check_files()
    recipe(pipeline=str(tmp_path), cache_dir=str(tmp_path)).check_files()
    with pytest.raises(
        ValueError, match=r"`revision` \(='main'\) needs .* got the folder .*pytest"
    ):
        recipe(pipeline=str(tmp_path), revision="main").check_files()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="`cache_dir` must be a folder, got the file"):
        recipe(cache_dir=str(tmp_path / "file")).check_files()


def test_a_video_may_be_decoded_as_a_whole() -> None:
    for text, size in (("null", None), ("3", 3)):
        cfg = config.load(TextToVideoRecipe, RECIPES / "t2v.yaml", [f"decode_chunk_size={text}"])
        assert cfg.options.decode_chunk_size == size
