"""Which models exist, where their weights are, and what they say of themselves.

Nothing here reads weights or imports torch: a page can be built before either is loaded.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flowturbo_core.checks import brief, whole_number
from flowturbo_core.files import read_json, user_cache
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import (
    GUIDANCE_SCALE,
    MAX_SIDE,
    Classes,
    Subject,
    Texts,
    check_class_names,
)

if TYPE_CHECKING:
    from flowturbo_core.models.front import Front

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "models"
DEFAULT_MODEL = "postcards-sit"
DEFAULT_TEXT_MODEL = "postcards-t2i"
# What models draw, by the pipeline that an index names. Folders of InstaFlow's and of Stable
# Diffusion's layout are read as well as ours.
PIPELINES: dict[str, type[Subject]] = {
    "ClassConditionalPipeline": Classes,
    "TextToImagePipeline": Texts,
    "RectifiedFlowPipeline": Texts,
    "InstaFlowPipeline": Texts,
    "StableDiffusionPipeline": Texts,
}
# Where a model_index.json has a library, this says: a model of that name in the catalogue.
CATALOGUE = "flowturbo_core.catalogue"
_WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# What a pipeline and a page take where a model's index is silent.
DEFAULT_PLAN = "H8"
DEFAULT_GUIDANCE_SCALE = 1.5


@dataclass(frozen=True)
class HubModel:
    """A text-to-image model of the catalogue whose weights are on a hub until somebody wants them.

    Args:
        name: what the catalogue calls it.
        repository: where it is on the hub.
        about: what it is, in a sentence.
        licence: of its weights.
        gigabytes: about what is to be fetched.
        default_plan: the plan where none is given.
        default_guidance_scale: the guidance scale where none is given.
        image_size: the side, in pixels, of the images that it was trained on.
    """

    name: str
    repository: str
    about: str
    licence: str
    gigabytes: float
    default_plan: str
    default_guidance_scale: float
    image_size: int

    @property
    def folder(self) -> Path:
        """Where its weights are once they were fetched."""
        return user_cache() / "models" / self.name

    @property
    def is_here(self) -> bool:
        """Whether its weights were fetched, all of them."""
        return (self.folder / "model_index.json").is_file()


# 859.5 million parameters, 123 of the text encoder and 84 of the autoencoder, in float32.
_GIGABYTES = 4.3
HUB_MODELS = (
    HubModel(
        "2-rectified-flow",
        "XCLiu/2_rectified_flow_from_sd_1_5",
        "InstaFlow's 2-Rectified Flow: Stable Diffusion 1.5 on straightened paths.",
        "CC-BY-NC-4.0",
        _GIGABYTES,
        "H1P7",
        1.5,
        512,
    ),
    HubModel(
        "instaflow-0.9b",
        "XCLiu/instaflow_0_9B_from_sd_1_5",
        "InstaFlow-0.9B: one Euler step, without guidance.",
        "CC-BY-NC-4.0",
        _GIGABYTES,
        "E1",
        1.0,
        512,
    ),
)


@dataclass(frozen=True)
class ClassPictures:
    """One picture a class, laid out in rows in one file.

    Args:
        file: the picture of them all.
        columns: how many there are in a row.
        rows: how many rows there are.
    """

    file: Path
    columns: int
    rows: int

    @classmethod
    def of(cls, folder: Path, num_classes: int) -> Self:
        """Return where the pictures of a model with `num_classes` classes are, or would be."""
        columns = math.ceil(math.sqrt(num_classes))
        return cls(folder / "classes.webp", columns, -(-num_classes // columns))


@dataclass(frozen=True)
class ModelDescription:
    """What a model says of itself in its folder.

    Args:
        name: what people call it: its name in the catalogue, or its folder's.
        folder: where it is.
        subject: what it draws.
        class_names: the name of each class, label 0 first; none for a model of texts.
        has_refiner: whether it can take refiner steps.
        default_plan: the plan where none is given.
        default_guidance_scale: the guidance scale where none is given.
        image_size: the side, in pixels, of the images that a model of texts was trained on.
        factor: the pixels a side that its autoencoder makes one latent of.
    """

    name: str
    folder: Path
    subject: type[Subject]
    class_names: tuple[str, ...]
    has_refiner: bool
    default_plan: str
    default_guidance_scale: float
    image_size: int | None = None
    factor: int = 8

    @classmethod
    def read(cls, name_or_path: str | Path) -> Self:
        """Read the index of a bundled model, by name, or of a folder.

        Raises ValueError, naming the folder, if it does not describe such a model.
        """
        folder = model_folder(name_or_path)
        index = read_index(folder, *PIPELINES)
        subject = PIPELINES[index["_class_name"]]
        try:
            if subject is Classes:
                check_class_names(index.get("class_names"))
            return cls(
                folder.resolve().name,
                folder,
                subject,
                tuple(index["class_names"]) if subject is Classes else (),
                "refiner" in index,
                str(SamplePlan.parse(index.get("default_plan", DEFAULT_PLAN))),
                GUIDANCE_SCALE.read(
                    "default_guidance_scale",
                    index.get("default_guidance_scale", DEFAULT_GUIDANCE_SCALE),
                    None,
                ),
                *(_image_size_and_factor(folder, index) if subject is Texts else ()),
            )
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    @classmethod
    def of_hub(cls, model: HubModel) -> Self:
        """Return what the catalogue says of a model that may not be here yet."""
        return cls(
            model.name,
            model.folder,
            Texts,
            (),
            False,
            model.default_plan,
            model.default_guidance_scale,
            model.image_size,
        )

    @property
    def card(self) -> str:
        """The model card, in Markdown, without its front matter; empty where there is none."""
        file = self.folder / "README.md"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if text.startswith("---\n"):
            text = text.partition("\n---\n")[2]
        return text.strip()

    @property
    def class_pictures(self) -> ClassPictures | None:
        """A picture of each class, made by the model; None where nobody had them made."""
        pictures = ClassPictures.of(self.folder, len(self.class_names))
        return pictures if pictures.file.is_file() else None

    @property
    def front(self) -> "Front | None":
        """The plans that are worth their time; None where nobody had them found.

        Raises ValueError, naming the file, if it is not what tuning writes.
        """
        from flowturbo_core.models.front import Front  # it reads with what is defined below

        return Front.of(self.folder)


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that ship with the project."""
    return tuple(sorted(f.name for f in MODELS_FOLDER.glob("*") if f.is_dir()))


