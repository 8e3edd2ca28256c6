"""`rewriter generators --check FILE`: one page about a file, and reasons for what is no generator."""

import json

import persistence
import pytest
import tensorflow_pickles
import torch
from conftest import DATA, state_of
from hostile import saved
from plain_fastgan import plain_fastgan
from plain_stylegan3 import plain_state

from rewriter.checkpoints import store
from rewriter.editing.rule import Rule

PLAIN, GANDISSECT = DATA / "nvidia_stylegan2_16px_plain.pt", DATA / "gandissect_proggan_32px.pth"


def checked(run, path, *more):
    """The page about a file in JSON, and in words."""
    status, out, err = run("generators", "--check", path, *more, "--json")
    assert status == 0, err
    return json.loads(out), run("generators", "--check", path, *more)[1]


def test_a_file_of_the_catalogue_is_certain(run, tmp_path, town):
    from rewriter.checkpoints.catalogue import catalogue

    about, page = checked(run, catalogue()["townscape"].local)
    assert about["entry"] == "townscape" and about["fingerprint"] == town.fingerprint and about["doubts"] == []
    assert "certain: its SHA-256 is that of townscape" in page and "apache-2.0" in page
    assert about["begin"]["objects"] == "layer8" and "rosinality" in about["layouts"]
    assert "tensorflow" not in about["layouts"]  # whose code cannot have these channels


@pytest.mark.parametrize(
    ("make", "kind", "taken", "begin"),
    [
        (lambda: state_of(GANDISSECT.name), "Progressive GAN", "pixel norm", "layer8"),
        (lambda: plain_state(64, count=8, base=96, most=4), "StyleGAN3 T", "ten cells", "layer5"),
        (lambda: plain_state(64, count=8, base=96, most=4, radial=True), "StyleGAN3 R", "ten cells", "layer5"),
        (lambda: plain_fastgan().state_dict(), "FastGAN", "fixed noise", "layer6"),
    ],
)
def test_what_is_likely_and_taken_for_granted_is_said(run, tmp_path, make, kind, taken, begin):
    (tmp_path / "some.bin").write_bytes(saved(make()))
    about, page = checked(run, tmp_path / "some.bin")
    assert about["architecture"] == kind and f"{kind}, " in page and "likely: every tensor" in page
    assert taken in about["sure"] and about["begin"]["objects"] == begin and about["licence"] is None
    assert "licence      unknown" in page and "ask where it came" in page
    assert max(map(len, page.splitlines())) <= 100 + len(str(tmp_path))


def test_a_pickle_whose_layers_say_how_they_are_drawn_is_almost_certain_and_one_of_tensors_alone_is_not(run, tmp_path):
    state = state_of(PLAIN.name)
    (tmp_path / "network.pkl").write_bytes(persistence.dumps(persistence.network(state)))
    (tmp_path / "tensors.pkl").write_bytes(persistence.dumps(state))
    (tmp_path / "flow.pkl").write_bytes(tensorflow_pickles.dumps(tensorflow_pickles.network(state)))
    sure = {path.stem: checked(run, path)[0]["sure"].split(":")[0] for path in tmp_path.glob("*.pkl")}
    assert sure == {"network": "almost certain", "tensors": "likely", "flow": "almost certain"}


def test_options_count_and_are_refused_without_a_file(run, tmp_path):
    (tmp_path / "ada.pt").write_bytes(saved(state_of(PLAIN.name)))
    _, page = checked(run, tmp_path / "ada.pt")
    assert "no clamp of features unless --conv-clamp" in page and "StyleGAN2-ADA needs --conv-clamp 256" in page
    assert "clamped at 2" in checked(run, tmp_path / "ada.pt", "--conv-clamp", 2)[1]
    status, _, err = run("generators", "--conv-clamp", 256)
    assert status == 2 and "belong to --check FILE" in err


def test_what_is_no_generator_is_told_from_one(run, tmp_path, change, town):
    rule, session = tmp_path / "rule.safetensors", tmp_path / "folder"
    Rule(**vars(change(town, "layer8"))).save(rule)
    store.save(town, session)
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"convs.0.0.weight": torch.zeros(2)}, tmp_path / "d.pt")
    for path, said in {
        rule: "no generator, but a file of this package",
        session: "is a folder: name a file in it",
        tmp_path / "missing.pt": "is no file: check the path",
        tmp_path / "text.pt": "unknown format",
        tmp_path / "d.pt": "it is a discriminator",
    }.items():
        status, out, err = run("generators", "--check", path)
        assert (status, out) == (2, "") and said in err and err.count("\n") == 1, err


def test_converting_a_file_onto_itself_is_refused_and_loses_nothing(run, tmp_path):
    path = tmp_path / "own.pt"
    path.write_bytes(before := saved(state_of(PLAIN.name)))
    status, _, err = run("convert", path, path, "--layout", "nvidia")
    assert status == 2 and "give the new one another name" in err and path.read_bytes() == before
