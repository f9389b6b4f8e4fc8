"""Folders of pictures as squares of one size. How they are read else, test_fidelity.py says."""

import os

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from flowturbo_core.data.folders import Squares
from flowturbo_core.data.latents import encoded_once
from flowturbo_core.images import from_pil
from flowturbo_core.models.autoencoder import encode_images
from tests.conftest import tiny_vae

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def thirds(size, along):
    """Return a picture of a red, a green and a blue third, beside or above each other."""
    width, height = size
    values = np.zeros((height, width, 3), np.uint8)
    for colour, part in zip((RED, GREEN, BLUE), np.array_split(range(size[along]), 3), strict=True):
        values[(slice(None), part) if along == 0 else part] = colour
    return Image.fromarray(values)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    thirds((60, 20), 0).save(folder / "b wide.png")
    thirds((20, 60), 1).save(folder / "a tall.webp", lossless=True)
    Image.new("L", (7, 7), 100).save(folder / "c small and grey.png")
    (folder / "captions.json").write_text("{}")
    return folder


def test_a_square_is_the_middle_of_its_picture(folder):
    squares = Squares(folder, 16)
    assert [file.name[0] for file in squares.files] == ["a", "b", "c"]
    images, numbers = squares[[2, 1, 0]]
    assert (images.shape, images.dtype) == ((3, 3, 16, 16), torch.uint8)
    assert numbers.tolist() == [2, 1, 0]
    for image, colour in zip(images, ((100, 100, 100), GREEN, GREEN), strict=True):
        # Within: at an edge, what is resized mixes in a little of what is beyond it.
        assert (image[:, 2:-2, 2:-2] == torch.tensor(colour).view(3, 1, 1)).all()
        assert (image - torch.tensor(colour).view(3, 1, 1)).abs().max() < 20


def test_a_picture_is_upright_as_its_camera_says(tmp_path):
    turned = thirds((30, 30), 0).rotate(-90)  # red is up, and the camera says: up is left
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8  # to be turned by a quarter, against the clock
    turned.save(tmp_path / "camera.png", exif=exif)
    image = Squares(tmp_path, 30)[[0]][0][0]
    assert torch.equal(image, from_pil([thirds((30, 30), 0)])[0])


def test_large_pictures_are_averaged_not_sampled(tmp_path):
    fine = np.indices((256, 256)).sum(0) % 2 * 255  # a chessboard of single pixels
    Image.fromarray(fine.astype(np.uint8)).save(tmp_path / "fine.png")
    image = Squares(tmp_path, 16)[[0]][0].float()
    assert (image - 127.5).abs().max() < 3


def test_latents_are_those_of_the_squares_and_cached(folder, tmp_path):
    vae, squares, cache = tiny_vae(), Squares(folder, 16), tmp_path / "cache"

    def encoded(source):
        return encoded_once(vae, source, 3, [source.origin], cache, 0, batch_size=2).tensors

    latents, numbers = encoded(squares)
    expected = encode_images(vae, squares[range(3)][0].float() / 127.5 - 1)
    torch.testing.assert_close(latents.float(), expected, rtol=2e-3, atol=2e-3)
    assert numbers.tolist() == [0, 1, 2]
    again = encoded(Squares(folder, 16))
    assert torch.equal(again[0], latents) and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("change", ["content", "name", "side", "another"])
def test_other_pictures_have_another_origin(folder, change):
    before, first = Squares(folder, 16).origin, folder / "a tall.webp"
    if change == "content":
        Image.new("RGB", (20, 60)).save(first, lossless=True)
        os.utime(first, (1, 1))
    elif change == "name":
        first.rename(folder / "d.webp")
    elif change == "another":
        Image.new("RGB", (9, 9)).save(folder / "d.png")
    assert Squares(folder, 8 if change == "side" else 16).origin != before


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: Image.new("RGBA", (9, 9)).save(f / "d.png"), "d.png.*format is RGBA"),
        (lambda f: (f / "d.png").write_bytes(b"no picture"), "d.png cannot be read as a picture"),
        (lambda f: [file.unlink() for file in f.iterdir()], "holds no pictures"),
        (lambda f: f.rename(f.with_name("elsewhere")), "there is no folder"),
    ],
)
def test_what_cannot_be_read_is_said_before_any_picture_is_decoded(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(ValueError, match=sentence):
        Squares(folder, 16)
