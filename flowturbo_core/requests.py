"""What a person asked for, validated once, here: interfaces can be bypassed, this cannot.

Every refusal is a ValueError of one sentence with the offending value and what is allowed.
"""

import numbers
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

from flowturbo_core.checks import brief, real_number, unknown, whole_number
from flowturbo_core.plan import SamplePlan

MAX_GUIDANCE_SCALE = 15
MAX_SEED = 2**32 - 1
MAX_IMAGES = 256
MAX_SIDE = 2048  # pixels
MAX_PIXELS = 16_777_216  # of all images of one request: sixteen of 1024 x 1024
MAX_TEXT = 2000  # characters; tokenizers' windows are far shorter


@dataclass(frozen=True)
class ClassConditionalRequest:
    """Images of classes.

    Args:
        class_labels: one label, from 0, for each group of images.
        plan: how to sample.
        guidance_scale: strength of classifier-free guidance; 1 is none, 0 leaves the class out.
        num_images: images for each label.
        seed: image k of the request draws its noise from seed + k.
    """

    THING: ClassVar = "class"

    class_labels: tuple[int, ...]
    plan: SamplePlan
    guidance_scale: float
    num_images: int
    seed: int

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of every image, in order."""
        return tuple(label for label in self.class_labels for _ in range(self.num_images))

    @classmethod
    def create(
        cls,
        class_labels: Sequence[int],
        plan: SamplePlan | str,
        guidance_scale: float,
        num_images: int,
        seed: int,
        class_names: Sequence[str],
    ) -> "ClassConditionalRequest":
        """Build a request from unchecked values, for a model whose classes are `class_names`.

        A class label is a whole number or one of the names.
        """
        if isinstance(class_labels, str | numbers.Real):
            class_labels = [class_labels]
        # Bytes would be numbers, and neither a mapping nor a set has an order of its images.
        ordered = not isinstance(class_labels, bytes | bytearray | Mapping | Set)
        if not (ordered and isinstance(class_labels, Iterable)):
            raise ValueError(
                f"class_labels must be a list of labels or names, not {brief(class_labels)}"
            )
        labels = tuple(class_label(label, class_names) for label in class_labels)
        if not labels:
            raise ValueError("choose at least one class; the list of classes is empty")
        images, first = _images_and_seed(num_images, len(labels), seed)
        return cls(
            labels,
            plan if isinstance(plan, SamplePlan) else SamplePlan.parse(plan),
            real_number("guidance_scale", guidance_scale, 0, MAX_GUIDANCE_SCALE),
            images,
            first,
        )


@dataclass(frozen=True)
class TextToImageRequest:
    """Images of prompts.

    Args:
        prompts: what to show, one text for each group of images.
        negative_prompt: what guidance leads away from; empty for the usual "no text".
        plan: how to sample.
        guidance_scale: strength of classifier-free guidance; 1 is none, 0 leaves the prompt out.
        num_images: images for each prompt.
        seed: image k of the request draws its noise from seed + k.
        height: of each image, in pixels.
        width: of each image, in pixels.
    """

    THING: ClassVar = "prompt"

    prompts: tuple[str, ...]
    negative_prompt: str
    plan: SamplePlan
    guidance_scale: float
    num_images: int
    seed: int
    height: int
    width: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt of every image, in order."""
        return tuple(prompt for prompt in self.prompts for _ in range(self.num_images))

    @classmethod
    def create(
        cls,
        prompt: str | Sequence[str],
        negative_prompt: str,
        plan: SamplePlan | str,
        guidance_scale: float,
        num_images: int,
        seed: int,
        height: int,
        width: int,
        multiple: int = 8,
    ) -> "TextToImageRequest":
        """Build a request from unchecked values; sides must be multiples of `multiple`."""
        prompts = (prompt,) if isinstance(prompt, str) else prompt
        if not isinstance(prompts, Sequence) or isinstance(prompts, bytes | bytearray):
            raise ValueError(f"prompt must be a text, or a list of them, not {brief(prompt)}")
        prompts = tuple(one_line("prompt", text) for text in prompts)
        if not prompts or not all(prompts):
            raise ValueError("write a prompt: what should the picture show?")
        images, first = _images_and_seed(num_images, len(prompts), seed)
        sides = [
            _side(name, value, multiple) for name, value in (("height", height), ("width", width))
        ]
        if (pixels := sides[0] * sides[1] * images * len(prompts)) > MAX_PIXELS:
            raise ValueError(
                f"one request makes at most {MAX_PIXELS / 1e6:.1f} million pixels, not "
                f"{pixels / 1e6:.1f}: ask for smaller or fewer images"
            )
        return cls(
            prompts,
            one_line("negative_prompt", negative_prompt),
            plan if isinstance(plan, SamplePlan) else SamplePlan.parse(plan),
            real_number("guidance_scale", guidance_scale, 0, MAX_GUIDANCE_SCALE),
            images,
            first,
            *sides,
        )


