"""The subjects of the postcards, one function each.

They draw with a `Pen` in the subject's own units: (0, 0) is the middle of its foot, y points up,
1 is its height, |x| stays about below 0.5, and light falls from -x. Hardly anything is finer
than 0.04, which is 1.5 pixels of a small subject.
"""

from __future__ import annotations

import math

from flowturbo_core.data.postcards.tools import (
    Chance,
    Colour,
    Figure,
    Pen,
    Point,
    Tones,
    arc,
    bend,
    luma,
    mix,
)


def _leaf(pen: Pen, a: Point, above: Point, b: Point, below: Point, colour: Colour) -> None:
    """The shape between two curves from a to b, drawn towards two control points."""
    pen.polygon(bend(a, above, b) + bend(b, below, a), colour)


def _door(pen: Pen, x: float, half: float, height: float, colour: Colour) -> None:
    """An arched door; `height` is that of its straight sides."""
    pen.polygon([(x - half, 0), *arc(x, height, half, half, 0.5, 0), (x + half, 0)], colour)


def sailboat(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a sailboat."""
    belly = chance.uniform(0.06, 0.12)
    leech = bend((0.07, 0.99), (0.34 + belly, 0.55), (0.45, 0.28), 14)
    luff = bend((-0.02, 0.93), (-0.22 - belly, 0.5), (-0.4, 0.28), 14)
    pen.polygon([(0.05, 0.26), (0.05, 0.99), *leech], tones.shade)
    middle = bend((0.07, 0.99), (0.22, 0.6), (0.25, 0.265))
    pen.polygon([(0.05, 0.26), (0.05, 0.99), *middle], tones.base)
    pen.polygon([(0.0, 0.26), (0.0, 0.93), *luff], tones.light)
    pen.box(0.002, 0.15, 0.048, 1.0, tones.dark)
    stern, bow = (-0.44, 0.22), (0.48, 0.23)
    hull = [
        stern,
        bow,
        *bend(bow, (0.42, 0.05), (0.28, -0.01)),
        (-0.27, -0.01),
        *bend((-0.27, -0.01), (-0.4, 0.06), stern),
    ]
    pen.polygon(hull, tones.wood)
    keel = mix(tones.wood, tones.dark, 0.55)
    pen.polygon(
        [
            *bend((0.28, -0.01), (0.37, 0.03), (0.42, 0.1)),
            *bend((-0.4, 0.1), (-0.37, 0.04), (-0.27, -0.01)),
        ],
        keel,
    )
    pen.polygon([stern, bow, (0.455, 0.155), (-0.425, 0.15)], tones.trim)


def mountains(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw mountains."""
    side, left, right = (chance.uniform(-0.03, 0.03) for _ in range(3))
    _peak(pen, tones, -0.29, 0.5 + left, 0.22)
    _peak(pen, tones, 0.27, 0.58 + right, 0.24)
    _peak(pen, tones, side, 0.88, 0.42)


def _peak(pen: Pen, tones: Tones, x: float, height: float, half: float) -> None:
    """A pyramid with a lit and a shaded flank, parted by a zigzag, under a cap of snow."""
    foot = -0.1
    at = lambda across, up: (x + across * half, foot + up * (height - foot))  # noqa: E731
    pen.polygon([at(-1, 0), at(0, 1), at(1, 0)], tones.shade)
    pen.polygon(
        [at(-1, 0), at(0, 1), at(0.1, 0.62), at(-0.04, 0.44), at(0.16, 0.2), at(0.1, 0)], tones.base
    )
    pen.polygon([at(-1, 0), at(0, 1), at(-0.1, 0.55), at(-0.26, 0.38), at(-0.38, 0)], tones.light)
    snow, snow_shade = tones.trim, tones.trim_shade
    if luma(snow) < 150:  # on white rock, ice
        snow, snow_shade = mix(tones.shade, snow, 0.15), mix(tones.shade, snow, 0.45)
    pen.polygon([at(0, 1), at(-0.3, 0.7), at(-0.16, 0.74), at(-0.06, 0.64), at(0.06, 0.73)], snow)
    pen.polygon([at(0, 1), at(0.06, 0.73), at(0.16, 0.66), at(0.2, 0.74), at(0.3, 0.7)], snow_shade)


def city(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a city."""
    # left, right, height, tone and roof of each tower, from the back row to the front
    towers = (
        (-0.47, -0.3, 0.46, tones.shade, "flat"),
        (0.3, 0.46, 0.52, tones.shade, "dome"),
        (-0.21, -0.02, 0.74, tones.base, "slant"),
        (0.15, 0.34, 0.64, tones.base, "flat"),
        (-0.36, -0.17, 0.56, tones.light, "flat"),
        (-0.04, 0.16, 0.84, tones.light, "spire"),
        (-0.47, -0.29, 0.27, tones.base, "flat"),
        (0.12, 0.29, 0.36, tones.base, "slant"),
        (0.33, 0.475, 0.25, tones.light, "flat"),
    )
    for left, right, height, colour, roof in towers:
        _tower(pen, tones, left, right, height * chance.uniform(0.95, 1.05), colour, roof)


def _tower(
    pen: Pen, tones: Tones, left: float, right: float, height: float, colour: Colour, roof: str
) -> None:
    middle, width = (left + right) / 2, right - left
    side = mix(tones.shade, *((tones.dark, 0.2) if colour == tones.shade else (colour, 0.2)))
    if roof == "spire":
        pen.polygon(
            [(middle - 0.045, height), (middle, height + 0.2), (middle + 0.045, height)], side
        )
    if roof == "dome":
        pen.oval(middle, height, 0.4 * width, 0.4 * width, colour)
    if roof == "slant":
        pen.polygon([(left, height - 0.01), (right, height - 0.01), (left, height + 0.1)], colour)
    pen.box(left, -0.1, right, height, colour)
    pen.box(right - 0.28 * width, -0.1, right, height, side)
    alike = sum(abs(a - b) for a, b in zip(tones.glass, tones.base, strict=True)) < 150
    window = mix(tones.shade, tones.dark, 0.6) if alike else tones.glass
    for k in range(int((height - 0.1) / 0.145)):
        y = height - 0.13 - 0.145 * k
        pen.box(left + 0.03, y, right - 0.28 * width - 0.025, y + 0.065, window)


def balloon(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a balloon."""
    half = bend((0.08, 0.2), (0.36, 0.4), (0.38, 0.63)) + arc(0, 0.63, 0.38, 0.37, 0, 0.25)
    for x in (-1, 1):
        ropes = [(0.085 * x, 0.21), (0.06 * x, 0.1), (0.03 * x, 0.1), (0.05 * x, 0.21)]
        pen.polygon(ropes, tones.dark)
    stripe = tones.trim if chance.happens(0.5) else tones.light
    pen.gores(
        half,
        [-1, -0.66, -0.22, 0.22, 0.66, 1],
        [tones.light, tones.base, stripe, tones.base, tones.shade],
    )
    pen.polygon([(-0.085, 0.205), (0.085, 0.205), (0.12, 0.26), (-0.12, 0.26)], tones.dark)
    pen.box(-0.085, 0.0, 0.085, 0.115, tones.wood)
    pen.box(-0.1, 0.09, 0.1, 0.13, tones.trim)


def tree(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a tree."""
    lean = chance.uniform(-0.03, 0.03)
    pen.polygon([(-0.075, 0), (0.075, 0), (0.045, 0.5), (-0.045, 0.5)], tones.wood)
    pen.polygon([(0.01, 0), (0.085, 0), (0.05, 0.5), (0.01, 0.5)], tones.dark)
    pen.stroke([(0.02, 0.2), (0.14, 0.36)], 0.045, tones.dark)
    blobs = [
        (-0.22, 0.5, 0.2),
        (0.22, 0.5, 0.2),
        (-0.14 + lean, 0.68, 0.22),
        (0.15 + lean, 0.67, 0.22),
        (lean, 0.78, 0.21),
        (0.0, 0.5, 0.22),
    ]
    for x, y, r in blobs:
        pen.oval(x, y, r, r, tones.shade)
    for x, y, r in blobs:
        pen.oval(x - 0.045, y + 0.03, 0.84 * r, 0.82 * r, tones.base)
    for x, y, r in ((-0.22, 0.57, 0.1), (-0.12 + lean, 0.78, 0.12), (-0.02, 0.62, 0.09)):
        pen.oval(x, y, r, 0.8 * r, tones.light)


def flower(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a flower."""
    stem = mix(tones.leaf, tones.dark, 0.1)
    pen.stroke(bend((0.0, 0.0), (0.05, 0.3), (0, 0.6), 6), 0.055, stem)
    _leaf(pen, (0.01, 0.06), (-0.3, 0.08), (-0.34, 0.32), (-0.1, 0.3), mix(stem, tones.trim, 0.2))
    _leaf(pen, (0.01, 0.04), (0.3, 0.04), (0.34, 0.26), (0.1, 0.26), mix(stem, tones.dark, 0.25))
    start = chance.uniform(0, 1)
    for k in (0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 4, 6):  # eight petals, then every other one on top
        angle = 0.785398 * (k + start)
        x, y = 0.2 * math.cos(angle), 0.66 + 0.2 * math.sin(angle)
        lit = tones.light if y - x > 0.8 else tones.base
        pen.turn(angle, x, y)
        pen.oval(x, y, 0.145, 0.09, tones.shade if k % 2 else lit)
    pen.turn(0, 0, 0)
    # the heart is golden, or brown where the petals are nearly so
    heart = (150, 84, 40) if 175 < luma(tones.base) and luma(tones.trim) > 150 else (250, 190, 50)
    pen.oval(0, 0.66, 0.105, 0.105, mix(heart, tones.dark, 0.35))
    pen.oval(-0.012, 0.672, 0.085, 0.085, heart)


def cactus(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a cactus."""
    left, right = chance.uniform(0.32, 0.4), chance.uniform(0.26, 0.34)
    for side, elbow, top, colour in (
        (-1, left, left + 0.34, tones.base),
        (1, right, right + 0.3, tones.shade),
    ):
        bow = bend((0.2 * side, elbow), (0.34 * side, elbow), (0.34 * side, elbow + 0.14), 5)
        pen.stroke([(0, elbow), *bow, (0.34 * side, top)], 0.16, colour)
    pen.stroke([(-0.37, left + 0.14), (-0.37, left + 0.33)], 0.05, tones.light)
    pen.polygon([(-0.14, 0), *arc(0, 0.83, 0.14, 0.14, 0.5, 0), (0.14, 0)], tones.base)
    pen.polygon(
        [
            (0.05, 0),
            *bend((0.05, 0.8), (0.05, 0.92), (0.02, 0.97), 4),
            *arc(0, 0.83, 0.14, 0.14, 0.25, 0),
            (0.14, 0),
        ],
        tones.shade,
    )
    pen.stroke([(-0.085, 0.07), (-0.085, 0.82)], 0.05, tones.light)
    bloom = (255, 214, 92) if tones.base[1] < 125 and tones.base[0] > 170 else (250, 106, 150)
    for x, y in ((-0.07, 0.965), (0.07, 0.965), (0.0, 1.0)):
        pen.oval(x, y, 0.058, 0.05, bloom)


def house(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a house."""
    roof = mix(tones.shade, tones.dark, 0.45)
    front = mix(tones.base, tones.light, 0.45)
    pen.box(0.22, 0.6, 0.34, 0.96, mix(tones.wood, tones.dark, 0.2))
    pen.box(0.2, 0.92, 0.36, 0.98, tones.dark)
    pen.polygon([(-0.42, 0), (-0.42, 0.5), (-0.18, 0.84), (0.06, 0.5), (0.06, 0)], front)
    pen.box(0.06, 0, 0.44, 0.54, mix(tones.base, tones.shade, 0.55))
    pen.polygon([(-0.19, 0.89), (0.29, 0.89), (0.475, 0.5), (0.06, 0.5)], roof)
    gable = [(-0.44, 0.49), (-0.18, 0.85), (0.08, 0.49)]
    pen.stroke(gable, 0.075, mix(roof, tones.trim, 0.16))
    _door(pen, -0.18, 0.09, 0.24, tones.trim)
    _door(pen, -0.18, 0.06, 0.24, tones.dark)
    pen.oval(-0.18, 0.53, 0.085, 0.085, tones.trim)
    pen.oval(-0.18, 0.53, 0.06, 0.06, tones.glass)
    for x in (0.12, 0.28):
        pen.box(x - 0.01, 0.16, x + 0.12, 0.37, tones.trim)
        pen.box(x + 0.015, 0.185, x + 0.095, 0.345, tones.glass)
    if chance.happens(0.5):  # a hedge
        for x in (-0.37, 0.2, 0.37):
            pen.oval(x, 0.03, 0.1, 0.075, tones.leaf)


def planet(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a planet."""
    ring = (240, 208, 152)
    pen.turn(-chance.uniform(0.25, 0.45), 0, 0.5)
    pen.oval(0, 0.5, 0.51, 0.155, mix(ring, tones.dark, 0.4))
    pen.oval(0, 0.5, 0.34, 0.34, tones.base)
    for low, high in ((0.07, 0.19), (-0.27, -0.16)):  # bands: slices of the disc
        ys = [low + (high - low) * k / 6 for k in range(7)]
        edge = [(math.sqrt(0.1156 - y * y), y + 0.5) for y in ys]
        pen.polygon(edge + [(-x, y) for x, y in reversed(edge)], tones.light)
    pen.crescent(0, 0.5, 0.342, 0.342, 0.5, tones.shade)
    front = arc(0, 0.5, 0.51, 0.155, 0.5, 1.0) + arc(0, 0.52, 0.375, 0.085, 1.0, 0.5)
    pen.polygon(front, ring)
    pen.turn(0, 0, 0)


def lighthouse(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a lighthouse."""
    if chance.happens(0.5):  # the keeper's cottage
        pen.box(0.1, 0, 0.42, 0.16, tones.trim)
        pen.box(0.3, 0, 0.42, 0.16, tones.trim_shade)
        pen.polygon([(0.08, 0.15), (0.46, 0.15), (0.4, 0.29), (0.12, 0.29)], tones.base)
    lit = mix(tones.base, tones.light, 0.35)
    cuts = (0.0, 0.2, 0.3, 0.47, 0.56, 0.72)  # two cream bands between three coloured ones
    for k, (low, high) in enumerate(zip(cuts, cuts[1:], strict=False)):
        a, b = 0.19 - 0.1 * low, 0.19 - 0.1 * high
        bright, dim = (tones.trim, tones.trim_shade) if k % 2 else (lit, tones.shade)
        pen.polygon([(-a, low), (a, low), (b, high), (-b, high)], bright)
        pen.polygon([(0.2 * a, low), (a, low), (b, high), (0.2 * b, high)], dim)
    _door(pen, 0, 0.045, 0.09, tones.dark)
    pen.box(-0.17, 0.71, 0.17, 0.76, tones.dark)
    pen.box(-0.095, 0.76, 0.095, 0.88, tones.glow)
    pen.box(-0.022, 0.76, 0.022, 0.88, tones.dark)
    pen.polygon(arc(0, 0.87, 0.14, 0.13, 0, 0.5), tones.base)
    pen.polygon([(0.03, 0.87), *arc(0, 0.87, 0.14, 0.13, 0, 0.25)], tones.shade)


def windmill(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a windmill."""
    lit = mix(tones.base, tones.light, 0.3)
    pen.polygon([(-0.29, 0), (0.29, 0), (0.17, 0.62), (-0.17, 0.62)], lit)
    pen.polygon([(0.07, 0), (0.29, 0), (0.17, 0.62), (0.04, 0.62)], tones.shade)
    pen.box(-0.21, 0.33, 0.21, 0.375, tones.trim)
    pen.polygon(arc(0, 0.6, 0.2, 0.2, 0, 0.5), mix(tones.shade, tones.dark, 0.5))
    _door(pen, 0, 0.07, 0.14, tones.dark)
    white = luma(tones.trim) < 150  # slate sails would not show at night
    sail, dim = (tones.base, tones.shade) if white else (tones.trim, tones.trim_shade)
    start = chance.uniform(0.45, 1.1)
    for k in range(4):
        pen.turn(start + 1.5707963 * k, 0, 0.66)
        pen.box(0.09, 0.66, 0.4, 0.755, sail if k in (1, 2) else dim)
        pen.box(0.0, 0.642, 0.41, 0.678, tones.dark)
    pen.turn(0, 0, 0)
    pen.oval(0, 0.66, 0.055, 0.055, tones.dark)
    pen.oval(0, 0.66, 0.03, 0.03, tones.trim)


def mushroom(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a mushroom."""
    stem, dim = mix((255, 243, 224), tones.dark, 0.08), mix((214, 196, 196), tones.dark, 0.12)
    foot = bend((0.17, 0.03), (0.11, 0.2), (0.1, 0.5))
    pen.oval(0, 0.03, 0.17, 0.045, dim)
    pen.polygon(foot + [(-x, y) for x, y in reversed(foot)], stem)
    pen.polygon([*foot, (0.03, 0.5), (0.05, 0.02)], dim)
    pen.oval(0, 0.47, 0.46, 0.09, mix(tones.shade, tones.dark, 0.45))  # the gills
    hem = bend((-0.47, 0.47), (0, 0.4), (0.47, 0.47))
    pen.polygon(arc(0, 0.47, 0.47, 0.52, 0, 0.5) + hem, tones.base)
    edge = bend((0, 0.99), (0.3, 0.75), (0.2, 0.44))
    pen.polygon(arc(0, 0.47, 0.47, 0.52, 0, 0.25) + edge, tones.shade)
    _leaf(pen, (-0.4, 0.6), (-0.34, 0.84), (-0.1, 0.93), (-0.28, 0.78), tones.light)
    for x, y, r in (
        (-0.17, 0.68, 0.085),
        (0.08, 0.82, 0.07),
        (0.15, 0.59, 0.075),
        (0.35, 0.62, 0.05),
        (-0.36, 0.53, 0.045),
    ):
        pen.oval(x, y, r, 0.85 * r, tones.trim)


def rocket(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a rocket."""
    pen.turn(-chance.uniform(0.1, 0.4), 0, 0.5)
    reach = chance.uniform(-0.02, 0.04)
    for half, tip, colour in ((0.13, 0.0, (255, 140, 50)), (0.075, 0.09, (255, 226, 120))):
        flame = bend((half, 0.24), (half, 0.12), (0, tip + reach))
        pen.polygon(flame + [(-x, y) for x, y in reversed(flame)], colour)
    fin = tones.shade if luma(tones.trim) > 150 else tones.trim
    for side, colour in ((-1, mix(fin, tones.base, 0.35)), (1, fin)):
        curve = bend((0.12 * side, 0.48), (0.31 * side, 0.36), (0.31 * side, 0.17))
        pen.polygon([*curve, (0.1 * side, 0.27)], colour)
    half = bend((0.11, 0.24), (0.26, 0.6), (0.0, 1.0), 14)
    pen.gores(half, [-1, 0.2, 1], [mix(tones.base, tones.light, 0.3), tones.shade])
    nose = [p for p in half if p[1] > 0.76]
    pen.gores(nose, [-1, 0.2, 1], [tones.trim, tones.trim_shade])
    pen.oval(0, 0.58, 0.095, 0.095, tones.trim)
    pen.oval(0, 0.58, 0.065, 0.065, mix(tones.glass, (70, 130, 190), 0.35))
    pen.box(-0.11, 0.21, 0.11, 0.265, tones.dark)


def fish(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw a fish."""
    pen.turn(chance.uniform(0.5, 0.75), 0, 0.57)
    body, upper, lower = (-0.34, 0.57), (0.06, 1.03), (0.06, 0.13)
    nose = (0.48, 0.56)
    pen.polygon(
        [
            (-0.24, 0.6),
            *bend((-0.3, 0.6), (-0.42, 0.64), (-0.56, 0.82)),
            *bend((-0.56, 0.82), (-0.44, 0.57), (-0.54, 0.34)),
            *bend((-0.54, 0.34), (-0.42, 0.5), (-0.3, 0.55)),
            (-0.24, 0.55),
        ],
        tones.shade,
    )
    pen.polygon([(-0.12, 0.7), *bend((-0.14, 0.92), (0.1, 1.02), (0.22, 0.72))], tones.shade)
    pen.polygon([(-0.1, 0.44), *bend((-0.16, 0.24), (0.0, 0.22), (0.1, 0.42))], tones.shade)
    back, belly = bend(body, upper, nose, 14), bend(body, lower, nose, 14)
    pen.polygon(back + belly[::-1], tones.base)
    pen.polygon(belly + bend(nose, (0.06, 0.34), body, 14), mix(tones.trim, tones.light, 0.5))
    for x, top in ((-0.13, 0.71), (0.02, 0.75)):
        pen.polygon([(x, top), (x + 0.075, top + 0.025), (x + 0.06, 0.5), (x, 0.5)], tones.light)
    pen.polygon(
        [
            (0.1, 0.56),
            *bend((0.1, 0.56), (-0.12, 0.5), (-0.1, 0.4)),
            *bend((-0.1, 0.4), (0.06, 0.42), (0.1, 0.56)),
        ],
        tones.shade,
    )
    pen.oval(0.28, 0.62, 0.068, 0.068, (255, 255, 255))
    pen.oval(0.295, 0.62, 0.04, 0.04, (36, 28, 54))
    pen.turn(0, 0, 0)
    for x, rx, ry in ((-0.24, 0.13, 0.06), (0.22, 0.14, 0.07), (-0.02, 0.2, 0.11)):
        pen.polygon(arc(x, -0.01, rx, ry, 0, 0.5), tones.foam)  # the water it stirs up
    for x, y, r in (
        (-0.34, 0.12, 0.03),
        (-0.2, 0.18, 0.04),
        (0.16, 0.17, 0.045),
        (0.3, 0.14, 0.03),
    ):
        pen.oval(x, y, r, 1.15 * r, tones.foam)


def cat(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Sitting, its tail curled up beside it."""
    x = -0.07  # the tail takes the other side
    bib = tones.trim if luma(tones.trim) > 150 else mix(tones.shade, tones.light, 0.35)
    tail = bend((x + 0.18, 0.06), (0.42, 0.02), (0.38, 0.26), 6)
    pen.stroke(tail + bend((0.38, 0.26), (0.35, 0.4), (0.42, 0.5), 4), 0.1, tones.shade)
    flank = bend((x + 0.13, 0.6), (x + 0.27, 0.42), (x + 0.28, 0.0))
    pen.polygon(bend((x - 0.28, 0.0), (x - 0.27, 0.42), (x - 0.13, 0.6)) + flank, tones.base)
    pen.polygon(
        [
            (x + 0.08, 0.6),
            *flank,
            (x + 0.13, 0.0),
            *bend((x + 0.13, 0.0), (x + 0.17, 0.3), (x + 0.08, 0.6)),
        ],
        tones.shade,
    )
    pen.polygon([(x - 0.13, 0.52), *bend((x - 0.13, 0.52), (x, 0.12), (x + 0.13, 0.52))], bib)
    for side, paw in ((-1, tones.light), (1, tones.base)):
        pen.polygon(arc(x + 0.11 * side, 0.0, 0.1, 0.085, 0, 0.5), paw)
    for side, ear in ((-1, tones.base), (1, tones.shade)):
        pen.polygon(
            [
                (x + 0.27 * side, 0.68),
                *bend((x + 0.27 * side, 0.68), (x + 0.28 * side, 0.9), (x + 0.23 * side, 1.0), 4),
                (x + 0.03 * side, 0.86),
            ],
            ear,
        )
        pen.polygon(
            [(x + 0.22 * side, 0.78), (x + 0.205 * side, 0.92), (x + 0.1 * side, 0.85)],
            (240, 150, 165),
        )
    pen.oval(x, 0.7, 0.27, 0.2, tones.base)
    pen.crescent(x, 0.7, 0.27, 0.2, 0.5, mix(tones.base, tones.shade, 0.6))
    for side in (-1, 1):
        pen.oval(x + 0.065 * side, 0.635, 0.075, 0.058, bib)
        pen.oval(x + 0.125 * side, 0.725, 0.055, 0.055, (252, 250, 214))
        pen.oval(x + 0.12 * side, 0.725, 0.034, 0.05, (38, 30, 56))
    pen.polygon([(x - 0.045, 0.685), (x + 0.045, 0.685), (x, 0.635)], (226, 96, 120))


def umbrella(pen: Pen, tones: Tones, chance: Chance) -> None:
    """Draw an umbrella."""
    cloth = mix(tones.base, tones.light, 0.5)
    if chance.happens(0.6):  # a towel on the sand
        pen.polygon([(0.14, 0.0), (0.45, 0.0), (0.48, 0.06), (0.2, 0.06)], tones.trim)
        pen.polygon([(0.24, 0.0), (0.35, 0.0), (0.39, 0.06), (0.29, 0.06)], cloth)
    tilt = chance.uniform(0.05, 0.15)
    pen.turn(tilt, 0, 0.5)
    pen.box(-0.026, -0.01, 0.026, 0.9, tones.wood)
    # five gores under a dome, whose hem hangs in scallops
    second, dim = tones.trim, tones.trim_shade
    if luma(second) < 150:  # on white cloth, a quiet grey
        second, dim = mix(tones.shade, second, 0.35), mix(tones.shade, second, 0.6)
    paints = [tones.light, second, tones.base, dim, tones.shade]
    edges = [-1, -0.64, -0.26, 0.26, 0.64, 1]
    dome = [(0.47 * x, 0.5 + 0.44 * (y - 0.5)) for x, y in arc(0, 0.5, 1, 1, 0, 0.25)]
    pen.gores(dome, edges, paints)
    for low, high, paint in zip(edges, edges[1:], paints, strict=False):
        pen.oval(0.235 * (low + high), 0.5, 0.235 * (high - low), 0.042, paint)
    pen.oval(0, 0.95, 0.035, 0.045, tones.wood)
    pen.turn(0, 0, 0)
    pen.polygon(arc(0.5 * tilt, -0.02, 0.1, 0.05, 0, 0.5), mix(tones.trim, tones.wood, 0.3))


FIGURES = {
    "sailboat": Figure(sailboat, "afloat"),
    "mountains": Figure(mountains, "range"),
    "city": Figure(city, "range"),
    "hot-air balloon": Figure(balloon, "sky"),
    "tree": Figure(tree, "ground"),
    "flower": Figure(flower, "ground"),
    "cactus": Figure(cactus, "ground"),
    "house": Figure(house, "ground"),
    "ringed planet": Figure(planet, "sky"),
    "lighthouse": Figure(lighthouse, "rock"),
    "windmill": Figure(windmill, "ground"),
    "mushroom": Figure(mushroom, "ground"),
    "rocket": Figure(rocket, "sky"),
    "fish": Figure(fish, "afloat"),
    "cat": Figure(cat, "ground"),
    "beach umbrella": Figure(umbrella, "ground"),
}
