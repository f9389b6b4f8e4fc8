"""Released checkpoints: converted, they sample as the released program; spoiled, they are refused.

The second opinion is `released.py`: a SiT and a sampler written out without any of the product.
"""

import argparse
import os
import pickle
import random
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowturbo_core.making.convert_sit import read_checkpoint
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from tests.conftest import tiny_pixel_vae, tiny_vae
from tests.core.models.released import (
    random_state,
    released_sample,
    released_shapes,
    sit_forward,
)

# A warning of torch's would be a second line beside the sentence; so would one of a test's.
pytestmark = pytest.mark.filterwarnings("error")

WIDTH, DEPTH, CLASSES, HEADS = 32, 2, 5, 2
PREDICTOR = released_shapes(WIDTH, DEPTH, CLASSES)
REFINER = released_shapes(WIDTH, 1, CLASSES, input_multiple=2)
SCALE = 0.15  # of the weights: velocities of the size of the noise


def predictor_state(seed=0):
    return random_state(PREDICTOR, seed, SCALE)


def refiner_state(seed=1):
    return random_state(REFINER, seed, SCALE)


def training_checkpoint(ema, model):
    """What the released training script saves."""
    return {
        "model": model,
        "ema": ema,
        "opt": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(model="SiT-XL/2", image_size=256, cfg_scale=1.5, ckpt=None),
    }


def as_state_dict(state):
    return state


def as_training_checkpoint(state):
    return training_checkpoint(ema=state, model={k: v + 1 for k, v in state.items()})


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "vae"
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture
def convert(command_line, tmp_path, vae_folder):
    """Return a function that runs the command line's `convert` and returns what came of it."""

    def run(predictor, refiner=None, *options, heads=HEADS, vae=vae_folder):
        """Return (exit code, standard error, the folder to be written)."""
        files = {}
        for name, content in (("predictor", predictor), ("refiner", refiner)):
            if isinstance(content, dict):
                files[name] = tmp_path / f"{name}.pt"
                torch.save(content, files[name])
            elif content is not None:
                files[name] = content
        output = tmp_path / "converted"
        arguments = ["convert", "sit", "--vae", vae, "--num-heads", heads, "--output", output]
        for name, file in files.items():
            arguments += [f"--{name}", file]
        done = command_line(*arguments, *options)
        return done.code, done.err, output

    return run


def assert_refused(result, *named):
    code, error, output = result
    assert code == 2, error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    for part in named:
        assert str(part) in error
    assert not output.exists(), "something was written for a refused checkpoint"


@pytest.fixture(scope="module")
def second_opinion():
    """Return released_sample on the unconverted weights, in float64."""
    states = [
        {name: value.double() for name, value in state.items()}
        for state in (predictor_state(), refiner_state())
    ]

    def predictor(x, t, labels):
        return sit_forward(states[0], HEADS, x, t.double(), labels)

    def refiner(x, t, v, labels):
        return sit_forward(states[1], HEADS, torch.cat([x, v], 1), t.double(), labels)

    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.tensor([4, 0, 2])

    def sample(counts, scale):
        return released_sample(predictor, refiner, *counts, noise.double(), labels, CLASSES, scale)

    return sample, noise, labels


@pytest.mark.parametrize("saved", [as_state_dict, as_training_checkpoint])
def test_a_converted_checkpoint_samples_as_the_released_program(convert, saved, second_opinion):
    code, error, folder = convert(saved(predictor_state()), saved(refiner_state()))
    assert code == 0, error
    pipeline = ClassConditionalPipeline.from_pretrained(folder)
    assert pipeline.refiner.config.variant == "released"
    assert pipeline.predictor.config.guided_channels == 3
    sample, noise, labels = second_opinion
    plans = {"H8": (8, 0, 0), "H1P5R3": (1, 5, 3), "P6R2": (0, 6, 2), "H3P3": (3, 3, 0)}
    if saved is not as_state_dict:  # what differs between the formats shows in one plan
        plans = {"H1P5R3": (1, 5, 3)}
    for plan, counts in plans.items():
        for scale in (1.5, 4.0):
            found = pipeline(
                labels.tolist(), plan, scale, latents=noise, output_type="latent"
            ).latents
            expected = sample(counts, scale).float()
            error = (found - expected).abs().max().item()
            assert error < 1e-5, f"{plan} at {scale}: off by {error}"


