"""What a recipe of text to video may say, and the names of the files."""

from pathlib import Path
from typing import Any

import pytest

from latte_ms import config
from latte_ms.generation.t2v_recipe import T2VConfig, file_stems

RECIPES = Path(__file__).parents[2] / "configs" / "t2v"


def recipe(**fields: Any) -> T2VConfig:
    return T2VConfig(**({"pipeline": "p", "output": "o", "prompt": "a cat"} | fields))


@pytest.mark.parametrize("name", ["t2v", "t2i", "v2v"])
def test_recipes_of_the_repository(name: str) -> None:
    cfg = config.load(T2VConfig, RECIPES / f"{name}.yaml")
    assert cfg.all_prompts
    assert (cfg.num_steps, cfg.guidance, cfg.height, cfg.width) == (50, 7.5, 512, 512)
    assert cfg.video_length == (1 if name == "t2i" else 16)


def test_a_recipe_without_its_video_says_so() -> None:
    with pytest.raises(FileNotFoundError, match=r"`video` names no file: inputs/drive\.mp4"):
        config.load(T2VConfig, RECIPES / "v2v.yaml").check_video()


def test_prompts_from_everywhere_once_each(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a dog\n\n# a remark\n  two cats \na cat\n", encoding="utf-8")
    cfg = recipe(prompts=["a bird", "a cat"], prompts_file=str(file))
    assert cfg.all_prompts == ["a cat", "a bird", "a dog", "two cats"]


def test_prompts_of_the_command_line(tmp_path: Path) -> None:
    """Colons and commas too, as a shell hands them over."""
    for text in ("a cat", "a cat, a dog", "3 cats", "a man's hat"):
        cfg = config.load(T2VConfig, RECIPES / "t2i.yaml", [f"prompt={text}"])
        assert cfg.all_prompts[0] == text
    cfg = config.load(T2VConfig, RECIPES / "t2i.yaml", ["prompt='Scene: a cat'"])
    assert cfg.all_prompts[0] == "Scene: a cat"


def test_files_are_named_after_prompts() -> None:
    prompts = ["A cat, wearing sunglasses.", "a-b", "a b!", "A B", "猫", "...", "../../etc/passwd"]
    names = ["A_cat_wearing_sunglasses", "a_b", "a_b_2", "A_B_3", "猫", "prompt", "etc_passwd"]
    assert list(file_stems(prompts).values()) == names
    long = file_stems(["word " * 40 + end for end in ("one", "two")] + ["猫" * 100])
    assert max(len(name.encode()) for name in long.values()) <= 122
    assert len(set(long.values())) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": " "}, "Give `prompt`, `prompts` or `prompts_file`"),
        ({"scheduler": "dimm"}, r"`scheduler` must be one of \['ddim'.*got 'dimm'"),
        ({"formats": ["webm"]}, r"`formats` must be some of .*got \['webm'\]"),
        ({"num_steps": 0}, "`num_steps` must be an integer of at least 1, got 0"),
        ({"decode_chunk_size": 0}, "`decode_chunk_size` must be an integer"),
        ({"seed": -1}, "must not be negative"),
        ({"strength": 0.0}, r"`strength` must be above 0 and at most 1, got 0\.0"),
        ({"fps": 0.0}, "`fps` must be above 0"),
        ({"storage": "int8"}, "`precision` must be one of"),
    ],
)
def test_bad_recipes(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe(**fields)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name in ("video", "prompts_file"):
        with pytest.raises(FileNotFoundError, match=rf"`{name}` names no file: .*nowhere"):
            recipe(**{name: str(tmp_path / "nowhere")}).check_video()
