"""Rows of runs are kept, refused where their settings differ, and not made again."""

import dataclasses
from argparse import Namespace
from pathlib import Path

import pytest

from examples.moving_shapes import experiment
from examples.moving_shapes.experiment import Record
from examples.moving_shapes.sample_each import Weights, parse_arguments
from examples.moving_shapes.shapes import class_names, write_shapes
from latte_ms.cache.configuration import LatentCacheConfig
from latte_ms.cache.index import Index, data_settings, write_index
from latte_ms.data.datasets import DataConfig

SETTINGS = {"training": {"loop.max_steps": 300}, "data": {"seed": 0}}
ROWS = [{"accuracy": 0.5, "motion": None}]


@pytest.fixture
def args(tmp_path: Path) -> Namespace:
    names = {"only": ["plain", "other one"], "seeds": [0, 1], "data": tmp_path}
    return Namespace(output=tmp_path / "output", results=tmp_path / "rows", **names)


def test_only_what_has_no_rows_is_made(args: Namespace) -> None:
    experiment.write_record(args.results, Record("other one", 0, SETTINGS, ROWS))
    made = []

    def make(name: str, seed: int) -> list[experiment.Row]:
        made.append((name, seed))
        if name == "plain":  # as if another command had made it meanwhile
            experiment.write_record(args.results, Record("other one", 1, SETTINGS, ROWS))
        return [{"accuracy": 0.25 * seed}]

    expected = dict.fromkeys(args.only, SETTINGS)
    records = experiment.make_missing(args, expected, make)
    assert made == [("plain", 0), ("plain", 1)]
    assert {(one.run, one.seed): one.rows for one in records} == {
        ("other one", 0): ROWS,
        ("other one", 1): ROWS,
        ("plain", 0): [{"accuracy": 0.0}],
        ("plain", 1): [{"accuracy": 0.25}],
    }
    args.data = None
    assert experiment.make_missing(args, expected, make) == records
    args.seeds = [2]
    assert experiment.make_missing(args, expected, make) == records, "nothing is made without data"
    args.results = args.output
    with pytest.raises(ValueError, match="--data and --latents must be given: no rows are in"):
        experiment.make_missing(args, expected, make)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"plain": {"training": {"loop.max_steps": 400}}}, "training.loop.max_steps was 300, is 4"),
        ({"plain": SETTINGS | {"data": {"seed": 1}}}, "data.seed was 0, is 1"),
        ({"other": SETTINGS}, "rows of 'plain', which is no run"),
    ],
)
def test_rows_of_other_settings_are_refused(
    args: Namespace, expected: dict[str, experiment.Settings], message: str
) -> None:
    experiment.write_record(args.results, Record("plain", 0, SETTINGS, ROWS))
    with pytest.raises(ValueError, match=message) as caught:
        experiment.make_missing(args, expected, lambda name, seed: ROWS)
    assert "plain_seed0.json" in str(caught.value)


def test_rows_of_two_data_sets_are_refused_also_without_the_data(args: Namespace) -> None:
    expected = {"plain": {"training": SETTINGS["training"]}}
    experiment.write_record(args.results, Record("plain", 0, SETTINGS, ROWS))
    experiment.check_records(args.results, experiment.read_records(args.results), expected)
    other = SETTINGS | {"data": {"seed": 5}}
    experiment.write_record(args.results, Record("plain", 1, other, ROWS))
    with pytest.raises(ValueError, match=r"plain_seed1.json .*data.seed was 5, is 0"):
        experiment.check_records(args.results, experiment.read_records(args.results), expected)


