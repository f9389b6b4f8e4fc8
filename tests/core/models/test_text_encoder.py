"""Tokenizers, trained here and loaded by transformers, and what a text encoder is given of them."""

import json
import unicodedata

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from flowturbo_core.models.text_encoder import (
    cut_off,
    embed,
    load_text_encoder,
    load_tokenizer,
    save_text_encoder,
    save_tokenizer,
    tokens_of,
    window,
)
from flowturbo_core.training.text import train_tokenizer
from tests.core.pipelines.tiny_text import TEXTS, WINDOW, tiny_text_encoder

START, END = "<|startoftext|>", "<|endoftext|>"
# Texts of one to four bytes a character, in several scripts, joined and combining.
ANY_TEXTS = [
    "a red sailboat at sunset",
    "caf\u00e9, na\u00efve \u00a9 \u00bd",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f469\u200d\U0001f680 \U0001f1eb\U0001f1f7",
    "\U0010ffff \uffff \ufffd \u00ad",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "0123456789",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, WINDOW)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def without_blanks(text):
    return "".join(unicodedata.normalize("NFC", text).lower().split())


def test_every_byte_has_a_token_alone_and_at_the_end_of_a_word(tokenizer):
    vocabulary = tokenizer.get_vocab()
    alphabet = ByteLevel.alphabet()
    assert len(alphabet) == 256
    assert {*alphabet, *(f"{byte}</w>" for byte in alphabet)} <= vocabulary.keys()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert vocabulary.keys() >= {START, END}


@pytest.mark.parametrize("text", ANY_TEXTS)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = ids_of(tokenizer, text)
    assert tokenizer.unk_token_id not in ids
    assert without_blanks(tokenizer.decode(ids)) == without_blanks(text)


def test_every_character_of_the_first_plane_has_tokens(tokenizer):
    numbers = [n for n in range(0x21, 0x10000, 7) if not 0xD800 <= n < 0xE000]
    text = " ".join(map(chr, numbers))
    ids = ids_of(tokenizer, text)
    assert len(ids) >= len(text.split())
    assert tokenizer.unk_token_id not in ids


def test_merges_are_learnt_from_the_texts(tokenizer):
    assert len(ids_of(tokenizer, "a red sailboat at sunset")) == 5
    assert len(ids_of(tokenizer, "A RED Sailboat")) == 3
    assert len(ids_of(tokenizer, "purple")) > 1
    untrained = train_tokenizer([], WINDOW)
    assert len(untrained) == 2 * 256 + 2
    assert len(ids_of(untrained, "sunset")) == 6


def test_marks_begin_and_end_a_text(tokenizer):
    first, second = tokens_of(["a red sailboat", ""], tokenizer, WINDOW).tolist()
    start, end = len(tokenizer) - 2, len(tokenizer) - 1
    assert first == [start, *ids_of(tokenizer, "a red sailboat"), *[end] * (WINDOW - 4)]
    assert second == [start, *[end] * (WINDOW - 1)]


@pytest.mark.parametrize("length", [3, 6, WINDOW])
def test_tokens_are_cut_or_padded_to_their_length(tokenizer, length):
    tokens = tokens_of(["a", "a " * 50, *ANY_TEXTS], tokenizer, length)
    assert tokens.shape == (2 + len(ANY_TEXTS), length)
    assert tokens.dtype == torch.int64
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()
    assert (tokens[:, -1] == tokenizer.eos_token_id).all()


def test_the_files_are_clips_and_transformers_reads_them(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    }
    assert json.loads((tmp_path / "vocab.json").read_text()) == tokenizer.get_vocab()
    assert (tmp_path / "merges.txt").read_text().startswith("#version")
    for again in (CLIPTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert again.model_max_length == WINDOW
        for text in (*ANY_TEXTS, *TEXTS, "", f"a {END} cat"):
            assert again(text).input_ids == tokenizer(text).input_ids
    save_tokenizer(load_tokenizer(tmp_path), tmp_path / "again")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "length", "end"),
    [
        ("a cat", 10, ""),
        ("", 10, ""),
        ("a a a a a a a a", 10, ""),
        ("a a a a a a a a sunset", 10, "sunset"),
        ("a cat, a cat", 5, "a cat"),
        ("A  CAT,\tA   CAT", 5, "A   CAT"),
        ("a cat", 3, "cat"),
        ("a purple", 6, "ple"),  # in the middle of a word that is in pieces
        ("\U0001f600\U0001f601\U0001f602", 10, "\U0001f602"),  # four bytes each
        ("\U0001f600\U0001f601", 8, "\U0001f601"),  # of which two are read
        ("e\u0301 e\u0301 e\u0301", 6, "e\u0301"),  # two characters, one of two bytes
        ("\u05d0 \u05d1 \u05d2", 6, "\u05d2"),
    ],
)
def test_the_end_that_does_not_fit(tokenizer, text, length, end):
    assert cut_off(text, tokenizer, length) == end


@pytest.mark.parametrize(
    "text", ["a cat, a cat, a cat at sunset", "\u05d0 \u05d1 \u05d2 \u05d3 \u05d4"]
)
def test_what_is_cut_off_does_not_count(tokenizer, text):
    end = cut_off(text, tokenizer, WINDOW)
    assert end and text.endswith(end)
    whole, cut = tokens_of([text, text.removesuffix(end)], tokenizer, WINDOW)
    assert torch.equal(whole, cut)


def test_the_window_is_the_shorter_one(tokenizer):
    assert window(tokenizer, tiny_text_encoder(tokenizer)) == WINDOW
    assert window(tokenizer, tiny_text_encoder(tokenizer, max_position_embeddings=6)) == 6
    assert window(train_tokenizer(TEXTS, 8), tiny_text_encoder(tokenizer)) == 8


def test_a_saved_text_encoder_gives_the_same_embeddings_to_the_bit(tokenizer, tmp_path):
    text_encoder = tiny_text_encoder(tokenizer, num_hidden_layers=2)
    save_text_encoder(text_encoder, tmp_path / "encoder")
    again = load_text_encoder(tmp_path / "encoder")
    assert not again.training and again.dtype == torch.float32
    tokens = tokens_of(ANY_TEXTS, tokenizer, WINDOW)
    assert torch.equal(embed(again, tokens), embed(text_encoder, tokens))
    ignored = {"architectures", "transformers_version", "_name_or_path"}
    first, second = (e.config.to_dict() for e in (text_encoder, again))
    assert {k: v for k, v in first.items() if k not in ignored} == {
        k: v for k, v in second.items() if k not in ignored
    }


def test_embeddings_are_the_last_layers_after_its_norm(tokenizer):
    text_encoder = tiny_text_encoder(tokenizer)
    tokens = tokens_of(["a cat", "night"], tokenizer, WINDOW)
    found = embed(text_encoder, tokens)
    assert found.shape == (2, WINDOW, 16)
    seen = []
    handle = text_encoder.final_layer_norm.register_forward_hook(lambda m, i, o: seen.append(o))
    assert torch.equal(embed(text_encoder, tokens), found)
    handle.remove()
    assert torch.equal(seen[0], found)


def test_text_after_a_token_does_not_change_its_embedding(tokenizer):
    text_encoder = tiny_text_encoder(tokenizer)
    short, long = embed(text_encoder, tokens_of(["a red", "a red boat"], tokenizer, WINDOW))
    torch.testing.assert_close(short[:3], long[:3])
    assert (short[3] - long[3]).abs().max() > 1e-2
