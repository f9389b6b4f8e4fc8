"""The objectives of text-to-image models: those of the others, conditioned on texts."""

import copy
import json
import os
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from transformers import CLIPTokenizer

from flowturbo_core.data.postcards.captions import Prompt, prompt
from flowturbo_core.data.postcards.scene import Scene, sample_scene
from flowturbo_core.images import contact_sheet
from flowturbo_core.models.storage import save_to_ship, save_trained, write_record
from flowturbo_core.models.text_encoder import embed, save_text_encoder, save_tokenizer, tokens_of
from flowturbo_core.models.unet import UNetPredictor
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.requests import EXAMPLE_PROMPTS
from flowturbo_core.training.flow import FlowMatching, choose_dropped
from flowturbo_core.training.latents import in_chunks
from flowturbo_core.training.refiner import Pairs, RefinerMatching

# Tokenizers' threads do not outlive the fork of a worker, and each worker would say so.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PROMPTS_PER_SCENE = 8
_TOKENIZED = 256  # scenes at a time
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Sequence[str], length: int) -> CLIPTokenizer:
    """Return a tokenizer whose merges are learnt from `texts`, in CLIP's form.

    As in CLIP, the vocabulary begins with every byte, alone and at the end of a word, so any text
    has tokens. The words that the merges make follow, and the marks of start and end. `length` is
    the window.
    """
    untrained = CLIPTokenizer(vocab={_START: 0, _END: 1}, merges=[])
    learnt = untrained.train_new_from_iterator(texts, 10_000, show_progress=False)
    merges = json.loads(learnt.backend_tokenizer.to_str())["model"]["merges"]
    alphabet = sorted(ByteLevel.alphabet())
    ends = [f"{byte}</w>" for byte in alphabet]
    words = [*alphabet, *ends, *("".join(merge) for merge in merges), _START, _END]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[tuple(merge) for merge in merges],
        model_max_length=length,
    )


def prompts(first_seed: int, count: int) -> list[str]:
    """Return eight prompts of each of `count` scenes from `first_seed` on, scene by scene."""
    scenes = map(sample_scene, range(first_seed, first_seed + count))
    return [item.text for scene in scenes for item in _prompts(scene)]


def _prompts(scene: Scene) -> list[Prompt]:
    return [prompt(scene, PROMPTS_PER_SCENE * scene.seed + k) for k in range(PROMPTS_PER_SCENE)]


class _PromptTokens(Dataset):
    """The tokens (B, 8, length) of the prompts of the scenes from `first_seed` on.

    Four prompts are of any kind. The other four name the position of the subject, if the scene has
    such prompts. People name it rarely, and a UNet would learn it last, because everything else is
    alike on the left and on the right.
    """

    def __init__(self, first_seed: int, tokenizer: CLIPTokenizer):
        self.first_seed, self.tokenizer = first_seed, tokenizer

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        texts = []
        for index in indices:
            made = _prompts(sample_scene(self.first_seed + index))
            placed = [item for item in made if "position" in item.named] or made
            half = PROMPTS_PER_SCENE // 2
            texts += [item.text for item in (*made[:half], *islice(cycle(placed), half))]
        tokens = tokens_of(texts, self.tokenizer, self.tokenizer.model_max_length)
        return tokens.to(torch.int32).unflatten(0, (-1, PROMPTS_PER_SCENE))


def with_prompts(
    latents: TensorDataset, first_seed: int, tokenizer: CLIPTokenizer, workers: int = 0
) -> TensorDataset:
    """Return scenes' latents (N, C, h, w), and the tokens (N, 8, length) of their prompts."""
    count, length = len(latents), tokenizer.model_max_length
    tokens = torch.empty(count, PROMPTS_PER_SCENE, length, dtype=torch.int32)
    scenes = _PromptTokens(first_seed, tokenizer)
    for chunk, made in in_chunks(scenes, count, _TOKENIZED, workers):
        tokens[chunk.start : chunk.stop] = made
    return TensorDataset(latents.tensors[0], tokens)


def with_captions(
    latents: TensorDataset, captions: Sequence[str], pipeline: TextToImagePipeline
) -> TensorDataset:
    """Return pictures' latents (N, C, h, w), and the tokens (N, 1, window) of their captions."""
    tokens = tokens_of(captions, pipeline.tokenizer, pipeline.window).to(torch.int32)
    return TensorDataset(latents.tensors[0], tokens.unsqueeze(1))


