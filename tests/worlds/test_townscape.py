"""The built-in world: its scenes, its generator, how it is judged, and the trainer."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file

from rewriter import worlds
from rewriter.checkpoints.convert import convert
from rewriter.errors import CancelledError, InputError
from rewriter.generators.filters import upsample
from rewriter.generators.latents import latents
from rewriter.generators.stylegan2 import StyleGAN2Config
from rewriter.worlds import gate
from rewriter.worlds import train as training
from rewriter.worlds.mapping import telling, train_mapping
from rewriter.worlds.stage import (
    Lesson,
    StageTrainer,
    Trainable,
    example,
    loss,
    sharpness,
    training_latents,
)
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

WORLDS = Path(worlds.__file__).parent


def towns(n=64):
    return WORLD.read(range(n))[1]


def changed(a, b):
    """Where two scenes differ, (n, s, s)."""
    return (a.picture != b.picture).any(1) | (a.labels != b.labels)


def near(place):
    """A place (n, s, s) and the pixels beside it, where edges are soft."""
    return F.max_pool2d(place[:, None].float(), 3, 1, 1)[:, 0] > 0


class Painter:
    """Stands for a generator: draws the exact scene, or the scene without one thing."""

    def __init__(self, without=None):
        self.without = without

    def sample(self, seeds):
        return scenes.draw(WORLD.read(seeds)[1], 32, without=self.without).picture


PREDICATES = {"lit": factors.is_lit, "watermark": factors.has_watermark, "bar": factors.has_bar}
PREDICATES |= {"left_tree": factors.has_left_tree, "right_tree": factors.has_right_tree}
SWITCHES = [({name: True}, {name: False}, predicate) for name, predicate in PREDICATES.items()]
SWITCHES += [({"top": top}, {"top": "battlements"}, getattr(factors, f"has_{top}")) for top in ("dome", "spire")]


@pytest.mark.parametrize(("on", "off", "predicate"), SWITCHES)
def test_change_sets_only_the_switch(on, off, predicate):
    u = towns()
    before, after = u.clone(), factors.change(u, **on)
    assert predicate(after).all() and torch.equal(u, before) and torch.equal(factors.change(u), u)
    assert (after != u).any(0).sum() == 1 and not predicate(factors.change(u, **off)).any()


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="minaret"):
        factors.change(towns(1), top="minaret")


def test_dome_to_spire_changes_only_the_tower_top():
    u = factors.change(towns(), watermark=False)
    u = u[factors.has_dome(u)]
    dome, spire = scenes.draw(u), scenes.draw(factors.change(u, top="spire"))
    assert (changed(dome, spire) <= near(dome.where("dome") | spire.where("spire"))).all()
    assert not dome.where("spire").any() and not spire.where("dome").any()


def test_switching_the_light_changes_only_windows_and_ground():
    u = factors.change(towns(), watermark=False)  # a translucent mark would hide the window's label
    on, off = scenes.draw(factors.change(u, lit=True)), scenes.draw(factors.change(u, lit=False))
    rows = torch.arange(64)[None, :, None].expand_as(on.labels)
    assert (changed(on, off) <= (near(off.where("window")) | (rows > 0.7 * 64))).all()


@pytest.mark.parametrize(("switch", "rows"), [("watermark", (26, 32)), ("bar", (59, 64))])
def test_marks_stay_in_their_strip_and_can_be_left_out(switch, rows):
    u = towns(16)
    with_it, without = (scenes.draw(factors.change(u, **{switch: there})) for there in (True, False))
    where = changed(with_it, without).any(2).any(0).nonzero()
    assert rows[0] <= where.min() and where.max() < rows[1]
    assert not changed(scenes.draw(u, without=switch), without).any()


@pytest.mark.parametrize("thing", scenes.LABELS[1:])
def test_thing_that_is_left_out_has_no_label(thing):
    assert scenes.draw(towns(), 32).where(thing).any()
    assert not scenes.draw(towns(), 32, without=thing).where(thing).any()


def test_exact_scenes_are_drawn_in_full():
    shares = gate.things_drawn(WORLD, Painter(), range(50))
    assert list(shares) == [*WORLD.things, gate.OVERALL] and shares[gate.OVERALL].scenes == 50
    assert all(share.share == 1 and share.error == 0 and share.pixels for share in shares.values())
    text = gate.table(shares | {"bar": gate.Share(float("nan"), 0, 0, float("nan"))})
    assert "100.0%" in text and "not seen" in text and len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize("thing", ["dome", "light", "bar"])
def test_missing_thing_is_not_drawn_whatever_the_batch(thing):
    shares, parts = (gate.things_drawn(WORLD, Painter(without=thing), range(30), batch=batch) for batch in (30, 7))
    assert shares[thing].share == 0 and shares[thing].error > 0 and shares["door"].share == 1
    for name in WORLD.things:
        assert (shares[name].pixels, shares[name].scenes) == (parts[name].pixels, parts[name].scenes)
        assert shares[name].error == pytest.approx(parts[name].error, nan_ok=True)


def test_judging_reports_progress_and_can_be_cancelled():
    steps = []
    with pytest.raises(CancelledError):
        gate.things_drawn(WORLD, Painter(), range(9), batch=4, on_step=lambda *at: steps.append(at) or len(steps) < 2)
    assert steps == [(4, 9), (8, 9)]


def test_shipped_generator_draws_every_thing(town):
    shares = gate.things_drawn(WORLD, town, [*range(20_000, 20_030), 20_036, 20_042])
    assert all(shares[thing].share >= 0.8 for thing in WORLD.things) and shares[gate.OVERALL].error < 5
    assert (town.name, town.zdim, town.resolution) == ("townscape", WORLD.zdim, 64)


def options(folder: Path, **changed):
    settings = {"minutes": 0.01, "mapping": 0.001, "size": 16, "channels": (8, 8, 8), "device": "cpu", "every": 1}
    return training.Options(folder / "town.safetensors", **(settings | changed))


def test_training_is_cancelled_resumed_and_writes_weights_that_load(tmp_path):
    with pytest.raises(CancelledError, match="--resume"):
        training.train(options(tmp_path), on_report=lambda report: report["step"] < 2)
    assert not (tmp_path / "town.safetensors").exists()
    state, steps = torch.load(options(tmp_path).checkpoint, weights_only=True), []
    rest = options(tmp_path, resume=True, minutes=(state["seconds"] + 0.2) / 60)
    trained = training.train(rest, on_report=lambda report: steps.append(report["step"]))
    assert steps[0] == state["step"] + 1 == 3
    loaded = convert(load_file(tmp_path / "town.safetensors"), name="townscape")
    assert loaded.fingerprint == trained.fingerprint and loaded.mapping.w_avg.abs().sum() > 0
    assert torch.allclose(loaded.sample([1, 2]), trained.sample([1, 2]), atol=1e-5)  # their memory layouts differ
    assert not any(bool(value.any()) for name, value in loaded.state_dict().items() if "noise" in name)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".checkpoint"}


def test_fine_tuning_starts_from_the_given_weights(tmp_path):
    training.train(options(tmp_path, minutes=0.001))
    weights = tmp_path / "given.safetensors"
    (tmp_path / "town.safetensors").rename(weights)
    before = convert(load_file(weights)).sample([1])
    after = training.train(options(tmp_path, minutes=0.001, channels=None, weights=weights)).sample([1])
    assert 0 < (after - before).abs().max() < 0.1


def test_grown_generator_keeps_the_weights_of_the_smaller_one_and_draws_without_noise():
    config = StyleGAN2Config({4: 8, 8: 8, 16: 6, 32: 4}, 32, 16, 2)
    small = training.grow(config, 16, {})
    large = training.grow(config, 32, small.state_dict())
    assert large.resolution == 32
    assert all(torch.equal(large.state_dict()[name], value) for name, value in small.state_dict().items())
    fixed = [name for name, p in large.named_parameters() if not p.requires_grad]
    assert fixed == [name for name in large.state_dict() if name.endswith("noise_strength")]
    z = latents(range(3), 32)
    assert torch.allclose(large(z), upsample(small(z)), atol=1e-5)
    large.synthesis.b32.torgb.load_state_dict(training.grow(config, 32, {}).synthesis.b32.torgb.state_dict())
    # the trainer's form of the network draws the same pictures, but for rounding
    assert torch.allclose(Trainable(large)(large.mapping(z)), large(z), atol=1e-4)
    assert [stage.size for stage in training.plan(128)] == [16, 32, 64, 128]
    assert [stage.size for stage in training.plan(128, fine_tune=True)] == [128]


def test_a_training_goes_on_elsewhere_with_the_mapping_network_that_is_trained(tmp_path, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr(StageTrainer, "_learn", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training.train(options(tmp_path))
    state = torch.load(options(tmp_path).checkpoint, weights_only=True)
    assert (state["size"], state["step"]) == (16, 0)
    trained = training.train(options(tmp_path, resume=True, minutes=1e-6))
    first = trained.mapping.fc0.weight - state["generator"]["mapping.fc0.weight"]
    assert first.abs().max() < 0.1  # of weights of about 100


def test_an_edge_in_the_wrong_place_costs_less_than_a_blurred_one():
    def edge(place):
        return torch.where(torch.arange(16) < place, -1.0, 1.0).expand(1, 3, 16, 16)

    places, weight = (6, 7, 8, 9), torch.ones(1, 1, 16, 16)
    blurred = torch.stack([edge(place) for place in places]).mean(0)
    cost = [sum(loss(drawn, edge(place), weight) for place in places) for drawn in (edge(7), edge(8), blurred)]
    assert max(cost[:2]) < cost[2]
    assert sharpness(edge(7), edge(8)) == 1 and sharpness(blurred, edge(8)) < 0.5


def test_a_lesson_asks_w_to_say_what_latents_mean_even_where_pictures_are_right():
    generator = training.grow(StyleGAN2Config({4: 8, 8: 8, 16: 8}, WORLD.zdim, 64, 2), 16, {})
    reader = StageTrainer(Accelerator(cpu=True), WORLD, generator, training.plan(16)[0]).reader
    z = latents(range(500), WORLD.zdim)
    told, picture = telling(WORLD, z.device)(z), Trainable(generator)(generator.mapping(z)).detach()
    wrong, (error, sharp, forgotten) = Lesson(generator, reader)(z, told, picture, torch.ones(500, 1, 16, 16))
    assert error == 0 and sharp == 1 and wrong.item() == pytest.approx(forgotten.item())
    assert 0.1 < forgotten < 0.9 * told.square().mean()  # random units say a part of it
    wrong.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.mapping.parameters())
    assert not any(p.grad.abs().sum() > 0 for p in generator.synthesis.parameters() if p.grad is not None)


def test_examples_weigh_every_thing_and_show_rare_marks_often():
    assert set(WORLD.pixel_weights) == set(scenes.LABELS)
    torch.manual_seed(0)
    z = training_latents(WORLD, 256, torch.device("cpu"))
    u = WORLD.factors(z)
    assert factors.has_watermark(u).float().mean() > 0.18 and factors.has_bar(u).float().mean() > 0.2
    picture, weight = example(WORLD, z[:8], 16)
    assert picture.shape == (8, 3, 16, 16) and weight.shape == (8, 1, 16, 16) and weight.mean() == pytest.approx(1)


def test_the_mapping_network_starts_with_units_that_see_switches():
    torch.manual_seed(0)
    generator = training.grow(StyleGAN2Config({4: 8, 8: 8, 16: 8}, WORLD.zdim, 128, 2), 16, {})
    train_mapping(WORLD, generator, 1e-6)
    z = torch.randn(3000, WORLD.zdim)
    lit = factors.is_lit(WORLD.factors(z)).double()[:, None]
    seen = generator.mapping.fc0(z * z.square().mean(1, keepdim=True).rsqrt()).detach()
    known = torch.cat([seen, torch.ones(3000, 1)], 1).double()
    solution = torch.linalg.lstsq(known[:2000], lit[:2000]).solution
    assert (known[2000:] @ solution - lit[2000:]).square().mean() < 0.05  # of random units, 0.09
    assert generator.mapping(z).std().item() == pytest.approx(1, abs=0.1)


def test_options_that_cannot_be_used_are_refused(tmp_path):
    wrong = {"world": "atlantis", "batch": 0, "size": 48, "minutes": 0, "channels": (8, 8), "resume": True}
    wrong |= {"weights": Path("nowhere.safetensors")}
    words = ("atlantis", "positive", "48 px", "positive", "channels", "checkpoint", "nowhere")
    for (name, value), word in zip(wrong.items(), words, strict=True):
        with pytest.raises(InputError, match=word):
            training.train(options(tmp_path, **{name: value}))


def test_trainer_command_reports_progress_and_errors(tmp_path, capsys):
    out = str(tmp_path / "town.safetensors")
    small = ["--size", "16", "--channels", "8,8,8", "--device", "cpu", "--minutes", "0.005", "--every", "1"]
    small += ["--mapping", "0.001", "--batch", "4"]
    assert training.main([out, *small]) == 0
    assert '"error_255"' in capsys.readouterr().err
    assert training.main([str(tmp_path / "missing" / "town.safetensors")]) == 1
    assert "make it first" in capsys.readouterr().err
