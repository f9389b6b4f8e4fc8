"""The catalogue of bundled models, and what a model says of itself."""

import json

import pytest
from PIL import Image

from flowturbo_core.models import catalog
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.models.class_pictures import PIXELS, write_class_pictures


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
