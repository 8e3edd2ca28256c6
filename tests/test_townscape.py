"""The built-in world: its scenes, its generator, the gate and the trainer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rewriter.checkpoints.convert import convert
from rewriter.errors import CancelledError, InputError
from rewriter.generators.latents import latents
from rewriter.generators.stylegan2 import StyleGAN2Config
from rewriter.worlds import townscape
from rewriter.worlds.townscape import gate, scenes
from rewriter.worlds.townscape import train as training
from rewriter.worlds.townscape.lesson import LOUDNESS, Student, example, latents_for_training
from rewriter.worlds.townscape.scenes import Factor


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Pictures are small: on a busy machine threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def towns(n=64):
    return scenes.factors(latents(range(n), scenes.LATENT_DIM))


def label(name):
    return scenes.LABELS.index(name)


def changed(a, b):
    """Where two scenes differ, (n, s, s)."""
    return (a.picture != b.picture).any(1) | (a.labels != b.labels)


class Painter:
    """Stands for a generator: draws the exact scene, or the scene without one thing."""

    def __init__(self, without=None):
        self.without = without

    def sample(self, seeds):
        u = scenes.factors(latents(seeds, scenes.LATENT_DIM))
        return scenes.draw(u, 32, without=self.without).picture


# --- factors ---


def test_factors_are_uniform():
    u = towns(5000)
    grid = torch.linspace(0.05, 0.95, 19)
    reached = (u[:, :, None] < grid).float().mean(0)
    assert u.min() >= 0 and u.max() <= 1
    assert (reached - grid).abs().max() < 0.03


def test_each_factor_has_one_column():
    assert [int(f) for f in Factor] == list(range(scenes.NUM_FACTORS))


@pytest.mark.parametrize("shape", [(32,), (3, 31)])
def test_latents_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match="latents"):
        scenes.factors(torch.zeros(shape))


@pytest.mark.parametrize(
    ("switch", "predicate"),
    [
        ({"top": "dome"}, scenes.has_dome),
        ({"top": "spire"}, scenes.has_spire),
        ({"lit": True}, scenes.is_lit),
        ({"watermark": True}, scenes.has_watermark),
        ({"bar": True}, scenes.has_bar),
    ],
)
def test_change_sets_the_switch_and_nothing_else(switch, predicate):
    u = towns()
    before = u.clone()
    after = scenes.change(u, **switch)
    assert predicate(after).all()
    assert torch.equal(u, before)
    assert (after != u).any(0).sum() == 1
    off = {"top": "battlements"} if "top" in switch else {key: False for key in switch}
    assert not predicate(scenes.change(u, **off)).any()


def test_change_of_nothing_is_the_identity():
    assert torch.equal(scenes.change(towns()), towns())


def test_an_unknown_top_is_refused():
    with pytest.raises(InputError, match="minaret"):
        scenes.change(towns(1), top="minaret")


# --- scenes ---


def test_draw_is_in_range_and_labelled():
    picture, labels = scenes.draw(towns(), 32)
    assert picture.shape == (64, 3, 32, 32) and labels.shape == (64, 32, 32)
    assert picture.min() >= -1 and picture.max() <= 1
    assert set(labels.unique().tolist()) == set(range(len(scenes.LABELS)))


def test_a_scene_does_not_depend_on_its_batch():
    u = towns(9)
    together = scenes.draw(u, 32)
    alone = [scenes.draw(u[i : i + 1], 32) for i in range(9)]
    assert torch.equal(together.picture, torch.cat([scene.picture for scene in alone]))
    assert torch.equal(together.labels, torch.cat([scene.labels for scene in alone]))


def test_dome_to_spire_changes_the_tower_top_only():
    u = scenes.change(towns(), watermark=False)
    u = u[scenes.has_dome(u)]
    dome, spire = scenes.draw(u), scenes.draw(scenes.change(u, top="spire"))
    tops = (dome.labels == label("dome")) | (spire.labels == label("spire"))
    near = torch.nn.functional.max_pool2d(tops[:, None].float(), 3, 1, 1)[:, 0] > 0  # soft edges are not labelled
    assert (changed(dome, spire) <= near).all()
    assert not (dome.labels == label("spire")).any() and not (spire.labels == label("dome")).any()


def test_switching_the_light_changes_windows_and_ground_only():
    u = scenes.change(towns(), watermark=False)  # a translucent mark would hide the window's label
    on, off = scenes.draw(scenes.change(u, lit=True)), scenes.draw(scenes.change(u, lit=False))
    rows = torch.arange(64)[None, :, None].expand_as(on.labels)
    windows = torch.nn.functional.max_pool2d((off.labels == label("window")).float()[:, None], 3, 1, 1)[:, 0] > 0
    assert (changed(on, off) <= (windows | (rows > 0.7 * 64))).all()


@pytest.mark.parametrize(("switch", "rows"), [("watermark", (26, 32)), ("bar", (59, 64))])
def test_marks_stay_in_their_strip(switch, rows):
    u = towns(16)
    a, b = (scenes.draw(scenes.change(u, **{switch: there})) for there in (True, False))
    where = changed(a, b).any(2).any(0).nonzero()
    assert rows[0] <= where.min() and where.max() < rows[1]


@pytest.mark.parametrize("thing", scenes.LABELS[1:])
def test_without_leaves_nothing_of_a_thing(thing):
    u = towns()
    assert (scenes.draw(u, 32).labels == label(thing)).any()
    assert not (scenes.draw(u, 32, without=thing).labels == label(thing)).any()


@pytest.mark.parametrize(("thing", "off"), [("watermark", {"watermark": False}), ("bar", {"bar": False})])
def test_without_a_mark_is_the_unmarked_scene(thing, off):
    u = towns()
    a, b = scenes.draw(u, 32, without=thing), scenes.draw(scenes.change(u, **off), 32)
    assert not changed(a, b).any()


@pytest.mark.parametrize("thing", ["sky", "dragon"])
def test_only_what_is_painted_can_be_left_out(thing):
    with pytest.raises(InputError, match=thing):
        scenes.draw(towns(1), without=thing)


# --- the gate ---


def test_the_exact_scene_passes_the_gate_in_full():
    shares = gate.things_drawn(Painter(), range(100))
    assert list(shares) == [*gate.THINGS, gate.OVERALL]
    assert all(share.share == 1 and share.error == 0 and share.pixels for share in shares.values())
    assert shares[gate.OVERALL].scenes == 100


@pytest.mark.parametrize("thing", ["dome", "light", "bar"])
def test_a_scene_without_a_thing_fails_for_that_thing(thing):
    shares = gate.things_drawn(Painter(without=thing), range(60))
    assert shares[thing].share == 0 and shares[thing].error > 0
    assert shares["door"].share == 1


def test_the_gate_does_not_depend_on_its_batch():
    whole, parts = (gate.things_drawn(Painter("spire"), range(30), batch=batch) for batch in (30, 7))
    for thing in gate.THINGS:
        assert whole[thing].pixels == parts[thing].pixels and whole[thing].scenes == parts[thing].scenes
        assert whole[thing].error == pytest.approx(parts[thing].error, nan_ok=True)


def test_the_gate_reports_and_stops():
    steps = []
    with pytest.raises(CancelledError):
        gate.things_drawn(Painter(), range(9), batch=4, on_step=lambda *at: steps.append(at) or len(steps) < 2)
    assert steps == [(4, 9), (8, 9)]


def test_the_table_names_what_was_not_seen():
    shares = {"dome": gate.Share(0.957, 1234, 56, 8.75), "bar": gate.Share(float("nan"), 0, 0, float("nan"))}
    text = gate.table(shares)
    assert "95.7%" in text and "1,234" in text and "not seen" in text
    assert len({len(line) for line in text.splitlines()}) == 1


# --- the shipped generator ---


@pytest.fixture(scope="module")
def shares():
    return gate.things_drawn(townscape.load(), range(20_000, 20_150))


@pytest.mark.parametrize("thing", gate.THINGS)
def test_the_shipped_generator_draws_every_thing(shares, thing):
    assert shares[thing].share >= 0.8


def test_the_shipped_generator_is_close_to_the_scenes(shares):
    assert shares[gate.OVERALL].error < 5


def test_the_shipped_generator_is_ours():
    generator = townscape.load()
    assert (generator.name, generator.zdim, generator.resolution) == ("townscape", scenes.LATENT_DIM, 64)


# --- the trainer ---


def course(folder: Path, **options):
    settings = {"minutes": 0.02, "size": 16, "channels": (8, 8, 8), "device": "cpu", "every": 1}
    return training.Course(folder / "town.safetensors", **(settings | options))


def test_training_stops_resumes_and_writes_weights_that_load(tmp_path):
    with pytest.raises(CancelledError, match="--resume"):
        training.train(course(tmp_path), on_step=lambda report: report["step"] < 2)
    assert not (tmp_path / "town.safetensors").exists()
    learned = torch.load(course(tmp_path).checkpoint, weights_only=True)

    steps = []
    rest = course(tmp_path, resume=True, minutes=(learned["seconds"] + 0.3) / 60)
    trained = training.train(rest, on_step=lambda report: steps.append(report["step"]))
    assert steps[0] == learned["step"] + 1 == 3

    loaded = convert(load_file(tmp_path / "town.safetensors"), name="townscape")
    assert loaded.fingerprint == trained.fingerprint
    assert torch.allclose(loaded.sample([1, 2]), trained.sample([1, 2]), atol=1e-5)  # their memory layouts differ
    assert loaded.mapping.w_avg.abs().sum() > 0
    assert not any(bool(value.any()) for name, value in loaded.state_dict().items() if "noise" in name)
    assert not list(tmp_path.glob("*.tmp"))


def test_fine_tuning_starts_from_the_given_weights(tmp_path):
    training.train(course(tmp_path, minutes=0.001))
    weights = tmp_path / "given.safetensors"
    (tmp_path / "town.safetensors").rename(weights)
    before = convert(load_file(weights)).sample([1])
    after = training.train(course(tmp_path, minutes=0.001, channels=None, weights=weights)).sample([1])
    assert 0 < (after - before).abs().max() < 0.1


def test_a_grown_generator_keeps_the_weights_of_the_smaller():
    config = StyleGAN2Config({4: 8, 8: 8, 16: 6, 32: 4}, 32, 16, 2)
    small = training.grow(config, 16, {})
    large = training.grow(config, 32, small.state_dict())
    assert large.resolution == 32
    for name, value in small.state_dict().items():
        assert torch.equal(large.state_dict()[name], value)
    assert [name for name, p in large.named_parameters() if not p.requires_grad] == [
        name for name in large.state_dict() if name.endswith("noise_strength")
    ]


def test_the_student_draws_what_the_generator_draws():
    generator = training.grow(StyleGAN2Config({4: 8, 8: 8, 16: 6}, 32, 16, 2), 16, {})
    z = latents(range(3), 32)
    assert torch.equal(Student(generator)(z), generator(z))


def test_plans_end_at_the_size_asked_for():
    assert [stage.size for stage in training.plan(128)] == [16, 32, 64, 128]
    assert [stage.size for stage in training.plan(128, fine_tune=True)] == [128]
    assert all(training.plan(size)[-1].rate_to == 1e-5 for size in training.SIZES)


def test_examples_weigh_every_thing_and_show_rare_marks_often():
    assert set(LOUDNESS) == set(scenes.LABELS)
    torch.manual_seed(0)
    z = latents_for_training(256, torch.device("cpu"))
    u = scenes.factors(z)
    assert scenes.has_watermark(u).float().mean() > 0.18 and scenes.has_bar(u).float().mean() > 0.2
    picture, weight = example(z[:8], 16)
    assert picture.shape == (8, 3, 16, 16) and weight.shape == (8, 1, 16, 16)
    assert weight.mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 48}, "48 px"),
        ({"minutes": 0}, "positive"),
        ({"channels": (8, 8)}, "channels"),
        ({"resume": True}, "checkpoint"),
        ({"channels": None, "weights": Path("nowhere.safetensors")}, "nowhere"),
    ],
)
def test_a_course_that_cannot_be_run_says_why(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        training.train(course(tmp_path, **options))


def test_the_command_line_reports_and_fails_in_words(tmp_path, capsys):
    out = str(tmp_path / "town.safetensors")
    small = ["--size", "16", "--channels", "8,8,8", "--device", "cpu", "--minutes", "0.01", "--every", "1"]
    assert training.main([out, *small]) == 0
    assert '"error_255"' in capsys.readouterr().err
    assert training.main([str(tmp_path / "missing" / "town.safetensors")]) == 1
    assert "make it first" in capsys.readouterr().err
