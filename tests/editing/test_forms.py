"""Rules beside W: found and judged places, the same rule again from its edit, and files that are exact or refused."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from conftest import near, square
from safetensors import safe_open
from safetensors.torch import save_file

from rewriter import Edit, Region, Rewriter, Rule, load_generator, masks, replay
from rewriter.editing import forms, verdict
from rewriter.editing.choose import execute
from rewriter.editing.edit import AUTO, LATER
from rewriter.editing.execute import prepare
from rewriter.editing.forms import NEAR_MISS, Finder
from rewriter.editing.history import History
from rewriter.editing.job import Job
from rewriter.editing.region import Place
from rewriter.editing.rule import FORMATS
from rewriter.editing.statistics import Statistics
from rewriter.editing.verdict import held_out
from rewriter.errors import InputError
from rewriter.generators.beside import form_of
from rewriter.hub.draft import draft
from rewriter.memory.directions import Directions

BOTH = ["gated", "template"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Search fewer pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "POOL", range(1400, 1464))
        patch.setattr(verdict, "held_out", lambda job: held_out(job, range(10_000, 10_016)))
        yield


def edit_of(generator, **options):
    """A paste with a context of four pictures."""
    copied, mark = Region(7, square(4, 6, 12, 12)), square(6, 4, 12, 12)
    context = tuple(Region(seed, mark) for seed in (1, 2, 3))
    edit = Edit(generator.name, "layer4", generator.fingerprint, copy=copied, paste=context[0], context=context)
    return edit.with_(**options)


@pytest.fixture(scope="module")
def made(stylegan, statistics, quick):
    """The rule of each form, made once."""

    @cache
    def make(form):
        return replay(stylegan, edit_of(stylegan, form=form), statistics=statistics, unseen=[20_000])

    return make


def same(a, b):
    """Whether two rules are equal to the bit, with all that they record but the time."""
    effects = [rule.effect and replace(rule.effect, seconds=0.0).to_json() for rule in (a, b)]
    plain = [replace(rule, effect=None).about() for rule in (a, b)]
    one, other = a.tensors(), b.tensors()
    return (
        plain[0] == plain[1]
        and effects[0] == effects[1]
        and list(one) == list(other)
        and all(torch.equal(one[name], other[name]) for name in one)
    )


# --- fields of an edit ---

FULL = Edit("stylegan", "layer4").with_(
    form="gated",
    found=[[4, 1.5, -2.25, "machine"]],
    unlike=[[5, 3, 4, "person"]],
    budget=1.5,
    gate=[0.2, 0.4],
    strokes=[{"layer": "layer4", "units": [3], "levels": [0.12346]}],
)
WRONG = [
    ("form", [None, "sum", 3, [], ""]),
    ("budget", [0, -1, 256, "1", True, math.nan, math.inf]),
    ("gate", [5, True, "ab", [], [0.2], [0.4, 0.2], [0.2, 0.2], [0.1, 0.2, 0.3], {}, {"a": 1, "b": 2}]),
    ("gate", [["1", 2], [math.nan, 1], [0, math.inf], [-11, 0], [0, 11], [True, 2]]),
]
WRONG_PLACES = [3, "x", {}, [], [1, 2, 3], [1, 2, 3, "machine", 4], [1, 2, 3, "crowd"], [1, 2, 3, None], [-1, 2, 3]]
WRONG_PLACES += [[seed, 2, 3, "machine"] for seed in (-1, 100_000, 1.0, "1", True, None)]
WRONG_PLACES += [[1, row, 3, "person"] for row in ("2", math.nan, math.inf, 4097, -4097, True, None)]
WRONG += [(name, [None, {}, "x", [[1, 2, 3, "machine"]] * 4001]) for name in ("found", "unlike")]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG for value in values])
def test_a_wrong_field_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        Edit.from_json({**FULL.to_json(), name: value})
    with pytest.raises(InputError, match=name):
        FULL.with_(**{name: value})


@pytest.mark.parametrize("name", ["found", "unlike"])
@pytest.mark.parametrize("value", WRONG_PLACES)
def test_a_wrong_place_is_refused_by_name_and_number(name, value):
    with pytest.raises(InputError, match=f"{name} 2"):
        Edit.from_json({**FULL.to_json(), name: [[1, 2, 3, "machine"], value]})


def test_fields_are_read_back_to_the_bit_and_left_out_at_their_usual_values():
    plain = json.loads(json.dumps(FULL.to_json(), allow_nan=False))
    again = Edit.from_json(plain)
    assert again.to_json() == plain == FULL.to_json() and again.digest == FULL.digest
    assert (again.found, again.unlike) == ((Place(4, 1.5, -2.25),), (Place(5, 3.0, 4.0, "person"),))
    assert (again.form, again.budget, again.gate) == ("gated", 1.5, (0.2, 0.4))
    assert [(each.units, each.levels, each.place) for each in again.strokes] == [((3,), (0.1235,), None)]
    usual = FULL.with_(**LATER)
    assert not set(usual.to_json()) & set(LATER) and usual.digest == Edit("stylegan", "layer4").digest
    assert set(FULL.to_json()) >= set(LATER)


def test_places_are_in_steps_of_a_hundredth():
    edit = FULL.with_(found=[Place(1, 1 / 3, 2 / 3), [2, 10, 0.005, "person"]])
    assert edit.found == (Place(1, 0.33, 0.67), Place(2, 10.0, 0.01 if round(0.005, 2) else 0.0, "person"))
    assert Edit.from_json(edit.to_json()).found == edit.found


# --- finding places ---


def test_a_search_leaves_the_edits_own_pictures_out_and_gives_the_best_place_of_each(stylegan, statistics):
    finder = Finder(prepare(stylegan, edit_of(stylegan), statistics=statistics))
    steps = []
    found, elsewhere = finder.search(range(20), on_step=lambda *step: steps.append(step))
    assert {one.seed for one in found} == set(range(20)) - {1, 2, 3, 7} and steps == [(20, 20)]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert -1 <= elsewhere <= 1
    for one in found[:3]:
        keys = stylegan.keys([one.seed], "layer4").keys
        scores = finder.marked.template.scores(keys)
        assert one.score == pytest.approx(float(scores.max()), abs=1e-5)
        assert finder.corner(finder.place(one)) == pytest.approx(one.corner, abs=0.01)


def test_a_template_is_selective_if_the_other_marks_find_each_mark(stylegan, statistics):
    def selective(*places):
        job = prepare(
            stylegan, edit_of(stylegan, context=[Region(1, place) for place in places]), statistics=statistics
        )
        return Finder(job).is_selective()

    mark, other, third = square(6, 4, 12, 12), square(0, 0, 4, 4), square(10, 0, 16, 4)
    assert selective(mark, mark, mark, mark)
    assert not selective(mark, mark)  # too few to tell
    assert not selective(mark, other, third)


def test_a_rejected_place_no_longer_reaches_the_threshold(stylegan, statistics):
    job = prepare(stylegan, edit_of(stylegan), statistics=statistics)
    finder = Finder(job)
    best, level = finder.search(range(40))[0][0], finder.search(range(40))[1]
    assert finder.thresholds(level)[0] < best.score
    strict = Finder(job.with_(unlike=[finder.place(best)]))
    low, high = strict.thresholds(level)
    assert low == pytest.approx(best.score + NEAR_MISS, abs=1e-3) and low < high < 1


@pytest.mark.parametrize("where", [(-4096, -4096), (0, 0), (0, 16), (16, 8), (4096, 4096)])
def test_a_place_at_or_beyond_the_border_may_be_rejected_or_taken(stylegan, statistics, where):
    place = Place(30, *where)
    job = prepare(
        stylegan, edit_of(stylegan, unlike=[place], found=[replace(place, by="person")]), statistics=statistics
    )
    low, high = Finder(job).thresholds(-1.0)
    assert 0 < low < high < 1 and job.directions.matrix.isfinite().all()


def test_places_that_a_person_took_count_as_marks(stylegan, statistics):
    job = prepare(stylegan, edit_of(stylegan), statistics=statistics)
    best = Finder(job).place(Finder(job).search(range(40))[0][0])
    machine, person = (Finder(job.with_(found=[replace(best, by=by)])).marked for by in ("machine", "person"))
    assert len(machine.patches) == 3 and len(person.patches) == 4
    assert torch.equal(machine.template.patch, Finder(job).marked.template.patch)
    assert not torch.equal(person.template.patch, machine.template.patch)


def test_places_that_a_person_took_do_not_replace_the_search(stylegan, statistics):
    taken = Place(30, 8.0, 8.0, "person")
    edit = edit_of(stylegan, form="template", found=[taken], gate=(0.05, 0.1))
    job = forms.find(prepare(stylegan, edit, statistics=statistics))
    assert job.edit.found[0] == taken and {place.by for place in job.edit.found[1:]} == {"machine"}
    assert job.edit.gate == (0.05, 0.1)


# --- the same rule again ---


@pytest.mark.parametrize("form", BOTH)
def test_a_rules_edit_leads_to_the_same_rule_without_another_search(made, stylegan, form, monkeypatch):
    rule = made(form)
    assert form_of(rule.beside) == rule.edit.form == form and (form == "gated") == (not rule.edit.found)
    edit = Edit.from_json(json.loads(json.dumps(rule.edit.to_json())))

    def search(finder, seeds, **_):
        assert seeds is not forms.POOL
        return original(finder, seeds)

    original = Finder.search  # the verdict searches other pictures
    monkeypatch.setattr(Finder, "search", search)
    assert same(replay(stylegan, edit, statistics=Statistics(stylegan), unseen=[20_000]), rule)


def test_a_template_rule_draws_copied_values_at_found_places(made, stylegan):
    rule = made("template")
    assert 0 < len(rule.edit.found) <= 64 and all(place.by == "machine" for place in rule.edit.found)
    assert (rule.beside.template.low, rule.beside.template.high) == pytest.approx(rule.edit.gate)
    seeds = [place.seed for place in rule.edit.found[:4]]
    assert rule.matches(stylegan.keys(seeds, "layer4").keys).flatten(1).any(1).all()
    assert not near(stylegan.sample(seeds, rules=[rule]), stylegan.sample(seeds), 1e-2)
    assert rule.angle(rule) == 90 and made("gated").angle(made("gated")) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("form", BOTH)
def test_programs_that_know_w_only_get_the_nearest_change_of_w(made, stylegan, form):
    rule = made(form)
    plain = replay(stylegan, edit_of(stylegan), unseen=[20_000])
    assert torch.allclose(rule.delta, plain.delta, atol=1e-4 * float(plain.delta.abs().max()))
    twin = stylegan.rewritten([rule])
    assert torch.equal(twin.sample([1]), stylegan.rewritten([replace(rule, beside=None)]).sample([1]))
    job = prepare(stylegan, rule.edit)
    goal = job.goal()
    assert goal.remaining(twin.values(goal.features)) < goal.remaining(goal.before)


@pytest.mark.parametrize(
    ("kind", "form"), [("erase", "template"), ("zero", "template"), ("zero", "gated"), ("replace", "auto")]
)
def test_a_form_that_an_edit_cannot_have_is_refused(stylegan, kind, form):
    edit = edit_of(stylegan, kind=kind, form=form, **({} if kind == "replace" else {"copy": None}))
    with pytest.raises(InputError, match="set form to weight"):
        replay(stylegan, edit)


def test_later_edits_see_the_rules_before_them_and_protect_their_marks(made, stylegan, statistics):
    first = made("gated")
    mark = square(2, 2, 8, 8)
    edit = Edit(
        "stylegan", "layer4", form="gated", copy=Region(9, mark), paste=Region(20, mark), after=(first.request,)
    )
    job = prepare(stylegan, edit, rules=[first], statistics=statistics)
    assert {region.seed for region in job._earlier()} == {1, 2, 3}
    assert torch.equal(job.responses(job.keys([1])), stylegan.memory("layer4").respond(*keys_of(stylegan), [first]))
    rules = [first, replay(stylegan, edit, rules=[first], statistics=statistics, unseen=[20_000])]
    again = replay(stylegan, edit, rules=[first], statistics=Statistics(stylegan), unseen=[20_000])
    assert same(again, rules[1]) and not torch.equal(
        stylegan.sample([20], rules=rules), stylegan.sample([20], rules=[first])
    )
    with pytest.raises(InputError, match="rules"):
        replay(stylegan, edit, statistics=statistics)


def keys_of(generator):
    features = generator.keys([1], "layer4")
    return features.keys, features.style


# --- files ---


@pytest.mark.parametrize("form", ["weight", *BOTH])
def test_a_rule_file_is_exact_and_the_earlier_format_where_nothing_is_beside_w(made, stylegan, form, tmp_path):
    rule, path = made(form).at(0.5), tmp_path / "rule.safetensors"
    rule.save(path)
    loaded = Rule.load(path)
    assert same(loaded, rule) and loaded.strength == 0.5
    assert torch.equal(stylegan.sample([1, 30], rules=[loaded]), stylegan.sample([1, 30], rules=[rule]))
    with safe_open(path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    plain = form == "weight"
    assert metadata["format"] == FORMATS[not plain] and (names == {"delta", "directions"}) == plain
    assert ("form" in json.loads(metadata["rule"])) == (not plain)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_session_file_keeps_rules_of_all_forms_to_the_bit(made, stylegan, tmp_path):
    session = Rewriter(stylegan, "layer4", rules=[made("weight"), made("gated").at(0.5)])
    session.add(made("template"))
    session.add(replace(made("template"), beside=None))  # differs beside W only
    session.add(replace(made("gated"), beside=made("template").beside))
    session.accept(Place(30, 1 / 3, 2.0))
    session.save(tmp_path / "session")
    again = Rewriter.load(stylegan, tmp_path / "session")
    assert all(same(a, b) for a, b in zip(again.rules, session.rules, strict=True))
    assert [form_of(rule.beside) for rule in again.rules] == ["weight", "gated", "template", "weight", "template"]
    assert again.edit.found == (Place(30, 0.33, 2.0, "person"),) and again.edit.form == "auto"
    assert torch.equal(again.sample([1, 2]), session.sample([1, 2]))
    again.undo()
    assert not again.edit.found
    restored = History.from_bytes(session.history.to_bytes()).present  # the order of a file's metadata is not fixed
    assert all(same(a, b) for a, b in zip(restored.rules, session.rules, strict=True))


def test_a_published_generator_carries_rules_of_all_forms_to_the_bit(town, random_rule, tmp_path):
    edit = Edit(town.name, "layer6", town.fingerprint, context=(Region(1, square(2, 2, 9, 9)),))
    rules = [gated_rule(town, random_rule, edit), random_rule(town, "layer8", edit=edit.with_(layer="layer8"))]
    draft(town, rules, "ada/gates", weights=False, pictures=False).save(tmp_path)
    loaded = load_generator(str(tmp_path), device="cpu")
    assert all(same(a, b) for a, b in zip(loaded.rules, rules, strict=True))
    assert torch.equal(loaded.sample([3]), town.sample([3], rules=rules))
    assert not near(loaded.sample([3]), town.sample([3], rules=rules[1:]), 1e-3)


def gated_rule(generator, random_rule, edit):
    """A random change of W with a gated one beside it."""
    rule = random_rule(generator, edit.layer, edit=edit.with_(form="gated"))
    return replace(rule, beside=forms.Gated(rule.delta * 2, rule.directions, -0.5, 0.5))


HOSTILE = {
    "gated": {
        "thresholds": [
            torch.tensor([0.5, 0.5]),
            torch.tensor([0.9, 0.1]),
            torch.tensor([0.1]),
            torch.tensor(0.1),
            torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
            torch.tensor([0.1, math.nan]),
            torch.tensor([0.1, math.inf]),
            torch.tensor([1, 2]),
        ],
        "delta": [torch.zeros(0), torch.zeros(32, 2, 3, 3), torch.zeros(31, 1, 3, 3), torch.zeros(32, 1, 1, 3)],
        "directions": [torch.zeros(1, 31), torch.zeros(32), torch.full((1, 32), math.nan), torch.ones(1, 32).double()],
    },
    "template": {
        "numbers": [
            torch.zeros(0),
            torch.zeros(7),
            torch.zeros(8, 2),
            torch.tensor([0.5, 0.4, 0, 0, 1, 1, 0, 0]),
            torch.tensor([0.5, 0.6, 0, 0, 3, 3, 0, 0]),
            torch.tensor([0.5, 0.6, 0, 0, 1, 0, 0, 0]),
            torch.tensor([0.5, 0.6, 0, 0, 1, 1e38, 0, 0]),
            torch.tensor([0.5, 0.6, 0, 0, 1, 1, 1e38, 0]),
            torch.tensor([0.5, 0.6, 0, 0, 1, 1, 0, -1]),
            torch.tensor([math.nan, 0.6, 0, 0, 1, 1, 0, 0]),
        ],
        "patch": [torch.zeros(3), torch.zeros(32, 0, 3), torch.zeros(32, 9, 9), torch.zeros(31, 2, 2)],
        "whitening": [torch.zeros(32), torch.zeros(32, 31), torch.full((32, 32), math.inf)],
        "alpha": [torch.zeros(0, 0), torch.zeros(4), torch.zeros(300, 300), torch.zeros(2, 2)],
        "copied": [torch.zeros(1), torch.zeros(32, 300, 300), torch.zeros(31, 2, 2)],
        "encode": [torch.zeros(0), torch.zeros(1, 32, 2, 2)],
        "decode": [torch.zeros(0), torch.zeros(9, 32, 2, 2)],
    },
}
CASES = [(form, name, i) for form, parts in HOSTILE.items() for name, bad in parts.items() for i in range(len(bad))]


def load_and_draw(generator, path):
    rule = Rule.load(path)
    generator.sample([0], rules=[rule])


def rewrite(rule, path, changed, **about):
    """The rule's file with some tensors replaced, or dropped where None is given."""
    tensors = {name: tensor for name, tensor in (rule.tensors() | changed).items() if tensor is not None}
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, {"format": FORMATS[1], "rule": json.dumps({**rule.about(), **about})})


