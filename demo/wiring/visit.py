"""What a visit remembers, and how settings come back: of a run, a picture, or the address."""

import json
from collections.abc import Callable, Sequence

import gradio as gr
from gradio.components import Component

from demo.parts.controls import ARCHIVE, HELPER, PlanControls, Results, VisitControls, sentence
from demo.says import readout
from demo.says.pictures import zip_file
from demo.service.service import Service
from demo.wiring.live import Result
from flowturbo_core.files import Unwritable
from flowturbo_core.metadata import QUERY_NAMES, AnySettings

# The address always says what is shown, so that it can be kept and passed on.
_FOLLOW_ADDRESS = f"""(record) => {{
    if (!record) return;
    const others = new URLSearchParams(location.search);
    {json.dumps(QUERY_NAMES)}.forEach((name) => others.delete(name));
    const query = [record.query, others.toString()].filter((part) => part).join("&");
    history.replaceState(null, "", "?" + query + location.hash);
}}"""
_READ_ADDRESS = "(live, moves) => [live, moves, location.search.slice(1)]"
_MAX_RUNS = 50  # that a visit remembers


def connect_visit(
    page: gr.Blocks,
    service: Service,
    values_of: Callable[[AnySettings], tuple],
    inputs: Sequence[Component],
    plan: PlanControls,
    results: Results,
    visit: VisitControls,
    takes: Callable[[str], bool] = lambda _: True,
) -> None:
    """Remember what was made, and take settings back: of a run, a picture, or the address.

    `values_of` gives settings as values of `inputs`, or raises ValueError. While live, what comes
    back is sampled at once. `takes` tells whether an address's query is for this one of several.
    """

    def remember(latest: Result | None, runs: list[readout.Run]) -> tuple:
        if latest is None or not latest.is_of_visit:  # those in view are of no finished run
            return gr.skip(), gr.skip(), gr.DownloadButton(interactive=False)
        if runs and runs[-1] is latest.run:
            return gr.skip(), gr.skip(), gr.DownloadButton(interactive=True)
        runs = [*runs, latest.run][-_MAX_RUNS:]
        settings = latest.run.settings
        name = f"flowturbo-{settings.plan}-seed{settings.seed}"
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

    kind = type(service.default_settings)

    def restored(settings: AnySettings, live: bool, moves: int) -> tuple:
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
            return restored(kind.from_png(file), live, moves)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    def from_address(live: bool, moves: int, query: str) -> tuple:
        nothing = (gr.skip(),) * len(restores["outputs"])
        try:
            if not takes(query):
                return nothing
            settings = kind.from_query(query, service.default_settings)
            return nothing if settings is None else restored(settings, live, moves)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    results.latest.change(
        remember, [results.latest, visit.runs], [visit.runs, visit.chart, visit.archive], **HELPER
    )
    results.record.change(None, results.record, None, js=_FOLLOW_ADDRESS)
    last = {"trigger_mode": "always_last", **HELPER}
    results.gallery.select(strip_of, results.latest, results.trajectory, **last)
    both = [plan.live, plan.moves]
    # In the queue, as all must be that shows a message.
    restores = HELPER | {"queue": True, "outputs": [*inputs, plan.moves]}
    visit.chart.select(from_run, [*both, visit.runs], **restores)
    visit.picture.upload(from_picture, [*both, visit.picture], **restores)
    page.load(from_address, [*both, visit.address], js=_READ_ADDRESS, **restores)
