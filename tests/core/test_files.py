"""Files are written whole or not at all, and what cannot be written is refused before any work."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowturbo_core.files import check_file, check_folder, write_json, writing, written_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    file = tmp_path / "new" / "a.txt"
    with written_whole(file) as partial:
        partial.write_text("half")
        assert not file.exists() and partial.parent == file.parent
        partial.write_text("whole")
    assert file.read_text() == "whole" and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyError(), KeyboardInterrupt()])  # fmt: skip  # noqa: E501
def test_what_fails_leaves_what_was_there(tmp_path, failure):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises((ValueError, KeyError, KeyboardInterrupt)), written_whole(file) as partial:
        partial.write_text("half")
        raise failure
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_a_folder_can_be_written_whole_and_a_link_goes_on_to_lead_where_it_did(tmp_path):
    with written_whole(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "a").touch()
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["a"]
    (tmp_path / "link.json").symlink_to(tmp_path / "there.json")
    write_json({"a": 1}, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "there.json").is_file()


def test_of_several_that_want_a_new_file_one_gets_it(tmp_path):
    for content in ("first", "second"):
        try:
            with written_whole(tmp_path / "a", only_new=True) as partial:
                partial.write_text(content)
        except FileExistsError:
            assert content == "second"
    assert (tmp_path / "a").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, r"the disk is full, of which [\d,.]+ MB are left"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "does not allow it"),
        (errno.ENAMETOOLONG, "the name is too long"),
    ],
)
def test_what_a_disk_refuses_is_one_sentence(tmp_path, number, reason):
    with pytest.raises(ValueError, match=f"a.txt cannot be written: .*{reason}") as refusal:
        with writing(tmp_path / "a.txt"):
            raise OSError(number, os.strerror(number))
    assert "\n" not in str(refusal.value) and "Errno" not in str(refusal.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("save", [
    lambda file: file.write_text("a" * 10_000),
    lambda file: torch.save({"a": torch.zeros(100_000)}, file),
], ids=["python", "torch"])  # fmt: skip
def test_a_full_disk_is_known_by_whichever_library_meets_it(save):
    with pytest.raises(
        ValueError, match="a.pt cannot be written: (the disk is full|writing broke)"
    ):
        with writing(Path("a.pt")):
            save(Path("/dev/full"))


def test_safetensors_says_so_too(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(ValueError, match="the disk is full"), writing(tmp_path / "a"):
        raise SafetensorError(said)
    with pytest.raises(ValueError, match="No such file|folder|cannot"), writing(tmp_path / "a"):
        try:
            save_file({"a": torch.zeros(1)}, tmp_path / "missing" / "a")
        except Exception as error:
            raise ValueError(str(error)) from error


@pytest.mark.parametrize("check", [check_file, check_folder])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("a file/below", "is a file"),
        ("a file/far/below", "is a file"),
        ("/proc/below", "takes no files|does not allow it"),
        ("x" * 300, "the name is too long"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, check, place, reason):
    (tmp_path / "a file").touch()
    with pytest.raises(ValueError, match=reason):
        check(tmp_path / place)
    assert [file.name for file in tmp_path.iterdir()] == ["a file"]


def test_a_folder_that_takes_no_files_is_found_out_by_trying(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    for check in (check_folder, check_file):
        with pytest.raises(ValueError, match="cannot be written: its folder does not allow it"):
            check(tmp_path / "new" / "a")
    assert not list(tmp_path.iterdir())


def test_what_can_be_written_is_let_through_and_left_as_it_is(tmp_path):
    check_folder(tmp_path / "new" / "folder")
    check_file(tmp_path / "new" / "a.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is a folder; name a file"):
        check_file(tmp_path)
    with pytest.raises(ValueError, match="no file but a device"):
        check_file(Path(os.devnull))
