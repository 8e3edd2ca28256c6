"""The table of file kinds: each one loads, draws what its own code draws, is written back, and can be edited.

`python -m pytest tests/checkpoints/test_kinds.py -v` prints a line for every cell.
"""

from functools import cache

import pytest
import torch
from conftest import near, same_rule, square
from kinds import KINDS

from rewriter import Rewriter, load_generator, replay
from rewriter.checkpoints import store
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.errors import InputError

READ = [name for name, kind in KINDS.items() if not kind.refused]
FIRST = {name.split()[0]: name for name in reversed(READ)}.values()  # a kind of each architecture
REFUSED = [name for name, kind in KINDS.items() if kind.refused]


def tail(name):
    """A kind whose cell of the table belongs to the marked tests."""
    return pytest.param(name, marks=pytest.mark.hostile)


def loaded(name, folder):
    """The generator in a file of this kind."""
    path = folder / "file.bin"
    path.write_bytes(KINDS[name].write())
    return load_generator(str(path), device="cpu", **KINDS[name].given)


def test_there_are_at_least_sixty_kinds():
    assert len(KINDS) >= 60


@pytest.mark.parametrize("name", READ)
def test_loads_with_parity(name, tmp_path):
    generator = loaded(name, tmp_path)
    z, expected = KINDS[name].drawn()
    assert (generator(z) - expected).abs().max() < 2e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize("name", [name if KINDS[name].layout else tail(name) for name in READ])
def test_makes_the_round_trip(name, tmp_path):
    generator = loaded(name, tmp_path)
    store.save(generator, tmp_path / "ours")
    assert store.load(tmp_path / "ours").fingerprint == generator.fingerprint
    if layout := KINDS[name].layout:
        settings = {key: value for key, value in generator.settings().items() if value is not None}
        again = convert(rewrite_as(generator, layout), **settings)
        assert near(again.sample([1, 2]), generator.sample([1, 2]), 2e-6)


@cache
def edited(fingerprint):
    """The edit of the generator with this fingerprint, once for all the kinds that hold it."""
    generator = EDITED[fingerprint]
    layer = list(generator.layers)[len(generator.layers) // 2]
    side = generator.resolution
    session = Rewriter(generator, layer)
    box = square(side // 4, side // 4, side * 3 // 4, side * 3 // 4, side)
    session.copy(7, box)
    session.paste(1, box)
    session.add_context(2, box)
    rule = session.execute(form="weight", rank=3, smoothness=0.01)
    return rule, replay(generator, rule.edit)


EDITED = {}


@pytest.mark.parametrize("name", [name if name in FIRST else tail(name) for name in READ])
def test_is_edited_and_replayed(name, tmp_path):
    generator = loaded(name, tmp_path)
    rule, again = edited(EDITED.setdefault(generator.fingerprint, generator).fingerprint)
    assert rule.effect.goal_error_removed > 0.1 and same_rule(again, rule)
    changed = generator.sample([1, 2], rules=[rule])
    assert near(generator.rewritten([rule]).sample([1, 2]), changed)
    assert not near(changed, generator.sample([1, 2]), 1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_the_reason(name, tmp_path):
    with pytest.raises(InputError, match=KINDS[name].refused) as caught:
        loaded(name, tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 800


def test_all_tensors_of_a_state_dict_are_float32_and_own_their_numbers(tmp_path):
    generator = loaded("SG2 NVIDIA state, half", tmp_path)
    assert {value.dtype for value in generator.state_dict().values()} == {torch.float32}
