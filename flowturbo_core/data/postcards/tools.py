"""The postcard painter's toolbox: chance, colours of the hour, a sheet and a pen.

Lengths are pixels of the finished 128 x 128 picture, y downwards, unless said otherwise. Numpy
paints backdrops at that size, with analytic coverage of edges. Pillow draws subjects and clouds as
enlarged polygons, and a box filter reduces them. Every machine paints the same picture: the code
uses integers, + - * / and square roots of numpy, and `math.sin` rounded to whole polygon points.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from flowturbo_core.checks import brief

IMAGE_SIZE = 128
ENLARGE = 3  # subjects and clouds are drawn this much larger, then reduced: smooth edges

Colour = tuple[float, float, float]
Point = tuple[float, float]
T = TypeVar("T")

ROWS = np.arange(IMAGE_SIZE, dtype=np.float32)[:, None] + 0.5
COLUMNS = np.arange(IMAGE_SIZE, dtype=np.float32)[None, :] + 0.5


class Chance:
    """Random choices made of `random.Random(int).random()` alone, a stream Python keeps for ever.

    Streams of one seed are independent: the generator's own seed is `8 * seed + stream`.
    """

    def __init__(self, seed: int, stream: int):
        self._random = random.Random(8 * seed + stream)

    def uniform(self, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        return low + (high - low) * self._random.random()

    def whole(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int((high - low + 1) * self._random.random())

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`, each as likely."""
        return options[int(len(options) * self._random.random())]

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._random.random() < probability


def check_seed(seed: int) -> None:
    """Raise ValueError unless `seed` is a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {brief(seed)}; allowed: integers from 0")


# Colours ------------------------------------------------------------------------------------


def rgb(code: str) -> Colour:
    """Return the colour of a hexadecimal code, such as "ffcc00"."""
    return int(code[0:2], 16), int(code[2:4], 16), int(code[4:6], 16)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """A at share 0, b at share 1."""
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))


def luma(colour: Colour) -> float:
    """Return the brightness of a colour, 0 to 255."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


Pair = tuple[Colour, Colour]  # from the light, far end of a surface to its dark, near end


class Palette(NamedTuple):
    """The colours of one hour."""

    sky: tuple[Colour, ...]  # zenith to horizon
    sun: Colour
    glow: Colour
    cloud: Pair
    far: Pair  # the two distant ranges
    meadow: Pair
    water: Pair
    sand: Pair
    desert: Pair
    rock: Pair
    snow: Pair
    foam: Colour
    light: Colour  # what the hour multiplies a subject's own colours with, 255 = unchanged


def _palette(*rows: str) -> Palette:
    colours = [tuple(rgb(code) for code in row.split()) for row in rows]
    return Palette(*(row[0] if len(row) == 1 else row for row in colours))


PALETTES = {
    "dawn": _palette(
        "8488c6 b49ccf f0b2bf ffd9b8 ffe9c9",
        "fff6e0",
        "ffe2b4",
        "fff0e8 ebb9c8",
        "c8abd0 a88fbf",
        "b4d0a0 4f8c86",
        "f6c6c0 7484c2",
        "fbe0c2 dda58e",
        "f7c8a4 c97a70",
        "a893b4 665a86",
        "fff3f2 c4bce2",
        "fff1e6",
        "fff4f2",
    ),
    "day": _palette(
        "1f86d1 4fabe2 8fd0f0 c9ecf4 eef9ee",
        "fffbe2",
        "fff7d0",
        "ffffff cbe4f2",
        "a9d5da 79bbb0",
        "a2d66c 23895a",
        "68d0da 0f659f",
        "fdecc0 e8ba74",
        "fadb98 d98d48",
        "a5adae 5a6b7b",
        "ffffff bcd9ee",
        "f2fdff",
        "ffffff",
    ),
    "sunset": _palette(
        "432a72 8b357f d94f6b f98a4d ffc763",
        "fff0b4",
        "ffb85c",
        "ffb27a b04a7c",
        "9c457c 702c6a",
        "a39a48 243f52",
        "fd9f5e 4d2468",
        "f2b072 9c4f6c",
        "ee8a4c 852f5a",
        "84506a 452850",
        "ffd0ba 8765aa",
        "ffd9a0",
        "fff0e6",
    ),
    "night": _palette(
        "070b2c 0e1a4c 1a2f6c 2b4a8a 48699f",
        "fff7da",
        "8fa9dc",
        "50689f 2b3f76",
        "2c4882 1e3468",
        "2f7a70 0a2842",
        "4470ac 08164a",
        "9698b8 444b80",
        "8270a4 352f62",
        "46558a 1d2750",
        "c3d5f2 5c76b8",
        "a9c3ee",
        "d3d8f2",
    ),
}


