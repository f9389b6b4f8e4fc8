"""What somebody sends is opened right, or refused in one sentence that says what is allowed."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from flowturbo_core.pictures import (
    ALLOWED,
    MAX_OPENED_SIDE,
    Opened,
    open_mask,
    open_picture,
    picture_hash,
)

ON_WHITE = "its transparent parts were put on white"
SCALED = "its 16 bits a channel were scaled to 8"


def colours(width=7, height=5):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image, file, **options):
    image.save(file, **options)
    return file


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, depth, colour, rows, before=b""):
    """Return a PNG of raw rows, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def written(data, file):
    file.write_bytes(data)
    return file


# What is opened


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", ["a.png", "a.gif", "no ending"])
def test_the_three_formats_are_told_by_their_content(tmp_path, kind, name):
    file = saved(colours(), tmp_path / name, format=kind)
    for source in (file, str(file)):
        opened = open_picture(source)
        assert opened.image.size == (7, 5) and opened.notes == ()
    assert kind != "PNG" or opened.image.tobytes() == colours().tobytes()


def test_an_opened_picture_has_no_file_and_nothing_of_it_but_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    text = PngImagePlugin.PngInfo()
    text.add_text("flowturbo", "{}")
    file = saved(colours(), tmp_path / "a.png", exif=exif, pnginfo=text, dpi=(72, 72))
    opened = open_picture(file)
    os.unlink(file)
    assert type(opened) is Opened and type(opened.image) is Image.Image
    assert opened.image.mode == "RGB" and opened.image.info == {}
    assert not opened.image.getexif()
    assert opened.image.tobytes() == colours().tobytes()


def test_a_picture_in_memory_is_copied():
    given = colours()
    opened = open_picture(given)
    opened.image.putpixel((0, 0), (0, 0, 0))
    assert given.tobytes() == colours().tobytes()


def test_a_picture_that_is_open_elsewhere_stays_open(tmp_path):
    with Image.open(saved(colours(), tmp_path / "a.png")) as given:
        assert open_picture(given).image.tobytes() == colours().tobytes()
        assert given.getpixel((0, 0)) == colours().getpixel((0, 0))


@pytest.mark.parametrize("size", [(1, 1), (MAX_OPENED_SIDE, 1), (1, MAX_OPENED_SIDE), (20_000, 30)])
def test_the_smallest_and_the_widest_are_opened(tmp_path, size):
    assert open_picture(saved(Image.new("RGB", size, "red"), tmp_path / "a.png")).image.size == size


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 128, 129, 255, 256, 257, 32768, 65407, 65535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    file = saved(Image.fromarray(values), tmp_path / "a.png")
    for source in (file, Image.fromarray(values)):
        opened = open_picture(source)
        assert np.array_equal(np.asarray(opened.image)[:, :, 0], expected)
        assert opened.notes == (SCALED,)


@pytest.mark.parametrize("colour, channels", [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_colours_are_scaled_too(tmp_path, colour, channels):
    row = np.full((2, channels), 65535, dtype=">u2")
    row[:, 0] = 0x8000
    opened = open_picture(written(png(2, 1, 16, colour, [row.tobytes()]), tmp_path / "a.png"))
    assert opened.image.getpixel((1, 0))[0] == 128
    assert opened.notes == (SCALED,)


def test_the_transparent_colour_of_sixteen_bits_is_found(tmp_path):
    row = np.array([0x0102, 0x4321], dtype=">u2").tobytes()
    grey = png(2, 1, 16, 0, [row], chunk(b"tRNS", row[:2]))
    row = np.array([0x0102, 0x0304, 0x0506, 0x4321, 0, 0], dtype=">u2").tobytes()
    rgb = png(2, 1, 16, 2, [row], chunk(b"tRNS", row[:6]))
    for data in (grey, rgb):
        opened = open_picture(written(data, tmp_path / "a.png"))
        assert opened.image.getpixel((0, 0)) == (255, 255, 255)
        assert opened.image.getpixel((1, 0))[0] == 0x43
        assert opened.notes == (SCALED, ON_WHITE)


@pytest.mark.parametrize("depth, byte", [(2, 0b01100000), (4, 0b00010010)])
def test_the_transparent_grey_of_few_bits_is_found(tmp_path, depth, byte):
    data = png(2, 1, depth, 0, [bytes([byte])], chunk(b"tRNS", b"\0\1"))
    opened = open_picture(written(data, tmp_path / "a.png"))
    kept = 2 * 85 if depth == 2 else 2 * 17
    assert [opened.image.getpixel((x, 0))[0] for x in (0, 1)] == [255, kept]


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "CMYK", "RGBX"])
def test_other_modes_become_rgb(mode):
    opened = open_picture(Image.new("RGB", (3, 2), "white").convert(mode))
    assert opened.image.mode == "RGB" and opened.image.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_what_is_transparent_is_put_on_white_and_the_rest_is_kept(mode):
    given = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    given.putpixel((1, 0), (0, 0, 0, 0))
    given.putpixel((2, 0), (0, 0, 0, 51))
    if mode == "PA":  # Pillow converts to it without the alpha
        alpha, given = given.getchannel("A"), Image.new("P", given.size)
        given.putpalette([0, 0, 0])
        given.putalpha(alpha)
    given = given.convert("LA").convert(mode) if mode == "La" else given.convert(mode)
    opened = open_picture(given)
    assert [opened.image.getpixel((x, 0))[0] for x in range(3)] == [0, 255, 204]
    assert opened.notes == (ON_WHITE,)


