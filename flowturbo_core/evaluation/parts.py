"""What is done of a long run, kept in a folder, so that a run that was killed goes on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowturbo_core.files import read_arrays, save_arrays, writing, written_whole

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Parts:
    """A folder of numbered parts, and the settings of the one run that they are of.

    Several processes may add parts; each is whole or not there.
    """

    folder: Path

    def claim(self, settings: dict[str, Any]) -> None:
        """Make the folder this run's, or find that it already is.

        Raises ValueError if it is another's: one with other settings, or no run's at all.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        file, text = self.folder / _SETTINGS, json.dumps(settings, indent=2)
        foreign = [p.name for p in self.folder.iterdir() if p.suffix != ".partial"]
        if foreign and not file.exists():
            raise ValueError(
                f"{self.folder} holds {foreign[0]}, which no run left there; name another file"
            )
        try:
            with written_whole(file, only_new=True) as partial:
                partial.write_text(text)
        except FileExistsError:
            names = _differing(file, json.loads(text))
            if names:
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(names)}); finish "
                    "that one, remove the folder, or name another file"
                ) from None

    def read(self, number: int) -> dict[str, np.ndarray] | None:
        """Return a part's arrays, each of at least one dimension; None if it must be done (again).

        A part that is there and cannot be read was damaged after it was written.
        """
        return read_arrays(self._file(number))

    def save(self, number: int, arrays: dict[str, Any]) -> None:
        """Write a part whole, or not at all."""
        save_arrays(arrays, self._file(number))

    def once(self, number: int, make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
        """Return a part's arrays; where there is none yet, what `make` returns, which is kept."""
        part = self.read(number)
        if part is None:
            part = make()
            self.save(number, part)
        return part

    def gather(self, count: int) -> dict[str, np.ndarray]:
        """Return the arrays of all parts, end to end. Raises ValueError if one is missing."""
        parts = [self.read(number) for number in range(count)]
        missing = [number for number, part in enumerate(parts) if part is None]
        if missing:
            raise ValueError(f"{self.folder} has no readable part {missing[0]} of {count}")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def remove(self) -> None:
        """Remove the run and, if nothing else is there, its folder."""
        if not (self.folder / _SETTINGS).exists():
            return
        for file in (*self.folder.glob("*.npz"), *self.folder.glob("*.partial")):
            file.unlink(missing_ok=True)
        (self.folder / _SETTINGS).unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def _differing(file: Path, settings: dict[str, Any]) -> list[str]:
    """Return the names of the settings in which a file differs; of a damaged one, all."""
    try:
        there = json.loads(file.read_text())
    except ValueError:
        there = {}
    return [name for name, value in settings.items() if there.get(name) != value]
