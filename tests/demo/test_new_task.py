"""A task that is added in four places is served everywhere: page, API, command line, PNG, address.

Three places are the dictionaries and the tuple below; the fourth is the tab's own file, here
`WORK`, as this task needs no more than a slider of its own.
"""

import inspect
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import gradio as gr
import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from demo import ui
from demo.tabs import generate
from flowturbo_core import tasks
from flowturbo_core.cli.sampling import sample_by
from flowturbo_core.fields import Flag, Line, Real
from flowturbo_core.metadata import read_png, read_query
from flowturbo_core.requests import TASKS, Classes, Generate, Task
from tests.demo.visits import SIZES, Visit, visiting


# flowturbo_core/requests.py
@dataclass(frozen=True)
class Fade(Task):
    """Generate images from weaker noise."""

    NAME: ClassVar = "fade"

    title: Annotated[str, Line(20), "what it is called"]
    strength: Annotated[float, Real(0, 1), "how much of the noise is left"] = 0.5
    is_mirrored: Annotated[bool, Flag(), "turn the noise round"] = False


# flowturbo_core/tasks/fade.py
def fade(request, job, tools):
    task = request.task
    noise = job.x_init.flip(-1) if task.is_mirrored else job.x_init
    return replace(job, x_init=noise * task.strength)


# demo/tabs/fade.py
WORK = generate.Work(
    Fade,
    "Fade",
    "Generate images of {} from weaker noise",
    lambda service: {
        "title": gr.Textbox("none", label="Title"),
        "strength": gr.Slider(0, 1, 0.5, label="Strength", elem_classes="strength"),
        "is_mirrored": gr.Checkbox(label="Mirrored"),
    },
)

# demo/ui.py
TAB = ui.Tab("fade", "Fade", partial(generate.build, work=WORK), Fade)


def add_task(patch):
    patch.setitem(TASKS, "fade", Fade)
    patch.setitem(tasks.JOBS, Fade, fade)
    patch.setattr(ui, "TABS", (*ui.TABS, TAB))


@pytest.fixture(autouse=True)
def task(monkeypatch):
    """Add the task, for each test of this file."""
    add_task(monkeypatch)


@pytest.fixture(scope="module")
def fading(serve, service, text_service):
    """Return the address of a page that has the task's tab."""
    with pytest.MonkeyPatch.context() as patch:
        add_task(patch)
        return serve(service, text_service)


def test_it_samples(service):
    asked = {"class_names": ["cat"], "plan": "H2", "seed": 3}
    own = {"strength": 0.0, "title": "nothing"}
    *_, done = service.run(service.request(asked | own, Fade))
    pipeline = service.wait().pipeline
    nothing = torch.zeros(1, *pipeline.latent_shape)
    expected = pipeline(["cat"], "H2", 1.5, latents=nothing).images
    assert done.pictures[0].tobytes() == expected[0].tobytes()
    assert done.request.task == Fade("nothing", 0.0)


def test_python_asks_for_it(service):
    pipeline = service.wait().pipeline
    request = pipeline.request(["cat"], "H2", task=Fade("pale", 0.25))
    assert request.to_json()["strength"] == 0.25
    with pytest.raises(ValueError, match="strength must be a number from 0 to 1, not 2"):
        pipeline(["cat"], "H2", task=Fade("pale", 2))


