"""The way back: whatever is done can be undone to the bit, saved and gone on with; the generator never notices."""

import io
import json
import pickle
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import torch as tensors_as

from rewriter import Edit, Rewriter, masks
from rewriter.editing import history
from rewriter.editing.edit import Region
from rewriter.editing.history import FORMAT, LIMIT, RULES, History, State
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, RewriterError
from rewriter.evaluation.benchmark import random_config_f
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config

SEEDS = [1, 5]
LAYERS = ["layer2", "layer3", "layer4", "layer5", "layer6"]


@pytest.fixture(scope="module")
def statistics(stylegan):
    return Statistics(stylegan)


@pytest.fixture(scope="module")
def made(change):
    """A rule as it might come from a file, made by nobody."""

    def make(generator, layer, *, seed=0, rank=1, **about):
        one = change(generator, layer, seed=seed, rank=rank, size=0.1)
        return Rule(layer, one.delta, one.directions, fingerprint=generator.fingerprint, **about)

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


def complete(session, draw, **options):
    """Execute after giving the edit whatever it still lacks, in one step: as someone would take up a record."""
    places = [Region(*place(draw)) for _ in range(4)]
    kind = draw.choice(["replace", "replace", "erase", "zero"])
    copy, paste = places[0] if kind == "replace" else None, places[1] if kind != "zero" else None
    layer, units = draw.choice(LAYERS), 4 if kind == "erase" else None
    session.use(Edit("", layer, kind=kind, copy=copy, paste=paste, context=tuple(places[2:]), units=units))
    session.execute(**options)


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
    "execute": (3, lambda s, d: s.execute()),
    "cancel": (2, lambda s, d: s.execute(on_step=lambda *_: False)),
    "ask too much": (2, lambda s, d: s.execute(rank=500)),
    "use and execute": (6, lambda s, d: complete(s, d)),
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
    """Chance, with random rules in it."""

    def rule(self):
        return self.make(self.generator, self.choice(LAYERS), seed=self.randrange(50), rank=self.randint(1, 3))


@pytest.fixture
def program(stylegan, made):
    """So many random operations, given as functions of the session: the same for the same seed."""

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


@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_whatever_is_done_can_be_undone_to_the_bit_and_the_generator_never_notices(stylegan, statistics, program, seed):
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
        assert stylegan.rules == () and (len(session.history.states), session.history.at) == (
            len(past) + 1 + len(future),
            len(past),
        )
    assert refused > 5 and any(not torch.equal(picture, base) for picture in [*past, now])
    assert all(torch.equal(value, weights[name]) for name, value in stylegan.state_dict().items())
    assert torch.equal(session.sample(SEEDS, original=True), base)
    stylegan.__dict__.pop("_fingerprint")
    assert stylegan.fingerprint == session.edit.fingerprint


def test_undo_ends_at_the_beginning_and_redo_at_the_end(stylegan):
    session = Rewriter(stylegan)
    for step in (session.undo, session.redo):
        with pytest.raises(InputError, match="nothing to"):
            step()
    session.set(rank=2)
    session.undo()
    session.set(rank=3)  # what was undone is gone
    session.undo()
    assert session.edit.rank == 1
    session.redo()
    assert session.edit.rank == 3
    with pytest.raises(InputError, match="nothing to redo"):
        session.redo()


def test_the_way_back_is_long_but_not_endless(stylegan, made):
    session = Rewriter(stylegan, rules=[made(stylegan, "layer4")])
    for i in range(LIMIT + 50):
        session.set_strength(0, i / 1000)
    assert (len(session.history.states), session.history.at) == (LIMIT, LIMIT - 1)
    for _ in range(LIMIT - 1):
        session.undo()
    assert session.rules[0].strength == 50 / 1000


# --- files ---


def plain(rule):
    """All of a rule but how long it took."""
    about = rule.about()
    about["effect"] = about["effect"] and {**about["effect"], "seconds": 0}
    return json.dumps(about), rule.delta.numpy().tobytes(), rule.directions.numpy().tobytes()


def content(past):
    """All that a history holds, to compare."""
    states = [(s.edit.to_json(), [plain(rule) for rule in s.rules], s.made) for s in past.states]
    return states, past.at


def through_a_file(session, path):
    session.save(path)
    return Rewriter.load(session.generator, path, statistics=session.statistics)


