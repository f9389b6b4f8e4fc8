"""The forms that released folders of texts have: each is read, or refused with what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowturbo_core.making.convert_text import convert_text_to_image
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.front import weights_hash
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.requests import Texts
from tests.core.pipelines.tiny_text import change_weights, tiny_text_pipeline, write_sd_folder

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
PARTS = tuple(WEIGHTS)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_text_pipeline(with_refiner=False)


@pytest.fixture(scope="module")
def _pristine(pipeline, tmp_path_factory):
    return write_sd_folder(pipeline, tmp_path_factory.mktemp("models") / "released")


@pytest.fixture
def folder(_pristine, tmp_path):
    """Return a folder as published, a copy that the test may change."""
    return shutil.copytree(_pristine, tmp_path / "released")


def latents_of(pipeline):
    return pipeline("a cat", plan="E1", output_type="latent").latents


def weights_in(folder, part):
    return folder / part / f"{WEIGHTS[part]}.safetensors"


def in_shards(file, names, index):
    """Put what is in `file` into two shards of these names, with their index."""
    tensors = load_file(file)
    file.unlink()
    where = {name: names[k % 2] for k, name in enumerate(sorted(tensors))}
    for shard in names:
        held = {name: tensors[name] for name, its in where.items() if its == shard}
        target = file.with_name(shard)
        save_file(held, target) if shard.endswith(".safetensors") else torch.save(held, target)
    if index is not None:
        file.with_name(index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def to_pickle(file, name):
    torch.save({key: tensor.clone() for key, tensor in load_file(file).items()}, file.parent / name)
    file.unlink()


def refusal_of(folder):
    with pytest.raises(ValueError) as refusal:
        load_pipeline(folder)
    sentence = str(refusal.value)
    assert "\n" not in sentence and len(sentence.replace(str(folder), "")) < 400
    return sentence


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_a_variant_that_stands_alone_is_read(pipeline, folder, variant):
    for part in PARTS:
        file = weights_in(folder, part)
        file.rename(file.with_name(f"{WEIGHTS[part]}.{variant}.safetensors"))
    assert torch.equal(latents_of(load_pipeline(folder)), latents_of(pipeline))
    assert ModelDescription.read(folder).subject is Texts


@pytest.mark.parametrize(
    ("shards", "index"),
    [
        ("{}-0000{}-of-00002.safetensors", "{}.safetensors.index.json"),
        ("{}.fp16-0000{}-of-00002.safetensors", "{}.safetensors.index.fp16.json"),
        ("{}-0000{}-of-00002.fp16.safetensors", "{}.safetensors.index.fp16.json"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_shards_are_read_of_a_variant_too(pipeline, folder, part, shards, index):
    names = [shards.format(WEIGHTS[part], k) for k in (1, 2)]
    in_shards(weights_in(folder, part), names, index.format(WEIGHTS[part]))
    assert torch.equal(latents_of(load_pipeline(folder)), latents_of(pipeline))
    (folder / part / names[0]).unlink()
    assert f"there is no file {folder / part / names[0]}" in refusal_of(folder)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_there_in_full_goes_before_a_variant(pipeline, folder, part):
    weights_in(folder, part).with_name(f"{WEIGHTS[part]}.fp16.safetensors").write_bytes(b"half")
    assert torch.equal(latents_of(load_pipeline(folder)), latents_of(pipeline))


@pytest.mark.parametrize("part", PARTS)
def test_several_variants_and_no_full_weights_are_refused(folder, part):
    file = weights_in(folder, part)
    shutil.copy(file, file.with_name(f"{WEIGHTS[part]}.fp16.safetensors"))
    file.rename(file.with_name(f"{WEIGHTS[part]}.non_ema.safetensors"))
    sentence = refusal_of(folder)
    assert "fp16, non_ema" in sentence and f"rename the one to use to {file.name}" in sentence


@pytest.mark.parametrize("part", PARTS)
def test_shards_without_an_index_are_refused_by_its_name(folder, part):
    names = [f"{WEIGHTS[part]}-0000{k}-of-00002.safetensors" for k in (1, 2)]
    in_shards(weights_in(folder, part), names, None)
    assert f"lacks {WEIGHTS[part]}.safetensors.index.json" in refusal_of(folder)


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin",
        "diffusion_pytorch_model.fp16.bin",
        "shards",
        "variant shards",
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_what_is_advised_of_a_pickle_works(pipeline, folder, tmp_path, part, name):
    file = weights_in(folder, part)
    if "shards" in name:
        variant = ".fp16" if name.startswith("variant") else ""
        names = [f"pytorch_model{variant}-0000{k}-of-00002.bin" for k in (1, 2)]
        in_shards(file, names, f"pytorch_model.bin.index{variant}.json")
    else:
        to_pickle(file, name)
    sentence = refusal_of(folder)
    assert ".bin, a pickle" in sentence and "`python -m flowturbo_core convert-text`" in sentence
    convert_text_to_image(folder, tmp_path / "safe")
    assert torch.equal(latents_of(load_pipeline(tmp_path / "safe")), latents_of(pipeline))
    assert not list((tmp_path / "safe").rglob("*.bin*"))


def test_converting_takes_the_full_pickle_before_half_of_it(pipeline, folder, tmp_path):
    file = weights_in(folder, "unet")
    half = {name: tensor.half() for name, tensor in load_file(file).items()}
    to_pickle(file, "diffusion_pytorch_model.bin")
    save_file(half, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    convert_text_to_image(folder, tmp_path / "safe")
    assert torch.equal(latents_of(load_pipeline(tmp_path / "safe")), latents_of(pipeline))


def test_macos_litter_is_passed_over(pipeline, folder, tmp_path):
    before = weights_hash(folder)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "unet" / ".DS_Store").write_bytes(b"\0")
    assert torch.equal(latents_of(load_pipeline(folder)), latents_of(pipeline))
    assert weights_hash(folder) == before
    convert_text_to_image(folder, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("._*"))
    weights_in(folder, "vae").unlink()
    (folder / "vae" / "._old.bin").write_bytes(b"\0")
    assert "there is no file" in refusal_of(folder)


def test_json_with_a_byte_order_mark_is_read(pipeline, folder):
    for file in (folder / "model_index.json", *folder.glob("*/config.json")):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    assert torch.equal(latents_of(load_pipeline(folder)), latents_of(pipeline))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_no_numbers_are_refused_by_name(folder, part, value):
    file = weights_in(folder, part)
    name = sorted(n for n, tensor in load_file(file).items() if tensor.is_floating_point())[0]
    change_weights(file, lambda tensors: tensors[name].view(-1)[0].fill_(value))
    sentence = refusal_of(folder)
    assert f"{file}: {name} holds values that are not finite" in sentence
