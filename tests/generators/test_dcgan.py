"""DCGAN draws what plain torch draws, whatever its depth and width, and its files are read and written back exactly."""

import pytest
import torch
from conftest import near, same_rule, square
from plain_dcgan import plain_dcgan, plain_discriminator

from rewriter import Rewriter, load_generator, replay
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.checkpoints.store import export, load, save
from rewriter.errors import InputError
from rewriter.generators.dcgan import DCGAN, DCGANConfig

VARIANTS = {
    "three layers": {},
    "one layer": {"widths": (5,)},
    "five narrow layers": {"widths": (9, 7, 5, 4, 3), "z_dim": 17},
    "with biases": {"bias": True},
    "in grey": {"colours": 1},
}


def drawn(plain, z):
    """Pictures of latents (n, z) by plain torch."""
    with torch.no_grad():
        return plain.main(z[:, :, None, None]).expand(-1, 3, -1, -1)


@pytest.fixture(params=VARIANTS)
def plain(request):
    return plain_dcgan(**VARIANTS[request.param])


def test_pictures_are_those_of_plain_torch_to_the_bit(plain):
    generator = convert(plain.state_dict())
    z = generator.latents(range(4))
    assert torch.equal(generator(z), drawn(plain, z))
    assert generator.resolution == drawn(plain, z).shape[-1]


def test_truncation_scales_the_latent(dcgan):
    z = dcgan.latents([3, 4])
    assert torch.equal(dcgan.sample([3, 4], truncation=0.5), dcgan(z * 0.5))


def test_training_mode_changes_neither_pictures_nor_statistics(plain):
    generator = convert(plain.state_dict())
    before = generator.sample([1, 2])
    assert torch.equal(generator.train().sample([1, 2]), before)
    assert torch.equal(generator.sample([1, 2]), before)


def test_memory_holds_the_weights_of_the_file_and_is_linear(plain):
    generator = convert(plain.state_dict())
    for i, (name, info) in enumerate(generator.layers.items()):
        memory = generator.memory(name)
        assert torch.equal(memory.weight.transpose(0, 1), plain.main[3 * i].weight)
        keys = torch.randn(1, info.in_channels, info.key_resolution, info.key_resolution)
        assert memory.response(keys, memory.weight).shape[1:] == (info.out_channels, *[info.resolution] * 2)
        values = memory.recall(keys, None)
        assert near(memory.recall(2 * keys, None) - memory.offset(), 2 * (values - memory.offset()))


def test_receptive_field_is_where_a_key_changes_the_picture(dcgan):
    for layer, info in list(dcgan.layers.items())[1:]:
        features, cell = dcgan.keys([5], layer), info.key_resolution // 2
        before = dcgan.picture(features)
        features.keys[:, :, cell, cell] += 10
        rows = (dcgan.picture(features) - before).abs().sum((0, 1, 3)).nonzero().flatten()
        size, reach = dcgan.resolution // info.key_resolution, dcgan.receptive_field(layer)
        assert (int(rows.min()), int(rows.max())) == (cell * size - reach, (cell + 1) * size + reach - 1)


# --- files ---


@pytest.mark.parametrize("prefix", ["main.", "model.", "module.main.", "module.model."])
def test_every_prefix_is_read_and_makes_the_same_generator(prefix):
    plain = plain_dcgan()
    state = {name.replace("main.", prefix): value for name, value in plain.state_dict().items()}
    assert convert(state).fingerprint == convert(plain.state_dict()).fingerprint


@pytest.mark.parametrize("layout", ["pytorch", "huggan"])
def test_weights_are_written_back_to_the_bit_and_plain_torch_loads_them(plain, layout, tmp_path):
    original = plain.state_dict()
    generator = convert(original)
    export(generator, tmp_path / "theirs.pt", layout)
    written = torch.load(tmp_path / "theirs.pt", weights_only=True)
    names = {name.replace("main.", "model.") if layout == "huggan" else name: name for name in original}
    assert written.keys() == {name for name in names if "num_batches_tracked" not in name}
    assert all(torch.equal(value, original[names[name]]) for name, value in written.items())
    assert convert(written).fingerprint == generator.fingerprint
    if layout == "pytorch":
        plain.load_state_dict(written)


