"""Files whose tensors do not show how they were trained: the weights' sizes and the pictures raise doubts."""

import json

import pytest
import torch
from conftest import DATA

from rewriter import load_generator
from rewriter.checkpoints.convert import convert
from rewriter.checkpoints.doubts import doubts
from rewriter.errors import InputError
from rewriter.generators.proggan import ProgressiveGAN, ProgressiveGANConfig

BUILT_IN = ("townscape", "townscape-128", "portraits")


def scaled(generator, factor):
    """The same tensors, but those of the mapping network times a factor: what another learning rate leaves behind."""
    state = generator.state_dict()
    return {name: value * factor if name.startswith("mapping.fc") else value for name, value in state.items()}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_trained_generator_raises_no_doubt(name):
    assert doubts(load_generator(name, device="cpu")) == []


@pytest.mark.parametrize(("factor", "rate", "seen"), [(0.01, "1", "all alike"), (100, "0.0001", "brighter than white")])
def test_another_learning_rate_of_the_mapping_network_is_noticed_and_named(town, factor, rate, seen):
    weights, pictures = doubts(convert(scaled(town, factor)))
    assert f"--mapping-rate {rate}" in weights and seen in pictures
    assert doubts(convert(scaled(town, factor), mapping_rate=float(rate))) == []


def test_a_network_without_demodulation_is_noticed(town, monkeypatch):
    memory = type(town.memory("layer4"))
    monkeypatch.setattr(memory, "scale", lambda self, style, energy: style.new_ones(len(style), len(self.weight)))
    (said,) = doubts(convert(town.state_dict()))
    assert "brighter than white" in said and "layers that tensors do not show" in said


def test_latents_that_are_longer_than_the_first_map_is_deep_may_end_with_labels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = (ProgressiveGAN(ProgressiveGANConfig((8, 8, 8, 8), z_dim)) for z_dim in (8, 18))
    assert not any("labels" in each for each in doubts(one))
    assert "as if the last 10 were labels" in doubts(other)[0]


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (torch.full((2, 3, 8, 8), float("nan")), "not numbers"),
        (torch.zeros(2, 3, 8, 8), "show nothing"),
        (torch.linspace(-1, 1, 8).expand(2, 3, 8, 8), "all alike"),
        (torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0)) * 2 - 1, "as in noise"),
    ],
)
def test_pictures_that_no_trained_generator_draws_are_doubted(town, pictures, said):
    assert said in doubts(town, pictures)[0]


def test_commands_tell_their_doubts_and_convert_mends_them(town, run, tmp_path):
    torch.save(scaled(town, 0.01), tmp_path / "rate-1.pt")
    status, out, err = run(
        "sample", "--generator", tmp_path / "rate-1.pt", "--seeds", "0-3", "--out", tmp_path / "x.png"
    )
    assert status == 0 and "careful: " in out and "--mapping-rate 1" in out, err
    status, out, err = run("convert", tmp_path / "rate-1.pt", tmp_path / "town", "--mapping-rate", 1, "--json")
    assert status == 0 and json.loads(out)["remarks"] == [], err
    assert (load_generator(str(tmp_path / "town"), device="cpu").sample([3]) - town.sample([3])).abs().max() < 1e-4


def test_a_rate_is_refused_where_it_is_known_or_impossible(town, tmp_path):
    for name, said in (
        ("townscape", "says itself how"),
        (str(DATA / "gandissect_proggan_32px.pth"), "no mapping network"),
    ):
        with pytest.raises(InputError, match=said):
            load_generator(name, mapping_rate=1)
    torch.save(town.state_dict(), tmp_path / "town.pt")
    with pytest.raises(InputError, match="mapping_rate is 0, expected a number"):
        load_generator(str(tmp_path / "town.pt"), mapping_rate=0)