class _Texts:
    """Turns the tokens of prompts into conditions."""

    def __init__(self, pipeline: TextToImagePipeline):
        self.text_encoder = pipeline.text_encoder
        self.nothing = tokens_of([""], pipeline.tokenizer, pipeline.window)

    def choose(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Return the embeddings of one text a picture; of the empty text if it is dropped."""
        rows = torch.arange(len(tokens), device=tokens.device)
        choice = torch.randint(
            tokens.shape[1], rows.shape, generator=generator, device=tokens.device
        )
        chosen = tokens[rows, choice].long()
        nothing = self.nothing.to(tokens.device)
        chosen = torch.where(choose_dropped(tokens, generator)[:, None], nothing, chosen)
        return embed(self.text_encoder.to(tokens.device), chosen)

    def null(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (B, length, width) of the empty text, one for each of `tokens`."""
        embedded = embed(self.text_encoder.to(tokens.device), self.nothing)
        return embedded.expand(len(tokens), -1, -1)


class TextFlowObjective(FlowMatching):
    """Flow matching on prompts: UNet and text encoder are trained together, from scratch."""

    def __init__(self, pipeline: TextToImagePipeline, data: TensorDataset):
        super().__init__()
        if not torch.cuda.is_available():
            # On a CPU, the gradient of fused attention takes as long as all convolutions. This
            # processor saves a quarter of a step's time.
            pipeline.unet.set_attn_processor(AttnProcessor())
        self.model = nn.ModuleDict(
            {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
        ).train()
        self.data = data
        self.texts = _Texts(pipeline)
        self.frozen = (pipeline,)

    def heavy_parts(self, device: torch.device) -> list[nn.Module]:
        """Return the UNet."""
        return _compilable([self.model["unet"]], device)

    def predictor(self) -> nn.Module:
        """Return the UNet as a velocity model."""
        return UNetPredictor(self.model["unet"])

    def condition(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Return the embeddings (B, length, width) of one of each eight texts in `tokens`."""
        return self.texts.choose(tokens, generator)

    def sheet(self) -> Image.Image:
        """Return two samples of each of twelve prompts, H8, always from the same noise."""
        return _sheet(self.frozen[0], EXAMPLE_PROMPTS, ("H8",))

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save UNet, text encoder and tokenizer."""
        save_to_ship(self.model["unet"], folder / "unet")
        as_it_ships = copy.deepcopy(self.model["text_encoder"]).half()
        save_text_encoder(as_it_ships, folder / "text_encoder")
        save_tokenizer(self.frozen[0].tokenizer, folder / "tokenizer")
        write_record(record, folder)


class TextRefinerObjective(RefinerMatching):
    """The refiner of a text-to-image predictor, whose text encoder stays as it is.

    `data` holds latents (N, C, h, w), and tokens (N, n, window) of n texts for each. `shown` holds
    the prompts of the sheets.
    """

    def __init__(
        self,
        pipeline: TextToImagePipeline,
        data: TensorDataset,
        pairs: Pairs,
        shown: Sequence[str] = EXAMPLE_PROMPTS,
    ):
        super().__init__()
        self.shown = shown
        self.model, self.data, self.pairs = pipeline.refiner.train(), data, pairs
        self.texts = _Texts(pipeline)
        pipeline.text_encoder.requires_grad_(False)
        self.frozen = (pipeline.predictor.requires_grad_(False), pipeline)

    def predictor(self) -> nn.Module:
        """Return the frozen UNet as a velocity model."""
        return self.frozen[0]

    def heavy_parts(self, device: torch.device) -> list[nn.Module]:
        """Return both UNets."""
        return _compilable([self.model.unet, self.frozen[0].unet], device)

    def conditions(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the embeddings of one text a picture, some dropped, and of as many empty texts."""
        return self.texts.choose(tokens, generator), self.texts.null(tokens)

    def sheet(self) -> Image.Image:
        """Return the samples of H8, and below them those of H1P6R3."""
        return _sheet(self.frozen[1], self.shown, ("H8", "H1P6R3"))

    def export(self, folder: Path, record: dict[str, Any]) -> None:
        """Save the refiner's UNet."""
        save_trained(self.model.unet, folder, record)


def _compilable(unets: list[nn.Module], device: torch.device) -> list[nn.Module]:
    # On a CPU, compiled UNets had gradients that were 26% off in bfloat16, and were not faster.
    return [] if device.type == "cpu" else unets


def _sheet(
    pipeline: TextToImagePipeline, shown: Sequence[str], plans: Sequence[str]
) -> Image.Image:
    pictures = [
        picture
        for plan in plans
        for picture in pipeline(shown, plan=plan, guidance_scale=2.0, num_images=2, seed=0).images
    ]
    return contact_sheet(pictures, columns=8)
