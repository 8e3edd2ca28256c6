"""Photos as people have them: turned, transparent, animated, deep, too large, damaged; and the square that is taken."""

import io

import numpy as np
import pytest
import torch
from conftest import flipped
from PIL import Image

from rewriter.errors import InputError
from rewriter.generators.inverted import Inverted
from rewriter.photo import square
from rewriter.photo.square import Crop, cut, middle, put_back, read
from rewriter.pictures import enlarged


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width, height):
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_usual_files_are_read_as_rgb(kind, tmp_path):
    path = tmp_path / f"photo.{kind.lower()}"
    gradient(40, 30).save(path)
    image = read(path)
    assert image.mode == "RGB" and image.size == (40, 30)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(gradient(40, 30))).mean() < 4


def test_a_photo_is_turned_as_the_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = read(encoded(gradient(40, 20), "JPEG", exif=exif, quality=95))
    assert turned.size == (20, 40)
    red = np.asarray(turned)[..., 0]
    assert red[0].mean() < 30 and red[-1].mean() > 220  # what grew to the right grows downwards


def test_of_what_a_file_tells_beside_its_pixels_only_how_its_colours_are_meant_is_kept():
    exif = Image.Exif()
    exif[0x010E] = "at home"
    told = {"exif": exif, "icc_profile": b"profile", "comment": b"at home", "xmp": b"<x>at home</x>"}
    read_ = read(encoded(gradient(40, 20), "JPEG", **told))
    assert read_.info == {"icc_profile": b"profile"}
    assert read(encoded(gradient(40, 20).convert("CMYK"), "JPEG", icc_profile=b"profile")).info == {}


def test_transparent_parts_are_white_and_an_animation_gives_its_first_picture():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert np.asarray(read(encoded(clear))).min() == 255
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(moving).getpixel((3, 3)) == (254, 0, 0) or read(moving).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.full((20, 20), 40_000, np.uint16), "PNG", 156),
        (np.full((20, 20), 40_000, np.uint16).byteswap().view(">u2"), "TIFF", 156),
        (np.linspace(20_000, 30_000, 400).astype(np.uint16), "PNG", (78, 117)),
        (np.linspace(0.2, 0.5, 400).astype(np.float32), "TIFF", (51, 128)),
        (np.linspace(-3, 900, 400).astype(np.float32), "TIFF", (0, 255)),
        (np.array([np.nan, np.inf, 0.5, 1] * 100, np.float32), "TIFF", (0, 255)),
        (np.full((20, 20), -7, np.int32), "TIFF", 0),
    ],
)
def test_deep_greys_keep_their_brightness(values, kind, expected):
    found = np.asarray(read(encoded(Image.fromarray(values.reshape(20, 20)), kind)))
    assert (found.min(), found.max()) == (expected if isinstance(expected, tuple) else (expected, expected))


def test_a_small_file_cannot_ask_for_a_hundred_scans():
    data = encoded(gradient(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert read(data).size == (64, 64)
    with pytest.raises(InputError, match="scans"):
        read(data[:last] + data[last:-2] * 200 + data[-2:])


def test_sixteen_bits_and_grey_become_eight_bits_in_colour():
    deep = Image.fromarray(np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16))
    values = np.asarray(read(encoded(deep)))
    assert values.shape == (20, 20, 3) and values.min() == 0 and values.max() == 255
    assert read(encoded(Image.new("L", (20, 20), 90))).getpixel((0, 0)) == (90, 90, 90)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC.*JPEG or PNG"),
        (b"\0\0\0\x18ftypavif" + bytes(40), "AVIF.*JPEG or PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image that can be read here: give one of PNG"),
        (b"", "no image"),
        (encoded(gradient(40, 30), "JPEG")[:400], "damaged, or cut short"),
        (encoded(gradient(8, 900)), "8 × 900 pixels: give one of at least 16"),
    ],
)
def test_other_files_are_refused_with_what_to_do(data, words):
    with pytest.raises(InputError, match=f"me.*{words}"):
        read(data, "me.jpg")


