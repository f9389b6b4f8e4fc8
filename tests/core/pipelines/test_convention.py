"""What a foreign model's output means is found out: as diffusers takes it, or it is doubted."""

import itertools
import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from flowturbo_core.making.convert_text import convert_text_to_image
from flowturbo_core.models.sit import SiTPredictor
from flowturbo_core.pipelines import folder as folder_module
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.convention import cosine_with_noise, doubts_of
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from tests.conftest import TINY_SIT, tiny_vae
from tests.core.pipelines.tiny_text import tiny_text_pipeline, write_sd_folder

pytestmark = pytest.mark.filterwarnings("ignore:this folder's scheduler")

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_text_pipeline(with_refiner=False)


@pytest.fixture
def write(pipeline, tmp_path):
    """Return a function that writes the folder of an index class with a scheduler's config."""

    numbers = itertools.count()

    def write(scheduler=..., class_name="StableDiffusionPipeline", **index):
        folder = write_sd_folder(pipeline, tmp_path / f"model{next(numbers)}", class_name)
        file = folder / "scheduler" / "scheduler_config.json"
        if scheduler is ...:
            file.unlink()
            index = {"scheduler": ...} | index
        else:
            file.write_text(json.dumps(scheduler))
        file = folder / "model_index.json"
        content = json.loads(file.read_text()) | index
        file.write_text(json.dumps({name: v for name, v in content.items() if v is not ...}))
        return folder

    return write


def warnings_of(loaded):
    return loaded.warnings(loaded.request("a cat"))


def latents_of(loaded, plan="E3"):
    return loaded("a cat", plan=plan, guidance_scale=1, seed=2, output_type="latent").latents


