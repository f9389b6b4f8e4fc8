"""Writes the settings of a picture into a PNG or an address, and reads them back.

Anybody may have written what comes back. It is read with limits on its size, and the type of each
value is checked. `requests` then checks the values, as it does for any other request.
"""

import json
import re
import struct
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlencode

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from flowturbo_core.checks import brief
from flowturbo_core.requests import ClassConditionalRequest, TextToImageRequest

VERSION = 1
_KEY = "flowturbo"
# Of an address: two texts of 2,000 characters, each up to 12 bytes there, and the rest.
_MAX_TEXT = 50_000
_MAX_NAME = 60  # bytes, of a part of a file's name
_MAX_FIELDS = 300
_SIGNATURE, _CHECKSUM = b"\x89PNG\r\n\x1a\n", 4  # bytes, before and after the parts of a PNG
_TEXT_CHUNKS = (b"iTXt", b"tEXt", b"zTXt")


def _text_behind(picture: PngImageFile) -> str | None:
    """Return the settings that stand behind the pixels, where other programs write texts.

    The pixels are passed over, as is every text of another name; Pillow's limits hold for ours.
    """
    chunks, stream = picture.png, picture.fp
    stream.seek(len(_SIGNATURE))
    begin = f"{_KEY}\0".encode()
    try:
        while True:
            kind, start, length = chunks.read()
            is_ours = kind in _TEXT_CHUNKS and stream.read(len(begin)) == begin
            if is_ours:
                stream.seek(start)
                chunks.call(kind, start, length)
                return chunks.im_text.get(_KEY)
            if kind == b"IEND":
                return None
            stream.seek(start + length + _CHECKSUM)
    except (struct.error, SyntaxError):  # it ends before its end, or goes on as no PNG
        return None


