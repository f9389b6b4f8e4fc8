"""The plans of a model that are worth their time, as tuning found them.

`front.json` holds every plan with its evaluations and its solver error. The file is in the user's
cache folder or in the folder of the model (`front_files`). The time of a plan differs from machine
to machine, so it is computed from the evaluations (`FrontPlan.ms`).
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from flowturbo_core.checks import brief, cut, real_number
from flowturbo_core.files import check_user_cache, read_json, user_cache
from flowturbo_core.plan import SamplePlan
from flowturbo_core.rates import Rates
from flowturbo_core.requests import GUIDANCE_SCALE

FILE_NAME = "front.json"
_MAX_ERROR = 1_000_000  # latents have a spread of about 1: a larger error is a mistake in the file


@dataclass(frozen=True)
class FrontPlan:
    """A plan and the error it leaves.

    Args:
        plan: the plan as text, such as H1P5R3.
        predictor_evaluations: for one image.
        refiner_evaluations: for one image.
        solver_error: root mean square distance between its latents and the exact end of the flow.
    """

    plan: str
    predictor_evaluations: int
    refiner_evaluations: int
    solver_error: float

    @classmethod
    def read(cls, entry: object) -> Self:
        """Check an entry of the file. Raises ValueError, in one sentence."""
        if not isinstance(entry, dict):
            raise ValueError(f"a plan of the front must be a JSON object, not {brief(entry)}")
        plan = SamplePlan.parse(entry.get("plan"))
        for name in ("predictor_evaluations", "refiner_evaluations"):
            expected, given = getattr(plan, name), entry.get(name)
            if isinstance(given, bool) or given != expected:
                raise ValueError(f"{name} of {plan} must be {expected}, not {brief(given)}")
        return cls(
            str(plan),
            plan.predictor_evaluations,
            plan.refiner_evaluations,
            real_number(f"solver_error of {plan}", entry.get("solver_error"), 0, _MAX_ERROR),
        )

    def ms(self, rates: Rates) -> float:
        """Return the milliseconds an image that it takes at these rates."""
        return rates.ms_of(self)


@dataclass(frozen=True)
class Front:
    """The plans that no other plan beats in both time and error.

    Args:
        plans: the plans of the front, each once.
        guidance_scale: the guidance scale at which the errors were measured.
        others: plans that were measured too, but do not belong to the front.
    """

    plans: tuple[FrontPlan, ...]
    guidance_scale: float
    others: tuple[FrontPlan, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Read the front of the model in a folder; None if the model was never tuned.

        Raises ValueError, in one sentence that names the file, if it is not a front.
        """
        file = next((file for file in front_files(folder) if file.is_file()), None)
        if file is None:
            return None
        content = read_json(file)
        try:
            plans, others = _plans(content.get("plans")), _others(content.get("others", []))
            _check_distinct([item.plan for item in (*plans, *others)])
            scale = GUIDANCE_SCALE.read("guidance_scale", content.get("guidance_scale"), None)
            if content.get("weights") != weights_hash(folder):
                raise ValueError("it was found with other weights than the model has; tune again")
            return cls(plans, scale, others)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @property
    def measured(self) -> tuple[FrontPlan, ...]:
        """All plans whose error is known."""
        return *self.plans, *self.others

    def solver_error(self, plan: str) -> float | None:
        """Return the error of a plan; None if it was not measured."""
        return next((item.solver_error for item in self.measured if item.plan == plan), None)


def front_files(folder: Path) -> tuple[Path, Path]:
    """Return the two files that may hold the front of the model in `folder`, the preferred first.

    One is in the user's cache, where tuning writes if it may not write into the folder. The other
    is in the folder itself.
    """
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return user_cache() / key / FILE_NAME, folder / FILE_NAME


def weights_hash(folder: Path) -> str:
    """Return a hash of all weights and configs in a model folder.

    A front is valid only for the weights it was found with. A shared autoencoder is not in the
    folder, but the predictor's config holds its hash.
    """
    names = ("*.safetensors", "config.json", "model_index.json")
    found = (file for name in names for file in folder.rglob(name))
    files = sorted(file for file in found if not file.name.startswith("."))  # as macOS's ._x
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        status = file.stat()
        digest.update(_file_hash(file, status.st_mtime_ns, status.st_size))
    return digest.hexdigest()


@cache
def _file_hash(file: Path, modified_ns: int, size: int) -> bytes:
    """Return the hash of a file, cached: the page asks for it at every move of a slider."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def writable_front_file(folder: Path) -> Path:
    """Return where tuning saves the front of the model in `folder`."""
    cached, beside = front_files(folder)
    if os.access(folder, os.W_OK):
        return beside
    try:
        check_user_cache()
    except ValueError as error:
        raise ValueError(f"{beside} cannot be written, and {error}; or name an --output") from error
    return cached


def _plans(entries: Any) -> tuple[FrontPlan, ...]:
    if isinstance(entries, str) or not isinstance(entries, Sequence) or not entries:
        raise ValueError(f"plans must be a list of at least one plan, not {brief(entries)}")
    return tuple(FrontPlan.read(entry) for entry in entries)


def _others(entries: Any) -> tuple[FrontPlan, ...]:
    return _plans(entries) if entries != [] else ()


def _check_distinct(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"a plan is named twice in {cut(', '.join(names))}")
