"""Tiny models that tests share: made once a session, small enough for any machine."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL

from flowturbo_core import cli
from flowturbo_core.models.autoencoder import PixelUnshuffleAutoencoderKL, autoencoder_hash
from flowturbo_core.models.front import weights_hash
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from tests.shared import differing, fingerprint, global_state, module_state, seed_all

# Servers under test keep their pictures apart from those of a page that is open on this machine.
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="flowturbo-tests-")
atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
# As Gradio sets it, once and for all, when the first page is built.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "True"

TINY_SIT = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 32,
    "num_heads": 2,
    "num_classes": 3,
    "learn_sigma": False,
}
TINY_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 16,
}


TINY_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
}


def randomize(model, seed, scale=0.1):
    """Make every parameter random: an untrained SiT's output is zero, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tiny_vae(seed=0, **changes):
    """Return a small autoencoder, 16 x 16 pixels to 4 x 8 x 8 latents."""
    torch.manual_seed(seed)
    return AutoencoderKL(**TINY_VAE | changes).eval()


def tiny_pixel_vae(seed=0, **changes):
    """Return a small autoencoder on 2 x 2 patches, 32 x 32 pixels to 4 x 8 x 8 latents."""
    torch.manual_seed(seed)
    config = TINY_VAE | {"in_channels": 12, "out_channels": 12, "sample_size": 32} | changes
    return PixelUnshuffleAutoencoderKL(**config).eval()


def tiny_pipeline(with_refiner=True, vae=None, **changes):
    """Return a pipeline of three classes, of which everything but the size is real."""
    vae = vae or tiny_vae()
    predictor = SiTPredictor(
        **TINY_SIT | {"depth": 2, "autoencoder_hash": autoencoder_hash(vae)} | changes
    )
    shared = {name: value for name, value in changes.items() if name in TINY_SIT}
    refiner = SiTRefiner(**TINY_SIT | {"depth": 1} | shared) if with_refiner else None
    return ClassConditionalPipeline(
        randomize(predictor, 1),
        vae,
        [f"subject {k}" for k in range(predictor.config.num_classes)],
        randomize(refiner, 2) if with_refiner else None,
        "H1P2R1" if with_refiner else "H2P2",
    )


def write_front(folder, content):
    """Write a model's front, found with the weights that it has."""
    found_with = {"weights": weights_hash(folder)}
    (folder / "front.json").write_text(json.dumps(found_with | content))


_BEFORE = pytest.StashKey()
_made = {}  # by each fixture that tests share: the object, and what it was like
_modules = {}  # what the containers of each module of tests were like


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Note what each shared object is like."""
    value = yield
    if fixturedef.scope != "function":
        _made[fixturedef.argname, fixturedef.baseid] = value, fingerprint(value)
    return value


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """Let every test, and each shared object, start from the same random numbers."""
    seed_all()
    _modules.setdefault(item.module, module_state(item.module))
    item.stash[_BEFORE] = global_state()
    return (yield)


@pytest.fixture(autouse=True)
def _from_the_same_numbers():
    """Start from them, too, where this test is the first to use what drew some."""
    seed_all()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    """Fail the test that leaves something different for the next."""
    result = yield
    changed = differing(item.stash[_BEFORE], global_state())
    now = module_state(item.module)
    changed += differing(_modules[item.module], now)
    _modules[item.module] = now
    for (name, place), (value, before) in _made.items():
        if name in item.fixturenames and item.nodeid.startswith(place):
            now = fingerprint(value)
            if now != before:
                _made[name, place] = value, now  # the tests after this one are not to blame
                changed.append(f"the fixture {name}")
    if changed:
        pytest.fail(f"{item.name} leaves different for the next test: {', '.join(changed)}", False)
    return result


@pytest.fixture(scope="session")
def pipeline():
    """Return a tiny pipeline; a test that changes one makes its own."""
    return tiny_pipeline()


@pytest.fixture(scope="session")
def _pristine_folder(tmp_path_factory, pipeline):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline_folder(_pristine_folder, tmp_path):
    """Return a tiny pipeline's folder, a copy that the test may spoil."""
    return shutil.copytree(_pristine_folder, tmp_path / "tiny")


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Return a function that runs the command line here, which saves the seconds of importing."""

    def run(*arguments):
        """Return the exit code and what was printed to `out` and `err`."""
        monkeypatch.setattr(sys, "argv", ["flowturbo_core", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=leaving.value.code or 0, out=printed.out, err=printed.err)

    return run
