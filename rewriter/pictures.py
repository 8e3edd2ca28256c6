"""Tensors → pictures: PNG files, sheets of many pictures, animations; and the difference between pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from rewriter.errors import InputError
from rewriter.files import replacing

PAPER = (250, 250, 248)
INK = (60, 60, 60)
GAP = 6
LINE = 15
PAIRS = "rewriter-pairs"  # the text in a PNG that says where its pairs of pictures are
CORNERS = "corners"
STEPS, TICK, HOLD = 20, 40, 1200  # of an animation: steps of a wipe, and milliseconds of a step and of both ends
SIDES = 256, 192, 128  # px of a picture in an animation
LARGEST = 1_500_000  # bytes of one, if a smaller side can help


def to_image(picture: Tensor) -> Image.Image:
    """One picture (3, H, W) in [-1, 1] → RGB image; values outside are cut."""
    pixels = (picture.detach().cpu().float() * 127.5 + 128).clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """A square RGB image with sides of `side` pixels, with crisp edges where it grows.

    It is doubled again and again and sharpened, between the darkest and the brightest neighbour, so that edges get no
    fringes: bicubic filters leave small pictures soft, and repeated pixels look like blocks.
    """
    while image.width * 2 <= side:
        size = (image.width * 2, image.height * 2)
        low, high = (
            image.filter(kind(3)).resize(size, Image.Resampling.NEAREST)
            for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
        )
        sharp = image.resize(size, Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(1.2, 90, 0))
        image = ImageChops.lighter(low, ImageChops.darker(high, sharp)).filter(ImageFilter.MedianFilter(3))
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference over the colours of pictures (n, 3, H, W), in 1/255: (n, H, W)."""
    return (a.clamp(-1, 1) - b.clamp(-1, 1)).abs().mean(1) * 127.5


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG; InputError where that is not possible."""
    with replacing(Path(path)) as temporary:
        image.save(temporary, "PNG")


def jpeg(picture: Tensor, side: int) -> bytes:
    """A picture (3, H, W) as a JPEG file with sides of `side` pixels."""
    buffer = io.BytesIO()
    enlarged(to_image(picture), side).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def sheet(pictures: Tensor, captions: Sequence[str], *, columns: int = 8, title: str = "") -> Image.Image:
    """Pictures (n, 3, H, W) in rows, each with a caption under it."""
    return stacked([pictures], captions, columns=columns, title=title)


def stacked(
    rows: Sequence[Tensor], captions: Sequence[str], *, columns: int = 8, title: str = "", breaks: Sequence[int] = ()
) -> Image.Image:
    """Versions of the same pictures, each row (n, 3, H, W), one above the other, say before and after.

    There are n groups with a caption each, `columns` of them side by side; a new line starts at the `breaks` too.
    """
    side = _side(rows[0])
    lines = _lines(len(captions), columns, breaks)
    top, height = (LINE + 2 * GAP if title else GAP), side * len(rows) + LINE + GAP
    paper = Image.new("RGB", (columns * (side + GAP) + GAP, top + len(lines) * height), PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(11)
    corners: dict[int, tuple[int, int]] = {}
    if title:
        pen.text((GAP, GAP), title, INK, font)
    for y, line in enumerate(lines):
        for x, i in enumerate(line):
            left, upper = corners[i] = GAP + x * (side + GAP), top + y * height
            for j, row in enumerate(rows):
                image = to_image(row[i]).resize((side, side), Image.Resampling.NEAREST)
                paper.paste(image, (left, upper + j * side))
            pen.text((left, upper + side * len(rows) + 1), captions[i], INK, font)
    paper.info[CORNERS] = [corners[i] for i in range(len(captions))]
    return paper


def _side(pictures: Tensor) -> int:
    """How large pictures (n, 3, H, W) are on a sheet, in pixels."""
    return int(pictures.shape[-1]) * max(1, 128 // pictures.shape[-1])


def _lines(count: int, columns: int, breaks: Sequence[int]) -> list[list[int]]:
    edges = sorted({0, count, *(b for b in breaks if 0 < b < count)})
    spans = zip(edges, edges[1:], strict=False)
    return [list(range(i, min(i + columns, b))) for a, b in spans for i in range(a, b, columns)]


def before_after(
    before: Tensor, after: Tensor, seeds: Sequence[int], *, firing: int, title: str = "", columns: int = 8
) -> Image.Image:
    """Before above after for each seed; the first `firing` pictures match the rule's context, the others do not.

    Its `info` says in a line of JSON where the pictures are: a PNG that `to_png` makes keeps that.
    """
    captions = [f"{seed}{'' if i < firing else ' · no match'}" for i, seed in enumerate(seeds)]
    image = stacked([before, after], captions, columns=columns, title=title, breaks=[firing])
    about = {"seeds": list(seeds), "firing": firing, "side": _side(before), "size": int(before.shape[-1])}
    image.info[PAIRS] = json.dumps({**about, "corners": image.info[CORNERS]})
    return image


def to_png(image: Image.Image) -> bytes:
    """A PNG file, with what `before_after` says of it."""
    about, buffer = PngInfo(), io.BytesIO()
    if PAIRS in image.info:
        about.add_text(PAIRS, image.info[PAIRS])
    image.save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


def webp(image: Image.Image, quality: int, *, width: int | None = None) -> bytes:
    """An image as WebP, of that width if one is given; the same bytes for the same image."""
    if width and image.width != width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/webp") -> str:
    """Bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


