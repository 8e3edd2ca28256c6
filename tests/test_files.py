"""Files are replaced as a whole, and only where a file or nothing is."""

import os
import socket
import stat

import pytest
import torch

from rewriter.errors import InputError
from rewriter.files import check_writable, replacing, write_bytes, write_tensors


@pytest.fixture
def special(tmp_path):
    """Paths that are no regular files, with what an error calls each."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    os.symlink("/dev/null", tmp_path / "link")
    yield {
        **{tmp_path / "pipe": "a pipe", tmp_path / "folder": "a folder", tmp_path / "socket": "a socket"},
        **{tmp_path / "link": "a device", "/dev/full": "a device", "/dev/null": "a device"},
    }
    listening.close()


def everything(folder):
    return {path.name: path.lstat().st_mode for path in folder.iterdir()}


def test_a_device_a_pipe_a_socket_and_a_folder_are_refused_before_and_after_the_work(special, tmp_path):
    before = everything(tmp_path)
    for path, kind in special.items():
        writes = [lambda path: write_bytes(b"new", path)] if kind != "a device" else []  # a failure would replace it
        for write in (check_writable, *writes):
            with pytest.raises(InputError, match=f"cannot write .*: it is {kind}; name a file"):
                write(path)
    assert everything(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mknod") or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_in_a_folder_that_root_may_write_to_stays_a_device(tmp_path):
    try:
        os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("no devices can be made here")
    with pytest.raises(InputError, match="it is a device"):
        write_tensors({"x": torch.zeros(1)}, tmp_path / "full", {})
    assert stat.S_ISCHR((tmp_path / "full").stat().st_mode)


def test_a_link_stays_and_the_file_that_it_points_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file.txt").write_text("old")
    (tmp_path / "there").symlink_to("far/file.txt")
    (tmp_path / "again").symlink_to("there")
    (tmp_path / "missing").symlink_to("far/new.txt")
    for link, target in {"again": "file.txt", "missing": "new.txt"}.items():
        check_writable(tmp_path / link)
        write_bytes(b"new", tmp_path / link)
        assert (tmp_path / link).is_symlink() and (tmp_path / "far" / target).read_bytes() == b"new"
    assert (tmp_path / "there").is_symlink() and len(list((tmp_path / "far").iterdir())) == 2


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for write in (check_writable, lambda path: write_bytes(b"new", path)):
        with pytest.raises(InputError, match="cannot write"):
            write(tmp_path / "a")


def test_a_check_leaves_nothing_and_touches_no_file_of_a_similar_name(tmp_path):
    (tmp_path / "x.png.probe").write_text("mine")
    check_writable(tmp_path / "x.png")
    check_writable(tmp_path / "new" / "deeper" / "x.png")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.png.probe": "mine"}


def test_the_longest_name_can_be_written_and_a_longer_one_is_refused_before_the_work(tmp_path):
    longest = tmp_path / f"{'n' * 251}.txt"
    check_writable(longest)
    write_bytes(b"new", longest)
    assert longest.read_bytes() == b"new"
    with pytest.raises(InputError, match="cannot write"):
        check_writable(tmp_path / f"{'n' * 252}.txt")


def test_an_error_without_words_of_the_system_is_named(tmp_path):
    with pytest.raises(InputError, match="encoder error -2"), replacing(tmp_path / "x.png"):
        raise OSError("encoder error -2 when writing image file")
