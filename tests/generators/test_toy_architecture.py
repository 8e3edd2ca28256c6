"""Adding an architecture takes one file and one line."""

import importlib.util

import pytest
import torch

from rewriter import Rewriter, load_generator
from rewriter.checkpoints import store
from rewriter.generators.architectures import ARCHITECTURES
from rewriter.hub.draft import draft
from rewriter.masks import disc

FILE = '''
"""Tiles: every latent is a colour in each cell of a grid."""

import torch
import torch.nn.functional as F
from torch import nn

from rewriter.generators.base import Generator
from rewriter.generators.layer import Features, LayerInfo
from rewriter.generators.proggan import PlainConv


class Tiles(Generator):
    """One layer between a linear start and a linear picture."""

    architecture = "tiles"
    pattern = r"tiles\\."

    def __init__(self, channels, zdim):
        super().__init__()
        self.zdim, self.resolution = zdim, 16
        self.layers = {"cells": LayerInfo("cells", channels, channels, 3, 8, 8)}
        self.tiles = nn.ModuleDict({"start": nn.Linear(zdim, channels * 64), "end": nn.Conv2d(channels, 3, 1)})
        self.tiles["cells"] = PlainConv(channels, channels, kernel=3, padding=1)
        self.requires_grad_(False)

    @classmethod
    def from_shapes(cls, shapes, **settings):
        return cls(shapes.size("tiles.cells.weight", 0, rank=4), shapes.size("tiles.start.weight", 1, rank=2))

    def memory(self, layer):
        return self.tiles[self.layer(layer).name]

    def enter(self, latents):
        return Features("cells", torch.tanh(self.tiles["start"](latents)).view(len(latents), -1, 8, 8))

    def step(self, features, values):
        return F.interpolate(self.tiles["end"](torch.tanh(values)), scale_factor=2.0)
'''


@pytest.fixture
def tiles(tmp_path, monkeypatch):
    """The file, and the line that lists it; a generator with random weights."""
    (tmp_path / "tiles.py").write_text(FILE)
    spec = importlib.util.spec_from_file_location("tiles", tmp_path / "tiles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(ARCHITECTURES, "tiles", module.Tiles)
    torch.manual_seed(0)
    made = module.Tiles(8, 6)
    made.name = "tiles"
    return made.eval()


def test_one_file_and_one_line_make_an_architecture_that_is_sampled_converted_rewritten_and_saved(tiles, run, tmp_path):
    store.write_weights(tiles, tmp_path / "plain.safetensors")
    status, out, err = run("convert", tmp_path / "plain.safetensors", tmp_path / "folder")
    assert status == 0 and tiles.fingerprint[:12] in out, err
    loaded = load_generator(str(tmp_path / "folder"), device="cpu")
    assert torch.equal(loaded.sample([0, 1]), tiles.sample([0, 1])) and loaded.fingerprint == tiles.fingerprint

    session = Rewriter(loaded, layer="cells")
    session.copy(seed=1, mask=disc(16, 0.5, 0.5, 0.2))
    session.paste(seed=0, mask=disc(16, 0.5, 0.5, 0.2))
    rule = session.execute()
    assert not torch.equal(loaded.sample([0], rules=[rule]), loaded.sample([0]))

    draft(loaded, [rule], "ada/tiles", pictures=False).save(tmp_path / "published")
    published = load_generator(str(tmp_path / "published"), device="cpu")
    assert torch.equal(published.sample([0]), loaded.sample([0], rules=[rule]))


def test_its_files_are_validated_and_it_is_written_in_no_foreign_layout(tiles, run, tmp_path):
    store.save(tiles, tmp_path / "folder")
    status, _, err = run("convert", tmp_path / "folder", tmp_path / "x.pt", "--layout", "nvidia")
    assert status == 2 and "tiles cannot be written as 'nvidia'" in err
    state = {key: value for key, value in tiles.state_dict().items() if key != "tiles.end.bias"}
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "odd.pt")
    status, _, err = run("sample", "--generator", tmp_path / "odd.pt", "--out", tmp_path / "x.png")
    assert status == 2 and "missing tiles.end.bias" in err and "unexpected more" in err
