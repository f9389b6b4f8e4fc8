"""Opens pictures and masks that somebody sends, or refuses them in one sentence.

Only local files and pictures in memory are opened, and of files only PNG, JPEG and WEBP, told by
their content. Sizes are checked before anything is decoded. Every refusal is a ValueError.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile

from flowturbo_core.checks import brief, whole_number

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_OPENED_SIDE = 20_000  # pixels
MAX_OPENED_PIXELS = 64_000_000  # a telephone's 50 million, and a margin
MAX_OPENED_BYTES = 400_000_000  # as many pixels of 16 bits that do not compress
ALLOWED = (
    f"send a PNG, JPEG or WEBP of at most {MAX_OPENED_PIXELS // 1_000_000} million pixels and "
    f"{MAX_OPENED_SIDE:,} a side"
)

# A phone writes a JPEG that holds a second picture, such as its depth, which Pillow calls MPO.
_DECODED = (*FORMATS, "MPO")
_ADDRESS = re.compile(r"\s*(data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_ORIENTATION = 0x0112  # EXIF's tag; its values are where row 0 and column 0 of the file lie
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
_SCALED = "its 16 bits a channel were scaled to 8"
_COLOUR_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # a profile's, and the mode it takes


@dataclass(frozen=True)
class Opened:
    """A picture in memory.

    Args:
        image: RGB, or L for a mask, which holds its pixels and nothing else of its file.
        notes: what was done to it that a person should know, each a sentence without its stop.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()


def open_picture(source: str | Path | Image.Image | None) -> Opened:
    """Return a local file, or a picture in memory, as RGB of 8 bits, upright and opaque.

    16 bits are scaled, an embedded colour profile is converted to sRGB, and what is transparent is
    put on white. Raises ValueError, in one sentence.
    """
    image, notes = _read("picture", source)
    image, of_colours = _to_srgb(image)
    image, of_alpha = _on_white(image)
    return Opened(_bare(image, "RGB"), (*notes, *of_colours, *of_alpha))


def open_mask(source: str | Path | Image.Image | None, size: tuple[int, int]) -> Opened:
    """Return a mask as L of `size` (width, height), where white, 255, is painted and 0 is kept.

    Of a mask with transparency, as an image editor's layer has, the alpha is the mask. A mask of
    the same proportions is resized. Raises ValueError, in one sentence, for one of other
    proportions and for one that paints nothing.
    """
    width, height = (whole_number("size", side, 1, MAX_OPENED_SIDE) for side in size)
    image, notes = _read("mask", source)
    notes = list(notes)
    alpha = _alpha(image)
    if alpha is not None:
        image = alpha
        notes.append("the mask is what is not transparent in it")
    elif _is_coloured(image):
        notes.append("the mask has colours: how bright they are was taken")
    mask = _bare(image, "L")
    if mask.size != (width, height):
        given = f"{mask.width} x {mask.height}"
        if not _are_proportional(mask.size, (width, height)):
            raise ValueError(
                f"the mask has {given} pixels and the picture {width} x {height}: send a mask of "
                "the picture's size, or of its proportions"
            )
        mask = mask.resize((width, height), Image.Resampling.BILINEAR)
        notes.append(f"the mask was resized from {given} to {width} x {height}")
    if mask.getextrema()[1] == 0:
        raise ValueError("the mask paints nothing: paint white where the picture is to change")
    return Opened(mask, tuple(notes))


