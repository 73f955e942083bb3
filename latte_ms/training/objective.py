"""The training objective of a denoiser."""

from mindspore import Tensor, nn, ops

from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.layers import kernels
from latte_ms.training.alignment import Alignment


class DenoisingObjective(nn.Cell):
    """Mean diffusion loss of a batch; `diffusion.loss.DiffusionLoss` explains the terms.

    Without a variational bound there is no term "vb".

    Args:
        loss: of single samples. With an `alignment`, its denoiser is a `TappedDenoiser`.
        alignment: adds a term, "alignment", times its weight to the loss.
        per_sample: also return the losses of the samples, for `timesteps.LossHistory`.
    """

    term_names: tuple[str, ...] = ("loss", "mse", "vb")

    def __init__(
        self, loss: DiffusionLoss, alignment: Alignment | None = None, per_sample: bool = False
    ) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.alignment = alignment
        self.per_sample = per_sample
        self.has_bound = loss.has_bound
        if not self.has_bound:
            self.term_names = ("loss", "mse")
        if alignment is not None:
            self.term_names = (*self.term_names, "alignment")

    def construct(
        self,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        importance: Tensor | None = None,
        teacher_t: Tensor | None = None,
        **conditions: Tensor,
    ) -> tuple[Tensor, ...]:
        """The scalars `term_names`, then with `per_sample` the losses (B,).

        Args:
            x0: latents (B, F, C, h, w).
            noise: like x0.
            t: (B,) int32.
            importance: importance weights (B,), applied to every term, where `t` is not uniform.
            teacher_t: (B,) int32, the teacher's timesteps, for an alignment.
            conditions: the denoiser's.
        """
        values = self._values(x0, noise, t, teacher_t, **conditions)
        results: tuple[Tensor, ...] = ()
        for value in values:
            if importance is not None:
                value = value * importance
            results = (*results, kernels.mean(value, (0,)))
        if self.per_sample:
            results = (*results, ops.stop_gradient(values[0]))
        return results

    def _values(
        self,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        teacher_t: Tensor | None,
        **conditions: Tensor,
    ) -> tuple[Tensor, ...]:
        """The terms of each sample, each (B,)."""
        if self.alignment is None:
            return self._without_unused_bound(*self.loss(x0, noise, t, **conditions))
        x_t, timesteps = self.loss.noised(x0, noise, t)
        output, tokens = self.loss.denoiser.with_tokens(
            x_t, timesteps, self.alignment.student_blocks, **conditions
        )
        loss, mse, vb = self.loss.terms(output, x0, noise, t, conditions.get("y"))
        x_teacher, timesteps = self.loss.noised(x0, noise, teacher_t)
        distance = self.alignment(tokens, x_teacher, timesteps, **conditions)
        loss = loss + self.alignment.weight * distance
        return (*self._without_unused_bound(loss, mse, vb), distance)

    def _without_unused_bound(self, loss: Tensor, mse: Tensor, vb: Tensor) -> tuple[Tensor, ...]:
        """The terms, without the bound where it is always 0."""
        if self.has_bound:
            return loss, mse, vb
        return loss, mse
