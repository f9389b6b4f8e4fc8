"""What the page opens with: pictures of the bundled models at their defaults, made before.

`python -m demo.service.make_examples` makes them again. A page shows those of a bundled model
alone, and says where and when they were made: opening it costs nobody a run.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from demo.service.events import THUMBNAIL, Done, Kept, Preview
from flowturbo_core.metadata import VERSION, file_name, png_info, read_text
from flowturbo_core.models.catalog import MODELS_FOLDER, ModelDescription
from flowturbo_core.requests import Request
from flowturbo_core.timing import Timing

FOLDER = MODELS_FOLDER.parent / "examples"
_RECORD, _PREVIEWS = "example.json", "previews.webp"


def of(model: ModelDescription) -> Kept | None:
    """Return what the page opens with; None for a model that does not ship."""
    folder = FOLDER / model.name
    is_kept = model.folder == MODELS_FOLDER / model.name and folder.exists()
    return read(folder, model) if is_kept else None


@cache
def read(folder: Path, model: ModelDescription) -> Kept:
    """Read what `write` wrote. The pictures are small, and read once."""
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    said = {"version": VERSION, **record["settings"]}
    written = read_text(json.dumps(said))
    request = Request.read(model, written.values, written.task)
    plan, count = request.plan, len(request.captions)
    rows = _rows(folder / _PREVIEWS, count, len(plan))
    previews = tuple(
        Preview(row, request, k + 1, kind, _tuple(bends))
        for k, (row, kind, bends) in enumerate(
            zip(rows, plan.kinds, record["curvature"], strict=True)
        )
    )
    files = sorted(folder.glob("*.png"))
    done = Done(
        tuple(_load(file) for file in files),
        request,
        Timing(count, tuple(record["block_ms"]), record["decode_ms"]),
        record["heun_ms_per_image"],
        record["versions"],
    )
    return Kept(previews, done, record["machine"])


def write(folder: Path, previews: Sequence[Preview], done: Done, machine: str, model: str) -> None:
    """Write a result: pictures with their settings in them, one sheet of previews, a record.

    Args:
        folder: emptied of pictures first.
        previews: one of every block.
        done: the result.
        machine: where it was made, in words.
        model: the hash of the weights that made it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for k, picture in enumerate(done.pictures):
        own = done.request.of_picture(k)
        info = png_info(own, done.versions)
        picture.save(folder / f"{k}-{file_name(own)}.png", "PNG", optimize=True, pnginfo=info)
    sheet = Image.new("RGB", (THUMBNAIL * len(done.pictures), THUMBNAIL * len(previews)))
    for y, preview in enumerate(previews):
        for x, picture in enumerate(preview.as_thumbnails().pictures):
            sheet.paste(picture, (THUMBNAIL * x, THUMBNAIL * y))
    sheet.save(folder / _PREVIEWS, "WEBP", quality=88, method=6)
    record = {
        "settings": done.request.to_json(),
        "machine": machine,
        "weights": model,
        "block_ms": [round(ms, 2) for ms in done.timing.block_ms],
        "decode_ms": round(done.timing.decode_ms, 2),
        "heun_ms_per_image": done.heun_ms_per_image and round(done.heun_ms_per_image, 2),
        "curvature": [preview.curvature for preview in previews],
        "versions": dict(done.versions),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (folder / _RECORD).write_text(text, encoding="utf-8")


def _rows(sheet: Path, columns: int, rows: int) -> list[tuple[Image.Image, ...]]:
    """Return the small pictures of a sheet, row by row."""
    whole, side = _load(sheet), THUMBNAIL
    return [
        tuple(
            whole.crop((side * x, side * y, side * (x + 1), side * (y + 1))) for x in range(columns)
        )
        for y in range(rows)
    ]


def _load(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
