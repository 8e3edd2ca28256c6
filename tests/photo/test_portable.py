"""A found photo as a file: the same to the bit, and nothing else is taken for one."""

import json

import pytest
import torch
from conftest import flipped, near
from safetensors import torch as tensors_as

from rewriter.errors import InputError
from rewriter.photo import portable
from rewriter.photo.opening import inverted


@pytest.fixture
def photo(stylegan, change):
    pixels = torch.randint(256, (3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    latent = stylegan.spread(stylegan.embed(stylegan.latents([3]), 1.0))[0]
    return inverted(stylegan, pixels, latent, [change(stylegan, "layer3"), change(stylegan, "layer4", seed=1)])


def test_a_found_photo_is_saved_and_read_to_the_bit(stylegan, dcgan, photo, tmp_path):
    portable.save(photo, stylegan, tmp_path / "me.safetensors")
    same = portable.load(tmp_path / "me.safetensors", stylegan)
    assert same.name == photo.name and same.identity == photo.identity
    assert torch.equal(same.photo, photo.photo) and torch.equal(same.drawn, photo.drawn)
    plain = inverted(dcgan, torch.zeros(3, 32, 32).byte(), dcgan.latents([1])[0])
    assert near(portable.from_bytes(portable.to_bytes(plain, dcgan), dcgan).drawn, plain.drawn)


def rewritten(data, *, about=None, drop=(), **tensors):
    """The file with other tensors, or another description."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    kept = {name: tensor for name, tensor in tensors_as.load(data).items() if name not in drop}
    header["photo"] = json.dumps({**json.loads(header["photo"]), **(about or {})})
    return tensors_as.save({**kept, **tensors}, header)


@pytest.mark.parametrize(
    ("altered", "words"),
    [
        ({"photo": torch.zeros(3, 8, 8).byte()}, r"not \(3, 16, 16\) bytes"),
        ({"photo": torch.zeros(3, 16, 16)}, "bytes"),
        ({"latent": torch.zeros(5)}, "latents"),
        ({"latent": torch.full((6, 32), float("nan"))}, "latents|draws no picture"),
        ({"0.delta": torch.full((32, 2, 3, 3), float("inf"))}, "not finite|made for another"),
        ({"0.directions": torch.zeros(2, 3)}, "made for another"),
        ({"drop": ["1.delta"]}, "damaged"),
        ({"0.delta": torch.zeros(32, 0, 3, 3), "0.directions": torch.zeros(0, 32)}, "no directions"),
        ({f"x{n}": torch.zeros(0) for n in range(2000)}, "a header of"),
        ({"about": {"layers": ["layer99"] * 2}}, "no layer"),
        ({"about": {"layers": ["layer3"] * 100}}, "at most 32"),
        ({"about": {"fingerprint": "f" * 64}}, "found in a generator with fingerprint ffff"),
        ({"about": {"script": "os.system"}}, "unknown field"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(stylegan, photo, altered, words):
    with pytest.raises(InputError, match=words):
        portable.from_bytes(rewritten(portable.to_bytes(photo, stylegan), **altered), stylegan)


def test_other_files_are_no_photos(stylegan, photo, random_rule, tmp_path):
    random_rule(stylegan, "layer4").save(tmp_path / "rule.safetensors")
    for data in (
        b"",
        b"\x89PNG",
        (tmp_path / "rule.safetensors").read_bytes(),
        portable.to_bytes(photo, stylegan)[:500],
    ):
        with pytest.raises(InputError, match="photo"):
            portable.from_bytes(data, stylegan)
    with pytest.raises(InputError, match="nowhere"):
        portable.load(tmp_path / "nowhere.safetensors", stylegan)


def test_a_file_that_is_too_large_is_not_read(stylegan, monkeypatch):
    monkeypatch.setattr(portable, "LIMIT", 1 << 20)
    with pytest.raises(InputError, match="at most 1 MB"):
        portable.from_bytes(bytes(2 << 20), stylegan)


@pytest.mark.hostile
def test_damaged_files_are_read_or_refused(stylegan, photo):
    for data in flipped(portable.to_bytes(photo, stylegan), 300, end=1200):
        try:
            assert portable.from_bytes(data, stylegan).drawn.isfinite().all()
        except InputError:
            continue
