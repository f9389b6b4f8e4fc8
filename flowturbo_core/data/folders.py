"""Pictures of one's own as data: in folders or .npz files, read when wanted."""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from flowturbo_core.checks import few, in_short
from flowturbo_core.images import from_pil

_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
# Pictures too, which Pillow reads in part, or not at all: left out without a word, a set would
# seem whole.
_OTHER_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jxl", ".svg")
# Of what has more than eight bits a value there is no one RGB picture, nor of what is transparent;
# an alpha channel that hides nothing does no harm.
_MODES = ("RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "PA")
_APPLE_DOUBLE = "._"  # how macOS's own files begin, beside each file on a disk of another system
_BATCH_SIZE = 32


@contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Turn any error of a library inside into a ValueError that begins with `sentence`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - what is damaged fails in every way there is
        raise ValueError(f"{sentence}: {in_short(error)}") from error


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, read when they are wanted: 50,000 of 256 x 256 would fill 10 GB.

    Args:
        source: the folder or file they are in.
        names: of the files in a folder, in order; a .npz file has none.
        count: how many there are.
        size: height and width, in pixels.
        batches: reads them all, a few at a time, as uint8 (B, 3, H, W).
    """

    source: Path
    names: tuple[str, ...] | None
    count: int
    size: tuple[int, int]
    batches: Callable[[], Iterator[Tensor]]


def open_pictures(source: Path, least: int) -> Pictures:
    """Find the pictures in a folder, or in a .npz file; each is decoded only in `batches`.

    Raises ValueError if there are fewer than `least`, or of several sizes, or none can be read.
    """
    if not source.exists():
        raise ValueError(f"there is no folder or file {source}")
    pictures = _in_folder(source) if source.is_dir() else _in_npz(source)
    if pictures.count < least:
        raise ValueError(
            f"{source} holds too few pictures: {pictures.count}, and at least {least} are needed"
        )
    return pictures


def picture_files(folder: Path) -> list[Path]:
    """Return the files of pictures in a folder, by name. Raises ValueError if it holds none."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    there = [
        file
        for file in folder.iterdir()
        if not file.name.startswith(_APPLE_DOUBLE) and not file.is_dir()
    ]
    files = sorted(file for file in there if file.suffix.lower() in _SUFFIXES)
    others = sorted(file.name for file in there if file.suffix.lower() in _OTHER_SUFFIXES)
    if others:
        raise ValueError(
            f"{folder} holds pictures that are not read, {few(others)}: turn them into .png, or "
            "move them elsewhere"
        )
    if not files:
        raise ValueError(
            f"{folder} holds no pictures ({', '.join(_SUFFIXES)}); folders in it are not searched"
        )
    return files


def _in_folder(folder: Path) -> Pictures:
    files = picture_files(folder)
    sizes = _sizes(files)
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(f"{file} is {sides(size)}, but {files[0].name} is {sides(sizes[0])}")
    names = tuple(file.name for file in files)
    return Pictures(folder, names, len(files), sizes[0], partial(_folder_batches, files))


