"""Helpers and fixtures that several test files share: generators, rules of them, a Hub, the command line, a browser."""

import io
import json
import os
import random
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; child processes inherit it

import pytest
import torch
from browser import HINT, chromium, find
from hypothesis import settings
from loopback import LoopbackHub
from plain_dcgan import plain_dcgan
from plain_fastgan import plain_fastgan
from plain_lightweight import plain_lightweight
from plain_stylegan3 import plain_state

from rewriter import Rewriter, Rule, load_edits, load_generator, replay, worlds
from rewriter.checkpoints.convert import convert
from rewriter.editing.history import History
from rewriter.editing.statistics import Statistics
from rewriter.generators.change import LowRank

DATA = Path(__file__).parent / "data"

settings.register_profile("steady", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def apart_from_the_user(tmp_path_factory):
    """One thread, because the pictures are small; and no test reads or writes the user's cache."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REWRITER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def square(top, left, bottom, right, side=16):
    """A mask (side, side) that is one in a rectangle."""
    mask = torch.zeros(side, side)
    mask[top:bottom, left:right] = 1
    return mask


def near(a, b, tolerance=5e-5):
    """Equal within a share of the range: batches and sums of rules round differently."""
    return (a - b).abs().max() <= tolerance * (b.max() - b.min())


def same_rule(a, b):
    """Whether change and level are equal to the bit."""
    return torch.equal(a.delta, b.delta) and torch.equal(a.directions, b.directions) and a.level == b.level


def flipped(data, count, end=None):
    """Copies of a file's content, each with one bit flipped at random among its first `end` bytes."""
    draw = random.Random(0)
    for at in (draw.randrange(end or len(data)) for _ in range(count)):
        yield data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]


def golden(name):
    """A golden file's content."""
    return torch.load(DATA / name, weights_only=True)


def state_of(name):
    """A golden file's state dict, as the layout publishes it."""
    loaded = golden(name)
    if "g_ema" in loaded:
        return {**loaded["g_ema"], "latent_avg": loaded["latent_avg"]}
    return dict(loaded.get("state_dict", loaded))


@pytest.fixture(scope="session")
def untouched():
    """Watch a generator: at the end of the run its weights must be unchanged, to the bit."""
    watched = []

    def watch(generator):
        watched.append((generator, {name: value.clone() for name, value in generator.state_dict().items()}))
        return generator

    yield watch
    for generator, before in watched:
        after = generator.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.fixture(scope="session")
def stylegan(untouched):
    return untouched(convert(state_of("nvidia_stylegan2_16px_plain.pt"), name="stylegan"))


@pytest.fixture(scope="session")
def statistics(stylegan):
    """Measurements of the layers of `stylegan`, made once a run."""
    return Statistics(stylegan)


def weight_session(generator, layer=None, **options):
    """A session whose first edit makes a change of W, which is quick: the machine does not try other forms."""
    session = Rewriter(generator, layer, **options)
    state = session.history.present
    session.history = History((replace(state, edit=state.edit.with_(form="weight")),))
    return session


@pytest.fixture
def begin(stylegan, statistics):
    """Start a session on `stylegan` for a change of W, with a copy, a paste and up to three contexts."""

    def make(contexts=3, *, generator=stylegan, **options):
        session = weight_session(generator, "layer4", **{"statistics": statistics, **options})
        session.copy(7, square(4, 6, 12, 12))
        session.paste(1, square(6, 4, 12, 12))
        for seed in (1, 2, 3)[:contexts]:
            session.add_context(seed, square(6, 4, 12, 12))
        return session

    return make


@pytest.fixture
def session(begin):
    """A session with a copy, a paste and three contexts."""
    return begin()


@pytest.fixture(scope="session")
def proggan(untouched):
    return untouched(convert(state_of("gandissect_proggan_32px.pth"), name="proggan"))


@pytest.fixture(scope="session")
def dcgan(untouched):
    return untouched(convert(plain_dcgan().state_dict(), name="dcgan"))


