"""Text-to-image folders: ours and Stable Diffusion's load, and broken ones say what is wrong."""

import json
import shutil
import socket
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from flowturbo_core.models import catalog
from flowturbo_core.models.catalog import CATALOGUE
from flowturbo_core.models.storage import save_model
from flowturbo_core.models.text_encoder import save_text_encoder, save_tokenizer
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.loading import load_pipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.training.text import train_tokenizer
from tests.conftest import tiny_pipeline, tiny_vae
from tests.core.pipelines.tiny_text import (
    OLD_TOKENIZER_CONFIG,
    PASSED_OVER,
    TEXTS,
    WINDOW,
    change_weights,
    rename_weights,
    tiny_refiner,
    tiny_text_encoder,
    tiny_text_pipeline,
    tiny_unet,
    write_sd_folder,
)

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
WEIGHTS = {
    "unet": DIFFUSERS_WEIGHTS,
    "refiner": DIFFUSERS_WEIGHTS,
    "vae": DIFFUSERS_WEIGHTS,
    "text_encoder": "model.safetensors",
}
OLD_NAMES = {
    DIFFUSERS_WEIGHTS: "diffusion_pytorch_model.bin",
    "model.safetensors": "pytorch_model.bin",
}
ENCODER = "text_encoder/model.safetensors"
PARTS = (*WEIGHTS, "tokenizer")


@pytest.fixture(scope="module")
def pipeline():
    """Return a tiny pipeline; a test that changes one makes its own."""
    return tiny_text_pipeline()


@pytest.fixture(scope="module")
def _pristine(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def _pristine_sd(pipeline, tmp_path_factory):
    return write_sd_folder(pipeline, tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def folder(_pristine, tmp_path):
    """Return a tiny pipeline's folder, a copy that the test may spoil."""
    return shutil.copytree(_pristine, tmp_path / "tiny")


@pytest.fixture
def sd_folder(_pristine_sd, tmp_path):
    """Return the same in Stable Diffusion's layout."""
    return shutil.copytree(_pristine_sd, tmp_path / "sd")


def load(folder, **options):
    return TextToImagePipeline.from_pretrained(folder, **options)


def latents_of(pipeline, plan="H1P1R1"):
    texts = ["a red sailboat", "\u00c9COLE \U0001f600"]
    return pipeline(texts, "night", plan, 2.0, seed=3, output_type="latent").latents


def change_json(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: v for name, v in content.items() if v is not ...}))


def change_index(folder, **changes):
    change_json(folder / "model_index.json", **changes)


def to_pickle(file, name):
    """Put a pickle of what `file` holds beside it, and remove it."""
    torch.save({key: t.clone() for key, t in load_file(file).items()}, file.parent / name)
    if name != file.name:
        file.unlink()


def test_a_saved_pipeline_gives_the_same_pictures_to_the_bit(pipeline, folder):
    again = load(folder)
    assert torch.equal(latents_of(again), latents_of(pipeline))
    first, second = (p("a cat", plan="H1").images[0] for p in (pipeline, again))
    assert first.tobytes() == second.tobytes()
    assert again.window == pipeline.window == WINDOW


@pytest.mark.parametrize("variant", ["consistent", "released"])
def test_settings_are_kept(tmp_path, variant):
    pipeline = tiny_text_pipeline(
        refiner_variant=variant, default_plan="H1R2", default_guidance_scale=2.5
    )
    pipeline.save_pretrained(tmp_path / "tiny")
    again = load(tmp_path / "tiny")
    assert (again.default_plan, again.default_guidance_scale) == ("H1R2", 2.5)
    assert again.refiner_variant == again.refiner.variant == variant
    assert torch.equal(latents_of(again, "H1R2"), latents_of(pipeline, "H1R2"))


def test_a_pipeline_without_a_refiner_is_saved_without_one(tmp_path):
    pipeline = tiny_text_pipeline(with_refiner=False)
    pipeline.save_pretrained(tmp_path / "plain")
    again = load(tmp_path / "plain")
    assert again.refiner is None
    assert not (tmp_path / "plain" / "refiner").exists()
    assert torch.equal(latents_of(again, "H1P1"), latents_of(pipeline, "H1P1"))


