"""The text-to-image pipeline: InstaFlow's loop and FlowTurbo's blocks, written out once more."""

import math
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from flowturbo_core.compile import can_compile
from flowturbo_core.pipelines.bench import OUTPUT_TYPES
from flowturbo_core.pipelines.text_to_image import EXAMPLE_PROMPTS, TextToImagePipeline
from flowturbo_core.requests import MAX_IMAGES, MAX_SIDE, MAX_TEXT
from tests.conftest import tiny_vae
from tests.core.pipelines.tiny_text import (
    WINDOW,
    tiny_refiner,
    tiny_text_encoder,
    tiny_text_pipeline,
    tiny_unet,
    write_sd_folder,
)

PROMPTS = ["a red sailboat at sunset", "a blue fish"]


@pytest.fixture(scope="module")
def pipeline():
    """Return a tiny pipeline; a test that changes one makes its own."""
    return tiny_text_pipeline()


@pytest.fixture(scope="module")
def original(pipeline, tmp_path_factory):
    """Return the parts of the pipeline's folder as diffusers and transformers load them."""
    folder = tmp_path_factory.mktemp("models") / "instaflow"
    write_sd_folder(pipeline, folder, "RectifiedFlowPipeline")
    return SimpleNamespace(
        folder=folder,
        unet=UNet2DConditionModel.from_pretrained(folder / "unet").eval(),
        refiner=UNet2DConditionModel.from_pretrained(folder / "refiner").eval(),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    )


def latents_of(pipeline, *args, **kwargs):
    return pipeline(*args, **{"output_type": "latent"} | kwargs).latents


def noise(batch, seed=3, size=(8, 8)):
    draws = [
        torch.randn(4, *size, generator=torch.Generator().manual_seed(seed + k))
        for k in range(batch)
    ]
    return torch.stack(draws)


def embeddings(original, texts):
    tokens = original.tokenizer(
        texts, padding="max_length", max_length=WINDOW, truncation=True, return_tensors="pt"
    )
    return original.text_encoder(tokens.input_ids)[0]


def guided(original, prompts, negative, guidance_scale):
    """Return the functions v(x, t) and r(x, t, v), guided; t runs from 0, the noise, to 1."""
    text, null = embeddings(original, prompts), embeddings(original, [negative] * len(prompts))

    def combine(model, inputs, t):
        with_text = model(inputs, (1 - t) * 1000, text)[0]
        without = model(inputs, (1 - t) * 1000, null)[0]
        return without + guidance_scale * (with_text - without)

    def velocity(x, t):
        return combine(original.unet, x, t)

    def offset(x, t, v):
        return combine(original.refiner, torch.cat([x, v], dim=1), t)

    return velocity, offset


@torch.no_grad()
@pytest.mark.parametrize(
    ("steps", "guidance_scale", "negative"),
    [(1, 1.0, ""), (1, 3.0, ""), (4, 1.0, ""), (4, 2.0, "a cat, on the left"), (25, 3.0, "night")],
)
def test_euler_plans_are_instaflows_loop(original, steps, guidance_scale, negative):
    text, null = embeddings(original, PROMPTS), embeddings(original, [negative] * 2)
    x = noise(2)
    for i in range(steps):
        timestep = (1 - i / steps) * 1000
        v_text = original.unet(x, timestep, text).sample
        v_null = original.unet(x, timestep, null).sample
        x = x + 1 / steps * (v_null + guidance_scale * (v_text - v_null))
    found = latents_of(
        TextToImagePipeline.from_pretrained(original.folder),
        PROMPTS,
        negative,
        f"E{steps}",
        guidance_scale,
        seed=3,
    )
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (5, 10)])
def test_heun_blocks_written_out(pipeline, original, size):
    v, _ = guided(original, PROMPTS, "night", 2.5)
    x = noise(2, size=size)
    d0 = v(x, 0.0)
    d1 = v(x + 0.5 * d0, 0.5)
    x = x + 0.25 * (d0 + d1)
    d0 = v(x, 0.5)
    d1 = v(x + 0.5 * d0, 1.0)
    x = x + 0.25 * (d0 + d1)
    height, width = (2 * side for side in size)
    found = latents_of(pipeline, PROMPTS, "night", "H2", 2.5, seed=3, height=height, width=width)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


