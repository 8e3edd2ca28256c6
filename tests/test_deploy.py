"""The page as a Space: what goes there, against a loopback Hub; every way to fail; and that what arrived runs."""

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
from itertools import count

import numpy as np
import pytest
from huggingface_hub import RepoCard, constants, utils
from loopback import Account, Answer, LoopbackHub
from PIL import Image

from rewriter.errors import InputError
from rewriter.hub import space
from rewriter.worlds import townscape

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
    """Whether exactly our files are there, less what the Hub lays there itself."""
    return {path: data for path, data in repository.files().items() if path != ".gitattributes"} == ours()


# --- what goes there ---


def test_the_page_at_the_root_with_the_package_beside_it_and_nothing_else():
    others = {".pyi", ".webp"}  # what Gradio writes, and the picture in the README
    page = {
        path.name for path in PAGE.iterdir() if path.suffix not in others and path.is_file() and path.name[0] != "."
    }
    examples = {
        f"worlds/townscape/examples/{name}{kind}" for name in townscape.examples() for kind in (".json", ".png")
    }
    modules = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    package = {"py.typed", townscape.WEIGHTS.relative_to(PACKAGE).as_posix(), *examples, *modules}
    assert set(space.files()) == {"LICENSE", "checkpoints.json"} | page | {f"rewriter/{path}" for path in package}
    assert {"app.py", "README.md", "requirements.txt", "rewriter/editing/session.py"} <= set(space.files())
    assert all(file.is_file() for file in space.files().values())


def test_a_space_is_a_package_of_the_same_parts():
    """Less the catalogue's, whose table lies with the page there."""
    ours, there = (
        tomllib.loads(path.read_text()) for path in (PACKAGE.parent / "pyproject.toml", PAGE / "pyproject.toml")
    )
    both = [data["tool"]["setuptools"]["packages"] for data in (ours, there)]
    assert set(both[0]) - {"rewriter.catalogue"} == set(both[1])
    assert ours["project"]["scripts"] == there["project"]["scripts"]


