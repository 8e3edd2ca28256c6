"""The page as a Space: which files it consists of, how they get to a loopback Hub, and that what arrives runs."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request

import numpy as np
import pytest
from huggingface_hub import RepoCard, constants, utils
from loopback import Account, LoopbackHub
from PIL import Image

from rewriter import worlds
from rewriter.checkpoints import catalogue
from rewriter.errors import InputError
from rewriter.hub import space

TOKEN, READER = "hf_ada_may_write", "hf_ada_may_read"
SPACE, NAME = ("space", "ada/demo"), "ada/demo"
PAGE, PACKAGE = space.page_folder(), space.PACKAGE
NOWHERE = "http://127.0.0.1:1"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, at each upload
ACCOUNTS = {TOKEN: Account("ada", ("guild",)), READER: Account("ada", write=False)}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(ACCOUNTS) as hub:
        hub.adopt(monkeypatch, tmp_path, TOKEN)
        yield hub


@pytest.fixture
def refused(run):
    """The one clear line of a command that must fail."""

    def command(*arguments):
        status, out, err = run("deploy", *(arguments or [NAME]))
        lines = [line for line in err.splitlines() if not line.endswith(" …")]
        assert status == 2 and out == "" and len(lines) == 1 and lines[0].startswith("rewriter: ")
        return lines[0]

    return command


def ours():
    """Path → bytes of what a Space consists of."""
    return {path: file.read_bytes() for path, file in space.files().items()}


def complete(repository):
    """Whether exactly our files are there, besides the one that the Hub adds itself."""
    return {path: data for path, data in repository.files().items() if path != ".gitattributes"} == ours()


def test_a_space_has_the_page_at_its_root_with_the_package_beside_it_and_nothing_else():
    others = {".pyi", ".webp"}  # what Gradio writes, and the picture in the README
    page = {
        path.name for path in PAGE.iterdir() if path.is_file() and path.suffix not in others and path.name[0] != "."
    }
    examples = [path for name in (*catalogue.built_ins(), "faces") for path in worlds.examples(name).values()]
    shown = [path.with_suffix(kind) for path in examples for kind in (".json", ".png")]
    package = {
        path.relative_to(PACKAGE).as_posix()
        for path in (
            *PACKAGE.rglob("*.py"),
            *shown,
            *PACKAGE.glob("worlds/*/*px.safetensors"),
            *PACKAGE.glob("units/shipped/*.json"),
        )
    }
    assert set(space.files()) == {
        "LICENSE",
        "checkpoints.json",
        *page,
        *(f"rewriter/{p}" for p in package | {"py.typed"}),
    }
    assert {"app.py", "README.md", "requirements.txt", "rewriter/editing/session.py"} <= set(space.files())


def test_a_space_is_a_package_of_the_same_parts():
    """All but the catalogue's folder, because its table lies with the page there."""
    own, there = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (PACKAGE.parent, PAGE))
    both = [data["tool"]["setuptools"]["packages"] for data in (own, there)]
    assert set(both[0]) - {"rewriter.catalogue"} == set(both[1])
    assert own["project"]["scripts"] == there["project"]["scripts"]


