"""Which device and number format to compute in: names in, torch objects out, or one sentence."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from flowturbo_core.checks import brief

# What a record of something measured or made names beside the device.
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "diffusers": version("diffusers"),  # importing it would take seconds
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str | None) -> torch.device:
    """Return the device called `name`; the first accelerator, or else the CPU, if it is None.

    Raises ValueError, naming what is there, for a device this machine does not have.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return accelerator or torch.device("cpu")
    available = ["cpu"]
    if accelerator is not None:
        indices = range(torch.accelerator.device_count())
        available += [accelerator.type, *(f"{accelerator.type}:{i}" for i in indices)]
    if name not in available:
        raise ValueError(
            f"device {brief(name)} is not on this machine; it has {', '.join(available)}"
        )
    return torch.device(name)


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the number format called `name`; the fastest safe one for `device` if it is None."""
    if name is None:
        return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype {brief(name)} is not known; it can be {', '.join(DTYPES)}")
    return DTYPES[name]


def bfloat16_is_fast(device: torch.device) -> bool:
    """Tell whether `device` multiplies bfloat16 matrices in hardware, rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all it was given, so that a clock read afterwards is honest."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def describe_device(device: torch.device) -> str:
    """Return what `device` is, in words, for a record of what was measured on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # where there is none, Python knows the architecture at least
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
