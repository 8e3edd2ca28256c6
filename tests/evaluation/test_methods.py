"""The methods that are compared, the runs that compare them, and the files that report the outcomes."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from rewriter import worlds
from rewriter.editing.edit import load_edits
from rewriter.editing.statistics import Statistics
from rewriter.errors import CancelledError, InputError
from rewriter.evaluation import TITLES, benchmark, by_words, methods, physical, plots, tables
from rewriter.evaluation import run as running
from rewriter.evaluation.experiments import by_name, quicker
from rewriter.evaluation.light import LIGHT
from rewriter.evaluation.methods import Case, has_converged
from rewriter.evaluation.metrics import estimates
from rewriter.evaluation.watermarks import WATERMARKS
from rewriter.memory import SOLVERS
from rewriter.worlds import segmenter
from rewriter.worlds.townscape import make_examples, scenes

SEEDS = range(20_000, 20_030)
SHOWN = ("unmodified", "least-squares", "projected", "single-image", "unconstrained", "copy", "ceiling")
STEPS = {"all-weights": 2, "all-weights, gently": 2, "inverted, SVD": 10}
METHODS = {
    name: (edit, method)
    for edit in ("dome-to-spire", "light")
    for name, method in by_name()[edit].methods.items()
    if not name.startswith(("zeroed", "projected, ", "inverted, SVD, "))
}


@pytest.fixture(scope="module")
def case_of(town):
    """The case of a shipped edit; changed fields of the edit as keywords. Statistics are measured once."""
    known = Statistics(town)

    def case(name, *things, **changed):
        return Case(town, load_edits(worlds.examples("townscape")[name])[0].with_(**changed), known, things)

    return case


def some(experiment, *wanted):
    """An experiment with a few of its methods."""
    experiment = by_name()[experiment] if isinstance(experiment, str) else experiment
    return replace(experiment, methods={method: experiment.methods[method] for method in wanted})


def values(outcomes):
    """The values of all metrics, by method."""
    made = {name: each.metrics.items() for name, each in outcomes.methods.items()}
    return {name: {metric: estimate.value for metric, estimate in metrics} for name, metrics in made.items()}


@pytest.fixture(scope="module")
def spires(town):
    """The outcomes of the main experiment for a few methods and pictures."""
    return running.run(some("dome-to-spire", *SHOWN), town, SEEDS)


@pytest.fixture(scope="module")
def few(town):
    """The outcomes of two fast methods for four pictures."""
    return running.run(some("dome-to-spire", "unmodified", "least-squares"), town, SEEDS[:4])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_result_that_draws(name, case_of, town):
    experiment, method = METHODS[name]
    case = case_of("no-light-on-ground" if experiment == "light" else experiment, steps=10)
    before, z = {key: value.clone() for key, value in town.state_dict().items()}, town.latents(SEEDS[:3])
    done = []
    made = method(case, lambda *at: done.append(at), **({"steps": STEPS[name]} if name in STEPS else {}))
    with torch.no_grad():
        drawn = made.draw(z)
    assert drawn.shape == (3, 3, 64, 64) and drawn.isfinite().all() and made.seconds >= 0
    assert torch.equal(drawn, town(z)) == (name == "unmodified")
    assert all(torch.equal(value, before[key]) for key, value in town.state_dict().items())
    assert len(done) == len(made.losses) or name == "default"  # which reports the candidates that it tries
    assert bool(made.losses) == (name not in ("unmodified", "default", "ceiling", "copy", "laplace"))
    json.dumps(made.settings)


def test_goal_of_the_two_conditions_swaps_lit_and_dark_ground(case_of):
    goal = physical.swapped(case_of("no-light-on-ground"), "layer8")
    half = len(goal.values) // 2
    inside, outside = goal.weight[:half] == 1, goal.weight[:half] == 0
    lit, dark, lit_goal, dark_goal = (
        part.movedim(1, -1) for both in (goal.before, goal.values) for part in (both[:half], both[half:])
    )
    assert inside.any() and torch.equal(lit_goal[inside], dark[inside]) and torch.equal(dark_goal[inside], lit[inside])
    assert torch.equal(lit_goal[outside], lit[outside]) and torch.equal(dark_goal[outside], dark[outside])


def test_descent_has_converged_when_steps_gain_nothing():
    noise = 1 + 0.5 * torch.rand(9000, generator=torch.Generator().manual_seed(0))
    losses = ((100 / (100 + torch.arange(9000)) + 0.1) * noise).tolist()
    assert not has_converged(losses[:1000]) and has_converged(losses)
    assert not has_converged([float(step) for step in range(300)])  # too few steps to tell


def test_shipped_edits_can_be_made_again(town):
    for name in ("dome-to-spire", "remove-watermark", "add-tree"):
        made, (shipped,) = make_examples.EXAMPLES[name](town), load_edits(worlds.examples("townscape")[name])
        assert made.to_json()["context"] == shipped.to_json()["context"]


@pytest.mark.evaluation
def test_inverted_rule_darkens_the_ground(case_of):
    case = case_of("no-light-on-ground")
    found = estimates(LIGHT, [LIGHT.rows(SEEDS[:20], case.before, physical.inverted(case).draw)])
    assert found["rule"].value < -0.5 and 0.97 < found["windows"].value < 1.03
    losses = physical.inverted_by_svd(case, steps=40).losses
    assert losses[-1] < losses[0]


@pytest.mark.evaluation
def test_best_units_draw_the_marks(case_of, town):
    case, other = (case_of("remove-watermark", "watermark", "bar") for _ in range(2))
    vars(other)["ranking"] = case.ranking[::-1]
    rows = [WATERMARKS.rows(SEEDS, each.before, methods.zeroed(each).draw) for each in (case, other)]
    best, worst = (estimates(WATERMARKS, [each])["middle gone"].value for each in rows)
    assert best > 0.8 > 0.3 > worst


@pytest.mark.evaluation
def test_least_squares_changes_most_and_damages_least(spires):
    found, ours = values(spires), values(spires)["least-squares"]
    assert found["ceiling"]["changed"] > ours["changed"] > 0.85 > found["unmodified"]["changed"] == 0
    for name in ("projected", "single-image", "unconstrained"):
        assert found[name]["side effect"] > 2 * ours["side effect"] and found[name]["perceptual"] > ours["perceptual"]
    assert found["unconstrained"]["side effect"] > 5
    assert found["copy"]["changed"] < ours["changed"] and found["copy"]["perceptual"] > ours["perceptual"]


@pytest.mark.evaluation
def test_rule_of_rank_one_damages_less_than_zeroed_units(town):
    found = values(running.run(some("watermark", "unmodified", "least-squares, rank 1", "zeroed 6%"), town, SEEDS))
    assert found["unmodified"]["middle"] > 0.1 and found["unmodified"]["bottom"] > 0.02
    ours, zeroed = found["least-squares, rank 1"], found["zeroed 6%"]
    assert ours["middle"] <= zeroed["middle"] and ours["bottom"] <= zeroed["bottom"]
    assert zeroed["side effect"] > 1.3 * ours["side effect"]


@pytest.mark.evaluation
def test_tuning_all_weights_damages_everything(case_of):
    case, judge = case_of("dome-to-spire"), by_name()["dome-to-spire"].judge
    made = methods.all_weights(case, steps=40)
    assert len(made.losses) == made.settings["steps"] == 40 and not made.settings["converged"]
    assert estimates(judge, [judge.rows(SEEDS[:10], case.before, made.draw)])["side effect"].value > 5
    gentle = methods.all_weights(case, steps=40, rate=0.0002).losses
    assert min(gentle) < 0.85 * gentle[0]


def test_photographs_are_judged_by_words_and_perceptual_distance(town, case_of):
    def by_word(pictures, words):  # our own segmenter stands for CLIPSeg, and L1 for LPIPS
        found = segmenter.load().labels(pictures)
        return sum((i + 1) * (found == scenes.LABELS.index(word)) for i, word in enumerate(words)) - 1

    judge = by_words.Photographs(town.zdim, "dome", "spire", by_word, lambda a, b: (a - b).abs().mean(1))
    experiment = by_words.experiment("hats", case_of("dome-to-spire", steps=200).edit, judge)
    found = values(running.run(some(experiment, "unmodified", "least-squares", "unconstrained"), town, SEEDS[:6]))
    assert found["unmodified"]["segmented"] == found["unmodified"]["LPIPS"] == 0 < found["least-squares"]["pictures"]
    assert found["least-squares"]["segmented"] > 0.5
    assert 0 < found["least-squares"]["LPIPS"] < found["unconstrained"]["LPIPS"]


def test_experiments_have_titles_and_show_known_metrics():
    known = by_name()
    assert {name: each.title for name, each in known.items()} == TITLES
    for experiment in known.values():
        metrics = {metric.name for metric in experiment.judge.metrics} | {"fréchet"}
        assert {*experiment.shown, *experiment.axes} <= metrics
    quick = quicker(known["dome-to-spire"]).methods
    assert "all-weights" not in quick and "all-weights, 100 steps" in quick


def test_run_reports_progress_and_can_be_cancelled(town):
    told = []

    def progress(what):
        return lambda done, of: told.append((what, done, of)) or not what.endswith("pictures")

    with pytest.raises(CancelledError):
        running.run(some("dome-to-spire", "unmodified", "ceiling"), town, SEEDS[:4], progress=progress)
    assert told == [("dome-to-spire: pictures", 4, 4)]
    with pytest.raises(InputError, match="no pictures"):
        running.run(some("dome-to-spire", "unmodified"), town, [])


def test_tables_report_what_was_found_and_answer_only_the_same_request(few, town, tmp_path):
    tables.write(few, tmp_path)
    report = json.loads((tmp_path / "dome-to-spire.json").read_text())
    assert (report["n"], report["seeds"]) == (4, [20_000, 20_003]) and list(report["methods"]) == list(few.methods)
    changed = few.methods["least-squares"].metrics["changed"]
    assert report["methods"]["least-squares"]["metrics"]["changed"] == vars(changed)
    rows = list(csv.DictReader((tmp_path / "dome-to-spire.csv").open()))
    (row,) = (row for row in rows if (row["method"], row["metric"]) == ("least-squares", "changed"))
    assert float(row["value"]) == changed.value and row["unit"] == "%" and len(rows) == 2 * len(report["metrics"])
    lines = [line for line in (tmp_path / "dome-to-spire.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 4 and f"| {changed.value:.1%} [" in lines[3]
    assert tables.finite({"a": [1.0, float("nan")], "b": (float("inf"), "x")}) == {"a": [1.0, None], "b": [None, "x"]}
    same, longer = (running.request(few.experiment, town, SEEDS[:n]) for n in (4, 5))
    assert tables.stored(tmp_path, "dome-to-spire", same) == report
    assert tables.stored(tmp_path, "dome-to-spire", longer) is tables.stored(tmp_path, "light", same) is None


@pytest.mark.evaluation
def test_plots_show_every_method(spires, tmp_path):
    pytest.importorskip("matplotlib")
    lines = {f"least-squares, rank {r}, λ {s}": spires.methods["least-squares"] for r in (1, 2) for s in (1, 10)}
    frontier = replace(spires, experiment=by_name()["frontier"], methods=lines)
    paths = plots.write(spires, tmp_path) + plots.write(frontier, tmp_path)
    assert [path.name for path in paths] == ["dome-to-spire.png", "dome-to-spire-losses.png", "frontier.png"]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 500 and len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_command_writes_tables_without_matplotlib_and_does_not_repeat_an_experiment(run, tmp_path, monkeypatch):
    short = {"door-in-the-sky": some("door-in-the-sky", "unmodified")}
    monkeypatch.setattr("rewriter.evaluation.experiments.by_name", lambda: short)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ("evaluate", "door-in-the-sky", "--n", "4", "--out", tmp_path)
    status, out, error = run(*command, "--json")
    (report,) = json.loads(out)["experiments"]
    assert (status, report["experiment"], report["n"]) == (0, "door-in-the-sky", 4) and "rewriter[eval]" in error
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".csv", ".md"}
    monkeypatch.setattr(running, "run", None)
    status, out, _ = run(*command)
    assert status == 0 and (tmp_path / "door-in-the-sky.md").read_text() in out


def test_command_runs_each_experiment_on_its_world_and_loads_each_generator_once(run, tmp_path, monkeypatch):
    short, loaded = {name: some(name, "unmodified") for name in ("add-tree", "remove-stamp", "door-in-the-sky")}, []
    monkeypatch.setattr("rewriter.evaluation.experiments.by_name", lambda: short)
    monkeypatch.setattr("rewriter.cli.evaluate.load", lambda name, *_: loaded.append(name) or worlds.load(name))
    status, out, _ = run("evaluate", "all", "--n", 2, "--out", tmp_path, "--json")
    reports = json.loads(out)["experiments"]
    assert (status, [report["experiment"] for report in reports]) == (0, list(short))
    assert loaded == ["townscape", "portraits"]
    loaded.clear()
    assert run("evaluate", "remove-stamp", "--n", 2, "--out", tmp_path)[0] == 0 and loaded == ["portraits"]


def test_command_refuses_unknown_requests(run, tmp_path):
    for words, *arguments in (
        ("no edit 'frown'", "frown"),
        ("0 pictures", "light", "--n", 0),
        ("--was", worlds.examples("townscape")["dome-to-spire"]),
    ):
        status, _, error = run("evaluate", *arguments, "--out", tmp_path)
        assert status == 2 and words in error


@pytest.mark.evaluation
def test_two_processes_agree_with_one(town, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = ["rewriter", "evaluate", "add-tree", "-n", "4", "--device", "cpu", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launch, *command], env=environment, check=True, capture_output=True, timeout=300)
    two = json.loads((tmp_path / "add-tree.json").read_text())
    one = tables.finite(running.run(by_name()["add-tree"], town, SEEDS[:4]).to_json())
    assert two["machine"]["processes"] == 2 and list(two["methods"]) == list(one["methods"])
    assert all(two["methods"][name]["metrics"] == each["metrics"] for name, each in one["methods"].items())


@pytest.mark.evaluation
def test_benchmark_measures_every_table(town, case_of):
    rows = list(benchmark.measured(town, case_of("dome-to-spire", steps=5).edit))
    report = {name: [row | {"device": "cpu"} for table, row in rows if table == name] for name in benchmark.TABLES}
    text = benchmark.markdown(report | {"machine": [running.machine(town.device)]})
    assert "closed-form solves" in text and len(report["edits"]) == len(SOLVERS) + 1 and len(report["pictures"]) == 5
