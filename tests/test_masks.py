"""Masks: to text and back, resized by area, their boxes, growing, and what is no mask."""

import base64
import io
import zlib

import pytest
import torch
from conftest import flipped
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rewriter import masks
from rewriter.errors import InputError


def painted(height=9, width=7, seed=0):
    return (torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255


def url(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return masks.PREFIX + base64.b64encode(buffer.getvalue()).decode()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_a_mask_in_steps_of_1_255_is_encoded_exactly(height, width, seed):
    mask = painted(height, width, seed)
    mask[0, 0] = 1
    assert torch.equal(masks.decode(masks.encode(mask)), mask)


def test_encoding_rounds_to_the_nearest_step():
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    assert (masks.decode(masks.encode(mask)) - mask).abs().max() <= 0.5 / 255 + 1e-6


def test_painted_means_opaque_whatever_the_colour():
    pixels = torch.zeros(5, 4, 4, dtype=torch.uint8)
    pixels[2, 1] = torch.tensor([10, 200, 0, 255], dtype=torch.uint8)
    mask = masks.decode(url(Image.fromarray(pixels.numpy(), "RGBA")))
    assert mask.shape == (5, 4) and mask.sum() == mask[2, 1] == 1


NO_PNG = {
    "data URL": [None, "", "data:image/jpeg;base64,AAAA"],
    "at most 4 MB": [masks.PREFIX + "A" * masks.MAX_TEXT],
    "not a readable PNG": [
        *(masks.PREFIX + text for text in ("not base64!", "é", base64.b64encode(b"GIF89a").decode())),
        url(Image.new("LA", (4, 4), (0, 255)), "WEBP"),
    ],
    "no alpha": [url(Image.new("RGB", (4, 4)))],
    "2049 × 1": [url(Image.new("LA", (masks.MAX_SIDE + 1, 1), (0, 255)))],
    "empty": [url(Image.new("LA", (4, 4), (255, 0)))],
}


@pytest.mark.parametrize(("words", "text"), [(words, text) for words, texts in NO_PNG.items() for text in texts])
def test_text_that_is_no_painted_png_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        masks.decode(text)


def test_a_damaged_png_is_refused_or_gives_a_valid_mask():
    data, refused = base64.b64decode(masks.encode(painted(40, 40)).removeprefix(masks.PREFIX)), 0
    damaged = [data[:cut] for cut in range(0, len(data) - 12, 13)] + list(flipped(data, 150))
    for piece in damaged:
        try:
            mask = masks.decode(masks.PREFIX + base64.b64encode(piece).decode())
        except InputError:
            refused += 1
        else:
            assert mask.ndim == 2 and 0 <= mask.min() and mask.max() <= 1
    assert refused > len(damaged) / 2


@pytest.mark.parametrize("kind", [b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"fcTL", b"iCCP", b"zTXt"])
@pytest.mark.parametrize("size", [0, 1, 3, 9])
@pytest.mark.parametrize("at", [33, -12])  # after the header; after the pixels, which Pillow reads later
def test_a_png_chunk_of_the_wrong_length_is_refused_or_ignored(kind, size, at):
    data, body = base64.b64decode(masks.encode(painted()).removeprefix(masks.PREFIX)), kind + bytes(size)
    chunk = size.to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    text = masks.PREFIX + base64.b64encode(data[:at] + chunk + data[at:]).decode()
    try:
        assert torch.equal(masks.decode(text), painted())
    except InputError as error:
        assert "not a readable PNG" in str(error)


NO_MASK = {
    "divide": [[[0, 2]], [[-0.1, 1]], [[float("nan"), 1]]],
    "height, width": [[0, 1], [[[1]]], [[]], torch.ones(1, masks.MAX_SIDE + 1), [[1], [1, 0]]],
    "numbers": [[["a"]]],
    "empty": [[[0.0, 0.0]], torch.zeros(3, 3, dtype=torch.bool)],
}


@pytest.mark.parametrize(("words", "values"), [(words, each) for words, several in NO_MASK.items() for each in several])
def test_values_that_are_no_mask_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        masks.as_mask(values)


@pytest.mark.parametrize("values", [[[True, False]], torch.tensor([[1, 0]]), [[1.0, 0]], torch.tensor([[1.0, 0]])])
def test_booleans_and_all_kinds_of_numbers_give_the_same_mask(values):
    assert torch.equal(masks.as_mask(values), torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize(
    ("size", "to"), [((64, 64), (16, 16)), ((60, 40), (12, 8)), ((8, 8), (8, 8)), ((4, 4), (16, 8))]
)
def test_resizing_keeps_the_painted_area(size, to):
    mask = painted(*size)
    assert masks.resize(mask, to).mean() == pytest.approx(float(mask.mean()), rel=1e-5)


def test_a_thin_stroke_survives_resizing():
    mask = torch.zeros(256, 256)
    mask[:, 100] = 1
    assert (masks.resize(mask, (16, 16))[:, 6] > 0).all()


def test_bounds_are_the_smallest_box_around_the_painted_cells():
    mask = torch.zeros(8, 9)
    mask[2, 3], mask[5, 7] = 0.2, 0.9
    assert masks.bounds(mask) == (2, 3, 6, 8)
    assert masks.bounds(mask, above=0.5) == (5, 7, 6, 8)
    box = masks.bounds(mask)
    assert box.size == (4, 5) and box.centre == (4, 5.5)
    assert mask[box.rows, box.columns].sum() == mask.sum()
    with pytest.raises(InputError, match="0.9"):
        masks.bounds(mask, above=0.95)


@given(st.tuples(*[st.integers(0, 4)] * 4), st.integers(0, 6), st.integers(0, 7))
def test_growing_spreads_exactly_as_far_as_asked_in_each_direction(spread, row, column):
    up, down, left, right = spread
    mask = torch.zeros(7, 8)
    mask[row, column] = 0.5
    expected = torch.zeros(7, 8)
    expected[max(0, row - up) : row + down + 1, max(0, column - left) : column + right + 1] = 0.5
    assert torch.equal(masks.grow(mask, up, down, left, right), expected)
    assert torch.equal(masks.grow(mask.expand(2, 3, 7, 8), up, down, left, right), expected.expand(2, 3, 7, 8))


def test_a_digest_identifies_size_and_values_however_the_png_is_packed():
    mask = masks.disc(64, 0.4, 0.6, 0.2)
    packed = masks.encode(mask)
    with Image.open(io.BytesIO(base64.b64decode(packed[len(masks.PREFIX) :]))) as image:
        other = url(image, compress_level=1)
    assert other != packed
    assert masks.digest(masks.decode(other)) == masks.digest(masks.decode(packed)) == masks.digest(mask)
    assert masks.digest(mask.T.flip(0)) != masks.digest(mask)
    assert masks.digest(mask[:32]) != masks.digest(mask[:, :32])
