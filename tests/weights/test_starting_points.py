"""Weights of other networks as starting points: what is loaded, recomputed, kept and left out."""

from collections.abc import Callable, Iterable
from pathlib import Path

import diffusers
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from torch import nn

from latte_ms import config, weights
from latte_ms.layers import positions
from latte_ms.training import assembly
from latte_ms.training.recipe import T2VTrainConfig, TrainConfig
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.weights import WeightError
from latte_ms.weights.starting_points import grouped, load_partly

FORWARD = 1e-5  # of the largest value; fixed before looking
SIZES = {"input_size": 8, "hidden_size": 48, "depth": 4, "num_heads": 3, "num_frames": 4}
LABELS, POSITIONS, FRAMES = "y_embedder.embedding_table.weight", "pos_embed", "temp_embed"
Values = Callable[[ms.nn.Cell], dict[str, np.ndarray]]


class DiTBlock(nn.Module):
    """The parameters of a block of facebookresearch's DiT."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(size, 3 * size), "proj": nn.Linear(size, size)})
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(size, 4 * size), "fc2": nn.Linear(4 * size, size)}
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, 6 * size))


class DiT(nn.Module):
    """The parameters of facebookresearch's DiT, on 1000 classes, under its names."""

    def __init__(self, size: int, depth: int, side: int) -> None:
        super().__init__()
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(4, size, 2, 2)})
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(256, size), nn.SiLU(), nn.Linear(size, size))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(1001, size)})
        table = positions.sincos_2d(size, np.arange(side), np.arange(side))
        self.pos_embed = nn.Parameter(torch.tensor(table[None]).float(), requires_grad=False)
        self.blocks = nn.ModuleList(DiTBlock(size) for _ in range(depth))
        self.final_layer = nn.ModuleDict(
            {
                "linear": nn.Linear(size, 32),
                "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(size, 2 * size)),
            }
        )


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint like DiT-XL-2-256x256.pt: a bare state dict."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dit") / "DiT.pt"
    torch.save(DiT(48, 4, 4).state_dict(), path)
    return path


def on_disk(network: ms.nn.Cell, folder: Path) -> dict[str, np.ndarray]:
    """The network's parameters by their names on disk."""
    weights.save(network, folder / "now.safetensors", "")
    return dict(weights.read(folder / "now.safetensors"))


def assert_equal(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], names: Iterable[str]
) -> None:
    wrong = [name for name in names if not np.array_equal(found[name], expected[name])]
    assert wrong == []


@pytest.mark.parametrize("classes", [1000, 7])
def test_an_imagenet_dit_gives_blocks_and_positions_without_labels(
    dit: Path, tmp_path: Path, classes: int
) -> None:
    """Also where the data have 1000 classes of their own."""
    network = Latte(LatteConfig(**SIZES, conditioning="class", num_classes=classes), seed=1)
    before, file = on_disk(network, tmp_path), dict(weights.read(dit))
    done = load_partly(network, dit)
    after = on_disk(network, tmp_path)
    assert done.loaded
    assert set(done.loaded) == file.keys() - {LABELS}
    assert_equal(after, file, done.loaded)
    assert set(done.kept) == {LABELS, FRAMES}
    assert_equal(after, before, done.kept)
    assert done.recomputed == {}
    assert done.left_out == {LABELS: "its classes are those of another data set"}
    report = done.report()
    assert "loaded: blocks.{0-3}.attn.qkv.weight" in report
    assert f"kept as initialised: {LABELS}" in report
    assert f"left out: {LABELS}: its classes are those of another data set" in report


