"""The text-to-video network against diffusers' `LatteTransformer3DModel` itself, random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from mindspore import ParameterTuple, Tensor, nn, ops

from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.weights import mapping
from latte_ms.weights.maps import LATTE_T2V
from latte_ms.weights.pretrained import load_transformer, save_pretrained
from latte_ms.weights.tensors import from_arrays

# Fixed before looking, relative to the largest reference value.
VALUE, GRADIENT = 1e-5, 5e-5
RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.float32)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


T, TEXT = np.array([3, 700]), normal(2, 5, 6)


def reference_of(config: Any) -> Any:
    """diffusers' network of our configuration, with seeded random weights."""
    torch.manual_seed(0)
    fields = {k: v for k, v in config.to_dict().items() if k != "_class_name"}
    return diffusers.LatteTransformer3DModel(**fields).eval()


def run_reference(network: Any, x: np.ndarray, mask: np.ndarray | None, temporal: bool) -> Any:
    """diffusers takes a mask only as a bias that is repeated for each frame."""
    bias = None
    if mask is not None:
        repeated = torch.from_numpy(mask).repeat_interleave(x.shape[2], 0)
        bias = (1 - repeated)[:, None] * -10000.0
    return network(
        torch.from_numpy(x),
        torch.from_numpy(T),
        torch.from_numpy(TEXT),
        encoder_attention_mask=bias,
        enable_temporal_attentions=temporal,
        return_dict=False,
    )[0]


def check(
    network: LatteT2V, torch_network: Any, x: np.ndarray, error: Callable, masked: bool = False
) -> None:
    mask = MASK if masked else None
    given = (Tensor(mask),) if masked else ()
    found = network(Tensor(x), Tensor(T), Tensor(TEXT), *given).asnumpy()
    with torch.no_grad():
        expected = run_reference(torch_network, x, mask, True).numpy()
    assert error(found, expected) <= VALUE


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_weights_of_diffusers_here(
    tiny_t2v: Callable, tmp_path: Path, error: Callable, bias: bool
) -> None:
    torch_network = reference_of(tiny_t2v(attention_bias=bias))
    torch_network.save_pretrained(tmp_path)
    network = load_transformer(tmp_path)
    check(network, torch_network, normal(2, 3, 3, 4, 4), error, masked=True)
    if bias:
        check(network, torch_network, normal(2, 3, 3, 6, 10), error)
        check(network, torch_network, normal(2, 3, 1, 4, 2), error)


@pytest.mark.slow
def test_weights_of_ours_in_diffusers(tiny_t2v: Callable, tmp_path: Path, error: Callable) -> None:
    """A sample size of 128 spreads positions at half the distance, in every grid."""
    network = LatteT2V(tiny_t2v(sample_size=128, out_channels=None))
    save_pretrained(network, tmp_path)
    torch_network = diffusers.LatteTransformer3DModel.from_pretrained(tmp_path).eval()
    check(network, torch_network, normal(2, 3, 3, 6, 10), error)


class ParameterGradient(nn.Cell):
    """Gradients of a network by all its trainable parameters, for a given one by its output."""

    def __init__(self, network: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.weights = ParameterTuple(network.trainable_params())
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)

    def construct(self, upstream: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.gradient(self.network, self.weights)(*inputs, upstream)


@pytest.mark.slow
def test_gradients(tiny_t2v: Callable, tmp_path: Path) -> None:
    network = LatteT2V(tiny_t2v(num_layers=2), seed=1)
    save_pretrained(network, tmp_path)
    torch_network = diffusers.LatteTransformer3DModel.from_pretrained(tmp_path)
    x, upstream = normal(2, 3, 3, 4, 4), normal(2, 6, 3, 4, 4)
    run_reference(torch_network, x, MASK, True).backward(torch.from_numpy(upstream))
    found = ParameterGradient(network)(*map(Tensor, (upstream, x, T, TEXT, MASK)))
    names = [name for name, _ in network.parameters_and_names()]
    arrays = {name: value.asnumpy() for name, value in zip(names, found, strict=True)}
    on_disk = mapping.to_stored_layout(from_arrays(arrays, "memory"), LATTE_T2V, {"in_channels": 3})
    expected = {name: p.grad.numpy() for name, p in torch_network.named_parameters()}
    assert on_disk.keys() == expected.keys()
    largest = max(float(np.abs(value).max()) for value in expected.values())
    for name, value in expected.items():
        size = float(np.abs(value).max())
        if name.endswith("to_k.bias"):  # zero but for the reference's rounding
            assert not on_disk[name].any()
            assert size <= GRADIENT * largest
        else:
            assert float(np.abs(on_disk[name] - value).max()) <= GRADIENT * size, name
