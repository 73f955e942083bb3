"""Many prompts, one after the other, none of which is lost to another's failure."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from latte_ms.generation.pipeline_generator import LatentGenerator

logger = logging.getLogger(__name__)


def sample_each(
    pipeline: LatentGenerator,
    prompts: Sequence[str],
    texts: Mapping[str, Any],
    options: Mapping[str, Any],
    save: Callable[[str, Any], None],
) -> Iterator[tuple[str, Exception | None]]:
    """Sample each prompt and save its videos; yields the prompt and what went wrong, if anything.

    All prompts are encoded first, and the text encoder is freed before the first is sampled.

    Args:
        texts: arguments of `LatentGenerator.prompt_arguments` but for the prompts.
        options: arguments of the pipeline's call but for the prompts.
        save: called with a prompt and the frames of its videos.
    """
    encoded = encode_each(pipeline, prompts, texts)
    pipeline.free_text_encoder()

    def sample(prompt: str, arguments: dict[str, Any]) -> None:
        save(prompt, pipeline(**arguments, **options)[0])

    for prompt, arguments in encoded.items():
        if isinstance(arguments, Exception):
            yield prompt, arguments
        else:
            result = _attempt(prompt, partial(sample, prompt, arguments))
            yield prompt, result if isinstance(result, Exception) else None


def encode_each(
    pipeline: LatentGenerator, prompts: Sequence[str], texts: Mapping[str, Any]
) -> dict[str, dict[str, Any] | Exception]:
    """The arguments of the call for each prompt, or the error it makes.

    In one go, since the text encoder may have to be read for every call; one by one if that fails.
    """
    if not prompts:
        return {}
    try:
        together = pipeline.prompt_arguments(list(prompts), **texts)
    except Exception as error:  # one of them is at fault; which one is found below
        if len(prompts) == 1:
            return {prompts[0]: _logged(prompts[0], error)}
        alone = [encode_each(pipeline, [prompt], texts) for prompt in prompts]
        return {prompt: found for one in alone for prompt, found in one.items()}
    return {
        prompt: {
            name: value[i : i + 1] if isinstance(value, np.ndarray) else value
            for name, value in together.items()
        }
        for i, prompt in enumerate(prompts)
    }


def _attempt(prompt: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # whatever it is, the other prompts are wanted
        return _logged(prompt, error)


def _logged(prompt: str, error: Exception) -> Exception:
    logger.error("The prompt %r failed.", prompt, exc_info=error)
    return error
