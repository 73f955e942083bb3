"""The command line that all scripts share."""

import argparse
import logging
from typing import TypeVar

from latte_ms import config as configuration

T = TypeVar("T")


def parse(schema: type[T], arguments: list[str] | None, description: str | None) -> T:
    """Read `--config FILE` and `key=value` overrides into `schema`.

    `--dry-run` prints the whole configuration and ends the program. A mistake in the configuration
    ends it too, with one line that names it.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as loop.seed=1")
    parser.add_argument("--dry-run", action="store_true", help="print the configuration and stop")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        config = configuration.load(schema, options.config, options.overrides)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if options.dry_run:
        print(configuration.to_yaml(config), end="")
        parser.exit(0)
    return config
