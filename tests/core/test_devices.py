"""Devices and number formats by name."""

import pytest
import torch

from flowturbo_core.devices import bfloat16_is_fast, resolve_device, resolve_dtype

CPU = torch.device("cpu")


def test_the_cpu_is_everywhere():
    assert resolve_device("cpu") == CPU


def test_without_a_name_it_is_the_accelerator_or_else_the_cpu():
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert resolve_device(None) == (accelerator or CPU)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "CPU", "", "cpu:7", "tpu", "cuda:-1"])
def test_a_device_this_machine_lacks_is_refused_with_those_it_has(name):
    with pytest.raises(ValueError) as refusal:
        resolve_device(name)
    assert repr(name) in str(refusal.value)
    assert "cpu" in str(refusal.value)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_number_formats_by_name(name):
    assert resolve_dtype(name, CPU) == getattr(torch, name)


@pytest.mark.parametrize("name", ["float64", "fp16", "", "half"])
def test_an_unknown_number_format_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError) as refusal:
        resolve_dtype(name, CPU)
    for part in (repr(name), "float32", "bfloat16", "float16"):
        assert part in str(refusal.value)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_the_default_only_where_the_processor_has_it(monkeypatch, fast, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert bfloat16_is_fast(CPU) is fast
    assert resolve_dtype(None, CPU) == dtype
