"""Attributes of diffusers' pipelines that these lack: each name says what there is instead."""

from typing import Any

# advice: the names it belongs to
_INSTEAD: dict[str, tuple[str, ...]] = {
    "networks are on the device that `mindspore.set_device` chose before they were loaded, and "
    "their dtype is `mindspore_dtype` of `from_pretrained`": (
        *("to", "cuda", "cpu", "half", "device", "dtype"),
    ),
    "steps are not cached; fewer `num_inference_steps`, or a list `timesteps`, take less time": (
        *("enable_cache", "disable_cache", "is_cache_enabled"),
    ),
    "`latte_ms.adapters.read` reads files of LoRA weights": ("lora_state_dict",),
    "adapters change the values of the transformer's weights, and are kept on the host": (
        *("set_lora_device", "enable_lora_hotswap"),
    ),
    "prompts are text; images and textual inversion are not read": (
        *("load_textual_inversion", "unload_textual_inversion", "load_ip_adapter"),
        *("unload_ip_adapter", "set_ip_adapter_scale"),
    ),
    "the device decides about attention (flash attention on an Ascend in 16 bit); "
    "`decode_chunk_size`, `enable_vae_slicing` and `enable_vae_tiling` save memory": (
        *("enable_attention_slicing", "disable_attention_slicing", "set_attention_backend"),
        "enable_xformers_memory_efficient_attention",
        "disable_xformers_memory_efficient_attention",
        "set_use_memory_efficient_attention_xformers",
        *("fuse_qkv_projections", "unfuse_qkv_projections"),
    ),
    "networks are compiled as whole graphs; `latte_ms.runtime.setup` has the settings": (
        *("compile", "enable_freeu", "disable_freeu"),
    ),
    "`low_memory=True` of `from_pretrained` loads networks when they are needed": (
        *("maybe_free_model_hooks", "remove_all_hooks", "reset_device_map", "hf_device_map"),
    ),
    "`output_type='pil'` returns images, and `latte_ms.media` writes files": (
        *("numpy_to_pil", "image_processor", "video_processor"),
    ),
    "`set_progress_bar_config` has the options of the bar": ("progress_bar",),
    "`LattePipeline(**other.components)` shares the networks of another pipeline": ("from_pipe",),
    "components are attributes that can be set": ("register_modules", "register_to_config"),
    "each network has its own, such as `pipeline.transformer.config`": ("config",),
    "`huggingface_hub.upload_folder` uploads what `save_pretrained` writes": ("push_to_hub",),
    "`from_pretrained` downloads, as `huggingface_hub.snapshot_download` does": ("download",),
}


class Absent:
    """An attribute that is not there: reading it raises AttributeError, with advice.

    So `hasattr` is False, as for any other missing attribute.
    """

    def __init__(self, name: str, advice: str) -> None:
        self.name, self.advice = name, advice

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__} has no `{self.name}`: {self.advice}.")


_names = {name: Absent(name, advice) for advice, names in _INSTEAD.items() for name in names}
DiffusersOnly: Any = type("DiffusersOnly", (), _names)  # a base class of pipelines
