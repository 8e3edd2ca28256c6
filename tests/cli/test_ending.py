"""How commands end: on a full disk, with nobody who reads them, and when they are told to stop."""

import errno
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import DATA

from rewriter.cli import ending

SMALL = DATA / "nvidia_stylegan2_16px_plain.pt"
SLOW = """
import sys, time
from PIL import Image
save = Image.Image.save
def slow(self, *arguments, **options):
    save(self, *arguments, **options)
    print("writing", file=sys.stderr, flush=True)
    time.sleep(60)
Image.Image.save = slow
from rewriter.cli import main
sys.argv = ["rewriter", "sample", "--generator", sys.argv[1], "--seeds", "0", "--out", "new/x.png"]
main()
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A real file system of 64 kB without any room left; skipped where none can be mounted."""
    folder = tmp_path_factory.mktemp("full")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by root only")
    try:
        with open(folder / "filled", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def rule(begin, tmp_path):
    """The files of a rule and of its edit."""
    rule = begin().execute()
    rule.save(tmp_path / "rule.safetensors")
    rule.edit.save(tmp_path / "edit.json")
    return tmp_path / "rule.safetensors", tmp_path / "edit.json"


def commands(full, rule, edit, out):
    apply = ("apply", edit, "--generator", SMALL)
    return {
        "png": ("sample", "--generator", SMALL, "--seeds", "0", "--out", full / "x.png"),
        "collection": ("sample", "--generator", SMALL, "--count", "2", "--out", full / "many"),
        "rule": (*apply, "--out", out / "x.png", "--save-rule", full / "r.safetensors"),
        "weights": (*apply, "--out", out / "x.png", "--save-model", full / "m.safetensors"),
        "session": (*apply, "--out", out / "x.png", "--save-session", full / "s.safetensors"),
        "folder": ("convert", SMALL, full / "folder"),
        "exported": ("convert", SMALL, full / "x.pt", "--layout", "rosinality"),
        "published": ("publish", "ada/x", rule, "--generator", SMALL, "--licence", "mit", "--out", full / "draft"),
        "evaluation": ("evaluate", "add-tree", "--n", "4", "--out", full / "evaluated"),
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.evaluation) if name == "evaluation" else name
        for name in commands(DATA, None, None, DATA)
    ],
)
def test_a_full_disk_gives_one_clear_line_and_leaves_no_half_file(full, rule, tmp_path, run, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*commands(full, *rule, tmp_path)[name])
    assert status == 2 and "No space left on device" in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("rewriter: ") and "Traceback" not in error
    assert [path for path in full.rglob("*") if path.is_file()] == [full / "filled"]


def test_a_full_cache_gives_one_clear_line_where_it_is_what_was_asked_for(full, run, monkeypatch):
    monkeypatch.setenv("REWRITER_CACHE", str(full))
    status, _, error = run("stats", "--generator", SMALL, "--layer", "layer3", "--pictures", "2")
    assert status == 2 and error.count("\n") == 1 and "No space left on device" in error


def test_a_full_temporary_folder_gives_one_clear_line(full, rule, tmp_path, run, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(full))
    wanted = ("publish", "ada/x", rule[0], "--generator", SMALL, "--licence", "mit", "--out", tmp_path / "draft")
    status, _, error = run(*wanted)
    assert status == 2 and error.splitlines()[-1].startswith("rewriter: ") and "No space left" in error


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_what_the_system_refuses_is_one_line_with_the_place_and_a_next_step(capsys, reason):
    with pytest.raises(SystemExit) as ended, ending.in_words():
        raise OSError(reason, os.strerror(reason), "/some/where")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("rewriter: cannot go on: /some/where: ") and said.count("\n") == 1
    assert os.strerror(reason) in said and ("make room" in said) == (reason == errno.ENOSPC)


def python(*arguments, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [("--help",), ("inspect", "add-tree", "--json")])
def test_words_that_find_no_room_are_one_clear_line(arguments):
    with open("/dev/full", "w") as nowhere:
        done = python("-m", "rewriter", *arguments, stdout=nowhere)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("rewriter: ") and "No space left on device" in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("inspect", "add-tree")])
def test_a_reader_who_has_gone_ends_a_command_without_words(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = python("-m", "rewriter", *arguments, stdout=nobody)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_stop_removes_what_it_was_writing(tmp_path, number, status):
    command = [sys.executable, "-c", SLOW, str(SMALL)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stderr.readline() == "writing\n" and len(list((tmp_path / "new").iterdir())) == 1
        for _ in range(2):  # as launchers and terminals do
            running.send_signal(number)
        assert (running.wait(timeout=20), running.stderr.read()) == (status, "")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("number", ending.STOPPING)
def test_a_second_signal_is_ignored_at_first_and_kills_later(number):
    late = "import signal, time; from rewriter.cli import ending\nwith ending.stoppable():\n try: time.sleep(60)\n"
    late += f" finally:\n  signal.raise_signal({number}); print('on', flush=True); time.sleep({ending.TWICE + 0.2})\n"
    late += f"  signal.raise_signal({number}); print('never', flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", late], stdout=subprocess.PIPE, text=True) as running:
        time.sleep(1.5)
        running.send_signal(number)
        assert (running.stdout.read(), running.wait(timeout=20)) == ("on\n", -number)


def test_a_command_may_have_handlers_of_its_own_and_those_from_before_come_back():
    before, seen = [signal.getsignal(each) for each in ending.STOPPING], []
    with ending.stoppable():
        signal.signal(signal.SIGTERM, lambda *_: seen.append("own"))
        signal.raise_signal(signal.SIGTERM)
    assert seen == ["own"] and [signal.getsignal(each) for each in ending.STOPPING] == before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as for a job that shall go on
    try:
        with ending.stoppable():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before[1])


def test_errors_without_any_place_to_print_end_with_their_status(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", Full())
    with pytest.raises(SystemExit) as ended, ending.in_words():
        raise OSError(errno.EIO, "broken")
    assert ended.value.code == 2
