"""A generator of the catalogue at its real size, from a loopback Hub to a picture and to a rule."""

import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback import Commit, LoopbackHub
from PIL import Image
from test_recording import FULL, saved

from rewriter import Rule
from rewriter.cache import default_folder
from rewriter.checkpoints import catalogue as module
from rewriter.checkpoints.catalogue import catalogue, shipped
from rewriter.checkpoints.convert import rewrite_as
from rewriter.evaluation.benchmark import random_config_f

CHURCH = catalogue()["church"]
NOWHERE = "http://127.0.0.1:1"
DRAW = ("sample", "--generator", "church", "--seeds", "0", "--device", "cpu")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served():
    """A file with the published layout and names, and random weights."""
    state = rewrite_as(random_config_f(256), "rosinality")
    buffer = io.BytesIO()
    torch.save({"g_ema": state, "latent_avg": state.pop("latent_avg")}, buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(served, monkeypatch, tmp_path):
    """A Hub that serves it where the published one is, and a catalogue with its hash."""
    table = json.loads(shipped().read_text(encoding="utf-8"))
    for data in table["generators"]:
        if data["id"] == "church":
            data |= {"size": len(served), "sha256": hashlib.sha256(served).hexdigest()}
    (tmp_path / "package").mkdir()
    (tmp_path / "checkpoints.json").write_text(json.dumps(table))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "ours"))
    monkeypatch.chdir(tmp_path)
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        repository = hub.add("model", CHURCH.repository)
        repository.commits[CHURCH.revision] = Commit(CHURCH.revision, None, "as published", {CHURCH.file: served})
        yield hub


@pytest.fixture
def report(run):
    """A command's report in JSON."""

    def command(*arguments):
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return command


def offline(monkeypatch):
    """No Hub anywhere, and the client is told so."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)


def test_church_is_downloaded_drawn_and_drawn_again_offline(hub, served, report, monkeypatch):
    assert abs(len(served) - CHURCH.size) < 1e-4 * CHURCH.size
    report(*DRAW, "--out", "first.png")
    assert hub.sent == catalogue()["church"].size and any(CHURCH.revision in line for line in hub.requests)
    asked = len(hub.requests)
    offline(monkeypatch)
    report(*DRAW, "--out", "again.png")
    assert len(hub.requests) == asked and Path("first.png").read_bytes() == Path("again.png").read_bytes()
    with Image.open("first.png") as sheet:
        assert sheet.width >= 256
    here = {row["id"]: row["here"] for row in report("generators")["generators"]}
    assert here["church"] == "yes" and here["horse"] == "no"


def test_a_recording_is_executed_on_church_and_again_offline(hub, report, monkeypatch, tmp_path):
    recording = saved(FULL, tmp_path)
    options = ("--generator", "church", "--layer", "layer8", "--device", "cpu")
    first = report("apply", recording, *options, "--save-rule", "first.safetensors")
    assert (first["generator"], first["layer"]) == ("church", "layer8") and 0 < first["goal_error_removed"] <= 1
    asked = len(hub.requests)
    offline(monkeypatch)
    again = report("apply", recording, *options, "--save-rule", "again.safetensors")
    assert len(hub.requests) == asked and again["goal_error_removed"] == first["goal_error_removed"]
    rules = [Rule.load(tmp_path / f"{name}.safetensors") for name in ("first", "again")]
    assert torch.equal(rules[0].delta, rules[1].delta) and rules[0].edit.generator == "church"
    assert any((default_folder() / "moments").rglob("*.safetensors"))  # what was measured once is kept
