"""StyleGAN2 pickles of TensorFlow: read as data, and written so that NVIDIA's PyTorch code converts them."""

import io
import pickle
import re

import numpy
import pytest
import tensorflow_pickles as tensorflow
import torch
from conftest import golden, state_of

from rewriter.checkpoints.convert import convert
from rewriter.checkpoints.read import read_checkpoint
from rewriter.checkpoints.store import export
from rewriter.errors import InputError
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config

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


def test_another_rate_of_the_mapping_network_is_taken_over(path):
    factor, state = 0.02 / 0.01, state_of(PLAIN)
    twice = {key: value * (factor if key.startswith("mapping.fc") else 1) for key, value in state.items()}
    path.write_bytes(tensorflow.dumps(tensorflow.network(state, mapping_lrmul=0.02)))
    assert read_checkpoint(path)[1] == {"mapping_rate": 0.02}
    assert (
        loaded(path, path.read_bytes()).fingerprint
        == loaded(path, tensorflow.dumps(tensorflow.network(twice))).fingerprint
    )


def test_arrays_in_other_orders_and_types_are_read(path):
    network, plain = written(), loaded(path, tensorflow.dumps(written())).fingerprint
    synthesis = network.state["components"]["synthesis"].state
    for change in (numpy.asfortranarray, lambda array: array.astype("f8"), lambda array: array[..., ::-1][..., ::-1]):
        synthesis["variables"] = [
            (name, change(value) if value.ndim else value) for name, value in synthesis["variables"]
        ]
        for protocol in (2, 4, 5):
            assert loaded(path, tensorflow.dumps(network, protocol)).fingerprint == plain


def changed(part="", variables=None, **fields):
    """A golden generator with another state in one of its networks."""
    network = written()
    inner = network.state["components"][part] if part else network
    inner.state.update(fields)
    inner.state["variables"] += list((variables or {}).items())
    return network


def without(name):
    network = written()
    state = network.state["components"]["synthesis"].state
    state["variables"] = [each for each in state["variables"] if each[0] != name]
    return network


