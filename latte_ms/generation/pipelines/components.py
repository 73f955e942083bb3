"""The components of a text-to-video pipeline: where they come from, and when they are freed."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from latte_ms import runtime, schedulers
from latte_ms.adapters.state import refuse_unfused
from latte_ms.generation.pipelines import folder
from latte_ms.generation.pipelines.folder import COMPONENTS, Deferred, DtypeArgument, Reader
from latte_ms.generation.pipelines.request import RequestLimits
from latte_ms.text import PromptEncoder
from latte_ms.vae.codec import Codec
from latte_ms.vae.tiling import check_tile_size

Pipeline = TypeVar("Pipeline", bound="PipelineComponents")
_FROM_FOLDER: Any = object()
_DEFAULT_DOWNSAMPLING = 8  # of a pipeline without autoencoder


def _component(name: str) -> Any:
    """A property: the component `name`, loaded now if it was left on disk."""

    def get(self: "PipelineComponents") -> Any:
        part = self._components[name]
        if not isinstance(part, Deferred):
            return part
        with runtime.device_lock:
            if name not in self._loaded:
                self._loaded[name] = part.load()
            return self._loaded[name]

    def set_(self: "PipelineComponents", value: Any) -> None:
        self._loaded.pop(name, None)
        self._components[name] = value

    return property(get, set_)


class PipelineComponents:
    """A tokenizer, three networks and a scheduler.

    Args:
        tokenizer: of `text.load_tokenizer`, or a T5 tokenizer of transformers; None where
            embeddings are given.
        text_encoder: of `weights.pretrained.load_text_encoder`; None likewise.
        vae: of `weights.pretrained.load_autoencoder`; None where only latents are needed.
        transformer: of `weights.pretrained.load_transformer`; None to encode prompts only.
        scheduler: of mindone; replaced by the repaired subclass where there is one.
    Raises:
        ValueError: the scheduler is not one of `latte_ms.schedulers.SCHEDULERS`.
    """

    def __init__(
        self, tokenizer: Any, text_encoder: Any, vae: Any, transformer: Any, scheduler: Any
    ) -> None:
        self._components: dict[str, Any] = {}
        self._loaded: dict[str, Any] = {}  # of the parts that are `Deferred`, once loaded
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.vae, self.transformer = vae, transformer
        self.scheduler = scheduler

    @classmethod
    def from_pretrained(
        cls: type[Pipeline],
        pretrained: str | Path,
        *,
        mindspore_dtype: DtypeArgument = None,
        parameter_dtype: DtypeArgument = None,
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
            mindspore_dtype: compute dtype; one for all networks, or by component, with "default"
                for the others. The default is float32.
            parameter_dtype: dtype that weights are kept in, in the same form; the default is
                `mindspore_dtype`. The weights of a streamed text encoder stay as they are on disk.
            variant: of the weight files, such as "fp16"; components without it are read plain.
            use_safetensors: True or None; weights are read from safetensors alone.
            tokenizer, text_encoder, vae, transformer, scheduler: a component to use instead of the
                folder's, or None to do without.
            temporal_decoder: use the folder's `vae_temporal_decoder` as `vae`.
            temporal_interpolation: accept any number of frames; see `LatteT2V`.
            low_memory: load each network when it is first needed, and free the text encoder when
                the prompts are encoded, before the transformer is loaded.
            streamed_text_encoder: leave the text encoder on disk, and read it block by block each
                time prompts are encoded.
            hub: options of huggingface_hub's `snapshot_download`, such as revision, cache_dir,
                token.
        Raises:
            FileNotFoundError: the folder or a file of a component is missing.
            ValueError: it is another model, or dtypes, variant or weights do not fit.
        """
        components = {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae}
        components |= {"transformer": transformer, "scheduler": scheduler}
        names = [name for name, part in components.items() if part is _FROM_FOLDER]
        if use_safetensors not in (True, None):
            raise ValueError(
                "`use_safetensors` must be True or None: weights are read from safetensors alone, "
                f"got {use_safetensors!r}."
            )
        dtypes = folder.choose_dtypes(
            mindspore_dtype, parameter_dtype, streamed_text_encoder, names
        )
        path = folder.resolve(pretrained, names, variant, temporal_decoder, hub)
        reader = Reader(
            path, dtypes, variant, temporal_decoder, temporal_interpolation, low_memory,
            streamed_text_encoder,
        )  # fmt: skip
        with runtime.device_lock:
            loaded = reader.read(folder.listed(path, names))
        return cls(**(components | dict.fromkeys(names) | loaded))

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
    ) -> None:
        """Write a folder that diffusers' `LattePipeline.from_pretrained` opens.

        Weights are written in their parameter dtype.

        Args:
            safe_serialization: must be True; weights are written as safetensors.
            variant: part of the names of the weight files, such as "fp16".
            max_shard_size: of a weight file, in bytes or as "10GB"; a larger network is written in
                several files, with an index. None writes one file for each network.
            push_to_hub: must be False.
        Raises:
            ValueError: an argument has another value, or the transformer has adapters that are not
                fused.
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
        folder.check_variant(variant)
        size = folder.shard_bytes(max_shard_size)
        with runtime.device_lock:
            parts = {name: getattr(self, name) for name in COMPONENTS}
            refuse_unfused(parts["transformer"])
            folder.write(Path(save_directory), parts, variant, size)

    @property
    def components(self) -> dict[str, Any]:
        """What another pipeline takes to share the networks: `Other(**pipeline.components)`.

        Under `low_memory` networks are shared as `Deferred`: each is loaded once, for all.
        """
        return dict(self._components)

    tokenizer = _component("tokenizer")
    text_encoder = _component("text_encoder")
    vae = _component("vae")
    transformer = _component("transformer")

    @property
    def scheduler(self) -> Any:
        """The settings of runs; a run works on a copy."""
        return self._components["scheduler"]

    @scheduler.setter
    def scheduler(self, value: Any) -> None:
        self._components["scheduler"] = schedulers.adopt(value)

    def can_reload(self, name: str) -> bool:
        """Whether a network can be freed and loaded again."""
        return isinstance(self._components[name], Deferred)

    def free_text_encoder(self) -> None:
        """Free the text encoder. Under `low_memory` it is loaded again when needed."""
        self._loaded.pop("text_encoder", None)
        if not self.can_reload("text_encoder"):
            self._components["text_encoder"] = None
        gc.collect()

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """MindSpore cannot do this: raises RuntimeError that says what to do instead."""
        raise RuntimeError(
            "MindSpore moves parameters between host and device in PyNative mode only, and this "
            "pipeline runs compiled graphs. To hold fewer networks at a time, load it with "
            "`from_pretrained(..., low_memory=True)`; to hold less of each, give `parameter_dtype` "
            "or `streamed_text_encoder=True`."
        )

    enable_sequential_cpu_offload = enable_model_cpu_offload
    enable_group_offload = enable_model_cpu_offload

    def enable_vae_tiling(self, tile_size: int | None = None) -> None:
        """Encode and decode large images in overlapping tiles.

        `tile_size` is their side in pixels; the autoencoder's `sample_size` where none is given.
        Raises ValueError for a size that is not a multiple of 4 latents.
        """
        if tile_size is not None:
            check_tile_size(tile_size, self.vae_scale_factor)
        self._configure_vae(lambda vae: vae.enable_tiling(tile_size=tile_size))

    def disable_vae_tiling(self) -> None:
        """Encode and decode whole images."""
        self._configure_vae(lambda vae: vae.disable_tiling())

    def enable_vae_slicing(self) -> None:
        """Encode one image at a time, and decode likewise unless the decoder is temporal."""
        self._configure_vae(lambda vae: vae.enable_slicing())

    def disable_vae_slicing(self) -> None:
        """Encode several images at a time, and decode `decode_chunk_size` of them."""
        self._configure_vae(lambda vae: vae.disable_slicing())

    def _configure_vae(self, setting: Callable[[Any], None]) -> None:
        """Apply `setting` to the autoencoder, or have it applied when that is loaded."""
        part = self._components["vae"]
        if isinstance(part, Deferred):
            part.configure(setting)
        else:
            setting(part)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent in each direction."""
        config = self.config_of("vae")
        return _DEFAULT_DOWNSAMPLING if config is None else config.downsampling

    @property
    def codec(self) -> Codec:
        """Pixels to latents and back, one for all pipelines that share the autoencoder."""
        shared = self.vae.shared_objects
        if "codec" not in shared:
            shared["codec"] = Codec(self.vae)
        return shared["codec"]

    def limits(self) -> RequestLimits:
        """What the components allow; loads no network. Raises ValueError without transformer."""
        config = self.config_of("transformer")
        if config is None:
            raise ValueError("`transformer` is None: this pipeline can encode prompts only.")
        return RequestLimits(
            in_channels=config.in_channels,
            patch_size=config.patch_size,
            sample_size=config.sample_size,
            caption_channels=config.caption_channels,
            video_length=config.video_length,
            any_length=self._components["transformer"].temporal_interpolation,
            downsampling=self.vae_scale_factor,
            can_encode_prompts=None
            not in (self._components["tokenizer"], self._components["text_encoder"]),
            has_vae=self._components["vae"] is not None,
        )

    def config_of(self, name: str) -> Any:
        """The configuration of a network, or None without it; loads nothing."""
        part = self._components[name]
        return None if part is None else part.config

    def prompt_encoder(self) -> PromptEncoder:
        """Tokenizer and text encoder together. Raises ValueError where one is missing."""
        tokenizer, network = self.tokenizer, self.text_encoder
        if tokenizer is None or network is None:
            raise ValueError("Prompts need a `tokenizer` and a `text_encoder`, and one is None.")
        return PromptEncoder(tokenizer, network)
