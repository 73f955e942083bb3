"""One optimisation step as one graph: loss, gradients, clipping, AdamW and EMA."""

from collections.abc import Mapping, Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from latte_ms.layers import kernels
from latte_ms.layers.entry import EntryCell
from latte_ms.parallel.group import Group
from latte_ms.runtime import Rank
from latte_ms.training.batch import Batch, tensors
from latte_ms.training.exchange import Exchange, OrderedExchange, ShardedExchange
from latte_ms.training.optimizer import (
    DeviceFactors,
    OptimizerConfig,
    StepFactors,
    adamw,
    clip_factor,
    unpack,
)
from latte_ms.training.optimizer_state import OptimizerState, States, WholeStates
from latte_ms.training.sharding import Sharding
from latte_ms.training.timesteps import TimestepSampler

_SCALE_START, _SCALE_MIN, _SCALE_GROWTH_STEPS = 2.0**16, 1.0, 2000


class Gradients(nn.Cell):
    """The scalars of `objective` on a batch, and the gradients of `loss_scale` x the first one."""

    def __init__(self, objective: nn.Cell, weights: ParameterTuple, loss_scale: Parameter) -> None:
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.loss_scale = loss_scale
        self.gradient = ms.value_and_grad(self._scaled, None, weights, has_aux=True)

    def construct(
        self, *inputs: Tensor, **conditions: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        # value_and_grad takes no keyword arguments in a graph, but it takes a dictionary.
        (_, scalars), gradients = self.gradient(inputs, conditions)
        return scalars, gradients

    def _scaled(
        self, inputs: tuple[Tensor, ...], conditions: Mapping[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        scalars = self.objective(*inputs, **conditions)
        return scalars[0] * self.loss_scale, scalars


class LossScale(nn.Cell):
    """The factor of the loss: 1, or under float16 a power of two that follows the gradients.

    It is halved, down to 1, when the gradient is not finite, and doubled after 2000 good steps.
    """

    def __init__(self, dynamic: bool) -> None:
        super().__init__(auto_prefix=False)
        self.dynamic = dynamic
        start = _SCALE_START if dynamic else 1.0
        self.value = Parameter(Tensor(start, ms.float32), "loss_scale", False)
        self.good_steps = Parameter(Tensor(0.0, ms.float32), "good_steps", False)

    def adjust(self, finite: Tensor) -> None:
        """Update the scale in place; `finite` () bool says whether the gradient was."""
        if not self.dynamic:
            return
        good = kernels.where(finite, self.good_steps + 1.0, kernels.zeros_like(self.good_steps))
        grow = good >= _SCALE_GROWTH_STEPS
        halved = kernels.clamp(self.value * 0.5, _SCALE_MIN, None)
        scale = kernels.where(finite, self.value, halved)
        kernels.assign(self.value, kernels.where(grow, scale * 2.0, scale))
        kernels.assign(self.good_steps, kernels.where(grow, kernels.zeros_like(good), good))


def updated_weight(
    config: OptimizerConfig,
    factor: Tensor,
    finite: Tensor,
    factors: DeviceFactors,
    gradient: Tensor,
    weight: Tensor,
    *states: Parameter,
) -> Tensor:
    """A weight after one AdamW update; writes its moments and averages, `states`, in place.

    Unless `finite` () bool is true all stay as they are. `factor` () undoes the loss scale and
    clips the gradient.
    """
    old = (weight, *states)
    new = adamw(old, gradient.astype(ms.float32) * factor, config, factors)
    for j in range(1, len(new)):
        kernels.assign(old[j], kernels.where(finite, new[j], old[j]))
    return kernels.where(finite, new[0], weight)


class Update(nn.Cell):
    """One AdamW update of all weights, their moments and averages, from scaled gradients, in place.

    Args:
        state: the trainable parameters with their moments and averages.
        loss_scale: the factor by which the gradients are scaled.
        config: settings of the optimizer.
        exchange: what the ranks exchange.
    """

    def __init__(
        self,
        state: OptimizerState,
        loss_scale: LossScale,
        config: OptimizerConfig,
        exchange: Exchange,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.config = config
        self.state = state
        self.loss_scale = loss_scale
        self.exchange = exchange
        # Maps functions over weights: an index into the parameters of all weights would have the
        # compiler make a tuple of them each time, and take minutes.
        self.map = ops.HyperMap()
        # Counted in float32, which is exact up to 2^24: a run with more would have ended.
        self.skipped = Parameter(Tensor(0.0, ms.float32), "skipped_updates", False)

    def construct(self, gradients: tuple[Tensor, ...], factors: Tensor) -> Tensor:
        """The gradient norm before clipping; `factors` is `StepFactors.tensor`."""
        gradients = self.exchange.gradients(gradients)
        unpacked = unpack(factors)
        norm = kernels.divide(self.exchange.norm(gradients), self.loss_scale.value)
        finite = ops.isfinite(norm)
        factor = kernels.divide(clip_factor(norm, unpacked[3]), self.loss_scale.value)
        update = ops.partial(updated_weight, self.config, factor, finite, unpacked)
        own = self.exchange.own(self.state.weights)
        updated = self.map(update, gradients, own, *self.state.of_each)
        self.map(kernels.assign, self.state.weights, self.exchange.wholes(updated))
        self.loss_scale.adjust(finite)
        kernels.assign(self.skipped, kernels.where(finite, self.skipped, self.skipped + 1.0))
        return norm


def add_up(first: Tensor, gradient: Tensor, total: Parameter) -> Tensor:
    """Add `gradient` to `total` in place; if `first` () bool is true `total` becomes it."""
    gradient = gradient.astype(ms.float32)
    return kernels.assign(total, kernels.where(first, gradient, total + gradient))


def scaled(factor: float, value: Tensor) -> Tensor:
    return value * factor


class Accumulate(EntryCell):
    """Adds the gradients of one batch of several to `sums`."""

    def __init__(self, gradients: Gradients, sums: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = sums
        self.map = ops.HyperMap()

    def construct(self, first: Tensor, *inputs: Tensor, **conditions: Tensor) -> tuple[Tensor, ...]:
        """The scalars of a batch; if `first` () bool is true the sums start from zero."""
        scalars, gradients = self.gradients(*inputs, **conditions)
        self.map(ops.partial(add_up, first), gradients, self.sums)
        return scalars


class UpdateFromSums(EntryCell):
    """`Update` with the mean of the gradients that `Accumulate` has added up."""

    def __init__(self, update: Update, sums: ParameterTuple, count: int) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.sums = sums
        self.factor = 1.0 / count
        self.map = ops.HyperMap()

    def construct(self, factors: Tensor) -> Tensor:
        return self.update(self.map(ops.partial(scaled, self.factor), self.sums), factors)


class TrainStep(EntryCell):
    """Updates the trainable parameters of `objective` and their EMA in place.

    A step whose gradient is not finite changes only the loss scale, so that one bad batch does no
    harm; `skipped` counts these.

    Args:
        objective: cell that maps a batch to a tuple of scalars, the loss first.
        config: settings of the optimizer.
        scale_loss: True for float16; see `LossScale`.
        distributed: True under msrun: gradients are averaged over all ranks before clipping.
        shard_over: this process among the ranks over which the optimizer's states are divided;
            `distributed` must be True. None: the states are whole.
        clip_group: the group that divides each clip, where the denoiser exchanges tokens in it.
        accumulate: batches per update. Above 1 the step is two graphs: one adds the gradients of a
            batch to buffers, the other updates with their mean; see `update_from_batches`.
        teacher: as in `OptimizerState`.
        timestep_sampler: completes the batches, and where it has a history gets the losses (B,)
            that the objective then returns after its scalars.
    """

    def __init__(
        self,
        objective: nn.Cell,
        config: OptimizerConfig,
        scale_loss: bool = False,
        distributed: bool = False,
        accumulate: int = 1,
        teacher: Mapping[str, Parameter] | None = None,
        timestep_sampler: TimestepSampler | None = None,
        shard_over: Rank | None = None,
        clip_group: Group | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        if accumulate < 1:
            raise ValueError(f"`accumulate` must be at least 1, got {accumulate}.")
        self.objective = objective
        self.scale_loss = scale_loss
        self.weights = ParameterTuple(objective.trainable_params())
        self.sharding = None if shard_over is None else Sharding(shard_over, self.weights)
        self.optimizer_state = OptimizerState(
            self.weights, config.ema_sigma_rels, teacher, self.sharding
        )
        self.loss_scale = LossScale(scale_loss)
        exchange = Exchange(self.weights, distributed)
        if clip_group is not None and clip_group.size > 1:
            exchange = OrderedExchange(self.weights, clip_group.rank)
        if self.sharding is not None:
            exchange = ShardedExchange(self.weights, self.sharding)
        self.update = Update(self.optimizer_state, self.loss_scale, config, exchange)
        self.gradients = Gradients(objective, self.weights, self.loss_scale.value)
        self.accumulate, self.timestep_sampler = accumulate, timestep_sampler
        self.ranks_per_clip = 1 if clip_group is None else clip_group.size
        if accumulate > 1:
            sums = self.weights.clone("gradient_sum", init="zeros")
            self.add = Accumulate(self.gradients, sums)
            self.update_from_sums = UpdateFromSums(self.update, sums, accumulate)

    def construct(
        self, factors: Tensor, *inputs: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, ...]:
        """The scalars of `objective` on a batch, then the gradient norm before clipping.

        Args:
            factors: `StepFactors.tensor` of this step.
            inputs, conditions: positional and keyword arguments of the objective.
        """
        scalars, gradients = self.gradients(*inputs, **conditions)
        return (*scalars, self.update(gradients, factors))

    def update_from_batches(
        self, factors: StepFactors, batches: Sequence[Batch]
    ) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        """One update from `accumulate` batches: the scalars of each, and the gradient norm."""
        if len(batches) != self.accumulate:
            raise ValueError(f"`batches` must hold {self.accumulate} batches, got {len(batches)}.")
        if self.timestep_sampler is None:
            return self._update(factors, batches)
        completed = [self.timestep_sampler.complete(batch) for batch in batches]
        parts, norm = self._update(factors, completed)
        if self.timestep_sampler.history is not None:
            losses = [part[-1].asnumpy() for part in parts]
            self.timestep_sampler.record([batch.timesteps for batch in completed], losses)
            parts = [part[:-1] for part in parts]
        return parts, norm

    def scalars_of(self, batch: Batch) -> list[float]:
        """The scalars of `objective` on a batch, by a graph of its own; nothing is updated."""
        completed = (
            batch if self.timestep_sampler is None else self.timestep_sampler.complete(batch)
        )
        inputs, conditions = tensors(completed)
        scalars = self.objective(*inputs, **conditions)
        return [float(scalar.asnumpy()) for scalar in scalars if scalar.ndim == 0]

    def _update(
        self, factors: StepFactors, batches: Sequence[Batch]
    ) -> tuple[list[tuple[Tensor, ...]], Tensor]:
        if self.accumulate == 1:
            inputs, conditions = tensors(batches[0])
            *scalars, norm = self(factors.tensor(), *inputs, **conditions)
            return [tuple(scalars)], norm
        parts = []
        for i, batch in enumerate(batches):
            inputs, conditions = tensors(batch)
            parts.append(self.add(Tensor(i == 0), *inputs, **conditions))
        return parts, self.update_from_sums(factors.tensor())

    def gathered_states(self, everywhere: bool = False) -> States:
        """The states as whole arrays, on whichever ranks they are; every rank must call it.

        Where they are divided these are copies, on the first rank alone unless `everywhere`.
        """
        if self.sharding is None:
            return self
        return WholeStates(self.optimizer_state, self.state, self.sharding, everywhere)

    def restore(self, states: States) -> None:
        """Give this rank its part of `states`, of `gathered_states(everywhere=True)`."""
        if isinstance(states, WholeStates):
            states.divide()

    @property
    def ema(self) -> ParameterTuple:
        """The exponential moving averages of `weights`, named "ema." and the weight's name."""
        return self.optimizer_state.ema

    @property
    def power_emas(self) -> dict[float, ParameterTuple]:
        """The averages of `OptimizerConfig.ema_sigma_rels`, each as `ema`, by their lengths."""
        return self.optimizer_state.power_emas

    @property
    def skipped(self) -> int:
        """How many updates so far had a gradient that was not finite; reading it waits for them."""
        return int(self.update.skipped.asnumpy())

    @property
    def state(self) -> dict[str, Parameter]:
        """State other than weights and EMA on which later updates depend, by name."""
        states = self.optimizer_state.tuples[1:]  # the first is the EMA
        counts = (self.loss_scale.value, self.loss_scale.good_steps, self.update.skipped)
        return {p.name: p for p in (*(p for parameters in states for p in parameters), *counts)}
