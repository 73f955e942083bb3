"""The text-to-video network as a denoiser of training."""

from mindspore import Tensor, nn

from latte_ms.transformer.latte_t2v import LatteT2V


class CaptionedDenoiser(nn.Cell):
    """`LatteT2V` as a denoiser (x, t, **conditions) whose gradients reach all of its weights.

    Unlike in sampling, keys and values of the captions are a part of its graph.

    Args:
        temporal: run the temporal blocks.
    """

    def __init__(self, transformer: LatteT2V, temporal: bool = True) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = transformer
        self.temporal = temporal

    def construct(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        """x (B, F, C, h, w), otherwise as `LatteT2V.predict`."""
        return self.transformer.predict(
            x, t, encoder_hidden_states, encoder_attention_mask, self.temporal
        )