class _Portable:
    """What the settings of every task share.

    The field `THINGS` holds the classes or the texts that the pictures show. An address has one
    parameter `THING` for each. `KINDS` has the types of all other fields.
    """

    THINGS: ClassVar[str]
    THING: ClassVar[str]
    KINDS: ClassVar[dict[str, type]]
    TASK: ClassVar[str]

    @property
    def things(self) -> tuple[str, ...]:
        """Return the classes or texts that the pictures show, in order."""
        return getattr(self, self.THINGS)

    def of_picture(self, index: int) -> Self:
        """Return the settings that make picture `index` alone."""
        own = {self.THINGS: (self.things[index // self.num_images],), "num_images": 1}
        return replace(self, **own, seed=self.seed + index)

    @property
    def file_name(self) -> str:
        """The name for the file of the first picture, without an ending."""
        return f"{safe_name(self.things[0])}-{safe_name(self.plan)}-seed{self.seed}"

    def png_info(self, versions: Mapping[str, str]) -> PngInfo:
        """Return the PNG text that carries these settings, with what made the picture."""
        info = PngInfo()
        content = {"version": VERSION, **asdict(self), "versions": dict(versions)}
        info.add_itxt(_KEY, json.dumps(content, ensure_ascii=False))
        return info

    @classmethod
    def from_png(cls, file: Path | str) -> Self:
        """Read the settings of a picture made here. Raises ValueError, in one sentence."""
        try:
            with warnings.catch_warnings():
                # Its size does not matter: nothing but its texts is decoded, which have limits.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file, formats=["PNG"]) as picture:
                    text = picture.info.get(_KEY) or _text_behind(picture)
        except Image.DecompressionBombError as error:
            raise ValueError("this picture has far more pixels than any made here") from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ValueError("this file is not a PNG picture that can be read") from error
        if text is None:
            raise ValueError(
                "this picture carries no settings: it was not made here, or was saved without them"
            )
        if not isinstance(text, str):
            raise ValueError("the picture's settings are damaged: they are no text")
        return cls.from_text(text)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `png_info` wrote. Raises ValueError, in one sentence."""
        if len(text) > _MAX_TEXT:
            raise ValueError(f"the picture's settings are longer than {_MAX_TEXT} characters")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError("the picture's settings are damaged: they are not JSON") from error
        if not isinstance(content, dict):
            raise ValueError("the picture's settings are damaged: they are not a JSON object")
        version = content.get("version")
        if version != VERSION or isinstance(version, bool):
            raise ValueError(
                f"the picture's settings are of version {brief(version)}, and this page reads "
                f"version {VERSION}"
            )
        if cls.THINGS not in content:
            for other in (Settings, TextSettings):
                if other.THINGS in content:
                    raise ValueError(f"this picture is of {other.TASK}, not of {cls.TASK}")
        values = {}
        for field in fields(cls):
            if field.name not in content:
                raise ValueError(f"the picture's settings lack {field.name}")
            values[field.name] = content[field.name]
        return cls._checked(values)

    def to_query(self) -> str:
        """Return the query of an address that restores these settings."""
        pairs = [(self.THING, text) for text in self.things]
        pairs += [(name, str(getattr(self, name))) for name in self.KINDS]
        return urlencode(pairs)

    @classmethod
    def from_query(cls, query: str, default: Self) -> Self | None:
        """Read the query of an address; None if it names no setting, or those of another task.

        `default` has the values of missing settings. Unknown names are ignored, because browsers
        and hosts add their own. Raises ValueError, in one sentence.
        """
        if len(query) > _MAX_TEXT:
            raise ValueError(f"the address's settings are longer than {_MAX_TEXT} characters")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        except ValueError as error:
            raise ValueError(f"the address has more than {_MAX_FIELDS} settings") from error
        named = {name for name, _ in pairs}
        if {Settings.THING, TextSettings.THING} <= named:
            raise ValueError("the address names both a class and a prompt; name one of them")
        if any(other.THING in named for other in (Settings, TextSettings) if other is not cls):
            return None
        if not named & {cls.THING, *cls.KINDS}:
            return None
        values = asdict(default)
        things = tuple(value for name, value in pairs if name == cls.THING)
        if things:
            values[cls.THINGS] = things
        for name, value in pairs:
            if name in cls.KINDS:
                values[name] = _converted(name, value, cls.KINDS[name])
        return cls._checked(values)

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> Self:
        texts = values[cls.THINGS]
        is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
        if not is_list or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{cls.THINGS} must be a list of texts, not {brief(texts)}")
        for name, kind in cls.KINDS.items():
            value = values[name]
            allowed = (int, float) if kind is float else kind
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError(f"{name} must be {_IN_WORDS[kind]}, not {brief(value)}")
        return cls(**{**values, cls.THINGS: tuple(texts)})


_KINDS = {
    "model": str,
    "plan": str,
    "guidance_scale": float,
    "num_images": int,
    "seed": int,
}


@dataclass(frozen=True)
class Settings(_Portable):
    """All that makes a picture of a class again.

    Args:
        model: the model's name.
        class_names: the classes, in order.
        plan: a plan such as H1P5R3.
        guidance_scale: the guidance scale.
        num_images: images of each class.
        seed: the seed; image k of them all draws its noise from seed + k.
    """

    THINGS: ClassVar = "class_names"
    THING: ClassVar = "class"
    KINDS: ClassVar = _KINDS
    TASK: ClassVar = "classes"

    model: str
    class_names: tuple[str, ...]
    plan: str
    guidance_scale: float
    num_images: int
    seed: int

    @classmethod
    def of(cls, model: str, request: ClassConditionalRequest, class_names: Sequence[str]) -> Self:
        """Return the settings of a request to a model with these classes."""
        return cls(
            model,
            tuple(class_names[label] for label in request.class_labels),
            str(request.plan),
            request.guidance_scale,
            request.num_images,
            request.seed,
        )


@dataclass(frozen=True)
class TextSettings(_Portable):
    """All that makes a picture of a text again.

    Args:
        model: the model's name.
        prompts: the texts, in order.
        negative_prompt: what guidance leads away from.
        plan: a plan such as H1P6R3.
        guidance_scale: the guidance scale.
        num_images: images of each prompt.
        seed: the seed; image k of them all draws its noise from seed + k.
        height: of each image, in pixels.
        width: of each image, in pixels.
    """

    THINGS: ClassVar = "prompts"
    THING: ClassVar = "prompt"
    KINDS: ClassVar = _KINDS | {"negative_prompt": str, "height": int, "width": int}
    TASK: ClassVar = "texts"

    model: str
    prompts: tuple[str, ...]
    negative_prompt: str
    plan: str
    guidance_scale: float
    num_images: int
    seed: int
    height: int
    width: int

    @classmethod
    def of(cls, model: str, request: TextToImageRequest) -> Self:
        """Return the settings of a request to a model."""
        return cls(
            model,
            request.prompts,
            request.negative_prompt,
            str(request.plan),
            request.guidance_scale,
            request.num_images,
            request.seed,
            request.height,
            request.width,
        )


AnySettings = Settings | TextSettings
# All that an address may say of any task.
QUERY_NAMES = sorted({Settings.THING, *Settings.KINDS, TextSettings.THING, *TextSettings.KINDS})


def model_in(query: str) -> str | None:
    """Return the model that the query of an address names; None if it names none, or too much."""
    try:
        return dict(parse_qsl(query, max_num_fields=_MAX_FIELDS)).get("model")
    except ValueError:
        return None


def is_of_texts(query: str, models: Collection[str] = ()) -> bool:
    """Tell whether an address's query names what only texts have, or one of their `models`."""
    try:
        named = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        return False
    own = {TextSettings.THING, *TextSettings.KINDS} - {Settings.THING, *Settings.KINDS}
    is_theirs = named.get("model") in models or not own.isdisjoint(named)
    return is_theirs and Settings.THING not in named


_IN_WORDS = {str: "a text", float: "a number", int: "a whole number"}


def _converted(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} must be {_IN_WORDS[kind]}, not {brief(text)}") from None


def safe_name(text: str) -> str:
    """Return `text` as a part of a file's name that every system takes."""
    name = re.sub(r"[^\w-]+", "-", text).strip("-").encode()[:_MAX_NAME]
    return name.decode(errors="ignore") or "picture"
