"""Statistics of layers: measured once, on demand or ahead, by one process or several, with the same bits."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import DATA, flipped
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rewriter
from rewriter.editing import precompute
from rewriter.editing.recipe import BATCH, BLOCK
from rewriter.editing.statistics import Block, Recipe, Statistics, plan
from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.memory.second_moment import SecondMoment, random_places
from rewriter.memory.sites import at_places

RECIPE = Recipe(pictures=150, places=5, first_seed=7)  # three blocks, the last of them shorter, its last batch too
CHECKOUT = Path(rewriter.__file__).parents[1]
TWO = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
LAUNCH = ("-m", "accelerate.commands.launch", *TWO, "--dynamo_backend", "no", "--main_process_port", "0")


def same(a, b):
    return a.count == b.count and torch.equal(a.total, b.total)


def unexpected(*_):
    pytest.fail("this was measured before")


def measured(generator, cache, layers=("layer4",), recipe=RECIPE, **options):
    job = precompute.measure(Statistics(generator, cache=cache), dict.fromkeys(layers, recipe), **options)
    return {each.sampling.layer: each.moment for each in job}


def python(*arguments, cache, status=0):
    environment = {**os.environ, "REWRITER_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exact(stylegan, tmp_path_factory):
    """The moments measured on demand, by layer."""
    return Statistics(stylegan, cache=tmp_path_factory.mktemp("exact")).moments(list(stylegan.layers), recipe=RECIPE)


def test_the_blocks_of_a_recipe_are_all_pictures_in_order():
    assert RECIPE.blocks() == [range(7, 71), range(71, 135), range(135, 157)]
    assert Recipe(pictures=BLOCK).blocks() == [range(BLOCK)]


def test_layers_share_the_walks_over_the_same_pictures():
    walks = plan({"a": Recipe(150, 5), "b": Recipe(100, 9), "c": Recipe(128, 5)})
    assert walks == [
        Block(range(64), {"a": 5, "b": 9, "c": 5}),
        Block(range(64, 100), {"b": 9}),
        Block(range(64, 128), {"a": 5, "c": 5}),
        Block(range(128, 150), {"a": 5}),
    ]


def test_the_moment_is_that_of_the_keys_summed_block_by_block(stylegan, exact):
    total = SecondMoment(len(exact["layer4"].total))
    for seeds in RECIPE.blocks():
        block = SecondMoment(len(total.total))
        for i in range(0, len(seeds), BATCH):
            batch = list(seeds[i : i + BATCH])
            keys = stylegan.keys(batch, "layer4").keys
            block.update(at_places(keys, random_places(batch, RECIPE.places, keys.shape[2] * keys.shape[3])))
        total.merge(block)
    assert same(total, exact["layer4"])


def test_several_layers_measured_in_one_walk_are_each_as_measured_alone(generator, change, tmp_path):
    layers = list(generator.layers)[:5]
    rules = [change(generator, layers[1]), change(generator, layers[-1])]
    walked = []
    together = Statistics(generator, cache=tmp_path / "together").moments(
        layers[::-1], rules=rules, recipe=Recipe(20, 5), on_step=lambda *at: walked.append(at)
    )
    assert list(together) == layers[::-1] and walked == [(16, 20), (20, 20)]
    alone = Statistics(generator, cache=tmp_path / "alone")
    assert all(same(together[layer], alone.moment(layer, rules=rules, recipe=Recipe(20, 5))) for layer in layers)


def test_default_recipe_takes_64_keys_a_channel_and_at_least_128_pictures():
    assert [Recipe.for_channels(n).pictures for n in (8, 32, 64, 512)] == [128, 128, 256, 2048]
    assert Recipe.for_channels(512).keys == 64 * 512


@pytest.mark.parametrize("numbers", [(0,), (50_001,), (3, 0), (3, 5000), (3, 3, -1), (3, 3, 50_001)])
def test_a_recipe_out_of_range_is_refused(numbers):
    with pytest.raises(InputError, match="out of range"):
        Recipe(*numbers)


def test_only_what_is_missing_is_measured_and_the_rest_is_read_back_to_the_bit(stylegan, exact, tmp_path):
    first = Statistics(stylegan, cache=tmp_path).moment("layer5", recipe=RECIPE)
    walked = []
    both = Statistics(stylegan, cache=tmp_path).moments(
        ["layer5", "layer3"], recipe=RECIPE, on_step=lambda *at: walked.append(at)
    )
    assert walked[-1] == (150, 150) and same(both["layer5"], first) and same(first, exact["layer5"])
    again = Statistics(stylegan, cache=tmp_path).moments(list(both), recipe=RECIPE, on_step=unexpected)
    assert all(same(again[layer], both[layer]) for layer in both)


def test_measuring_on_demand_can_be_cancelled(stylegan, tmp_path):
    with pytest.raises(CancelledError, match="step 32 of 150"):
        Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=RECIPE, on_step=lambda done, of: done < 20)


def test_everything_that_a_moment_depends_on_gives_another_moment(stylegan, proggan, change, tmp_path):
    def moment(generator=stylegan, layer="layer4", recipe=None, **options):
        return Statistics(generator, cache=tmp_path).moment(layer, recipe=recipe or Recipe(4), **options)

    differences = [{}, {"truncation": 0.5}, {"layer": "layer5"}, {"generator": proggan}]
    differences += [{"recipe": Recipe(4, 15)}, {"recipe": Recipe(4, first_seed=1)}]
    differences += [{"rules": [change(stylegan, "layer3", seed=seed)]} for seed in (0, 1)]
    moments = [moment(**difference) for difference in differences]
    assert len({tuple(m.total.flatten().tolist()) for m in moments}) == len(moments)
    later = moment(rules=[change(stylegan, "layer4"), change(stylegan, "layer5")])
    assert same(later, moments[0])  # rules at the layer itself, or later ones, do not count


def test_a_damaged_or_mislabelled_cache_is_measured_again(stylegan, tmp_path):
    recipe = Recipe(pictures=4)
    exact = Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe)
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    damaged = [b"", whole[:100], whole[:-8], whole[:-8] + b"\xff" * 8]
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    damaged.append(path.read_bytes())
    path.write_bytes(whole)
    for metadata in (None, {"of": "another"}):
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata=metadata)
        damaged.append(path.read_bytes())
    for damage in damaged:
        path.write_bytes(damage)
        assert same(Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe), exact)


@pytest.mark.parametrize("around", [False, True])
def test_a_flipped_bit_in_a_stored_moment_is_noticed_or_changes_nothing(stylegan, tmp_path, around):
    recipe = Recipe(pictures=4)

    def stored():
        own = Statistics(stylegan, cache=tmp_path)
        sampling = replace(own.sampling("layer4", recipe=recipe), of="neighbourhoods" if around else "")
        return own._fill(sampling, own._around("layer4").moment(32) if around else SecondMoment(32))

    measuring = Statistics(stylegan, cache=tmp_path)
    measure = measuring.neighbourhoods if around else measuring.moment
    exact = measure("layer4", recipe=recipe)
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    header, noticed = 8 + int.from_bytes(whole[:8], "little"), 0
    for damage in (*flipped(whole, 150), *flipped(whole, 150, header)):
        path.write_bytes(damage)
        if (found := stored()) is None:
            noticed += 1
        else:
            assert all(torch.equal(total, exact.sums()[name]) for name, total in found.sums().items())
    assert noticed >= 150 + 150 // 2  # what is harmless lies in the blanks that end the header


def test_a_moment_without_a_checksum_is_measured_again_and_gets_one(stylegan, tmp_path):
    recipe = Recipe(pictures=4)
    exact = Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe)
    (path,) = tmp_path.rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        label = file.metadata()
    whole = path.read_bytes()
    save_file(load_file(path), path, metadata={"of": label["of"]})
    assert same(Statistics(stylegan, cache=tmp_path).moment("layer4", recipe=recipe), exact)
    assert path.read_bytes() == whole and len(label["sha256"]) == 64


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(stylegan, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert Statistics(stylegan, cache=blocked).moment("layer4", recipe=Recipe(pictures=2)).count == 32
    assert blocked.read_text() == "in the way"


def test_bystanders_are_the_answers_of_the_layer_under_its_rules(stylegan, change):
    rule, statistics = change(stylegan, "layer4"), Statistics(stylegan)
    for rules in ([], [rule]):
        others, mean_square = statistics.bystanders("layer4", rules=rules)
        memory = stylegan.rewritten(rules).memory("layer4")
        exact = at_places(memory.response(others.features.keys, memory.weight), others.places)
        assert torch.allclose(others.base, exact, atol=1e-4)
        assert mean_square.shape == (32,) and (mean_square > 0).all()
    halfway = statistics.bystanders("layer4", truncation=0.5)[0]
    assert not torch.equal(halfway.features.keys, others.features.keys)


def test_the_job_stores_what_is_found_on_demand(generator, change, tmp_path):
    layers, recipe = list(generator.layers)[1:4], Recipe(70, 3)
    options = {"rules": [change(generator, layers[0])], "truncation": 1.0 if generator.name == "proggan" else 0.7}
    job = measured(generator, tmp_path / "job", layers, recipe, **options)
    demanded = Statistics(generator, cache=tmp_path / "demand").moments(layers, recipe=recipe, **options)
    stored = Statistics(generator, cache=tmp_path / "job")
    found = stored.moments(layers, recipe=recipe, on_step=unexpected, **options)
    assert all(same(job[layer], demanded[layer]) and same(found[layer], demanded[layer]) for layer in layers)


def test_a_cancelled_job_keeps_complete_layers_and_measures_the_others_next_time(stylegan, exact, tmp_path):
    job, own = {"layer4": RECIPE, "layer3": Recipe(64, 5, 7)}, Statistics(stylegan, cache=tmp_path)
    with pytest.raises(CancelledError, match="stopped after 112 of 150 .*layers are stored"):
        precompute.measure(own, job, on_step=lambda done, of: done < 100)
    assert [path.name[:6] for path in tmp_path.rglob("*.*")] == ["layer3"]
    walked = []
    first, second = precompute.measure(own, job, on_step=lambda *at: walked.append(at))
    assert (walked[0], walked[-1]) == ((16, 150), (150, 150)) and same(first.moment, exact["layer4"])
    assert first.seconds > 0 and second.seconds == 0
    assert precompute.measure(own, job, on_step=unexpected)


def test_features_that_are_not_finite_are_reported_and_nothing_is_stored(stylegan, change, tmp_path):
    broken = change(stylegan, "layer3")
    broken.delta.view(-1)[0] = float("nan")
    with pytest.raises(ComputationError, match="not finite"):
        measured(stylegan, tmp_path, rules=[broken])
    assert not list(tmp_path.rglob("*.*"))


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(stylegan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        measured(stylegan, tmp_path / "file", on_step=unexpected)


@pytest.mark.parametrize(
    ("keys", "condition", "dimensions"),
    [
        (torch.diag(torch.tensor([4.0, 2.0, 1.0])), 16, 21**2 / (16**2 + 4**2 + 1)),
        (torch.tensor([[1.0, 1.0, 0.0]]), None, 1),
        (torch.zeros(2, 3), None, 0),
    ],
)
def test_condition_and_effective_dimensions_are_those_of_the_eigenvalues(keys, condition, dimensions):
    moment = SecondMoment(3)
    moment.update(keys)
    found = precompute.spread(moment)
    assert found == (pytest.approx(condition) if condition else None, pytest.approx(dimensions))


@pytest.mark.slow
def test_two_processes_agree_with_one_and_stop_together(town, tmp_path):
    """One cancels and both stop; both measure the rest, and the stored result has the bits of a single process."""
    script = tmp_path / "job.py"
    script.write_text(
        "from rewriter.editing import precompute; from rewriter.worlds import townscape\n"
        "from rewriter.editing.statistics import Recipe, Statistics; from rewriter.errors import CancelledError\n"
        "state, own = precompute.processes('cpu'), Statistics(worlds.load())\n"
        "job = {'layer4': Recipe(300, 5, 7), 'layer8': Recipe(100, 3, 7)}\n"
        "try:\n"
        "    precompute.measure(own, job, on_step=lambda done, of: done < 200 or not state.process_index)\n"
        "except CancelledError as error:\n"
        "    print(f'{state.process_index} of {state.num_processes}: {error}\\n', end='', flush=True)\n"
        "moments = precompute.measure(own, job)\n"
        "totals = [float(each.moment.total.sum()) for each in moments]\n"
        "print(f'{state.process_index}: {totals}, {moments[1].seconds}\\n', end='', flush=True)\n"
    )
    said = python(*LAUNCH, script, cache=tmp_path / "two")
    assert [f"{i} of 2: stopped after" in said for i in range(2)] == [True, True], said
    assert said.count("], 0.0\n") == 2  # complete when the job was cancelled
    for layer, recipe in {"layer4": Recipe(300, 5, 7), "layer8": Recipe(100, 3, 7)}.items():
        one = Statistics(town, cache=tmp_path / "one").moment(layer, recipe=recipe)
        two = Statistics(town, cache=tmp_path / "two").moment(layer, recipe=recipe, on_step=unexpected)
        assert same(one, two) and said.count(str(float(one.total.sum()))) == 2


@pytest.mark.slow
def test_the_command_in_two_processes_reports_once(run, tmp_path, monkeypatch):
    arguments = ("stats", "--layer", "layer8", "--layer", "layer4", "--pictures", "150", "--json")
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path / "one"))
    one, two = run(*arguments)[1], python(*LAUNCH, "-m", "rewriter", *arguments, cache=tmp_path / "two")
    for a, b in zip(json.loads(one)["layers"], json.loads(two)["layers"], strict=True):
        paths = a.pop("path"), b.pop("path")
        assert paths[0] != paths[1] and Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()
        assert a | {"seconds": 0} == b | {"seconds": 0}


def test_without_a_number_the_command_measures_what_an_edit_uses(run, stylegan, tmp_path, monkeypatch):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    command = ("stats", "--generator", DATA / "nvidia_stylegan2_16px_plain.pt", "--layer", "layer5")
    status, out, _ = run(*command, "--layer", "layer3", "--json")
    first, second = json.loads(out)["layers"]
    figures = [first[name] for name in ("layer", "channels", "pictures", "keys", "keys_per_channel")]
    assert status == 0 and figures == ["layer5", 32, 128, 2048, 64] and second["layer"] == "layer3"
    assert first["condition"] > 1 and 1 <= first["dimensions"] <= 32 and first["seconds"] > 0
    assert Path(first["path"]).is_file()
    assert Statistics(stylegan).moment("layer5", on_step=unexpected).count == 2048
    status, out, _ = run(*command)
    assert status == 0 and "measured before" in out and "hint" not in out and first["path"] in out


def test_the_command_hints_at_too_few_keys_and_counts_rules(run, town, random_rule, tmp_path, monkeypatch):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    few = ("--layer", "layer4", "--pictures", 20, "--places", 4, "--first-seed", 9, "--truncation", 0.5)
    rule, path, totals = random_rule(town, "layer3"), tmp_path / "rule.safetensors", []
    rule.save(path)
    for options, rules in (((), ()), (("--rule", path), (rule,))):
        status, out, _ = run("stats", *few, *options)
        assert status == 0 and "80 keys of 20 pictures, 0.625 per channel" in out and "--pictures 320 or more" in out
        own = {"truncation": 0.5, "rules": rules, "recipe": Recipe(20, 4, 9)}
        totals.append(Statistics(town).moment("layer4", on_step=unexpected, **own).total)
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
def test_bad_arguments_of_the_command_give_one_clear_line_and_status_2(run, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = run("stats", *arguments)
    assert status == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize("model", ["stylegan", "dcgan"])
def test_neighbourhoods_are_measured_once_and_read_back_with_the_same_bits(request, model, tmp_path):
    generator = request.getfixturevalue(model)
    first = Statistics(generator, cache=tmp_path)
    moment = first.neighbourhoods("layer2", recipe=RECIPE)
    assert first.neighbourhoods("layer2", recipe=RECIPE, on_step=unexpected) is moment
    again = Statistics(generator, cache=tmp_path).neighbourhoods("layer2", recipe=RECIPE, on_step=unexpected)
    assert again.count == moment.count == RECIPE.keys and all(map(torch.equal, again.totals, moment.totals))
    assert first.moment("layer2", recipe=RECIPE).count == RECIPE.keys  # keys are another measurement
    shut = first.neighbourhoods("layer2", recipe=RECIPE, gate=lambda keys: torch.zeros_like(keys[:, 0]))
    assert shut.count == RECIPE.keys and not any(bool(total.any()) for total in shut.totals)
    with pytest.raises(CancelledError):
        Statistics(generator, cache=tmp_path / "new").neighbourhoods("layer2", on_step=lambda *_: False)


def test_a_server_writes_no_files_for_truncations_that_somebody_made_up(town, tmp_path):
    recipe = Recipe(pictures=8, places=4)
    server, own = (
        Statistics(town, cache=tmp_path / name, seconds=seconds) for name, seconds in (("s", 60.0), ("o", None))
    )
    for statistics in (server, own):
        statistics.moment("layer8", truncation=0.91234567, recipe=recipe)
    assert not [*(tmp_path / "s").rglob("*.safetensors")] and len([*(tmp_path / "o").rglob("*.safetensors")]) == 1
    server.moment("layer8", truncation=0.9, recipe=recipe)
    assert len([*(tmp_path / "s").rglob("*.safetensors")]) == 1
