"""Editing: SDEdit's two ends, and FlowEdit and FlowAlign beside what their papers write down."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from flowturbo_core.requests import Edit, Texts
from flowturbo_core.tasks import initial_noise
from flowturbo_core.tasks.edit import soft_mask
from tests.conftest import tiny_pipeline
from tests.core.pipelines.tiny_text import tiny_text_pipeline

EDIT = import_module("flowturbo_core.tasks.edit")  # its function has the same name
MODELS = {
    "classes": tiny_pipeline,
    "channels": lambda: tiny_pipeline(guided_channels=3),  # the fourth is not guided
    "texts": tiny_text_pipeline,
}
THINGS = {"source": ("subject 0", "a blue fish"), "target": ("subject 2", "night, city")}
SEED = 5
EVERY_PLAN = ("E3", "H2", "H1P2", "H1P1R1")


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """Return a tiny model, with the picture that is edited and all that both stand for."""
    pipeline = MODELS[request.param]()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    of_texts = pipeline.subject is Texts
    source, target = (THINGS[side][of_texts] for side in ("source", "target"))
    return SimpleNamespace(
        pipeline=pipeline,
        picture=picture,
        source=source,
        target=target,
        y=pipeline.encode([picture]),
        e=initial_noise((4, 8, 8), [SEED]),
    )


def asked(model, plan="E3", guidance_scale=2.0, num_images=1, seed=SEED, thing=None, **task):
    """Return the request of an edit of the model's picture."""
    if task.get("method") != "sdedit":
        task.setdefault("source", model.source)
    return model.pipeline.request(
        [thing or model.target],
        plan=plan,
        guidance_scale=guidance_scale,
        num_images=num_images,
        seed=seed,
        task=Edit(model.picture, **task),
    )


def edited(model, *options, **changes):
    """Return the latents (B, 4, 8, 8) of an edit."""
    request = asked(model, *options, **changes)
    return finish(model, model.pipeline.job(request), request)


def finish(model, job, request):
    return model.pipeline.finish(job, request.plan, "latent").latents


# The papers' formulas, in z and in float64, around the bare network ---------------------------


@torch.no_grad()
def velocity(model, x, t, thing, guidance_scale):
    """Return v(null) + s (v(thing) - v(null)), of the channels that are guided."""
    pipeline = model.pipeline
    if pipeline.subject is Texts:
        conditions = pipeline.embed([thing]), pipeline.no_condition()
    else:
        label = torch.tensor([pipeline.class_names.index(thing)])
        conditions = label, pipeline.no_condition()
    time = torch.tensor(t, dtype=torch.float32)
    towards, null = (pipeline.predictor(x.float(), time, its).double() for its in conditions)
    channels = pipeline.predictor.config.get("guided_channels") or 4
    guided = null + guidance_scale * (towards - null)
    return torch.cat([guided[:, :channels], towards[:, channels:]], dim=1)


def integrate(field, z, blocks, t, t_end):
    """Integrate dz/dt = field(z, t) by blocks of E, H and P, uniform in time."""
    carried, h = None, (t_end - t) / len(blocks)
    for k, block in enumerate(blocks):
        begin, end = t + k * h, t + (k + 1) * h
        d0 = carried if block == "P" and carried is not None else field(z, begin)
        if block == "E":
            z, carried = z + h * d0, None
        else:
            carried = field(z + h * d0, end)
            z = z + h / 2 * (d0 + carried)
    return z


def path_of(model):
    y, e = model.y.double(), model.e.double()
    return y, lambda t: (1 - t) * e + t * y


def in_two_phases(model, dz, plain, blocks, after, strength, plain_end):
    """Return z at the end: `dz` from y up to t_stop, then `plain` from z + p(t_stop) - y."""
    y, p = path_of(model)
    t_start, t_stop = 1 - strength, 1 - plain_end
    z = integrate(dz, y, blocks, t_start, t_stop)
    return integrate(plain, z + p(t_stop) - y, after, t_stop, 1.0) if after else z


