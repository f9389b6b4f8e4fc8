"""The forms that released LoRA files have: each is read, or refused with what it is."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.core.pipelines.test_lora import (
    adapted,
    difference,
    latents_of,
    refusal_of,
    tensors_of,
    weights_of,
)
from tests.core.pipelines.tiny_text import tiny_text_pipeline

peft = pytest.importorskip("peft")

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture
def pipeline():
    return tiny_text_pipeline(with_refiner=False)


@pytest.fixture
def tensors(pipeline):
    return tensors_of(peft, adapted(peft, pipeline, r=2, lora_alpha=2))


def pictures_of(models, pipeline):
    return latents_of(
        tiny_text_pipeline(**models, tokenizer=pipeline.tokenizer, with_refiner=False)
    )


@pytest.fixture
def trained_by_peft(pipeline, tmp_path):
    """Return the models of which peft wrote a folder each, and the folder of both."""
    models = {}
    for part, targets in {"unet": ["to_q", "proj_in"], "text_encoder": ["q_proj", "fc1"]}.items():
        config = peft.LoraConfig(
            target_modules=targets,
            r=4,
            lora_alpha=3,
            use_rslora=True,
            init_lora_weights=False,
            alpha_pattern={targets[0]: 5},
        )
        model = peft.get_peft_model(copy.deepcopy(getattr(pipeline, part)), config)
        model.save_pretrained(tmp_path / "peft" / part)
        models[part] = model.merge_and_unload()
    return models, tmp_path / "peft"


def test_pefts_own_folders_are_read(pipeline, trained_by_peft):
    models, folder = trained_by_peft
    assert (latents_of(pipeline) - pictures_of(models, pipeline)).abs().max() > 0.01
    pipeline.load_lora_weights(folder)
    torch.testing.assert_close(
        latents_of(pipeline), pictures_of(models, pipeline), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_folder_of_pefts_is_of_the_model_that_has_its_layers(
    pipeline, trained_by_peft, part, named
):
    models, folder = trained_by_peft
    path = folder / part if named == "folder" else folder / part / "adapter_model.safetensors"
    pipeline.load_lora_weights(path)
    expected = pictures_of({part: models[part]}, pipeline)
    torch.testing.assert_close(latents_of(pipeline), expected, rtol=0, atol=1e-4)


def test_a_text_encoders_older_names_are_read_of_peft_too(pipeline, trained_by_peft):
    models, folder = trained_by_peft
    file = folder / "text_encoder" / "adapter_model.safetensors"
    old = {
        n.replace("model.model.", "model.model.text_model."): t for n, t in load_file(file).items()
    }
    save_file(old, file)
    pipeline.load_lora_weights(file)
    expected = pictures_of({"text_encoder": models["text_encoder"]}, pipeline)
    torch.testing.assert_close(latents_of(pipeline), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'"),
        ({"init_lora_weights": "pissa"}, "made by 'pissa'"),
        (None, "there is no file"),
    ],
)
def test_a_folder_of_pefts_that_is_another_is_refused(pipeline, trained_by_peft, change, said):
    _, folder = trained_by_peft
    file = folder / "unet" / "adapter_config.json"
    if change is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert said in refusal_of(pipeline, folder / "unet")


def test_a_folder_of_pefts_for_another_model_is_refused(pipeline, trained_by_peft):
    _, folder = trained_by_peft
    file = folder / "unet" / "adapter_model.safetensors"
    save_file({n.replace("down_blocks", "joints"): t for n, t in load_file(file).items()}, file)
    assert "neither its UNet nor its text encoder has all the layers" in refusal_of(pipeline, file)


def test_dora_is_read_whole(pipeline, tmp_path):
    # Of a text encoder's, transformers leaves the magnitudes as they were, without a word.
    models = adapted(peft, pipeline, r=2, lora_alpha=2, use_dora=True)
    tensors = tensors_of(peft, models)
    assert any("lora_magnitude_vector" in name for name in tensors)
    save_file(tensors, tmp_path / "dora.safetensors")
    pipeline.load_lora_weights(tmp_path / "dora.safetensors")
    torch.testing.assert_close(
        latents_of(pipeline), pictures_of(models, pipeline), rtol=0, atol=1e-4
    )


FLOAT8 = [
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_is_read_as_what_it_holds(pipeline, tensors, tmp_path, dtype):
    narrow = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(narrow, tmp_path / "fp8.safetensors")
    wide = {name: tensor.float() for name, tensor in narrow.items()}
    save_file(wide, tmp_path / "fp32.safetensors")
    other = tiny_text_pipeline(with_refiner=False)
    pipeline.load_lora_weights(tmp_path / "fp8.safetensors")
    other.load_lora_weights(tmp_path / "fp32.safetensors")
    assert difference(weights_of(pipeline), weights_of(other)) == 0


def test_float8_with_scales_is_refused(pipeline, tensors, tmp_path):
    narrow = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    save_file(narrow | {"unet.x.scale_weight": torch.ones(1)}, tmp_path / "fp8.safetensors")
    assert "with scales, unet.x.scale_weight" in refusal_of(pipeline, tmp_path)


def test_whole_numbers_are_refused(pipeline, tensors, tmp_path):
    whole = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    save_file(whole, tmp_path / "int8.safetensors")
    assert "is int8, and not of floating-point numbers" in refusal_of(pipeline, tmp_path)


def test_half_of_a_pair_is_named(pipeline, tmp_path):
    save_file({f"{KOHYA}.lora_down.weight": torch.ones(2, 16)}, tmp_path / "half.safetensors")
    assert f"it lacks '{KOHYA}.lora_up.weight'"[:60] in refusal_of(pipeline, tmp_path)


KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
OTHERS = {
    "LoHa weights": f"{KOHYA}.hada_w1_a",
    "LoKr weights": f"{KOHYA}.lokr_w1",
    "OFT weights": f"{KOHYA}.oft_blocks",
    "IA3 weights": f"{KOHYA}.on_input",
    "DoRA weights in kohya's form": f"{KOHYA}.dora_scale",
    "textual inversion": "emb_params",
    "SDXL": "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "two text encoders, as SDXL": "text_encoder_2.text_model.x.lora_A.weight",
    "input_blocks, as SDXL": "lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
    "FLUX": "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
    "a diffusion_model": "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
}


@pytest.mark.parametrize("said", OTHERS)
def test_what_is_no_lora_of_such_a_model_is_called_by_its_name(pipeline, tmp_path, said):
    file = tmp_path / "other.safetensors"
    save_file({OTHERS[said]: torch.ones(2, 2)}, file)
    sentence = refusal_of(pipeline, file)
    assert str(file) in sentence and said in sentence


@pytest.mark.parametrize("width", [2048, 7])
def test_layers_of_another_width_are_refused(pipeline, tmp_path, width):
    file = tmp_path / "wide.safetensors"
    layer = {"A": torch.ones(2, width), "B": torch.ones(16, 2)}
    save_file({f"unet.{LAYER}.lora_{end}.weight": t for end, t in layer.items()}, file)
    sentence = refusal_of(pipeline, file)
    assert f"{LAYER} takes {width} values" in sentence and "takes 16" in sentence


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "lora.ckpt", "lora.pth"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_what_is_advised_of_a_pickle_works(pipeline, tensors, tmp_path, name, as_folder):
    torch.save(tensors, tmp_path / name)
    sentence = refusal_of(pipeline, tmp_path if as_folder else tmp_path / name)
    assert "is a pickle" in sentence
    assert "`safetensors.torch.save_file(torch.load(OLD, weights_only=True), NEW)`" in sentence
    save_file(torch.load(tmp_path / name, weights_only=True), tmp_path / "new.safetensors")
    pipeline.load_lora_weights(tmp_path / "new.safetensors")


def test_macos_litter_and_pointers(pipeline, tensors, tmp_path):
    save_file(tensors, tmp_path / "lora.safetensors")
    (tmp_path / "._lora.safetensors").write_bytes(b"\0")
    pipeline.load_lora_weights(tmp_path)
    (tmp_path / "lora.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refusal_of(pipeline, tmp_path)
