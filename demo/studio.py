"""All that the page serves: a model of classes, and models of texts where there are any."""

from demo.accelerator import Accelerator
from demo.class_service import ClassService
from demo.text_service import TextService
from flowturbo_core.models.catalog import HUB_MODELS, ModelDescription, bundled_models


def load_services(
    model: str | None = None, device: str | None = None, dtype: str | None = None
) -> tuple[ClassService, tuple[TextService, ...]]:
    """Begin to load the bundled models, or in place of one of them `model`, a name or a folder.

    After the model of texts come those of the catalogue that are on a hub, loaded when they are
    asked for. One thread runs all. Raises ValueError, in one sentence, for a model that is not
    there.
    """
    task = None if model is None else ModelDescription.read(model).task
    named = {task: model}
    accelerator = Accelerator()
    classes = ClassService.load(named.get(ClassService.TASK), device, dtype, accelerator)
    if task != TextService.TASK and TextService.BUNDLED not in bundled_models():
        return classes, ()
    first = TextService.load(named.get(TextService.TASK), device, dtype, accelerator)
    others = (
        TextService.of_hub(its, device, dtype, accelerator)
        for its in HUB_MODELS
        if its.name != first.name
    )
    return classes, (first, *others)
