"""Pictures as files that a browser fetches."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demo.serving import cache
from flowturbo_core.files import written_whole
from flowturbo_core.metadata import file_name, png_info
from flowturbo_core.requests import Request

_LEVELS = 255
_MAX_FACTOR = 64
_SHOWN_WHOLE = 99  # percent of the levels; the few of a shifted edge would keep all others dark


REMOVED = "These pictures were removed, as they are kept for a while only: run it again."


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
                Image.fromarray((factor * item).clip(max=_LEVELS).astype(np.uint8))
                for item in apart
            ),
            factor,
            tuple(float(np.sqrt((item**2).mean())) for item in apart),
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
        with written_whole(file, named=cache.folder()) as partial:
            partial.write_bytes(content)
    return str(file)


def request_files(
    pictures: Sequence[Image.Image], request: Request, versions: Mapping[str, str]
) -> list[str]:
    """Write pictures, each with the request that makes it again; return their files."""
    files = []
    for k, picture in enumerate(pictures):
        own = request.of_picture(k)
        files.append(png_file(picture, file_name(own), png_info(own, versions)))
    return files


def are_kept(files: Sequence[str]) -> bool:
    """Tell whether these pictures are still there, and were not removed after a while."""
    return all(Path(file).exists() for file in files)


def with_captions(files: Sequence[str], captions: Sequence[str]) -> list[tuple[str, str]]:
    """Return pictures as a gallery takes them."""
    return list(zip(files, captions, strict=True))


def zip_file(files: Sequence[str], name: str, record: Mapping[str, object]) -> str:
    """Put pictures and, as settings.json, their record into one archive; return its file.

    Raises Unwritable as `png_file` does.
    """
    packed = cache.folder() / uuid.uuid4().hex / f"{name}.zip"
    with (
        written_whole(packed, named=cache.folder()) as partial,
        ZipFile(partial, "w") as archive,
    ):
        for k, file in enumerate(files):
            archive.write(file, f"{k:03d}-{Path(file).name}")
        archive.writestr("settings.json", json.dumps(record, indent=2) + "\n")
    return str(packed)
