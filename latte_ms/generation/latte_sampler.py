"""Videos from a trained `Latte`: of classes, of prepared text embeddings, or of a seed alone.

Shapes: B videos, F frames, C latent channels, h w latent size, H W pixels, L tokens, E channels of
text embeddings.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import numpy as np
from mindspore import Tensor

from latte_ms import runtime
from latte_ms.diffusion.guidance import Guidance, GuidanceOptions, guidance_inputs
from latte_ms.diffusion.noise import check_seeds, generators, standard_normal
from latte_ms.diffusion.process import Prediction, Variance
from latte_ms.diffusion.samplers import (
    DDIM,
    SAMPLERS,
    DDIMInversion,
    InversionRun,
    Sampler,
    SamplerRun,
    denoise,
)
from latte_ms.diffusion.schedule import Schedule
from latte_ms.media import to_uint8, to_unit
from latte_ms.options import check_rules, fraction, one_of, option
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.vae.codec import Codec

Condition: TypeAlias = int | np.ndarray | None  # a label, a text embedding (L, E), or nothing
KEY_PREFIX = "sampler."  # of these options in a recipe


@dataclass(frozen=True)
class SamplerConfig(GuidanceOptions):
    """How noise becomes a video."""

    method: str = option("ddpm", "ddpm or ddim.", one_of(*SAMPLERS))
    num_steps: int | str = option(250, 'Steps, or a respacing such as "10,15,20" or "ddim50".')
    eta: float = option(0.0, "For ddim: 0 is deterministic, 1 as noisy as ddpm.", fraction)
    guidance_scale: float = option(1.0, "Scale of classifier-free guidance; 1 turns it off.")
    num_train_steps: int = option(1000, "Length of the training schedule.")
    noise_schedule: str = option("linear", "linear or squaredcos_cap_v2.")
    prediction: str = option("epsilon", "epsilon or x0.", one_of(*get_args(Prediction)))
    variance: Variance = option(
        "fixed_small",
        "For ddpm, where it is not learned: fixed_small or fixed_large.",
        one_of("fixed_small", "fixed_large"),
    )
    clip_denoised: bool = option(False, "Clamp estimates of the clean latents to [-1, 1].")

    def __post_init__(self) -> None:
        check_rules(self, KEY_PREFIX)
        if isinstance(self.num_steps, int) and not 1 <= self.num_steps <= self.num_train_steps:
            raise ValueError(
                f"`sampler.num_steps` must be from 1 to `sampler.num_train_steps` "
                f"(={self.num_train_steps}), got {self.num_steps}."
            )
        if not 1.0 <= self.guidance_scale < math.inf:
            raise ValueError(
                "`sampler.guidance_scale` must be at least 1, and finite, "
                f"got {self.guidance_scale}."
            )
        if self.eta > 0 and self.method != "ddim":
            raise ValueError(
                f"`sampler.eta` (={self.eta}) needs `sampler.method` ddim, got {self.method}."
            )
        if self.variance == "fixed_large" and self.method != "ddpm":
            raise ValueError(
                f"`sampler.variance` (=fixed_large) needs `sampler.method` ddpm, got {self.method}."
            )
        try:
            self.schedule()
        except ValueError as error:
            raise ValueError(str(error).replace("`respacing`", "`sampler.num_steps`")) from error

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self.guidance_scale > 1.0

    def schedule(self) -> Schedule:
        """The respaced chain."""
        return Schedule.create(self.num_train_steps, self.noise_schedule, self.num_steps)

    def check_network(self, network: LatteConfig) -> None:
        """Raise ValueError where a network of this kind cannot be sampled with these options."""
        without_null = network.conditioning == "none" or (
            network.conditioning == "class" and network.class_dropout_prob == 0
        )
        if self.guided and without_null:
            raise ValueError(
                f"`sampler.guidance_scale` (={self.guidance_scale}) needs a conditional network "
                "that was trained with dropout of its condition."
            )
        if self.variance == "fixed_large" and network.learn_sigma:
            raise ValueError(
                "`sampler.variance` fixed_large needs `network.learn_sigma` false, got true."
            )


class LatteSampler:
    """Samples videos in batches of one shape, compiled once.

    A video depends on its condition and seed alone, not on its batch.

    Args:
        codec: of the autoencoder that the network was trained with.
        batch_size: videos denoised together; an incomplete batch repeats its last
            video, which is dropped again.
        unconditional: (L, E), the text embedding of no prompt; guidance by text needs it.
    Raises:
        ValueError: the network does not support these options, or its latent channels differ from
            the autoencoder's.
    """

    def __init__(
        self,
        network: Latte,
        codec: Codec,
        config: SamplerConfig,
        batch_size: int = 1,
        unconditional: np.ndarray | None = None,
    ) -> None:
        cfg = network.config
        config.check_network(cfg)
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if cfg.in_channels != codec.config.latent_channels:
            raise ValueError(
                f"`network.in_channels` (={cfg.in_channels}) must equal the autoencoder's "
                f"`latent_channels` (={codec.config.latent_channels})."
            )
        if config.guided and cfg.conditioning == "text" and unconditional is None:
            raise ValueError(
                f"`sampler.guidance_scale` (={config.guidance_scale}) needs the text embedding "
                "`unconditional`, got none."
            )
        self.network, self.codec, self.config = network, codec, config
        self.batch_size, self.unconditional = batch_size, unconditional
        self.sampler = _build_sampler(network, config)
        network.set_train(False)

    def __call__(
        self, conditions: Sequence[Condition] | None, seeds: Sequence[int]
    ) -> Iterator[np.ndarray]:
        """Yield one video (F, H, W, 3) uint8 per seed, in order, batch after batch.

        Args:
            conditions: one per seed; None for an unconditional network.
        Raises:
            ValueError: a condition does not fit the network, or conditions and seeds do not pair
                up; at the call.
        """
        self.check_conditions(conditions, len(seeds))
        check_seeds("seeds", seeds, len(seeds))
        return self._videos(conditions, seeds)

    def _videos(
        self, conditions: Sequence[Condition] | None, seeds: Sequence[int]
    ) -> Iterator[np.ndarray]:
        for start in range(0, len(seeds), self.batch_size):
            part = slice(start, start + self.batch_size)
            with runtime.device_lock:
                run = self.begin(None if conditions is None else conditions[part], seeds[part])
                for _ in denoise(run):
                    pass
                videos = self.decode(run.x, len(seeds[part]))
            yield from videos

    def begin(
        self,
        conditions: Sequence[Condition] | None,
        seeds: Sequence[int],
        noise: Tensor | None = None,
    ) -> SamplerRun:
        """The run of one batch of at most `batch_size` videos, for `diffusion.denoise`.

        Args:
            noise: (1, F, C, h, w), the x_T of all videos instead of that of their seeds.
        """
        cfg = self.network.config
        padded = [min(i, len(seeds) - 1) for i in range(self.batch_size)]
        rngs = generators([seeds[i] for i in padded], self.batch_size)
        if noise is None:
            shape = (cfg.num_frames, cfg.in_channels, cfg.input_size, cfg.input_size)
            x = standard_normal(rngs, shape)
        else:
            x = np.repeat(noise.asnumpy(), self.batch_size, 0)
        chosen = None if conditions is None else [conditions[i] for i in padded]
        inputs = self._denoiser_inputs(chosen, self.config.guided)
        if self.config.guided:
            inputs |= guidance_inputs(self.config)
        with runtime.device_lock:
            return self.sampler.begin(x, inputs, rngs if self.sampler.stochastic else None)

    def begin_inversion(self, frames: np.ndarray, condition: Condition = None) -> InversionRun:
        """The run from a video back to the noise from which DDIM would reach it, unguided.

        Args:
            frames: (F, 3, H, W) in [-1, 1].
            condition: the label or text embedding of the video.
        Raises:
            ValueError: the sampler is not deterministic DDIM.
        """
        if self.config.method != "ddim" or self.config.eta > 0:
            raise ValueError(
                "Inversion needs `sampler.method` ddim with `sampler.eta` 0, "
                f"got {self.config.method} with {self.config.eta}."
            )
        self.check_conditions(None if condition is None else [condition], 1)
        options = _process_options(self.network.config, self.config)
        inversion = DDIMInversion(self.network, self.config.schedule(), **options)
        inputs = self._denoiser_inputs(None if condition is None else [condition], guided=False)
        with runtime.device_lock:
            return inversion.begin(self.codec.encode(frames[None]), inputs)

    def decode(self, x: Tensor, count: int | None = None) -> list[np.ndarray]:
        """The first `count` videos of latents (B, F, C, h, w), (F, H, W, 3) uint8 each."""
        pixels = self.codec.decode(x.asnumpy()[:count])
        return list(to_uint8(to_unit(pixels.transpose(0, 1, 3, 4, 2))))

    def check_conditions(self, conditions: Sequence[Condition] | None, count: int) -> None:
        """Raise ValueError unless there are `count` conditions, as the network takes them."""
        cfg = self.network.config
        if (conditions is None) != (cfg.conditioning == "none"):
            raise ValueError(
                f"`conditions` must fit conditioning {cfg.conditioning!r}, got {conditions}."
            )
        if conditions is None:
            return
        if len(conditions) != count:
            raise ValueError(
                f"`conditions` ({len(conditions)}) and `seeds` ({count}) must pair up."
            )
        if cfg.conditioning == "class":
            labels = np.array(conditions)
            if labels.size and not (labels.min() >= 0 and labels.max() < cfg.num_classes):
                raise ValueError(
                    f"`conditions` must be labels in [0, {cfg.num_classes}), "
                    f"got {list(conditions)}."
                )
            return
        shape = (cfg.text_tokens, cfg.text_width)
        shapes = [np.asarray(one).shape for one in conditions]
        wrong = [actual for actual in shapes if actual != shape]
        if wrong:
            raise ValueError(f"`conditions` must have the shape {shape} each, got {wrong[0]}.")

    def _denoiser_inputs(
        self, conditions: Sequence[Condition] | None, guided: bool
    ) -> dict[str, np.ndarray]:
        """Conditions by the names of the network's arguments, null ones first under guidance."""
        cfg = self.network.config
        if conditions is None:
            return {}
        if cfg.conditioning == "class":
            name, rows = "y", np.array(conditions, np.int32)
            null: Any = np.full_like(rows, cfg.null_label)
        else:
            name, rows = "text_embedding", np.stack([np.float32(one) for one in conditions])
            null = None
            if self.unconditional is not None:
                null = np.broadcast_to(np.float32(self.unconditional), rows.shape)
        return {name: np.concatenate((null, rows)) if guided else rows}


def _process_options(network: LatteConfig, config: SamplerConfig) -> dict[str, Any]:
    return {
        "prediction": config.prediction,
        "variance": "learned_range" if network.learn_sigma else config.variance,
        "clip_denoised": config.clip_denoised,
    }


def _build_sampler(network: Latte, config: SamplerConfig) -> Sampler:
    denoiser = Guidance(network, network.config.in_channels) if config.guided else network
    options = _process_options(network.config, config)
    if config.method == "ddim":
        options["eta"] = config.eta
        return DDIM(denoiser, config.schedule(), **options)
    return SAMPLERS[config.method](denoiser, config.schedule(), **options)
