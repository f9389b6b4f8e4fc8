"""How a postcard is composed: sky, landscape, weather, and the subject standing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from flowturbo_core.data.postcards.landscapes import LANDSCAPES, Ground, paint_sky
from flowturbo_core.data.postcards.tools import (
    IMAGE_SIZE,
    Chance,
    Figure,
    Palette,
    Pen,
    Poster,
    Tones,
    luma,
    mix,
    palette_of,
    scatter,
    tones_of,
)

if TYPE_CHECKING:
    from flowturbo_core.data.postcards.scene import Scene

HEIGHTS = {"large": 67.0, "small": 38.0}
CENTRES = {"left": 0.28 * IMAGE_SIZE, "centre": 0.5 * IMAGE_SIZE, "right": 0.72 * IMAGE_SIZE}
FEET = {  # y of the foot of (large, small) subjects
    "ground": (109, 104),
    "rock": (101, 101),
    "afloat": (107, 101),
    "range": (85, 85),
    "sky": (82, 64),
}


def paint(scene: Scene, figure: Figure | None) -> Image.Image:
    """Paint a scene, RGB 128 x 128; figure is None for a scene without a subject."""
    # Streams of their own keep each part as it is when an attribute changes another.
    where, above, land = (Chance(scene.seed, stream) for stream in (1, 2, 3))
    palette = palette_of(scene.time, scene.weather)
    horizon, shift = where.uniform(76, 82), where.uniform(-1.2, 1.2)
    focus = CENTRES[scene.position or where.pick(tuple(CENTRES))] + shift
    poster = Poster(palette.sky, horizon)
    sky = paint_sky(scene, poster, palette, above, horizon)
    ground = Ground(poster, palette, land, sky, horizon, focus)
    landscape = LANDSCAPES[scene.setting]
    landscape.back(ground)
    _weather(scene, poster, palette, slice(0, 9))
    if figure and figure.stance == "range":
        _stand(scene, ground, figure)
        landscape.front(ground)
        if scene.setting == "lake":
            _stand(scene, ground, figure, reflected=int(horizon) + 8)
    else:
        landscape.front(ground)
        if figure:
            _stand(scene, ground, figure)
    landscape.near(ground)
    _weather(scene, poster, palette, slice(9, 18))
    return poster.image()


def _weather(scene: Scene, poster: Poster, palette: Palette, part: slice) -> None:
    """Few bold marks, of which one part falls behind the subject and one before it."""
    if scene.weather not in ("rainy", "snowy"):
        return
    chance = Chance(scene.seed, stream=4)
    drop = mix(palette.sky[-1], (235, 242, 255), 0.6)
    for across, down in scatter(chance, 18)[part]:
        x, y = IMAGE_SIZE * across, IMAGE_SIZE * down
        if scene.weather == "snowy":
            radius = chance.uniform(2.0, 3.0)
            poster.oval(x, y, radius, radius, palette.snow[0], 0.92, 1.6)
        else:
            streak = [(x, y), (x + 2, y), (x - 3.4, y + 16), (x - 5.4, y + 16)]
            poster.shapes([], [streak], (drop, drop), 0.5)


def _stand(scene: Scene, g: Ground, figure: Figure, reflected: int | None = None) -> None:
    """Draw the subject with its shadow or reflection.

    Given the water's edge, draw only its image in the water.
    """
    tones, chance = tones_of(scene.colour, scene.time), Chance(scene.seed, stream=6)
    height, foot = HEIGHTS[scene.size], float(FEET[figure.stance][scene.size == "small"])
    if figure.stance == "sky":
        foot += chance.uniform(-3, 3)
    pen = Pen(g.focus, foot, height, 1 if g.sky.from_left else -1)
    figure.draw(pen, tones, chance)
    ink = pen.ink()
    if reflected:
        _reflect(g.poster, ink, pen, int(foot), reflected)
        return
    if figure.stance == "ground":
        away = 0.11 if g.sky.from_left else -0.11
        g.poster.oval(
            g.focus + away * height,
            foot + 0.5,
            0.34 * height,
            0.05 * height,
            mix(g.palette.meadow[1], (24, 18, 56), 0.55),
            0.5,
            2.5,
        )
    if figure.stance == "afloat":
        _reflect(g.poster, ink, pen, int(foot), int(foot))
    if figure.stance == "rock" and scene.time == "night":
        _beam(g, tones, foot - 0.82 * height)
    _place(g, tones, ink, pen)
    if figure.stance == "afloat":
        g.poster.oval(g.focus, foot + 0.5, 0.42 * height, 1.6, g.palette.foam, 0.75, 1.2)


def _place(g: Ground, tones: Tones, ink: np.ndarray, pen: Pen) -> None:
    """Lay the ink on the poster, over a soft rim that parts its colour from any backdrop."""
    bright = luma(tones.base) > 185
    rim = mix(g.palette.sky[0], (20, 20, 50), 0.35) if bright else g.palette.sky[-1]
    cover = Image.fromarray(ink[3].astype(np.uint8)).filter(ImageFilter.BoxBlur(2))
    soft = np.asarray(cover, dtype=np.float32) * ((0.85 if bright else 0.62) / 255)
    g.poster.cover(soft, rim, pen.left, pen.top)
    region = g.poster.window(pen.left, pen.top, ink.shape[2], ink.shape[1])
    region *= 1 - ink[3] / 255
    region += ink[:3]


def _reflect(poster: Poster, ink: np.ndarray, pen: Pen, foot: int, edge: int) -> None:
    """The subject upside down in the water below `edge`, fading with depth."""
    above = ink[:, : foot - pen.top][:, ::-1][:, : IMAGE_SIZE - edge]
    depth, width = above.shape[1:]
    fade = 0.42 * (1 - np.arange(depth, dtype=np.float32) / (depth + 8))[:, None]
    region = poster.window(pen.left, edge, width, depth)
    region += fade * (above[:3] - above[3] / 255 * region)


def _beam(g: Ground, tones: Tones, lamp: float) -> None:
    """A lighthouse's ray across the night, towards the side that is free."""
    far = g.focus + g.free * 110
    ray = [(g.focus, lamp - 1), (g.focus, lamp + 1), (far, lamp + 14), (far, lamp - 22)]
    g.poster.shapes([], [ray], (tones.glow, tones.glow), 0.28)
