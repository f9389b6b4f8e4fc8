"""What can be asked of a model of classes."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from demo.service.events import Advanced, Comparison, Done, Preview, Stopped
from demo.service.service import Service, drawn_seed
from demo.service.slider_plans import Counts
from flowturbo_core.metadata import Settings
from flowturbo_core.models.catalog import CLASSES, DEFAULT_MODEL
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import ClassConditionalRequest

_FIRST_CLASSES = 4


class ClassService(Service):
    """A class-conditional model, and what can be asked of it."""

    THING: ClassVar = "class"
    TASK: ClassVar = CLASSES
    BUNDLED: ClassVar = DEFAULT_MODEL

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the model, label 0 first."""
        return self.model.class_names

    @property
    def default_settings(self) -> Settings:
        """What the page opens with: the first classes at the model's defaults."""
        return Settings(
            self.name,
            self.class_names[:_FIRST_CLASSES],
            str(self.slider_plans.plan(*self.default_counts)),
            self.model.default_guidance_scale,
            1,
            0,
        )

    def generate_class_conditional(
        self,
        class_names: Sequence[str | int],
        heun: object,
        pseudo: object,
        refiner: object,
        guidance_scale: object,
        num_images: object,
        seed: object,
        randomise: object,
        visitor: str | None = None,
        ticket: int = 0,
    ) -> Iterator[Preview | Done | Stopped | None]:
        """Generate images of classes, from unchecked values: see `_generate`."""
        plan, seed = self.slider_plans.plan(heun, pseudo, refiner), drawn_seed(seed, randomise)
        request = self._asked(class_names, plan, guidance_scale, num_images, seed)
        return self._generate(request, visitor, ticket)

    def compare_plans(
        self,
        class_names: Sequence[str | int],
        first_plan: object,
        second_plan: object,
        guidance_scale: object,
        num_images: object,
        seed: object,
        randomise: object,
        visitor: str | None = None,
        ticket: int = 0,
    ) -> Iterator[Advanced | Comparison | Stopped | None]:
        """Run two plans in turn from the same noise, from unchecked values: see `_compare`."""
        plans, seed = [first_plan, second_plan], drawn_seed(seed, randomise)
        return self._compare(class_names, plans, guidance_scale, num_images, seed, visitor, ticket)

    def restored(self, settings: Settings) -> tuple[list[str], Counts]:
        """Return the classes, as the model names them, and the steps of each kind of `settings`.

        Raises ValueError if this page cannot make the pictures of these settings.
        """
        request, counts = self._restored(settings.class_names, settings)
        return [self.class_names[label] for label in request.class_labels], counts

    def _request(
        self, things: Any, plan: SamplePlan, guidance_scale: object, num_images: int, seed: object
    ) -> ClassConditionalRequest:
        class_names = [] if things is None else things
        return ClassConditionalRequest.create(
            class_names, plan, guidance_scale, num_images, seed, self.class_names
        )
