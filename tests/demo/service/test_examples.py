"""What the page opens with: kept with the project, of the models that ship."""

from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from demo.parts.results import Results
from demo.says import readout
from demo.service import examples
from demo.service.events import Done, Preview
from demo.service.service import Service
from demo.wiring import live
from flowturbo_core.metadata import read_png
from flowturbo_core.models.catalog import MODELS_FOLDER, ModelDescription
from flowturbo_core.models.front import weights_hash

NAMES = ("postcards-sit", "postcards-t2i")


@pytest.fixture(params=NAMES)
def description(request):
    return ModelDescription.read(request.param)


def service_of(description):
    """Return a service that nobody will ask for anything."""
    return Service(description, lambda: None)


def test_each_model_that_ships_has_one_of_its_defaults_and_weights(description):
    kept = examples.of(description)
    assert kept.done.request == service_of(description).opening
    record = (examples.FOLDER / description.name / "example.json").read_text()
    # `make examples` makes them again.
    assert f'"weights": "{weights_hash(description.folder)}"' in record


def test_the_page_says_where_and_that_they_were_made_before(description):
    kept = examples.of(description)
    shown = Results(gr.HTML(), gr.Gallery(), gr.HTML(), gr.JSON(), gr.State())
    view, service = live.View(shown, gr.Number(), gr.Textbox()), service_of(description)
    (updates,) = live.show(view, lambda: (its for its in [kept]))
    text, pictures, strip, _, latest = (updates[its] for its in shown[:5])
    assert updates[view.state] == "idle" and updates[view.seed] == kept.done.request.seed
    for k, (file, caption) in enumerate(pictures):
        assert caption == kept.done.request.captions[k]
        assert service.restore(read_png(file)) == kept.done.request.of_picture(k)
    assert "ms / image, made before" in text and f"made before on {kept.machine}" in text
    assert "Generate makes new ones" in text and "times as fast as H8" in text
    assert strip.count("<img") == len(kept.done.request.plan)
    assert len(latest.trajectories) == len(pictures)


def test_what_is_written_is_read(tmp_path, text_service):
    values = {"prompts": "a cat", "plan": "H1P1R1", "num_images": 2, "seed": 7}
    *previews, done = text_service.run(text_service.request(values))
    assert isinstance(done, Done) and all(isinstance(its, Preview) for its in previews)
    examples.write(tmp_path, previews, done, "a machine", "a hash")
    kept = examples.read(tmp_path, text_service.model)
    assert kept.done.request == done.request
    assert kept.machine == "a machine" and len(kept.previews) == 3
    for own, read in zip(done.pictures, kept.done.pictures, strict=True):
        assert np.array_equal(np.asarray(own), np.asarray(read))
    for own, read in zip(previews, kept.previews, strict=True):
        assert read.curvature == own.curvature and read.block == own.block
    assert readout.finished(kept.done, kept) != readout.finished(kept.done)
    assert kept.done.timing.ms_per_image == pytest.approx(done.timing.ms_per_image, abs=0.1)


def test_a_model_that_only_has_the_name_of_one_that_ships_has_none(description, tmp_path):
    assert examples.of(replace(description, folder=tmp_path / description.name)) is None


def test_all_of_it_is_small():
    files = [file for file in examples.FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 500_000
    assert {file.parent.name for file in files} == set(NAMES)
    assert MODELS_FOLDER.parent == examples.FOLDER.parent
    for file in examples.FOLDER.rglob("*.png"):
        with Image.open(file) as picture:
            assert picture.size == (128, 128)
