"""What can be asked of a model of texts."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from demo.service.accelerator import Accelerator
from demo.service.downloads import Download
from demo.service.events import Advanced, Comparison, Done, Kept, Preview, Stopped
from demo.service.loading import loader
from demo.service.service import Service, drawn_seed
from demo.service.slider_plans import Counts
from flowturbo_core.checks import brief
from flowturbo_core.metadata import TextSettings
from flowturbo_core.models.catalog import (
    DEFAULT_TEXT_MODEL,
    EXAMPLE_PROMPTS,
    TEXTS,
    HubModel,
    ModelDescription,
)
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import Request, TextToImageRequest

if TYPE_CHECKING:
    from demo.service.engine import Engine

# Results of examples: the last ones, and none of which the pictures take more than 12 MB.
_MAX_KEPT, _MAX_KEPT_PIXELS = 16, 2**22
EXAMPLES = (*EXAMPLE_PROMPTS[:5], "white lighthouse, rain")


class Wish(NamedTuple):
    """What there are to be pictures of: unchecked values."""

    prompt: object
    negative_prompt: object
    height: object
    width: object


class TextService(Service):
    """A text-to-image model, and what can be asked of it."""

    THING: ClassVar = "text"
    TASK: ClassVar = TEXTS
    BUNDLED: ClassVar = DEFAULT_TEXT_MODEL

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._kept: dict[Request, Kept] = {}

    @classmethod
    def of_hub(
        cls,
        model: HubModel,
        device: str | None = None,
        dtype: str | None = None,
        accelerator: Accelerator | None = None,
        others: Sequence[Service] = (),
    ) -> Self:
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

        return cls(description, load_alone, accelerator, Download(model))

    @property
    def default_settings(self) -> TextSettings:
        """What the page opens with: the first example at the model's defaults."""
        side = self.model.image_size
        return TextSettings(
            self.name,
            EXAMPLES[:1],
            "",
            str(self.slider_plans.plan(*self.default_counts)),
            self.model.default_guidance_scale,
            4,
            0,
            side,
            side,
        )

    def generate_text_to_image(
        self,
        prompt: object,
        negative_prompt: object,
        heun: object,
        pseudo: object,
        refiner: object,
        guidance_scale: object,
        height: object,
        width: object,
        num_images: object,
        seed: object,
        randomise: object,
        visitor: str | None = None,
        ticket: int = 0,
        is_example: bool = False,
    ) -> Iterator[Preview | Done | Kept | Stopped | None]:
        """Generate images of a text, from unchecked values: see `_generate`.

        Of an example, those that anybody had made so before come back at once.
        """
        wish = Wish(prompt, negative_prompt, height, width)
        plan, seed = self.slider_plans.plan(heun, pseudo, refiner), drawn_seed(seed, randomise)
        request = self._asked(wish, plan, guidance_scale, num_images, seed)
        answer = self._example if is_example else self._generate
        return answer(request, visitor, ticket)

    def _example(
        self, request: Request, visitor: str | None, ticket: int
    ) -> Iterator[Preview | Done | Kept | Stopped | None]:
        kept = self._kept.get(request)
        if kept is None:
            return self._keep(request, self._generate(request, visitor, ticket))
        return self._given(kept, visitor, ticket)

    def _given(self, kept: Kept, visitor: str | None, ticket: int) -> Iterator[Kept | Stopped]:
        end = self._wanted.begin(visitor, ticket)
        if end.stopped:
            yield Stopped()
        elif not end.event.is_set():
            yield kept

    def _keep(self, request: Request, events: Iterator[Any]) -> Iterator[Any]:
        """Yield the events, and keep what they come to, unless it is large."""
        previews = []
        with closing(events):
            for event in events:
                if isinstance(event, Preview):
                    previews.append(event.as_thumbnails())
                if isinstance(event, Done) and _pixels(event) <= _MAX_KEPT_PIXELS:
                    self._kept[request] = Kept(tuple(previews), event)
                    while len(self._kept) > _MAX_KEPT:
                        self._kept.pop(next(iter(self._kept)), None)
                yield event

    def cut_warnings(self, prompt: str, negative_prompt: str = "") -> list[str]:
        """Return why texts are refused, or which part of them is not read.

        Only the loaded tokenizer knows that part. An empty prompt is not refused here: nobody has
        pressed Generate yet.
        """
        if not prompt.strip():
            return []
        own, side = self.default_settings, self.model.image_size
        try:
            wish, plan = Wish(prompt, negative_prompt, side, side), SamplePlan.parse(own.plan)
            self._request(wish, plan, own.guidance_scale, 1, own.seed)
            engine = self.engine
            return [] if engine is None else engine.cut_warnings(prompt, negative_prompt)
        except ValueError as error:
            return [str(error)]

    def compare_plans(
        self,
        prompt: object,
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
        wish = Wish(prompt, "", self.model.image_size, self.model.image_size)
        plans, seed = [first_plan, second_plan], drawn_seed(seed, randomise)
        return self._compare(wish, plans, guidance_scale, num_images, seed, visitor, ticket)

    def restored(self, settings: TextSettings) -> tuple[TextToImageRequest, Counts]:
        """Return the request and the steps of each kind of `settings`.

        Raises ValueError if this page cannot make the pictures of these settings.
        """
        if len(settings.prompts) != 1:
            raise ValueError(f"this page takes one prompt at a time, not {len(settings.prompts)}")
        (prompt,) = settings.prompts
        wish = Wish(prompt, settings.negative_prompt, settings.height, settings.width)
        return self._restored(wish, settings)

    def _request(
        self, things: Any, plan: SamplePlan, guidance_scale: object, num_images: int, seed: object
    ) -> TextToImageRequest:
        # Several at once, which the library takes, would be more images than were asked for.
        if not isinstance(things.prompt, str | None):
            raise ValueError(f"prompt must be a text, not {brief(things.prompt)}")
        return TextToImageRequest.create(
            "" if things.prompt is None else things.prompt,
            "" if things.negative_prompt is None else things.negative_prompt,
            plan,
            guidance_scale,
            num_images,
            seed,
            things.height,
            things.width,
            self.model.factor,
        )


def _pixels(done: Done) -> int:
    return sum(picture.width * picture.height for picture in done.pictures)
