"""The command line as a user meets it, on real files; in this process, because importing torch takes seconds."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import DATA, square
from PIL import Image

from rewriter import Edit, Rewriter, Rule, load_edits, load_generator, save_edits, worlds
from rewriter.cli import draw, main, share
from rewriter.editing.recipe import Recipe
from rewriter.errors import InputError
from rewriter.generators.latents import latents, parse_seeds
from rewriter.hub import space
from rewriter.pictures import to_image
from rewriter.worlds.townscape import factors
from rewriter.worlds.townscape.world import WORLD

CHECKOUT = Path(__file__).resolve().parents[2]


def rewriter(*arguments, cwd, status=0):
    """Run a command in a folder; what it printed, or its error if that is expected."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended, torch.no_grad():
            patch.setattr(sys, "argv", ["rewriter", *map(str, arguments)])
            main()
    assert (ended.value.code or 0) == status, error.getvalue()
    return error.getvalue() if status else out.getvalue()


def report_of(*arguments, cwd):
    return json.loads(rewriter(*arguments, "--json", cwd=cwd))


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """dome-to-spire applied once, as a change of W; the folder with what it wrote, and its JSON report."""
    folder = tmp_path_factory.mktemp("applied")
    files = ("--out", "town.png", "--save-rule", "rule.safetensors", "--save-model", "model.safetensors")
    return folder, report_of("apply", "dome-to-spire", "--form", "weight", *files, cwd=folder)


def test_apply_reports_what_it_did(applied):
    folder, report = applied
    wanted = {"edit", "generator", "layer", "rank", "method", "seconds", "goal_error_removed", "reach", "side_effect"}
    assert wanted | {"form", "verdict", "out"} <= set(report) and report["form"] == "weight"
    assert report["generator"] == "townscape" and 0 < report["goal_error_removed"] <= 1
    with Image.open(folder / "town.png") as sheet:
        assert sheet.width > 24 * 64 / 3


def test_saved_rule_and_saved_model_draw_the_same(applied, town):
    folder, _ = applied
    with_rule = town.sample(range(8), rules=[Rule.load(folder / "rule.safetensors")])
    rewritten = load_generator(str(folder / "model.safetensors"), device="cpu")
    assert (rewritten.sample(range(8)) - with_rule).abs().max() < 1e-4


def test_weights_that_only_approximate_a_rule_say_by_how_much(begin, tmp_path):
    rule = begin().execute(form="gated")
    rule.save(tmp_path / "gated.safetensors")
    rule.edit.save(tmp_path / "gated.json")
    small = DATA / "nvidia_stylegan2_16px_plain.pt"
    words = r"cannot hold the form gated: .*16 unseen pictures .*differ by \d+\.\d\d/255"
    converted = report_of("convert", small, "folder", "--rule", "gated.safetensors", cwd=tmp_path)
    assert re.search(words, " ".join(converted["remarks"]))
    applied = report_of("apply", "gated.json", "--generator", small, "--save-model", "m.safetensors", cwd=tmp_path)
    assert applied["form"] == "gated" and re.search(words, " ".join(applied["remarks"]))
    weight = "--form", "weight", "--save-model", "m.safetensors"
    plain = report_of("apply", "gated.json", "--generator", small, *weight, cwd=tmp_path)
    assert plain["form"] == "weight" and not re.search(words, " ".join(plain["remarks"]))


def test_inspect_names_form_places_gate_and_budget(begin, tmp_path):
    session = begin()
    session.set(form="gated", budget=20.0)
    session.execute().save(tmp_path / "rule.safetensors")
    report = report_of("inspect", "rule.safetensors", cwd=tmp_path)
    assert (report["form"], report["budget"], report["found"]) == ("gated", 20.0, 0)
    assert (
        "form gated" in (words := rewriter("inspect", "rule.safetensors", cwd=tmp_path)) and "at most 20/255" in words
    )


