"""Writes files whole or not at all, and refuses early what cannot be written."""

import errno
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from flowturbo_core.checks import in_short

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REASONS = {
    errno.EACCES: "its folder does not allow it",
    errno.EPERM: "its folder does not allow it",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EEXIST: "a file is in its place",
    errno.EISDIR: "a folder is in its place",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk fails",
    errno.EINVAL: "the disk does not take such a name",
}
# What libraries that write by themselves say: safetensors of a full disk, torch of any that fails.
_SAID_FULL = re.compile(r"os error (28|122|27)\b|No space left")
_BROKE_OFF = re.compile(r"file write failed|iostream error|unexpected pos \d+ vs \d+")


class Unwritable(ValueError):
    """The disk is full, or refuses what is to be written."""


@contextmanager
def written_whole(file: Path, only_new: bool = False, named: Path | None = None) -> Iterator[Path]:
    """Yield a path to write a file or folder to, which becomes `file` when the block ends.

    The path is beside `file`, and the folder is made. If the block raises, nothing of the new file
    is left, no folder either, and an older `file` stays as it was. A link keeps its target. Raises
    Unwritable, in one sentence about `named` or `file`, if the disk is full or refuses. With
    `only_new`, raises FileExistsError if `file` is there by then.
    """
    target = Path(os.path.realpath(file))
    partial = target.with_name(f"{target.stem[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    missing = _find_missing(target.parent)
    try:
        with writing(file if named is None else named):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if not only_new:
                os.replace(partial, target)
        if only_new:
            os.link(partial, target)  # of several at once, one is first
    finally:
        _remove(partial)
        _remove_empty(missing)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk refuses inside into an Unwritable of one sentence that names `path`."""
    try:
        yield
    except Exception as error:
        reason = _reason(error, path)
        if reason is None:
            raise
        raise Unwritable(f"{path} cannot be written: {reason}") from error


def write_text(text: str, file: Path) -> None:
    """Write a text to `file`, whole or not at all."""
    with written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(content: dict[str, Any], file: Path) -> None:
    """Write `content` to `file`, whole or not at all."""
    write_text(json.dumps(content, indent=2) + "\n", file)


def save_arrays(arrays: Mapping[str, Any], file: Path) -> None:
    """Write arrays to a .npz file, whole or not at all."""
    with written_whole(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def read_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays, each of at least one dimension, of a .npz file.

    Returns None if the file is missing, or was damaged after it was written.
    """
    try:
        with np.load(file) as arrays:
            return {name: np.atleast_1d(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def check_file(file: Path) -> None:
    """Raise ValueError for what cannot be written as a file, before anything is done for it."""
    with writing(file):
        if file.is_dir() or not file.name:
            raise ValueError(f"{file} is a folder; name a file")
        if file.exists() and not file.is_file():
            raise ValueError(f"{file} is no file but a device; name a file")
    check_folder(Path(os.path.realpath(file)).parent)


def check_folder(folder: Path) -> None:
    """Raise ValueError for what cannot be a folder of new files, before anything is done for it.

    The check makes the folder and a file in it, and removes both again.
    """
    with writing(folder):
        missing = _find_missing(folder)
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise ValueError(f"{folder} cannot be a folder: {existing} is a file")
        tried = folder / f".{os.getpid()}.{secrets.token_hex(4)}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tried.write_bytes(b"")
        except FileNotFoundError as error:  # of a place such as /proc
            raise ValueError(f"{folder} cannot be written: {existing} takes no files") from error
        finally:
            tried.unlink(missing_ok=True)
            _remove_empty(missing)


def _reason(error: BaseException, path: Path) -> str | None:
    """Return why the disk refuses, if `error` says that it does."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or _SAID_FULL.search(str(error)):
        return f"the disk is full, of which {_megabytes_left(path)} are left"
    if isinstance(error, RuntimeError) and _BROKE_OFF.search(str(error)):
        return f"writing broke off, and {_megabytes_left(path)} of the disk are left"
    return _REASONS.get(number)


def _megabytes_left(path: Path) -> str:
    existing = next(p for p in Path(os.path.realpath(path)).parents if p.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:,.1f} MB"


def _find_missing(folder: Path) -> list[Path]:
    """Return the folders that are not there yet: this one first, then those above it."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something may be in it by now
            folder.rmdir()


def _remove(partial: Path) -> None:
    with suppress(OSError):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`; raises ValueError, naming it, for anything else."""
    if not file.exists():
        raise ValueError(f"there is no file {file}")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors write a mark
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {in_short(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, not a {type(content).__name__}")
    return content


def user_cache() -> Path:
    """Return the folder for what the project keeps of a person's own.

    Of a user whom the system knows no home of, as in some containers, it is one that is not there
    and cannot be: nothing is found in it, and `check_user_cache` says why nothing can be kept.
    """
    return (_caches() or Path(os.devnull)) / "flowturbo-studio"


def check_user_cache() -> None:
    """Raise ValueError if there is no folder for what the project keeps of a person's own."""
    if _caches() is None:
        raise ValueError(
            "this user has no home folder to keep it in: name a folder in the environment variable "
            "XDG_CACHE_HOME"
        )


def _caches() -> Path | None:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor the system's list of users says
        return None
