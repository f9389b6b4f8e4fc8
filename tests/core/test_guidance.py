"""Guidance: v(null) + s (v(y) - v(null)), on the channels, halves and at the cost it says."""

import pytest
import torch
from torch import nn

from flowturbo_core.guidance import (
    FullGuidance,
    GuidedPredictor,
    GuidedRefiner,
    PartialGuidance,
    Unguided,
    choose_guidance,
    guidance_warnings,
)
from flowturbo_core.plan import SamplePlan
from flowturbo_core.sampler import Job, build_steps, sample
from flowturbo_core.steps import State
from tests.core.models.released import released_sample

LABELS, NULL = torch.tensor([0, 2, 1]), 3


class Toy(nn.Module):
    """A cheap model of latents (B, 4, h, w) that mixes channels and depends on all it is given."""

    dtype = torch.float32

    def __init__(self, seed, inputs):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = torch.randn(4, inputs, generator=generator)
        self.shift = torch.randn(NULL + 1, 4, generator=generator)
        self.batches = []

    def forward(self, x, t, *rest):
        *velocity, labels = rest
        self.batches.append(len(x))
        mixed = torch.einsum("dc,bchw->bdhw", self.mix, torch.cat([x, *velocity], 1))
        return torch.sin(mixed + self.shift[labels][:, :, None, None] + t.reshape(-1, 1, 1, 1))


@pytest.fixture
def noise():
    return torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(7))


def condition_for(guidance):
    return guidance.pair(LABELS, torch.full_like(LABELS, NULL))


def run(guidance, plan, noise, scale, variant="released"):
    """Return the states of the loop, as they leave it, on the toy models."""
    predictor, refiner = Toy(0, 4), Toy(1, 8)
    steps = build_steps(
        GuidedPredictor(predictor, guidance), GuidedRefiner(refiner, guidance), variant
    )
    job = guidance.pack(Job(noise, condition_for(guidance), torch.tensor(scale)))
    return [guidance.unpack(state) for state in sample(steps, SamplePlan.parse(plan), job)]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.5, 4.0])
def test_full_guidance_is_the_formula_on_every_channel(noise, scale):
    model, guidance = Toy(0, 4), FullGuidance()
    t, s = torch.tensor(0.3), torch.tensor(scale)
    found = GuidedPredictor(model, guidance)(noise, t, condition_for(guidance), s)
    with_class = model(noise, t, LABELS)
    without = model(noise, t, torch.full_like(LABELS, NULL))
    expected = without + scale * (with_class - without)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_a_refiners_offset_is_guided_the_same_way(noise, scale):
    model, guidance, v = Toy(1, 8), FullGuidance(), noise.flip(0)
    t, s = torch.tensor(0.3), torch.tensor(scale)
    found = GuidedRefiner(model, guidance)(noise, t, v, condition_for(guidance), s)
    with_class = model(noise, t, v, LABELS)
    without = model(noise, t, v, torch.full_like(LABELS, NULL))
    torch.testing.assert_close(found, without + scale * (with_class - without), rtol=0, atol=1e-5)


def test_without_guidance_the_model_sees_half_the_batch_and_only_the_class(noise):
    model, guidance = Toy(0, 4), Unguided()
    condition = condition_for(guidance)
    found = GuidedPredictor(model, guidance)(noise, torch.tensor(0.3), condition, torch.tensor(1.0))
    assert model.batches == [3]
    torch.testing.assert_close(found, model(noise, torch.tensor(0.3), LABELS))


@pytest.mark.parametrize("guidance", [FullGuidance(), PartialGuidance(3)])
def test_with_guidance_the_model_sees_both_halves_in_one_call(noise, guidance):
    model = Toy(0, 4)
    job = guidance.pack(Job(noise, condition_for(guidance), torch.tensor(1.5)))
    GuidedPredictor(model, guidance)(
        job.x_init, torch.tensor(0.3), job.condition, job.guidance_scale
    )
    assert model.batches == [6]


def test_partial_guidance_leaves_the_other_channels_as_each_half_predicts_them(noise):
    model, guidance = Toy(0, 4), PartialGuidance(3)
    t, s = torch.tensor(0.3), torch.tensor(4.0)
    # The null half of x is rubbish: it must not be looked at.
    doubled = torch.cat([noise, torch.full_like(noise, 99.0)])
    found = GuidedPredictor(model, guidance)(doubled, t, condition_for(guidance), s)
    with_class = model(noise, t, LABELS)
    without = model(noise, t, torch.full_like(LABELS, NULL))
    mixed = (without + 4.0 * (with_class - without))[:, :3]
    torch.testing.assert_close(found[:3, :3], mixed, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[3:, :3], mixed, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[:3, 3:], with_class[:, 3:])
    torch.testing.assert_close(found[3:, 3:], without[:, 3:])


