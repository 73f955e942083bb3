"""The package as others import it: what it loads, what it names, where its recipes are."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import latte_ms
from latte_ms.config import read_recipe
from latte_ms.extras import MissingExtraError
from latte_ms.generation.pipelines.hub import download
from latte_ms.metrics.clip.tokenizer import CLIPTokenizer
from latte_ms.recipes import find_recipe
from latte_ms.text import clean_caption
from latte_ms.training.history import plot_history
from latte_ms.training.tensorboard import events_writer

ROOT = Path(__file__).parents[1]
# Libraries that are imported when they are first used.
LATER = {
    *("av", "bs4", "ftfy", "huggingface_hub", "imageio", "matplotlib"),
    *("mindone", "sentencepiece", "tokenizers", "torch", "transformers"),
}


def loaded_by(statement: str) -> set[str]:
    """Packages that `statement` imports in a process of its own, beside MindSpore's."""
    code = (
        "import sys, mindspore; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_loads_nothing_but_itself() -> None:
    assert loaded_by("import latte_ms") - sys.stdlib_module_names == {"latte_ms"}


def test_the_pipelines_load_no_library_that_only_calls_need() -> None:
    assert not loaded_by("from latte_ms import LattePipeline, weights") & LATER


def test_public_names() -> None:
    assert {"Latte", "LattePipeline", "__version__"} <= set(dir(latte_ms))
    for name in latte_ms.__all__:
        assert getattr(latte_ms, name) is getattr(latte_ms, name)
    with pytest.raises(AttributeError, match="module 'latte_ms' has no attribute 'Late'"):
        _ = latte_ms.Late


def test_the_version_is_one() -> None:
    assert metadata.version("latte_ms") == latte_ms.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {latte_ms.__version__} " in changes


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("ftfy", "t2v", lambda: clean_caption("a cat")),
        ("bs4", "t2v", lambda: clean_caption("a cat")),
        ("huggingface_hub", "t2v", lambda: download("a/b", [], None, {})),
        ("tokenizers", "metrics", lambda: CLIPTokenizer("a", 77, 49_408)),
        ("matplotlib.figure", "train", lambda: plot_history(Path("a"), Path("b"), ("loss",))),
        ("tensorboardX.event_file_writer", "tensorboard", events_writer),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, extra: str, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    message = rf"needs the package {package}, .* pip install 'latte_ms\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=message):
        call()


def test_recipes_of_the_package_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "configs/shapes/sample.yaml"
    monkeypatch.chdir(ROOT)
    assert find_recipe(name) == Path(name)
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(name)
    assert Path(recipe["weights"], "ema.safetensors").is_file()
    assert find_recipe("configs/none.yaml") == Path("configs/none.yaml")
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.write_text("seed: 1\n")
    assert read_recipe(name) == {"seed": "1"}, "a recipe of the current folder comes first"


def test_here_is_the_folder_of_the_recipe_that_says_it(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.yaml").write_text("vae: ${here}/vae\nformats: ['${here}', mp4]\n")
    recipe = tmp_path / "b.yaml"
    recipe.write_text("base: base/a.yaml\nweights: ${here}/w\nseed: 3\n")
    base = str(tmp_path / "base")
    assert read_recipe(recipe, ["output=out"]) == {
        "vae": f"{base}/vae",
        "formats": [base, "mp4"],
        "weights": f"{tmp_path}/w",
        "seed": "3",
        "output": "out",
    }
