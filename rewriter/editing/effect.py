"""What a rule did, measured on pictures that its edit does not point at; and what to try next if it did too little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import checks
from rewriter.errors import OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of
from rewriter.generators.change import LowRank
from rewriter.generators.latents import UNSEEN
from rewriter.generators.units import Units
from rewriter.masks import grow
from rewriter.memory import SMOOTHNESS
from rewriter.pictures import difference

if TYPE_CHECKING:
    from rewriter.editing.rule import Rule
    from rewriter.memory.goal import Goal

BATCH = 16
POOR, UNLIKE = 0.15, 0.3  # below this reach or goal error removed, or this likeness, an edit had little effect
PROTECTING = ("least-squares", "closed-form")  # methods that know protected places
HARM, EVERYWHERE = 4.0, 0.9  # above this side effect in 1/255, or this share of the picture, it does too much
LESS, LEAST = 10.0, 0.01  # by how much a lower λ is tried, and the lowest
FEW = 3  # marked and accepted places; an edit with fewer that did not take needs more of them first
LATER = "took", "unseen_likeness", "verdict"  # fields of an effect that files of version 0.1 lack
VERDICTS = "", "took", "partly", "did not take"


@dataclass(frozen=True)
class Effect:
    """What a rule did, measured when it was made."""

    goal_error_removed: float  # share of ‖V* − V‖ that is gone, 1 at best, negative if it grew; see `effect.measure`
    reach: float  # share of matching places whose value moved at least halfway along the goal's mean change
    side_effect: float  # mean change away from matching places, in 1/255; nan where everything is near a match
    left_out: float  # share of the pictures that is too near to a match to count in `side_effect`
    pictures: int  # how many unseen pictures, and matching places on them, were measured
    places: int
    seconds: float  # from cached features and statistics to the rule
    likeness: float = math.nan  # of the marked places to what was asked for; see `likeness.Likeness.judge`
    spill: float = math.nan  # mean change away from the marks, in 1/255
    took: float = math.nan  # share of places like the marked ones, on unseen pictures, that became what was asked for
    unseen_likeness: float = math.nan  # their median likeness; see `verdict.HeldOut.likeness`
    verdict: str = ""  # "took", "partly" or "did not take"; "" in files of earlier versions

    def to_json(self) -> dict[str, float | int | str | None]:
        """Plain numbers and the verdict; None for what could not be measured."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        return {k: v for k, v in plain.items() if k not in LATER or v not in (None, "")}

    @staticmethod
    def from_json(data: Any) -> Effect:
        """Inverse of `to_json`; InputError for anything but an object in which every field that it needs is right."""
        others = data if isinstance(data, Mapping) else ()  # what later versions may add
        defaults = [name for name, about in Effect.__dataclass_fields__.items() if about.default is not MISSING]
        return Effect(**checks.fields("the rule's effect", data, _CHECKS, optional=defaults, ignore=others))


def _figure(name: str, value: Any) -> float:
    """Any finite number, or nan for None: what could not be measured."""
    return math.nan if value is None else float(checks.number(-1e300, 1e300)(name, value))


_CHECKS: dict[str, checks.Check] = {
    **dict.fromkeys(Effect.__dataclass_fields__, _figure),
    **dict.fromkeys(("pictures", "places"), checks.whole(0, 1 << 40)),
    "verdict": checks.choice(VERDICTS),
}


@dataclass(frozen=True)
class NextStep:
    """What to try next, in words that fit on a button.

    `action` "set": execute again with the options in `change`, see `Rewriter.set`. "find": look for more places with
    `Rewriter.find` and accept those that are meant; `change` is empty then.
    """

    words: str
    change: Mapping[str, Any] = field(default_factory=dict)
    action: str = "set"


def suggestion(rule: Rule) -> NextStep | None:
    """The one thing to try next; None if the edit took at a small side effect, or nothing is known of it."""
    edit, effect = rule.edit, rule.effect
    if edit is None or effect is None or not effect.verdict:
        return None
    if effect.verdict == "took":
        less = {"form": "auto", "budget": max(0.01, round(effect.side_effect / 3, 2))}
        harmful = effect.side_effect > HARM and edit.kind == "replace"
        return NextStep("Allow less change elsewhere", less) if harmful else None
    taken = [place for place in edit.found if place.by == "person"]
    if edit.kind == "swap":
        smoothness = (SMOOTHNESS if edit.smoothness is None else edit.smoothness) / LESS
        return NextStep("Protect the rest less", {"smoothness": smoothness}) if smoothness >= LEAST else None
    if edit.kind != "zero" and len(edit.context) + len(taken) < FEW:
        return NextStep("Find more places", action="find")
    if edit.kind == "zero":
        return NextStep("Remove more of it", {"rank": rule.rank + 1})
    if edit.form == "weight":
        return NextStep("Change only what is marked", {"form": "gated"})
    if edit.kind == "paint":
        return NextStep("Ask for more", {"rank": rule.rank + 1})
    if edit.kind == "replace" and edit.form == "gated":
        return NextStep("Copy it exactly", {"form": "template"})
    layer = _next_layer(rule.layer)
    return NextStep(f"Try {layer}", {"form": "auto", "layer": layer})


