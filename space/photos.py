"""A visitor's own photo: found in the generator, so that it can be edited like every other picture, and compared.

Its steps are added to those of `inside`; values in, values out. What is found goes to the browser and to the `album`.
"""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

import view
from album import EACH, MOST
from handlers import Notify, _on_step, silent
from inside import Inside
from received import is_photo
from rewriter import Rewriter
from rewriter.checks import list_of, number
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.inverted import Inverted, as_picture, named
from rewriter.photo import portable
from rewriter.photo.exactness import ADVICE, ROUGH, changed, closeness, psnr
from rewriter.photo.nearest import Thumbnails
from rewriter.photo.opening import draw, open_photo
from rewriter.photo.square import Crop, cut, middle, put_back, read
from rewriter.pictures import data_url, to_image
from state import Visitor
from view import Shown

OPENED = "opened"  # the part of a result that holds a found photo: its name, and its content as a file
FINDING, ADAPTING = "Finding your photo in the generator", "Adapting the generator to what is left"
FOUND = 0.6  # share of the work until it is found
PAUSE = 0.3  # seconds between two pictures of what was found so far
MOST_PIXELS = 24_000_000  # of a photo; the page makes larger ones smaller
LARGE = 2 << 20  # pixels from which a photo is saved as JPEG
AMPLIFIED = 8  # how much stronger differences are shown


class Photos(Inside):
    """All of the page's actions on the shared generators."""

    def square(self, visitor: Visitor, name: str, data: str) -> Shown:
        """The square that is proposed for a photo: left, top and side, as shares of its width."""
        image = _image(name, data)
        crop = proposed(self.shared.model(visitor.generator), image)
        return {"square": {part: getattr(crop, part) / image.width for part in ("left", "top", "side")}}

    def photo(
        self,
        visitor: Visitor,
        name: str,
        data: str,
        crop: Any = None,
        faithful: float = 0.5,
        notify: Notify = silent,
    ) -> Shown:
        """Find a photo in the generator and choose it; it is shown at once, then what was found so far.

        `data`: an image file, in base64; `crop`: left, top and side of the square in its pixels, None: as proposed;
        `faithful`: from 0, edited well, to 1, as near to the photo as possible.
        """
        session, image = self.shared.session(visitor), _image(name, data)
        generator = session.generator
        square = _square(generator, image, crop)
        pixels = cut(image, square, generator.resolution)
        if len({*generator.photos} - {named(pixels)}) >= MOST:  # those of other generators make room
            raise InputError(f"you have {MOST} photos open, the most that a page keeps: remove one first")
        notify(0, 1, FINDING, {"photo": {"original": view.picture_url(as_picture(pixels))}})
        Thumbnails.of(generator, on_step=_on_step(notify, "Drawing pictures to compare your photo with (once)"))
        search = _Search(notify)
        options: dict[str, Any] = {"on_step": search.on_step, "on_picture": search.on_picture}
        options |= {"on_found": search.on_found, "statistics": session.statistics}
        found = open_photo(generator, image, crop=square, faithful=number(0, 1)("faithful", faithful), **options)
        content = portable.to_bytes(found, generator)
        if len(content) > EACH:
            raise InputError(f"a found photo has {len(content) >> 20} MB with this generator, more than a page keeps")
        photos = {**{each: kept for each, kept in visitor.photos.items() if each != found.name}, found.name: content}
        visitor = replace(visitor, photos=photos, selected=found.name)
        session = self.shared.session(visitor)
        shown = self.view.show(visitor, session, "film", "canvas", "slots")
        return {**shown, "sides": self._sides(session, found), OPENED: {"name": found.name, "data": content}}

    def sides(self, visitor: Visitor, name: str) -> Shown:
        """A photo's sides: original, found again, adapted, edited; how close they are; their differences."""
        session = self.shared.session(visitor)
        return {"sides": self._sides(session, _photo(session, name))}

    def photo_file(
        self,
        visitor: Visitor,
        name: str,
        file: str = "",
        data: str | None = None,
        crop: Any = None,
        notify: Notify = silent,
    ) -> Shown:
        """The edited photo as a file: the whole photo, if its file is sent along with the square, else the square."""
        session = self.shared.session(visitor)
        generator, photo = session.generator, _photo(session, name)
        edited = draw(generator, photo.latent, [*photo.own, *session.rules, *session.strokes_on(photo.name)])
        if data is None:
            image = to_image(photo.finish(edited))
        else:
            whole = _image(file, data)
            image = put_back(whole, _square(generator, whole, crop), photo, edited)
        suffix, kind = ("jpg", "jpeg") if image.width * image.height > LARGE else ("png", "png")
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=95, icc_profile=image.info.get("icc_profile"))
        stem = re.sub(r"[^A-Za-z0-9-]+", "-", f"{file}".rpartition(".")[0])[-40:].strip("-") or "photo"
        url = data_url(buffer.getvalue(), f"image/{kind}")
        return {"download": {"name": f"{stem}-edited.{suffix}", "url": url, "whole": False, "at": time.time_ns()}}

    def forget_photo(self, visitor: Visitor, name: str) -> Shown:
        """Forget a photo; what was made with it stays."""
        visitor = replace(visitor, photos={each: data for each, data in visitor.photos.items() if each != name})
        session = self.shared.session(visitor)
        return {**self.view.show(visitor, session, "film", "canvas", "inside", "slots"), "sides": {}}

    def _sides(self, session: Rewriter, photo: Inverted) -> Shown:
        generator, original = session.generator, photo.original
        found = draw(generator, photo.latent) if photo.own else photo.drawn
        pictures = {"original": original, "found": found, "adapted": photo.drawn}
        words = {side: close(psnr(pictures[side], original)) for side in ("found", "adapted")}
        rough = psnr(found, original) < ROUGH
        if not photo.own:
            del pictures["adapted"], words["adapted"]
        (edited,) = self.shared.painted(session, [photo.name])
        share = changed(edited, original)
        pictures["edited"] = edited
        words["edited"] = f"{share:.0%} of it changed" if share >= 0.005 else "hardly changed by your rules"
        if not any(rule.active for rule in session.rules) and not session.strokes_on(photo.name):
            words["edited"] = "nothing changes it yet"
        return {
            "name": photo.name,
            "pictures": {side: view.picture_url(picture) for side, picture in pictures.items()},
            "differences": {
                side: view.picture_url(amplified(picture, original))
                for side, picture in pictures.items()
                if side != "original"
            },
            "words": words,
            "advice": f"It was found only roughly, which edits may show: {ADVICE}." if rough else "",
        }


