"""The class-conditional pipeline: same seed same picture, every output type, never a black one."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from flowturbo_core.models.autoencoder import decode_latents
from flowturbo_core.models.sit import SiTPredictor, SiTRefiner
from flowturbo_core.pipelines.bench import OUTPUT_TYPES
from flowturbo_core.pipelines.class_conditional import ClassConditionalPipeline
from flowturbo_core.requests import Generate
from tests.conftest import TINY_SIT, tiny_pipeline, tiny_vae


def latents_of(pipeline, *args, **kwargs):
    return pipeline(*args, **{"output_type": "latent"} | kwargs).latents


def noise(batch, seed=3):
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("plan", ["H4", "H1P2R2", "E3"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("guided_channels", [None, 3])
def test_a_seed_gives_the_same_image_alone_and_in_a_batch(plan, guidance_scale, guided_channels):
    pipeline = tiny_pipeline(guided_channels=guided_channels)
    together = latents_of(pipeline, [0, 1, 2], plan, guidance_scale, seed=5)
    for k in range(3):
        alone = latents_of(pipeline, [k], plan, guidance_scale, seed=5 + k)
        torch.testing.assert_close(together[k], alone[0], rtol=0, atol=1e-4)


def test_seeds_and_classes_and_guidance_and_plans_all_matter(pipeline):
    base = {"class_labels": [0], "plan": "H2", "guidance_scale": 2.0, "seed": 5}
    reference = latents_of(pipeline, **base)
    assert torch.equal(reference, latents_of(pipeline, **base))
    others = [{"class_labels": [1]}, {"plan": "H3"}, {"guidance_scale": 3.0}, {"seed": 6}]
    for change in others:
        assert (latents_of(pipeline, **base | change) - reference).abs().max() > 1e-4, change


def test_images_of_a_class_come_together_with_seeds_counting_on(pipeline):
    found = latents_of(pipeline, ["subject 1", 0], "H1", num_images=2, seed=10)
    assert found.shape == (4, 4, 8, 8)
    for k, label in enumerate([1, 1, 0, 0]):
        alone = latents_of(pipeline, [label], "H1", seed=10 + k)
        torch.testing.assert_close(found[k], alone[0], rtol=0, atol=1e-4)


def test_noise_may_come_from_a_generator(pipeline):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return latents_of(pipeline, [0, 1], "H1", generator=generator, seed=99)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    # It is what a person would draw from that generator.
    assert torch.equal(draw(3), latents_of(pipeline, [0, 1], "H1", latents=noise(2)))


def test_given_latents_are_the_noise_and_are_left_alone(pipeline):
    given = noise(2)
    before = given.clone()
    found = latents_of(pipeline, [0, 1], "H1", latents=given, seed=99)
    assert torch.equal(given, before)
    assert torch.equal(found, latents_of(pipeline, [0, 1], "H1", latents=given, seed=0))
    one_seed = latents_of(pipeline, [0], "H1", seed=3)
    assert torch.equal(one_seed, latents_of(pipeline, [0], "H1", latents=noise(1)))


def test_defaults_come_from_the_model(pipeline):
    assert torch.equal(latents_of(pipeline, [0]), latents_of(pipeline, [0], "H1P2R1", 1.5, 1, 0))


def test_every_output_type_holds_the_same_picture(pipeline):
    made = {kind: pipeline([0, 1], "H1", output_type=kind).images for kind in OUTPUT_TYPES}
    assert made["latent"].shape == (2, 4, 8, 8)
    assert made["pt"].shape == (2, 3, 16, 16)
    assert made["np"].shape == (2, 16, 16, 3)
    assert all(isinstance(p, Image.Image) and p.size == (16, 16) for p in made["pil"])
    assert made["pt"].min() >= 0 and made["pt"].max() <= 1
    np.testing.assert_array_equal(made["np"], made["pt"].permute(0, 2, 3, 1).numpy())
    bytes_of = np.stack([np.asarray(p) for p in made["pil"]])
    np.testing.assert_allclose(bytes_of / 255, made["np"], atol=0.51 / 255)
    decoded = decode_latents(pipeline.vae, made["latent"])
    torch.testing.assert_close(made["pt"], decoded / 2 + 0.5)
    assert bytes_of.std() > 1  # a picture, not one colour


def test_an_unknown_output_type_is_refused_with_the_known_ones(pipeline):
    with pytest.raises(ValueError, match="'jpeg'.*pil.*np.*pt.*latent"):
        pipeline([0], "H1", output_type="jpeg")


@pytest.mark.parametrize("plan", ["H2P1", "H1P1R2"])
def test_the_stream_ends_where_the_call_does(pipeline, plan):
    states = list(pipeline.stream([0, 2], plan, 2.0, seed=4))
    output = pipeline([0, 2], plan, 2.0, seed=4, output_type="latent")
    assert torch.equal(states[-1].state.x, output.latents)
    assert [s.block for s in states] == list(range(1, len(states) + 1))
    assert {s.num_blocks for s in states} == {len(states)}
    assert states[-1].t == 1.0
    assert len(output.timing.block_ms) == len(states)


def test_the_stream_tells_kinds_and_times(pipeline):
    states = list(pipeline.stream([0], "P1E1P1R1"))
    assert "".join(s.kind for s in states) == "HEHR"
    assert [s.t for s in states] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_state_that_was_handed_out_is_the_consumers_own(pipeline):
    # It may draw on it, from another thread, while the next block is computed.
    kept = []
    for progress in pipeline.stream([0], "H1P2R1", seed=4):
        kept.append(progress.state.x.clone())
        progress.state.x.fill_(float("nan"))
        progress.state.v.fill_(float("nan"))
    undisturbed = [p.state.x for p in pipeline.stream([0], "H1P2R1", seed=4)]
    assert all(torch.equal(a, b) for a, b in zip(kept, undisturbed, strict=True))


@pytest.mark.parametrize("guided_channels", [None, 3])
def test_closing_the_stream_stops_the_work(guided_channels):
    pipeline = tiny_pipeline(guided_channels=guided_channels)
    calls = []
    pipeline.predictor.register_forward_hook(lambda *_: calls.append(1))
    stream = pipeline.stream([0, 1], "H8")
    first = next(stream)
    assert first.state.x.shape == first.state.v.shape == (2, 4, 8, 8)
    before = len(calls)
    stream.close()
    assert len(calls) == before


def test_a_prediction_is_where_the_velocity_points(pipeline):
    for progress in pipeline.stream([0], "H2R1"):
        expected = progress.state.x + (1 - progress.t) * progress.state.v
        torch.testing.assert_close(progress.prediction(), expected)
    assert torch.equal(progress.prediction(), progress.state.x)  # at the end, the image itself


def test_wrong_values_are_refused_before_the_first_block(pipeline):
    with pytest.raises(ValueError, match="R1H1"):
        pipeline.stream([0], "R1H1")
    with pytest.raises(ValueError, match="class"):
        pipeline.stream([3])


@pytest.mark.parametrize(
    "shape", [(1, 4, 8, 8), (2, 4, 8), (2, 3, 8, 8), (2, 4, 8, 9), (2, 4, 16, 16), ()]
)
def test_latents_of_another_shape_are_refused_with_both_shapes(pipeline, shape):
    with pytest.raises(ValueError) as refusal:
        pipeline([0, 1], "H1", latents=torch.zeros(shape))
    assert str(shape) in str(refusal.value)
    assert "(2, 4, 8, 8)" in str(refusal.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_are_refused(pipeline, value):
    latents = noise(1)
    latents[0, 2, 3, 3] = value
    with pytest.raises(ValueError, match="finite"):
        pipeline([0], "H1", latents=latents)


def test_complex_latents_are_refused_not_cut_down_to_their_real_part(pipeline):
    with pytest.raises(ValueError, match="complex"):
        pipeline([0], "H1", latents=torch.zeros(1, 4, 8, 8, dtype=torch.complex64))


@pytest.mark.parametrize(
    "latents", [noise(1).numpy(), noise(1).tolist(), "noise", 5], ids=["numpy", "list", "text", "5"]
)
def test_latents_that_are_no_tensor_are_refused(pipeline, latents):
    with pytest.raises(ValueError, match=f"torch tensor, not a {type(latents).__name__}"):
        pipeline([0], "H1", latents=latents)


def test_latents_beyond_float32_are_refused(pipeline):
    with pytest.raises(ValueError, match="finite"):
        pipeline([0], "H1", latents=torch.full((1, 4, 8, 8), 1e300, dtype=torch.float64))


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda t: t.to("meta")])
def test_latents_without_values_are_refused(pipeline, change):
    with pytest.raises(ValueError, match="sparse or meta"):
        pipeline([0], "H1", latents=change(noise(1)))


@pytest.mark.parametrize("generator", [5, "cpu", [torch.Generator()]])
def test_a_generator_that_is_none_is_refused(pipeline, generator):
    with pytest.raises(ValueError, match=r"generator must be a torch\.Generator, not"):
        pipeline([0], "H1", generator=generator)


@pytest.mark.parametrize("labels", [b"\x00", bytearray(1), {0: "a"}, {0, 1}, frozenset([1])])
def test_labels_in_no_order_or_in_bytes_are_refused(pipeline, labels):
    with pytest.raises(ValueError, match="class_labels must be a list"):
        pipeline.request(labels)


@pytest.mark.parametrize("task", ["generate", None, Generate, {}])
def test_what_is_no_task_is_refused(pipeline, task):
    assert pipeline.request([0], task=Generate()) == pipeline.request([0])
    with pytest.raises(ValueError, match="task must be a Generate or Edit or Inpaint, not "):
        pipeline.request([0], task=task)


@pytest.mark.parametrize("output_type", ["jpeg", None, ["pil"], 5])
def test_a_wrong_output_type_is_refused_before_sampling(pipeline, output_type, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda *_: pytest.fail("sampling began"))
    with pytest.raises(ValueError, match="output_type"):
        pipeline([0], "H1", output_type=output_type)


@pytest.mark.parametrize(
    "latents", [torch.zeros(1, 3, 8, 8), torch.zeros(4, 8, 8), noise(1).numpy(), None]
)
def test_decoding_something_else_than_latents_is_refused(pipeline, latents):
    with pytest.raises(ValueError, match=r"latents must be a tensor \(B, 4, h, w\), not"):
        pipeline.decode(latents)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", ["predictor", "vae"])
def test_float32_is_advised_only_where_it_could_help(part, dtype):
    pipeline = tiny_pipeline().to(dtype=dtype)
    with torch.no_grad():
        next(iter(getattr(pipeline, part).parameters())).fill_(float("nan"))
        pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite") as refusal:
        pipeline([0], "H1")
    advised = "try float32" in str(refusal.value)
    assert advised == (dtype != torch.float32)
    assert ("weights or the latents" in str(refusal.value)) == (not advised)


@pytest.mark.parametrize("output_type", OUTPUT_TYPES)
@pytest.mark.parametrize("guided_channels", [None, 3])
def test_a_model_of_nan_is_an_error_never_a_black_image(output_type, guided_channels):
    pipeline = tiny_pipeline(guided_channels=guided_channels)
    with torch.no_grad():
        pipeline.predictor.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError):
        pipeline([0], "H2", output_type=output_type)


@pytest.mark.parametrize("output_type", OUTPUT_TYPES)
def test_overflow_in_float16_is_an_error(output_type):
    pipeline = tiny_pipeline()
    with torch.no_grad():  # well within float32, beyond 65504
        pipeline.predictor.final_layer.linear.bias += 1e6
    assert torch.isfinite(latents_of(pipeline, [0], "H1")).all()
    pipeline.to(torch.float16)  # as torch's own, a dtype may come first
    with pytest.raises(FloatingPointError, match="float16"):
        pipeline([0], "H1", output_type=output_type)


@pytest.mark.parametrize("bias", [float("nan"), -1e6, 1e6])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_an_autoencoder_that_overflows_is_an_error_never_a_black_image(output_type, bias):
    # In float16, a decoder's overflow is an infinity, which clamping would turn into black or
    # white: it has to be noticed before.
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias[:] = bias
    pipeline.to(dtype=torch.float16)
    with pytest.raises(FloatingPointError):
        pipeline([0], "H1", output_type=output_type)


@pytest.mark.parametrize("plan", ["H4", "H1P2R2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(plan, dtype):
    exact = latents_of(tiny_pipeline(), [0, 1, 2], plan)
    half = latents_of(tiny_pipeline().to(dtype=dtype), [0, 1, 2], plan)
    assert half.dtype == torch.float32  # the state is never rounded
    assert (half - exact).norm() / exact.norm() < (0.02 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("guidance_scale", [1 + 1e-9, 1 - 1e-9])
@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_guidance_within_rounding_of_one_is_no_guidance(pipeline, guidance_scale, labels):
    # In float32 the scale is exactly 1, in a Python float it is not: both must mean the same.
    found = latents_of(pipeline, labels, "H1", guidance_scale)
    assert found.shape == (len(labels), 4, 8, 8)
    torch.testing.assert_close(found, latents_of(pipeline, labels, "H1", 1.0), rtol=0, atol=1e-5)


def test_guidance_of_one_evaluates_half_the_batch(pipeline):
    sizes = []
    handle = pipeline.predictor.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    pipeline([0, 1], "E1", 1.0, output_type="latent")
    unguided = sizes[-1]
    pipeline([0, 1], "E1", 2.0, output_type="latent")
    handle.remove()
    assert (unguided, sizes[-1]) == (2, 4)


def test_refiner_steps_without_a_refiner_are_refused_by_plan():
    pipeline = tiny_pipeline(with_refiner=False)
    with pytest.raises(ValueError, match="H1P5R3"):
        pipeline([0], "H1P5R3")
    assert len(pipeline([0], "H1P5").images) == 1


@pytest.mark.parametrize("variant", ["consistent", "released"])
def test_the_refiners_variant_is_the_one_in_its_config(variant):
    made = {}
    for name in ("consistent", "released"):
        plain = tiny_pipeline()
        plain.refiner.register_to_config(variant=name)
        made[name] = latents_of(plain, [0], "H1R2")
    chosen = tiny_pipeline()
    chosen.refiner.register_to_config(variant=variant)
    assert torch.equal(latents_of(chosen, [0], "H1R2"), made[variant])
    assert not torch.equal(made["consistent"], made["released"])


def test_a_task_may_start_in_the_middle_and_project(pipeline):
    job = pipeline.job(pipeline.request([0, 1]))
    calls = []

    def project(state, t):
        calls.append((t, state.x.shape))
        return state

    later = dataclasses.replace(job, t_start=0.5, project=project)
    times = [p.t for p in pipeline.run(later, pipeline.request([0], "H2").plan)]
    assert times == pytest.approx([0.75, 1.0])
    assert calls == [(pytest.approx(0.75), (2, 4, 8, 8)), (pytest.approx(1.0), (2, 4, 8, 8))]


def parts(**changes):
    config = TINY_SIT | {"depth": 1}
    chosen = {
        "predictor": SiTPredictor(**config),
        "vae": tiny_vae(),
        "class_names": ["a", "b", "c"],
        "refiner": SiTRefiner(**config),
    }
    return chosen | changes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_names": ["a", "b"]}, ("3", "2")),
        ({"class_names": []}, ("3", "0")),
        ({"class_names": None}, ("class_names", "None")),
        ({"class_names": b"abc"}, ("class_names",)),
        ({"class_names": ["a", "b", ""]}, ("class_names", "''")),
        ({"class_names": ["a", "b", 3]}, ("class_names", "3")),
        ({"class_names": ["a", "b", "B "]}, ("class_names", "'B '", "twice")),
        ({"class_names": ["a", "b", " 7"]}, ("class_names", "' 7'", "label")),
        ({"class_names": ["a", "b", "c", "d"]}, ("3", "4")),
        ({"vae": tiny_vae(latent_channels=8)}, ("4", "8")),
        ({"refiner": SiTRefiner(**TINY_SIT | {"num_classes": 4})}, ("num_classes", "4", "3")),
        ({"refiner": SiTRefiner(**TINY_SIT | {"sample_size": 4})}, ("sample_size", "4", "8")),
        ({"predictor": SiTPredictor(**TINY_SIT, depth=1, autoencoder_hash="0" * 64)}, ("0000",)),
        ({"default_plan": "R3"}, ("R3",)),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes, named):
    with pytest.raises(ValueError) as refusal:
        ClassConditionalPipeline(**parts(**changes))
    assert all(part in str(refusal.value) for part in named)


def test_another_autoencoder_is_refused_and_its_own_is_not():
    own, other = tiny_vae(0), tiny_vae(1)
    right = tiny_pipeline(vae=own)
    ClassConditionalPipeline(right.predictor, tiny_vae(0), right.class_names)
    with pytest.raises(ValueError, match="autoencoder"):
        ClassConditionalPipeline(right.predictor, other, right.class_names)


def test_the_same_weights_with_other_statistics_are_another_autoencoder():
    # Latents normalised otherwise do not mean the same, and would decode to wrong colours.
    own = tiny_vae(0, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    pipeline = tiny_pipeline(vae=own, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    other = tiny_vae(0, latents_mean=[0.5] * 4, latents_std=[2.0] * 4)
    with pytest.raises(ValueError):
        ClassConditionalPipeline(pipeline.predictor, other, pipeline.class_names)


def test_wide_and_odd_models_sample_too():
    pipeline = tiny_pipeline(patch_size=4, num_classes=5, learn_sigma=True)
    assert len(pipeline([4, 3], "H1P1R1").images) == 2


def test_who_asks_for_guidance_of_zero_is_warned_as_classes_then_have_no_effect(pipeline):
    noise = {"plan": "E1", "guidance_scale": 0, "seed": 1, "output_type": "latent"}
    with pytest.warns(UserWarning, match="at guidance 0 the class has no effect;") as warned:
        first, second = (pipeline([label], **noise).latents for label in (0, 1))
    assert torch.equal(first, second)
    assert [its.filename for its in warned] == [__file__] * 2
    with pytest.warns(UserWarning, match="at guidance 0 the class"):
        pipeline.stream([0], guidance_scale=0)


def test_of_guidance_on_some_channels_no_more_is_said_than_holds():
    partial = tiny_pipeline(guided_channels=3)
    (said,) = partial.warnings(partial.request([0], guidance_scale=0))
    assert "no effect on 3 of 4 channels" in said
    assert partial.warnings(partial.request([0])) == []
