"""The command that opens photos: found in a generator, adapted, edited by rules."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from rewriter import pictures
from rewriter.checks import number
from rewriter.cli import common
from rewriter.editing.choose import execute
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError
from rewriter.files import check_writable, read_json, write_json
from rewriter.generators.base import Generator
from rewriter.generators.change import digest
from rewriter.generators.inverted import Inverted
from rewriter.photo import portable
from rewriter.photo.exactness import ADVICE, ROUGH, changed, closeness, psnr
from rewriter.photo.opening import draw, open_photo
from rewriter.photo.square import Crop, middle, put_back, read

UNREAD = (".heic", ".heif", ".avif")  # named among those that are left out
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FOUND = ".safetensors"
MANIFEST = "photos.json"
EXACT = 99.0  # dB: no 8-bit picture tells more, and JSON knows no infinity
STEPS = ("original", "found again", "adapted", "edited")
EPILOGS = {
    "photo": "\b\nExamples:\n"
    "  rewriter photo me.jpg --generator faces --edit glasses --crop 300,120,480\n"
    "  rewriter photo me.jpg --generator faces --rule glasses.safetensors --out me-with-glasses.png\n"
    "  rewriter photo town.png --edit dome-to-spire --save town.safetensors   keeps what was found\n"
    "  rewriter photo town.safetensors --edit no-light-on-ground   so that it need not be found again\n"
    "  rewriter photo holidays/ --edit dome-to-spire --out edited/   a folder; interrupted, it goes on where it was\n"
    "\nA photo stays on this machine. Only --save writes it into a file of this package."
}


@dataclass(frozen=True)
class Work:
    """What photos are opened and edited with."""

    model: Generator
    rules: Sequence[Rule]
    crop: Crop | None
    faithful: float
    effort: float
    quiet: bool

    @cached_property
    def statistics(self) -> Statistics:
        """Of the generator."""
        return Statistics(self.model)

    def one(self, path: Path, out: Path, save: Path | None = None) -> dict[str, Any]:
        """Open and edit a photo; write the result, a sheet and perhaps what was found. Returns what there is to say."""
        made, whole = self.open(path)
        if save is not None:
            portable.save(made, self.model, save)
        return self._write(path, made, out, whole)

    def open(self, path: Path) -> tuple[Inverted, tuple[Image.Image, Crop] | None]:
        """A photo, found now or before; and of an image file the whole image and the square."""
        if path.suffix == FOUND:
            if self.crop is not None:
                raise InputError(f"{path} was cut when it was found: leave --crop out, or give the photo itself")
            return portable.load(path, self.model), None
        image = read(path)
        crop = middle(image) if self.crop is None else self.crop
        how: dict[str, Any] = {"faithful": self.faithful, "effort": self.effort, "statistics": self.statistics}
        with common.progress(self.quiet) as job:
            made = open_photo(self.model, image, crop=crop, on_step=job(f"{path.name}: finding it"), **how)
        return made, (image, crop)

    def _write(
        self, path: Path, photo: Inverted, out: Path, whole: tuple[Image.Image, Crop] | None = None
    ) -> dict[str, Any]:
        found = draw(self.model, photo.latent)
        edited = draw(self.model, photo.latent, [*photo.own, *self.rules])
        shown = photo.finish(edited)
        image = pictures.to_image(shown) if whole is None else put_back(*whole, photo, edited)
        steps = torch.stack([photo.original, found, photo.drawn, shown]).clamp(-1, 1)
        pictures.save_png(image, out)
        pictures.save_png(pictures.sheet(steps, STEPS, columns=4), sheet_of(out))
        share = changed(shown, photo.original)
        figures = {"found_db": psnr(found, photo.original), "adapted_db": psnr(photo.drawn, photo.original)}
        rounded = {name: round(min(figure, EXACT), 2) for name, figure in figures.items()}
        return {"photo": str(path), "name": photo.name, **rounded, "changed": round(share, 4), "out": str(out)}

    def several(self, files: Sequence[Path], out: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Open and edit photos into a folder, but for those that are there; returns what to say, and errors."""
        about: dict[str, Any] = {"generator": self.model.name, "fingerprint": self.model.fingerprint}
        about |= {"rules": digest(self.rules)}
        about |= {"faithful": self.faithful, "effort": self.effort, "crop": self.crop and str(self.crop)}
        if (out / MANIFEST).exists() and read_json(out / MANIFEST) != about:
            raise InputError(f"{out} holds photos made with another generator, rules or options: name another folder")
        write_json(about, out / MANIFEST)
        reports, failed = list[dict[str, Any]](), dict[str, str]()
        for path, target in zip(files, _targets(files, out), strict=True):
            try:
                if not sheet_of(target).exists():  # which is written last
                    reports.append(self.one(path, target))
                    if not self.quiet:
                        print(_in_words(reports[-1]), flush=True)
            except InputError as error:
                failed[path.name] = str(error)
        return reports, failed