def through_a_pickle(session, _):
    past = pickle.loads(pickle.dumps(session.history))
    return Rewriter(session.generator, history=past, statistics=session.statistics)


@pytest.mark.parametrize("seed", [6, 11, *(pytest.param(s, marks=pytest.mark.slow) for s in (8, 9))])
def test_a_session_that_was_saved_goes_on_as_if_it_had_not_been(stylegan, statistics, program, tmp_path, seed):
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
    while one.history.at:
        one.undo()
        other.undo()
        assert torch.equal(other.sample(SEEDS), one.sample(SEEDS))


def test_rules_that_differ_in_one_thing_alone_stay_apart(stylegan, made):
    one = made(stylegan, "layer4", edit=Edit("", "layer4").to_json())
    others = [
        replace(one, level=2.0),
        replace(one, directions=-one.directions),
        replace(one, layer="layer6"),
        replace(one, delta=-one.delta),
        replace(one, on=False),
        one.at(0.25),
        replace(one, edit={}),
    ]
    session = Rewriter(stylegan, rules=[one, *others])
    assert content(pickle.loads(pickle.dumps(session.history))) == content(session.history)


def test_a_place_given_in_finer_steps_than_a_file_has_is_taken_in_as_it_will_be_saved(stylegan, statistics):
    mask = torch.zeros(16, 16)
    mask[4:12, 4:12] = 0.7773
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.use(Edit("", "layer4", copy=Region(7, mask), paste=Region(1, mask), context=(Region(2, mask),)))
    again = through_a_pickle(session, None)
    assert plain(session.execute()) == plain(again.execute())


def sketch(n):
    """A disc on 256 × 256, another for each n."""
    draw = random.Random(n)
    return masks.disc(256, 0.2 + 0.6 * draw.random(), 0.2 + 0.6 * draw.random(), 0.1 + 0.15 * draw.random())


def long_session(generator, made, layer="layer4", contexts=15):
    """Ten rules, a sketch for each of their many places, and then a slider is dragged."""
    session, n = Rewriter(generator, layer), 0
    for number in range(10):
        session.begin()
        session.copy(number, sketch(n))
        session.paste(number + 1, sketch(n + 1))
        for i in range(contexts):
            session.add_context(i, sketch(n + 2 + i))
        n += contexts + 2
        session.add(made(generator, layer, seed=number, edit=session.edit.to_json()))
    for i in range(60):
        session.set_strength(0, i / 60)
    return session


def pickled(generator, made, **options):
    session = long_session(generator, made, **options)
    start = time.perf_counter()
    data = pickle.dumps(session.history)
    again = pickle.loads(data)
    return data, again, session, time.perf_counter() - start


def test_ten_rules_and_a_long_way_back_are_small_and_quick_to_send(stylegan, made):
    data, again, session, seconds = pickled(stylegan, made)
    assert len(session.history.states) == LIMIT and len(session.rules) == 10
    assert len(data) < 1 << 20
    assert seconds < 5  # 20 s when every state's masks are written one by one
    assert content(again) == content(session.history)


def test_the_rules_of_a_full_size_generator_are_small_too(made):
    generator = random_config_f(64)
    data, again, session, _ = pickled(generator, made)
    assert generator.layers["layer4"].in_channels == 512
    assert len(data) < 1 << 20
    assert content(again) == content(session.history)


def test_a_session_holds_nothing_of_its_generator_but_its_name(made):
    sizes = []
    for more in ({}, {32: 128, 64: 128}):
        config = StyleGAN2Config({4: 16, 8: 16, 16: 16, **more}, 8, 8, 1)
        data, *_ = pickled(StyleGAN2(config, name="one"), made, contexts=1)
        sizes.append(len(data))
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]


def test_a_process_without_the_generator_can_read_a_session(stylegan, made):
    session = Rewriter(stylegan, rules=[made(stylegan, "layer4"), made(stylegan, "layer6").at(0.5)])
    session.copy(3, sketch(0))
    script = "import pickle, sys; past = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(pickle.dumps(past))"
    data = pickle.dumps(session.history)
    told = subprocess.run(
        [sys.executable, "-c", script],
        input=data,
        capture_output=True,
        cwd=Path(history.__file__).parents[1],
        timeout=120,
        check=True,
    )
    assert content(pickle.load(io.BytesIO(told.stdout))) == content(session.history)


# --- damage ---


