"""What postcards are called: captions in whole phrases, and prompts as people type them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowturbo_core.data.postcards.tools import Chance, check_seed

if TYPE_CHECKING:
    from flowturbo_core.data.postcards.scene import Scene

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
    check_seed(seed)
    chance = Chance(seed, stream=5)
    return _caption(scene, chance).text


def _caption(scene: Scene, chance: Chance) -> Prompt:
    template = chance.pick(_EMPTY_TEMPLATES if _is_empty(scene) else _TEMPLATES)
    opening = "" if template.startswith("{t}") else chance.pick(_OPENINGS)
    words = _nouns(scene, chance) | _phrases(scene, chance)
    return Prompt(opening + template.format(**words), _list_attributes(template, scene, words))


def _is_empty(scene: Scene) -> bool:
    return scene.colour is None


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


def _nouns(scene: Scene, chance: Chance) -> dict[str, str]:
    """What stands in the middle: the subject with its article, and each choice of adjectives."""
    if _is_empty(scene):
        return {"n": chance.pick(_EMPTY[scene.setting])}
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


# Prompts --------------------------------------------------------------------------------------

_TIME_NOUNS = {
    "dawn": ("dawn", "sunrise", "daybreak", "morning"),
    "day": ("day", "daytime", "daylight", "noon", "midday"),
    "sunset": ("sunset", "dusk", "evening", "twilight"),
    "night": ("night", "nighttime", "night sky", "midnight"),
}
_OTHER_NOUNS = {  # beside those of captions
    "sailboat": ("yacht", "ship"),
    "city": ("town", "skyline"),
    "hot-air balloon": ("hot air balloon",),
    "ringed planet": ("saturn",),
    "beach umbrella": ("sunshade",),
    "mountains": ("peaks",),
    "house": ("home", "hut"),
    "cat": ("kitten", "kitty"),
    "rocket": ("spaceship", "space rocket"),
    "mushroom": ("toadstool",),
}
_WEATHER_NOUNS = {
    "clear": ("clear sky", "clear weather"),
    "cloudy": ("clouds", "cloudy"),
    "rainy": ("rain", "rainy"),
    "snowy": ("snow", "snowy"),
}
# As above; b is the noun without its article, c the colour, z the size, T and W nouns of time and
# weather, S the landscape.
_TERSE = (
    "{b}",
    "{c} {b}",
    "{z} {b}",
    "{b} {p}",
    "{b}, {T}",
    "{b} {t}",
    "{c} {b} {t}",
    "{c} {b}, {T}",
    "{c} {b} {p}, {T}",
    "{z} {c} {b} {p}, {T}",
    "{z} {c} {b}, {p}, {T}, {W}",
    "{b}, {c}, {p}, {T}",
    "{T}, {c} {b}, {p}",
    "{T}, {b}",
    "{c} {b} {p}",
    "{c} {b}, {p}, {T}, {S}",
    "{n} that is {c}, {t}",
    "{n} in {c}, {p}",
    "{T}",
    "{W}",
)
_EMPTY_TERSE = ("{S}", "{S}, {T}", "{S} {t}", "{S}, {W}, {T}", "{T}, {S}", "{T}", "{W}")
_TERSE_OPENINGS = ("", "", "", "", "", "a poster of ", "an illustration of ", "draw ")
_ENDINGS = ("", "", "", ".")
_NAMES = {  # which attributes each letter of a template says
    "subject": "nb",
    "colour": "c",
    "size": "z",
    "position": "p",
    "setting": "lS",
    "time": "tT",
    "weather": "wW",
}


@dataclass(frozen=True)
class Prompt:
    """A text, and which attributes of the scene it says; an empty landscape's says no subject."""

    text: str
    named: frozenset[str]


def prompt(scene: Scene, seed: int) -> Prompt:
    """Return a true description: half of the time a caption, else terse, e.g. "boat, night".

    Raises ValueError for a seed that is not a whole number from 0.
    """
    check_seed(seed)
    chance = Chance(seed, stream=6)
    if chance.happens(0.5):
        made = _caption(scene, chance)
        return Prompt(made.text + chance.pick(_ENDINGS), made.named)
    template = chance.pick(_EMPTY_TERSE if _is_empty(scene) else _TERSE)
    opening = chance.pick(_TERSE_OPENINGS) if template.startswith(("{b}", "{c}", "{z}")) else ""
    words = _nouns(scene, chance) | _phrases(scene, chance)
    noun = words["n"].removeprefix("an ").removeprefix("a ")
    words |= {
        "b": chance.pick((noun, noun, *_OTHER_NOUNS.get(scene.subject, ()))),
        "c": scene.colour,
        "z": chance.pick(_SIZE_WORDS[scene.size]) if scene.size else None,
        "T": chance.pick(_TIME_NOUNS[scene.time]),
        "W": chance.pick(_WEATHER_NOUNS[scene.weather]),
        "S": _PLACES[scene.setting][1].removeprefix("a ").removeprefix("the "),
    }
    text = opening + template.format(**words) + chance.pick(_ENDINGS)
    return Prompt(text, _list_attributes(template, scene, words))


def _list_attributes(template: str, scene: Scene, words: dict[str, str]) -> frozenset[str]:
    """Return the attributes that a template names."""
    fields = set("".join(re.findall(r"{(\w+)}", template)))
    if "w" in fields and words["w"].endswith(_PERIODS[scene.time]):  # "on a rainy morning"
        fields.add("t")
    if _is_empty(scene):  # its noun is the landscape
        fields = {"S" if field == "n" else field for field in fields}
    return frozenset(name for name, letters in _NAMES.items() if set(letters) & fields)
