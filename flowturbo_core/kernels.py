"""The blocks of a pipeline's velocities, eager and compiled, and what of them has run."""

from collections.abc import Callable, Hashable
from typing import Any

from flowturbo_core.sampler import Step, Velocities, build_steps


class Kernels:
    """Blocks that are bound and compiled once, and warmed up once for each shape.

    They are valid as long as the weights stay where and as they are: whoever moves or changes
    them calls `reset`.
    """

    def __init__(self) -> None:
        self._steps: dict[tuple[Velocities, bool], dict[str, Step]] = {}
        self._warm: set[Hashable] = set()

    def steps(self, velocities: Velocities, compiled: bool) -> dict[str, Step]:
        """Return the blocks of `velocities` by their kind, the same ones each time."""
        key = velocities, compiled
        if key not in self._steps:
            self._steps[key] = build_steps(velocities, compiled)
        return self._steps[key]

    def warm_up(self, key: Hashable, run: Callable[[], Any]) -> None:
        """Call `run` unless what `key` names has already run."""
        if key not in self._warm:
            run()
            self._warm.add(key)

    def reset(self) -> None:
        """Forget all blocks and what has run."""
        self._steps.clear()
        self._warm.clear()
