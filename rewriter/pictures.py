"""Tensors → pictures: PNG files, sheets of many pictures, animations; and the difference between pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from rewriter.files import replacing

PAPER = (250, 250, 248)
INK = (60, 60, 60)
GAP = 6
LINE = 15
FADE, TICK, HOLD = 8, 60, 1200  # an animation's steps, and milliseconds of a step and of both ends


def to_image(picture: Tensor) -> Image.Image:
    """One picture (3, H, W) in [-1, 1] → RGB image; values outside are cut."""
    pixels = (picture.detach().cpu().float() * 127.5 + 128).clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """A square RGB image with sides of `side` pixels, with crisp edges where it grows.

    It is doubled again and again, sharpened, and the fringes of that removed: bicubic filters leave small pictures soft,
    and repeated pixels look like blocks.
    """
    while image.width * 2 <= side:
        size = (image.width * 2, image.height * 2)
        image = image.resize(size, Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(1.2, 60, 0))
        image = image.filter(ImageFilter.MedianFilter(3))
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over the colours of pictures (n, 3, H, W), in 1/255: (n, H, W)."""
    return (a.clamp(-1, 1) - b.clamp(-1, 1)).abs().mean(1) * 127.5


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG; InputError where that is not possible."""
    with replacing(Path(path)) as temporary:
        image.save(temporary, "PNG")


def sheet(pictures: Tensor, captions: Sequence[str], *, columns: int = 8, title: str = "") -> Image.Image:
    """Pictures (n, 3, H, W) in rows, each with a caption under it."""
    return stacked([pictures], captions, columns=columns, title=title)


def stacked(
    rows: Sequence[Tensor], captions: Sequence[str], *, columns: int = 8, title: str = "", breaks: Sequence[int] = ()
) -> Image.Image:
    """Versions of the same pictures, each row (n, 3, H, W), one above the other, say before and after.

    There are n groups with a caption each, `columns` of them side by side; a new line starts at the `breaks` too.
    """
    zoom = max(1, 128 // rows[0].shape[-1])
    side = rows[0].shape[-1] * zoom
    lines = _lines(len(captions), columns, breaks)
    top, height = (LINE + 2 * GAP if title else GAP), side * len(rows) + LINE + GAP
    paper = Image.new("RGB", (columns * (side + GAP) + GAP, top + len(lines) * height), PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
    if title:
        pen.text((GAP, GAP), title, INK, font)
    for y, line in enumerate(lines):
        for x, i in enumerate(line):
            left, upper = GAP + x * (side + GAP), top + y * height
            for j, row in enumerate(rows):
                image = to_image(row[i]).resize((side, side), Image.Resampling.NEAREST)
                paper.paste(image, (left, upper + j * side))
            pen.text((left, upper + side * len(rows) + 1), captions[i], INK, font)
    return paper


def _lines(count: int, columns: int, breaks: Sequence[int]) -> list[list[int]]:
    edges = sorted({0, count, *(b for b in breaks if 0 < b < count)})
    spans = zip(edges, edges[1:], strict=False)
    return [list(range(i, min(i + columns, b))) for a, b in spans for i in range(a, b, columns)]


def before_after(
    before: Tensor, after: Tensor, seeds: Sequence[int], *, firing: int, title: str = "", columns: int = 8
) -> Image.Image:
    """Before above after for each seed; the first `firing` pictures match the rule's context, the others do not."""
    captions = [f"{seed}{'' if i < firing else ' · no match'}" for i, seed in enumerate(seeds)]
    return stacked([before, after], captions, columns=columns, title=title, breaks=[firing])


def animation(before: Tensor, after: Tensor, *, columns: int = 4) -> bytes:
    """An animated WebP of pictures (n, 3, H, W) that fade from before to after and back, in a loop."""
    captions = [""] * len(before)
    shares = [step / FADE for step in range(FADE + 1)]
    frames = [sheet(torch.lerp(before, after, share), captions, columns=columns) for share in shares]
    frames += frames[-2:0:-1]
    times = [HOLD if i in (0, FADE) else TICK for i in range(len(frames))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=90)
    return buffer.getvalue()
