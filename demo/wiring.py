"""How a request is started, stopped, shown and remembered, and how its settings come back."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from inspect import getdoc

import gradio as gr
from gradio.components import Component

from demo import readout
from demo.controls import HELPER, PlanControls, Results, RunControls, VisitControls, sentence
from demo.events import Done, Preview
from demo.pictures import png_file, zip_file
from demo.service import Service
from flowturbo_core.metadata import Settings

# Every event that computes shares this: one at a time on the accelerator, the others wait.
GPU = {"concurrency_id": "gpu", "concurrency_limit": 1}

# On a narrow page the pictures are below the controls: go there.
_SHOW_READOUT = """() => {
    if (!matchMedia("(max-width: 900px)").matches) return;
    const shown = [...document.querySelectorAll(".readout")].find((e) => e.offsetParent);
    shown.scrollIntoView({ behavior: "smooth" });
}"""
# Generate and Stop, by whether something runs.
_BUTTONS = """((running) => [!running, running]
    .map((interactive) => ({ __type__: "update", interactive })))"""
_RUNNING = f"() => {_BUTTONS}(true)"
_IDLE = f"() => {_BUTTONS}(false)"
_AS_READOUT = f"(html) => {_BUTTONS}(html.includes({json.dumps(readout.BAR)}))"
# At once and in the browser: an answer from the server could come after the next result.
_INTERRUPTED = f"""(html) => html.includes({json.dumps(readout.BAR)})
    ? {json.dumps(readout.interrupted())} : html"""
# Counts how often a plan was changed while live; a change of the count samples. A plan that has
# nothing to begin with is only passed through: the line under the sliders says so already.
_MOVED = "(live, moves, heun, pseudo) => live && heun + pseudo > 0 ? moves + 1 : moves"
# The address always says what is shown, so that it can be kept and passed on.
_FOLLOW_ADDRESS = """(record) => {
    if (record) history.replaceState(null, "", "?" + record.query + location.hash);
}"""
_READ_ADDRESS = "(live, moves) => [live, moves, location.search.slice(1)]"
_MAX_RUNS = 50  # that a visit remembers
_MAX_STRIPS = 8  # pictures of a run whose trajectory is kept


_UNCHANGED = (gr.skip(),) * (1 + len(Results._fields))


@dataclass(frozen=True)
class Result:
    """A finished request, for what the page does with it afterwards.

    Args:
        run: what the list of runs shows.
        files: its pictures.
        trajectories: the strip of each of its first pictures.
    """

    run: readout.Run
    files: tuple[str, ...]
    trajectories: tuple[str, ...]


def shown(
    service: Service, ask: Callable[..., Iterator[Preview | Done]], *values: object
) -> Iterator[tuple]:
    """Ask the service, and turn its events into what `Results` and, third, the seed show.

    A refusal becomes the sentence the page shows. Closing this closes the service's iterator.
    """
    previews: list[Preview] = []
    thumbnails: list[tuple[str, ...]] = []  # each encoded once, however often it is shown
    with _refusals_said(), closing(ask(*values)) as events:
        for _ in service.until_loaded():
            yield gr.skip(), readout.loading(), *_UNCHANGED[2:]
        for event in events:
            if isinstance(event, Done):
                yield _finished(event, previews, thumbnails)
                return
            previews.append(event)
            thumbnails.append(readout.thumbnails(event, _MAX_STRIPS))
            text = readout.in_progress(event)
            strip = readout.trajectory(previews, thumbnails, 0)
            yield _preview_pictures(event), text, event.settings.seed, strip, None, None
        if not previews:  # interrupted at once; yielding nothing would empty the page
            yield _UNCHANGED


def answered(
    service: Service, ask: Callable[..., Iterator[Preview | Done]], *values: object
) -> Iterator[tuple]:
    """Ask the service, and turn its events into what programs want: pictures and a record."""
    with _refusals_said(), closing(ask(*values)) as events:
        for _ in service.until_loaded():
            yield None, None
        for event in events:
            if isinstance(event, Done):
                yield _captioned(_files(event), event), readout.record(event)
            else:
                yield _preview_pictures(event), None


@contextmanager
def _refusals_said() -> Iterator[None]:
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(sentence(error), print_exception=False) from error


def _preview_pictures(preview: Preview) -> list[tuple[str, str]]:
    return _captioned([png_file(picture) for picture in preview.pictures], preview)


def _captioned(files: Sequence[str], event: Preview | Done) -> list[tuple[str, str]]:
    return list(zip(files, event.captions, strict=True))


def _files(done: Done) -> list[str]:
    """Write finished pictures, each with the settings that make it again."""
    files = []
    for k, picture in enumerate(done.pictures):
        settings = done.settings.of_picture(k)
        files.append(png_file(picture, settings.file_name, settings.png_info(done.versions)))
    return files


def _finished(
    done: Done, previews: Sequence[Preview], thumbnails: Sequence[tuple[str, ...]]
) -> tuple:
    files = _files(done)
    strips = tuple(
        readout.trajectory(previews, thumbnails, k) for k in range(min(len(files), _MAX_STRIPS))
    )
    result = Result(readout.Run.of(done), tuple(files), strips)
    text, record = readout.finished(done), readout.record(done)
    return _captioned(files, done), text, done.settings.seed, strips[0], record, result


def publish(handler: Callable[..., Iterator[tuple]], inputs: Sequence[Component]) -> None:
    """Serve `handler` to programs under its own name, documented by its docstring and `inputs`.

    The page has an event of its own: what it shows is no use to programs.
    """
    gr.Button(visible=False).click(
        handler,
        list(inputs),
        [gr.Gallery(label="Pictures", visible=False), gr.JSON(label="Record", visible=False)],
        api_name=handler.__name__,
        api_description=getdoc(handler),  # all of it: Gradio alone would leave the ranges out
        preprocess=False,
        **GPU,
    )


def connect(
    service: Service,
    ask: Callable[..., Iterator[Preview | Done]],
    inputs: Sequence[Component],
    plan: PlanControls,
    buttons: RunControls,
    results: Results,
) -> None:
    """Make Generate ask the service by `ask`, and Stop end it.

    So do the plan's controls, while they are live, with the seed that is there. The last two of
    `inputs` are the seed and whether to draw one; all reach `ask` unchecked, as the core wants
    them: Gradio would round some of them.
    """
    both = list(buttons)
    *_, seed, _ = inputs
    computing = {
        "inputs": list(inputs),
        "outputs": [*results[:2], seed, *results[2:]],
        "preprocess": False,
        "show_progress": "full",
        "show_progress_on": results.readout,
        "api_visibility": "private",
        **GPU,
    }

    def generate(request: gr.Request, *values: object) -> Iterator[tuple]:
        yield from shown(service, ask, *values, request.session_hash)

    def again(request: gr.Request, *values: object) -> Iterator[tuple]:
        *asked, _ = values
        yield from shown(service, ask, *asked, False, request.session_hash)

    def interrupt(request: gr.Request) -> None:
        service.interrupt(request.session_hash)

    # First the buttons: a click's listeners run one after the other, in this order.
    buttons.generate.click(None, None, both, js=_RUNNING)
    buttons.generate.click(None, None, None, js=_SHOW_READOUT)
    run = buttons.generate.click(generate, **computing)

    # `input` is a person's choice only, so that sliders and presets do not chase each other.
    chosen = plan.preset.input(service.step_counts, plan.preset, plan.sliders, **HELPER)
    watched = [plan.live, plan.moves, plan.heun, plan.pseudo]
    let_go = {"fn": None, "inputs": watched, "outputs": plan.moves, "js": _MOVED}
    gr.on([slider.release for slider in plan.sliders], **let_go)
    chosen.then(**let_go)
    # What is under way is ended first: of several requests, the last one counts.
    moved = plan.moves.change(interrupt, None, None, **HELPER)
    moved.then(None, None, both, js=_RUNNING)
    sampled = moved.then(again, trigger_mode="always_last", **computing)
    runs = [run, sampled]
    # What the readout says decides what can be pressed, rather than that a request ended: one that
    # was overtaken ends while the one that overtook it runs.
    results.readout.change(None, results.readout, both, js=_AS_READOUT)
    for event in runs:
        event.failure(None, None, both, js=_IDLE)
        event.failure(None, results.readout, results.readout, js=_INTERRUPTED)
    buttons.stop.click(None, None, both, js=_IDLE)
    buttons.stop.click(None, results.readout, results.readout, js=_INTERRUPTED, cancels=runs)


def connect_visit(
    page: gr.Blocks,
    service: Service,
    values_of: Callable[[Settings], tuple],
    inputs: Sequence[Component],
    plan: PlanControls,
    results: Results,
    visit: VisitControls,
) -> None:
    """Remember what was made, and take settings back: of a run, a picture, or the address.

    `values_of` gives settings as values of `inputs`, or raises ValueError. While live, what comes
    back is sampled at once.
    """

    def remember(latest: Result | None, runs: list[readout.Run]) -> tuple:
        if latest is None or (runs and runs[-1] is latest.run):
            return gr.skip(), gr.skip(), gr.skip()
        runs = [*runs, latest.run][-_MAX_RUNS:]
        settings = latest.run.settings
        archive = zip_file(latest.files, f"flowturbo-{settings.file_name}", asdict(settings))
        return runs, readout.visit(runs), gr.DownloadButton(value=archive, interactive=True)

    def strip_of(latest: Result | None, picked: gr.SelectData) -> str:
        if latest is None or picked.index >= len(latest.trajectories):
            return gr.skip()
        return latest.trajectories[picked.index]

    def restored(settings: Settings, live: bool, moves: int) -> tuple:
        values = values_of(settings)
        if not live:
            gr.Info("The settings are back; Generate makes their pictures.")
        return *values, moves + 1 if live else gr.skip()

    def from_run(live: bool, moves: int, runs: list[readout.Run], pressed: gr.EventData) -> tuple:
        index = pressed.index
        if not isinstance(index, int) or not 0 <= index < len(runs):
            raise gr.Error("This visit has no such run.", print_exception=False)
        return restored(runs[index].settings, live, moves)

    def from_picture(live: bool, moves: int, file: str) -> tuple:
        try:
            return restored(Settings.from_png(file), live, moves)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    def from_address(live: bool, moves: int, query: str) -> tuple:
        try:
            settings = Settings.from_query(query, service.default_settings)
            if settings == service.default_settings:  # it asks for nothing
                return (gr.skip(),) * len(restores["outputs"])
            return restored(settings, live, moves)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    results.latest.change(
        remember, [results.latest, visit.runs], [visit.runs, visit.chart, visit.archive], **HELPER
    )
    results.record.change(None, results.record, None, js=_FOLLOW_ADDRESS)
    results.gallery.select(strip_of, results.latest, results.trajectory, **HELPER)
    both = [plan.live, plan.moves]
    # In the queue, as all must be that shows a message.
    restores = HELPER | {"queue": True, "outputs": [*inputs, plan.moves]}
    visit.chart.select(from_run, [*both, visit.runs], **restores)
    visit.picture.upload(from_picture, [*both, visit.picture], **restores)
    page.load(from_address, [*both, visit.address], js=_READ_ADDRESS, **restores)
