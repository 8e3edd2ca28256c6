"""A generator of the catalogue at its real size, from a loopback Hub to a picture and to a rewritten rule."""

import hashlib
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback import Commit, LoopbackHub
from PIL import Image
from test_recording import FULL, saved

from rewriter.cache import default_folder
from rewriter.checkpoints import catalogue as module
from rewriter.checkpoints.catalogue import catalogue, shipped
from rewriter.checkpoints.convert import rewrite_as
from rewriter.cli import main
from rewriter.editing.rule import Rule
from rewriter.evaluation.benchmark import random_config_f

CHURCH = catalogue()["church"]
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def served():
    """A file of the published layout and names, of random weights."""
    state = rewrite_as(random_config_f(256), "rosinality")
    buffer = io.BytesIO()
    torch.save({"g_ema": state, "latent_avg": state.pop("latent_avg")}, buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(served, monkeypatch, tmp_path):
    """A Hub where it lies as the published one does, and a catalogue that differs from the shipped one in its hash."""
    table = json.loads(shipped().read_text(encoding="utf-8"))
    for data in table["generators"]:
        if data["id"] == "church":
            data |= {"size": len(served), "sha256": hashlib.sha256(served).hexdigest()}
    (tmp_path / "package").mkdir()
    (tmp_path / "checkpoints.json").write_text(json.dumps(table))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        repository = hub.add("model", CHURCH.repository)
        repository.commits[CHURCH.revision] = Commit(CHURCH.revision, None, "as published", {CHURCH.file: served})
        yield hub


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: what it says in JSON."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["rewriter", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return json.loads(said.out)

    return command


def offline(monkeypatch):
    """No Hub anywhere, and the client told so."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)


def test_the_file_is_as_large_as_the_published_one(served):
    assert abs(len(served) - CHURCH.size) < 1e-4 * CHURCH.size


def test_church_is_fetched_and_drawn_and_drawn_again_offline(hub, run, monkeypatch):
    run("sample", "--generator", "church", "--seeds", "0", "--device", "cpu", "--out", "first.png")
    assert hub.sent == catalogue()["church"].size and any(CHURCH.revision in line for line in hub.requests)
    asked = len(hub.requests)
    offline(monkeypatch)
    run("sample", "--generator", "church", "--seeds", "0", "--device", "cpu", "--out", "again.png")
    assert len(hub.requests) == asked and Path("first.png").read_bytes() == Path("again.png").read_bytes()
    with Image.open("first.png") as sheet:
        assert sheet.width >= 256
    here = {row["id"]: row["here"] for row in run("generators")["generators"]}
    assert here["church"] == "yes" and here["horse"] == "no"


@pytest.mark.slow
def test_a_recording_is_applied_to_church_and_applied_again_offline(hub, run, monkeypatch, tmp_path):
    recording = saved(FULL, tmp_path)
    options = ("--generator", "church", "--layer", "layer8", "--device", "cpu")
    first = run("apply", recording, *options, "--save-rule", "first.safetensors")
    assert (first["generator"], first["layer"]) == ("church", "layer8") and 0 < first["goal_error_removed"] <= 1
    asked = len(hub.requests)
    offline(monkeypatch)
    again = run("apply", recording, *options, "--save-rule", "again.safetensors")
    assert len(hub.requests) == asked and again["goal_error_removed"] == first["goal_error_removed"]
    rules = [Rule.load(tmp_path / f"{name}.safetensors") for name in ("first", "again")]
    assert torch.equal(rules[0].delta, rules[1].delta) and rules[0].edit.generator == "church"
    assert any(default_folder().rglob("*.safetensors"))  # what was measured once
