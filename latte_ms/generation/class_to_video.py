"""Videos of classes, or of nothing but a seed, from a trained Latte.

Shapes: B videos, F frames, C latent channels, h w latents, H W pixels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from latte_ms.diffusion.guidance import ClassifierFreeGuidance
from latte_ms.diffusion.noise import initial_noise
from latte_ms.diffusion.process import Prediction, Variance
from latte_ms.diffusion.samplers import DDIM, SAMPLERS, Sampler, SamplerStep
from latte_ms.diffusion.schedule import Schedule
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.vae.codec import Codec, to_uint8


@dataclass(frozen=True)
class SamplerConfig:
    """How noise becomes a video."""

    method: str = "ddpm"  # or ddim
    num_steps: int | str = 250  # or a respacing such as "10,15,20" or "ddim50"
    eta: float = 0.0  # of ddim: 0 is deterministic, 1 as noisy as ddpm
    guidance: float = 1.0  # classifier-free guidance; 1 is none
    num_train_steps: int = 1000
    noise_schedule: str = "linear"
    prediction: str = "epsilon"
    variance: Variance = "fixed_small"  # or fixed_large; of ddpm, where it is not learned
    clip_denoised: bool = False  # estimates of the clean latents to [-1, 1]

    def __post_init__(self) -> None:
        if self.method not in SAMPLERS:
            raise ValueError(
                f"`sampler.method` must be one of {list(SAMPLERS)}, got {self.method!r}."
            )
        if isinstance(self.num_steps, int) and not 1 <= self.num_steps <= self.num_train_steps:
            raise ValueError(
                f"`sampler.num_steps` must be from 1 to `sampler.num_train_steps` "
                f"(={self.num_train_steps}), got {self.num_steps}."
            )
        if self.prediction not in get_args(Prediction):
            raise ValueError(
                f"`sampler.prediction` must be one of {list(get_args(Prediction))}, "
                f"got {self.prediction!r}."
            )
        if not 1.0 <= self.guidance < math.inf:
            raise ValueError(
                f"`sampler.guidance` must be at least 1, and finite, got {self.guidance}."
            )
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"`sampler.eta` must be from 0 to 1, got {self.eta}.")
        if self.eta > 0 and self.method != "ddim":
            raise ValueError(f"`sampler.eta` (={self.eta}) belongs to method ddim.")
        if self.variance not in ("fixed_small", "fixed_large"):
            raise ValueError(
                "`sampler.variance` must be fixed_small or fixed_large "
                f"(`network.learn_sigma` learns it), got {self.variance!r}."
            )
        if self.variance == "fixed_large" and self.method != "ddpm":
            raise ValueError("`sampler.variance` fixed_large belongs to method ddpm.")
        try:
            self.schedule()
        except ValueError as error:
            raise ValueError(str(error).replace("`respacing`", "`sampler.num_steps`")) from error

    def schedule(self) -> Schedule:
        """The respaced chain."""
        return Schedule.create(self.num_train_steps, self.noise_schedule, self.num_steps)

    def check_network(self, network: LatteConfig) -> None:
        """Raise ValueError where a network of this kind cannot be sampled so."""
        if network.conditioning == "text":
            raise ValueError("`network` must be conditioned on classes or nothing, not on text.")
        if self.guidance > 1.0 and (
            network.conditioning != "class" or network.class_dropout_prob == 0
        ):
            raise ValueError(
                f"`sampler.guidance` (={self.guidance}) needs a class-conditional network that "
                "was trained with label dropout."
            )
        if self.variance == "fixed_large" and network.learn_sigma:
            raise ValueError(
                "`sampler.variance` fixed_large needs `network.learn_sigma` false, got true."
            )


class ClassToVideo:
    """Samples videos in batches of one shape, compiled once.

    A video depends on its label and seed alone, not on the batch it is in.

    Args:
        network: conditioning "class" or "none".
        codec: of the autoencoder the network was trained with.
        batch_size: videos denoised together; an incomplete batch is filled up and cut.
    Raises:
        ValueError: the network cannot be sampled so, or has other latents than the autoencoder.
    """

    def __init__(
        self, network: Latte, codec: Codec, config: SamplerConfig, batch_size: int = 1
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
        self.guided = config.guidance > 1.0
        self.network, self.codec = network, codec
        self.guidance, self.batch_size = np.array(config.guidance, np.float32), batch_size
        self.sampler = _build(network, config, self.guided)
        network.set_train(False)

    def __call__(
        self,
        labels: Sequence[int] | None,
        seeds: Sequence[int],
        watch: Callable[[SamplerStep], None] | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield one video (F, H, W, 3) uint8 per seed, in order, batch after batch.

        Args:
            labels: one per seed; None for an unconditional network.
            watch: called after every denoising step.
        Raises:
            ValueError: a label is out of range, or labels and seeds do not pair up; at the call.
        """
        cfg = self.network.config
        if (labels is None) != (cfg.conditioning == "none"):
            raise ValueError(f"`labels` must fit conditioning {cfg.conditioning!r}, got {labels}.")
        if labels is not None:
            if len(labels) != len(seeds):
                raise ValueError(
                    f"`labels` ({len(labels)}) and `seeds` ({len(seeds)}) must pair up."
                )
            if any(not 0 <= label < cfg.num_classes for label in labels):
                raise ValueError(f"`labels` must be in [0, {cfg.num_classes}), got {list(labels)}.")
        return self._videos(labels, seeds, watch)

    def latents(
        self,
        labels: Sequence[int] | None,
        seeds: Sequence[int],
        watch: Callable[[SamplerStep], None] | None = None,
    ) -> np.ndarray:
        """Denoised latents (B, F, C, h, w) of one full batch."""
        cfg = self.network.config
        shape = (cfg.num_frames, cfg.in_channels, cfg.input_size, cfg.input_size)
        conditions = self._conditions(labels)
        noise_seeds = seeds if self.sampler.stochastic else None
        step = None
        for step in self.sampler.sample(
            initial_noise(seeds, shape), *conditions, seeds=noise_seeds
        ):
            if watch is not None:
                watch(step)
        assert step is not None
        return step.x.asnumpy()

    def _videos(
        self,
        labels: Sequence[int] | None,
        seeds: Sequence[int],
        watch: Callable[[SamplerStep], None] | None,
    ) -> Iterator[np.ndarray]:
        size = self.batch_size
        for start in range(0, len(seeds), size):
            count = min(size, len(seeds) - start)
            picked = [start + min(i, count - 1) for i in range(size)]  # the last one fills up
            chosen = None if labels is None else [labels[i] for i in picked]
            latents = self.latents(chosen, [seeds[i] for i in picked], watch)[:count]
            yield from to_uint8(self.codec.decode(latents))

    def _conditions(self, labels: Sequence[int] | None) -> tuple[np.ndarray, ...]:
        if labels is None:
            return ()
        y = np.array(labels, np.int32)
        if not self.guided:
            return (y,)
        return y, np.full_like(y, self.network.config.null_label), self.guidance


def _build(network: Latte, config: SamplerConfig, guided: bool) -> Sampler:
    cfg = network.config
    denoiser = ClassifierFreeGuidance(network, cfg.in_channels) if guided else network
    options: dict[str, Any] = {
        "prediction": config.prediction,
        "variance": "learned_range" if cfg.learn_sigma else config.variance,
        "clip_denoised": config.clip_denoised,
    }
    if config.method == "ddim":
        return DDIM(denoiser, config.schedule(), eta=config.eta, **options)
    return SAMPLERS[config.method](denoiser, config.schedule(), **options)
