"""Which tensor on disk is which parameter in memory: one table per network.

A row pairs the network's names with the reference's; names without a row are the same on both
sides. Placeholders in braces stand for one part of a name: `{n}` for a number, others for any.
A row with several memory names says that the reference stores them as one tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from latte_ms.weights.entries import UNNAMED


@dataclass(frozen=True)
class Row:
    """One rule. `transform` is a name of `transforms.TRANSFORMS`."""

    memory: str | tuple[str, ...]
    disk: str
    transform: str = "same"
    aliases: tuple[str, ...] = ()  # other spellings on disk, accepted when loading

    @property
    def memory_names(self) -> tuple[str, ...]:
        return (self.memory,) if isinstance(self.memory, str) else self.memory


@dataclass(frozen=True)
class NetworkMap:
    """The table of one network class.

    Attributes:
        rows: rules for the names that differ.
        parts: what the names begin with on either side, up to the first dot.
        identified_by: disk and memory names that identify the network of a file without a config.
        excluded_by: disk and memory names that exclude it.
        entry: the usual entry of this network's files.
        sizes: fields of the network's config that a transform needs, with the value to take where
            there is only a file.
        other_parts: what other names begin with in a model that the network is published as a part
            of; they are left out.
        constants: names of buffers that older files hold beside the weights; they are left out.
    """

    rows: tuple[Row, ...]
    parts: tuple[str, ...]
    identified_by: tuple[str, ...]
    excluded_by: tuple[str, ...] = ()
    entry: str = UNNAMED
    sizes: Mapping[str, int] = field(default_factory=dict)
    other_parts: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()


LATTE = NetworkMap(
    rows=(
        Row("x_embedder.proj.weight", "x_embedder.proj.weight", "patches"),
        Row("t_embedder.linear_1.{leaf}", "t_embedder.mlp.0.{leaf}"),
        Row("t_embedder.linear_2.{leaf}", "t_embedder.mlp.2.{leaf}"),
        Row("y_embedder.weight", "y_embedder.embedding_table.weight"),
        Row("text_projection.{leaf}", "text_embedding_projection.1.{leaf}"),
        Row(
            (
                "blocks.{n}.attention.query.{leaf}",
                "blocks.{n}.attention.key.{leaf}",
                "blocks.{n}.attention.value.{leaf}",
            ),
            "blocks.{n}.attn.qkv.{leaf}",
            "stacked rows",
        ),
        Row("blocks.{n}.attention.output.{leaf}", "blocks.{n}.attn.proj.{leaf}"),
        # Of sequential blocks (variant 3).
        Row(
            (
                "blocks.{n}.temporal_attention.query.{leaf}",
                "blocks.{n}.temporal_attention.key.{leaf}",
                "blocks.{n}.temporal_attention.value.{leaf}",
            ),
            "blocks.{n}.temporal_attn.qkv.{leaf}",
            "stacked rows",
        ),
        Row("blocks.{n}.temporal_attention.output.{leaf}", "blocks.{n}.temporal_attn.proj.{leaf}"),
        Row("blocks.{n}.modulation.linear.{leaf}", "blocks.{n}.adaLN_modulation.1.{leaf}"),
        Row("final_layer.modulation.linear.{leaf}", "final_layer.adaLN_modulation.1.{leaf}"),
    ),
    parts=(
        *("x_embedder", "t_embedder", "y_embedder", "text_projection", "text_embedding_projection"),
        *("pos_embed", "temp_embed", "blocks", "final_layer", "temporal_upsampling"),
    ),
    identified_by=("temp_embed", "x_embedder.proj.weight", "final_layer.linear.weight"),
    entry="ema",  # the one that the reference's samplers load
    sizes={"in_channels": 4},
)

_VAE_ATTENTION = "{side}.mid_block.attentions.{n}"
_VAE_ROWS = tuple(
    Row(
        f"{_VAE_ATTENTION}.{memory}.{{leaf}}",
        f"{_VAE_ATTENTION}.{disk}.{{leaf}}",
        "pointwise",
        (f"{_VAE_ATTENTION}.{alias}.{{leaf}}",),
    )
    for memory, disk, alias in (
        ("query", "to_q", "query"),
        ("key", "to_k", "key"),
        ("value", "to_v", "value"),
        ("output", "to_out.0", "proj_attn"),
    )
)
_VAE_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
AUTOENCODER_KL = NetworkMap(
    rows=_VAE_ROWS,
    parts=_VAE_PARTS,
    identified_by=("encoder.conv_in.weight", "decoder.conv_in.weight"),
    excluded_by=("decoder.time_conv_out.weight",),
)
AUTOENCODER_KL_TEMPORAL_DECODER = NetworkMap(
    rows=_VAE_ROWS,
    parts=_VAE_PARTS,
    identified_by=(
        "encoder.conv_in.weight",
        "decoder.time_conv_out.weight",
        "decoder.mid_block.resnets.0.time_mixer.mix_factor",
    ),
)

_T2V_BLOCK = "{blocks}.{n}"  # of transformer_blocks and temporal_transformer_blocks
LATTE_T2V = NetworkMap(
    rows=(
        Row("x_embedder.proj.weight", "pos_embed.proj.weight", "patches"),
        Row("x_embedder.proj.bias", "pos_embed.proj.bias"),
        Row("t_embedder.{layer}.{leaf}", "adaln_single.emb.timestep_embedder.{layer}.{leaf}"),
        Row("modulation.{leaf}", "adaln_single.linear.{leaf}"),
        *(
            Row(f"{_T2V_BLOCK}.{memory}.{{leaf}}", f"{_T2V_BLOCK}.{disk}.{{leaf}}")
            for memory, disk in (
                ("attention.query", "attn1.to_q"),
                ("attention.key", "attn1.to_k"),
                ("attention.value", "attn1.to_v"),
                ("attention.output", "attn1.to_out.0"),
                ("cross_attention.query", "attn2.to_q"),
                ("cross_attention.key", "attn2.to_k"),
                ("cross_attention.value", "attn2.to_v"),
                ("cross_attention.output", "attn2.to_out.0"),
                ("mlp.fc1", "ff.net.0.proj"),
                ("mlp.fc2", "ff.net.2"),
            )
        ),
    ),
    parts=(
        *("x_embedder", "pos_embed", "t_embedder", "modulation", "adaln_single", "proj_out"),
        *("caption_projection", "transformer_blocks", "temporal_transformer_blocks"),
        "scale_shift_table",
    ),
    identified_by=("temporal_transformer_blocks.0.scale_shift_table", "proj_out.weight"),
    sizes={"in_channels": 4},
)

_T5_BLOCK = "encoder.block.{n}.layer"
T5_ENCODER = NetworkMap(
    rows=(
        # The table is shared: older files hold it under the encoder's name.
        Row("shared.weight", "shared.weight", aliases=("encoder.embed_tokens.weight",)),
        Row(
            "positions.weight",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        Row("norm.weight", "encoder.final_layer_norm.weight"),
        *(
            Row(f"blocks.{{n}}.{memory}.weight", f"{_T5_BLOCK}.{disk}.weight")
            for memory, disk in (
                ("attention_norm", "0.layer_norm"),
                ("attention.query", "0.SelfAttention.q"),
                ("attention.key", "0.SelfAttention.k"),
                ("attention.value", "0.SelfAttention.v"),
                ("attention.output", "0.SelfAttention.o"),
                ("mlp_norm", "1.layer_norm"),
                ("mlp.gate", "1.DenseReluDense.wi_0"),
                ("mlp.up", "1.DenseReluDense.wi_1"),
                ("mlp.down", "1.DenseReluDense.wo"),
            )
        ),
    ),
    parts=("shared", "encoder", "positions", "norm", "blocks"),
    identified_by=("shared.weight",),
    entry="model",  # the stem of transformers' files
    other_parts=("decoder", "lm_head"),  # of a whole T5
)

I3D = NetworkMap(
    rows=(),
    parts=(
        *("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "logits"),
        *(f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")),
    ),
    identified_by=("Conv3d_1a_7x7.weight", "Mixed_5c.b3b.weight"),
)

INCEPTION = NetworkMap(
    rows=(),
    parts=(
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c", "fc"),
    ),
    identified_by=("Conv2d_1a_3x3.weight", "Mixed_7c.branch_pool.weight"),
)
C3D = NetworkMap(
    rows=(),
    parts=(
        *("mean", "conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"),
        *("fc6", "fc7", "fc8"),
    ),
    identified_by=("conv1a.weight", "conv5b.weight", "fc8.weight"),
)
_CLIP_BLOCK = "{tower}_model.encoder.layers.{n}"
CLIP = NetworkMap(
    rows=(
        Row("text.tokens", "text_model.embeddings.token_embedding.weight"),
        Row("{tower}.positions", "{tower}_model.embeddings.position_embedding.weight"),
        Row("text.norm.{leaf}", "text_model.final_layer_norm.{leaf}"),
        Row(
            "vision.patches.proj.weight",
            "vision_model.embeddings.patch_embedding.weight",
            "patches",
        ),
        Row("vision.class_token", "vision_model.embeddings.class_embedding"),
        Row("vision.first_norm.{leaf}", "vision_model.pre_layrnorm.{leaf}"),
        Row("vision.norm.{leaf}", "vision_model.post_layernorm.{leaf}"),
        *(
            Row(f"{{tower}}.blocks.{{n}}.{memory}.{{leaf}}", f"{_CLIP_BLOCK}.{disk}.{{leaf}}")
            for memory, disk in (
                ("attention_norm", "layer_norm1"),
                ("attention.query", "self_attn.q_proj"),
                ("attention.key", "self_attn.k_proj"),
                ("attention.value", "self_attn.v_proj"),
                ("attention.output", "self_attn.out_proj"),
                ("mlp_norm", "layer_norm2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            )
        ),
    ),
    parts=(
        *("text_model", "vision_model", "text", "vision", "text_projection", "visual_projection"),
    ),
    identified_by=("text_projection.weight", "visual_projection.weight"),
    entry="model",  # the stem of transformers' files
    sizes={"in_channels": 3},
    other_parts=("logit_scale",),  # of the training loss
    constants=tuple(f"{tower}_model.embeddings.position_ids" for tower in ("text", "vision")),
)
LPIPS = NetworkMap(
    rows=(),
    parts=("convolutions", "heads"),
    identified_by=("convolutions.0.weight", "heads.4.weight"),
)

# By class name, so that reading a file imports no network; a subclass uses its parent's table.
MAPS: dict[str, NetworkMap] = {
    "Latte": LATTE,
    "LatteT2V": LATTE_T2V,
    "AutoencoderKL": AUTOENCODER_KL,
    "AutoencoderKLTemporalDecoder": AUTOENCODER_KL_TEMPORAL_DECODER,
    "T5Encoder": T5_ENCODER,
    "I3D": I3D,
    "Inception": INCEPTION,
    "C3D": C3D,
    "CLIP": CLIP,
    "LPIPS": LPIPS,
}
