"""The comparison of training options: recipes that can be read, and a table of all runs."""

from pathlib import Path

import pytest

from examples.moving_shapes import compare_options, experiment
from examples.moving_shapes.compare_options import (
    OPTIONS,
    RECIPE,
    keys_of,
    parse_arguments,
)
from examples.moving_shapes.experiment import ALL_FIGURES, Record
from latte_ms import config
from latte_ms.training.recipe import TrainConfig


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return ["--output", str(tmp_path)]


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_is_a_recipe_of_the_same_compute(name: str, arguments: list[str]) -> None:
    args = parse_arguments([*arguments, "--updates", "1100"])
    keys = keys_of(args, OPTIONS[name], 2, Path("run"))
    cfg = config.load(TrainConfig, RECIPE, experiment.as_keys(keys))
    assert cfg.loop.seed == 2
    assert cfg.loop.max_steps * OPTIONS[name].cost == pytest.approx(1100, abs=1)  # whole updates
    stated = compare_options.expected(args)[name]["training"]
    assert all(stated[key] == value for key, value in OPTIONS[name].keys.items())


def test_the_table_has_mean_and_deviation_of_each_option() -> None:
    rows = [
        {"option": option, "seed": seed, **dict.fromkeys(ALL_FIGURES, 0.5 + seed)}
        for option in ("no EMA", "min-SNR 5", "baseline")
        for seed in (0, 1)
    ]
    lines = compare_options.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| baseline", "| min-SNR 5", "| no EMA"]
    assert lines[0] == (
        "| option | direction | colour | shape | constant colour | constant shape | "
        "motion distance | appearance distance |"
    )
    assert lines[2] == "| baseline | " + "100.0 ± 50.0 | " * 5 + "1.00 ± 0.50 | 1.00 ± 0.50 |"
    assert len(compare_options.plot(rows).axes) == len(ALL_FIGURES)


def test_rows_are_enough_for_the_table(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse_arguments([*arguments, "--seeds", "3", "--only", "baseline"])
    settings = compare_options.expected(args)["baseline"]
    rows = [{"option": name, **dict.fromkeys(ALL_FIGURES, 0.5)} for name in ("baseline", "no EMA")]
    experiment.write_record(args.results, Record("baseline", 3, settings, rows))
    assert compare_options.main([*arguments, "--seeds", "3", "4"]) == 0
    assert "1 of 14 runs have their rows" in capsys.readouterr().out
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| baseline", "| no EMA"]
    assert (tmp_path / "training_options.png").is_file()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--updates", "9"], "--updates must be at least 10, got 9"),
        (["--seeds", "0", "-1"], "--seeds must be at least 0, got -1"),
        (["--data", "/nowhere"], "--data must be a folder, got /nowhere"),
        (["--only", "EMA"], "--only must be of baseline, logit-normal timesteps"),
        (["--start", "."], "--data and --start must both be given, or none"),
        (
            ["--data", ".", "--latents", ".", "--start", "/nowhere"],
            "--start must be a checkpoint folder or a file, got /nowhere",
        ),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*arguments, *wrong])
    assert message in capsys.readouterr().err
