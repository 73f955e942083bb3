"""The keys of a recipe that trains on captions."""

from pathlib import Path

import pytest

from latte_ms import config
from latte_ms.training.recipe import T2VTrainConfig, TrainConfig
from tools import make_pipeline

RECIPES = Path(__file__).parents[2] / "configs"
# A key whose change is refused without another one, or another value of a choice.
TOGETHER = {
    "initial_entry": ("model", "initial_weights=w"),
    "initial_prefix": ("network.", "initial_weights=w"),
    "initial_only_network": ("true", "initial_weights=w"),
    "initial_partial": ("true", "initial_weights=w"),
}


def recipe(*overrides: str) -> T2VTrainConfig:
    cfg = config.load(TrainConfig, RECIPES / "shapes" / "train_t2v.yaml", overrides)
    assert isinstance(cfg, T2VTrainConfig)
    return cfg


@pytest.mark.parametrize("key", ["entry", "prefix", "only_network", "partial"])
def test_choices_about_initial_weights_need_them(key: str) -> None:
    value, weights = TOGETHER[f"initial_{key}"]
    with pytest.raises(ValueError, match=f"`initial_{key}` .* needs `initial_weights`"):
        recipe(f"initial_{key}={value}")
    assert recipe(f"initial_{key}={value}", weights).initial_weights == "w"


def test_sizes_are_stated_once() -> None:
    cfg = recipe(
        "data.num_frames=5",
        "data.num_joint_images=2",
        "diffusion.num_train_steps=500",
    )
    assert (cfg.network.video_length, cfg.network.num_joint_images) == (5, 2)
    assert cfg.network.num_embeds_ada_norm == 500
    assert cfg.network.cross_attention_dim == cfg.network.hidden_size == 128
    assert not cfg.learns_variance
    assert recipe("network.out_channels=8").variance == "learned_range"


def test_another_network_is_another_run() -> None:
    plain = recipe().identity
    assert plain["model"] == "LatteT2V"
    for override in ("network.num_layers=3", "diffusion.loss=rescaled_mse", "data.num_frames=8"):
        assert recipe(override).identity != plain
    latte = config.load(TrainConfig, RECIPES / "shapes" / "train.yaml").identity
    assert "model" not in latte, "as older checkpoints record it"


def test_a_pipeline_of_a_run_from_caches_needs_the_parts_it_does_not_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = ("latent_cache.path=l", "caption_cache.path=c")
    cfg = recipe(*caches, *(f"{name}=''" for name in ("vae", "text_encoder", "tokenizer")))
    (tmp_path / "config.yaml").write_text(config.to_yaml(cfg), encoding="utf-8")
    arguments = [f"--checkpoint={tmp_path / 'checkpoints' / '0000001'}", f"--target={tmp_path}/new"]
    for part in ("vae", "text-encoder", "tokenizer"):
        with pytest.raises(SystemExit) as ended:
            make_pipeline.main(arguments)
        assert ended.value.code == 2
        message = f"error: `--{part}` must be given: the run names no `{part.replace('-', '_')}`."
        assert message in capsys.readouterr().err
        arguments.append(f"--{part}={tmp_path / part}")
    with pytest.raises(SystemExit):
        make_pipeline.main(arguments)
    assert str(tmp_path / "tokenizer") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["caption_dropout=1.5"], "`caption_dropout` must be"),
        (["recompute=5"], "`recompute` must be all, or a number of blocks from 0 to 4, got 5"),
        (
            [
                *("diffusion.alignment_weight=0.04", "diffusion.alignment_student_blocks=1"),
                "diffusion.alignment_teacher_blocks=2",
            ],
            r"`diffusion.alignment_weight` \(=0.04\) needs `model` Latte",
        ),
        (["caption_memory_gb=-1"], "`caption_memory_gb` must be"),
        (["text_precision=half"], "`text_precision` must be one of"),
        (["network.num_embeds_ada_norm=10"], "must be `diffusion.num_train_steps`"),
        (["preset=Latte-XL/2"], "Unknown key 'preset'"),
        (["data.classes=true"], "`data.classes` must be false with `data.captions`"),
        (
            [
                *("enable_temporal_attentions=false", "data.num_frames=1"),
                "optimizer.weight_decay=0.1",
            ],
            "`optimizer.weight_decay` must be 0 with `enable_temporal_attentions` false",
        ),
    ],
)
def test_a_mistake_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(*overrides)
