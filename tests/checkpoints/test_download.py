"""A file of the catalogue is downloaded from a loopback Hub once, whole, and exactly that one, or a line says why."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, utils
from loopback import LARGE, Account, Answer, Commit, LoopbackHub

from rewriter.checkpoints import download
from rewriter.checkpoints.catalogue import PinnedFile
from rewriter.checkpoints.download import cached, fetch, verify
from rewriter.errors import CancelledError, InputError

TOKEN = "hf_ada_may_read"
REPO, FILE = "ada/faces", "weights/faces.pt"
DATA = bytes(range(256)) * 12345  # three megabytes, which travel by LFS
OTHER = DATA[:-1] + b"!"
SHA = hashlib.sha256(DATA).hexdigest()
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub({TOKEN: Account("ada")}) as hub:
        hub.adopt(monkeypatch, tmp_path)
        monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "ours"))
        monkeypatch.setattr(download, "PAUSE", 0)
        hub.add("model", REPO, {FILE: DATA})
        yield hub


@pytest.fixture
def entry(hub):
    return entry_for(hub)


def entry_for(hub, **changed):
    """What the catalogue says about the file that the Hub serves."""
    revision = hub.repositories["model", REPO].at().oid
    facts = {"id": "faces", "repository": REPO, "file": FILE, "revision": revision, "size": len(DATA), "sha256": SHA}
    return PinnedFile(**{**facts, **changed})


def blobs():
    """The folder of the cache in which the Hub's files lie."""
    return Path(constants.HF_HUB_CACHE) / "models--ada--faces" / "blobs"


def part():
    """The partial file."""
    return blobs() / f"{SHA}.part"


def sizes():
    """Files in the cache, without locks: name → size."""
    return {path.name: path.stat().st_size for path in blobs().glob("*") if path.suffix != ".lock"}


def refusal(entry, **options):
    """The one line with which a download fails; it names the generator, and no token."""
    with pytest.raises(InputError) as caught:
        fetch(entry, **options)
    said = str(caught.value)
    assert entry.id in said and TOKEN not in said and said.isprintable() and len(said) < 900
    return said


def first_gets(*faults):
    """The first requests for the file itself have these faults, later ones none."""
    left = list(faults)
    return lambda n, request: left.pop(0) if request.method == "GET" and left else None


def gets(fault):
    return lambda n, request: fault if request.method == "GET" else None


def ranges(hub, fault=None):
    """Record which part of the file each request asks for."""
    asked = []

    def record(n, request):
        if request.method == "GET":
            asked.append(request.headers.get("range"))
            return fault(len(asked)) if fault else None

    hub.fault = record
    return asked


# --- what arrives ---


def test_progress_grows_from_nothing_to_the_size(hub, entry):
    steps = []
    path = fetch(entry, on_step=lambda *step: steps.append(step))
    assert path.read_bytes() == DATA and sizes() == {SHA: len(DATA)}
    assert steps == sorted(steps) and len(steps) > 10
    assert steps[0] == (0, len(DATA)) and steps[-1] == (len(DATA), len(DATA)) and {of for _, of in steps} == {len(DATA)}


def test_the_cache_is_shared_with_other_tools(hub, entry):
    path, asked = fetch(entry), len(hub.requests)
    where = {"revision": entry.revision, "cache_dir": constants.HF_HUB_CACHE}
    assert hf_hub_download(REPO, FILE, **where) == str(path) and len(hub.requests) == asked
    shutil.rmtree(constants.HF_HUB_CACHE)
    hf_hub_download(REPO, FILE, **where)
    asked = len(hub.requests)
    assert fetch(entry).read_bytes() == DATA and len(hub.requests) == asked


