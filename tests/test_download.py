"""A catalogue entry's file comes from a loopback Hub once, whole, exactly the one that was meant; or one clear line."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from loopback import LARGE, Account, Answer, Commit, LoopbackHub

from rewriter.checkpoints import download
from rewriter.checkpoints.catalogue import Entry, Licence
from rewriter.checkpoints.download import cached, fetch, verify
from rewriter.errors import CancelledError, InputError

TOKEN = "hf_ada_may_read"
REPO, FILE = "ada/faces", "weights/faces.pt"
DATA = bytes(range(256)) * 12345  # three megabytes, which travel by LFS
OTHER = DATA[:-1] + b"!"
SMALL = DATA[: LARGE // 2]
SHA = hashlib.sha256(DATA).hexdigest()
ABSENT = {"clamp": None, "note": ""}
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub({TOKEN: Account("ada")}) as hub:
        hub.adopt(monkeypatch, tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "ours"))
        monkeypatch.setattr(download, "PAUSE", 0)
        hub.add("model", REPO, {FILE: DATA})
        yield hub


@pytest.fixture
def entry(hub):
    return entry_for(hub)


def entry_for(hub, **changed):
    """The entry of what the Hub serves."""
    facts = {"revision": hub.repositories["model", REPO].at().oid, "size": len(DATA), "sha256": SHA}
    licence = Licence("apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
    fixed = {"id": "faces", "title": "Faces", "repository": REPO, "file": FILE, "architecture": "stylegan2"}
    more = {"layout": "rosinality", "resolution": 16, "clamp": None, "licence": licence, "attribution": "Ada"}
    return Entry(**{**fixed, **facts, **more, "layers": {}, **changed})


def blobs():
    """What lies in the cache of the Hub's files: name → size, without locks."""
    folder = Path(constants.HF_HUB_CACHE) / "models--ada--faces" / "blobs"
    return {path.name: path.stat().st_size for path in folder.glob("*") if path.suffix != ".lock"}


def refusal(entry, **options):
    """The one line that a download which must fail ends with; it names the generator, and no token."""
    with pytest.raises(InputError) as caught:
        fetch(entry, **options)
    said = str(caught.value)
    assert entry.id in said and TOKEN not in said and said.isprintable() and len(said) < 900
    return said


def first_gets(*faults):
    """These befall the first requests for the file itself, and none the later ones."""
    left = list(faults)
    return lambda n, request: left.pop(0) if request.method == "GET" and left else None


def gets(fault):
    return lambda n, request: fault if request.method == "GET" else None


# --- what arrives ---


def test_progress_grows_from_nothing_to_the_size(hub, entry):
    steps = []
    path = fetch(entry, on_step=lambda *step: steps.append(step))
    assert path.read_bytes() == DATA and blobs() == {SHA: len(DATA)}
    assert steps == sorted(steps) and len(steps) > 10
    assert steps[0] == (0, len(DATA)) and steps[-1] == (len(DATA), len(DATA)) and {of for _, of in steps} == {len(DATA)}


def test_the_file_lies_where_other_tools_find_it(hub, entry):
    path, asked = fetch(entry), len(hub.requests)
    assert hf_hub_download(REPO, FILE, revision=entry.revision, cache_dir=constants.HF_HUB_CACHE) == str(path)
    assert len(hub.requests) == asked


def test_what_another_tool_fetched_is_taken(hub, entry):
    hf_hub_download(REPO, FILE, revision=entry.revision, cache_dir=constants.HF_HUB_CACHE)
    hub.requests.clear()
    assert fetch(entry).read_bytes() == DATA and hub.requests == []


def test_a_small_file_that_is_no_lfs_travels_too(hub):
    hub.add("model", REPO, {FILE: SMALL})
    assert fetch(entry_for(hub, size=None, sha256=None)).read_bytes() == SMALL


