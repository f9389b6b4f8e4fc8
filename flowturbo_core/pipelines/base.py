"""What every pipeline does: load and save, run a job block by block, decode, and time it."""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import diffusers
import numpy as np
import torch
from accelerate.utils import get_data_structure
from diffusers import AutoencoderKL, ModelMixin
from PIL import Image
from torch import Tensor

from flowturbo_core import path
from flowturbo_core.checks import brief, real_number
from flowturbo_core.compile import can_compile
from flowturbo_core.devices import DTYPES, resolve_device, resolve_dtype, timed
from flowturbo_core.guidance import choose_guidance, guidance_warnings, guided_velocities
from flowturbo_core.images import to_pil
from flowturbo_core.kernels import Kernels
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    decode_latents,
    latent_statistics,
    not_finite,
)
from flowturbo_core.models.catalog import (
    CATALOGUE,
    DEFAULT_GUIDANCE_SCALE,
    DEFAULT_PLAN,
    bundled_models,
    is_bundled,
    model_folder,
    read_index,
)
from flowturbo_core.models.storage import load_model, named_class, save_model
from flowturbo_core.pipelines.convention import Convention, cosine_with_noise, doubts_of
from flowturbo_core.plan import SamplePlan
from flowturbo_core.requests import MAX_GUIDANCE_SCALE
from flowturbo_core.sampler import Job, Step, Velocities, sample
from flowturbo_core.steps import State
from flowturbo_core.tasks import generate, initial_noise
from flowturbo_core.timing import Timing

AUTOENCODERS = (AutoencoderKL, PixelUnshuffleAutoencoderKL)
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class Progress:
    """One block done.

    Args:
        block: how many blocks are done, from 1.
        num_blocks: how many the plan has.
        kind: the kind of block, E, H, P or R.
        t: the time reached, 1 at the end.
        state: latents and velocity, (B, C, h, w), a copy that nothing overwrites.
        block_ms: what this block took on the device.
    """

    block: int
    num_blocks: int
    kind: str
    t: float
    state: State
    block_ms: float

    def prediction(self) -> Tensor:
        """Return the image this state points at, x_1 = x + (1 - t) v, as latents (B, C, h, w)."""
        return path.end(self.state.x, self.state.v, self.t)


