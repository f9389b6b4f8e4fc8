"""Masks: what is outside stays as it is, bit for bit, and what is painted is all that was meant."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from flowturbo_core.masks import (
    MAX_FEATHER,
    MAX_GROWTH,
    Crop,
    crop_box,
    feather_inward,
    flood,
    grow,
    iou,
    outpaint,
    to_latents,
)


def some_mask(shape=(23, 31), share=0.05, seed=0):
    return np.random.default_rng(seed).random(shape) < share


def rectangle(shape, left, top, right, bottom):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def distances(mask):
    """Return how far each pixel is from the nearest of a mask, by trying all of them."""
    rows, columns = np.indices(mask.shape)
    at = np.argwhere(mask)[:, :, None, None]
    return np.sqrt((rows - at[:, 0]) ** 2 + (columns - at[:, 1]) ** 2).min(axis=0)


# Growing and fading


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 13, 40])
def test_a_mask_grows_by_all_that_is_within_so_many_pixels_of_it(pixels):
    mask = some_mask(share=0.01)
    assert np.array_equal(grow(mask, pixels), distances(mask) <= pixels)


@pytest.mark.parametrize("pixels", [1, 2, 5, 13])
def test_a_mask_shrinks_by_all_that_is_within_so_many_pixels_of_its_outside(pixels):
    mask = ~some_mask(share=0.01)
    mask[:, 20:] = False
    assert np.array_equal(grow(mask, -pixels), distances(~mask) > pixels)


def test_growth_is_monotone_and_leaves_the_mask_that_was_given():
    mask = some_mask(share=0.5)
    before = mask.copy()
    grown = [grow(mask, pixels) for pixels in range(-4, 5)]
    assert all(not (less & ~more).any() for less, more in zip(grown, grown[1:], strict=False))
    assert np.array_equal(mask, before)
    grown[4][:] = True  # by nothing: a copy all the same
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("pixels", [-MAX_GROWTH, -3, 0, 3, MAX_GROWTH])
def test_nothing_stays_nothing_and_all_stays_all(pixels):
    assert not grow(np.zeros((5, 7), bool), pixels).any()
    assert grow(np.ones((5, 7), bool), pixels).all()  # the picture's edge is no edge of the mask


@pytest.mark.parametrize("pixels", [0, 1, 4, 9, MAX_FEATHER])
def test_an_alpha_is_zero_outside_the_mask_and_rises_with_the_distance_inside(pixels):
    mask = rectangle((40, 50), 3, 6, 44, 40)  # it touches the lower edge, which it fades not from
    mask[20, 30] = False
    alpha = feather_inward(mask, pixels)
    assert alpha.dtype == np.float32
    assert not alpha[~mask].any()
    expected = np.minimum(distances(~mask) / (pixels + 1), 1)
    np.testing.assert_allclose(alpha, expected, atol=1e-6)
    assert (alpha[mask] > 0).all()


def test_a_whole_mask_has_no_edge_to_fade_from_and_an_empty_one_no_alpha():
    assert (feather_inward(np.ones((4, 5), bool), 3) == 1).all()
    assert not feather_inward(np.zeros((4, 5), bool), 3).any()


BROKEN_NUMBERS = [float("nan"), float("inf"), None, "3", 2.5, True]


@pytest.mark.parametrize("pixels", [*BROKEN_NUMBERS, MAX_GROWTH + 1, -MAX_GROWTH - 1])
def test_a_growth_that_is_no_whole_number_in_its_range_is_refused(pixels):
    with pytest.raises(ValueError, match="growth must be a whole number"):
        grow(some_mask(), pixels)


@pytest.mark.parametrize("pixels", [*BROKEN_NUMBERS, -1, MAX_FEATHER + 1])
def test_a_feather_that_is_no_whole_number_in_its_range_is_refused(pixels):
    with pytest.raises(ValueError, match="feather must be a whole number"):
        feather_inward(some_mask(), pixels)


@pytest.mark.parametrize(
    "mask",
    [np.zeros((3, 4)), np.zeros((3, 4, 1), bool), np.zeros((0, 4), bool), [[True]], None],
    ids=["floats", "three dimensions", "no pixels", "a list", "nothing"],
)
def test_what_is_no_mask_is_refused_by_all(mask):
    calls = (
        lambda: grow(mask, 1),
        lambda: feather_inward(mask, 1),
        lambda: to_latents(mask, 1),
        lambda: iou(mask, mask),
        lambda: crop_box(mask, (4, 3), 8, 8, 0),
        lambda: Crop((0, 0, 4, 3), (8, 8)).take_mask(mask),
    )
    for call in calls:
        with pytest.raises(ValueError, match="a mask must be a bool array"):
            call()


# Latents


@pytest.mark.parametrize("factor", [1, 2, 8])
def test_a_cell_is_sampled_if_it_or_a_neighbour_has_a_painted_pixel(factor):
    mask = some_mask((5 * factor, 6 * factor), share=0.1 / factor**2, seed=3)
    mask[-1, -1] = True
    latents = to_latents(mask, factor)
    assert latents.shape == (5, 6)
    for row in range(5):
        for column in range(6):
            near = mask[
                max(row - 1, 0) * factor : (row + 2) * factor,
                max(column - 1, 0) * factor : (column + 2) * factor,
            ]
            assert latents[row, column] == near.any()


def test_one_pixel_in_a_cell_is_enough():
    mask = np.zeros((64, 64), bool)
    mask[31, 24] = True  # the last row of its cell, and the first column
    assert np.array_equal(to_latents(mask, 8), rectangle((8, 8), 2, 2, 5, 5))


@pytest.mark.parametrize("factor", [*BROKEN_NUMBERS, 0, -8, 5])
def test_cells_that_do_not_divide_the_mask_are_refused(factor):
    with pytest.raises(ValueError, match="factor must be|does not divide"):
        to_latents(np.ones((16, 16), bool), factor)


def test_iou_counts_what_both_have_of_what_either_has():
    a, b = rectangle((10, 10), 0, 0, 4, 4), rectangle((10, 10), 2, 0, 6, 4)
    assert iou(a, b) == iou(b, a) == 8 / 24
    assert iou(a, a) == 1
    assert iou(a, rectangle((10, 10), 6, 6, 8, 8)) == 0
    assert iou(a & ~a, b & ~b) == 1
    with pytest.raises(ValueError, match="shape"):
        iou(a, b.T[:5])


# The crop


def sides(box):
    return box[2] - box[0], box[3] - box[1]


def test_a_small_mask_is_worked_on_at_the_models_size_and_in_its_middle():
    mask = rectangle((1000, 1200), 600, 500, 640, 520)
    assert crop_box(mask, (1200, 1000), 256, 8, 32) == (492, 382, 748, 638)


def test_a_box_is_moved_into_the_picture():
    mask = rectangle((1000, 1200), 1190, 0, 1200, 10)
    assert crop_box(mask, (1200, 1000), 256, 8, 32) == (944, 0, 1200, 256)


def test_a_large_mask_has_its_context_and_the_models_proportions():
    mask = rectangle((3000, 4000), 1000, 1000, 2000, 1100)
    box = crop_box(mask, (4000, 3000), (512, 256), 16, 100)
    assert box == (900, 746, 2100, 1354)  # 100 on each side; 600 is no multiple of 16, 608 is
    mask = rectangle((3000, 4000), 1000, 1000, 1100, 2000)
    assert crop_box(mask, (4000, 3000), (256, 512), 16, 100) == (746, 900, 1354, 2100)


def test_context_is_not_counted_beyond_the_picture():
    mask = rectangle((3000, 4000), 10, 1000, 1000, 1100)
    assert crop_box(mask, (4000, 3000), 512, 8, 64) == (0, 518, 1064, 1582)


def test_a_picture_of_the_models_size_is_its_own_box():
    mask = rectangle((384, 512), 3, 3, 500, 20)
    assert crop_box(mask, (512, 384), (512, 384), 8, 64) == (0, 0, 512, 384)


def test_a_smaller_picture_gives_the_largest_box_inside_it():
    mask = rectangle((100, 300), 10, 10, 40, 40)
    box = crop_box(mask, (300, 100), 512, 8, 64)
    assert sides(box) == (96, 96)
    assert box[0] >= 0 and box[1] >= 0 and box[3] <= 100


@pytest.mark.parametrize(
    "width, height", [(1, 1), (20_000, 1), (1, 20_000), (100, 100), (2000, 300), (127, 129)]
)
@pytest.mark.parametrize("side", [128, (128, 64)])
def test_every_box_holds_the_mask_in_multiples_whatever_the_picture(width, height, side):
    for part in (1, 2, 3):
        mask = rectangle((height, width), 0, 0, -(-width // part), -(-height // part))
        box = crop_box(mask, (width, height), side, 8, 16)
        left, top, right, bottom = box
        assert left <= 0 and top <= 0  # the mask begins there
        assert right >= -(-width // part) and bottom >= -(-height // part)
        assert not (right - left) % 8 and not (bottom - top) % 8


def test_a_mask_that_paints_nothing_has_no_box():
    with pytest.raises(ValueError, match="paints nothing"):
        crop_box(np.zeros((8, 8), bool), (8, 8), 8, 8, 0)


@pytest.mark.parametrize(
    "picture_size, side, multiple, context",
    [
        ((9, 8), 8, 8, 0),
        ((8, 8), float("nan"), 8, 0),
        ((8, 8), (8, 0), 8, 0),
        ((8, 8), 8, 0, 0),
        ((8, 8), 8, -8, 0),
        ((8, 8), 8, 8, -1),
        ((8, 8), 8, 8, float("nan")),
    ],
)
def test_a_box_of_impossible_numbers_is_refused(picture_size, side, multiple, context):
    with pytest.raises(ValueError, match="must be"):
        crop_box(np.ones((8, 8), bool), picture_size, side, multiple, context)


@pytest.mark.parametrize("box", [(8, 4, 40, 36), (-5, -7, 75, 73), (3, 4, 99, 100)])
def test_what_is_taken_and_pasted_back_changes_nothing_where_alpha_is_zero(box):
    original = noise(64, 70)
    before = original.tobytes()
    crop = Crop(box, (32, 32))
    taken = crop.take(original)
    assert taken.size == (32, 32) and taken.mode == "RGB"
    mask = rectangle((70, 64), max(box[0], 0) + 3, 9, 34, 33)
    alpha = feather_inward(mask, 4)
    result = crop.paste_back(original, noise(32, 32, seed=1), alpha)
    assert original.tobytes() == before
    assert result.size == original.size and result.mode == "RGB"
    old, new = np.asarray(original), np.asarray(result)
    assert np.array_equal(old[alpha == 0], new[alpha == 0])
    assert (old[alpha == 1] != new[alpha == 1]).any()


def test_all_of_a_paste_at_the_same_size_is_the_painted_picture_bit_for_bit():
    original, painted = noise(40, 40), noise(16, 16, seed=1)
    crop = Crop((8, 16, 24, 32), (16, 16))
    assert crop.take(original).tobytes() == original.crop(crop.box).tobytes()
    alpha = rectangle((40, 40), *crop.box).astype(np.float32)
    result = crop.paste_back(original, painted, alpha)
    assert result.crop(crop.box).tobytes() == painted.tobytes()
    assert crop.paste_back(original, painted, alpha * 0).tobytes() == original.tobytes()


def test_a_blend_is_the_stated_one_of_bytes():
    values = np.arange(256, dtype=np.uint8)
    original = Image.fromarray(np.repeat(values[None, :, None], 3, axis=2).repeat(256, axis=0))
    painted = Image.fromarray(255 - np.asarray(original))
    a = values[:, None].astype(int)
    result = Crop((0, 0, 256, 256), (256, 256)).paste_back(
        original, painted, np.repeat(a / 255, 256, axis=1)
    )
    o = values[None, :].astype(int)
    expected = (o * (255 - a) + (255 - o) * a + 127) // 255
    assert np.array_equal(np.asarray(result)[:, :, 0], expected)


def test_beyond_the_picture_its_outermost_pixels_are_repeated_and_nothing_is_painted():
    crop = Crop((-2, -1, 6, 7), (8, 8))
    taken = np.asarray(crop.take(noise(4, 5)))
    old = np.asarray(noise(4, 5))
    assert np.array_equal(taken[1:6, 2:6], old)
    assert (taken[:, :2] == taken[:, 2:3]).all() and (taken[6:] == taken[5:6]).all()
    assert np.array_equal(crop.take_mask(np.ones((5, 4), bool)), rectangle((8, 8), 2, 1, 6, 6))


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (64, 64), (128, 128), (50, 30)])
def test_no_painted_pixel_is_lost_when_a_mask_is_resized(size):
    for row, column in ((0, 0), (31, 17), (63, 63)):
        mask = rectangle((64, 64), column, row, column + 1, row + 1)
        assert Crop((0, 0, 64, 64), size).take_mask(mask).any()


@pytest.mark.parametrize(
    "alpha",
    [
        np.full((8, 8), np.nan, np.float32),
        np.full((8, 8), -0.1),
        np.full((8, 8), 1.1),
        np.ones((8, 9)),
        None,
    ],
)
def test_an_alpha_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        Crop((0, 0, 8, 8), (8, 8)).paste_back(noise(8, 8), noise(8, 8), alpha)


def test_what_was_not_painted_cannot_be_pasted():
    crop = Crop((0, 0, 4, 4), (8, 8))
    with pytest.raises(ValueError, match="out of the box"):
        crop.paste_back(noise(8, 8), noise(8, 8), np.ones((8, 8)))
    with pytest.raises(ValueError, match="not .8, 8. as the crop"):
        crop.paste_back(noise(8, 8), noise(9, 8), np.zeros((8, 8)))
    with pytest.raises(ValueError, match="RGB"):
        crop.take(Image.new("L", (8, 8)))
    with pytest.raises(ValueError, match="holds nothing"):
        Crop((8, 0, 16, 8), (8, 8)).take(noise(8, 8))


# Beyond the edge


def test_an_outpainted_picture_repeats_its_edge_and_fades_into_the_old():
    old = noise(12, 10)
    extended, alpha = outpaint(old, left=3, top=0, right=0, bottom=5, ramp=3)
    assert extended.size == (15, 15)
    assert extended.crop((3, 0, 15, 10)).tobytes() == old.tobytes()
    pixels = np.asarray(extended)
    assert (pixels[:, :3] == pixels[:, 3:4]).all() and (pixels[10:] == pixels[9:10]).all()
    assert alpha.shape == (15, 15) and alpha.dtype == np.float32
    assert (alpha[:, :3] == 1).all() and (alpha[10:] == 1).all()
    np.testing.assert_allclose(alpha[0, 3:8], [0.75, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(alpha[5:10, 14], [0, 0, 0.25, 0.5, 0.75])
    assert not alpha[:7, 6:].any()  # the sides that do not grow stay as they are


def test_without_a_ramp_the_old_picture_is_not_painted():
    _, alpha = outpaint(noise(1, 1), 1, 1, 1, 1, 0)
    assert np.array_equal(alpha == 0, rectangle((3, 3), 1, 1, 2, 2))


@pytest.mark.parametrize(
    "added, ramp, sentence",
    [
        ((0, 0, 0, 0), 0, "on no side"),
        ((-1, 0, 0, 8), 0, "pixels on the left"),
        ((0, float("nan"), 0, 8), 0, "pixels on the top"),
        ((8, 0, 0, 0), 10, "ramp must be a whole number from 0 to 9"),
        ((8, 0, 8, 0), 5, "ramp must be a whole number from 0 to 4"),
        ((8, 0, 0, 0), -1, "ramp"),
        ((8, 0, 0, 0), float("nan"), "ramp"),
        ((20_000, 0, 0, 0), 0, "20,010 x 10"),
        ((9000, 9000, 0, 0), 0, "million pixels"),
    ],
)
def test_an_impossible_outpainting_is_refused(added, ramp, sentence):
    with pytest.raises(ValueError, match=sentence):
        outpaint(noise(10, 10), *added, ramp)


# From clicks


def scene():
    """Return a picture of a disc of two colours on a sky that grows brighter, and its mask."""
    sky = np.linspace(90, 200, 96)[:, None, None] * np.array([0.5, 0.7, 1.0])
    image = Image.fromarray(np.repeat(sky, 128, axis=1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 20, 90, 70), fill=(200, 40, 30))
    draw.chord((40, 20, 90, 70), 0, 180, fill=(150, 40, 40))
    shape = Image.new("1", image.size)
    ImageDraw.Draw(shape).ellipse((40, 20, 90, 70), fill=1)
    return image, np.asarray(shape)


def test_one_click_finds_what_stands_out_from_what_is_around():
    image, truth = scene()
    for point in ((65, 30), (50, 60)):
        assert iou(flood(image, [point], [], 30), truth) > 0.95


def test_a_negative_click_takes_away_and_a_positive_one_adds():
    image, truth = scene()
    lower = truth.copy()
    lower[:46] = False
    assert iou(flood(image, [(65, 60)], [(65, 30)], 30), lower) > 0.95
    draw = ImageDraw.Draw(image)
    draw.rectangle((100, 70, 120, 90), fill="black")
    both = truth | rectangle(truth.shape, 100, 70, 121, 91)
    assert iou(flood(image, [(65, 60), (110, 80)], [], 30), both) > 0.95


def test_a_larger_tolerance_never_gives_a_smaller_mask():
    image = noise(40, 30)
    masks = [flood(image, [(20, 15)], [(3, 3)], tolerance) for tolerance in (0, 10, 50, 255)]
    assert all(not (less & ~more).any() for less, more in zip(masks, masks[1:], strict=False))
    assert masks[-1].sum() > masks[0].sum()
    assert all(mask[15, 20] and not mask[3, 3] for mask in masks)


def test_clicks_on_a_large_picture_mean_the_same_places():
    image, truth = scene()
    large = image.resize((1280, 960), Image.Resampling.NEAREST)
    mask = flood(large, [(650, 300)], [], 30)
    assert mask.shape == (960, 1280)
    assert iou(mask, truth.repeat(10, axis=0).repeat(10, axis=1)) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 1), (2, 2)])
def test_the_smallest_pictures_are_flooded_too(size):
    assert flood(Image.new("RGB", size), [(0, 0)], [], 0)[0, 0]


@pytest.mark.parametrize(
    "points, negative_points, tolerance, sentence",
    [
        ([], [], 30, "click at least once"),
        ([(128, 0)], [], 30, "x of the points must be a whole number from 0 to 127"),
        ([(0, 96)], [], 30, "y of the points must be a whole number from 0 to 95"),
        ([(0, -1)], [], 30, "y of the points"),
        ([(float("nan"), 0)], [], 30, "x of the points"),
        ([(1, 2, 3)], [], 30, "pairs"),
        ([(1, 2)], [(1, 2)], 30, r"\(1, 2\) is clicked as wanted and as not wanted"),
        ([(1, 2)], [(1, 96)], 30, "y of the negative points"),
        ([(1, 2)] * 101, [], 30, "at most 100"),
        ([(1, 2)], [], float("nan"), "tolerance"),
        ([(1, 2)], [], -1, "tolerance"),
        ([(1, 2)], [], 256, "tolerance"),
    ],
)
def test_impossible_clicks_are_refused(points, negative_points, tolerance, sentence):
    with pytest.raises(ValueError, match=sentence):
        flood(scene()[0], points, negative_points, tolerance)
