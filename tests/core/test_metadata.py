"""Requests in a PNG and in an address: what was written comes back, what is hostile does not."""

import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flowturbo_core.metadata import (
    VERSION,
    Written,
    file_name,
    png_info,
    query_names,
    read_png,
    read_query,
    read_text,
    safe_name,
    to_query,
)
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.pictures import picture_hash
from flowturbo_core.requests import Classes, Edit, Generate, Inpaint, Request, Texts

NAMES = ("cat", "fish", "ringed planet")
MODEL = ModelDescription("postcards-sit", Path(), Classes, NAMES, True, "H8", 4.0)
TEXT_MODEL = ModelDescription("postcards-t2i", Path(), Texts, (), True, "H8", 4.0, 64, 8)
REQUEST = Request.read(
    MODEL,
    {
        "class_names": ["cat", "ringed planet"],
        "plan": "H1P5R3",
        "guidance_scale": 1.5,
        "num_images": 3,
        "seed": 7,
    },
)
TEXT_REQUEST = Request.read(
    TEXT_MODEL,
    {
        "prompts": ["a cat, red & blue", "🚀 שלום"],
        "negative_prompt": "rain",
        "plan": "H1P6R3",
        "guidance_scale": 1.5,
        "num_images": 2,
        "seed": 7,
        "height": 128,
        "width": 192,
    },
)
# As pictures said it before there were tasks.
OLD = {
    "version": 1,
    "model": "postcards-sit",
    "class_names": ["cat", "ringed planet"],
    "plan": "H1P5R3",
    "guidance_scale": 1.5,
    "num_images": 3,
    "seed": 7,
    "versions": {"torch": "2.13.0"},
}
OLD_OF_TEXTS = {
    "version": 1,
    "model": "postcards-t2i",
    "prompts": ["a cat, red & blue", "🚀 שלום"],
    "negative_prompt": "rain",
    "plan": "H1P6R3",
    "guidance_scale": 1.5,
    "num_images": 2,
    "seed": 7,
    "height": 128,
    "width": 192,
    "versions": {},
}


def request_of(written):
    """Return the request that a picture or an address asks for, of the model of its subject."""
    model = {Classes: MODEL, Texts: TEXT_MODEL}[written.subject]
    return Request.read(model, written.values, written.task)


def saved(request, file, versions=None):
    Image.new("RGB", (8, 8)).save(file, pnginfo=png_info(request, versions or {}))
    return file


def png(text=None, key="flowturbo", size=(4, 4), kind="PNG"):
    buffer = io.BytesIO()
    info = PngInfo()
    if text is not None:
        info.add_itxt(key, text)
    Image.new("RGB", size).save(buffer, kind, **({"pnginfo": info} if kind == "PNG" else {}))
    return buffer


def text(**changes):
    return json.dumps({"version": VERSION, **REQUEST.to_json()} | changes)


@pytest.mark.parametrize("request_", [REQUEST, TEXT_REQUEST], ids=["classes", "texts"])
def test_into_a_png_and_back(tmp_path, request_):
    file = saved(request_, tmp_path / "picture.png", {"torch": "2.13.0"})
    written = read_png(file)
    assert request_of(written) == request_
    assert (written.subject, written.task) == (type(request_.subject), Generate)
    assert (written.model, written.values) == (request_.model, request_.json_values())
    with Image.open(file) as picture:
        content = json.loads(picture.text["flowturbo"])
    assert content["versions"] == {"torch": "2.13.0"} and content["task"] == "generate"


def test_names_in_every_script_survive(tmp_path):
    model = replace(MODEL, class_names=("ねこ", "قط", "a, b & c=d", "🚀"))
    request = Request.read(model, {"class_names": model.class_names})
    for written in (
        read_png(saved(request, tmp_path / "picture.png")),
        read_query(to_query(request)),
    ):
        assert Request.read(model, written.values) == request


@pytest.mark.parametrize("request_", [REQUEST, TEXT_REQUEST], ids=["classes", "texts"])
def test_into_an_address_and_back(request_):
    query = to_query(request_)
    written = read_query(query)
    assert request_of(written) == request_
    assert (written.model, written.task) == (request_.model, Generate)
    assert parse_qs(query)["task"] == ["generate"]
    assert parse_qs(query, keep_blank_values=True).keys() <= set(query_names())


@pytest.mark.parametrize("old", [OLD, OLD_OF_TEXTS], ids=["classes", "texts"])
def test_a_picture_from_before_there_were_tasks_is_read(old):
    written = read_png(png(json.dumps(old, ensure_ascii=False)))
    expected = REQUEST if old is OLD else TEXT_REQUEST
    assert written.task is Generate and written.model == expected.model
    assert request_of(written) == expected


def test_an_address_from_before_there_were_tasks_is_read():
    old = "class=cat&class=fish&model=m&plan=H8&guidance_scale=1.5&num_images=1&seed=3"
    values = {"class_names": ("cat", "fish"), "plan": "H8", "guidance_scale": 1.5}
    assert read_query(old) == Written(Classes, Generate, "m", values | {"num_images": 1, "seed": 3})
    old = (
        "prompt=a+cat%2C+red+%26+blue&prompt=%F0%9F%9A%80+%D7%A9%D7%9C%D7%95%D7%9D&"
        "model=postcards-t2i&plan=H1P6R3&guidance_scale=1.5&num_images=2&seed=7&"
        "negative_prompt=rain&height=128&width=192"
    )
    assert request_of(read_query(old)) == TEXT_REQUEST


