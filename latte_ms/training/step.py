"""One optimisation step as one graph: loss, gradients, clipping, AdamW, running average."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.training.optimizer import OptimizerConfig, adamw, global_norm

_SCALE_START, _SCALE_GROWTH_STEPS = 2.0**16, 2000


class TrainStep(nn.Cell):
    """Updates the trainable parameters of `objective` and their running average in place.

    A step whose gradient is not finite changes nothing but the loss scale, so one bad batch loses
    nothing. Under float16 the loss is scaled by a power of two that halves on overflow and doubles
    after 2000 good steps.

    Args:
        objective: cell from a batch to a tuple of scalars, the loss first.
        config: of the optimiser.
        scale_loss: True for float16.
        distributed: True under msrun: gradients are averaged over all ranks before clipping.
    """

    def __init__(
        self,
        objective: nn.Cell,
        config: OptimizerConfig,
        scale_loss: bool = False,
        distributed: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.config = config
        self.scale_loss = scale_loss
        self.weights = ParameterTuple(objective.trainable_params())
        self.first_moments = self.weights.clone("adam_first", init="zeros")
        self.second_moments = self.weights.clone("adam_second", init="zeros")
        self.averages = self.weights.clone("ema", init="same")
        self.loss_scale = Parameter(
            Tensor(_SCALE_START if scale_loss else 1.0, ms.float32), "loss_scale", False
        )
        self.good_steps = Parameter(Tensor(0.0, ms.float32), "good_steps", False)
        self.reduce = nn.DistributedGradReducer(self.weights) if distributed else None
        self.gradient = ms.value_and_grad(self._scaled, None, self.weights, has_aux=True)

    def construct(
        self, rate: Tensor, root: Tensor, shrink: Tensor, max_norm: Tensor, *batch: Tensor
    ) -> tuple[Tensor, ...]:
        """The scalars of `objective` on `batch`, then the gradient norm before clipping.

        `rate`, `root`, `shrink` and `max_norm` are `optimizer.step_factors` of this step.
        """
        (_, scalars), gradients = self.gradient(*batch)
        if self.reduce is not None:
            gradients = self.reduce(gradients)
        norm = kernels.divide(global_norm(gradients), self.loss_scale)
        finite = ops.isfinite(norm)
        # min(1, max / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_
        clip = ops.minimum(kernels.divide(max_norm, norm + 1e-6), Tensor(1.0, ms.float32))
        factor = kernels.divide(clip, self.loss_scale)
        self._update(gradients, factor, finite, rate, root, shrink)
        if self.scale_loss:
            self._adjust_scale(finite)
        return (*scalars, norm)

    def _scaled(self, *batch: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        scalars = self.objective(*batch)
        return scalars[0] * self.loss_scale, scalars

    def _update(
        self,
        gradients: tuple[Tensor, ...],
        factor: Tensor,
        finite: Tensor,
        rate: Tensor,
        root: Tensor,
        shrink: Tensor,
    ) -> None:
        betas, decay = (self.config.beta1, self.config.beta2), self.config.ema_decay
        for i in range(len(self.weights)):
            weight, average = self.weights[i], self.averages[i]
            first, second = self.first_moments[i], self.second_moments[i]
            gradient = gradients[i].astype(ms.float32) * factor
            new_weight, new_first, new_second = adamw(
                weight, first, second, gradient, betas, self.config.epsilon, rate, root, shrink
            )
            new_average = average * decay + new_weight * (1.0 - decay)
            kernels.assign(weight, kernels.where(finite, new_weight, weight))
            kernels.assign(first, kernels.where(finite, new_first, first))
            kernels.assign(second, kernels.where(finite, new_second, second))
            kernels.assign(average, kernels.where(finite, new_average, average))

    def _adjust_scale(self, finite: Tensor) -> None:
        good = kernels.where(finite, self.good_steps + 1.0, ops.zeros_like(self.good_steps))
        grow = good >= _SCALE_GROWTH_STEPS
        scale = kernels.where(finite, self.loss_scale, self.loss_scale * 0.5)
        kernels.assign(self.loss_scale, kernels.where(grow, scale * 2.0, scale))
        kernels.assign(self.good_steps, kernels.where(grow, ops.zeros_like(good), good))