def test_cached_is_instant_and_asks_nobody(hub, entry, monkeypatch):
    path = fetch(entry)
    hub.requests.clear()
    monkeypatch.setattr(download, "hash_of", lambda path: pytest.fail("an unchanged file was read again"))
    started = time.perf_counter()
    assert fetch(entry) == cached(entry) == path and hub.requests == []
    assert time.perf_counter() - started < 0.5


def test_a_redirect_to_another_host_does_not_carry_the_token(hub, entry, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    seen = []
    with LoopbackHub() as storage:
        storage.add("model", REPO, {FILE: DATA})
        storage.fault = lambda n, request: seen.append(request.headers.get("authorization"))
        there = {"Location": f"{storage.url}/{REPO}/resolve/main/{FILE}"}
        hub.fault = gets(Answer(302, b"", there))
        assert fetch(entry).read_bytes() == DATA
    assert seen == [None]


# --- what stops, and is gone on with ---


def test_a_connection_that_is_cut_is_taken_up_where_it_was(hub, entry):
    hub.fault = first_gets("half", "cut", "half")
    steps = []
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    assert hub.sent == len(DATA) and steps == sorted(steps)


def test_every_byte_of_a_connection_that_is_always_cut_counts(hub, entry):
    cuts = []

    def always(n, request):
        if request.method == "GET" and len(cuts) < 12:
            cuts.append(request.headers.get("range"))
            return "half"

    hub.fault = always
    assert fetch(entry).read_bytes() == DATA and hub.sent == len(DATA)
    assert len(cuts) == len(set(cuts)) == 12


def test_a_download_that_was_cancelled_is_gone_on_with(hub, entry):
    def cancel(done, of):
        if done > of / 2:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError, match="stopped"):
        fetch(entry, on_step=cancel)
    there = blobs()[f"{SHA}.part"]
    assert len(DATA) / 2 < there < len(DATA) and cached(entry) is None
    asked, steps = [], []
    hub.fault = lambda n, request: asked.append(request.headers.get("range")) if request.method == "GET" else None
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    assert steps[0] == (there, len(DATA)) and asked == [f"bytes={there}-"]


@pytest.mark.parametrize("raised", [ValueError("mine"), OSError(28, "mine"), KeyboardInterrupt(), StopIteration()])
def test_what_a_caller_raises_is_his_own(hub, entry, raised):
    def stop(done, of):
        raise raised

    with pytest.raises(type(raised)) as caught:
        fetch(entry, on_step=stop)
    assert caught.value is raised
    assert fetch(entry).read_bytes() == DATA  # nothing is held


CHILD = """
import sys
from huggingface_hub import constants
from rewriter.checkpoints import download
from rewriter.checkpoints.catalogue import catalogue
download.PAUSE = 0
if len(sys.argv) > 1:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
try:
    path = download.fetch(catalogue()["faces"], on_step=lambda done, of: print(done, of, flush=True))
    print(path)
except download.InputError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def child(hub, entry, tmp_path):
    """Start a process that downloads the entry as a user's catalogue gives it."""
    path = tmp_path / "mine.json"
    layers = {"structure": "layer2", "objects": "layer4", "texture": "layer6"}
    path.write_text(json.dumps({"version": 1, "generators": [{**ABSENT, **entry.origin.to_json(), "layers": layers}]}))
    folders = {"HF_HUB_CACHE": constants.HF_HUB_CACHE, "REWRITER_CATALOGUE": str(path)}
    started = []

    def start(*arguments, token=None, **environment):
        env = {**os.environ, **hub.environment(token), **folders, **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", CHILD, *arguments], env=env, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_download_whose_process_was_killed_is_gone_on_with(hub, entry, child):
    hub.fault = gets("slow")
    process = child()
    for line in process.stdout:
        if int(line.split()[0]) > len(DATA) / 3:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = blobs()[f"{SHA}.part"]
    assert len(DATA) / 3 < there < len(DATA)
    hub.fault, steps = lambda n, request: None, []
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    assert steps[0] == (there, len(DATA)) and blobs() == {SHA: len(DATA)}


def test_two_processes_at_once_download_once_and_both_see_it(hub, entry, child, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.05)
    hub.fault = gets("slow")
    process, steps = child(), []
    next(process.stdout)  # it is at it
    assert fetch(entry, on_step=lambda *step: steps.append(step)).read_bytes() == DATA
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out.splitlines()[-1] == str(cached(entry)), err
    assert hub.sent == len(DATA) and len({done for done, _ in steps}) > 3


def test_who_waits_for_another_can_cancel(hub, entry, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.05)
    hub.fault, begun = gets("slow"), threading.Event()
    other = threading.Thread(target=lambda: fetch(entry, on_step=lambda *_: begun.set()))
    other.start()
    begun.wait(10)

    def cancel(done, of):
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        fetch(entry, on_step=cancel)
    assert other.is_alive() and cached(entry) is None
    other.join(30)
    assert cached(entry).read_bytes() == DATA and hub.sent == len(DATA)


def test_threads_at_once_download_once(hub, entry):
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(entry))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [cached(entry)] * 4 and hub.sent == len(DATA)


