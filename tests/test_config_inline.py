"""Inline sections of a configuration: keys of a shared dataclass beside those of its owner."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path

import pytest
from omegaconf import MISSING, OmegaConf

from latte_ms import config


@dataclass(frozen=True)
class Engine:
    power: int = 90


@dataclass(frozen=True)
class Trip:
    days: int = 3
    speed: float = 80.0
    guide: bool = False
    goal: str = "sea"
    seats: int | None = None
    stops: list[int] | None = None

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ValueError(f"`days` must be at least 1, got {self.days}.")


# As a caller builds one from the fields of another.
Options = make_dataclass(
    "Options",
    [(f.name, f.type, field(default=f.default)) for f in fields(Trip)],
    bases=(Trip,),
    frozen=True,
)


@dataclass(frozen=True)
class Tour:
    name: str = MISSING
    options: Options = config.inline(Options)  # type: ignore[valid-type]
    engine: Engine = field(default_factory=Engine)


@dataclass(frozen=True)
class Agency:
    tour: Tour = field(default_factory=lambda: Tour("summer"))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_the_keys_of_an_inline_section_stand_beside_its_owners(
    recipe: Callable[[str], Path],
) -> None:
    path = recipe("name: a\ndays: 5\nstops: [1, 2]\nengine:\n  power: 7\n")
    tour = config.load(Tour, path, ["guide=true", "goal=hills", "seats=4"])
    assert tour == Tour("a", Options(5, 80.0, True, "hills", 4, [1, 2]), Engine(7))
    assert config.from_dict(Tour, {"name": "b", "speed": 9}).options == Options(speed=9.0)
    assert isinstance(tour.options, Options)


@pytest.mark.parametrize(
    ("override", "stops"), [("stops=[3]", [3]), ("stops=[]", []), ("stops=null", None)]
)
def test_an_inline_list_may_be_null(override: str, stops: list[int] | None) -> None:
    assert config.load(Tour, None, ["name=a", "stops=[1,2]", override]).options.stops == stops


def test_inline_keys_are_written_flat_and_read_back(recipe: Callable[[str], Path]) -> None:
    tour = Tour("a", Options(2, goal="x: y", stops=[4, 5]))
    written = config.to_yaml(tour)
    assert list(OmegaConf.create(written)) == [
        *("name", "days", "speed", "guide", "goal", "seats", "stops", "engine")
    ]
    assert config.load(Tour, recipe(written)) == tour


def test_an_inline_section_inside_a_section(recipe: Callable[[str], Path]) -> None:
    assert config.load(Agency, None) == Agency()
    agency = config.load(Agency, None, ["tour.days=9", "tour.engine.power=1"])
    assert agency == Agency(Tour("summer", Options(9), Engine(1)))
    assert config.load(Agency, recipe(config.to_yaml(agency))) == agency
    with pytest.raises(ValueError, match=r"Unknown key 'tour.dais'\. Nearest: tour.days"):
        config.load(Agency, None, ["tour.dais=2"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dais=2", r"Unknown key 'dais'\. Nearest: days"),
        ("options=2", r"Unknown key 'options'"),
        ("options.days=2", r"Unknown key 'options'"),
        ("days=many", r"`days`: .*'many'.* Integer"),
        ("days=0", r"`days` must be at least 1, got 0"),
        ("guide=perhaps", r"`guide`: .*'perhaps'.* bool"),
        ("seats=1.5", r"`seats`: .*'1.5'.* Integer"),
        ("speed=nan", r"`speed` must be a finite number, got nan"),
        ("stops=3", r"`stops` must be a list such as \[3\], got 3\."),
        ("stops=[1,x]", r"`stops\[1\]`: .*'x'.* Integer"),
    ],
)
def test_a_wrong_inline_key_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(Tour, None, ["name=a", override])


def test_a_missing_inline_key_is_named() -> None:
    part = make_dataclass("Part", [("place", str, MISSING)])
    owner = make_dataclass("Owner", [("part", part, config.inline(part))])
    with pytest.raises(ValueError, match=r"Missing required keys: place\."):
        config.load(owner, None)
    assert config.load(owner, None, ["place=x"]) == owner(part("x"))


def test_a_key_declared_twice_is_a_mistake_of_the_schema() -> None:
    owner = make_dataclass("Owner", [("days", int, 1), ("trip", Trip, config.inline(Trip))])
    with pytest.raises(TypeError, match="Owner declares days more than once"):
        config.load(owner, None)
