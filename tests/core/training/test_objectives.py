"""What is minimised: the losses and their gradients, against straight-line float32 versions.

The second opinion is `released.py`, a SiT written out without any of the product.
"""

import pytest
import torch

from flowturbo_core.compile import can_compile
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.training import autoencoder as autoencoder_training
from flowturbo_core.training.autoencoder import AutoencoderObjective, mean_psnr
from flowturbo_core.training.flow import FlowObjective, drop_labels
from flowturbo_core.training.refiner import Pairs, RefinerObjective
from tests.conftest import TINY_SIT, randomize, tiny_pixel_vae, tiny_vae
from tests.core.models.released import sit_forward

CLASSES, NULL = ["a", "b", "c"], 3


def batch(count=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 4, 8, 8, generator=generator).half(), torch.arange(count) % 3]


def predictor(seed=1):
    return randomize(SiTPredictor(**TINY_SIT | {"depth": 2}), seed, scale=0.15)


def refiner(seed=2):
    return randomize(SiTRefiner(**TINY_SIT | {"depth": 1}), seed, scale=0.15)


def flow_objective():
    return FlowObjective(predictor(), None, tiny_vae(), CLASSES)


def refiner_objective(pairs=Pairs()):  # noqa: B008
    return RefinerObjective(refiner(), predictor(), None, tiny_vae(), CLASSES, pairs)


def copy_of(model):
    """Return the model's state dict, to be differentiated on its own."""
    return {name: v.detach().clone().requires_grad_() for name, v in model.state_dict().items()}


def straight_line_flow(state, latents, labels, generator):
    """Draw in the order of the objective: times, noise, dropped labels."""
    x1 = latents.float()
    logistic = 1 / (1 + torch.exp(-torch.randn(len(x1), generator=generator)))
    early = torch.rand(len(x1), generator=generator) ** 3
    t = torch.stack([(early if k % 2 else logistic)[k] for k in range(len(x1))])
    x0 = torch.randn(x1.shape, generator=generator)
    dropped = torch.rand(len(x1), generator=generator) < 0.1
    labels = torch.where(dropped, NULL, labels)
    total = 0.0
    for k in range(len(x1)):
        x_t = (1 - t[k]) * x0[k] + t[k] * x1[k]
        v = sit_forward(state, 2, x_t[None], t[k : k + 1], labels[k : k + 1])[0]
        total = total + ((v - (x1[k] - x0[k])) ** 2).mean()
    return total / len(x1)


def straight_line_refiner(state, predictor_state, latents, labels, generator, pairs):
    """FlowTurbo's eq. 13, drawn in the order of the objective: labels, dt, t, noise."""
    x1, s = latents.float(), pairs.guidance_scale
    labels = torch.where(torch.rand(len(x1), generator=generator) < 0.1, NULL, labels)
    dt = pairs.max_dt * (1 - torch.rand(len(x1), generator=generator))
    t = torch.rand(len(x1), generator=generator) * (1 - dt)
    x0 = torch.randn(x1.shape, generator=generator)

    def guided(parameters, x, time, label):
        of_class = sit_forward(parameters, 2, x, time, label)
        if s == 1:
            return of_class
        return (1 - s) * sit_forward(parameters, 2, x, time, torch.tensor([NULL])) + s * of_class

    total = 0.0
    for k in range(len(x1)):
        label = labels[k : k + 1]
        start, end = t[k : k + 1], t[k : k + 1] + dt[k : k + 1]
        x_t = ((1 - t[k]) * x0[k] + t[k] * x1[k])[None]
        with torch.no_grad():
            v = guided(predictor_state, x_t, start, label)
            x_next = x_t + dt[k] * v
            v_next = guided(predictor_state, x_next, end, label)
        offset = guided(state, torch.cat([x_next, v], 1), end, label)
        total = total + ((offset + v - v_next) ** 2).mean()
    return total / len(x1)