def test_a_whole_part_is_only_given_its_name(hub, entry):
    with pytest.raises(CancelledError):
        fetch(entry, on_step=lambda done, of: (_ for _ in ()).throw(CancelledError()) if done == of else None)
    assert blobs() == {f"{SHA}.part": len(DATA)} and hub.sent == len(DATA)
    assert fetch(entry).read_bytes() == DATA and hub.sent == len(DATA)


def test_a_part_that_is_too_long_is_begun_again(hub, entry):
    part = Path(constants.HF_HUB_CACHE) / "models--ada--faces" / "blobs" / f"{SHA}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA + b"more")
    assert fetch(entry).read_bytes() == DATA


def test_a_server_that_knows_no_ranges_sends_all_again(hub, entry):
    whole = Answer(200, DATA, {"ETag": f'"{SHA}"'})
    hub.fault = first_gets("half", whole)
    assert fetch(entry).read_bytes() == DATA and hub.sent == len(DATA) // 2 + len(DATA)


def test_a_server_that_sends_another_range_is_not_believed(hub, entry):
    wrong = Answer(206, DATA[5:], {"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"})
    hub.fault = first_gets("half", wrong)
    assert "another part of the file" in refusal(entry)
    assert blobs() == {f"{SHA}.part": len(DATA) // 2} and fetch(entry).read_bytes() == DATA


def test_a_server_that_sends_too_much_is_cut_short(hub, entry):
    hub.fault = gets(Answer(200, DATA + b"more", {}))
    assert fetch(entry).read_bytes() == DATA


# --- offline ---


def test_offline_and_cached_works_in_a_fresh_process(hub, entry, child):
    path = fetch(entry)
    asked = len(hub.requests)
    process = child(HF_HUB_OFFLINE="1", HF_ENDPOINT=NOWHERE)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.split() == [str(path)] and len(hub.requests) == asked, err


def test_offline_and_absent_says_so(hub, entry, child, tmp_path):
    process = child(HF_HUB_OFFLINE="1")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.startswith(f"refused: cannot download faces from {REPO}: HF_HUB_OFFLINE is set")
    assert "unset it" in err and hub.requests == []


def test_nobody_there_says_so(hub, entry, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + "/{repo_id}/resolve/{revision}/{filename}")
    said = refusal(entry)
    assert f"cannot download faces from {REPO}" in said and "check the network" in said


# --- refused ---


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "hf auth login"),
        (403, "accept it on its page"),
        (404, "give its path"),
        (429, "wait some minutes"),
        (500, "wait some minutes"),
        (503, "wait some minutes"),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_refusal_names_its_status_and_the_next_step(hub, entry, monkeypatch, status, words, method):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault = lambda n, request: status if request.method == method else None
    said = refusal(entry)
    assert said.startswith(f"cannot download faces from {REPO}: the Hub answered {status}") and words in said
    hub.fault = lambda n, request: None
    assert fetch(entry).read_bytes() == DATA


