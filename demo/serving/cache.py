"""The folder of the pictures that are served, and what is removed from it again.

The folder outlives the process, and so do the files of those that were killed. It belongs to this
program alone, as everything old in it is removed: it is a folder of its own in Gradio's.
"""

import errno
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowturbo_core.checks import whole_number

_log = logging.getLogger(__name__)

_NAME = "flowturbo-studio-cache"  # nobody has anything else in a folder of that name
_VARIABLE = "GRADIO_TEMP_DIR"
# What a page shows now is younger. A preview is shown until the next block is done.
GRACE_S = 600
_MOST = 2  # times as many bytes as are kept: then even those go that are younger
_MB = 10**6


@dataclass(frozen=True)
class Keeping:
    """For how long pictures are kept, and how many bytes of them.

    Args:
        hours: whole; a picture asked for again counts as new.
        megabytes: of 10^6 bytes; beyond, the oldest go first.
    """

    hours: int = 24
    megabytes: int = 1000

    def __post_init__(self):
        whole_number("keep-hours", self.hours, 1, 8760)
        whole_number("keep-mb", self.megabytes, 10, 10**6)

    def __str__(self) -> str:
        return f"for {self.hours} h, and up to {self.megabytes:,} MB of them"


@dataclass(frozen=True)
class Swept:
    """What a sweep came to.

    Args:
        num_removed: files that were removed.
        num_young: those among them that a page may still have shown.
        num_left: files that are left.
        num_bytes: what these take.
        troubles: how often which trouble was met, in words.
    """

    num_removed: int
    num_young: int
    num_left: int
    num_bytes: int
    troubles: dict[str, int]


def folder() -> Path:
    """Return the folder, which may not be there yet, of this program's files."""
    base = Path(os.environ.get(_VARIABLE) or Path(tempfile.gettempdir(), "gradio").resolve())
    base = base.absolute()
    return base if base.name == _NAME else base / _NAME


def claim() -> None:
    """Let what Gradio itself writes, such as a visitor's uploads, go to the folder as well.

    Call it before the page is built. Raises ValueError where the folder is a link: what it leads
    to is not this program's.
    """
    own = folder()
    if own.is_symlink():
        raise ValueError(f"{own} is a link; remove it, or set {_VARIABLE} to another folder")
    os.environ[_VARIABLE] = str(own)


def previews() -> Path:
    """Return the folder of what is shown only until the next block is done."""
    return folder() / "previews"


def sweep(keeping: Keeping, keep: Collection[str] = (), now: float | None = None) -> Swept:
    """Remove what is older than is kept, or more than is kept, oldest first; and empty folders.

    Files younger than `GRACE_S` stay, unless there are more than twice as many bytes as are kept:
    then the oldest of these go, too. Files named in `keep` always stay. Links are not followed,
    and what cannot be removed is counted and left: nothing is raised.

    Args:
        keeping: for how long, and how many bytes.
        keep: absolute paths.
        now: seconds since 1970, if it is not now.
    """
    now = time.time() if now is None else now
    troubles: Counter[str] = Counter()
    files = sorted(item for item in _files(folder(), troubles) if item.path not in keep)
    total = sum(item.num_bytes for item in files)
    removed, num_young = 0, 0
    for item in files:
        age = now - item.modified
        most = keeping.megabytes * _MB * (1 if age > GRACE_S else _MOST)
        if not (age > _seconds(item, keeping) or total > most):
            continue
        if _remove(item, troubles):
            total -= item.num_bytes
            removed, num_young = removed + 1, num_young + (age <= GRACE_S)
    _remove_empty(folder(), now, troubles)
    return Swept(removed, num_young, len(files) - removed, total, dict(troubles))


def report(swept: Swept, keeping: Keeping) -> None:
    """Log, in a line each, what went wrong; nothing, if all went as it should."""
    where = folder()
    for trouble, count in swept.troubles.items():
        _log.warning("sweeping %s: %s (%d times)", where, trouble, count)
    if swept.num_young:
        _log.warning(
            "sweeping %s: more than twice the %d MB that are kept were written within %d minutes; "
            "%d pictures that pages may still show were removed",
            where,
            keeping.megabytes,
            GRACE_S // 60,
            swept.num_young,
        )


@dataclass(frozen=True, order=True)
class _File:
    modified: float  # seconds since 1970
    path: str
    num_bytes: int


def _seconds(file: _File, keeping: Keeping) -> float:
    is_preview = Path(file.path).is_relative_to(previews())
    return GRACE_S if is_preview else keeping.hours * 3600


def _files(within: Path, troubles: Counter[str]) -> Iterator[_File]:
    """Yield all files, and links as what they themselves are."""
    try:
        with os.scandir(within) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield from _files(Path(entry.path), troubles)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        yield _File(status.st_mtime, entry.path, status.st_size)
                except FileNotFoundError:  # another process sweeps, too
                    continue
                except OSError as error:
                    troubles[_in_words(error)] += 1
    except FileNotFoundError:
        return
    except OSError as error:
        troubles[_in_words(error)] += 1


def _remove(file: _File, troubles: Counter[str]) -> bool:
    try:
        if os.lstat(file.path).st_mtime != file.modified:  # asked for again meanwhile
            return False
        os.unlink(file.path)
    except FileNotFoundError:
        return True
    except OSError as error:
        troubles[_in_words(error)] += 1
        return False
    return True


def _remove_empty(within: Path, now: float, troubles: Counter[str]) -> None:
    """Remove empty folders, but for those so young that somebody may be about to write there."""
    for path, _, _ in os.walk(within, topdown=False):
        try:
            if Path(path) != within and now - os.lstat(path).st_mtime > GRACE_S:
                os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                troubles[_in_words(error)] += 1


def _in_words(error: OSError) -> str:
    return error.strerror or str(error)
