"""Undo, redo and files: whatever is done can be undone to the bit and saved, and the generator never changes."""

import json
import pickle
import pickletools
import random
import time
from dataclasses import replace

import pytest
import torch
from conftest import flipped
from PIL import Image, ImageFile
from safetensors import torch as tensors_as

from rewriter import Edit, Rewriter, masks
from rewriter.editing import history
from rewriter.editing.edit import Region
from rewriter.editing.history import FORMAT, LIMIT, RULES, History, State
from rewriter.errors import InputError, RewriterError
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config

SEEDS = [1, 5]
LAYERS = ["layer2", "layer3", "layer4", "layer5", "layer6"]


@pytest.fixture(scope="module")
def made(random_rule):
    """Make a rule of rank 1, as it might come from a file."""

    def make(generator, layer, **about):
        return random_rule(generator, layer, **{"rank": 1, "size": 0.1, **about})

    return make


# --- random programs ---


def scribble(draw):
    """A rectangle somewhere on 16 × 16, full or half painted."""
    mask = torch.zeros(16, 16)
    top, left = draw.randrange(8), draw.randrange(8)
    mask[top : top + draw.randint(3, 8), left : left + draw.randint(3, 8)] = draw.choice([1.0, 0.6])
    return mask


def place(draw):
    return draw.randrange(100), scribble(draw)


def complete(session, draw):
    """Take up a complete edit and execute it: two steps."""
    places = [Region(*place(draw)) for _ in range(4)]
    kind = draw.choice(["replace", "replace", "erase", "zero"])
    copy, paste = places[0] if kind == "replace" else None, places[1] if kind != "zero" else None
    layer, units = draw.choice(LAYERS), 4 if kind == "erase" else None
    session.use(Edit("", layer, kind=kind, copy=copy, paste=paste, context=tuple(places[2:]), units=units))
    session.execute()


def some_rule(session, draw):
    return draw.randrange(len(session.rules) or 1) if draw.random() < 0.9 else 99


OPERATIONS = {
    "copy": (4, lambda s, d: s.copy(*place(d))),
    "paste": (4, lambda s, d: s.paste(*place(d))),
    "erase": (2, lambda s, d: s.erase(*place(d), units=d.choice([None, 3, 0]))),
    "zero": (1, lambda s, d: s.zero()),
    "add_context": (5, lambda s, d: s.add_context(*place(d))),
    "remove_context": (2, lambda s, d: s.remove_context(d.randrange(3))),
    "keep": (2, lambda s, d: s.keep(*place(d))),
    "remove_keep": (1, lambda s, d: s.remove_keep(d.randrange(2))),
    "set": (4, lambda s, d: s.set(rank=d.randrange(4), layer=d.choice([*LAYERS, "layer99"]))),
    "set more": (2, lambda s, d: s.set(smoothness=d.choice([None, 3.0, -1]), spread=d.random() < 0.5, title="?")),
    "execute": (3, lambda s, d: s.execute(form=d.choice(["weight", "gated"]))),
    "cancel": (2, lambda s, d: s.execute(on_step=lambda *_: False)),
    "ask too much": (2, lambda s, d: s.execute(rank=500)),
    "use and execute": (6, complete),
    "begin": (3, lambda s, d: s.begin(d.choice([None, *LAYERS, "layer99"]))),
    "add": (3, lambda s, d: s.add(d.rule())),
    "strength": (5, lambda s, d: s.set_strength(some_rule(s, d), d.choice([-1, 0, 0.3, 1, 2, 2.5]))),
    "switch": (5, lambda s, d: s.switch(some_rule(s, d), d.random() < 0.4)),
    "move": (4, lambda s, d: s.move(some_rule(s, d), some_rule(s, d))),
    "remove": (2, lambda s, d: s.remove(some_rule(s, d))),
    "revert": (1, lambda s, d: s.revert()),
    "undo": (7, lambda s, d: s.undo()),
    "redo": (4, lambda s, d: s.redo()),
    "bad seed": (1, lambda s, d: s.copy(-1, scribble(d))),
    "bad mask": (1, lambda s, d: s.add_context(1, torch.zeros(4, 4))),
    "bad rule": (1, lambda s, d: s.add(replace(d.rule(), fingerprint="another"))),
}


class Draw(random.Random):
    """A source of random numbers and random rules."""

    def rule(self):
        return self.make(self.generator, self.choice(LAYERS), seed=self.randrange(50), rank=self.randint(1, 3))


