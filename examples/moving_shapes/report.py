"""The table and the plots of a comparison: in files, and inside a document."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from examples.moving_shapes.distance import KINDS
from examples.moving_shapes.experiment import ALL_FIGURES, Row
from latte_ms.atomic import atomic_file

BEGIN, END = "<!-- written from here -->", "<!-- to here -->"
_COLOURS = 64  # of a plot


def write(
    output: Path,
    document: Path | None,
    name: str,
    text: str,
    figures: Mapping[str, Figure],
) -> None:
    """Write a table and plots.

    Args:
        output: folder for `table.md` and, for each title of `figures`, `NAME_TITLE.png`.
        document: Markdown file to write all into, between two comments; the plots go to the folder
            `images` beside it.
        text: the table, as Markdown.
    Raises:
        ValueError: the document lacks the comments.
    """
    with atomic_file(output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    links = []
    for title, figure in figures.items():
        path = output / f"{name}_{title}.png"
        write_plot(figure, path)
        if document is not None:
            with atomic_file(document.parent / "images" / path.name) as temporary:
                shutil.copyfile(path, temporary)
            links.append(f"\n**{title}**\n\n![{title}: plot](images/{path.name})\n")
    if document is not None:
        before, after = divided(document)
        with atomic_file(document) as temporary:
            whole = f"{before}{BEGIN}\n{text}{''.join(links)}{END}{after}"
            temporary.write_text(whole, encoding="utf-8")


def divided(document: Path) -> tuple[str, str]:
    """What stands before and after the part that is written. Raises ValueError without one."""
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"--document must have the lines {BEGIN!r} and {END!r}, got {document}.")
    return before, after


def mean_and_deviation(rows: Sequence[Row], name: str) -> str:
    """Over the seeds, in percent but for distances; a dash where a row lacks the figure."""
    values = [row.get(name) for row in rows]
    if not values or None in values:
        return "-"
    scale, digits = (100.0, 1) if name in ALL_FIGURES and name not in KINDS else (1.0, 2)
    known = scale * np.array(values, np.float64)
    return f"{known.mean():.{digits}f} ± {known.std():.{digits}f}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    shown_lines = [" | ".join(cells) for cells in (heads, *lines)]
    shown_lines.insert(1, "|".join(["---"] * len(heads)))
    return "".join(f"| {line} |\n" if "---" not in line else f"|{line}|\n" for line in shown_lines)


def write_plot(figure: Figure, path: Path, dpi: int = 80) -> None:
    """A PNG with a palette, which is small."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
        with Image.open(temporary) as image:
            small = image.convert("RGB").quantize(_COLOURS)
        small.save(temporary, "PNG", optimize=True)
