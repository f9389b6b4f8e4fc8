"""The only door to models: what each is, what can be asked of it, and how it fares.

Tabs hand in raw values by name and read events; they see no tensor and no model. The model is
loaded in the background: what a page is built from is read from its folder, without torch.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from demo.service import examples
from demo.service.accelerator import Accelerator, closing_down
from demo.service.budget import PlanBudget
from demo.service.downloads import Download
from demo.service.events import Advanced, Comparison, Done, Kept, Preview, Stopped
from demo.service.loading import loader
from demo.service.plan_menu import PlanMenu
from demo.service.tickets import End, Ticket, Wanted
from flowturbo_core.checks import brief, real_number
from flowturbo_core.fields import Flag, Kind, Whole, declared_fields
from flowturbo_core.metadata import Written
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import FrontPlan
from flowturbo_core.plan import SamplePlan, parse_distinct
from flowturbo_core.requests import (
    DOT,
    MAX_IMAGES,
    MAX_SEED,
    Generate,
    Prompts,
    Request,
    Texts,
    fields_of,
)

if TYPE_CHECKING:
    from demo.service.engine import Engine


# Where the page and its endpoints take less than the library. Several prompts at once would be more
# images than were asked for.
NARROWED: Mapping[str, Kind] = {"num_images": Whole(1, 8), "prompts": Prompts(1)}
# Two plans are run four times each.
NARROWED_TO_COMPARE: Mapping[str, Kind] = {**NARROWED, "num_images": Whole(1, 4)}

# Results of examples: the last ones, and none of which the pictures take more than 12 MB.
_MAX_KEPT, _MAX_KEPT_PIXELS = 16, 2**22
_LOOK_AGAIN_S = 0.25


class Service:
    """A model, and what can be asked of it.

    Args:
        model: what its folder says of it.
        load: makes the engine; called on the accelerator's thread.
        accelerator: the thread that loads and runs it.
        download: how its weights come here, of a model that is on a hub; it is loaded when it is
            first asked for, and all others at once.
    """

    def __init__(
        self,
        model: ModelDescription,
        load: Callable[[], "Engine"],
        accelerator: Accelerator | None = None,
        download: Download | None = None,
    ):
        self.model, self.download = model, download
        self.plans = PlanMenu(model)
        self._accelerator = Accelerator() if accelerator is None else accelerator
        self._load, self._lock = load, Lock()
        self._loading: Future[Engine] | None = None
        self._wanted = Wanted()
        self._kept: dict[Request, Kept] = {}
        if download is None:
            self._begin()

    @classmethod
    def load(
        cls,
        model: str,
        device: str | None = None,
        dtype: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> Self:
        """Begin to load a model by name or folder; None takes the best device and number format.

        Raises ValueError, in one sentence, for a model that is not there; what goes wrong later,
        `wait` raises.
        """
        description = ModelDescription.read(model)
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
    def name(self) -> str:
        """What the page calls the model."""
        return self.model.name

    @property
    def front_plans(self) -> tuple[FrontPlan, ...]:
        """The plans worth their time that the sliders can make; none where they are not known."""
        try:
            front = self.model.front
        except ValueError:  # Compare says what is wrong with it
            return ()
        plans = () if front is None else front.plans
        return tuple(item for item in plans if self.plans.can_say(SamplePlan.parse(item.plan)))

    @property
    def budget(self) -> PlanBudget | None:
        """What those plans take here; None where there are none, or nothing is loaded yet."""
        engine = self.engine
        return None if engine is None else PlanBudget.of(self.front_plans, engine.rates)

    def plan_within(self, ms_per_image: object) -> SamplePlan:
        """Return the most exact plan that takes no longer, or the cheapest.

        Raises ValueError for no number, and where no such plan is known.
        """
        wanted, budget = real_number("milliseconds per image", ms_per_image, 0, 1e9), self.budget
        if budget is None:
            raise ValueError("which plans are worth their time is not known of this model yet")
        return SamplePlan.parse(budget.best_within(wanted))

    def read_plan(self, text: object) -> SamplePlan:
        """Return the plan that a person wrote, of any form; ValueError says what is wrong."""
        return fields_of(self.model.subject, Generate)["plan"].read(text, self.model)

    @property
    def opening(self) -> Request:
        """What the page opens with: the subject's own beginning, at the model's defaults."""
        values = {"plan": self.plans.default, **self.model.subject.opening(self.model)}
        return Request.read(self.model, values)

    @property
    def example(self) -> Kept | None:
        """What the model made before of what the page opens with; None where nothing is kept."""
        return examples.of(self.model)

    def request(
        self,
        values: Mapping[str, object],
        task: type = Generate,
        narrowed: Mapping[str, Kind] = NARROWED,
    ) -> Request:
        """Return the request of unchecked values by name; ValueError says what is wrong with one.

        Beside the fields of a request, `heun`, `pseudo` and `refiner` stand for a plan, and
        `randomise` for a seed that is drawn.
        """
        fields = fields_of(self.model.subject, task)
        # An empty box gives nothing.
        asked = {
            name: "" if value is None and name in fields and fields[name].kind.IS_WRITTEN else value
            for name, value in values.items()
        }
        steps = {name: asked.pop(name) for name in self.plans.fields if name in asked}
        if steps:
            asked["plan"] = self.plans.plan(steps)
        if Flag().read("randomise", asked.pop("randomise", False), self.model):
            asked["seed"] = random.randint(0, MAX_SEED - MAX_IMAGES)
        return Request.read(self.model, asked, task, narrowed)

    def restore(self, written: Written, task: type = Generate) -> Request:
        """Return the request that a picture or an address says; what it leaves out, as at opening.

        Where it names pictures, which it does not hold, the request has a dot.

        Raises ValueError if this page cannot make it.
        """
        subject = self.model.subject
        if written.subject not in (None, subject):
            raise ValueError(
                f"this {written.place} is of {written.subject.PLURAL}, not of {subject.PLURAL}"
            )
        if written.task is not task:
            raise ValueError(
                f"this {written.place} is of the task {written.task.NAME}, not of {task.NAME}"
            )
        if written.model not in (None, self.name):
            raise ValueError(
                f"these are settings of the model {brief(written.model)}; this page runs "
                f"{self.name!r}"
            )
        things = written.values.get(subject.field().name)
        if subject is Texts and not isinstance(things, str) and len(things or "1") > 1:
            raise ValueError(f"this page takes one prompt at a time, not {len(things)}")
        values = {**self.opening.values(), **written.values, **_find_dots(task)}
        request = Request.read(self.model, values, task, NARROWED)
        self.plans.check(request.plan)
        return request

    def control_values(self, request: Request) -> dict[str, Any]:
        """Return a request as `request` takes it, for the controls of a page.

        Raises ValueError for a plan that the sliders cannot say.
        """
        fields = fields_of(self.model.subject, type(request.task))
        values = {
            name: NARROWED.get(name, fields[name].kind).to_json(value)
            for name, value in request.values().items()
            if fields[name].kind.IS_CARRIED
        }
        del values["plan"]
        return {**values, **self.plans.check(request.plan), "randomise": False}

    def stop(self, ticket: Ticket) -> None:
        """End all that its visitor asked for up to this ticket, within one block."""
        self._wanted.end(ticket, stopped=True)

    def overtake(self, ticket: Ticket) -> None:
        """End the same, as something newer is asked for: nobody is told that it was stopped."""
        self._wanted.end(ticket, stopped=False)

    def run(
        self, request: Request, ticket: Ticket | None = None
    ) -> Iterator[Preview | Done | Stopped | None]:
        """Yield None while the model is being loaded, a Preview a block, then Done.

        Closing the iterator stops the work within one block. So do `stop` and `overtake` with this
        ticket or a later one of its visitor, even before this was called: what they ended is not
        begun. Raises ValueError if memory runs out, FloatingPointError if the arithmetic overflows.
        """
        return self._events(lambda engine: engine.generate(request), ticket)

    def run_example(
        self, request: Request, ticket: Ticket | None = None
    ) -> Iterator[Preview | Done | Kept | Stopped | None]:
        """Yield what `run` does; of what anybody had made so before, at once what is kept of it."""
        kept = self._kept.get(request)
        if kept is not None:
            return self._give(kept, ticket)
        return self._keep(request, self.run(request, ticket))

    def compare(
        self, request: Request, plans: Sequence[object], ticket: Ticket | None = None
    ) -> Iterator[Advanced | Comparison | Stopped | None]:
        """Run a request by two plans in turn, from the same noise; the last Comparison is done.

        Ends, and refuses, as `run` does; two plans that are one are refused as well.
        """
        read = [self.read_plan(plan) for plan in parse_distinct(plans)]
        requests = [replace(request, plan=plan) for plan in read]
        return self._events(lambda engine: engine.compare(requests), ticket)

    def cut_warnings(self, **texts: str) -> list[str]:
        """Return why texts are refused, or which part of them is not read.

        Only the loaded tokenizer knows that part. An empty prompt is not refused here: nobody has
        pressed Generate yet.
        """
        if not texts["prompts"].strip():
            return []
        try:
            request, engine = self.request(texts), self.engine
            return [] if engine is None else engine.cut_warnings(request)
        except ValueError as error:
            return [str(error)]

    def _give(self, kept: Kept, ticket: Ticket | None) -> Iterator[Kept | Stopped]:
        end = self._wanted.begin(ticket)
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

    def _events(
        self, work: Callable[["Engine"], Iterator[Any]], ticket: Ticket | None
    ) -> Iterator[Any]:
        if not self.is_here:
            raise ValueError(f"the weights of {self.name} are not here yet: download them first")
        return self._until_ended(work, self._wanted.begin(ticket))

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


def _find_dots(task: type) -> dict[str, Any]:
    """Return a dot for each picture that the task takes."""
    fields = declared_fields(task)
    return {name: DOT for name, field in fields.items() if not field.kind.IS_CARRIED}


def _pixels(done: Done) -> int:
    return sum(picture.width * picture.height for picture in done.pictures)