@pytest.fixture
def program(stylegan, made):
    """Random operations as functions of the session, determined by a seed."""

    def make(seed, steps):
        draw = Draw(seed)
        draw.make, draw.generator = made, stylegan
        names, weights = list(OPERATIONS), [weight for weight, _ in OPERATIONS.values()]
        chosen = draw.choices(names, weights, k=steps)
        for i, name in enumerate(chosen):
            if name == "undo" and i + 1 < steps and draw.random() < 0.5:
                chosen[i + 1] = "redo"
            yield name, lambda session, act=OPERATIONS[name][1]: act(session, draw)

    return make


def first_of(*seeds):
    """The first seed; the others are marked slow."""
    return [seeds[0], *(pytest.param(seed, marks=pytest.mark.slow) for seed in seeds[1:])]


@pytest.mark.parametrize("seed", first_of(0, 1, 2, 3))
def test_every_operation_can_be_undone_and_redone_to_the_bit(stylegan, statistics, program, seed):
    weights = {name: value.clone() for name, value in stylegan.state_dict().items()}
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    past, future, refused = [], [], 0  # pictures
    now = base = session.sample(SEEDS)
    for name, act in program(seed, 50):
        before = session.history
        try:
            act(session)
        except RewriterError as error:
            refused += 1
            assert str(error)
            if name != "use and execute":  # two steps, of which the first may have been taken
                assert session.history is before, name
        taken = len(session.history.states[: session.history.at]) - len(past)
        assert name in ("undo", "redo") or 0 <= taken <= (2 if name == "use and execute" else 1)
        after = session.sample(SEEDS)
        if name in ("undo", "redo"):
            if session.history is not before:
                here, there = (past, future) if name == "undo" else (future, past)
                there.append(now)
                now = here.pop()
            assert torch.equal(after, now), name
        elif session.history is not before:
            past, future = [*past, *[now] * taken], []
            for _ in range(taken):
                session.undo()
            assert session.history.present is before.present
            assert torch.equal(session.sample(SEEDS), now), name
            for _ in range(taken):
                session.redo()
            assert torch.equal(session.sample(SEEDS), after), name
            now = after
        counted = len(past) + 1 + len(future), len(past)
        assert stylegan.rules == () and (len(session.history.states), session.history.at) == counted
    assert refused > 5 and any(not torch.equal(picture, base) for picture in [*past, now])
    assert all(torch.equal(value, weights[name]) for name, value in stylegan.state_dict().items())
    assert torch.equal(session.sample(SEEDS, original=True), base)


def test_undo_ends_at_the_beginning_and_redo_at_the_end(stylegan):
    session = Rewriter(stylegan)
    for step in (session.undo, session.redo):
        with pytest.raises(InputError, match="nothing to"):
            step()
    session.set(rank=2)
    session.undo()
    session.set(rank=3)  # what was undone cannot be redone from here on
    session.undo()
    assert session.edit.rank == 1
    session.redo()
    assert session.edit.rank == 3
    with pytest.raises(InputError, match="nothing to redo"):
        session.redo()


def test_the_number_of_steps_to_undo_is_limited(stylegan, made):
    session = Rewriter(stylegan, rules=[made(stylegan, "layer4")])
    for i in range(LIMIT + 50):
        session.set_strength(0, i / 1000)
    assert (len(session.history.states), session.history.at) == (LIMIT, LIMIT - 1)
    for _ in range(LIMIT - 1):
        session.undo()
    assert session.rules[0].strength == 50 / 1000


# --- files ---


def plain(rule):
    """All of a rule but how long it took; the request stands for the edit."""
    effect = rule.effect and replace(rule.effect, seconds=0).to_json()
    about = rule.layer, rule.strength, rule.on, rule.fingerprint, rule.level, rule.title, rule.request, effect
    return about, rule.delta.numpy().tobytes(), rule.directions.numpy().tobytes()


def content(past):
    """All that a history holds, to compare."""
    states = [(s.edit.digest, s.edit.title, [plain(rule) for rule in s.rules], s.made) for s in past.states]
    return states, past.at


def through_a_file(session, path):
    session.save(path)
    return Rewriter.load(session.generator, path, statistics=session.statistics)


def through_a_pickle(session, _=None):
    past = pickle.loads(pickle.dumps(session.history))
    return Rewriter(session.generator, history=past, statistics=session.statistics)


