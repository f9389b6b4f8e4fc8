"""Keeps the finished parts of a long run in a folder, so that a killed run can go on."""

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
    """A folder of numbered parts of one run, and the settings of that run.

    Several processes may add parts. A part is whole, or it is not there.
    """

    folder: Path

    def claim(self, settings: dict[str, Any]) -> None:
        """Claim the folder for the run with these settings, if it is not claimed already.

        Raises ValueError if a run with other settings claimed it, or if it holds other files.
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
            names = _find_differences(file, json.loads(text))
            if names:
                raise ValueError(
                    f"{self.folder} holds a run with other settings ({', '.join(names)}); finish "
                    "that one, remove the folder, or name another file"
                ) from None

    def read(self, number: int) -> dict[str, np.ndarray] | None:
        """Return the arrays of a part, each of at least one dimension.

        Returns None if the part is missing, or was damaged after it was written.
        """
        return read_arrays(self._file(number))

    def save(self, number: int, arrays: dict[str, Any]) -> None:
        """Write a part whole, or not at all."""
        save_arrays(arrays, self._file(number))

    def make_once(
        self, number: int, doing: str, make: Callable[[], dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        """Return the arrays of a part; if it is missing, print `doing`, make it and save it."""
        part = self.read(number)
        if part is None:
            print(doing, flush=True)
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


def _find_differences(file: Path, settings: dict[str, Any]) -> list[str]:
    """Return the names of the settings that differ from those in a file; all if it is damaged."""
    try:
        there = json.loads(file.read_text())
    except ValueError:
        there = {}
    return [name for name, value in settings.items() if there.get(name) != value]