def test_a_huge_photo_is_refused_before_it_is_decoded(monkeypatch, tmp_path):
    huge = encoded(Image.new("1", (20_000, 6_000)))
    assert len(huge) < 1 << 20
    with pytest.raises(InputError, match="20000 × 6000 pixels: the most is 100 million"):
        read(huge)
    monkeypatch.setattr(square, "LIMIT", 100)
    (tmp_path / "long.png").write_bytes(bytes(101))
    for source in (tmp_path / "long.png", bytes(101)):
        with pytest.raises(InputError, match="larger than|the most is"):
            read(source)


@pytest.mark.hostile
def test_damaged_photos_are_read_or_refused_in_words():
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(gradient(32, 32), kind)
        for data in flipped(whole, 60, end=min(400, len(whole))):
            try:
                assert read(data).mode == "RGB"
            except InputError as error:
                assert "the photo" in str(error)


def test_the_proposed_square_is_the_middle_and_in_upright_photos_a_little_above_it():
    assert middle(gradient(40, 20)) == Crop(10, 0, 20)
    assert middle(gradient(20, 50)) == Crop(0, 10, 20)


def test_a_square_is_cut_where_it_is_asked_for():
    image = gradient(200, 100)
    whole, corner = cut(image, Crop(50, 0, 100), 16), cut(image, Crop(150, 50, 50), 16)
    assert whole.shape == (3, 16, 16) and whole.dtype == torch.uint8
    assert abs(float(whole[0].float().mean()) - 127) < 4 and abs(float(corner[0].float().mean()) - 223) < 4
    assert abs(float(corner[1].float().mean()) - 191) < 4


def test_beyond_its_edges_a_photo_goes_on_with_its_outermost_pixels():
    image = Image.new("RGB", (100, 100), "red")
    image.paste("blue", (0, 0, 100, 2))
    beyond = cut(image, Crop(-20, -60, 160), 32)
    assert beyond[2, :10].float().mean() > 250 and beyond[0, 16:].float().mean() > 250
    with pytest.raises(InputError, match="not on the photo"):
        cut(image, Crop(300, 0, 100), 32)
    for values in ((0, 0, 0.5), (float("nan"), 0, 9), (0, 1e9, 9)):
        with pytest.raises(InputError, match="left, top and side"):
            Crop(*values)


def test_an_edit_is_put_back_into_the_whole_photo_and_the_rest_stays_to_the_pixel():
    image = gradient(300, 200)
    crop = Crop(80, 20, 128)
    drawn = cut(image, crop, 32).float() / 127.5 - 1
    photo = Inverted("photo-0123456789abcdef", cut(image, crop, 32), torch.zeros(1), (), drawn)
    assert np.array_equal(np.asarray(put_back(image, crop, photo, drawn)), np.asarray(image))
    edited = drawn.clone()
    edited[2, 10:16, 10:16] = 1
    whole = np.asarray(put_back(image, crop, photo, edited)).astype(int)
    change = np.abs(whole - np.asarray(image)).max(-1)
    assert change[20 + 44 : 20 + 60, 80 + 44 : 80 + 60].min() > 200  # four pixels for each of the square's
    change[20 + 30 : 20 + 80, 80 + 30 : 80 + 80] = 0
    assert change.max() == 0
    beyond = Crop(-10, -10, 128)
    assert put_back(image, beyond, photo, edited).size == image.size
    assert np.array_equal(np.asarray(put_back(image, Crop(-99.6, 0, 100), photo, edited)), np.asarray(image))


def test_a_square_far_larger_than_the_photo_costs_no_more_than_the_photo(monkeypatch):
    sizes = []
    monkeypatch.setattr(square, "enlarged", lambda image, side: sizes.append(side) or enlarged(image, min(side, 256)))
    image, crop = gradient(300, 200), Crop(-400_000, -400_000, 900_000)
    drawn = torch.zeros(3, 32, 32)
    photo = Inverted("photo-0123456789abcdef", cut(image, crop, 32), torch.zeros(1), (), drawn)
    assert np.asarray(put_back(image, crop, photo, drawn + 1)).min() == 255 and sizes == [4096]
