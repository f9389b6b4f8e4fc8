"""Pictures as files that a browser fetches."""

import errno
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO
from zipfile import ZipFile

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demo import cache
from flowturbo_core.metadata import AnySettings

_LEVELS = 255
_MAX_FACTOR = 64
_SHOWN_WHOLE = 99  # percent of the levels; the few of a shifted edge would keep all others dark


REMOVED = "These pictures were removed, as they are kept for a while only: run it again."


class Unwritable(ValueError):
    """Pictures cannot be written: the disk is full, or the folder is nobody's to write to."""


@dataclass(frozen=True)
class Difference:
    """What parts two series of pictures.

    Args:
        pictures: the absolute difference of each pair, times `factor`.
        factor: a power of two, the same for all, so that they can be compared.
        rms: the root mean square difference of each pair, in levels of 255, not amplified.
    """

    pictures: tuple[Image.Image, ...]
    factor: int
    rms: tuple[float, ...]

    @classmethod
    def of(cls, first: Sequence[Image.Image], second: Sequence[Image.Image]) -> "Difference":
        """Compare pictures of one size pair by pair."""
        apart = [
            np.abs(np.asarray(a.convert("RGB"), int) - np.asarray(b.convert("RGB"), int))
            for a, b in zip(first, second, strict=True)
        ]
        largest, factor = float(np.percentile(apart, _SHOWN_WHOLE)), 1
        while factor < _MAX_FACTOR and 2 * factor * largest <= _LEVELS:
            factor *= 2
        return cls(
            tuple(
                Image.fromarray((factor * its).clip(max=_LEVELS).astype(np.uint8)) for its in apart
            ),
            factor,
            tuple(float(np.sqrt((its**2).mean())) for its in apart),
        )


def png_file(picture: Image.Image, name: str = "picture", text: PngInfo | None = None) -> str:
    """Write a picture as PNG, with `text` in it, where Gradio serves files from; return the file.

    Gradio would do this too, but writes a picture that is already there once more, in place: the
    result repeats the last preview, and a browser fetching that at the moment would get half.
    Raises Unwritable, in one sentence; then nothing is left of it.
    """
    return _png_file(cache.folder(), picture, name, text)


def preview_file(picture: Image.Image) -> str:
    """Write a picture that is shown until the next one is there; it is soon removed.

    Raises Unwritable as `png_file` does.
    """
    return _png_file(cache.previews(), picture, "preview", None)


def _png_file(folder: Path, picture: Image.Image, name: str, text: PngInfo | None) -> str:
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    content = buffer.getvalue()
    file = folder / hashlib.sha256(content).hexdigest() / f"{name}.png"
    try:
        os.utime(file)  # it is as new as one that is written now
    except FileNotFoundError:
        with _written(file) as part:
            part.write(content)
    return str(file)


@contextmanager
def _written(file: Path) -> Iterator[IO[bytes]]:
    """Give a file to write to, which then becomes `file`: whole, or not at all."""
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            yield part
        Path(part.name).replace(file)
    except BaseException as error:
        if part is not None:
            Path(part.name).unlink(missing_ok=True)
        with suppress(OSError):
            file.parent.rmdir()  # unless others' files are there
        if isinstance(error, OSError):
            raise Unwritable(_in_words(error)) from error
        raise


def _in_words(error: OSError) -> str:
    where = cache.folder()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {where} is full: no picture can be shown until there is space"
    return f"pictures cannot be written to {where}: {error.strerror or error}"


def setting_files(
    pictures: Sequence[Image.Image], settings: AnySettings, versions: Mapping[str, str]
) -> list[str]:
    """Write pictures, each with the settings that make it again; return their files."""
    files = []
    for k, picture in enumerate(pictures):
        own = settings.of_picture(k)
        files.append(png_file(picture, own.file_name, own.png_info(versions)))
    return files


def are_kept(files: Sequence[str]) -> bool:
    """Tell whether these pictures are still there, and were not removed after a while."""
    return all(Path(file).exists() for file in files)


def captioned(files: Sequence[str], captions: Sequence[str]) -> list[tuple[str, str]]:
    """Return pictures as a gallery takes them."""
    return list(zip(files, captions, strict=True))


def zip_file(files: Sequence[str], name: str, record: Mapping[str, object]) -> str:
    """Put pictures and, as settings.json, their record into one archive; return its file.

    Raises Unwritable as `png_file` does.
    """
    archive = cache.folder() / uuid.uuid4().hex / f"{name}.zip"
    with _written(archive) as part, ZipFile(part, "w") as opened:
        for k, file in enumerate(files):
            opened.write(file, f"{k:03d}-{Path(file).name}")
        opened.writestr("settings.json", json.dumps(record, indent=2) + "\n")
    return str(archive)