@pytest.fixture(scope="session")
def stylegan3(untouched):
    return untouched(convert(plain_state(16, count=4, base=192, most=12), name="stylegan3"))


@pytest.fixture(scope="session")
def fastgan(untouched):
    return untouched(convert(plain_fastgan().state_dict(), name="fastgan"))


@pytest.fixture(scope="session")
def stylegan3_r(untouched):
    return untouched(convert(plain_state(16, count=4, base=192, most=12, radial=True), name="stylegan3-r"))


@pytest.fixture(scope="session")
def lightweight(untouched):
    return untouched(convert(plain_lightweight().state_dict(), name="lightweight"))


@pytest.fixture(scope="session")
def town(untouched):
    return untouched(load_generator("townscape", device="cpu"))


@pytest.fixture(params=["stylegan", pytest.param("stylegan3", marks=pytest.mark.hostile), "proggan", "dcgan", "town"])
def generator(request):
    """Each of the five in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def shipped(town):
    """Execute the edits of a shipped example, once a run: its name gives the rules, in order."""
    statistics = Statistics(town)

    @cache
    def execute(name):
        rules = ()
        for edit in load_edits(worlds.examples("townscape")[name]):
            rules += (replay(town, edit, rules=rules, statistics=statistics),)
        return rules

    return execute


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A loopback Hub with a checkpoint of some megabytes, and a catalogue that lists it as "small"."""
    file, loaded = io.BytesIO(), golden("rosinality_stylegan2_16px.pt")
    torch.save({**loaded, "g_optim": {"state": torch.zeros(1 << 20)}}, file)
    with LoopbackHub() as hub:
        hub.adopt(monkeypatch, tmp_path)
        hub.fault, hub.piece, hub.pause = lambda n, request: "slow", 1 << 18, 0  # until a test says otherwise
        commit = hub.add("model", "ada/small", {"small.pt": file.getvalue()}).at()
        entry = {
            **{"id": "small", "title": "Small things", "repository": "ada/small", "file": "small.pt"},
            **{"revision": commit.oid, "size": len(file.getvalue()), "sha256": None, "architecture": "stylegan2"},
            **{"layout": "rosinality", "resolution": 16, "clamp": None, "attribution": "Ada <ada@example.org>"},
            "licence": {"id": "cc-by-4.0", "link": "https://example.org/licence"},
            "layers": {"structure": "layer3", "objects": "layer4", "texture": "layer5"},
        }
        catalogue = tmp_path / "catalogue.json"
        catalogue.write_text(json.dumps({"version": 1, "generators": [entry]}))
        monkeypatch.setenv("REWRITER_CATALOGUE", str(catalogue))
        yield hub


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: its status, output and errors, which must hold no token and no traceback."""
    from rewriter.cli import main

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["rewriter", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said, token = capsys.readouterr(), os.environ.get("HF_TOKEN") or "Traceback"
        assert "Traceback" not in said.err and token not in said.out + said.err
        return ended.value.code or 0, said.out, said.err

    return command


@pytest.fixture(scope="module")
def browser():
    """A running Chromium."""
    path = find() or pytest.skip(HINT)
    with chromium(path) as running:
        yield running


@pytest.fixture(scope="session")
def change():
    """Make a random change of a layer, `size` times as large as its weight."""

    def make(generator, layer, *, rank=2, size=0.3, seed=0):
        weight, draw = generator.memory(layer).weight, torch.Generator().manual_seed(seed)
        directions = torch.linalg.qr(torch.randn(weight.shape[1], rank, generator=draw))[0].T.contiguous()
        delta = torch.randn(weight.shape[0], rank, *weight.shape[2:], generator=draw)
        return LowRank(layer, delta * (size * weight.norm() / delta.norm()), directions)

    return make


@pytest.fixture(scope="session")
def random_rule(change):
    """Make a rule from a random change, as it might come from a file."""

    def make(generator, layer, *, seed=0, rank=2, size=0.3, **about):
        one = change(generator, layer, rank=rank, size=size, seed=seed)
        return Rule(layer, one.delta, one.directions, fingerprint=generator.fingerprint, **about)

    return make
