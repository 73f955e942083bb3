"""Keys of a recipe that follow from others, such as sizes that belong to several sections."""

import dataclasses
from typing import Any

from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.weights.pretrained import recorded_sizes

_HIDDEN_SIZE = ("num_attention_heads", "attention_head_dim")  # whose product it is


def with_shared_counts(values: dict[Any, Any], names: dict[str, str]) -> dict[Any, Any]:
    """The keys of a recipe, with each count of `data` also in `network`, and vice versa.

    `names` pairs those of `data` with those of `network`. A single frame is not a count that a
    network of videos shares.
    """
    data, network = values.get("data"), values.get("network", {})
    if not (isinstance(data, dict) and isinstance(network, dict)):
        return values
    to_data = {ours: network[theirs] for ours, theirs in names.items() if theirs in network}
    to_network = {
        theirs: data[ours]
        for ours, theirs in names.items()
        if ours in data and not (theirs == "video_length" and data[ours] == 1)
    }
    return {**values, "data": to_data | data, "network": to_network | network}


def with_recorded_sizes(values: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of a recipe of `LatteT2V`, with the sizes that `initial_weights` records.

    They are for the keys that `network` leaves out. `initial_weights` is a network's folder or a
    training checkpoint. Raises ValueError where that is damaged.
    """
    network, folder = values.get("network", {}), values.get("initial_weights")
    names = {field.name for field in dataclasses.fields(LatteT2VConfig)}
    if not isinstance(network, dict) or not folder or network.keys() >= names:
        return values
    return {**values, "network": recorded_sizes(str(folder)) | network}


def with_derived_sizes(values: dict[Any, Any], num_train_steps: int) -> dict[Any, Any]:
    """The keys of a recipe of `LatteT2V`, with sizes of `network` that others determine.

    Args:
        num_train_steps: the default of `diffusion.num_train_steps`.
    """
    network, diffusion = values.get("network", {}), values.get("diffusion", {})
    if not (isinstance(network, dict) and isinstance(diffusion, dict)):
        return values
    steps = diffusion.get("num_train_steps", num_train_steps)
    sizes: dict[str, Any] = {"num_embeds_ada_norm": steps}
    heads = [network.get(name, getattr(LatteT2VConfig, name)) for name in _HIDDEN_SIZE]
    if all(type(number) is int for number in heads):
        sizes["cross_attention_dim"] = heads[0] * heads[1]
    return {**values, "network": sizes | network}


def check_replaced(values: dict[Any, Any]) -> None:
    """Raise ValueError for a key that earlier versions had, saying what takes its place."""
    if "cache_latents" in values:
        raise ValueError(
            "`cache_latents` is gone: run latte-encode with the recipe and "
            "`latent_cache.path=FOLDER`, then train with the same `latent_cache.path`; without it "
            "videos are encoded at each use."
        )


def with_cache(values: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of a recipe; with a latent cache, `vae` and `data.path` may be missing."""
    cache, data = values.get("latent_cache"), values.get("data", {})
    if not (isinstance(cache, dict) and cache.get("path") and isinstance(data, dict)):
        return values
    return {"vae": "", **values, "data": {"path": "", **data}}
