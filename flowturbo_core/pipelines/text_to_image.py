"""Images of a text: a UNet, perhaps its refiner, an autoencoder, and a text encoder."""

import copy
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from flowturbo_core.checks import brief, whole_number
from flowturbo_core.models.autoencoder import downsampling_factor
from flowturbo_core.models.catalog import (
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_PLAN,
    PIPELINES,
)
from flowturbo_core.models.lora import add_lora
from flowturbo_core.models.sit import REFINER_VARIANTS
from flowturbo_core.models.storage import load_model
from flowturbo_core.models.text_encoder import (
    cut_off,
    embed,
    load_text_encoder,
    load_tokenizer,
    save_text_encoder,
    save_tokenizer,
    tokens_of,
    window,
)
from flowturbo_core.models.unet import UNetPredictor, UNetRefiner
from flowturbo_core.pipelines.base import FlowPipeline
from flowturbo_core.pipelines.convention import (
    DIFFUSERS_VELOCITY,
    VELOCITIES,
    VELOCITY,
    Convention,
    read_convention,
)
from flowturbo_core.pipelines.folder import AUTOENCODERS
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import (
    EXAMPLE_PROMPTS,
    GENERATE,
    MAX_SIDE,
    Request,
    Texts,
    read_request,
)

# What a UNet's config may say of its condition, if embeddings of texts are all that it takes.
_OF_TEXTS_ALONE = {
    "addition_embed_type": (None, "text"),
    "class_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "num_class_embeds": (None,),
}


