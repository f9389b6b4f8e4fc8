"""Settings in a PNG and in an address: what was written comes back, what is hostile does not."""

import io
import json
import struct
import zlib
from dataclasses import asdict, replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flowturbo_core.metadata import VERSION, Settings, TextSettings, is_of_texts, safe_name

SETTINGS = Settings("postcards-sit", ("cat", "ringed planet"), "H1P5R3", 1.5, 3, 7)
TEXT_SETTINGS = TextSettings(
    "postcards-t2i", ("a cat, red & blue", "🚀 שלום"), "rain", "H1P6R3", 1.5, 2, 7, 128, 192
)


def png(text=None, key="flowturbo", size=(4, 4), kind="PNG"):
    buffer = io.BytesIO()
    info = PngInfo()
    if text is not None:
        info.add_itxt(key, text)
    Image.new("RGB", size).save(buffer, kind, **({"pnginfo": info} if kind == "PNG" else {}))
    return buffer


def text(**changes):
    return json.dumps({"version": VERSION, **asdict(SETTINGS)} | changes)


def test_into_a_png_and_back(tmp_path):
    file = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(file, pnginfo=SETTINGS.png_info({"torch": "2.13.0"}))
    assert Settings.from_png(file) == SETTINGS
    with Image.open(file) as picture:
        assert json.loads(picture.text["flowturbo"])["versions"] == {"torch": "2.13.0"}


def test_names_in_every_script_survive(tmp_path):
    settings = replace(SETTINGS, class_names=("ねこ", "قط", "a, b & c=d", "🚀"))
    file = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(file, pnginfo=settings.png_info({}))
    assert Settings.from_png(file) == settings
    assert Settings.from_query(settings.to_query(), SETTINGS) == settings


@pytest.mark.parametrize(
    ("index", "name", "seed"), [(0, "cat", 7), (2, "cat", 9), (3, "ringed planet", 10)]
)
def test_each_picture_has_its_own(index, name, seed):
    expected = replace(SETTINGS, class_names=(name,), num_images=1, seed=seed)
    assert SETTINGS.of_picture(index) == expected


def test_into_an_address_and_back():
    default = Settings("other", ("dog",), "H8", 4.0, 1, 0)
    assert Settings.from_query(SETTINGS.to_query(), default) == SETTINGS


def test_those_of_texts_go_the_same_ways(tmp_path):
    file = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(file, pnginfo=TEXT_SETTINGS.png_info({}))
    assert TextSettings.from_png(file) == TEXT_SETTINGS
    default = TextSettings("other", ("dog",), "", "H8", 4.0, 1, 0, 64, 64)
    assert TextSettings.from_query(TEXT_SETTINGS.to_query(), default) == TEXT_SETTINGS
    own = replace(TEXT_SETTINGS, prompts=("🚀 שלום",), num_images=1, seed=9)
    assert TEXT_SETTINGS.of_picture(2) == own
    with pytest.raises(ValueError, match="this picture is of texts, not of classes"):
        Settings.from_png(file)
    with pytest.raises(ValueError, match="height must be a whole number, not 'tall'"):
        TextSettings.from_query("height=tall", default)


def test_a_file_is_named_by_what_is_on_it():
    assert TEXT_SETTINGS.file_name == "a-cat-red-blue-H1P6R3-seed7"
    assert safe_name("../../etc/passwd") == "etc-passwd" and safe_name("🚀") == "picture"
    assert safe_name("x" * 99) == "x" * 60
    # Letters of four bytes each: of names, file systems count those.
    assert safe_name("\U0001d4ea" * 99) == "\U0001d4ea" * 15 and safe_name("aé" * 99) == "aé" * 20


def test_an_address_may_name_a_part_and_more():
    read = Settings.from_query("?seed=3&class=fish&__theme=dark&utm_source=x".lstrip("?"), SETTINGS)
    assert read == replace(SETTINGS, seed=3, class_names=("fish",))


@pytest.mark.parametrize("query", ["", "__theme=dark&utm_source=x", "&&="])
def test_an_address_that_names_no_setting_asks_for_nothing(query):
    assert Settings.from_query(query, SETTINGS) is None


def behind_the_pixels(picture, kind=b"iTXt", content=None):
    """Return a PNG whose settings another program has written anew, where it writes texts."""
    content = picture.png_info({}).chunks[0][1] if content is None else content
    plain = png(size=(300, 300)).getvalue()
    chunk = kind + content
    last = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return io.BytesIO(plain[:-12] + last + plain[-12:])


@pytest.mark.parametrize("settings", [SETTINGS, TEXT_SETTINGS])
def test_settings_behind_the_pixels_are_read_too(settings):
    assert type(settings).from_png(behind_the_pixels(settings)) == settings
    packed = b"flowturbo\0\0" + zlib.compress(text().encode())
    assert Settings.from_png(behind_the_pixels(SETTINGS, b"zTXt", packed)) == SETTINGS


