"""Moving shapes: a small labelled video set, drawn from a seed.

One coloured shape on a plain background moves in one of 8 directions at constant speed. The class
is the direction, counted anticlockwise from east with y pointing up, or by choice the combination
of direction, colour and shape.
"""

import csv
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latte_ms.atomic import atomic_file
from latte_ms.media import write_mp4

CLASS_NAMES = (
    "0_east",
    "1_north_east",
    "2_north",
    "3_north_west",
    "4_west",
    "5_south_west",
    "6_south",
    "7_south_east",
)
MOTIONS = (
    "to the right",
    "to the upper right",
    "up",
    "to the upper left",
    "to the left",
    "to the lower left",
    "down",
    "to the lower right",
)
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (235, 200, 30),
    "purple": (160, 50, 185),
    "orange": (240, 125, 25),
}
# (number of tips, radius of the notches between them); the circle has none.
SHAPES: dict[str, tuple[int, float] | None] = {
    "circle": None,
    "square": (4, math.cos(math.pi / 4)),
    "triangle": (3, math.cos(math.pi / 3)),
    "star": (5, 0.5),
}
# The finer classes: direction, colour and shape, in this order of significance.
COMBINATIONS = tuple(itertools.product(range(len(CLASS_NAMES)), COLOURS, SHAPES))
COMBINATION_NAMES = tuple(
    f"{index:03d}_{colour}_{shape}_{CLASS_NAMES[direction][2:]}"
    for index, (direction, colour, shape) in enumerate(COMBINATIONS)
)
CAPTION_FILE = "captions.csv"
UNSEEN_FILE = "unseen_prompts.txt"
FPS = 8.0

_HELD_OUT = 3  # one combination in as many

# All lengths are for a 64 x 64 image and 16 frames, in pixels and pixels per frame.
_REFERENCE_SIZE = 64
_REFERENCE_STEPS = 15
_RADIUS = (8.0, 10.0)
_SPEED = (1.5, 2.5)
# Shapes with corners cover less than a disc of their radius: they are drawn a little larger.
_CORNERED = 1.1


@dataclass(frozen=True)
class Clip:
    """One drawn video and what it shows."""

    frames: np.ndarray  # (F, H, W, 3) uint8
    label: int  # 0..7, index in CLASS_NAMES, or 0..191, index in COMBINATIONS
    caption: str
    centres: np.ndarray  # (F, 2) float64, x to the right and y down, in pixels


def draw_clip(
    label: int,
    rng: np.random.Generator,
    size: int = 64,
    num_frames: int = 16,
    spread: float = 1.0,
    hold_out: bool = False,
    combinations: bool = False,
) -> Clip:
    """Draw one video of class `label`; shape, colour, background, speed and start come from `rng`.

    The whole path stays inside the image. Speed and radius scale with `size`, and the length of
    the path does not depend on `num_frames`. With `spread` 1 the path may lie anywhere, with 0 its
    midpoint is the centre of the image. With `hold_out` no combination that `held_out` names is
    drawn. With `combinations` the class says the colour and the shape too: `label` is an index in
    `COMBINATIONS`.
    """
    names = class_names(combinations)
    if not 0 <= label < len(names):
        raise ValueError(f"`label` must be in 0..{len(names) - 1}, got {label}.")
    if hold_out and combinations:
        raise ValueError("`hold_out` leaves out what `combinations` makes classes: choose one.")
    if size < 16 or num_frames < 2:
        raise ValueError(
            f"`size` (={size}) must be at least 16 and `num_frames` (={num_frames}) at least 2."
        )
    if not 0.0 <= spread <= 1.0:
        raise ValueError(f"`spread` must be in [0, 1], got {spread}.")
    shape = str(rng.choice(list(SHAPES)))
    colour = str(rng.choice(list(COLOURS)))
    while hold_out and held_out(colour, shape, label):
        shape = str(rng.choice(list(SHAPES)))
        colour = str(rng.choice(list(COLOURS)))
    direction = label
    if combinations:
        direction, colour, shape = COMBINATIONS[label]
    scale = size / _REFERENCE_SIZE
    radius = scale * rng.uniform(*_RADIUS) * (1.0 if SHAPES[shape] is None else _CORNERED)
    travel = scale * rng.uniform(*_SPEED) * _REFERENCE_STEPS
    centres = _path(direction, radius, travel, size, num_frames, spread, rng)
    background = _background(rng)
    colour_rgb = np.array(COLOURS[colour]) + rng.uniform(-10, 10, 3)
    covered = coverage(shape, radius, centres, size)[..., None]  # (F, H, W, 1)
    pixels = background + covered * (colour_rgb - background)
    frames = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return Clip(frames, label, caption_of(colour, shape, MOTIONS[direction]), centres)


def class_names(combinations: bool = False) -> tuple[str, ...]:
    """The folder of each class: of the 8 directions, or of the 192 combinations."""
    return COMBINATION_NAMES if combinations else CLASS_NAMES


def held_out(colour: str, shape: str, label: int) -> bool:
    """Whether a set that leaves combinations for a test leaves out this one: 64 of 192.

    Each colour, shape and direction, and each pair of them, is in the rest.
    """
    index = list(COLOURS).index(colour) + list(SHAPES).index(shape) + label
    return index % _HELD_OUT == 0


