"""The package built, installed and used in another folder, as by `pip install .`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
FOLDERS = ("latte_ms", "scripts", "tools", "configs")
COMMANDS = {
    "train",
    "train-autoencoder",
    "sample",
    "sample-t2v",
    "convert",
    "check-data",
    "metrics",
    "fetch-detectors",
    "convert-videos",
    "encode",
    "merge-lora",
    "posthoc-ema",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package alone; its requirements are those of this process."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*pip, str(target), str(source)], check=True)
    shutil.rmtree(source)
    return target


def run(site: Path, folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "GLOG_v": "3"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_and_the_types_are_there(site: Path, tmp_path: Path) -> None:
    assert {path.name for path in (site / "bin").glob("latte-*")} == {
        f"latte-{name}" for name in COMMANDS
    }
    code = (
        "import sys, latte_ms; from importlib.metadata import distribution; "
        "points = distribution('latte_ms').entry_points; "
        "print(latte_ms.__file__, *(callable(point.load()) for point in points))"
    )
    place, *callables = run(site, tmp_path, sys.executable, "-c", code).split()
    assert Path(place).parent == site / "latte_ms"
    assert callables == ["True"] * len(COMMANDS)
    assert (site / "latte_ms" / "py.typed").is_file()


def test_nothing_but_the_package_is_installed(site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {
        "latte_ms",
        "bin",
    }
    links = [path for path in site.rglob("*") if path.is_symlink()]
    assert links == []
    recipes = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.*")}
    assert all((site / "latte_ms" / recipe).is_file() for recipe in recipes)


def test_a_recipe_and_its_weights_are_sampled_from_another_folder(
    site: Path, tmp_path: Path
) -> None:
    recipe = ["--config", "configs/shapes/sample.yaml", "output=out", "classes=[2]"]
    command = str(site / "bin" / "latte-sample")
    printed = run(site, tmp_path, command, *recipe, "sampler.num_steps=2")
    assert "1 videos in" in printed
    names = {"2_seed0.mp4", "2_seed0.gif", "contact_sheet.png", "samples.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
