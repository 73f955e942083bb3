"""What a text-to-video pipeline is made of: networks, where they come from, when they leave."""

import gc
import weakref
from pathlib import Path
from typing import Any, TypeVar

from latte_ms.generation import pipeline_folder, schedulers
from latte_ms.generation.denoising import Denoiser
from latte_ms.generation.pipeline_folder import COMPONENTS, Deferred, Reader, source_of
from latte_ms.generation.pipeline_inputs import Limits
from latte_ms.generation.pipeline_types import Types, precisions
from latte_ms.text import TextEncoder
from latte_ms.vae.codec import Codec

Pipeline = TypeVar("Pipeline", bound="PipelineComponents")
_FROM_FOLDER: Any = object()
_PIXELS_PER_LATENT = 8  # of a pipeline without autoencoder
# Graphs are compiled once per network, however many pipelines share it.
_DENOISERS: weakref.WeakValueDictionary[int, Denoiser] = weakref.WeakValueDictionary()
_CODECS: weakref.WeakValueDictionary[int, Codec] = weakref.WeakValueDictionary()


class PipelineComponents:
    """A tokenizer, three networks and a scheduler.

    Args:
        tokenizer: T5's, of the package transformers; None where embeddings are given.
        text_encoder: of `weights.pretrained.load_text_encoder`; None as the tokenizer.
        vae: of `weights.pretrained.load_autoencoder`; None where latents are all that is wanted.
        transformer: of `weights.pretrained.load_transformer`; None to encode prompts only.
        scheduler: of mindone; see `generation.schedulers`.
    Raises:
        ValueError: the scheduler is none of `generation.schedulers.SCHEDULERS`.
    """

    def __init__(
        self, tokenizer: Any, text_encoder: Any, vae: Any, transformer: Any, scheduler: Any
    ) -> None:
        self._parts: dict[str, Any] = {"tokenizer": tokenizer, "text_encoder": text_encoder}
        self._parts |= {"vae": vae, "transformer": transformer}
        self._denoiser: Denoiser | None = None
        self._codec: Codec | None = None
        self.scheduler = scheduler

    @classmethod
    def from_pretrained(
        cls: type[Pipeline],
        pretrained: str | Path,
        *,
        mindspore_dtype: Types = None,
        storage_dtype: Types = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        tokenizer: Any = _FROM_FOLDER,
        text_encoder: Any = _FROM_FOLDER,
        vae: Any = _FROM_FOLDER,
        transformer: Any = _FROM_FOLDER,
        scheduler: Any = _FROM_FOLDER,
        temporal_decoder: bool = False,
        temporal_interpolation: bool = False,
        low_memory: bool = False,
        streamed_text_encoder: bool = False,
        **hub: Any,
    ) -> Pipeline:
        """A pipeline from a folder in diffusers' layout, or from the hub.

        Args:
            pretrained: the folder, or an id such as "maxin-cn/Latte-1".
            mindspore_dtype: type of the matrix products; one for all networks, or by component,
                with "default" for the others. float32 where nothing is said.
            storage_dtype: type that weights are kept in, in the same form; as `mindspore_dtype`
                where nothing is said. Those of a streamed text encoder stay as they are on disk.
            variant: of the weights' files, such as "fp16"; components without it are read plain.
            use_safetensors: True or None; weights are read from safetensors alone.
            tokenizer, text_encoder, vae, transformer, scheduler: a component to be used instead of
                the folder's, or None to do without.
            temporal_decoder: take the folder's `vae_temporal_decoder` for `vae`.
            temporal_interpolation: take any number of frames; see `LatteT2V`.
            low_memory: read each network when it is first needed, and free the text encoder when
                the prompts are encoded, before the transformer is read.
            streamed_text_encoder: leave the text encoder on disk, and read it block by block each
                time prompts are encoded.
            hub: of huggingface_hub's `snapshot_download`, such as revision, cache_dir, token.
        Raises:
            FileNotFoundError: the folder or a file of a component is not there.
            ValueError: it is another model, types or variant do not fit, or the weights do not.
        """
        given = {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae}
        given |= {"transformer": transformer, "scheduler": scheduler}
        wanted = [name for name, part in given.items() if part is _FROM_FOLDER]
        if use_safetensors not in (True, None):
            raise ValueError(
                "`use_safetensors` must be True or None: weights are read from safetensors alone, "
                f"got {use_safetensors!r}."
            )
        types = precisions(mindspore_dtype, storage_dtype, streamed_text_encoder, wanted)
        folder = pipeline_folder.find(pretrained, wanted, variant, temporal_decoder, hub)
        reader = Reader(
            folder, types, variant, temporal_decoder, temporal_interpolation, low_memory,
            streamed_text_encoder,
        )  # fmt: skip
        without = pipeline_folder.absent(folder)
        read = reader.read([name for name in wanted if name not in without])
        return cls(**(given | dict.fromkeys(wanted) | read))

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
    ) -> None:
        """Write a folder that diffusers' `LattePipeline.from_pretrained` opens.

        Weights are written in the type that they are kept in.

        Args:
            safe_serialization: True: safetensors are written, and nothing else.
            variant: goes into the names of the weights' files, such as "fp16".
            max_shard_size: of a file of weights, in bytes or as "10GB"; a network that is larger is
                written in several, with an index. None: one file for each network.
            push_to_hub: False.
        Raises:
            ValueError: an argument has another value.
        """
        if safe_serialization is not True:
            raise ValueError(
                "`safe_serialization` must be True: weights are written as safetensors, never as "
                f"pickles, got {safe_serialization!r}."
            )
        if push_to_hub:
            raise ValueError(
                f"`push_to_hub` must be False, got {push_to_hub!r}: upload the folder with "
                "`huggingface_hub.upload_folder`."
            )
        pipeline_folder.check_variant(variant)
        size = pipeline_folder.shard_bytes(max_shard_size)
        parts = {name: getattr(self, name) for name in COMPONENTS}
        pipeline_folder.write(Path(save_directory), parts, variant, size)

    @property
    def components(self) -> dict[str, Any]:
        """What another pipeline takes to share the networks: `Other(**pipeline.components)`.

        A network that `low_memory` has not read yet is read once, for all that share it.
        """
        return dict(self._parts)

    @property
    def tokenizer(self) -> Any:
        return self._part("tokenizer")

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self._parts["tokenizer"] = value

    @property
    def text_encoder(self) -> Any:
        return self._part("text_encoder")

    @text_encoder.setter
    def text_encoder(self, value: Any) -> None:
        self._parts["text_encoder"] = value

    @property
    def vae(self) -> Any:
        return self._part("vae")

    @vae.setter
    def vae(self, value: Any) -> None:
        self._parts["vae"] = value

    @property
    def transformer(self) -> Any:
        return self._part("transformer")

    @transformer.setter
    def transformer(self, value: Any) -> None:
        self._parts["transformer"] = value

    @property
    def scheduler(self) -> Any:
        return self._parts["scheduler"]

    @scheduler.setter
    def scheduler(self, value: Any) -> None:
        self._parts["scheduler"] = schedulers.prepare(value)

    def free_text_encoder(self) -> None:
        """Let the text encoder go. One that was read under `low_memory` is read again if needed."""
        if not isinstance(self._parts["text_encoder"], Deferred):
            self._parts["text_encoder"] = self._text_source
        gc.collect()

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """MindSpore cannot do this: raises RuntimeError that says what to do instead."""
        raise RuntimeError(
            "MindSpore moves parameters between host and device in PyNative mode only, and this "
            "pipeline runs compiled graphs. To hold fewer networks at a time, load it with "
            "`from_pretrained(..., low_memory=True)`; to hold less of each, give `storage_dtype` "
            "or `streamed_text_encoder=True`."
        )

    enable_sequential_cpu_offload = enable_model_cpu_offload
    enable_group_offload = enable_model_cpu_offload

    def enable_vae_tiling(self, tile_size: int | None = None) -> None:
        """Encode and decode large pictures in overlapping tiles.

        `tile_size` is their side in pixels; the autoencoder's `sample_size` where none is given.
        """
        self.vae.enable_tiling(tile_size=tile_size)

    def disable_vae_tiling(self) -> None:
        """Whole pictures at a time."""
        self.vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """One picture at a time, where pictures do not depend on each other."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """As many pictures at a time as `decode_chunk_size` allows."""
        self.vae.disable_slicing()

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent in each direction."""
        config = self._config("vae")
        return _PIXELS_PER_LATENT if config is None else config.downsampling

    @property
    def codec(self) -> Codec:
        """Pixels to latents and back, one for all pipelines that share the autoencoder."""
        vae = self.vae
        if self._codec is None or self._codec.autoencoder is not vae:
            self._codec = _CODECS.get(id(vae)) or Codec(vae)
            _CODECS[id(vae)] = self._codec
        return self._codec

    @property
    def denoiser(self) -> Denoiser:
        """The compiled steps, one for all pipelines that share the transformer."""
        transformer = self.transformer
        if self._denoiser is None or self._denoiser.transformer is not transformer:
            self._denoiser = _DENOISERS.get(id(transformer)) or Denoiser(transformer)
            _DENOISERS[id(transformer)] = self._denoiser
        return self._denoiser

    def limits(self) -> Limits:
        """What the components allow; reads no network. Raises ValueError without transformer."""
        config = self._config("transformer")
        if config is None:
            raise ValueError("`transformer` is None: this pipeline can encode prompts only.")
        part = self._parts["transformer"]
        texts = self._parts["tokenizer"] is not None and self._parts["text_encoder"] is not None
        return Limits(
            in_channels=config.in_channels,
            patch_size=config.patch_size,
            sample_size=config.sample_size,
            caption_channels=config.caption_channels,
            video_length=config.video_length,
            any_length=part.temporal_interpolation,
            downsampling=self.vae_scale_factor,
            has_text_encoder=texts,
            has_vae=self._parts["vae"] is not None,
        )

    def _config(self, name: str) -> Any:
        part = self._parts[name]
        return None if part is None else part.config

    def _part(self, name: str) -> Any:
        """A component, read now if it was left on disk."""
        part = self._parts[name]
        if isinstance(part, Deferred):
            part = self._parts[name] = part.load()
        return part

    @property
    def _text_source(self) -> Deferred | None:
        """Where a text encoder that was read under `low_memory` is read from again."""
        return source_of(self._parts["text_encoder"])

    def _encoder(self) -> TextEncoder:
        """Tokenizer and text encoder together. Raises ValueError where one is missing."""
        tokenizer, network = self.tokenizer, self.text_encoder
        if tokenizer is None or network is None:
            raise ValueError("Texts need a `tokenizer` and a `text_encoder`, and one is None.")
        return TextEncoder(tokenizer, network)
