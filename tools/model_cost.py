"""Parameters, operations and activation memory of Latte: `model_cost.py [RECIPE or NAME ...]`.

    python tools/model_cost.py                                   the paper's sizes and variants
    python tools/model_cost.py Latte-B/2 configs/ucf101/train.yaml network.num_frames=32

A recipe is one of `train.py`; a name one of the twelve sizes; `network.KEY=VALUE` changes all of
them. Operations are those of one forward pass for one clip, two for each multiplication with its
addition. "as the paper counts" has multiplications of linear layers, for three clips, with the
modulation repeated for each frame or token. Memory is that of the activations which a training step
keeps for one clip in float32, without recomputation.
"""

import argparse
import sys
from collections.abc import Iterator

from latte_ms.config import from_dict, read_recipe
from latte_ms.training.recipe import LatteTrainConfig
from latte_ms.transformer.configuration import PRESETS, LatteConfig, with_preset
from latte_ms.transformer.cost import Cost, cost_of

# Parameters in millions and operations in 10^9 as the paper has them, where it does.
PAPER: dict[tuple[str, int], tuple[float, float | None]] = {
    ("Latte-S/2", 1): (32.48, None),
    ("Latte-B/2", 1): (129.54, None),
    ("Latte-L/2", 1): (456.81, None),
    ("Latte-XL/2", 1): (673.68, 5572.69),
    ("Latte-XL/2", 2): (673.68, 5572.69),
    ("Latte-XL/2", 3): (676.33, 6153.15),
    ("Latte-XL/2", 4): (676.44, 1545.15),
}
# Blocks of two attentions each that have the parameters of the other variants' blocks.
SEQUENTIAL_DEPTHS = {28: 23, 24: 20, 12: 10}
HEADER = (
    "| network | blocks | parameters (M) | paper | GFLOP | GMAC as the paper counts | paper "
    "| activations (GB) |"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="RECIPE, NAME or network.KEY=VALUE")
    args = parser.parse_args(arguments)
    changes = [item for item in args.networks if "=" in item]
    named = [item for item in args.networks if "=" not in item]
    try:
        networks = list(described(named, changes) if named else papers(changes))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(HEADER)
    print("|---" * HEADER.count(" |") + "|")
    for name, config, paper in networks:
        print(row(name, config, cost_of(config), paper))
    return 0


def papers(changes: list[str]) -> Iterator[tuple[str, LatteConfig, tuple[float, float | None]]]:
    """The twelve sizes in the four variants."""
    for name, sizes in PRESETS.items():
        for variant in (1, 2, 3, 4):
            depth = SEQUENTIAL_DEPTHS[sizes["depth"]] if variant == 3 else sizes["depth"]
            config = network_of(name, [f"network.variant={variant}", *changes], depth)
            yield f"{name}, variant {variant}", config, PAPER.get((name, variant), (0.0, None))


def described(
    named: list[str], changes: list[str]
) -> Iterator[tuple[str, LatteConfig, tuple[float, float | None]]]:
    for name in named:
        config = network_of(name, changes)
        yield name, config, PAPER.get((name, config.variant), (0.0, None))


def network_of(name: str, changes: list[str], depth: int | None = None) -> LatteConfig:
    """Of a size, or of a recipe."""
    if name not in PRESETS:
        values = LatteTrainConfig.fill(read_recipe(name, changes))
        return from_dict(LatteConfig, values.get("network", {}))
    values = with_preset({**read_recipe(None, changes), "preset": name})
    network = values["network"] | ({} if depth is None else {"depth": depth})
    return from_dict(LatteConfig, network)


def row(name: str, config: LatteConfig, cost: Cost, paper: tuple[float, float | None]) -> str:
    parameters, operations = paper
    cells = (
        name,
        str(config.depth),
        f"{cost.parameters / 1e6:.2f}",
        f"{parameters:.2f}" if parameters else "",
        f"{cost.flops / 1e9:.0f}",
        f"{cost.paper / 1e9:.0f}",
        f"{operations:.0f}" if operations is not None else "",
        f"{cost.activations * 4 / 1e9:.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