def steps_of_diffusers(pipeline, count):
    """Return what diffusers' own Euler makes of the same noise, on the same even grid."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1)
    scheduler.set_timesteps(sigmas=[1 - k / count for k in range(count)])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    condition = pipeline.embed(["a cat"])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = pipeline.unet(x, timestep, condition).sample
            x = scheduler.step(output, timestep, x).prev_sample
    return x


@pytest.mark.parametrize(
    "scheduler",
    [
        FLOW,
        FLOW | {"shift": 1.0, "num_train_timesteps": 1000},
        {"_class_name": "FlowMatchHeunDiscreteScheduler"},
        UNIPC,
        UNIPC | {"use_flow_sigmas": True, "flow_shift": 1.0},
        UNIPC | {"flow_shift": 3.0},  # without flow sigmas it counts for nothing
        {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
    ],
)
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "RectifiedFlowPipeline"])
def test_a_flow_of_diffusers_is_integrated_as_diffusers_does(pipeline, write, scheduler, name):
    loaded = load_pipeline(write(scheduler, name))
    expected = steps_of_diffusers(pipeline, 3)
    torch.testing.assert_close(latents_of(loaded), expected, rtol=0, atol=1e-5)
    assert (latents_of(pipeline) - expected).abs().max() > 0.1
    assert warnings_of(loaded) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shift": 3.0}, "shift 3.0"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting True"),
        ({"use_karras_sigmas": True, "shift": 2}, "shift 2, use_karras_sigmas True"),
        (UNIPC | {"use_flow_sigmas": True, "flow_shift": 3.0}, "flow_shift 3.0"),
    ],
)
def test_another_spacing_of_steps_is_said_and_not_taken(pipeline, write, changes, named):
    loaded = load_pipeline(write(FLOW | changes))
    (warning,) = warnings_of(loaded)
    assert named in warning and "even in t" in warning and "\n" not in warning
    torch.testing.assert_close(latents_of(loaded), steps_of_diffusers(pipeline, 3))


@pytest.mark.parametrize("change", [{"num_train_timesteps": 500}, {"invert_sigmas": True}])
def test_a_flow_of_another_time_is_refused(write, change):
    with pytest.raises(ValueError, match=rf"scheduler_config\.json: {next(iter(change))} is"):
        load_pipeline(write(FLOW | change))


def test_the_index_alone_may_name_the_scheduler(write):
    folder = write()
    file = folder / "model_index.json"
    entry = {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | entry))
    assert load_pipeline(folder).velocity == "noise - data"


@pytest.mark.parametrize(
    ("scheduler", "predicted"),
    [
        ({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}, "epsilon"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, "v_prediction"),
        ({"_class_name": "PNDMScheduler"}, "epsilon"),  # as the first of them were published
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "epsilon"),
    ],
)
def test_a_diffusion_is_told_from_a_flow(pipeline, write, scheduler, predicted):
    loaded = load_pipeline(write(scheduler))
    (warning,) = warnings_of(loaded)
    assert predicted in warning and "pictures are noise" in warning and "\n" not in warning
    assert torch.equal(latents_of(loaded), latents_of(pipeline))


@pytest.mark.parametrize("name", ["RectifiedFlowPipeline", "InstaFlowPipeline"])
def test_instaflows_folders_keep_a_diffusions_scheduler_and_are_flows(pipeline, write, name):
    loaded = load_pipeline(write({"_class_name": "PNDMScheduler"}, name))
    assert torch.equal(latents_of(loaded), latents_of(pipeline))
    assert warnings_of(loaded) == []


def test_what_was_found_out_is_kept(write, tmp_path):
    loaded = load_pipeline(write(FLOW | {"shift": 3.0}))
    loaded.save_pretrained(tmp_path / "saved")
    assert torch.equal(latents_of(load_pipeline(tmp_path / "saved")), latents_of(loaded))
    convert_text_to_image(tmp_path / "model0", tmp_path / "converted")
    converted = load_pipeline(tmp_path / "converted")
    assert torch.equal(latents_of(converted), latents_of(loaded))
    assert warnings_of(converted) == warnings_of(loaded) != []


def test_a_velocity_that_is_none_is_refused(write):
    with pytest.raises(ValueError, match="velocity 'backwards' is not one of"):
        load_pipeline(write(velocity="backwards"))


class Gives(nn.Module):
    """A UNet that gives a multiple of what it is given."""

    def __init__(self, unet, factor):
        super().__init__()
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device
        self.factor = factor

    def forward(self, x, timestep, condition, return_dict):
        return (self.factor * x,)


@pytest.mark.parametrize(("factor", "is_doubted"), [(0.9, True), (-0.9, False), (0.0, False)])
def test_where_nothing_says_it_one_evaluation_does(write, factor, is_doubted, monkeypatch):
    evaluations = []

    def load_part(part_class, folder, load=TextToImagePipeline.load_part):
        part = load(part_class, folder)
        if folder.name == "unet":
            part.forward = Gives(part, factor).forward
            part.register_forward_hook(lambda *_: evaluations.append(1))
        return part

    monkeypatch.setattr(TextToImagePipeline, "load_part", load_part)
    loaded = TextToImagePipeline.from_pretrained(write())
    assert len(evaluations) == 1
    warnings = warnings_of(loaded)
    assert len(warnings) == is_doubted
    if is_doubted:
        (warning,) = warnings
        assert "cosine of 1.00 with the noise" in warning
        assert '"velocity": "noise - data"' in warning
        with pytest.warns(UserWarning, match="cosine of 1.00"):
            loaded("a cat", plan="E1")
    evaluations.clear()
    said = TextToImagePipeline.from_pretrained(write(velocity="noise - data"))
    assert not evaluations and said.doubts == ()


def test_untrained_models_and_numbers_that_are_none_raise_no_doubt(pipeline):
    cosine = cosine_with_noise(pipeline.predictor, pipeline.latent_shape, pipeline.no_condition())
    assert abs(cosine) < 0.3
    for value in (cosine, -0.9, 0.4, float("nan")):
        assert doubts_of(value) == ()
    assert len(doubts_of(0.6)) == 1


@pytest.mark.parametrize("name", ["postcards-sit", "postcards-t2i"])
def test_the_bundled_models_are_flows_and_are_not_measured(name, monkeypatch):
    measured = []
    monkeypatch.setattr(folder_module, "cosine_with_noise", lambda *_: measured.append(1))
    loaded = load_pipeline(name)
    assert not measured and loaded.doubts == ()
    cosine = cosine_with_noise(loaded.predictor, loaded.latent_shape, loaded.no_condition())
    assert cosine < -0.7


def noise_predictor(sign=1.0):
    """Return a SiT of no blocks' effect whose output is nearly its input, times `sign`."""
    # Its blocks start as identities. The more pixels a token has, the less its norm matters.
    size = {"in_channels": 16, "hidden_size": 128, "depth": 1}
    model = SiTPredictor(**TINY_SIT | size)
    with torch.no_grad():
        model.pos_embed.zero_()
        pixels = 16 * 2 * 2  # of a patch: each goes to a unit, and its negative to another
        identity = torch.eye(pixels)
        embed = torch.cat([identity, -identity]).view(128, 16, 2, 2)
        model.x_embedder.proj.weight.copy_(embed)
        # Within a token the output has the channels last.
        order = torch.arange(pixels).view(16, 2, 2).permute(1, 2, 0).flatten()
        model.final_layer.linear.weight.copy_(sign * embed.view(128, pixels).T[order])
    return model.eval()


@pytest.mark.parametrize(("sign", "count"), [(1.0, 1), (-1.0, 0)])
def test_a_folder_of_classes_is_measured(tmp_path, sign, count):
    vae = tiny_vae(latent_channels=16)
    model = ClassConditionalPipeline(noise_predictor(sign), vae, ["a", "b", "c"])
    model.save_pretrained(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    assert len(loaded.warnings(loaded.request([0]))) == len(loaded.doubts) == count
    if count:
        with pytest.warns(UserWarning, match="with the noise"):
            loaded([0], "E1")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_convert_refuses_a_noise_predictor(command_line, tmp_path, sign):
    tiny_vae(latent_channels=16).save_pretrained(tmp_path / "vae")
    torch.save(noise_predictor(sign).state_dict(), tmp_path / "dit.pt")
    done = command_line(
        "convert", "sit", "--predictor", tmp_path / "dit.pt", "--vae", tmp_path / "vae",
        "--num-heads", 2, "--output", tmp_path / "new",
    )  # fmt: skip
    if sign < 0:
        assert done.code == 0, done.err
        assert done.err == ""
        return
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "predicts noise, as a DiT does" in done.err and "cosine of" in done.err
    assert not (tmp_path / "new").exists()
