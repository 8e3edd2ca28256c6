"""Search and matches: the pictures and places that answer the context most, whatever the batches and the memory."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import square

from rewriter import Rewriter
from rewriter.cache import Cache
from rewriter.editing import search
from rewriter.editing.rule import Rule
from rewriter.editing.search import EDGE, POPULATION, Places
from rewriter.errors import InputError
from rewriter.generators.latents import latents
from rewriter.masks import Box
from rewriter.memory.directions import Directions
from rewriter.worlds.townscape import scenes

WHERE = range(40, 90)


@pytest.fixture
def session(stylegan, statistics):
    session = Rewriter(stylegan, "layer5", statistics=statistics)
    for seed in (1, 2, 3):
        session.add_context(seed, square(6, 4, 12, 12))
    return session


def answers(session, seeds):
    """How strongly each place of each picture answers, one picture at a time: {seed: (h, w)}."""
    directions, layer = session.direction(), session.edit.layer
    rules = session.history.present.before
    found = {}
    for seed in seeds:
        keys = session.generator.keys([seed], layer, rules=rules).keys[0]
        found[seed] = torch.tensordot(directions.matrix[0], keys, 1) / directions.level
    return found


def near(found, other):
    """The same pictures and places, and the same answers but for rounding."""
    same = [(a.seed, a.at) for a in found] == [(b.seed, b.at) for b in other]
    return same and all(a.score == pytest.approx(b.score, abs=1e-4) for a, b in zip(found, other, strict=True))


# --- search ---


def test_the_pictures_found_are_those_whose_strongest_place_answers_most(session):
    strength = answers(session, WHERE)
    expected = sorted(WHERE, key=lambda seed: -strength[seed].max())[:7]
    found = session.search(7, seeds=WHERE)
    assert [one.seed for one in found] == expected
    for one in found:
        assert one.score == pytest.approx(float(strength[one.seed].max()), abs=1e-4)
        row, column = divmod(int(strength[one.seed].argmax()), 8)
        assert one.at == Box(2 * row, 2 * column, 2 * row + 2, 2 * column + 2)  # 8² keys, 16² pixels


def test_the_context_answers_one_on_average_on_its_own_places(session):
    strength = answers(session, (1, 2, 3))
    inside = torch.cat([strength[seed][3:6, 2:6].flatten() for seed in (1, 2, 3)])
    assert float(inside.mean()) == pytest.approx(1, abs=1e-4)


def test_rules_at_earlier_layers_count_in_a_search_and_later_ones_do_not(session, stylegan, change):
    def rule(layer):
        one = change(stylegan, layer, size=0.5)
        return Rule(layer, one.delta, one.directions, fingerprint=stylegan.fingerprint)

    base = session.search(5, seeds=WHERE)
    session.add(rule("layer6"))
    assert session.search(5, seeds=WHERE) == base
    session.add(rule("layer3"))
    found = session.search(5, seeds=WHERE)
    strength = answers(session, WHERE)
    assert [one.seed for one in found] == sorted(WHERE, key=lambda seed: -strength[seed].max())[:5]
    assert found != base
    session.switch(1, False)
    assert session.search(5, seeds=WHERE) == base


def test_what_is_found_so_far_is_told_after_each_batch_and_only_gets_better(session):
    told = []
    found = session.search(5, seeds=WHERE, on_step=lambda *at: told.append(at))
    assert [done for done, _, _ in told] == [16, 32, 48, 50] and {of for _, of, _ in told} == {50}
    assert told[-1][2] == found
    for (_, _, before), (done, _, after) in zip(told, told[1:], strict=False):
        assert all(b.score >= a.score for a, b in zip(before, after, strict=False)) and len(after) >= len(before)
        assert {one.seed for one in after} <= set(WHERE[:done])
        assert [one.score for one in after] == sorted((one.score for one in after), reverse=True)


def test_a_search_stops_when_told_to(session):
    told = []
    found = session.search(3, seeds=WHERE, on_step=lambda *at: told.append(at) or len(told) < 2)
    assert len(told) == 2 and found == told[-1][2]
    assert found == session.search(3, seeds=WHERE[:32])
    assert session.search(3, seeds=WHERE, on_step=lambda *_: None) == session.search(3, seeds=WHERE)  # None goes on


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_order_does_not_depend_on_batches(session, monkeypatch, batch):
    found = session.search(9, seeds=WHERE)
    monkeypatch.setattr(search, "BATCH", batch)
    assert near(session.search(9, seeds=WHERE), found)
    assert near(session.search(9, seeds=list(WHERE)[::-1]), found)


def test_a_tie_goes_to_the_lower_seed(stylegan):
    everywhere = Directions(torch.zeros(1, 32), 1.0)
    found = search.search(Places(stylegan, "layer5"), everywhere, 4, seeds=[9, 3, 7, 5, 1])
    assert [one.seed for one in found] == [1, 3, 5, 7] and {one.score for one in found} == {0.0}


def test_more_than_there_are_gives_all_there_are(session):
    found = session.search(100, seeds=range(5))
    assert sorted(one.seed for one in found) == [0, 1, 2, 3, 4]
    assert session.search(3, seeds=[]) == []


@pytest.mark.parametrize("k", [0, -1, 401, 2.5, "3", None, True])
def test_a_number_of_pictures_that_is_none_is_refused(session, k):
    with pytest.raises(InputError, match="1 to 400"):
        session.search(k, seeds=range(3))


def test_a_search_needs_something_to_look_for(stylegan):
    session = Rewriter(stylegan)
    for look in (session.search, lambda: session.matches(3), session.direction):
        with pytest.raises(InputError, match="mark a place"):
            look()
    session.add_context(1, square(6, 4, 12, 12))
    before = session.history
    for look in (lambda: session.search(3, seeds=[-1]), lambda: session.matches(100_000)):
        with pytest.raises(InputError, match="99,999"):
            look()
    session.search(1, seeds=[4])
    assert session.history is before  # looking is no step


# --- the cache ---


class Watched(Cache):
    """A cache that keeps an account of what it holds and had to make."""

    def __init__(self, limit=512 << 20):
        super().__init__(limit)
        self.most, self.made = 0, []

    def get(self, key, make):
        def counted():
            self.made.append(key)
            return make()

        found = super().get(key, counted)
        held = sum(value.nbytes for value, _ in self._kept.values() if isinstance(value, torch.Tensor))
        self.most = max(self.most, held)
        assert held == self.size
        return found


def with_cache(session, cache):
    return Rewriter(session.generator, history=session.history, statistics=session.statistics, keys=cache)


@pytest.mark.parametrize("limit", [0, 1, 140_000, 300_000])  # a batch is 16 · 32 · 8 · 8 · 4 = 131,072 bytes
def test_a_small_cache_stays_small_and_changes_nothing(session, limit):
    expected, cache = session.search(6, seeds=WHERE), Watched(limit)
    small = with_cache(session, cache)
    assert small.search(6, seeds=WHERE) == small.search(6, seeds=WHERE) == expected
    assert cache.most <= limit
    assert (cache.most > 0) == (limit > 131_072)


def test_what_is_kept_is_not_made_again(session):
    cache = Watched()
    kept = with_cache(session, cache)
    kept.search(6, seeds=WHERE)
    assert len(cache.made) == 4
    kept.add_context(8, square(0, 0, 6, 6))  # another question about the same keys
    kept.search(6, seeds=WHERE)
    assert len(cache.made) == 4
    kept.set(layer="layer4")
    kept.search(6, seeds=WHERE)
    assert len(cache.made) == 8


def test_the_least_recently_used_goes_first():
    cache = Cache(3 * 4)
    for key in "abc":
        cache.get((key,), lambda: torch.zeros(1))
    cache.get(("a",), lambda: pytest.fail("a is kept"))
    cache.get(("d",), lambda: torch.zeros(1))
    made = []
    for key in "acdb":
        cache.get((key,), lambda key=key: made.append(key) or torch.zeros(1))
    assert made == ["b"]


def test_what_is_too_large_to_keep_pushes_nothing_out():
    cache = Cache(8)
    cache.get(("a",), lambda: torch.zeros(1))
    assert len(cache.get(("large",), lambda: torch.zeros(3))) == 3
    cache.get(("a",), lambda: pytest.fail("a is kept"))


def test_threads_may_share_a_cache(session, stylegan, statistics):
    other = Rewriter(stylegan, "layer4", statistics=statistics)
    other.add_context(5, square(2, 2, 9, 9))
    expected = [one.search(6, seeds=WHERE) for one in (session, other)]
    for limit in (200_000, 512 << 20):
        cache = Cache(limit)
        visitors = [with_cache(one, cache) for one in (session, other)] * 4
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda one: one.search(6, seeds=WHERE), visitors))
        assert found == expected * 4
        assert cache.size == sum(value.nbytes for value, _ in cache._kept.values()) <= limit


# --- matches ---


def test_a_place_matches_when_it_answers_more_than_all_but_one_in_a_thousand(session):
    strength = answers(session, POPULATION)
    everything = torch.cat([one.flatten() for one in strength.values()])
    match = session.matches(40)
    assert int((everything > match.level + 1e-5).sum()) == 8  # of 128 · 64
    assert int((everything > match.level - 1e-5).sum()) == 9
    assert torch.allclose(match.heat, answers(session, [40])[40], atol=1e-5)


def test_the_parts_of_a_match_agree(session):
    seeds = [one.seed for one in session.search(3, seeds=POPULATION)] + [40]
    pictures = session.sample(seeds)
    matches = session.matches_on(seeds)
    assert matches[0].fires.any()  # the strongest of the population is above all but one in a thousand
    for seed, match, picture in zip(seeds, matches, pictures, strict=True):
        assert match.seed == seed and match.level == matches[0].level
        assert match.heat.shape == match.fires.shape == (8, 8) and match.fires.dtype == torch.bool
        assert torch.equal(match.fires, match.heat > match.level)
        assert match.overlay.shape == picture.shape
        inside = match.fires.repeat_interleave(2, 0).repeat_interleave(2, 1)
        around = torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0] > 0
        assert torch.equal(match.overlay[:, inside], picture[:, inside])
        assert torch.equal(match.overlay[:, ~around], ((picture + 1) / 2 - 1)[:, ~around])
        edge = (around & ~inside).nonzero()
        assert all(torch.allclose(match.overlay[:, y, x], torch.tensor(EDGE)) for y, x in edge)


def test_a_match_is_the_same_alone_and_among_others(session):
    alone, among = session.matches(7), session.matches_on([3, 7, 9])[1]
    assert alone.level == among.level and alone.seed == among.seed == 7
    assert torch.allclose(alone.heat, among.heat, atol=1e-5)
    assert session.matches_on([]) == []


def test_the_picture_that_a_match_is_shown_on_has_the_rules(session, stylegan, change):
    one = change(stylegan, "layer6", size=0.5)
    before = session.matches(4)
    session.add(Rule("layer6", one.delta, one.directions, fingerprint=stylegan.fingerprint))
    after = session.matches(4)
    assert torch.equal(before.heat, after.heat) and not torch.equal(before.overlay, after.overlay)


# --- on the built-in world ---

FACTORS = scenes.factors(latents(range(400), scenes.LATENT_DIM))
SCENES = scenes.draw(FACTORS)


def share(seeds, name):
    """Of these pictures, how many show a thing."""
    labels = SCENES.labels[list(seeds)] == scenes.LABELS.index(name)
    return float((labels.flatten(1).sum(1) > 20).float().mean())


@pytest.mark.parametrize(("name", "layer"), [("dome", "layer8"), ("light", "layer8"), ("watermark", "layer8")])
def test_searching_with_a_thing_finds_that_thing(town, name, layer):
    """More often than chance, and at the place where it is."""
    index = scenes.LABELS.index(name)
    sizes = (SCENES.labels[:100] == index).flatten(1).sum(1)
    session = Rewriter(town, layer)
    for seed in sizes.argsort(descending=True, stable=True)[:4].tolist():
        session.add_context(seed, SCENES.labels[seed] == index)
    found = session.search(20, seeds=range(100, 400))
    base = share(range(100, 400), name)
    assert base < 0.75
    assert share([one.seed for one in found], name) > base + (1 - base) / 2
    there = [bool((SCENES.labels[one.seed][one.at.rows, one.at.columns] == index).any()) for one in found]
    assert sum(there) > 10
