"""Adapters of a network: what acts, and that the weights of before come back."""

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.adapters import LoraWeights, LowRank
from latte_ms.adapters.merging import merged
from latte_ms.adapters.state import Adapters, adapters_of, refuse_unfused
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.weights import WeightError
from latte_ms.weights.network import contents

ALL = ("qkv", "proj", "fc1", "fc2")


@pytest.fixture
def network(latte_config: LatteConfig) -> Latte:
    network = Latte(latte_config, seed=1)
    for parameter in network.get_parameters():
        if parameter.requires_grad:
            value = np.random.default_rng(0).standard_normal(parameter.shape, np.float32)
            parameter.set_data(Tensor(value))
    return network


def arrays(network: Latte) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in contents(network).items()}


def equal(one: dict, other: dict) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_adapters_act_and_leave_no_trace(
    network: Latte, latte_shapes: dict, random_lora: Callable
) -> None:
    one, two = (random_lora(latte_shapes, *ALL, seed=seed) for seed in (1, 2))
    own, before = adapters_of(network), arrays(network)
    assert adapters_of(network) is own
    assert own.add(one) == "default_0"
    alone = arrays(network)
    qkv = "blocks.0.attn.qkv"
    expected = before[f"{qkv}.weight"] + one[qkv].change()
    np.testing.assert_allclose(alone[f"{qkv}.weight"], expected, rtol=1e-6)
    own.add(two, "two")
    own.activate(["default_0", "two"], [1.0, 0.0])
    assert equal(arrays(network), alone)
    own.enable(False)
    assert own.active == ["default_0", "two"]
    assert equal(arrays(network), before)
    own.enable(True)
    own.activate(["two"], [0.5])
    own.fuse(None, 2.0)
    fused = arrays(network)
    own.activate(["default_0"], [1.0])
    assert equal(arrays(network), fused), "what is fused acts, whatever is active"
    with pytest.raises(ValueError, match="are fused: call `unfuse_lora` first"):
        own.delete(["two"])
    own.unfuse()
    assert equal(arrays(network), alone)
    own.delete(["default_0"])
    assert own.active == ["two"]
    own.unload()
    assert equal(arrays(network), before)
    assert own.names == []


def test_what_is_fused_stays_when_adapters_are_unloaded(
    network: Latte, latte_config: LatteConfig, latte_shapes: dict, random_lora: Callable
) -> None:
    """Also in a network that is loaded anew."""
    before = arrays(network)
    own = adapters_of(network)
    own.add(random_lora(latte_shapes, *ALL))
    with pytest.raises(ValueError, match="are not fused"):
        refuse_unfused(network)
    own.fuse(None, 1.0)
    refuse_unfused(network)
    own.unload()
    fused = arrays(network)
    assert not equal(fused, before)
    own.add(random_lora(latte_shapes, "qkv", seed=5))
    both = arrays(network)
    again = Latte(latte_config, seed=None)
    for name, parameter in again.parameters_and_names():
        parameter.set_data(dict(Latte(latte_config, seed=1).parameters_and_names())[name])
    for parameter in again.get_parameters():
        if parameter.requires_grad:
            value = np.random.default_rng(0).standard_normal(parameter.shape, np.float32)
            parameter.set_data(Tensor(value))
    assert equal(arrays(again), before)
    own.attach(again)
    assert equal(arrays(again), both)
    own.unload()
    assert equal(arrays(again), fused)


def test_16_bit_weights_come_back_bit_for_bit(
    network: Latte, latte_shapes: dict, random_lora: Callable
) -> None:
    for dtype in (ms.float16, ms.bfloat16):
        for parameter in network.get_parameters():
            parameter.set_dtype(dtype)
        before, own = arrays(network), Adapters(lambda: latte_shapes)
        own.attach(network)
        own.add(random_lora(latte_shapes, *ALL))
        assert not equal(arrays(network), before)
        own.unload()
        assert equal(arrays(network), before)


def test_a_change_that_fails_changes_nothing(
    network: Latte, latte_shapes: dict, random_lora: Callable
) -> None:
    """An overflow in float16, a name that is taken, a name that is unknown."""
    for parameter in network.get_parameters():
        parameter.set_dtype(ms.float16)
    own = adapters_of(network)
    own.add(random_lora(latte_shapes, *ALL), "one")
    before, state = arrays(network), own.state
    big = random_lora(latte_shapes, "proj", "fc2", alpha=1e7)
    wrong = LoraWeights({"blocks.0.mlp.fc1": LowRank(np.ones((1, 3)), np.ones((3, 1)), 1.0)})
    for change, message in (
        (lambda: own.add(big, "big"), "does not fit into float16"),
        (lambda: own.add(wrong, "wrong"), "do not fit the network"),
        (lambda: own.add(big, "one"), "is the name of a loaded adapter"),
        (lambda: own.add(big, "new", replace=True), "must be loaded adapters"),
        (lambda: own.add(big, ""), "must be a text that is not empty"),
        (lambda: own.activate(["two"], [1.0]), r"must be loaded adapters \(`one`\), got \['two'\]"),
        (lambda: own.activate(["one", "one"], [1.0, 1.0]), "each adapter once"),
        (lambda: own.delete(["two"]), "must be loaded adapters"),
    ):
        with pytest.raises(ValueError, match=message):
            change()
        assert own.state is state
        assert equal(arrays(network), before)


def test_an_adapter_without_a_name_gets_one_that_is_free(
    network: Latte, latte_shapes: dict, random_lora: Callable
) -> None:
    """Their number, as in diffusers, unless an adapter has that name."""
    own, lora = adapters_of(network), random_lora(latte_shapes, "proj")
    assert [own.add(lora) for _ in range(2)] == ["default_0", "default_1"]
    own.delete(["default_0"])
    assert own.add(lora) == "default_2", "default_1 is taken"
    assert own.names == ["default_1", "default_2"]


def test_merged_tensors_keep_their_dtype(
    network: Latte, latte_shapes: dict, random_lora: Callable
) -> None:
    lora = random_lora(latte_shapes, *ALL)
    plain = contents(network)
    own = adapters_of(network)
    stored = merged(plain.cast("float16"), [(lora, 0.5)])
    name = "blocks.1.mlp.fc1.weight"
    assert stored[name].dtype == np.float16
    half = plain[name].astype(np.float16).astype(np.float32)
    expected = (half + lora["blocks.1.mlp.fc1"].change(0.5)).astype(np.float16)
    np.testing.assert_array_equal(stored[name], expected)
    result = dict(merged(contents(network), [(lora, 0.5)]))
    own.add(lora)
    own.activate(["default_0"], [0.5])
    assert equal(arrays(network), result)
    with pytest.raises(WeightError, match="does not fit into float16"):
        merged(plain.cast("float16"), [(lora, 1e6)])[name]
