"""What the page opens with: pictures of the bundled models at their defaults, made before.

`python -m demo.service.examples` makes them again. A page shows those of a bundled model alone, and
says where and when they were made: opening it costs nobody a run.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from demo.service.class_service import ClassService
from demo.service.events import THUMBNAIL, Done, Kept, PlanSummary, Preview
from demo.service.service import Service
from demo.service.text_service import TextService
from flowturbo_core.metadata import AnySettings, Settings, TextSettings
from flowturbo_core.models.catalog import CLASSES, MODELS_FOLDER, ModelDescription
from flowturbo_core.models.front import weights_hash
from flowturbo_core.plan import SamplePlan
from flowturbo_core.timing import Timing

FOLDER = MODELS_FOLDER.parent / "examples"
_RECORD, _PREVIEWS = "example.json", "previews.webp"


def of(model: ModelDescription) -> Kept | None:
    """Return what the page opens with of a model; None of one that does not ship."""
    is_bundled = model.folder == MODELS_FOLDER / model.name
    return read(FOLDER / model.name) if is_bundled and (FOLDER / model.name).exists() else None


@cache
def read(folder: Path) -> Kept:
    """Read what `write` wrote. The pictures are small, and read once."""
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    settings = _settings(record["settings"])
    plan = SamplePlan.parse(settings.plan)
    captions = tuple(record["captions"])
    rows = _rows(folder / _PREVIEWS, len(captions), len(plan))
    previews = tuple(
        Preview(row, captions, k + 1, len(plan), kind, _tuple(bends), settings)
        for k, (row, kind, bends) in enumerate(
            zip(rows, plan.kinds, record["curvature"], strict=True)
        )
    )
    files = sorted(folder.glob("*.png"))
    done = Done(
        tuple(_loaded(file) for file in files),
        captions,
        Timing(len(captions), tuple(record["block_ms"]), record["decode_ms"]),
        PlanSummary.of(plan),
        plan.kinds,
        settings,
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
        own = done.settings.of_picture(k)
        name = f"{k}-{own.file_name}.png"
        picture.save(folder / name, "PNG", optimize=True, pnginfo=own.png_info(done.versions))
    sheet = Image.new("RGB", (THUMBNAIL * len(done.captions), THUMBNAIL * len(previews)))
    for y, preview in enumerate(previews):
        for x, picture in enumerate(preview.as_thumbnails().pictures):
            sheet.paste(picture, (THUMBNAIL * x, THUMBNAIL * y))
    sheet.save(folder / _PREVIEWS, "WEBP", quality=88, method=6)
    record = {
        "settings": asdict(done.settings),
        "captions": done.captions,
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


def make(service: Service) -> None:
    """Run the service's model at what its page opens with, and write what comes of it."""
    from flowturbo_core.devices import describe_device

    engine = service.wait()
    previews: list[Preview] = []
    with closing(_asked(service)) as events:
        for event in events:
            if isinstance(event, Preview):
                previews.append(event)
            if isinstance(event, Done):
                machine = f"{describe_device(engine.pipeline.device)}, {engine.dtype}"
                weights = weights_hash(service.model.folder)
                write(FOLDER / service.name, previews, event, machine, weights)


def _asked(service: Service) -> Any:
    its, counts = service.default_settings, service.default_counts
    if service.TASK == CLASSES:
        asked = its.class_names, *counts, its.guidance_scale, its.num_images, its.seed, False
        return service.generate_class_conditional(*asked)
    texts = its.prompts[0], its.negative_prompt
    sizes = its.height, its.width, its.num_images
    asked = *texts, *counts, its.guidance_scale, *sizes, its.seed, False
    return service.generate_text_to_image(*asked)


def _settings(values: dict[str, Any]) -> AnySettings:
    kind = next(its for its in (Settings, TextSettings) if its.THINGS in values)
    return kind(**{**values, kind.THINGS: tuple(values[kind.THINGS])})


def _rows(sheet: Path, columns: int, rows: int) -> list[tuple[Image.Image, ...]]:
    """Return the small pictures of a sheet, row by row."""
    whole, side = _loaded(sheet), THUMBNAIL
    return [
        tuple(
            whole.crop((side * x, side * y, side * (x + 1), side * (y + 1))) for x in range(columns)
        )
        for y in range(rows)
    ]


def _loaded(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.convert("RGB")


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


if __name__ == "__main__":
    for kind in (ClassService, TextService):
        make(kind.load())
