"""A model and its folder: the parts that it has, how they are loaded, checked and saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import diffusers
import torch
from diffusers import AutoencoderKL, ModelMixin
from torch import Tensor

from flowturbo_core.checks import brief
from flowturbo_core.devices import DTYPES, resolve_device, resolve_dtype
from flowturbo_core.files import write_json
from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    downsampling_factor,
    latent_statistics,
)
from flowturbo_core.models.catalog import (
    CATALOGUE,
    bundled_models,
    is_bundled,
    model_folder,
    read_index,
)
from flowturbo_core.models.storage import load_model, named_class, save_model
from flowturbo_core.pipelines.convention import Convention, cosine_with_noise, doubts_of

AUTOENCODERS = (AutoencoderKL, PixelUnshuffleAutoencoderKL)
INDEX = "model_index.json"


class FolderModel:
    """A predictor, perhaps a refiner, and an autoencoder, in a folder of diffusers' layout.

    Subclasses say which other parts there are, and what the folder says beside them.

    Args:
        predictor: the heavy velocity model.
        vae: the autoencoder of its latents.
        refiner: the light model that R blocks need.

    Raises ValueError if the autoencoder is not the one the predictor was trained on.
    """

    # The classes a model_index.json may name for each part; nothing else is ever imported for
    # one. All parts but the refiner must be there; others than these are passed over.
    PART_CLASSES: ClassVar[dict[str, tuple[type, ...]]] = {}
    # What the index may say that it describes.
    INDEX_CLASSES: ClassVar[tuple[str, ...]] = ()
    # What to do about a velocity of the other sign.
    TURNED_SIGN_ADVICE: ClassVar[str] = ""
    # What it says beside its parts: what it must say, and what it may.
    REQUIRED_SETTINGS: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, predictor: ModelMixin, vae: AutoencoderKL, refiner: ModelMixin | None = None
    ):
        self.predictor, self.vae, self.refiner = predictor, vae, refiner
        self.name = ""  # of the folder it was loaded from
        # Why pictures of a folder's model may be noise, or others than expected.
        self.doubts: tuple[str, ...] = ()
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
        return self

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of one image's latents."""
        config = self.predictor.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def factor(self) -> int:
        """The pixels a side that the autoencoder makes one latent of."""
        return downsampling_factor(self.vae)

    @property
    def image_size(self) -> int:
        """The side, in pixels, of the images that the predictor was trained on."""
        return self.latent_shape[-1] * self.factor

    @property
    def has_refiner(self) -> bool:
        """Whether it can take refiner steps."""
        return self.refiner is not None

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

    def measure_doubts(self) -> tuple[str, ...]:
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
        parts = cls._load_parts(folder, index)
        settings = cls._read_settings(folder, index, convention)
        try:
            pipeline = cls(**parts, **settings).to(device, dtype)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        pipeline.name = folder.resolve().name
        measured = () if convention.is_said else pipeline.measure_doubts()
        pipeline.doubts = (*convention.doubts, *measured)
        return pipeline

    @classmethod
    def _load_parts(cls, folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
        """Load the parts that an index names, by their names there."""
        for name in cls.PART_CLASSES:
            if name not in index and name != "refiner":
                raise ValueError(f"{folder / INDEX} names no {name}")
        return {
            name: cls.load_part(*_find_part(folder, name, index[name], allowed))
            for name, allowed in cls.PART_CLASSES.items()
            if name in index
        }

    @classmethod
    def _read_settings(
        cls, folder: Path, index: Mapping[str, Any], convention: Convention
    ) -> dict[str, Any]:
        """Return what an index says beside its parts; a velocity is that of the convention."""
        for name in cls.REQUIRED_SETTINGS:
            if name not in index:
                raise ValueError(f"{folder / INDEX} has no {name}")
        names = (*cls.REQUIRED_SETTINGS, *cls.SETTINGS)
        found = {"velocity": convention.velocity} if "velocity" in names else {}
        return {name: index[name] for name in names if name in index} | found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a complete model folder, every part included, in the number format they have."""
        folder = Path(folder)
        if self.predictor.config.get("autoencoder_hash") is not None:
            # In another number format than it was loaded in, the autoencoder's hash is another.
            self.predictor.register_to_config(autoencoder_hash=autoencoder_hash(self.vae))
        parts = self.parts()
        for name, part in parts.items():
            self.save_part(part, folder / name)
        index = {
            "_class_name": type(self).__name__,
            "_diffusers_version": diffusers.__version__,
            **{name: _describe_part(part) for name, part in parts.items()},
            **{name: getattr(self, name) for name in (*self.REQUIRED_SETTINGS, *self.SETTINGS)},
        }
        write_json(index, folder / INDEX)


def _describe_part(part: object) -> list[str]:
    """Return the entry of a part in an index, [library, class]; our own are named by module."""
    module = type(part).__module__
    library = module.partition(".")[0]
    is_known = library in ("diffusers", "transformers")
    return [library if is_known else module, type(part).__name__]


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