def test_edits_of_one_file_or_several_are_applied_in_succession(begin, tmp_path):
    """On a small generator, where an edit is executed in a tenth of a second."""
    session = begin()
    session.execute()
    session.begin("layer6")
    session.erase(2, square(6, 4, 9, 7))
    session.execute(form="weight")
    save_edits(session.edits, tmp_path / "both.json")
    for edit, name in zip(session.edits, ("one.json", "two.json"), strict=True):
        edit.save(tmp_path / name)
    small = "--generator", DATA / "nvidia_stylegan2_16px_plain.pt"
    report = report_of("apply", "both.json", *small, "--save-session", "both.safetensors", cwd=tmp_path)
    assert [edit["layer"] for edit in report["edits"]] == ["layer4", "layer6"]
    loaded = Rewriter.load(session.generator, tmp_path / "both.safetensors")
    assert [(rule.layer, len(rule.edit.after)) for rule in loaded.rules] == [("layer4", 0), ("layer6", 1)]
    report = report_of("apply", "one.json", "two.json", *small, "--strength", "0.5", cwd=tmp_path)
    assert [edit["edit"] for edit in report["edits"]] == ["one.json", "two.json"]
    assert (tmp_path / "rewritten.png").exists()
    tour = load_edits(worlds.examples("townscape")["grand-tour"])
    assert [edit.layer for edit in tour] == ["layer6", "layer8", "layer5"]
    assert [edit.after for edit in tour] == [tuple(edit.digest for edit in tour[:i]) for i in range(3)]
    inspected = report_of("inspect", "grand-tour", cwd=tmp_path)
    assert inspected["what"] == "edits" and len(inspected["edits"]) == 3


def test_inspect_names_a_rule_an_edit_and_a_generator(applied):
    folder, _ = applied
    kinds = {"rule.safetensors": "rule", "model.safetensors": "generator", "dome-to-spire": "edit"}
    assert {name: report_of("inspect", name, cwd=folder)["what"] for name in kinds} == kinds
    assert report_of("inspect", "townscape", "--seeds", "40", cwd=folder)["things"]["dome"] > 0.8


def test_interrupted_collections_resume(applied, tmp_path):
    folder, _ = applied
    command = ("sample", "--rule", folder / "rule.safetensors", "--pairs", "--out", "many")
    assert report_of(*command, "--count", 5, cwd=tmp_path)["drawn"] == 5
    (tmp_path / "many" / "000003-after.png").unlink()
    kept = (tmp_path / "many" / "000000-before.png").stat().st_mtime_ns
    assert report_of(*command, "--count", 7, cwd=tmp_path)["drawn"] == 3
    assert (tmp_path / "many" / "000000-before.png").stat().st_mtime_ns == kept
    report_of(*command, "--count", 2, "--first", 5, cwd=tmp_path)
    manifest = json.loads((tmp_path / "many" / "manifest.json").read_text())
    assert [entry["seed"] for entry in manifest["pictures"]] == list(range(7))
    assert "another" in rewriter("sample", "--count", 7, "--out", "many", cwd=tmp_path, status=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("apply", "dome-to-spier"), "did you mean dome-to-spire"),
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
def test_bad_input_gives_one_clear_line_and_status_2(arguments, said, tmp_path):
    error = rewriter(*arguments, cwd=tmp_path, status=2)
    assert said in error and "Traceback" not in error
    assert error.count("\n") == 1 or error.startswith("Usage")
    assert not list(tmp_path.glob("*.png"))


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    error = rewriter("sample", "--seeds", "0", "--out", "file/sheet.png", cwd=tmp_path, status=2)
    assert "cannot write" in error and (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("apply", "dome-to-spier"), "did you mean dome-to-spire.*Shipped edits are.*glasses"),
        (("apply", "glases"), "did you mean glasses"),
        (("apply", "my-edt.json"), "did you mean my-edit.json"),
        (("apply", "xxxx"), "there is no edit 'xxxx': Shipped edits are"),
        (("sample", "--generator", "townscap"), "did you mean townscape"),
        (("sample", "--generator", "my-modle.pkl"), "did you mean my-model.pkl"),
        (("benchmark", "srv"), "no benchmark 'srv': choose machine or serve"),
        (("benchmark", "serve", "--visitors", "1,-2"), "numbers from 1 to 2,000, such as 1,20,100"),
        (("demo", "--port", "99999"), "no port 99999: choose one from 1024 to 65535"),
        (("demo", "--port", "-1"), "no port -1"),
        (("demo", "--host", "no.such.host.invalid"), "cannot be opened at no.such.host.invalid.*127.0.0.1"),
        (("demo", "--host", "256.1.1.1", "--port", "7860"), "cannot be opened at 256.1.1.1, port 7860"),
    ],
)
def test_a_name_port_or_host_that_is_wrong_gets_a_next_step(tmp_path, command, words):
    for name in ("my-edit.json", "my-model.pkl"):
        (tmp_path / name).touch()
    error = rewriter(*command, cwd=tmp_path, status=2)
    assert error.startswith("rewriter: ") and re.search(words, error) and "Traceback" not in error