@pytest.mark.parametrize(
    ("kind", "content", "sentence"),
    [
        (b"zTXt", b"flowturbo\0\0" + zlib.compress(bytes(10_000_000)), "not a PNG"),
        (b"iTXt", b"flowturbo\0\1\0\0\0" + zlib.compress(bytes(9**8)), "not a PNG|no settings"),
        (b"tEXt", b"flowturbo\0" + b"x" * 100_000, "longer than 50000 characters"),
        (b"tEXt", b"flowturbo", "carries no settings"),
        (b"tEXt", b"parameters\0steps: 20", "carries no settings"),
    ],
)  # fmt: skip
def test_hostile_texts_behind_the_pixels_are_one_sentence(kind, content, sentence):
    with pytest.raises(ValueError, match=sentence):
        Settings.from_png(behind_the_pixels(SETTINGS, kind, content))


@pytest.mark.parametrize(
    ("side", "sentence"), [(12_000, "carries no settings"), (100_000, "far more pixels")]
)
def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path, recwarn, side, sentence):
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", side, side)  # width and height, in the first chunk
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file = tmp_path / "bomb.png"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        Settings.from_png(file)
    assert not recwarn.list


HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "not a JSON object"),
        ("x" * 1_000_000, "longer than 50000 characters"),
        (text(version=2), "of version 2, and this page reads version 1"),
        (text(version=None), "of version None"),
        (text(version=True), "of version True"),
        (json.dumps({"version": 1}), "lack model"),
        (text(seed="7"), "seed must be a whole number, not '7'"),
        (text(seed=1.5), "seed must be a whole number, not 1.5"),
        (text(seed=True), "seed must be a whole number, not True"),
        (text(guidance_scale=[1]), r"guidance_scale must be a number, not \[1\]"),
        (text(plan=None), "plan must be a text, not None"),
        (text(class_names={"a": 1}), "class_names must be a list of texts"),
        (text(class_names=["cat", 3]), "class_names must be a list of texts"),
        (text(model=HOSTILE * 100, plan=3), "plan must be a text, not 3"),
    ],
)
def test_a_hostile_png_is_one_short_sentence(content, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        Settings.from_png(png(content))
    assert len(str(refusal.value)) < 200 and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (png(), "carries no settings"),
        (png("{}", key="parameters"), "carries no settings"),
        (png(kind="JPEG"), "not a PNG"),
        (io.BytesIO(b""), "not a PNG"),
        (io.BytesIO(b"\x89PNG\r\n\x1a\n broken"), "not a PNG"),
        (io.BytesIO(png(text()).getvalue()[:60]), "not a PNG|carries no settings"),
    ],
)
def test_what_is_no_picture_of_ours(file, sentence):
    file.seek(0)
    with pytest.raises(ValueError, match=sentence):
        Settings.from_png(file)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("seed=abc", "seed must be a whole number, not 'abc'"),
        ("seed=1e3", "seed must be a whole number"),
        ("guidance_scale=much", "guidance_scale must be a number, not 'much'"),
        ("num_images=", "num_images must be a whole number, not ''"),
        ("class=" + "x" * 60_000, "longer than 50000 characters"),
        ("&".join(["class=a"] * 400), "more than 300 settings"),
    ],
)
def test_a_hostile_address_is_one_short_sentence(query, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        Settings.from_query(query, SETTINGS)
    assert len(str(refusal.value)) < 200


def test_the_longest_texts_come_back_from_an_address():
    longest = replace(TEXT_SETTINGS, prompts=("🚀" * 2000,), negative_prompt="ש" * 2000)
    assert TextSettings.from_query(longest.to_query(), TEXT_SETTINGS) == longest


def test_an_address_is_for_texts_if_it_names_what_only_they_have():
    assert is_of_texts("prompt=a+cat&plan=H8") and is_of_texts("height=96")
    assert is_of_texts("negative_prompt=")  # as the page itself writes it
    assert is_of_texts("model=t2i", {"t2i"}) and not is_of_texts("model=sit", {"t2i"})
    for query in ("", "plan=H8&seed=1", "class=cat&height=96", "utm_source=x", "a=1&" * 400):
        assert not is_of_texts(query)
    assert not is_of_texts("class=cat&model=t2i", {"t2i"})  # so that somebody refuses it


def test_an_address_of_both_a_class_and_a_prompt_is_refused():
    for kind, default in ((Settings, SETTINGS), (TextSettings, TEXT_SETTINGS)):
        with pytest.raises(ValueError, match="names both a class and a prompt; name one of them"):
            kind.from_query("class=cat&prompt=a+dog", default)