def test_an_opaque_alpha_is_not_worth_a_note():
    opened = open_picture(colours().convert("RGBA"))
    assert opened.notes == () and opened.image.tobytes() == colours().tobytes()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_a_palette_has_its_colours_and_its_transparency(tmp_path, transparency):
    given = Image.new("P", (3, 1))
    given.putpalette([10, 20, 30, 40, 50, 60, 0, 0, 0])
    given.putdata([0, 1, 2])
    file = saved(given, tmp_path / "a.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_picture(file)
    assert opened.image.getpixel((0, 0)) == (10, 20, 30)
    assert opened.image.getpixel((1, 0)) == (255, 255, 255)
    assert opened.image.getpixel((2, 0))[0] == (0 if transparency == 1 else 127)
    assert opened.notes == (ON_WHITE,)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    file = tmp_path / "a"
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    opened = open_picture(file)
    assert opened.image.getpixel((0, 0)) == (255, 0, 0)
    assert opened.notes == ("the first of 3 frames was taken",)


def test_a_telephones_jpeg_that_holds_two_pictures_is_opened(tmp_path):
    file = tmp_path / "a.jpg"
    colours().save(file, "MPO", save_all=True, append_images=[colours()])
    opened = open_picture(file)
    assert opened.image.size == (7, 5) and opened.notes == ("the first of 2 frames was taken",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_turned_picture_is_upright(tmp_path, kind, orientation):
    upright = colours()
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if back is None else upright.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(stored, tmp_path / "a", format=kind, exif=exif, lossless=True)
    opened = open_picture(file)
    assert opened.image.size == (7, 5) and opened.image.tobytes() == upright.tobytes()
    assert opened.notes == ()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(colours(), tmp_path / "a.png", exif=exif)
    assert open_picture(file).image.tobytes() == colours().tobytes()


def test_broken_exif_data_do_not_lose_the_picture(tmp_path):
    file = saved(colours(), tmp_path / "a.png", exif=b"Exif\0\0no TIFF at all")
    opened = open_picture(file)
    assert opened.image.tobytes() == colours().tobytes()
    assert opened.notes == ("its EXIF data cannot be read, so it was not turned",)


# Colours


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile():
    """Return sRGB with its red and green primaries exchanged."""
    data = srgb_profile()
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    swapped = bytearray(data)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(swapped)


def test_an_embedded_profile_is_converted_and_the_alpha_is_kept(tmp_path):
    given = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    given.putpixel((1, 0), (255, 0, 0, 0))
    opened = open_picture(saved(given, tmp_path / "a.png", icc_profile=swapped_profile()))
    red, green, blue = opened.image.getpixel((0, 0))
    assert red < 5 and green > 250 and blue < 5
    assert opened.image.getpixel((1, 0)) == (255, 255, 255)
    assert opened.notes == ("its colours were converted to sRGB", ON_WHITE)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_profile_that_is_srgb_changes_nothing(tmp_path, mode):
    given = colours().convert(mode)
    opened = open_picture(saved(given, tmp_path / "a.png", icc_profile=srgb_profile()))
    assert opened.image.tobytes() == given.convert("RGB").tobytes() and opened.notes == ()


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:300]])
def test_a_broken_profile_is_left_out_and_said(tmp_path, profile):
    opened = open_picture(saved(colours(), tmp_path / "a.png", icc_profile=profile))
    assert opened.image.tobytes() == colours().tobytes()
    assert opened.notes == ("its colour profile cannot be read: its colours were taken as sRGB",)


def test_cmyk_is_converted_and_said(tmp_path):
    given = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    opened = open_picture(saved(given, tmp_path / "a.jpg", quality=100))
    red, green, blue = opened.image.getpixel((4, 4))
    assert red > 240 and green < 15 and blue < 15
    assert opened.notes == ("its CMYK has no colour profile: its colours are approximate",)
    opened = open_picture(saved(given, tmp_path / "b.jpg", icc_profile=srgb_profile()))
    assert opened.notes == ("its colour profile is of other colours, and was left out",)


