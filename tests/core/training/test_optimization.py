"""How weights are stepped: the learning rate, and which optimizer has which of them."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from flowturbo_core.training.optimization import (
    Hyperparameters,
    build_optimizers,
    learning_rate_factor,
)
from flowturbo_core.training.recipes import get_recipe
from tests.core.training.tiny import SETTINGS, flow_objective


def test_the_learning_rate_rises_stays_and_falls():
    settings = Hyperparameters(
        batch_size=1, learning_rate=1.0, warmup_steps=100, decay_fraction=0.25
    )
    factors = [learning_rate_factor(step, step / 1000, settings) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[49] == pytest.approx(0.5)
    assert factors[99:751] == pytest.approx([1.0] * 652)
    assert factors[875] == pytest.approx(0.5)
    assert factors[1000] == 0.0
    assert max(factors) == 1.0 and min(factors) == 0.0


def test_no_warm_up_and_no_decay_is_a_constant_rate():
    settings = Hyperparameters(batch_size=1, learning_rate=1, warmup_steps=0, decay_fraction=0)
    assert {learning_rate_factor(s, s / 10, settings) for s in range(11)} == {1.0}


def test_the_matrices_of_the_blocks_go_to_muon_and_all_the_rest_to_adamw():
    model = flow_objective().model
    adamw, muon = build_optimizers(model, SETTINGS)
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, torch.optim.Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [[names[id(p)] for p in o.param_groups[0]["params"]] for o in (adamw, muon)]
    assert "blocks.0.attn.qkv.weight" in held[1] and "blocks.0.attn.qkv.bias" in held[0]
    assert "final_layer.linear.weight" in held[0] and "x_embedder.proj.weight" in held[0]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(held[0] + held[1]) == sorted(trained)  # each once


def test_a_model_of_convolutions_is_trained_by_adamw_alone():
    (adamw,) = build_optimizers(torch.nn.Conv2d(3, 3, 1), SETTINGS)
    assert isinstance(adamw, torch.optim.AdamW)


def test_muon_has_all_kernels_and_matrices_inside_the_bundled_unet():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**get_recipe("postcards", "unet").unet)
    adamw, *muons = build_optimizers(unet, replace(SETTINGS, muon_dims=(2, 4)))
    rest = {id(p) for p in adamw.param_groups[0]["params"]}
    ends = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    for name, parameter in unet.named_parameters():
        assert (id(parameter) in rest) == (parameter.ndim == 1 or name.startswith(ends)), name
    stepped = [len(muons[0].param_groups[0]["params"]), len(muons[1].kernels)]
    assert len(rest) + sum(stepped) == len(list(unet.parameters()))


def test_a_kernel_is_stepped_as_its_matrix_is():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Conv2d(5, 7, 3)])})
    kernel = model["blocks"][0].weight
    matrix = torch.nn.Parameter(kernel.detach().clone().view(7, 45))
    by_matrix = torch.optim.Muon(
        [matrix], lr=SETTINGS.learning_rate, weight_decay=0, adjust_lr_fn="match_rms_adamw"
    )
    adamw, by_kernel = build_optimizers(model, replace(SETTINGS, muon_dims=(2, 4)))
    assert [p is model["blocks"][0].bias for p in adamw.param_groups[0]["params"]] == [True]
    for _ in range(3):
        gradient = torch.randn(7, 5, 3, 3)
        kernel.grad, matrix.grad = gradient, gradient.view(7, 45)
        for optimizer in (by_kernel, by_matrix):
            optimizer.step()
            optimizer.zero_grad()
        assert kernel.grad is None
        torch.testing.assert_close(kernel.view(7, 45), matrix)
