"""What a recipe asks for, built: the parts in which the trainings of the networks differ."""

from pathlib import Path
from typing import TypeAlias

from mindspore import nn

from latte_ms import runtime, weights
from latte_ms.adapters.cells import add_lora
from latte_ms.cache.captions import CachedCaptions
from latte_ms.cache.reading import CachedClips
from latte_ms.data.captions import CaptionEmbeddings, Captions
from latte_ms.data.datasets import VideoDataset
from latte_ms.data.text_embeddings import TextEmbeddings
from latte_ms.layers.token_layout import DividedTokenLayout
from latte_ms.parallel.group import Group
from latte_ms.terminal import say
from latte_ms.text import PromptEncoder, load_tokenizer
from latte_ms.training.alignment import Alignment
from latte_ms.training.caption_encoder import EncodedCaptions
from latte_ms.training.captioned import CaptionedDenoiser
from latte_ms.training.conditions import CaptionConditions, ConditionSource, latte_conditions
from latte_ms.training.latents import check_latent_shape, latent_side
from latte_ms.training.recipe import LatteTrainConfig, T2VTrainConfig, TrainConfig
from latte_ms.training.recompute import num_recomputed, recompute_first
from latte_ms.training.sequence_recipe import check_tokens
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.vae.codec import Codec
from latte_ms.weights.errors import MisfitError
from latte_ms.weights.pretrained import load_text_encoder, recorded_sizes
from latte_ms.weights.starting_points import load_partly

Denoiser: TypeAlias = Latte | LatteT2V


