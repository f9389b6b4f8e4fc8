"""Makes the models that ship from finished trainings: folders, index and cards.

All figures of a card come from the records that the trainings wrote.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ModelMixin

from flowturbo_core.data.postcards import scene
from flowturbo_core.files import write_json
from flowturbo_core.making.class_pictures import write_class_pictures
from flowturbo_core.models.autoencoder import PixelUnshuffleAutoencoderKL
from flowturbo_core.models.catalog import CATALOGUE, DEFAULT_TEXT_MODEL
from flowturbo_core.models.evaluator import PostcardsEvaluator
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import load_model, read_record, write_record
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline

AUTOENCODER = "postcards-autoencoder"
EVALUATOR = "postcards-evaluator"

_FRONT_MATTER = """---
license: mit
library_name: diffusers
tags: [{tags}]
---

# {title}

"""

_DATA = """## Data

Postcards (`flowturbo_core/data/postcards/`): 128 x 128 scenes drawn by code, sixteen subjects and
empty landscapes, endless. {held_out}No photographs, no people, no third party's pictures.

"""
_HELD_OUT = (
    "One tenth of the (subject, colour, time of day) combinations was held out of all training. "
)

_VOCABULARY = {
    "subjects, or none": scene.SUBJECTS,
    "colours of these": scene.COLOURS,
    "times of day": scene.TIMES,
    "weather": scene.WEATHERS,
    "landscapes": scene.SETTINGS,
    "places": scene.POSITIONS,
    "sizes": scene.SIZES,
}

_LIMITS = """## Limits

