"""Turns a lack of memory into an error of one request, so that the program goes on."""

import gc
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# The files in which the two versions of Linux's control groups give a container's limit.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_FULL = re.compile("allocate memory|out of memory|ALLOC_FAILED")


def fail_beyond_memory() -> None:
    """Let allocations fail if this machine, or the container, has no memory for them.

    By default Linux grants them, and ends the program once they are filled. After this call models
    on a CPU raise an error instead, and the program goes on.
    """
    if sys.platform != "linux":  # others refuse what they cannot hold by themselves
        return
    import resource  # which Windows does not have

    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    limit = installed_memory()
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, highest))


def installed_memory() -> int:
    """Return the bytes of memory of this machine, or of the container if it may hold less."""
    known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in map(Path, _LIMITS):
        text = file.read_text().strip() if file.is_file() else ""
        known += [int(text)] if text.isdecimal() else []
    return min(known)


@contextmanager
def in_memory(refusal: str) -> Iterator[None]:
    """Raise ValueError, with the sentence `refusal`, if memory runs out inside.

    The memory that was held inside is released.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        # On a CPU, and in the libraries of a GPU, the error has no type of its own.
        if not is_full and not _FULL.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)
    else:
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise ValueError(refusal)
