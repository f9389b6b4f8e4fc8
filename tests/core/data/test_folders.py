"""Folders of pictures as squares of one size. How they are read else, test_fidelity.py says."""

import os
import signal

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from flowturbo_core.data.folders import Squares, picture_files
from flowturbo_core.data.workers import read_batches
from flowturbo_core.images import from_pil
from flowturbo_core.models.autoencoder import encode_images
from flowturbo_core.training.latents import encode_once
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
        return encode_once(vae, source, 3, [source.origin], cache, 0, batch_size=2).tensors

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
        (
            lambda f: Image.new("RGBA", (9, 9)).save(f / "d.png"),
            "d.png.*it is transparent in places",
        ),
        (lambda f: (f / "d.png").write_bytes(b"no picture"), "d.png cannot be read as a picture"),
        (lambda f: [file.unlink() for file in f.iterdir()], "holds no pictures"),
        (lambda f: f.rename(f.with_name("elsewhere")), "there is no folder"),
    ],
)
def test_what_cannot_be_read_is_said_before_any_picture_is_decoded(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(ValueError, match=sentence):
        Squares(folder, 16)


def middle(folder, name):
    """Return the colour in the middle of a picture, as a square of its folder."""
    squares = Squares(folder, 8)
    (index,) = [k for k, file in enumerate(squares.files) if file.name == name]
    return squares[[index]][0][0, :, 4, 4].tolist()


@pytest.mark.parametrize("name", ["d.JPG", "d.jfif", "d.bmp", "d.tif", "d.WebP", "d.Png"])
def test_pictures_of_the_common_endings_are_read(folder, name):
    kind = {"j": "JPEG", "b": "BMP", "t": "TIFF", "w": "WEBP", "p": "PNG"}[name[2].lower()]
    Image.new("RGB", (9, 9), GREEN).save(folder / name, kind)
    assert len(Squares(folder, 8)) == 4
    assert np.abs(np.subtract(middle(folder, name), GREEN)).max() < 5


def test_what_systems_leave_beside_pictures_is_none(folder):
    for name in ("._a tall.webp", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "a folder.png").mkdir()
    assert [file.name[0] for file in picture_files(folder)] == ["a", "b", "c"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
def test_a_channel_that_hides_nothing_does_no_harm(folder, mode):
    shade = (255, 255, 255) if mode == "1" else (60, 60, 60)
    picture = Image.new("RGB", (9, 9), shade)
    if mode == "P":
        picture = picture.quantize(4)
    name = "d.tif" if mode == "CMYK" else "d.png"
    picture.convert(mode).save(folder / name, **({"transparency": 3} if mode == "P" else {}))
    assert np.abs(np.subtract(middle(folder, name), shade)).max() < 3


def see_through(folder, mode):
    """Write a picture of which one pixel cannot be seen."""
    picture = Image.new("RGBA", (9, 9), (60, 60, 60, 255))
    picture.putpixel((4, 4), (0, 0, 0, 0))
    options = {}
    if mode == "P":
        picture, options = picture.convert("RGB").quantize(4), {"transparency": 0}
    picture.save(folder / "d.png", **options)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_picture_that_is_transparent_is_refused(folder, mode):
    see_through(folder, mode)
    with pytest.raises(ValueError, match="d.png cannot be read .* it is transparent in places"):
        Squares(folder, 8)


def test_a_film_is_no_picture_but_a_cameras_file_is(folder):
    frames = [Image.new("RGB", (9, 9), colour) for colour in (GREEN, RED)]
    frames[0].save(folder / "d.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(np.subtract(middle(folder, "d.jpg"), GREEN)).max() < 5
    frames[0].save(folder / "e.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="e.webp .*: it is a film of 2 pictures"):
        Squares(folder, 8)


def test_pictures_that_are_not_read_are_not_left_out_in_silence(folder):
    for name in ("d.gif", "e.heic"):
        (folder / name).touch()
    with pytest.raises(ValueError, match="pictures that are not read, 'd.gif', 'e.heic': turn"):
        Squares(folder, 8)


def test_a_link_is_followed_and_one_to_nothing_named(folder, tmp_path):
    Image.new("RGB", (9, 9), GREEN).save(tmp_path / "elsewhere.png")
    (folder / "d.png").symlink_to(tmp_path / "elsewhere.png")
    assert middle(folder, "d.png") == list(GREEN)
    (tmp_path / "elsewhere.png").unlink()
    with pytest.raises(ValueError, match="d.png cannot be read as a picture: .*No such file"):
        Squares(folder, 8)


def noise(file, seed=0, **options):
    values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, **options)


def cut(file):
    file.write_bytes(file.read_bytes()[:-300])


@pytest.mark.parametrize("name", ["d.jpg", "d.png", "d.webp", "d.bmp"])
def test_a_truncated_picture_is_found_out_before_the_long_work(folder, name):
    for other in (name, f"e{name}"):
        noise(folder / other)
    assert len(Squares(folder, 8)) == 5
    for other in (name, f"e{name}"):
        cut(folder / other)
    with pytest.raises(ValueError, match=f"{name} cannot be read as a picture: ") as refusal:
        Squares(folder, 8)
    assert str(refusal.value).endswith(f"; nor can 'e{name}'")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_found_damaged_late_is_one_sentence_and_the_others_are_kept(
    tmp_path, monkeypatch, workers
):
    """Its end is whole, and its middle is not: only decoding tells."""
    folder, cache, encoded = tmp_path / "pictures", tmp_path / "cache", []
    folder.mkdir()
    for k in range(6):
        noise(folder / f"{k}.png", k)
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[:3000] + bytes(100) + whole[3100:])

    def latents_of():
        squares = Squares(folder, 16)
        return encode_once(
            tiny_vae(), squares, len(squares), [squares.origin], cache, workers, 2,
            squares.origin_of,
        ).tensors[0]  # fmt: skip

    def counted(vae, images):
        encoded.append(len(images))
        return encode_images(vae, images)

    monkeypatch.setattr("flowturbo_core.training.latents.encode_images", counted)
    with pytest.raises(ValueError, match="4.png cannot be read as a picture: ") as refusal:
        latents_of()
    assert "\n" not in str(refusal.value) and encoded == [2, 2]
    (folder / "4.png").unlink()
    after = latents_of()
    assert encoded == [2, 2, 1] and len(after) == 5  # the others were not encoded again
    (folder / "4.png").write_bytes(whole)
    assert len(latents_of()) == 6
    torch.testing.assert_close(latents_of()[[0, 1, 2, 3, 5]], after, rtol=0.01, atol=0.01)
    assert [file.suffix for file in cache.iterdir()] == [".npz", ".npz"]


class Dying(torch.utils.data.Dataset):
    """Ends the process that reads it, as a system does that is out of memory."""

    def __getitem__(self, indices):
        os.kill(os.getpid(), signal.SIGKILL)


class Faulty(torch.utils.data.Dataset):
    """Fails as no data should."""

    def __getitem__(self, indices):
        raise KeyError(indices)


def test_a_reading_process_that_is_ended_is_one_sentence():
    with pytest.raises(ValueError, match="was ended by the system, .* fewer --workers") as refusal:
        list(read_batches(Dying(), [[0]], 1))
    assert "\n" not in str(refusal.value)
    with pytest.raises(KeyError):  # a mistake of the program's is told as such
        list(read_batches(Faulty(), [[0]], 0))