def test_gated_gone_and_private_are_told_apart(hub, entry, monkeypatch):
    repository = hub.repositories["model", REPO]
    repository.gated = True
    assert "answered 403 (Access to this repository is restricted); its owner asks for an agreement" in refusal(entry)
    repository.gated, repository.private = False, True
    assert "answered 401 (Repository not found); it was deleted" in refusal(entry)
    monkeypatch.setenv("HF_TOKEN", "hf_stale_token")
    said = refusal(entry)
    assert "answered 401 (Invalid credentials" in said and "hf auth login" in said and "hf_stale_token" not in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(entry).read_bytes() == DATA


@pytest.mark.parametrize("token", ["hf_é", "hf_a b", "hf_a\nb", "hf_\x01"])
def test_a_token_that_can_be_none_is_told(hub, entry, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    said = refusal(entry)
    assert token not in said and "hf auth login" in said


def test_a_revision_a_file_and_a_repository_that_are_gone_are_named(hub, entry, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for gone, words in (
        ({"revision": "0" * 40}, "Invalid rev id"),
        ({"file": "other.pt"}, "Entry not found"),
        ({"repository": "ada/none"}, "Repository not found"),
    ):
        said = refusal(entry_for(hub, **gone))
        assert f"answered 404 ({words}" in said and "look for the model elsewhere" in said and "give its path" in said


def test_a_connection_that_is_always_cut_is_given_up(hub, entry):
    hub.fault = gets("cut")
    assert "breaks off again and again; try later, then run the same again" in refusal(entry)
    assert sum(line.startswith("GET") for line in hub.requests) == download.ATTEMPTS


def test_a_refusal_in_the_middle_keeps_what_has_arrived(hub, entry):
    hub.fault = first_gets("half", 503)
    assert "nothing that has arrived is sent twice" in refusal(entry)
    assert fetch(entry).read_bytes() == DATA and hub.sent < len(DATA) + 1000


def test_an_answer_that_takes_too_long_is_given_up(hub, entry, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    hub.fault = lambda n, request: time.sleep(0.3) if request.method == "GET" else None
    assert "breaks off again and again" in refusal(entry)


def test_a_body_that_stalls_again_and_again_still_arrives(hub, entry, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.fault, hub.piece, hub.pause = gets("slow"), len(DATA) // 9, 0.5
    assert fetch(entry).read_bytes() == DATA


@pytest.mark.parametrize("fault", ["cut", "lost", Answer(200, b"<html>Log in to this hotel's network</html>")])
def test_what_is_no_hub_is_told(hub, entry, fault):
    hub.fault = lambda n, request: fault
    said = refusal(entry)
    assert said.startswith(f"cannot download faces from {REPO}") and ("check" in said or "try" in said)
    assert blobs() == {}


@pytest.mark.parametrize("etag", ["../../../../escape", "a/b" * 9, "x", "", "..", "a" * 500, "ä" * 20, "nul\x00" * 9])
def test_an_etag_that_is_no_name_is_refused(hub, entry, etag, tmp_path):
    before = {path for path in tmp_path.rglob("*") if "hub" not in path.parts}
    hub.fault = lambda n, request: Answer(200, DATA, {"ETag": f'"{etag}"', "X-Linked-Size": str(len(DATA))})
    said = refusal(entry)
    assert "check HF_ENDPOINT" in said or "check the network" in said
    assert {path for path in tmp_path.rglob("*") if "hub" not in path.parts} == before


# --- not the file that was meant ---


def test_wrong_bytes_of_the_right_size_are_never_given_a_name(hub, entry):
    hub.fault = gets(Answer(200, OTHER, {}))
    said = refusal(entry)
    assert f"expected SHA-256 {SHA}, found {hashlib.sha256(OTHER).hexdigest()}" in said
    assert "Nothing was read or deleted: delete it" in said and f"{SHA}.part is not the file of faces" in said
    assert blobs() == {f"{SHA}.part": len(OTHER)} and cached(entry) is None
    hub.fault = lambda n, request: None
    assert refusal(entry) == said
    (Path(constants.HF_HUB_CACHE) / "models--ada--faces" / "blobs" / f"{SHA}.part").unlink()
    assert fetch(entry).read_bytes() == DATA


def test_a_repository_that_was_rewritten_is_refused(hub, entry):
    repository = hub.repositories["model", REPO]
    repository.commits[entry.revision] = Commit(entry.revision, None, "forged", {FILE: OTHER})
    assert f"expected SHA-256 {SHA}" in refusal(entry) and cached(entry) is None


def test_another_size_is_refused_before_a_byte_is_fetched(hub):
    said = refusal(entry_for(hub, size=len(DATA) + 1))
    assert f"expected {len(DATA) + 1:,} bytes, found {len(DATA):,}" in said and "give its path" in said
    assert hub.sent == 0 and blobs() == {}


def test_an_unknown_hash_is_remembered_and_holds_from_then_on(hub):
    entry = entry_for(hub, size=None, sha256=None)
    path = fetch(entry)
    assert verify(entry, path) == SHA
    shutil.rmtree(constants.HF_HUB_CACHE)
    repository = hub.repositories["model", REPO]
    repository.commits[entry.revision] = Commit(entry.revision, None, "forged", {FILE: OTHER})
    said = refusal(entry)
    assert f"expected SHA-256 {SHA}, found {hashlib.sha256(OTHER).hexdigest()}" in said
    assert cached(entry).read_bytes() == OTHER  # and is not deleted


def test_the_beginning_of_a_hash_is_held_to(hub):
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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"x": 3}', "damaged", None])
def test_a_damaged_memory_of_hashes_is_as_good_as_none(hub, entry, text, tmp_path):
    path, ledger = fetch(entry), tmp_path / "ours" / "verified.json"
    known = json.loads(ledger.read_text())
    ledger.write_text(json.dumps(dict.fromkeys(known, 7)) if text is None else text)
    assert fetch(entry) == path and json.loads(ledger.read_text()).items() >= known.items()


def test_hashes_that_cannot_be_remembered_are_found_again(hub, entry, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "file" / "ours"))
    assert fetch(entry) == fetch(entry) == cached(entry)


# --- the disk ---


def test_a_disk_without_room_is_told_before_a_byte_is_fetched(hub, entry, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    said = refusal(entry)
    assert "3 MB and some to spare are needed, 1 MB are free" in said and "HF_HOME" in said and hub.sent == 0


def test_a_disk_that_fills_up_keeps_what_has_arrived(hub, entry, child):
    process = child(str(len(DATA) // 2))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.startswith(f"refused: cannot download faces from {REPO}, because ") and "File too large" in err
    assert "make room, or set HF_HOME" in err and 0 < blobs()[f"{SHA}.part"] <= len(DATA) // 2
    asked, there = [], blobs()[f"{SHA}.part"]
    hub.fault = lambda n, request: asked.append(request.headers.get("range")) if request.method == "GET" else None
    assert fetch(entry).read_bytes() == DATA and asked == [f"bytes={there}-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_told(hub, entry):
    part = Path(constants.HF_HUB_CACHE) / "models--ada--faces" / "blobs" / f"{SHA}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    assert "No space left on device" in refusal(entry)


@pytest.mark.parametrize("blocked", ["hub", "hub/models--ada--faces"])
def test_a_cache_that_is_no_folder_is_told(hub, entry, tmp_path, blocked):
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.write_text("no folder")
    said = refusal(entry)
    assert "cannot be written" in said and "HF_HOME" in said and hub.sent == 0


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_is_read_only_is_told(hub, entry, tmp_path):
    (tmp_path / "hub").mkdir(mode=0o500)
    said = refusal(entry)
    assert "Permission denied" in said and "HF_HOME" in said and hub.sent == 0
