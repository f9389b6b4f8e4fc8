"""Pictures as files that a browser fetches."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

from gradio.utils import get_upload_folder
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demo.events import Done, Preview
from flowturbo_core.metadata import Settings


def png_file(picture: Image.Image, name: str = "picture", text: PngInfo | None = None) -> str:
    """Write a picture as PNG, with `text` in it, where Gradio serves files from; return the file.

    Gradio would do this too, but writes a picture that is already there once more, in place: the
    result repeats the last preview, and a browser fetching that at the moment would get half.
    """
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=text)
    content = buffer.getvalue()
    file = Path(get_upload_folder()) / hashlib.sha256(content).hexdigest() / f"{name}.png"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            part.write(content)
        Path(part.name).replace(file)
    return str(file)


def setting_files(
    pictures: Sequence[Image.Image], settings: Settings, versions: Mapping[str, str]
) -> list[str]:
    """Write pictures, each with the settings that make it again; return their files."""
    files = []
    for k, picture in enumerate(pictures):
        own = settings.of_picture(k)
        files.append(png_file(picture, own.file_name, own.png_info(versions)))
    return files


def captioned(files: Sequence[str], event: Preview | Done) -> list[tuple[str, str]]:
    """Return an event's pictures as a gallery takes them."""
    return list(zip(files, event.captions, strict=True))


def zip_file(files: Sequence[str], name: str, record: Mapping[str, object]) -> str:
    """Put pictures and, as settings.json, their record into one archive; return its file."""
    folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
    with ZipFile(folder / f"{name}.zip", "w") as archive:
        for k, file in enumerate(files):
            archive.write(file, f"{k:03d}-{Path(file).name}")
        archive.writestr("settings.json", json.dumps(record, indent=2) + "\n")
    return str(folder / f"{name}.zip")
