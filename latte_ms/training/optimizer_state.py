"""What an update keeps besides the weights: moments and averages, whole or divided over ranks."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from mindspore import Parameter, ParameterTuple, Tensor, nn

from latte_ms.training.sharding import Sharding


class OptimizerState(nn.Cell):
    """The weights, and for each of them its moments in AdamW and its averages.

    Args:
        sigma_rels: of power function averages besides the EMA, as `OptimizerConfig.ema_sigma_rels`.
        teacher: parameters that are the EMA of weights, by the names of the weights. They get the
            values of the weights; weights without one get an EMA of their own.
        sharding: which of the moments and averages are divided over the ranks; not with a teacher.
    """

    def __init__(
        self,
        weights: ParameterTuple,
        sigma_rels: Sequence[float] = (),
        teacher: Mapping[str, Parameter] | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        if teacher and sharding is not None:
            raise ValueError("`teacher` is a whole network: `sharding` must be None.")
        self.weights, self.sharding = weights, sharding
        self.first_moments = self._like("adam_first", "zeros")
        self.second_moments = self._like("adam_second", "zeros")
        self.ema = _ema_of(weights, teacher) if teacher else self._like("ema", "same")
        self.power_emas = {
            sigma_rel: self._like(f"ema_{sigma_rel:g}", "same") for sigma_rel in sigma_rels
        }
        # What an update writes besides the weights, in the order of `ParameterState` (`tuples` has
        # another); each in the order of the weights.
        self.of_each = (
            self.first_moments,
            self.second_moments,
            self.ema,
            *self.power_emas.values(),
        )

    def _like(self, prefix: str, init: str) -> ParameterTuple:
        """Parameters as the weights: zeros, or the same values."""
        if self.sharding is None:
            return self.weights.clone(prefix, init=init)
        return self.sharding.clone(self.weights, prefix, zeros=init == "zeros")

    @property
    def tuples(self) -> tuple[ParameterTuple, ...]:
        """The EMA, both moments and the further averages, each in the order of the weights."""
        return (self.ema, self.first_moments, self.second_moments, *self.power_emas.values())


def _ema_of(weights: ParameterTuple, teacher: Mapping[str, Parameter]) -> ParameterTuple:
    """Parameters "ema." + name with the values of the weights; those of `teacher` where it has any.

    Raises ValueError for a teacher that lacks all of the weights.
    """
    for weight in weights:
        if weight.name in teacher:
            teacher[weight.name].set_data(Tensor(weight.asnumpy()))
    own = [weight for weight in weights if weight.name not in teacher]
    if teacher and len(own) == len(weights):
        raise ValueError("`teacher` has none of the weights that are trained.")
    clones = iter(ParameterTuple(own).clone("ema", init="same") if own else ())
    return ParameterTuple([teacher[w.name] if w.name in teacher else next(clones) for w in weights])


class States(Protocol):
    """The states of a step as a checkpoint has them."""

    @property
    def ema(self) -> ParameterTuple:
        """The exponential moving averages, named "ema." and the weight's name."""

    @property
    def power_emas(self) -> dict[float, ParameterTuple]:
        """The power function averages, by their sigma_rels."""

    @property
    def state(self) -> dict[str, Parameter]:
        """Moments, power function averages and counts, by name."""


class WholeStates:
    """Copies of divided states as whole arrays.

    Args:
        states: the divided ones.
        state: all parameters of `TrainStep.state`; those that are not divided are not copied.
        sharding: how they are divided.
        everywhere: copy them to all ranks instead of the first one.
    """

    def __init__(
        self,
        states: OptimizerState,
        state: Mapping[str, Parameter],
        sharding: Sharding,
        everywhere: bool,
    ) -> None:
        self._states, self._sharding = states, sharding
        self._whole = [sharding.wholes(parts, everywhere) for parts in states.tuples]
        self.ema = self._whole[0]
        self.power_emas = dict(zip(states.power_emas, self._whole[3:], strict=True))
        self.state = dict(state) | {p.name: p for whole in self._whole[1:] for p in whole}

    def divide(self) -> None:
        """Give each rank its parts of the values that the copies have now."""
        for parts, whole in zip(self._states.tuples, self._whole, strict=True):
            for i, (part, parameter) in enumerate(zip(parts, whole, strict=True)):
                part.set_data(Tensor(self._sharding.part(i, parameter.asnumpy())))
