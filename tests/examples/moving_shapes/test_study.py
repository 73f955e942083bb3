"""The study of the paper's design choices: recipes, and a report of rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples.moving_shapes import experiment, make_shapes, report, study
from examples.moving_shapes.experiment import FIGURES, RECIPE, SAMPLING, Record
from examples.moving_shapes.study import COMPARISONS, DESIGNS, parse_arguments
from latte_ms import config, weights
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.training.recipe import LatteTrainConfig, TrainConfig
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.cost import cost_of
from latte_ms.transformer.latte import Latte
from latte_ms.weights.starting_points import LABELS, TEMPORAL, load_partly
from scripts import encode

DOCUMENT = f"# Study\nBefore.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return ["--output", str(tmp_path / "output"), "--results", str(tmp_path / "rows")]


def keep_rows(arguments: list[str], runs: dict[str, float], seeds: tuple[int, ...]) -> None:
    """Rows whose direction is that of `runs` plus a tenth of the seed, and one below at first."""
    args = parse_arguments(arguments)
    for name, value in runs.items():
        for seed in seeds:
            figures = dict.fromkeys(FIGURES, value + 0.1 * seed) | {"motion": value}
            updates = [args.updates * i // study.POINTS for i in range(1, study.POINTS + 1)]
            rows: list[experiment.Row] = [{"updates": n, **figures} for n in updates]
            rows[0]["motion"] = None
            rows[-1]["seconds"] = 60.0
            settings = study.expected(args)[name] | {"data": {"seed": 0}}
            experiment.write_record(args.results, Record(name, seed, settings, rows))


@pytest.mark.parametrize("name", DESIGNS)
def test_each_design_is_a_recipe_of_the_same_updates(name: str, arguments: list[str]) -> None:
    args = parse_arguments([*arguments, "--updates", "600"])
    keys = study.keys_of(args, DESIGNS[name], 2, Path("run"))
    cfg = config.load(TrainConfig, RECIPE, experiment.as_keys(keys))
    assert isinstance(cfg, LatteTrainConfig)
    assert (cfg.loop.seed, cfg.loop.max_steps, cfg.loop.save_every) == (2, 600, 200)
    assert (cfg.initial_weights != "") == DESIGNS[name].from_images
    stated = study.expected(args)[name]["training"]
    assert all(stated[key] == value for key, value in DESIGNS[name].keys.items())


def test_variants_have_about_the_same_parameters(arguments: list[str]) -> None:
    args = parse_arguments(arguments)
    names = COMPARISONS["variants"]
    counts = [cost_of(study.network_of(args, DESIGNS[name])).parameters for name in names]
    assert max(counts) < 1.03 * min(counts)


def test_comparisons_are_of_designs_and_name_all() -> None:
    assert {name for names in COMPARISONS.values() for name in names} == set(DESIGNS)


def test_a_network_of_single_frames_is_loaded_as_an_image_network(tmp_path: Path) -> None:
    sizes = {"input_size": 4, "hidden_size": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    image, video = (
        Latte(LatteConfig(num_frames=frames, conditioning="class", **sizes), seed=seed)
        for frames, seed in ((1, 1), (4, 2))
    )
    weights.save(image, tmp_path / "frames", entry="ema")
    study.write_image_network(tmp_path / "frames", tmp_path / "image.safetensors")
    found = load_partly(video, tmp_path / "image.safetensors", "ema")
    assert set(found.kept) == {TEMPORAL, LABELS}
    assert (list(found.left_out), dict(found.recomputed)) == ([LABELS], {})
    for name in ("blocks.0.attention.query.weight", "blocks.1.attention.query.weight"):
        ours, theirs = (dict(n.parameters_and_names())[name].asnumpy() for n in (video, image))
        np.testing.assert_array_equal(ours, theirs)


def test_each_run_has_latents_of_single_frames_of_its_own(arguments: list[str]) -> None:
    """So that runs side by side do not wait for each other, and none reads those of other data."""
    args = parse_arguments(arguments)
    folders = [args.output / f"image_start_seed{seed}" for seed in (0, 1)]
    keys = [study.image_latent_keys(args, folder) for folder in folders]
    latents = [Path(one["latent_cache.path"]) for one in keys]
    assert [path.parent for path in latents] == folders
    trained = study.image_keys(args, 1, folders[1])
    assert trained["latent_cache.path"] == latents[1]


def test_fvd_is_that_of_the_runs_of_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without samples nothing can be measured, which is said of these runs alone."""
    keep_rows(arguments, {"variant_1": 0.5, "rotary": 0.75}, (0, 1, 2))
    args = parse_arguments([*arguments, "--only", "rotary", "--seeds", "0", "2"])
    records = experiment.read_records(args.results)
    (known,) = (one for one in records if (one.run, one.seed) == ("rotary", 2))
    known.rows[-1]["fvd"] = 300.0
    assert study.measured(args, records) == records
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no FVD")]
    assert said == ["no FVD of rotary with seed 0: its samples, or --data, are gone"]


