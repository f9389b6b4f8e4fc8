"""Postcards, the bundled data set: endless little posters drawn by code.

A `Scene` is everything that decides a picture: a handful of attributes, which the class label
and the caption name, and a seed for the nuisance detail (clouds, waves, hills, windows).
`postcard(seed)` is the data set: image, scene and caption of that number, the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from PIL import Image

from flowturbo_core.data.postcard_art import paint
from flowturbo_core.data.postcard_landscapes import LANDSCAPES
from flowturbo_core.data.postcard_subjects import FIGURES
from flowturbo_core.data.postcard_tools import IMAGE_SIZE, Chance

__all__ = [
    "CLASSES",
    "COLOURS",
    "IMAGE_SIZE",
    "POSITIONS",
    "SETTINGS",
    "SIZES",
    "SPLITS",
    "SUBJECTS",
    "TIMES",
    "WEATHERS",
    "Scene",
    "caption",
    "draw",
    "is_held_out",
    "postcard",
    "sample_scene",
]

SUBJECTS: tuple[str, ...] = tuple(FIGURES)
BACKGROUND = "background"
CLASSES: tuple[str, ...] = (*SUBJECTS, BACKGROUND)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TIMES = ("dawn", "day", "sunset", "night")
POSITIONS = ("left", "centre", "right")
SIZES = ("large", "small")
WEATHERS = ("clear", "cloudy", "rainy", "snowy")
SETTINGS: tuple[str, ...] = tuple(LANDSCAPES)
SPLITS = ("train", "held_out", "all")
BACKGROUND_SHARE = 0.08

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
        _check_seed(self.seed)

    @property
    def label(self) -> int:
        """The class label, an index into CLASSES."""
        return CLASSES.index(self.subject)


def _check(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; allowed: integers from 0")


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
    _check_seed(seed)
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


def draw(scene: Scene) -> Image.Image:
    """Paint a scene: RGB, 128 x 128."""
    return paint(scene, FIGURES.get(scene.subject))


def postcard(seed: int, split: str = "train") -> tuple[Image.Image, Scene, str]:
    """Picture (RGB, 128 x 128), scene and caption of that number. Raises as `sample_scene`."""
    scene = sample_scene(seed, split)
    return draw(scene), scene, caption(scene, seed)


# Captions -----------------------------------------------------------------------------------

_NOUNS = {
    "sailboat": ("sailboat", "boat", "sailing boat"),
    "mountains": ("mountain range", "mountains", "range of mountains"),
    "city": ("city", "city skyline", "city"),
    "hot-air balloon": ("hot-air balloon", "balloon"),
    "ringed planet": ("ringed planet", "planet with a ring", "planet"),
    "beach umbrella": ("beach umbrella", "parasol", "umbrella"),
    "windmill": ("windmill", "mill"),
    "cat": ("cat", "sitting cat"),
    "house": ("house", "cottage"),
}
_SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "little")}
_TIME_WORDS = {
    "dawn": ("at dawn", "at daybreak", "at sunrise"),
    "day": ("by day", "during the day", "in daylight"),
    "sunset": ("at sunset", "at dusk", "in the evening"),
    "night": ("at night", "by night"),
}
_PERIODS = {"dawn": "morning", "day": "day", "sunset": "evening", "night": "night"}
_WEATHER_WORDS = {
    "clear": ("in clear weather", "under a clear sky"),
    "cloudy": ("under heavy clouds", "under a cloudy sky"),
    "rainy": ("in the rain", "on a rainy {period}"),
    "snowy": ("in the snow", "while it snows"),
}
_POSITION_WORDS = {
    "left": ("on the left", "to the left"),
    "centre": ("in the centre", "in the middle"),
    "right": ("on the right", "to the right"),
}
_PLACES = {  # the landscape as a noun with its article, and the preposition of what stands in it
    "meadow": ("in", "a meadow"),
    "hills": ("in", "the hills"),
    "sea": ("on", "the sea"),
    "shore": ("on", "a rocky shore"),
    "lake": ("on", "a lake"),
    "desert": ("in", "the desert"),
    "beach": ("on", "a beach"),
}
_PREPOSITIONS = {  # where the subject's own relation to the landscape is another
    "hot-air balloon": "over",
    "ringed planet": "above",
    "rocket": "flying over",
    "fish": "leaping from",
    "mountains": "behind",
    "city": "beyond",
}
_EMPTY = {
    "meadow": ("an empty meadow", "a meadow"),
    "hills": ("empty hills", "rolling hills"),
    "sea": ("an empty sea", "the open sea"),
    "shore": ("an empty rocky shore", "a bare rock in the sea"),
    "lake": ("an empty lake", "a quiet lake"),
    "desert": ("an empty desert", "a desert with nothing in it"),
    "beach": ("an empty beach", "a beach"),
}
# n is the noun phrase alone, cn with the colour, zn with the size, zcn with both; then p position,
# l landscape, t time, w weather. Partial captions are more common than full ones.
_TEMPLATES = (
    "{zcn} {p}, {t}",
    "{zcn} {p} {l}, {t}, {w}",
    "{zcn} {p}, {t}, {w}",
    "{t}, {zcn} {p}",
    "{zcn} {l} {t}",
    "{zcn} {p}",
    "{zcn}",
    "{zn} {t}",
    "{zn} {p}",
    "{cn} {t}",
    "{cn} {t}, {w}",
    "{cn} {l}",
    "{t}, {cn} {l}, {w}",
    "{cn}",
    "{n} {l} {t}",
    "{n} {t}",
    "{n} {w}",
    "{n} {p}",
    "{n} {l}, {w}",
    "{n}",
)
_EMPTY_TEMPLATES = ("{n}", "{n} {t}", "{n} {t}, {w}", "{n} {w}", "{t}, {n}", "{t}, {n}, {w}")
_OPENINGS = ("", "", "", "", "a postcard of ", "a picture of ")


def caption(scene: Scene, seed: int) -> str:
    """One of many true descriptions, full or partial, e.g. "a small red boat on the left, at dusk".

    Raises ValueError for a seed that is not a whole number from 0.
    """
    _check_seed(seed)
    chance = Chance(seed, stream=5)
    empty = scene.subject == BACKGROUND
    template = chance.pick(_EMPTY_TEMPLATES if empty else _TEMPLATES)
    opening = "" if template.startswith("{t}") else chance.pick(_OPENINGS)
    nouns = {"n": chance.pick(_EMPTY[scene.setting])} if empty else _noun_phrases(scene, chance)
    return opening + template.format(**nouns, **_phrases(scene, chance))


def _phrases(scene: Scene, chance: Chance) -> dict[str, str]:
    """One wording of each attribute that stands beside the noun."""
    preposition, place = _PLACES[scene.setting]
    preposition = _PREPOSITIONS.get(scene.subject, preposition)
    return {
        "p": chance.pick(_POSITION_WORDS[scene.position]) if scene.position else "",
        "l": f"{preposition} {place}",
        "t": chance.pick(_TIME_WORDS[scene.time]),
        "w": chance.pick(_WEATHER_WORDS[scene.weather]).format(period=_PERIODS[scene.time]),
    }


def _noun_phrases(scene: Scene, chance: Chance) -> dict[str, str]:
    """The subject with its article, and with each choice of its adjectives."""
    noun = chance.pick(_NOUNS.get(scene.subject, (scene.subject,)))
    size, colour = chance.pick(_SIZE_WORDS[scene.size]), scene.colour
    words = {
        "n": noun,
        "cn": f"{colour} {noun}",
        "zn": f"{size} {noun}",
        "zcn": f"{size} {colour} {noun}",
    }
    return words if noun == "mountains" else {key: _article(text) for key, text in words.items()}


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text