@pytest.mark.parametrize("scale", [1.5, 4.0])
@pytest.mark.parametrize(
    ("plan", "counts"),
    [("H8", (8, 0, 0)), ("H1P5R3", (1, 5, 3)), ("P6R2", (0, 6, 2)), ("H3P3", (3, 3, 0))],
)
def test_partial_guidance_samples_as_the_released_program(noise, plan, counts, scale):
    predictor, refiner = Toy(0, 4), Toy(1, 8)
    expected = released_sample(predictor, refiner, *counts, noise, LABELS, NULL, scale)
    states = run(PartialGuidance(3), plan, noise, scale)
    assert states[-1].x.shape == noise.shape
    torch.testing.assert_close(states[-1].x, expected, rtol=0, atol=2e-5)


def test_the_refiner_sees_each_half_of_the_velocity_its_own(noise):
    # Were the conditional half given to both, the pictures would be others: this is what the
    # doubled batch is carried for.
    class Shared(PartialGuidance):
        def repeat_v(self, v):
            return torch.cat([v[:3], v[:3]])

    right = run(PartialGuidance(3), "H1P2R3", noise, 4.0)[-1].x
    wrong = run(Shared(3), "H1P2R3", noise, 4.0)[-1].x
    assert (right - wrong).abs().max() > 1e-3


def test_partial_guidance_of_all_channels_is_full_guidance(noise):
    full = run(FullGuidance(), "H1P2", noise, 2.0)[-1]
    partial = run(PartialGuidance(4), "H1P2", noise, 2.0)[-1]
    torch.testing.assert_close(partial.x, full.x, rtol=0, atol=1e-5)
    torch.testing.assert_close(partial.v, full.v, rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [Unguided(), FullGuidance(), PartialGuidance(3)])
def test_a_task_projects_as_many_images_as_were_asked_for(noise, guidance):
    shapes = []

    def project(state, t):
        shapes.append((state.x.shape, state.v.shape))
        return State(state.x.clamp(-0.5, 0.5), state.v)

    steps = build_steps(GuidedPredictor(Toy(0, 4), guidance))
    job = Job(noise, condition_for(guidance), torch.tensor(1.5), project=project)
    states = list(sample(steps, SamplePlan.parse("H1P1"), guidance.pack(job)))
    assert shapes == [(noise.shape, noise.shape)] * 2
    assert all(guidance.unpack(state).x.abs().max() <= 0.5 for state in states)


@pytest.mark.parametrize("guidance", [FullGuidance(), PartialGuidance(3)])
def test_a_projection_is_what_the_next_evaluation_sees(noise, guidance):
    seen = []

    class Watch(Toy):
        def forward(self, x, t, *rest):
            seen.append(x.clone())
            return super().forward(x, t, *rest)

    def project(state, t):
        return State(torch.full_like(state.x, 5.0), state.v)

    steps = build_steps(GuidedPredictor(Watch(0, 4), guidance))
    job = Job(noise, condition_for(guidance), torch.tensor(1.5), project=project)
    list(sample(steps, SamplePlan.parse("E2"), guidance.pack(job)))
    assert torch.equal(seen[1], torch.full_like(seen[1], 5.0))


@pytest.mark.parametrize(
    ("scale", "guided_channels", "expected"),
    [
        (1, None, Unguided),
        (1.0, 3, Unguided),
        (1.5, None, FullGuidance),
        (0.0, None, FullGuidance),
        (1.5, 4, FullGuidance),
        (1.5, 3, PartialGuidance),
    ],
)
def test_the_cheapest_form_that_computes_what_is_asked(scale, guided_channels, expected):
    assert type(choose_guidance(scale, guided_channels, in_channels=4)) is expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_state_stays_in_float32_whatever_the_model_computes_in(noise, dtype):
    class Half(Toy):
        def forward(self, x, t, *rest):
            assert all(part.dtype == dtype for part in (x, *rest[:-1]))
            return (
                super().forward(x.float(), t, *(p.float() for p in rest[:-1]), rest[-1]).to(dtype)
            )

    model, guidance = Half(0, 4), FullGuidance()
    model.dtype = dtype
    velocity = GuidedPredictor(model, guidance)(
        noise, torch.tensor(0.3), condition_for(guidance), torch.tensor(1.5)
    )
    assert velocity.dtype == torch.float32


@pytest.mark.parametrize("scale", [0, 1e-60])  # in float32, nothing
def test_without_guidance_as_others_write_it_is_warned_of(scale):
    (said,) = guidance_warnings(scale, "prompt")
    assert said == (
        "at guidance 0 the prompt has no effect; 1 is no guidance, for which InstaFlow and "
        "diffusers also take 0"
    )
    (said,) = guidance_warnings(scale, "prompt", "rain")
    assert "has no effect; the pictures are of the negative prompt alone; 1 is" in said
    (said,) = guidance_warnings(scale, "class", channels=(3, 4))
    assert said.startswith("at guidance 0 the class has no effect on 3 of 4 channels; 1 is no")


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (1, "at guidance 1 the negative prompt has no effect"),
        (1 + 1e-12, "at guidance 1 the negative prompt has no effect"),
        (0.5, "at guidance 0.5 the pictures are led toward the negative prompt"),
        (1.5, None),
    ],
)
def test_a_negative_prompt_is_led_away_from_above_one_alone(scale, said):
    assert [text.partition(";")[0] for text in guidance_warnings(scale, "prompt", "rain")] == (
        [said] if said else []
    )
    assert guidance_warnings(scale, "prompt") == []
