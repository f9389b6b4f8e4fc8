"""torch.compile, where it works."""

from functools import cache

import torch


@cache
def can_compile(device_type: str) -> bool:
    """Tell whether torch.compile works on `device_type`, by compiling a sum, in a few seconds.

    What it needs (a C++ compiler and Python's headers on a CPU, Triton on a GPU) differs by
    version, so it is tried rather than looked for.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device_type))
    except Exception:  # noqa: BLE001 - a missing tool shows in many ways
        return False
    return True
