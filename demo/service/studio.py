"""All that the page serves: a model of classes, and models of texts where there are any."""

from demo.service.accelerator import Accelerator
from demo.service.class_service import ClassService
from demo.service.text_service import TextService
from flowturbo_core.models.catalog import HUB_MODELS, ModelDescription, bundled_models


def load_services(
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    may_download: bool = True,
) -> tuple[ClassService, tuple[TextService, ...]]:
    """Begin to load the bundled models, or in place of one of them `model`, a name or a folder.

    After the model of texts come those of the catalogue that are on a hub, loaded when they are
    asked for; where nobody `may_download`, those whose weights are here. One thread runs all.
    Raises ValueError, in one sentence, for a model that is not there.
    """
    task = None if model is None else ModelDescription.read(model).task
    named = {task: model}
    accelerator = Accelerator()
    classes = ClassService.load(named.get(ClassService.TASK), device, dtype, accelerator)
    texts: list[TextService] = []
    if task == TextService.TASK or TextService.BUNDLED in bundled_models():
        texts.append(TextService.load(named.get(TextService.TASK), device, dtype, accelerator))
    known = {service.name for service in texts}
    on_demand: list[TextService] = []
    for its in HUB_MODELS:
        if its.name not in known and (may_download or its.is_here):
            on_demand.append(TextService.of_hub(its, device, dtype, accelerator, on_demand))
    return classes, (*texts, *on_demand)
