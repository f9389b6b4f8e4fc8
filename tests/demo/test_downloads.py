"""Models on a hub: told what they are, fetched on demand, once for all, and then used."""

import re
import threading
from dataclasses import replace
from functools import partial

import gradio as gr
import pytest
from playwright.sync_api import expect

from demo.parts import panes
from demo.service import downloads
from demo.service.accelerator import Accelerator
from demo.service.downloads import Download
from demo.service.engine import Engine
from demo.service.events import Done, Fetching
from demo.service.loading import loader
from demo.service.text_service import TextService
from flowturbo_core.making import hub
from flowturbo_core.making.hub import Fetched, fetch
from flowturbo_core.models.catalog import ModelDescription
from tests.core.pipelines.tiny_text import tiny_text_pipeline
from tests.demo.visits import Visit, serious_violations
from tests.local_hub import MODEL, publish, serving


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Scripted:
    """Fetches nothing, in as many steps as it is let."""

    def __init__(self):
        self.calls, self.gate, self.error = 0, threading.Event(), None

    def __call__(self, model):
        self.calls += 1
        yield Fetched(1, 4)
        assert self.gate.wait(20)
        if self.error:
            raise ValueError(self.error)
        yield Fetched(4, 4)


def settled(download):
    """Wait until a download no longer runs."""
    for thread in threading.enumerate():
        if thread.name == f"download {MODEL.name}":
            thread.join(20)
    return download.state


def test_it_runs_once_however_many_ask(own_cache):
    scripted = Scripted()
    download = Download(MODEL, scripted)
    assert download.state == Fetching("absent")
    for _ in range(3):
        download.begin()
    assert download.state.status == "arriving"
    scripted.gate.set()
    assert settled(download) == Fetching("here")
    download.begin()
    assert scripted.calls == 1


def test_one_that_failed_says_why_and_can_be_begun_again(own_cache):
    scripted = Scripted()
    scripted.error = "no network"
    scripted.gate.set()
    download = Download(MODEL, scripted)
    download.begin()
    assert settled(download) == Fetching("failed", error="no network")
    scripted.error = None
    download.begin()
    assert settled(download) == Fetching("here") and scripted.calls == 2