def flowedit(model, blocks, after, scales, strength, plain_end, mask=1.0):
    y, p = path_of(model)
    source_scale, target_scale = scales

    def target(x, t):
        return velocity(model, x, t, model.target, target_scale)

    def dz(z, t):
        source = velocity(model, p(t), t, model.source, source_scale)
        return mask * (target(z + p(t) - y, t) - source)

    return in_two_phases(model, dz, target, blocks, after, strength, plain_end)


def flowalign(model, blocks, after, w, strength, plain_end):
    y, p = path_of(model)

    def target(x, t):
        away = velocity(model, x, t, model.source, 1)
        return away + w * (velocity(model, x, t, model.target, 1) - away)

    def dz(z, t):
        q, r = p(t), z + p(t) - y
        of_q, of_r = velocity(model, q, t, model.source, 1), target(r, t)
        return of_r - of_q + 0.01 * ((q + (1 - t) * of_q) - (r + (1 - t) * of_r))

    return in_two_phases(model, dz, target, blocks, after, strength, plain_end)


# A plan, and its blocks before and after a switch at 5/7 of the way from 0.3 to 1.
SPLIT = {"E6": ("EEEE", "EE"), "H3": ("HH", "H"), "H1P4": ("HPPP", "P")}


def assert_equal(found, expected, within=1e-5):
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=within)


# SDEdit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", EVERY_PLAN)
def test_sdedit_of_strength_0_is_the_reconstruction(model, plan):
    request = asked(model, plan, method="sdedit", strength=0)
    output = model.pipeline.finish(model.pipeline.job(request), request.plan)
    assert torch.equal(output.latents, model.y)
    (expected,) = model.pipeline.decode(model.y)
    assert np.array_equal(output.images[0], expected)


@pytest.mark.parametrize("plan", EVERY_PLAN)
def test_sdedit_of_strength_1_is_generation_from_the_same_seed(model, plan):
    request = asked(model, plan, method="sdedit", strength=1, num_images=2)
    generated = model.pipeline(
        [model.target], plan=plan, guidance_scale=2.0, num_images=2, seed=SEED
    )
    output = model.pipeline.finish(model.pipeline.job(request), request.plan)
    assert torch.equal(output.latents, generated.latents)
    for found, expected in zip(output.images, generated.images, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("plan", ["E6", "H3", "H1P4"])
def test_sdedit_runs_the_whole_plan_from_the_noised_picture(model, plan):
    def target(x, t):
        return velocity(model, x, t, model.target, 2.0)

    _, p = path_of(model)
    blocks = {"E6": "EEEEEE", "H3": "HHH", "H1P4": "HPPPP"}[plan]
    expected = integrate(target, p(0.4), blocks, 0.4, 1.0)
    assert_equal(edited(model, plan, method="sdedit", strength=0.6), expected)


def test_a_picture_of_another_size_is_fitted_to_the_models(model):
    large = replace(asked(model).task, picture=model.picture.resize((48, 31)), method="sdedit")
    request = replace(asked(model, strength=0, method="sdedit"), task=replace(large, strength=0))
    assert finish(model, model.pipeline.job(request), request).shape == (1, 4, 8, 8)


# FlowEdit and FlowAlign -----------------------------------------------------------------------


@pytest.mark.parametrize("plain_end", [0.0, 0.2])
@pytest.mark.parametrize("plan", SPLIT)
def test_flowedit_equals_its_formula(model, plan, plain_end):
    blocks, after = SPLIT[plan] if plain_end else ("".join(SPLIT[plan]), "")
    scales = 1.5, 3.0
    expected = flowedit(model, blocks, after, scales, 0.7, plain_end)
    found = edited(
        model, plan, scales[1], source_guidance_scale=scales[0], strength=0.7, plain_end=plain_end
    )
    assert_equal(found, expected)
    assert (found - model.y).abs().max() > 1e-2  # it is an edit


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (0.0, 2.0)])
def test_flowedit_takes_every_guidance_of_each_side(model, scales):
    found = edited(model, "H1P1", scales[1], source_guidance_scale=scales[0], strength=0.7)
    assert_equal(found, flowedit(model, "HP", "", scales, 0.7, 0.0))


