"""torch.compile, where it works; and what FlowTurbo compiles: one block, whole.

Velocity, guidance and the solver's arithmetic of a block become one program (sample-aware
compilation, 2409.18128, section 3.4). Times and guidance scale reach it as 0-d tensors, so that
no setting but the shape of the batch makes it compile again.
"""

from collections.abc import Callable
from functools import cache

import torch

from flowturbo_core.steps import State

# Of blocks that do not read the velocity they are handed: they are handed none, or the first
# block of a plan, which has none yet, would be another program.
_READ_NO_VELOCITY = {"E", "H"}


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


def compile_block(kind: str, step: Callable[..., State]) -> Callable[..., State]:
    """Return `step` (state, t, dt, condition, guidance_scale) of blocks `kind`, compiled whole."""
    program = torch.compile(step, dynamic=False)
    if kind not in _READ_NO_VELOCITY:
        return program
    return lambda state, *arguments: program(State(state.x), *arguments)
