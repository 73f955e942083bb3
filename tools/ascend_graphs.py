"""The graphs that `tools/ascend_kernels.py` compiles, built from the project's own cells.

    python tools/ascend_graphs.py NAME LEVEL

compiles one graph for Ascend at a jit level. It is started by `tools/ascend_kernels.py`, in an
environment where MindSpore simulates the device.
"""

import sys
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms import runtime
from latte_ms.adapters.cells import add_lora
from latte_ms.adapters.configuration import LoraConfig
from latte_ms.diffusion.guidance import Guidance
from latte_ms.diffusion.loss import DiffusionLoss
from latte_ms.diffusion.samplers import DDIM, DDPM, DDIMInversion, Sampler
from latte_ms.diffusion.schedule import Schedule
from latte_ms.generation.denoising import GuidedTextDenoiser
from latte_ms.layers.token_layout import DividedTokenLayout
from latte_ms.metrics.c3d import C3D
from latte_ms.metrics.clip.configuration import CLIPConfig, TextConfig, VisionConfig
from latte_ms.metrics.clip.network import CLIP, ImageVectors, TextVectors
from latte_ms.metrics.i3d import I3D
from latte_ms.metrics.inception import Inception
from latte_ms.metrics.lpips import LPIPS
from latte_ms.parallel.group import Group
from latte_ms.runtime import Rank
from latte_ms.text import T5Config, T5Encoder
from latte_ms.text.t5 import T5Block
from latte_ms.training.alignment import Alignment
from latte_ms.training.autoencoder import AutoencoderObjective
from latte_ms.training.captioned import CaptionedDenoiser
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.step import TrainStep
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Decode, DecodeVideo, Encode, Moments, Sample
from latte_ms.vae.configuration import AutoencoderConfig, TemporalDecoderConfig
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from tools.ascend_primitives import Graph, Inputs, all_kernels, integers, normal

BATCH, FRAMES, SIDE = 2, 4, 8
OPTIMIZER = OptimizerConfig(weight_decay=0.01)
ALONE, OF_EIGHT = Group(Rank()), Group(Rank(0, 8))
# Null labels and labels, and the guidance scale.
CONDITIONS = {"y": integers(10, 10, 1, 2), "guidance_scale": Tensor(4.0, ms.float32)}


def latte(dtype: ms.Type = ms.float32, group: Group = ALONE, **changes: object) -> Latte:
    """A small Latte with heads of 72 channels, as Latte-XL's."""
    fields = {"hidden_size": 144, "num_heads": 2, "depth": 4, "conditioning": "class"}
    sizes = {"input_size": SIDE, "num_frames": FRAMES, "num_classes": 10}
    config = LatteConfig(**(fields | sizes | changes))  # type: ignore[arg-type]
    return Latte(config, dtype, None, DividedTokenLayout(group) if group.size > 1 else None)


def forward(dtype: ms.Type) -> Graph:
    inputs = (normal(BATCH, FRAMES, 4, SIDE, SIDE), integers(5, 6), integers(1, 2))
    return latte(dtype), inputs


def text(dtype: ms.Type) -> Graph:
    network = latte(dtype, conditioning="text")
    prompts = normal(BATCH, network.config.text_tokens, network.config.text_width)
    return network, (normal(BATCH, FRAMES, 4, SIDE, SIDE), integers(5, 6), None, prompts)


