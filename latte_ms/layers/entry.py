"""What every network that is called from Python has in common."""

import inspect
from typing import Any

import numpy as np
from mindspore import nn

from latte_ms import runtime


class EntryCell(nn.Cell):
    """A cell that is called from Python: with tensors, and by one thread at a time."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `construct`. Raises TypeError for an array, which has to be made a Tensor."""
        if any(isinstance(value, np.ndarray) for value in (*args, *kwargs.values())):
            self._refuse_arrays(args, kwargs)
        with runtime.device_lock:
            return super().__call__(*args, **kwargs)

    def _refuse_arrays(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(self.construct).bind_partial(*args, **kwargs).arguments
        flat = {**bound, **bound.get("conditions", {})}
        name = next((n for n, value in flat.items() if isinstance(value, np.ndarray)), "inputs")
        raise TypeError(
            f"`{name}` of {type(self).__name__} must be a Tensor, got a numpy array: "
            "give `mindspore.Tensor(array)`."
        )
