"""What a visit remembers, and how settings come back: of a run, a picture, or the address."""

import json
from collections.abc import Callable, Mapping

import gradio as gr
from gradio.components import Component

from demo.parts.plan import PlanControls
from demo.parts.results import ARCHIVE, Results, VisitControls
from demo.parts.run import HELPER, sentence
from demo.says import readout
from demo.says.pictures import zip_file
from demo.service.service import Service
from demo.wiring.live import Result
from demo.wiring.runs import Updates, refuse_in_words
from flowturbo_core.files import Unwritable
from flowturbo_core.metadata import query_names, read_png, read_query
from flowturbo_core.requests import Request

# The address always says what is shown, so that it can be kept and passed on.
_FOLLOW_ADDRESS = """(record) => {
    if (!record) return;
    const others = new URLSearchParams(location.search);
    NAMES.forEach((name) => others.delete(name));
    const query = [record.query, others.toString()].filter((part) => part).join("&");
    history.replaceState(null, "", "?" + query + location.hash);
}"""
_READ_ADDRESS = "(live, moves) => [live, moves, location.search.slice(1)]"
_MAX_RUNS = 50  # that a visit remembers


def connect_visit(
    page: gr.Blocks,
    service: Service,
    task: type,
    inputs: Mapping[str, Component],
    plan: PlanControls,
    results: Results,
    visit: VisitControls,
    takes: Callable[[str], bool],
) -> None:
    """Remember what was made, and take settings back: of a run, a picture, or the address.

    While live, what comes back is sampled at once. `takes` tells whether an address's query is
    for this one of several.
    """
    _connect_memory(results, visit)

    def show(request: Request, live: bool, moves: int) -> Updates:
        values = service.control_values(request)
        # Of a picture that the settings name, the one that is there stands in.
        updates = {control: values[name] for name, control in inputs.items() if name in values}
        if len(updates) < len(inputs):
            gr.Info("The settings are back, but for the picture, which they do not hold.")
        elif not live:
            gr.Info("The settings are back; Generate makes their pictures.")
        return {**updates, plan.moves: moves + 1 if live else gr.skip()}

    def from_run(live: bool, moves: int, runs: list[readout.Run], pressed: gr.EventData) -> Updates:
        index = pressed.index
        if not isinstance(index, int) or not 0 <= index < len(runs):
            raise gr.Error("This visit has no such run.", print_exception=False)
        return show(runs[index].request, live, moves)

    def from_picture(live: bool, moves: int, file: str) -> Updates:
        with refuse_in_words(sentence, ValueError):
            return show(service.restore(read_png(file), task), live, moves)

    def from_address(live: bool, moves: int, query: str) -> Updates:
        with refuse_in_words(sentence, ValueError):
            if not takes(query) or (written := read_query(query)) is None:
                return {plan.moves: gr.skip()}
            return show(service.restore(written, task), live, moves)

    both = [plan.live, plan.moves]
    # In the queue, as all must be that shows a message.
    restores = HELPER | {"queue": True, "outputs": [*inputs.values(), plan.moves]}
    visit.chart.select(from_run, [*both, visit.runs], **restores)
    visit.picture.upload(from_picture, [*both, visit.picture], **restores)
    page.load(from_address, [*both, visit.address], js=_READ_ADDRESS, **restores)


def _connect_memory(results: Results, visit: VisitControls) -> None:
    """Remember finished runs with their archive, and show the trajectory of a chosen picture."""

    def remember(latest: Result | None, runs: list[readout.Run]) -> tuple:
        if latest is None or not latest.is_of_visit:  # those in view are of no finished run
            return gr.skip(), gr.skip(), gr.DownloadButton(interactive=False)
        if runs and runs[-1] is latest.run:
            return gr.skip(), gr.skip(), gr.DownloadButton(interactive=True)
        runs = [*runs, latest.run][-_MAX_RUNS:]
        request = latest.run.request
        name = f"flowturbo-{request.plan}-seed{request.seed}"
        try:
            archive = zip_file(latest.files, name, latest.record)
        except Unwritable as error:
            label = f"No archive: {error}"
            return runs, readout.visit(runs), gr.DownloadButton(label, interactive=False)
        button = gr.DownloadButton(ARCHIVE, value=archive, interactive=True)
        return runs, readout.visit(runs), button

    def strip_of(latest: Result | None, picked: gr.SelectData) -> str:
        if latest is None or picked.index >= len(latest.trajectories):
            return gr.skip()
        return latest.trajectories[picked.index]

    results.latest.change(
        remember, [results.latest, visit.runs], [visit.runs, visit.chart, visit.archive], **HELPER
    )
    follow = _FOLLOW_ADDRESS.replace("NAMES", json.dumps(query_names()))
    results.record.change(None, results.record, None, js=follow)
    last = {"trigger_mode": "always_last", **HELPER}
    results.gallery.select(strip_of, results.latest, results.trajectory, **last)
