"""Memory that runs out is an error of the one request, and not the end of the program."""

import os
import sys
from pathlib import Path

# What a container may hold, as either version of Linux's control groups says it.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def fail_beyond_memory() -> None:
    """Let allocations fail that this machine, or the container, has no memory for.

    Linux grants them, and ends the program once they are filled. Models on a CPU then raise, and
    the program goes on.
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
