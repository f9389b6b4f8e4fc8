"""All that a page serves: the models of the catalogue, of which one is loaded at a time."""

import threading
from dataclasses import replace

from demo.service import downloads, studio
from demo.service.accelerator import Accelerator
from demo.service.downloads import Download
from demo.service.events import Done, Fetching
from flowturbo_core.requests import Classes
from tests.core.pipelines.tiny_text import tiny_text_pipeline
from tests.demo.service.test_downloads import Loads, ask
from tests.local_hub import MODEL


def test_of_the_models_on_demand_one_is_loaded_at_a_time(own_cache, monkeypatch):
    pipeline = tiny_text_pipeline()
    monkeypatch.setattr(studio, "loader", lambda *_, **__: Loads(pipeline))
    accelerator, services = Accelerator(), []
    for name in ("one", "other"):
        model = replace(MODEL, name=name, image_size=64, default_plan="H1P1")
        services.append(studio.serve_from_hub(model, None, None, accelerator, services))
        services[-1].download = Download(model, lambda model: iter(()))
        services[-1].download.begin()
    for thread in threading.enumerate():
        if thread.name.startswith("download "):
            thread.join(20)
    for chosen in (0, 1, 0):
        assert isinstance(list(ask(services[chosen]))[-1], Done)
        assert [its.engine is not None for its in services] == [chosen == 0, chosen == 1]


def test_the_studio_offers_the_catalogue(monkeypatch, tmp_path, text_service, own_cache):
    from flowturbo_core.models.catalog import HUB_MODELS

    folder = str(text_service.model.folder)
    classes, texts, *offered = studio.load_services(folder, "cpu", "float32")
    assert (classes.model.subject, texts.name) == (Classes, text_service.name)
    assert [its.name for its in offered] == [model.name for model in HUB_MODELS]
    assert not any(its.is_here for its in offered)
    assert [str(its.opening.plan) for its in offered] == ["H1P7", "E1"]
    alone = studio.load_services(folder, "cpu", may_download=False)
    assert [its.name for its in alone] == [classes.name, texts.name]
    for its in (classes, texts):
        its.wait()
    assert downloads.Download(MODEL).state == Fetching("absent")
