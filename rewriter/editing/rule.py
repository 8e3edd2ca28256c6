"""Rule: a low-rank change of one layer with its provenance. Tens of kilobytes; the exact artefact of an edit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rewriter.checks import Check, fields, flag, number, optional, text
from rewriter.editing.edit import Edit
from rewriter.editing.effect import Effect
from rewriter.errors import InputError
from rewriter.files import write_tensors
from rewriter.generators.base import Generator
from rewriter.generators.beside import Beside, form_of
from rewriter.generators.change import STRENGTHS, LowRank, digest
from rewriter.generators.gated import Gated, Recall
from rewriter.generators.latents import Seed
from rewriter.generators.units import Units
from rewriter.memory.directions import Directions

FORMATS = "rewriter-rule-1", "rewriter-rule-2"  # without and with a memory beside W
MEMORIES: Mapping[str, type[Beside]] = {each.form: each for each in (Gated, Recall, Units)}
BESIDE = "beside."  # before the names of its tensors
_LIMIT, MOST_TENSORS = 512 << 20, 16
OPEN = 0.5  # from here on a gate counts as open
RULES = 64  # rules in one session
CELLS = 1 << 25  # cells of all masks together, 128 MB; small PNG files can decode to huge masks


@dataclass(frozen=True, eq=False, repr=False)
class Rule(LowRank):
    """A change of one layer, with the request that it came from."""

    level: float = 1.0  # the context keys' mean response to the first direction; places match from half of it on
    edit: Edit | None = None  # the request that made it, if it is known
    effect: Effect | None = None  # what it did when it was made, if that was measured

    def __repr__(self) -> str:
        off = "" if self.on else ", off"
        return f"<Rule {self.title!r}: {self.layer}, rank {self.rank}, strength {self.strength:g}{off}>"

    @property
    def title(self) -> str:
        """The person's name for it, or else the things that were painted, or which layer it rewrites."""
        painted = dict.fromkeys(stroke.thing for stroke in self.edit.strokes if stroke.thing) if self.edit else ()
        return (self.edit and self.edit.title) or ", ".join(painted) or f"rule at {self.layer}"

    @property
    def request(self) -> str:
        """Identity of what was asked for: the same on every machine, unlike the solved numbers."""
        return digest([self]) if self.edit is None else self.edit.digest

    def at(self, strength: float) -> Rule:
        """The same rule at another strength, −1…2: 0 is the base, 1 the rule, to the bit; InputError outside."""
        return replace(self, strength=number(*STRENGTHS)("strength", strength))

    def angle(self, other: Rule) -> float:
        """Smallest angle in degrees between two rules' directions; 90 if they are at different layers.

        At 0 every place that one rule matches matches the other too; at 90 they do not interfere. Recalled values and
        switched units have no directions: 90.
        """
        if self.layer != other.layer or {"template", "units"} & {form_of(self.beside), form_of(other.beside)}:
            return 90.0
        a, b = (torch.linalg.qr(rule.directions.cpu().double().T)[0] for rule in (self, other))
        cosines = torch.linalg.svdvals(a.T @ b)
        return math.degrees(math.acos(min(1.0, float(cosines[0]))))

    def seeds(self) -> set[Seed]:
        """The pictures that the edit points at."""
        return {place.seed for place in self.edit.regions} if self.edit else set()

    def about(self) -> dict[str, Any]:
        """All but the tensors, as a JSON object; `assemble` puts them together again."""
        plain = {name: getattr(self, name) for name in ("layer", "strength", "on", "fingerprint", "level")}
        edit = self.edit.to_json() if self.edit else {}
        form = {"form": form_of(self.beside)} if self.beside else {}
        return {**plain, **form, "edit": edit, "effect": self.effect and self.effect.to_json()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name; `assemble` puts them together again."""
        beside = self.beside.tensors() if self.beside else {}
        tensors = {"delta": self.delta, "directions": self.directions}
        return tensors | {f"{BESIDE}{name}": tensor for name, tensor in beside.items()}

    def matches(self, keys: torch.Tensor) -> torch.Tensor:
        """Places (n, h, w) that the rule applies to, bool, for keys (n, in, h, w).

        Where the response is at least half the context's mean; for a template, the cells that it replaces by half; for
        switched units, where their mask is.
        """
        if isinstance(self.beside, (Recall, Units)):
            return self.beside.matches(keys) >= OPEN
        return Directions(self.directions.to(keys), self.level).match(keys)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, exact to the bit."""
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in self.tensors().items()}  # none shared
        write_tensors(tensors, path, {"format": FORMATS[self.beside is not None], "rule": json.dumps(self.about())})

    @staticmethod
    def load(path: str | Path) -> Rule:
        """Read a rule file; InputError if it is missing, damaged, not a rule, or not finite."""
        path = Path(path)
        try:
            if path.stat().st_size > _LIMIT:
                raise InputError(f"{path} is larger than {_LIMIT >> 20} MB: it is no rule")
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = list(file.keys())
                plain = {name for name in names if not name.startswith(BESIDE)} == {"delta", "directions"}
                if metadata.get("format") not in FORMATS or not plain or len(names) > MOST_TENSORS:
                    raise InputError(f"{path} is a safetensors file, but not a rule ({' or '.join(FORMATS)})")
                tensors = {name: file.get_tensor(name) for name in names}
            about = json.loads(metadata["rule"])
            return assemble(about, tensors, Edit.from_json(about["edit"]) if about["edit"] != {} else None)
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror or error})") from error
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, InputError):
                raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
            hint = "fetch or save it again; edits become rules by `rewriter apply EDIT --save-rule FILE`"
            raise InputError(f"{path} is damaged, or no rule ({error}): {hint}") from error


def assemble(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], edit: Edit | None) -> Rule:
    """A rule from what a file holds; InputError for what is unusable, or KeyError, TypeError or ValueError."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise InputError(f"the rule's {name} is not finite float32")
    if tensors["delta"].ndim != 4 or tensors["directions"].ndim != 2:
        raise InputError("the rule's delta is (out, r, kh, kw) and its directions (r, in); these are not")
    if not 0 < len(tensors["directions"]) == tensors["delta"].shape[1]:
        raise InputError("the rule's delta and directions do not belong together")
    others = about if isinstance(about, Mapping) else ()
    values = fields("the rule", about, _CHECKS, optional=("on",), ignore=others)
    if not values["fingerprint"]:
        raise InputError("the rule does not say which generator it belongs to: its fingerprint is empty")
    if edit is not None and edit.kind == "switch" and edit.missing():
        raise InputError(f"the rule's edit is incomplete: {'; '.join(edit.missing())}")
    beside = {name.removeprefix(BESIDE): tensor for name, tensor in tensors.items() if name.startswith(BESIDE)}
    if bool(beside) != ("form" in about):
        raise InputError("the rule's form and its tensors do not belong together")
    memory = MEMORIES[about["form"]].from_tensors(beside) if beside else None
    return Rule(delta=tensors["delta"], directions=tensors["directions"], edit=edit, beside=memory, **values)


_CHECKS: dict[str, Check] = {
    "layer": text(200),
    "strength": number(*STRENGTHS),
    "on": flag,
    "fingerprint": text(64),
    "level": number(-1e300, 1e300),
    "effect": optional(lambda name, value: Effect.from_json(value)),
}


def carried_rules(generator: Generator) -> tuple[Rule, ...]:
    """The rules that a published generator brings along."""
    return tuple(rule for rule in generator.rules if isinstance(rule, Rule))
