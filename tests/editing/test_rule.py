"""A rule: its strength, its angle to others, and its file: exact, small, and refused wherever it is damaged."""

import json
import math
import os
import resource
from dataclasses import replace

import pytest
import torch
from conftest import flipped, square
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rewriter import Edit, Effect, Region, Rule
from rewriter.editing.rule import FORMATS
from rewriter.errors import InputError
from rewriter.files import read_json, replacing

EFFECT = Effect(0.625, 0.5, 1.25, 0.1, pictures=48, places=77, seconds=0.3)
EDIT = Edit("stylegan", "layer4", title="Türme → Hauben", context=(Region(3, square(2, 2, 9, 9)),))


@pytest.fixture
def rule(stylegan, random_rule):
    about = {"level": 1 / 3, "edit": EDIT, "effect": EFFECT}
    return random_rule(stylegan, "layer4", strength=0.1 + 0.2, **about)  # no short decimal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rule.safetensors"


def same(a, b):
    """Whether two rules are equal to the bit, with all that they record."""
    return a.about() == b.about() and torch.equal(a.delta, b.delta) and torch.equal(a.directions, b.directions)


@pytest.mark.parametrize("strength", [-1.01, 2.01, math.nan, math.inf, -math.inf, "1", None, [1], True, 1j])
def test_strengths_from_minus_one_to_two_are_allowed_and_no_others(rule, strength):
    assert [rule.at(allowed).strength for allowed in (-1, -0.5, 0, 1, 2)] == [-1, -0.5, 0, 1, 2]
    with pytest.raises(InputError, match="strength"):
        rule.at(strength)


def in_layer(directions, layer="layer4"):
    directions = torch.as_tensor(directions).float()
    return Rule(layer, torch.ones(4, len(directions), 3, 3), directions, fingerprint="a")


def orthonormal(rows, channels, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(channels, rows, generator=draw, dtype=torch.float64))[0].T


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_angles_are_symmetric_and_depend_only_on_the_row_spaces(a_rank, b_rank, seed):
    a, b = orthonormal(a_rank, 16, seed), orthonormal(b_rank, 16, seed + 1000)
    angle = in_layer(a).angle(in_layer(b))
    assert 0 <= angle <= 90
    assert in_layer(b).angle(in_layer(a)) == pytest.approx(angle, abs=1e-6)
    turned, mixed = orthonormal(a_rank, a_rank, seed) @ a, torch.diag(torch.arange(1.0, a_rank + 1)).double() @ a
    for same_space in (turned, -a, 3 * a, mixed, a.flip(0)):
        assert in_layer(same_space).angle(in_layer(b)) == pytest.approx(angle, abs=1e-3)
        assert in_layer(same_space).angle(in_layer(a)) == pytest.approx(0, abs=0.01)
    largest = max(float((x @ y).abs() / x.norm() / y.norm()) for x in a for y in b)
    assert angle <= math.degrees(math.acos(largest)) + 0.01  # no pair of rows is closer than the spaces
    around = orthonormal(16, 16, seed + 2000)
    assert in_layer(a @ around).angle(in_layer(b @ around)) == pytest.approx(angle, abs=1e-3)


def test_known_angles():
    x, y, z = torch.eye(16)[:3]
    for one, other, degrees in (
        ([x], [x], 0),
        ([x], [y], 90),
        ([x], [x + y], 45),
        ([x, z], [x + math.sqrt(3) * y], 60),
        ([x, z], [y, z], 0),  # they share z
    ):
        angle = in_layer(torch.stack(one)).angle(in_layer(torch.stack(other)))
        assert angle == pytest.approx(degrees, abs=1e-4)
    one = in_layer(torch.stack([x, y]))
    assert one.angle(replace(one, layer="layer6")) == 90
    assert one.angle(one.at(0.5)) == one.angle(replace(one, on=False)) == one.angle(one)


def test_a_rule_is_read_back_to_the_bit_and_draws_the_same_pictures(rule, stylegan, path):
    rule.save(path)
    loaded = Rule.load(path)
    assert same(loaded, rule) and path.stat().st_size < 20_000
    pictures = stylegan.sample([1, 2], rules=[rule])
    assert torch.equal(stylegan.sample([1, 2], rules=[loaded]), pictures)
    assert not torch.equal(pictures, stylegan.sample([1, 2]))


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("strength", [-1.0, 0.0, 1 / 3, 1.0, 2.0])
def test_strength_and_switch_survive_a_file(rule, path, strength, on):
    replace(rule, strength=strength, on=on).save(path)
    loaded = Rule.load(path)
    assert (loaded.strength, loaded.on, loaded.active) == (strength, on, on and strength != 0)


def test_the_same_rule_gives_the_same_bytes(rule, tmp_path):
    odd = replace(rule, edit=EDIT.with_(title="“é” \\ 🜁"))
    for each in (rule, odd):
        files = [tmp_path / f"{i}.safetensors" for i in range(12)]
        for file in files:
            each.save(file)
        assert len({file.read_bytes() for file in files}) == 1 and same(Rule.load(files[0]), each)


@pytest.mark.parametrize(
    "unknown",
    [{"effect": None}, {"effect": replace(EFFECT, side_effect=math.nan, seconds=math.nan)}, {"edit": None}],
)
def test_what_is_not_known_is_still_not_known_after_a_file(rule, path, unknown):
    replace(rule, **unknown).save(path)
    loaded = Rule.load(path)
    assert same(loaded, replace(rule, **unknown))
    assert not loaded.effect or math.isnan(loaded.effect.side_effect) == ("effect" in unknown)


