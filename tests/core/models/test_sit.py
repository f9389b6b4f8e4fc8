"""The SiT: the released one's parameters, sizes, arithmetic and initialisation."""

import numpy as np
import pytest
import torch

from flowturbo_core.models.sit import PRESETS, SiTPredictor, SiTRefiner, sincos_positions
from tests.conftest import TINY_SIT, randomize
from tests.core.models.released import released_shapes, sit_forward

# The names in a released checkpoint, of depth 2, in full.
RELEASED_NAMES = """
pos_embed
x_embedder.proj.weight x_embedder.proj.bias
t_embedder.mlp.0.weight t_embedder.mlp.0.bias t_embedder.mlp.2.weight t_embedder.mlp.2.bias
y_embedder.embedding_table.weight
blocks.0.attn.qkv.weight blocks.0.attn.qkv.bias blocks.0.attn.proj.weight blocks.0.attn.proj.bias
blocks.0.mlp.fc1.weight blocks.0.mlp.fc1.bias blocks.0.mlp.fc2.weight blocks.0.mlp.fc2.bias
blocks.0.adaLN_modulation.1.weight blocks.0.adaLN_modulation.1.bias
blocks.1.attn.qkv.weight blocks.1.attn.qkv.bias blocks.1.attn.proj.weight blocks.1.attn.proj.bias
blocks.1.mlp.fc1.weight blocks.1.mlp.fc1.bias blocks.1.mlp.fc2.weight blocks.1.mlp.fc2.bias
blocks.1.adaLN_modulation.1.weight blocks.1.adaLN_modulation.1.bias
final_layer.linear.weight final_layer.linear.bias
final_layer.adaLN_modulation.1.weight final_layer.adaLN_modulation.1.bias
""".split()


def predictor(**changes):
    return SiTPredictor(**TINY_SIT | {"depth": 2} | changes)


def refiner(**changes):
    return SiTRefiner(**TINY_SIT | {"depth": 1} | changes)


def inputs(batch=3, seed=0, channels=4, size=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, size, size, generator=generator)
    return x, torch.linspace(0.1, 0.9, batch), torch.arange(batch) % 4


def test_the_parameters_are_those_of_a_released_checkpoint():
    model = predictor(learn_sigma=True)
    assert sorted(model.state_dict()) == sorted(RELEASED_NAMES)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == released_shapes(32, 2, 3)


def test_a_refiner_takes_twice_the_channels():
    shapes = {name: tuple(v.shape) for name, v in refiner(learn_sigma=True).state_dict().items()}
    assert shapes == released_shapes(32, 1, 3, input_multiple=2)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("sit-s-2", 33), ("sit-b-2", 130), ("sit-l-2", 458), ("sit-xl-2", 675)],
)
def test_the_presets_have_the_published_sizes(name, millions):
    with torch.device("meta"):  # no memory is needed to count
        model = SiTPredictor(**PRESETS[name])
    found = sum(p.numel() for p in model.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=1)