@pytest.mark.parametrize("plain_end", [0.0, 0.2])
@pytest.mark.parametrize("plan", SPLIT)
def test_flowalign_equals_its_formula(model, plan, plain_end):
    blocks, after = SPLIT[plan] if plain_end else ("".join(SPLIT[plan]), "")
    expected = flowalign(model, blocks, after, 3.0, 0.7, plain_end)
    found = edited(model, plan, 3.0, method="flowalign", strength=0.7, plain_end=plain_end)
    assert_equal(found, expected)
    assert (found - model.y).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["flowedit", "flowalign"])
@pytest.mark.parametrize("plan", ["E3", "H1P2"])
def test_a_source_that_is_the_target_leaves_the_picture(model, method, plan):
    found = edited(model, plan, 2.0, thing=model.source, method=method, source_guidance_scale=2.0)
    assert_equal(found, model.y)


@pytest.mark.parametrize("method", ["flowedit", "flowalign"])
def test_of_strength_0_nothing_is_edited(model, method):
    assert torch.equal(edited(model, method=method, strength=0), model.y)


@pytest.mark.parametrize("method", ["flowedit", "flowalign"])
@pytest.mark.parametrize("plain_end", [0.0, 0.3])
def test_each_evaluation_is_of_its_side_of_the_switch(model, method, plain_end, monkeypatch):
    # In float32 0.3 + 0.4 is more than 0.7, where a block of the edit ends.
    seen, after_switch = [], EDIT._after_switch

    def note(t, stop):
        meant, is_plain = after_switch(t, stop)
        seen.append((meant.item(), is_plain.item()))
        return meant, is_plain

    monkeypatch.setattr(EDIT, "_after_switch", note)
    for steps in (2, 3, 7):
        request = asked(model, f"H{steps}", method=method, strength=0.7, plain_end=plain_end)
        job = model.pipeline.job(request)
        list(model.pipeline.run(job, request.plan))  # with what warms up
        seen.clear()
        list(model.pipeline.run(job, request.plan))
        edits = round(4 / 7 * steps) if plain_end else steps
        expected = [False] * 2 * edits + [True] * 2 * (steps - edits)
        assert [is_plain for _, is_plain in seen] == expected
        assert seen[-1][0] == pytest.approx(1.0, abs=2e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "sdedit"},
        {"method": "flowedit", "plain_end": 0.2},
        {"method": "flowedit", "find_mask": True},
        {"method": "flowalign"},
    ],
    ids=str,
)
def test_each_image_depends_on_its_own_seed_alone(model, options):
    together = edited(model, "H1P2", num_images=3, **options)
    assert (together[0] - together[1]).abs().max() > 1e-2
    for k in range(3):
        alone = edited(model, "H1P2", seed=SEED + k, **options)
        assert_equal(together[k : k + 1], alone, within=1e-4)  # a mask's edge is steep


def test_previews_end_on_the_edited_picture(model):
    request = asked(model, "H1P2", strength=0.7, plain_end=0.2)
    blocks = list(model.pipeline.run(model.pipeline.job(request), request.plan))
    assert blocks[-1].t == 1.0
    assert torch.equal(blocks[-1].prediction(), blocks[-1].state.x)


# The mask -------------------------------------------------------------------------------------


def test_a_mask_that_is_found_is_of_the_difference_of_velocities(model):
    # A quarter of 24 steps, of which the middle half, unguided; abs of the sum, mean of channels.
    y, p = path_of(model)
    z, total, steps = y, torch.zeros_like(y), 6
    for k in range(steps):
        t = 0.3 + k * 0.7 / steps
        apart = velocity(model, z + p(t) - y, t, model.target, 1)
        apart = apart - velocity(model, p(t), t, model.source, 1)
        if 0.25 <= k / steps < 0.75:
            total = total + apart
        z = z + 0.7 / steps * apart
    energy = total.abs().mean(dim=1)[0].numpy()
    smooth = np.array(
        [
            [energy[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3].mean() for c in range(8)]
            for r in range(8)
        ]
    )
    low, high = np.quantile(smooth, [0.1, 0.9])
    expected = 1 / (1 + np.exp(-((smooth - low) / (high - low) - 0.55) / 0.08))
    job = model.pipeline.job(asked(model, "E24", strength=0.7, find_mask=True))
    assert_equal(job.condition["mask"][0, 0], torch.from_numpy(expected), within=1e-3)