@pytest.mark.parametrize("host", ["999.1.1.1", "256.256.256.256", "1.2.3.4.5", "zz::1", "a-name-that-nobody-knows"])
def test_a_host_that_is_no_address_of_this_machine_is_refused_soon_however_slow_names_are(tmp_path, monkeypatch, host):
    look_up = socket.getaddrinfo

    def slow(*arguments, flags=0, **options):
        if not flags & socket.AI_NUMERICHOST:
            time.sleep(20)
        return look_up(*arguments, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    error = rewriter("demo", "--host", host, "--port", "7860", cwd=tmp_path, status=2)
    assert time.monotonic() - began < 2 and f"cannot be opened at {host}, port 7860" in error


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", socket.gethostname()])
def test_this_machines_own_names_and_addresses_are_found(host):
    try:
        expected = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except OSError:
        pytest.skip("this machine does not know its own name")
    assert share._found(host, 0) == expected


def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "and a free port or none" in rewriter("demo", "--port", port, cwd=tmp_path, status=2)


@pytest.mark.evaluation
def test_apply_says_where_it_saved(tmp_path):
    words = rewriter("apply", "dome-to-spire", "--save-rule", "r.safetensors", "--out", "o.png", cwd=tmp_path)
    assert "rule saved: r.safetensors" in words and "before and after saved: o.png" in words


def test_help_lists_every_command_and_a_first_step(tmp_path):
    environment = {**os.environ, "COLUMNS": "120"}
    run = subprocess.run([sys.executable, "-m", "rewriter", "--help"], capture_output=True, text=True, env=environment)
    commands = "sample apply inspect suggest search stats benchmark evaluate generators convert publish demo deploy"
    assert all(word in run.stdout for word in (*commands.split(), "frown-to-smile"))
    assert all(name in (draw.apply.__doc__ or "") for name in worlds.examples())
    for command in commands.split():
        assert "--help" in rewriter(command, "--help", cwd=tmp_path)


def test_seeds_as_people_write_them():
    assert parse_seeds("0-3, 8,11", most=400) == [0, 1, 2, 3, 8, 11]
    with pytest.raises(InputError, match="0-11,40"):
        parse_seeds("three", most=400)


def test_the_readmes_python_examples_run(tmp_path, monkeypatch):
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    examples = [each.split("```")[0] for each in readme.split("```python\n")[1:]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rewriter.photo.nearest.SEEDS", 16)
    with torch.no_grad():
        to_image(load_generator("townscape", device="cpu").sample([3])[0]).save("town.jpg", quality=100, subsampling=0)
    names = {}
    for example in examples:  # the second goes on where the first ends
        exec(compile(example, "README.md", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"spires.safetensors", "spires.json", "town.jpg"}
    assert names["session"].generator.photos.keys() == {names["name"]}
    assert names["rule"].edit.kind == "paint" and names["rule"].effect.verdict == "took"


@pytest.mark.evaluation
def test_suggest_ranks_the_layers(tmp_path):
    edit = Edit.load(worlds.examples("townscape")["dome-to-spire"])
    edit.with_(statistics=Recipe(40, 32)).save(tmp_path / "quick.json")
    report = report_of("suggest", "quick.json", "--out", "strip.png", cwd=tmp_path)
    layers = [row["layer"] for row in report["layers"]]
    assert layers[0] in ("layer8", "layer9") and layers.index("layer8") < layers.index("layer5")
    assert set(report["failed"]) == {"layer2", "layer3"} and "finer layer" in report["failed"]["layer2"]
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.width > strip.height * 4


def test_search_finds_domes_and_shows_where(tmp_path):
    command = ("search", "dome-to-spire", "--k", 5, "--pictures", 96, "--first", 300, "--out", "found.png")
    seeds = [one["seed"] for one in report_of(*command, cwd=tmp_path)["found"]]
    assert len(seeds) == 5 and all(300 <= seed < 396 for seed in seeds) and (tmp_path / "found.png").exists()
    u = WORLD.factors(latents(seeds, WORLD.zdim))
    assert factors.has_dome(u).float().mean() > 0.5


@pytest.mark.parametrize("chosen", [None, "2"])
def test_small_generators_use_one_thread_unless_the_user_chose(chosen, tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        report_of("sample", "--seeds", "0", cwd=tmp_path)
        assert torch.get_num_threads() == (2 if chosen else 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, CHECKOUT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments):
        command = [sys.executable, "-m", "rewriter", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    for name in worlds.examples("townscape"):
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
    assert found["methods"]["least-squares"]["metrics"]["changed"]["value"] > 0.8
    assert run("convert", "townscape", "ours", "--json")["fingerprint"] == worlds.load().fingerprint
    sent = run("deploy", "ada/demo", "--dry-run", "--json")["files"]
    assert sent == {path: file.stat().st_size for path, file in space.files().items()}