@pytest.fixture(scope="module")
def small(stylegan, made):
    """A session with a bit of everything."""
    session = Rewriter(stylegan, "layer4", rules=[made(stylegan, "layer6")])
    session.copy(3, sketch(0))
    session.add_context(4, sketch(1))
    session.add(made(stylegan, "layer4", edit=session.edit.to_json()))
    session.set_strength(1, 0.5)
    session.undo()
    return session.history.to_bytes()


def read(generator, data):
    """A session from a file's bytes, or None where it was refused in the proper way."""
    try:
        return Rewriter(generator, history=History.from_bytes(data))
    except InputError as error:
        assert str(error)
        return None


def rewrite(data, damage):
    """The session's file with its JSON changed."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = damage(json.loads(header["__metadata__"]["session"]))
    text = about if isinstance(about, str) else json.dumps(about)
    return tensors_as.save(tensors_as.load(data), {"format": FORMAT, "session": text})


def put(*path, value):
    """Damage: one value replaced."""

    def damage(about):
        at = about
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        return about

    return damage


def test_a_file_rewritten_as_it_was_is_the_session(stylegan, small):
    assert content(read(stylegan, rewrite(small, dict)).history) == content(History.from_bytes(small))


def test_a_file_cut_short_is_refused(stylegan, small):
    for cut in [*range(12), *range(12, len(small), len(small) // 60), len(small) - 1]:
        assert read(stylegan, small[:cut]) is None
    assert read(stylegan, small + b"\0") is None


def test_a_flipped_bit_gives_a_refusal_or_a_session_that_works(stylegan, small):
    header, draw, refused = 8 + int.from_bytes(small[:8], "little"), random.Random(0), 0
    places = [
        *range(8),
        *(draw.randrange(header) for _ in range(400)),
        *(draw.randrange(len(small)) for _ in range(50)),
    ]
    for at in places:
        session = read(stylegan, small[:at] + bytes([small[at] ^ (1 << draw.randrange(8))]) + small[at + 1 :])
        refused += session is None
        if session is not None:
            content(History.from_bytes(session.history.to_bytes()))
            assert session.edit and isinstance(session.remarks(), list)
    assert refused > 100


@pytest.mark.parametrize(
    "damage",
    [
        put("states", 0, "edit", value=99),
        put("states", 0, "edit", value=-1),
        put("states", 0, "edit", value=True),
        put("states", 0, "edit", value=0.0),
        put("states", 0, "edit", value=None),
        put("states", 0, "made", value=5),
        put("states", 0, "made", value="0"),
        put("states", 0, "made", value=-1),
        put("states", 0, "rules", value=5),
        put("states", 0, "rules", value=[[0]]),
        put("states", 0, "rules", value=[[0, 1.0, True, 1]]),
        put("states", 0, "rules", value=[[7, 1.0, True]]),
        put("states", 0, "rules", value=[[0, 9.0, True]]),
        put("states", 0, "rules", value=[[0, float("nan"), True]]),
        put("states", 0, "rules", value=[[0, 10**400, True]]),
        put("states", 0, "rules", value=[[0, None, True]]),
        put("states", 0, "rules", value=[["0", 1.0, True]]),
        put("states", 0, "rules", value=[[0, 1.0, True]] * (RULES + 1)),
        put("states", 0, value=None),
        put("states", value=[]),
        put("states", value={}),
        put("states", value=7),
        put("states", value="1234"),
        put("states", value=[{"edit": 0, "rules": [], "made": None}] * (LIMIT + 1)),
        put("states", value=[{"edit": 0, "rules": [], "made": None}] * 50_000),
        put("at", value=99),
        put("at", value=-1),
        put("at", value=10**400),
        put("at", value=None),
        put("edits", value=[]),
        put("edits", value=None),
        put("edits", 1, value="edit"),
        put("edits", 1, "layer", value="layer99"),
        put("edits", 1, "version", value=2),
        put("edits", 1, "rank", value=0),
        put("edits", 1, "copy", value=5),
        put("edits", 1, "copy", value=[1]),
        put("edits", 1, "copy", "mask", value=99),
        put("edits", 1, "copy", "mask", value="data:image/png;base64,"),
        put("edits", 1, "copy", "seed", value=-1),
        put("edits", 1, "copy", "seed", value=[1]),
        put("edits", 1, "copy", value={"seed": 1}),
        put("edits", 1, "copy", value={"seed": 1, "mask": 0, "more": 2}),
        put("edits", 1, "context", value=5),
        put("edits", 1, "context", value={"seed": 1, "mask": 0}),
        put("edits", 1, "context", value=[{"seed": 1, "mask": 0}] * 1001),
        put("edits", 1, "context", value=[None]),
        put("edits", 1, "more", value=1),
        put("edits", 1, "fingerprint", value="0" * 64),
        put("edits", 1, "truncation", value=10**400),
        put("rules", value=[]),
        put("rules", 0, value=[]),
        put("rules", 0, "layer", value="layer99"),
        put("rules", 0, "layer", value=3),
        put("rules", 0, "level", value=10**400),
        put("rules", 0, "level", value=None),
        put("rules", 0, "strength", value="strong"),
        put("rules", 0, "fingerprint", value="0" * 64),
        put("rules", 0, "edit", value=5),
        put("rules", 1, "edit", "copy", "mask", value=44),
        put("rules", 0, "effect", value={"reach": 1}),
        put("rules", value=[{}] * 50_000),
        put("masks", value=[]),
        put("masks", value=5),
        put("masks", 0, value=7),
        put("masks", 0, value="data:image/png;base64,AAAA"),
        lambda about: {},
        lambda about: [],
        lambda about: "",
        lambda about: "{",
        lambda about: "null",
        lambda about: "[" * 100_000,
        lambda about: '{"states": ' + "9" * 5000 + "}",
    ],
)
def test_a_file_with_wrong_contents_is_refused_soon(stylegan, small, damage):
    start = time.perf_counter()
    assert read(stylegan, rewrite(small, damage)) is None
    assert time.perf_counter() - start < 5


def test_tensors_that_do_not_belong_are_refused(stylegan, small):
    tensors = tensors_as.load(small)
    text = json.loads(small[8 : 8 + int.from_bytes(small[:8], "little")])["__metadata__"]["session"]
    for name, value in (
        ("0.delta", None),
        ("0.delta", tensors["0.delta"].half()),
        ("0.delta", tensors["0.delta"] * torch.inf),
        ("0.delta", tensors["0.delta"][:-1]),
        ("0.delta", tensors["0.delta"][:, :0]),
        ("1.directions", tensors["1.directions"][:, :-1]),
        ("1.directions", tensors["1.directions"][0]),
    ):
        rest = {**tensors, name: value if value is not None else torch.ones(1)}
        if value is None:
            del rest[name]
        assert read(stylegan, tensors_as.save(rest, {"format": FORMAT, "session": text})) is None
    empty = {name: tensor[:, :0] if "delta" in name else tensor[:0] for name, tensor in tensors.items()}
    assert read(stylegan, tensors_as.save(empty, {"format": FORMAT, "session": text})) is None


def test_a_mask_named_many_times_is_unpacked_once(stylegan, small, monkeypatch):
    decoded = []
    monkeypatch.setattr(masks, "decode", lambda png, decode=masks.decode: decoded.append(png) or decode(png))
    many = put("edits", 1, "context", value=[{"seed": i, "mask": 0} for i in range(100)])
    session = read(stylegan, rewrite(small, many))
    assert len({place.mask.data_ptr() for place in session.history.states[1].edit.context}) == 1
    assert len(decoded) == len(set(decoded)) == 2


def test_masks_that_would_fill_the_memory_are_refused(stylegan, small, monkeypatch):
    monkeypatch.setattr(history, "CELLS", 3 * 256**2)

    def damage(about):
        about["masks"] = [masks.encode(sketch(n)) for n in range(5)]
        about["edits"][1]["context"] = [{"seed": n, "mask": n} for n in range(5)]
        return about

    with pytest.raises(InputError, match="million cells"):
        History.from_bytes(rewrite(small, damage))


def test_a_file_that_is_no_session_or_of_another_generator_is_refused_by_name(stylegan, proggan, small, tmp_path):
    path = tmp_path / "session.safetensors"
    for content in (b"", b"hello", small[:-1], tensors_as.save({"x": torch.ones(1)})):
        path.write_bytes(content)
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


def test_a_session_too_large_to_be_one_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(history, "_SIZE", 10)
    with pytest.raises(InputError, match="at most"):
        History.from_bytes(b"0" * 11)


def test_states_are_shared_not_copied(stylegan, made):
    """A slider dragged sixty times holds its rule's numbers once, in memory and after a file."""
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
