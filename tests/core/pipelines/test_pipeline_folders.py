"""Model folders: saved and loaded to the bit, and refused in one sentence when they are broken."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowturbo_core.models import catalog
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import save_model
from flowturbo_core.pipelines.base import CATALOGUE
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from tests.conftest import TINY_SIT, randomize, tiny_pipeline, tiny_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(folder, **options):
    return ClassConditionalPipeline.from_pretrained(folder, **options)


def latents_of(pipeline, plan="H1P2R1"):
    return pipeline([0, 1, 2], plan, seed=3, output_type="latent").latents


def index_of(folder):
    return json.loads((folder / "model_index.json").read_text())


def change_index(folder, **changes):
    index = index_of(folder) | changes
    index = {name: value for name, value in index.items() if value is not ...}
    (folder / "model_index.json").write_text(json.dumps(index))


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def in_shards(folder):
    """Save the predictor of `folder` again, in several shards, and return their files."""
    predictor = SiTPredictor.from_pretrained(folder / "predictor")
    save_model(predictor, folder / "predictor", max_shard_size="30KB")
    shards = sorted((folder / "predictor").glob("*.safetensors"))
    assert len(shards) > 2
    return shards


def test_a_saved_pipeline_gives_the_same_pictures_to_the_bit(pipeline, pipeline_folder):
    again = load(pipeline_folder)
    assert torch.equal(latents_of(again), latents_of(pipeline))
    first, second = (p([1], "H1").images[0] for p in (pipeline, again))
    assert first.tobytes() == second.tobytes()
    assert again.class_names == pipeline.class_names
    assert again.default_plan == pipeline.default_plan
    assert again.default_guidance_scale == pipeline.default_guidance_scale


def test_a_folder_may_be_named_by_text_or_by_path(pipeline_folder):
    assert torch.equal(latents_of(load(str(pipeline_folder))), latents_of(load(pipeline_folder)))


def test_a_pipeline_without_a_refiner_is_saved_without_one(tmp_path):
    tiny_pipeline(with_refiner=False).save_pretrained(tmp_path / "plain")
    again = load(tmp_path / "plain")
    assert again.refiner is None
    assert not (tmp_path / "plain" / "refiner").exists()
    assert len(again([0], "H1P1").images) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_half_precision(pipeline, pipeline_folder, dtype):
    half = load(pipeline_folder, dtype=dtype)
    assert half.dtype == half.vae.dtype == half.refiner.dtype == dtype
    error = (latents_of(half) - latents_of(pipeline)).norm() / latents_of(pipeline).norm()
    assert error < 0.02


def test_a_pipeline_saved_in_float16_belongs_to_its_rounded_autoencoder(pipeline_folder, tmp_path):
    # Rounding changes the autoencoder's weights, and so its hash: the copy must still load.
    load(pipeline_folder, dtype=torch.float16).save_pretrained(tmp_path / "half")
    again = load(tmp_path / "half")
    assert again.predictor.dtype == torch.float32
    assert len(again([0]).images) == 1


def test_shards_are_put_together(pipeline, pipeline_folder):
    in_shards(pipeline_folder)
    assert torch.equal(latents_of(load(pipeline_folder)), latents_of(pipeline))


def test_saving_over_another_pipeline_leaves_nothing_of_it(pipeline_folder):
    in_shards(pipeline_folder)
    other = tiny_pipeline(depth=1)
    other.save_pretrained(pipeline_folder)
    assert torch.equal(latents_of(load(pipeline_folder)), latents_of(other))


def test_the_published_layout_is_a_diffusers_folder(pipeline_folder):
    index = index_of(pipeline_folder)
    assert index["_class_name"] == "ClassConditionalPipeline"
    for part in ("predictor", "refiner", "vae"):
        library, name = index[part]
        assert (
            name == json.loads((pipeline_folder / part / "config.json").read_text())["_class_name"]
        )
        assert (pipeline_folder / part / WEIGHTS).is_file()
    assert not list(pipeline_folder.rglob("*.bin")) and not list(pipeline_folder.rglob("*.pt"))


# Every way to spoil a folder: a function of it, and what the sentence must name.


def spoil(name, *named):
    def register(function):
        SPOILED[name] = (function, named)
        return function

    return register


SPOILED = {}
for _part in ("predictor", "refiner", "vae"):
    SPOILED[f"no {_part} folder"] = (lambda f, p=_part: shutil.rmtree(f / p), (_part,))
    SPOILED[f"no {_part} config"] = (lambda f, p=_part: (f / p / "config.json").unlink(), (_part,))
    SPOILED[f"no {_part} weights"] = (lambda f, p=_part: (f / p / WEIGHTS).unlink(), (_part,))
    SPOILED[f"empty {_part} weights"] = (
        lambda f, p=_part: (f / p / WEIGHTS).write_bytes(b""),
        (_part,),
    )
    SPOILED[f"truncated {_part} weights"] = (
        lambda f, p=_part: (f / p / WEIGHTS).write_bytes((f / p / WEIGHTS).read_bytes()[:-100]),
        (_part,),
    )


@spoil("no index", "model_index.json")
def no_index(folder):
    (folder / "model_index.json").unlink()


@spoil("an index that is no JSON", "model_index.json")
def broken_index(folder):
    (folder / "model_index.json").write_text('{"_class_name": ')


@spoil("an index that is a list", "model_index.json")
def list_index(folder):
    (folder / "model_index.json").write_text("[1, 2]")


@spoil("an index that is no text", "model_index.json")
def binary_index(folder):
    (folder / "model_index.json").write_bytes(b"\xff\xfe\x00\x01" * 40)


@spoil("another pipeline's index", "StableDiffusionPipeline")
def other_pipeline(folder):
    change_index(folder, _class_name="StableDiffusionPipeline")


@spoil("an index without a predictor", "predictor")
def no_predictor(folder):
    change_index(folder, predictor=...)


@spoil("an index without an autoencoder", "vae")
def no_vae(folder):
    change_index(folder, vae=...)


@spoil("an index without class names", "class_names")
def no_class_names(folder):
    change_index(folder, class_names=...)


@spoil("class names that are a number", "class_names")
def numeric_class_names(folder):
    change_index(folder, class_names=3)


@spoil("class names in one text", "class_names")
def text_class_names(folder):
    change_index(folder, class_names="abc")  # three letters, for three classes


@spoil("too few class names", "2")
def few_class_names(folder):
    change_index(folder, class_names=["a", "b"])


@spoil("a default plan that is none", "H1X2")
def wrong_default_plan(folder):
    change_index(folder, default_plan="H1X2")


@spoil("a default guidance that is no number", "strong")
def wrong_default_guidance(folder):
    change_index(folder, default_guidance_scale="strong")


@spoil("a class that is not allowed", "UNet2DModel")
def foreign_class(folder):
    change_index(folder, predictor=["diffusers", "UNet2DModel"])


@spoil("a function of the system", "system")
def hostile_class(folder):
    change_index(folder, vae=["os", "system"])


@spoil("an entry without a class", "predictor")
def empty_entry(folder):
    change_index(folder, predictor=[])


@spoil("an entry of lists", "predictor")
def nested_entry(folder):
    change_index(folder, predictor=[["os"], ["SiTPredictor"]])


@spoil("a predictor where the refiner belongs", "refiner")
def predictor_as_refiner(folder):
    shutil.rmtree(folder / "refiner")
    shutil.copytree(folder / "predictor", folder / "refiner")
    change_index(folder, refiner=index_of(folder)["predictor"])


@spoil("a refiner where the predictor belongs", "predictor")
def refiner_as_predictor(folder):
    shutil.rmtree(folder / "predictor")
    shutil.copytree(folder / "refiner", folder / "predictor")
    change_index(folder, predictor=index_of(folder)["refiner"])


@spoil("a predictor where the autoencoder belongs", "vae")
def predictor_as_vae(folder):
    shutil.rmtree(folder / "vae")
    shutil.copytree(folder / "predictor", folder / "vae")
    change_index(folder, vae=index_of(folder)["predictor"])


@spoil("a model that is not in the catalogue", "no-such-model")
def unknown_catalogue_entry(folder):
    change_index(folder, vae=[CATALOGUE, "no-such-model"])


@spoil("a path in place of a catalogue name", "vae")
def path_in_catalogue_entry(folder):
    change_index(folder, vae=[CATALOGUE, str(folder / "vae")])


@spoil("another autoencoder", "autoencoder")
def other_autoencoder(folder):
    save_model(tiny_vae(1), folder / "vae")


@spoil("another autoencoder's latents", "8")
def other_latents(folder):
    save_model(tiny_vae(latent_channels=8), folder / "vae")


@spoil("a refiner of other classes", "num_classes")
def other_refiner(folder):
    save_model(SiTRefiner(**TINY_SIT | {"num_classes": 4}), folder / "refiner")


@spoil("a parameter too few", "predictor", "blocks.1.mlp.fc2.bias")
def parameter_missing(folder):
    change_weights(folder / "predictor" / WEIGHTS, lambda t: t.pop("blocks.1.mlp.fc2.bias"))


@spoil("a parameter too many", "predictor", "blocks.9.extra")
def parameter_extra(folder):
    change_weights(
        folder / "predictor" / WEIGHTS, lambda t: t.update({"blocks.9.extra": torch.zeros(1)})
    )


@spoil("a parameter of another shape", "predictor", "blocks.0.attn.proj.weight")
def parameter_reshaped(folder):
    change_weights(
        folder / "predictor" / WEIGHTS,
        lambda t: t.update({"blocks.0.attn.proj.weight": torch.zeros(32, 16)}),
    )


@spoil("weights of another model", "predictor")
def foreign_weights(folder):
    shutil.copy(folder / "vae" / WEIGHTS, folder / "predictor" / WEIGHTS)


@spoil("weights of another width", "refiner")
def wider_weights(folder):
    save_model(SiTRefiner(**TINY_SIT | {"hidden_size": 64}), folder.parent / "wide")
    shutil.copy(folder.parent / "wide" / WEIGHTS, folder / "refiner" / WEIGHTS)


@spoil("weights in a pickle", "predictor")
def pickled_weights(folder):
    file = folder / "predictor" / WEIGHTS
    torch.save(load_file(file), folder / "predictor" / "diffusion_pytorch_model.bin")
    file.unlink()


@spoil("a missing shard", "predictor")
def shard_missing(folder):
    in_shards(folder)[1].unlink()


@spoil("a truncated shard", "predictor")
def shard_truncated(folder):
    shard = in_shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-50])


@spoil("a foreign shard", "predictor")
def shard_foreign(folder):
    shutil.copy(folder / "refiner" / WEIGHTS, in_shards(folder)[1])


@spoil("a shard in another's place", "predictor")
def shard_twice(folder):
    shards = in_shards(folder)
    shutil.copy(shards[0], shards[1])


@spoil("a shard with more in it", "predictor", "stowaway")
def shard_extra(folder):
    change_weights(in_shards(folder)[1], lambda t: t.update({"stowaway": torch.zeros(1)}))


@spoil("a config that is no JSON", "predictor")
def broken_config(folder):
    (folder / "predictor" / "config.json").write_text("{")


@spoil("a config that is a list", "predictor")
def list_config(folder):
    (folder / "predictor" / "config.json").write_text("[]")


@spoil("a config of another width", "predictor")
def wider_config(folder):
    change_config(folder / "predictor", hidden_size=64)


@spoil("no heads", "predictor")
def no_heads(folder):
    change_config(folder / "predictor", num_heads=0)


@spoil("no patch", "predictor")
def no_patch(folder):
    change_config(folder / "predictor", patch_size=0)


@spoil("a negative number of heads", "predictor")
def negative_heads(folder):
    change_config(folder / "predictor", num_heads=-2)


@spoil("a depth that is a text", "predictor")
def text_depth(folder):
    change_config(folder / "predictor", depth="two")


@spoil("an unknown refiner variant", "refiner", "sideways")
def unknown_variant(folder):
    change_config(folder / "refiner", variant="sideways")


@spoil("more guided channels than there are", "9")
def too_many_guided_channels(folder):
    change_config(folder / "predictor", guided_channels=9)


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_sentence(pipeline_folder, name):
    function, named = SPOILED[name]
    function(pipeline_folder)
    with pytest.raises(ValueError) as refusal:
        load(pipeline_folder)
    sentence = str(refusal.value)
    assert "\n" not in sentence.strip()
    assert len(sentence) < 700
    for part in named:
        assert part in sentence


def test_a_module_that_the_index_names_is_never_imported(pipeline_folder, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "hostile_module.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass SiTPredictor: ...\nclass Other: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("SiTPredictor", "Other"):
        change_index(pipeline_folder, predictor=["hostile_module", name])
        try:
            loaded = load(pipeline_folder)
        except ValueError:
            continue
        assert type(loaded.predictor) is SiTPredictor  # ours, whatever module was named
    assert not marker.exists()
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "postcards-sit/../x"])
def test_a_missing_folder_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        load(name)


def test_weights_of_nan_are_found_when_sampling(pipeline_folder):
    def spoil_one(tensors):
        tensors["blocks.0.attn.qkv.weight"][0, 0] = float("nan")

    change_weights(pipeline_folder / "predictor" / WEIGHTS, spoil_one)
    with pytest.raises(FloatingPointError):
        load(pipeline_folder)([0], "H1")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    folder = tmp_path / "catalogue"
    folder.mkdir()
    monkeypatch.setattr(catalog, "MODELS_FOLDER", folder)
    return folder


def test_a_shared_autoencoder_is_named_by_its_catalogue_name(pipeline, pipeline_folder, shelf):
    shutil.move(pipeline_folder / "vae", shelf / "shared-vae")
    change_index(pipeline_folder, vae=[CATALOGUE, "shared-vae"])
    shutil.move(pipeline_folder, shelf / "small")
    loaded = load("small")
    assert torch.equal(latents_of(loaded), latents_of(pipeline))
    # A copy that is saved is complete: it needs no catalogue.
    loaded.save_pretrained(shelf.parent / "copy")
    shutil.rmtree(shelf)
    assert torch.equal(latents_of(load(shelf.parent / "copy")), latents_of(pipeline))


@pytest.mark.parametrize("spoiled", ["config", "class"])
def test_a_broken_catalogue_entry_is_refused(pipeline_folder, shelf, spoiled):
    shutil.move(pipeline_folder / "vae", shelf / "shared-vae")
    change_index(pipeline_folder, vae=[CATALOGUE, "shared-vae"])
    if spoiled == "config":
        (shelf / "shared-vae" / "config.json").unlink()
    else:
        change_config(shelf / "shared-vae", _class_name="UNet2DModel")
    with pytest.raises(ValueError, match="shared-vae"):
        load(pipeline_folder)


def test_another_model_under_the_catalogue_name_is_refused(pipeline_folder, shelf):
    save_model(randomize(tiny_vae(), 9), shelf / "shared-vae")
    change_index(pipeline_folder, vae=[CATALOGUE, "shared-vae"])
    with pytest.raises(ValueError, match="autoencoder"):
        load(pipeline_folder)


def test_nothing_is_fetched_from_a_hub(pipeline_folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model folder was looked for on the network")

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.file_download, "hf_hub_download", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    (pipeline_folder / "vae" / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=str(Path("tiny") / "vae")):
        load(pipeline_folder)