def test_the_card_of_the_space_is_valid():
    card = RepoCard(space.files()["README.md"].read_text(encoding="utf-8")).data.to_dict()
    assert card["sdk"] == "gradio" and card["app_file"] in space.files()
    assert len(card["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card["colorFrom"], card["colorTo"]} <= colours


def test_an_installed_package_sends_the_same_files(tmp_path, monkeypatch):
    """As a wheel lays it out: the page in the package, the licence in the metadata, strangers' files beside it."""
    site, wanted = tmp_path / "site", ours()
    for folder, name in ((PACKAGE, "rewriter"), (PAGE, "rewriter/space")):
        shutil.copytree(folder, site / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    for path, folder in (("LICENSE", "rewriter-0.1.0.dist-info/licenses"), ("checkpoints.json", "rewriter/catalogue")):
        (site / folder).mkdir(parents=True)
        shutil.copy(space.files()[path], site / folder)
        (site / path).write_text("of another package")
    (site / "rewriter" / ".ipynb_checkpoints").mkdir()
    (site / "rewriter" / ".ipynb_checkpoints" / "edit.py").touch()
    monkeypatch.setattr(space, "PACKAGE", site / "rewriter")
    monkeypatch.setattr(catalogue, "PACKAGE", site / "rewriter")
    assert ours() == wanted and all(path.is_relative_to(site) for path in space.files().values())


@pytest.mark.slow
def test_a_space_can_be_installed_from_git_and_cards_name_it_as_the_source(tmp_path):
    for path, data in ours().items():
        (tmp_path / "space" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / path).write_bytes(data)
    git = ["git", "-C", str(tmp_path / "space"), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    source, site = f"git+file://{tmp_path / 'space'}", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, source], check=True)
    code = (
        "import rewriter; from rewriter.hub import card, space; from rewriter.checkpoints.catalogue import catalogue; "
        "g = rewriter.load_generator('townscape', device='cpu'); "
        "print(rewriter.__file__, tuple(g.sample([0]).shape), 'church' in catalogue(), len(space.files())); "
        "print(card.install())"
    )

    def said(code, **more):
        environment = {**os.environ, "PYTHONPATH": str(site), **more}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
        return done.stdout.strip()

    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    wanted = f"{site / 'rewriter' / '__init__.py'} (1, 3, 64, 64) True {len(ours())}\npip install {source}@{commit}"
    assert said(code) == wanted
    there = {"SPACE_ID": "ada/page", "HF_ENDPOINT": "https://huggingface.co"}
    installed = said("from rewriter.hub import card; print(card.install())", **there)
    assert installed == "pip install git+https://huggingface.co/spaces/ada/page"


def test_a_dry_run_lists_the_files_without_any_request(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    status, out, _ = run("deploy", NAME, "--dry-run", "--json")
    sizes = {path: len(data) for path, data in ours().items()}
    assert status == 0 and hub.requests == []
    assert json.loads(out) == {"space": NAME, "files": sizes, "bytes": sum(sizes.values())}
    _, listed, _ = run("deploy", NAME, "--dry-run")
    assert [line.split()[-1] for line in listed.splitlines()[:-1]] == list(sizes)


def test_the_first_deployment_is_one_commit_and_one_without_changes_is_none(hub, run):
    status, out, err = run("deploy", NAME, "--json")
    made = hub.repositories[SPACE]
    assert status == 0 and complete(made) and made.sdk == "gradio" and not made.private
    assert len(made.commits) == 2  # the Hub's own, and this one
    report = json.loads(out)
    assert report["url"] == f"{hub.url}/spaces/{NAME}" and report["commit"] == made.at().oid
    assert report["created"] and report["changed"] and report["bytes"] == sum(map(len, ours().values()))
    assert err.splitlines() and all(line.endswith(" …") for line in err.splitlines())
    status, out, _ = run("deploy", NAME)
    assert status == 0 and "up to date already" in out and len(made.commits) == 2


def test_an_update_deletes_our_outdated_files_and_keeps_those_of_others(hub, run):
    old = {"rewriter/old.py": b"", "rewriter/worlds/townscape/old.json": b"{}", "gone.py": b""}
    kept = {"notes.md": b"mine", "data/own.py": b"mine", ".gitignore": b"*.log"}
    there = hub.add(*SPACE, {**old, **kept, "rewriter/__init__.py": b"old", "app.py": b"old"}, sdk="gradio")
    status, out, _ = run("deploy", NAME, "--json")
    assert status == 0 and set(json.loads(out)["removed"]) == set(old) and not json.loads(out)["created"]
    assert there.files() == {**ours(), **kept, ".gitattributes": there.files()[".gitattributes"]}
    assert len(there.commits) == 2


def test_a_private_space_of_an_organisation_gets_other_hardware(hub, run):
    hub.add("model", "guild/demo")  # a model of the same name is no obstacle
    assert run("deploy", "guild/demo", "--private", "--hardware", "zero-a10g")[0] == 0
    made = hub.repositories["space", "guild/demo"]
    assert made.private and made.hardware == "zero-a10g" and complete(made)
    assert run("deploy", "guild/demo", "--hardware", "cpu-upgrade")[0] == 0
    assert made.hardware == "cpu-upgrade" and made.private and len(made.commits) == 2


@pytest.mark.parametrize("name", ["demo", "ada/", "a/b/c", "ada/my demo", "ada/a--b", "ada/x.git", "a/" * 60])
def test_an_impossible_name_is_refused_without_a_request(hub, refused, name):
    assert "USER/NAME" in refused(name) and "USER/NAME" in refused(name, "--dry-run") and hub.requests == []


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "hf auth login"), ("hf_sécret", "characters"), ("hf_a b", "characters"), ("hf_of_nobody", "401")],
)
def test_a_wrong_token_is_refused_and_not_repeated(hub, refused, monkeypatch, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    line = refused()
    assert said in line and "HF_TOKEN" in line and (not token or token not in line)
    assert hub.repositories == {}


def test_an_account_or_token_without_the_right_to_write_is_refused(hub, refused, monkeypatch):
    assert "403" in refused("bob/demo")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "403" in refused() and hub.repositories == {}
    there = hub.add(*SPACE, {}, sdk="gradio")
    assert "may write" in refused() and len(there.commits) == 1


@pytest.mark.parametrize(
    ("options", "flag", "said"),
    [
        ({"sdk": "docker"}, "--public", "docker"),
        ({"sdk": "gradio", "files": {"app.py": b"another app"}}, "--public", "another app"),
        ({"sdk": "gradio", "private": True}, "--public", "is private"),
        ({"sdk": "gradio"}, "--private", "is public"),
    ],
)
def test_another_space_and_a_wrong_visibility_are_refused(hub, refused, options, flag, said):
    there = hub.add(*SPACE, **options)
    assert said in refused(NAME, flag) and len(there.commits) == 1


def test_a_new_space_runs_on_what_a_free_account_may_have_and_an_existing_one_keeps_its_hardware(hub, run):
    assert run("deploy", NAME)[0] == 0 and hub.repositories[SPACE].hardware == "zero-a10g"
    for there in (hub.add("space", "ada/plain", sdk="gradio"), hub.add("space", "ada/t4", sdk="gradio", hardware="t4")):
        hardware = there.hardware
        assert run("deploy", there.id)[0] == 0 and there.hardware == hardware and complete(there)
    assert not any("hardware" in request for request in hub.requests)
    assert run("deploy", "ada/cpu", "--hardware", "cpu-basic")[0] == 0
    assert hub.repositories["space", "ada/cpu"].hardware == "cpu-basic"


@pytest.mark.parametrize("status", [400, 402, 403])
def test_hardware_that_the_hub_refuses_is_explained_with_a_next_step(hub, refused, status):
    hub.fault = lambda n, request: status if request.path.endswith(("/create", "/hardware")) else None
    for options in ((), ("--hardware", "cpu-upgrade")):
        line = refused(NAME, *options)
        assert f"answered {status}" in line and "may have two Gradio Spaces, on zero-a10g" in line
        assert "--hardware cpu-basic" in line and "subscribe" in line
    assert hub.repositories == {}
    there = hub.add(*SPACE, sdk="gradio")
    line = refused(NAME, "--hardware", "t4-small")
    assert "t4-small" in line and "subscribe" in line and len(there.commits) == 1


def test_a_missing_network_is_reported(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    utils.close_session()  # a client that exists already would ignore it
    assert "unset it" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    utils.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    assert NOWHERE in refused() and hub.requests == []


def test_the_library_raises_what_the_command_prints(hub):
    with pytest.raises(InputError, match="401"):
        space.deploy(NAME, token="hf_of_nobody", endpoint=hub.url)


@pytest.fixture
def address(hub, tmp_path):
    """The page as it arrived, started as a Space starts it: in its folder, with none of our other files in reach."""
    space.deploy(NAME, endpoint=hub.url)
    folder, elsewhere = tmp_path / "space", tmp_path / "elsewhere"
    for path, data in hub.repositories[SPACE].files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        if path.endswith(".py") and path != "app.py":  # found before what is installed here, and after the Space's own
            (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)
            (elsewhere / path).write_text("raise SystemExit('this is not the module that was deployed')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(elsewhere)}
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            yield wait_for(f"http://127.0.0.1:{port}", server, log)
        finally:
            server.terminate()
            server.wait()


def wait_for(url, server, log):
    for _ in range(300):
        assert server.poll() is None, log.seek(0) or log.read()
        try:
            with urllib.request.urlopen(f"{url}/config", timeout=5):
                return url
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the page never answered: {log.seek(0) or log.read()}")


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")
def test_the_deployed_page_draws_portraits(address):
    from gradio_client import Client

    portraits = worlds.load("portraits")  # on which the page opens
    drawn = Client(address, verbose=False).predict("0, 7", False, api_name="/pictures")
    assert set(drawn) == {"0", "7"}
    for seed, url in drawn.items():
        with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
            got = np.asarray(picture.convert("RGB"), dtype=float)
        wanted = (portraits.sample([int(seed)])[0].permute(1, 2, 0).detach().numpy() + 1) * 127.5
        assert got.shape == wanted.shape and np.abs(got - wanted.clip(0, 255)).max() <= 1
