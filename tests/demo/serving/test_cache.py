"""The folder of pictures: what is written to it, what is removed again, and a disk that is full."""

import errno
import logging
import os
import re
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import pytest
from PIL import Image

from demo.says.pictures import png_file, preview_file, zip_file
from demo.serving import cache
from demo.serving.cache import GRACE_S, Keeping, claim, folder, previews, report, sweep
from flowturbo_core.files import Unwritable

HOUR = 3600
KEEPING = Keeping(hours=24, megabytes=10)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return folder()


def picture(level=0):
    return Image.new("RGB", (8, 8), (level, 0, 0))


def written(name, age_s=0.0, num_bytes=1):
    """Write a file that is so old, in a folder of its own that is as old."""
    file = folder() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(num_bytes)
    for path in (file, file.parent):
        os.utime(path, (time.time() - age_s,) * 2)
    return file


def test_what_is_old_goes_with_its_folder_and_what_is_young_stays():
    old, young = written("a/old.png", 25 * HOUR), written("b/young.png", 23 * HOUR)
    part = written("tmpxyz", 25 * HOUR)  # of a process that was killed while it wrote
    swept = sweep(KEEPING)
    assert (swept.num_removed, swept.num_left, swept.troubles) == (2, 1, {})
    assert not old.exists() and not part.exists() and young.exists()
    sweep(KEEPING, now=time.time() + GRACE_S + 1)
    assert not old.parent.exists() and young.parent.exists()


def test_empty_folders_of_any_depth_go_unless_they_are_new():
    (folder() / "a/b/c").mkdir(parents=True)
    sweep(KEEPING)
    assert (folder() / "a/b/c").exists()
    for _ in range(3):
        sweep(KEEPING, now=time.time() + GRACE_S + 1)
    assert list(folder().iterdir()) == []


def test_previews_go_once_nobody_can_be_looking_at_them():
    preview, result = preview_file(picture()), png_file(picture())
    assert Path(preview).is_relative_to(previews())
    sweep(KEEPING, now=time.time() + GRACE_S - 10)
    assert Path(preview).exists()
    sweep(KEEPING, now=time.time() + GRACE_S + 10)
    assert not Path(preview).exists() and Path(result).exists()


def test_beyond_the_bound_the_oldest_go_first():
    files = [written(f"{k}/a.png", (10 - k) * HOUR, 3_000_000) for k in range(5)]
    swept = sweep(KEEPING)
    assert [file.exists() for file in files] == [False, False, True, True, True]
    assert swept.num_bytes == 9_000_000


def test_what_is_shown_now_stays_until_there_is_twice_as_much_and_then_it_is_told(caplog):
    files = [written(f"{k}/a.png", 60 - k, 6_000_000) for k in range(3)]
    assert sweep(KEEPING).num_removed == 0
    files += [written(f"{k}/a.png", 60 - k, 6_000_000) for k in range(3, 6)]
    swept = sweep(KEEPING)
    assert [file.exists() for file in files] == [False] * 3 + [True] * 3
    assert swept.num_young == 3
    with caplog.at_level(logging.WARNING):
        report(swept, KEEPING)
    assert "3 pictures that pages may still show were removed" in caplog.text
    assert len(caplog.records) == 1


def test_nothing_outside_is_touched_and_no_link_is_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious.txt"
    precious.write_text("mine")
    os.utime(precious, (0, 0))
    folder().mkdir()
    (folder() / "directory").symlink_to(outside)
    (folder() / "file").symlink_to(precious)
    swept = sweep(KEEPING, now=time.time() + 25 * HOUR)
    assert precious.read_text() == "mine"
    assert swept.num_removed == 2 and list(folder().iterdir()) == []  # the links themselves


def test_what_a_page_opens_with_is_kept():
    file = written("a/first.png", 25 * HOUR)
    sweep(KEEPING, {str(file)})
    assert file.exists()


def test_trouble_is_counted_and_told_in_a_line_and_the_rest_is_swept(monkeypatch, caplog):
    stuck = [written(f"{k}/stuck.png", 25 * HOUR) for k in range(2)]
    other = written("c/other.png", 25 * HOUR)
    unlink = os.unlink

    def refuse(path):
        if "stuck" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    swept = sweep(KEEPING)
    assert not other.exists() and all(file.exists() for file in stuck)
    assert swept.troubles == {"Permission denied": 2} and swept.num_left == 2
    report(swept, KEEPING)
    (record,) = caplog.records
    assert record.getMessage() == f"sweeping {folder()}: Permission denied (2 times)"


def test_no_folder_yet_is_no_trouble():
    assert sweep(KEEPING).troubles == {}


def test_pictures_may_be_written_while_it_sweeps():
    done, failures = Event(), []

    def write():
        k = 0
        while not done.is_set():
            try:
                assert Path(png_file(picture(k := (k + 1) % 256))).exists()
            except Exception as error:  # noqa: BLE001 - told below
                failures.append(error)

    writer = Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert sweep(KEEPING).troubles == {}
    finally:
        done.set()
        writer.join()
    assert failures == []


def test_a_picture_that_is_asked_for_again_counts_as_new():
    file = Path(png_file(picture()))
    os.utime(file, (0, 0))
    assert png_file(picture()) == str(file)
    assert sweep(KEEPING).num_removed == 0
    assert file.exists()


def test_the_folder_is_this_programs_own(tmp_path, monkeypatch):
    assert folder() == tmp_path / "flowturbo-studio-cache"
    claim()
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder()) == str(tmp_path / folder().name)
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    assert folder().parent == (Path(tempfile.gettempdir()) / "gradio").resolve()


def test_a_link_in_its_place_is_refused(tmp_path):
    folder().symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a link; remove it, or set GRADIO_TEMP_DIR"):
        claim()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hours": 0}, "keep-hours must be a whole number from 1 to 8760, not 0"),
        ({"hours": 1.5}, "keep-hours must be a whole number from 1 to 8760, not 1.5"),
        ({"megabytes": 9}, "keep-mb must be a whole number from 10 to 1000000, not 9"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Keeping(**options)


def fill(monkeypatch, number=errno.ENOSPC):
    """Let no file be put in its place, as on a disk that is full by then."""

    def refuse(*paths):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, r"the disk is full, of which [\d,.]+ MB are left"),
        (errno.EDQUOT, r"the disk is full, of which [\d,.]+ MB are left"),
        (errno.EROFS, "the disk is read-only"),
    ],
)
@pytest.mark.parametrize("write", [png_file, preview_file])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(monkeypatch, write, number, sentence):
    with monkeypatch.context() as full:
        fill(full, number)
        with pytest.raises(Unwritable) as refused:
            write(picture())
    expected = f"{re.escape(str(folder()))} cannot be written: {sentence}"
    assert re.fullmatch(expected, str(refused.value))
    assert [path for path in folder().rglob("*") if path.is_file()] == []
    assert Path(write(picture())).exists()


def test_an_archive_on_a_full_disk_leaves_nothing(monkeypatch):
    file = png_file(picture())
    with monkeypatch.context() as full:
        fill(full)
        with pytest.raises(Unwritable, match="is full"):
            zip_file([file], "all", {})
    assert [path for path in folder().rglob("*") if path.is_file()] == [Path(file)]
    assert Path(zip_file([file], "all", {})).exists()


def test_an_unreadable_folder_is_trouble_that_is_told(monkeypatch):
    written("a/old.png", 25 * HOUR)
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(cache.os, "scandir", refuse)
    assert sweep(KEEPING).troubles == {"Permission denied": 1}
