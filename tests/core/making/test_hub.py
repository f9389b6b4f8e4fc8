"""Fetching from a hub: whole, broken off, refused; and what becomes of what arrived."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowturbo_core.making import hub
from flowturbo_core.making.hub import fetch, hub_model, wanted_files
from flowturbo_core.models.catalog import HUB_MODELS, ModelDescription, model_folder
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.requests import Texts
from tests.core.pipelines.tiny_text import tiny_text_pipeline
from tests.local_hub import FAILING, GATED, MODEL, NO_HUB, UNKNOWN, publish, serving


@pytest.fixture(scope="module", params=["pickled", "safetensors"])
def published(request, tmp_path_factory):
    """Return a folder as a hub would serve it."""
    return publish(tmp_path_factory.mktemp("hub") / "published", request.param == "pickled")


def weights(part):
    """Return the file of a part's weights, in a folder of either form."""
    (file,) = (
        f for f in part.iterdir() if f.suffix in (".bin", ".safetensors") and "fp16" not in f.name
    )
    return file


@pytest.fixture
def served(published, tmp_path, monkeypatch):
    """Serve a copy of it on this machine, and keep what is fetched in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_LOOK_AGAIN_S", 0.01)
    with serving(shutil.copytree(published, tmp_path / "published")) as server:
        yield server


def test_a_model_is_fetched_turned_into_safetensors_and_found_by_name(served, published):
    assert not MODEL.is_here
    with pytest.raises(ValueError, match=f"not here yet: .* download {MODEL.name}"):
        model_folder(MODEL.name)
    progress = list(fetch(MODEL, served.endpoint))
    wanted = ("unet", "vae", "text_encoder", "tokenizer", ".")
    total = sum(
        file.stat().st_size
        for file in published.rglob("*")
        if str(file.parent.relative_to(published)) in wanted
        and file.is_file()
        and "fp16" not in file.name
        and file.name != "README.md"
    )
    assert progress[-1] == hub.Fetched(total, total)
    assert all(before.done <= its.done for before, its in itertools.pairwise(progress))
    sent = {name for name, _ in served.asked}
    assert not [name for name in sent if "fp16" in name or "safety" in name or "README" in name]
    assert MODEL.is_here and model_folder(MODEL.name) == MODEL.folder
    assert not list(MODEL.folder.rglob("*.bin"))
    left = {file.name for file in MODEL.folder.parent.iterdir()}
    assert left == {MODEL.name, f".{MODEL.name}.lock"}
    description = ModelDescription.read(MODEL.name)
    assert description.subject is Texts and description.default_plan == MODEL.default_plan
    pipeline = TextToImagePipeline.from_pretrained(MODEL.name)
    original = tiny_text_pipeline()
    expected, found = (
        p("a boat", plan="H2", seed=1, output_type="latent").latents for p in (original, pipeline)
    )
    torch.testing.assert_close(found, expected)


def test_what_is_here_is_not_fetched_again(served):
    list(fetch(MODEL, served.endpoint))
    served.refusal = UNKNOWN
    assert list(fetch(MODEL, served.endpoint)) == []


def test_of_a_fetch_that_broke_off_whole_files_are_kept_and_halves_removed(served):
    unet = str(weights(served.folder / "unet").relative_to(served.folder))
    served.broken = {unet}
    with pytest.raises(ValueError, match=f"^{MODEL.name} could not be fetched: [^\n]+$"):
        list(fetch(MODEL, served.endpoint))
    assert not MODEL.is_here
    whole = {name for name, start in served.asked} - served.broken
    assert whole
    arrived = MODEL.folder.parent / f".{MODEL.name}.partial" / ".cache" / "huggingface" / "download"
    with (arrived / "killed.incomplete").open(
        "wb"
    ) as stream:  # as a process that was killed leaves
        stream.truncate(10**9)
    served.broken, served.asked = set(), []
    first, *_ = list(fetch(MODEL, served.endpoint))
    assert first.done < first.total
    assert MODEL.is_here
    assert {name for name, _ in served.asked}.isdisjoint(whole)


def test_two_programs_do_not_fetch_one_model(served):
    first = fetch(MODEL, served.endpoint)
    next(first)
    with pytest.raises(ValueError, match="2-rectified-flow is being fetched by another program"):
        list(fetch(MODEL, served.endpoint))
    list(first)
    assert MODEL.is_here


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (UNKNOWN, f"the hub has no {MODEL.repository} that is open to all"),
        (GATED, f"{MODEL.repository} is open only to those whom its owners let in"),
        (FAILING, "the hub answered 500 Internal Server Error"),
        (NO_HUB, "what answers at the hub's address is no hub"),
    ],
)
def test_what_a_hub_refuses_is_one_sentence(served, monkeypatch, refusal, reason):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    served.refusal = refusal
    with pytest.raises(ValueError) as told:
        list(fetch(MODEL, served.endpoint))
    assert str(told.value) == f"{MODEL.name} could not be fetched: {reason}"
    assert not MODEL.is_here


def test_a_silent_hub_is_one_sentence(served):
    with pytest.raises(
        ValueError,
        match=f"^{MODEL.name} could not be fetched: there is no connection to the hub [^\n]+$",
    ):
        list(fetch(MODEL, "http://127.0.0.1:9"))
    assert not MODEL.is_here


def test_nothing_is_fetched_that_the_disk_cannot_hold(served, monkeypatch):
    usage = shutil.disk_usage(served.folder)._replace(free=1000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"takes 0\.0 GB, and the disk has 0\.0 left"):
        list(fetch(MODEL, served.endpoint))
    assert served.asked == []


def test_damaged_weights_leave_no_model(served):
    weights(served.folder / "vae").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"could not be fetched: .*diffusion_pytorch_model\."):
        list(fetch(MODEL, served.endpoint))
    assert not MODEL.is_here


def test_safetensors_are_preferred_and_variants_left():
    sizes = {
        "model_index.json": 1,
        "README.md": 1,
        "unet/config.json": 2,
        "unet/diffusion_pytorch_model.bin": 8,
        "unet/diffusion_pytorch_model.safetensors": 8,
        "unet/diffusion_pytorch_model.fp16.safetensors": 4,
        "unet/diffusion_pytorch_model.non_ema.bin": 8,
        "vae/config.json": 2,
        "vae/diffusion_pytorch_model.bin": 3,
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors": 8,
        "text_encoder/model.safetensors": 3,
        "text_encoder/model-00001-of-00002.safetensors": 3,
        "text_encoder/deep/model.safetensors": 1,
        "tokenizer/merges.txt": 1,
        "safety_checker/model.safetensors": 9,
    }
    left = {
        "README.md",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.bin",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/deep/model.safetensors",
        "safety_checker/model.safetensors",
    }
    assert wanted_files(sizes).keys() == sizes.keys() - left
    del sizes["vae/diffusion_pytorch_model.bin"]
    with pytest.raises(ValueError, match="it has no weights of the vae"):
        wanted_files(sizes)


def test_every_model_of_a_hub_has_a_name_of_its_own_and_says_what_it_is():
    assert len({model.name for model in HUB_MODELS}) == len(HUB_MODELS)
    for model in HUB_MODELS:
        assert hub_model(model.name) is model
        assert Path(model.name).name == model.name and model.licence and model.gigabytes > 0
        description = ModelDescription.of_hub(model)
        assert description == replace(description, subject=Texts, image_size=512)
    with pytest.raises(ValueError, match="has no model 'what' on a hub; it has 2-rect"):
        hub_model("what")
