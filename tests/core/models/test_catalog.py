"""The catalogue of bundled models, and what a model says of itself."""

import json

import pytest
from PIL import Image

from flowturbo_core.making.class_pictures import PIXELS, write_class_pictures
from flowturbo_core.models import catalog
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.pipelines.loading import load_pipeline


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Return a catalogue of two empty models, and a part that others share."""
    for name in ("sailing", "flying", "wind"):
        (tmp_path / name).mkdir()
    for name in ("sailing", "flying"):
        (tmp_path / name / "model_index.json").touch()
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(catalog, "MODELS_FOLDER", tmp_path)
    return tmp_path


def test_every_folder_is_a_model(shelf):
    assert catalog.bundled_models() == ("flying", "sailing", "wind")
    assert catalog.bundled_pipelines() == ("flying", "sailing")


def test_a_model_is_found_by_name_or_by_folder(shelf, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert catalog.model_folder("sailing") == shelf / "sailing"
    assert catalog.model_folder(elsewhere) == elsewhere
    assert catalog.model_folder(str(elsewhere)) == elsewhere


@pytest.mark.parametrize("name", ["nothing-of-the-kind", "README.md", "no/such/folder"])
def test_an_unknown_model_is_refused_with_the_known_names(shelf, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "wind")  # where no README.md is
    with pytest.raises(ValueError) as refusal:
        catalog.model_folder(name)
    for part in (name, "flying", "sailing"):
        assert part in str(refusal.value)


def test_a_description_is_what_the_pipeline_says(pipeline, pipeline_folder):
    described = ModelDescription.read(pipeline_folder)
    assert described.name == pipeline_folder.name
    assert list(described.class_names) == pipeline.class_names
    assert described.has_refiner
    assert described.default_plan == pipeline.default_plan == "H1P2R1"
    assert described.default_guidance_scale == pipeline.default_guidance_scale
    assert described.card == "" and described.class_pictures is None


def test_a_silent_index_has_the_pipelines_defaults(pipeline_folder):
    change(pipeline_folder, default_plan=None, default_guidance_scale=None, refiner=None)
    described = ModelDescription.read(pipeline_folder)
    assert (described.default_plan, described.default_guidance_scale) == ("H8", 1.5)
    assert not described.has_refiner


def test_a_card_is_read_without_its_front_matter(pipeline_folder):
    card = pipeline_folder / "README.md"
    card.write_text("---\nlicense: mit\n---\n\n# A model\n\n---\n")
    assert ModelDescription.read(pipeline_folder).card == "# A model\n\n---"
    card.write_bytes(b"no front matter, and \xff no UTF-8")
    assert ModelDescription.read(pipeline_folder).card.startswith("no front matter")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "Other"}, "describes 'Other', not a ClassConditionalPipeline"),
        ({"class_names": None}, "class_names must be a list of names, not None"),
        ({"class_names": ["a", "A"]}, "'A' in class_names twice|'A' is in class_names twice"),
        ({"default_plan": "R3"}, "begins with R"),
        ({"default_guidance_scale": 99}, "default_guidance_scale must be a number from 0 to 15"),
    ],
)
def test_an_index_that_describes_no_such_model(pipeline_folder, changes, sentence):
    change(pipeline_folder, **changes)
    with pytest.raises(ValueError, match=sentence) as refusal:
        ModelDescription.read(pipeline_folder)
    assert str(pipeline_folder) in str(refusal.value)


def test_pictures_of_classes_lie_where_they_are_looked_for(pipeline, pipeline_folder):
    written = write_class_pictures(pipeline, pipeline_folder, seed=3)
    found = ModelDescription.read(pipeline_folder).class_pictures
    assert found == written and (found.columns, found.rows) == (2, 2)
    expected = pipeline([2], seed=3 + 2).images[0].resize((PIXELS, PIXELS))
    with Image.open(found.file) as sheet:
        assert sheet.size == (2 * PIXELS, 2 * PIXELS)
        third = sheet.crop((0, PIXELS, PIXELS, 2 * PIXELS))
        first = sheet.crop((0, 0, PIXELS, PIXELS))
    assert difference(third, expected) < difference(first, expected)


def difference(one, other):
    """Return the mean absolute difference of two pictures' values."""
    pairs = zip(one.convert("RGB").tobytes(), other.convert("RGB").tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(one.tobytes())


def change(folder, **changes):
    """Change entries of a folder's index; None takes one away."""
    file = folder / "model_index.json"
    index = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in index.items() if v is not None}))


WEIGHT_FILES = ["x.safetensors", "v1-5.ckpt", "SiT-XL-2-256.PT"]


@pytest.mark.parametrize("file", [*WEIGHT_FILES, "picture.png", "model_index.json"])
@pytest.mark.parametrize("how", [ModelDescription.read, load_pipeline])
def test_a_file_is_no_model_and_the_sentence_says_what_is(tmp_path, file, how):
    (tmp_path / file).write_bytes(b"{}")
    with pytest.raises(ValueError) as refusal:
        how(tmp_path / file)
    sentence = str(refusal.value)
    assert file in sentence or "..." in sentence
    assert "is a file" in sentence and "\n" not in sentence
    assert ("convert sit" in sentence) == (file in WEIGHT_FILES)
    if file == "model_index.json":
        assert sentence.endswith(f"name the folder, {tmp_path}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stabilityai/sd-turbo", "hf download stabilityai/sd-turbo --local-dir FOLDER"),
        ("XCLiu/instaflow_0_9B_from_sd_1_5", "flowturbo_core download instaflow-0.9b"),
        ("https://huggingface.co/XCLiu/instaflow_0_9B_from_sd_1_5", "download instaflow-0.9b"),
        ("https://huggingface.co/a/b", "is an address"),
        ("s3://bucket/model", "is an address"),
        ("", "a model is a name or a folder's path, not ''"),
        (" ", "a model is a name or a folder's path, not ' '"),
        ("x" * 5000, "there is no model"),
        ("a\0b", "there is no model"),
    ],
)
def test_what_is_no_folder_is_told_what_is_wanted(name, said):
    with pytest.raises(ValueError) as refusal:
        load_pipeline(name)
    sentence = str(refusal.value)
    assert said in sentence and "\n" not in sentence and len(sentence) < 400


@pytest.mark.parametrize("command", [("sample", "--output-dir", "out"), ("tune",)])
def test_the_command_line_says_the_same(command_line, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    done = command_line(*command, "--model", "owner/name")
    assert done.code == 2 and "hf download owner/name" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_home_and_a_slash_at_the_end_are_understood(pipeline_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(pipeline_folder.parent))
    assert catalog.model_folder(f"~/{pipeline_folder.name}/") == pipeline_folder
    assert catalog.model_folder("postcards-sit/") == catalog.MODELS_FOLDER / "postcards-sit"


def test_the_folder_to_name_is_said(pipeline_folder, tmp_path):
    cases = {
        pipeline_folder / "vae": f"name {pipeline_folder}",
        tmp_path: f"name {pipeline_folder}",
        tmp_path / "empty": "it is empty",
        tmp_path / "weights": "this holds model.safetensors",
    }
    for name, content in (("empty", ".DS_Store"), ("weights", "model.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).touch()
    for folder, said in cases.items():
        with pytest.raises(ValueError, match="has no model_index.json") as refusal:
            load_pipeline(folder)
        assert said in str(refusal.value) and "\n" not in str(refusal.value)
