"""Files written by version 0.1 load and lead to the same rules: edits, a rule, a session, a published repository."""

from dataclasses import replace

import pytest
import torch
from conftest import DATA, near, same_rule
from safetensors.torch import load_file

from rewriter import Edit, Rewriter, Rule, load_edits, load_generator, replay, save_edits
from rewriter.editing.statistics import Statistics

WRITTEN = DATA / "written-by-0.1"
SEEDS = [0, 10_003]  # those of pictures.safetensors
HAT, WATERMARK = ("a hat", "layer8"), ("remove watermark", "layer6")
FULL, HALF = (*HAT, 1.0, True), (*HAT, 0.5, True)
ON, OFF = (*WATERMARK, 1.0, True), (*WATERMARK, 1.0, False)
STATES = [  # of the session: kind and layer of the edit, number of its places, the rules, and which is its own
    *(("replace", "layer8", places, [], None) for places in (0, 1, 2, 3, 4, 4)),
    ("replace", "layer8", 4, [FULL], 0),
    ("replace", "layer6", 0, [FULL], None),
    ("erase", "layer6", 11, [FULL], None),
    ("erase", "layer6", 11, [FULL, ON], 1),
    ("erase", "layer6", 11, [HALF, ON], 1),
    ("erase", "layer6", 11, [HALF, OFF], 1),
    ("replace", "layer8", 0, [HALF, OFF], None),
    ("replace", "layer8", 1, [HALF, OFF], None),
]


@pytest.fixture(scope="module")
def rule():
    return Rule.load(WRITTEN / "rule.safetensors")


@pytest.fixture(scope="module")
def pictures():
    """What version 0.1 drew: the generator alone, with the rule, and in the session."""
    return load_file(WRITTEN / "pictures.safetensors")


@pytest.fixture
def session(town):
    return Rewriter.load(town, WRITTEN / "session.safetensors")


def as_drawn_then(now, then):
    return near(now, then, 1e-4)


def test_the_rule_draws_the_same_pictures_and_is_saved_with_the_same_bytes(town, rule, pictures, tmp_path):
    assert as_drawn_then(town.sample(SEEDS), pictures["base"])
    assert as_drawn_then(town.sample(SEEDS, rules=[rule]), pictures["rule"])
    assert not near(pictures["rule"], pictures["base"], 1e-2)
    rule.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (WRITTEN / "rule.safetensors").read_bytes()


def test_the_repository_carries_the_rule_to_the_bit(rule, pictures):
    published = load_generator(str(WRITTEN / "repository"), device="cpu")
    (carried,) = published.rules
    assert same_rule(carried, rule) and carried.about() == rule.about()
    assert as_drawn_then(published.sample(SEEDS), pictures["rule"])
    assert as_drawn_then(published.sample(SEEDS, rules=[]), pictures["base"])


@pytest.mark.parametrize("name", ["edit.json", "edits.json", "repository/edits/1-a-hat.json"])
def test_edits_are_saved_with_the_same_bytes(name, rule, tmp_path):
    edits = load_edits(WRITTEN / name)
    save_edits(edits, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (WRITTEN / name).read_bytes()
    assert edits[0].digest == rule.request and edits[0].to_json() == rule.edit.to_json()


def test_replaying_the_edits_gives_the_same_rules(town, rule, session):
    """On other machines pictures agree within 1e-4 of the range, and the numbers of a rule less closely."""
    statistics, rules = Statistics(town), []
    for edit in load_edits(WRITTEN / "edits.json"):  # the second names the first as made before it
        rules.append(replay(town, edit, rules=rules, statistics=statistics, unseen=[20_000]))
    for again, before in zip(rules, (rule, session.rules[1]), strict=True):
        before = replace(before, strength=1.0, on=True)
        assert as_drawn_then(town.sample(SEEDS, rules=[again]), town.sample(SEEDS, rules=[before]))
        assert near(again.delta, before.delta, 1e-2) and near(again.directions, before.directions, 1e-4)
        assert again.level == pytest.approx(before.level, rel=1e-4) and again.edit.to_json() == before.edit.to_json()
    assert Edit.load(WRITTEN / "edit.json").digest == rules[0].request


def described(state):
    rules = [(rule.title, rule.layer, rule.strength, rule.on) for rule in state.rules]
    return state.edit.kind, state.edit.layer, len(state.edit.regions), rules, state.made


def test_undo_and_redo_lead_through_all_states_of_the_session(session, rule, pictures, tmp_path):
    assert as_drawn_then(session.sample(SEEDS), pictures["session"])
    assert same_rule(session.rules[0], rule)
    for expected in STATES[:0:-1]:
        assert described(session.history.present) == expected
        session.undo()
    assert torch.equal(session.sample(SEEDS), session.sample(SEEDS, original=True))
    session.save(tmp_path / "again")
    session = Rewriter.load(session.generator, tmp_path / "again")
    for expected in STATES[:-1]:
        assert described(session.history.present) == expected
        session.redo()
    assert described(session.history.present) == STATES[-1] and session.edit.after == (f"{rule.request}@0.5",)
    assert as_drawn_then(session.sample(SEEDS), pictures["session"])
