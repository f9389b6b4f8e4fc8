"""LoRA weights added to a text-to-image model: as peft computes them, all of them, or none."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowturbo_core.models import lora
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from tests.core.pipelines.tiny_text import tiny_text_pipeline

TARGETS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "ff.net.2"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
USUAL_NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture
def pipeline():
    return tiny_text_pipeline()


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def latents_of(pipeline):
    options = {"plan": "H1P1", "guidance_scale": 2.0, "seed": 3, "output_type": "latent"}
    return pipeline("a cat", **options).latents


def weights_of(pipeline):
    return {
        f"{part}.{name}": tensor.clone()
        for part in TARGETS
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }


def difference(first, second):
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max() for name in first)


def adapted(peft, pipeline, **config):
    """Return both models with random adapters beside their weights, as peft trains them."""
    generator = torch.Generator().manual_seed(0)
    models = {}
    for part, targets in TARGETS.items():
        model = copy.deepcopy(getattr(pipeline, part))
        model.add_adapter(peft.LoraConfig(target_modules=targets, **config))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.add_(0.2 * noise)
        models[part] = model.eval()
    return models


def tensors_of(peft, models):
    """Return the adapters' tensors by their names in a file."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, model in models.items()
        for name, tensor in peft.get_peft_model_state_dict(model).items()
    }


@pytest.fixture
def trained(peft, pipeline):
    return adapted(peft, pipeline, r=2, lora_alpha=2)


@pytest.fixture
def tensors(peft, trained):
    return tensors_of(peft, trained)


@pytest.fixture
def file(tensors, tmp_path):
    save_file(tensors, tmp_path / USUAL_NAME)
    return tmp_path / USUAL_NAME


def test_without_peft_the_sentence_says_what_to_install(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "USE_PEFT_BACKEND", False)
    save_file({"unet.x": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="pip install -r requirements-lora.txt") as refusal:
        pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("as_folder", [True, False])
def test_pictures_are_those_of_the_adapted_models(pipeline, trained, file, as_text, as_folder):
    before = latents_of(pipeline)
    path = file.parent if as_folder else file
    pipeline.load_lora_weights(str(path) if as_text else path)
    expected = latents_of(tiny_text_pipeline(**trained, tokenizer=pipeline.tokenizer))
    torch.testing.assert_close(latents_of(pipeline), expected, rtol=0, atol=1e-4)
    assert (expected - before).abs().max() > 0.01


@pytest.mark.parametrize("part", TARGETS)
def test_a_file_may_be_of_one_part(pipeline, tensors, tmp_path, part):
    before = weights_of(pipeline)
    chosen = {name: t for name, t in tensors.items() if name.startswith(f"{part}.")}
    save_file(chosen, tmp_path / "one.safetensors")
    pipeline.load_lora_weights(tmp_path / "one.safetensors")
    changed = {n for n, t in weights_of(pipeline).items() if not torch.equal(t, before[n])}
    assert changed == {f"{n.partition('.lora_')[0]}.weight" for n in chosen}


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, 2])
def test_the_scale_is_that_of_the_change(pipeline, tensors, file, scale):
    expected = weights_of(pipeline)
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            product = (b.flatten(1) @ a.flatten(1)).view(*b.shape[:1], *a.shape[1:])
            expected[f"{name.partition('.lora_')[0]}.weight"] += scale * product
    pipeline.load_lora_weights(file, scale)
    assert difference(weights_of(pipeline), expected) < 1e-5


def test_several_add_up(pipeline, file):
    before = weights_of(pipeline)
    pipeline.load_lora_weights(file)
    once = weights_of(pipeline)
    pipeline.load_lora_weights(file, -1.0)
    assert difference(weights_of(pipeline), before) < 1e-5
    assert difference(once, before) > 0.01


def test_what_is_left_is_a_plain_model(pipeline, file, tmp_path):
    grads = [p.requires_grad for p in pipeline.unet.parameters()]
    pipeline.load_lora_weights(file)
    assert [p.requires_grad for p in pipeline.unet.parameters()] == grads
    pipeline.save_pretrained(tmp_path / "saved")
    again = TextToImagePipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(latents_of(again), latents_of(pipeline))


def test_the_settings_in_a_file_are_read(peft, pipeline, tmp_path):
    models = adapted(peft, pipeline, r=4, lora_alpha=3, use_rslora=True)
    settings = {
        f"{part}.{name}": list(value) if isinstance(value, set) else value
        for part, model in models.items()
        for name, value in model.peft_config["default"].to_dict().items()
        if value is not None
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings, default=str)}
    save_file(tensors_of(peft, models), tmp_path / USUAL_NAME, metadata)
    pipeline.load_lora_weights(tmp_path)
    expected = latents_of(tiny_text_pipeline(**models, tokenizer=pipeline.tokenizer))
    torch.testing.assert_close(latents_of(pipeline), expected, rtol=0, atol=1e-4)


def test_kohyas_files_are_read_with_an_alpha_and_a_rank_for_each_layer(peft, pipeline, tmp_path):
    expected, stored = weights_of(pipeline), {}
    generator = torch.Generator().manual_seed(0)
    weights = [
        name
        for name, tensor in expected.items()
        if tensor.ndim == 2 and any(t in name for targets in TARGETS.values() for t in targets)
    ]
    assert len(weights) > 20
    for k, name in enumerate(weights):
        outputs, inputs = expected[name].shape
        rank, alpha = 1 + k % 3, 1.0 + k % 2
        down = 0.2 * torch.randn(rank, inputs, generator=generator)
        up = 0.2 * torch.randn(outputs, rank, generator=generator)
        expected[name] += alpha / rank * up @ down
        part, _, path = name.removesuffix(".weight").partition(".")
        prefix = "lora_unet" if part == "unet" else "lora_te_text_model"
        flat = f"{prefix}_{path.replace('.', '_')}"
        stored |= {
            f"{flat}.lora_down.weight": down,
            f"{flat}.lora_up.weight": up,
            f"{flat}.alpha": torch.tensor(alpha),
        }
    save_file(stored, tmp_path / "kohya.safetensors")
    pipeline.load_lora_weights(tmp_path)
    assert difference(weights_of(pipeline), expected) < 1e-5


