"""Pictures that a visitor sends: files that Gradio put into its folder, and nothing else."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder

_UPLOAD = "A picture must be uploaded: no path and no address is opened"


def find_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the path of a file in place of what Gradio says of it.

    A visitor's own path or address is never opened: raises ValueError for a file elsewhere.
    """
    return {name: _find(value) if _is_file(value) else value for name, value in values.items()}


def refuse_addresses(sent: object) -> None:
    """Raise a refusal if a file that was sent is an address: Gradio would fetch it."""
    if isinstance(sent, Mapping):
        if "://" in str(sent.get("path")):
            raise gr.Error(_UPLOAD, print_exception=False)
        sent = sent.values()
    if isinstance(sent, Iterable) and not isinstance(sent, str | bytes):
        for item in sent:
            refuse_addresses(item)


def read_files(controls: Mapping[str, Component], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of controls of which each gives one field."""
    return find_files(values)


def _is_file(value: object) -> bool:
    return isinstance(value, Mapping) and "path" in value


def _find(value: Mapping[str, Any]) -> Path:
    path = Path(str(value["path"]))
    if not path.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise ValueError(_UPLOAD)
    return path
