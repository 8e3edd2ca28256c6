"""The methods that are compared, the runs that compare them, and what is written of it."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from rewriter.evaluation.judging import figures, judged, towns
from rewriter.evaluation.realism_answers import Answer
from safetensors.torch import load_file
from typer.testing import CliRunner

from rewriter.cli import app
from rewriter.editing.edit import load_edits
from rewriter.editing.statistics import Statistics
from rewriter.errors import CancelledError, InputError
from rewriter.evaluation import (
    counterfactual,
    dissection,
    judges,
    methods,
    photographs,
    physical,
    plots,
    realism,
    run,
    segmenter,
    tables,
)
from rewriter.evaluation.experiments import by_name
from rewriter.evaluation.light import Light
from rewriter.evaluation.methods import Case, Made
from rewriter.evaluation.watermarks import Watermarks
from rewriter.worlds import townscape

SEEDS = range(20_000, 20_030)
QUICK = ("unmodified", "least-squares", "projected", "single-image", "unconstrained", "copy", "ceiling")


@pytest.fixture(scope="module")
def generator():
    return townscape.load()


@pytest.fixture(scope="module")
def case_of(generator):
    """The case of a shipped edit; statistics are measured once."""
    statistics = Statistics(generator)
    return lambda name, *things: Case(generator, load_edits(townscape.examples()[name])[0], statistics, things)


def some(name, *wanted, **other):
    """An experiment with a few of its methods."""
    experiment = by_name()[name]
    return replace(experiment, methods={method: experiment.methods[method] for method in wanted}, **other)


@pytest.fixture(scope="module")
def spires(generator, tmp_path_factory):
    """What the main experiment finds with few pictures."""
    experiment = some("dome-to-spire", *QUICK)
    return run.run(experiment, generator, SEEDS, tmp_path_factory.mktemp("spires"))


def test_the_default_takes_and_damages_least_of_those_that_take(spires):
    value = {name: {key: found.value for key, found in each.items()} for name, each in spires.figures.items()}
    ours = value["least-squares"]
    assert (
        ours["changed"] > 0.85 and value["unmodified"]["changed"] == 0 < value["ceiling"]["changed"] - ours["changed"]
    )
    for name in ("projected", "single-image", "unconstrained"):
        assert value[name]["side effect"] > 2 * ours["side effect"] and value[name]["perceptual"] > ours["perceptual"]
    assert value["unconstrained"]["side effect"] > 5  # the paper's collateral damage
    assert value["copy"]["changed"] < ours["changed"] and value["copy"]["perceptual"] > ours["perceptual"]


def test_a_rule_of_rank_one_takes_marks_with_less_damage_than_zeroing_units(generator, tmp_path):
    found = run.run(
        some("watermark", "unmodified", "least-squares, rank 1", "zeroed 6%"), generator, SEEDS, tmp_path
    ).figures
    value = {name: {key: found.value for key, found in each.items()} for name, each in found.items()}
    assert value["unmodified"]["middle"] > 0.1 and value["unmodified"]["bottom"] > 0.02
    ours, zeroed = value["least-squares, rank 1"], value["zeroed 6%"]
    assert ours["middle"] <= zeroed["middle"] and ours["bottom"] <= zeroed["bottom"]
    assert zeroed["side effect"] > 1.3 * ours["side effect"]


def test_light_falls_the_other_way(generator, case_of):
    made = physical.inverted(case_of("no-light-on-ground"))
    seeds = range(20_000, 20_020)
    before, after = (each.draw(generator) for each in (Made("model"), made))
    found = figures(Light(), judged(Light(), seeds, before, after))
    assert found["rule"].value < -0.5 and 0.97 < found["windows"].value < 1.03
    assert [tensor.shape[1] for name, tensor in made.tensors.items() if name.endswith("delta")] == [1]  # of rank one


def test_the_goal_of_the_two_conditions_swaps_them(case_of):
    goal = physical.swapped(case_of("no-light-on-ground"), "layer8")
    half = len(goal.values) // 2
    inside, outside = goal.weight[:half] == 1, goal.weight[:half] == 0
    lit, dark = goal.before[:half].movedim(1, -1), goal.before[half:].movedim(1, -1)
    wanted = goal.values[:half].movedim(1, -1), goal.values[half:].movedim(1, -1)
    assert inside.any() and torch.equal(wanted[0][inside], dark[inside]) and torch.equal(wanted[1][inside], lit[inside])
    assert torch.equal(wanted[0][outside], lit[outside]) and torch.equal(wanted[1][outside], dark[outside])


def test_a_descent_cut_by_svd_has_rank_one_and_comes_nearer(case_of):
    made = physical.inverted_by_svd(case_of("no-light-on-ground"), steps=40)
    assert made.tensors["0 layer8 delta"].shape[1] == 1 and len(made.losses) == 40
    assert made.losses[-1] < made.losses[0]


def test_units_that_agree_with_marks_are_found_and_draw_them(generator, case_of):
    ranking = dissection.dissect(generator, "layer6", ["watermark", "bar"], seeds=range(50_000, 50_100))
    best, rest = ranking.order[:8], ranking.order[8:]
    assert ranking.iou[best].min() >= ranking.iou[rest].max() and ranking.iou[best[0]] > 0.1
    assert torch.isfinite(ranking.iou).all() and ranking.iou.min() >= 0 and ranking.iou.max() <= 1
    unmodified, wanted = Made("model").draw(generator), {"best": best, "others": ranking.order[-8:]}
    gone = {}
    for name, units in wanted.items():
        made = Made("units", {"units": units}, {"layer": "layer6"})
        gone[name] = figures(Watermarks(), judged(Watermarks(), SEEDS, unmodified, made.draw(generator)))
    assert gone["best"]["middle gone"].value > 0.8 > 0.3 > gone["others"]["middle gone"].value
    assert dissection.sheet(generator, ranking, units=2, pictures=3).size[0] > 3 * 64


def test_tuning_all_weights_comes_near_and_harms_everything(generator, case_of, tmp_path):
    case = case_of("dome-to-spire")
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    made = methods.all_weights(case, steps=80)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert len(made.losses) == made.settings["steps"] == 80 and not made.settings["converged"]
    made.save(tmp_path / "made.safetensors")
    by, unmodified = counterfactual.dome_to_spire(), Made("model").draw(generator)
    after = Made.load(tmp_path / "made.safetensors").draw(generator)
    assert figures(by, judged(by, SEEDS[:10], unmodified, after))["side effect"].value > 5
    gentle = methods.all_weights(case, steps=80, rate=0.0002)
    assert min(gentle.losses) < 0.7 * gentle.losses[0]


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_descent_has_converged_when_steps_gain_nothing(noise):
    losses, draw = methods.Losses(None), torch.Generator().manual_seed(0)
    for step in range(9000):
        losses(step, 9000, (100 / (100 + step) + 0.1) * (1 + noise * float(torch.rand((), generator=draw))))
        if losses.converged:
            break
    assert 1000 < len(losses.kept) < 9000
    rising = methods.Losses(None)
    for step in range(300):
        rising(step, 300, float(step))
    assert not rising.converged  # too early to say


@pytest.mark.parametrize("name", ["unmodified", "ceiling", "least-squares", "copy", "laplace"])
def test_what_was_made_is_stored_and_draws_the_same(name, generator, case_of, tmp_path):
    made = by_name()["dome-to-spire"].methods[name](case_of("dome-to-spire"), None)
    made.save(tmp_path / "made.safetensors")
    again, z = Made.load(tmp_path / "made.safetensors"), towns(range(20_000, 20_004))[0]
    drawn = made.draw(generator)(z)
    assert torch.equal(drawn, again.draw(generator)(z)) and drawn.shape == (4, 3, 64, 64)
    assert torch.equal(drawn, generator(z)) == (name == "unmodified")
    assert (again.settings, again.losses, again.seconds) == (made.settings, made.losses, made.seconds)


def test_every_method_of_every_experiment_has_a_file_name_of_its_own():
    for experiment in by_name().values():
        assert len({run.slug(name) for name in experiment.methods}) == len(experiment.methods)
        known = {figure.name for figure in experiment.judge.figures} | {"fréchet"}
        assert {*experiment.shown, *experiment.axes} <= known


def test_a_run_goes_on_where_it_was_stopped(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BATCH", 5)
    experiment, seeds, told = some("dome-to-spire", "unmodified", "least-squares"), range(20_000, 20_012), []

    def stop(what, done, of):
        told.append(what)
        return not (what.endswith("pictures") and done)

    with pytest.raises(CancelledError, match="goes on"):
        run.run(experiment, generator, seeds, tmp_path, on_part=stop)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(first) == 3 and told[0].endswith("unmodified")
    stopped = run.run(experiment, generator, seeds, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    whole = run.run(experiment, generator, seeds, tmp_path / "whole")
    assert whole.figures == stopped.figures
    longer = run.run(experiment, generator, range(20_000, 20_018), tmp_path)  # only what is missing is judged
    assert longer.figures != whole.figures


def test_another_run_in_the_folder_is_refused(generator, tmp_path):
    run.run(some("dome-to-spire", "unmodified"), generator, SEEDS[:2], tmp_path)
    with pytest.raises(InputError, match="another run"):
        run.run(some("dome-to-spire", "unmodified", "copy"), generator, SEEDS[:2], tmp_path)
    with pytest.raises(InputError, match="no pictures"):
        run.run(some("dome-to-spire", "unmodified"), generator, [], tmp_path)


def launched(folder, count):
    """The command, by so many processes of one thread each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    command = ["rewriter", "evaluate", "add-tree", "-n", "230", "--device", "cpu", "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([*launcher, *command], env=environment, stdout=subprocess.DEVNULL)


def workers(folder):
    """The numbers of the processes that write into a folder, the launcher among them."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                yield int(entry.name)


@pytest.mark.slow
def test_two_processes_judge_each_picture_once_and_agree_with_one(tmp_path):
    assert launched(tmp_path / "one", 1).wait(600) == 0
    job = launched(tmp_path / "two", 2)
    deadline = time.monotonic() + 300
    rows = tmp_path / "two" / "add-tree" / "rows"
    while not list(rows.glob("0*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.1)
    killed = list(workers(tmp_path / "two"))
    for number in killed:  # in the middle of their work
        os.kill(number, signal.SIGKILL)
    job.wait(60)
    assert len(killed) == 3 and not list(workers(tmp_path / "two"))
    kept = {path: path.stat().st_mtime_ns for path in rows.glob("0*.safetensors")}
    assert 1 <= len(kept) < 5
    assert launched(tmp_path / "two", 2).wait(600) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in (tmp_path / "one" / "add-tree" / "rows").iterdir():
        one, two = load_file(path), load_file(rows / path.name)
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    reports = [json.loads((tmp_path / name / "add-tree.json").read_text()) for name in ("one", "two")]
    found = [{name: each["figures"] for name, each in report["methods"].items()} for report in reports]
    assert found[0] == found[1]


def test_tables_say_what_was_found(spires, tmp_path):
    paths = {path.suffix: path for path in tables.write(spires, tmp_path)}
    report = json.loads(paths[".json"].read_text())
    assert (
        report["n"] == len(SEEDS)
        and report["seeds"] == [SEEDS[0], SEEDS[-1]]
        and list(report["methods"]) == list(QUICK)
    )
    own = report["methods"]["least-squares"]
    assert own["settings"]["method"] == "least-squares" and len(report["methods"]["projected"]["losses"]) > 100
    assert own["figures"]["changed"]["low"] <= own["figures"]["changed"]["value"] <= own["figures"]["changed"]["high"]
    rows = list(csv.DictReader(paths[".csv"].open()))
    assert len(rows) == len(QUICK) * len(report["figures"])
    (row,) = (row for row in rows if (row["method"], row["figure"]) == ("least-squares", "changed"))
    assert float(row["value"]) == own["figures"]["changed"]["value"] and row["unit"] == "%"
    lines = paths[".md"].read_text().splitlines()
    assert len([line for line in lines if line.startswith("|")]) == len(QUICK) + 2
    assert f"{own['figures']['changed']['value']:.1%} [" in lines[3 + 2]


def test_plots_are_drawn_with_every_method(spires, tmp_path):
    pytest.importorskip("matplotlib")
    paths = plots.write(spires, tmp_path)
    assert [path.name for path in paths] == ["dome-to-spire.png", "dome-to-spire-losses.png"]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 500 and len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert len(set(plots.COLOURS)) == len(plots.COLOURS)


def test_without_matplotlib_there_are_tables_and_a_word_on_plots(spires, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"rewriter\[eval\]"):
        plots.write(spires, tmp_path)


def test_the_command_writes_tables_and_refuses_what_it_does_not_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke = partial(CliRunner().invoke, app)
    done = invoke(["evaluate", "add-tree", "--n", "10", "--out", str(tmp_path), "--json"], catch_exceptions=False)
    (report,) = json.loads(done.stdout)["experiments"]
    assert report["experiment"] == "add-tree" and report["n"] == 10
    assert {path.name for path in tmp_path.iterdir()} >= {"add-tree.json", "add-tree.csv", "add-tree.md", "add-tree"}
    for wrong, words in (
        (["smile"], "cannot read smile"),
        (["light", "--n", "0"], "0 pictures"),
        (["realism", "--of", "frontier", "--page"], "no method"),
        (["add-tree", "--n", "11", "--first", "20050", "--out", str(tmp_path)], "holds another run"),
        ([str(townscape.examples()["dome-to-spire"])], "--was"),
        (["realism", "--of", "hats"], "no experiment 'hats'"),
        (["realism", "--out", str(tmp_path)], "holds no study"),
        (["dissect", "--layer", "layer99"], "layer99"),
        (["dissect", "--thing", "unicorn", "--out", str(tmp_path)], "unicorn"),
    ):
        assert words in str(invoke(["evaluate", *wrong]).exception), wrong


def test_an_edit_of_photographs_is_judged_by_words_and_lpips(generator, case_of, tmp_path):
    """The judges' own tests are elsewhere; here our segmenter answers to words, and LPIPS has random weights."""
    torch.manual_seed(0)
    words = [*segmenter.scenes.LABELS]

    def by_word(pictures, asked):
        found = segmenter.load().labels(pictures)
        return sum((i + 1) * (found == words.index(word)) for i, word in enumerate(asked)) - 1

    lpips = judges.LPIPS().eval()
    for head in lpips.heads.parameters():
        head.data.abs_()  # as those are that were learned
    judge = photographs.Photographs(generator.zdim, "dome", "spire", by_word, lpips)
    experiment = photographs.experiment("hats", case_of("dome-to-spire").edit, judge)
    wanted = ("unmodified", "least-squares", "unconstrained")
    experiment = replace(experiment, methods={name: experiment.methods[name] for name in wanted})
    found = run.run(experiment, generator, range(20_000, 20_012), tmp_path).figures
    value = {name: {key: each.value for key, each in made.items()} for name, made in found.items()}
    assert value["unmodified"]["segmented"] == value["unmodified"]["LPIPS"] == 0
    assert value["least-squares"]["segmented"] > 0.5
    assert 0 < value["least-squares"]["LPIPS"] < value["unconstrained"]["LPIPS"]
    assert not torch.isnan(torch.tensor(value["least-squares"]["pictures"]))


@pytest.mark.slow
def test_a_study_is_opened_and_summed_up(tmp_path):
    command = [sys.executable, "-m", "rewriter", "evaluate", "realism", "--of", "add-tree", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    page = subprocess.Popen([*command, "--page", "--n", "2"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = next(line.split()[-1] for line in page.stdout if "http://" in line)
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"Which looks more real?" in answer.read()
    finally:
        page.kill()
        page.communicate(timeout=30)
    study = realism.Study.load(tmp_path / "realism-add-tree" / "study")
    assert study.reference == "least-squares" and study.others == ("unmodified",) and len(study.seeds) == 2
    assert all(counterfactual.lacks_right_tree(towns(study.seeds)[1]))
    waiting = subprocess.run(command, capture_output=True, text=True, check=False)
    assert waiting.returncode == 2 and "no answers yet" in waiting.stderr
    for pair in range(2):
        study.record(Answer("someone", pair, "least-squares", "unmodified", "least-squares", 1.0))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "unmodified | 0.0 %" in done.stdout and "2 answers by one person" in done.stdout
