"""What commands have in common: their options, and what is refused before anything is done."""

import sys
from collections.abc import Iterable
from typing import Annotated

import torch
import typer

from flowturbo_core.devices import resolve_device
from flowturbo_core.memory import fail_beyond_memory
from flowturbo_core.usage import number

app = typer.Typer(add_completion=False)

Model = Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: the best here.")]
GuidanceScale = Annotated[
    float | None,
    typer.Option(parser=number, help="1 is none; 0 leaves the class or prompt out."),
]
Seed = Annotated[int, typer.Option(parser=number, help="Image k draws its noise from seed + k.")]
Rivals = Annotated[
    str, typer.Option(help="Other solvers on the same model: ab2:9, dpm++:9, unipc:9, fbc:16:0.1.")
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16; default: the fastest safe one here.")
]


def device_of(option: str | None) -> torch.device:
    """Return a device by name. On a CPU, what memory does not hold is from then on refused."""
    device = resolve_device(option)
    if device.type == "cpu":
        fail_beyond_memory()
    return device


def print_warnings(warnings: Iterable[str], said: set[str] | None = None) -> None:
    """Print what a person should know of a request, but for what was `said` before."""
    for warning in warnings:
        if said is None or warning not in said:
            print(f"warning: {warning}", file=sys.stderr)
        if said is not None:
            said.add(warning)


def split(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