Request = ClassConditionalRequest | TextToImageRequest


def _images_and_seed(num_images: object, groups: int, seed: object) -> tuple[int, int]:
    """Return the images of each group, and the first seed; there must be one for each image."""
    images = whole_number("num_images", num_images, 1, MAX_IMAGES)
    if images * groups > MAX_IMAGES:
        raise ValueError(f"one request makes at most {MAX_IMAGES} images, not {images * groups}")
    first = whole_number("seed", seed, 0, MAX_SEED)
    if first + images * groups - 1 > MAX_SEED:
        raise ValueError(
            f"seed must leave room for one seed an image up to {MAX_SEED}; from {first}, "
            f"{images * groups} images go beyond"
        )
    return images, first


def one_line(name: str, value: object) -> str:
    """Return a text on one line, without the blanks around it."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {brief(value)}")
    if len(value) > MAX_TEXT:
        raise ValueError(f"{name} has {len(value):,} characters; at most {MAX_TEXT:,} are read")
    # Cc: control characters; Cs: halves of characters, which no file and no model can hold. U+FEFF
    # is the mark at the start of a file, and is left in the middle of files that were joined.
    wrong = [
        c
        for c in value
        if c == "\ufeff" or (unicodedata.category(c) in ("Cc", "Cs") and not c.isspace())
    ]
    if wrong:
        raise ValueError(f"{name} holds the control character {wrong[0]!r}; write text alone")
    return " ".join(value.split())


def _side(name: str, value: object, multiple: int) -> int:
    side = whole_number(name, value, multiple, MAX_SIDE)
    if side % multiple:
        raise ValueError(f"{name} must be a multiple of {multiple}, not {side}")
    return side


def class_label(value: object, class_names: Sequence[str]) -> int:
    """Return the label that `value`, a label or a class's name, stands for."""
    if isinstance(value, str):
        known = [name.lower() for name in class_names]
        if value.strip().lower() in known:
            return known.index(value.strip().lower())
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise ValueError(unknown("class", value, class_names, "classes")) from None
    return whole_number("class label", value, 0, len(class_names) - 1)


def check_class_names(class_names: object) -> None:
    """Raise ValueError unless these are texts that requests can tell apart, and from labels."""
    if isinstance(class_names, str | bytes) or not isinstance(class_names, Sequence):
        raise ValueError(f"class_names must be a list of names, not {brief(class_names)}")
    seen = set()
    for name in class_names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"each of the class_names must be a text, not {brief(name)}")
        if _is_whole_number(name):
            raise ValueError(f"{brief(name)} in class_names would be mistaken for a label")
        known_as = name.strip().lower()  # as a request looks it up
        if known_as in seen:
            raise ValueError(f"{brief(name)} is in class_names twice")
        seen.add(known_as)


def _is_whole_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
