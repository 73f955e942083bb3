"""Functions run as one graph, with their gradients, and float64 rules to hold them against."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor, nn, ops

Function = Callable[..., object]
Arrays = tuple[np.ndarray, ...]


class Run(nn.Cell):
    """Compiles a function: what `construct` of a caller would see."""

    def __init__(self, function: Function) -> None:
        super().__init__(auto_prefix=False)
        self.function = function

    def construct(self, *args: Tensor) -> object:
        return self.function(*args)


class RunWithGradient(nn.Cell):
    """The value, and the gradient by every argument for a given gradient by the value."""

    def __init__(self, function: Function) -> None:
        super().__init__(auto_prefix=False)
        self.function = function
        self.gradient = ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, upstream: object, *args: Tensor) -> object:
        return self.function(*args), self.gradient(self.function)(*args, upstream)


class ParameterGradient(nn.Cell):
    """The gradients of `cell` by all its trainable parameters, in their order."""

    def __init__(self, cell: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.cell = cell
        self.parameters = ParameterTuple(cell.trainable_params())
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)

    def construct(self, upstream: Tensor, *args: Tensor) -> tuple[Tensor, ...]:
        return self.gradient(self.cell, self.parameters)(*args, upstream)


def as_arrays(results: object) -> object:
    if isinstance(results, (tuple, list)):
        return tuple(as_arrays(result) for result in results)
    return results.asnumpy()


@pytest.fixture(scope="session")
def compiled() -> Callable[..., object]:
    """`compiled(function, *arrays)`: its results as arrays, from one graph."""

    def run(function: Function, *arrays: np.ndarray) -> object:
        return as_arrays(Run(function)(*map(Tensor, arrays)))

    return run


def second_run(cell: nn.Cell, *inputs: Any) -> Any:
    """What a kernel leaves behind in one run must not change the next."""
    cell(*inputs)
    return as_arrays(cell(*inputs))


@pytest.fixture(scope="session")
def with_gradient() -> Callable[..., tuple[object, Arrays]]:
    """`with_gradient(function, upstream, *arrays)`: its value, and one gradient per array."""

    def run(
        function: Function, upstream: np.ndarray | Arrays, *arrays: np.ndarray
    ) -> tuple[object, Arrays]:
        several = isinstance(upstream, tuple)
        given = tuple(map(Tensor, upstream)) if several else Tensor(upstream)
        return second_run(RunWithGradient(function), given, *map(Tensor, arrays))

    return run


@pytest.fixture(scope="session")
def parameter_gradients() -> Callable[..., dict[str, np.ndarray]]:
    """`parameter_gradients(cell, upstream, *arrays)`: name -> gradient, of all that train."""

    def run(cell: nn.Cell, upstream: np.ndarray, *arrays: np.ndarray) -> dict[str, np.ndarray]:
        gradient = ParameterGradient(cell)
        values = second_run(gradient, Tensor(upstream), *map(Tensor, arrays))
        names = [name for name, p in cell.parameters_and_names() if p.requires_grad]
        return dict(zip(names, values, strict=True))

    return run


@pytest.fixture(scope="session")
def numeric_gradient() -> Callable[..., Arrays]:
    """Central differences of sum(upstream * function(*arrays)) by every element, in float64."""

    def run(function: Function, upstream: np.ndarray, *arrays: np.ndarray) -> Arrays:
        points = [array.astype(np.float64) for array in arrays]
        step, gradients = 1e-6, []
        for point in points:
            gradient = np.zeros_like(point)
            for place in np.ndindex(point.shape):
                middle, sides = point[place], []
                for moved in (middle + step, middle - step):
                    point[place] = moved
                    sides.append(float((upstream * function(*points)).sum()))
                point[place] = middle
                gradient[place] = (sides[0] - sides[1]) / (2 * step)
            gradients.append(gradient)
        return tuple(gradients)

    return run


@pytest.fixture(scope="session")
def filled() -> Callable[..., dict[str, np.ndarray]]:
    """`filled(cell, seed)`: random values for all parameters, set and returned by name."""

    def fill(cell: nn.Cell, seed: int = 0) -> dict[str, np.ndarray]:
        rng, values = np.random.default_rng(seed), {}
        for name, parameter in cell.parameters_and_names():
            scale = 1.0 / np.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.5
            value = (rng.standard_normal(parameter.shape) * scale).astype(np.float32)
            parameter.set_data(Tensor(value))
            values[name] = value
        return values

    return fill
