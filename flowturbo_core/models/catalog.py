"""Which models exist, and where their weights are."""

from pathlib import Path

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "models"
DEFAULT_MODEL = "postcards-sit"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that ship with the project."""
    return tuple(sorted(f.name for f in MODELS_FOLDER.glob("*") if f.is_dir()))


def model_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a bundled model, by name, or of any other, by path.

    Raises ValueError, naming the bundled models, if there is neither.
    """
    if str(name_or_path) in bundled_models():
        return MODELS_FOLDER / str(name_or_path)
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    raise ValueError(
        f"there is no model {str(name_or_path)!r}: it is neither a folder nor one of the bundled "
        f"models, {', '.join(bundled_models())}"
    )