def test_the_samples_are_of_a_recipe(arguments: list[str], tmp_path: Path) -> None:
    keys = study.sampling_keys(parse_arguments([*arguments, "--videos", "16"]))
    network = ["network.conditioning=class", "network.num_classes=8", "network.learn_sigma=false"]
    recipe = config.load(LatteRecipe, SAMPLING, [*keys, *network, "weights=a.pt"])
    assert (recipe.count, recipe.sampler.num_steps, recipe.files.formats) == (16, 20, ["mp4"])


def test_the_report_is_written_into_the_document(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "study.md"
    document.write_text(DOCUMENT)
    arguments = [*arguments, "--seeds", "0", "1", "--document", str(document)]
    names = ["variant_1", "variant_2"]
    keep_rows(arguments, {"variant_1": 0.5, "variant_2": 0.25}, (0, 1))
    for _ in range(2):  # again: the old table is replaced
        assert study.main([*arguments, "--only", *names]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# Study\nBefore.\n")
    assert text.endswith(f"{report.END}\nAfter.\n")
    assert text.count("| variant 2 | 0, 1 |") == 1
    line = next(line for line in text.splitlines() if line.startswith("| variant 2 "))
    assert line.endswith(
        "| 60 | 30.0 ± 5.0 | 30.0 ± 5.0 | 30.0 ± 5.0 | 0.25 ± 0.00 | 0.30 ± 0.05 |"
    )
    assert "old" not in text
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["study_variants.png"]
    assert text.count("(images/study_variants.png)") == 1
    assert "4 of 4 runs have their rows" in capsys.readouterr().out


def test_curves_are_means_with_the_range_of_the_seeds(arguments: list[str]) -> None:
    keep_rows(arguments, {"variant_1": 0.5, "rotary": 0.75}, (0, 2))
    args = parse_arguments(arguments)
    records = experiment.read_records(args.results)
    figure = study.curves(records, {"variant_1": "absolute", "rotary": "rotary"})
    panel = figure.axes[0]
    assert [line.get_label() for line in panel.lines] == ["absolute", "rotary"]
    assert panel.lines[1].get_xdata().tolist() == [500, 1000, 1500]
    assert panel.lines[1].get_ydata() == pytest.approx([0.85] * 3)
    band = panel.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.75, 0.95))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--updates", "401"], "--updates must be divisible by 3, got 401"),
        (["--only", "variant_1", "variant_5"], "got variant_5"),
        (["--data", "/tmp"], "--data and --latents must both be given"),
        (["--videos", "7"], "--videos must be at least 8, got 7"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*arguments, *wrong])
    assert message in capsys.readouterr().err


def test_rows_of_other_settings_and_a_document_without_a_place_end_the_command(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_rows(arguments, {"variant_1": 0.5}, (0,))
    with pytest.raises(SystemExit):
        study.main([*arguments, "--updates", "300"])
    assert "training.loop.max_steps was 1500, is 300" in capsys.readouterr().err
    document = tmp_path / "study.md"
    document.write_text("# Nothing\n")
    with pytest.raises(SystemExit):
        study.main([*arguments, "--document", str(document)])
    assert "--document must have the lines" in capsys.readouterr().err


@pytest.mark.extended
def test_runs_are_trained_judged_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, latents, output = (tmp_path / name for name in ("videos", "latents", "output"))
    monkeypatch.setattr(
        "sys.argv",
        ["make_shapes.py", "--target", str(videos), "--videos-per-class=2", "--spread=0.2"],
    )
    assert make_shapes.main() == 0
    keys = [f"data.path={videos}", f"latent_cache.path={latents}"]
    encode.main(["--config", str(RECIPE), *keys])
    chosen = ["--only", "image_start", "--seeds", "1", "--updates=12", "--videos=8"]
    places = ["--output", str(output), "--results", str(tmp_path / "rows")]
    data = ["--data", str(videos), "--latents", str(latents)]
    assert study.main([*chosen, *places, *data]) == 0
    records = experiment.read_records(tmp_path / "rows")
    assert [one.run for one in records] == ["image_start"]
    for record in records:
        assert [row["updates"] for row in record.rows] == [4, 8, 12]
        assert all(set(FIGURES) <= set(row) for row in record.rows)
        assert all(0 <= row["accuracy"] <= 1 for row in record.rows)
        assert record.rows[-1]["seconds"] > 0
        assert record.settings["data"]["videos_per_class"] == 2
        assert str(tmp_path) not in json.dumps(record.settings)
    table = (output / "table.md").read_text(encoding="utf-8")
    for folder in output.glob("*_seed1"):
        folder.rename(tmp_path / f"gone_{folder.name}")
    assert study.main([*chosen, *places]) == 0
    assert (output / "table.md").read_text(encoding="utf-8") == table
