"""Model folders: saved and loaded to the bit, and refused in one sentence when they are broken."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowturbo_core.models import catalog
from flowturbo_core.models.catalog import CATALOGUE
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import save_model
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from tests.conftest import TINY_SIT, randomize, tiny_pipeline, tiny_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"


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


# Values that no config can have: the part, the field, the value.
WRONG_VALUES = [
    *(("predictor", "time_scale", value) for value in ("x", None, float("nan"), -1)),
    *(("predictor", "mlp_ratio", value) for value in ("x", None, 1e9)),
    *(("predictor", "guided_channels", value) for value in (1.5, "x", [1])),
    *(("predictor", "autoencoder_hash", value) for value in (5, ["x"])),
    *(
        ("predictor", name, value)
        for name in ("latents_mean", "latents_std")
        for value in (5, [1, 2], ["x"] * 4, ["x"], {"a": 1}, "four", [float("nan")] * 4)
    ),
    ("predictor", "latents_std", [1, 1, 0, 1]),
    *(("predictor", "num_heads", value) for value in ("2", 2.0, True)),
    *(("predictor", "depth", value) for value in (0, 1_000_000, None)),
    *(("predictor", "hidden_size", value) for value in (0, 2**40)),
    *(("predictor", "sample_size", value) for value in (0, 2**40)),
    ("predictor", "num_classes", 0),
    ("refiner", "variant", ["x"]),
    *(("vae", "scaling_factor", value) for value in (0, None, "x", float("inf"))),
    ("vae", "shift_factor", "x"),
    ("vae", "latents_mean", [1, 2]),
    *(("vae", "layers_per_block", value) for value in (10**9, "x")),
    *(("vae", "block_out_channels", value) for value in ([8], [], "x", None, [2**60, 8])),
    ("vae", "norm_num_groups", 0),
]
for _part, _field, _value in WRONG_VALUES:
    SPOILED[f"{_part} {_field} {_value!r}"] = (
        lambda f, p=_part, n=_field, v=_value: change_config(f / p, **{n: v}),
        () if _field in ("block_out_channels", "norm_num_groups") else (_field,),
    )

DEEP = "[" * 100_000
for _file in ("model_index.json", "predictor/config.json", "vae/config.json"):
    for _text in ("[]", DEEP, '{"a": ' * 100_000, "3", "null", ""):
        SPOILED[f"{_text[:8]!r} in {_file}"] = (
            lambda f, n=_file, t=_text: (f / n).write_text(t),
            (_file,),
        )
for _entry in ("x", [], ["a"], ["a", "b", "c"], None, 5, {"a": "b"}, [None, "x"]):
    SPOILED[f"{_entry!r} for a refiner"] = (
        lambda f, e=_entry: change_index(f, refiner=e),
        ("refiner",),
    )
for _names in (
    ["", "b", "c"],
    [1, 2, 3],
    ["a", "b", " A "],
    ["a", "b", "12"],
    {"a": 1},
    [["a"]] * 3,
):
    SPOILED[f"class names {_names!r}"] = (
        lambda f, n=_names: change_index(f, class_names=n),
        ("class_names",),
    )
for _part in ("predictor", "refiner", "vae"):
    SPOILED[f"trailing bytes after the {_part}"] = (
        lambda f, p=_part: (f / p / WEIGHTS).write_bytes((f / p / WEIGHTS).read_bytes() + b"more"),
        (f"{_part}/{WEIGHTS}", "damaged"),
    )
    SPOILED[f"another class in the config of the {_part}"] = (
        lambda f, p=_part: change_config(f / p, _class_name="UNet2DModel"),
        (f"{_part}/config.json", "UNet2DModel"),
    )
for _index in ({}, {"weight_map": {}}, {"weight_map": 3}, {"weight_map": {"a": 3}},
               {"weight_map": {"a": "../x.safetensors"}}):  # fmt: skip
    SPOILED[f"an index of shards that is {_index}"] = (
        lambda f, i=_index: (in_shards(f), (f / "predictor" / SHARDS).write_text(json.dumps(i))),
        (SHARDS,),
    )


@spoil("a plain autoencoder in a pixel one's name", "PixelUnshuffleAutoencoderKL", "vae")
def other_kind_of_vae(folder):
    change_index(folder, vae=["flowturbo_core", "PixelUnshuffleAutoencoderKL"])


@spoil("a named shard that is missing", "-00002-of-")
def named_shard_missing(folder):
    in_shards(folder)[1].unlink()


@spoil("a named shard that is truncated", "-00002-of-", "truncated")
def named_shard_truncated(folder):
    shard = in_shards(folder)[1]
    shard.write_bytes(shard.read_bytes()[:-50])


@spoil("both shapes", "blocks.0.attn.proj.weight", "(32, 16)", "(32, 32)")
def both_shapes(folder):
    parameter_reshaped(folder)


@spoil("weights that are whole numbers", "pos_embed", "I32")
def integer_weights(folder):
    change_weights(
        folder / "predictor" / WEIGHTS, lambda t: t.update(pos_embed=t["pos_embed"].int())
    )


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_sentence(pipeline_folder, name, capfd):
    function, named = SPOILED[name]
    function(pipeline_folder)
    with pytest.raises(ValueError) as refusal:
        load(pipeline_folder)
    sentence = str(refusal.value)
    assert str(pipeline_folder) in sentence
    assert "huggingface" not in sentence
    assert capfd.readouterr().err == ""  # of which the sentence is all there is to see
    assert "\n" not in sentence.strip()
    assert len(sentence) < 700
    for part in named:
        assert part in sentence


def test_statistics_may_be_whole_numbers(tmp_path):
    whole = {"latents_mean": [9, 9, 9, 9], "latents_std": [2, 2, 2, 2]}
    tiny_pipeline(vae=tiny_vae(**whole), **whole).save_pretrained(tmp_path / "whole")
    assert len(load(tmp_path / "whole")([0], "E1").images) == 1


def test_an_autoencoder_with_the_old_names_of_attention_is_read(pipeline, pipeline_folder):
    # Stable Diffusion's, which the released SiT belongs to, is stored with them.
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for name in list(tensors):
            for new, before in old.items():
                if f".{new}." in name:
                    tensors[name.replace(f".{new}.", f".{before}.")] = tensors.pop(name)

    change_weights(pipeline_folder / "vae" / WEIGHTS, rename)
    assert any(".query." in name for name in load_file(pipeline_folder / "vae" / WEIGHTS))
    found = load(pipeline_folder).vae.state_dict()
    assert all(torch.equal(found[name], v) for name, v in pipeline.vae.state_dict().items())


def test_other_number_formats_beside_the_weights_are_left_alone(pipeline, pipeline_folder):
    shutil.copy(
        pipeline_folder / "vae" / WEIGHTS,
        pipeline_folder / "vae" / "diffusion_pytorch_model.fp16.safetensors",
    )
    assert torch.equal(latents_of(load(pipeline_folder)), latents_of(pipeline))


@pytest.mark.parametrize(
    "where", [{"device": "cuda:99"}, {"device": "abacus"}, {"device": 5},
              {"device": torch.device("meta")}, {"dtype": torch.int8}, {"dtype": "float99"},
              {"dtype": 5}, {"dtype": [1]}, {"dtype": None}]
)  # fmt: skip
def test_a_wrong_device_or_number_format_is_refused(pipeline_folder, where):
    name, value = next(iter(where.items()))
    with pytest.raises(ValueError, match=name):
        load(pipeline_folder, **where)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(pipeline_folder):
    with pytest.raises(ValueError, match="'cuda' is not on this machine; it has cpu"):
        load(pipeline_folder, device="cuda")
    with pytest.raises(ValueError, match="'cuda' is not on this machine; it has cpu"):
        tiny_pipeline().to("cuda")


def test_a_number_format_may_be_named_by_text(pipeline_folder):
    assert load(pipeline_folder, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("name", [5, None, ["tiny"], b"tiny"])
def test_a_model_that_is_neither_a_name_nor_a_path_is_refused(name):
    with pytest.raises(ValueError, match="a model is a name or a folder"):
        load(name)


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


def test_weights_of_nan_are_found_when_loading(pipeline_folder):
    def spoil_one(tensors):
        tensors["blocks.0.attn.qkv.weight"][0, 0] = float("nan")

    change_weights(pipeline_folder / "predictor" / WEIGHTS, spoil_one)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.weight holds values that are not"):
        load(pipeline_folder)


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