@dataclass(frozen=True)
class Output:
    """What a pipeline returns.

    Args:
        images: the images, in the type asked for.
        latents: what they were decoded from, (B, C, h, w).
        timing: the time they took.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    latents: Tensor
    timing: Timing


class FlowPipeline:
    """A predictor, perhaps a refiner, and an autoencoder; subclasses know the condition.

    Args:
        predictor: the heavy velocity model.
        vae: the autoencoder of its latents.
        refiner: the light model that R blocks need.
        default_plan: the plan where none is given.
        default_guidance_scale: the guidance scale where none is given.

    Raises ValueError if the autoencoder is not the one the predictor was trained on.
    """

    # The classes a model_index.json may name for each part; nothing else is ever imported for
    # one. All parts but the refiner must be there; others than these are passed over.
    PART_CLASSES: ClassVar[dict[str, tuple[type, ...]]] = {}
    # What `request` gives.
    REQUEST: ClassVar[type]
    # What the index may say that it describes.
    INDEX_CLASSES: ClassVar[tuple[str, ...]] = ()
    # What to do about a velocity of the other sign.
    TURNED_SIGN_ADVICE: ClassVar[str] = ""
    # What it says beside its parts: what it must say, and what it may.
    REQUIRED_SETTINGS: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[tuple[str, ...]] = ("default_plan", "default_guidance_scale")

    def __init__(
        self,
        predictor: ModelMixin,
        vae: AutoencoderKL,
        refiner: ModelMixin | None = None,
        default_plan: str = DEFAULT_PLAN,
        default_guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
    ):
        self.predictor, self.vae, self.refiner = predictor, vae, refiner
        self.default_plan = str(SamplePlan.parse(default_plan))
        self.default_guidance_scale = real_number(
            "default_guidance_scale", default_guidance_scale, 0, MAX_GUIDANCE_SCALE
        )
        # What makes it doubtful that pictures of a folder's model will be any, or as expected.
        self.doubts: tuple[str, ...] = ()
        self._velocities: dict[type, Velocities] = {}  # by the form of guidance
        self._kernels, self._is_compiled = Kernels(), False
        _check_autoencoder(predictor, vae)

    def parts(self) -> dict[str, Any]:
        """Return what a folder of this model holds, by the name it has there."""
        return {
            name: part for name in self.PART_CLASSES if (part := getattr(self, name)) is not None
        }

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.predictor.device

    @property
    def dtype(self) -> torch.dtype:
        """What the models compute in; the state between blocks is always float32."""
        return self.predictor.dtype

    def to(
        self,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Move every model to `device` and `dtype`, where given; a dtype alone may come first."""
        if isinstance(device, torch.dtype) and dtype is None:
            device, dtype = None, device
        device = None if device is None else resolve_device(str(device))
        dtype = None if dtype is None else _number_format(dtype)
        for part in self.parts().values():
            if isinstance(part, torch.nn.Module):
                # nn.Module's own: diffusers' warns of modules to keep in float32, of which
                # these models have none.
                torch.nn.Module.to(part, device=device, dtype=dtype)
        self._kernels.reset()
        return self

    def compiled(self) -> Self:
        """Return a pipeline on the same weights and kernels that compiles each block, whole.

        The first run of each kind and batch size takes as long as compiling does. Raises
        ValueError where torch.compile does not work.
        """
        if not can_compile(self.device.type):
            raise ValueError(
                "torch.compile does not work on this machine: it needs a C++ compiler and "
                "Python's headers on a CPU, Triton on a GPU"
            )
        twin = copy.copy(self)
        twin._is_compiled = True
        return twin

    def request(self, *asked: Any, **options: Any) -> Any:
        """Validate what a person asked for; None takes the model's default."""
        raise NotImplementedError  # pragma: no cover

    def example_request(
        self, count: int, guidance_scale: float | None = None, seed: int = 0, first: int = 0
    ) -> Any:
        """Return a request of `count` images of different things, the same ones each time."""
        raise NotImplementedError  # pragma: no cover

    def warnings(self, request: Any) -> list[str]:
        """Return what a person should know of a request that is served as far as it can be.

        That is what is doubtful of the model's folder, and guidance that may mean something else
        than was meant.
        """
        config = self.predictor.config
        guided, channels = config.get("guided_channels"), config.in_channels
        return [
            *self.doubts,
            *guidance_warnings(
                request.guidance_scale,
                request.THING,
                getattr(request, "negative_prompt", ""),
                None if guided in (None, channels) else (guided, channels),
            ),
        ]

    def _warn(self, request: Any) -> None:
        """Tell the caller of a public method what `warnings` says of a request."""
        for text in self.warnings(request):
            warnings.warn(text, stacklevel=3)

    def job(self, request: Any) -> Job:
        """Return the job of a request."""
        raise NotImplementedError  # pragma: no cover

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of one image's latents."""
        config = self.predictor.config
        return config.in_channels, config.sample_size, config.sample_size

    def generate(
        self, noise: Tensor, condition: Any, null_condition: Any, guidance_scale: float
    ) -> Job:
        """Return the job of generating images from noise (B, C, h, w), guided as this model is.

        The conditions have B entries each. The guidance is chosen here, by the number that the
        loop computes with, a float32.
        """
        scale = torch.tensor(guidance_scale, dtype=torch.float32, device=noise.device)
        config = self.predictor.config
        guidance = choose_guidance(scale, config.get("guided_channels"), config.in_channels)
        kind = type(guidance)  # of a model's partial guidance there is one number of channels
        if kind not in self._velocities:
            self._velocities[kind] = guided_velocities(self.predictor, self.refiner, guidance)
        return generate(
            noise, self._velocities[kind], guidance.pair(condition, null_condition), scale
        )

    def noise(
        self,
        shape: tuple[int, int, int],
        seeds: Sequence[int],
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Return the noise (B, *shape) of B images: `latents`, the generator's, or the seeds'."""
        if latents is not None:
            noise = _given_noise(latents, (len(seeds), *shape))
        elif generator is not None:
            if not isinstance(generator, torch.Generator):
                raise ValueError(f"generator must be a torch.Generator, not {brief(generator)}")
            size = (len(seeds), *shape)
            noise = torch.randn(size, generator=generator, device=generator.device)
        else:
            noise = initial_noise(shape, seeds)
        return noise.to(self.device)

    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Decode latents (B, C, h, w) to pictures, or to `np` or `pt` images in [0, 1].

        `np` is (B, H, W, 3), `pt` (B, 3, H, W), `latent` the latents themselves.
        Raises FloatingPointError if a value is not finite.
        """
        _check_output_type(output_type)
        channels = self.latent_shape[0]
        if not isinstance(latents, Tensor) or latents.ndim != 4 or latents.shape[1] != channels:
            found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"latents must be a tensor (B, {channels}, h, w), not {found}")
        if not torch.isfinite(latents).all():
            raise not_finite("sampling gave latents", self.dtype)
        if output_type == "latent":
            return latents
        images = decode_latents(self.vae, latents)
        if output_type == "pil":
            return to_pil(images)
        images = images / 2 + 0.5
        return images if output_type == "pt" else images.permute(0, 2, 3, 1).cpu().numpy()

    @torch.no_grad()
    def run(self, job: Job, plan: SamplePlan) -> Iterator[Progress]:
        """Run `job` by `plan`, yielding after every block; closing the generator stops it.

        One block of each kind is run beforehand, unless that shape already was, so that no
        first-time cost enters the times. Raises ValueError if the plan needs a refiner that
        this model does not have.
        """
        plan.require_refiner(job.velocities.refiner is not None)
        steps = self._kernels.steps(job.velocities, self._is_compiled)
        packed = job.velocities.pack(job)
        self._warm_up(steps, packed, plan, job.x_init)
        states = sample(steps, plan.schedule(job.t_start), packed)
        times = plan.time_grid(job.t_start)[1:]
        for done, (kind, t) in enumerate(zip(plan.kinds, times, strict=True), start=1):
            state, block_ms = timed(partial(next, states), self.device)
            x, v = job.velocities.unpack(state)
            yield Progress(done, len(plan), kind, t, State(x.clone(), v.clone()), block_ms)

    def _warm_up(
        self, steps: Mapping[str, Step], job: Job, plan: SamplePlan, latents: Tensor
    ) -> None:
        state = State(job.x_init, torch.zeros_like(job.x_init))
        shapes = (tuple(job.x_init.shape), repr(get_data_structure(job.condition)))
        for kind in sorted(set(plan.kinds)):
            run = partial(steps[kind], state, 0.0, 0.0, job.condition, job.guidance_scale)
            self._kernels.warm_up((steps[kind], *shapes), run)
        decode = partial(decode_latents, self.vae, latents)
        self._kernels.warm_up(("decode", tuple(latents.shape)), decode)

    def finish(self, job: Job, plan: SamplePlan, output_type: str = "pil") -> Output:
        """Run `job` by `plan` to the end, decode it and present it."""
        _check_output_type(output_type)
        blocks = list(self.run(job, plan))
        latents = blocks[-1].state.x
        images, decode_ms, present_ms = self.show(job, latents, output_type)
        block_ms = tuple(block.block_ms for block in blocks)
        timing = Timing(len(latents), block_ms, decode_ms, present_ms=present_ms)
        return Output(images, latents, timing)

    def show(self, job: Job, latents: Tensor, output_type: str = "pil") -> tuple[Any, float, float]:
        """Decode latents (B, C, h, w) of a job and present the pictures, as its task says.

        Tensors and arrays are what was decoded: a task presents pictures alone. The milliseconds
        of decoding and those of presenting come with them.
        """
        images, decode_ms = timed(partial(self.decode, latents, output_type), self.device)
        if output_type != "pil":
            return images, decode_ms, 0.0
        images, present_ms = timed(partial(job.present, images), self.device)
        return images, decode_ms, present_ms

    def serve(self, request: Any, output_type: str = "pil", **noise: Any) -> Output:
        """Make the images of a request; `noise` is what `job` takes of it beside the seed."""
        job, encode_ms = timed(partial(self.job, request, **noise), self.device)
        output = self.finish(job, request.plan, output_type)
        return replace(output, timing=replace(output.timing, encode_ms=encode_ms))

    @classmethod
    def load_part(cls, part_class: type, folder: Path) -> Any:
        """Load a part, in float32. Raises ValueError, naming the folder, if it is broken."""
        return load_model(part_class, folder)

    @classmethod
    def save_part(cls, part: Any, folder: Path) -> None:
        """Write a part so that `load_part` finds it."""
        save_model(part, folder)

    @classmethod
    def convention(cls, folder: Path, index: Mapping[str, Any]) -> Convention:
        """Return what a folder of this index says of its model's output."""
        return Convention(is_said=is_bundled(folder))

    def no_condition(self) -> Tensor:
        """Return the condition (1, ...) of one image of nothing in particular."""
        raise NotImplementedError  # pragma: no cover

    def measured_doubts(self) -> tuple[str, ...]:
        """Return what one evaluation makes doubtful of a model whose folder does not say it."""
        cosine = cosine_with_noise(self.predictor, self.latent_shape, self.no_condition())
        return doubts_of(cosine, self.TURNED_SIGN_ADVICE)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ) -> Self:
        """Load a bundled model by name, or any folder of this pipeline's layout.

        Raises ValueError, naming the folder, if a part is missing, broken or not allowed.
        """
        device, dtype = resolve_device(str(device)), _number_format(dtype)
        folder = model_folder(name_or_path)
        index = read_index(folder, *cls.INDEX_CLASSES)
        convention = cls.convention(folder, index)
        for name in cls.PART_CLASSES:
            if name not in index and name != "refiner":
                raise ValueError(f"{folder / 'model_index.json'} names no {name}")
        parts = {
            name: cls.load_part(*_find_part(folder, name, index[name], allowed))
            for name, allowed in cls.PART_CLASSES.items()
            if name in index
        }
        for name in cls.REQUIRED_SETTINGS:
            if name not in index:
                raise ValueError(f"{folder / 'model_index.json'} has no {name}")
        names = (*cls.REQUIRED_SETTINGS, *cls.SETTINGS)
        settings = {name: index[name] for name in names if name in index}
        if "velocity" in names:
            settings["velocity"] = convention.velocity
        try:
            pipeline = cls(**parts, **settings).to(device, dtype)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        measured = () if convention.is_said else pipeline.measured_doubts()
        pipeline.doubts = (*convention.doubts, *measured)
        return pipeline

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a complete model folder, every part included, in the number format they have."""
        folder = Path(folder)
        if self.predictor.config.get("autoencoder_hash") is not None:
            # In another number format than it was loaded in, the autoencoder's hash is another.
            self.predictor.register_to_config(autoencoder_hash=autoencoder_hash(self.vae))
        index: dict[str, Any] = {
            "_class_name": type(self).__name__,
            "_diffusers_version": diffusers.__version__,
        }
        for name, part in self.parts().items():
            self.save_part(part, folder / name)
            # A library's own class is named as diffusers does, ours by its module.
            module = type(part).__module__
            library = module.partition(".")[0]
            index[name] = [
                library if library in ("diffusers", "transformers") else module,
                type(part).__name__,
            ]
        settings = (*self.REQUIRED_SETTINGS, *self.SETTINGS)
        index |= {name: getattr(self, name) for name in settings}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _find_part(
    folder: Path, name: str, entry: object, allowed: tuple[type, ...]
) -> tuple[type, Path]:
    """Return the class of a part, one of `allowed`, and the folder it is in."""
    is_pair = isinstance(entry, list) and len(entry) == 2
    if not is_pair or not all(isinstance(part, str) for part in entry):
        raise ValueError(f"{folder}: {name} must be [library, class], not {brief(entry)}")
    if entry[0] == CATALOGUE:
        if entry[1] not in bundled_models():
            raise ValueError(
                f"{folder}: {name} is the model {brief(entry[1])}, which is not in the catalogue"
            )
        folder = model_folder(entry[1])
        class_name = named_class(folder)
    else:
        # Some name a tokenizer by what was its faster form.
        folder, class_name = folder / name, entry[-1].removesuffix("Fast")
    by_name = {c.__name__: c for c in allowed}
    if class_name not in by_name:
        raise ValueError(
            f"{folder}: class {brief(class_name)} is not allowed as {name}; allowed are "
            f"{', '.join(by_name)}"
        )
    return by_name[class_name], folder


def _check_output_type(output_type: object) -> None:
    if output_type not in OUTPUT_TYPES:
        raise ValueError(
            f"output_type {brief(output_type)} is not one of {', '.join(OUTPUT_TYPES)}"
        )


def _number_format(dtype: object) -> torch.dtype:
    if isinstance(dtype, str):
        return resolve_dtype(dtype, torch.device("cpu"))
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype {brief(dtype)} is not one of {', '.join(DTYPES)}")
    return dtype


def _check_autoencoder(predictor: ModelMixin, vae: AutoencoderKL) -> None:
    config = predictor.config
    if config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"the predictor works on {config.in_channels} latent channels, the autoencoder has "
            f"{vae.config.latent_channels}"
        )
    expected = config.get("autoencoder_hash")
    if expected is not None and expected != (found := autoencoder_hash(vae)):
        raise ValueError(
            f"the predictor was trained on the latents of autoencoder {expected[:12]}, and this "
            f"is {found[:12]}: their latents do not mean the same"
        )
    for name, found in zip(("latents_mean", "latents_std"), latent_statistics(vae), strict=True):
        recorded = config.get(name)
        if recorded is not None and not torch.allclose(
            torch.tensor(recorded, dtype=torch.float32), found.flatten(), rtol=1e-4, atol=1e-6
        ):
            raise ValueError(
                f"the predictor was trained on an autoencoder with {name} {recorded}, and this "
                f"has {found.flatten().tolist()}"
            )


def _given_noise(latents: object, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents must be a torch tensor, not a {type(latents).__name__}")
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have the shape {shape}, not {tuple(latents.shape)}")
    if latents.is_complex():
        raise ValueError(f"latents must be real numbers, not {latents.dtype} (complex)")
    if latents.layout != torch.strided or latents.is_meta:
        raise ValueError("latents must be a dense tensor with values; these are sparse or meta")
    noise = latents.float()
    if not torch.isfinite(noise).all():
        raise ValueError("latents must be finite in float32; these hold NaN or infinity")
    return noise
