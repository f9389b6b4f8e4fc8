"""The catalogue of bundled models."""

import pytest

from flowturbo_core.models import catalog


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Return a catalogue of two empty models."""
    for name in ("sailing", "flying"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(catalog, "MODELS_FOLDER", tmp_path)
    return tmp_path


def test_every_folder_is_a_model(shelf):
    assert catalog.bundled_models() == ("flying", "sailing")


def test_a_model_is_found_by_name_or_by_folder(shelf, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert catalog.model_folder("sailing") == shelf / "sailing"
    assert catalog.model_folder(elsewhere) == elsewhere
    assert catalog.model_folder(str(elsewhere)) == elsewhere


@pytest.mark.parametrize("name", ["nothing-of-the-kind", "README.md", "no/such/folder"])
def test_an_unknown_model_is_refused_with_the_known_names(shelf, name):
    with pytest.raises(ValueError) as refusal:
        catalog.model_folder(name)
    for part in (name, "flying", "sailing"):
        assert part in str(refusal.value)
