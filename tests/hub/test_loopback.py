"""The loopback Hub behaves like the Hub: the unmodified client writes, lists, reads, and tells its refusals apart."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback import LARGE, Account, LoopbackHub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, at each upload
FILES = {"config.json": b"{}", "weights/model.safetensors": bytes(range(256)) * (LARGE // 128)}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub({"hf_ada": Account("ada"), "hf_bob": Account("bob")}) as hub:
        hub.adopt(monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def ada(hub):
    return HfApi(hub.url, token="hf_ada")


@pytest.fixture
def model(hub, ada):
    """A model with FILES, written by the client."""
    ada.create_repo("ada/model")
    additions = [CommitOperationAdd(path, data) for path, data in FILES.items()]
    ada.create_commit("ada/model", additions, commit_message="first")
    return hub.repositories["model", "ada/model"]


def test_written_files_are_listed_and_read(ada, model, tmp_path):
    for path, data in FILES.items():
        got = Path(ada.hf_hub_download("ada/model", path, cache_dir=tmp_path))
        assert got.read_bytes() == data and model.at().oid in got.parts
    info = ada.model_info("ada/model", files_metadata=True)
    sizes = {file.rfilename: file.size for file in info.siblings}
    assert sizes.items() >= {path: len(data) for path, data in FILES.items()}.items()
    assert ada.whoami()["name"] == "ada"


def test_a_commit_is_all_or_nothing(ada, model):
    before = model.at()
    operations = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("no-such-file")]
    with pytest.raises(RemoteEntryNotFoundError):
        ada.create_commit("ada/model", operations, commit_message="half")
    with pytest.raises(HfHubHTTPError, match="412"):
        ada.create_commit("ada/model", operations[:1], commit_message="late", parent_commit="0" * 40)
    assert model.at() == before
    ada.create_commit("ada/model", [CommitOperationDelete("weights/")], commit_message="less")
    assert set(model.files()) == {".gitattributes", "config.json"} and model.at().parent == before.oid


def test_others_may_propose_but_not_write(hub, model):
    bob, addition = HfApi(hub.url, token="hf_bob"), [CommitOperationAdd("new.txt", b"new")]
    with pytest.raises(HfHubHTTPError, match="403"):
        bob.create_commit("ada/model", addition, commit_message="mine")
    proposed = bob.create_commit("ada/model", addition, commit_message="please", create_pr=True)
    assert proposed.pr_num == 1 and "new.txt" not in model.files() and model.files("refs/pr/1")["new.txt"] == b"new"


def test_refusals_are_told_apart(hub, ada, model, tmp_path):
    nobody, bob = HfApi(hub.url, token=False), HfApi(hub.url, token="hf_bob")
    with pytest.raises(RepositoryNotFoundError):
        ada.model_info("ada/none")
    with pytest.raises(RevisionNotFoundError):
        ada.model_info("ada/model", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        ada.hf_hub_download("ada/model", "none", cache_dir=tmp_path)
    model.gated = True
    with pytest.raises(GatedRepoError):
        nobody.hf_hub_download("ada/model", "config.json", cache_dir=tmp_path)
    model.private = True
    for stranger in (nobody, bob):
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info("ada/model")
    with pytest.raises(HfHubHTTPError, match="409"):
        ada.create_repo("ada/model")
