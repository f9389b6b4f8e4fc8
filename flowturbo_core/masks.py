"""Masks: how they grow and fade, the crop that they are painted in, and how it is put back.

A mask is an array (H, W) of bool, True where a picture is painted. An alpha is one of floats in
[0, 1], how much of what was painted is seen. All functions leave their arguments as they are, and
raise ValueError, in one sentence, for what they do not take.
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flowturbo_core.checks import brief, real_number, whole_number
from flowturbo_core.pictures import MAX_OPENED_PIXELS, MAX_OPENED_SIDE

MAX_GROWTH = 1024  # pixels, of growing and of shrinking
MAX_FEATHER = 128  # pixels
MAX_CLICKS = 100
MAX_TOLERANCE = 255
_FLOOD_SIDE = 256  # pixels; a larger picture is flooded at this size
_SHADING, _EDGE = 2, 40  # levels of 255; less is no edge, and more is none the harder to cross
_COST_OF_ONE = 16  # whole numbers make floods the same everywhere
_UNREACHED = 10**9  # more than any way costs

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the picture


# Growing and fading -------------------------------------------------------------------------


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return a mask with all that is at most `pixels` from it, in a straight line; bool (H, W).

    A negative number shrinks the mask by as much. The picture's edge is no edge of the mask, and
    is not shrunk from.
    """
    _check_mask(mask)
    pixels = whole_number("growth", pixels, -MAX_GROWTH, MAX_GROWTH)
    if pixels >= 0 or not mask.any():
        return _dilated(mask, max(pixels, 0))
    shrunk, window = np.zeros_like(mask), _window(mask, 1)
    shrunk[window] = ~_dilated(~mask[window], -pixels)
    return shrunk


