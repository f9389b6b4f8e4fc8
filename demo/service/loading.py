"""Loading a model: a file of its own, as the engine imports torch and the service does not."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from flowturbo_core.models.catalog import ModelDescription

if TYPE_CHECKING:
    from demo.service.engine import Engine


def loader(
    description: ModelDescription, device: str | None, dtype: str | None, is_warmed: bool = True
) -> Callable[[], "Engine"]:
    """Return what loads a model; ValueError then says what is wrong with it."""

    def load() -> "Engine":
        from demo.service.engine import Engine  # on the accelerator's thread: it takes seconds

        return Engine.load(description, device, dtype, is_warmed)

    return load
