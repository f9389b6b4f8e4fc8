"""The skies and landscapes of the postcards, painted in layers from far to near."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowturbo_core.data.postcards.tools import (
    COLUMNS,
    IMAGE_SIZE,
    Chance,
    Palette,
    Point,
    Poster,
    arc,
    bend,
    mix,
    ripple,
    rotate,
    scatter,
)

if TYPE_CHECKING:
    from flowturbo_core.data.postcards.scene import Scene


# Skies --------------------------------------------------------------------------------------


class Sky(NamedTuple):
    """Where the light stands, and whether it falls from the left."""

    x: float
    from_left: bool


def paint_sky(
    scene: Scene, poster: Poster, palette: Palette, chance: Chance, horizon: float
) -> Sky:
    """Stars, sun or moon, and clouds. The light stands opposite to a subject at one side."""
    from_left = {"left": False, "right": True}.get(scene.position or "", chance.happens(0.5))
    x = chance.uniform(14, 36) if from_left else chance.uniform(92, 114)
    y = {
        "dawn": horizon - chance.uniform(6, 16),
        "day": chance.uniform(14, 26),
        "sunset": horizon - chance.uniform(2, 12),
        "night": chance.uniform(15, 27),
    }[scene.time]
    if scene.weather == "rainy" and scene.time in ("day", "night"):
        y += 13  # below the bank of clouds
    veil = {"clear": 1.0, "cloudy": 0.8, "rainy": 0.4, "snowy": 0.7}[scene.weather]
    radius = {"dawn": 10, "day": 8, "sunset": 13, "night": 8.5}[scene.time]
    poster.glow(x, y, 3.2 * radius, palette.glow, 0.75 * veil)
    if scene.time == "night":
        if scene.weather in ("clear", "cloudy"):  # flakes and stars would be mistaken
            _stars(poster, chance, horizon, x, y)
        _moon(poster, palette, chance, x, y, radius, min(1, veil + 0.3))
    else:
        poster.oval(x, y, radius, radius, palette.sun, min(1, veil + 0.25))
    _clouds(scene, poster, palette, chance, horizon)
    return Sky(x, from_left)


def _stars(poster: Poster, chance: Chance, horizon: float, moon_x: float, moon_y: float) -> None:
    for k, (across, down) in enumerate(scatter(chance, chance.whole(8, 12))):
        x, y = IMAGE_SIZE * across, 4 + (0.72 * horizon - 4) * down
        radius = 1.7 if k % 3 == 0 else 1.2
        if abs(x - moon_x) + abs(y - moon_y) > 26:
            poster.oval(x, y, radius, radius, (255, 250, 226), 0.9, 1.3)


def _moon(
    poster: Poster,
    palette: Palette,
    chance: Chance,
    x: float,
    y: float,
    radius: float,
    opacity: float,
) -> None:
    if chance.happens(0.5):
        poster.oval(x, y, radius, radius, palette.sun, opacity)
        return
    sickle = arc(x, y, radius, radius, 0.25, 0.75) + arc(x, y, -0.35 * radius, radius, -0.25, 0.25)
    tilt = chance.uniform(0.3, 0.6)
    poster.shapes([], [rotate(sickle, tilt, x, y)], (palette.sun, palette.sun), opacity)


def _clouds(scene: Scene, poster: Poster, palette: Palette, chance: Chance, horizon: float) -> None:
    count, width, top, low = {
        "clear": (chance.whole(0, 2), (20, 28), 20, 0.6 * horizon),
        "cloudy": (4, (34, 52), 15, 0.62 * horizon),
        "rainy": (4, (46, 60), 8, 22),
        "snowy": (2, (28, 42), 18, 0.55 * horizon),
    }[scene.weather]
    for across, down in scatter(chance, count):
        y = top + (low - top) * down
        _cloud(poster, palette, IMAGE_SIZE * across, y, chance.uniform(*width), chance)


def _cloud(
    poster: Poster, palette: Palette, x: float, y: float, width: float, chance: Chance
) -> None:
    """A flat foot and three round heads; y is the foot."""
    w, lean = width / 2, chance.uniform(-0.15, 0.15)
    ovals = [
        (x + (lean - 0.05) * w, y - 0.3 * w, 0.36 * w, 0.36 * w),
        (x + (lean + 0.42) * w, y - 0.2 * w, 0.27 * w, 0.26 * w),
        (x + (lean - 0.48) * w, y - 0.16 * w, 0.24 * w, 0.22 * w),
        (x - 0.78 * w, y - 0.09 * w, 0.22 * w, 0.1 * w),
        (x + 0.78 * w, y - 0.09 * w, 0.22 * w, 0.1 * w),
    ]
    foot = [
        (x - 0.8 * w, y - 0.19 * w),
        (x + 0.8 * w, y - 0.19 * w),
        (x + 0.8 * w, y + 0.01 * w),
        (x - 0.8 * w, y + 0.01 * w),
    ]
    poster.shapes(ovals, [foot], palette.cloud, 0.92)


# Landscapes ---------------------------------------------------------------------------------


class Ground(NamedTuple):
    """What a landscape needs to know of its picture."""

    poster: Poster
    palette: Palette
    chance: Chance
    sky: Sky
    horizon: float
    focus: float  # x of the subject, or of the empty scene's point of interest

    @property
    def free(self) -> int:
        """The side, -1 or 1, that the subject leaves free."""
        return 1 if self.focus < IMAGE_SIZE / 2 else -1


class Landscape(NamedTuple):
    """Three layers: behind a mountain range or a skyline, before it, and before all."""

    back: Callable[[Ground], None]
    front: Callable[[Ground], None]
    near: Callable[[Ground], None]


def _nothing(g: Ground) -> None:
    """An open view."""


def _slope(g: Ground, level: float, rise: float, swell: float, waves: float) -> np.ndarray:
    """A rolling ridge that climbs by `rise` towards the side the subject leaves free."""
    return ripple(g.chance, level, swell, waves) - g.free * rise * (COLUMNS[0] / 64 - 1)


def _ranges(g: Ground) -> None:
    far, near = g.palette.far
    haze = g.palette.sky[-1]
    g.poster.land(ripple(g.chance, g.horizon - 6, 5, 1.4), (far, mix(far, haze, 0.5)), 16)
    g.poster.land(ripple(g.chance, g.horizon + 1, 3.5, 1.1), (near, mix(near, haze, 0.35)), 18)


def _meadow_front(g: Ground) -> None:
    light, dark = g.palette.meadow
    far = mix(light, g.palette.far[1], 0.35)
    g.poster.land(_slope(g, g.horizon + 7, 4, 2, 0.8), (far, mix(far, dark, 0.35)), 16)
    g.poster.land(_slope(g, g.horizon + 14, -5, 2.5, 0.8), (light, mix(light, dark, 0.6)), 34)
    if g.chance.happens(0.5):
        _path(g)


def _path(g: Ground) -> None:
    """A pale way that winds from the horizon to the lower edge, beside the subject."""
    left, right = [], []
    start = g.horizon + 15
    for k in range(13):
        s = k / 12
        middle = 64 + g.free * (31 + 17 * (1 - s) * math.sin(4.2 * s))
        half, y = 1.2 + 9 * s * s, start + (129 - start) * s
        left.append((middle - half, y))
        right.append((middle + half, y))
    colour = mix(g.palette.sand[0], g.palette.meadow[0], 0.3)
    g.poster.shapes([], [left + right[::-1]], (colour, mix(colour, g.palette.meadow[1], 0.3)))


def _hills_front(g: Ground) -> None:
    light, dark = g.palette.meadow
    hill = mix(light, g.palette.far[1], 0.35)
    g.poster.land(ripple(g.chance, g.horizon + 6, 5, 1.4), (hill, mix(hill, dark, 0.5)), 22)
    _pines(g)
    g.poster.land(_slope(g, g.horizon + 17, -4, 4, 1.0), (light, mix(light, dark, 0.65)), 30)


def _pines(g: Ground) -> None:
    """A grove of firs on the far hill."""
    middle = 64 + g.free * g.chance.uniform(36, 48)
    colour = mix(g.palette.meadow[1], g.palette.far[1], 0.25)
    for k in range(g.chance.whole(2, 4)):
        x, foot = middle + 9 * (k - 1.5), g.horizon + 19
        height = g.chance.uniform(17, 23)
        tree = [(x, foot - height), (x + 4.8, foot), (x - 4.8, foot)]
        g.poster.shapes([], [tree], (mix(colour, g.palette.meadow[0], 0.35), colour))


def _bushes_near(g: Ground) -> None:
    """The dark foreground, with round bushes in the free corner: it gives the picture depth."""
    light, dark = g.palette.meadow
    near = mix(light, dark, 0.8)
    if g.chance.happens(0.6):
        x = 64 + g.free * g.chance.uniform(50, 60)
        bushes = [(x, 122, 13, 12), (x - g.free * 15, 126, 10, 9), (x + g.free * 12, 119, 10, 13)]
        g.poster.shapes(bushes, [], (mix(light, dark, 0.55), dark))
    g.poster.land(_slope(g, 122, 3, 2.5, 0.9), (near, dark), 9)


def _water(g: Ground, level: float) -> None:
    """A gradient under darker bands of swell, the light's road, and a few flat crests."""
    far, deep = g.palette.water
    depth = IMAGE_SIZE - level
    g.poster.land(np.full(IMAGE_SIZE, level, dtype=np.float32), (far, mix(far, deep, 0.75)), depth)
    for share, swell in ((0.34, 1.3), (0.68, 2.2)):
        tone = mix(far, deep, share + 0.16)
        ridge = ripple(g.chance, level + share * depth, swell, 2.2 - share)
        g.poster.land(ridge, (tone, mix(tone, deep, 0.4)), 0.3 * depth)
    for k in range(5):
        half = (9, 5, 8, 12, 7)[k] * g.chance.uniform(0.85, 1.2)
        y = level + 2.5 + k * (4.5 + 0.7 * k)
        g.poster.oval(
            g.sky.x + g.chance.uniform(-1.5, 1.5),
            y,
            half,
            1.0 + 0.18 * k,
            g.palette.sun,
            0.62 - 0.07 * k,
        )
    for across, down in scatter(g.chance, 4):
        x, y = IMAGE_SIZE * across, level + 8 + (depth - 14) * down
        g.poster.oval(x, y, 6 + (y - level) * 0.16, 0.9 + (y - level) * 0.012, g.palette.foam, 0.34)