@torch.no_grad()
def test_pseudo_blocks_written_out(pipeline, original):
    v, _ = guided(original, PROMPTS, "", 2.0)
    x, dt = noise(2), 1 / 3
    d0 = v(x, 0.0)
    carried = v(x + dt * d0, dt)
    x = x + dt / 2 * (d0 + carried)
    for t in (dt, 2 * dt):
        d1 = v(x + dt * carried, t + dt)
        x, carried = x + dt / 2 * (carried + d1), d1
    found = latents_of(pipeline, PROMPTS, plan="H1P2", guidance_scale=2.0, seed=3)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["consistent", "released"])
def test_refiner_blocks_written_out(original, variant):
    v, r = guided(original, PROMPTS, "", 2.0)
    x, dt = noise(2), 1 / 3
    d0 = v(x, 0.0)
    carried = v(x + dt * d0, dt)
    x = x + dt / 2 * (d0 + carried)
    for t in (dt, 2 * dt):
        d0 = r(x, t, carried) + carried
        if variant == "consistent":
            d1 = r(x + dt * d0, t + dt, carried) + carried
            x, carried = x + dt / 2 * (d0 + d1), d1
        else:
            d1 = r(x + dt * d0, t + dt, carried) + d0
            x, carried = x + dt / 2 * (d0 + d1), d0
    pipeline = tiny_text_pipeline(refiner_variant=variant)
    found = latents_of(pipeline, PROMPTS, plan="H1R2", guidance_scale=2.0, seed=3)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("plan", "predictor", "refiner"),
    [("H2", 4, 0), ("H1P2", 4, 0), ("P1", 2, 0), ("H1R2", 2, 4), ("H1P2R1", 4, 2), ("E4", 4, 0)],
)
def test_a_plan_evaluates_as_often_as_it_says(pipeline, plan, predictor, refiner):
    latents_of(pipeline, "a cat", plan=plan)  # the first run warms up
    calls = []
    handles = [
        model.register_forward_hook(lambda module, *_: calls.append(module))
        for model in (pipeline.unet, pipeline.refiner.unet)
    ]
    latents_of(pipeline, "a cat", plan=plan)
    for handle in handles:
        handle.remove()
    assert (calls.count(pipeline.unet), calls.count(pipeline.refiner.unet)) == (predictor, refiner)


def test_guidance_of_one_evaluates_half_the_batch(pipeline):
    sizes = []
    handle = pipeline.unet.register_forward_hook(lambda m, i, o: sizes.append(len(o[0])))
    latents_of(pipeline, PROMPTS, plan="E1", guidance_scale=1.0)
    unguided = set(sizes)
    latents_of(pipeline, PROMPTS, plan="E1", guidance_scale=1 + 1e-9)
    assert set(sizes) == unguided == {2}
    sizes.clear()
    latents_of(pipeline, PROMPTS, plan="E1", guidance_scale=2.0)
    handle.remove()
    assert set(sizes) == {4}