def _next_layer(layer: str) -> str:
    """A coarser layer, or a finer one where few are coarser: both exist in every generator."""
    number = int(layer.removeprefix("layer"))
    return f"layer{number - 1 if number > 3 else number + 1}"


def verdict_in_words(effect: Effect, kind: str = "") -> str:
    """The verdict on an edit of that kind in one sentence; "" if there is none."""
    if not effect.verdict:
        return ""
    said = {"took": "the edit took", "partly": "the edit took only partly"}.get(effect.verdict, "the edit did not take")
    if kind == "swap":
        return f"{said}: marked places came {max(0.0, effect.likeness):.0%} of the way to how the other condition looks"
    if math.isnan(effect.took):
        way = f"{max(0.0, effect.likeness):.0%} of the way"
        return f"{said}: the marked places came {way} to what similar pictures show there"
    return f"{said}: {effect.took:.0%} of similar places on unseen pictures became what was asked for"


def advice(rule: Rule) -> list[str]:
    """What fell short and what to try next; empty if the rule did what was asked, or its effect is not known."""
    effect, edit = rule.effect, rule.edit
    if effect is None or edit is not None and edit.kind == "switch":
        return []
    much = f"{effect.side_effect:.1f}/255"
    remarks = {
        **(_by_verdict(rule, effect) if effect.verdict else _by_figures(rule, effect)),
        f"much else changes ({much} away from matching places): protect the places that should stay, or allow less "
        "change elsewhere": effect.side_effect > HARM and (effect.verdict or not effect.likeness < UNLIKE),
        "protected places had no effect: only the methods least-squares and closed-form protect them, and an edit that "
        "zeroes never does": (edit and edit.keep and (edit.method not in PROTECTING or edit.kind == "zero")),
        f"its context matches nothing in {effect.pictures} unseen pictures: mark more places, and larger ones": (
            not effect.places and effect.verdict != "took"
        ),
        f"it changes few of the places that match ({effect.reach:.0%}): mark the context on more pictures, or lower "
        "the smoothness": effect.places and effect.reach < POOR and not effect.verdict,
        f"its context matches nearly everywhere ({effect.left_out:.0%} of the picture): mark it more narrowly": (
            effect.left_out > EVERYWHERE
        ),
    }
    return [words for words, holds in remarks.items() if holds]


def _by_verdict(rule: Rule, effect: Effect) -> dict[str, bool]:
    """The verdict, unless the edit took, and the next step with its options."""
    step = suggestion(rule)
    options = ", ".join(f"{name} {value}" for name, value in step.change.items()) if step else ""
    next_step = f"{step.words}{f' ({options})' if options else ''}" if step else "Mark other places"
    if effect.verdict == "took":
        return {f"much else changes ({effect.side_effect:.1f}/255 on average). {next_step}": bool(step)}
    doubt = "; some rules cannot be changed" if effect.verdict == "did not take" else ""
    kind = rule.edit.kind if rule.edit else ""
    return {f"{verdict_in_words(effect, kind)}. {next_step}{doubt}": True}


def _by_figures(rule: Rule, effect: Effect) -> dict[str, bool]:
    """What the figures say, for rules that have no verdict because an earlier version made them."""
    next_rank, near = f"rank {rule.rank + 1}", f"{effect.likeness:.0%} of the way to the requested result"
    unlike, harm = effect.likeness < UNLIKE, effect.side_effect > HARM
    return {
        f"the edit failed: the marked places are only {near}, and elsewhere {effect.side_effect:.1f}/255 changed: try "
        "every layer or a narrower context; some rules cannot be changed": unlike and harm,
        f"the edit had little effect: the marked places are only {near}: try every layer, {next_rank} "
        "or less smoothness": unlike and not harm,
        f"the edit came little nearer to its goal ({effect.goal_error_removed:.0%} of the error removed): try another "
        f"layer, less smoothness, or {next_rank} with more context": not unlike and effect.goal_error_removed < POOR,
    }