def _sizes(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Return the height and width of each picture. Raises ValueError, naming those with none.

    Only files that may be transparent, or do not end as whole files do, are decoded. So most
    faults are found quickly, before anything long begins.
    """
    sizes, wrong = [], []
    for file in files:
        try:
            sizes.append(_size(file))
        except ValueError as error:
            wrong.append((file, error))
    if wrong:
        others = few(file.name for file, _ in wrong[1:])
        raise ValueError(f"{wrong[0][1]}{others and f'; nor can {others}'}") from wrong[0][1]
    return sizes


def _size(file: Path) -> tuple[int, int]:
    with _open(file) as picture:
        if picture.has_transparency_data or not _ends_whole(file, picture):
            _as_rgb(picture)
        return picture.height, picture.width


@contextmanager
def _open(file: Path) -> Iterator[Image.Image]:
    """Open a file that holds one picture. What fails inside is a ValueError that names it."""
    with refusing(f"{file} cannot be read as a picture"), Image.open(file) as picture:
        if picture.mode not in _MODES:
            raise ValueError(f"its format is {picture.mode}, not one of {', '.join(_MODES)}")
        # Cameras write a small copy behind a picture, and call both of them MPO.
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise ValueError(f"it is a film of {picture.n_frames} pictures")
        yield picture


def _ends_whole(file: Path, picture: Image.Image) -> bool:
    """Tell whether a file ends as a whole one of its format does."""
    with file.open("rb") as stream:
        head, length = stream.read(8), stream.seek(0, SEEK_END)
        stream.seek(-min(length, 12), SEEK_END)
        tail = stream.read()
    if picture.format == "WEBP":
        return length >= int.from_bytes(head[4:8], "little") + 8
    ends = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
    return picture.format in ends and tail.endswith(ends[picture.format])


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Decode all of a picture, which must not be transparent anywhere."""
    if picture.has_transparency_data:
        opaque, _ = picture.convert("RGBA").getchannel("A").getextrema()
        if opaque < 255:
            raise ValueError("it is transparent in places: put it on a colour first")
    return picture.convert("RGB")


def sides(size: tuple[int, int]) -> str:
    """Return a height and width as a person says them."""
    return f"{size[1]} x {size[0]} pixels"


def _folder_batches(files: Sequence[Path]) -> Iterator[Tensor]:
    for start in range(0, len(files), _BATCH_SIZE):
        yield from_pil([_picture(file) for file in files[start : start + _BATCH_SIZE]])


def _picture(file: Path) -> Image.Image:
    with _open(file) as picture:
        return _as_rgb(picture)  # decodes all of it: a truncated file is found out here


def _square(file: Path, side: int) -> Image.Image:
    # Upright, as people see it: cameras write which side is up beside the pixels.
    upright = ImageOps.exif_transpose(_picture(file))
    return ImageOps.fit(upright, (side, side), Image.LANCZOS)


def _in_npz(file: Path) -> Pictures:
    if holds_statistics_alone(file):
        raise ValueError(
            f"{file} holds mu and sigma and no pictures, which only the reference of fid may do"
        )
    with refusing(f"{file} is no .npz file of pictures"), _arr_0(file) as (_, shape):
        count, height, width, _ = shape
    return Pictures(file, None, count, (height, width), partial(_npz_batches, file))


def holds_statistics_alone(file: Path) -> bool:
    """Tell whether a file has the `mu` and `sigma` of an FID reference, and no pictures."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return {"mu.npy", "sigma.npy"} <= names and "arr_0.npy" not in names


def _npz_batches(file: Path) -> Iterator[Tensor]:
    with refusing(f"{file} is no .npz file of pictures"), _arr_0(file) as (stream, shape):
        for start in range(0, shape[0], _BATCH_SIZE):
            wanted = (min(_BATCH_SIZE, shape[0] - start), *shape[1:])
            values = bytearray(stream.read(math.prod(wanted)))
            if len(values) < math.prod(wanted):
                raise EOFError(f"arr_0 is to hold {shape[0]} pictures and ends after {start}")
            yield torch.frombuffer(values, dtype=torch.uint8).view(wanted).permute(0, 3, 1, 2)
        if stream.read(1):  # the checksum is compared at the end, which must be reached
            raise ValueError(f"arr_0 holds more than its {shape[0]} pictures")


@contextmanager
def _arr_0(file: Path) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """Open the pictures of a .npz file, and yield their values as a stream, and their shape."""
    with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as stream:
        major, _ = np.lib.format.read_magic(stream)
        read_header = {
            1: np.lib.format.read_array_header_1_0,
            2: np.lib.format.read_array_header_2_0,
        }[major]
        shape, by_columns, dtype = read_header(stream)
        if dtype != np.uint8 or by_columns or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"arr_0 must be uint8 (N, H, W, 3), not {dtype} {shape}")
        yield stream, shape


class Squares(Dataset):
    """The pictures in a folder, of any size, as squares: their middle, resized to `side` pixels.

    `squares[indices]` is (images, numbers): (B, 3, side, side) uint8, and (B,) their places in
    `files`. Raises ValueError for a folder without pictures, or with one that cannot be read.
    """

    def __init__(self, folder: Path, side: int):
        self.files, self.side = picture_files(folder), side
        _sizes(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        pictures = [_square(self.files[index], self.side) for index in indices]
        return from_pil(pictures), torch.tensor(indices)

    @property
    def origin(self) -> str:
        """What tells these squares from others: see `origin_of`."""
        return self.origin_of(range(len(self)))

    def origin_of(self, indices: Sequence[int]) -> str:
        """Return a hash of the names, sizes and times of some files, and of the side."""
        stats = [(self.files[index].name, self.files[index].stat()) for index in indices]
        known = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return hashlib.sha256(json.dumps([self.side, known]).encode()).hexdigest()
