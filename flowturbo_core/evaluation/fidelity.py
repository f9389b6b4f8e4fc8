"""FID, Inception Score, precision, recall and CLIP score: pictures against pictures and captions.

torch-fidelity, from requirements-eval.txt, supplies Inception and the Inception Score. `frechet`
computes the distances, which equal torch-fidelity's up to rounding. So tests can check them without
torch-fidelity, too.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowturbo_core.checks import check_known, in_short
from flowturbo_core.data.captions import read_captions
from flowturbo_core.data.folders import (
    Pictures,
    holds_statistics_alone,
    open_pictures,
    refusing,
    sides,
)
from flowturbo_core.devices import VERSIONS, describe_device
from flowturbo_core.evaluation.frechet import (
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    precision_recall,
)

CLIP = "openai/clip-vit-large-patch14"
INCEPTION_FEATURES = 2048

# The fewest pictures for each metric. A covariance needs two, a third neighbour needs four. The
# Inception Score is the mean over ten parts, and no part may be empty.
_LEAST = {"fid": 2, "isc": 10, "precision": 4, "recall": 4, "clip": 2}
METRICS = tuple(_LEAST)
DEFAULT_METRICS = ("fid", "isc", "precision", "recall")
_COMPARING = ("fid", "precision", "recall")
_NEIGHBOURS = ("precision", "recall")  # which compare with pictures, one by one

_BATCH_SIZE = 32

Look = Callable[[Tensor], tuple[Tensor, Tensor]]


def fidelity(
    generated: Path,
    reference: Path | None,
    metrics: Sequence[str],
    device: torch.device,
    captions: Path | None = None,
    clip: str = CLIP,
    inception: Path | None = None,
) -> dict[str, Any]:
    """Measure the pictures in `generated`, after everything that the metrics need was checked.

    `generated` and `reference` are folders of pictures or .npz files in the layout of ADM
    (Dhariwal and Nichol, 2105.05233): uint8 pictures (N, H, W, 3) in `arr_0`. If the reference has
    `mu` and `sigma`, FID uses them, and precision and recall use the pictures, as ADM does. For
    FID the reference may hold `mu` and `sigma` alone, as pytorch-fid writes them. The `mu_s` and
    `sigma_s` of sFID are ignored. Text-to-image papers call the FID to a folder of COCO's pictures
    "FID on COCO".

    Args:
        generated: the pictures to measure.
        reference: the pictures that fid, precision and recall compare with, of the same size.
        metrics: some of `METRICS`.
        device: where the networks run; the distances are computed on the CPU.
        captions: the file of captions for clip (`read_captions`).
        clip: folder, or name on the Hugging Face hub, of a CLIP model.
        inception: file of Inception's weights as torch-fidelity publishes them; None downloads
            them.

    Raises ValueError, in one sentence, for pictures, captions or statistics that are too few,
    damaged or do not fit each other, and for packages or weights that cannot be had.
    """
    check_known("metrics", metrics, METRICS)
    drawn = open_pictures(generated, max(_LEAST[metric] for metric in metrics))
    compared, statistics = _open_reference(reference, drawn, metrics)
    texts = _read_texts(captions, drawn) if "clip" in metrics else None
    # Both networks are loaded before either runs, so missing weights do not cost hours first.
    look = load_inception(inception, device) if set(metrics) - {"clip"} else None
    reader = None if texts is None else load_clip(clip, device)
    content = {
        "generated": str(generated),
        "num_generated": drawn.count,
        "image_size": drawn.size,
        "device": describe_device(device),
        "versions": _find_versions(),
    }
    if not set(metrics).isdisjoint(_COMPARING):
        count = None if compared is None else compared.count  # statistics do not say it
        content |= {"reference": str(reference), "num_reference": count}
    if look is not None:
        content |= _measure_by_inception(drawn, compared, statistics, metrics, look)
    if reader is not None:
        content |= {"clip": clip} | clip_score(drawn, texts, *reader)
    return content


def default_metrics(reference: Path | None) -> tuple[str, ...]:
    """Return what is measured where nobody says, as far as the reference allows."""
    if reference is None or not holds_statistics_alone(reference):
        return DEFAULT_METRICS
    return tuple(metric for metric in DEFAULT_METRICS if metric not in _NEIGHBOURS)


def _open_reference(
    reference: Path | None, drawn: Pictures, metrics: Sequence[str]
) -> tuple[Pictures | None, FeatureStatistics | None]:
    """Return the pictures of a reference and its statistics, as far as it has and metrics need."""
    comparing = [metric for metric in _COMPARING if metric in metrics]
    if not comparing:
        return None, None
    if reference is None:
        raise ValueError(f"{', '.join(comparing)} need reference pictures to compare with")
    compared = None
    if not holds_statistics_alone(reference):
        compared = _open_compared(reference, drawn, comparing)
    elif without := ", ".join(metric for metric in _NEIGHBOURS if metric in metrics):
        raise ValueError(
            f"{reference} holds mu and sigma and no pictures, of which fid can be computed "
            f"and {without} cannot: leave out {without}"
        )
    return compared, read_statistics(reference) if "fid" in metrics else None


def _open_compared(reference: Path, drawn: Pictures, metrics: Sequence[str]) -> Pictures:
    """Return the pictures of a reference, which must have the size of those that were drawn."""
    compared = open_pictures(reference, max(_LEAST[metric] for metric in metrics))
    if compared.size != drawn.size:
        raise ValueError(
            f"the pictures in {drawn.source} are {sides(drawn.size)}, but those in {reference} "
            f"{sides(compared.size)}"
        )
    return compared


def _read_texts(captions: Path | None, drawn: Pictures) -> list[str]:
    if captions is None:
        raise ValueError("clip needs captions, a file with one for every picture")
    return read_captions(captions, drawn.source, drawn.names, drawn.count)


def read_statistics(file: Path) -> FeatureStatistics | None:
    """Return the `mu` and `sigma` of an ADM reference; None for a folder, or without statistics.

    Raises ValueError if it has only one of them, or they are no statistics of Inception's features.
    """
    if file.is_dir():
        return None
    with refusing(f"{file} has no statistics"), np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in ("mu", "sigma") if name in arrays.files}
    if not found:
        return None
    for name, shape in (("mu", (INCEPTION_FEATURES,)), ("sigma", 2 * (INCEPTION_FEATURES,))):
        if name not in found:
            raise ValueError(f"{file} has no {name}, only {' '.join(found)}: FID needs both")
        array = found[name]
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(
                f"{file}: {name} must be {shape} finite floating point numbers, not "
                f"{array.dtype} {array.shape}"
            )
    mu, sigma = (torch.from_numpy(found[name].astype(np.float64)) for name in ("mu", "sigma"))
    if (sigma.diagonal() < 0).any():
        raise ValueError(f"{file}: sigma must be a covariance, and its diagonal holds negatives")
    if not torch.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-4 * float(sigma.abs().max())):
        raise ValueError(f"{file}: sigma must be a covariance, and it is not symmetric")
    return FeatureStatistics(mu, sigma)


def load_inception(weights: Path | None, device: torch.device) -> Look:
    """Return torch-fidelity's Inception, which resizes uint8 pictures (B, 3, H, W) to 299 px.

    It returns the features (B, 2048) of the last pooling, and the logits (B, 1008) without bias for
    the Inception Score. Raises ValueError if the package or the weights cannot be loaded.
    """
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as source
    except (ImportError, OSError, RuntimeError) as error:  # the last, of an unfitting torchvision
        raise ValueError(
            "torch-fidelity cannot be imported, which fid, isc, precision and recall need: install "
            f"requirements-eval.txt in an environment of its own ({in_short(error)})"
        ) from error
    # torch-fidelity would run code in a file of weights, so the file is first read safely.
    safely = {"map_location": "cpu", "weights_only": True}
    if weights is None:
        url = source.URL_INCEPTION_V3
        with refusing(f"Inception's weights cannot be downloaded from {url}"):
            torch.hub.load_state_dict_from_url(url, check_hash=True, **safely)
    with refusing(f"{weights or 'the file downloaded'} does not hold Inception's weights"):
        if weights is not None:
            torch.load(weights, **safely)
        network = source.FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=None if weights is None else str(weights),
        ).to(device)

    @torch.no_grad()
    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(images.to(device))
        return features.cpu(), logits.cpu()

    return look


def _measure_by_inception(
    drawn: Pictures,
    compared: Pictures | None,
    statistics: FeatureStatistics | None,
    metrics: Sequence[str],
    look: Look,
) -> dict[str, Any]:
    features, logits = _look_at(drawn, look)
    found: dict[str, Any] = {}
    if "isc" in metrics:
        found |= inception_score(logits)
    neighbours = [metric for metric in _NEIGHBOURS if metric in metrics]
    reference = None
    if neighbours or ("fid" in metrics and statistics is None):
        reference, _ = _look_at(compared, look)
    if "fid" in metrics:
        found["fid_reference"] = "pictures" if statistics is None else "mu and sigma"
        target = feature_statistics(reference) if statistics is None else statistics
        found["fid"] = frechet_distance(feature_statistics(features), target)
    if neighbours:
        both = dict(zip(_NEIGHBOURS, precision_recall(features, reference), strict=True))
        found |= {name: both[name] for name in neighbours}
    return found


def _look_at(pictures: Pictures, look: Look) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and logits (N, K) of all pictures."""
    print(f"looking at the {pictures.count} pictures in {pictures.source}", flush=True)
    found = [look(images) for images in pictures.batches()]
    features, logits = zip(*found, strict=True)
    return torch.cat(features), torch.cat(logits)


