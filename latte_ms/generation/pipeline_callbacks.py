"""The user's look at a step, and what it changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor

from latte_ms.generation.denoising import Run, Text
from latte_ms.generation.pipeline_inputs import (
    CALLBACK_INPUTS,
    Callback,
    require_shape,
    to_array,
)


def call_back(
    pipeline: Any, callback: Callback, names: Sequence[str], run: Run, index: int
) -> None:
    """Call `callback(pipeline, index, timestep, tensors)` and take over what it returns.

    Returned `latents` and `prompt_embeds` replace those of the run, and so do
    `negative_prompt_embeds`. `prompt_embeds` are those of both halves under guidance, the negative
    ones first; a callback that returns the second half alone ends the guidance. What counts is
    another tensor under the name; embeddings overwritten in place are not seen.

    Raises:
        ValueError: a returned tensor has another shape, or what is returned is no mapping.
    """
    shown = {name: _shown(run, name) for name in names}
    # A copy: callbacks write into the mapping that they get, and `shown` tells what has changed.
    returned = callback(pipeline, index, Tensor(run.steps.timesteps[index]), dict(shown))
    if returned is not None and not isinstance(returned, Mapping):
        raise ValueError(
            "`callback_on_step_end` must return a mapping of tensors or None, "
            f"got a {type(returned).__name__}."
        )
    changed = {
        name: value
        for name, value in (returned or {}).items()
        if name in CALLBACK_INPUTS and value is not None and value is not shown.get(name)
    }
    if "latents" in changed:
        require_shape("latents", changed["latents"], tuple(run.latents.shape))
        run.latents = Tensor(to_array(changed["latents"]))
    if "prompt_embeds" in changed:
        run.text = _replaced(run, to_array(changed["prompt_embeds"]))
    if "negative_prompt_embeds" in changed and run.guided:
        run.text = _with_negative(run, to_array(changed["negative_prompt_embeds"]))


def _shown(run: Run, name: str) -> Tensor | None:
    """A tensor as the callback sees it; only what it asks for is fetched."""
    if name == "latents":
        return run.latents
    if name == "prompt_embeds":
        return run.text.embeddings
    if not run.guided:
        return None
    return Tensor(run.text.embeddings.asnumpy()[: run.latents.shape[0]])


def _replaced(run: Run, embeddings: np.ndarray) -> Text:
    rows, *rest = run.text.embeddings.shape
    batch = run.latents.shape[0]
    count = batch if len(embeddings) == batch else rows
    require_shape("prompt_embeds", embeddings, (count, *rest))
    return Text(Tensor(embeddings), Tensor(run.text.mask.asnumpy()[-count:]))


def _with_negative(run: Run, negative: np.ndarray) -> Text:
    batch, (_, *rest) = run.latents.shape[0], run.text.embeddings.shape
    require_shape("negative_prompt_embeds", negative, (batch, *rest))
    both = np.concatenate((negative, run.text.embeddings.asnumpy()[batch:]))
    return Text(Tensor(both), run.text.mask)