class TextToImagePipeline(FlowPipeline):
    """Text-to-image generation with FlowTurbo, by a rectified flow in Stable Diffusion's layout.

    ```python
    pipeline = TextToImagePipeline.from_pretrained("postcards-t2i")
    pipeline("a red sailboat at sunset", plan="H1P6R3", seed=0).images[0].save("sailboat.png")
    ```

    Loads folders whose index says RectifiedFlowPipeline or InstaFlowPipeline, as InstaFlow's do
    (Liu et al., 2309.06380), or StableDiffusionPipeline, if their UNet predicts a velocity: its
    sign is found out from their scheduler, and `warnings` has it where that says otherwise, or
    where it says nothing and one evaluation does. What else such a folder has is passed over.

    Args:
        unet: the velocity model.
        vae: the autoencoder of its latents.
        text_encoder: what turns tokens into the UNet's condition.
        tokenizer: what turns texts into tokens.
        refiner: the light UNet that R blocks need.
        default_plan: the plan where none is given.
        default_guidance_scale: the guidance scale where none is given.
        refiner_variant: how a refiner block combines the offsets, `consistent` or `released`.
        velocity: what the UNet gives, "data - noise", as InstaFlow's and ours, or "noise - data",
            as those of diffusers' flow schedulers; a refiner's offset is always to the former.

    Raises ValueError if the parts do not belong together.
    """

    subject: ClassVar = Texts
    PART_CLASSES: ClassVar = {
        "unet": (UNet2DConditionModel,),
        "refiner": (UNet2DConditionModel,),
        "vae": AUTOENCODERS,
        "text_encoder": (CLIPTextModel,),
        "tokenizer": (CLIPTokenizer,),
    }
    INDEX_CLASSES: ClassVar = tuple(name for name, subject in PIPELINES.items() if subject is Texts)
    TURNED_SIGN_ADVICE: ClassVar = (
        f'; if its velocity is {DIFFUSERS_VELOCITY}, "velocity": "{DIFFUSERS_VELOCITY}" in its '
        "model_index.json says so"
    )
    SETTINGS: ClassVar = (*FlowPipeline.SETTINGS, "refiner_variant", "velocity")

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        refiner: UNet2DConditionModel | None = None,
        default_plan: str = DEFAULT_PLAN,
        default_guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
        refiner_variant: str = "consistent",
        velocity: str = VELOCITY,
    ):
        if velocity not in VELOCITIES:
            raise ValueError(f"velocity {brief(velocity)} is not one of {VELOCITIES}")
        if refiner_variant not in REFINER_VARIANTS:
            raise ValueError(
                f"refiner_variant {brief(refiner_variant)} is not one of {REFINER_VARIANTS}"
            )
        super().__init__(
            UNetPredictor(unet, is_turned=velocity == DIFFUSERS_VELOCITY),
            vae,
            None if refiner is None else UNetRefiner(refiner, refiner_variant),
            default_plan,
            default_guidance_scale,
        )
        self.unet, self.text_encoder, self.tokenizer = unet, text_encoder, tokenizer
        self.refiner_variant, self.velocity = refiner_variant, velocity
        # What a tokenizer cuts and pads is part of its state; texts are measured by any thread.
        self._measure = copy.deepcopy(tokenizer)
        _check_parts(unet, vae, text_encoder, tokenizer, refiner)

    def parts(self) -> dict[str, Any]:
        """Return what a folder of this model holds, by the name it has there."""
        parts = super().parts()
        return parts | {"refiner": self.refiner.unet} if "refiner" in parts else parts

    @classmethod
    def convention(cls, folder: Path, index: Mapping[str, Any]) -> Convention:
        """Return what a folder, its index or its scheduler, says of its UNet's output."""
        return read_convention(folder, index)

    def no_condition(self) -> Tensor:
        """Return the embedding (1, tokens, width) of no text."""
        return self.embed([""])

    @classmethod
    def load_part(cls, part_class: type, folder: Path) -> Any:
        """Load a part, in float32. Raises ValueError, naming the folder, if it is broken."""
        if part_class is CLIPTokenizer:
            return load_tokenizer(folder)
        advice = "`python -m flowturbo_core convert-text` makes a copy of the model in safetensors"
        if part_class is CLIPTextModel:
            return load_text_encoder(folder, advice)
        return load_model(part_class, folder, advice)

    @classmethod
    def save_part(cls, part: Any, folder: Path) -> None:
        """Write a part so that `load_part` finds it."""
        if isinstance(part, CLIPTokenizer):
            save_tokenizer(part, folder)
        elif isinstance(part, CLIPTextModel):
            save_text_encoder(part, folder)
        else:
            super().save_part(part, folder)

    @property
    def window(self) -> int:
        """How many tokens of a prompt are read, its start and end included."""
        return window(self.tokenizer, self.text_encoder)

    def load_lora_weights(self, folder_or_file: str | Path, scale: float = 1.0) -> None:
        """Add LoRA weights, times `scale`, to those of the UNet and of the text encoder, for good.

        Reads what diffusers reads, its own files and kohya's, if they are safetensors: a file, or a
        folder with one. A refiner stays as it is. Raises ValueError, naming the file, if it does
        not fit, and where the package peft is missing: `pip install -r requirements-lora.txt`.
        """
        add_lora(self.unet, self.text_encoder, folder_or_file, scale)
        self._kernels.reset()

    def request(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        plan: SamplePlan | str | None = None,
        guidance_scale: float | None = None,
        num_images: int = 1,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        task: Any = GENERATE,
    ) -> Request:
        """Validate what a person asked for.

        Args:
            prompt: a text or several; images come in their order. What is longer than the
                tokenizer's window is cut, with a warning.
            negative_prompt: what guidance leads away from.
            plan: a plan such as "H1P6R3"; None takes the model's default.
            guidance_scale: classifier-free guidance; 1 is none, 0 leaves the prompt out, with a
                warning; None takes the model's default.
            num_images: images for each prompt.
            seed: image k draws its noise from seed + k, unless a generator or latents are given.
            height: in pixels, a multiple of the autoencoder's factor, 8; None takes the size
                that the model was trained on.
            width: the same.
            task: what is done, with its own values.
        """
        asked = {"prompts": prompt, "num_images": num_images, "seed": seed}
        asked["negative_prompt"] = negative_prompt
        of_model = {"plan": plan, "guidance_scale": guidance_scale}
        return read_request(self, asked, task, **of_model, height=height, width=width)

    def examples(self) -> Sequence[str]:
        """Return the prompts of the models that ship."""
        return EXAMPLE_PROMPTS

    def warnings(self, request: Request) -> list[str]:
        """Return what a person should know of a request that is served as far as it can be."""
        return [*super().warnings(request), *self.cut_warnings(request)]

    def cut_warnings(self, request: Request) -> list[str]:
        """Return of each text the end that is not read."""
        texts = dict.fromkeys((*request.subject.things, request.subject.negative_prompt))
        ends = (cut_off(text, self._measure, self.window) for text in texts)
        read = f"only the first {self.window - 2} tokens of a text are read"
        return [f"{read}; left out: {brief(end)}" for end in ends if end]

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (B, tokens, width) of texts, each different one embedded once."""
        different = list(dict.fromkeys(texts))
        tokens = tokens_of(different, self.tokenizer, self.window)
        rows = [different.index(text) for text in texts]
        return embed(self.text_encoder, tokens)[rows]

    def conditions(self, request: Request) -> tuple[Tensor, Tensor]:
        """Return the embedding (B, tokens, width) of each text, and of the negative prompt."""
        texts = request.captions
        embedded = self.embed([*texts, *[request.subject.negative_prompt] * len(texts)])
        return embedded.chunk(2)


def _check_parts(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    refiner: UNet2DConditionModel | None,
) -> None:
    """Raise ValueError for parts that do not belong together, or that need more than a text."""
    largest = MAX_SIDE // downsampling_factor(vae)
    whole_number("the UNet's sample_size", unet.config.sample_size, 1, largest)
    models = {"UNet": unet} if refiner is None else {"UNet": unet, "refiner": refiner}
    for role, model in models.items():
        for name, allowed in _OF_TEXTS_ALONE.items():
            if (value := model.config.get(name)) not in allowed:
                raise ValueError(f"the {role} needs more than a text: {name} is {brief(value)}")
    channels = unet.config.in_channels
    if unet.config.out_channels != channels:
        raise ValueError(
            f"the UNet takes {channels} channels and gives {unet.config.out_channels}; a velocity "
            "has as many as the latents"
        )
    _check_text_encoder(text_encoder, tokenizer, unet.config.cross_attention_dim)
    if refiner is not None:
        _check_refiner(refiner, unet)


def _check_text_encoder(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, width: int) -> None:
    """Raise ValueError unless tokens and embeddings are those that the parts expect."""
    if text_encoder.config.hidden_size != width:
        raise ValueError(
            f"the text encoder's embeddings are {text_encoder.config.hidden_size} wide, the UNet "
            f"expects {width}"
        )
    for name, value in (
        ("model_max_length", tokenizer.model_max_length),
        ("max_position_embeddings", text_encoder.config.max_position_embeddings),
    ):
        if not isinstance(value, Real) or not value >= 3:  # false for NaN too
            raise ValueError(
                f"{name} must be at least 3, for the start, the end and a token of a text, not "
                f"{brief(value)}"
            )
    known, last = text_encoder.config.vocab_size, max(tokenizer.get_vocab().values())
    if last >= known:
        raise ValueError(
            f"the tokenizer has tokens up to {last}, the text encoder knows {known}, from 0"
        )


def _check_refiner(refiner: UNet2DConditionModel, unet: UNet2DConditionModel) -> None:
    """Raise ValueError unless a refiner takes a state and a velocity of this UNet."""
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    found = refiner.config
    expected = (2 * channels, channels, width)
    if (found.in_channels, found.out_channels, found.cross_attention_dim) != expected:
        raise ValueError(
            f"the refiner takes {found.in_channels} channels, gives {found.out_channels} and "
            f"expects embeddings {found.cross_attention_dim} wide; this UNet's takes, gives and "
            f"expects {', '.join(map(str, expected))}"
        )
