"""Recipes and overrides: how they are read, what is refused, and how scripts use them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING, OmegaConf

from latte_ms import config
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.text_recipe import TextToVideoRecipe
from latte_ms.metrics.recipe import MetricsRecipe
from latte_ms.training.autoencoder_recipe import AutoencoderTrainConfig
from latte_ms.training.recipe import TrainConfig
from scripts import calc_metrics, sample, sample_t2v, train, train_autoencoder

RECIPES = Path(__file__).parents[1] / "configs"
FILES = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.yaml"))
# A recipe's file name says which script reads it.
READERS: dict[str, tuple[type, Callable[[list[str]], None]]] = {
    "train": (TrainConfig, train.main),
    "sample": (LatteRecipe, sample.main),
    "autoencoder": (AutoencoderTrainConfig, train_autoencoder.main),
    **dict.fromkeys(("t2v", "t2i", "v2v"), (TextToVideoRecipe, sample_t2v.main)),
    "metrics": (MetricsRecipe, calc_metrics.main),
}
TRAIN = str(RECIPES / "shapes" / "train.yaml")


@dataclass(frozen=True)
class Engine:
    power: int = 90  # kW
    fuels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Car:
    name: str = MISSING
    engine: Engine = field(default_factory=Engine)
    weight: float = 1.5
    electric: bool = False
    prices: list[float] = field(default_factory=list)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


# Reading.


def test_keys_that_a_file_leaves_out_have_defaults(recipe: Callable[[str], Path]) -> None:
    path = recipe("name: a\nengine:\n  fuels: [petrol, gas]\nweight: 2\n")
    expected = Car("a", Engine(fuels=["petrol", "gas"]), 2.0)
    assert config.load(Car, path) == expected
    assert isinstance(config.load(Car, str(path)).weight, float)


def test_overrides_replace_values_at_any_depth(recipe: Callable[[str], Path]) -> None:
    path = recipe("name: a\nengine:\n  power: 100\n")
    overrides = ["name=b=c", "engine.power=110", "engine.fuels=[gas]", "electric=true"]
    expected = Car("b=c", Engine(110, ["gas"]), electric=True)
    assert config.load(Car, path, overrides) == expected
    assert config.load(Car, path, ["weight=1e-3"]).weight == 0.001


def test_overrides_alone_are_a_configuration() -> None:
    assert config.load(Car, None, ["name=a"]) == Car("a")


def test_a_written_configuration_is_read_back(recipe: Callable[[str], Path]) -> None:
    car = Car("a", Engine(7, ["x: y", "2"]), 0.1, True)
    assert config.load(Car, recipe(config.to_yaml(car))) == car


@dataclass(frozen=True)
class Garage:
    car: Car = field(default_factory=Car)

    @staticmethod
    def fill(values: dict[Any, Any]) -> dict[Any, Any]:
        return {"car": {"name": "a", **values["car"]}}


def test_a_schema_fills_in_missing_keys() -> None:
    assert config.load(Garage, None, ["car.weight=2"]) == Garage(Car("a", weight=2.0))
    assert config.load(Garage, None, ["car.name=b"]) == Garage(Car("b"))
    with pytest.raises(ValueError, match=r"Unknown key 'car.nam'"):
        config.load(Garage, None, ["car.nam=b"])


# Recipes that build on others.


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_a_recipe_is_merged_over_its_base(write: Callable[[str, str], Path]) -> None:
    write("first.yaml", "name: a\nweight: 2\nengine:\n  power: 1\n  fuels: [gas, oil]\n")
    write("more/second.yaml", "base: ../first.yaml\nengine:\n  power: 2\nelectric: true\n")
    third = write("third.yaml", "base: more/second.yaml\nname: c\nengine:\n  fuels: [wood]\n")
    assert config.load(Car, third) == Car("c", Engine(2, ["wood"]), 2.0, True)
    overridden = config.load(Car, third, ["engine.power=3", "weight=7"])
    assert overridden == Car("c", Engine(3, ["wood"]), 7.0, True)


def test_a_base_may_refer_to_a_value_of_the_recipe(write: Callable[[str, str], Path]) -> None:
    write("base.yaml", "name: ${engine.fuels[0]}\n")
    path = write("recipe.yaml", "base: base.yaml\nengine:\n  fuels: [gas]\n")
    assert config.load(Car, path).name == "gas"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"a": "base: none.yaml\n"}, r"`base` of .*a.yaml is not a file: .*none.yaml"),
        ({"a": "base: 5\n"}, r"`base` of .*a.yaml must be the name of a file, got 5\."),
        ({"a": "base: [b.yaml]\n"}, r"`base` of .*a.yaml must be the name of a file, got \["),
        ({"a": "base:\n"}, r"`base` of .*a.yaml must be the name of a file, got None"),
        ({"a": "base: a.yaml\n"}, r"`base` must not lead back .*a.yaml -> .*a.yaml"),
        (
            {"a": "base: b.yaml\n", "b": "base: c.yaml\n", "c": "base: ./b.yaml\n"},
            r"`base` must not lead back .*a.yaml -> .*b.yaml -> .*c.yaml -> .*b.yaml",
        ),
        ({"a": "base: b.yaml\n", "b": "- x\n"}, r"`base` of .*a.yaml must hold keys .*b.yaml"),
        ({"a": "base: b.yaml\n", "b": "x: [\n"}, r"`base` of .*a.yaml is not valid YAML: .*b.yaml"),
        ({"a": "base: b.yaml\n", "b": "nam: a\n"}, r"Unknown key 'nam'\. Nearest: name"),
    ],
)
def test_a_wrong_base_is_named(
    write: Callable[[str, str], Path], contents: dict[str, str], message: str
) -> None:
    for name, text in contents.items():
        write(f"{name}.yaml", text)
    with pytest.raises(ValueError, match=message):
        config.load(Car, write("a.yaml", contents["a"]))


def test_base_is_not_an_override() -> None:
    with pytest.raises(ValueError, match=r"Unknown key 'base'"):
        config.load(Car, None, ["name=a", "base=b.yaml"])


@pytest.mark.parametrize(("name", "main"), [("train", train.main), ("sample", sample.main)])
def test_sizes_in_a_recipe_take_precedence_over_the_preset(
    name: str, main: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"depth": 4, "hidden_size": 384, "num_heads": 6, "patch_size": 4}
    overrides = [f"network.{key}={value}" for key, value in sizes.items()]
    overrides += ["data.path=/nowhere"] if name == "train" else []
    with pytest.raises(SystemExit):
        main(["--config", str(RECIPES / "ucf101" / f"{name}.yaml"), *overrides, "--dry-run"])
    printed = OmegaConf.create(capsys.readouterr().out)
    assert {key: printed.network[key] for key in sizes} == sizes


def test_overrides_may_precede_and_follow_the_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = "data.path=/nowhere"
    arguments = ["loop.seed=77", "--config", TRAIN, "loop.max_steps=5", "--dry-run", "vae=v"]
    with pytest.raises(SystemExit):
        train.main([*arguments, missing])
    printed = OmegaConf.create(capsys.readouterr().out)
    assert (printed.loop.seed, printed.loop.max_steps, printed.vae) == (77, 5, "v")


# Errors.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.powr=1", r"Unknown key 'engine.powr'\. Nearest: engine.power"),
        ("wieght=1", r"Unknown key 'wieght'\. Nearest: weight"),
        ("qqq.power=1", r"Unknown key 'qqq'\.$"),
        ("engine=5", r"`engine` must hold keys and values, got 5"),
        ("engine.power=much", r"`engine.power`: .*'much'.* Integer"),
        ("engine.power=1.5", r"`engine.power`: .*'1.5'.* Integer"),
        ("engine.power=", r"`engine.power`: .*None"),
        ("engine.power.x=1", r"`engine.power` must be a single value, got \{'x': 1\}"),
        ("engine.fuels=gas", r"`engine.fuels` must be a list such as \[gas\], got 'gas'"),
        ("engine.fuels=3", r"`engine.fuels` must be a list such as \[3\], got 3\."),
        ("weight=nan", r"`weight` must be a finite number, got nan"),
        ("weight=-.inf", r"`weight` must be a finite number, got -inf"),
        ("prices=[1,inf]", r"`prices\[1\]` must be a finite number, got inf"),
        ("weight=heavy", r"`weight`: .*'heavy'.* Float"),
        ("electric=perhaps", r"`electric`: .*'perhaps'.* bool"),
        ("engine.power", r"An override has the form key=value, got 'engine.power'"),
        ("=1", r"An override has the form key=value, got '=1'"),
        ("engine.fuels=[gas", r"not valid YAML: 'engine.fuels=\[gas'"),
        ("name=${nothing}", r"`name`: Interpolation key 'nothing' not found"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(Car, None, ["name=a", override])


def test_all_unknown_keys_are_named_together(recipe: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"'nam'.*Nearest: name.*'engine.pow'.*'weigth'"):
        config.load(Car, recipe("nam: a\nengine:\n  pow: 1\n"), ["weigth=2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine:\n  power: 1\n", r"Missing required keys: name\."),
        ("", r"Missing required keys: name\."),
        ("name: [a\n", r"`--config` is not valid YAML: .*recipe.yaml"),
        ("name: a\nname: b\n", r"(?s)not valid YAML: .*duplicate key"),
        ("- name\n- weight\n", r"`--config` must hold keys and values, got a list"),
        ("1: a\n", r"Unknown key '1'"),
    ],
)
def test_a_wrong_file_is_described(recipe: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(Car, recipe(text))


def test_a_binary_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"`--config` is not valid YAML: .*video.mp4"):
        config.load(Car, tmp_path / "video.mp4")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`--config` is not a file: .*none.yaml"):
        config.load(Car, tmp_path / "none.yaml")


def test_the_rules_of_a_section_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`depth` must be even .* got 3"):
        config.load(TrainConfig, TRAIN, ["network.depth=3"])


# Scripts.


@pytest.mark.parametrize("name", FILES)
def test_every_recipe_is_read_by_its_script(
    name: str, capsys: pytest.CaptureFixture[str], recipe: Callable[[str], Path]
) -> None:
    """`--dry-run` prints the whole configuration, which reads back as an equal one.

    Those of training then miss their data.
    """
    schema, main = READERS[Path(name).stem.split("_")[0]]  # train_images: train
    trains, missing = main in (train.main, train_autoencoder.main), "/nowhere"
    overrides = [f"data.path={missing}"] if trains else []
    overrides += ["real=a", "generated=b"] if main is calc_metrics.main else []
    with pytest.raises(SystemExit) as end:
        main(["--config", str(RECIPES / name), *overrides, "--dry-run"])
    assert end.value.code == (2 if trains else 0)
    printed, error = capsys.readouterr()
    assert ("is not a f" in error) == trains, "of videos, or of captions"
    assert config.load(schema, recipe(printed)) == config.load(schema, RECIPES / name, overrides)


def test_a_dry_run_shows_overrides_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    overrides = [f"loop.output={output}", "loop.seed=77", "data.path=/nowhere"]
    with pytest.raises(SystemExit):
        train.main(["--config", TRAIN, *overrides, "--dry-run"])
    assert "seed: 77" in capsys.readouterr().out
    assert not output.exists()


@pytest.mark.parametrize(
    ("main", "file"),
    [
        (train.main, "shapes/train.yaml"),
        (sample.main, "shapes/sample.yaml"),
        (train_autoencoder.main, "shapes/autoencoder.yaml"),
    ],
)
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.in_chanels=3", "error: Unknown key 'network.in_chanels'. Nearest: network."),
        ("runtime.precision=bfloat16", "error: `runtime.precision` bfloat16 has no CPU kernels"),
        ("runtime.memory_limit_gb=nan", "error: `runtime.memory_limit_gb` must be a finite number"),
    ],
)
def test_a_mistake_ends_a_script_with_one_line(
    main: Callable[[list[str]], None],
    file: str,
    override: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--config", str(RECIPES / file), override])
    assert end.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith(message)
    assert written.count("\n") == 1


def test_a_missing_recipe_ends_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--config", "none.yaml"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: `--config` is not a file: none.yaml.\n"