# What is refused


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and not text.endswith(".") and len(text) < 300
    return text


def bomb():
    """Return a PNG of a few bytes that decodes to 169 megapixels."""
    row = bytes(13_000 // 8)
    return png(13_000, 13_000, 1, 0, [row] * 13_000)


def fake_header(width, height):
    return png(width, height, 8, 2, [])


BAD_FILES = {
    "a text": b"this is no picture\n" * 20,
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "a PNG's signature": b"\x89PNG\r\n\x1a\n",
    "a RIFF without WEBP": b"RIFF\x10\0\0\0WAVEfmt ",
    "zeros": bytes(1000),
    "169 megapixels": bomb,
    "400 megapixels": lambda: fake_header(20_000, 20_000),
    "more than a side may be": lambda: fake_header(MAX_OPENED_SIDE + 1, 1),
    "more pixels than there may be": lambda: fake_header(8001, 8000),
    "no width": lambda: fake_header(0, 5),
    "the largest header": lambda: fake_header(2**31 - 1, 2**31 - 1),
}


@pytest.mark.parametrize("what", BAD_FILES)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_is_no_picture_or_too_large_is_refused(tmp_path, what, name):
    content = BAD_FILES[what]
    file = written(content if isinstance(content, bytes) else content(), tmp_path / name)
    for opener in (open_picture, lambda source: open_mask(source, (9, 9))):
        with pytest.raises(ValueError) as error, warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning of a bomb would be one to the person too
            opener(file)
        sentence = one_sentence(error)
        assert repr(name) in sentence and ALLOWED in sentence


def test_the_bomb_is_small_and_refused_before_it_is_decoded(tmp_path, monkeypatch):
    data = bomb()
    assert len(data) < 25_000
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda its: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="13,000 x 13,000 pixels"):
        open_picture(written(data, tmp_path / "a.png"))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000", "PDF"])
def test_other_formats_are_refused_under_any_name(tmp_path, kind):
    file = saved(colours(32, 32), tmp_path / "a.png", format=kind)
    with pytest.raises(ValueError, match="is no picture that can be read here") as error:
        open_picture(file)
    assert ALLOWED in one_sentence(error)
    if kind not in ("PDF",):
        with Image.open(file) as given, pytest.raises(ValueError, match="is a file of the format"):
            open_picture(given)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kind, share):
    buffer = io.BytesIO()
    colours(64, 64).save(buffer, kind)
    data = buffer.getvalue()[: int(len(buffer.getvalue()) * share)]
    with pytest.raises(ValueError, match="is damaged or cut off|is no picture") as error:
        open_picture(written(data, tmp_path / "a.png"))
    one_sentence(error)


def test_no_damage_of_one_byte_raises_anything_but_a_sentence(tmp_path):
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        options = {"icc_profile": srgb_profile(), "exif": b"Exif\0\0II*\0\x08\0\0\0"}
        colours(9, 9).convert("P" if kind == "PNG" else "RGB").save(buffer, kind, **options)
        good = buffer.getvalue()
        for _ in range(60):
            data = bytearray(good)
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            try:
                open_picture(written(bytes(data), tmp_path / "a.png"))
            except ValueError as error:
                assert "\n" not in str(error)


