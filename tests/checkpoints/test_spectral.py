"""Spectral norm is folded on reading into the weight that torch draws with, and written so that the weight stays."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from rewriter.checkpoints.spectral import folded, normed
from rewriter.errors import InputError

MODULES = {
    "convolution": (nn.Conv2d, (3, 5, 3)),
    "transposed": (nn.ConvTranspose2d, (3, 5, 4)),
    "convolution, as many inputs as outputs": (nn.Conv2d, (6, 6, 3)),
    "transposed, as many inputs as outputs": (nn.ConvTranspose2d, (6, 6, 4)),
    "linear": (nn.Linear, (4, 7)),
}


def inputs(module):
    return torch.randn(1, module.in_channels, 8, 8) if hasattr(module, "in_channels") else torch.randn(1, 4)


@pytest.fixture(params=MODULES)
def plain(request):
    """A module without spectral norm."""
    torch.manual_seed(0)
    kind, sizes = MODULES[request.param]
    return kind(*sizes)


def trained(module):
    """After some steps of a training, which let u and v become singular vectors."""
    with torch.no_grad():
        for _ in range(5):
            module(inputs(module))
    return module.eval()


def used(module):
    """The weight that torch computes with."""
    with torch.no_grad():
        module(inputs(module))
    return module.weight.detach()


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("prefix", ["", "blocks.0.conv."])
def test_weight_is_the_one_that_torch_draws_with(plain, norm, prefix):
    module = trained(norm(plain))
    state = {prefix + name: value for name, value in module.state_dict().items()}
    found = folded({**state, "other": torch.ones(2)})
    assert torch.equal(found[prefix + "weight"], used(module))
    assert found.keys() == {prefix + "weight", prefix + "bias", "other"}


@pytest.mark.parametrize("draw", [torch.randn, lambda shape: 1 + torch.rand(shape) / 3, torch.ones])
def test_weight_is_written_so_that_torch_draws_with_it_to_the_bit(plain, draw):
    module = trained(spectral_norm(plain))
    weight = draw(module.weight.shape)
    written = normed("weight", weight, axis=int(isinstance(module, nn.ConvTranspose2d)))
    module.load_state_dict({**module.state_dict(), **written})
    assert torch.equal(used(module), weight)
    assert torch.equal(folded(written)["weight"], weight)


def test_what_cannot_be_folded_or_written_is_refused():
    state = {"a.weight_orig": torch.ones(5, 3, 3, 3), "a.weight_u": torch.ones(4), "a.weight_v": torch.ones(27)}
    with pytest.raises(InputError, match=r"a\.weight_orig and the vectors of its spectral norm do not fit each other"):
        folded(state)
    with pytest.raises(InputError, match="zero everywhere"):
        normed("a", torch.zeros(2, 2, 3, 3), axis=0)


def test_weight_with_only_some_of_the_vectors_is_left_as_it_is():
    state = {"a.weight_orig": torch.ones(5, 3), "a.weight_u": torch.ones(5)}
    assert folded(state) == state


SHAPES = st.lists(st.integers(0, 3), max_size=4)


@given(SHAPES, SHAPES, SHAPES)
def test_vectors_of_any_shape_are_folded_or_refused(matrix, u, v):
    ends, shapes = ("orig", "u", "v"), (matrix, u, v)
    state = {f"a.weight_{end}": torch.ones(shape) for end, shape in zip(ends, shapes, strict=True)}
    with suppress(InputError):
        assert list(folded(state)["a.weight"].shape) == matrix
