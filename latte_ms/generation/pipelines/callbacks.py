"""The user's callback after each step: what it sees, and what it changes.

Shapes are diffusers': latents (B, C, F, h, w).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor

from latte_ms.adapters.state import version_of
from latte_ms.generation.denoising import PromptBatch, SchedulerRun, swap_layout
from latte_ms.generation.pipelines.request import (
    CALLBACK_INPUTS,
    Callback,
    require_shape,
    to_float32,
)


@dataclass
class CallState:
    """What a callback may read and change while its call runs."""

    guidance_scale: float = 1.0
    interrupt: bool = False  # skip the remaining steps
    timestep: int | float | None = None  # of the running step
    num_timesteps: int = 0


def run_callback(
    pipeline: Any, callback: Callback, names: Sequence[str], run: SchedulerRun, index: int
) -> None:
    """Call `callback(pipeline, index, timestep, tensors)` and apply what it returns.

    Returned `latents`, `prompt_embeds` and `negative_prompt_embeds` replace those of the run.
    `prompt_embeds` are those of both halves under guidance, the negative ones first; returning only
    the second half turns guidance off. A tensor counts as changed only if it is another object.

    Raises:
        ValueError: a returned tensor has another shape, or the callback returns no mapping.
    """
    shown = {name: _visible(run, name) for name in names}
    # A copy: callbacks write into the mapping that they get, and `shown` tells what has changed.
    version = version_of(run.transformer)
    returned = callback(pipeline, index, Tensor(run.timesteps[index]), dict(shown))
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
        b, f, *rest = run.x.shape
        require_shape("latents", changed["latents"], (b, rest[0], f, *rest[1:]))
        run.x = swap_layout(Tensor(to_float32(changed["latents"])))
    if version_of(run.transformer) != version:  # keys and values of the prompts are others now
        run.set_prompts(run.prompts)
    if "prompt_embeds" in changed:
        run.set_prompts(_with_prompts(run, to_float32(changed["prompt_embeds"])))
    if "negative_prompt_embeds" in changed and run.guided:
        run.set_prompts(_with_negative(run, to_float32(changed["negative_prompt_embeds"])))


def _visible(run: SchedulerRun, name: str) -> Tensor | None:
    """A tensor as the callback sees it; only what it asks for is fetched."""
    if name == "latents":
        return swap_layout(run.x)
    if name == "prompt_embeds":
        return run.prompts.embeddings
    if not run.guided:
        return None
    return Tensor(run.prompts.embeddings.asnumpy()[: run.x.shape[0]])


def _with_prompts(run: SchedulerRun, embeddings: np.ndarray) -> PromptBatch:
    rows, *rest = run.prompts.embeddings.shape
    batch = run.x.shape[0]
    count = batch if len(embeddings) == batch else rows
    require_shape("prompt_embeds", embeddings, (count, *rest))
    return PromptBatch(Tensor(embeddings), Tensor(run.prompts.mask.asnumpy()[-count:]))


def _with_negative(run: SchedulerRun, negative: np.ndarray) -> PromptBatch:
    batch, (_, *rest) = run.x.shape[0], run.prompts.embeddings.shape
    require_shape("negative_prompt_embeds", negative, (batch, *rest))
    both = np.concatenate((negative, run.prompts.embeddings.asnumpy()[batch:]))
    return PromptBatch(Tensor(both), run.prompts.mask)
