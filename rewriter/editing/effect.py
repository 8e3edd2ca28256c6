"""What a rule did, measured on pictures that its edit does not point at; and what to try next if it did too little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.editing.rule import Effect, Rule
from rewriter.errors import OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.masks import grow
from rewriter.memory.goal import Goal
from rewriter.pictures import difference

UNSEEN = 10_000  # the first seed to measure on; statistics, bystanders and most edits use lower ones
BATCH = 16
POOR, UNLIKE = 0.15, 0.3  # below this reach or goal error removed, or this likeness, an edit had little effect
PROTECTING = ("least-squares", "closed-form")  # methods that know protected places
HARM, EVERYWHERE = 4.0, 0.9  # above this side effect in 1/255, or this share of the picture, it does too much


def advice(rule: Rule) -> list[str]:
    """What fell short and what to try next; empty if the rule did what was asked, or its effect is not known."""
    effect = rule.effect
    if effect is None:
        return []
    edit, next_rank = rule.edit, f"rank {rule.rank + 1}"
    unlike, harm = effect.likeness < UNLIKE, effect.side_effect > HARM
    near, much = f"{effect.likeness:.0%} of the way to the requested result", f"{effect.side_effect:.1f}/255"
    remarks = {
        f"the edit failed: the marked places are only {near}, and elsewhere {much} changed: try another layer "
        "(`suggest` ranks them) or a narrower context; some rules cannot be changed": unlike and harm,
        f"the edit had little effect: the marked places are only {near}: try another layer (`suggest` ranks them), "
        f"{next_rank} or less smoothness": unlike and not harm,
        f"the edit came little nearer to its goal ({effect.goal_error_removed:.0%} of the error removed): try another "
        f"layer, less smoothness, or {next_rank} with more context": not unlike and effect.goal_error_removed < POOR,
        f"much else changes ({much} away from matching places): try more smoothness, or protect the places that should "
        "stay": harm and not unlike,
        "protected places had no effect: only least-squares and closed-form protect them, and not when zeroing": (
            edit and edit.keep and (edit.method not in PROTECTING or edit.kind == "zero")
        ),
        f"its context matches nothing in {effect.pictures} unseen pictures: mark more places, and larger ones": (
            not effect.places
        ),
        f"it changes few of the places that match ({effect.reach:.0%}): mark the context on more pictures, or try less "
        "smoothness": effect.places and effect.reach < POOR,
        f"its context matches nearly everywhere ({effect.left_out:.0%} of the picture): mark it more narrowly": (
            effect.left_out > EVERYWHERE
        ),
    }
    return [words for words, holds in remarks.items() if holds]


def effect_in_words(name: str, rule: Rule) -> str:
    """One paragraph: what the rule did, and how long it took to solve."""
    effect = rule.effect
    if effect is None:
        return f"{name}: {rule.layer}, rank {rule.rank}; its effect was not measured"
    method = rule.edit.method if rule.edit else "unknown method"
    lines = [f"{name}: {rule.layer}, rank {rule.rank}, {method}, solved in {effect.seconds:.2f} s"]
    if not math.isnan(effect.likeness):
        unmarked = f"outside them {effect.spill:.2f}/255 changed"
        beside = "they cover the whole picture" if math.isnan(effect.spill) else unmarked
        lines.append(f"  marked places {effect.likeness:.0%} of the way to the requested result; {beside}")
    lines.append(
        f"  goal error removed {effect.goal_error_removed:.0%}; reach {effect.reach:.0%} of {effect.places} matching "
        f"places on {effect.pictures} unseen pictures"
    )
    side = f"{effect.side_effect:.2f}/255 away from matches ({effect.left_out:.0%} of the picture left out)"
    side = "not measured (every place is near a match)" if math.isnan(effect.side_effect) else side
    return "\n".join([*lines, f"  side effect {side}"])


@torch.no_grad()
def firing(
    generator: Generator,
    rules: Sequence[Rule],
    *,
    hits: int,
    misses: int,
    earlier: Sequence[Rule] = (),
    truncation: float = 1.0,
    limit: int = 2000,
    on_step: OnStep | None = None,
) -> tuple[list[int], list[int]]:
    """The first unseen seeds whose pictures match the context of any of the rules, and the first that match none.

    `hits` and `misses` say how many of either to find among the first `limit` unseen seeds; there may be fewer. The
    rules are applied in order, on top of the `earlier` ones. `on_step` is called with (seeds done, limit).
    """
    found: dict[bool, list[int]] = {True: [], False: []}
    wanted = {True: hits, False: misses}
    own = {seed for rule in rules for seed in rule.seeds()}
    for first in range(UNSEEN, UNSEEN + limit, BATCH):
        report(on_step, first - UNSEEN, limit)
        seeds, fires = list(range(first, first + BATCH)), torch.zeros(BATCH, dtype=torch.bool)
        for i, rule in enumerate(rules):
            features = generator.keys(seeds, rule.layer, truncation=truncation, rules=[*earlier, *rules[:i]])
            fires |= rule.matches(features.keys).flatten(1).any(1).cpu()
        for seed, fired in zip(seeds, fires.tolist(), strict=True):
            if len(found[fired]) < wanted[fired] and seed not in own:
                found[fired].append(seed)
        if len(found[True]) == hits and len(found[False]) == misses:
            break
    return found[True], found[False]


@torch.no_grad()
def measure(
    generator: Generator,
    rule: Rule,
    goal: Goal,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    seeds: Sequence[int] | None = None,
    seconds: float = math.nan,
) -> Effect:
    """Compare the generator with a rule and without it, on top of the rules that were on when it was made.

    The goal error is that of the goal's first picture, the one that was pasted on. If that one is to stay as it is,
    because the thing was pasted where it was copied and should appear at the contexts too, it is that of all pictures.
    `seeds`: pictures to measure on; None: the first 48 unseen ones, fewer if they are large and there is no GPU.
    `seconds`: how long solving took.
    """
    if seeds is None:
        number = 48 if generator.device.type == "cuda" else max(8, min(48, 48 * 64 // generator.resolution))
        seeds = [seed for seed in range(UNSEEN, UNSEEN + 2 * number) if seed not in rule.seeds()][:number]
    aim = goal[:1] if goal[:1].asks_for_change else goal
    left = aim.remaining(generator.values(aim.features, rules=[*rules, rule]))
    removed = 1 - left / aim.remaining(aim.before) if aim.asks_for_change else 0.0
    margin = _margin(generator, rule.layer, goal)
    moved = places = left_out = changed = outside = 0.0
    for i in range(0, len(seeds), BATCH):
        features = generator.keys(list(seeds[i : i + BATCH]), rule.layer, truncation=truncation, rules=rules)
        match = rule.matches(features.keys)
        before, after = generator.values(features, rules=rules), generator.values(features, rules=[*rules, rule])
        moved += float(_moved(before, after, goal.mean_change(), match.shape[1:])[match].sum())
        places += float(match.sum())
        pictures = (generator.picture(features, v, rules=rules) for v in (before, after))
        change = difference(*pictures)
        away = ~_grown(match, margin, change.shape[1:])
        changed, outside = changed + float(change[away].sum()), outside + float(away.sum())
        left_out += float((~away).sum())
    return Effect(
        goal_error_removed=removed,
        reach=moved / places if places else 0.0,
        side_effect=changed / outside if outside else math.nan,
        left_out=left_out / (left_out + outside),
        pictures=len(seeds),
        places=int(places),
        seconds=seconds,
    )


def _moved(before: Tensor, after: Tensor, towards: Tensor, size: Sequence[int]) -> Tensor:
    """Key cells whose values moved at least halfway along the goal's mean change, as float (n, h, w)."""
    share = torch.einsum("nohw,o->nhw", after - before, towards) / towards.square().sum().clamp_min(1e-12)
    return (F.adaptive_avg_pool2d(share, (size[0], size[1])) >= 0.5).float()


def _margin(generator: Generator, layer: str, goal: Goal) -> tuple[int, int]:
    """How far around a match the rule is meant to act, in pixels (rows, columns).

    Half the goal's box, and beyond it what the following layers see of the changed values.
    """
    info, (height, width) = generator.layer(layer), goal.boxes[0].size
    pixels = generator.resolution / info.resolution
    reach = generator.receptive_field(layer)
    return math.ceil(height / 2 * pixels) + reach, math.ceil(width / 2 * pixels) + reach


def _grown(match: Tensor, margin: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Matching cells (n, h, w) as pixels (n, H, W), grown by the margin."""
    pixels = F.interpolate(match[:, None].float(), size=tuple(size), mode="nearest")[:, 0]
    rows, columns = (min(m, s) for m, s in zip(margin, size, strict=True))
    return grow(pixels, rows, rows, columns, columns) > 0