def _fade(pair: Sequence[Colour], towards: Colour, share: float) -> tuple[Colour, ...]:
    return tuple(mix(colour, towards, share) for colour in pair)


def palette_of(time: str, weather: str) -> Palette:
    """The hour's colours under that weather: clouds soften, rain dulls, snow whitens the ground."""
    p = PALETTES[time]
    if weather == "rainy":
        dull = mix(mix(p.sky[1], p.sky[2], 0.5), (120, 124, 140), 0.55)
        return p._replace(
            sky=_fade(p.sky, mix(dull, (30, 34, 52), 0.15), 0.36),
            cloud=_fade(p.cloud, dull, 0.45),
            far=_fade(p.far, dull, 0.3),
            meadow=_fade(p.meadow, dull, 0.15),
            water=_fade(p.water, dull, 0.3),
            sand=_fade(p.sand, dull, 0.2),
            desert=_fade(p.desert, dull, 0.2),
        )
    if weather == "snowy":
        return p._replace(
            sky=_fade(p.sky, p.snow[0], 0.14),
            far=_fade(p.far, p.snow[0], 0.4),
            rock=_fade(p.rock, p.snow[0], 0.35),
            meadow=p.snow,
            sand=p.snow,
            desert=p.snow,
        )
    if weather == "cloudy":
        return p._replace(sky=_fade(p.sky, p.cloud[1], 0.15))
    return p


class Tones(NamedTuple):
    """A subject's paints under the light of the hour."""

    light: Colour
    base: Colour
    shade: Colour
    trim: Colour  # the second colour: cream, or slate where the subject itself is white
    trim_shade: Colour
    dark: Colour
    wood: Colour
    leaf: Colour
    foam: Colour
    glass: Colour
    glow: Colour


SUBJECT_COLOURS = {  # light side, body, shade side
    "red": "f25a4c dc2f3c 9e1b3c",
    "orange": "ffa648 f67f1e c8521c",
    "yellow": "ffe469 fcca22 d99a12",
    "green": "74d062 36a850 1b7049",
    "blue": "5dadf7 2b72de 1d479f",
    "purple": "b581ec 8746c8 582b94",
    "pink": "ffb0d0 f776b1 ca488e",
    "white": "ffffff f3f2ef bfc4d8",
}


def tones_of(colour: str, time: str) -> Tones:
    """The paints of a subject of that colour at that time."""
    trim = ("5f7398", "485a80") if colour == "white" else ("fff4df", "dccfc9")
    lit = [*SUBJECT_COLOURS[colour].split(), *trim, "3a2f4f", "8f5b3c", "2f8a56", "f0faff"]
    by = PALETTES[time].light
    paints = [tuple(c * b / 255 for c, b in zip(rgb(code), by, strict=True)) for code in lit]
    lamps = {"night": ("ffd873", "ffe48f"), "sunset": ("ffdf8a", "ffe79a")}
    glass, glow = lamps.get(time, ("bfe6f5", "fff0a8"))
    return Tones(*paints, rgb(glass), rgb(glow))  # what shines does not depend on the hour


# Outlines -----------------------------------------------------------------------------------


def arc(
    x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 1, steps: int = 32
) -> list[Point]:
    """Points of an oval between two fractions of a full turn (0 = +x, 0.25 = +y)."""
    count = max(6, math.ceil(steps * abs(stop - start)))
    first, step = 6.283185307 * start, 6.283185307 * (stop - start) / count
    return [
        (x + rx * math.cos(first + step * k), y + ry * math.sin(first + step * k))
        for k in range(count + 1)
    ]


def bend(a: Point, control: Point, b: Point, steps: int = 10) -> list[Point]:
    """A quadratic curve from a to b."""
    ts = [k / steps for k in range(steps + 1)]
    return [
        (
            (1 - t) * (1 - t) * a[0] + 2 * t * (1 - t) * control[0] + t * t * b[0],
            (1 - t) * (1 - t) * a[1] + 2 * t * (1 - t) * control[1] + t * t * b[1],
        )
        for t in ts
    ]


def rotate(points: Sequence[Point], angle: float, x: float, y: float) -> list[Point]:
    """Return points, rotated by an angle in radians about (x, y)."""
    c, s = math.cos(angle), math.sin(angle)
    return [(x + c * (px - x) - s * (py - y), y + s * (px - x) + c * (py - y)) for px, py in points]


