"""Rules as files: exact, small, tied to one generator, and never a way to crash the reader."""

import json
import math
import os
import resource
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from rewriter.editing.rule import FORMAT, Effect, Rule
from rewriter.errors import InputError
from rewriter.files import read_json, replacing
from rewriter.generators.change import LowRank

EFFECT = Effect(0.625, 0.5, 1.25, 0.1, pictures=48, places=77, seconds=0.3)


@pytest.fixture
def rule(stylegan, change):
    low_rank = change(stylegan, "layer4")
    return Rule(
        low_rank.layer,
        low_rank.delta,
        low_rank.directions,
        0.1 + 0.2,  # no short decimal
        fingerprint=stylegan.fingerprint,
        level=1 / 3,
        edit={"version": 1, "title": "Türme → Hauben", "context": [{"seed": 3}]},
        effect=EFFECT,
    )


def same(a, b):
    """Equal to the bit."""
    plain = [{k: v for k, v in vars(rule).items() if k not in ("delta", "directions")} for rule in (a, b)]
    return torch.equal(a.delta, b.delta) and torch.equal(a.directions, b.directions) and plain[0] == plain[1]


# --- files ---


def test_a_rule_comes_back_to_the_bit(rule, tmp_path):
    rule.save(tmp_path / "rule.safetensors")
    assert same(Rule.load(tmp_path / "rule.safetensors"), rule)
    assert (tmp_path / "rule.safetensors").stat().st_size < 20_000


def test_the_same_rule_is_the_same_file(rule, tmp_path):
    odd = Rule(**{**vars(rule), "edit": {**rule.edit, "title": "“é”\x7f\u2028\\\x01"}})
    for each in (rule, odd):
        files = [tmp_path / f"{i}.safetensors" for i in range(12)]
        for file in files:
            each.save(file)
        assert len({file.read_bytes() for file in files}) == 1 and Rule.load(files[0]).edit == each.edit


def test_a_loaded_rule_draws_the_same_pictures(rule, stylegan, tmp_path):
    rule.save(tmp_path / "rule.safetensors")
    loaded = Rule.load(tmp_path / "rule.safetensors")
    pictures = stylegan.sample([1, 2], rules=[rule])
    assert torch.equal(stylegan.sample([1, 2], rules=[loaded]), pictures)
    assert not torch.equal(pictures, stylegan.sample([1, 2]))


@pytest.mark.parametrize("effect", [None, replace(EFFECT, side_effect=math.nan, seconds=math.nan)])
def test_what_was_not_measured_comes_back_as_such(rule, tmp_path, effect):
    path = tmp_path / "rule.safetensors"
    replace(rule, effect=effect).save(path)
    loaded = Rule.load(path).effect
    assert (loaded and loaded.to_json()) == (effect and effect.to_json())
    if effect:
        assert math.isnan(loaded.side_effect) and effect.to_json()["side_effect"] is None


def test_a_saved_rule_has_no_leftovers_and_is_readable_by_others(rule, tmp_path):
    rule.save(tmp_path / "new" / "folder" / "rule.safetensors")
    (path,) = (tmp_path / "new" / "folder").iterdir()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


# --- whose it is ---


def test_a_rule_is_refused_on_another_generator(rule, stylegan, proggan, change):
    twin = stylegan.rewritten([change(stylegan, "layer2")])
    for other in (twin, proggan):
        with pytest.raises(InputError, match=f"{rule.fingerprint[:12]}.*{other.fingerprint[:12]}"):
            other.sample([0], rules=[rule])
        with pytest.raises(InputError, match="fingerprint"):
            other.rewritten([rule])
    with pytest.raises(InputError, match="unknown"):
        stylegan.sample([0], rules=[replace(rule, fingerprint="")])


def test_a_rule_that_does_not_fit_its_layer_is_refused(rule, stylegan):
    with pytest.raises(InputError, match="another model"):
        stylegan.sample([0], rules=[replace(rule, delta=rule.delta[:-1])])


def test_strength_0_is_the_base_and_1_the_rule_to_the_bit(rule, stylegan):
    assert torch.equal(stylegan.sample([1], rules=[rule.at(0)]), stylegan.sample([1]))
    plain = LowRank(rule.layer, rule.delta, rule.directions)
    assert torch.equal(stylegan.sample([1], rules=[rule.at(1)]), stylegan.sample([1], rules=[plain]))
    assert rule.at(1).delta is rule.delta


@pytest.mark.parametrize("strength", [-1, -0.5, 0, 1, 2])
def test_strengths_between_minus_one_and_two_are_allowed(rule, strength):
    assert rule.at(strength).strength == strength


@pytest.mark.parametrize("strength", [-1.01, 2.01, math.nan, math.inf, -math.inf])
def test_other_strengths_are_refused(rule, strength):
    with pytest.raises(InputError, match=f"strength {strength}"):
        rule.at(strength)


# --- damage ---