def test_a_saved_rule_leaves_no_other_files_and_has_the_usual_permissions(rule, tmp_path):
    rule.save(tmp_path / "new" / "folder" / "rule.safetensors")
    (path,) = (tmp_path / "new" / "folder").iterdir()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_rule_is_refused_on_another_generator(rule, stylegan, proggan, change, path):
    twin = stylegan.rewritten([change(stylegan, "layer2")])
    for other in (twin, proggan):
        with pytest.raises(InputError, match=f"{rule.fingerprint[:12]}.*{other.fingerprint[:12]}"):
            other.sample([0], rules=[rule])
        with pytest.raises(InputError, match="fingerprint"):
            other.rewritten([rule])
    replace(rule, fingerprint="").save(path)
    with pytest.raises(InputError, match="does not say which generator"):
        Rule.load(path)


def load_or_refuse(path):
    """The rule in a file, or None if it is refused with an InputError."""
    try:
        return Rule.load(path)
    except InputError:
        return None


def test_a_truncated_or_extended_file_is_refused(rule, path):
    rule.save(path)
    whole = path.read_bytes()
    for cut in [0, 1, 7, 8, 9, 40, *range(100, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        assert load_or_refuse(path) is None
    path.write_bytes(whole + b"\0")
    assert load_or_refuse(path) is None


def test_a_flipped_bit_gives_a_refusal_or_a_valid_rule(rule, path):
    rule.save(path)
    whole, refused = path.read_bytes(), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for damaged in [*flipped(whole, 10, 8), *flipped(whole, 200, header), *flipped(whole, 60)]:
        path.write_bytes(damaged)
        loaded = load_or_refuse(path)
        refused += loaded is None
        if loaded is not None:
            assert loaded.delta.shape == rule.delta.shape and loaded.delta.isfinite().all()
            assert loaded.directions.shape == rule.directions.shape and loaded.directions.isfinite().all()
            assert -1 <= loaded.strength <= 2 and (loaded.edit is None or loaded.edit.digest)
    assert refused > 80


ABOUT = {"layer": "layer4", "strength": 1.0, "fingerprint": "ab", "level": 1.0, "edit": {}, "effect": None}


def written(path, *, text=None, delta=None, directions=None, kind=FORMATS[0], **about):
    """A rule file made by hand."""
    tensors = {
        "delta": torch.zeros(2, 1, 3, 3) if delta is None else delta,
        "directions": torch.ones(1, 4) if directions is None else directions,
    }
    save_file(tensors, path, {"format": kind, "rule": json.dumps({**ABOUT, **about}) if text is None else text})
    return path


WRONG = {
    "layer": [8, None, ["layer4"]],
    "strength": [3, "strong", "1.0", True, None, math.nan, 10**400],
    "on": [0, 1, "", "false", None, []],
    "level": ["high", "1.0", True, [1], math.nan, math.inf, 10**400],
    "fingerprint": ["", 5, ["ab"], None],
    "edit": [None, [], 5, {"version": 1, "generator": "g"}, {**EDIT.to_json(), "rank": 0}],
    "effect": [*([], {}, 0, 0.0, "", False, True, "good", {"reach": 1}, [EFFECT.to_json()])]
    + [{**EFFECT.to_json(), **wrong} for wrong in ({"reach": "far"}, {"pictures": None}, {"places": math.inf})]
    + [{**EFFECT.to_json(), **wrong} for wrong in ({"reach": "0.5"}, {"seconds": True}, {"pictures": 1.5})]
    + [{**EFFECT.to_json(), **wrong} for wrong in ({"reach": math.nan}, {"places": -1}, {"verdict": []})],
    "text": ["", "{", "[]", "{}", "null", "[" * 100_000],
    "kind": ["rewriter-rule-99"],
    "delta": [torch.zeros(2, 1, 3), torch.full((2, 1, 3, 3), math.nan), torch.zeros(2, 1, 3, 3).double()],
    "directions": [torch.ones(4), torch.tensor([[1, math.inf, 0, 0]]), torch.ones(1, 4).int(), torch.ones(3, 4)],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_rule_file_with_one_wrong_value_is_refused_by_name(path, name, value):
    assert Rule.load(written(path)).layer == "layer4"
    with pytest.raises(InputError, match=str(path)):
        Rule.load(written(path, **{name: value}))


def test_files_that_are_no_rules_are_refused_by_name(tmp_path):
    written(tmp_path / "empty", delta=torch.zeros(2, 0, 3, 3), directions=torch.zeros(0, 4))
    save_file({"delta": torch.zeros(1)}, tmp_path / "weights.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "named.safetensors", {"format": FORMATS[0], "rule": "{}"})
    (tmp_path / "text").write_text("hello")
    for name in ("empty", "weights.safetensors", "named.safetensors", "text", "nowhere", "."):
        with pytest.raises(InputError, match=str(tmp_path)):
            Rule.load(tmp_path / name)


def test_a_place_that_cannot_be_written_to_is_refused(rule, tmp_path):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "file" / "rule.safetensors", tmp_path / "file" / "deeper" / "rule.safetensors", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            rule.save(path)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_an_interrupted_write_leaves_the_old_file(path, error):
    path.write_text("old")
    with pytest.raises(InputError if error is OSError else error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_reported_and_leaves_the_old_file(rule, path):
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError, match="cannot write"):
            rule.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


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