def test_without_guidance_the_negative_prompt_does_not_matter(pipeline):
    first, second = (latents_of(pipeline, "a cat", n, "H1", 1.0) for n in ("", "night"))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("plan", ["H2", "H1P1R1", "E3"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_seed_gives_the_same_image_alone_and_in_a_batch(pipeline, plan, guidance_scale):
    together = latents_of(pipeline, [*PROMPTS, "night"], "", plan, guidance_scale, seed=5)
    for k, prompt in enumerate([*PROMPTS, "night"]):
        alone = latents_of(pipeline, prompt, "", plan, guidance_scale, seed=5 + k)
        torch.testing.assert_close(together[k], alone[0], rtol=0, atol=1e-4)


def test_images_of_a_prompt_come_together_with_seeds_counting_on(pipeline):
    found = latents_of(pipeline, PROMPTS, plan="H1", num_images=2, seed=10)
    for k, prompt in enumerate([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]):
        alone = latents_of(pipeline, prompt, plan="H1", seed=10 + k)
        torch.testing.assert_close(found[k], alone[0], rtol=0, atol=1e-4)


def test_everything_that_is_asked_matters(pipeline):
    base = {"prompt": "a cat", "plan": "H2", "guidance_scale": 2.0, "seed": 5}
    reference = latents_of(pipeline, **base)
    assert torch.equal(reference, latents_of(pipeline, **base))
    others = [
        {"prompt": "a fish"},
        {"negative_prompt": "night"},
        {"plan": "H3"},
        {"guidance_scale": 3.0},
        {"seed": 6},
    ]
    for change in others:
        assert (latents_of(pipeline, **base | change) - reference).abs().max() > 1e-2, change


def test_each_different_text_is_embedded_once(pipeline):
    rows = []
    handle = pipeline.text_encoder.register_forward_hook(
        lambda m, i, o: rows.append(len(o.last_hidden_state))
    )
    prompts = ["a cat", "night", "a cat", "  a\tcat "]
    latents_of(pipeline, prompts, "night", "E2", 2.0, num_images=3)
    handle.remove()
    assert sum(rows) == 2


def test_defaults_come_from_the_model(pipeline):
    asked = latents_of(pipeline, "a cat", "", "H1P2R1", 1.5, 1, 0, 16, 16)
    assert torch.equal(latents_of(pipeline, "a cat"), asked)


def test_noise_may_be_given(pipeline):
    given = noise(2)
    found = latents_of(pipeline, PROMPTS, plan="H1", latents=given, seed=99)
    assert torch.equal(given, noise(2))
    assert torch.equal(found, latents_of(pipeline, PROMPTS, plan="H1", seed=3))
    drawn = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(
        latents_of(pipeline, PROMPTS, plan="H1", generator=generator),
        latents_of(pipeline, PROMPTS, plan="H1", latents=drawn),
    )


def test_given_noise_has_the_size_that_is_asked_for(pipeline):
    given = noise(1, size=(4, 6))
    found = latents_of(pipeline, "a cat", plan="H1", latents=given, height=8, width=12)
    assert found.shape == (1, 4, 4, 6)
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\).*\(1, 4, 4, 6\)"):
        pipeline("a cat", plan="H1", latents=given)


def test_the_stream_ends_where_the_call_does(pipeline):
    asked = (PROMPTS, "night", "H1P1R1", 2.0)
    states = list(pipeline.stream(*asked, seed=4))
    assert "".join(state.kind for state in states) == "HPR"
    assert torch.equal(states[-1].state.x, latents_of(pipeline, *asked, seed=4))


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (10, 22), (2, 2), (2, 40)])
def test_a_size_may_be_asked_for(pipeline, size):
    height, width = size
    made = {
        kind: pipeline(PROMPTS, plan="H1R1", height=height, width=width, output_type=kind)
        for kind in OUTPUT_TYPES
    }
    assert made["pil"].images[0].size == (width, height)
    assert made["np"].images.shape == (2, height, width, 3)
    assert made["pt"].images.shape == (2, 3, height, width)
    assert made["latent"].latents.shape == (2, 4, height // 2, width // 2)


@pytest.mark.parametrize("side", ["height", "width"])
@pytest.mark.parametrize(
    "value",
    [15, 0, 1, -16, 16.5, "16", True, math.nan, math.inf, [16], MAX_SIDE + 2, 10**400],
)
def test_a_size_that_no_image_has_is_refused(pipeline, side, value):
    with pytest.raises(ValueError, match=side) as refusal:
        pipeline.request("a cat", **{side: value})
    assert len(str(refusal.value)) < 200


def test_more_pixels_than_memory_holds_are_refused(pipeline):
    with pytest.raises(ValueError, match="million pixels, not 67"):
        pipeline.request(["a cat"] * 4, num_images=4, height=2048, width=2048)
    with pytest.raises(ValueError, match=f"{MAX_IMAGES} images"):
        pipeline.request(["a cat"] * 2, num_images=MAX_IMAGES)


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat, a cat, a cat at sunset",
        " A  Cat,\nA CAT,   a\tcat at SUNSET",
        "\u05d0 \u05d1 \u05d2 \u05d3 \u05d4 \u05d5",  # two tokens a letter
        "\U0001f600 \U0001f601 \U0001f602",  # four a face
    ],
)
def test_the_end_that_does_not_fit_is_named_and_left_out(pipeline, prompt):
    request = pipeline.request(prompt, plan="H1")
    (warning,) = pipeline.warnings(request)
    whole = request.subject.prompts[0]
    cut = next(k for k in range(len(whole)) if repr(whole[k:]) in warning)
    assert 0 < cut < len(whole)
    assert f"the first {WINDOW - 2} tokens" in warning
    assert torch.equal(
        latents_of(pipeline, whole, plan="H1"), latents_of(pipeline, whole[:cut], plan="H1")
    )
    assert pipeline.warnings(pipeline.request(whole[:cut])) == []


