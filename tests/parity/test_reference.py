"""Every recorded output of the reference, through `tools/check_parity.py` and its bounds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from latte_ms import weights
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from tools.check_parity import FORWARD, HALF, LOOP, TABLE, Comparison, main, replay

# The tests of the tool replay `latte_uncond` too, both its outputs.
UNCONDITIONAL = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("latte_uncond", "latte_img_uncond")
]
FOLDERS = (*UNCONDITIONAL, "latte_class", "latte_text", "latte_img_class")
LOOPS = ("diffusion", "training")


def check(folder: Path, dtype: ms.Type = ms.float32) -> list[Comparison]:
    """All comparisons of a folder; fails with a line for each that exceeds its bound."""
    results = list(replay(folder, dtype))
    failed = [
        f"{folder.name}: {result.name}: relative error {result.relative:.1e}, "
        f"bound {result.bound:.0e}"
        for result in results
        if not result.ok
    ]
    assert not failed, "\n".join(failed)
    return results


def test_bounds() -> None:
    """Fixed before looking; relative to the largest reference value."""
    assert (TABLE, FORWARD, LOOP, HALF) == (1e-12, 1e-5, 1e-4, 5e-3)


@pytest.mark.parametrize("name", FOLDERS)
def test_network(reference: Path, name: str) -> None:
    results = check(reference / name)
    assert len(results) == 2
    assert {result.bound for result in results} == {FORWARD}


def test_position_tables_are_those_of_the_checkpoint(reference: Path) -> None:
    """Loading overwrites them, so the outputs above would not show a wrong table."""
    fields = json.loads((reference / "latte_class" / "config.json").read_text())
    network = Latte(LatteConfig.from_upstream(fields), seed=None)
    recorded = weights.read(reference / "latte_class" / "checkpoint.pt", "ema")
    for name in ("pos_embed", "temp_embed"):
        computed = getattr(network, name).asnumpy()
        np.testing.assert_allclose(computed, recorded[name], rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "latte_class",
        pytest.param("latte_text", marks=pytest.mark.slow),
        pytest.param("latte_img_class", marks=pytest.mark.slow),
    ],
)
def test_network_in_float16(reference: Path, name: str) -> None:
    results = check(reference / name, ms.float16)
    assert len(results) == 2
    assert {result.bound for result in results} == {HALF}
    # Float16 has 10 bits of mantissa: a smaller error would mean that it was not used.
    assert all(result.relative > FORWARD for result in results)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_loops(reference: Path, name: str) -> None:
    """Everything recorded is compared, except the inputs."""
    compared = {result.name.split(" / ")[0] for result in check(reference / name)}
    inputs = {"x", "x0", "noise", "t", "y", "z", "ys", "cfg_scale", "ddpm_noise"}
    with np.load(reference / name / "io.npz") as recorded:
        assert set(recorded.files) - inputs == compared


@pytest.fixture
def tampered(reference: Path, tmp_path: Path) -> Callable[..., Path]:
    """`tampered(change)`: a copy of a folder whose recorded arrays went through `change`."""

    def copy(change: Callable[[dict[str, np.ndarray]], object], name: str = "latte_uncond") -> Path:
        folder = tmp_path / name
        shutil.copytree(reference / "latte_uncond", folder)
        with np.load(folder / "io.npz") as file:
            arrays = dict(file)
        change(arrays)
        np.savez(folder / "io.npz", **arrays)
        return folder

    return copy


@pytest.mark.slow
def test_the_tool_names_a_missing_array_and_fails_on_another_output_after_it(
    tampered: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def shift(arrays: dict[str, np.ndarray]) -> None:
        arrays["out"][0, 0, 0, 0, 0] += 1e-3 * np.abs(arrays["out"]).max()

    lacking = tampered(lambda arrays: arrays.pop("out_cfg"), "lacking")
    assert main([str(lacking), str(tampered(shift))]) == 1
    header, first, lacks, plain, guided, summary = capsys.readouterr().out.splitlines()
    assert header.split() == ["output", "absolute", "relative", "bound"]
    assert first.startswith("lacking: out ")
    assert first.endswith("ok")
    assert lacks == f"{lacking}: lacks the array 'out_cfg'. FAIL"
    assert plain.startswith("latte_uncond: out ")
    assert plain.endswith("FAIL")
    assert guided.endswith("ok")
    assert summary == "2 of 4 within their bounds."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("out", "out_cfg"), "No replay knows these arrays: "),
        ((), "is no reference folder: it has no config.json. FAIL"),
    ],
)
def test_the_tool_fails_on_an_unknown_folder(
    tampered: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    message: str,
) -> None:
    folder = tampered(lambda arrays: [arrays.pop(name) for name in names])
    if not names:
        (folder / "config.json").unlink()
    assert main([str(folder)]) == 1
    assert message in capsys.readouterr().out


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("io.npz", cut_short, "io.npz is damaged (File is not a zip file)."),
        ("io.npz", flipped_bit, "io.npz is damaged ("),
        ("io.npz", lambda path: path.write_bytes(b""), "io.npz is damaged ("),
        ("io.npz", lambda path: np.save(path.open("wb"), np.ones(9)), "io.npz is damaged ("),
        ("config.json", cut_short, "config.json is damaged ("),
        ("config.json", lambda path: path.write_text("[1]"), "must hold an object"),
        ("checkpoint.pt", cut_short, "checkpoint.pt"),
    ],
)
def test_the_tool_names_a_damaged_file(
    tampered: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    folder = tampered(lambda arrays: None)
    damage(folder / name)
    assert main([str(folder)]) == 1
    _, failed, summary = capsys.readouterr().out.splitlines()
    assert failed.startswith(f"{folder}: ")
    assert message in failed
    assert failed.endswith(" FAIL")
    assert summary == "0 of 1 within their bounds."


def test_the_tool_names_a_field_that_is_missing(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reference / "training", tmp_path, dirs_exist_ok=True)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["config"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path}: lacks the field 'config'. FAIL" in capsys.readouterr().out.splitlines()


def test_the_tool_continues_after_an_unexpected_error(
    reference: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such kernel\n  and where it was looked for")

    monkeypatch.setattr("tools.check_parity.forward", fail)
    assert main([str(reference / "latte_uncond")] * 2) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.endswith(": RuntimeError: no such kernel FAIL") for line in lines) == 2
    assert lines[-1] == "0 of 2 within their bounds."


@pytest.mark.parametrize(
    ("value", "ok"),
    [
        ([1.0, 2.0], True),
        ([1.0, 2.0 + 1e-6], True),
        ([1.0, 2.1], False),
        ([1.0, np.nan], False),
        ([[1.0, 2.0]], False),
    ],
)
def test_when_values_are_within_their_bound(value: list, ok: bool) -> None:
    result = Comparison("", np.array(value), np.array([1.0, 2.0]), FORWARD)
    assert result.ok == ok
