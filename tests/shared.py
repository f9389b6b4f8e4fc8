"""What tests share, and how one tells that a test left it different for the next."""

import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from demo.service.service import Service
from flowturbo_core.pipelines.base import FlowPipeline

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = (str, bytes, int, float, complex, type(None))


def seed_all() -> None:
    """Make random numbers the same in whatever order tests run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def global_state() -> dict[str, Any]:
    """Return what belongs to the whole process, by name."""
    environment = {name: its for name, its in os.environ.items() if not name.startswith("PYTEST_")}
    return {f"${name}": its for name, its in environment.items()} | {
        "the working folder": os.getcwd(),
        "the log's level": logging.root.level,
        "torch's threads": torch.get_num_threads(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not as it was."""
    return [name for name in before | after if before.get(name) != after.get(name)]


def fingerprint(value: Any) -> Any:
    """Return what differs once `value` was changed: models, tensors, containers of them, folders.

    Of other objects it is which one it is: servers and browsers do change.
    """
    if isinstance(value, nn.Module):
        return _of_model(value)
    if isinstance(value, Tensor):
        return _of_tensors([value])
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, FlowPipeline):
        parts = {name: fingerprint(part) for name, part in value.parts().items()}
        kept = (value.default_plan, value.default_guidance_scale, value._is_compiled)
        return parts, kept, {name: id(its) for name, its in vars(value).items()}
    if isinstance(value, Service):
        return None if value.engine is None else fingerprint(value.engine.pipeline)
    if isinstance(value, SimpleNamespace):
        return fingerprint(vars(value))
    if isinstance(value, Mapping):
        return {key: fingerprint(its) for key, its in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(its) for its in value]
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, Path) and value.is_dir():
        files = (file for file in value.rglob("*") if file.is_file())
        return {str(file): (s.st_size, s.st_mtime_ns) for file in files if (s := file.stat())}
    return id(value)


def module_state(module: Any) -> dict[str, Any]:
    """Return the fingerprints of the containers and tensors that a module of tests defines."""
    return {
        name: fingerprint(value)
        for name, value in vars(module).items()
        if name.lstrip("_").isupper() and isinstance(value, dict | list | set | Tensor)
    }


def _of_model(model: nn.Module) -> tuple:
    modules = [
        (id(its), its.training, sum(len(getattr(its, hooks)) for hooks in _HOOKS))
        for its in model.modules()
    ]
    config = getattr(model, "config", {})
    config = config if isinstance(config, Mapping) else vars(config)
    kept = {name: its for name, its in config.items() if not _is_noted_when_saved(name)}
    return modules, repr(kept), _of_tensors([*model.parameters(), *model.buffers()])


def _is_noted_when_saved(name: str) -> bool:
    """Tell of an entry of a config whether diffusers or transformers write it into what is saved.

    They write it into the model's own config, too: its class, version and dtype.
    """
    return name.startswith("_") or name in ("architectures", "dtype", "transformers_version")


def _of_tensors(tensors: list[Tensor]) -> tuple:
    """Return which they are, how often each was written to, and their norms.

    The norms see what is written past autograd, as by `parameter.data`.
    """
    here = [its.detach().float() for its in tensors if _has_a_norm(its)]
    norms = torch.stack(torch._foreach_norm(here)).numpy().tobytes() if here else b""
    return (
        [(id(its), 0 if its.is_inference() else its._version, its.dtype, its.device,
          its.requires_grad) for its in tensors],
        norms,
    )  # fmt: skip


def _has_a_norm(its: Tensor) -> bool:
    is_plain = its.layout == torch.strided and its.is_floating_point()
    return is_plain and its.device.type == "cpu"
