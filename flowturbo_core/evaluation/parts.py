"""What is done of a long run, kept in a folder, so that a run that was killed goes on."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Parts:
    """A folder of numbered parts, and the settings of the one run that they are of.

    Several processes may add parts; each is whole or not there.
    """

    folder: Path

    def claim(self, settings: dict[str, Any]) -> None:
        """Make the folder this run's, or find that it already is.

        Raises ValueError if it is another's: one with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file, text = self.folder / "settings.json", json.dumps(settings, indent=2)
        partial = partial_name(file)
        partial.write_text(text)
        try:
            os.link(partial, file)  # of several that claim it at once, one is first
        except FileExistsError:
            if file.read_text() != text:
                raise ValueError(
                    f"{self.folder} holds a run with other settings; finish that one, remove the "
                    "folder, or name another file"
                ) from None
        finally:
            partial.unlink()

    def read(self, number: int) -> dict[str, np.ndarray] | None:
        """Return a part's arrays, each of at least one dimension; None if it must be done (again).

        A part that is there and cannot be read was damaged after it was written.
        """
        try:
            with np.load(self._file(number)) as arrays:
                return {name: np.atleast_1d(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, number: int, arrays: dict[str, Any]) -> None:
        """Write a part whole, or not at all."""
        file = self._file(number)
        partial = partial_name(file)
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(partial, file)

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
        """Remove the folder, once what its parts made is written."""
        shutil.rmtree(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def partial_name(file: Path) -> Path:
    """Return a name beside `file` that no other process writes to."""
    return file.with_name(f"{file.name}.{os.getpid()}.partial")