def test_what_fits_is_not_warned_of(pipeline):
    fits = pipeline.request(["a boat", "a a a a a a a a"], "night, city")
    assert pipeline.warnings(fits) == []
    long = "a " * 20
    assert len(pipeline.warnings(pipeline.request(["a cat", long, long], "b " * 20))) == 2


def test_who_calls_is_warned(pipeline):
    long = "a cat " * 9
    for ask in (pipeline, lambda *asked: next(pipeline.stream(*asked))):
        with pytest.warns(UserWarning, match="only the first 8 tokens .*left out: 'a cat") as told:
            ask(long, "", "E1")
        assert len(told) == 1 and told[0].filename == __file__
        with warnings.catch_warnings(action="error"):
            ask("a cat", "", "E1")


def test_texts_are_measured_while_others_are_embedded(pipeline):
    """A page measures what is being typed while it samples, on another thread."""
    is_over, failures = threading.Event(), []
    texts, long = ["a cat", "a red sailboat at sunset"], pipeline.request("a cat " * 9)
    expected, (warning,) = pipeline.embed(texts), pipeline.warnings(long)

    def measure():
        while not is_over.is_set():
            if pipeline.warnings(long) != [warning]:
                failures.append("measured")

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        for _ in range(300):
            assert torch.equal(pipeline.embed(texts), expected)
    finally:
        is_over.set()
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    "prompt",
    [
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",  # right to left
        "\u202eright to left\u202c",
        "\U0001f469\u200d\U0001f680 \U0001f1eb\U0001f1f7 \U0001f600",  # joined, flags, faces
        "e\u0301 o\u0308\u0323 Z\u0351\u036b\u0343\u036a",  # combining characters
        "\u65e5\u672c\u8a9e \ufffd \uffff \u00ad \u200b",
        "<|endoftext|> <|startoftext|> <0x00>",
        "\u0130 \ufb01 \u1e9e \u00df",  # of another length in lower case
        "a" * MAX_TEXT,
        "\U0010ffff" * MAX_TEXT,
    ],
)
def test_any_text_makes_a_picture(pipeline, prompt):
    request = pipeline.request([prompt, "a cat"], prompt, "E1")
    assert len(pipeline.warnings(request)) <= 1
    found = latents_of(pipeline, [prompt, "a cat"], prompt, "E1", 2.0)
    assert torch.isfinite(found).all()
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "blanks", ["a\tcat\n", " a  cat", "a\u2028cat", "a\u00a0cat", "a\x0b\x1c\x85cat", "\u3000a cat"]
)
def test_blanks_of_all_kinds_are_one(pipeline, blanks):
    assert pipeline.request(blanks).subject.prompts == ("a cat",)