@pytest.mark.parametrize(("form", "name", "i"), CASES)
def test_a_damaged_tensor_of_a_memory_is_refused_before_anything_is_drawn(made, stylegan, form, name, i, tmp_path):
    rewrite(made(form), path := tmp_path / "rule.safetensors", {f"beside.{name}": HOSTILE[form][name][i]})
    with pytest.raises(InputError, match=f"{path}|made for another model"):
        load_and_draw(stylegan, path)


@pytest.mark.parametrize("form", BOTH)
def test_a_file_whose_form_and_tensors_do_not_belong_together_is_refused_by_name(made, form, tmp_path):
    rule, path = made(form), tmp_path / "rule.safetensors"
    beside = {name: None for name in rule.tensors() if name.startswith("beside.")}
    other = BOTH[form == "gated"]
    for changed in (beside, *({name: None} for name in beside)):
        rewrite(rule, path, changed)
        with pytest.raises(InputError, match=str(path)):
            Rule.load(path)
    for wrong in (other, "weight", "sum", None, 3, [], {}):
        rewrite(rule, path, {}, form=wrong)
        with pytest.raises(InputError, match=str(path)):
            Rule.load(path)
    rewrite(rule, path, {f"beside.{i}": torch.zeros(1) for i in range(20)})
    with pytest.raises(InputError, match=str(path)):
        Rule.load(path)
    rewrite(rule, path, {"delta": None})
    with pytest.raises(InputError, match=str(path)):
        Rule.load(path)


