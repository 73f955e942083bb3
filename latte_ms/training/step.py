"""One optimisation step as one graph: loss, gradients, clipping, AdamW, running average."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.training.optimizer import Factors, OptimizerConfig, adamw, global_norm

_SCALE_START, _SCALE_LEAST, _SCALE_GROWTH_STEPS = 2.0**16, 1.0, 2000


class Gradients(nn.Cell):
    """The scalars of `objective` on a batch, and the gradients of the first times `loss_scale`."""

    def __init__(self, objective: nn.Cell, weights: ParameterTuple, loss_scale: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.loss_scale = loss_scale
        self.gradient = ms.value_and_grad(self._scaled, None, weights, has_aux=True)

    def construct(self, *batch: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        (_, scalars), gradients = self.gradient(*batch)
        return scalars, gradients

    def _scaled(self, *batch: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        scalars = self.objective(*batch)
        return scalars[0] * self.loss_scale, scalars


class Update(nn.Cell):
    """From scaled gradients to new weights, moments and averages, in place.

    Args:
        weights: the trainable parameters.
        config: of the optimiser.
        scale_loss, distributed: as in `TrainStep`.
    """

    def __init__(
        self, weights: ParameterTuple, config: OptimizerConfig, scale_loss: bool, distributed: bool
    ) -> None:
        super().__init__(auto_prefix=False)
        self.config = config
        self.scale_loss = scale_loss
        self.weights = weights
        self.first_moments = weights.clone("adam_first", init="zeros")
        self.second_moments = weights.clone("adam_second", init="zeros")
        self.averages = weights.clone("ema", init="same")
        self.loss_scale = Parameter(
            Tensor(_SCALE_START if scale_loss else 1.0, ms.float32), "loss_scale", False
        )
        self.good_steps = Parameter(Tensor(0.0, ms.float32), "good_steps", False)
        self.reduce = nn.DistributedGradReducer(weights) if distributed else None

    def construct(
        self,
        gradients: tuple[Tensor, ...],
        rate: Tensor,
        root: Tensor,
        shrink: Tensor,
        max_norm: Tensor,
    ) -> Tensor:
        """The gradient norm before clipping; the other arguments are `optimizer.step_factors`."""
        if self.reduce is not None:
            gradients = self.reduce(gradients)
        norm = kernels.divide(global_norm(gradients), self.loss_scale)
        finite = ops.isfinite(norm)
        # min(1, max / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_
        clip = ops.minimum(kernels.divide(max_norm, norm + 1e-6), Tensor(1.0, ms.float32))
        factor = kernels.divide(clip, self.loss_scale)
        self._assign(gradients, factor, finite, rate, root, shrink)
        if self.scale_loss:
            self._adjust_scale(finite)
        return norm

    def _assign(
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
        halved = kernels.clamp(self.loss_scale * 0.5, _SCALE_LEAST, None)
        scale = kernels.where(finite, self.loss_scale, halved)
        kernels.assign(self.loss_scale, kernels.where(grow, scale * 2.0, scale))
        kernels.assign(self.good_steps, kernels.where(grow, ops.zeros_like(good), good))


class Accumulate(nn.Cell):
    """Adds the gradients of one batch of several to `sums`."""

    def __init__(self, gradients: Gradients, sums: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = sums

    def construct(self, first: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        """The scalars of `batch`; where `first` () bool is true the sums begin anew."""
        scalars, gradients = self.gradients(*batch)
        for i in range(len(self.sums)):
            gradient = gradients[i].astype(ms.float32)
            total = kernels.where(first, gradient, self.sums[i] + gradient)
            kernels.assign(self.sums[i], total)
        return scalars


class UpdateFromSums(nn.Cell):
    """`Update` with the mean of the gradients that `Accumulate` has added up."""

    def __init__(self, update: Update, sums: ParameterTuple, count: int) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.sums = sums
        self.share = 1.0 / count

    def construct(self, rate: Tensor, root: Tensor, shrink: Tensor, max_norm: Tensor) -> Tensor:
        means: tuple[Tensor, ...] = ()
        for total in self.sums:
            means = (*means, total * self.share)
        return self.update(means, rate, root, shrink, max_norm)


class TrainStep(nn.Cell):
    """Updates the trainable parameters of `objective` and their running average in place.

    A step whose gradient is not finite changes nothing but the loss scale, so one bad batch loses
    nothing. Under float16 the loss is scaled by a power of two that halves on overflow (down to 1)
    and doubles after 2000 good steps.

    Args:
        objective: cell from a batch to a tuple of scalars, the loss first.
        config: of the optimiser.
        scale_loss: True for float16.
        distributed: True under msrun: gradients are averaged over all ranks before clipping.
        accumulate: batches of one update. Above 1 the step is two graphs: one adds the gradients
            of a batch to buffers, the other updates with their mean; see `from_batches`.
    """

    def __init__(
        self,
        objective: nn.Cell,
        config: OptimizerConfig,
        scale_loss: bool = False,
        distributed: bool = False,
        accumulate: int = 1,
    ) -> None:
        super().__init__(auto_prefix=False)
        if accumulate < 1:
            raise ValueError(f"`accumulate` must be at least 1, got {accumulate}.")
        self.objective = objective
        self.scale_loss = scale_loss
        self.weights = ParameterTuple(objective.trainable_params())
        self.update = Update(self.weights, config, scale_loss, distributed)
        self.gradients = Gradients(objective, self.weights, self.update.loss_scale)
        self.accumulate = accumulate
        if accumulate > 1:
            sums = self.weights.clone("gradient_sum", init="zeros")
            self.add = Accumulate(self.gradients, sums)
            self.update_from_sums = UpdateFromSums(self.update, sums, accumulate)

    def construct(
        self, rate: Tensor, root: Tensor, shrink: Tensor, max_norm: Tensor, *batch: Tensor
    ) -> tuple[Tensor, ...]:
        """The scalars of `objective` on `batch`, then the gradient norm before clipping.

        `rate`, `root`, `shrink` and `max_norm` are `optimizer.step_factors` of this step.
        """
        scalars, gradients = self.gradients(*batch)
        return (*scalars, self.update(gradients, rate, root, shrink, max_norm))

    def from_batches(
        self, factors: Factors, batches: Sequence[tuple[Any, ...]]
    ) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """One update from `accumulate` batches: the scalars of each, and the gradient norm."""
        if len(batches) != self.accumulate:
            raise ValueError(f"`batches` must be {self.accumulate}, got {len(batches)}.")
        if self.accumulate == 1:
            *scalars, norm = self(*factors, *batches[0])
            return [tuple(scalars)], norm
        parts = [self.add(Tensor(i == 0), *batch) for i, batch in enumerate(batches)]
        return parts, self.update_from_sums(*factors)

    @property
    def averages(self) -> ParameterTuple:
        """The running averages of `weights`, named "ema." and the weight's name."""
        return self.update.averages

    @property
    def state(self) -> dict[str, Parameter]:
        """What an update depends on besides weights, averages and the batch, by name."""
        update = self.update
        own = [*update.first_moments, *update.second_moments, update.loss_scale, update.good_steps]
        return {parameter.name: parameter for parameter in own}