def inception_score(logits: Tensor) -> dict[str, float]:
    """Return torch-fidelity's Inception Score of logits (N, K): mean and spread over ten parts.

    Salimans et al., 1606.03498, section 4. The pictures are shuffled, the same way every time.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    score = isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020)
    return {
        "inception_score": score["inception_score_mean"],
        "inception_score_std": score["inception_score_std"],
    }


def clip_score(
    pictures: Pictures, captions: Sequence[str], model: Any, tokenizer: Any, processor: Any
) -> dict[str, Any]:
    """Return the mean of 100 max(cos(picture, caption), 0) (Hessel et al., 2104.08718, eq. 1).

    The paper's weight is 2.5; text-to-image papers print 100. CLIP reads only the beginning of a
    long caption, and `captions_cut` counts these. `load_clip` returns the last three arguments.
    """
    longest = model.config.text_config.max_position_embeddings
    cut = sum(len(tokens) > longest for tokens in tokenizer(list(captions))["input_ids"])
    print(f"comparing the {pictures.count} pictures with their captions", flush=True)
    scores: list[Tensor] = []
    for images in pictures.batches():
        first = sum(map(len, scores))
        texts = tokenizer(
            captions[first : first + len(images)],
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        )
        pixels = processor(list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt")
        with torch.no_grad():
            output = model(
                pixel_values=pixels["pixel_values"].to(model.device),
                input_ids=texts["input_ids"].to(model.device),
                attention_mask=texts["attention_mask"].to(model.device),
            )
        # Both are of length one.
        scores.append((output.image_embeds * output.text_embeds).sum(1).clamp(min=0).cpu())
    score = 100 * float(torch.cat(scores).double().mean())
    if not math.isfinite(score):
        raise FloatingPointError("the CLIP model gives values that are not finite")
    return {"clip_score": score, "captions_cut": cut}


def load_clip(name: str, device: torch.device) -> tuple[Any, Any, Any]:
    """Return the model, tokenizer and image processor in a folder, or from the hub.

    Raises ValueError if they cannot be had, or the folder does not hold a whole CLIP model.
    """
    from huggingface_hub import snapshot_download
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer  # seconds to import

    folder = Path(name)
    if not folder.is_dir():
        # One download for all three: without a network, each would try for minutes.
        with refusing(f"the CLIP model {name} is no folder and cannot be downloaded"):
            wanted = ["*.json", "*.txt", "model*.safetensors"]
            folder = Path(snapshot_download(name, allow_patterns=wanted))
    with refusing(f"{name} holds no whole CLIP model"):
        model, problems = CLIPModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if missing := sorted(problems["missing_keys"]):  # which would silently be random
            raise ValueError(f"it lacks {', '.join(missing[:5])}")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    return model.eval().to(device), tokenizer, processor


def _find_versions() -> dict[str, str]:
    """Return what is installed here of the packages that the numbers depend on."""
    found = dict(VERSIONS)
    for name in ("torch-fidelity", "torchvision", "transformers", "pillow", "numpy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