def test_positions_of_another_resolution_and_frame_count_are_spread(
    reference: Path, latte_config: LatteConfig, tmp_path: Path
) -> None:
    """Half of the tokens lie on those of the file; what else the file has is taken."""
    fields = {"input_size": 2 * latte_config.input_size, "num_frames": 2 * latte_config.num_frames}
    changed = LatteConfig(**(vars(latte_config) | fields | {"num_classes": 9}))
    network = Latte(changed, seed=1)
    before = on_disk(network, tmp_path)
    path = reference / "latte_class" / "checkpoint.pt"
    file = dict(weights.read(path, "ema"))
    done = load_partly(network, path)
    after = on_disk(network, tmp_path)

    assert done.recomputed.keys() == {POSITIONS, FRAMES}
    side, old = changed.input_size // changed.patch_size, file[POSITIONS].shape[1] ** 0.5
    grid = after[POSITIONS].reshape(side, side, -1)
    np.testing.assert_allclose(
        grid[::2, ::2].reshape(file[POSITIONS].shape), file[POSITIONS], atol=1e-6
    )
    halves = np.arange(side) / 2
    assert halves[-1] < old
    expected = positions.sincos_2d(changed.hidden_size, halves, halves)
    np.testing.assert_allclose(after[POSITIONS][0], expected, atol=1e-6)
    np.testing.assert_allclose(after[FRAMES][:, ::2], file[FRAMES], atol=1e-6)
    assert "recomputed: pos_embed" in "\n".join(done.report())

    assert set(done.kept) == {LABELS}, "another number of classes"
    assert_equal(after, before, done.kept)
    assert "shape" in done.left_out[LABELS]
    assert set(done.loaded) == file.keys() - {LABELS, POSITIONS, FRAMES}
    assert_equal(after, file, done.loaded)


def test_the_same_network_is_loaded_whole(latte: Latte, checkpoint: Path, tmp_path: Path) -> None:
    done = load_partly(latte, checkpoint)
    assert (done.kept, done.recomputed, done.left_out) == ((), {}, {})
    assert_equal(on_disk(latte, tmp_path), dict(weights.read(checkpoint, "ema")), done.loaded)


def test_a_file_of_another_network_changes_nothing(
    latte: Latte, reference: Path, values: Values, tmp_path: Path
) -> None:
    before = values(latte)
    weights.write(tmp_path / "x.pt", {"": weights.from_arrays({"a.weight": np.ones(3)})})
    with pytest.raises(WeightError, match=r"x\.pt"):
        load_partly(latte, tmp_path / "x.pt")
    after = values(latte)
    assert_equal(after, before, before)


@pytest.mark.parametrize("kind", ["rotary", "rotary_temporal"])
def test_trained_labels_of_rotary_positions_are_taken(kind: str, tmp_path: Path) -> None:
    """The file has no table of temporal positions, nor has the network: it is none of images."""
    fields = {**SIZES, "conditioning": "class", "num_classes": 7, "positions": kind}
    weights.save(Latte(LatteConfig(**fields), seed=2), tmp_path / "rotary.safetensors")
    network = Latte(LatteConfig(**fields), seed=1)
    done = load_partly(network, tmp_path / "rotary.safetensors")
    file = dict(weights.read(tmp_path / "rotary.safetensors"))
    assert set(done.loaded) == file.keys() >= {LABELS}
    assert (done.kept, done.left_out) == ((), {})
    assert_equal(on_disk(network, tmp_path), file, file)


def test_names_that_differ_in_the_number_of_a_block_share_a_line() -> None:
    names = ["b.0.w", "b.1.w", "b.3.w", "a", "c.2.w", "b.10.w", "b.1.v"]
    assert grouped(names) == ["b.{0-1,3,10}.w", "a", "c.2.w", "b.1.v"]


# LatteT2V


def pixart(folder: Path, **fields: object) -> diffusers.PixArtTransformer2DModel:
    """A tiny PixArt-alpha, saved as diffusers saves it."""
    torch.manual_seed(0)
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "num_layers": 2,
        "sample_size": 8,
        "caption_channels": 12,
        "out_channels": 8,
    }
    network = diffusers.PixArtTransformer2DModel(**(sizes | fields)).eval()
    for parameter in network.parameters():  # norms and biases begin as constants
        parameter.data += 0.05 * torch.randn(parameter.shape)
    network.save_pretrained(folder)
    return network