one = numpy.ones((1, 1), "f4")
UNSUITABLE = {
    "conditional": (lambda: written(label_size=10), "conditional"),
    "conditional by its tensors": (lambda: changed("mapping", {"LabelConcat/weight": one}), "conditional"),
    "StyleGAN1": (lambda: changed(build_func_name="G_style", version=2), "StyleGAN1"),
    "StyleGAN1 by its tensors": (lambda: changed("synthesis", {"8x8/Conv1/StyleMod/weight": one}), "StyleGAN1"),
    "Progressive GAN": (lambda: changed(build_func_name="G_paper", version=2), "GAN Dissection's or GenForce's file"),
    "Progressive GAN by its tensors": (
        lambda: tensorflow.Network("G", {}, {"4x4/Dense/weight": one, "lod": numpy.float32(0)}),
        "Progressive GAN of TensorFlow",
    ),
    "an old version": (lambda: changed(version=3), "version 3: expected StyleGAN2's, 4 or later"),
    "residual": (lambda: written(architecture="resnet"), "architecture is 'resnet', and pictures are drawn here with"),
    "residual by its tensors": (lambda: changed("synthesis", {"8x8/Skip/weight": one}), "residual"),
    "configuration D": (lambda: changed("synthesis", {"ToRGB_lod0/weight": one}), "configuration C or D"),
    "another filter": (lambda: written(resample_kernel=[1, 2, 1]), "resample_kernel is not 1-3-3-1"),
    "no filter": (lambda: written(resample_kernel=None), "resample_kernel is not 1-3-3-1"),
    "another activation": (lambda: written(nonlinearity="relu"), "nonlinearity is 'relu'"),
    "another activation of the mapping": (
        lambda: written(mapping_nonlinearity="relu"),
        "mapping_nonlinearity is 'relu'",
    ),
    "latents as they are": (lambda: written(normalize_latents=False), "normalize_latents is False"),
    "an absurd rate": (lambda: written(mapping_lrmul=-1), "mapping_rate is -1"),
    "an absurd clamp": (lambda: written(conv_clamp="x"), "conv_clamp is 'x'"),
    "a discriminator": (lambda: tensorflow.snapshot(None)[1], "it is a discriminator"),
    "an unknown variable": (
        lambda: changed("synthesis", {"8x8/Conv1/more": one}),
        "unexpected synthesis/8x8/Conv1/more",
    ),
    "a missing variable": (lambda: without("8x8/Conv1/bias"), "missing synthesis/8x8/Conv1/bias"),
    "a variable twice": (lambda: changed(variables={"dlatent_avg": one}), "two variables 'dlatent_avg'"),
    "objects": (lambda: changed("mapping", {"x": numpy.array([None])}), "'mapping/x' does not hold numbers"),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_an_unsuitable_network_is_refused_with_the_reason(name, path):
    make, reason = UNSUITABLE[name]
    assert reason in refusal(path, tensorflow.dumps(make()))


def test_a_network_of_the_first_progressive_gans_is_refused_with_what_to_use_instead(path):
    text = refusal(path, b"\x80\x03ctfutil\nNetwork\nq\x00)\x81q\x01.")
    assert "'tfutil.Network'" in text and "GAN Dissection's or GenForce's file for PyTorch" in text


# --- what is written ---


class Stub(dict):
    """What NVIDIA's PyTorch loaders make of a network of TensorFlow: a dict of its state."""

    def __setstate__(self, state):
        self.update(state)


class Loader(pickle.Unpickler):
    """Admits what such a loader finds in such a pickle, and notes the names."""

    def find_class(self, module, name):
        self.named.add(f"{module}.{name}")
        if (module, name) == ("dnnlib.tflib.network", "Network"):
            return Stub
        assert module.startswith("numpy"), f"{module}.{name}"
        return super().find_class(module, name)


def unpickled(data):
    loader = Loader(io.BytesIO(data))
    loader.named = set()
    return loader.load(), loader.named


# NVIDIA's PyTorch name → TensorFlow's name, and what is done to its array: legacy.py's rules, in our own words.
CONV, FLAT = (3, 2, 0, 1), (1, 0)
RULES = {
    r"mapping\.w_avg": ("dlatent_avg", None, 0),
    r"mapping\.fc(\d+)\.weight": (r"mapping/Dense\1/weight", FLAT, 0),
    r"mapping\.fc(\d+)\.bias": (r"mapping/Dense\1/bias", None, 0),
    r"synthesis\.b4\.const": ("synthesis/4x4/Const/const", "first", 0),
    r"synthesis\.b4\.conv1\.noise_const": ("synthesis/noise0", "plane", 0),
    r"synthesis\.b8\.conv0\.noise_const": ("synthesis/noise1", "plane", 0),
    r"synthesis\.b8\.conv1\.noise_const": ("synthesis/noise2", "plane", 0),
    r"synthesis\.b16\.conv0\.noise_const": ("synthesis/noise3", "plane", 0),
    r"synthesis\.b16\.conv1\.noise_const": ("synthesis/noise4", "plane", 0),
    r"synthesis\.b4\.conv1\.weight": ("synthesis/4x4/Conv/weight", CONV, 0),
    r"synthesis\.b(\d+)\.conv0\.weight": (r"synthesis/\1x\1/Conv0_up/weight", "turned", 0),
    r"synthesis\.b(\d+)\.conv1\.weight": (r"synthesis/\1x\1/Conv1/weight", CONV, 0),
    r"synthesis\.b(\d+)\.torgb\.weight": (r"synthesis/\1x\1/ToRGB/weight", CONV, 0),
    r"synthesis\.b4\.conv1\.affine\.weight": ("synthesis/4x4/Conv/mod_weight", FLAT, 0),
    r"synthesis\.b4\.conv1\.affine\.bias": ("synthesis/4x4/Conv/mod_bias", None, 1),
    r"synthesis\.b4\.conv1\.(bias|noise_strength)": (r"synthesis/4x4/Conv/\1", None, 0),
    r"synthesis\.b(\d+)\.conv0\.affine\.weight": (r"synthesis/\1x\1/Conv0_up/mod_weight", FLAT, 0),
    r"synthesis\.b(\d+)\.conv0\.affine\.bias": (r"synthesis/\1x\1/Conv0_up/mod_bias", None, 1),
    r"synthesis\.b(\d+)\.conv0\.(bias|noise_strength)": (r"synthesis/\1x\1/Conv0_up/\2", None, 0),
    r"synthesis\.b(\d+)\.conv1\.affine\.weight": (r"synthesis/\1x\1/Conv1/mod_weight", FLAT, 0),
    r"synthesis\.b(\d+)\.conv1\.affine\.bias": (r"synthesis/\1x\1/Conv1/mod_bias", None, 1),
    r"synthesis\.b(\d+)\.conv1\.(bias|noise_strength)": (r"synthesis/\1x\1/Conv1/\2", None, 0),
    r"synthesis\.b(\d+)\.torgb\.affine\.weight": (r"synthesis/\1x\1/ToRGB/mod_weight", FLAT, 0),
    r"synthesis\.b(\d+)\.torgb\.affine\.bias": (r"synthesis/\1x\1/ToRGB/mod_bias", None, 1),
    r"synthesis\.b(\d+)\.torgb\.bias": (r"synthesis/\1x\1/ToRGB/bias", None, 0),
}
DISCRIMINATOR = {  # that of 4 px: its name in PyTorch → TensorFlow's, the axes, and the shape there
    "b4.conv.weight": ("4x4/Conv/weight", CONV, (1, 2, 3, 3)),
    "b4.conv.bias": ("4x4/Conv/bias", None, (1,)),
    "b4.fc.weight": ("4x4/Dense0/weight", FLAT, (1, 16)),
    "b4.fc.bias": ("4x4/Dense0/bias", None, (1,)),
    "b4.out.weight": ("Output/weight", FLAT, (1, 1)),
    "b4.out.bias": ("Output/bias", None, (1,)),
}


def collected(network, prefix=""):
    """All variables of a stub and of those inside it."""
    assert network["version"] >= 4 and network["build_module_src"] == ""
    found = {prefix + name: value for name, value in network["variables"]}
    for name, inner in network["components"].items():
        found |= collected(inner, f"{prefix}{name}/")
    return found


def moved(array, how, more):
    if how == "turned":
        array, how = array[::-1, ::-1], CONV
    array = {"first": lambda: array[0], "plane": lambda: array[0, 0], None: lambda: array}.get(
        how, lambda: array.transpose(how)
    )()
    return torch.from_numpy(numpy.array(array + numpy.float32(more)))


def as_nvidia_converts(network, names):
    """The PyTorch state that NVIDIA's rules make of a network, for these names."""
    theirs, state = collected(network), {}
    for name in names:
        pattern, (place, how, more) = next(rule for rule in RULES.items() if re.fullmatch(rule[0], name))
        state[name] = moved(theirs.pop(re.sub(pattern, place, name)), how, more)
    assert not theirs
    return state


@pytest.mark.parametrize("name", [PLAIN, CLAMPED])
def test_what_is_written_is_what_nvidias_rules_make_the_same_generator_of(name, path):
    generator = convert(state_of(name), conv_clamp=golden(name).get("conv_clamp"))
    export(generator, path, "tensorflow")
    networks, named = unpickled(path.read_bytes())
    assert named == {
        "dnnlib.tflib.network.Network",
        *(f"numpy.{each}" for each in ("core.multiarray._reconstruct", "ndarray", "dtype")),
    }
    assert type(networks) is tuple and len(networks) == 3 and all(type(each) is Stub for each in networks)
    state, kwargs = generator.state_dict(), networks[2]["static_kwargs"]
    for key, value in as_nvidia_converts(networks[2], state).items():
        assert value.dtype == torch.float32 and value.shape == state[key].shape
        assert torch.equal(value, state[key]) or ("affine.bias" in key and (value - state[key]).abs().max() < 1e-6)
    assert kwargs["conv_clamp"] == generator.config.conv_clamp and kwargs["label_size"] == 0
    assert (kwargs["latent_size"], kwargs["dlatent_size"]) == (generator.config.z_dim, generator.config.w_dim)
    assert kwargs["mapping_layers"] == generator.config.mapping_layers and kwargs["num_channels"] == 3
    for side, width in generator.config.channels.items():
        assert min(kwargs["fmap_base"] * 2 // side, kwargs["fmap_max"]) == width
    allowed = "latent_size label_size dlatent_size resolution num_channels fmap_base fmap_max num_fp16_res conv_clamp"
    assert kwargs.keys() <= {*allowed.split(), *"architecture use_noise mapping_layers mapping_lrmul".split()}


def test_the_stand_in_for_the_discriminator_is_one_that_nvidias_rules_accept(path):
    export(convert(state_of(PLAIN)), path, "tensorflow")
    other = unpickled(path.read_bytes())[0][1]
    kwargs, theirs = other["static_kwargs"], collected(other)
    assert kwargs["resolution"] == 4 and min(kwargs["fmap_base"] * 2 // 4, kwargs["fmap_max"]) == 1
    assert theirs.keys() == {place for place, _, _ in DISCRIMINATOR.values()}
    for place, how, shape in DISCRIMINATOR.values():
        assert moved(theirs[place], how, 0).shape == shape


@pytest.mark.parametrize("name", [PLAIN, CLAMPED])
def test_what_is_written_is_read_as_the_same_generator(name, path):
    generator = convert(state_of(name), conv_clamp=golden(name).get("conv_clamp"))
    export(generator, path, "tensorflow")
    again = loaded(path, path.read_bytes())
    z = golden(name)["z"]
    assert again.config == generator.config and (again(z) - generator(z)).abs().max() < 1e-5 * generator(z).abs().max()


@pytest.mark.parametrize(("colours", "noise"), [(1, True), (3, False), (1, False)])
def test_grey_and_noise_free_generators_are_written_and_read(colours, noise, path):
    torch.manual_seed(0)
    config = StyleGAN2Config({4: 2, 8: 2, 16: 1}, 3, 4, 2, None, False, colours, noise)
    generator = StyleGAN2(config)
    export(generator, path, "tensorflow")
    kwargs = unpickled(path.read_bytes())[0][2]["static_kwargs"]
    assert (kwargs["num_channels"], kwargs["use_noise"]) == (colours, noise)
    again, z = loaded(path, path.read_bytes()), generator.latents([0, 1])
    assert again.config == config and (again(z) - generator(z)).abs().max() < 1e-5 * generator(z).abs().max()


def test_features_that_nvidias_code_cannot_have_are_refused(path):
    generator = StyleGAN2(StyleGAN2Config({4: 2, 8: 3, 16: 2}, 3, 4, 2, None, False))
    with pytest.raises(InputError, match="cannot have these numbers of channels: 2 at 4, 3 at 8, 2 at 16"):
        export(generator, path, "tensorflow")
    assert not path.exists()