def test_the_second_opinion_tells_models_apart(second_opinion):
    # Guards the test above: guidance, the class and the refiner matter far more than 1e-5.
    sample, _, _ = second_opinion
    reference = sample((1, 5, 3), 1.5)
    assert (reference - sample((1, 5, 3), 1.6)).abs().max() > 1e-3
    assert (reference - sample((1, 8, 0), 1.5)).abs().max() > 1e-3
    assert reference.abs().max() < 30


def test_raw_takes_the_weights_that_were_not_averaged(convert):
    checkpoint = training_checkpoint(ema=predictor_state(10), model=predictor_state(11))
    for options, seed in (((), 10), (("--raw",), 11)):
        code, error, folder = convert(checkpoint, None, *options)
        assert code == 0, error
        predictor = ClassConditionalPipeline.from_pretrained(folder).predictor
        expected = predictor_state(seed)
        assert all(torch.equal(v, expected[k]) for k, v in predictor.state_dict().items())
        shutil.rmtree(folder)


def test_raw_weights_of_a_plain_state_dict_are_refused(convert, tmp_path):
    result = convert(predictor_state(), None, "--raw")
    assert_refused(result, tmp_path / "predictor.pt", "--raw needs a checkpoint with ema and model")


def test_a_folder_that_holds_something_is_refused_and_left_alone(convert):
    code, error, folder = convert(predictor_state(), refiner_state())
    assert code == 0, error
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    code, error, _ = convert(predictor_state(7))
    assert code == 2 and error.startswith(f"error: {folder} ")
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_empty_folder_is_written_to(convert, tmp_path):
    (tmp_path / "converted").mkdir()
    code, error, _ = convert(predictor_state())
    assert code == 0, error


def test_the_architecture_is_read_off_the_shapes(convert):
    shapes = released_shapes(64, 3, 7, channels=4, patch=4, side=3, hidden=96, sigma=False)
    code, error, folder = convert(random_state(shapes, 0))
    assert code == 0, error
    pipeline = ClassConditionalPipeline.from_pretrained(folder)
    config = pipeline.predictor.config
    assert (config.hidden_size, config.depth, config.num_classes) == (64, 3, 7)
    assert (config.patch_size, config.sample_size, config.in_channels) == (4, 12, 4)
    assert (config.mlp_ratio, config.learn_sigma, config.num_heads) == (1.5, False, HEADS)
    assert len(pipeline.class_names) == 7
    assert pipeline.refiner is None
    assert pipeline([3]).images[0].size == (24, 24)


def test_float16_weights_are_read_too(convert):
    half = {name: value.half() for name, value in predictor_state().items()}
    code, error, folder = convert(half)
    assert code == 0, error
    found = ClassConditionalPipeline.from_pretrained(folder).predictor.state_dict()
    assert all(torch.equal(found[name], value.float()) for name, value in half.items())


def test_the_old_file_format_is_read_too(convert, tmp_path):
    file = tmp_path / "old.pt"
    torch.save(predictor_state(), file, _use_new_zipfile_serialization=False)
    code, error, _ = convert(file)
    assert code == 0, error


def without(name):
    state = predictor_state()
    del state[name]
    return state


def replaced(**changes):
    return predictor_state() | {k.replace("__", "."): v for k, v in changes.items()}


def nan_in(name):
    state = predictor_state()
    state[name].view(-1)[3] = float("nan")
    return state


def quantised(tensor):
    with warnings.catch_warnings(action="ignore"):  # that there will be another way
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


