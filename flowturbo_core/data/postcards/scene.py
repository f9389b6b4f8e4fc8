"""What a postcard may be of: a `Scene`, its vocabularies, and which combinations are held out.

A `Scene` holds everything that decides a picture. The class label and the caption name its
attributes. Its seed decides the detail that nobody names (clouds, waves, hills, windows).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from flowturbo_core.checks import brief
from flowturbo_core.data.postcards.tools import Chance, check_seed

SUBJECTS = (
    "sailboat",
    "mountains",
    "city",
    "hot-air balloon",
    "tree",
    "flower",
    "cactus",
    "house",
    "ringed planet",
    "lighthouse",
    "windmill",
    "mushroom",
    "rocket",
    "fish",
    "cat",
    "beach umbrella",
)
BACKGROUND = "background"
CLASSES: tuple[str, ...] = (*SUBJECTS, BACKGROUND)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TIMES = ("dawn", "day", "sunset", "night")
POSITIONS = ("left", "centre", "right")
SIZES = ("large", "small")
WEATHERS = ("clear", "cloudy", "rainy", "snowy")
SETTINGS = ("meadow", "hills", "sea", "shore", "lake", "desert", "beach")
SPLITS = ("train", "held_out", "all")
BACKGROUND_SHARE = 0.08

# The attributes that an evaluator tells, and the names of each. A background has no colour and no
# position: its label there is NOTHING, and training ignores it.
ATTRIBUTES = {"subject": CLASSES, "colour": COLOURS, "time": TIMES, "position": POSITIONS}
NOTHING = -100

_FITTING = {  # the settings that suit a subject
    "sailboat": ("sea", "lake"),
    "mountains": ("meadow", "lake"),
    "city": ("lake", "meadow"),
    "hot-air balloon": ("hills", "meadow", "desert", "sea"),
    "tree": ("meadow", "hills"),
    "flower": ("meadow", "hills"),
    "cactus": ("desert",),
    "house": ("meadow", "hills"),
    "ringed planet": ("desert", "hills", "meadow"),
    "lighthouse": ("shore",),
    "windmill": ("meadow", "hills"),
    "mushroom": ("meadow", "hills"),
    "rocket": ("desert", "hills", "sea"),
    "fish": ("sea", "lake"),
    "cat": ("meadow", "hills"),
    "beach umbrella": ("beach",),
    BACKGROUND: SETTINGS,
}


@dataclass(frozen=True)
class Scene:
    """One picture's attributes. A background has no colour, position and size (None).

    Raises ValueError for a value outside the vocabularies of this module.
    """

    subject: str
    colour: str | None
    time: str
    position: str | None
    size: str | None
    weather: str
    setting: str
    seed: int  # of the nuisance detail

    def __post_init__(self) -> None:
        _check("subject", self.subject, CLASSES)
        own = ("colour", COLOURS), ("position", POSITIONS), ("size", SIZES)
        for name, allowed in own:
            _check(name, getattr(self, name), (None,) if self.subject == BACKGROUND else allowed)
        _check("time", self.time, TIMES)
        _check("weather", self.weather, WEATHERS)
        _check("setting", self.setting, _FITTING[self.subject])
        check_seed(self.seed)

    @property
    def label(self) -> int:
        """The class label, an index into CLASSES."""
        return CLASSES.index(self.subject)


def _check(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {brief(value)}; allowed: {', '.join(map(repr, allowed))}")


# Splits -------------------------------------------------------------------------------------


def is_held_out(subject: str, colour: str, time: str) -> bool:
    """Whether no training run may see this combination: a fixed tenth of all.

    The triples lie on a lattice, so that each subject, colour and time loses about a tenth.
    A background is never held out. Raises ValueError for unknown names.
    """
    _check("subject", subject, CLASSES)
    if subject == BACKGROUND:
        return False
    _check("colour", colour, COLOURS)
    _check("time", time, TIMES)
    place = SUBJECTS.index(subject) + 3 * COLOURS.index(colour) + 6 * TIMES.index(time)
    return place % 10 == 0


_TRIPLES = {
    "all": tuple(product(SUBJECTS, COLOURS, TIMES)),
    "train": tuple(t for t in product(SUBJECTS, COLOURS, TIMES) if not is_held_out(*t)),
    "held_out": tuple(t for t in product(SUBJECTS, COLOURS, TIMES) if is_held_out(*t)),
}


def sample_scene(seed: int, split: str = "train") -> Scene:
    """The scene of that number in a split.

    Args:
        seed: a whole number from 0.
        split: "train" never yields a held-out (subject, colour, time) and has 8% backgrounds,
            "held_out" yields only those, "all" either and backgrounds.

    Raises:
        ValueError: another seed or split.
    """
    check_seed(seed)
    _check("split", split, SPLITS)
    chance = Chance(seed, stream=0)
    empty = chance.happens(BACKGROUND_SHARE) and split != "held_out"
    subject, colour, time = chance.pick(_TRIPLES[split])
    position, size = chance.pick(POSITIONS), chance.pick(SIZES)
    weather = chance.pick(WEATHERS)
    if empty:
        return Scene(BACKGROUND, None, time, None, None, weather, chance.pick(SETTINGS), seed)
    setting = chance.pick(_FITTING[subject])
    return Scene(subject, colour, time, position, size, weather, setting, seed)
