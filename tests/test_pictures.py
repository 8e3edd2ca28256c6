"""Pictures: sheets that say where their pairs are, and animations that wipe from before to after and back."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from rewriter import pictures
from rewriter.errors import InputError
from rewriter.pictures import GAP, PAIRS, animation, before_after, to_png


def scenes(count, side, seed=0):
    """Smooth random pictures (n, 3, side, side)."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def frames(data):
    """The frames of an animation (n, h, w, 3), and how long each is shown, in ms."""
    with Image.open(io.BytesIO(data)) as image:
        found, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            found.append(np.asarray(image.convert("RGB"), dtype=int))
            times.append(image.info["duration"])
        assert image.info["loop"] == 0  # forever
    return np.stack(found), times


@pytest.mark.parametrize("side", [16, 160])
def test_a_sheet_says_where_its_pairs_are(side):
    before, after = scenes(5, side), scenes(5, side, 1)
    with Image.open(io.BytesIO(to_png(before_after(before, after, range(7, 12), firing=3, columns=2)))) as sheet:
        about = json.loads(sheet.info[PAIRS])
        assert about["seeds"] == [7, 8, 9, 10, 11] and about["firing"] == 3 and about["size"] == side
        for i, (left, top) in enumerate(about["corners"]):
            for j, row in enumerate((before, after)):
                upper = top + j * about["side"]
                found = sheet.crop((left, upper, left + about["side"], upper + about["side"])).resize((side, side), 0)
                assert np.array_equal(np.asarray(found), np.asarray(pictures.to_image(row[i])))


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_an_animation_wipes_from_left_to_right_and_back_and_never_flickers(kind):
    before, after = -torch.ones(8, 3, 64, 64), torch.ones(8, 3, 64, 64)
    found, times = frames(animation(before, after, kind=kind, columns=4))
    assert found.shape[1:3] == (2 * (128 + GAP) - GAP, 4 * (128 + GAP) - GAP)
    bright = found[:, 64, [64 + x * (128 + GAP) for x in range(4)]].mean(-1) > 127
    assert not bright[0].any() and bright[np.argmax(bright.sum(1))].all()
    filled = bright.sum(1)
    for row in bright:  # what is new is always left of what is old
        assert sorted(row, reverse=True) == list(row)
    turn = int(np.argmax(filled == 4))
    assert (np.diff(filled[: turn + 1]) >= 0).all() and (np.diff(filled[turn:]) <= 0).all()
    assert set(filled.tolist()) == {0, 1, 2, 3, 4}
    assert max(times) >= 1000 and sorted(times)[len(times) // 2] <= 50


def test_the_pixels_of_a_gif_are_those_of_before_or_of_after():
    before, after = scenes(4, 128), scenes(4, 128, 1)
    found, _ = frames(animation(before, after, kind="gif"))
    last = found[len(found) // 2]
    assert all(((frame == found[0]).all(-1) | (frame == last).all(-1)).all() for frame in found)
    wanted = np.asarray(pictures.wall([*map(pictures.to_image, before)], 128, columns=4, gap=GAP), dtype=int)
    assert np.abs(found[0] - wanted).mean() < 12  # of 255: both share 256 colours


@pytest.mark.parametrize("kind", ["webp", "gif"])
@pytest.mark.parametrize("side", [16, 64, 512])
def test_an_animation_of_twelve_pictures_can_be_sent_by_chat(kind, side):
    data = animation(scenes(12, side), scenes(12, side, 1), kind=kind)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind.upper() and image.n_frames > 20
        assert 4 * 128 < image.width < 4 * 256 + 4 * GAP
    assert len(data) < pictures.LARGEST


def test_enlarging_is_smooth():
    """Half of the values of a ramp lie between its steps: blocks would only have the steps."""
    ramp = torch.linspace(-1, 1, 16).expand(3, 16, 16)
    row = np.asarray(pictures.enlarged(pictures.to_image(ramp), 128))[64, :, 0]
    assert len(np.unique(row)) > 60 and (np.diff(row.astype(int)) >= -3).all()


def test_enlarging_keeps_an_edge_crisp_and_without_fringes():
    """Of a step from dark to bright, few of eight times as many pixels are neither."""
    step = torch.full((3, 16, 16), -0.8)
    step[:, :, 8:] = 0.8
    row = np.asarray(pictures.enlarged(pictures.to_image(step), 128))[64, :, 0].astype(int)
    dark, bright = row[20], row[108]
    assert ((row > dark + 12) & (row < bright - 12)).sum() <= 8 and row.min() >= dark - 12 and row.max() <= bright + 12


def test_another_kind_of_animation_is_refused():
    with pytest.raises(InputError, match="'mp4', expected webp or gif"):
        animation(scenes(1, 16), scenes(1, 16), kind="mp4")
