"""Files of captions in the forms that people have them in; anything else is one true sentence."""

import json
import unicodedata

import pytest

from flowturbo_core.data.captions import Caption, read_captions, read_texts

PAIRS = [("a.png", "a red boat"), ("b.png", 'a "small" cat, at night')]
NAMED = [Caption(text, name) for name, text in PAIRS]
UNNAMED = [Caption(text) for _, text in PAIRS]
OBJECTS = [{"file_name": name, "text": text} for name, text in PAIRS]
TABLE = 'file_name,text\na.png,a red boat\nb.png,"a ""small"" cat, at night"\n'


def lines(objects):
    return "".join(json.dumps(its) + "\n" for its in objects)


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.txt", "a red boat\n" + PAIRS[1][1] + "\n", UNNAMED),
        ("c", "a red boat\n" + PAIRS[1][1], UNNAMED),
        ("c.TXT", "a red boat\r\n" + PAIRS[1][1] + "\r\n\r\n", UNNAMED),
        ("c.json", json.dumps(dict(PAIRS)), NAMED),
        ("c.json", json.dumps([text for _, text in PAIRS]), UNNAMED),
        ("c.json", json.dumps(OBJECTS), NAMED),
        ("metadata.jsonl", lines(OBJECTS), NAMED),
        ("metadata.jsonl", "\n" + lines(OBJECTS).replace("\n", "\r\n\r\n"), NAMED),
        ("c.jsonl", lines({"image": n, "caption": t, "width": 3} for n, t in PAIRS), NAMED),
        ("c.ndjson", lines({"prompt": t} for _, t in PAIRS), UNNAMED),
        ("c.jsonl", lines(t for _, t in PAIRS), UNNAMED),
        ("c.csv", TABLE, NAMED),
        ("c.csv", TABLE.replace("file_name,text", "Image, Caption ").replace("\n", "\r\n"), NAMED),
        ("c.tsv", 'id\ttext\n1\ta red boat\n\n2\t"a ""small"" cat, at night"\n', UNNAMED),
        ("c.txt", "{a cat|a dog} in the rain\nimage, of a boat", None),
    ],
)
def test_the_common_forms_are_read(tmp_path, name, content, expected):
    found = read_texts(written(tmp_path, name, content))
    assert found == (expected or [Caption(line) for line in content.split("\n")])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("c.txt", "ein Schiff, größer\n"), ("c.csv", 'text\n"ein Schiff, größer"')],
)
def test_a_mark_of_byte_order_is_no_part_of_a_text(tmp_path, encoding, name, content):
    file = written(tmp_path, name, content.encode(encoding))
    assert read_texts(file) == [Caption("ein Schiff, größer")]