@pytest.mark.parametrize("name", ["paint", "", "Generate", "x" * 10_000])
def test_an_unknown_task_is_a_sentence_with_those_there_are(name):
    for read in (lambda: read_text(text(task=name)), lambda: read_query(f"class=cat&task={name}")):
        with pytest.raises(
            ValueError, match="task '.* is not known; the tasks are generate"
        ) as refusal:
            read()
        assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("name", [None, 3, ["generate"], {"generate": 1}, True])
def test_a_task_that_is_no_text_is_not_known(name):
    with pytest.raises(ValueError, match="task .* is not known; the tasks are generate"):
        read_text(text(task=name))


def test_a_picture_of_texts_is_told_from_one_of_classes(tmp_path):
    written = read_png(saved(TEXT_REQUEST, tmp_path / "picture.png"))
    assert written.subject is Texts
    with pytest.raises(ValueError, match="field .* is not known; the fields are class_names"):
        Request.read(MODEL, written.values)


def test_a_file_is_named_by_what_is_on_it():
    assert file_name(TEXT_REQUEST) == "a-cat-red-blue-H1P6R3-seed7"
    assert safe_name("../../etc/passwd") == "etc-passwd" and safe_name("🚀") == "picture"
    assert safe_name("x" * 99) == "x" * 60
    # Letters of four bytes each: of names, file systems count those.
    assert safe_name("\U0001d4ea" * 99) == "\U0001d4ea" * 15 and safe_name("aé" * 99) == "aé" * 20


def test_an_address_may_name_a_part_and_more():
    written = read_query("seed=3&class=fish&__theme=dark&utm_source=x")
    assert written == Written(Classes, Generate, None, {"seed": 3, "class_names": ("fish",)})
    assert read_query("plan=E1&seed=3") == Written(None, Generate, None, {"plan": "E1", "seed": 3})


@pytest.mark.parametrize("query", ["", "__theme=dark&utm_source=x", "&&=", "a=1&b=2"])
def test_an_address_that_names_no_setting_asks_for_nothing(query):
    assert read_query(query) is None


def behind_the_pixels(picture, kind=b"iTXt", content=None):
    """Return a PNG whose settings another program has written anew, where it writes texts."""
    content = png_info(picture, {}).chunks[0][1] if content is None else content
    plain = png(size=(300, 300)).getvalue()
    chunk = kind + content
    last = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return io.BytesIO(plain[:-12] + last + plain[-12:])