@pytest.fixture
def remote(tmp_path, own_cache, monkeypatch, service):
    """Return the service of a model on a hub of this machine, and that hub."""
    monkeypatch.setattr(hub, "_LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(panes, "_LOOK_AGAIN_S", 0.1)
    model = replace(MODEL, image_size=64, default_plan="E1")  # as InstaFlow's distilled one
    description = ModelDescription.of_hub(model)
    with serving(publish(tmp_path / "published")) as server:
        download = Download(model, partial(fetch, endpoint=server.endpoint))
        load = loader(description, "cpu", "float32")
        yield TextService(description, load, service._accelerator, download), server


def ask(service):
    return service.generate_text_to_image(
        "a boat", "", 1, 1, 0, 1.5, 64, 64, num_images=1, seed=1, randomise=False
    )


def test_a_model_is_refused_until_it_is_here_and_loaded_when_it_is_asked_for(remote):
    service, _ = remote
    assert not service.is_here and service.budget is None and service.cut_warnings("x") == []
    with pytest.raises(ValueError, match=f"the weights of {MODEL.name} are not here yet"):
        ask(service)
    service.download.begin()
    assert settled(service.download).status == "here"
    assert service.health() == {"status": "idle", "model": MODEL.name}
    *_, done = ask(service)
    assert isinstance(done, Done) and done.pictures[0].size == (64, 64)
    assert service.health()["status"] == "ready"


class Loads:
    """Loads a pipeline, as often as it is asked, unless it is told to fail."""

    def __init__(self, pipeline):
        self.pipeline, self.count, self.error = pipeline, 0, None

    def __call__(self):
        self.count += 1
        if self.error:
            raise self.error
        return Engine(self.pipeline, MODEL.name)


def on_demand(load, own_cache):
    """Return the service of a model whose weights are here, loaded when it is asked for."""
    download = Download(MODEL, lambda model: iter(()))
    download.begin()
    assert settled(download).status == "here"
    description = ModelDescription.of_hub(replace(MODEL, image_size=64, default_plan="H1P1"))
    return TextService(description, load, download=download)


def test_what_failed_to_load_is_loaded_when_it_is_asked_for_again(own_cache):
    load = Loads(tiny_text_pipeline())
    service = on_demand(load, own_cache)
    load.error = ValueError("it does not fit")
    for _ in range(2):
        with pytest.raises(ValueError, match="it does not fit"):
            list(ask(service))
    assert service.health()["status"] == "failed" and load.count == 2
    load.error = None
    assert isinstance(list(ask(service))[-1], Done)
    service.unload()
    assert service.engine is None and service.health()["status"] == "idle"
    assert isinstance(list(ask(service))[-1], Done)
    assert load.count == 4


def test_of_the_models_on_demand_one_is_loaded_at_a_time(own_cache, monkeypatch):
    pipeline = tiny_text_pipeline()
    monkeypatch.setattr("demo.service.text_service.loader", lambda *_, **__: Loads(pipeline))
    accelerator, services = Accelerator(), []
    for name in ("one", "other"):
        model = replace(MODEL, name=name, image_size=64, default_plan="H1P1")
        services.append(TextService.of_hub(model, None, None, accelerator, services))
        services[-1].download = Download(model, lambda model: iter(()))
        services[-1].download.begin()
    for thread in threading.enumerate():
        if thread.name.startswith("download "):
            thread.join(20)
    for chosen in (0, 1, 0):
        assert isinstance(list(ask(services[chosen]))[-1], Done)
        assert [its.engine is not None for its in services] == [chosen == 0, chosen == 1]


def test_a_late_answer_from_before_a_download_does_not_end_looking_for_it():
    absent, arriving, here, failed = (
        panes.looking_again(Fetching(status)) for status in ("absent", "arriving", "here", "failed")
    )
    assert absent == gr.skip()
    assert [its.active for its in (arriving, here, failed)] == [True, False, False]


def test_the_page_fetches_a_model_and_makes_pictures_with_it(
    browser, serve, service, text_service, remote
):
    other, server = remote
    server.broken = {"unet/diffusion_pytorch_model.bin"}
    address = serve(service, text_service, other)
    visit = Visit(browser, address, (1400, 1024))
    page = visit.page
    visit.open_tab("Text to image")
    told = page.locator(".status p")
    expect(told).to_have_text([re.compile("^tiny-postcards on cpu"), re.compile("^tiny-texts on")])
    page.get_by_role("radio", name=MODEL.name).locator("visible=true").check()
    card = page.locator(".download .card").locator("visible=true")
    for text in (MODEL.name, "4.3 GB", MODEL.repository, MODEL.licence):
        expect(card).to_contain_text(text)
    assert serious_violations(page) == []
    fetching = page.locator(".fetch").locator("visible=true")
    fetching.click()
    bar = page.locator(".download .bar div").locator("visible=true")
    expect(bar).to_have_count(1)
    assert bar.bounding_box()["height"] > 0
    expect(card).to_contain_text("could not be fetched")
    expect(fetching).to_have_text("Try again")
    server.broken = set()
    fetching.click()
    generate = page.get_by_role("button", name="Generate").locator("visible=true")
    expect(generate).to_be_enabled()
    assert card.count() == 0
    prompt = page.get_by_label("Prompt", exact=True).locator("visible=true")
    prompt.fill("a cat in the snow")
    generate.click()
    readout = page.locator(".readout .card").locator("visible=true")
    expect(readout).to_contain_text("evaluations")
    # Of a model that was distilled to Euler's steps, the first slider counts these.
    expect(page.get_by_role("slider", name="Euler steps")).to_have_value("1")
    expect(readout.locator(".legend")).to_contain_text("Euler")
    page.wait_for_url(re.compile(r"[?&]plan=E1(&|$)"))  # the readout may be there before
    assert re.search(rf"[?&]model={re.escape(MODEL.name)}(&|$)", page.url)
    # Its address opens on it, and Compare has it too.
    visit.leave_for(page.url)
    expect(told).to_have_count(2)
    expect(page.get_by_role("radio", name=MODEL.name).locator("visible=true")).to_be_checked()
    expect(prompt).to_have_value("a cat in the snow")
    visit.open_tab("Compare")
    page.get_by_role("radio", name=MODEL.name).locator("visible=true").check()
    expect(page.get_by_role("button", name="Compare").locator("visible=true")).to_be_enabled()
    assert visit.complaints == []
    page.close()


def test_the_studio_offers_the_catalogue(monkeypatch, tmp_path, text_service, own_cache):
    from demo.service import studio
    from flowturbo_core.models.catalog import HUB_MODELS

    classes, texts = studio.load_services(str(text_service.model.folder), "cpu", "float32")
    assert [its.name for its in texts[1:]] == [model.name for model in HUB_MODELS]
    assert not any(its.is_here for its in texts[1:])
    assert [its.default_settings.plan for its in texts[1:]] == ["H1P7", "E1"]
    _, alone = studio.load_services(str(text_service.model.folder), "cpu", may_download=False)
    assert [its.name for its in alone] == [texts[0].name]
    for its in (classes, texts[0]):
        its.wait()
    assert downloads.Download(MODEL).state == Fetching("absent")
