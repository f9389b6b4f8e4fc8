"""Pictures as files that a browser fetches."""

import hashlib
import tempfile
from io import BytesIO
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image


def png_file(picture: Image.Image) -> str:
    """Write a picture as PNG where Gradio serves files from, and return the file.

    Gradio would do this too, but writes a picture that is already there once more, in place: the
    result repeats the last preview, and a browser fetching that at the moment would get half.
    """
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    content = buffer.getvalue()
    file = Path(get_upload_folder()) / hashlib.sha256(content).hexdigest() / "image.png"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            part.write(content)
        Path(part.name).replace(file)
    return str(file)