def test_names_are_the_same_in_both_forms_of_unicode(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Café.png") for form in ("NFC", "NFD"))
    assert composed != apart
    for written_as, there_as in ((composed, apart), (apart, composed)):
        file = written(tmp_path, "c.json", json.dumps({written_as: "a house", "b.png": "a cat"}))
        assert read_captions(file, tmp_path, ["b.png", there_as], 2) == ["a cat", "a house"]
    with pytest.raises(ValueError, match="holds several pictures named 'Café.png'"):
        read_captions(file, tmp_path, [composed, apart], 2)
    both = written(tmp_path, "c.json", json.dumps({composed: "a house", apart: "a cat"}))
    with pytest.raises(ValueError, match="several captions for the picture 'Café.png'"):
        read_texts(both)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("c.yaml", "a: b", "read from .txt .*, .json, .jsonl, .csv and .tsv, not from '.yaml'"),
        ("c.parquet", b"PAR1", "not from '.parquet' files"),
        ("c.xlsx", b"PK", "not from '.xlsx' files"),
        ("c.txt", b"caf\xe9", "c.txt cannot be read as text in UTF-8"),
        ("c.txt", "", "c.txt holds no captions"),
        ("c.txt", "\n\n", "c.txt holds no captions"),
        ("c.txt", "a cat\n\na boat", "c.txt, line 2: the caption must be a text, not ''"),
        ("c.txt", "a cat\na boat\na\0dog", "c.txt, line 3: the caption holds the control char"),
        ("c.txt", "a cat\n" + "x" * 2001, "c.txt, line 2: the caption has 2,001 characters"),
        ("c.txt", "a cat\n\ufeffa boat\n", "line 2: the caption holds the control .*ufeff"),
        ("c.txt", lines(OBJECTS), "c.txt holds no plain lines, but begins with '{.*a .json,"),
        ("c.txt", TABLE, "begins with 'file_name,text': where pictures are named, a .json, .jsonl"),
        ("c.txt", TABLE.replace(",", ";"), "begins with 'file_name;text'"),
        ("c.txt", '["a cat", "a boat"]', "begins with '"),
        ("c.txt", '[\n"a cat"\n]', "begins with '\\['"),
        ("c.txt", '{\n"a.png": "a cat"\n}', "begins with '{'"),
        ("c.txt", "a.png\ta cat\n", r"begins with 'a.png\\ta cat'"),
        ("c.txt", "1000_b0cb.jpg#0\ta cat\n", "begins with '1000_b0cb.jpg#0"),
        ("c.txt", "a.JPG|a cat\n", "begins with 'a.JPG|a cat'"),
        ("c.txt", "a.webp, a cat\n", "begins with 'a.webp, a cat'"),
        ("c.csv", "a red boat\na cat\n", "must name its columns, one of them text, caption"),
        ("c.csv", "", "not be empty"),
        ("c.csv", "file_name,text\n", "c.csv holds no captions"),
        ("c.csv", TABLE + "c.png\n", "line 4 has 1 columns, and the first 2"),
        ("c.csv", TABLE + "c.png,\n", "c.csv, line 4: the caption must be a text, not ''"),
        ("c.csv", 'text\n"a cat\n', "c.csv is no table: unexpected end of data"),
        ("c.csv", "text,caption\na,b\n", "it has text and caption, and one is to be the caption"),
        ("c.jsonl", lines(OBJECTS) + "{", "c.jsonl, line 3, is no JSON"),
        ("c.jsonl", lines([{"file_name": "a.png"}]), "line 1: of text, .* it needs one, and has"),
        ("c.jsonl", lines([{"image": 3, "text": "a"}]), "line 1: a picture's name must be a text"),
        ("c.jsonl", lines([*OBJECTS, {"text": "a"}]), "of some captions and not of 1"),
        ("c.jsonl", lines([*OBJECTS, *OBJECTS]), "for 2 of the pictures: 'a.png', 'b.png': leave"),
        ("c.json", '{"a.png": "a", "a.png": "b"}', "several entries for 'a.png'"),
        ("c.json", '{"a.png": ["a", "b"]}', r"'a.png': .* must be a text, not \['a', 'b'\]"),
        ("c.json", '{"a.png": "\\ud800"}', "'a.png': the caption holds the control character"),
        ("c.json", '{"annotations": [], "images": []}', "as COCO's, with several captions"),
        ("c.json", '{"a.png": "a"} {}', "c.json is no JSON: Extra data"),
    ],
)  # fmt: skip
def test_anything_else_is_one_sentence_that_says_where(tmp_path, name, content, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        read_texts(written(tmp_path, name, content))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 350


def test_names_that_do_not_fit_are_counted_and_a_few_are_named(tmp_path):
    file = written(tmp_path, "c.json", json.dumps({f"{k}.png": "a" for k in range(9)}))
    with pytest.raises(ValueError, match="no caption for 4 of the pictures: 'a', 'b', 'c' and 1 m"):
        read_captions(file, tmp_path, ["a", "b", "c", "d"], 4)
    with pytest.raises(ValueError, match="no picture for 8 of the captions, those of '1.png', '2"):
        read_captions(file, tmp_path, ["0.png"], 1)
