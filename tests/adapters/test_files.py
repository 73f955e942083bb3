"""Files of LoRA weights: every spelling is read, and what does not fit is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from latte_ms import adapters
from latte_ms.adapters import LoraWeights, LowRank
from latte_ms.adapters.files import PEFT_CONFIG, PEFT_FILE, from_arrays, write_peft
from latte_ms.adapters.weights import fitted
from latte_ms.weights import WeightError

Q, OUT = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_out.0"
A, B = np.full((2, 16), 0.5, np.float32), np.full((16, 2), 0.25, np.float32)


def same(one: LoraWeights, other: LoraWeights) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[n].a, other[n].a)
        and np.array_equal(one[n].b, other[n].b)
        and one[n].alpha == other[n].alpha
        for n in one
    )


def test_both_forms_keep_ranks_and_alphas(
    t2v_shapes: dict, random_lora: Callable, tmp_path: Path
) -> None:
    low = random_lora(t2v_shapes, "to_q", "to_v", alpha=0.7)
    lora = LoraWeights({**low, **random_lora(t2v_shapes, "to_k", "pos_embed.proj", rank=5)})
    adapters.write(tmp_path / "lora.safetensors", lora)
    write_peft(tmp_path / "peft", lora)
    for path in ("lora.safetensors", "peft"):
        assert same(adapters.read(tmp_path / path), lora)
    names = load_file(tmp_path / "lora.safetensors")
    assert f"transformer.{Q}.lora_A.weight" in names
    adapters.write(tmp_path / "half.safetensors", lora, "float16")
    assert {a.dtype.name for a in load_file(tmp_path / "half.safetensors").values()} == {"float16"}


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("{q}.lora_A.weight", "{q}.lora_B.weight"),
        ("unet.{q}.lora_A.weight", "unet.{q}.lora_B.weight"),
        ("base_model.model.{q}.lora_A.weight", "base_model.model.{q}.lora_B.weight"),
        ("transformer.{q}.lora_A.default.weight", "transformer.{q}.lora_B.default.weight"),
        ("transformer.{q}.lora.down.weight", "transformer.{q}.lora.up.weight"),
        ("{q}.lora_linear_layer.down.weight", "{q}.lora_linear_layer.up.weight"),
        ("{attn}.processor.to_q_lora.down.weight", "{attn}.processor.to_q_lora.up.weight"),
        ("lora_unet_{flat}.lora_down.weight", "lora_unet_{flat}.lora_up.weight"),
    ],
)
def test_older_names(down: str, up: str, t2v_shapes: dict) -> None:
    names = {"q": Q, "attn": Q.rpartition(".")[0], "flat": Q.replace(".", "_")}
    lora = fitted(from_arrays({down.format(**names): A, up.format(**names): B}), t2v_shapes)
    assert same(lora, LoraWeights({Q: LowRank(A, B, 2.0)}))


def test_the_processor_s_output_is_the_first_of_its_layers(t2v_shapes: dict) -> None:
    name = "transformer_blocks.0.attn2.processor.to_out_lora.{}.weight"
    assert set(fitted(from_arrays({name.format("down"): A, name.format("up"): B}), t2v_shapes)) == {
        OUT
    }


def test_alphas_of_kohya_and_of_configurations() -> None:
    arrays = {f"{Q}.lora_down.weight": A, f"{Q}.lora_up.weight": B}
    assert from_arrays({**arrays, f"{Q}.alpha": np.float32(7)})[Q].alpha == 7
    assert from_arrays(arrays, {"lora_alpha": 5})[Q].alpha == 5
    pattern = {"lora_alpha": 5, "alpha_pattern": {r"^attn1\.to_q$": 3}}
    assert from_arrays(arrays, pattern)[Q].alpha == 3
    stable = from_arrays(arrays, {"lora_alpha": 4, "use_rslora": True})[Q]
    np.testing.assert_allclose(stable.change(), B @ A * 4 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(LowRank(A, B, 4.0).change(0.5), B @ A, rtol=1e-6)


def test_pickles_are_read_without_running_them(tmp_path: Path) -> None:
    state = {f"{Q}.lora.down.weight": torch.from_numpy(A), f"{Q}.lora.up.weight": torch.tensor(B)}
    torch.save(state, tmp_path / "pytorch_lora_weights.bin")
    read = adapters.read(tmp_path / "pytorch_lora_weights.bin")
    assert same(read, LoraWeights({Q: LowRank(A, B, 2.0)}))


def test_dora_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    arrays = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, f"{Q}.dora_scale": B[:, 0]}
    assert set(from_arrays(arrays)) == {Q}
    assert "DoRA is not supported" in caplog.text


def test_parts_of_text_encoders_are_left_out() -> None:
    arrays = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, "text_encoder.x.lora_A.weight": A}
    assert set(from_arrays(arrays)) == {Q}


GOOD = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no LoRA weights"),
        ({"proj_out.weight": A}, "'proj_out.weight' is no tensor of LoRA"),
        ({f"{Q}.lora_A.weight": A}, "lacks its matrix B"),
        ({**GOOD, f"unet.{Q}.lora_A.weight": A}, "two names of one tensor"),
        ({**GOOD, f"{Q}.lora_B.weight": B.T.copy()}, "of one rank r"),
        ({**GOOD, f"{Q}.lora_A.weight": A[:0]}, "of one rank r"),
        ({**GOOD, f"{Q}.lora_A.weight": A * np.float32(np.nan)}, "NaN or infinite"),
        ({**GOOD, f"{Q}.lora_A.weight": A.astype(np.int32)}, "floating-point"),
        ({**GOOD, f"{Q}.alpha": np.array(np.inf, np.float32)}, "alpha must be finite"),
        ({**GOOD, f"{Q}.alpha": A}, "must be a single number"),
        ({"x.lora_A.weight": A, "x.lora_B.weight": B}, "has no modules x"),
        ({n.replace("to_q", "to_p"): v for n, v in GOOD.items()}, r"nearest: .*attn1\.to_"),
        ({**GOOD, f"{Q}.lora_B.weight": B[:8]}, "do not fit the network, such as"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arrays: dict, message: str, t2v_shapes: dict, tmp_path: Path
) -> None:
    save_file(arrays, tmp_path / "lora.safetensors")
    with pytest.raises(WeightError, match=message) as error:
        fitted(adapters.read(tmp_path / "lora.safetensors"), t2v_shapes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[1]", "must be an object"),
        ("[" * 100_000, "is damaged"),
        ('{"transformer.lora_alpha": "x"}', "`lora_alpha` must be a finite number"),
        ('{"transformer.lora_alpha": NaN}', "`lora_alpha` must be a finite number"),
        ('{"transformer.alpha_pattern": 3}', "`alpha_pattern` must be an object"),
        ('{"transformer.alpha_pattern": {"(a+)+$": 3}}', "must have names of modules"),
        ('{"transformer.bias": "all"}', "`bias` must be none"),
        ('{"transformer.lora_bias": true}', "`lora_bias` of its configuration is not"),
    ],
)
def test_hostile_metadata(text: str, message: str, tmp_path: Path) -> None:
    save_file(GOOD, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": text})
    with pytest.raises(WeightError, match=message) as error:
        adapters.read(tmp_path / "lora.safetensors")
    assert "lora.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_or_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(GOOD, path)
    content = path.read_bytes()
    for damaged in (b"", content[:20], content[:-8], b"\xff" * 64, b"\x02" + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(WeightError, match=r"lora\.safetensors"):
            adapters.read(path)
    write_peft(tmp_path / "peft", LoraWeights({Q: LowRank(A, B, 2.0)}))
    for content in ("[]", json.dumps({"use_dora": True}), "{"):
        (tmp_path / "peft" / PEFT_CONFIG).write_text(content)
        with pytest.raises(
            ValueError, match=PEFT_CONFIG if content != '{"use_dora": true}' else PEFT_FILE
        ):
            adapters.read(tmp_path / "peft")
    with pytest.raises(WeightError, match="must be a file or a folder"):
        adapters.read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightError, match="`weight_name` chooses a file"):
        adapters.read(tmp_path / "empty")
    with pytest.raises(WeightError, match=r"`weight_name` \(='x'\) is not a file"):
        adapters.read(tmp_path / "empty", "x")
