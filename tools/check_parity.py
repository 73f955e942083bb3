"""Replay reference folders and compare: `check_parity.py DIR [DIR ...]`.

Each folder holds what the PyTorch reference computed: `config.json` (what was built), `io.npz`
(inputs and outputs) and, where it has weights of its own, `checkpoint.pt` or a `pipeline` folder.
The code that users run computes the same here. For every recorded output this prints the
largest absolute error, the largest error relative to the largest reference value, the bound, and ok
or FAIL. The exit status is 1 if anything fails.
"""

import argparse
import dataclasses
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from latte_ms import runtime, weights
from latte_ms.config import read_json
from latte_ms.diffusion import (
    DDIM,
    DDPM,
    DiffusionLoss,
    DiffusionProcess,
    Guidance,
    Schedule,
    denoise,
)
from latte_ms.diffusion.schedule import cosine_betas, respaced_timesteps
from latte_ms.layers import kernels
from latte_ms.training.checkpoint import ema_of
from latte_ms.training.objective import DenoisingObjective
from latte_ms.training.optimizer import OptimizerConfig, step_factors
from latte_ms.training.step import TrainStep
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.comparison import FORWARD, HALF, LOOP, TABLE, Arrays, Comparison, Recorded
from tools.parity_t2v import text_to_video


def replay(folder: Path, dtype: ms.Type = ms.float32) -> Iterator[Comparison]:
    """All comparisons of one reference folder.

    Raises ValueError for a folder of an unknown format, a damaged file or a missing array,
    FileNotFoundError for a missing file.
    """
    for file in ("config.json", "io.npz"):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} is no reference folder: it has no {file}.")
    config = Recorded(_undamaged(folder / "config.json", read_json), "field")
    arrays = Recorded(_undamaged(folder / "io.npz", _read_arrays), "array")
    return _replay_of(config, arrays)(folder, config, arrays, dtype)