# --- animations ---


def wall(images: Sequence[Image.Image], side: int, *, columns: int, gap: int = 0) -> Image.Image:
    """Square RGB images, of `side` px and `gap` px apart, beside each other in rows, without captions."""
    columns = min(columns, len(images))
    width, height = (count * (side + gap) - gap for count in (columns, -(-len(images) // columns)))
    paper = Image.new("RGB", (width, height), PAPER)
    for i, image in enumerate(images):
        paper.paste(enlarged(image, side), (i % columns * (side + gap), i // columns * (side + gap)))
    return paper


def animation(before: Tensor, after: Tensor, *, kind: str = "webp", columns: int = 4) -> bytes:
    """An animated WebP or GIF of pictures (n, 3, H, W): after wipes over before, from left to right, and back, forever.

    Small pictures are enlarged to 128 px, large ones shrunk to 256 px, or less where the file would exceed 1.5 MB.
    InputError for another kind.
    """
    if kind not in ("webp", "gif"):
        raise InputError(f"the kind of animation is {kind!r}, expected webp or gif")
    largest = max(SIDES[-1], min(SIDES[0], before.shape[-1]))
    for side in dict.fromkeys((largest, *(side for side in SIDES if side < largest))):
        walls = [wall([*map(to_image, each)], side, columns=columns, gap=GAP) for each in (before, after)]
        data = _animated(*walls, soft=side / 4, kind=kind)
        if len(data) < LARGEST:
            break
    return data


def _animated(before: Image.Image, after: Image.Image, *, soft: float, kind: str) -> bytes:
    options: dict[str, Any] = {"quality": 88, "method": 3}
    if kind == "gif":  # each of the two is dithered once, and a pixel is of one or of the other: so nothing flickers
        before, after = _in_one_palette(before, after)
        options, soft = {"optimize": False, "disposal": 1}, 0.0
    shares = [step / STEPS for step in range(STEPS + 1)]
    frames = [Image.composite(after, before, _wiped(before.size, share, soft)) for share in shares]
    frames += frames[-2:0:-1]
    times = [HOLD if i in (0, STEPS) else TICK for i in range(len(frames))]
    buffer = io.BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": times, "loop": 0, **options}
    frames[0].save(buffer, kind, **more)
    return buffer.getvalue()


def _in_one_palette(*images: Image.Image) -> list[Image.Image]:
    """Images of one size in the 256 colours that suit all of them."""
    width, height = (min(edge, 160) for edge in images[0].size)  # the search for colours takes long on many pixels
    both = Image.new("RGB", (width, height * len(images)))
    for i, image in enumerate(images):
        both.paste(image.resize((width, height), Image.Resampling.NEAREST), (0, i * height))
    palette = both.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)  # which finds rare colours, as of a lit window
    return [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in images]


def _wiped(size: tuple[int, int], share: float, soft: float) -> Image.Image:
    """Where a wipe has been, 0…255: left of an edge, `soft` px wide, that travels to the right."""
    row = torch.arange(size[0])
    edge = share * (size[0] + soft)
    mask = ((edge - row) / soft).clamp(0, 1) if soft else (row < edge).float()
    return Image.fromarray((mask * 255).byte().expand(size[1], -1).contiguous().numpy())