def build_network(cfg: TrainConfig, report: bool = True, group: Group | None = None) -> Denoiser:
    """The network with initial weights and LoRA matrices.

    Args:
        report: say what was loaded in part.
        group: the ranks that divide each clip, if any.
    """
    dtype = runtime.compute_dtype(cfg.runtime.precision)
    layout = DividedTokenLayout(group) if group is not None and group.size > 1 else None
    network: Denoiser
    if isinstance(cfg, T2VTrainConfig):
        network = LatteT2V(cfg.network, dtype, cfg.loop.seed, token_layout=layout)
        pairs = zip(network.transformer_blocks, network.temporal_transformer_blocks, strict=True)
        blocks = [block for pair in pairs for block in pair]
    else:
        assert isinstance(cfg, LatteTrainConfig)
        network = Latte(cfg.network, dtype, cfg.loop.seed, layout)
        blocks = list(network.blocks)
    load_initial_weights(network, cfg, report)
    if cfg.lora.rank:
        add_lora(network, cfg.lora, cfg.loop.seed)
    recompute_first(blocks, num_recomputed(cfg.recompute, cfg.depth) * len(blocks) // cfg.depth)
    return network


def build_preview_network(cfg: LatteTrainConfig) -> Latte:
    """A network with the parameters of `build_network`, but without its values."""
    network = Latte(cfg.network, runtime.compute_dtype(cfg.runtime.precision), seed=None)
    if cfg.lora.rank:
        add_lora(network, cfg.lora, cfg.loop.seed)
    return network


def check_initial_weights(cfg: TrainConfig) -> None:
    """Raise FileNotFoundError where the recipe names initial weights that do not exist."""
    if cfg.initial_weights and not Path(cfg.initial_weights).exists():
        raise FileNotFoundError(
            f"`initial_weights` is not a file or folder: {cfg.initial_weights}."
        )


def load_initial_weights(network: Denoiser, cfg: TrainConfig, report: bool) -> None:
    """Fill the network from `initial_weights`, if there are any: whole, or as far as they fit."""
    path, entry, prefix = cfg.initial_weights, cfg.initial_entry, cfg.initial_prefix
    if path and cfg.initial_partial:
        done = load_partly(network, path, entry, prefix, cfg.initial_only_network)
        if report:
            lines = [*done.report(), *position_size_changes(cfg)]
            say("\n".join([f"Starting from {path}:", *(f"  {line}" for line in lines)]))
    elif path:
        try:
            weights.load(network, path, entry, prefix=prefix, only_network=cfg.initial_only_network)
        except MisfitError as error:
            if cfg.lora.rank:
                raise  # LoRA needs weights that fit as a whole
            raise MisfitError(f"{error}\n`initial_partial` true takes what fits.") from error


def position_size_changes(cfg: TrainConfig) -> list[str]:
    """A line per size of positions that differs from that recorded with the initial weights.

    `LatteT2V` computes its positions, and has no tables to load.
    """
    if not isinstance(cfg, T2VTrainConfig):
        return []
    recorded, lines = recorded_sizes(cfg.initial_weights), []
    for name in ("sample_size", "video_length"):
        ours, theirs = getattr(cfg.network, name), recorded.get(name)
        if theirs not in (None, ours):
            lines.append(f"recomputed: positions: `{name}` {ours} instead of {theirs}")
    return lines


def denoiser_of(network: Denoiser, cfg: TrainConfig) -> nn.Cell:
    """The network as the denoiser (x, t, **conditions) of a loss."""
    if isinstance(cfg, T2VTrainConfig):
        assert isinstance(network, LatteT2V)
        return CaptionedDenoiser(network, cfg.enable_temporal_attentions)
    return network


def clip_shape(cfg: TrainConfig, codec: Codec) -> tuple[int, int, int, int]:
    """(F, C, h, w) of the latents of a clip, joint images included.

    Raises ValueError unless the network takes latents of the autoencoder of that size.
    """
    if isinstance(cfg, LatteTrainConfig):
        check_latent_shape(cfg.network, cfg.data.image_size, codec)
        return cfg.network.clip_shape
    assert isinstance(cfg, T2VTrainConfig)
    side = latent_side(cfg.data.image_size, cfg.network.patch_size, cfg.network.in_channels, codec)
    check_tokens(cfg.sequence_parallel, side, side, cfg.network.patch_size)
    return cfg.data.num_frames + cfg.data.num_joint_images, cfg.network.in_channels, side, side


def cached_clip_shape(cfg: TrainConfig, clips: CachedClips) -> tuple[int, int, int, int]:
    """(F, C, h, w) of the clips of a latent cache, joint images included.

    Raises ValueError unless the network takes them.
    """
    shape = clips.item_shape
    if isinstance(cfg, LatteTrainConfig):
        fits, rule = shape == cfg.network.clip_shape, f"{cfg.network.clip_shape}"
    else:
        assert isinstance(cfg, T2VTrainConfig)
        channels, patch = cfg.network.in_channels, cfg.network.patch_size
        fits = shape[1] == channels and not (shape[2] % patch or shape[3] % patch)
        rule = f"{channels} channels in whole patches of {patch}"
    if not fits:
        raise ValueError(
            f"The clips of `latent_cache.path` (={cfg.latent_cache.path}) are {shape} (frames, "
            f"channels, height, width) with the joint images; `network` takes {rule}."
        )
    check_tokens(cfg.sequence_parallel, shape[2], shape[3], cfg.network.patch_size)
    return shape


def conditions_of(
    cfg: TrainConfig, dataset: VideoDataset | CachedClips, hide_progress: bool = False
) -> ConditionSource:
    """What the network is conditioned on in a batch.

    Raises ValueError or OSError where that does not fit the data or the network.
    """
    if isinstance(cfg, LatteTrainConfig):
        embeddings = None
        if cfg.network.conditioning == "text":
            shape = (cfg.network.text_tokens, cfg.network.text_width)
            embeddings = TextEmbeddings(cfg.data.text_embeddings, shape)
        return latte_conditions(cfg.network, dataset.names, dataset.num_classes, embeddings)
    assert isinstance(cfg, T2VTrainConfig)
    captions = dataset.captions
    assert captions is not None, "the recipe names a file of captions"
    return CaptionConditions(captions, caption_embeddings(cfg, captions, hide_progress))


def caption_embeddings(
    cfg: T2VTrainConfig, captions: Captions, hide_progress: bool
) -> CaptionEmbeddings:
    """Those of a cache, or of the text encoder while training runs."""
    if cfg.caption_cache.path:
        channels, names = cfg.network.caption_channels, ("text_precision", "clean_captions")
        settings = {name: getattr(cfg, name) for name in names}
        return CachedCaptions(captions.texts, cfg.caption_cache, channels, settings, hide_progress)
    encoder, clean = caption_encoder(cfg), cfg.clean_captions
    return EncodedCaptions(captions.texts, encoder, clean, cfg.caption_memory_gb)


def caption_encoder(cfg: T2VTrainConfig) -> PromptEncoder:
    """The frozen text encoder with its tokenizer.

    Raises ValueError unless its embeddings have the width that the network takes.
    """
    tokenizer = load_tokenizer(cfg.tokenizer)
    dtype = runtime.compute_dtype(cfg.text_precision)
    network = load_text_encoder(cfg.text_encoder, dtype, streamed=cfg.streamed_text_encoder)
    width = network.config.d_model
    if width != cfg.network.caption_channels:
        raise ValueError(
            f"`network.caption_channels` (={cfg.network.caption_channels}) must be the `d_model` "
            f"of `text_encoder` (={width})."
        )
    return PromptEncoder(tokenizer, network)


def build_alignment(cfg: TrainConfig) -> Alignment | None:
    """Self-representation alignment with a teacher of its own, where the recipe asks for it."""
    if not cfg.diffusion.alignment_weight:
        return None
    assert isinstance(cfg, LatteTrainConfig)
    dtype = runtime.compute_dtype(cfg.runtime.precision)
    return Alignment(
        Latte(cfg.network, dtype, None),
        cfg.network.hidden_size,
        cfg.diffusion.alignment_student_blocks,
        cfg.diffusion.alignment_teacher_blocks,
        cfg.diffusion.alignment_weight,
        dtype,
        cfg.loop.seed,
    )
