"""A tiny model of the real one's shape, and the page served with it."""

import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from demo import ui
from demo.service import accelerator as accelerator_module
from demo.service.class_service import ClassService
from demo.service.engine import Engine
from demo.service.studio import load_services
from demo.service.text_service import TextService
from flowturbo_core.data.postcards import scene
from flowturbo_core.models.autoencoder import PixelUnshuffleAutoencoderKL, autoencoder_hash
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.sampler import keep
from flowturbo_core.training.text import train_tokenizer
from tests.conftest import TINY_UNET, randomize

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
MODEL = ModelDescription(
    "scripted", Path("nowhere"), "classes", tuple(CLASSES), True, "H1P5R3", 1.5
)


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
    service = ClassService.load(str(postcards_folder), "cpu", "float32")
    service.wait()
    return service


@pytest.fixture(scope="session")
def text_service(tmp_path_factory, service):
    """Return the service of the tiny model of texts, on the thread of the other."""
    folder = tmp_path_factory.mktemp("models") / "tiny-texts"
    make_text_pipeline().save_pretrained(folder)
    texts = TextService.load(str(folder), "cpu", "float32", service._accelerator)
    texts.wait()
    return texts


@pytest.fixture(scope="session")
def serve():
    """Return a function that serves the page of a service, with options of `launch`."""
    pages = []

    def start(service, *texts, **options):
        page = ui.build(service, *texts)
        pages.append(page)
        _, address, _ = page.queue(max_size=20).launch(
            server_port=free_port(),
            prevent_thread_lock=True,
            quiet=True,
            **ui.launch_options(service, *texts),
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
    classes, texts = load_services()
    for its in (classes, *texts):
        if its.download is None:
            its.wait()
    return serve(classes, *texts)


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
        return SimpleNamespace(x_init=request.labels, name=request.class_labels, present=keep)

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
    service = ClassService(MODEL, lambda: Engine(scripted, "scripted"))
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