def test_a_round_trip_in_float16(pipeline, folder, tmp_path):
    half = load(folder, dtype="float16")
    half.save_pretrained(tmp_path / "half")
    for part, file in WEIGHTS.items():
        tensors = load_file(tmp_path / "half" / part / file).values()
        assert {t.dtype for t in tensors} == {torch.float16}
    again = load(tmp_path / "half")
    assert again.dtype == again.text_encoder.dtype == torch.float32
    error = (latents_of(again) - latents_of(pipeline)).norm() / latents_of(pipeline).norm()
    assert error < 0.01
    assert torch.equal(latents_of(again.to("cpu", "float16")), latents_of(half))


def test_saving_over_another_pipeline_leaves_nothing_of_it(sd_folder):
    other = tiny_text_pipeline(tokenizer=train_tokenizer(["a fish at night"] * 3, 8))
    (sd_folder / "tokenizer" / "added_tokens.json").write_text('{"<style>": 548}')
    (sd_folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    other.save_pretrained(sd_folder)
    again = load(sd_folder)
    assert torch.equal(latents_of(again), latents_of(other))
    assert len(again.tokenizer) == len(other.tokenizer)


def test_the_published_layout_is_a_diffusers_folder(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "TextToImagePipeline"
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    for part, file in WEIGHTS.items():
        assert (folder / part / file).is_file() and (folder / part / "config.json").is_file()
    found = {file.name for file in (folder / "tokenizer").iterdir()}
    assert found == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    assert not list(folder.rglob("*.bin"))


@pytest.mark.parametrize(
    "name",
    [
        "TextToImagePipeline",
        "RectifiedFlowPipeline",
        "InstaFlowPipeline",
        "StableDiffusionPipeline",
    ],
)
@pytest.mark.filterwarnings("ignore:this folder's scheduler")  # what it says is another test's
def test_folders_of_all_layouts_load(pipeline, sd_folder, name):
    change_index(sd_folder, _class_name=name)
    loaded = load_pipeline(sd_folder)
    assert type(loaded) is TextToImagePipeline
    assert (loaded.refiner, loaded.default_plan, loaded.default_guidance_scale) == (None, "H8", 1.5)
    assert torch.equal(latents_of(loaded, "H2"), latents_of(pipeline, "H2"))


def test_a_refiner_of_nulls_is_none_and_a_fast_tokenizer_a_tokenizer(pipeline, sd_folder):
    change_index(sd_folder, refiner=[None, None], tokenizer=["transformers", "CLIPTokenizerFast"])
    assert not catalog.ModelDescription.read(sd_folder).has_refiner
    assert torch.equal(latents_of(load(sd_folder), "H2"), latents_of(pipeline, "H2"))


def test_a_stable_diffusion_folder_with_a_refiner_added_loads(pipeline, sd_folder):
    save_model(tiny_refiner(), sd_folder / "refiner")
    change_index(sd_folder, refiner=["diffusers", "UNet2DConditionModel"])
    assert torch.equal(latents_of(load(sd_folder)), latents_of(pipeline))


@pytest.mark.parametrize("entry", [[None, None], ["os", "system"], "x", None, ...])
def test_parts_that_are_passed_over_may_be_anything(pipeline, sd_folder, entry):
    for name in PASSED_OVER:
        shutil.rmtree(sd_folder / name)
    change_index(sd_folder, **dict.fromkeys(PASSED_OVER, entry))
    assert torch.equal(latents_of(load(sd_folder), "H2"), latents_of(pipeline, "H2"))


def test_old_names_of_weights_are_read(pipeline, sd_folder):
    stored = load_file(sd_folder / ENCODER)
    assert all(name.startswith("text_model.") for name in stored)
    assert stored["text_model.embeddings.position_ids"].dtype == torch.int64
    assert any(".query." in name for name in load_file(sd_folder / "vae" / DIFFUSERS_WEIGHTS))
    loaded = load(sd_folder)
    for part in ("vae", "text_encoder"):
        found = getattr(loaded, part).state_dict()
        expected = getattr(pipeline, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_shared_autoencoder_is_named_by_its_catalogue_name(
    pipeline, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(catalog, "MODELS_FOLDER", tmp_path / "catalogue")
    (tmp_path / "catalogue").mkdir()
    shutil.move(folder / "vae", tmp_path / "catalogue" / "shared-vae")
    change_index(folder, vae=[CATALOGUE, "shared-vae"])
    assert torch.equal(latents_of(load(folder)), latents_of(pipeline))


def test_the_index_says_which_pipeline_it_is(folder, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "classes")
    assert type(load_pipeline(folder)) is TextToImagePipeline
    assert type(load_pipeline(str(tmp_path / "classes"))) is ClassConditionalPipeline
    assert load_pipeline(folder, dtype="bfloat16").text_encoder.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="TextToImagePipeline"):
        ClassConditionalPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="ClassConditionalPipeline"):
        load(tmp_path / "classes")


@pytest.mark.parametrize("name", [5, None, ["tiny"], b"tiny"])
def test_a_model_that_is_neither_a_name_nor_a_path_is_refused(name):
    for loading in (load, load_pipeline):
        with pytest.raises(ValueError, match="a model is a name or a folder"):
            loading(name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_read_in_float32(pipeline, folder, dtype):
    change_weights(
        folder / ENCODER, lambda t: t.update({name: v.to(dtype) for name, v in t.items()})
    )
    loaded = load(folder).text_encoder
    for name, tensor in pipeline.text_encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.to(dtype).float())


def test_what_a_text_encoders_config_says_of_code_is_passed_over(pipeline, folder):
    change_json(
        folder / "text_encoder" / "config.json",
        attn_implementation="kernels-community/nothing",
        _attn_implementation="flash_attention_2",
        auto_map={"AutoModel": "hostile_module.Model"},
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
        return_dict=False,
        dtype="float16",
        torch_dtype="float16",
    )
    loaded = load(folder)
    assert loaded.text_encoder.dtype == torch.float32
    assert torch.equal(latents_of(loaded), latents_of(pipeline))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json and merges.txt"])
def test_both_ways_to_store_a_tokenizer_are_read(pipeline, folder, name):
    if name == "tokenizer.json":
        shutil.rmtree(folder / "tokenizer")
        pipeline.tokenizer.save_pretrained(folder / "tokenizer")
        assert not (folder / "tokenizer" / "vocab.json").exists()
    else:
        (folder / "tokenizer" / "tokenizer_config.json").unlink()
    assert torch.equal(latents_of(load(folder)), latents_of(pipeline))


def test_nothing_is_fetched(folder, sd_folder, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was looked for on the network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for path in (folder, sd_folder):
        load_pipeline(path).save_pretrained(tmp_path / "copy")
    for file in (ENCODER, "tokenizer/merges.txt", f"unet/{DIFFUSERS_WEIGHTS}"):
        (folder / file).unlink()
        with pytest.raises(ValueError, match=str(folder)):
            load_pipeline(folder)


def test_nothing_is_printed(folder, sd_folder, tmp_path, capfd):
    for path in (folder, sd_folder):
        loaded = load_pipeline(path)
        loaded.save_pretrained(tmp_path / "copy")
        loaded.to(torch.float16).save_pretrained(tmp_path / "copy")
        latents_of(loaded, "E1")
        loaded.warnings(loaded.request(["a " * 500, "a cat"]))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_what_the_index_names_is_never_imported(folder, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "hostile_module.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass CLIPTextModel: ...\nclass Evil: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("os.system", lambda command: pytest.fail("a command was run"))
    load(folder)
    before = set(sys.modules)
    for part in (*PARTS, "_class_name"):
        for entry in (["hostile_module", "Evil"], ["os", "system"], ["evil", "Evil"]):
            original = json.loads((folder / "model_index.json").read_text())
            change_index(folder, **{part: entry})
            with pytest.raises(ValueError):
                load_pipeline(folder)
            change_index(folder, **original)
    change_index(folder, text_encoder=["hostile_module", "CLIPTextModel"])
    assert type(load(folder).text_encoder).__module__.startswith("transformers.")
    assert not marker.exists()
    assert set(sys.modules) == before


# Every way to spoil a folder: a function of it, and what the sentence must name.

SPOILED = {}


def spoil(name, *named):
    def register(function):
        SPOILED[name] = (function, named)
        return function

    return register


def _write(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def _truncate(file, count):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-count])


def _change(file, **changes):
    return lambda folder: change_json(folder / file, **changes)


for _part, _file in WEIGHTS.items():
    SPOILED |= {
        f"no {_part} folder": (lambda f, p=_part: shutil.rmtree(f / p), (_part,)),
        f"no {_part} config": (lambda f, p=_part: (f / p / "config.json").unlink(), (_part,)),
        f"no {_part} weights": (lambda f, n=f"{_part}/{_file}": (f / n).unlink(), (_file,)),
        f"empty {_part} weights": (_write(f"{_part}/{_file}", b""), (_file, "damaged")),
        f"truncated {_part} weights": (_truncate(f"{_part}/{_file}", 100), (_file, "damaged")),
        f"{_part} weights in a pickle": (
            lambda f, n=f"{_part}/{_file}": to_pickle(f / n, n.rpartition("/")[2]),
            (_file, "damaged"),
        ),
        f"only a pickle of the {_part}": (
            lambda f, n=f"{_part}/{_file}": to_pickle(f / n, OLD_NAMES[n.rpartition("/")[2]]),
            (".bin, a pickle", "convert-text"),
        ),
        f"a {_part} config that is no JSON": (_write(f"{_part}/config.json", b"{"), (_part,)),
        f"a {_part} config that is a list": (_write(f"{_part}/config.json", b"[]"), (_part,)),
        f"a {_part} config of nothing": (_write(f"{_part}/config.json", b"{}"), (_part,)),
    }
for _part in PARTS:
    _entries = [["os", "system"], [CATALOGUE, "../vae"], [None, "x"]]
    # Nulls are of a part that is not there.
    for _entry in _entries if _part == "refiner" else [*_entries, [None, None]]:
        SPOILED[f"{_entry!r} for the {_part}"] = (
            lambda f, p=_part, e=_entry: change_index(f, **{p: e}),
            (_part,),
        )
    if _part != "refiner":
        SPOILED[f"no {_part} in the index"] = (
            lambda f, p=_part: change_index(f, **{p: ...}),
            (_part,),
        )
for _entry in ("x", [], 5, [["a"], ["b"]], ["evil", "Evil"], [CATALOGUE, "no-such-model"]):
    SPOILED[f"{_entry!r} for a text encoder"] = (
        lambda f, e=_entry: change_index(f, text_encoder=e),
        ("text_encoder",),
    )
for _setting, _values in {
    "refiner_variant": ("sideways", None, 5, ["released"]),
    "default_plan": ("H1X2", 5, None, "R1"),
    "default_guidance_scale": ("strong", None, 99, float("nan")),
    "_class_name": ("FluxPipeline", None, ["TextToImagePipeline"], ...),
}.items():
    for _value in _values:
        # A null where a number belongs is called nothing, as an empty field is.
        _is_missing_number = _setting == "default_guidance_scale" and _value is None
        _said = "not nothing" if _is_missing_number else str(_value)[:20]
        SPOILED[f"{_setting} {_value!r}"] = (
            _change("model_index.json", **{_setting: _value}),
            () if _value is ... else (_said,),
        )

# Values that no config can have: the file, the field, the values.
for _file, _field, _values in (
    ("text_encoder", "model_type", ("clip", None, ...)),
    ("text_encoder", "hidden_size", (32, "x", None, 0, 2**60)),
    ("text_encoder", "num_attention_heads", (3, 0)),
    ("text_encoder", "num_hidden_layers", (2, 0, "x", 10**9)),
    ("text_encoder", "vocab_size", (10, 1000, -1)),
    ("text_encoder", "max_position_embeddings", (5, 77)),
    ("text_encoder", "hidden_act", ("no-such-act", 5)),
    ("text_encoder", "layer_norm_eps", ("x",)),
    ("text_encoder", "eos_token_id", ("x",)),
    ("unet", "sample_size", (None, 0, "x", [8, 8], 10**9)),
    ("unet", "in_channels", (9, "x")),
    ("unet", "out_channels", (8, None)),
    ("unet", "cross_attention_dim", (32, [16, 16], "x")),
    ("unet", "class_embed_type", ("identity", "timestep")),
    ("unet", "addition_embed_type", ("text_time", "text", "x")),
    ("unet", "num_class_embeds", (3,)),
    ("unet", "encoder_hid_dim_type", ("text_proj",)),
    ("unet", "layers_per_block", (0, [1, 1], 10**9)),
    ("unet", "transformer_layers_per_block", ("x", 0)),
    ("unet", "_class_name", ("UNet2DModel", None)),
    ("refiner", "in_channels", (4,)),
    ("refiner", "class_embed_type", ("identity",)),
    ("vae", "latent_channels", (8,)),
):
    for _value in _values:
        SPOILED[f"{_file} {_field} {_value!r}"] = (
            _change(f"{_file}/config.json", **{_field: _value}),
            () if (_file, _field) == ("unet", "class_embed_type") else (_file,),
        )


@spoil("a UNet that gives other channels", "4", "8")
def other_output(folder):
    save_model(tiny_unet(out_channels=8), folder / "unet")


@spoil("a UNet of other latents", "8", "4")
def other_latents(folder):
    save_model(tiny_unet(in_channels=8, out_channels=8), folder / "unet")


@spoil("an autoencoder of other latents", "4", "8")
def other_vae(folder):
    save_model(tiny_vae(latent_channels=8), folder / "vae")


@spoil("a refiner of other channels", "refiner", "8, 4, 16")
def other_refiner(folder):
    save_model(tiny_refiner(in_channels=4), folder / "refiner")


@spoil("a refiner of other embeddings", "refiner", "32")
def other_refiner_width(folder):
    save_model(tiny_refiner(cross_attention_dim=32), folder / "refiner")


@spoil("a text encoder of another width", "32", "16")
def other_encoder(folder):
    tokenizer = train_tokenizer(TEXTS, WINDOW)
    save_text_encoder(tiny_text_encoder(tokenizer, hidden_size=32), folder / "text_encoder")


@spoil("a tokenizer with more tokens", "text encoder knows 548")
def other_tokenizer(folder):
    more = train_tokenizer([*TEXTS, *["purple mountains", "yellow balloons"] * 4], WINDOW)
    assert len(more) > 548
    save_tokenizer(more, folder / "tokenizer")


@spoil("a missing weight", "text_encoder", "lacks final_layer_norm.bias")
def weight_missing(folder):
    change_weights(folder / ENCODER, lambda t: t.pop("final_layer_norm.bias"))


@spoil("a missing layer", "text_encoder", "lacks encoder.layers.0.layer_norm1.bias")
def layer_missing(folder):
    change_weights(
        folder / ENCODER, lambda t: [t.pop(name) for name in list(t) if "layers.0" in name]
    )


@spoil("a foreign weight", "text_encoder", "unknown vision_model.x")
def weight_foreign(folder):
    change_weights(folder / ENCODER, lambda t: t.update({"vision_model.x": torch.zeros(1)}))


@spoil("a weight of another shape", "final_layer_norm.bias", "(8,)", "(16,)")
def weight_reshaped(folder):
    change_weights(folder / ENCODER, lambda t: t.update({"final_layer_norm.bias": torch.zeros(8)}))


@spoil("a weight of whole numbers", ENCODER, "final_layer_norm.bias", "int32")
def weight_integer(folder):
    whole = torch.zeros(16, dtype=torch.int32)
    change_weights(folder / ENCODER, lambda t: t.update({"final_layer_norm.bias": whole}))


@spoil("a weight under two names", ENCODER, "final_layer_norm.bias twice")
def weight_twice(folder):
    again = {"text_model.final_layer_norm.bias": torch.zeros(16)}
    change_weights(folder / ENCODER, lambda t: t.update(again))


@spoil("weights under other names", "text_encoder", "lacks embeddings")
def other_prefix(folder):
    rename_weights(folder / ENCODER, lambda name: f"model.text_model.{name}")


@spoil("weights of another part", "text_encoder", "lacks")
def other_weights(folder):
    shutil.copy(folder / "vae" / DIFFUSERS_WEIGHTS, folder / ENCODER)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 335000000\n"
for _file in (ENCODER, f"unet/{DIFFUSERS_WEIGHTS}"):
    SPOILED[f"Git LFS has {_file}"] = _write(_file, POINTER), (_file, "git lfs pull")


@spoil("a pickle behind an index of shards", "names weights.bin", ".safetensors files")
def pickle_in_shards(folder):
    names = dict.fromkeys(load_file(folder / ENCODER), "weights.bin")
    to_pickle(folder / ENCODER, "weights.bin")
    index = {"metadata": {}, "weight_map": names}
    (folder / f"{ENCODER}.index.json").write_text(json.dumps(index))


VOCABULARY, MERGES = "tokenizer/vocab.json", "tokenizer/merges.txt"
TOKENIZER_CONFIG = "tokenizer/tokenizer_config.json"
SPOILED |= {
    "no tokenizer folder": (lambda f: shutil.rmtree(f / "tokenizer"), ("tokenizer",)),
    "no vocabulary": (lambda f: (f / VOCABULARY).unlink(), ("vocab.json",)),
    "no merges": (lambda f: (f / MERGES).unlink(), ("tokenizer",)),
    "empty merges": (_write(MERGES, b""), ("tokenizer", "no merges make")),
    "merges cut after a line": (
        lambda f: (f / MERGES).write_bytes(
            b"\n".join((f / MERGES).read_bytes().split(b"\n")[:-3]) + b"\n"
        ),
        ("tokenizer", "no merges make"),
    ),
    "merges cut within a line": (_truncate(MERGES, 3), ("tokenizer",)),
    "a vocabulary cut short": (_truncate(VOCABULARY, 3000), ("tokenizer",)),
    "a vocabulary with a number too large": (
        _change(VOCABULARY, **{"a</w>": 10**6}),
        ("tokenizer", "1000000", "548"),
    ),
    "added tokens beyond the encoder": (
        _write("tokenizer/added_tokens.json", b'{"<style>": 548}'),
        ("tokenizer", "548"),
    ),
}
for _text in (b"{", b"[]", b"{}", b"\xff\xfe\x00", b'{"a": "b"}', b'{"a": -1}', b"[" * 100_000):
    SPOILED[f"a vocabulary of {_text[:12]}"] = (_write(VOCABULARY, _text), ("tokenizer",))
for _text in (b"abc\n", b"a b c\n", b"q zz\n", b"\xff\xfe\x00", b"#version: 0.2"):
    SPOILED[f"merges of {_text}"] = (_write(MERGES, _text), ("tokenizer",))
for _text in (b"{", b"[]", b""):
    SPOILED[f"a tokenizer's config of {_text}"] = (_write(TOKENIZER_CONFIG, _text), ("tokenizer",))
    SPOILED[f"a tokenizer of {_text}"] = (_write("tokenizer/tokenizer.json", _text), ("tokenizer",))
for _field, _values in {
    "model_max_length": ("x", 2, -5, True, float("nan"), [10]),
    "pad_token": (None, "<pad>", 3),
    "eos_token": (None, "<eos>", 3),
    "bos_token": (None,),
    "padding_side": ("x", 3),
    "added_tokens_decoder": (5, {"548": {"content": "<style>"}}),
}.items():
    for _value in _values:
        SPOILED[f"a tokenizer's {_field} {_value!r}"] = (
            _change(TOKENIZER_CONFIG, **{_field: _value}),
            (),
        )


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_sentence(folder, name, capfd):
    function, named = SPOILED[name]
    if "refiner" not in name:  # loading it would take a third of the time
        change_index(folder, refiner=...)
    function(folder)
    with pytest.raises(ValueError) as refusal:
        load_pipeline(folder)
    sentence = str(refusal.value)
    assert type(refusal.value) is ValueError
    assert str(folder) in sentence
    assert "\n" not in sentence.strip()
    assert len(sentence.replace(str(folder), "")) < 400
    for part in named:
        assert part.lower() in sentence.lower()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_old_tokenizer_settings_are_read(pipeline, folder):
    (folder / TOKENIZER_CONFIG).write_text(
        json.dumps(OLD_TOKENIZER_CONFIG | {"model_max_length": 6})
    )
    loaded = load(folder)
    assert loaded.window == 6
    text = "a red sailboat"
    assert loaded.tokenizer(text).input_ids == pipeline.tokenizer(text).input_ids


@pytest.mark.parametrize("length", [1e30, 10**30, 77, None, ...])
def test_a_tokenizer_without_a_window_has_the_encoders(folder, length):
    change_json(folder / TOKENIZER_CONFIG, model_max_length=length)
    assert load(folder).window == WINDOW


def test_tokens_are_cut_at_the_end_whatever_the_tokenizer_says(pipeline, folder):
    change_json(folder / TOKENIZER_CONFIG, truncation_side="left")
    loaded, text = load(folder), "a cat, a cat, a cat at sunset"
    assert loaded.warnings(loaded.request(text)) == pipeline.warnings(pipeline.request(text))
    first, second = (p(text, plan="E1", output_type="latent").latents for p in (loaded, pipeline))
    assert torch.equal(first, second)


def test_tokens_that_were_added_are_kept(tmp_path):
    tokenizer = train_tokenizer(TEXTS, WINDOW)
    tokenizer.add_tokens(["<style>"])
    tiny_text_pipeline(tokenizer=tokenizer).save_pretrained(tmp_path / "tiny")
    again = load(tmp_path / "tiny").tokenizer
    text = "a cat, <style>"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert len(tokenizer) - 1 in again(text).input_ids
