"""Writes the request of a picture into a PNG or an address, and reads its values back.

Anybody may have written what comes back. It is read with limits on its size, and names are all that
is checked here: `Request.read` checks the values, as it does for any other request.
"""

import json
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from flowturbo_core.checks import brief, unknown
from flowturbo_core.fields import Field
from flowturbo_core.requests import GENERATE, SUBJECTS, TASKS, Request, Subject, fields_of

VERSION = 1
_KEY = "flowturbo"
# Of an address: two texts of 2,000 characters, each up to 12 bytes there, and the rest.
_MAX_TEXT = 50_000
_MAX_NAME = 60  # bytes, of a part of a file's name
_MAX_FIELDS = 300
_SIGNATURE, _CHECKSUM = b"\x89PNG\r\n\x1a\n", 4  # bytes, before and after the parts of a PNG
_TEXT_CHUNKS = (b"iTXt", b"tEXt", b"zTXt")


@dataclass(frozen=True)
class Written:
    """What a picture or an address says of a request.

    Args:
        subject: what is drawn; None where an address names nothing that only one subject has.
        task: what is done.
        model: the model's name, if it is named.
        values: unchecked, by the names of their fields.
        place: where it stands, in words.
    """

    subject: type[Subject] | None
    task: type
    model: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)
    place: str = field(default="picture", compare=False)


def file_name(request: Request) -> str:
    """Return a name for the file of the first picture, without an ending."""
    thing, plan = safe_name(request.subject.things[0]), safe_name(str(request.plan))
    return f"{thing}-{plan}-seed{request.seed}"


def png_info(request: Request, versions: Mapping[str, str]) -> PngInfo:
    """Return the PNG text that carries a request, with what made the picture."""
    info = PngInfo()
    content = {"version": VERSION, **request.to_json(), "versions": dict(versions)}
    info.add_itxt(_KEY, json.dumps(content, ensure_ascii=False))
    return info


def read_png(file: Path | str) -> Written:
    """Read what a picture made here says. Raises ValueError, in one sentence."""
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
    return read_text(text)


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


def read_text(text: str) -> Written:
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
    task = _task(content.get("task", GENERATE.NAME))  # the first pictures did not say it
    named = [subject for subject in SUBJECTS if subject.field().name in content]
    if len(named) != 1:
        names = [subject.field().name for subject in SUBJECTS]
        fault = f"hold both {' and '.join(names)}" if named else f"lack {' or '.join(names)}"
        raise ValueError(f"the picture's settings {fault}")
    (subject,) = named
    for name in ("model", *fields_of(subject, task)):
        if name not in content:
            raise ValueError(f"the picture's settings lack {name}")
    if not isinstance(content["model"], str):
        raise ValueError(f"model must be a text, not {brief(content['model'])}")
    values = {name: content[name] for name in fields_of(subject, task)}
    return Written(subject, task, content["model"], values)


def to_query(request: Request) -> str:
    """Return the query of an address that restores a request."""
    subject, task, values = type(request.subject), type(request.task), request.to_json()
    things = subject.field()
    pairs = [(things.address, thing) for thing in request.subject.things]
    pairs += [(name, values[name]) for name in ("model", "task")]
    pairs += [
        (field.address, str(values[name]))
        for name, field in fields_of(subject, task).items()
        if name != things.name
    ]
    return urlencode(pairs)


def read_query(query: str) -> Written | None:
    """Read the query of an address; None if it names no setting.

    Unknown names are ignored, because browsers and hosts add their own. Raises ValueError, in one
    sentence.
    """
    if len(query) > _MAX_TEXT:
        raise ValueError(f"the address's settings are longer than {_MAX_TEXT} characters")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise ValueError(f"the address has more than {_MAX_FIELDS} settings") from error
    named = dict(pairs)
    if named.keys().isdisjoint(query_names()):
        return None
    if all(item.field().address in named for item in SUBJECTS):
        both = " and a ".join(item.field().address for item in SUBJECTS)
        raise ValueError(f"the address names both a {both}; name one of them")
    task = _task(named.get("task", GENERATE.NAME))
    subject = _subject_named(named, task)
    fields = {item.address: item for item in fields_of(subject or SUBJECTS[0], task).values()}
    values = {
        item.name: item.kind.parse(named[address])
        for address, item in fields.items()
        if address in named
    }
    if subject is not None and (things := subject.field()).address in named:
        values[things.name] = tuple(value for name, value in pairs if name == things.address)
    return Written(subject, task, named.get("model"), values, "address")


def model_in(query: str) -> str | None:
    """Return the model that the query of an address names; None if it names none, or too much."""
    try:
        return dict(parse_qsl(query, max_num_fields=_MAX_FIELDS)).get("model")
    except ValueError:
        return None


def _subject_named(named: Mapping[str, str], task: type) -> type[Subject] | None:
    """Return the subject whose things are named, or else the only one that has such a name."""
    for item in SUBJECTS:
        if item.field().address in named:
            return item
    for item in SUBJECTS:
        others = {name for other in SUBJECTS if other is not item for name in _names(other, task)}
        if not named.keys().isdisjoint(_names(item, task) - others):
            return item
    return None


def _names(subject: type[Subject], task: type) -> set[str]:
    fields: Mapping[str, Field] = fields_of(subject, task)
    return {item.address for item in fields.values()}


def query_names() -> list[str]:
    """Return all that an address may say of any request."""
    names = (_names(subject, task) for subject in SUBJECTS for task in TASKS.values())
    return sorted({"model", "task"}.union(*names))


def _task(name: object) -> type:
    task = TASKS.get(name) if isinstance(name, str) else None
    if task is None:
        raise ValueError(unknown("task", name, list(TASKS)))
    return task


def safe_name(text: str) -> str:
    """Return `text` as a part of a file's name that every system takes."""
    name = re.sub(r"[^\w-]+", "-", text).strip("-").encode()[:_MAX_NAME]
    return name.decode(errors="ignore") or "picture"