@pytest.mark.parametrize("request_", [REQUEST, TEXT_REQUEST], ids=["classes", "texts"])
def test_settings_behind_the_pixels_are_read_too(request_):
    assert request_of(read_png(behind_the_pixels(request_))) == request_
    packed = b"flowturbo\0\0" + zlib.compress(text().encode())
    assert request_of(read_png(behind_the_pixels(REQUEST, b"zTXt", packed))) == REQUEST


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
        read_png(behind_the_pixels(REQUEST, kind, content))


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
        read_png(file)
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
        (json.dumps({"version": 1}), "lack class_names or prompts"),
        (json.dumps({"version": 1, "class_names": ["cat"]}), "lack model"),
        (json.dumps(OLD_OF_TEXTS | {"prompts": 3, "model": 3}), "model must be a text, not 3"),
        (text(model=None), "model must be a text, not None"),
        (text(model=["a"] * 1000), r"model must be a text, not \['a', 'a'"),
    ],
)
def test_a_hostile_png_is_one_short_sentence(content, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        read_png(png(content))
    assert len(str(refusal.value)) < 200 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model", *REQUEST.json_values()])
def test_settings_that_lack_one_say_which(name):
    content = json.loads(text())
    del content[name]
    with pytest.raises(ValueError, match=f"the picture's settings lack {name}"):
        read_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": "7"}, "seed must be a whole number from 0 to 4294967295, not '7'"),
        ({"seed": 1.5}, "seed must be a whole number from 0 to 4294967295, not 1.5"),
        ({"seed": True}, "seed must be a whole number from 0 to 4294967295, not True"),
        ({"seed": None}, "seed must be a whole number from 0 to 4294967295, not nothing"),
        ({"num_images": "x" * 9999}, "number of images must be a whole number from 1 to 256, not"),
        ({"guidance_scale": [1]}, r"guidance scale must be a number from 0 to 15, not \[1\]"),
        ({"guidance_scale": "1.5"}, "guidance scale must be a number from 0 to 15, not '1.5'"),
        ({"plan": None}, "a plan is a text .*, not None"),
        ({"plan": 3, "model": HOSTILE * 100}, "a plan is a text .*, not 3"),
        ({"class_names": {"a": 1}}, "classes must be a list of labels or names, not {'a': 1}"),
        ({"class_names": 1.5}, "class label must be a whole number from 0 to 2, not 1.5"),
        ({"class_names": ["cat", 3]}, "class label must be a whole number from 0 to 2, not 3"),
        ({"class_names": ["cat", None]}, "class label must be .* from 0 to 2, not nothing"),
        ({"class_names": [HOSTILE * 999]}, "class '<script>.* is not known; the classes are cat"),
        ({"class_names": []}, "choose at least one class"),
    ],
)
def test_hostile_values_of_a_png_are_refused_by_the_request(changes, sentence):
    written = read_png(png(text(**changes)))
    with pytest.raises(ValueError, match=sentence) as refusal:
        request_of(written)
    assert len(str(refusal.value)) < 200 and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompts": {"a": 1}}, "prompt must be a text, or a list of them, not {'a': 1}"),
        ({"prompts": ["a cat", 3]}, "prompt must be a text, not 3"),
        ({"negative_prompt": ["rain"]}, r"negative prompt must be a text, not \['rain'\]"),
        ({"height": "128"}, "height must be a whole number from 8 to 2048, not '128'"),
        ({"width": 100}, "width must be a multiple of 8, not 100"),
    ],
)
def test_hostile_values_of_texts_are_refused_by_the_request(changes, sentence):
    written = read_png(png(json.dumps(OLD_OF_TEXTS | changes)))
    with pytest.raises(ValueError, match=sentence):
        request_of(written)


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
        read_png(file)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("class=" + "x" * 60_000, "longer than 50000 characters"),
        ("&".join(["class=a"] * 400), "more than 300 settings"),
    ],
)
def test_a_hostile_address_is_one_short_sentence(query, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        read_query(query)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("seed=abc", "seed must be a whole number from 0 to 4294967295, not 'abc'"),
        ("seed=1e3", "seed must be a whole number from 0 to 4294967295, not '1e3'"),
        ("seed=" + "9" * 5000, "seed must be a whole number from 0 to 4294967295, not '999"),
        ("guidance_scale=much", "guidance scale must be a number from 0 to 15, not 'much'"),
        ("guidance_scale=nan", "guidance scale must be a number from 0 to 15, not nan"),
        ("num_images=", "number of images must be a whole number from 1 to 256, not ''"),
        ("plan=", "plan '' is not understood"),
        ("class=", "class '' is not known; the classes are cat, fish, ringed planet"),
        ("prompt=", "write a prompt"),
        ("height=tall", "height must be a whole number from 8 to 2048, not 'tall'"),
        ("width=100", "width must be a multiple of 8, not 100"),
    ],
)
def test_hostile_values_of_an_address_are_refused_by_the_request(query, sentence):
    written = read_query(query)
    model = TEXT_MODEL if written.subject is Texts else MODEL
    things = {"prompts": "a cat"} if model is TEXT_MODEL else {"class_names": "cat"}
    with pytest.raises(ValueError, match=sentence) as refusal:
        Request.read(model, things | written.values)
    assert len(str(refusal.value)) < 200


def test_the_longest_texts_come_back_from_an_address():
    subject = Texts(("🚀" * 2000,), "ש" * 2000)
    longest = replace(TEXT_REQUEST, subject=subject)
    assert request_of(read_query(to_query(longest))) == longest


@pytest.mark.parametrize(
    ("query", "subject"),
    [
        ("prompt=a+cat&plan=H8", Texts),
        ("height=96", Texts),
        ("negative_prompt=", Texts),  # as the page itself writes it
        ("class=cat&model=postcards-t2i", Classes),  # so that somebody refuses it
        ("class=cat&height=96", Classes),
        ("model=postcards-t2i", None),
        ("plan=H8&seed=1", None),
        ("task=generate", None),
    ],
)
def test_an_address_is_of_the_subject_that_alone_has_what_it_names(query, subject):
    assert read_query(query).subject is subject


def test_an_address_of_both_a_class_and_a_prompt_is_refused():
    with pytest.raises(ValueError, match="names both a class and a prompt; name one of them"):
        read_query("class=cat&prompt=a+dog")


@pytest.mark.parametrize("task", [Edit, Inpaint])
def test_an_edits_settings_have_its_task_and_the_hash_of_its_picture(tmp_path, task):
    picture, mask = Image.new("RGB", (8, 8), "teal"), Image.new("L", (8, 8), 255)
    of_task = {"source": "cat", "strength": 0.6} if task is Edit else {"mask": mask}
    values = {"class_names": ["fish"], "plan": "H1P2", "picture": picture, **of_task}
    request = Request.read(MODEL, values, task)
    for written in (
        read_png(saved(request, tmp_path / "picture.png")),
        read_query(to_query(request)),
    ):
        assert (written.task, written.model) == (task, "postcards-sit")
        assert written.values["picture"] == picture_hash(picture)
        # With the pictures it is the same request; without them it says what is missing.
        pictures = {"picture": picture} | ({"mask": mask} if task is Inpaint else {})
        assert Request.read(MODEL, {**written.values, **pictures}, task) == request
        with pytest.raises(ValueError, match="the picture itself is not in the settings"):
            request_of(written)