def recipe(folder: Path, *overrides: str) -> T2VTrainConfig:
    values = [
        *("model=LatteT2V", "data.path=x", "data.captions=x.csv", "vae=x", "loop.output=x"),
        *("text_encoder=x", "tokenizer=x", f"initial_weights={folder}", "initial_partial=true"),
    ]
    (folder.parent / "recipe.yaml").write_text("runtime: {device: CPU}\n")
    cfg = config.load(TrainConfig, folder.parent / "recipe.yaml", [*values, *overrides])
    assert isinstance(cfg, T2VTrainConfig)
    return cfg


def test_pixart_alpha_becomes_the_spatial_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder records the sizes; without temporal blocks the network is PixArt-alpha."""
    network = pixart(tmp_path / "pixart")
    cfg = recipe(tmp_path / "pixart", "data.num_frames=4")
    assert (cfg.network.num_layers, cfg.network.video_length) == (2, 4)
    ours = assembly.build_network(cfg)
    assert isinstance(ours, LatteT2V)
    report = capsys.readouterr().out
    assert f"Starting from {tmp_path / 'pixart'}:" in report
    assert "loaded: transformer_blocks.{0-1}.attn2.to_k.weight" in report
    assert "kept as initialised: temporal_transformer_blocks.{0-1}.attn1.to_q.weight" in report
    assert "kept as initialised: transformer_blocks" not in report
    assert "left out" not in report
    assert "recomputed" not in report

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 1, 8, 8), np.float32)
    text = rng.standard_normal((2, 5, 12), np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    t = np.array([3, 700], np.int32)
    found = ours(Tensor(x), Tensor(t), Tensor(text), Tensor(mask), False).asnumpy()[:, :, 0]
    with torch.no_grad():
        expected = network(
            torch.tensor(x[:, :, 0]),
            torch.tensor(text),
            torch.tensor(t),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=torch.tensor(mask),
        ).sample.numpy()
    assert np.abs(found - expected).max() <= FORWARD * np.abs(expected).max()


def test_conditions_on_the_resolution_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PixArt-alpha at 1024 pixels has them; the network of videos does not."""
    pixart(tmp_path / "pixart", sample_size=128, attention_head_dim=24, cross_attention_dim=48)
    assembly.build_network(recipe(tmp_path / "pixart", "network.sample_size=64"))
    report = capsys.readouterr().out
    assert "left out: adaln_single.emb.resolution_embedder.linear_1.weight" in report
    assert "recomputed: positions: `sample_size` 64 instead of 128" in report


def test_latte_1_at_another_frame_count_and_resolution(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of its weights are taken; positions follow from the new sizes."""
    folder = tmp_path / "transformer"
    folder.symlink_to(reference / "t2v" / "transformer")
    cfg = recipe(folder, "data.num_frames=6", "network.sample_size=4")
    assert (cfg.network.hidden_size, cfg.network.video_length) == (24, 6)
    network = assembly.build_network(cfg)
    file = dict(weights.read(folder))
    assert_equal(on_disk(network, tmp_path), file, file)
    lines = capsys.readouterr().out.splitlines()
    assert "  recomputed: positions: `sample_size` 4 instead of 8" in lines
    assert "  recomputed: positions: `video_length` 6 instead of 16" in lines
    assert not [line for line in lines if "kept" in line or "left out" in line]


def test_without_the_choice_a_misfit_is_refused(reference: Path, tmp_path: Path, dit: Path) -> None:
    folder = tmp_path / "pixart"
    pixart(folder)
    with pytest.raises(WeightError, match="`initial_partial`"):
        assembly.build_network(recipe(folder, "initial_partial=false"))
    with pytest.raises(WeightError) as caught:
        assembly.build_network(recipe(folder, "initial_partial=false", "lora.rank=2"))
    assert "does not fit the network" in str(caught.value)
    assert "initial_partial" not in str(caught.value), "LoRA refuses it"
