"""The data set: `postcard(seed)` is a picture, its scene and its caption, always the same ones."""

from PIL import Image

from flowturbo_core.data.postcards.art import paint
from flowturbo_core.data.postcards.captions import caption
from flowturbo_core.data.postcards.scene import Scene, sample_scene
from flowturbo_core.data.postcards.subjects import FIGURES


def draw(scene: Scene) -> Image.Image:
    """Return the picture of a scene: RGB, 128 x 128."""
    return paint(scene, FIGURES.get(scene.subject))


def postcard(seed: int, split: str = "train") -> tuple[Image.Image, Scene, str]:
    """Picture (RGB, 128 x 128), scene and caption of that number. Raises as `sample_scene`."""
    scene = sample_scene(seed, split)
    return draw(scene), scene, caption(scene, seed)