def test_the_published_refiner_is_one_block_of_29_million():
    with torch.device("meta"):
        model = SiTRefiner(**PRESETS["sit-xl-2"] | {"depth": 1})
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(29, abs=1)


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("size", ["s", "b", "l", "xl"])
def test_every_preset_exists(size, patch):
    assert PRESETS[f"sit-{size}-{patch}"]["patch_size"] == patch


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"patch_size": 4, "num_heads": 4}, {"sample_size": 6, "in_channels": 8}]
)
def test_the_forward_pass_equals_a_straight_line_one(learn_sigma, changes):
    model = randomize(predictor(learn_sigma=learn_sigma, **changes), 0, scale=0.15)
    config = model.config
    x, t, labels = inputs(channels=config.in_channels, size=config.sample_size)
    expected = sit_forward(model.state_dict(), config.num_heads, x, t, labels, config.in_channels)
    torch.testing.assert_close(model(x, t, labels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_a_refiners_forward_pass_equals_a_straight_line_one(learn_sigma):
    model = randomize(refiner(learn_sigma=learn_sigma), 0, scale=0.15)
    x, t, labels = inputs()
    v = inputs(seed=1)[0]
    expected = sit_forward(model.state_dict(), 2, torch.cat([x, v], 1), t, labels)
    torch.testing.assert_close(model(x, t, v, labels), expected, rtol=1e-5, atol=1e-5)


def test_time_may_be_one_number_for_all_or_one_an_image():
    model = randomize(predictor(), 0)
    x, _, labels = inputs()
    one = model(x, torch.tensor(0.4), labels)
    torch.testing.assert_close(one, model(x, torch.full((3,), 0.4), labels))
    assert (one - model(x, torch.tensor(0.9), labels)).abs().max() > 1e-3


def test_the_time_scale_multiplies_the_time():
    scaled, plain = randomize(predictor(time_scale=10.0), 0), randomize(predictor(), 0)
    x, t, labels = inputs()
    torch.testing.assert_close(scaled(x, t, labels), plain(x, 10 * t, labels))


def test_the_null_label_is_the_row_after_the_classes():
    model = randomize(predictor(), 0)
    assert model.null_label == 3
    assert model.y_embedder.embedding_table.weight.shape[0] == 4
    x, t, _ = inputs(1)
    null = model(x, t, torch.tensor([3]))
    assert all((null - model(x, t, torch.tensor([k]))).abs().max() > 1e-3 for k in range(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_close_to_float32(dtype):
    model = randomize(predictor(), 0, scale=0.15)
    x, t, labels = inputs()
    exact = model(x, t, labels)
    half = model.to(dtype)(x.to(dtype), t, labels)
    assert half.dtype == dtype
    assert (half.float() - exact).norm() / exact.norm() < (
        0.03 if dtype == torch.bfloat16 else 4e-3
    )


def test_an_image_does_not_depend_on_its_batch():
    model = randomize(predictor(), 0, scale=0.15)
    x, t, labels = inputs(4)
    together = model(x, t, labels)
    alone = torch.cat([model(x[k : k + 1], t[k : k + 1], labels[k : k + 1]) for k in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_new_model_puts_out_zero_and_its_blocks_are_the_identity():
    model = predictor()
    x, t, labels = inputs()
    assert model(x, t, labels).abs().max() == 0
    tokens, c = torch.randn(3, 16, 32), torch.randn(3, 32)
    assert torch.equal(model.blocks[0](tokens, c), tokens)


def mae_positions(width, side):
    """MAE's get_2d_sincos_pos_embed as DiT calls it: meshgrid(w, h), the first half for grid[0]."""
    grid = np.meshgrid(np.arange(side, dtype=np.float64), np.arange(side, dtype=np.float64))
    halves = []
    for axis in (0, 1):
        omega = 1 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
        out = np.einsum("m,d->md", grid[axis].reshape(-1), omega)
        halves.append(np.concatenate([np.sin(out), np.cos(out)], axis=1))
    return np.concatenate(halves, axis=1)


@pytest.mark.parametrize(("width", "side"), [(32, 4), (192, 8), (1152, 16)])
def test_the_positions_are_those_of_mae_and_dit(width, side):
    ours = sincos_positions(width, side).numpy()
    np.testing.assert_allclose(ours, mae_positions(width, side), rtol=0, atol=1e-6)


def test_the_first_half_of_a_position_is_its_column():
    grid = sincos_positions(32, 4).view(4, 4, 32)  # (row, column, width)
    assert torch.equal(grid[0, :, :16], grid[3, :, :16])
    assert torch.equal(grid[:, 0, 16:], grid[:, 3, 16:])
    assert not torch.equal(grid[0, 0], grid[0, 1])


def test_a_models_positions_are_fixed():
    model = predictor()
    assert not model.pos_embed.requires_grad
    assert torch.equal(model.pos_embed[0], sincos_positions(32, 4))


@pytest.mark.parametrize(
    "changes",
    [{"num_heads": 5}, {"patch_size": 3}, {"hidden_size": 30, "num_heads": 2}],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match=str(next(iter(changes.values())))):
        predictor(**changes)


@pytest.mark.parametrize("hidden", [122, 123, 244])
def test_a_hidden_width_is_the_one_its_ratio_was_read_from(hidden):
    model = predictor(hidden_size=28, num_heads=1, mlp_ratio=hidden / 28)
    assert model.blocks[0].mlp.fc1.out_features == hidden


@pytest.mark.parametrize(
    ("name", "value"),
    [("depth", 0), ("depth", 257), ("depth", 2.0), ("depth", "2"), ("num_heads", True),
     ("hidden_size", 2**15), ("num_classes", 0), ("sample_size", -8), ("in_channels", None),
     ("guided_channels", 1.5), ("guided_channels", 5), ("time_scale", "x"), ("time_scale", None),
     ("mlp_ratio", float("nan")), ("autoencoder_hash", 5), ("latents_mean", [1, 2]),
     ("latents_mean", 5), ("latents_std", ["x"] * 4), ("latents_std", [0, 1, 1, 1])],
)  # fmt: skip
def test_values_that_no_model_has_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        predictor(**{name: value})


def test_an_unknown_refiner_variant_is_refused_by_name():
    with pytest.raises(ValueError, match="consistant"):
        refiner(variant="consistant")


def test_a_model_folder_gives_the_same_model_back(tmp_path):
    model = randomize(predictor(guided_channels=3), 0)
    model.save_pretrained(tmp_path)
    again = SiTPredictor.from_pretrained(tmp_path).eval()
    assert again.config.guided_channels == 3
    x, t, labels = inputs()
    assert torch.equal(again(x, t, labels), model(x, t, labels))
