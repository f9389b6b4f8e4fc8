"""Autoencoders: images in, normalised latents out, and back; and which one a model belongs to."""

import pytest
import torch

from flowturbo_core.models.autoencoder import (
    PixelUnshuffleAutoencoderKL,
    autoencoder_hash,
    decode_latents,
    downsampling_factor,
    encode_images,
    latent_statistics,
)
from flowturbo_core.models.storage import load_model, save_model
from tests.conftest import randomize, tiny_pixel_vae, tiny_vae


def images(batch=2, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize(("make", "factor"), [(tiny_vae, 2), (tiny_pixel_vae, 4)])
def test_three_channel_images_in_and_out(make, factor):
    vae = make()
    assert downsampling_factor(vae) == factor
    latents = encode_images(vae, images())
    assert latents.shape == (2, 4, 32 // factor, 32 // factor)
    decoded = decode_latents(vae, latents)
    assert decoded.shape == (2, 3, 32, 32)
    assert decoded.dtype == torch.float32
    assert decoded.abs().max() <= 1


def test_diffusers_own_calls_take_and_give_images_too():
    vae = tiny_pixel_vae()
    latents = vae.encode(images()).latent_dist.mode()
    assert vae.decode(latents).sample.shape == (2, 3, 32, 32)
    assert vae.decode(latents, return_dict=False)[0].shape == (2, 3, 32, 32)


def test_the_pixels_of_a_patch_stay_in_their_place():
    # A change of one patch of the image must not show elsewhere in what the encoder is given,
    # and decoding puts patches back where they came from.
    vae = tiny_pixel_vae()
    given = []
    vae.encoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    one, other = images(1), images(1)
    other[:, :, 6:8, 2:4] = 0
    vae.encode(one)
    vae.encode(other)
    changed = (given[0] != given[1]).any(1)[0]
    assert given[0].shape == (1, 12, 16, 16)
    assert changed.nonzero().tolist() == [[3, 1]]
    vae.decoder.forward = lambda z, *_: given[0]
    assert torch.equal(vae.decode(torch.zeros(1, 4, 8, 8)).sample, one)


def test_the_statistics_normalise_each_channel():
    plain = tiny_vae()
    raw = plain.encode(images(8)).latent_dist.mode()
    mean, std = raw.mean((0, 2, 3)).tolist(), raw.std((0, 2, 3)).tolist()
    vae = tiny_vae(latents_mean=mean, latents_std=std)
    latents = encode_images(vae, images(8))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-5)


def test_decoding_undoes_the_normalisation():
    vae = tiny_vae(latents_mean=[1.0, -2.0, 0.5, 0.0], latents_std=[2.0, 0.5, 3.0, 1.0])
    raw = vae.encode(images()).latent_dist.mode()
    expected = vae.decode(raw).sample.clamp(-1, 1)
    found = decode_latents(vae, encode_images(vae, images()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_older_models_have_one_scale_and_perhaps_a_shift():
    # Stable Diffusion's 0.18215 multiplies; SD3's shift is subtracted before.
    mean, std = latent_statistics(tiny_vae(scaling_factor=0.18215))
    assert mean.shape == std.shape == (1, 4, 1, 1)
    torch.testing.assert_close(std, torch.full((1, 4, 1, 1), 1 / 0.18215))
    assert mean.abs().max() == 0
    mean, _ = latent_statistics(tiny_vae(shift_factor=0.0609))
    torch.testing.assert_close(mean, torch.full((1, 4, 1, 1), 0.0609))


def test_encoding_draws_no_noise():
    vae = tiny_vae()
    torch.manual_seed(0)
    first = encode_images(vae, images())
    torch.manual_seed(1)
    assert torch.equal(first, encode_images(vae, images()))


def nudge(parameter):
    """Change one value by the least there is."""
    with torch.no_grad():
        value = parameter.view(-1)[:1]
        value.copy_(torch.nextafter(value, torch.tensor(9.0)))


def test_the_hash_tells_encoders_apart_by_one_bit():
    vae, other = tiny_vae(0), tiny_vae(0)
    assert autoencoder_hash(vae) == autoencoder_hash(other)
    nudge(other.encoder.conv_in.weight)
    assert autoencoder_hash(vae) != autoencoder_hash(other)
    assert autoencoder_hash(vae) != autoencoder_hash(tiny_vae(1))


def test_a_decoder_trained_further_still_fits_the_latents():
    vae, other = tiny_vae(0), tiny_vae(0)
    nudge(other.decoder.conv_out.weight)
    assert autoencoder_hash(vae) == autoencoder_hash(other)


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
def test_saving_in_any_number_of_shards_changes_nothing(tmp_path, shard_size):
    vae = randomize(tiny_pixel_vae(), 3)
    save_model(vae, tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "20KB")
    again = load_model(PixelUnshuffleAutoencoderKL, tmp_path)
    assert autoencoder_hash(again) == autoencoder_hash(vae)
    assert torch.equal(encode_images(again, images()), encode_images(vae, images()))


def test_saving_again_in_fewer_shards_leaves_none_behind(tmp_path):
    save_model(randomize(tiny_vae(), 3), tmp_path, max_shard_size="20KB")
    vae = randomize(tiny_vae(), 4)
    save_model(vae, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors*"))) == 1
    again = load_model(type(vae), tmp_path)
    assert autoencoder_hash(again) == autoencoder_hash(vae)
