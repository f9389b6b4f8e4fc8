"""A tiny model of the real one's shape, and the page served with it."""

import socket

import pytest

from demo import ui
from demo.service import Service
from flowturbo_core.data.postcards import CLASSES
from flowturbo_core.models.autoencoder import PixelUnshuffleAutoencoderKL, autoencoder_hash
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from tests.conftest import randomize

_SIT = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 8,
    "hidden_size": 32,
    "num_heads": 2,
    "num_classes": len(CLASSES),
    "learn_sigma": False,
}


def make_pipeline(default_plan="H1P5R3", with_refiner=True):
    """Return a small model of the 17 postcard classes: noise, but of 128 x 128 pixels."""
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
        randomize(predictor, 1), vae.eval(), CLASSES, refiner, default_plan, 1.5
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
def serve():
    """Return a function that serves the page of a service, with options of `launch`."""
    pages = []

    def start(service, **options):
        page = ui.build(service)
        pages.append(page)
        _, address, _ = page.queue(max_size=20).launch(
            server_port=free_port(),
            prevent_thread_lock=True,
            quiet=True,
            **ui.launch_options(service),
        )
        return address

    yield start
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def address(serve, service):
    """Return the address of the page of the tiny model."""
    return serve(service)