def load_or_refuse(path):
    """The rule in a file, or None where it was refused in the proper way."""
    try:
        return Rule.load(path)
    except InputError:
        return None


def test_a_file_cut_short_is_refused(rule, tmp_path):
    path = tmp_path / "rule.safetensors"
    rule.save(path)
    whole = path.read_bytes()
    for cut in [0, 1, 7, 8, 9, 40, *range(100, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        assert load_or_refuse(path) is None
    path.write_bytes(whole + b"\0")
    assert load_or_refuse(path) is None


def test_a_flipped_bit_gives_a_refusal_or_a_valid_rule(rule, tmp_path):
    path = tmp_path / "rule.safetensors"
    rule.save(path)
    whole, header = path.read_bytes(), 8 + int.from_bytes(path.read_bytes()[:8], "little")
    draw = torch.Generator().manual_seed(0)
    in_header = torch.randint(header, (250,), generator=draw).tolist()
    anywhere = torch.randint(len(whole), (100,), generator=draw).tolist()
    refused = 0
    for at in [*range(8), *in_header, *anywhere]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        loaded = load_or_refuse(path)
        refused += loaded is None
        if loaded is not None:
            assert loaded.delta.shape == rule.delta.shape and loaded.delta.isfinite().all()
            assert loaded.directions.shape == rule.directions.shape and loaded.directions.isfinite().all()
            assert -1 <= loaded.strength <= 2
    assert refused > 100


ABOUT = {"layer": "layer4", "strength": 1.0, "fingerprint": "ab", "level": 1.0, "edit": {}, "effect": None}


def written(path, *, text=None, delta=None, directions=None, kind=FORMAT, **about):
    """A rule file made by hand."""
    tensors = {
        "delta": torch.zeros(2, 1, 3, 3) if delta is None else delta,
        "directions": torch.ones(1, 4) if directions is None else directions,
    }
    save_file(tensors, path, {"format": kind, "rule": json.dumps({**ABOUT, **about}) if text is None else text})
    return path


def test_a_file_made_by_hand_is_a_rule(tmp_path):
    assert Rule.load(written(tmp_path / "r")).layer == "layer4"


@pytest.mark.parametrize(
    "about",
    [
        {"strength": 3},
        {"strength": "strong"},
        {"strength": None},
        {"strength": math.nan},
        {"level": "high"},
        {"level": [1]},
        {"edit": None},
        {"edit": 5},
        {"effect": "good"},
        {"effect": {"reach": 1}},
        {"effect": {**EFFECT.to_json(), "reach": "far"}},
        {"effect": {**EFFECT.to_json(), "pictures": None}},
        {"text": ""},
        {"text": "{"},
        {"text": "[]"},
        {"text": "{}"},
        {"text": "null"},
        {"kind": "rewriter-rule-99"},
        {"delta": torch.zeros(2, 1, 3)},
        {"delta": torch.full((2, 1, 3, 3), math.nan)},
        {"delta": torch.zeros(2, 1, 3, 3, dtype=torch.float64)},
        {"directions": torch.ones(4)},
        {"directions": torch.tensor([[1, math.inf, 0, 0]])},
        {"directions": torch.ones(1, 4, dtype=torch.int32)},
        {"level": math.nan},
        {"level": math.inf},
        {"directions": torch.ones(3, 4)},
        {"level": 10**400},
        {"strength": 10**400},
        {"effect": {**EFFECT.to_json(), "places": math.inf}},
        {"text": "[" * 100_000},
    ],
)
def test_a_rule_file_with_wrong_contents_is_refused(tmp_path, about):
    path = written(tmp_path / "r", **about)
    with pytest.raises(InputError):
        Rule.load(path)


def test_other_files_are_refused(tmp_path):
    save_file({"delta": torch.zeros(1)}, tmp_path / "weights.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "named.safetensors", {"format": FORMAT, "rule": "{}"})
    (tmp_path / "text").write_text("hello")
    for name in ("weights.safetensors", "named.safetensors", "text", "nowhere", "."):
        with pytest.raises(InputError, match=str(tmp_path)):
            Rule.load(tmp_path / name)


# --- writing ---


def test_a_place_that_cannot_be_written_to_is_refused(rule, tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "file" / "rule.safetensors", tmp_path / "file" / "deeper" / "rule.safetensors", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            rule.save(path)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "rule.safetensors"
    path.write_text("old")
    with pytest.raises(InputError if error is OSError else error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_and_leaves_the_old_file(rule, tmp_path):
    path = tmp_path / "rule.safetensors"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError, match="cannot write"):
            rule.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_files_are_read_or_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
    for damage in (b"", b"{", b'{"a": [1]', b"\xff\xfe", b"[" * 100_000, b"1" * 10_000):
        path.write_bytes(damage)
        with pytest.raises(InputError, match="not JSON"):
            read_json(path)
    with pytest.raises(InputError, match="larger"):
        read_json(path, limit=100)
    with pytest.raises(InputError, match="cannot read"):
        read_json(tmp_path / "nowhere.json")
