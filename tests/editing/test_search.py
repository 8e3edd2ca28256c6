"""Search and matches: the pictures and places that answer the context most, whatever the batches and the cache."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import square

from rewriter import Rewriter
from rewriter.cache import Cache
from rewriter.editing import search
from rewriter.editing.search import EDGE, POPULATION, Places
from rewriter.errors import CancelledError, InputError
from rewriter.generators.latents import latents
from rewriter.masks import Box
from rewriter.memory.directions import Directions
from rewriter.worlds.townscape import scenes
from rewriter.worlds.townscape.world import WORLD

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


def strongest(strength, k):
    return sorted(strength, key=lambda seed: -strength[seed].max())[:k]


def same_but_for_rounding(found, other):
    places = [(a.seed, a.at) for a in found] == [(b.seed, b.at) for b in other]
    return places and all(a.score == pytest.approx(b.score, abs=1e-4) for a, b in zip(found, other, strict=True))


def test_a_search_finds_the_pictures_whose_strongest_place_answers_most(session):
    strength = answers(session, WHERE)
    found = session.search(7, seeds=WHERE)
    assert [one.seed for one in found] == strongest(strength, 7)
    for one in found:
        assert one.score == pytest.approx(float(strength[one.seed].max()), abs=1e-4)
        row, column = divmod(int(strength[one.seed].argmax()), 8)
        assert one.at == Box(2 * row, 2 * column, 2 * row + 2, 2 * column + 2)  # 8² keys, 16² pixels


def test_the_mean_answer_on_the_contexts_own_places_is_one(session):
    strength = answers(session, (1, 2, 3))
    inside = torch.cat([strength[seed][3:6, 2:6].flatten() for seed in (1, 2, 3)])
    assert float(inside.mean()) == pytest.approx(1, abs=1e-4)


def test_a_search_sees_rules_at_earlier_layers_and_no_others(session, stylegan, random_rule):
    base = session.search(5, seeds=WHERE)
    session.add(random_rule(stylegan, "layer6", size=0.5))
    assert session.search(5, seeds=WHERE) == base
    session.add(random_rule(stylegan, "layer3", size=0.5))
    found = session.search(5, seeds=WHERE)
    assert [one.seed for one in found] == strongest(answers(session, WHERE), 5) and found != base
    session.switch(1, False)
    assert session.search(5, seeds=WHERE) == base


def test_the_best_so_far_is_reported_after_each_batch_and_only_improves(session):
    steps, best = [], []
    found = session.search(5, seeds=WHERE, on_step=lambda *at: steps.append(at), on_found=best.append)
    assert steps == [(16, 50), (32, 50), (48, 50), (50, 50)] and best[-1] == found
    for before, after, (done, _) in zip(best, best[1:], steps[1:], strict=False):
        assert all(b.score >= a.score for a, b in zip(before, after, strict=False)) and len(after) >= len(before)
        assert {one.seed for one in after} <= set(WHERE[:done])
        assert [one.score for one in after] == sorted((one.score for one in after), reverse=True)


def test_a_cancelled_search_has_reported_what_it_found_so_far(session):
    steps, best = [], []
    with pytest.raises(CancelledError, match="32 of 50"):
        session.search(3, seeds=WHERE, on_step=lambda *at: steps.append(at) or len(steps) < 2, on_found=best.append)
    assert len(steps) == 2 and best[-1] == session.search(3, seeds=WHERE[:32])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_order_does_not_depend_on_batches(session, monkeypatch, batch):
    found = session.search(9, seeds=WHERE)
    monkeypatch.setattr(search, "BATCH", batch)
    assert same_but_for_rounding(session.search(9, seeds=WHERE), found)
    assert same_but_for_rounding(session.search(9, seeds=list(WHERE)[::-1]), found)


def test_ties_go_to_the_lower_seed_and_few_pictures_are_all_found(session, stylegan):
    everywhere = Directions(torch.zeros(1, 32), 1.0)
    found = search.search(Places(stylegan, "layer5"), everywhere, 4, seeds=[9, 3, 7, 5, 1])
    assert [one.seed for one in found] == [1, 3, 5, 7] and {one.score for one in found} == {0.0}
    assert sorted(one.seed for one in session.search(100, seeds=range(5))) == [0, 1, 2, 3, 4]
    assert session.search(3, seeds=[]) == []


@pytest.mark.parametrize("k", [0, -1, 401, 2.5, "3", None, True])
def test_a_number_of_pictures_out_of_range_is_refused(session, k):
    with pytest.raises(InputError, match="1 to 400"):
        session.search(k, seeds=range(3))


def test_a_search_needs_a_context_and_valid_seeds_and_is_no_step(stylegan):
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
    assert session.history is before


class Watched(Cache):
    """A cache that records which values were made, and its largest size."""

    def __init__(self, limit=512 << 20):
        super().__init__(limit)
        self.most, self.made = 0, []

    def put(self, key, value):
        super().put(key, value)
        self.made.append(key)
        self.most = max(self.most, self.size)


def with_cache(session, cache):
    return Rewriter(session.generator, history=session.history, statistics=session.statistics, keys=cache)


@pytest.mark.parametrize("limit", [0, 1, 140_000, 300_000])  # a batch is 16 · 32 · 8 · 8 · 4 = 131,072 bytes
def test_a_small_cache_stays_small_and_changes_no_result(session, limit):
    expected, cache = session.search(6, seeds=WHERE), Watched(limit)
    small = with_cache(session, cache)
    assert small.search(6, seeds=WHERE) == small.search(6, seeds=WHERE) == expected
    assert cache.most <= limit and (cache.most > 0) == (limit > 131_072)


def test_cached_keys_are_computed_once(session):
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


def test_the_least_recently_used_value_is_dropped_first_and_a_too_large_one_is_not_kept():
    cache = Cache(3 * 4)
    for key in "abc":
        cache.get(key, lambda: torch.zeros(1))
    cache.get("a", lambda: pytest.fail("a is kept"))
    cache.get("d", lambda: torch.zeros(1))
    assert [key for key in "abcd" if cache.peek(key) is not None] == ["a", "c", "d"] and cache.size == 12
    assert len(cache.get("large", lambda: torch.zeros(4))) == 4
    assert [key for key in ("a", "c", "d", "large") if cache.peek(key) is not None] == ["a", "c", "d"]


def test_threads_may_share_a_cache(session, stylegan, statistics):
    other = Rewriter(stylegan, "layer4", statistics=statistics)
    other.add_context(5, square(2, 2, 9, 9))
    expected = [one.search(6, seeds=WHERE) for one in (session, other)]
    for limit in (200_000, 512 << 20):
        cache = Watched(limit)
        visitors = [with_cache(one, cache) for one in (session, other)] * 4
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda one: one.search(6, seeds=WHERE), visitors))
        assert found == expected * 4
        kept = [value for value in map(cache.peek, set(cache.made)) if value is not None]
        assert cache.size == sum(value.nbytes for value in kept) <= limit


def test_one_place_in_a_thousand_of_other_pictures_exceeds_the_level(session):
    everything = torch.cat([one.flatten() for one in answers(session, POPULATION).values()])
    match = session.matches(40)
    assert int((everything > match.level + 1e-5).sum()) == 8  # of 128 · 64
    assert int((everything > match.level - 1e-5).sum()) == 9
    assert torch.allclose(match.heat, answers(session, [40])[40], atol=1e-5)


def test_heat_level_places_and_overlay_of_a_match_agree(session):
    seeds = [one.seed for one in session.search(3, seeds=POPULATION)] + [40]
    pictures, matches = session.sample(seeds), session.matches_on(seeds)
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


def test_matches_are_shown_on_the_picture_with_the_rules(session, stylegan, random_rule):
    before = session.matches(4)
    session.add(random_rule(stylegan, "layer6", size=0.5))
    after = session.matches(4)
    assert torch.equal(before.heat, after.heat) and not torch.equal(before.overlay, after.overlay)


@pytest.fixture(scope="module")
def labels():
    """What each pixel of the first 350 towns shows, (350, 64, 64)."""
    return scenes.draw(WORLD.factors(latents(range(350), WORLD.zdim))).labels


@pytest.fixture(scope="module")
def keys():
    return Cache(search.KEPT)


@pytest.mark.parametrize("name", ["dome", "light", "watermark"])
def test_searching_with_a_thing_finds_that_thing(town, labels, keys, name):
    """More often than by chance, and at the right place."""
    shown = labels == scenes.LABELS.index(name)
    session = Rewriter(town, "layer8", keys=keys)
    for seed in shown[:100].flatten(1).sum(1).argsort(descending=True, stable=True)[:4].tolist():
        session.add_context(seed, shown[seed])
    found = session.search(20, seeds=range(100, 350))
    large = (shown.flatten(1).sum(1) > 20).float()
    base = float(large[100:].mean())
    assert base < 0.75 and float(large[[one.seed for one in found]].mean()) > base + (1 - base) / 2
    assert sum(bool(shown[one.seed][one.at.rows, one.at.columns].any()) for one in found) > 10
