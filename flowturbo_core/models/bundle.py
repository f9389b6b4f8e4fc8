"""Making the models that ship out of finished trainings: folders, index, and cards.

A card's figures come from the records that the trainings wrote, never from a person's memory.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers

from flowturbo_core.data.postcards import CLASSES
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.models.storage import read_record
from flowturbo_core.pipelines.base import CATALOGUE

_FRONT_MATTER = """---
license: mit
library_name: diffusers
tags: [{tags}]
---

# {title}

"""

_DATA = """## Data

Postcards (`flowturbo_core/data/postcards.py`): 128 x 128 scenes drawn by code, sixteen subjects
and empty landscapes, endless. One tenth of the (subject, colour, time of day) combinations was
held out of all training. No photographs, no people, no third party's pictures.

"""

_LIMITS = """## Limits

It draws these scenes and nothing else; it is there to show and to measure samplers.
"""


def bundle_autoencoder(trained: Path, folder: Path) -> None:
    """Copy a trained autoencoder's folder to `folder` and write its card."""
    record = read_record(trained)
    _replace_folder(trained, folder)
    text = _FRONT_MATTER.format(tags="autoencoder", title="Postcards autoencoder")
    text += (
        "An `AutoencoderKL` behind a pixel unshuffle of 4: 128 x 128 images to 16 x 16 latents of "
        "8 channels. Their mean and standard deviation are in `config.json`.\n\n"
        f"On 512 unseen scenes, weights as stored: **{record['unseen']['psnr_db']} dB PSNR**.\n\n"
    )
    text += _DATA + "## Training\n\n`python -m flowturbo_core train autoencoder --recipe postcards`"
    text += "\n\n" + _runs_table(record) + _LIMITS
    (folder / "README.md").write_text(text)


def bundle_class_conditional(
    predictor: Path, refiner: Path, autoencoder: str, folder: Path, settings: dict[str, Any]
) -> None:
    """Write a class-conditional model's folder from a trained predictor and refiner.

    The autoencoder is named by its catalogue name, not copied: other models share it.
    """
    _replace_folder(predictor, folder / "predictor")
    _replace_folder(refiner, folder / "refiner")
    index = {
        "_class_name": "ClassConditionalPipeline",
        "_diffusers_version": diffusers.__version__,
        "predictor": [SiTPredictor.__module__, SiTPredictor.__name__],
        "refiner": [SiTRefiner.__module__, SiTRefiner.__name__],
        "vae": [CATALOGUE, autoencoder],
        "class_names": list(CLASSES),
        **settings,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    text = _FRONT_MATTER.format(tags="flow-matching, SiT, FlowTurbo", title="Postcards SiT")
    text += (
        "A class-conditional SiT velocity predictor and its FlowTurbo refiner, on the latents of "
        f"`{autoencoder}`.\n\n"
        "```python\n"
        "from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline\n\n"
        'pipeline = ClassConditionalPipeline.from_pretrained("postcards-sit")\n'
        'pipeline(["sailboat"], plan="H1P5R3", seed=0).images[0].save("sailboat.png")\n'
        "```\n\n" + _DATA
    )
    for title, what, part in (("predictor", "flow", predictor), ("refiner", "refiner", refiner)):
        command = f"python -m flowturbo_core train {what} --recipe postcards"
        text += f"## Training of the {title}\n\n`{command}`\n\n{_runs_table(read_record(part))}"
    (folder / "README.md").write_text(text + _LIMITS)


def _replace_folder(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


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
