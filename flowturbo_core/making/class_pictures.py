"""Makes one picture of each class by the model itself. The page shows them to choose by."""

from pathlib import Path

from PIL import Image

from flowturbo_core.files import written_whole
from flowturbo_core.images import contact_sheet
from flowturbo_core.models.catalog import ClassPictures
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline

PIXELS = 96  # a side, of each picture
# With this seed, of a few, the pictures of the bundled model are easiest to tell apart.
_SEED = 80
_BATCH = 16


def write_class_pictures(
    pipeline: ClassConditionalPipeline, folder: Path, seed: int = _SEED
) -> ClassPictures:
    """Sample one picture of each class by the model's defaults, into one file in `folder`.

    Class k is sampled from seed + k, so a page can say which settings made a picture.
    """
    names = pipeline.class_names
    pictures: list[Image.Image] = []
    for first in range(0, len(names), _BATCH):
        labels = range(first, min(first + _BATCH, len(names)))
        made = pipeline(labels, seed=seed + first).images
        pictures += [image.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS) for image in made]
    written = ClassPictures.of(folder, len(names))
    sheet = contact_sheet(pictures, written.columns, gap=0)
    with written_whole(written.file) as partial:
        sheet.save(partial, "WEBP", quality=80, method=6)
    return written