def _undamaged(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged ({error}).") from None


def _read_arrays(path: Path) -> Arrays:
    with zipfile.ZipFile(path), np.load(path) as file:  # np.load alone accepts other files too
        return dict(file)


def _replay_of(config: dict[str, Any], arrays: Arrays) -> Callable[..., Iterator[Comparison]]:
    if "tr_out" in arrays:
        return text_to_video
    if "out_train" in arrays:
        return joint_images
    if "out" in arrays:
        return forward
    if "sched_betas" in arrays:
        return diffusion
    if "initial_weights" in config:
        return training
    raise ValueError(f"No replay knows these arrays: {', '.join(sorted(arrays)[:8])} ...")


def forward(
    folder: Path, config: dict[str, Any], arrays: Arrays, dtype: ms.Type
) -> Iterator[Comparison]:
    """`Latte` in evaluation, without and with guidance."""
    bound = FORWARD if dtype == ms.float32 else HALF
    network = _network(config, folder / "checkpoint.pt", dtype)
    x, t = Tensor(arrays["x"]), Tensor(arrays["t"], ms.int32)
    y = Tensor(arrays["y"], ms.int32) if "y" in arrays else None
    text = Tensor(arrays["text_embedding"]) if "text_embedding" in arrays else None
    output = network(x, t, y, text).asnumpy()
    yield Comparison("out", output, arrays["out"], bound)
    yield dataclasses.replace(_guided(network, arrays), bound=bound)


def _guided(network: Latte, arrays: Arrays) -> Comparison:
    """The reference's guided batch: the first half's x in both halves, the second half null.

    The first half of the result is compared; the second half repeats its noise. For an
    unconditional network the reference's result is the one without guidance.
    """
    expected, t = arrays["out_cfg"], Tensor(arrays["t"], ms.int32)
    name = next((name for name in ("y", "text_embedding") if name in arrays), None)
    if name is None:
        return Comparison("out_cfg", network(Tensor(arrays["x"]), t).asnumpy(), expected, FORWARD)
    half = len(expected) // 2
    kind = ms.int32 if name == "y" else ms.float32
    # The reference has the conditional half first, this project the unconditional one.
    rows, times = (
        np.concatenate((array[half:], array[:half])) for array in (arrays[name], arrays["t"])
    )
    guided = Guidance(AtRecordedTimes(network, Tensor(times, ms.int32)), network.config.in_channels)
    scale, x = Tensor(arrays["cfg_scale"], ms.float32), Tensor(arrays["x"][:half])
    first = Tensor(arrays["t"][:half], ms.int32)
    output = guided(x, first, scale, **{name: Tensor(rows, kind)}).asnumpy()
    return Comparison("out_cfg", output, expected[:half], FORWARD)


def joint_images(
    folder: Path, config: dict[str, Any], arrays: Arrays, dtype: ms.Type
) -> Iterator[Comparison]:
    """`Latte` with images after the frames, and without them."""
    bound = FORWARD if dtype == ms.float32 else HALF
    network = _network(config, folder / "checkpoint.pt", dtype)
    t = Tensor(arrays["t"], ms.int32)
    y = Tensor(arrays["y"], ms.int32) if "y" in arrays else None
    y_image = Tensor(arrays["y_image"], ms.int32) if "y_image" in arrays else None
    output = network(Tensor(arrays["x"]), t, y, None, y_image).asnumpy()
    yield Comparison("out_train", output, arrays["out_train"], bound)
    video = arrays["x"][:, : network.config.num_frames]
    output = network(Tensor(np.ascontiguousarray(video)), t, y).asnumpy()
    yield Comparison("out_video_eval", output, arrays["out_video_eval"], bound)


def diffusion(
    folder: Path, config: dict[str, Any], arrays: Arrays, dtype: ms.Type
) -> Iterator[Comparison]:
    """Tables, losses, the model's distribution and two sampling loops."""
    schedule = Schedule.create()
    for name in [name for name in arrays if name.startswith("sched_")]:
        value = getattr(schedule, name.removeprefix("sched_"))
        yield Comparison(name, value, arrays[name], TABLE)
    yield Comparison("betas_cosine", cosine_betas(1000), arrays["betas_cosine"], TABLE)
    for name in [name for name in arrays if name.startswith("use_timesteps_")]:
        respacing = name.removeprefix("use_timesteps_").replace("_", ",")
        steps = np.array(respaced_timesteps(1000, respacing))
        yield Comparison(name, steps, arrays[name], TABLE)
    network = _network(config["config"], _weights_of(folder, config["weights"]), dtype)
    yield from _distribution(network, schedule, arrays)
    yield from _losses(network, schedule, arrays)
    yield from _loops(network, arrays)


def _distribution(network: Latte, schedule: Schedule, arrays: Arrays) -> Iterator[Comparison]:
    results = ModelDistribution(network, schedule)(*_batch(arrays))
    names = ("q_sample", "pmv_mean", "pmv_variance", "pmv_log_variance", "pmv_pred_xstart")
    for name, result in zip(names, results, strict=True):
        yield Comparison(name, result.asnumpy(), arrays[name], FORWARD)


def _losses(network: Latte, schedule: Schedule, arrays: Arrays) -> Iterator[Comparison]:
    kinds: dict[str, dict[str, Any]] = {
        "mse": {},
        "rescaled": {"loss": "rescaled_mse"},
        "kl": {"loss": "rescaled_kl"},  # the reference's `use_kl` is the rescaled bound
        "fixed": {"variance": "fixed_large"},
        "xstart": {"variance": "fixed_large", "prediction": "x0"},
    }
    for kind, options in kinds.items():
        denoiser = NoiseChannels(network) if "variance" in options else network
        *batch, y = _batch(arrays)
        results = DiffusionLoss(denoiser, schedule, **options)(*batch, y=y)
        for term, result in zip(("loss", "mse", "vb"), results, strict=True):
            name = f"loss_{kind}_{term}"
            if name in arrays:
                yield Comparison(name, result.asnumpy(), arrays[name], FORWARD)


def _loops(network: Latte, arrays: Arrays) -> Iterator[Comparison]:
    """Sampling under guidance; the reference's second half, the unconditional one, is ignored."""
    label, null = arrays["ys"]
    conditions = {
        "y": np.array([null, label], np.int32),
        "guidance_scale": arrays["cfg_scale"].astype(np.float32),
    }
    denoiser = Guidance(network, network.config.in_channels)
    z, noise = arrays["z"][:1], arrays["ddpm_noise"][:, :1]
    run = DDPM(denoiser, Schedule.create(respacing="5")).begin(z, conditions, noise=noise)
    *_, last = denoise(run)
    yield Comparison("ddpm_sample", last.x.asnumpy(), arrays["ddpm_sample"][:1], LOOP)
    *_, last = denoise(DDIM(denoiser, Schedule.create(respacing="6")).begin(z, conditions))
    yield Comparison("ddim6_sample", last.x.asnumpy(), arrays["ddim6_sample"][:1], LOOP)


def training(
    folder: Path, config: dict[str, Any], arrays: Arrays, dtype: ms.Type
) -> Iterator[Comparison]:
    """The updates of `scripts/train.py`, one by one, and the weights after them."""
    network = _network(config["config"], _weights_of(folder, config["initial_weights"]), dtype)
    network.set_train(True)
    optimizer = OptimizerConfig(
        learning_rate=1e-3,
        clip_max_norm=config["clip_max_norm"],
        clip_start_step=config["clip_from_step"],
        ema_decay=config["ema_decay"],
    )
    objective = DenoisingObjective(DiffusionLoss(network, Schedule.create()))
    step = TrainStep(objective, optimizer)
    names = ("loss", "mse", "vb", "grad_norm")
    values: dict[str, list[float]] = {name: [] for name in names}
    for i in range(config["steps"]):
        t, y = (Tensor(arrays[name][i], ms.int32) for name in ("t", "y"))
        factors, x0, noise = step_factors(optimizer, i), arrays["x"][i], arrays["noise"][i]
        scalars = step(factors.tensor(), Tensor(x0), Tensor(noise), t, y=y)
        for name, scalar in zip(names, scalars, strict=True):
            values[name].append(float(scalar.asnumpy()))
    for name in names:  # each step against its own value, not against the largest
        ratios = np.array(values[name]) / arrays[name]
        yield Comparison(f"{name} / reference", ratios, np.ones_like(ratios), LOOP)
    with tempfile.TemporaryDirectory() as folder_of_run:
        saved = Path(folder_of_run)
        weights.save(network, saved / "final.safetensors")
        ema = ema_of(network, step)
        weights.save(network, saved / "ema.safetensors", parameters=ema)
        for entry in ("final", "ema"):
            table = weights.read(saved / f"{entry}.safetensors")
            for name in [name for name in arrays if name.startswith(f"{entry}/")]:
                value = table[name.removeprefix(f"{entry}/")]
                yield Comparison(name, value, arrays[name], LOOP)


def _network(fields: dict[str, Any], checkpoint: Path, dtype: ms.Type) -> Latte:
    network = Latte(LatteConfig.from_upstream(fields), dtype, seed=None)
    weights.load(network, checkpoint, "ema")
    network.set_train(False)
    return network


def _weights_of(folder: Path, phrase: str) -> Path:
    """`latte_class/checkpoint.pt, entry "ema"` names a file next to the folder."""
    return folder.parent / phrase.split(",")[0]


def _batch(arrays: Arrays) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    t, y = (Tensor(arrays[name], ms.int32) for name in ("t", "y"))
    return Tensor(arrays["x0"]), Tensor(arrays["noise"]), t, y


class AtRecordedTimes(nn.Cell):
    """The network at fixed timesteps: the reference recorded different ones for the null half."""

    def __init__(self, network: Latte, t: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.t = network, t

    def construct(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        return self.network(x, self.t, **conditions)


class NoiseChannels(nn.Cell):
    """The network without its variance."""

    def __init__(self, denoiser: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return kernels.split_first(self.denoiser(x, t, y=y), x.shape[2], 2)[0]


class ModelDistribution(nn.Cell):
    """q_sample, the network, and its distribution of x_{t-1}."""

    def __init__(self, denoiser: nn.Cell, schedule: Schedule) -> None:
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.process = DiffusionProcess(schedule)

    def construct(
        self, x0: Tensor, noise: Tensor, index: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        at = self.process.coefficients(index)
        x_t = self.process.q_sample(x0, noise, at)
        output = self.denoiser(x_t, self.process.timesteps(at), y=y)
        mean, variance, log_variance, clean = self.process.p_mean_variance(output, x_t, at)
        return x_t, mean, variance, log_variance, clean


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--device", default="CPU", choices=runtime.DEVICES)
    parser.add_argument("--precision", default="float32", choices=list(runtime.PRECISIONS))
    parser.add_argument("--no-fusion", action="store_true", help="compile kernel by kernel")
    options = parser.parse_args(arguments)
    level = "O0" if options.no_fusion else "O1"
    runtime.setup(runtime.RuntimeConfig(options.device, options.precision, jit_level=level))
    print(f"{'output':64} {'absolute':>9} {'relative':>9} {'bound':>8}")
    verdicts = []
    for folder in options.folders:
        verdicts += _report(folder, runtime.compute_dtype(options.precision))
    print(f"{sum(verdicts)} of {len(verdicts)} within their bounds.")
    return 0 if all(verdicts) else 1


def _report(folder: Path, dtype: ms.Type) -> list[bool]:
    """Print the comparisons of one folder, or why it has none; returns which are within bounds."""
    verdicts = []
    try:
        for result in replay(folder, dtype):
            verdicts.append(result.ok)
            print(
                f"{folder.name + ': ' + result.name:64} {result.absolute:9.1e} "
                f"{result.relative:9.1e} {result.bound:8.0e} {'ok' if result.ok else 'FAIL'}",
                flush=True,
            )
    except Exception as error:  # of any kind; the following folders are still replayed
        print(f"{folder}: {_reason(error)} FAIL", flush=True)
        verdicts.append(False)
    return verdicts


def _reason(error: Exception) -> str:
    """The message of an expected error; type and first line of any other."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


if __name__ == "__main__":
    sys.exit(main())