def test_our_own_form_is_the_same_generator(plain, tmp_path):
    generator = convert(plain.state_dict())
    save(generator, tmp_path)
    assert load(tmp_path).fingerprint == generator.fingerprint
    assert torch.equal(load(tmp_path).sample([1]), generator.sample([1]))


@pytest.mark.parametrize("name", ["netG_state_dict", "netG", "generator_state_dict", "generator"])
@pytest.mark.parametrize("suffix", [".tar", ".pth", ".pt"])
def test_training_file_gives_the_generator(name, suffix, tmp_path):
    """With a discriminator, optimisers, an epoch and losses beside it."""
    plain, other = plain_dcgan(), plain_discriminator()
    adam = torch.optim.Adam(other.parameters(), lr=2e-4, betas=(0.5, 0.999))
    sum(value.sum() for value in other.parameters()).backward()
    adam.step()
    beside = {"epoch": 4, "netD_state_dict": other.state_dict(), "optimizerD": adam.state_dict(), "losses": [0.5, 1.0]}
    torch.save({**beside, name: plain.state_dict()}, tmp_path / f"training{suffix}")
    generator = load_generator(str(tmp_path / f"training{suffix}"), device="cpu")
    assert generator.fingerprint == convert(plain.state_dict()).fingerprint


def test_discriminator_is_refused_with_a_reason(tmp_path):
    with pytest.raises(InputError, match=r"discriminator.*generator's weights"):
        convert(plain_discriminator().state_dict())
    torch.save({"netD_state_dict": plain_discriminator().state_dict()}, tmp_path / "d.pth")
    with pytest.raises(InputError, match="does not hold a state dict"):
        load_generator(str(tmp_path / "d.pth"), device="cpu")


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("main.3.weight", (12, 10, 3, 3), r"main\.3\.weight is \(10, 12, 3, 3\) instead of \(10, 12, 4, 4\)"),
        ("main.3.weight", (12, 10), r"main\.3\.weight is"),
        ("main.4.weight", (11,), r"main\.4\.weight is \(11,\) instead of \(10,\)"),
        ("main.9.weight", (8, 4, 4, 4), "4 channels, a picture has 1 or 3"),
        ("main.0.weight", None, r"missing main\.0\.weight"),
        ("main.4.running_var", None, r"missing main\.4\.running_var"),
        ("main.9.weight", None, "8 channels, a picture has 1 or 3"),
        ("main.10.weight", (3,), r"unexpected main\.10\.weight"),
        ("main.30.weight", (3, 3, 4, 4), r"missing main\.10\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name, shape, said):
    state = plain_dcgan().state_dict()
    state.pop(name, None)
    with pytest.raises(InputError, match=said):
        convert(state if shape is None else {**state, name: torch.zeros(shape)})


def test_generator_of_more_than_1024_px_is_refused():
    with pytest.raises(InputError, match="1 to 8 layers before its output, not 9"):
        convert(rewrite_as(DCGAN(DCGANConfig((1,) * 9, z_dim=1)), "pytorch"))


# --- rules ---


def test_edit_is_executed_and_replayed_to_the_bit(dcgan):
    session = Rewriter(dcgan, "layer2")
    session.copy(7, square(8, 10, 20, 18, 32))
    session.paste(1, square(8, 10, 20, 18, 32))
    for seed in (2, 3):
        session.add_context(seed, square(8, 10, 20, 18, 32))
    rule = session.execute(form="weight")
    assert rule.effect.goal_error_removed > 0.1
    assert same_rule(replay(dcgan, rule.edit), rule)
    assert near(dcgan.rewritten([rule]).sample([1, 2]), dcgan.sample([1, 2], rules=[rule]))
    written = rewrite_as(dcgan.rewritten([rule]), "pytorch")
    plain = plain_dcgan()
    plain.load_state_dict(written)
    assert near(drawn(plain, dcgan.latents([1, 2])), dcgan.sample([1, 2], rules=[rule]))


def test_random_generator_of_any_size_draws_pictures_with_contrast():
    for config in (DCGANConfig((16, 8)), DCGANConfig((32, 16, 8, 4), z_dim=20, biased=("layer2", "output"))):
        pictures = DCGAN(config).sample([1, 2])
        assert pictures.shape == (2, 3, config.resolution, config.resolution)
        assert 0.05 < pictures.std() < 0.95