PLAIN = predictor_state()
WRONG_STATES = {
    "an unknown key": (replaced(blocks__0__norm1__weight=torch.zeros(32)), "blocks.0.norm1.weight"),
    "a key too many blocks on": (
        replaced(blocks__2__attn__qkv__weight=torch.zeros(96, 32)),
        "blocks.2.attn.proj.bias",
    ),
    "a missing bias": (without("blocks.1.mlp.fc2.bias"), "blocks.1.mlp.fc2.bias"),
    "a missing embedding": (without("x_embedder.proj.weight"), "x_embedder.proj.weight"),
    "a missing table": (
        without("y_embedder.embedding_table.weight"),
        "y_embedder.embedding_table.weight",
    ),
    "another width": (
        replaced(blocks__1__attn__proj__weight=torch.zeros(32, 48)),
        "blocks.1.attn.proj.weight",
    ),
    "a flat embedding": (replaced(x_embedder__proj__weight=torch.zeros(32, 16)), "x_embedder"),
    "tokens that form no square": (replaced(pos_embed=torch.zeros(1, 15, 32)), "15 tokens"),
    "no pixels in a patch": (replaced(x_embedder__proj__weight=torch.zeros(32, 4, 0, 0)), ""),
    "no class": (
        replaced(y_embedder__embedding_table__weight=torch.zeros(1, 32)),
        "y_embedder.embedding_table.weight",
    ),
    "no width": (
        {name: value[:0] if value.ndim == 4 else value for name, value in PLAIN.items()},
        "x_embedder.proj.weight",
    ),
    "no hidden width": (
        replaced(blocks__0__mlp__fc1__weight=torch.zeros(0, 32)),
        "blocks.0.mlp.fc1.weight",
    ),
    "terabytes": (
        replaced(x_embedder__proj__weight=torch.zeros(1).expand(10**6, 4, 2, 2)),
        "x_embedder.proj.weight",
    ),
    "a table of terabytes": (
        replaced(y_embedder__embedding_table__weight=torch.zeros(1).expand(10**6, 32)),
        "y_embedder.embedding_table.weight",
    ),
    **{
        f"{kind} numbers": (replaced(pos_embed=change(PLAIN["pos_embed"])), "pos_embed")
        for kind, change in {
            "sparse": torch.Tensor.to_sparse,
            "absent": lambda tensor: tensor.to("meta"),
            "quantised": quantised,
            "complex": lambda tensor: tensor.to(torch.complex64),
            "whole": lambda tensor: tensor.int(),
            "boolean": lambda tensor: tensor > 0,
            "too large": lambda tensor: tensor.double() + 1e300,
        }.items()
    },
    "not a number": (nan_in("blocks.0.attn.qkv.weight"), "blocks.0.attn.qkv.weight"),
    "a number for a tensor": (replaced(pos_embed=3), ""),
    "a name that is no text": (predictor_state() | {7: torch.zeros(1)}, ""),
    "nothing": ({}, "x_embedder.proj.weight"),
    "weights of another kind": ({"conv.weight": torch.zeros(2)}, "x_embedder.proj.weight"),
    "weights in another module": (
        {f"net.{name}": tensor for name, tensor in predictor_state().items()},
        "there is 'net.x_embedder.proj.weight'",
    ),
    "averages that are none": (training_checkpoint(None, predictor_state()), ""),
    "a refiner": (refiner_state(), ""),  # its latents would have 8 channels, the autoencoder's 4
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_a_wrong_state_dict_is_refused_by_name(convert, tmp_path, name):
    content, named = WRONG_STATES[name]
    # Of a refiner only the autoencoder, which it does not fit, can complain.
    file = () if name == "a refiner" else (tmp_path / "predictor.pt",)
    assert_refused(convert(content), *file, named)


def test_a_refiner_is_checked_as_the_predictor_is(convert, tmp_path):
    state = refiner_state()
    del state["blocks.0.mlp.fc1.bias"]
    assert_refused(
        convert(predictor_state(), state), tmp_path / "refiner.pt", "blocks.0.mlp.fc1.bias"
    )


@pytest.mark.parametrize(
    "shapes",
    [
        released_shapes(WIDTH, 1, CLASSES + 1, input_multiple=2),
        released_shapes(WIDTH, 1, CLASSES, input_multiple=2, side=3),
        released_shapes(WIDTH, 1, CLASSES, input_multiple=1),
    ],
    ids=["other classes", "other latents", "a predictor"],
)
def test_a_refiner_of_another_predictor_is_refused(convert, shapes):
    assert_refused(convert(predictor_state(), random_state(shapes, 0)))


@pytest.mark.parametrize("heads", [0, -2, 3])
def test_a_wrong_number_of_heads_is_refused_by_number(convert, heads):
    assert_refused(convert(predictor_state(), heads=heads), heads, "head")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_refused(convert, tmp_path, new_format):
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save(predictor_state(), whole, _use_new_zipfile_serialization=new_format)
    content = whole.read_bytes()
    size = len(content)
    lengths = [0, 1, 2, 10, 100, 200, 1000, size // 3, size // 2, size - 1000, size - 10, size - 1]
    for length in lengths:
        cut.write_bytes(content[:length])
        assert_refused(convert(cut), cut)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_damaged_file_is_read_or_refused_never_more(tmp_path, new_format):
    whole, file = tmp_path / "whole.pt", tmp_path / "damaged.pt"
    small = {"pos_embed": torch.ones(2, 2)}
    torch.save(training_checkpoint(small, small), whole, _use_new_zipfile_serialization=new_format)
    chance, content = random.Random(0), whole.read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 10))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            read_checkpoint(file)
        except ValueError as refusal:
            assert str(file) in str(refusal)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"\x80\x02", b"\x80\x04N.", b"PK\x03\x04", b"\x00" * 4096,
     pickle.dumps(3), pickle.dumps("text"), pickle.dumps([torch.zeros(2)])],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_refused(convert, tmp_path, content):
    file = tmp_path / "other.pt"
    file.write_bytes(content)
    assert_refused(convert(file), file)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), "text", None])