def unseen_prompts() -> list[str]:
    """The captions of all combinations that `held_out` names."""
    combinations = itertools.product(COLOURS, SHAPES, range(len(MOTIONS)))
    return [
        caption_of(colour, shape, MOTIONS[label])
        for colour, shape, label in combinations
        if held_out(colour, shape, label)
    ]


def caption_of(colour: str, shape: str, motion: str) -> str:
    """Such as "a red star moving up": a key of `COLOURS`, one of `SHAPES`, one of `MOTIONS`."""
    return f"{_article(colour)} {colour} {shape} moving {motion}"


def seeded_clip(
    seed: int,
    label: int,
    index: int,
    size: int = 64,
    num_frames: int = 16,
    spread: float = 1.0,
    hold_out: bool = False,
    combinations: bool = False,
) -> Clip:
    """The `index`-th video of class `label` in the set of `seed`, independent of all others."""
    rng = np.random.default_rng([seed, label, index])
    return draw_clip(label, rng, size, num_frames, spread, hold_out, combinations)


def write_shapes(
    target: str | Path,
    videos_per_class: int,
    seed: int = 0,
    size: int = 64,
    num_frames: int = 16,
    num_workers: int = 2,
    spread: float = 1.0,
    hold_out: bool = False,
    combinations: bool = False,
) -> Iterator[Path]:
    """Write the set under `target`, a folder per class, and yield each file as it is finished.

    The caption file (columns `path`, `caption`, paths relative to `target`) is written last: where
    it exists the set is complete. With `hold_out` the prompts that the set leaves for a test are
    written beside it, one per line. With `combinations` there is a folder for each of them.
    """
    target, names = Path(target), class_names(combinations)
    keys = [(label, i) for i in range(videos_per_class) for label in range(len(names))]
    for name in names:
        (target / name).mkdir(parents=True, exist_ok=True)

    def write(key: tuple[int, int]) -> tuple[Path, str]:
        label, index = key
        clip = seeded_clip(seed, label, index, size, num_frames, spread, hold_out, combinations)
        relative = Path(names[label]) / f"{index:05d}.mp4"
        write_mp4(target / relative, clip.frames, FPS)
        return relative, clip.caption

    rows = []
    # Threads are enough: the encoder is a process of its own and numpy releases the lock.
    with ThreadPoolExecutor(num_workers) as pool:
        for relative, caption in pool.map(write, keys):
            rows.append((relative.as_posix(), caption))
            yield target / relative
    if hold_out:
        with atomic_file(target / UNSEEN_FILE) as temporary:
            temporary.write_text("\n".join(unseen_prompts()) + "\n", encoding="utf-8")
    with (
        atomic_file(target / CAPTION_FILE) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("path", "caption"))
        writer.writerows(sorted(rows))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _background(rng: np.random.Generator) -> np.ndarray:
    """A dark or a light grey with a slight tint, (3,) in 0..255."""
    level = rng.uniform(15, 45) if rng.random() < 0.5 else rng.uniform(210, 240)
    return level + rng.uniform(-6, 6, 3)


def _path(
    label: int,
    radius: float,
    travel: float,
    size: int,
    num_frames: int,
    spread: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Centres (F, 2), x right and y down: a straight line of length `travel` inside the image."""
    angle = label * np.pi / 4
    step = travel * np.array([np.cos(angle), -np.sin(angle)])
    margin = radius + min(1.0, size / _REFERENCE_SIZE)  # the longest path fits in 16 pixels too
    low = margin - np.minimum(step, 0.0)
    high = size - margin - np.maximum(step, 0.0)
    centre, reach = (low + high) / 2, spread * (high - low) / 2
    start = rng.uniform(centre - reach, centre + reach)
    return start + np.linspace(0.0, 1.0, num_frames)[:, None] * step


def coverage(shape: str, radius: float, centres: np.ndarray, size: int) -> np.ndarray:
    """The share of each pixel that the shape covers, (F, H, W) in 0..1, edges one pixel soft."""
    pixel = np.arange(size) + 0.5
    dx = pixel[None, None, :] - centres[:, 0, None, None]
    dy = centres[:, 1, None, None] - pixel[None, :, None]  # up is positive
    distance = np.hypot(dx, dy)
    corners = SHAPES[shape]
    if corners is None:
        return np.clip(radius - distance + 0.5, 0.0, 1.0)
    tips, notch = corners
    # By symmetry one edge is enough: fold the angle (from the upward tip) into half a sector and
    # measure the signed distance to the line from the tip to the notch.
    start = 0.0 if shape != "square" else np.pi / 4
    sector = 2 * np.pi / tips
    angle = np.arctan2(dx, dy) + start
    angle = np.abs((angle + sector / 2) % sector - sector / 2)
    x, y = distance * np.sin(angle), distance * np.cos(angle)
    end = radius * notch * np.array([np.sin(sector / 2), np.cos(sector / 2)])
    edge = end - np.array([0.0, radius])
    inside = (edge[0] * (radius - y) + edge[1] * x) / np.hypot(*edge)
    return np.clip(inside + 0.5, 0.0, 1.0)