def ripple(chance: Chance, level: float, swell: float, waves: float = 1.0) -> np.ndarray:
    """A smooth ridge line (128,) about y = level, of about `waves` waves and an overtone.

    The wave is made of parabolas, exact arithmetic on any machine, unlike numpy's sine.
    """

    def wave(turns: float) -> np.ndarray:
        phase = COLUMNS[0] * np.float32(turns / IMAGE_SIZE) + np.float32(chance.uniform(0, 1))
        v = 2 * (phase - np.floor(phase)) - 1
        return 4 * v * (1 - np.abs(v))

    return level + swell * (0.72 * wave(waves) + 0.28 * wave(2.3 * waves))


def scatter(chance: Chance, count: int) -> list[Point]:
    """Return places in the unit square, evenly spread without a pattern.

    They are those of the R2 sequence (Roberts, 2018), started anywhere.
    """
    x, y = chance.uniform(0, 1), chance.uniform(0, 1)
    return [((x + 0.7549 * k) % 1, (y + 0.5698 * k) % 1) for k in range(count)]


# The sheet ----------------------------------------------------------------------------------


def _span(low: float, high: float) -> tuple[int, int]:
    return max(0, math.floor(low)), min(IMAGE_SIZE, math.ceil(high) + 1)


def _clip01(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, 0), 1)


def _planes(colour: Colour) -> np.ndarray:
    return np.array(colour, dtype=np.float32)[:, None, None]


def _gradient(pair: Pair, share: np.ndarray) -> np.ndarray:
    """Colours (3, h, w) from the pair's first, where share (h, w) is 0, to its second."""
    first = _planes(pair[0])
    return first + share * (_planes(pair[1]) - first)


class Poster:
    """The picture in the making: float pixels (3, 128, 128) in 0..255, begun with a sky."""

    def __init__(self, sky: Sequence[Colour], horizon: float):
        stops = [horizon * k / (len(sky) - 1) for k in range(len(sky))]
        column = [np.interp(ROWS[:, 0], stops, channel) for channel in zip(*sky, strict=True)]
        rows = np.stack(column).astype(np.float32)
        self.pixels = np.repeat(rows[:, :, None], IMAGE_SIZE, axis=2)

    def window(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """A view (3, h, w) of the pixels."""
        return self.pixels[:, top : top + height, left : left + width]

    def cover(
        self, coverage: np.ndarray, colour: Colour | np.ndarray, left: int = 0, top: int = 0
    ) -> None:
        """Blend a colour, or colours (3, h, w), over coverage (h, w) in 0..1."""
        region = self.window(left, top, coverage.shape[1], coverage.shape[0])
        change = (_planes(colour) if isinstance(colour, tuple) else colour) - region
        change *= coverage
        region += change

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        opacity: float = 1,
        soft: float = 1,
    ) -> None:
        """An oval whose edge fades over about `soft` pixels of its shorter radius."""
        short = min(rx, ry)
        reach = 1 + soft / short / 2
        left, right = _span(x - rx * reach, x + rx * reach)
        top, bottom = _span(y - ry * reach, y + ry * reach)
        if left >= right or top >= bottom:
            return
        across, down = (COLUMNS[:, left:right] - x) / rx, (ROWS[top:bottom] - y) / ry
        inside = (1 - np.sqrt(across * across + down * down)) * (short / soft) + 0.5
        self.cover(opacity * _clip01(inside), colour, left, top)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
        """A halo of light without an edge."""
        across, down = COLUMNS - x, ROWS - y
        fall = 1 / (1 + (across * across + down * down) / (radius * radius))
        self.cover(strength * fall * fall, colour)

    def land(self, ridge: np.ndarray, colours: Pair, depth: float) -> None:
        """Everything below ridge (128,), from the first colour at its edge to the second."""
        top = max(0, int(ridge.min()) - 1)
        if top < IMAGE_SIZE:
            below = ROWS[top:] - ridge[None, :]
            self.cover(_clip01(below + 0.5), _gradient(colours, _clip01(below / depth)), 0, top)

    def shapes(
        self,
        ovals: Sequence[tuple[float, float, float, float]],
        polygons: Sequence[Sequence[Point]],
        colours: Pair,
        opacity: float = 1,
    ) -> None:
        """The union of ovals (x, y, rx, ry) and polygons, shaded from top to bottom."""
        points = [p for polygon in polygons for p in polygon]
        points += [(x + i * rx, y + i * ry) for x, y, rx, ry in ovals for i in (-1, 1)]
        left, right = _span(min(p[0] for p in points), max(p[0] for p in points))
        top, bottom = _span(min(p[1] for p in points), max(p[1] for p in points))
        if left >= right or top >= bottom:
            return
        mask = Image.new("L", ((right - left) * ENLARGE, (bottom - top) * ENLARGE))
        draw = ImageDraw.Draw(mask)

        def fit(x: float, y: float) -> Point:
            return round((x - left) * ENLARGE), round((y - top) * ENLARGE)

        for x, y, rx, ry in ovals:
            draw.ellipse((*fit(x - rx, y - ry), *fit(x + rx, y + ry)), fill=255)
        for polygon in polygons:
            draw.polygon([fit(*p) for p in polygon], fill=255)
        coverage = np.asarray(mask.reduce(ENLARGE), dtype=np.float32) * (opacity / 255)
        share = (ROWS[top:bottom] - top) / (bottom - top)
        self.cover(coverage, _gradient(colours, share), left, top)

    def image(self) -> Image.Image:
        """RGB, 128 x 128."""
        return Image.fromarray((self.pixels + 0.5).astype(np.uint8).transpose(1, 2, 0).copy())