@pytest.mark.parametrize("form", BOTH)
def test_a_damaged_memory_in_a_session_file_is_refused(made, stylegan, form, tmp_path):
    data = Rewriter(stylegan, "layer4", rules=[made(form)]).history.to_bytes()
    number = b"beside.thresholds" if form == "gated" else b"beside.numbers"
    assert data.count(number) == 1
    with pytest.raises(InputError, match="damaged|session"):
        History.from_bytes(data.replace(number, number[:-1] + b"X"))
    with pytest.raises(InputError, match="damaged|form"):
        History.from_bytes(data.replace(form.encode(), form[:-1].encode() + b"X"))


# --- erasing from few marks ---


def test_places_that_were_found_are_context_of_an_erasure_and_of_others_only_if_a_person_took_them(stylegan):
    found = [Place(30, 8.0, 8.0, "machine"), Place(31, 4.0, 9.0, "person"), Place(32, 60.0, 60.0, "person")]
    for kind, seeds in (("erase", [1, 2, 3, 30, 31]), ("replace", [1, 2, 3, 31])):
        context = Job(stylegan, edit_of(stylegan, kind=kind, found=found), ()).context
        assert [region.seed for region in context] == seeds
        row, column = masks.centre(context[-1].mask)
        assert abs(row - 4) <= 0.5 and abs(column - 9) <= 0.5


def test_an_erasure_with_one_mark_finds_more_context_and_one_with_several_does_not(stylegan, statistics):
    mark = Region(1, square(6, 4, 9, 7))
    one = edit_of(stylegan, layer="layer6", kind="erase", copy=None, paste=mark, context=[], form=AUTO)
    rule = execute(stylegan, one, statistics=statistics)
    found = rule.edit.found
    assert 0 < len(found) <= forms.ROUNDS[-1] and {place.by for place in found} == {"machine"}
    assert same(replay(stylegan, rule.edit, statistics=statistics), rule)
    several = one.with_(context=[Region(seed, one.paste.mask) for seed in (1, 2, 3, 4)])
    assert execute(stylegan, several, statistics=statistics).edit.found == ()


def test_an_erasure_whose_context_matches_everywhere_is_filled_from_where_it_matches_least(stylegan, statistics):
    job = prepare(stylegan, edit_of(stylegan, kind="erase", copy=None), statistics=statistics)
    match = torch.zeros(24, 8, 8, dtype=torch.bool)
    match[:, 0, 0] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Directions, "match", lambda _, keys: match[: len(keys)])
        assert len(job.donors) == 6 and job.goal().asks_for_change
