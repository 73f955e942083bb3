"""What the transformer sees of an embedding behind the end of its prompt."""

import numpy as np


def mask_features(
    prompt: np.ndarray,
    negative: np.ndarray | None,
    mask: np.ndarray,
    per_video: bool = True,
    *,
    trim: bool = True,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Embeddings without the rows that belong to no token of the prompt.

    Alone, a prompt of L tokens is cut to its first L rows, and the negative prompt with it: the
    network sees L rows of both. `per_video` gives each video of a batch exactly that. Rows behind L
    are zero and the returned mask hides them from attention, so that a video does not depend on
    those beside it; where all rows belong to prompts there is no mask.

    `per_video=False` is what diffusers does: a single prompt is cut; of several, which stay whole,
    the rows behind L become zero and are attended to nevertheless, and the negative prompts keep
    all their rows. A prompt then gives another video in a batch than alone.

    With `trim=False` videos keep all rows and always have a mask: the same numbers but for
    rounding, and one shape, so one compiled graph, for prompts of all lengths.

    Args:
        prompt: embeddings (B, rows, W).
        negative: embeddings of the same shape, or None without guidance.
        mask: (B, rows), 1 on tokens and 0 behind them.
        trim: with `per_video`, cut rows that belong to no prompt of the batch.
    Returns:
        prompt and negative (B, R, W), and the mask (B, R) int32 of both or None. R is the length of
        the longest prompt, or all rows: without `trim`, and of several as diffusers does.
    Raises:
        ValueError: shapes do not agree, or a mask is not ones followed by zeros.
    """
    lengths = _lengths(prompt, negative, mask)
    kept = mask[:, :, None].astype(prompt.dtype)
    if not per_video and len(prompt) > 1:
        return prompt * kept, negative, None
    prompt = prompt * kept
    negative = None if negative is None else negative * kept
    if per_video and not trim:
        return prompt, negative, np.asarray(mask, np.int32)
    longest = int(lengths.max())
    prompt = prompt[:, :longest]
    negative = None if negative is None else negative[:, :longest]
    if (lengths == longest).all():
        return prompt, negative, None
    return prompt, negative, np.asarray(mask[:, :longest], np.int32)


def _lengths(prompt: np.ndarray, negative: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
    """Tokens of each prompt, (B,); after checking that everything fits."""
    if prompt.ndim != 3 or 0 in prompt.shape:
        raise ValueError(f"`prompt` must be embeddings (B, rows, width), got {prompt.shape}.")
    if negative is not None and negative.shape != prompt.shape:
        raise ValueError(
            f"`negative` must have the shape of `prompt` {prompt.shape}, got {negative.shape}."
        )
    if mask.shape != prompt.shape[:2]:
        raise ValueError(f"`mask` must be (B, rows) = {prompt.shape[:2]}, got {mask.shape}.")
    lengths = np.asarray(mask).sum(axis=1)
    whole = np.arange(mask.shape[1]) < lengths[:, None]
    if (lengths < 1).any() or not np.array_equal(mask, whole):
        raise ValueError("`mask` must be ones followed by zeros in each row, at least one 1.")
    return lengths
