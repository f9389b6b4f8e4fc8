"""Pictures as they are shown: written once, and how far two are apart."""

from pathlib import Path

from PIL import Image

from demo.says.pictures import Difference, png_file


def test_a_picture_is_written_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    file = Path(png_file(red))
    before = file.stat()
    assert png_file(red) == str(file) and file.stat() == before
    assert png_file(blue) != str(file)
    assert {f.name for f in tmp_path.rglob("*") if f.is_file()} == {"picture.png"}


def test_the_difference_is_amplified_as_far_as_it_can_be_seen():
    black, grey = (Image.new("RGB", (10, 10), (level,) * 3) for level in (0, 10))
    difference = Difference.of([black, black], [grey, black])
    assert difference.factor == 16 and difference.rms == (10.0, 0.0)
    assert difference.pictures[0].getpixel((0, 0)) == (160,) * 3
    assert difference.pictures[1].getpixel((0, 0)) == (0,) * 3
    assert Difference.of([black], [black]).factor == 64
    far = Difference.of([black], [Image.new("RGB", (10, 10), "white")])
    assert (far.factor, far.rms) == (1, (255.0,))
