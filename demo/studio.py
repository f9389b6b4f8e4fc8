"""All that the page serves: a model of classes, and one of texts where there is one."""

from demo.accelerator import Accelerator
from demo.class_service import ClassService
from demo.text_service import TextService
from flowturbo_core.models.catalog import ModelDescription, bundled_models


def load_services(
    model: str | None = None, device: str | None = None, dtype: str | None = None
) -> tuple[ClassService, TextService | None]:
    """Begin to load the bundled models, or in place of one of them `model`, a name or a folder.

    One thread runs both. Raises ValueError, in one sentence, for a model that is not there.
    """
    task = None if model is None else ModelDescription.read(model).task
    named = {task: model}
    accelerator = Accelerator()
    classes = ClassService.load(named.get(ClassService.TASK), device, dtype, accelerator)
    if task != TextService.TASK and TextService.BUNDLED not in bundled_models():
        return classes, None
    return classes, TextService.load(named.get(TextService.TASK), device, dtype, accelerator)
