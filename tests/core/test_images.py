"""Between tensors and pictures: every value to the nearest of 256, nothing broken is shown."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowturbo_core.images import contact_sheet, from_pil, to_pil


def test_every_byte_survives_the_way_out_and_back():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    images = values.float() / 127.5 - 1
    assert torch.equal(from_pil(to_pil(images)), values)


@pytest.mark.parametrize(
    ("value", "byte"),
    [(-1.0, 0), (1.0, 255), (-7.0, 0), (7.0, 255), (0.001, 128), (-0.001, 127), (0.0036, 128)],
)
def test_values_are_rounded_to_the_nearest_and_clamped(value, byte):
    picture = to_pil(torch.full((1, 3, 2, 2), value))[0]
    assert set(np.asarray(picture).ravel()) == {byte}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pictures_come_in_order_and_upright(dtype):
    images = -torch.ones(2, 3, 4, 6, dtype=dtype)
    images[1, 0, 0, 5] = 1  # the second picture: top right, red
    first, second = to_pil(images)
    assert first.size == second.size == (6, 4)
    assert first.mode == "RGB"
    assert np.asarray(first).max() == 0
    assert second.getpixel((5, 0)) == (255, 0, 0)
    assert np.asarray(second).sum() == 255


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_broken_value_is_an_error_never_a_black_picture(value):
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 3] = value
    with pytest.raises(FloatingPointError):
        to_pil(images)


def test_pictures_of_other_modes_become_rgb():
    grey, transparent = Image.new("L", (4, 2), 7), Image.new("RGBA", (4, 2), (1, 2, 3, 4))
    tensor = from_pil([grey, transparent])
    assert tensor.shape == (2, 3, 2, 4)
    assert tensor.dtype == torch.uint8
    assert tensor[0].unique().tolist() == [7]
    assert tensor[1, :, 0, 0].tolist() == [1, 2, 3]


def test_a_contact_sheet_lays_pictures_out_in_rows():
    pictures = [Image.new("RGB", (4, 3), colour) for colour in ("red", "green", "blue")]
    sheet = contact_sheet(pictures, columns=2, gap=1)
    assert sheet.size == (9, 7)
    assert sheet.getpixel((0, 0)) == (255, 0, 0)
    assert sheet.getpixel((5, 0)) == (0, 128, 0)
    assert sheet.getpixel((0, 4)) == (0, 0, 255)
    assert sheet.getpixel((4, 0)) == sheet.getpixel((8, 6)) == (255, 255, 255)
