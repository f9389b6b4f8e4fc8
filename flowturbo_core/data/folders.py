"""Pictures of one's own as data: in folders or .npz files, with captions, read when wanted."""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from flowturbo_core.images import from_pil
from flowturbo_core.models.catalog import in_short, read_json
from flowturbo_core.requests import brief

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Of what has an alpha channel, or more than eight bits a value, there is no one RGB picture.
_MODES = ("RGB", "L", "P", "CMYK")
_BATCH_SIZE = 32


@contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Turn whatever a library raises inside into a ValueError that begins with `sentence`."""
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
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(
            f"{folder} holds no pictures ({', '.join(_SUFFIXES)}); folders in it are not searched"
        )
    return files


def _in_folder(folder: Path) -> Pictures:
    files = picture_files(folder)
    sizes = [_size(file) for file in files]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(f"{file} is {sides(size)}, but {files[0].name} is {sides(sizes[0])}")
    names = tuple(file.name for file in files)
    return Pictures(folder, names, len(files), sizes[0], partial(_folder_batches, files))


def _size(file: Path) -> tuple[int, int]:
    with refusing(f"{file} cannot be read as a picture"), Image.open(file) as picture:
        if picture.mode not in _MODES:
            raise ValueError(f"its format is {picture.mode}, not one of {', '.join(_MODES)}")
        return picture.height, picture.width


def sides(size: tuple[int, int]) -> str:
    """Return a height and width as a person says them."""
    return f"{size[1]} x {size[0]} pixels"


def _folder_batches(files: Sequence[Path]) -> Iterator[Tensor]:
    for start in range(0, len(files), _BATCH_SIZE):
        yield from_pil([_picture(file) for file in files[start : start + _BATCH_SIZE]])


def _picture(file: Path) -> Image.Image:
    with refusing(f"{file} cannot be read as a picture"), Image.open(file) as picture:
        return picture.convert("RGB")  # decodes all of it: a truncated file is found out here


def _square(file: Path, side: int) -> Image.Image:
    # Upright, as people see it: cameras write which side is up beside the pixels.
    upright = ImageOps.exif_transpose(_picture(file))
    return ImageOps.fit(upright, (side, side), Image.LANCZOS)


def _in_npz(file: Path) -> Pictures:
    with refusing(f"{file} is no .npz file of pictures"), _arr_0(file) as (_, shape):
        count, height, width, _ = shape
    return Pictures(file, None, count, (height, width), partial(_npz_batches, file))


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
        for file in self.files:  # their headers: what is wrong is found out before any is encoded
            _size(file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        pictures = [_square(self.files[index], self.side) for index in indices]
        return from_pil(pictures), torch.tensor(indices)

    @property
    def origin(self) -> str:
        """What tells these squares from others: the files' names, sizes and times, and the side."""
        stats = [(file.name, file.stat()) for file in self.files]
        known = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        return hashlib.sha256(json.dumps([self.side, known]).encode()).hexdigest()


def read_captions(file: Path, source: Path, names: Sequence[str] | None, count: int) -> list[str]:
    """Return the caption of each of the `count` pictures in `source`, in their order.

    A .json file maps the name of each picture's file to its caption; any other is a text file with
    a line for each picture, in the order of the files' `names` or, where they are None, of `arr_0`.

    Raises ValueError unless every caption has a picture and every picture a caption with words.
    """
    if file.suffix.lower() == ".json":
        captions = _captions_by_name(file, source, names)
    else:
        captions = lines_of(file)
        if len(captions) != count:
            raise ValueError(f"{file} has {len(captions)} lines, and {source} {count} pictures")
    for k, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"{file}: caption {k + 1} must be a text, not {brief(caption)}")
    return captions


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file. Raises ValueError, naming it, if it cannot be read."""
    with refusing(f"{file} cannot be read as text"):
        return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _captions_by_name(file: Path, source: Path, names: Sequence[str] | None) -> list[Any]:
    if names is None:
        raise ValueError(
            f"{file} has captions by file name, and the pictures of {source} have none"
        )
    by_name = read_json(file)
    for without, found in (
        ("caption for the picture", set(names) - by_name.keys()),
        ("picture for the caption of", by_name.keys() - set(names)),
    ):
        if found:
            raise ValueError(f"{file}: there is no {without} {brief(min(found))}")
    return [by_name[name] for name in names]