def _coast_back(g: Ground) -> None:
    if g.chance.happens(0.5):  # a distant coast, opposite to the sun
        far, side = g.palette.far[0], 1 if g.sky.from_left else -1
        ridge = g.horizon - 9 + np.maximum(0, 10 - side * (COLUMNS[0] - 64)) * 0.22
        ridge += ripple(g.chance, 0, 2, 2)
        g.poster.land(ridge, (far, mix(far, g.palette.sky[-1], 0.4)), 12)


def _sea_front(g: Ground) -> None:
    _water(g, g.horizon)


def _shore_front(g: Ground) -> None:
    """The sea, and a rock that rises from it under the point of interest."""
    _water(g, g.horizon)
    light, dark = g.palette.rock
    x, side, top = g.focus, 1 if g.sky.from_left else -1, 99.0
    foam = g.palette.foam
    g.poster.oval(x, 114, 36, 3.4, foam, 0.55, 1.5)
    outline: list[Point] = [
        (x - 32, 114),
        (x - 27, top + 7),
        (x - 17, top),
        (x + 17, top),
        (x + 25, top + 5),
        (x + 31, 114),
    ]
    facet = [
        (x + side * 5, top),
        (x + side * 17, top),
        (x + side * 26, top + 6),
        (x + side * 31, 114),
        (x - side * 1, 114),
        (x + side * 9, top + 7),
    ]
    g.poster.shapes([], [outline], (light, mix(light, dark, 0.45)))
    g.poster.shapes([], [facet], (mix(light, dark, 0.6), dark))
    grass = mix(*g.palette.meadow, 0.25)
    g.poster.shapes([(x, top + 1, 18.5, 3)], [], (grass, mix(grass, g.palette.meadow[1], 0.4)))
    g.poster.oval(x - 12, 114.5, 17, 1.7, foam, 0.9)
    g.poster.oval(x + 17, 114.5, 13, 1.5, foam, 0.9)


