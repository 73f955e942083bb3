"""The state of a call lives in that call: nothing shared changes, and threads do not interfere."""

import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import latte_ms
from latte_ms import schedulers
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.pipelines.video_to_video import LatteVideoToVideoPipeline


def snapshot(owner: Any) -> dict[str, Any]:
    """The attributes of an object, class or module, with copies of its mutable values."""
    copies = (list, dict, set)
    return {
        name: type(value)(value) if type(value) in copies else value
        for name, value in vars(owner).items()
        if name != "__builtins__"
    }


def shared(pipeline: LattePipeline) -> dict[str, Any]:
    """Objects that calls share: scheduler, codec, classes and modules of the package."""
    owners: dict[str, Any] = {
        "scheduler": pipeline.scheduler,
        "scheduler's class": type(pipeline.scheduler),
        "codec": pipeline.codec,
        "pipeline's class": type(pipeline),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("latte_ms") and isinstance(module, ModuleType):
            owners[name] = module
            for kind in vars(module).values():
                if isinstance(kind, type) and kind.__module__ == name:
                    owners[f"{name}.{kind.__qualname__}"] = kind
    return owners


@pytest.mark.parametrize("scheduler", ["ddim", "unipc", "pndm", "euler"])
def test_a_call_changes_nothing_that_is_shared(
    small: LattePipeline, options: dict[str, Any], scheduler: str
) -> None:
    settings = {"skip_prk_steps": True} if scheduler == "pndm" else {}
    small.scheduler = schedulers.create(scheduler, small.scheduler.config, **settings)
    calls = [
        options | {"output_type": "np", "like_diffusers": True, "decode_chunk_size": 2},
        options | {"guidance_scale": 1.0, "num_inference_steps": 3},
    ]
    for call in calls:  # compiled before the comparison
        small(**call)
    owners = shared(small)
    before = {name: snapshot(owner) for name, owner in owners.items()}
    settings_before = (small.vae.tile_size, small.vae.slicing)
    for call in calls:
        small(**call)
    assert (small.vae.tile_size, small.vae.slicing) == settings_before
    for name, owner in owners.items():
        after = snapshot(owner)
        assert after.keys() == before[name].keys(), name
        changed = [key for key, value in after.items() if not same(value, before[name][key])]
        assert changed == [], name


def same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if type(first) is not type(second) or not isinstance(first, list | dict | set):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same(first[key], second[key]) or first[key] is second[key] for key in first
        )
    return len(first) == len(second) and all(map(same, first, second))


@pytest.mark.slow
def test_threads_give_the_results_of_sequential_calls(
    small: LattePipeline, options: dict[str, Any]
) -> None:
    """Pipelines that share networks, with different prompts, schedulers, guidance and outputs."""
    other = LattePipeline(**small.components)
    other.scheduler = schedulers.create("euler_ancestral", small.scheduler.config)
    other.set_progress_bar_config(disable=True)
    video = LatteVideoToVideoPipeline(**small.components)
    video.set_progress_bar_config(disable=True)
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    start = {name: options[name] for name in ("prompt", "guidance_scale", "clean_caption")}
    work = [
        (small, options | {"output_type": "np", "generator": 3}),
        (other, options | {"prompt": ["two dogs", "a bird"], "guidance_scale": 1.0}),
        (small, options | {"guidance_rescale": 0.7, "num_inference_steps": 3}),
        (other, options | {"like_diffusers": True, "decode_chunk_size": 1, "output_type": "np"}),
        (video, start | {"video": frames, "generator": 5, "num_inference_steps": 4}),
    ]

    def run(index: int) -> np.ndarray:
        pipeline, call = work[index]
        frames = pipeline(**call).frames
        return np.asarray(frames if isinstance(frames, np.ndarray | list) else frames.asnumpy())

    expected = [run(i) for i in range(len(work))]
    results: dict[tuple[int, int], np.ndarray] = {}

    def worker(number: int, order: list[int]) -> None:
        for i in order:
            results[number, i] = run(i)

    orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]
    threads = [threading.Thread(target=worker, args=job) for job in enumerate(orders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 * len(work)
    for (_, i), result in results.items():
        np.testing.assert_array_equal(result, expected[i])


LIBRARY = """
import sys
from mindone.diffusers import schedulers as library

names = [name for name in dir(library) if name.endswith("Scheduler")]
before = {name: dict(vars(getattr(library, name))) for name in names}
assert len(before) > 13

import numpy as np
from latte_ms import LattePipeline, schedulers

pipeline = LattePipeline.from_pretrained(sys.argv[1], text_encoder=None, tokenizer=None, vae=None)
rows = np.zeros((1, 5, 32), np.float32)
embeddings = {"prompt_embeds": rows, "negative_prompt_embeds": rows, "negative_prompt": None}
for name in ("ddpm", "unipc", "deis", "kdpm2_ancestral", "pndm"):
    pipeline.scheduler = schedulers.create(name)
    pipeline(**embeddings, num_inference_steps=4, height=16, width=16, video_length=4,
             output_type="latent")
    original = getattr(library, schedulers.SCHEDULERS[name])
    assert type(pipeline.scheduler) is not original or name not in ("ddpm", "unipc")
for name in names:
    after = vars(getattr(library, name))
    assert after.keys() == before[name].keys(), name
    assert all(after[key] is before[name][key] for key in after), name
"""


@pytest.mark.slow
def test_the_classes_of_the_library_stay_as_they_are(small_folder: Path) -> None:
    command = [sys.executable, "-c", LIBRARY, str(small_folder)]
    root = str(Path(latte_ms.__file__).parents[1])
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_library_scheduler_becomes_its_repaired_twin(small: LattePipeline) -> None:
    from mindone.diffusers.schedulers import DDPMScheduler, EulerDiscreteScheduler

    library = DDPMScheduler(beta_start=1e-4, beta_schedule="linear")
    small.scheduler = library
    assert type(small.scheduler) is not DDPMScheduler
    assert isinstance(small.scheduler, DDPMScheduler)
    assert small.scheduler.config.beta_schedule == "linear"
    plain = EulerDiscreteScheduler()
    small.scheduler = plain
    assert small.scheduler is plain, "it needs no repair"
