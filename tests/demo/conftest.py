"""A tiny model of the real one's shape, and the page served with it."""

import shutil
import socket
import threading
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from demo import ui
from demo.parts import models
from demo.service import accelerator as accelerator_module
from demo.service.downloads import Download
from demo.service.engine import Engine
from demo.service.loading import loader
from demo.service.service import Service
from demo.service.studio import load_services
from flowturbo_core.data.postcards import scene
from flowturbo_core.making import hub
from flowturbo_core.models.autoencoder import PixelUnshuffleAutoencoderKL, autoencoder_hash
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import FrontPlan
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import Classes
from flowturbo_core.sampler import keep
from flowturbo_core.training.text import train_tokenizer
from tests import local_hub
from tests.conftest import TINY_UNET, randomize, write_front

_SIT = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 8,
    "hidden_size": 32,
    "num_heads": 2,
    "num_classes": len(scene.CLASSES),
    "learn_sigma": False,
}


def pytest_collection_modifyitems(items):
    """Mark whatever needs a browser, however it comes by one."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")


BLOCK_MS = 10.0
CLASSES = ["cat", "dog"]
MODEL = ModelDescription("scripted", Path("nowhere"), Classes, tuple(CLASSES), True, "H1P5R3", 1.5)


def make_pipeline(default_plan="H1P5R3", with_refiner=True):
    """Return a small model of the 17 postcard classes: noise, but of 128 x 128 pixels."""
    torch.manual_seed(3)
    vae = PixelUnshuffleAutoencoderKL(
        in_channels=48,
        out_channels=48,
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
    )
    predictor = SiTPredictor(**_SIT, depth=2, autoencoder_hash=autoencoder_hash(vae))
    refiner = randomize(SiTRefiner(**_SIT, depth=1), 2) if with_refiner else None
    return ClassConditionalPipeline(
        randomize(predictor, 1), vae.eval(), scene.CLASSES, refiner, default_plan, 1.5
    )


def make_text_pipeline():
    """Return a small model of texts: noise, but of 128 x 128 pixels."""
    vae = make_pipeline().vae
    tokenizer = train_tokenizer(["a red boat at night", "a cat, by day"], 16)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    sizes = {"sample_size": 16, "in_channels": 8, "out_channels": 8}
    unet = TINY_UNET | sizes | {"addition_embed_type": None}
    torch.manual_seed(3)
    return TextToImagePipeline(
        UNet2DConditionModel(**unet).eval(),
        vae,
        CLIPTextModel(config).eval(),
        tokenizer,
        UNet2DConditionModel(**unet | {"in_channels": 16}).eval(),
        "H1P5R3",
    )


def free_port():
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def postcards_folder(tmp_path_factory):
    """Return the folder of the tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny-postcards"
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def service(postcards_folder):
    """Return the service of the tiny model."""
    service = Service.load(str(postcards_folder), "cpu", "float32")
    service.wait()
    return service


@pytest.fixture(scope="session")
def text_service(tmp_path_factory, service):
    """Return the service of the tiny model of texts, on the thread of the other."""
    folder = tmp_path_factory.mktemp("models") / "tiny-texts"
    make_text_pipeline().save_pretrained(folder)
    texts = Service.load(str(folder), "cpu", "float32", service._accelerator)
    texts.wait()
    return texts


@pytest.fixture(scope="session")
def serve():
    """Return a function that serves the page of a service, with options of `launch`."""
    pages = []

    def start(*services, **options):
        page = ui.build(*services)
        pages.append(page)
        _, address, _ = page.queue(max_size=20).launch(
            server_port=free_port(),
            prevent_thread_lock=True,
            quiet=True,
            **ui.launch_options(*services),
        )
        return address

    yield start
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def address(serve, service):
    """Return the address of the page of the tiny model."""
    return serve(service)


@pytest.fixture(scope="session")
def bundled_address(serve):
    """Return the address of the page as it is without options: the models that ship."""
    services = load_services()
    for its in services:
        if its.download is None:
            its.wait()
    return serve(*services)