@pytest.mark.parametrize("things", [{"class_names": ["cat"]}, {"prompt": "a red boat"}])
def test_programs_ask_for_it_and_read_what_it_takes(fading, things):
    client = Client(fading, verbose=False)
    name = "/fade_class_conditional" if "class_names" in things else "/fade_text_to_image"
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"][name]
    names = [its["parameter_name"] for its in described["parameters"]]
    assert {"title", "strength", "is_mirrored"} <= set(names)
    own = {"title": "pale", "strength": 0.75, "is_mirrored": True}
    pictures, record = client.predict(**things, **own, heun=1, pseudo=0, api_name=name)
    assert record["task"] == "fade" and own.items() <= record.items()
    written = read_png(pictures[0]["image"])
    assert (written.task, written.values["strength"]) == (Fade, 0.75)
    assert read_query(record["query"]).task is Fade
    with pytest.raises(AppError, match="Strength must be a number from 0 to 1, not 7"):
        client.predict(**things, title="pale", strength=7, api_name=name)
    with pytest.raises(TypeError, match="required argument: title"):
        client.predict(**things, api_name=name)
    with pytest.raises(AppError, match="title must be given"):
        client.predict(**things, title=None, api_name=name)


def test_the_command_line_takes_it(postcards_folder, tmp_path, capsys):
    fading = sample_by(Fade)  # as it is registered when the program starts
    names = inspect.signature(fading).parameters
    assert (
        "strength" in names and "strength" not in inspect.signature(sample_by(Generate)).parameters
    )
    asked = {"title": "pale", "strength": 0.25, "is_mirrored": True, "class_labels": "cat"}
    asked |= {"plan": "H1", "dtype": "float32"}
    place = {"output_dir": tmp_path, "model": str(postcards_folder), "device": "cpu"}
    fading(**dict.fromkeys(names) | asked | place)
    (file,) = json.loads(capsys.readouterr().out)["files"]
    values = read_png(file).values
    assert (values["title"], values["strength"], values["is_mirrored"]) == ("pale", 0.25, True)
    with pytest.raises(ValueError, match="strength must be a number from 0 to 1, not 2"):
        fading(**dict.fromkeys(names) | asked | place | {"strength": 2})


def test_the_page_makes_it_and_takes_it_back(browser, serve, service, tmp_path):
    fading = serve(service)
    with visiting(Visit(browser, fading, SIZES["desk"])) as visit:
        page = visit.page
        page.get_by_role("tab", name="Fade").click()
        panel = page.get_by_role("tabpanel").filter(has=page.locator(".strength"))
        panel.get_by_label("Live").locator("visible=true").uncheck()
        strength = panel.locator(".strength input[type=number]").locator("visible=true")
        strength.fill("0.25")
        strength.press("Tab")
        panel.get_by_role("button", name="Fade").locator("visible=true").click()
        expect(panel.locator(".card").locator("visible=true")).to_contain_text("evaluations")
        page.wait_for_url("**task=fade**")
        address = page.url
        picture = tmp_path / "faded.png"
        shown = panel.locator(".gallery img").locator("visible=true").first
        picture.write_bytes(httpx.get(shown.get_attribute("src")).content)
    page = browser.new_page()
    page.goto(address)
    tab = page.get_by_role("tab", name="Fade")
    expect(tab).to_have_attribute("aria-selected", "true")
    panel = page.get_by_role("tabpanel").filter(has=page.locator(".strength"))
    strength = panel.locator(".strength input[type=number]").locator("visible=true")
    expect(strength).to_have_value("0.25")
    # The classes came back to a tab that had not been opened.
    expect(panel.locator(".count").locator("visible=true")).to_have_text("4 chosen")
    expect(panel.locator(".card").locator("visible=true")).to_contain_text("evaluations")
    page.close()
    with visiting(Visit(browser, fading, SIZES["desk"])) as visit:
        visit.drop(picture)  # among the classes
        strength = visit.page.locator(".strength input[type=number]").locator("visible=true")
        expect(strength).to_have_value("0.25")


def test_a_picture_of_another_task_is_not_taken_for_a_generated_one(service):
    asked = {"class_names": ["cat"], "plan": "H1", "title": "pale", "is_mirrored": True}
    *_, done = service.run(service.request(asked, Fade))
    written = read_query(generate.readout.record(done)["query"])
    assert written.subject is Classes
    with pytest.raises(ValueError, match="is of the task fade, not of generate"):
        service.restore(written)
    assert service.restore(written, Fade) == done.request