def test_the_card_is_one_that_the_hub_takes():
    card = RepoCard(space.files()["README.md"].read_text(encoding="utf-8")).data.to_dict()
    assert card["sdk"] == "gradio" and card["app_file"] in space.files()
    assert len(card["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {card["colorFrom"], card["colorTo"]} <= colours


def test_a_dry_run_lists_it_and_asks_nobody(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    status, out, _ = run("deploy", NAME, "--dry-run", "--json")
    sizes = {path: len(data) for path, data in ours().items()}
    assert status == 0 and hub.requests == []
    assert json.loads(out) == {"space": NAME, "files": sizes, "bytes": sum(sizes.values())}
    _, listed, _ = run("deploy", NAME, "--dry-run")
    assert [line.split()[-1] for line in listed.splitlines()[:-1]] == list(sizes)
    assert f"{sum(sizes.values()):,}" in listed.splitlines()[-1]


def test_an_installed_package_sends_the_same(tmp_path):
    """As a wheel lays it out: the page in the package, the licence in the metadata, strangers' files beside it."""
    site, less = tmp_path / "site", shutil.ignore_patterns("__pycache__", "*.pyi")
    shutil.copytree(PACKAGE, site / "rewriter", ignore=less)
    shutil.copytree(PAGE, site / "rewriter" / "space", ignore=less)
    licences = site / "rewriter-0.1.0.dist-info" / "licenses"
    licences.mkdir(parents=True)
    shutil.copy(space.files()["LICENSE"], licences)
    (site / "rewriter" / "catalogue").mkdir()
    shutil.copy(space.files()["checkpoints.json"], site / "rewriter" / "catalogue")
    (site / "LICENSE").write_text("of another package")
    (site / "checkpoints.json").write_text("of another package")
    (site / "rewriter" / ".ipynb_checkpoints").mkdir()
    (site / "rewriter" / ".ipynb_checkpoints" / "edit.py").touch()
    command = [sys.executable, "-m", "rewriter", "deploy", NAME, "--dry-run", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_ENDPOINT": NOWHERE, "HF_TOKEN": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert json.loads(done.stdout)["files"] == {path: len(data) for path, data in ours().items()}


@pytest.mark.slow
def test_a_space_can_be_installed_from_and_cards_name_where_from(tmp_path):
    """As pip does from git: a clone of what a Space holds, which then draws, knows its catalogue and has the page."""
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
        "print(rewriter.__file__, tuple(g.sample([0]).shape), 'church' in catalogue(), len(space.files()), "
        "card.install())"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    wanted = f"{site / 'rewriter' / '__init__.py'} (1, 3, 64, 64) True {len(ours())} pip install {source}@{commit}"
    assert done.stdout.strip() == wanted
    environment["SPACE_ID"] = "ada/page"
    done = subprocess.run(
        [sys.executable, "-c", "from rewriter.hub import card; print(card.install())"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environment, "HF_ENDPOINT": "https://huggingface.co"},
        check=True,
    )
    assert done.stdout.strip() == "pip install git+https://huggingface.co/spaces/ada/page"


# --- how it gets there ---


def test_the_first_time_is_one_commit_of_exactly_these_bytes(tmp_path):
    """In a process of its own, which reads where the Hub is when it starts."""
    with LoopbackHub(ACCOUNTS) as hub:
        environment = {**os.environ, **hub.environment(TOKEN), "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "rewriter", "deploy", NAME, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        made = hub.repositories[SPACE]
        assert complete(made) and made.sdk == "gradio" and not made.private
        assert [each.parent for each in made.commits.values()] == [None, *list(made.commits)[:-1]]
        assert len(made.commits) == 2  # the Hub's own, and this one
        report = json.loads(done.stdout)
        assert report["url"] == f"{hub.url}/spaces/{NAME}" and report["commit"] == made.at().oid
        assert report["created"] and report["changed"] and report["bytes"] == sum(map(len, ours().values()))
        assert done.stderr.splitlines() and all(line.endswith(" …") for line in done.stderr.splitlines())
        assert TOKEN not in done.stdout + done.stderr


def test_an_update_leaves_no_stale_module_and_keeps_what_others_put_there(hub, run):
    stale = {"rewriter/old.py": b"", "rewriter/worlds/townscape/old.json": b"{}", "gone.py": b""}
    kept = {"notes.md": b"mine", "data/own.py": b"mine", ".gitignore": b"*.log"}
    theirs = {**stale, **kept, "rewriter/__init__.py": b"old", "app.py": b"old"}
    there = hub.add(*SPACE, theirs, sdk="gradio")
    status, out, _ = run("deploy", NAME, "--json")
    assert status == 0 and set(json.loads(out)["removed"]) == set(stale) and not json.loads(out)["created"]
    assert there.files() == {**ours(), **kept, ".gitattributes": there.files()[".gitattributes"]}
    assert len(there.commits) == 2


def test_again_with_nothing_new_is_no_commit(hub, run):
    run("deploy", NAME)
    before = list(hub.repositories[SPACE].commits)
    status, out, _ = run("deploy", NAME)
    assert status == 0 and "up to date already" in out and f"{hub.url}/spaces/{NAME}" in out
    assert list(hub.repositories[SPACE].commits) == before


def test_for_an_organisation_in_private_on_other_hardware(hub, run):
    hub.add("model", "guild/demo")  # a model of that name is in nobody's way
    assert run("deploy", "guild/demo", "--private", "--hardware", "zero-a10g")[0] == 0
    made = hub.repositories["space", "guild/demo"]
    assert made.private and made.hardware == "zero-a10g" and complete(made)
    assert run("deploy", "guild/demo", "--hardware", "cpu-upgrade")[0] == 0
    assert made.hardware == "cpu-upgrade" and made.private and len(made.commits) == 2


# --- what can go wrong ---


@pytest.mark.parametrize("name", ["demo", "ada/", "/demo", "a/b/c", "ada/my demo", "ada/a--b", "ada/x.git", "a/" * 60])
def test_a_name_that_is_none(hub, refused, name):
    assert "USER/NAME" in refused(name) and "USER/NAME" in refused(name, "--dry-run") and hub.requests == []


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "hf auth login"), ("hf_sécret", "characters"), ("hf_a b", "characters"), ("hf_of_nobody", "401")],
)
def test_a_token_that_is_none(hub, refused, monkeypatch, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    line = refused()
    assert said in line and "HF_TOKEN" in line and (not token or token not in line)
    assert hub.repositories == {}


def test_an_account_or_a_token_that_may_not(hub, refused, monkeypatch):
    assert "403" in refused("bob/demo")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "403" in refused() and hub.repositories == {}
    there = hub.add(*SPACE, {}, sdk="gradio")
    assert "may write" in refused() and len(there.commits) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sdk": "docker"}, "docker"),
        ({"sdk": "gradio", "files": {"app.py": b"another app"}}, "another app"),
        ({"sdk": "gradio", "private": True}, "is private"),
    ],
)
def test_a_space_that_is_not_to_be_written_over(hub, refused, options, said):
    there = hub.add(*SPACE, **options)
    assert said in refused(NAME, "--public") and len(there.commits) == 1


def test_nothing_private_is_put_where_all_can_see_it(hub, refused):
    there = hub.add(*SPACE, sdk="gradio")
    assert "is public" in refused(NAME, "--private") and len(there.commits) == 1


@pytest.mark.parametrize(
    ("path", "fault", "said"),
    [
        ("/create", 402, "zero-a10g"),
        ("/create", 403, "may write"),
        ("/create", Answer(409, b'{"url": "https://huggingface.co/spaces/ada/demo"}'), "choose another"),
        ("/create", 429, "wait"),
        ("/create", Answer(200, b"<html>Log in to the hotel</html>"), "HF_ENDPOINT"),
        ("/validate-yaml", Answer(400, b'{"errors": [{"message": "sdk is odd"}]}'), "sdk is odd"),
        ("/batch", Answer(200, b"[]"), "HF_ENDPOINT"),
        ("/lfs/", 404, "404"),
        ("/commit/", 409, "try again"),
        ("/commit/", 413, "storage"),
        ("/commit/", 418, "418"),
        ("/commit/", Answer(403, b'{"error": "not with hf_ada_may_write"}'), "not with ***"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(hub, refused, path, fault, said):
    hub.fault = lambda n, request: fault if path in request.path else None
    assert said in refused()
    assert SPACE not in hub.repositories or len(hub.repositories[SPACE].commits) == 1


def test_somebody_elses_commit_in_between_is_kept(hub, refused, run):
    there = hub.add(*SPACE, sdk="gradio")

    def race(n, request):
        if "/commit/" in request.path and len(there.commits) == 1:
            there.commit({**there.files(), "notes.md": b"theirs"}, "theirs")

    hub.fault = race
    assert "412" in refused() and len(there.commits) == 2
    assert run("deploy", NAME)[0] == 0 and there.files()["notes.md"] == b"theirs" and there.files()["app.py"]


def test_no_network_and_offline_mode(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    utils.close_session()  # a client that is there already would go on
    assert "unset it" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    utils.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    assert NOWHERE in refused() and hub.requests == []


@pytest.mark.parametrize("fault", [500, "cut", "lost", "always"])
def test_trouble_at_any_request_leaves_all_or_nothing_and_is_made_good_by_trying_again(hub, run, fault):
    for first in count(1):
        hub.repositories.clear(), hub.uploads.clear(), hub.requests.clear()
        hub.fault = lambda n, request, first=first: (
            "cut" if fault == "always" and n >= first else fault if n == first else None
        )
        status, _, err = run("deploy", NAME)
        there = hub.repositories.get(SPACE)
        if len(hub.requests) < first:
            break
        assert status in (0, 2) and (status == 0 or "again" in err.splitlines()[-1])
        assert there is None or len(there.commits) == 1 or (len(there.commits) == 2 and complete(there))
        assert status == 2 or complete(there)
        hub.fault = lambda n, request: None
        assert run("deploy", NAME)[0] == 0
        assert complete(hub.repositories[SPACE]) and len(hub.repositories[SPACE].commits) == 2
    assert first == 10  # the nine requests of a first time, each of them in trouble once


def test_the_library_raises_what_the_command_line_says(hub):
    with pytest.raises(InputError, match="401"):
        space.deploy(NAME, token="hf_of_nobody", endpoint=hub.url)


# --- that it runs there ---


@pytest.fixture
def address(hub, tmp_path):
    """The page as it arrived, started as a Space starts it: in its folder, with nothing else of ours in reach."""
    space.deploy(NAME, endpoint=hub.url)
    folder, elsewhere = tmp_path / "space", tmp_path / "elsewhere"
    for path, data in hub.repositories[SPACE].files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    for path in (file for file in hub.repositories[SPACE].files() if file.endswith(".py") and file != "app.py"):
        (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)  # comes before what is installed, after the folder
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


@pytest.mark.filterwarnings("ignore")
def test_the_deployed_page_draws_the_towns(address, town):
    from gradio_client import Client

    drawn = Client(address, verbose=False).predict("0, 7", False, api_name="/pictures")
    assert set(drawn) == {"0", "7"}
    for seed, url in drawn.items():
        with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
            got = np.asarray(picture.convert("RGB"), dtype=float)
        wanted = (town.sample([int(seed)])[0].permute(1, 2, 0).detach().numpy() + 1) * 127.5
        assert got.shape == wanted.shape and np.abs(got - wanted.clip(0, 255)).max() <= 1