def bundled_pipelines() -> tuple[str, ...]:
    """Return the names of those that make pictures: others are parts of these, or judge them."""
    return tuple(
        name for name in bundled_models() if (MODELS_FOLDER / name / "model_index.json").is_file()
    )


def is_bundled(folder: Path) -> bool:
    """Tell whether a folder is that of a model which ships with the project."""
    return folder.resolve().parent == MODELS_FOLDER.resolve()


def model_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a model of the catalogue, by name, or of any other, by path.

    Raises ValueError if there is neither: it says what was named instead (a file, a repository of
    a hub, an address), or names the bundled models, or how to fetch the one.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"a model is a name or a folder's path, not {brief(name_or_path)}")
    text = str(name_or_path)
    name = text.rstrip("/")
    if not name.strip() and text != "/":
        raise ValueError(f"a model is a name or a folder's path, not {text!r}")
    if name in bundled_models():
        return MODELS_FOLDER / name
    path = os.path.expanduser(text)
    if os.path.isdir(path):  # which takes any text, unlike Path.is_dir
        return Path(path)
    for model in HUB_MODELS:
        if model.name == name:
            if model.is_here:
                return model.folder
            raise ValueError(
                f"the weights of {name} are not here yet: python -m flowturbo_core download {name}"
            )
    raise ValueError(_what_is_wanted(text, path))