RATES = Rates(predictor_ms=10.0, refiner_ms=1.0, decode_ms=5.0)
# 25, 39 (less exact than its cheaper neighbour, as on another machine), 37, 81 and 165 ms.
ERRORS = {"H1": 0.9, "H1P1R2": 0.6, "H1P1R1": 0.5, "H1P5R3": 0.3, "H8": 0.2}


def front_plan(text, error):
    plan = SamplePlan.parse(text)
    return FrontPlan(text, plan.predictor_evaluations, plan.refiner_evaluations, error)


@pytest.fixture(scope="session")
def tuned(service, postcards_folder, tmp_path_factory):
    """Return a service whose model has a front, at set rates; it shares the loaded model."""
    folder = shutil.copytree(postcards_folder, tmp_path_factory.mktemp("tuned") / "tuned")
    errors = ERRORS | {"E4": 0.55, "H1P3R9": 0.1}  # no sliders say these two
    rows = [vars(front_plan(text, error)) for text, error in errors.items()]
    write_front(folder, {"plans": rows, "guidance_scale": 1.5})
    engine = Engine(service.wait().pipeline)
    engine.rates = RATES
    tuned = Service(ModelDescription.read(folder), lambda: engine)
    tuned.wait()
    return tuned


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def remote(tmp_path, own_cache, monkeypatch, service):
    """Return the service of a model on a hub of this machine, and that hub."""
    monkeypatch.setattr(hub, "_LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(models, "_LOOK_AGAIN_S", 0.1)
    # As InstaFlow's distilled one.
    model = replace(local_hub.MODEL, image_size=64, default_plan="E1")
    description = ModelDescription.of_hub(model)
    with local_hub.serving(local_hub.publish(tmp_path / "published")) as server:
        download = Download(model, partial(hub.fetch, endpoint=server.endpoint))
        load = loader(description, "cpu", "float32")
        yield Service(description, load, service._accelerator, download), server


@dataclass
class ScriptedPipeline:
    """Blocks that take `BLOCK_MS` by their own account, and wait for `gate` in truth."""

    class_names = CLASSES
    default_plan = "H1P5R3"
    device = torch.device("cpu")
    dtype = torch.float32

    def __post_init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.blocks, self.threads = [], set()
        self.fail_at = None

    def warnings(self, request):
        return []

    def job(self, request):
        labels = tuple(CLASSES.index(name) for name in request.subject.things)
        return SimpleNamespace(x_init=request.captions, name=labels, present=keep)

    def run(self, job, plan):
        for k, kind in enumerate(plan.kinds):
            self.gate.wait(20)
            self.threads.add(threading.current_thread().name)
            if self.fail_at == k:
                raise RuntimeError("the device fell over")
            self.blocks.append((job.name, kind))
            yield SimpleNamespace(
                block=k + 1,
                num_blocks=len(plan),
                kind=kind,
                block_ms=BLOCK_MS,
                t=(k + 1) / len(plan),
                state=SimpleNamespace(x=job.x_init, v=torch.ones(len(job.x_init), 4)),
                prediction=lambda: job.x_init,
            )

    show = FlowPipeline.show

    def decode(self, latents, output_type="pil"):
        self.threads.add(threading.current_thread().name)
        return [Image.new("RGB", (8, 8)) for _ in latents]


@pytest.fixture
def scripted():
    return ScriptedPipeline()


@pytest.fixture
def scripted_service(scripted, monkeypatch):
    """Return a service that hands over every preview at once."""
    monkeypatch.setattr(accelerator_module, "_UNDISTURBED_S", 0)
    monkeypatch.setattr(accelerator_module, "_SETTLING_S", 0)
    service = Service(MODEL, lambda: Engine(scripted))
    service.wait()
    return service


@pytest.fixture(scope="module")
def browser():
    """Return Chromium, without a window."""
    from playwright.sync_api import sync_playwright  # only for those that need it

    from tests.demo.visits import CHROMIUM, FLAGS

    assert CHROMIUM.exists(), f"there is no {CHROMIUM}: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