def test_a_small_file_without_lfs_is_downloaded_too(hub):
    hub.add("model", REPO, {FILE: DATA[: LARGE // 2]})
    assert fetch(entry_for(hub, size=None, sha256=None)).read_bytes() == DATA[: LARGE // 2]


def test_a_cached_file_needs_no_request_and_is_not_read_again(hub, entry, monkeypatch):
    path = fetch(entry)
    hub.requests.clear()
    monkeypatch.setattr(download, "hash_of", lambda path: pytest.fail("an unchanged file was read again"))
    assert fetch(entry) == cached(entry) == path and hub.requests == []


def test_a_redirect_to_another_host_does_not_carry_the_token(hub, entry, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    seen = []
    with LoopbackHub() as storage:
        storage.add("model", REPO, {FILE: DATA})
        storage.fault = lambda n, request: seen.append(request.headers.get("authorization"))
        hub.fault = gets(Answer(302, b"", {"Location": f"{storage.url}/{REPO}/resolve/main/{FILE}"}))
        assert fetch(entry).read_bytes() == DATA
    assert seen == [None]


# --- what is interrupted, and resumes ---


def test_every_byte_that_arrives_over_a_connection_that_breaks_off_counts(hub, entry):
    asked = ranges(hub, lambda n: "half" if n <= 12 else None)
    steps = []
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    assert hub.sent == len(DATA) and steps == sorted(steps) and len(set(asked)) == len(asked) == 13


def test_a_cancelled_download_resumes(hub, entry):
    with pytest.raises(CancelledError, match="the next one resumes"):
        fetch(entry, on_step=lambda done, of: done <= of / 2)
    there = sizes()[f"{SHA}.part"]
    assert len(DATA) / 2 < there < len(DATA) and cached(entry) is None
    asked, steps = ranges(hub), []
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    assert steps[0] == (there, len(DATA)) and asked == [f"bytes={there}-"]


def test_a_complete_part_is_verified_and_not_sent_again(hub, entry):
    with pytest.raises(CancelledError):
        fetch(entry, on_step=lambda done, of: done < of)
    assert sizes() == {f"{SHA}.part": len(DATA)} and hub.sent == len(DATA)
    assert fetch(entry).read_bytes() == DATA and hub.sent == len(DATA)


@pytest.mark.parametrize("raised", [ValueError("mine"), OSError(28, "mine"), KeyboardInterrupt(), StopIteration()])
def test_an_exception_of_the_callback_reaches_the_caller(hub, entry, raised):
    def stop(done, of):
        raise raised

    with pytest.raises(type(raised)) as caught:
        fetch(entry, on_step=stop)
    assert caught.value is raised
    assert fetch(entry).read_bytes() == DATA  # no lock is left


CHILD = """
import sys
from rewriter.checkpoints import download
entry = download.PinnedFile(id="faces", repository="{repo}", file="{file}", revision="{revision}")
print(download.fetch(entry, on_step=lambda done, of: print(done, of, flush=True)))
"""


@pytest.fixture
def child(hub, entry):
    """A process that downloads the same file; slowly, and it has begun."""
    hub.fault = gets("slow")
    code = CHILD.format(repo=REPO, file=FILE, revision=entry.revision)
    environment = {**os.environ, **hub.environment(), "HF_HUB_CACHE": constants.HF_HUB_CACHE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)
    next(process.stdout)
    yield process
    process.kill()
    process.communicate()


def test_a_download_of_a_killed_process_resumes(hub, entry, child):
    for line in child.stdout:
        if int(line.split()[0]) > len(DATA) / 3:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = sizes()[f"{SHA}.part"]
    assert len(DATA) / 3 < there < len(DATA)
    asked = ranges(hub)
    assert fetch(entry).read_bytes() == DATA and asked == [f"bytes={there}-"] and sizes() == {SHA: len(DATA)}


def test_another_processs_download_is_waited_for_with_its_progress(hub, entry, child, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.05)
    steps = []
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0 and out.splitlines()[-1] == str(cached(entry)), err
    assert hub.sent == len(DATA) and len({done for done, _ in steps}) > 3


def test_waiting_for_another_download_can_be_cancelled(hub, entry, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.05)
    hub.fault, begun = gets("slow"), threading.Event()
    other = threading.Thread(target=lambda: fetch(entry, on_step=lambda *_: begun.set()))
    other.start()
    begun.wait(10)
    with pytest.raises(CancelledError):
        fetch(entry, on_step=lambda done, of: False)
    assert other.is_alive() and cached(entry) is None
    other.join(30)
    assert cached(entry).read_bytes() == DATA and hub.sent == len(DATA)


def test_threads_at_the_same_time_download_once(hub, entry):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(entry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [cached(entry)] * 4 and hub.sent == len(DATA)


def test_a_part_that_is_too_long_is_started_again(hub, entry):
    blobs().mkdir(parents=True)
    part().write_bytes(DATA + b"more")
    assert fetch(entry).read_bytes() == DATA


def test_servers_that_ignore_or_mistake_the_range_do_no_harm(hub, entry):
    hub.fault = first_gets("half", Answer(200, DATA, {"ETag": f'"{SHA}"'}))
    assert fetch(entry).read_bytes() == DATA and hub.sent == len(DATA) // 2 + len(DATA)
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.fault = gets(Answer(200, DATA + b"more", {}))
    assert fetch(entry).read_bytes() == DATA
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.fault = first_gets("half", Answer(206, DATA[5:], {"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"}))
    assert "another part of the file" in refusal(entry)
    assert sizes() == {f"{SHA}.part": len(DATA) // 2} and fetch(entry).read_bytes() == DATA


# --- offline ---


@pytest.fixture
def offline(monkeypatch):
    """The client's offline mode, in this process."""
    yield lambda: (monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True), utils.close_session())
    monkeypatch.undo()
    utils.close_session()


def test_a_cached_file_is_used_offline_and_a_missing_one_is_explained(hub, entry, offline):
    path, asked = fetch(entry), len(hub.requests)
    offline()
    assert fetch(entry) == path
    said = refusal(entry_for(hub, file="other.pt"))
    assert said.startswith(f"cannot download faces from {REPO}: HF_HUB_OFFLINE is set") and "unset it" in said
    assert len(hub.requests) == asked


def test_a_hub_that_cannot_be_reached_is_reported(hub, entry, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + "/{repo_id}/resolve/{revision}/{filename}")
    said = refusal(entry)
    assert f"cannot download faces from {REPO}" in said and "check the network" in said


# --- what the Hub refuses ---


WAIT = "wait some minutes"
NEXT_STEPS = {401: "hf auth login", 403: "accept it on its page", 404: "give its path", 429: WAIT, 503: WAIT}


@pytest.mark.parametrize(("status", "words"), NEXT_STEPS.items())
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_refusal_names_its_status_and_the_next_step(hub, entry, monkeypatch, status, words, method):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault = lambda n, request: status if request.method == method else None
    said = refusal(entry)
    assert said.startswith(f"cannot download faces from {REPO}: the Hub answered {status}") and words in said
    hub.fault = lambda n, request: None
    assert fetch(entry).read_bytes() == DATA


def test_gated_private_and_deleted_repositories_are_told_apart(hub, entry, monkeypatch):
    repository = hub.repositories["model", REPO]
    repository.gated = True
    assert "answered 403 (Access to this repository is restricted); its owner asks for an agreement" in refusal(entry)
    repository.gated, repository.private = False, True
    assert "answered 401 (Repository not found); it was deleted" in refusal(entry)
    monkeypatch.setenv("HF_TOKEN", "hf_stale_token")
    said = refusal(entry)
    assert "answered 401 (Invalid credentials" in said and "hf auth login" in said and "hf_stale_token" not in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for gone, words in (
        ({"revision": "0" * 40}, "Invalid rev id"),
        ({"file": "other.pt"}, "Entry not found"),
        ({"repository": "ada/none"}, "Repository not found"),
    ):
        said = refusal(entry_for(hub, **gone))
        assert f"answered 404 ({words}" in said and "look for the model elsewhere" in said
    assert fetch(entry).read_bytes() == DATA


@pytest.mark.parametrize("token", ["hf_é", "hf_a b", "hf_a\nb", "hf_\x01"])
def test_an_impossible_token_is_refused_and_not_repeated(hub, entry, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    said = refusal(entry)
    assert token not in said and "hf auth login" in said


def test_a_connection_without_progress_is_given_up_and_what_has_arrived_is_kept(hub, entry, monkeypatch):
    hub.fault = gets("cut")
    assert "breaks off again and again; try later, then run the same again" in refusal(entry)
    assert sum(line.startswith("GET") for line in hub.requests) == download.ATTEMPTS
    hub.fault = first_gets("half", 503)
    assert "nothing that has arrived is sent twice" in refusal(entry)
    assert fetch(entry).read_bytes() == DATA and hub.sent < len(DATA) + 1000
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    hub.fault = lambda n, request: time.sleep(0.3) if request.method == "GET" else None
    assert "breaks off again and again" in refusal(entry)


@pytest.mark.hostile
def test_a_body_that_stalls_again_and_again_still_arrives(hub, entry, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.fault, hub.piece, hub.pause = gets("slow"), len(DATA) // 9, 0.5
    assert fetch(entry).read_bytes() == DATA


@pytest.mark.parametrize("fault", ["cut", "lost", Answer(200, b"<html>Log in to this hotel's network</html>")])
def test_an_answer_that_is_not_the_hubs_is_reported(hub, entry, fault):
    hub.fault = lambda n, request: fault
    said = refusal(entry)
    assert said.startswith(f"cannot download faces from {REPO}") and ("check" in said or "try" in said)
    assert sizes() == {}


@pytest.mark.parametrize("etag", ["../../../../escape", "a/b" * 9, "x", "", "..", "a" * 500, "ä" * 20, "nul\x00" * 9])
def test_a_version_that_cannot_be_a_file_name_is_refused(hub, entry, etag, tmp_path):
    before = {path for path in tmp_path.rglob("*") if "hub" not in path.parts}
    hub.fault = lambda n, request: Answer(200, DATA, {"ETag": f'"{etag}"', "X-Linked-Size": str(len(DATA))})
    said = refusal(entry)
    assert "check HF_ENDPOINT" in said or "check the network" in said
    assert {path for path in tmp_path.rglob("*") if "hub" not in path.parts} == before


# --- what is not the file that was meant ---


def test_wrong_content_of_the_right_size_never_enters_the_cache(hub, entry):
    hub.fault = gets(Answer(200, OTHER, {}))
    said = refusal(entry)
    assert f"expected SHA-256 {SHA}, found {hashlib.sha256(OTHER).hexdigest()}" in said
    assert "Nothing was read or deleted: delete it" in said and f"{SHA}.part is not the file of faces" in said
    assert sizes() == {f"{SHA}.part": len(OTHER)} and cached(entry) is None
    hub.fault = lambda n, request: None
    assert refusal(entry) == said
    part().unlink()
    assert fetch(entry).read_bytes() == DATA


def test_another_size_is_refused_before_anything_is_downloaded(hub):
    said = refusal(entry_for(hub, size=len(DATA) + 1))
    assert f"expected {len(DATA) + 1:,} bytes, found {len(DATA):,}" in said and "give its path" in said
    assert hub.sent == 0 and sizes() == {}


def test_a_hash_that_the_catalogue_does_not_know_is_remembered_from_the_first_download(hub):
    entry = entry_for(hub, size=None, sha256=None)
    assert verify(entry, fetch(entry)) == SHA
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.repositories["model", REPO].commits[entry.revision] = Commit(entry.revision, None, "forged", {FILE: OTHER})
    assert f"expected SHA-256 {SHA}, found {hashlib.sha256(OTHER).hexdigest()}" in refusal(entry)
    assert cached(entry).read_bytes() == OTHER  # and is not deleted


def test_the_beginning_of_a_hash_is_verified(hub):
    assert fetch(entry_for(hub, sha256=SHA[:8])).read_bytes() == DATA
    assert "expected SHA-256 00000000" in refusal(entry_for(hub, sha256="0" * 8))


@pytest.mark.parametrize("changed", [OTHER, DATA[:-1], DATA + b"!", b""])
def test_a_cached_file_that_was_altered_is_refused_and_not_deleted(hub, entry, changed):
    path = fetch(entry)
    path.resolve().write_bytes(changed)
    hub.requests.clear()
    said = refusal(entry)
    assert f"{path} is not the file of faces" in said and "expected" in said and "found" in said
    assert path.read_bytes() == changed and hub.requests == []
    path.resolve().write_bytes(DATA)
    assert fetch(entry) == path


@pytest.mark.parametrize("text", ["", "[]", '{"x": 3}', "damaged", None])
def test_a_damaged_memory_of_hashes_is_made_anew(hub, entry, text, tmp_path):
    path, memory = fetch(entry), tmp_path / "ours" / "verified.json"
    known = json.loads(memory.read_text())
    memory.write_text(json.dumps(dict.fromkeys(known, 7)) if text is None else text)
    assert fetch(entry) == path and json.loads(memory.read_text()).items() >= known.items()


def test_hashes_that_cannot_be_remembered_are_computed_again(hub, entry, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "file" / "ours"))
    assert fetch(entry) == fetch(entry) == cached(entry)


# --- the disk ---


def test_a_lack_of_room_is_reported_before_anything_is_downloaded(hub, entry, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    said = refusal(entry)
    assert "3 MB and some to spare are needed, 1 MB are free" in said and "HF_HOME" in said and hub.sent == 0


def test_a_disk_that_fills_up_keeps_what_has_arrived(hub, entry):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) // 2, hard))
    try:
        said = refusal(entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.startswith(f"cannot download faces from {REPO}, because ") and "File too large" in said
    assert "make room, or set HF_HOME" in said and 0 < sizes()[f"{SHA}.part"] <= len(DATA) // 2
    asked, there = ranges(hub), sizes()[f"{SHA}.part"]
    assert fetch(entry).read_bytes() == DATA and asked == [f"bytes={there}-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_reported(hub, entry):
    blobs().mkdir(parents=True)
    part().symlink_to("/dev/full")
    assert "No space left on device" in refusal(entry)


@pytest.mark.parametrize("blocked", ["hub", "hub/models--ada--faces"])
def test_a_cache_that_cannot_be_written_is_reported(hub, entry, tmp_path, blocked):
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.write_text("no folder")
    said = refusal(entry)
    assert "cannot be written" in said and "HF_HOME" in said and hub.sent == 0