def picture_hash(image: Image.Image) -> str:
    """Return the SHA-256, in hexadecimal, of an RGB picture's size and bytes.

    It depends on what is seen, and not on the file that it came from.
    """
    if image.mode != "RGB":
        raise ValueError(f"only RGB pictures are named by a hash, not {image.mode}")
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _read(what: str, source: object) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a decoded, upright copy of the first frame, of at most 8 bits a channel."""
    if isinstance(source, Image.Image):
        return _decode(f"the {what}", source)
    file = _file(what, source)
    name = f"the {what} {brief(file.name)}"
    try:
        with warnings.catch_warnings():
            # Of odd data beside the pixels; and of many pixels, of which fewer are allowed below.
            warnings.simplefilter("ignore")
            opened = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        most = MAX_OPENED_PIXELS // 1_000_000
        raise ValueError(f"{name} has more than {most} million pixels; {ALLOWED}") from error
    except Exception as error:  # decoders of broken files raise whatever they come upon
        raise ValueError(f"{name} is no picture that can be read here; {ALLOWED}") from error
    with opened:
        return _decode(name, opened)


def _file(what: str, source: object) -> Path:
    """Return the path of a local file that may be opened."""
    if source is None or source == "":
        raise ValueError(f"there is no {what}; {ALLOWED}")
    if not isinstance(source, str | Path):
        raise ValueError(f"the {what} must be a path or a PIL image, not {brief(source)}")
    if _ADDRESS.match(str(source)):
        raise ValueError(
            f"the {what} {brief(source)} is an address, and none is opened: send a file"
        )
    file = Path(source)
    try:
        is_file, size = file.is_file(), file.stat().st_size
    except (OSError, ValueError):  # no such path, or a text that no path can be
        is_file, size = False, 0
    if not is_file:
        raise ValueError(f"the {what} {brief(str(source))} is no file; {ALLOWED}")
    if not 0 < size <= MAX_OPENED_BYTES:
        is_ = "is an empty file" if size == 0 else f"has {size / 1e6:,.0f} million bytes"
        raise ValueError(f"the {what} {brief(file.name)} {is_}; {ALLOWED}")
    return file


def _decode(name: str, image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Return a copy of a picture whose pixels may not have been read yet."""
    _check_before_decoding(name, image)
    notes = []
    stored = _stored_as(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame, frames = image.tell() + 1, getattr(image, "n_frames", 1)
            plain = image.copy()
    except Exception as error:  # as above
        raise ValueError(f"{name} is damaged or cut off; send it again") from error
    if frames > 1:
        notes.append(
            f"the first of {frames} frames was taken"
            if frame == 1
            else f"frame {frame} of {frames} was taken"
        )
    plain, of_depth = _to_eight_bits(plain, stored)
    plain, of_turning = _upright(plain, image)
    return plain, (*notes, *of_depth, *of_turning)


def _check_before_decoding(name: str, image: Image.Image) -> None:
    """Raise ValueError for a format, a size or a mode that is not decoded."""
    if isinstance(image, ImageFile.ImageFile) and image.format not in _DECODED:
        raise ValueError(f"{name} is a file of the format {image.format}; {ALLOWED}")
    width, height = image.size
    if not (width and height):
        raise ValueError(f"{name} has no pixels: it is {width} x {height}; {ALLOWED}")
    if max(width, height) > MAX_OPENED_SIDE or width * height > MAX_OPENED_PIXELS:
        raise ValueError(f"{name} has {width:,} x {height:,} pixels; {ALLOWED}")
    if image.mode not in (*_MODES, *_SIXTEEN_BITS):
        raise ValueError(
            f"{name} has values of the mode {image.mode}, whose range is not known here: convert "
            "it to RGB first"
        )


def _stored_as(image: Image.Image) -> str:
    """Return how a file stores its values, which Pillow forgets once it has read them."""
    tile = getattr(image, "tile", None)
    return str(tile[0].args) if tile else ""


def _to_eight_bits(image: Image.Image, stored: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Scale 16 bits a channel to 8, and with them the colour that is transparent in a PNG.

    Pillow converts I;16 by clipping it at 255. It reads 16-bit colours by their high bytes, but
    leaves the transparent colour as the file has it; so it does with greys of 2 and 4 bits.
    """
    key = image.info.get("transparency")
    if image.mode in _SIXTEEN_BITS:
        array = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((array * 255 + 32767) // 65535).astype(np.uint8))
        if isinstance(key, int):
            grey.putalpha(Image.fromarray(np.where(array == key, 0, 255).astype(np.uint8)))
        if "icc_profile" in image.info:
            grey.info["icc_profile"] = image.info["icc_profile"]
        return grey, (_SCALED,)
    if image.mode == "RGB" and isinstance(key, tuple) and ";16" in stored:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}.get(stored, 1)
    return image, (_SCALED,) if ";16" in stored else ()


def _upright(plain: Image.Image, image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Turn or mirror `plain` as the EXIF data of `image` say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # as above
        return plain, ("its EXIF data cannot be read, so it was not turned",)
    return (plain if turn is None else plain.transpose(turn)), ()


def _to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert the colours of an image with an embedded profile, and keep its alpha."""
    profile = image.info.get("icc_profile")
    if not profile:
        is_print = image.mode == "CMYK"
        return image, ("its CMYK has no colour profile: its colours are approximate",) * is_print
    alpha = _alpha(image)
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _COLOUR_SPACES[source.profile.xcolor_space.strip()]
        fits = (image.mode == "CMYK") == (mode == "CMYK") and not (
            mode == "L" and _is_coloured(image)
        )
        if not fits:
            return image, ("its colour profile is of other colours, and was left out",)
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if _changes_nothing(transform, mode):
            return image, ()
        converted = ImageCms.applyTransform(_bare(image, mode), transform)
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError, TypeError):
        return image, ("its colour profile cannot be read: its colours were taken as sRGB",)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, ("its colours were converted to sRGB",)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform to sRGB changes no colour by more than rounding does."""
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 17 if mode == "RGB" else 1, dtype=np.uint8)
    if mode == "RGB":
        colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    else:
        colours = levels[None]
    probe = Image.fromarray(colours)
    before = np.asarray(probe.convert("RGB")).astype(int)
    after = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int)
    return int(np.abs(before - after).max()) <= 1


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Put what is transparent on white."""
    if _alpha(image) is None:
        return image, ()
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, _with_alpha(image)), (
        "its transparent parts were put on white",
    )


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return the alpha of an image as L; None if it is opaque."""
    if not image.has_transparency_data:
        return None
    alpha = _with_alpha(image).getchannel("A")
    return None if alpha.getextrema()[0] == 255 else alpha


def _with_alpha(image: Image.Image) -> Image.Image:
    """Return an image as RGBA; premultiplied grey is reached through grey."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _is_coloured(image: Image.Image) -> bool:
    """Return whether the channels of any pixel differ."""
    if image.mode in ("1", "L", "LA", "La"):
        return False
    red, green, blue = (np.asarray(its) for its in _bare(image, "RGB").split())
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


def _bare(image: Image.Image, mode: str) -> Image.Image:
    """Return the pixels alone of an image in `mode`: no profile, no EXIF, no file."""
    if image.has_transparency_data:
        image = _with_alpha(image)
    bare = image.convert(mode)
    bare.info = {}
    return bare


def _are_proportional(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether one size is the other scaled, each of its sides to the next pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) < sum(other)
