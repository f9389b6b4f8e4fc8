"""All that the page serves: a model of classes, and models of texts where there are any."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from demo.service.accelerator import Accelerator
from demo.service.downloads import Download
from demo.service.loading import loader
from demo.service.service import Service
from flowturbo_core.models.catalog import (
    DEFAULT_MODEL,
    DEFAULT_TEXT_MODEL,
    HUB_MODELS,
    HubModel,
    ModelDescription,
    bundled_models,
)
from flowturbo_core.requests import Classes, Texts

if TYPE_CHECKING:
    from demo.service.engine import Engine


def load_services(
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    may_download: bool = True,
) -> tuple[Service, ...]:
    """Begin to load the bundled models, or in place of one of them `model`, a name or a folder.

    First comes the model of classes, then that of texts. After it come those of the catalogue that
    are on a hub, loaded when they are asked for; where nobody `may_download`, those whose weights
    are here. One thread runs all. Raises ValueError for a model that is not there.
    """
    names = {Classes: DEFAULT_MODEL}
    if DEFAULT_TEXT_MODEL in bundled_models():
        names[Texts] = DEFAULT_TEXT_MODEL
    if model is not None:
        names[ModelDescription.read(model).subject] = model
    accelerator = Accelerator()
    services = [Service.load(name, device, dtype, accelerator) for name in names.values()]
    known = {service.name for service in services}
    on_demand: list[Service] = []
    for item in HUB_MODELS:
        if item.name not in known and (may_download or item.is_here):
            on_demand.append(serve_from_hub(item, device, dtype, accelerator, on_demand))
    return (*services, *on_demand)


def first_of_each_subject(services: Sequence[Service]) -> list[Service]:
    """Return, of several services of one subject, the first: programs reach that one."""
    return list({item.model.subject: item for item in reversed(services)}.values())[::-1]


def serve_from_hub(
    model: HubModel,
    device: str | None = None,
    dtype: str | None = None,
    accelerator: Accelerator | None = None,
    others: Sequence[Service] = (),
) -> Service:
    """Return the service of a model on a hub, loaded when it is first asked for anything.

    These are large: of it and the `others`, one is loaded at a time.
    """
    description = ModelDescription.of_hub(model)
    # Not warmed: on a CPU that alone takes minutes, and nobody else is served meanwhile.
    load = loader(description, device, dtype, is_warmed=False)

    def load_alone() -> "Engine":
        for other in others:
            other.unload()
        return load()

    return Service(description, load_alone, accelerator, Download(model))