def test_a_saved_object_that_is_no_state_dict_is_refused(convert, tmp_path, content):
    file = tmp_path / "other.pt"
    torch.save(content, file)
    assert_refused(convert(file), file)


class Hostile:
    """A pickle of this runs a command in whoever loads it carelessly."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


HIDING_PLACES = {
    "state dict": lambda hostile: predictor_state() | {"pos_embed": hostile},
    "args": lambda hostile: (
        training_checkpoint(predictor_state(), predictor_state())
        | {"args": argparse.Namespace(callback=hostile)}
    ),
    "whole": lambda hostile: hostile,
}


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", HIDING_PLACES)
def test_code_in_a_pickle_is_never_run(convert, tmp_path, place, new_format):
    marker, file = tmp_path / "marker", tmp_path / "hostile.pt"
    content = HIDING_PLACES[place](Hostile(marker))
    torch.save(content, file, _use_new_zipfile_serialization=new_format)
    result = convert(file)
    assert not marker.exists(), "the code in the pickle was run"
    assert_refused(result, file)


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_what_a_pickle_wants_to_call_is_named(convert, tmp_path, place):
    # A person sees that it is code, and not a broken download.
    file = tmp_path / "hostile.pt"
    torch.save(HIDING_PLACES[place](Hostile(tmp_path / "marker")), file)
    assert_refused(convert(file), file, f"{os.system.__module__}.system")


def test_the_hostile_file_would_have_worked(tmp_path):
    # Guards the test above: loaded carelessly, the file does run its command.
    marker, file = tmp_path / "marker", tmp_path / "hostile.pt"
    torch.save(Hostile(marker), file)
    torch.load(file, weights_only=False)
    assert marker.exists()


def test_a_missing_file_is_refused(convert, tmp_path):
    assert_refused(convert(tmp_path / "nowhere.pt"), tmp_path / "nowhere.pt")


def test_a_folder_in_place_of_a_file_is_refused(convert, tmp_path):
    assert_refused(convert(tmp_path), tmp_path)


def test_a_missing_autoencoder_is_refused(convert, tmp_path):
    assert_refused(convert(predictor_state(), vae=tmp_path / "nowhere"), tmp_path / "nowhere")


def test_an_autoencoder_of_other_latents_is_refused(convert, tmp_path):
    tiny_vae(latent_channels=8).save_pretrained(tmp_path / "other")
    assert_refused(convert(predictor_state(), vae=tmp_path / "other"), "8")


def test_a_pixel_unshuffled_autoencoder_keeps_its_kind(convert, tmp_path):
    tiny_pixel_vae().save_pretrained(tmp_path / "unshuffled")
    code, error, folder = convert(predictor_state(), vae=tmp_path / "unshuffled")
    assert code == 0, error
    pipeline = ClassConditionalPipeline.from_pretrained(folder)
    assert pipeline([0], "E1").images[0].mode == "RGB"


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED = {
    "module.": prefixed("module."),
    "_orig_mod.": prefixed("_orig_mod."),
    "both": prefixed("_orig_mod.module."),
    "both, turned": prefixed("module._orig_mod."),
    "Lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3},
    **{
        name: lambda state, name=name: {name: state, "step": 7}
        for name in ("state_dict", "model", "ema", "model_state_dict", "params_ema")
    },
    "nested": lambda state: {"model": {"state_dict": prefixed("module.")(state)}},
    "averages beside others": lambda state: {
        "params": {name: tensor + 1 for name, tensor in state.items()},
        "params_ema": state,
    },
    "torch's averages": lambda state: {
        "ema": prefixed("module.")(state) | {"n_averaged": torch.tensor(5)}
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_trainings_wrap_weights_in_is_taken_off(tmp_path, name):
    expected = predictor_state()
    torch.save(WRAPPED[name](expected), tmp_path / "wrapped.pt")
    found = read_checkpoint(tmp_path / "wrapped.pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_raw_takes_what_was_trained_wherever_it_is(tmp_path):
    averaged, trained = predictor_state(1), predictor_state(2)
    torch.save({"params": trained, "params_ema": averaged}, tmp_path / "a.pt")
    for raw, expected in ((True, trained), (False, averaged)):
        found = read_checkpoint(tmp_path / "a.pt", raw)
        assert torch.equal(found["pos_embed"], expected["pos_embed"])
    torch.save({"params_ema": averaged}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="has no 'model' weights, only"):
        read_checkpoint(tmp_path / "b.pt", raw=True)


def test_a_name_that_only_some_have_is_none_of_a_wrapper(convert):
    state = predictor_state()
    state["module.pos_embed"] = state.pop("pos_embed")
    assert_refused(convert(state), "pos_embed is missing")


def test_a_mapping_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "endless.pt")
    with pytest.raises(ValueError, match="does not hold a state dict"):
        read_checkpoint(tmp_path / "endless.pt")


def test_a_checkpoint_in_safetensors_is_read(convert, tmp_path):
    save_file(predictor_state(), tmp_path / "sit.safetensors")
    code, error, folder = convert(tmp_path / "sit.safetensors")
    assert code == 0, error
    found = ClassConditionalPipeline.from_pretrained(folder).predictor.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in predictor_state().items())


@pytest.mark.parametrize("name", ["sit.pt", "sit.safetensors"])
def test_a_checkpoint_that_is_still_on_git_lfs_is_refused(convert, tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert_refused(convert(tmp_path / name), "git lfs pull")


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"]
)
def test_an_autoencoder_of_pickles_is_read(convert, vae_folder, tmp_path, name):
    folder = shutil.copytree(vae_folder, tmp_path / "pickled")
    (file,) = folder.glob("*.safetensors")
    torch.save({key: tensor.clone() for key, tensor in load_file(file).items()}, folder / name)
    file.unlink()
    code, error, output = convert(predictor_state(), vae=folder)
    assert code == 0, error
    found = ClassConditionalPipeline.from_pretrained(output).vae.state_dict()
    expected = tiny_vae().state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # The sentence of who meets such a folder in a model names this command.
    shutil.rmtree(output / "vae")
    shutil.copytree(folder, output / "vae")
    with pytest.raises(ValueError, match="a pickle, which could run code: `.*convert sit` reads"):
        ClassConditionalPipeline.from_pretrained(output)


def test_code_in_an_autoencoders_pickle_is_never_run(convert, vae_folder, tmp_path):
    folder, marker = shutil.copytree(vae_folder, tmp_path / "pickled"), tmp_path / "marker"
    (file,) = folder.glob("*.safetensors")
    file.unlink()
    torch.save({"x": Hostile(marker)}, folder / "diffusion_pytorch_model.bin")
    assert_refused(convert(predictor_state(), vae=folder), "it wants to run")
    assert not marker.exists()


def test_a_whole_model_as_the_autoencoder_is_told_where_its_own_is(convert, vae_folder, tmp_path):
    shutil.copytree(vae_folder, tmp_path / "whole" / "vae")
    assert_refused(
        convert(predictor_state(), vae=tmp_path / "whole"), f"name its autoencoder, {tmp_path}"
    )
    assert_refused(convert(predictor_state(), vae="stabilityai/sd-vae-ft-ema"), "no folder")