class TextContext(nn.Cell):
    """Keys and values of a prompt, as a pipeline makes them once."""

    def __init__(self, network: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.text_context(embeddings)


def t2v(dtype: ms.Type, group: Group = ALONE, **changes: int) -> LatteT2V:
    """A small text-to-video network with heads of 72 channels, as Latte-1's.

    Its weights are kept in the compute dtype, as `weights.pretrained.load_transformer` does.
    """
    fields = {"num_attention_heads": 2, "num_layers": 2, "cross_attention_dim": 144}
    sizes = {"sample_size": SIDE, "video_length": FRAMES, "caption_channels": 64}
    config = LatteT2VConfig(**(fields | sizes | changes))  # type: ignore[arg-type]
    layout = DividedTokenLayout(group) if group.size > 1 else None
    network = LatteT2V(config, dtype, None, token_layout=layout)
    for parameter in network.get_parameters():
        parameter.set_dtype(dtype)
    return network


def embeddings(network: LatteT2V) -> Tensor:
    return normal(BATCH, 120, network.config.caption_channels)


def text_to_video(dtype: ms.Type, masked: bool = False, images: int = 0) -> Graph:
    network = t2v(dtype, num_joint_images=images)
    x = normal(BATCH, 4, FRAMES + images, SIDE, SIDE)
    mask = normal(BATCH, 120) if masked else None
    return network, (x, integers(5, 6), embeddings(network), mask)


def text_context(dtype: ms.Type) -> Graph:
    network = t2v(dtype)
    return TextContext(network), (embeddings(network),)


def guided_step(dtype: ms.Type, variance: bool = False) -> Graph:
    """One step of the text-to-video pipelines, with guidance and the mask of the prompts."""
    network, rows = t2v(dtype, num_layers=4), 2 * BATCH
    step = GuidedTextDenoiser(network, keep_variance=variance, temporal=True)
    keys = normal(network.config.num_layers, rows, 120, network.config.hidden_size, dtype=dtype)
    mask = Tensor(np.ones((rows, 120)), ms.int32)
    context = {"keys": keys, "values": keys, "mask": mask}
    inputs = (normal(BATCH, FRAMES, 4, SIDE, SIDE), normal(1))
    return step, inputs, {"guidance_scale": Tensor(7.5, ms.float32), **context}


def t5(dtype: ms.Type) -> T5Encoder:
    """A small text encoder with heads of 64 channels, as T5 v1.1's."""
    config = T5Config(vocab_size=100, d_model=128, d_ff=256, num_layers=2, num_heads=2)
    return T5Encoder(config, dtype, seed=None)


def prompts(dtype: ms.Type, storage: ms.Type | None = None) -> Graph:
    network, ids = t5(dtype), Tensor(np.ones((BATCH, 120)), ms.int32)
    for parameter in network.get_parameters() if storage is not None else ():
        parameter.set_dtype(storage)
    return network, (ids, ids)


def text_block(dtype: ms.Type) -> Graph:
    """The graph that a streamed encoder fills with the weights of each block in turn."""
    config = t5(dtype).config
    return T5Block(config, dtype), (normal(1, 120, 128), normal(1, 2, 120, 120))


def train_step(denoiser: nn.Cell, **options: bool | int | Rank | Group | None) -> TrainStep:
    objective = DenoisingObjective(DiffusionLoss(denoiser, Schedule.create()))
    return TrainStep(objective, OPTIMIZER, **options).set_train()  # type: ignore[arg-type]


def batch_of(images: int = 0, ranks: int = 1) -> tuple[Inputs, dict[str, Tensor]]:
    """Inputs of the objective and conditions of the denoiser; `ranks` divide a clip."""
    x0 = normal(BATCH, FRAMES // ranks + images, 4, SIDE, SIDE)
    conditions = {"y": integers(1, 2)}
    if images:
        conditions["y_image"] = Tensor(np.ones((BATCH, images)), ms.int32)
    return (x0, x0, integers(5, 6)), conditions


def training(
    dtype: ms.Type,
    images: int = 0,
    group: Group = ALONE,
    shard: bool = False,
    **choices: object,
) -> Graph:
    network, rank = latte(dtype, group, num_joint_images=images, **choices), group.rank
    options = {"scale_loss": dtype == ms.float16, "distributed": rank.count > 1}
    step = train_step(network, **options, shard_over=rank if shard else None, clip_group=group)
    inputs, conditions = batch_of(images, group.size)
    return step, (step_factors(OPTIMIZER, 0).tensor(), *inputs), conditions


def captions_of(network: LatteT2V, images: int = 0) -> dict[str, Tensor]:
    """The conditions of a batch, whose joint images have captions of their own."""
    shape = (BATCH, 1 + images, 120) if images else (BATCH, 120)
    return {
        "encoder_hidden_states": normal(*shape, network.config.caption_channels),
        "encoder_attention_mask": Tensor(np.ones(shape), ms.int32),
    }


def lora_training(network: Latte | LatteT2V, dtype: ms.Type) -> Graph:
    """The frozen weights of `LatteT2V` are in `dtype`, the matrices and their update in float32."""
    add_lora(network, LoraConfig(8, 4, ["attention", "mlp"]))
    inputs, conditions = batch_of()
    denoiser: nn.Cell = network
    if isinstance(network, LatteT2V):
        denoiser, conditions = CaptionedDenoiser(network), captions_of(network)
    step = train_step(denoiser, scale_loss=dtype == ms.float16)
    return step, (step_factors(OPTIMIZER, 0).tensor(), *inputs), conditions


def text_training(dtype: ms.Type, images: int = 0, group: Group = ALONE) -> Graph:
    """`TrainStep` of `LatteT2V` with weights in float32, on masked captions; see `training`."""
    network = t2v(dtype, group, num_joint_images=images, num_layers=1)
    for parameter in network.get_parameters():
        parameter.set_dtype(ms.float32)
    options = {"scale_loss": dtype == ms.float16, "distributed": group.rank.count > 1}
    step = train_step(CaptionedDenoiser(network), **options, clip_group=group)
    x0 = normal(BATCH, FRAMES // group.size + images, 4, SIDE, SIDE)
    inputs = (step_factors(OPTIMIZER, 0).tensor(), x0, x0, integers(5, 6))
    return step, inputs, captions_of(network, images)


def training_options() -> Graph:
    """Min-SNR, a contrast between classes, alignment, importance, and a second average."""
    network = latte(learn_sigma=True, depth=2)
    teacher = latte(learn_sigma=True, depth=2)
    alignment = Alignment(teacher, network.config.hidden_size, 1, 2, 0.04)
    loss = DiffusionLoss(network, Schedule.create(), min_snr_gamma=5.0, contrastive_weight=0.05)
    optimizer = OptimizerConfig(ema_sigma_rels=(0.05,), ema_snapshot_every=1)
    step = TrainStep(
        DenoisingObjective(loss, alignment, per_sample=True),
        optimizer,
        teacher=alignment.teacher_parameters,
    )
    inputs, conditions = batch_of()
    conditions |= {"importance": normal(BATCH), "teacher_t": integers(3, 4)}
    return step.set_train(), (step_factors(optimizer, 0).tensor(), *inputs), conditions


def adding_gradients() -> Graph:
    inputs, conditions = batch_of()
    return train_step(latte(), accumulate=2).add, (Tensor(True), *inputs), conditions


def updating_from_sums() -> Graph:
    step = train_step(latte(), accumulate=2)
    return step.update_from_sums, (step_factors(OPTIMIZER, 0).tensor(),)


def clip_graph(images: bool) -> Graph:
    """A tower of a small CLIP with heads of 64 channels."""
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = TextConfig(vocab_size=100, **sizes)  # type: ignore[arg-type]
    clip = CLIP(CLIPConfig(text, VisionConfig(**sizes), 64))  # type: ignore[arg-type]
    if images:
        return ImageVectors(clip), (normal(BATCH, 3, 224, 224),)
    ids = Tensor(np.ones((1, clip.config.text.max_position_embeddings)), ms.int32)
    return TextVectors(clip), (ids, normal(*ids.shape))


def small_autoencoder(dtype: ms.Type) -> AutoencoderKL:
    return AutoencoderKL(AutoencoderConfig(block_out_channels=(32, 64), norm_num_groups=8), dtype)


def encoding(dtype: ms.Type) -> Graph:
    return Encode(small_autoencoder(dtype)), (normal(BATCH, 3, 32, 32), normal(BATCH, 4, 16, 16))


def decoding(dtype: ms.Type) -> Graph:
    return Decode(small_autoencoder(dtype)), (normal(BATCH, 4, 16, 16),)


def decoding_video(dtype: ms.Type) -> Graph:
    config = TemporalDecoderConfig(block_out_channels=(32, 64))
    return DecodeVideo(AutoencoderKLTemporalDecoder(config, dtype)), (normal(FRAMES, 4, 16, 16),)


def encoding_tile() -> Graph:
    return Moments(small_autoencoder(ms.float32)), (normal(BATCH, 3, 32, 32),)


def drawing() -> Graph:
    moments, noise = normal(BATCH, 8, 16, 16), normal(BATCH, 4, 16, 16)
    return Sample(small_autoencoder(ms.float32)), (moments, noise)


def autoencoder_training() -> Graph:
    objective = AutoencoderObjective(small_autoencoder(ms.float32))
    batch = (normal(BATCH, 3, 32, 32), normal(BATCH, 4, 16, 16))
    step = TrainStep(objective, OPTIMIZER).set_train()
    return step, (step_factors(OPTIMIZER, 0).tensor(), *batch)


def guided() -> nn.Cell:
    return Guidance(latte(), 4)


def sampling(step: Sampler) -> Graph:
    """One step; index 5 of the schedule, with noise for three steps where the sampler adds any."""
    x = normal(BATCH, FRAMES, 4, SIDE, SIDE)
    chunk = normal(3, *x.shape) if step.stochastic else None
    top = integers(5) if step.stochastic else None
    return step, (x, integers(5), chunk, top), CONDITIONS


def inverting() -> Graph:
    x = normal(BATCH, FRAMES, 4, SIDE, SIDE)
    return DDIMInversion(guided(), Schedule.create()), (x, integers(5)), CONDITIONS


GRAPHS: dict[str, Callable[[], Graph]] = {
    "kernels": all_kernels,
    "latte": lambda: forward(ms.float32),
    "latte16": lambda: forward(ms.float16),
    "latte-bf16": lambda: forward(ms.bfloat16),
    "text": lambda: text(ms.float16),
    "t2v": lambda: text_to_video(ms.float32),
    "t2v-masked": lambda: text_to_video(ms.float32, masked=True, images=2),
    "t2v16": lambda: text_to_video(ms.float16),
    "t2v16-context": lambda: text_context(ms.float16),
    "t2v-step": lambda: guided_step(ms.float32),
    "t2v16-step": lambda: guided_step(ms.float16),
    "t2v-bf16-step": lambda: guided_step(ms.bfloat16),
    "t2v-step-variance": lambda: guided_step(ms.float32, variance=True),
    "t5": lambda: prompts(ms.float32),
    "t5-16": lambda: prompts(ms.float16),
    "t5-stored16": lambda: prompts(ms.float32, storage=ms.float16),
    "t5-16-block": lambda: text_block(ms.float16),
    "train": lambda: training(ms.float32),
    "train16": lambda: training(ms.float16),
    "train-first-spatial": lambda: training(ms.bfloat16, variant=2, positions="rotary"),
    "train-sequential": lambda: training(ms.bfloat16, images=2, variant=3),
    "train-divided-heads": lambda: training(
        ms.bfloat16, images=2, variant=4, injection="tokens", positions="rotary"
    ),
    "train-tubelets": lambda: training(
        ms.bfloat16,
        variant=3,
        patch_embedding="compression",
        temporal_patch_size=2,
        injection="tokens",
        positions="rotary_temporal",
    ),
    "train-images": lambda: training(ms.bfloat16, images=2),
    "train-parallel": lambda: training(ms.float32, group=OF_EIGHT),
    "train-sharded-parallel": lambda: training(ms.float32, group=OF_EIGHT, shard=True),
    "train-sequence-parallel": lambda: training(ms.float32, group=Group(OF_EIGHT.rank, 4)),
    "train-lora16": lambda: lora_training(latte(ms.float16), ms.float16),
    "train-lora-t2v": lambda: lora_training(t2v(ms.bfloat16), ms.bfloat16),
    "train-t2v-images": lambda: text_training(ms.bfloat16, images=2),
    "train-t2v-sequence-parallel": lambda: text_training(
        ms.bfloat16, group=Group(OF_EIGHT.rank, 4)
    ),
    "train-options": training_options,
    "train-adding": adding_gradients,
    "train-sums": updating_from_sums,
    "encode": lambda: encoding(ms.float32),
    "encode16": lambda: encoding(ms.float16),
    "decode": lambda: decoding(ms.float32),
    "decode16": lambda: decoding(ms.float16),
    "decode-temporal": lambda: decoding_video(ms.float32),
    "decode-temporal16": lambda: decoding_video(ms.float16),
    "encode-tile": encoding_tile,
    "draw": drawing,
    "train-autoencoder": autoencoder_training,
    "ddpm": lambda: sampling(DDPM(guided(), Schedule.create())),
    "ddim": lambda: sampling(DDIM(guided(), Schedule.create())),
    "ddim-noisy": lambda: sampling(DDIM(guided(), Schedule.create(), eta=0.5)),
    "inversion": inverting,
    "clip-images": lambda: clip_graph(images=True),
    "clip-texts": lambda: clip_graph(images=False),
    "i3d": lambda: (I3D(), (normal(1, 9, 3, 224, 224),)),
    "c3d": lambda: (C3D(8, 64), (normal(1, 16, 3, 112, 112),)),
    "inception": lambda: (Inception(), (normal(1, 3, 299, 299),)),
    "lpips": lambda: (LPIPS("vgg16"), (normal(2, 3, 64, 64), normal(2, 3, 64, 64))),
}


def study(variant: str, patches: str, injection: str, positions: str) -> Graph:
    """A training step of one combination of the paper's design choices."""
    return training(
        ms.bfloat16,
        variant=int(variant),
        patch_embedding=patches,
        temporal_patch_size=2 if patches == "compression" else 1,
        injection=injection,
        positions=positions,
    )


def graph(name: str) -> Graph:
    """A graph by its name; those of the study are named by their choices."""
    kind, *choices = name.split("-")
    return study(*choices) if kind == "study" else GRAPHS[name]()


def main(name: str, level: str) -> None:
    runtime.setup(
        runtime.RuntimeConfig(
            device="Ascend", jit_level=level, distributed=name.endswith("-parallel")
        )
    )
    cell, inputs, *conditions = graph(name)
    cell(*inputs, **dict(*conditions))
    ms.runtime.synchronize()
    print("COMPILED AND STEPPED THROUGH", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
