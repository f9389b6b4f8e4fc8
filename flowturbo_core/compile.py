"""Compiles one block whole, as FlowTurbo does, where torch.compile works.

Velocity, guidance and the arithmetic of the solver become one program (sample-aware compilation,
2409.18128, section 3.4). Times and guidance scale reach it as 0-d tensors. Only another shape of
the batch compiles it again.
"""

from collections.abc import Callable
from functools import cache

import torch

from flowturbo_core.steps import State

# These blocks do not read the carried velocity, and so get none. The first block of a plan has none
# yet: with and without it, they would be two programs.
_READ_NO_VELOCITY = {"E", "H"}


@cache
def can_compile(device_type: str) -> bool:
    """Tell whether torch.compile works on `device_type`, by compiling a sum, in a few seconds.

    It needs a C++ compiler and Python's headers on a CPU, Triton on a GPU. The needs differ by
    version, so this tries instead of looking for them.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device_type))
    except Exception:  # noqa: BLE001 - a missing tool shows in many ways
        return False
    return True


def compile_block(kind: str, step: Callable[..., State]) -> Callable[..., State]:
    """Return `step` (state, t, dt, condition, guidance_scale) of blocks `kind`, compiled whole."""
    program = torch.compile(step, dynamic=False)
    if kind not in _READ_NO_VELOCITY:
        return program
    return lambda state, *arguments: program(State(state.x), *arguments)