@pytest.mark.parametrize("seed", first_of(6, 8, 9, 11))
def test_a_session_saved_in_between_leads_to_the_same_end(stylegan, statistics, program, tmp_path, seed):
    def run(stops):
        session = Rewriter(stylegan, "layer4", statistics=statistics)
        for i, (_, act) in enumerate(program(seed, 60)):
            try:
                act(session)
            except RewriterError as error:
                assert str(error)
            if i in stops:
                session = stops[i](session, tmp_path / "session.safetensors")
        return session

    one = run({})
    other = run({4: through_a_file, 11: through_a_pickle, 27: through_a_file, 28: through_a_file, 50: through_a_pickle})
    assert len(one.history.states) > 20 and max(len(state.rules) for state in one.history.states) > 2
    assert content(other.history) == content(one.history)
    assert torch.equal(other.sample(SEEDS), one.sample(SEEDS)) and other.remarks() == one.remarks()
    for _ in range(5):
        one.undo(), other.undo()
        assert torch.equal(other.sample(SEEDS), one.sample(SEEDS))


def test_rules_that_differ_in_one_thing_stay_apart(stylegan, made):
    one = made(stylegan, "layer4", edit=Edit("", "layer4"))
    changes = [{"level": 2.0}, {"layer": "layer6"}, {"on": False}, {"strength": 0.25}, {"edit": None}]
    changes += [{"directions": -one.directions}, {"delta": -one.delta}]
    session = Rewriter(stylegan, rules=[one, *(replace(one, **change) for change in changes)])
    assert content(through_a_pickle(session).history) == content(session.history)


def test_a_mask_finer_than_a_file_holds_is_rounded_when_it_is_taken_up(stylegan, statistics):
    mask = torch.zeros(16, 16)
    mask[4:12, 4:12] = 0.7773
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.use(Edit("", "layer4", copy=Region(7, mask), paste=Region(1, mask), context=(Region(2, mask),)))
    again = through_a_pickle(session)
    assert plain(session.execute()) == plain(again.execute())


def sketch(n):
    """A disc on 256 × 256, another for each n."""
    draw = random.Random(n)
    return masks.disc(256, 0.2 + 0.6 * draw.random(), 0.2 + 0.6 * draw.random(), 0.1 + 0.15 * draw.random())


def long_session(generator, made, contexts=15):
    """Ten rules, a sketch for each of their many places, and then a slider is dragged."""
    session, n = Rewriter(generator, "layer4"), 0
    for number in range(10):
        session.begin()
        session.copy(number, sketch(n))
        session.paste(number + 1, sketch(n + 1))
        for i in range(contexts):
            session.add_context(i, sketch(n + 2 + i))
        n += contexts + 2
        session.add(made(generator, "layer4", seed=number, edit=session.edit))
    for i in range(60):
        session.set_strength(0, i / 60)
    return session


def of_channels(channels, more=()):
    return StyleGAN2(StyleGAN2Config({4: channels, 8: channels, 16: channels, **dict(more)}, 8, 8, 1), name="one")


def test_a_long_session_of_a_full_size_generator_is_small_and_quick_to_pickle(made):
    session = long_session(of_channels(512), made)
    start = time.process_time()
    data = pickle.dumps(session.history)
    again = pickle.loads(data)
    assert time.process_time() - start < 5  # 20 s if every state's masks were written one by one
    assert len(session.history.states) == LIMIT and len(session.rules) == 10 and len(data) < 1 << 20
    assert content(again) == content(session.history)


def test_a_pickled_session_holds_nothing_of_its_generator_but_its_name(made):
    """The pickle names nothing but its own reader, so a process without the generator can read it."""
    sizes = []
    for more in ({}, {32: 128, 64: 128}):
        data = pickle.dumps(long_session(of_channels(16, more), made, contexts=1).history)
        texts = {argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)}
        assert texts == {"rewriter.editing.history", "History.from_bytes"}
        sizes.append(len(data))
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]


def test_states_share_rules_and_places_in_memory_and_after_a_file(stylegan, made):
    session = Rewriter(stylegan, rules=[made(stylegan, "layer4")])
    for i in range(60):
        session.set_strength(0, i / 60)
    for past in (session.history, History.from_bytes(session.history.to_bytes())):
        assert len({state.rules[0].delta.data_ptr() for state in past.states}) == 1
        assert all(isinstance(state, State) for state in past.states)
    for number in range(3):
        session.copy(number, sketch(0))
        session.add_context(number, sketch(1))
    for past in (session.history, History.from_bytes(session.history.to_bytes())):
        places = [place for state in past.states for place in state.edit.context]
        assert (len(places), len({id(place) for place in places})) == (9, 3)  # so that each is encoded once


# --- damage ---