def effect_in_words(name: str, rule: Rule) -> str:
    """One paragraph: the layer and form, the verdict, what the rule did, and how long it took to solve."""
    effect, form = rule.effect, form_of(rule.beside)
    if isinstance(rule.beside, Units):
        count = len(rule.beside.units)
        changes = "" if effect is None else f"\n  unseen pictures change by {effect.side_effect:.2f}/255 on average"
        off = rule.edit is not None and rule.edit.strokes[0].removes
        return f"{name}: {rule.layer}, {count} unit{'' if count == 1 else 's'} {'off' if off else 'set'}{changes}"
    made = f"{name}: {rule.layer}, {form}, rank {rule.rank}"
    if effect is None:
        return f"{made}; its effect was not measured"
    method = f", {rule.edit.method if rule.edit else 'unknown method'}" if form == "weight" else ""
    lines = [f"{made}{method}, solved in {effect.seconds:.2f} s"]
    if effect.verdict:
        lines.append(f"  {verdict_in_words(effect, rule.edit.kind if rule.edit else '')}")
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
    because the thing was pasted where it was copied and should appear at the contexts too, it is that of all pictures;
    so it is if these come in two conditions, and the mean change is that of the condition which the rule matches.
    `seeds`: pictures to measure on; None: the first 48 unseen ones, fewer if they are large and there is no GPU.
    `seconds`: how long solving took.
    """
    seeds = _unseen(generator, rule) if seeds is None else seeds
    aim = goal[:1] if goal[:1].asks_for_change and not goal.paired else goal
    towards = max(goal.conditions, key=lambda each: float(rule.matches(each.features.keys).float().mean()))
    left = aim.remaining(generator.values(aim.features, rules=[*rules, rule]))
    removed = 1 - left / aim.remaining(aim.before) if aim.asks_for_change else 0.0
    margin, frame = _margin(generator, rule.layer, goal), generator.layer(rule.layer).key_frame
    moved = places = left_out = changed = outside = 0.0
    for i in range(0, len(seeds), BATCH):
        features = generator.keys(list(seeds[i : i + BATCH]), rule.layer, truncation=truncation, rules=rules)
        match = rule.matches(features.keys)
        before, after = generator.values(features, rules=rules), generator.values(features, rules=[*rules, rule])
        moved += float(_moved(before, after, towards.mean_change(), match.shape[1:])[match].sum())
        places += float(match.sum())
        pictures = (generator.picture(features, v, rules=rules) for v in (before, after))
        change = difference(*pictures)
        away = ~_grown(frame.shown(match), margin, change.shape[1:])
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


@torch.no_grad()
def measure_switch(
    generator: Generator,
    rule: Rule,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    seeds: Sequence[int] | None = None,
) -> Effect:
    """How much switched units change unseen pictures, on average over all pixels; there is no goal to judge them by."""
    seeds, changed = list(_unseen(generator, rule) if seeds is None else seeds), 0.0
    for i in range(0, len(seeds), BATCH):
        features = generator.keys(seeds[i : i + BATCH], rule.layer, truncation=truncation, rules=rules)
        before, after = (generator.picture(features, rules=each).clamp(-1, 1) for each in (rules, [*rules, rule]))
        changed += float(difference(before, after).mean((1, 2)).sum())
    return Effect(1.0, 1.0, changed / len(seeds), 0.0, len(seeds), 0, 0.0)


def _unseen(generator: Generator, rule: Rule) -> list[int]:
    """Pictures to measure on: fewer if they are large and there is no GPU."""
    number = 48 if generator.device.type == "cuda" else max(8, min(48, 48 * 64 // generator.resolution))
    return [seed for seed in range(UNSEEN, UNSEEN + 2 * number) if seed not in rule.seeds()][:number]


def _moved(before: Tensor, after: Tensor, towards: Tensor, size: Sequence[int]) -> Tensor:
    """Key cells whose values moved at least halfway along the goal's mean change, as float (n, h, w)."""
    share = torch.einsum("nohw,o->nhw", after - before, towards) / towards.square().sum().clamp_min(1e-12)
    return (F.adaptive_avg_pool2d(share, (size[0], size[1])) >= 0.5).float()


def _margin(generator: Generator, layer: str, goal: Goal) -> tuple[int, int]:
    """How far around a match the rule is meant to act, in pixels (rows, columns).

    Half the goal's box, and beyond it what the following layers see of the changed values.
    """
    info, (height, width) = generator.layer(layer), goal.boxes[0].size
    pixels = generator.resolution / info.frame.across
    reach = generator.receptive_field(layer)
    return math.ceil(height / 2 * pixels) + reach, math.ceil(width / 2 * pixels) + reach


def _grown(match: Tensor, margin: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Matching cells (n, h, w) as pixels (n, H, W), grown by the margin."""
    pixels = F.interpolate(match[:, None].float(), size=tuple(size), mode="nearest")[:, 0]
    rows, columns = (min(m, s) for m, s in zip(margin, size, strict=True))
    return grow(pixels, rows, rows, columns, columns) > 0
