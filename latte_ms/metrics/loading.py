"""Networks with their weights, and how a figure names them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mindspore import nn

from latte_ms import weights
from latte_ms.metrics.packages import fetched
from latte_ms.weights.checksums import digest, fingerprint
from latte_ms.weights.file_names import INDEX_SUFFIX
from latte_ms.weights.network import contents

Network = TypeVar("Network", bound=nn.Cell)


def load_network(
    build: Callable[[], Network], title: str, name: str, path: str | Path | None
) -> tuple[Network, dict[str, str]]:
    """A network for inference, and its identity: `title` and weights.

    Args:
        build: makes the network, without weights.
        title: what a figure calls it.
        name: of the weights, as `fetch_detectors.py` has it.
        path: file of the weights; None for those that `fetch_detectors.py` has put into the user's
            cache.
    Raises:
        FileNotFoundError: there is no such file.
        WeightError: it does not hold the network.
    """
    file = fetched(name) if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"`path` is not a file: {file}.")
    network = build()
    network.set_train(False)
    weights.load(network, file)
    return network, {"network": title, "weights": described(file, network)}


def described(path: Path, network: nn.Cell) -> str:
    """Name and checksum of the weights that `network` has of `path`, for a figure to name.

    The checksum is that of the file; where it is the index of shards, that of the values.
    """
    whole = path.suffix != INDEX_SUFFIX
    checksum = digest(path) if whole else fingerprint(contents(network))
    return f"{path.name}, SHA-256 {checksum[:16]}"
