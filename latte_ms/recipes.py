"""Where a recipe is, and paths in it that are relative to its own folder."""

from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
HERE = "${here}"  # in a recipe: the folder of that recipe


def find_recipe(name: str | Path) -> Path:
    """The file `name`, or else the recipe of the package with this name.

    Recipes of the package are named as in the repository, `configs/shapes/sample.yaml`. Returns
    `name` as it is where there is neither.
    """
    path, shipped = Path(name), PACKAGE / name
    return shipped if shipped.is_file() and not path.exists() else path


def with_folder(value: Any, folder: Path) -> Any:
    """`value`, the nested content of a recipe, with `${here}` replaced by `folder`."""
    if isinstance(value, dict):
        return {key: with_folder(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [with_folder(part, folder) for part in value]
    found = isinstance(value, str) and HERE in value
    return value.replace(HERE, str(folder)) if found else value