def feather_inward(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return an alpha, float32 (H, W), that rises over `pixels` pixels from the mask's edge inward.

    It is 0 everywhere outside the mask, d / (pixels + 1) at d pixels from the nearest pixel
    outside, and 1 from there on. The picture's edge is no edge of the mask.
    """
    _check_mask(mask)
    pixels = whole_number("feather", pixels, 0, MAX_FEATHER)
    alpha = mask.astype(np.float32)
    if not pixels or not mask.any():
        return alpha
    window = _window(mask, 1)
    part = mask[window]
    rows, columns = np.nonzero(part & ~grow(part, -pixels - 1))  # all whose alpha is below 1
    down = _distance_down(~part)
    squared = down[rows, columns].astype(np.int64) ** 2
    for across in range(1, pixels + 2):
        near = np.flatnonzero(squared > across**2)  # farther columns cannot be nearer to others
        for side in (-across, across):
            at = columns[near] + side
            inside = (at >= 0) & (at < part.shape[1])
            found = down[rows[near[inside]], at[inside]].astype(np.int64) ** 2 + across**2
            squared[near[inside]] = np.minimum(squared[near[inside]], found)
    alpha[window][rows, columns] = np.sqrt(squared) / (pixels + 1)
    return alpha


def to_latents(mask: np.ndarray, factor: int) -> np.ndarray:
    """Return the cells that are sampled for a mask: bool (H / factor, W / factor).

    A cell is sampled if any of its factor x factor pixels is painted, or any pixel of the eight
    cells around it: an encoder mixes neighbours.
    """
    _check_mask(mask)
    factor = whole_number("factor", factor, 1, MAX_OPENED_SIDE)
    height, width = mask.shape
    if height % factor or width % factor:
        raise ValueError(f"a mask of {width} x {height} does not divide into cells of {factor}")
    cells = mask.reshape(height // factor, factor, width // factor, factor).any(axis=(1, 3))
    padded = np.pad(cells, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two masks; 1.0 where both are empty."""
    _check_mask(a)
    _check_mask(b, a.shape)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return what lies within `radius` of a mask.

    A pixel at g rows from the mask's nearest in its column is within reach of the columns up to
    sqrt(radius^2 - g^2) away. So each row is a union of intervals, found by a running count of
    those that begin less those that ended, and the work does not grow with the radius.
    """
    if radius == 0 or not mask.any():
        return mask.copy()
    window = _window(mask, radius)
    part = mask[window]
    down = _distance_down(part)
    rows, columns = np.nonzero(down <= radius)
    reach = np.sqrt(radius**2 - down[rows, columns].astype(np.int64) ** 2).astype(np.int64)
    height, width = part.shape
    line = rows * (width + 1)
    begins = np.bincount(line + np.maximum(columns - reach, 0), minlength=height * (width + 1))
    ends = np.bincount(line + np.minimum(columns + reach + 1, width), minlength=begins.size)
    open_ones = np.cumsum((begins - ends).reshape(height, width + 1), axis=1)
    grown = np.zeros_like(mask)
    grown[window] = open_ones[:, :-1] > 0
    return grown


def _distance_down(mask: np.ndarray) -> np.ndarray:
    """Return how many rows the nearest pixel of a mask in the same column is away; int32 (H, W)."""
    far = 2 * MAX_OPENED_SIDE  # in a column without any
    rows = np.arange(mask.shape[0], dtype=np.int32)[:, None]
    above = rows - np.maximum.accumulate(np.where(mask, rows, np.int32(-far)), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, np.int32(2 * far))[::-1], axis=0)[::-1]
    return np.minimum(np.minimum(above, below - rows), np.int32(far))


def _window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns that hold a mask, and `margin` more on each side."""
    left, top, right, bottom = _bounds(mask)
    height, width = mask.shape
    return (
        slice(max(top - margin, 0), min(bottom + margin, height)),
        slice(max(left - margin, 0), min(right + margin, width)),
    )


def _bounds(mask: np.ndarray) -> Box:
    """Return the smallest box that holds a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("the mask paints nothing: paint white where the picture is to change")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# The crop -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crop:
    """The part of a picture that a model works on.

    Args:
        box: (left, top, right, bottom) in the picture's pixels. It may reach beyond the picture,
            whose outermost pixels are repeated there.
        size: (width, height) that the model works at.
    """

    box: Box
    size: tuple[int, int]

    def take(self, image: Image.Image) -> Image.Image:
        """Return the box of an RGB picture, resized to the model's size."""
        _check_rgb("picture", image)
        part = _padded(np.asarray(image), self.box, "edge")
        return _resized(Image.fromarray(part), self.size)

    def take_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return the box of a mask at the model's size: bool (height, width).

        A pixel is painted if any that it stands for is. Beyond the picture nothing is.
        """
        _check_mask(mask)
        part = Image.fromarray(_padded(mask, self.box, "constant").astype(np.float32))
        return np.asarray(part.resize(self.size, Image.Resampling.BOX)) > 0

    def paste_back(
        self, original: Image.Image, painted: Image.Image, alpha: np.ndarray
    ) -> Image.Image:
        """Put what was painted over a picture, at the picture's resolution.

        What was painted is resized to the box (LANCZOS), and each byte of the result is
        (o (255 - a) + p a + 127) // 255 of those of both and a = round(255 alpha): where alpha
        is 0 it is the original's, bit for bit, and where alpha is 1 what was painted.

        Args:
            original: RGB, (W, H).
            painted: RGB, of the model's size.
            alpha: float (H, W) in [0, 1], and 0 outside the box.
        """
        _check_rgb("picture", original)
        _check_rgb("painted picture", painted)
        if painted.size != self.size:
            raise ValueError(f"the painted picture is {painted.size}, not {self.size} as the crop")
        strength = _in_bytes(alpha, (original.height, original.width))
        left, top, right, bottom = self.box
        inside = (
            slice(max(top, 0), min(bottom, original.height)),
            slice(max(left, 0), min(right, original.width)),
        )
        if np.count_nonzero(strength) != np.count_nonzero(strength[inside]):
            raise ValueError(f"the alpha reaches out of the box {self.box} that was painted")
        resized = np.asarray(_resized(painted, (right - left, bottom - top)))
        rows, columns = inside
        new = resized[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        result = np.array(original)
        a = strength[inside].astype(np.uint16)[:, :, None]  # 255 * 255 + 127 fits
        result[inside] = (result[inside] * (255 - a) + new * a + 127) // 255
        return Image.fromarray(result)


def crop_box(
    mask: np.ndarray,
    picture_size: tuple[int, int],
    side: int | tuple[int, int],
    multiple: int,
    context: int,
) -> Box:
    """Return the box (left, top, right, bottom) around a mask that a model is to work on.

    It holds the mask and `context` pixels around it, and is no smaller than the model's size, so
    that nothing is enlarged without need. Where the picture is too small for that it is the
    largest box in the picture, if that holds the mask; else it holds the mask and its context,
    and reaches beyond the picture. Its proportions are the model's, to the next multiple.

    Args:
        mask: bool (H, W).
        picture_size: (W, H).
        side: of the model's images in pixels, or their (width, height).
        multiple: what both sides of the box are multiples of.
        context: pixels that are seen around the mask.
    """
    width, height = (whole_number("picture size", its, 1, MAX_OPENED_SIDE) for its in picture_size)
    _check_mask(mask, (height, width))
    sides = (side, side) if isinstance(side, numbers.Real) else side
    of_model = tuple(whole_number("side", its, 1, MAX_OPENED_SIDE) for its in sides)
    multiple = whole_number("multiple", multiple, 1, MAX_OPENED_SIDE)
    context = whole_number("context", context, 0, MAX_OPENED_SIDE)
    bounds = left, top, right, bottom = _bounds(mask)
    wide = min(right + context, width) - max(left - context, 0)
    high = min(bottom + context, height) - max(top - context, 0)
    sides = _smallest(max(wide, of_model[0]), max(high, of_model[1]), of_model, multiple)
    if sides[0] > width or sides[1] > height:
        inside = _largest(width, height, of_model, multiple)
        holds = inside[0] >= right - left and inside[1] >= bottom - top
        sides = inside if holds else _smallest(wide, high, of_model, multiple)
    begins = [
        _placed(low, high, length, limit)
        for low, high, length, limit in zip(
            bounds[:2], bounds[2:], sides, (width, height), strict=True
        )
    ]
    return begins[0], begins[1], begins[0] + sides[0], begins[1] + sides[1]


def _smallest(wide: int, high: int, of_model: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the smallest sides of the model's proportions that hold `wide` x `high`."""
    wide = max(wide, -(-high * of_model[0] // of_model[1]))
    high = max(high, -(-wide * of_model[1] // of_model[0]))
    return -(-wide // multiple) * multiple, -(-high // multiple) * multiple


def _largest(wide: int, high: int, of_model: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the largest sides of the model's proportions inside `wide` x `high`; 0 is none."""
    wide = min(wide, high * of_model[0] // of_model[1])
    high = min(high, -(-wide * of_model[1] // of_model[0]))
    return wide // multiple * multiple, high // multiple * multiple


def _placed(low: int, high: int, length: int, limit: int) -> int:
    """Return where a span of `length` begins: in the middle of low..high, and inside 0..limit.

    One that is longer than the limit holds it in its middle.
    """
    if length > limit:
        return -((length - limit) // 2)
    return min(max((low + high - length) // 2, 0), limit - length)


def _padded(array: np.ndarray, box: Box, mode: str) -> np.ndarray:
    """Return the box of an array (H, W, ...), filled in beyond it as numpy's `mode` says."""
    left, top, right, bottom = box
    height, width = array.shape[:2]
    if max(left, 0) >= min(right, width) or max(top, 0) >= min(bottom, height):
        raise ValueError(f"the box {box} holds nothing of a picture of {width} x {height}")
    part = array[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    around = (max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0))
    return np.pad(part, (*around, (0, 0))[: array.ndim], mode=mode)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _in_bytes(alpha: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return round(255 alpha) as uint8, of an alpha that is checked."""
    if not isinstance(alpha, np.ndarray) or alpha.shape != shape:
        raise ValueError(f"the alpha must be an array {shape}, not {_shape(alpha)}")
    if not (alpha.min() >= 0 and alpha.max() <= 1):  # false of NaN too
        raise ValueError("the alpha must be numbers from 0 to 1")
    return np.rint(alpha * np.float32(255)).astype(np.uint8)


# Beyond the edge ----------------------------------------------------------------------------


def outpaint(
    image: Image.Image, left: int, top: int, right: int, bottom: int, ramp: int
) -> tuple[Image.Image, np.ndarray]:
    """Return a picture with so many pixels more on each side, and the alpha of what is painted.

    The new pixels repeat the outermost old ones, which an encoder takes better than any one
    colour. The alpha, float32, is 1 in them, and falls over `ramp` pixels into the old picture,
    d / (ramp + 1) less at d pixels from a new one, so that no seam is seen.
    """
    _check_rgb("picture", image)
    names, added = ("left", "top", "right", "bottom"), (left, top, right, bottom)
    left, top, right, bottom = (
        whole_number(f"pixels on the {name}", its, 0, MAX_OPENED_SIDE)
        for name, its in zip(names, added, strict=True)
    )
    if not (left or top or right or bottom):
        raise ValueError("the picture is to grow on no side: ask for pixels on one")
    width, height = image.width + left + right, image.height + top + bottom
    if max(width, height) > MAX_OPENED_SIDE or width * height > MAX_OPENED_PIXELS:
        raise ValueError(
            f"the larger picture would be {width:,} x {height:,}; at most {MAX_OPENED_SIDE:,} a "
            f"side and {MAX_OPENED_PIXELS // 1_000_000} million pixels are made"
        )
    most = min(
        (length - 1) // max((before > 0) + (after > 0), 1)
        for length, before, after in ((image.width, left, right), (image.height, top, bottom))
        if before or after
    )
    ramp = whole_number("ramp", ramp, 0, most)  # beyond, nothing of the old picture were kept
    extended = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="edge")
    rows = _ramp(image.height, top, bottom, ramp)
    columns = _ramp(image.width, left, right, ramp)
    return Image.fromarray(extended), np.maximum(rows[:, None], columns[None, :])


def _ramp(length: int, before: int, after: int, ramp: int) -> np.ndarray:
    """Return the alpha along a side of an outpainted picture: (before + length + after)."""
    place = np.arange(length)
    into = [place + 1] * (before > 0) + [length - place] * (after > 0)  # pixels from a new one
    nearest = np.min(into, axis=0) if into else np.full(length, ramp + 1)
    old = np.maximum(0, 1 - nearest / (ramp + 1))
    return np.concatenate([np.ones(before), old, np.ones(after)]).astype(np.float32)


# From clicks --------------------------------------------------------------------------------


def flood(
    image: Image.Image,
    points: Sequence[tuple[int, int]],
    negative_points: Sequence[tuple[int, int]],
    tolerance: float,
) -> np.ndarray:
    """Return the mask, bool (H, W), of what is nearer to the clicked points than to anything else.

    How far a pixel is from a point is the sum of the changes of colour on the best way there, by
    rows and columns (Bai and Sapiro, "A geodesic framework", ICCV 2007): both floods run through
    what is even and pay at each edge. Those of the other side begin at the negative points, and
    all around the picture, there with `tolerance` to pay: the larger it is, the larger is the
    mask. A picture of more than 256 pixels a side is flooded at that size.

    Args:
        image: RGB, (W, H).
        points: (x, y) of clicks on what is to be masked, at least one.
        negative_points: (x, y) of clicks on what is not; may be empty.
        tolerance: a sum of changes of colour, each from 0 to 255 and counted up to 40; in pictures
            of even colours, 30 is good.
    """
    _check_rgb("picture", image)
    tolerance = real_number("tolerance", tolerance, 0, MAX_TOLERANCE)
    small = image.copy()
    small.thumbnail((_FLOOD_SIDE, _FLOOD_SIDE), Image.Resampling.BOX)
    wanted = _cells("points", points, image.size, small.size)
    unwanted = _cells("negative points", negative_points, image.size, small.size)
    if not wanted:
        raise ValueError("click at least once on what is to be masked")
    if both := set(wanted) & set(unwanted):
        row, column = min(both)
        x, y = column * image.width // small.width, row * image.height // small.height
        raise ValueError(f"the place ({x}, {y}) is clicked as wanted and as not wanted")
    pixels = np.asarray(small).astype(np.float32)
    across, down = (_costs(np.diff(pixels, axis=axis)) for axis in (1, 0))
    near, far = (np.full(pixels.shape[:2], _UNREACHED) for _ in range(2))
    around = round(tolerance * _COST_OF_ONE)
    far[0] = far[-1] = far[:, 0] = far[:, -1] = around
    for cells, reached in ((wanted, near), (unwanted, far)):
        for cell in cells:
            reached[cell] = 0
    mask = _spread(near, across, down) < _spread(far, across, down)
    for cell in wanted:
        mask[cell] = True  # with no tolerance, one on the picture's edge would be as near to both
    if small.size != image.size:
        mask = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    return mask


def _cells(
    name: str, points: Sequence[tuple[int, int]], size: tuple[int, int], small: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return the (row, column) of clicks (x, y) on a picture of `size` when it is `small`."""
    if len(points) > MAX_CLICKS:
        raise ValueError(f"{name} are at most {MAX_CLICKS}, not {len(points)}")
    cells = []
    for point in points:
        if len(point) != 2:
            raise ValueError(f"{name} must be pairs (x, y), not {brief(point)}")
        x, y = (
            whole_number(f"{axis} of the {name}", its, 0, length - 1)
            for axis, its, length in zip("xy", point, size, strict=True)
        )
        cells.append((y * small[1] // size[1], x * small[0] // size[0]))
    return cells


def _costs(change: np.ndarray) -> np.ndarray:
    """Return what each step of a way costs for its change of colour (..., 3), as whole numbers.

    Less than 2 levels, as shading has, is free but for the least cost, which keeps ways short.
    """
    levels = np.sqrt(np.mean(change**2, axis=-1))
    counted = np.clip(levels - _SHADING, 0, _EDGE)
    return np.rint(counted * _COST_OF_ONE).astype(np.int64) + 1


def _spread(start: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return the cost of the best way to each pixel (H, W), from those whose `start` is low.

    With c the summed cost of a row up to each of its pixels, a way along it costs |c_i - c_j|, so
    that the best of all i before j is the running minimum of start - c, and c_j more. Rows and
    columns are swept both ways until nothing changes.
    """
    along_row = np.pad(np.cumsum(across, axis=1), ((0, 0), (1, 0)))
    along_column = np.pad(np.cumsum(down, axis=0), ((1, 0), (0, 0)))
    cost, before = start, None
    while before is None or not np.array_equal(cost, before):
        before = cost
        for axis, summed in ((1, along_row), (0, along_column)):
            cost = np.minimum.accumulate(cost - summed, axis=axis) + summed
            backward = np.flip(cost + summed, axis)
            cost = np.flip(np.minimum.accumulate(backward, axis=axis), axis) - summed
    return cost


# Checks -------------------------------------------------------------------------------------


def _check_mask(mask: object, shape: tuple[int, int] | None = None) -> None:
    """Raise ValueError unless this is a mask, and of `shape` (H, W) if one is given."""
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.ndim != 2 or not mask.size:
        raise ValueError(f"a mask must be a bool array (H, W), not {_shape(mask)}")
    if shape is not None and mask.shape != shape:
        raise ValueError(f"the mask must be of shape {shape}, not {mask.shape}")


def _check_rgb(what: str, image: object) -> None:
    if not isinstance(image, Image.Image) or image.mode != "RGB":
        given = image.mode if isinstance(image, Image.Image) else brief(image)
        raise ValueError(f"the {what} must be an RGB PIL image, not {given}")


def _shape(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return brief(value)