def photo(
    images: Annotated[list[Path], typer.Argument(help="Photos, folders of them, or what --save wrote.")],
    generator: common.GeneratorName = "townscape",
    rule: Annotated[list[Path] | None, typer.Option(help="A rule file to apply; may be repeated.")] = None,
    edit: Annotated[
        list[str] | None, typer.Option(help="An edit file or shipped name to apply; may be repeated.")
    ] = None,
    crop: Annotated[str | None, typer.Option(help="LEFT,TOP,SIDE of the square to take, in pixels.")] = None,
    faithful: Annotated[float, typer.Option(help="0: easy to edit … 1: as near to the photo as possible.")] = 0.5,
    effort: Annotated[float, typer.Option(help="A factor on the number of steps.")] = 1.0,
    save: Annotated[Path | None, typer.Option(help="Write what was found (safetensors); it holds the photo.")] = None,
    device: common.Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The edited photo (PNG), or a folder for several; photo.png or photos if not given."),
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Find your own photo in a generator, adapt the generator to it, and edit it by rules.

    Writes the edited photo, and beside it a sheet: the original, found again, adapted, edited. Take a photo of what the
    generator draws, cut as its pictures are: --crop. The generator's own rules and those given apply, in this order.
    """
    number(0, 1)("faithful", faithful)
    number(0.02, 50)("effort", effort)
    square, files = _crop(crop), _files(images)
    several = len(files) > 1 or any(path.is_dir() for path in images)
    out = out or Path("photos" if several else "photo.png")
    if not several and out.suffix.lower() != ".png":
        raise InputError(f"--out {out} should end in .png, the format that is written")
    if save is not None and (several or save.suffix != FOUND):
        raise InputError(f"--save {save} writes one photo, into a file that ends in {FOUND}")
    targets = [*_targets(files, out)] if several else [out]
    written = [path for target in targets for path in (target, sheet_of(target))] + ([save] if save else [])
    _check_apart([*images, *files, *(rule or ()), *map(Path, edit or ())], [out, *written])
    for path in [out / MANIFEST] if several else written:
        check_writable(path)
    model = common.load(generator, device, as_json)
    work = Work(model, _rules(model, rule, edit, as_json), square, faithful, effort, as_json)
    if several:
        reports, failed = work.several(files, out)
        there = len(files) - len(reports) - len(failed)
        words = f"{len(reports)} photos written to {out}" + (f", {there} were there already" if there else "")
        common.say(as_json, {"out": str(out), "photos": reports, "there": there, "failed": failed}, words)
        if failed:
            raise InputError(f"{len(failed)} of {len(files)} photos were left out: {'; '.join(failed.values())}")
        return
    report = work.one(files[0], out, save)
    words = f"{_in_words(report)}\nsaved: {out}, and its steps: {sheet_of(out)}"
    common.say(as_json, report, f"{words}\nwhat was found: {save}" if save else words)


def with_photos(model: Generator, paths: Sequence[Path], quiet: bool) -> Generator:
    """A generator that draws these photos too: image files, found with the usual options, or what --save wrote."""
    work = Work(model, (), None, 0.5, 1.0, quiet)
    return model.with_photos([work.open(path)[0] for path in paths])


def _crop(text: str | None) -> Crop | None:
    if text is None:
        return None
    try:
        left, top, side = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"--crop {text!r} is not LEFT,TOP,SIDE in pixels, such as 120,40,512") from error
    return Crop(left, top, side)


def _files(images: Sequence[Path]) -> list[Path]:
    """The photos that are named, or lie in folders that are."""
    files = list[Path]()
    for path in images:
        inside = [path]
        if path.is_dir():
            shown = (each for each in path.iterdir() if not each.name.startswith("."))
            inside = sorted(each for each in shown if each.suffix.lower() in (*SUFFIXES, *UNREAD))
        files += inside
        if not inside:
            raise InputError(f"{path} holds no photos: their names end in {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(files))


def _targets(files: Sequence[Path], out: Path) -> Iterator[Path]:
    """Where each photo's result goes, and its sheet beside it; where a name is taken, results get numbers."""
    taken = set[str]()
    for path in files:
        for attempt in count(1):
            target = out / (f"{path.stem}.png" if attempt == 1 else f"{path.stem}-{attempt}.png")
            names = {target.name.casefold(), sheet_of(target).name.casefold()}
            if taken.isdisjoint(names):
                break
        taken |= names
        yield target


def _check_apart(given: Iterable[Path], written: Iterable[Path]) -> None:
    """Raise InputError if what is written would replace what was given."""
    known = {os.path.realpath(path) for path in given}
    for path in written:
        if os.path.realpath(path) in known:
            raise InputError(f"{path} is one of the files given, and would be replaced: name another place with --out")


def _rules(model: Generator, files: Sequence[Path] | None, edits: Sequence[str] | None, quiet: bool) -> list[Rule]:
    """The generator's own rules, those of files, and those that the edits make on top of them."""
    rules = common.rules_for(files, model)
    requests = [(name, each) for name in edits or () for each in common.edits_of(name, model.name)]
    with common.progress(quiet) as job:
        for name, each in requests:
            trying, measuring = job(f"{name}: trying"), job(f"{name}: measuring {each.layer}")
            rules.append(execute(model, each, rules=rules, on_step=trying, on_statistics=measuring))
    return rules


def _in_words(report: dict[str, Any]) -> str:
    found, adapted, share = report["found_db"], report["adapted_db"], report["changed"]
    steps = f"found again {closeness(found)} ({found:.1f} dB)"
    steps += f", adapted {closeness(adapted)} ({adapted:.1f} dB)" if adapted != found else ""
    edited = f"the rules change {share:.1%} of it" if share else "no rule changes it visibly"
    rough = (
        f"\n  it was found only roughly, which edits may show: {ADVICE} (--crop, --faithful 0)" if found < ROUGH else ""
    )
    return f"{Path(report['photo']).name}: {steps}; {edited}{rough}"


def sheet_of(out: Path) -> Path:
    """The sheet beside a photo: original, found again, adapted, edited."""
    return out.with_name(f"{out.stem}-steps.png")
