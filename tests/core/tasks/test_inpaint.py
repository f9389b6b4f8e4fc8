"""Inpainting: what the mask leaves is the picture's, bit for bit, and everything starts from it."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowturbo_core.requests import Inpaint
from flowturbo_core.tasks import initial_noise
from tests.conftest import tiny_pipeline
from tests.core.pipelines.tiny_text import tiny_text_pipeline

MODELS = {
    "classes": tiny_pipeline,
    "channels": lambda: tiny_pipeline(guided_channels=3),
    "texts": tiny_text_pipeline,
}
THINGS = {"class_conditional": "subject 2", "text_to_image": "night, city"}
SEED = 5


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """Return a tiny model of 16 x 16 pixels, 8 x 8 latents."""
    return MODELS[request.param]()


def picture(width=16, height=16):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mask_of(size, box):
    """Return a mask that paints a box (left, top, right, bottom)."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def asked(model, image, mask, plan="E2", guidance_scale=2.0, num_images=1, **task):
    return model.request(
        [THINGS[model.subject.NAME]],
        plan=plan,
        guidance_scale=guidance_scale,
        num_images=num_images,
        seed=SEED,
        task=Inpaint(image, mask, **task),
    )


def painted(model, *options, **changes):
    """Return the pictures of an inpainting."""
    request = asked(model, *options, **changes)
    return model.finish(model.job(request), request.plan).images


def assert_kept(found, image, mask):
    """Check that a picture is the original outside its mask, at the original's size."""
    outside = np.asarray(mask) == 0
    assert found.size == image.size and found.mode == "RGB"
    assert np.array_equal(np.asarray(found)[outside], np.asarray(image)[outside])


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((16, 16), (4, 6, 10, 12)),
        ((16, 16), (15, 15, 16, 16)),  # one pixel in a corner
        ((23, 19), (0, 0, 5, 4)),
        ((61, 47), (40, 30, 61, 47)),
        ((61, 47), (1, 1, 60, 46)),  # nearly all of it
        ((7, 90), (2, 80, 5, 89)),  # narrower than the model's pictures
    ],
    ids=str,
)
def test_outside_the_mask_the_picture_is_kept_bit_for_bit(model, size, box):
    image, mask = picture(*size), mask_of(size, box)
    results = painted(model, image, mask, num_images=2)
    inside = np.asarray(mask) > 0
    for found in results:
        assert_kept(found, image, mask)
        assert not np.array_equal(np.asarray(found)[inside], np.asarray(image)[inside])
    first, second = (np.asarray(found)[inside] for found in results)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("feather", [1, 3, 128])
def test_a_feathered_edge_lies_inside_the_mask(model, feather):
    image, mask = picture(40, 31), mask_of((40, 31), (10, 8, 30, 24))
    (hard,), (soft,) = (painted(model, image, mask, feather=its) for its in (0, feather))
    assert_kept(soft, image, mask)
    assert not np.array_equal(hard, soft)
    # At its edge the paint is nearer to the picture than without.
    edge, original = np.s_[8:24, 10], np.asarray(image).astype(int)
    near, far = (abs(np.asarray(its).astype(int) - original)[edge].mean() for its in (soft, hard))
    assert near < far


def on_the_path(model, guidance_scale, plan, num_images=2):
    """Return the blocks of an inpainting with what they should be outside, and where that is."""
    image, mask = picture(), mask_of((16, 16), (4, 6, 10, 12))
    request = asked(model, image, mask, plan, guidance_scale, num_images)
    y = model.encode([image])
    e = initial_noise((4, 8, 8), list(request.seeds))
    # Cells 2..4 by 3..5 hold the box; one cell more on each side is sampled.
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:7, 1:6] = False
    return list(model.run(model.job(request), request.plan)), y, e, outside


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("plan", ["E3", "H1P2", "H1P1R2", "[H1P1R1]x2"])
def test_after_every_block_the_outside_is_on_the_pictures_path(model, plan, guidance_scale):
    blocks, y, e, outside = on_the_path(model, guidance_scale, plan)
    for block in blocks:
        on_path = torch.lerp(e, y.expand_as(e), block.t)
        assert torch.equal(block.state.x[..., outside], on_path[..., outside])
        assert torch.equal(block.state.v[..., outside], (y - e)[..., outside])
        assert not torch.isclose(block.state.v, y - e)[..., ~outside].all()
    last = blocks[-1]
    assert last.t == 1.0
    assert torch.equal(last.state.x[..., outside], y.expand_as(e)[..., outside])


def test_every_preview_is_the_picture_outside(model):
    image, mask = picture(40, 31), mask_of((40, 31), (3, 5, 22, 20))
    request = asked(model, image, mask, "H1P1R1")
    job = model.job(request)
    for block in model.run(job, request.plan):
        (preview,), _, _ = model.show(job, block.prediction())
        assert_kept(preview, image, mask)


def test_what_previews_are_decoded_from_is_exact_outside(model):
    blocks, y, e, outside = on_the_path(model, 2.0, "H1P2")
    for block in blocks:
        expected = y.expand_as(e)[..., outside]
        torch.testing.assert_close(block.prediction()[..., outside], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("plan", ["E3", "H1P2", "H1P1R1"])
def test_a_full_mask_is_generation_from_the_same_seed(model, plan):
    mask = Image.new("L", (16, 16), 255)
    request = asked(model, picture(), mask, plan, num_images=2)
    found = model.finish(model.job(request), request.plan)
    generated = model(
        request.subject.things, plan=plan, guidance_scale=2.0, num_images=2, seed=SEED
    )
    assert torch.equal(found.latents, generated.latents)
    for image, expected in zip(found.images, generated.images, strict=True):
        assert np.array_equal(image, expected)  # nothing of the picture is pasted over it


def test_of_strength_0_the_hole_is_the_reconstruction(model):
    image, mask = picture(), mask_of((16, 16), (4, 6, 10, 12))
    (found,) = painted(model, image, mask, strength=0, feather=0)
    (reconstruction,) = model.decode(model.encode([image]))
    assert_kept(found, image, mask)
    inside = np.asarray(mask) > 0
    assert np.array_equal(np.asarray(found)[inside], np.asarray(reconstruction)[inside])


def test_of_less_strength_it_starts_from_the_noised_picture(model):
    image, mask = picture(), mask_of((16, 16), (4, 6, 10, 12))
    job = model.job(asked(model, image, mask, strength=0.4))
    y, e = model.encode([image]), initial_noise((4, 8, 8), [SEED])
    assert job.t_start == pytest.approx(0.6)
    torch.testing.assert_close(job.x_init, 0.4 * e + 0.6 * y)


def test_each_image_depends_on_its_own_seed_alone(model):
    image, mask = picture(), mask_of((16, 16), (4, 6, 10, 12))
    request = asked(model, image, mask, "H1P2", num_images=3)
    together = model.finish(model.job(request), request.plan, "latent").latents
    for k in range(3):
        alone = model.finish(model.job(request.of_picture(k)), request.plan, "latent").latents
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=1e-5)


def test_a_mask_that_paints_nothing_is_refused(model):
    with pytest.raises(ValueError, match="the mask paints nothing: paint white where"):
        asked(model, picture(), Image.new("L", (16, 16)))


def test_greys_count_as_painted_from_their_middle_on(model):
    image, mask = picture(), mask_of((16, 16), (4, 6, 10, 12))
    grey = Image.new("L", (16, 16), 127)
    grey.paste(128, (4, 6, 10, 12))
    (hard,), (found,) = painted(model, image, mask), painted(model, image, grey)
    assert np.array_equal(hard, found)