def test_a_mask_is_multiplied_with_the_edit(model):
    request = asked(model, "H1P2", 3.0, source_guidance_scale=1.5, strength=0.7, find_mask=True)
    job = model.pipeline.job(request)
    mask = job.condition["mask"]
    expected = flowedit(model, "HPP", "", (1.5, 3.0), 0.7, 0.0, mask.double())
    assert_equal(finish(model, job, request), expected)


def test_a_mask_of_ones_is_none_and_one_of_zeros_keeps_the_picture(model):
    request = asked(model, "H1P2", find_mask=True)
    job = model.pipeline.job(request)
    half = torch.ones(1, 1, 8, 8)
    whole = replace(job, condition=job.condition | {"mask": half})
    assert torch.equal(finish(model, whole, request), edited(model, "H1P2"))
    half = half.clone()
    half[..., :4] = 0
    left = replace(job, condition=job.condition | {"mask": half})
    found = finish(model, left, request)
    assert_equal(found[..., :4], model.y[..., :4])
    assert (found - model.y)[..., 4:].abs().max() > 1e-2


def test_a_soft_mask_is_half_at_055_of_its_scale():
    # A ramp along the rows, which a mean over rows and columns leaves as it is but at its ends.
    energy = torch.arange(40.0).view(1, 1, 40, 1).expand(1, 1, 40, 20)
    mask = soft_mask(energy)
    assert mask.shape == (1, 1, 40, 20)
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask[0, 0, 0].max() < 0.01 and mask[0, 0, -1].min() > 0.99
    low, high = 3.9, 35.1  # the 10th and the 90th percentile of 0..39
    middle = round(low + 0.55 * (high - low))
    assert mask[0, 0, middle - 2, 10] < 0.5 < mask[0, 0, middle + 2, 10]
    assert (mask[0, 0, 1:, 0] >= mask[0, 0, :-1, 0]).all()


def test_the_scale_of_a_soft_mask_is_each_images_own():
    energy = torch.rand(2, 1, 8, 8)
    energy[1] *= 1000
    mask = soft_mask(energy)
    assert_equal(mask[:1], soft_mask(energy[:1]))
    assert_equal(mask[1:], soft_mask(energy[1:] / 1000), within=1e-4)


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-20])
def test_where_nothing_differs_a_soft_mask_is_closed(value):
    mask = soft_mask(torch.full((2, 1, 8, 8), value))
    assert torch.isfinite(mask).all() and mask.max() < 0.01


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["flowedit", "flowalign"])
def test_refiner_steps_are_refused_in_a_sentence(model, method):
    sentence = f"plan H1P1R1 has refiner steps, which {method} cannot take: a refiner corrects"
    with pytest.raises(ValueError, match=sentence):
        asked(model, "H1P1R1", method=method)


def test_a_default_plan_has_a_pseudo_corrector_for_each_refiner_step(model):
    assert model.pipeline.default_plan == "H1P2R1"
    assert str(asked(model, None).plan) == "H1P3"
    assert str(asked(model, None, method="flowalign").plan) == "H1P3"
    assert str(asked(model, None, method="sdedit").plan) == "H1P2R1"


@pytest.mark.parametrize("plain_end", [0.6, 0.7, 1.0])
def test_a_plain_end_as_long_as_the_edit_is_refused(model, plain_end):
    sentence = f"plain end must be less than the strength, 0.6, not {plain_end:g}"
    with pytest.raises(ValueError, match=sentence):
        asked(model, strength=0.6, plain_end=plain_end)


def test_a_source_is_a_class_that_the_model_knows(pipeline):
    picture = Image.new("RGB", (16, 16))
    for source, sentence in (
        ("", "flowedit needs the source: name the class of the picture"),
        ("dog", "class 'dog' is not known; the classes are subject 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipeline.request([1], plan="E1", task=Edit(picture, source=source))
    assert pipeline.request([1], plan="E1", task=Edit(picture, source=2)).task.source == "subject 2"