def _what_is_wanted(text: str, path: str) -> str:
    """Return what to name in place of `text`, which is no model, nor `path` a folder."""
    named = f"{brief(text, 200)} is"
    if os.path.basename(path) == "model_index.json" and os.path.isfile(path):
        return f"{named} a file of a model folder; name the folder, {os.path.dirname(path) or '.'}"
    if os.path.isfile(path):
        advice = "name a model folder, one with a model_index.json"
        if path.lower().endswith(_WEIGHT_FILES):
            advice += (
                "; `python -m flowturbo_core convert sit` makes one of a SiT checkpoint, and "
                "diffusers' from_single_file and save_pretrained make one of Stable Diffusion's"
            )
        return f"{named} a file, and a model is a folder: {advice}"
    repository = re.fullmatch(r"(?:[a-z0-9+]+:/+[^/]+/)?([\w.-]+/[\w.-]+)", text)
    of_hub = {model.repository: model.name for model in HUB_MODELS}
    if repository and repository[1] in of_hub:
        return (
            f"{named} on a hub; here it is called {of_hub[repository[1]]}: "
            f"python -m flowturbo_core download {of_hub[repository[1]]}"
        )
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        return f"{named} an address; download the model folder and name that folder"
    sentence = (
        f"there is no model {brief(text, 200)}: it is neither a folder nor one of the bundled "
        f"models, {', '.join(bundled_pipelines())}"
    )
    if repository and len(text) <= 100 and not text.startswith("."):
        sentence += (
            "; if it is a repository of the Hugging Face hub, "
            f"`hf download {text} --local-dir FOLDER` fetches it, and FOLDER is what to name"
        )
    return sentence


def read_index(folder: Path, *class_names: str) -> dict[str, Any]:
    """Return the `model_index.json` of a folder, which must describe one of these pipelines."""
    file = folder / "model_index.json"
    if not file.exists():
        raise ValueError(_where_the_index_is(folder))
    index = read_json(file)
    if index.get("_class_name") not in class_names:
        raise ValueError(
            f"{file} describes {brief(index.get('_class_name'))}, not a {' or '.join(class_names)}"
        )
    # Of an optional part that is not there, diffusers writes nulls.
    return {name: entry for name, entry in index.items() if entry != [None, None]}


def _where_the_index_is(folder: Path) -> str:
    """Return what to name in place of a folder without an index."""
    missing = f"{folder} has no model_index.json"
    if (folder.resolve().parent / "model_index.json").is_file():
        return f"{missing}, as it is a part of a model; name {folder.resolve().parent}"
    below = [
        file.parent
        for levels in ("*", "*/*")  # of a hub's cache, snapshots/REVISION
        for file in sorted(folder.glob(f"{levels}/model_index.json"))
    ]
    if below:
        return f"{missing}, but {len(below)} below it: name {below[0]}"
    found = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if not found:
        return f"{missing}: it is empty"
    return (
        f"{missing}: a model is a diffusers folder, with its parts in folders of their own, and "
        f"this holds {', '.join(found[:4])[:200]}{', ...' if len(found) > 4 else ''}"
    )


def _image_size_and_factor(folder: Path, index: dict[str, Any]) -> tuple[int, int]:
    entry = index.get("vae")
    is_shared = isinstance(entry, list) and len(entry) == 2 and entry[0] == CATALOGUE
    vae = model_folder(entry[1]) if is_shared else folder / "vae"
    unet_config, vae_config = (read_json(part / "config.json") for part in (folder / "unet", vae))
    try:
        levels = len(vae_config["block_out_channels"])
        patch = math.isqrt(vae_config.get("in_channels", 3) // 3)
        factor = patch * 2 ** (levels - 1)
        size = whole_number("image size", unet_config["sample_size"] * factor, 1, MAX_SIDE)
        return size, whole_number("factor", factor, 1, MAX_SIDE)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("its parts do not say how large its images are") from error
