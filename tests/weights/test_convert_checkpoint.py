"""The converter as users call it."""

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from latte_ms import weights
from latte_ms.weights import files, from_arrays
from latte_ms.weights.mapping import groups_of_parameters
from latte_ms.weights.maps import LATTE
from tools import convert_checkpoint


def convert(source: Path, target: Path, *options: str) -> int:
    return convert_checkpoint.main(["--source", str(source), "--target", str(target), *options])


def same(a: weights.Tensors, b: weights.Tensors) -> bool:
    return set(a) == set(b) and all(
        a.specs[name] == b.specs[name] and a[name].tobytes() == b[name].tobytes() for name in a
    )


def test_round_trip_through_every_format(checkpoint: Path, tmp_path: Path) -> None:
    chain = ["a.safetensors", "b.ckpt", "folder", "c.pth", "d.ckpt", "e.safetensors", "f.pt"]
    source = checkpoint
    for name in chain:
        assert convert(source, tmp_path / name) == 0, name
        source = tmp_path / name
    assert same(weights.read(source, "ema"), weights.read(checkpoint, "ema"))


def test_ckpt_holds_the_names_of_the_network(checkpoint: Path, tmp_path: Path) -> None:
    assert convert(checkpoint, tmp_path / "x.ckpt") == 0
    names = weights.read(tmp_path / "x.ckpt").specs
    assert "blocks.3.attention.key.bias" in names
    assert set(groups_of_parameters(LATTE, names)) == set(weights.read(checkpoint, "ema"))


def test_all_entries(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(checkpoint, tmp_path / "run", "--entry", "all", "--shard-size", "200KB") == 0
    assert convert(tmp_path / "run", tmp_path / "x.pt", "--entry", "all") == 0
    for entry in ("model", "ema"):
        assert same(weights.read(tmp_path / "x.pt", entry), weights.read(checkpoint, entry))
        assert len(list((tmp_path / "run").glob(f"{entry}-*.safetensors"))) > 2
    capsys.readouterr()
    assert convert(checkpoint, tmp_path / "x.safetensors", "--entry", "all") == 1
    assert "can hold one entry, not `model`, `ema`" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_entry_is_chosen(checkpoint: Path, tmp_path: Path) -> None:
    assert convert(checkpoint, tmp_path / "x.pt", "--entry", "model") == 0
    assert same(weights.read(tmp_path / "x.pt", "model"), weights.read(checkpoint, "model"))


def test_unnamed_weights_get_the_usual_name_of_their_network(
    checkpoint: Path, tmp_path: Path
) -> None:
    """The reference's samplers look for `ema` in a .pt; diffusers for its own file name."""
    assert convert(checkpoint, tmp_path / "x.safetensors") == 0
    assert convert(tmp_path / "x.safetensors", tmp_path / "y.pt") == 0
    assert list(files.read_entries(tmp_path / "y.pt")) == ["ema"]
    vae = {f"{side}.conv_in.weight": np.zeros((8, 3, 3, 3)) for side in ("encoder", "decoder")}
    weights.write(tmp_path / "vae.pt", {"": from_arrays(vae)})
    assert convert(tmp_path / "vae.pt", tmp_path / "vae") == 0
    assert [f.name for f in (tmp_path / "vae").iterdir()] == ["diffusion_pytorch_model.safetensors"]


def test_summary(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(checkpoint, tmp_path / "x.pt", "--dtype", "bfloat16") == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0].split() == ["entry", "tensors", "parameters", "bytes", "dtypes"]
    assert output[1].split() == ["ema", "53", "191,792", "383,584", "53", "bfloat16"]
    read = weights.read(tmp_path / "x.pt")
    expected = weights.read(checkpoint, "ema")["pos_embed"].astype(ml_dtypes.bfloat16)
    assert read["pos_embed"].tobytes() == expected.tobytes()


def test_refuses_to_overwrite(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.pt", "folder"):
        assert convert(checkpoint, tmp_path / name) == 0
        capsys.readouterr()
        assert convert(checkpoint, tmp_path / name) == 1
        assert "--force" in capsys.readouterr().err
        assert convert(checkpoint, tmp_path / name, "--force") == 0
    assert convert(checkpoint, tmp_path / "folder", "--entry", "model") == 0  # another file of it
    assert convert(checkpoint, checkpoint, "--force") == 1
    assert "must not be `--source`" in capsys.readouterr().err


def test_failure_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"a": np.ones(4, np.float32), "b": np.full(4, 1e6, np.float32)}
    weights.write(tmp_path / "x.pt", {"ema": from_arrays(arrays)})
    assert convert(tmp_path / "x.pt", tmp_path / "y.safetensors", "--dtype", "float16") == 1
    assert "`b` does not fit into float16: it holds 1e+06" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_unknown_network_keeps_its_names_but_has_none_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.write(tmp_path / "x.pt", {"": from_arrays({"a": np.ones(4, np.float32)})})
    assert convert(tmp_path / "x.pt", tmp_path / "y.safetensors") == 0
    assert convert(tmp_path / "x.pt", tmp_path / "y.ckpt") == 1
    assert "no known network (`Latte`, `LatteT2V`, `AutoencoderKL`" in capsys.readouterr().err


def test_other_channel_count_from_ckpt(tmp_path: Path) -> None:
    arrays = {
        "x_embedder.proj.weight": np.zeros((8, 64), np.float32),
        "temp_embed": np.zeros((1, 2, 8), np.float32),
        "final_layer.linear.weight": np.zeros((16, 8), np.float32),
    }
    weights.write(tmp_path / "x.ckpt", {"": from_arrays(arrays)})
    for options, shape in (((), (8, 4, 4, 4)), (("--in-channels", "16"), (8, 16, 2, 2))):
        assert convert(tmp_path / "x.ckpt", tmp_path / "x.pt", "--force", *options) == 0
        assert weights.read(tmp_path / "x.pt").specs["x_embedder.proj.weight"].shape == shape


@pytest.mark.parametrize("size", ["2GB", "1.5 mb", "700", "12 parrots"])
def test_sizes(size: str) -> None:
    known = {"2GB": 2 * 10**9, "1.5 mb": 1_500_000, "700": 700}
    if size in known:
        assert convert_checkpoint._size(size) == known[size]
    else:
        with pytest.raises(Exception, match="must be a size such as 2GB"):
            convert_checkpoint._size(size)


@pytest.mark.parametrize(
    ("source", "target"),
    [("x.pt", "y.safetensors"), ("x.pt", "y.ckpt"), ("y.ckpt", "z.pt"), ("y.safetensors", "w.pt")],
)
def test_memory_is_that_of_single_tensors(tmp_path: Path, source: str, target: str) -> None:
    """16 blocks of 3 MB each: a converter that holds them all would need 48 MB."""
    rng = np.random.default_rng(0)
    arrays = {f"blocks.{i}.attn.qkv.weight": rng.random((1536, 512), np.float32) for i in range(16)}
    arrays |= {name: np.zeros((8, 4, 2, 2), np.float32) for name in LATTE.identified_by}
    weights.write(tmp_path / "x.pt", {"": from_arrays(arrays)})
    for step in ("y.ckpt", "y.safetensors"):
        convert(tmp_path / "x.pt", tmp_path / step)
    tracemalloc.start()
    assert convert(tmp_path / source, tmp_path / target, "--force") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
