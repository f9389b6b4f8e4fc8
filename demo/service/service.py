"""The only door to flowturbo_core: what the model is, what can be asked of it, and how it fares.

Tabs hand in raw values and read events; they see no tensor and no model. The model is loaded in
the background: everything that a page is built from is read from its folder without torch.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Self

from demo.service.accelerator import Accelerator, closing_down
from demo.service.budget import Budget
from demo.service.downloads import Download
from demo.service.events import Advanced, Comparison, Done, Kept, PlanSummary, Preview, Stopped
from demo.service.loading import loader
from demo.service.slider_plans import Counts, SliderPlans
from demo.service.tickets import End, Wanted
from flowturbo_core.checks import brief, real_number, whole_number
from flowturbo_core.metadata import AnySettings
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import FrontPlan
from flowturbo_core.plan import BASELINE, SamplePlan, parse_distinct
from flowturbo_core.requests import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    Request,
)

if TYPE_CHECKING:
    from demo.service.engine import Engine


# What the page offers, and so what it and its API accept: lowest and highest value.
GUIDANCE_SCALE = (0, MAX_GUIDANCE_SCALE)
NUM_IMAGES = (1, 8)
NUM_COMPARED = (1, 4)  # images of each class when two plans are run four times each

_LOOK_AGAIN_S = 0.25


class Service:
    """A model, and what can be asked of it.

    Subclasses say in `THING` what there are pictures of, in `TASK` as a model's index does, and in
    `BUNDLED` which model it is where none is named.

    Args:
        model: what its folder says of it.
        load: makes the engine; called on the accelerator's thread.
        accelerator: the thread that loads and runs it.
        download: how its weights come here, of a model that is on a hub; it is loaded when it is
            first asked for, and all others at once.
    """

    THING: ClassVar[str]
    TASK: ClassVar[str]
    BUNDLED: ClassVar[str]

    def __init__(
        self,
        model: ModelDescription,
        load: Callable[[], "Engine"],
        accelerator: Accelerator | None = None,
        download: Download | None = None,
    ):
        self.model, self.download = model, download
        self._accelerator = Accelerator() if accelerator is None else accelerator
        self._load, self._lock = load, Lock()
        self._loading: Future[Engine] | None = None
        self._wanted = Wanted()
        if download is None:
            self._begin()

    @classmethod
    def load(
        cls,
        model: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> Self:
        """Begin to load a model by name or folder; None takes the bundled one, the best device.

        Raises ValueError, in one sentence, for a model that is not there; what goes wrong later,
        `wait` raises.
        """
        description = ModelDescription.read(cls.BUNDLED if model is None else model)
        if description.task != cls.TASK:
            raise ValueError(f"{description.name} makes pictures of {description.task}")
        return cls(description, loader(description, device, dtype), accelerator)

    def _begin(self) -> "Future[Engine]":
        """Return the model that is being loaded, or is; begin to load it, if it is not."""
        with self._lock:
            loading = self._loading
            # What could not be loaded may fit later, when it is on demand.
            has_failed = self.download and loading and loading.done() and loading.exception()
            if loading is None or has_failed:
                self._loading = loading = self._accelerator.submit(self._load)
            return loading

    def unload(self) -> None:
        """Forget the loaded model; it is loaded again when it is next asked for."""
        with self._lock:
            if self._loading is not None and self._loading.done():
                self._loading = None

    def close(self) -> None:
        """End what runs within one block, and refuse it, what waits and what comes later."""
        self._accelerator.close()

    @property
    def is_here(self) -> bool:
        """Whether the model's weights are on this machine."""
        return self.download is None or self.download.state.status == "here"

    def wait(self) -> "Engine":
        """Return the loaded model; raise what went wrong, if it cannot be loaded."""
        return self._begin().result()

    @property
    def engine(self) -> "Engine | None":
        """The loaded model; None while there is none."""
        loading = self._loading
        if loading is None or not loading.done() or loading.exception() is not None:
            return None
        return loading.result()

    def health(self) -> dict[str, Any]:
        """Return how the service fares: `status` is idle, loading, ready or failed.

        Idle is a model that nobody has asked for yet.
        """
        loading = self._loading
        state: dict[str, Any] = {"status": "loading", "model": self.name}
        if loading is None:
            state |= {"status": "idle"}
        elif loading.done() and (error := loading.exception()) is not None:
            state |= {"status": "failed", "error": str(error)}
        elif loading.done():
            engine = loading.result()
            state |= {"status": "ready", "device": engine.device, "dtype": engine.dtype}
        return state

    @property
    def front_plans(self) -> tuple[FrontPlan, ...]:
        """The plans worth their time that the sliders can make; none where they are not known."""
        try:
            front = self.model.front
        except ValueError:  # Compare says what is wrong with it
            return ()
        plans = () if front is None else front.plans
        return tuple(its for its in plans if self.slider_plans.can_say(its.plan))

    @property
    def budget(self) -> Budget | None:
        """What those plans take here; None where there are none, or nothing is loaded yet."""
        engine = self.engine
        return None if engine is None else Budget.of(self.front_plans, engine.rates)

    def within(self, ms_per_image: object) -> Counts:
        """Return the steps of the most exact plan that takes no longer, or of the cheapest.

        Raises ValueError for no number, and where no such plan is known.
        """
        wanted, budget = real_number("milliseconds per image", ms_per_image, 0, 1e9), self.budget
        if budget is None:
            raise ValueError("which plans are worth their time is not known of this model yet")
        return self.slider_plans.counts(budget.best_within(wanted))

    @property
    def name(self) -> str:
        """What the page calls the model."""
        return self.model.name

    @property
    def example(self) -> Kept | None:
        """What the model made before of what the page opens with; None where nothing is kept."""
        from demo.service import examples  # it imports the services

        return examples.of(self.model)

    @property
    def has_refiner(self) -> bool:
        """Whether the model can take refiner steps."""
        return self.model.has_refiner

    @property
    def slider_plans(self) -> SliderPlans:
        """The plans that the sliders can say."""
        return SliderPlans.of_model(self.model.default_plan)

    @property
    def presets(self) -> list[str]:
        """The model's own plan, and those of the papers that it can run."""
        own, (first, *others) = self.model.default_plan, self.slider_plans.published
        if own not in (first, *others) and self._says_own_plan:
            others = [own, *others]
        return [p for p in (first, *others) if self.has_refiner or "R" not in p]

    @property
    def default_counts(self) -> Counts:
        """Steps of each kind of the plan the model's index names.

        H8 where three sliders cannot express that plan.
        """
        plan = self.model.default_plan if self._says_own_plan else BASELINE
        return self.slider_plans.counts(plan)

    @property
    def note(self) -> str:
        """What a person should know of the model's default plan."""
        note = f" This model's own plan is {self.model.default_plan}"
        if self._says_own_plan:
            return f"{note}."
        return f"{note}, which three sliders cannot say; {BASELINE} stands in."

    @property
    def _says_own_plan(self) -> bool:
        return self.slider_plans.can_say(self.model.default_plan)

    @property
    def default_plans(self) -> tuple[str, str]:
        """The two plans that a comparison opens with: plain Heun, and the model's own.

        Where its own is plain Heun, as many blocks of FlowTurbo's.
        """
        own = self.model.default_plan
        if own != BASELINE:
            return BASELINE, own
        return BASELINE, "H2P4R2" if self.has_refiner else "H1P7"

    def describe_plan(self, *counts: object) -> PlanSummary:
        """Summarise the plan of unchecked numbers of steps; ValueError says what is wrong."""
        return PlanSummary.of(self.slider_plans.plan(*counts))

    def read_plan(self, text: object) -> PlanSummary:
        """Summarise a plan of any form, written by a person; ValueError says what is wrong."""
        plan = SamplePlan.parse(text)
        plan.require_refiner(self.has_refiner)
        return PlanSummary.of(plan)

    def stop(self, visitor: str, ticket: int) -> None:
        """End all that this visitor asked for up to `ticket`, within one block."""
        self._wanted.end(visitor, ticket, stopped=True)

    def overtake(self, visitor: str, ticket: int) -> None:
        """End the same, as something newer is asked for: nobody is told that it was stopped."""
        self._wanted.end(visitor, ticket, stopped=False)

    def _request(
        self, things: Any, plan: SamplePlan, guidance_scale: object, num_images: int, seed: object
    ) -> Request:
        """Return a request of unchecked values; `things` is what there are to be pictures of."""
        raise NotImplementedError  # pragma: no cover

    def _asked(
        self,
        things: Any,
        plan: SamplePlan,
        guidance_scale: object,
        num_images: object,
        seed: object,
    ) -> Request:
        """Return the request of unchecked values; ValueError says what is wrong with one."""
        count = whole_number("number of images", num_images, *NUM_IMAGES)
        return self._checked(things, plan, guidance_scale, count, seed)

    def _generate(
        self, request: Request, visitor: str | None, ticket: int
    ) -> Iterator[Preview | Done | Stopped | None]:
        """Yield None while the model is being loaded, a Preview a block, then Done.

        Closing the iterator stops the work within one block. So do `stop` and `overtake` by the
        same `visitor` with this `ticket` or a later one, even before this was called: what they
        ended is not begun. Raises ValueError if memory runs out, FloatingPointError if the
        arithmetic overflows.
        """
        self._require_weights()
        end = self._wanted.begin(visitor, ticket)
        return self._until_ended(lambda engine: engine.generate(request), end)

    def _compare(
        self,
        things: Any,
        plans: Sequence[object],
        guidance_scale: object,
        num_images: object,
        seed: object,
        visitor: str | None,
        ticket: int,
    ) -> Iterator[Advanced | Comparison | Stopped | None]:
        """Run two plans in turn from the same noise; the last Comparison is done.

        Ends, and refuses, as `_generate` does; two plans that are one are refused as well.
        """
        count = whole_number("number of images", num_images, *NUM_COMPARED)
        requests = [
            self._checked(things, plan, guidance_scale, count, seed)
            for plan in parse_distinct(plans)
        ]
        self._require_weights()
        end = self._wanted.begin(visitor, ticket)
        return self._until_ended(lambda engine: engine.compare(requests), end)

    def _require_weights(self) -> None:
        if not self.is_here:
            raise ValueError(f"the weights of {self.name} are not here yet: download them first")

    def _restored(self, things: Any, settings: AnySettings) -> tuple[Request, Counts]:
        """Return the request of settings, and their steps of each kind.

        Raises ValueError if this page cannot make the pictures of these settings.
        """
        if settings.model != self.name:
            raise ValueError(
                f"these are settings of the model {brief(settings.model)}; this page runs "
                f"{self.name!r}"
            )
        plans = self.slider_plans
        counts = plans.counts(settings.plan)
        if counts is None:
            raise ValueError(f"plan {brief(settings.plan)} is none of {plans.solver}..P..R..")
        scale, number, seed = settings.guidance_scale, settings.num_images, settings.seed
        return self._asked(things, plans.plan(*counts), scale, number, seed), counts

    def _checked(
        self, things: Any, plan: SamplePlan, guidance_scale: object, num_images: int, seed: object
    ) -> Request:
        plan.require_refiner(self.has_refiner)
        guidance_scale = real_number("guidance scale", guidance_scale, *GUIDANCE_SCALE)
        return self._request(things, plan, guidance_scale, num_images, seed)

    def _until_ended(self, work: Callable[["Engine"], Iterator[Any]], end: End) -> Iterator[Any]:
        loading = self._begin()
        while not loading.done() and not end.event.is_set():
            if self._accelerator.is_closed:  # what is being loaded goes on, and nobody waits
                raise closing_down()
            yield None
            wait([loading], _LOOK_AGAIN_S)
        if not end.event.is_set():
            # What the thread loaded is there by now, or what went wrong is raised.
            yield from self._accelerator.stream(lambda: work(loading.result()), end.event)
        if end.stopped:
            yield Stopped()


def drawn_seed(seed: object, randomise: object) -> object:
    """Return the seed, unchecked, or one that is drawn."""
    if not isinstance(randomise, bool):
        raise ValueError(f"randomise must be true or false, not {brief(randomise)}")
    return random.randint(0, MAX_SEED - MAX_IMAGES) if randomise else seed
