"""On a CUDA device: the same pictures and the same rules as on the CPU. Run with `pytest -m gpu`."""

import pytest
import torch

from rewriter import load_generator, replay, worlds
from rewriter.checkpoints.convert import rewrite_as
from rewriter.checkpoints.store import write_weights
from rewriter.editing.edit import Edit
from rewriter.evaluation.benchmark import random_config_f

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def pair():
    return load_generator("townscape", device="cpu"), load_generator("townscape", device="cuda")


def test_pictures_agree_with_the_cpu(pair):
    cpu, cuda = (generator.sample(range(16)).cpu() for generator in pair)
    assert (cpu - cuda).abs().max() < 1e-4


def test_a_picture_is_the_same_alone_and_in_a_batch(pair):
    batch = pair[1].sample(range(16))
    assert all((pair[1].sample([i])[0] - batch[i]).abs().max() < 1e-5 for i in range(16))


def test_full_precision_does_not_depend_on_the_callers_settings(pair):
    before = pair[1].sample(range(4))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert torch.equal(pair[1].sample(range(4)), before)
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def test_an_edit_makes_the_same_rule(pair):
    edit = Edit.load(worlds.examples("townscape")["dome-to-spire"])
    cpu, cuda = (replay(generator, edit) for generator in pair)
    pictures = [g.sample(range(8), rules=[rule]).cpu() for g, rule in zip(pair, (cpu, cuda), strict=True)]
    assert (pictures[0] - pictures[1]).abs().mean() < 1e-2
    assert abs(cpu.effect.goal_error_removed - cuda.effect.goal_error_removed) < 0.01


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_file_is_loaded_to_the_device(tmp_path, form):
    generator, path = random_config_f(256), tmp_path / f"model.{form}"
    if form == "pt":
        torch.save({"g_ema": rewrite_as(generator, "nvidia")}, path)
    else:
        write_weights(generator, path)
    there = load_generator(str(path), device="cuda")
    assert {value.device.type for value in there.state_dict().values()} == {"cuda"}
    assert there.fingerprint == generator.fingerprint
    assert (there.sample([0]).cpu() - generator.sample([0])).abs().max() < 1e-3


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_close_and_only_where_it_is_asked_for(pair, precision):
    full = pair[1].sample(range(16))
    with torch.autocast("cuda", precision):
        reduced = pair[1].sample(range(16))
    assert (reduced.float() - full).abs().mean() * 127.5 < 2
    assert torch.equal(pair[1].sample(range(16)), full)