ADDRESSES = [
    "https://example.com/a.png",
    "HTTP://127.0.0.1/a.png",
    "file:///etc/passwd",
    "ftp://example.com/a.png",
    "data:image/png;base64,iVBORw0KGgo=",
    " data:image/svg+xml,<svg/>" + "x" * 10_000,
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_no_address_is_opened(text):
    with pytest.raises(ValueError, match="is an address, and none is opened") as error:
        open_picture(text)
    one_sentence(error)


@pytest.mark.parametrize(
    "text", ["nowhere.png", "x" * 10_000, "a\0b", "<svg/>", "javascript:alert(1)", "~", "."]
)
def test_a_text_that_is_no_file_is_refused(text):
    with pytest.raises(ValueError, match="is no file") as error:
        open_picture(text)
    assert ALLOWED in one_sentence(error)


def test_folders_devices_and_empty_files_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(ValueError, match="is no file"):
            open_picture(tmp_path / name)
    with pytest.raises(ValueError, match="'empty.png' is an empty file"):
        open_picture(tmp_path / "empty.png")


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    file = tmp_path / "a.png"
    with file.open("wb") as stream:
        stream.truncate(400_000_001)  # a hole: it takes no room
    with pytest.raises(ValueError, match="has 400 million bytes"):
        open_picture(file)


@pytest.mark.parametrize("source", [None, "", b"bytes", 3, ["a.png"], {"path": "a.png"}])
def test_what_is_neither_a_path_nor_a_picture_is_refused(source):
    with pytest.raises(ValueError, match="there is no picture|must be a path or a PIL image"):
        open_picture(source)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_a_mode_without_a_known_range_is_refused(mode):
    with pytest.raises(ValueError, match=f"the picture has values of the mode {mode}"):
        open_picture(Image.new(mode, (2, 2)))


def test_a_picture_in_memory_has_limits_too():
    with pytest.raises(ValueError, match="the picture has 20,001 x 1 pixels"):
        open_picture(Image.new("1", (MAX_OPENED_SIDE + 1, 1)))
    with pytest.raises(ValueError, match="no pixels"):
        open_picture(Image.new("RGB", (0, 3)))


# Masks


def disc(mode="L", size=(12, 8)):
    mask = Image.new(mode, size)
    mask.paste(255 if mode in "L1" else "white", (3, 2, 7, 6))
    return mask


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P", "I;16"])
def test_what_is_white_is_painted(tmp_path, mode):
    given = disc().convert("RGB").convert(mode) if mode != "I;16" else None
    if given is None:
        given = Image.fromarray(np.asarray(disc()).astype(np.uint16) * 257)
    for source in (given, saved(given, tmp_path / "a.png")):
        opened = open_mask(source, (12, 8))
        assert opened.image.mode == "L" and opened.image.tobytes() == disc().tobytes()
        assert opened.notes == ((SCALED,) if mode == "I;16" else ())


def test_a_soft_mask_is_kept():
    given = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(8, 12))
    assert open_mask(given, (12, 8)).image.tobytes() == given.tobytes()


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_of_a_layer_its_alpha_is_the_mask(colour):
    layer = Image.new("RGBA", (12, 8), (0, 0, 0, 0))
    layer.paste(colour, (3, 2, 7, 6))
    opened = open_mask(layer, (12, 8))
    assert opened.image.tobytes() == disc().tobytes()
    assert opened.notes == ("the mask is what is not transparent in it",)


def test_of_an_opaque_layer_its_white_is_the_mask():
    assert open_mask(disc().convert("RGBA"), (12, 8)).image.tobytes() == disc().tobytes()


def test_colours_are_a_mask_by_how_bright_they_are_and_that_is_said():
    given = Image.new("RGB", (12, 8))
    given.paste("red", (3, 2, 7, 6))
    opened = open_mask(given, (12, 8))
    assert opened.image.getpixel((4, 4)) == 76 and opened.image.getpixel((0, 0)) == 0
    assert opened.notes == ("the mask has colours: how bright they are was taken",)


@pytest.mark.parametrize("size", [(24, 16), (6, 4), (120, 80), (3, 2)])
def test_a_mask_of_the_same_proportions_is_resized_and_that_is_said(size):
    opened = open_mask(disc(), size)
    assert opened.image.size == size
    assert opened.notes == (f"the mask was resized from 12 x 8 to {size[0]} x {size[1]}",)


@pytest.mark.parametrize("given, size", [((500, 375), (4032, 3024)), ((1000, 667), (3000, 2000))])
def test_proportions_are_the_same_to_a_pixel(given, size):
    assert open_mask(Image.new("L", given, 255), size).image.size == size


@pytest.mark.parametrize("size", [(8, 12), (12, 12), (13, 8), (1200, 900)])
def test_a_mask_of_other_proportions_is_refused_with_both_sizes(size):
    expected = f"the mask has 120 x 80 pixels and the picture {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=expected) as error:
        open_mask(disc(size=(120, 80)), size)
    one_sentence(error)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA"])
def test_a_mask_that_paints_nothing_is_refused(mode):
    for size in ((12, 8), (24, 16)):
        with pytest.raises(ValueError, match="the mask paints nothing"):
            open_mask(Image.new(mode, (12, 8)), size)


def test_a_full_mask_is_taken():
    assert open_mask(Image.new("L", (12, 8), 255), (12, 8)).image.getextrema() == (255, 255)


@pytest.mark.parametrize("size", [(0, 8), (12, float("nan")), (12, -8), (12, None)])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="size must be a whole number"):
        open_mask(disc(), size)


def test_a_missing_mask_is_refused():
    with pytest.raises(ValueError, match="there is no mask"):
        open_mask(None, (12, 8))


# Names


def test_a_hash_names_a_picture_by_its_size_and_pixels(tmp_path):
    name = picture_hash(colours())
    assert len(name) == 64
    assert picture_hash(open_picture(saved(colours(), tmp_path / "a.png")).image) == name
    turned = Image.frombytes("RGB", (5, 7), colours().tobytes())
    changed = colours()
    changed.putpixel((0, 0), (1, 2, 3))
    assert len({name, picture_hash(turned), picture_hash(changed)}) == 3
    with pytest.raises(ValueError, match="only RGB"):
        picture_hash(colours().convert("L"))