WRONG_TEXTS = [
    "a\0cat", "\x1b[31mred", "\x7f", "\x9b1", "a \ud800", "\udfff", "a" * (MAX_TEXT + 1),
    "\u00e9" * 2**20, b"a cat", bytearray(b"a cat"), 5, 5.5, math.nan, True, None, {}, {"a": 1},
    {"a cat"}, object, ["a cat", 5], ["a cat", None], ["a cat", "\0"], ["a cat", ["night"]],
    ["a cat", b"night"], range(3), memoryview(b"a cat"), iter(["a cat"]), "a cat".split,
]  # fmt: skip


def refusal_of(pipeline, *args, **kwargs):
    with pytest.raises(ValueError) as refusal:
        pipeline(*args, **kwargs)
    sentence = str(refusal.value)
    assert "\n" not in sentence and len(sentence) < 200
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize("prompt", [*WRONG_TEXTS, "", " \t\n", "\u3000", [], (), [""], ["a", " "]])
def test_what_is_no_prompt_is_refused(pipeline, prompt):
    assert "prompt" in refusal_of(pipeline, prompt)


@pytest.mark.parametrize("text", [*WRONG_TEXTS, [], ["night"]])
def test_what_is_no_negative_prompt_is_refused(pipeline, text):
    assert "negative_prompt" in refusal_of(pipeline, "a cat", text)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"plan": "R1H1"}, "R1H1"),
        ({"plan": 5}, "plan"),
        ({"guidance_scale": 15.1}, "15.1"),
        ({"guidance_scale": "strong"}, "strong"),
        ({"num_images": 0}, "num_images"),
        ({"seed": -1}, "seed"),
        ({"output_type": "jpeg"}, "jpeg"),
        ({"generator": 5}, "generator"),
        ({"latents": [1.0]}, "latents"),
    ],
)
def test_other_wrong_values_are_refused(pipeline, change, named):
    assert named in refusal_of(pipeline, "a cat", **change)


def test_refiner_steps_without_a_refiner_are_refused_by_plan():
    pipeline = tiny_text_pipeline(with_refiner=False)
    with pytest.raises(ValueError, match="H1P1R1"):
        pipeline("a cat", plan="H1P1R1")
    assert pipeline("a cat").images[0].size == (16, 16)