def assert_same_gradients(model, state):
    """Compare every trained parameter's gradient with that of the straight-line version."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad - state[name].grad).norm() / state[name].grad.norm()
            assert error < 1e-4, f"{name}: {error}"


def test_the_flow_loss_and_its_gradient_equal_a_straight_line_version():
    objective, seed = flow_objective(), 11
    state = copy_of(objective.model)
    found = objective(batch(), torch.Generator().manual_seed(seed))["loss"]
    expected = straight_line_flow(state, *batch(), torch.Generator().manual_seed(seed))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    found.backward()
    expected.backward()
    assert_same_gradients(objective.model, state)


@pytest.mark.parametrize("pairs", [Pairs(), Pairs(0.3, 1.5)])
def test_the_refiner_loss_and_its_gradient_equal_equation_13(pairs):
    objective, seed = refiner_objective(pairs), 12
    state = copy_of(objective.model)
    found = objective(batch(), torch.Generator().manual_seed(seed))["loss"]
    expected = straight_line_refiner(
        state, copy_of(predictor()), *batch(), torch.Generator().manual_seed(seed), pairs
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    found.backward()
    expected.backward()
    assert_same_gradients(objective.model, state)


@pytest.mark.parametrize("make", [flow_objective, refiner_objective])
def test_gradients_in_bfloat16_point_the_same_way(make):
    gradients = []
    for enabled in (False, True):
        objective = make()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective(batch(), torch.Generator().manual_seed(3))["loss"]
        loss.backward()
        trained = [p for p in objective.model.parameters() if p.requires_grad]
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    exact, rounded = gradients
    assert (rounded - exact).norm() / exact.norm() < 0.05


def test_a_silent_refiner_has_the_loss_of_none():
    # What is called `unrefined` is the loss of carrying the velocity on as it is.
    objective = refiner_objective()
    torch.nn.init.zeros_(objective.model.final_layer.linear.weight)
    torch.nn.init.zeros_(objective.model.final_layer.linear.bias)
    losses = objective(batch(), torch.Generator().manual_seed(4))
    assert losses["loss"].item() == pytest.approx(losses["unrefined"].item())
    assert losses["unrefined"] > 0


def test_only_the_refiner_is_trained():
    objective = refiner_objective()
    names = {name.split(".")[0] for name, _ in objective.named_parameters()}
    assert names == {"model"}
    objective(batch(), torch.Generator().manual_seed(4))["loss"].backward()
    assert all(p.grad is None for p in objective.frozen[0].parameters())


class Watched(torch.nn.Module):
    """A velocity model that keeps what it was asked."""

    null_label, dtype = NULL, torch.float32

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, *rest):
        self.asked.append((t, rest[-1]))
        return torch.zeros_like(x)


def test_the_refiner_is_trained_on_steps_up_to_012_within_the_path():
    watched, count = Watched(), 4000
    objective = RefinerObjective(watched, watched, None, None, CLASSES)
    zeros = [torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.long)]
    objective(zeros, torch.Generator().manual_seed(0))
    (start, labels), (end, labels_next), (seen, labels_refiner) = watched.asked
    dt = end - start
    assert dt.min() > 0 and dt.max() <= 0.12 + 1e-6
    assert start.min() >= 0 and end.max() <= 1 + 1e-6
    assert dt.mean().item() == pytest.approx(0.06, abs=0.003)
    assert dt.std().item() == pytest.approx(0.12 / 12**0.5, abs=0.003)
    assert len(dt.unique()) > 0.9 * count  # one for each sample, not one for all
    assert torch.equal(seen, end)
    # The condition is the same throughout, dropped or not.
    assert torch.equal(labels, labels_next) and torch.equal(labels, labels_refiner)
    assert (labels == NULL).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_labels_are_dropped_one_time_in_ten():
    labels = torch.arange(20_000) % 3
    dropped = drop_labels(labels, NULL, torch.Generator().manual_seed(0))
    assert (dropped == NULL).float().mean().item() == pytest.approx(0.1, abs=0.01)
    kept = dropped != NULL
    assert torch.equal(dropped[kept], labels[kept])


def test_flow_times_are_half_logit_normal_and_half_next_to_the_noise():
    watched = Watched()
    objective = FlowObjective(watched, None, None, CLASSES)
    zeros = [torch.zeros(40_000, 1, 1, 1), torch.zeros(40_000, dtype=torch.long)]
    objective(zeros, torch.Generator().manual_seed(0))
    t = watched.asked[0][0]
    logit_normal = torch.distributions.Normal(0.0, 1.0).cdf
    for bound in (0.02, 0.1, 0.5, 0.9):
        expected = 0.5 * bound ** (1 / 3) + 0.5 * float(logit_normal(torch.tensor(bound).logit()))
        assert float((t < bound).float().mean()) == pytest.approx(expected, abs=0.008)


def test_the_autoencoders_gradient_survives_bfloat16_autocast():
    # platform.md: a compiled decoder's did not; training is eager, and this says it may be.
    images = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).byte()
    gradients = []
    for enabled in (False, True):
        objective = AutoencoderObjective(tiny_pixel_vae(), first_seed=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = objective([images, None], torch.Generator().manual_seed(1))
        losses["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in objective.model.parameters()]))
    exact, rounded = gradients
    assert (rounded - exact).norm() / exact.norm() < 0.1


def test_a_perfect_autoencoder_has_no_reconstruction_loss(monkeypatch):
    objective = AutoencoderObjective(tiny_pixel_vae(), first_seed=0)
    images = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).byte()
    exact = images.float() / 127.5 - 1
    monkeypatch.setattr(
        objective.model,
        "decode",
        lambda z: type("Decoded", (), {"sample": exact})(),
    )
    losses = objective([images, None], torch.Generator().manual_seed(1))
    assert losses["pixel"] == losses["gradient"] == 0
    assert losses["kl"] > 0
    assert 0 < losses["loss"] < 1e-2  # the KL, and its weight is tiny


@pytest.mark.parametrize(("error", "psnr"), [(0.2, 20.0), (0.02, 40.0)])
def test_psnr_is_on_the_scale_of_the_image(error, psnr):
    # From -1 to 1 the peak is 2: an error of 0.2 everywhere is a tenth of it, 20 dB.
    assert mean_psnr(torch.full((2, 3, 4, 4), error)).item() == pytest.approx(psnr, abs=1e-3)


def test_statistics_are_measured_a_channel(monkeypatch):
    vae = tiny_pixel_vae()

    class Noise:
        def __getitem__(self, indices):
            generator = torch.Generator().manual_seed(indices[0])
            images = torch.rand(len(indices), 3, 32, 32, generator=generator) * 255
            return images.byte(), None

    found = autoencoder_training.measure(vae, Noise(), 128)
    with torch.no_grad():
        images = torch.cat([Noise()[range(k, k + 64)][0] for k in (0, 64)]).float() / 127.5 - 1
        raw = vae.encode(images).latent_dist.mode()
    assert found["mean"] == pytest.approx(raw.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert found["std"] == pytest.approx(raw.std((0, 2, 3)).tolist(), abs=1e-4)
    assert 0 < found["psnr_db"] < 30


@pytest.mark.slow
@pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile does not work here")
def test_compiled_in_bfloat16_the_gradient_is_the_one_of_eager_float32():
    def gradient(compiled, dtype):
        objective = flow_objective()
        if compiled:
            for part in objective.heavy_parts(torch.device("cpu")):
                part.compile()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = objective(batch(32), torch.Generator().manual_seed(3))
        losses["loss"].backward()
        trained = [p for p in objective.model.parameters() if p.requires_grad]
        return torch.cat([p.grad.flatten() for p in trained])

    exact = gradient(False, torch.float32)
    rounded = gradient(True, torch.bfloat16)
    assert (rounded - exact).norm() < 0.03 * exact.norm()
