"""Statistics as a job: several layers in one walk, stopped and gone on with, split over processes: same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rewriter.cli import main
from rewriter.editing import measuring
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import BATCH, BLOCK, Block, Recipe, Statistics, plan
from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.memory.keys import SecondMoment, random_places
from rewriter.memory.sites import at_places
from rewriter.worlds import townscape

RECIPE = Recipe(pictures=150, places=5, first_seed=7)  # three blocks, the last of them shorter, its last batch too
TWO = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
LAUNCH = ("-m", "accelerate.commands.launch", *TWO, "--dynamo_backend", "no", "--main_process_port", "0")


def same(a, b):
    return a.count == b.count and torch.equal(a.total, b.total)


def measured(generator, cache, layers=("layer4",), recipe=RECIPE, **options):
    job = measuring.measure(Statistics(generator, cache=cache), dict.fromkeys(layers, recipe), **options)
    return {each.sampling.layer: each.moment for each in job}


def checkpoints(folder):
    return list(folder.rglob("*.partial"))


def run(*arguments, cache, status=0, **options):
    environment = {**os.environ, "REWRITER_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, **options
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def exact(stylegan, tmp_path_factory):
    """What is measured on demand, by layer."""
    statistics = Statistics(stylegan, cache=tmp_path_factory.mktemp("exact"))
    return {layer: statistics.moment(layer, recipe=RECIPE) for layer in stylegan.layers}


# --- blocks ---


def test_blocks_are_all_pictures_in_order():
    assert RECIPE.blocks() == [range(7, 71), range(71, 135), range(135, 157)]
    assert Recipe(pictures=BLOCK).blocks() == [range(BLOCK)]


def test_layers_share_the_walks_over_the_same_pictures():
    walks = plan({"a": Recipe(150, 5), "b": Recipe(100, 9), "c": Recipe(128, 5)}, done={"a": 1})
    assert walks == [
        Block(range(64), {"b": 9, "c": 5}),
        Block(range(64, 100), {"b": 9}),
        Block(range(64, 128), {"a": 5, "c": 5}),
        Block(range(128, 150), {"a": 5}),
    ]


def test_the_moment_is_that_of_the_keys_summed_by_blocks(stylegan, exact):
    total = SecondMoment(len(exact["layer4"].total))
    for seeds in RECIPE.blocks():
        block = SecondMoment(len(total.total))
        for i in range(0, len(seeds), BATCH):
            batch = list(seeds[i : i + BATCH])
            keys = stylegan.keys(batch, "layer4").keys
            block.update(at_places(keys, random_places(batch, RECIPE.places, keys.shape[2] * keys.shape[3])))
        total.merge(block)
    assert same(total, exact["layer4"])


def test_several_layers_in_one_walk_are_each_as_alone(generator, change, tmp_path):
    layers = list(generator.layers)
    rules = [change(generator, layers[1]), change(generator, layers[-1])]
    walked = []
    together = Statistics(generator, cache=tmp_path / "together").moments(
        layers[::-1], rules=rules, recipe=Recipe(20, 5), on_step=lambda *at: walked.append(at)
    )
    assert list(together) == layers[::-1] and walked == [(16, 20), (20, 20)]
    for layer in layers:
        alone = Statistics(generator, cache=tmp_path / "alone")
        assert same(together[layer], alone.moment(layer, rules=rules, recipe=Recipe(20, 5)))


def test_default_recipes_of_several_layers_are_those_of_each(town, tmp_path):
    together = Statistics(town, cache=tmp_path / "together").moments(["layer8", "layer4"])
    assert [moment.count for moment in together.values()] == [256 * 16, 512 * 16]
    assert same(together["layer4"], Statistics(town, cache=tmp_path / "alone").moment("layer4"))


def test_only_what_is_missing_is_measured(stylegan, tmp_path):
    first = Statistics(stylegan, cache=tmp_path)
    first.moment("layer5", recipe=RECIPE)
    walked = []
    both = Statistics(stylegan, cache=tmp_path).moments(
        ["layer5", "layer3"], recipe=RECIPE, on_step=lambda *at: walked.append(at)
    )
    assert walked[-1] == (150, 150) and same(both["layer5"], first.moment("layer5", recipe=RECIPE))
    again = Statistics(stylegan, cache=tmp_path).moments(list(both), recipe=RECIPE, on_step=lambda *_: pytest.fail())
    assert all(same(again[layer], both[layer]) for layer in both)


def test_measuring_on_demand_can_be_stopped(stylegan, tmp_path):
    with pytest.raises(CancelledError, match="layer4"):
        Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=RECIPE, on_step=lambda done, of: done < 20)


def test_a_cached_moment_of_another_kind_is_measured_again(stylegan, exact, tmp_path):
    statistics = Statistics(stylegan, cache=tmp_path)
    sampling = statistics.sampling("layer4", recipe=RECIPE)
    statistics.keep(sampling, exact["layer4"])
    path = statistics.path(sampling)
    wrong = load_file(path)
    wrong["total"] += 1
    for metadata in (None, {"of": "another"}):
        save_file(wrong, path, metadata=metadata)
        assert Statistics(stylegan, cache=tmp_path).stored(sampling) is None


# --- the job ---


def test_the_job_stores_what_is_measured_on_demand(generator, change, tmp_path):
    layers = list(generator.layers)[1:4]
    rules = [change(generator, layers[0])]
    recipe = Recipe(70, 3)
    job = measured(generator, tmp_path / "job", layers, recipe, rules=rules)
    for layer in layers:
        on_demand = Statistics(generator, cache=tmp_path / "demand").moment(layer, rules=rules, recipe=recipe)
        found = Statistics(generator, cache=tmp_path / "job").moment(
            layer, rules=rules, recipe=recipe, on_step=lambda *_: pytest.fail()
        )
        assert same(job[layer], on_demand) and same(found, on_demand)
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("stop", [1, 64, 70, 134])
def test_a_stopped_job_goes_on_to_the_same_bits(stylegan, exact, tmp_path, stop):
    with pytest.raises(CancelledError, match="the same command goes on"):
        measured(stylegan, tmp_path, ("layer4", "layer3"), on_step=lambda done, of: done < stop)
    assert len(checkpoints(tmp_path)) == (0 if stop == 1 else 2)
    walked = []
    rest = measured(stylegan, tmp_path, ("layer4", "layer3"), on_step=lambda *at: walked.append(at))
    assert walked[0] == ((stop // 64) * 64 + 16, 150) and walked[-1] == (150, 150)
    assert all(same(rest[layer], exact[layer]) for layer in rest)
    assert not checkpoints(tmp_path)
    assert measured(stylegan, tmp_path, on_step=lambda *_: pytest.fail())


def test_layers_that_are_not_equally_far_go_on_together(stylegan, exact, tmp_path):
    for layers, stop in ((("layer3",), 128), (("layer4",), 64)):
        with pytest.raises(CancelledError):
            measured(stylegan, tmp_path, layers, on_step=lambda done, of, stop=stop: done < stop)
    rest = measured(stylegan, tmp_path, ("layer5", "layer4", "layer3"))
    assert all(same(rest[layer], exact[layer]) for layer in ("layer5", "layer4", "layer3"))


def test_a_killed_job_goes_on_to_the_same_bits(town, tmp_path):
    code = (
        "import os, signal; from rewriter import stats, townscape; from rewriter.editing.statistics import *\n"
        "kill = lambda done, of: os.kill(os.getpid(), signal.SIGKILL) if done > 64 else None\n"
        "measuring.measure(Statistics(townscape.load()), {'layer4': Recipe(150, 5, 7)}, on_step=kill, every=0)"
    )
    run("-c", code, cache=tmp_path, status=-9)
    assert len(checkpoints(tmp_path)) == 1
    steps = []
    rest = measured(town, tmp_path, on_step=lambda done, of: steps.append(done))
    assert steps[0] == 80 and not checkpoints(tmp_path)
    assert same(rest["layer4"], measured(town, tmp_path / "other")["layer4"])


def test_a_damaged_or_foreign_checkpoint_is_ignored(stylegan, exact, tmp_path):
    def stopped():
        with pytest.raises(CancelledError):
            measured(stylegan, tmp_path, on_step=lambda done, of: done < 64)
        (path,) = checkpoints(tmp_path)
        return path

    path = stopped()
    whole = path.read_bytes()
    elsewhere = tmp_path / "another"
    with pytest.raises(CancelledError):
        measured(stylegan, elsewhere, recipe=Recipe(151, 5, 7), on_step=lambda done, of: done < 64)
    foreign = checkpoints(elsewhere)[0].read_bytes()
    checkpoints(elsewhere)[0].unlink()
    tensors = load_file(path)
    own = Statistics(stylegan, cache=tmp_path)
    odd = SecondMoment(len(tensors["total"]))
    odd.total, odd.count = tensors["total"] + 1, 5 * 65  # not a whole block
    sampling = own.sampling("layer4", recipe=RECIPE)
    own.write(tmp_path / "odd", sampling, odd)
    odd.count = 5 * 150  # all of it: such a moment is no checkpoint
    own.write(tmp_path / "all", sampling, odd)
    not_whole = [(tmp_path / name).read_bytes() for name in ("odd", "all")]
    for damage in (b"", whole[:50], whole[:-8], whole[:-8] + b"\xff" * 8, foreign, *not_whole):
        path.write_bytes(damage)
        assert same(measured(stylegan, tmp_path)["layer4"], exact["layer4"])
        assert not checkpoints(tmp_path)
        path.write_bytes(whole)  # left over from a job that something else has overtaken
        assert same(measured(stylegan, tmp_path)["layer4"], exact["layer4"])
        assert not checkpoints(tmp_path)
        own.path(sampling).unlink()


def test_features_that_are_not_finite_are_said_and_what_was_measured_is_kept(stylegan, change, tmp_path):
    broken = change(stylegan, "layer3")
    broken.delta.view(-1)[0] = float("nan")
    with pytest.raises(ComputationError, match="not finite"):
        measured(stylegan, tmp_path, rules=[broken])
    assert not list(tmp_path.rglob("*.*"))


def test_a_place_that_cannot_be_written_is_said_before_the_work(stylegan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        measured(stylegan, tmp_path / "file", on_step=lambda *_: pytest.fail())


def test_condition_and_effective_dimensions_are_those_of_the_eigenvalues():
    moment = SecondMoment(3)
    moment.update(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
    condition, dimensions = measuring.spread(moment)
    assert condition == pytest.approx(16) and dimensions == pytest.approx(21**2 / (16**2 + 4**2 + 1))
    flat = SecondMoment(3)
    flat.update(torch.tensor([[1.0, 1.0, 0.0]]))
    assert measuring.spread(flat) == (None, pytest.approx(1))
    nothing = SecondMoment(3)
    nothing.update(torch.zeros(2, 3))
    assert measuring.spread(nothing) == (None, 0)


# --- several processes ---


def test_two_processes_agree_with_one_and_stop_together(stylegan, tmp_path):
    """One of them asks to stop: both do; both go on, and what the main one stores has the bits of one process."""
    script = tmp_path / "job.py"
    script.write_text(
        "import torch; from rewriter import stats, townscape; from rewriter.errors import CancelledError\n"
        "from rewriter.editing.statistics import Recipe, Statistics\n"
        "state, own = measuring.processes('cpu'), Statistics(townscape.load())\n"
        "job = {'layer4': Recipe(300, 5, 7), 'layer8': Recipe(150, 3, 7)}\n"
        "try:\n"
        "    measuring.measure(own, job, on_step=lambda done, of: done < 128 or not state.process_index)\n"
        "except CancelledError as error:\n"
        "    print(f'{state.process_index} of {state.num_processes}: {error}\\n', end='', flush=True)\n"
        "steps = []\n"
        "moments = measuring.measure(own, job, on_step=lambda done, of: steps.append(done))\n"
        "totals = [float(each.moment.total.sum()) for each in moments]\n"
        "print(f'{state.process_index} went on from {steps[0]}: {totals}\\n', end='', flush=True)\n"
    )
    said = run(*LAUNCH, script, cache=tmp_path / "two", cwd=Path(townscape.__file__).parents[2]).stdout
    assert [f"{i} of 2: stopped after 128 of" in said for i in range(2)] == [True, True], said
    town = townscape.load()
    for layer, recipe in {"layer4": Recipe(300, 5, 7), "layer8": Recipe(150, 3, 7)}.items():
        one = Statistics(town, cache=tmp_path / "one").moment(layer, recipe=recipe)
        two = Statistics(town, cache=tmp_path / "two").moment(layer, recipe=recipe, on_step=lambda *_: pytest.fail())
        assert same(one, two)
        assert said.count(str(float(one.total.sum()))) == 2
    assert not checkpoints(tmp_path)


# --- the command ---


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rewriter", "stats", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_without_a_number_the_command_measures_what_an_edit_uses(town, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    assert command(monkeypatch, "--layer", "layer8", "--layer", "layer4", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["layers"]
    assert (first["layer"], first["pictures"], first["keys"], first["keys_per_channel"]) == ("layer8", 256, 4096, 64)
    assert first["condition"] > 1 and 1 <= first["dimensions"] <= 64 and first["seconds"] > 0
    assert Path(first["path"]).is_file() and second["channels"] == 128
    found = Statistics(town).moment("layer8", on_step=lambda *_: pytest.fail())
    assert found.count == 4096
    assert command(monkeypatch, "--layer", "layer8") == 0
    said = capsys.readouterr().out
    assert "measured before" in said and "hint" not in said and first["path"] in said


def test_few_keys_are_hinted_at_and_rules_count(town, change, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    few = ("--layer", "layer4", "--pictures", 20, "--places", 4, "--first-seed", 9, "--truncation", 0.5)
    rule = Rule(**vars(change(town, "layer3")), fingerprint=town.fingerprint)
    rule.save(tmp_path / "rule.safetensors")
    totals = []
    for options, rules in (((), ()), (("--rule", tmp_path / "rule.safetensors"), (rule,))):
        assert command(monkeypatch, *few, *options) == 0
        said = capsys.readouterr().out
        assert "80 keys of 20 pictures, 0.625 per channel" in said and "--pictures 320 or more" in said
        own = Statistics(town, truncation=0.5)
        moment = own.moment("layer4", rules=rules, recipe=Recipe(20, 4, 9), on_step=lambda *_: pytest.fail())
        totals.append(moment.total)
    assert not torch.equal(*totals)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--all-layers"),
        (("--layer", "layer4", "--all-layers"), "--all-layers"),
        (("--layer", "layer99"), "layer10"),
        (("--layer", "layer4", "--pictures", "0"), "1 to 50,000"),
        (("--layer", "layer4", "--places", "0"), "1 to 4,096"),
        (("--layer", "layer4", "--first-seed", "-1"), "first seed 0"),
        (("--layer", "layer4", "--truncation", "nan"), "truncation"),
        (("--layer", "layer4", "--rule", "nothing.safetensors"), "nothing.safetensors"),
        (("--layer", "layer4", "--generator", "nowhere"), "townscape"),
        (("--layer", "layer4", "--device", "foo"), "device"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.count("\n") == 1


@pytest.mark.slow
def test_the_command_in_two_processes_speaks_once(tmp_path, monkeypatch, capsys):
    arguments = ("--layer", "layer8", "--layer", "layer4", "--pictures", "150", "--json")
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "one"))
    assert command(monkeypatch, *arguments) == 0
    root = Path(townscape.__file__).parents[2]
    two = run(*LAUNCH, "-m", "rewriter", "stats", *arguments, cache=tmp_path / "two", cwd=root).stdout
    reports = [json.loads(text)["layers"] for text in (capsys.readouterr().out, two)]
    for a, b in zip(*reports, strict=True):
        paths = a.pop("path"), b.pop("path")
        assert paths[0] != paths[1] and Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()
        assert a | {"seconds": 0} == b | {"seconds": 0}