It draws these scenes and nothing else; it is there to show and to measure samplers.
"""


def bundle_postcards(
    autoencoder: Path, predictor: Path, refiner: Path, catalogue: Path, settings: dict[str, Any]
) -> None:
    """Write `postcards-autoencoder` and `postcards-sit` to `catalogue`, from trained parts.

    The index names the autoencoder and does not copy it, because other models share it. The parts
    are loaded and checked first. Only then are the models of these names replaced.
    """
    pipeline = ClassConditionalPipeline(
        load_model(SiTPredictor, predictor),
        load_model(PixelUnshuffleAutoencoderKL, autoencoder),
        scene.CLASSES,
        load_model(SiTRefiner, refiner),
        **settings,
    )
    catalogue.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=catalogue) as scratch:
        _write_autoencoder(pipeline, autoencoder, Path(scratch) / AUTOENCODER)
        folder = Path(scratch) / "postcards-sit"
        _write_class_conditional(pipeline, predictor, refiner, folder, settings)
        for written in Path(scratch).iterdir():
            if (catalogue / written.name).exists():
                shutil.rmtree(catalogue / written.name)
            written.replace(catalogue / written.name)


def bundle_text(predictor: Path, refiner: Path, catalogue: Path, settings: dict[str, Any]) -> None:
    """Write `postcards-t2i` to `catalogue`, from a trained UNet, its text encoder and a refiner.

    The index names the bundled autoencoder and does not copy it. The parts are loaded and checked
    first. Only then is the model of this name replaced.
    """
    with tempfile.TemporaryDirectory(dir=catalogue) as scratch:
        folder = Path(scratch) / DEFAULT_TEXT_MODEL
        for part in ("unet", "text_encoder", "tokenizer"):
            shutil.copytree(predictor / part, folder / part)
        shutil.copytree(refiner, folder / "refiner")
        # UNet and text encoder share one record; a run that starts from this folder reads it here.
        write_record(read_record(predictor), folder)
        index = {
            "_class_name": "TextToImagePipeline",
            "_diffusers_version": diffusers.__version__,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "refiner": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "vae": [CATALOGUE, AUTOENCODER],
            **settings,
        }
        write_json(index, folder / "model_index.json")
        pipeline = TextToImagePipeline.from_pretrained(folder)
        (folder / "README.md").write_text(_text_card(pipeline, predictor, refiner))
        if (catalogue / DEFAULT_TEXT_MODEL).exists():
            shutil.rmtree(catalogue / DEFAULT_TEXT_MODEL)
        folder.replace(catalogue / DEFAULT_TEXT_MODEL)


def _text_card(pipeline: TextToImagePipeline, predictor: Path, refiner: Path) -> str:
    text = _FRONT_MATTER.format(
        tags="text-to-image, flow-matching, FlowTurbo", title="Postcards text-to-image"
    )
    text += (
        f"A UNet velocity predictor ({_parameters(pipeline.unet)}), its FlowTurbo refiner "
        f"({_parameters(pipeline.refiner.unet)}) and a CLIP text encoder "
        f"({_parameters(pipeline.text_encoder)}) with a tokenizer of {len(pipeline.tokenizer)} "
        f"tokens, in Stable Diffusion's layout, on the latents of `{AUTOENCODER}`. UNet and text "
        "encoder were trained together, from scratch. The tokenizer was learnt before their first "
        "run, from the prompts of that time.\n\n"
        "```python\n"
        "from flowturbo_core.pipelines.text_to_image import TextToImagePipeline\n\n"
        'pipeline = TextToImagePipeline.from_pretrained("postcards-t2i")\n'
        'pipeline("a red sailboat at sunset", plan="H1P6R3").images[0].save("sailboat.png")\n'
        "```\n\n"
        + _DATA.format(held_out=_HELD_OUT)
        + "A scene has eight prompts, whole captions and "
        "terse ones. Each names a part of what the picture shows "
        "(`flowturbo_core/data/postcards/captions.py`).\n\n## What it knows\n\n"
    )
    for name, words in _VOCABULARY.items():
        text += f"- {name}: {', '.join(words)}\n"
    text += "\nIt takes other words for some of these.\n\n"
    text += _describe_training("UNet and text encoder", "text-flow", read_record(predictor))
    return text + _describe_training("the refiner", "text-refiner", read_record(refiner)) + _LIMITS


def bundle_evaluator(trained: Path, catalogue: Path) -> None:
    """Write `postcards-evaluator` and its card to `catalogue`, replacing an older one.

    Raises ValueError if `trained` is not an evaluator, or holds no measurement of its accuracy.
    """
    model, record = load_model(PostcardsEvaluator, trained), read_record(trained)
    if "unseen" not in record:
        raise ValueError(f"{trained} has no record of what it tells on unseen scenes")
    text = _FRONT_MATTER.format(tags="image-classification", title="Postcards evaluator")
    text += (
        "A small convolutional network that tells subject, colour, time of day and position of a "
        f"postcard ({_parameters(model)}). `python -m flowturbo_core evaluate` uses it. Its "
        f"{model.config.feature_size} penultimate features give the Frechet distance, precision "
        "and recall. Each feature is divided by its standard deviation over drawn scenes. Its "
        "heads give the accuracies. It knows these scenes and no others. Its distances compare "
        "samplers of one model; they are not FID, which uses Inception.\n\n"
        "Share of 4,096 unseen scenes that it tells right, with the weights as stored: scenes as "
        f"drawn, and scenes encoded and decoded by `{AUTOENCODER}`:\n\n"
    )
    text += _accuracies_table(record["unseen"])
    text += _DATA.format(held_out="") + _describe_training("the evaluator", "evaluator", record)
    with tempfile.TemporaryDirectory(dir=catalogue) as scratch:
        written = Path(scratch) / EVALUATOR
        shutil.copytree(trained, written)
        (written / "README.md").write_text(text)
        if (catalogue / EVALUATOR).exists():
            shutil.rmtree(catalogue / EVALUATOR)
        written.replace(catalogue / EVALUATOR)


def _accuracies_table(unseen: dict[str, dict[str, float]]) -> str:
    names = list(unseen["drawn"])
    rows = (
        f"| {kind} | {' | '.join(f'{100 * item[name]:.2f}%' for name in names)} |\n"
        for kind, item in unseen.items()
    )
    return f"| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}\n{''.join(rows)}\n"


def _write_autoencoder(pipeline: ClassConditionalPipeline, trained: Path, folder: Path) -> None:
    record = read_record(trained)
    shutil.copytree(trained, folder)
    text = _FRONT_MATTER.format(tags="autoencoder", title="Postcards autoencoder")
    text += (
        "An `AutoencoderKL` behind a pixel unshuffle of 4: 128 x 128 images to 16 x 16 latents of "
        f"8 channels; {_parameters(pipeline.vae)}. Their mean and standard deviation are in "
        "`config.json`.\n\n"
        f"On 512 unseen scenes, weights as stored: **{record['unseen']['psnr_db']} dB PSNR**.\n\n"
    )
    text += (
        _DATA.format(held_out=_HELD_OUT)
        + _describe_training("the autoencoder", "autoencoder", record)
        + _LIMITS
    )
    (folder / "README.md").write_text(text)


def _write_class_conditional(
    pipeline: ClassConditionalPipeline,
    predictor: Path,
    refiner: Path,
    folder: Path,
    settings: dict[str, Any],
) -> None:
    shutil.copytree(predictor, folder / "predictor")
    shutil.copytree(refiner, folder / "refiner")
    index = {
        "_class_name": "ClassConditionalPipeline",
        "_diffusers_version": diffusers.__version__,
        "predictor": [SiTPredictor.__module__, SiTPredictor.__name__],
        "refiner": [SiTRefiner.__module__, SiTRefiner.__name__],
        "vae": [CATALOGUE, AUTOENCODER],
        "class_names": list(scene.CLASSES),
        **settings,
    }
    write_json(index, folder / "model_index.json")
    write_class_pictures(pipeline, folder)
    text = _FRONT_MATTER.format(tags="flow-matching, SiT, FlowTurbo", title="Postcards SiT")
    text += (
        f"A class-conditional SiT velocity predictor ({_parameters(pipeline.predictor)}) and its "
        f"FlowTurbo refiner ({_parameters(pipeline.refiner)}), on the latents of "
        f"`{AUTOENCODER}`.\n\n"
        "```python\n"
        "from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline\n\n"
        'pipeline = ClassConditionalPipeline.from_pretrained("postcards-sit")\n'
        'pipeline(["sailboat"], plan="H1P5R3", seed=0).images[0].save("sailboat.png")\n'
        "```\n\n" + _DATA.format(held_out=_HELD_OUT)
    )
    for title, what, part in (("predictor", "flow", predictor), ("refiner", "refiner", refiner)):
        text += _describe_training(f"the {title}", what, read_record(part))
    (folder / "README.md").write_text(text + _LIMITS)


def _parameters(model: ModelMixin) -> str:
    return f"{model.num_parameters() / 1e6:.2f} million parameters"


def _describe_training(title: str, what: str, record: dict[str, Any]) -> str:
    return (
        f"## Training of {title}\n\n"
        f"`python -m flowturbo_core train {what} --recipe postcards`, in these runs. Each run "
        "began with the weights of the run before. `training.json` has all settings.\n\n"
        f"{_runs_table(record)}"
    )


def _runs_table(record: dict[str, Any]) -> str:
    columns = "run, seed, steps, batch, images seen, minutes, peak rate, last losses, machine"
    names = columns.split(", ")
    header = f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
    rows = []
    for number, run in enumerate(record["runs"], start=1):
        settings = run["settings"]
        losses = ", ".join(f"{name} {value:.4g}" for name, value in run["losses"].items())
        rows.append(
            f"| {number} | {settings['seed']} | {run['steps']} | {settings['batch_size']} "
            f"| {run['images_seen']} | {run['minutes']} | {settings['learning_rate']} "
            f"| {losses} | {run['device']}, {run['precision']} |\n"
        )
    return header + "".join(rows) + "\n"