def test_half_precision_stays_half(pipeline, file):
    pipeline.load_lora_weights(file)
    exact = latents_of(pipeline)
    half = tiny_text_pipeline().to(torch.float16)
    half.load_lora_weights(file)
    parameters = [*half.unet.parameters(), *half.text_encoder.parameters()]
    assert {p.dtype for p in parameters} == {torch.float16}
    assert (latents_of(half) - exact).norm() / exact.norm() < 0.01


def test_cached_steps_are_forgotten(pipeline, file):
    job, kernels = pipeline.job(pipeline.request("a")), pipeline._kernels
    before = kernels.steps(job.velocities, compiled=False)
    assert kernels.steps(job.velocities, compiled=False) is before
    pipeline.load_lora_weights(file)
    assert kernels.steps(job.velocities, compiled=False) is not before


def without(tensors, end):
    return {name: t for name, t in tensors.items() if not name.endswith(end)}


def _first(tensors, part, end="lora_A.weight"):
    return next(name for name in tensors if name.startswith(part) and name.endswith(end))


FOREIGN = {
    "another width of the UNet": lambda t: t | {_first(t, "unet"): torch.ones(2, 7)},
    "another width of the encoder": lambda t: t | {_first(t, "text"): torch.ones(2, 7)},
    "another rank": lambda t: t | {_first(t, "unet"): torch.ones(3, 16)},
    "a layer that the UNet lacks": lambda t: (
        t
        | {
            "unet.nowhere.to_q.lora_A.weight": torch.ones(2, 16),
            "unet.nowhere.to_q.lora_B.weight": torch.ones(16, 2),
        }
    ),
    "a layer that the encoder lacks": lambda t: (
        t
        | {
            "text_encoder.nowhere.fc1.lora_A.weight": torch.ones(2, 16),
            "text_encoder.nowhere.fc1.lora_B.weight": torch.ones(16, 2),
        }
    ),
    "a second encoder": lambda t: t | {"text_encoder_2.x.lora_A.weight": torch.ones(2, 16)},
    "names without a part": lambda t: {n.partition(".")[2]: v for n, v in t.items()},
    "halves": lambda t: without(t, "lora_B.weight"),
    "other halves": lambda t: without(t, "lora_A.weight"),
    "half of one": lambda t: without(t, _first(t, "unet")),
    "no number": lambda t: t | {_first(t, "text"): torch.full((2, 16), float("nan"))},
    "kohya's DoRA": lambda t: t | {"lora_unet_x.dora_scale": torch.ones(2)},
    "nothing": lambda t: {},
    "another model": lambda t: {"conv_in.weight": torch.ones(1)},
    "the UNet itself": lambda t: {"unet.conv_in.weight": torch.ones(16, 4, 3, 3)},
}
METADATA = ["{", "[1]", "3", '{"unet.r": "x"}', '{"unet.r": 2, "unet.init_lora_weights": "pissa"}']


def refusal_of(pipeline, path, *arguments):
    before, names = weights_of(pipeline), list(pipeline.unet.state_dict())
    with pytest.raises(ValueError) as refusal:
        pipeline.load_lora_weights(path, *arguments)
    assert list(pipeline.unet.state_dict()) == names
    assert difference(weights_of(pipeline), before) == 0
    sentence = str(refusal.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_weights_are_refused_and_change_nothing(pipeline, tensors, tmp_path, name, capfd):
    file = tmp_path / "foreign.safetensors"
    save_file(FOREIGN[name](tensors), file)
    assert str(file) in refusal_of(pipeline, file)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert torch.isfinite(latents_of(pipeline)).all()


@pytest.mark.parametrize("metadata", METADATA)
def test_wrong_settings_in_a_file_are_refused_and_change_nothing(
    pipeline, tensors, tmp_path, metadata
):
    file = tmp_path / "foreign.safetensors"
    save_file(tensors, file, {"lora_adapter_metadata": metadata})
    assert str(file) in refusal_of(pipeline, file)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", None, True, 11])
def test_a_wrong_scale_is_refused(pipeline, tmp_path, scale):
    save_file({"unet.x": torch.zeros(1)}, tmp_path / "lora.safetensors")
    assert "scale" in refusal_of(pipeline, tmp_path, scale)


@pytest.mark.parametrize(
    "path", [5, None, b"x.safetensors", "owner/repository", "/no/such.safetensors", "lora.bin", "."]
)
def test_what_is_no_file_of_safetensors_is_refused(pipeline, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({}, tmp_path / "lora.bin")
    assert "safetensors" in refusal_of(pipeline, path) or isinstance(path, int | bytes | None)


def test_damaged_files_are_refused(pipeline, file):
    whole = file.read_bytes()
    for content in (b"", whole[:-10], b"\x80\x02}q\x00." * 100):
        file.write_bytes(content)
        assert "truncated or damaged" in refusal_of(pipeline, file)


def test_a_folder_of_several_files_is_refused_unless_one_has_the_usual_name(
    pipeline, file, tmp_path
):
    save_file(load_file(file), tmp_path / "another.safetensors")
    pipeline.load_lora_weights(tmp_path)
    file.rename(tmp_path / "third.safetensors")
    assert "2 .safetensors files" in refusal_of(pipeline, tmp_path)
