"""StyleGAN2 pickles of TensorFlow: read as data, and written so that NVIDIA's PyTorch code converts them."""

import numpy
import pytest
import tensorflow_pickles as tensorflow
from conftest import golden, state_of

from rewriter.checkpoints.convert import convert
from rewriter.checkpoints.read import read_checkpoint
from rewriter.errors import InputError

PLAIN, CLAMPED = "nvidia_stylegan2_16px_plain.pt", "nvidia_stylegan2_16px_clamped.pt"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.pkl"


def written(name=PLAIN, **kwargs):
    """A golden generator as TensorFlow's code saves it."""
    clamp = golden(name).get("conv_clamp")
    return tensorflow.network(state_of(name), **({"conv_clamp": clamp} if clamp else {}), **kwargs)


def loaded(path, data):
    path.write_bytes(data)
    state, options = read_checkpoint(path)
    return convert(state, **options)


def refusal(path, data):
    with pytest.raises(InputError) as caught:
        loaded(path, data)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", [PLAIN, CLAMPED])
def test_the_averaged_generator_draws_what_it_drew(name, protocol, path):
    generator, expected = loaded(path, tensorflow.dumps(tensorflow.snapshot(written(name)), protocol)), golden(name)
    picture, wanted = generator(expected["z"]), expected["image_psi_1.0"]
    assert (picture - wanted).abs().max() < 1e-4 * (wanted.max() - wanted.min())
    assert generator.settings() == convert(state_of(name), conv_clamp=expected.get("conv_clamp")).settings()


def test_the_averaged_one_of_three_is_used(path):
    other = tensorflow.network({key: value + 1 for key, value in state_of(PLAIN).items()})
    first = loaded(path, tensorflow.dumps(written())).fingerprint
    networks = {"G": other, "D": None, "Gs": written()}
    for data in ((other, other, written()), networks, written(), {"G_ema": written()}):
        assert loaded(path, tensorflow.dumps(data)).fingerprint == first


def test_arguments_may_be_numbers_of_numpy(path):
    kwargs = {"label_size": numpy.int64(0), "conv_clamp": numpy.float32(2), "resolution": numpy.int32(16)}
    assert loaded(path, tensorflow.dumps(written(**kwargs))).settings() == {"conv_clamp": 2}
    assert "conditional" in refusal(path, tensorflow.dumps(written(label_size=numpy.int64(3))))
