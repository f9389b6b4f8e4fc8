"""A tiny text-to-image model in Stable Diffusion 1.5's layout, and the folder it comes in."""

import json

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from flowturbo_core.models.unet import thin_config
from flowturbo_core.pipelines.text_to_image import TextToImagePipeline
from flowturbo_core.training.text import train_tokenizer
from tests.conftest import randomize, tiny_vae

TEXTS = ("a red sailboat at sunset", "a blue fish", "a cat, on the left", "night, city") * 4
WINDOW = 10
TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}


def tiny_unet(seed=1, **changes):
    """Return a UNet of which guidance, time and text all change the velocity."""
    return randomize(UNet2DConditionModel(**TINY_UNET | changes), seed, scale=0.3)


def tiny_refiner(seed=2, **changes):
    """Return the refiner of `tiny_unet`."""
    config = thin_config(UNet2DConditionModel(**TINY_UNET).config, divisor=1)
    return randomize(UNet2DConditionModel(**config | changes), seed, scale=0.2)


def tiny_text_encoder(tokenizer, seed=3, **changes):
    """Return a text encoder that tells texts apart."""
    config = CLIPTextConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": WINDOW,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        | changes
    )
    return randomize(CLIPTextModel(config), seed, scale=0.5)


def tiny_text_pipeline(with_refiner=True, **changes):
    """Return a pipeline of random weights; `changes` are arguments of TextToImagePipeline."""
    torch.manual_seed(0)
    tokenizer = changes.pop("tokenizer", None) or train_tokenizer(TEXTS, WINDOW)
    parts = {
        "unet": tiny_unet(),
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "refiner": tiny_refiner() if with_refiner else None,
        "default_plan": "H1P2R1" if with_refiner else "H2P2",
    }
    return TextToImagePipeline(**parts | changes)


# What an old version of transformers wrote of the tokenizer, beside its vocabulary.
OLD_TOKENIZER_CONFIG = {
    "add_prefix_space": False,
    "do_lower_case": True,
    "errors": "replace",
    "model_max_length": WINDOW,
    "name_or_path": "openai/clip-vit-large-patch14",
    "pad_token": "<|endoftext|>",
    "special_tokens_map_file": "./special_tokens_map.json",
    "tokenizer_class": "CLIPTokenizer",
    **{
        f"{role}_token": {
            "__type": "AddedToken",
            "content": f"<|{mark}oftext|>",
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }
        for role, mark in (("bos", "start"), ("eos", "end"), ("unk", "end"))
    },
}
# Parts of a Stable Diffusion folder that this project passes over: the entry, and a file of each.
PASSED_OVER = {
    "scheduler": (["diffusers", "PNDMScheduler"], "scheduler_config.json"),
    "safety_checker": (
        ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "pytorch_model.bin",
    ),
    "feature_extractor": (["transformers", "CLIPImageProcessor"], "preprocessor_config.json"),
}
# Attention in autoencoders, as it was called before.
OLD_ATTENTION = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}


def write_sd_folder(pipeline, folder, class_name="RectifiedFlowPipeline"):
    """Write a pipeline as InstaFlow's are, in Stable Diffusion 1.5's layout.

    With old names of weights, and parts that are not used.
    """
    pipeline.save_pretrained(folder)
    index = {
        "_class_name": class_name,
        "_diffusers_version": "0.6.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    for name, (entry, file) in PASSED_OVER.items():
        index[name] = entry
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps({"_class_name": entry[1]}))
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(OLD_TOKENIZER_CONFIG))
    rename_weights(folder / "text_encoder" / "model.safetensors", lambda name: f"text_model.{name}")
    change_weights(
        folder / "text_encoder" / "model.safetensors",
        lambda t: t.update({"text_model.embeddings.position_ids": torch.arange(WINDOW)[None]}),
    )
    rename_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", _old_attention)
    return folder


def change_weights(file, change):
    """Change the tensors in a file by a function of their dictionary."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def rename_weights(file, rename):
    """Rename the tensors in a file by a function of their name."""
    save_file({rename(name): tensor for name, tensor in load_file(file).items()}, file)


def _old_attention(name):
    for new, old in OLD_ATTENTION.items():
        name = name.replace(new, old)
    return name