@pytest.fixture(scope="module")
def small(stylegan, made):
    """The file of a session with edits, rules, strengths and an undone step."""
    session = Rewriter(stylegan, "layer4", rules=[made(stylegan, "layer6")])
    session.copy(3, sketch(0))
    session.add_context(4, sketch(1))
    session.add(made(stylegan, "layer4", edit=session.edit))
    session.set_strength(1, 0.5)
    session.undo()
    return session.history.to_bytes()


def read(generator, data):
    """A session from a file's bytes, or None if it is refused with an InputError."""
    try:
        return Rewriter(generator, history=History.from_bytes(data))
    except InputError as error:
        assert str(error)
        return None


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def rewrite(data, damage):
    """The session's file with its JSON changed."""
    about = damage(json.loads(header_of(data)["session"]))
    text = about if isinstance(about, str) else json.dumps(about)
    return tensors_as.save(tensors_as.load(data), {"format": FORMAT, "session": text})


def put(path, value):
    """Damage: one value replaced; its path is written like "states 0 edit"."""
    *path, last = [int(name) if name.isdigit() else name for name in path.split()]

    def damage(about):
        at = about
        for name in path:
            at = at[name]
        at[last] = value
        return about

    return damage


def test_a_truncated_or_extended_file_is_refused(stylegan, small):
    assert content(read(stylegan, rewrite(small, dict)).history) == content(History.from_bytes(small))
    for cut in [*range(12), *range(12, len(small), len(small) // 60), len(small) - 1]:
        assert read(stylegan, small[:cut]) is None
    assert read(stylegan, small + b"\0") is None


def test_a_flipped_bit_gives_a_refusal_or_a_session_that_works(stylegan, small):
    header, refused = 8 + int.from_bytes(small[:8], "little"), 0
    for damaged in [*flipped(small, 10, 8), *flipped(small, 200, header), *flipped(small, 40)]:
        session = read(stylegan, damaged)
        refused += session is None
        if session is not None:
            content(History.from_bytes(session.history.to_bytes()))
            assert session.edit and isinstance(session.remarks(), list)
    assert refused > 80


STATE = {"edit": 0, "rules": [], "made": None}
WRONG = {
    "states 0 edit": [99, -1, True, 0.0, None],
    "states 0 made": [5, "0", -1],
    "states 0 rules": [
        *("", {}, [[0, "1.0", True]], [[0, True, True]], [[0, 1.0, 1]], [[0, 1.0, "false"]], [[0, 1.0, None]]),
        *(5, [[0]], [[0, 1.0, True, 1]], [[7, 1.0, True]], [[0, 9.0, True]], [[0, float("nan"), True]]),
        *([[0, 10**400, True]], [[0, None, True]], [["0", 1.0, True]], [[0, 1.0, True]] * (RULES + 1)),
    ],
    "states 0": [None],
    "states": [[], {}, 7, "1234", [STATE] * (LIMIT + 1), [STATE] * 50_000],
    "at": [99, -1, 10**400, None],
    "edits": [[], None],
    "edits 1": ["edit"],
    "edits 1 layer": ["layer99"],
    "edits 1 version": [2],
    "edits 1 rank": [0],
    "edits 1 copy": [5, [1], {"seed": 1}, {"seed": 1, "mask": 0, "more": 2}],
    "edits 1 copy mask": [99, "data:image/png;base64,"],
    "edits 1 copy seed": [-1, [1], True, 7.0],
    "edits 1 keep": ["", {}, None],
    "edits 1 context": [*("", {}), 5, {"seed": 1, "mask": 0}, [{"seed": 1, "mask": 0}] * 1001, [None]],
    "edits 1 more": [1],
    "edits 1 fingerprint": ["0" * 64],
    "edits 1 truncation": [10**400],
    "rules": [[], [{}] * 50_000],
    "rules 0": [[]],
    "rules 0 layer": ["layer99", 3],
    "rules 0 level": [10**400, None],
    "rules 0 strength": ["strong"],
    "rules 0 fingerprint": ["0" * 64, ""],
    "rules 0 edit": [5, None, []],
    "rules 1 edit rank": [0],
    "rules 1 edit copy mask": [44],
    "rules 0 effect": [{"reach": 1}, [], 0, "", False],
    "rules 0 on": [0, "true"],
    "masks": [[], 5, {}, ""],
    "masks 0": [7, "data:image/png;base64,AAAA"],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in WRONG.items() for value in values])
def test_a_file_with_one_wrong_value_is_refused_soon(stylegan, small, path, value):
    start = time.process_time()
    assert read(stylegan, rewrite(small, put(path, value))) is None
    assert time.process_time() - start < 5


@pytest.mark.parametrize("text", ["", "{", "null", "{}", "[]", "[" * 100_000, '{"states": ' + "9" * 5000 + "}"])
def test_a_file_of_other_json_is_refused(stylegan, small, text):
    assert read(stylegan, rewrite(small, lambda _: text)) is None


def test_tensors_that_do_not_belong_are_refused(stylegan, small):
    tensors, metadata = tensors_as.load(small), header_of(small)
    delta, directions = tensors["0.delta"], tensors["1.directions"]
    wrong = [
        {name: value for name, value in tensors.items() if name != "0.delta"},
        *({**tensors, "0.delta": bad} for bad in (delta.half(), delta * torch.inf, delta[:-1], delta[:, :0])),
        *({**tensors, "1.directions": bad} for bad in (directions[:, :-1], directions[0])),
        {name: tensor[:, :0] if "delta" in name else tensor[:0] for name, tensor in tensors.items()},
    ]
    for each in wrong:
        contiguous = {name: tensor.contiguous() for name, tensor in each.items()}
        assert read(stylegan, tensors_as.save(contiguous, metadata)) is None


def test_a_mask_named_many_times_is_decoded_once(stylegan, small, monkeypatch):
    decoded = []
    monkeypatch.setattr(history, "decode", lambda png, **most: decoded.append(png) or masks.decode(png, **most))
    many = put("edits 1 context", [{"seed": i, "mask": 0} for i in range(100)])
    session = read(stylegan, rewrite(small, many))
    assert len({place.mask.data_ptr() for place in session.history.states[1].edit.context}) == 1
    assert len(decoded) == len(set(decoded)) == 2


def with_masks(data, *sketches):
    """The session's file with one context for each of these masks, instead of its own places."""

    def damage(about):
        about["masks"] = [masks.encode(each) for each in sketches]
        about["edits"] = [{**edit, "copy": None, "paste": None, "context": []} for edit in about["edits"]]
        about["rules"] = [{**rule, "edit": {}} for rule in about["rules"]]
        about["edits"][1]["context"] = [{"seed": n, "mask": n} for n in range(len(sketches))]
        return about

    return rewrite(data, damage)


def test_masks_beyond_the_cap_are_refused_and_not_decoded(small, monkeypatch):
    data, decoded = with_masks(small, *map(sketch, range(5))), []
    assert len(History.from_bytes(data, cells=5 * 256**2).states[1].edit.context) == 5
    alpha = Image.Image.getchannel
    monkeypatch.setattr(Image.Image, "getchannel", lambda image, name: decoded.append(name) or alpha(image, name))
    with pytest.raises(InputError, match=r"mask 4 of 5: .*all masks of a session have at most 262,143 cells together"):
        History.from_bytes(data, cells=4 * 256**2 - 1)
    assert len(decoded) == 3


def test_a_small_file_of_a_huge_mask_is_refused_before_it_is_decoded(small, monkeypatch):
    data = with_masks(small, torch.ones(2048, 2048))
    assert len(data) < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("this was decoded"))
    with pytest.raises(InputError, match="2048 × 2048; at most 256 a side"):
        History.from_bytes(data)
    with pytest.raises(InputError, match="at most 1,000 cells"):
        History.from_bytes(with_masks(small, torch.ones(200, 200)), cells=1000)


def test_files_that_are_no_session_or_of_another_generator_are_refused_by_name(stylegan, proggan, small, tmp_path):
    path = tmp_path / "session.safetensors"
    for other in (b"", b"hello", small[:-1], tensors_as.save({"x": torch.ones(1)})):
        path.write_bytes(other)
        with pytest.raises(InputError, match=str(path)):
            Rewriter.load(stylegan, path)
    for nothing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            Rewriter.load(stylegan, nothing)
    path.write_bytes(small)
    with pytest.raises(InputError, match="stylegan.*proggan"):
        Rewriter.load(proggan, path)
    with pytest.raises(InputError, match="cannot write"):
        Rewriter.load(stylegan, path).save(tmp_path)
    assert Rewriter.load(stylegan, path).history.present.made is None


def test_a_file_too_large_for_a_session_or_for_its_reader_is_refused(small):
    with pytest.raises(InputError, match="at most 67,108,864 bytes"):
        History.from_bytes(bytes(1 + (64 << 20)))
    assert History.from_bytes(small, limit=len(small)).at == History.from_bytes(small).at
    with pytest.raises(InputError, match=f"at most {len(small) - 1:,} bytes here, and this has {len(small):,}"):
        History.from_bytes(small, limit=len(small) - 1)
