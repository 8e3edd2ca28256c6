"""Whether visitors under load get their own pictures: compared with a plain loop that makes the same edits here."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rewriter import worlds
from rewriter.cache import Cache
from rewriter.editing.session import Rewriter
from rewriter.editing.statistics import Statistics
from rewriter.pictures import difference, enlarged, to_image
from rewriter.serving.load import Marks, Visitor

PAGE = 12  # pictures in the filmstrip
SAME = 0.05  # mean difference, in 1/255, up to which filmstrips are the same; those of two rules are some 3 apart
KEYS = 256 << 20  # bytes of features that sessions share, as on the page

Key = tuple[str, int, int]  # of a visit: stage, visitor and visit


@dataclass(frozen=True)
class Plain:
    """What a plain loop does: executes per second, processor seconds of each, and pictures (12, 3, H, W) by visit."""

    rate: float
    cpu: float
    pictures: Mapping[Key, Tensor]
    original: Tensor


def plain_loop(keys: Sequence[Key], form: str, seed: int) -> Plain:
    """Make the edits of these visits in this process, one after the other, with one thread; `seed`: of their marks.

    As on the page, sessions share what is measured of the generator; an execute includes the pictures of the filmstrip
    and the crops of the verdict, but not their compression.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator, features = worlds.load(), Cache(KEYS)
        known, made = Statistics(generator), dict[Key, Tensor]()
        for key in (("warm", 0, 0), *keys):
            if len(made) == 1:  # the first one has measured the layer
                start, used = time.perf_counter(), time.process_time()
            session, marks = Rewriter(generator, statistics=known, keys=features), Marks.drawn(seed, *key)
            session.copy(*marks.copy)
            session.paste(*marks.paste)
            session.add_context(*marks.context)
            session.set(form=form)
            session.execute()
            session.crops()
            made[key] = session.sample(range(PAGE))
        rate, cpu = len(keys) / (time.perf_counter() - start), (time.process_time() - used) / len(keys)
        return Plain(rate, cpu, made, generator.sample(range(PAGE), rules=[]))
    finally:
        torch.set_num_threads(threads)


def apart(files: Sequence[bytes], pictures: Tensor) -> float:
    """Mean difference, in 1/255, of files from pictures (n, 3, H, W) enlarged and compressed as they are.

    Infinite for another number of files.
    """
    if len(files) != len(pictures):
        return float("inf")
    means = []
    for data, picture in zip(files, pictures, strict=True):
        with Image.open(io.BytesIO(data)) as image:
            buffer = io.BytesIO()
            enlarged(to_image(picture), image.width).save(buffer, image.format or "PNG", quality=90)
            with Image.open(buffer) as wanted:
                means.append(np.abs(np.asarray(image, float) - np.asarray(wanted, float)).mean())
    return float(np.mean(means))


def mixed_up(visitors: Sequence[Visitor], plain: Plain) -> list[str]:
    """Sentences on every sign that visitors were mixed up.

    No two visits may get the same pictures with their rule; switching it off, on and undoing that must show what was
    shown before; pictures without a rule are the same for everybody; and the pictures of visits that the plain loop
    made too must be its own. A rule that changes nothing visible proves nothing: see `told_apart`.
    """
    visits = [(visitor, films) for visitor in visitors for _, films in visitor.visits]
    ruled, originals = (Counter(films.get(kind) for _, films in visits) for kind in ("execute", "off"))
    same_rule = [count for films, count in ruled.items() if count > 1 and films not in originals]
    problems = [f"{count} visits got the same pictures with a rule" for count in same_rule]
    for visitor, films in visits:
        same = {"on": films.get("execute"), "off": originals.most_common(1)[0][0], "undo": films.get("off")}
        wrong = [kind for kind, wanted in same.items() if films.get(kind) != wanted]
        problems += [f"{visitor.name}: other pictures than before after {', '.join(wrong)}"] if wrong else []
    for visitor in visitors:
        if visitor.visits and (own := plain.pictures.get((*visitor.key, 0))) is not None:
            for kind, pictures in (("execute", own), ("off", plain.original)):
                files = [visitor.files.get(each, b"") for each in visitor.visits[0][1].get(kind, ())]
                if (far := apart(files, pictures)) > SAME:
                    problems.append(f"{visitor.name}: after {kind}, its pictures are {far:.2f}/255 from its own")
    return problems


def told_apart(plain: Plain, stage: str) -> int:
    """How many visits of a stage the plain loop made with pictures that nobody could mistake for any others."""
    others = [*plain.pictures.values(), plain.original]
    own = [pictures for key, pictures in plain.pictures.items() if key[0] == stage]
    far = [min(float(difference(one, other).mean()) for other in others if other is not one) for one in own]
    return sum(each > 3 * SAME for each in far)
