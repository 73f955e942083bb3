"""The T5 encoder with its weights on disk.

The network is a single block in memory, refilled with each block's weights in turn. T5 v1.1 XXL has
4.7 billion weights in twenty-four blocks. Here a prompt takes the memory of two blocks in the
compute dtype: the one that computes, and the weights of the next one, read meanwhile. One compiled
graph serves all blocks. The price is reading: encode all prompts of a run in one call.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms.layers.normalisation import RmsNorm
from latte_ms.text.t5 import AttentionBias, T5Block, prepare_parameters
from latte_ms.text.t5_configuration import T5Config

NUMPY_DTYPES = {ms.float32: np.float32, ms.float16: np.float16}  # others are read as float32


class StreamedT5Encoder:
    """Token ids to embeddings, as in `T5Encoder`, reading each block's weights when it is applied.

    Args:
        config: configuration of the network that the weights belong to.
        weights: arrays under the parameter names of `T5Encoder`, of any floating-point dtype; each
            lookup reads one array from disk.
        dtype: compute dtype of matrix products; see `T5Encoder`.
    """

    def __init__(
        self, config: T5Config, weights: Mapping[str, np.ndarray], dtype: ms.Type = ms.float32
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.weights = weights
        self._block = T5Block(config, dtype)
        self._positions = AttentionBias(config)
        self._norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        prepare_parameters(self._block, config, dtype, None, None)
        for cell in (self._block, self._positions, self._norm):
            cell.set_train(False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes required of `weights`."""
        config = self.config
        block = {name: tuple(p.shape) for name, p in self._block.parameters_and_names()}
        return {
            "shared.weight": (config.vocab_size, config.d_model),
            "positions.weight": tuple(self._positions.weight.shape),
            "norm.weight": tuple(self._norm.weight.shape),
            **{
                f"blocks.{i}.{name}": shape
                for i in range(config.num_layers)
                for name, shape in block.items()
            },
        }

    def embed(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Embeddings (B, L, D) float32 of ids (B, L) int32 under mask (B, L), 0 on padding.

        Every block is read once, and applied to one prompt after the other.
        """
        self._fill(self._positions, self._read(self._positions, "positions."))
        self._fill(self._norm, self._read(self._norm, "norm."))
        tokens = self.weights["shared.weight"][ids].astype(np.float32)  # (B, L, D)
        states = [tokens[i : i + 1] for i in range(len(ids))]
        biases = [self._positions(Tensor(mask[i : i + 1])) for i in range(len(ids))]
        with ThreadPoolExecutor(max_workers=1) as reader:
            next_block = reader.submit(self._read, self._block, "blocks.0.")
            for i in range(self.config.num_layers):
                self._fill(self._block, next_block.result())
                if i + 1 < self.config.num_layers:
                    next_block = reader.submit(self._read, self._block, f"blocks.{i + 1}.")
                # `asnumpy` waits for the block to finish, before its weights are replaced.
                states = [
                    self._block(Tensor(x), bias).asnumpy()
                    for x, bias in zip(states, biases, strict=True)
                ]
        return np.concatenate([self._norm(Tensor(x)).asnumpy() for x in states])

    def _read(self, cell: nn.Cell, prefix: str) -> dict[str, np.ndarray]:
        """The weights of a cell, in the dtypes of its parameters where NumPy has them."""
        arrays = {}
        for name, parameter in cell.parameters_and_names():
            with np.errstate(over="raise"):
                try:
                    dtype = NUMPY_DTYPES.get(parameter.dtype, np.float32)
                    arrays[name] = self.weights[prefix + name].astype(dtype, copy=False)
                except FloatingPointError as error:
                    raise ValueError(
                        f"`dtype` (={self.dtype}) cannot represent the values of {prefix}{name}."
                    ) from error
        return arrays

    def _fill(self, cell: nn.Cell, arrays: dict[str, np.ndarray]) -> None:
        for name, parameter in cell.parameters_and_names():
            array = arrays.pop(name)
            if parameter.dtype in NUMPY_DTYPES:  # without a copy
                parameter.set_data(Tensor.from_numpy(np.ascontiguousarray(array)))
            else:
                parameter.set_data(Tensor(array, parameter.dtype))
