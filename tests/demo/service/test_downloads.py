"""Models on a hub: fetched on demand, once for all, and loaded when they are asked for."""

import threading
from dataclasses import replace

import pytest

from demo.service.downloads import Download
from demo.service.engine import Engine
from demo.service.events import Done, Fetching
from demo.service.service import Service
from flowturbo_core.making.hub import Fetched
from flowturbo_core.models.catalog import ModelDescription
from tests.core.pipelines.tiny_text import tiny_text_pipeline
from tests.local_hub import MODEL


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


def ask(service):
    steps, size = {"heun": 1, "pseudo": 1, "refiner": 0}, {"height": 64, "width": 64}
    values = {"prompts": "a boat", **steps, "guidance_scale": 1.5, **size, "seed": 1}
    return service.run(service.request(values))


def test_a_model_is_refused_until_it_is_here_and_loaded_when_it_is_asked_for(remote):
    service, _ = remote
    assert not service.is_here and service.budget is None
    assert service.cut_warnings(prompts="x", negative_prompt="") == []
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
        return Engine(self.pipeline)


def on_demand(load, own_cache):
    """Return the service of a model whose weights are here, loaded when it is asked for."""
    download = Download(MODEL, lambda model: iter(()))
    download.begin()
    assert settled(download).status == "here"
    description = ModelDescription.of_hub(replace(MODEL, image_size=64, default_plan="H1P1"))
    return Service(description, load, download=download)


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