class _Search:
    """Reports how a search goes, with the picture so far."""

    def __init__(self, notify: Notify) -> None:
        self._notify, self._found, self._shown, self._share = notify, False, 0.0, 0.0

    def on_step(self, done: int, of: int) -> bool:
        """Progress, of two parts."""
        share = done / max(1, of)
        self._share = FOUND + (1 - FOUND) * share if self._found else FOUND * share
        return self._say({})

    def on_picture(self, picture: Tensor) -> None:
        """The picture so far, now and then."""
        if time.monotonic() > self._shown + PAUSE:
            self._shown = time.monotonic()
            self._say({"photo": {"so_far": view.picture_url(picture)}})

    def on_found(self, photo: Inverted) -> None:
        """The photo as it was found, before the generator is adapted to it."""
        self._found = True
        self._say({"photo": {"so_far": view.picture_url(photo.drawn), "found": True}})

    def _say(self, shown: Mapping[str, Any]) -> bool:
        words = ADAPTING if self._found else FINDING
        return self._notify(round(1000 * self._share), 1000, words, *([shown] if shown else []))


def proposed(generator: Generator, image: Image.Image) -> Crop:
    """The square of a photo that is proposed."""
    return middle(image)


def close(ratio: float) -> str:
    """How close a picture is to the photo, in words and in dB."""
    return f"{closeness(ratio)} ({ratio:.0f}\u00a0dB)" if ratio < 99 else closeness(ratio)


def amplified(picture: Tensor, original: Tensor) -> Tensor:
    """How much two pictures differ at each pixel, AMPLIFIED times as strong on black."""
    apart: Tensor = (picture.clamp(-1, 1) - original.clamp(-1, 1)).abs() * AMPLIFIED - 1
    return apart.clamp(-1, 1)


def _image(name: Any, data: Any) -> Image.Image:
    """An image file as it came, in base64; InputError says what is wrong with it."""
    name = f"{name}".replace("\\", "/").rpartition("/")[2][-60:] or "the photo"
    try:
        content = base64.b64decode(data, validate=True)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} did not arrive as a whole ({error}): drop it again") from error
    return read(content, name, most=MOST_PIXELS)


def _photo(session: Rewriter, name: Any) -> Inverted:
    photo = session.generator.photo(name) if is_photo(name) else None
    if photo is None:
        raise InputError("there is no such photo: drop it again")
    return photo


def _square(generator: Generator, image: Image.Image, crop: Any) -> Crop:
    """The square that was chosen, left, top and side in pixels; None: the one that is proposed."""
    if crop is None:
        return proposed(generator, image)
    numbers = list_of(number(-1e6, 1e6), 3)("the square", crop)
    if len(numbers) != 3:
        raise InputError(f"a square is left, top and side in pixels, not {len(numbers)} numbers")
    left, top, side = numbers
    return Crop(left, top, side)