def test_examples_are_of_different_things_and_the_same_each_time(pipeline):
    request = pipeline.example_request(14, 2.0, seed=3, first=11)
    assert request.subject.prompts == (EXAMPLE_PROMPTS[11], *EXAMPLE_PROMPTS, EXAMPLE_PROMPTS[0])
    assert (request.guidance_scale, request.seed, request.num_images) == (2.0, 3, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_part_computes_in_the_number_format_asked_for(pipeline, dtype):
    moved = tiny_text_pipeline()
    parts = (moved.unet, moved.vae, moved.text_encoder, moved.refiner.unet)
    exact = latents_of(moved, PROMPTS, plan="H1P1R1")
    assert moved.to(dtype) is moved
    assert {p.dtype for part in parts for p in part.parameters()} == {dtype}
    half = latents_of(moved, PROMPTS, plan="H1P1R1")
    assert half.dtype == torch.float32
    assert (half - exact).norm() / exact.norm() < (0.05 if dtype == torch.bfloat16 else 5e-3)
    assert {p.dtype for part in parts for p in part.to(torch.float32).parameters()} == {
        torch.float32
    }


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_weights_of_nan_are_an_error_never_a_black_image(part):
    pipeline = tiny_text_pipeline()
    with torch.no_grad():
        for parameter in getattr(pipeline, part).parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        pipeline("a cat", plan="H1")


@pytest.mark.slow
@pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile does not work here")
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_compiled_blocks_are_the_eager_ones_and_compile_once(pipeline, guidance_scale):
    compiled = pipeline.compiled()
    for plan in ("H1P2R1", "E2"):
        asked = {"plan": plan, "guidance_scale": guidance_scale, "seed": 1}
        torch.testing.assert_close(
            latents_of(compiled, PROMPTS, **asked),
            latents_of(pipeline, PROMPTS, **asked),
            rtol=1e-4,
            atol=1e-4,
        )
    with torch.compiler.set_stance("fail_on_recompile"):
        latents_of(compiled, ["night", "a cat"], "a fish", "H3P2R2", guidance_scale, seed=9)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unet": tiny_unet(out_channels=8)}, ("4", "8", "velocity")),
        ({"unet": tiny_unet(in_channels=8, out_channels=8)}, ("8", "4", "latent channels")),
        ({"unet": tiny_unet(cross_attention_dim=32)}, ("16", "32")),
        ({"unet": tiny_unet(sample_size=(8, 8))}, ("sample_size", "(8, 8)")),
        ({"unet": tiny_unet(sample_size=None)}, ("sample_size", "nothing")),
        ({"unet": tiny_unet(sample_size=MAX_SIDE)}, ("sample_size", "2048")),
        ({"unet": tiny_unet(class_embed_type="timestep")}, ("class_embed_type", "timestep")),
        ({"unet": tiny_unet(num_class_embeds=3)}, ("num_class_embeds", "3")),
        ({"vae": tiny_vae(latent_channels=8)}, ("4", "8")),
        ({"refiner": tiny_refiner(in_channels=4)}, ("refiner", "4", "8, 4, 16")),
        ({"refiner": tiny_refiner(out_channels=8)}, ("refiner", "8, 4, 16")),
        ({"refiner": tiny_refiner(cross_attention_dim=32)}, ("refiner", "32", "8, 4, 16")),
        ({"refiner": tiny_refiner(class_embed_type="timestep")}, ("class_embed_type",)),
        ({"refiner_variant": "sideways"}, ("sideways", "consistent", "released")),
        ({"default_plan": "R3"}, ("R3",)),
        ({"default_guidance_scale": 99}, ("default_guidance_scale", "99")),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes, named):
    with pytest.raises(ValueError) as refusal:
        tiny_text_pipeline(**changes)
    assert all(part in str(refusal.value) for part in named)


def test_a_unet_may_take_all_of_a_text_beside_its_tokens():
    config = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}
    pipeline = tiny_text_pipeline(unet=tiny_unet(**config), refiner=tiny_refiner(**config))
    first, second = (latents_of(pipeline, text, plan="H1R1") for text in ("a cat", "night"))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 32}, ("32", "16")),
        ({"vocab_size": 500}, ("547", "500")),
        ({"max_position_embeddings": 2}, ("max_position_embeddings", "2")),
    ],
)
def test_a_text_encoder_that_does_not_fit_is_refused(pipeline, changes, named):
    text_encoder = tiny_text_encoder(pipeline.tokenizer, **changes)
    with pytest.raises(ValueError) as refusal:
        tiny_text_pipeline(text_encoder=text_encoder, tokenizer=pipeline.tokenizer)
    assert all(part in str(refusal.value) for part in named)


def test_the_window_is_the_shorter_of_the_tokenizers_and_the_encoders(pipeline):
    short = tiny_text_encoder(pipeline.tokenizer, max_position_embeddings=6)
    pipeline = tiny_text_pipeline(text_encoder=short, tokenizer=pipeline.tokenizer)
    assert pipeline.window == 6
    assert torch.isfinite(latents_of(pipeline, "a " * 9, plan="E1")).all()