def _lake_front(g: Ground) -> None:
    light, dark = g.palette.meadow
    bank = mix(mix(light, dark, 0.45), g.palette.far[1], 0.35)
    g.poster.land(ripple(g.chance, g.horizon + 3, 1.2, 1.6), (mix(bank, light, 0.4), bank), 5)
    _water(g, g.horizon + 7)


def _bank_near(g: Ground) -> None:
    """A green corner of the near bank."""
    light, dark = g.palette.meadow
    rise = np.maximum(0, g.free * (COLUMNS[0] - 64) + 6) * 0.2
    ridge = 128.5 - rise + ripple(g.chance, 0, 0.8, 1.5)
    g.poster.land(ridge, (mix(light, dark, 0.15), dark), 15)


def _desert_back(g: Ground) -> None:
    """Table mountains in the haze."""
    haze, far = g.palette.sky[-1], g.palette.far[0]
    x = 64 + g.free * g.chance.uniform(28, 44)
    top, foot = g.horizon - g.chance.uniform(12, 20), g.horizon + 8
    mesa = [
        (x - 25, foot),
        (x - 17, top + 4),
        (x - 13, top),
        (x + 12, top),
        (x + 17, top + 5),
        (x + 24, foot),
    ]
    g.poster.land(ripple(g.chance, g.horizon - 2, 3, 1.2), (far, mix(far, haze, 0.3)), 10)
    rock = mix(g.palette.desert[1], mix(far, haze, 0.3), 0.45)
    g.poster.shapes([], [mesa], (rock, mix(rock, haze, 0.35)))