# The pen ------------------------------------------------------------------------------------


class Pen:
    """Draws a subject's opaque polygons in its own units on an empty enlarged sheet.

    (0, 0) is the middle of the subject's foot, y points up, 1 is its height, and light falls
    from -x; `mirror` -1 turns the whole subject when it falls from the right.
    """

    def __init__(self, x: float, y: float, height: float, mirror: int):
        # The smallest window, in whole pixels, that holds |x| <= 0.56 and -0.13 <= y <= 1.07.
        self.left, right = _span(x - 0.56 * height, x + 0.56 * height)
        self.top, bottom = _span(y - 1.07 * height, y + 0.13 * height)
        # Four plain channels (red, green, blue, ink). Opaque ink on an empty sheet is already
        # premultiplied, so the sheet may be reduced channel by channel, which CMYK means here.
        size = (right - self.left) * ENLARGE, (bottom - self.top) * ENLARGE
        self._sheet = Image.new("CMYK", size)
        self._draw = ImageDraw.Draw(self._sheet)
        self._x, self._y = (x - self.left) * ENLARGE, (y - self.top) * ENLARGE
        self._across, self._up = mirror * height * ENLARGE, height * ENLARGE
        self._turn: tuple[float, float, float] | None = None

    def turn(self, angle: float, x: float, y: float) -> None:
        """Rotate what follows about (x, y) by an angle in radians, counterclockwise."""
        self._turn = (angle, x, y) if angle else None

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        if self._turn:
            points = rotate(points, *self._turn)
        places = [
            (round(self._x + self._across * x), round(self._y - self._up * y)) for x, y in points
        ]
        self._draw.polygon(places, fill=(*(round(c) for c in colour), 255))

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fill an ellipse around (x, y)."""
        self.polygon(arc(x, y, rx, ry), colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round joints and ends."""
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            length = math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2) or 1
            nx, ny = (y0 - y1) * width / 2 / length, (x1 - x0) * width / 2 / length
            self.polygon(
                [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)],
                colour,
            )
        for x, y in points:
            self.polygon(arc(x, y, width / 2, width / 2, steps=16), colour)

    def crescent(
        self, x: float, y: float, rx: float, ry: float, inner: float, colour: Colour
    ) -> None:
        """The shaded side (+x) of an oval, whose inner edge bulges to inner * rx."""
        outer = arc(x, y, rx, ry, -0.25, 0.25)
        self.polygon(outer + arc(x, y, inner * rx, ry, 0.25, -0.25), colour)

    def gores(
        self, outline: Sequence[Point], edges: Sequence[float], colours: Sequence[Colour]
    ) -> None:
        """Fill slices of a shape, cut at `edges` of its half-width (-1..1).

        `outline` lists the shape's half-widths and heights.
        """
        for low, high, colour in zip(edges, edges[1:], colours, strict=False):
            inner = [(x * low, y) for x, y in outline]
            self.polygon(inner + [(x * high, y) for x, y in reversed(outline)], colour)

    def ink(self) -> np.ndarray:
        """What was drawn, premultiplied (4, h, w) floats in 0..255, from (left, top) on."""
        planes = self._sheet.reduce(ENLARGE).split()
        return np.stack([np.asarray(plane) for plane in planes]).astype(np.float32)


class Figure(NamedTuple):
    """A subject: how it is drawn and how it stands in the landscape."""

    draw: Callable[[Pen, Tones, Chance], None]
    stance: str  # ground, rock, afloat, sky or range