def test_rows_of_two_starts_are_refused_also_without_the_start(args: Namespace) -> None:
    expected = {"plain": {"training": SETTINGS["training"]}}
    for seed, start in enumerate("ab"):
        settings = SETTINGS | {"start": {"weights": start}}
        experiment.write_record(args.results, Record("plain", seed, settings, ROWS))
    with pytest.raises(ValueError, match=r"plain_seed1.json .*start.weights was b, is a"):
        experiment.check_records(args.results, experiment.read_records(args.results), expected)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain_seed0.json", '{"option": "plain", "accuracy": 0.5}'),
        ("plain_seed0.json", '{"run": "plain", "seed": 0, "settings": {}, "rows": []}'),
        ("plain_seed1.json", '{"run": "plain", "seed": 0, "settings": {}, "rows": [{"a": 1}]}'),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} does not hold the rows of a run"):
        experiment.read_records(tmp_path)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    experiment.begin(tmp_path, SETTINGS)
    experiment.begin(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="holds a run of other settings"):
        experiment.begin(tmp_path, SETTINGS | {"data": {}})


def test_settings_have_values_and_no_paths() -> None:
    keys = ["loop.max_steps=70", "vae=/somewhere", "loop.seed=4", "optimizer.ema_sigma_rels=[0.1]"]
    found = experiment.stated(experiment.RECIPE, keys)
    assert found["loop.max_steps"] == 70
    assert found["optimizer.learning_rate"] == 1e-3
    assert found["optimizer.ema_sigma_rels"] == [0.1]
    assert found["network.learn_sigma"] is False
    assert not {"vae", "loop.seed", "data.path", "runtime.device"} & found.keys()


@pytest.mark.parametrize("combinations", [False, True])
def test_data_that_was_not_drawn_as_it_must_be_is_refused(
    tmp_path: Path, combinations: bool
) -> None:
    names = [f"{name}/00000.mp4" for name in class_names(combinations)]
    settings = {
        "data": data_settings(DataConfig("a", image_size=64, num_frames=16)),
        "latent_cache": LatentCacheConfig("a").settings,
        "autoencoder": {"sha256": "0123456789abcdef0123"},
    }
    index = Index(settings, (16, 4, 16, 16), names, complete=True)
    latents = tmp_path / "latents"
    write_index(latents, index)
    videos = {spread: tmp_path / f"spread_{spread}" for spread in (0.2, 1.0)}
    for spread, folder in videos.items():
        list(write_shapes(folder, 1, spread=spread, combinations=combinations))
    assert experiment.data_of(videos[0.2], latents, combinations) == {
        "videos_per_class": 1,
        "spread": 0.2,
        "seed": 0,
        "autoencoder": "0123456789abcdef",
    }
    with pytest.raises(ValueError, match="--data must be the videos of make_shapes"):
        experiment.data_of(videos[1.0], latents, combinations)
    with pytest.raises(ValueError, match="as many videos of each"):
        experiment.data_of(videos[0.2], latents, not combinations)
    write_index(latents, dataclasses.replace(index, names=names[1:]))
    with pytest.raises(ValueError, match=f"as many videos of each of {len(names)} classes"):
        experiment.data_of(videos[0.2], latents, combinations)


def test_seconds_are_those_without_compiling(tmp_path: Path) -> None:
    lines = ["step,data_seconds,compute_seconds,checkpoint_seconds"]
    lines += ["10,1,60,0", "20,1,4,3", "30,1,5,0"]
    (tmp_path / "history.csv").write_text("\n".join(lines) + "\n")
    assert experiment.training_seconds(tmp_path, 100) == pytest.approx(60)


def test_weights_have_an_entry_and_a_name() -> None:
    given = ["--config", "a.yaml", "--weights", "run/0000500", "--weights", "run/ema_0.2:model"]
    args = parse_arguments([*given, "num_videos=8"])
    assert args.weights == [Weights(Path("run/0000500")), Weights(Path("run/ema_0.2"), "model")]
    assert [one.name for one in args.weights] == ["0000500", "ema_0.2_model"]
    assert [str(one) for one in args.weights] == given[3::2]
    assert args.overrides == ["num_videos=8"]


def test_weights_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--config", "a.yaml", "--weights", "a/0001", "--weights", "b/0001"])
    assert "--weights must have different names, got 0001, 0001" in capsys.readouterr().err