def _desert_front(g: Ground) -> None:
    light, dark = g.palette.desert
    pale = mix(light, g.palette.sky[-1], 0.35)
    g.poster.land(ripple(g.chance, g.horizon + 5, 3, 1.2), (pale, light), 18)
    _dune(g, 64 + g.free * g.chance.uniform(14, 36), g.horizon + g.chance.uniform(5, 10))
    g.poster.land(_slope(g, 103, -4, 2, 0.9), (light, mix(light, dark, 0.75)), 30)


def _dune(g: Ground, x: float, y: float) -> None:
    """A great dune: a lit flank, and a lee side behind an S-shaped crest."""
    light, dark = g.palette.desert
    lee = 1 if g.sky.from_left else -1
    left, right = (bend((x, y), (x + k * 45, y + 9), (x + k * 95, y + 36)) for k in (-1, 1))
    g.poster.shapes([], [left[::-1] + right], (light, mix(light, dark, 0.35)))
    crest = bend((x, y), (x + lee * 18, y + 7), (x + lee * 3, y + 17), 8)
    crest += bend((x + lee * 3, y + 17), (x - lee * 8, y + 25), (x + lee * 8, y + 37), 8)
    flank = (right if lee > 0 else left)[::-1]
    tone = mix(light, dark, 0.6)
    g.poster.shapes([], [crest + flank], (tone, mix(tone, light, 0.35)))


def _dune_near(g: Ground) -> None:
    light, dark = g.palette.desert
    g.poster.land(_slope(g, 122, 3, 2.5, 0.9), (mix(light, dark, 0.65), dark), 12)


def _beach_front(g: Ground) -> None:
    _water(g, g.horizon)
    light, dark = g.palette.sand
    edge = _slope(g, g.horizon + 17, -3, 3, 1.1)
    g.poster.land(edge - 3, (g.palette.foam, g.palette.foam), 8)
    g.poster.land(edge, (mix(light, dark, 0.45), mix(light, dark, 0.2)), 6)
    g.poster.land(edge + 6, (light, mix(light, dark, 0.7)), 34)


def _dry_near(g: Ground) -> None:
    """A fold of dry sand in the foreground."""
    light, dark = g.palette.sand
    g.poster.land(_slope(g, 122, 3, 2.5, 0.9), (mix(light, dark, 0.35), mix(light, dark, 0.9)), 14)


LANDSCAPES = {
    "meadow": Landscape(_ranges, _meadow_front, _bushes_near),
    "hills": Landscape(_ranges, _hills_front, _bushes_near),
    "sea": Landscape(_coast_back, _sea_front, _nothing),
    "shore": Landscape(_coast_back, _shore_front, _nothing),
    "lake": Landscape(_ranges, _lake_front, _bank_near),
    "desert": Landscape(_desert_back, _desert_front, _dune_near),
    "beach": Landscape(_nothing, _beach_front, _dry_near),
}
