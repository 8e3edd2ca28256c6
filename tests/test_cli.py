"""The command line as a user meets it: in a process of its own, with real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from rewriter.cli import draw, main
from rewriter.editing.rule import Rule
from rewriter.editing.session import Rewriter
from rewriter.errors import InputError
from rewriter.generators.latents import latents, parse_seeds
from rewriter.hub import space
from rewriter.worlds import townscape
from rewriter.worlds.townscape import scenes


def rewriter(*arguments, cwd, status=0):
    run = subprocess.run(
        [sys.executable, "-m", "rewriter", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )
    assert run.returncode == status, run.stderr
    return run.stdout if status == 0 else run.stderr


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """dome-to-spire applied once; the folder with what it wrote, and its JSON report."""
    folder = tmp_path_factory.mktemp("applied")
    files = ("--out", "town.png", "--save-rule", "rule.safetensors", "--save-model", "model.safetensors")
    return folder, json.loads(rewriter("apply", "dome-to-spire", *files, "--json", cwd=folder))


def test_apply_reports_what_it_did(applied):
    folder, report = applied
    wanted = {"edit", "generator", "layer", "rank", "method", "seconds", "goal_error_removed", "reach", "side_effect"}
    assert wanted | {"out"} <= set(report)
    assert report["generator"] == "townscape" and 0 < report["goal_error_removed"] <= 1
    with Image.open(folder / "town.png") as sheet:
        assert sheet.width > 24 * 64 / 3


def test_saved_rule_and_saved_model_draw_the_same(applied):
    folder, _ = applied
    base, rewritten = townscape.load(), folder / "model.safetensors"
    from rewriter import load_generator

    with_rule = base.sample(range(8), rules=[Rule.load(folder / "rule.safetensors")])
    assert (load_generator(str(rewritten)).sample(range(8)) - with_rule).abs().max() < 1e-4


def test_two_edits_in_succession_and_strength(applied, tmp_path):
    report = json.loads(
        rewriter("apply", "remove-watermark", "dome-to-spire", "--strength", "0.5", "--json", cwd=tmp_path)
    )
    assert [edit["edit"] for edit in report["edits"]] == ["remove-watermark", "dome-to-spire"]
    assert (tmp_path / "rewritten.png").exists()


def test_inspect_a_rule_an_edit_and_a_generator(applied):
    folder, _ = applied
    kinds = {"rule.safetensors": "rule", "model.safetensors": "generator", "dome-to-spire": "edit"}
    for name, kind in kinds.items():
        assert json.loads(rewriter("inspect", name, "--json", cwd=folder))["what"] == kind
    things = json.loads(rewriter("inspect", "townscape", "--seeds", "40", "--json", cwd=folder))["things"]
    assert things["dome"] > 0.8


def test_collections_go_on_where_they_stopped(applied, tmp_path):
    folder, _ = applied
    command = ("sample", "--rule", folder / "rule.safetensors", "--pairs", "--out", tmp_path / "many", "--json")
    assert json.loads(rewriter(*command, "--count", 5, cwd=folder))["drawn"] == 5
    (tmp_path / "many" / "000003-after.png").unlink()
    kept = (tmp_path / "many" / "000000-before.png").stat().st_mtime_ns
    assert json.loads(rewriter(*command, "--count", 7, cwd=folder))["drawn"] == 3
    assert (tmp_path / "many" / "000000-before.png").stat().st_mtime_ns == kept
    rewriter(*command, "--count", 2, "--first", 5, cwd=folder)
    manifest = json.loads((tmp_path / "many" / "manifest.json").read_text())
    assert [entry["seed"] for entry in manifest["pictures"]] == list(range(7))
    error = rewriter("sample", "--count", 7, "--out", tmp_path / "many", cwd=folder, status=2)
    assert "another" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("apply", "no-such-edit"), "no-such-edit"),
        (("apply", "dome-to-spire", "--layer", "layer99"), "layer10"),
        (("apply", "dome-to-spire", "--rank", "60000"), "rank"),
        (("apply", "dome-to-spire", "--rank", "500"), "rank"),
        (("apply", "dome-to-spire", "--layer", "layer2"), "finer layer"),
        (("apply", "dome-to-spire", "--method", "magic"), "least-squares"),
        (("apply", "dome-to-spire", "--smoothness", "nan"), "smoothness"),
        (("apply", "dome-to-spire", "--generator", "nowhere"), "townscape"),
        (("sample", "--seeds", "0-x"), "seeds"),
        (("sample", "--seeds", "99999999"), "seeds"),
        (("sample", "--pairs", "--count", "2", "--out", "folder"), "--rule"),
        (("sample", "--pairs"), "--count"),
        (("sample", "--count", "2"), "--out"),
        (("sample", "--seeds", "5-2"), "backwards"),
        (("sample", "--truncation", "nan"), "truncation"),
        (("sample", "--device", "foo"), "device"),
        (("sample", "--out", "n" * 300 + ".png"), "cannot write"),
        (("apply", "dome-to-spire", "--save-model", "model.pt"), ".safetensors"),
        (("inspect", "townscape", "--seeds", "0"), "10,000"),
        (("sample", "--rule", "nothing.safetensors"), "nothing.safetensors"),
        (("inspect", "README"), "README"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rewriter", *arguments])
    with pytest.raises(SystemExit) as stopped, torch.no_grad():
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert error.count("\n") == 1 or error.startswith("Usage")
    assert not list(tmp_path.glob("*.png"))


def test_an_output_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    error = rewriter("sample", "--seeds", "0", "--out", tmp_path / "file" / "sheet.png", cwd=tmp_path, status=2)
    assert "cannot write" in error and (tmp_path / "file").read_text() == "in the way"


def test_help_teaches(tmp_path):
    environment = {**os.environ, "COLUMNS": "120"}
    run = subprocess.run([sys.executable, "-m", "rewriter", "--help"], capture_output=True, text=True, env=environment)
    commands = (
        "sample",
        "apply",
        "inspect",
        "suggest",
        "search",
        "stats",
        "benchmark",
        "generators",
        "convert",
        "demo",
        "deploy",
    )
    assert all(word in run.stdout for word in (*commands, "dome-to-spire"))
    assert all(name in (draw.apply.__doc__ or "") for name in townscape.examples())


def test_seeds_as_people_write_them():
    assert parse_seeds("0-3, 8,11", most=400) == [0, 1, 2, 3, 8, 11]
    with pytest.raises(InputError, match="0-11,40"):
        parse_seeds("three", most=400)


def test_the_readmes_python_example_runs(tmp_path, monkeypatch):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    example = readme.split("## In Python\n```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"hats.safetensors", "hats.json"}


def call(*arguments, monkeypatch, capsys):
    """A command in this process; its JSON."""
    monkeypatch.setattr(sys, "argv", ["rewriter", *map(str, arguments), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    return json.loads(capsys.readouterr().out)


def test_suggest_ranks_the_layers(tmp_path, monkeypatch, capsys):
    report = call("suggest", "dome-to-spire", "--out", tmp_path / "strip.png", monkeypatch=monkeypatch, capsys=capsys)
    layers = [row["layer"] for row in report["layers"]]
    assert layers[0] in ("layer8", "layer9") and layers.index("layer8") < layers.index("layer5")
    assert set(report["failed"]) == {"layer2", "layer3"} and "finer layer" in report["failed"]["layer2"]
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width > strip.height * 4


def test_search_finds_domes_and_shows_where(tmp_path, monkeypatch, capsys):
    command = ("search", "dome-to-spire", "--k", 5, "--pictures", 96, "--first", 300, "--out", tmp_path / "found.png")
    report = call(*command, monkeypatch=monkeypatch, capsys=capsys)
    seeds = [one["seed"] for one in report["found"]]
    assert len(seeds) == 5 and all(300 <= seed < 396 for seed in seeds) and (tmp_path / "found.png").exists()
    u = scenes.factors(latents(seeds, scenes.LATENT_DIM))
    assert scenes.has_dome(u).float().mean() > 0.5


def test_several_edits_in_one_file_follow_each_other_and_can_be_gone_on_with(tmp_path, monkeypatch, capsys):
    command = ("apply", "grand-tour", "--out", tmp_path / "t.png", "--save-session", tmp_path / "tour.safetensors")
    report = call(*command, monkeypatch=monkeypatch, capsys=capsys)
    assert [edit["layer"] for edit in report["edits"]] == ["layer6", "layer8", "layer5"]
    session = Rewriter.load(townscape.load(), tmp_path / "tour.safetensors")
    assert [rule.layer for rule in session.rules] == ["layer6", "layer8", "layer5"]
    assert len(session.rules[2].edit.after) == 2
    inspected = call("inspect", "grand-tour", monkeypatch=monkeypatch, capsys=capsys)
    assert inspected["what"] == "edits" and len(inspected["edits"]) == 3


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    checkout = Path(__file__).resolve().parent.parent
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, checkout], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments):
        command = [sys.executable, "-m", "rewriter", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    for name in townscape.examples():
        report = run("apply", name, "--out", f"{name}.png", "--save-rule", f"{name}.safetensors", "--json")
        assert (tmp_path / f"{name}.png").exists() and report["likeness"] is not None
    assert run("sample", "--seeds", "0-3", "--rule", "add-tree.safetensors", "--json")["seeds"] == [0, 1, 2, 3]
    assert run("inspect", "add-tree.safetensors", "--json")["what"] == "rule"
    assert run("suggest", "dome-to-spire", "--json")["layers"][0]["layer"] == "layer8"
    assert len(run("search", "dome-to-spire", "--pictures", "64", "--json")["found"]) == 12
    assert run("stats", "--layer", "layer6", "--json")["layers"][0]["keys"] > 0
    assert len(run("generators", "--json")["generators"]) > 30
    assert run("evaluate", "judges", "--n", "8", "--json")["segmenter"]["all"][0] > 0.95
    (found,) = run("evaluate", "add-tree", "--n", "8", "--json")["experiments"]
    assert found["methods"]["least-squares"]["figures"]["changed"]["value"] > 0.8
    assert run("convert", "townscape", "ours", "--json")["fingerprint"] == townscape.load().fingerprint
    sent = run("deploy", "ada/demo", "--dry-run", "--json")["files"]
    assert sent == {path: file.stat().st_size for path, file in space.files().items()}
