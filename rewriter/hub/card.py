"""The card of a published generator: what was changed, in words and pictures, how to use it, whose it is.

Words typed by strangers (titles, descriptions) come out as just these words: no Markdown, no HTML, no link.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from huggingface_hub import ModelCardData, constants

import rewriter
from rewriter.checkpoints.layouts import remarks
from rewriter.editing.effect import advice, effect_in_words
from rewriter.editing.rule import Rule
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of
from rewriter.hub import licences
from rewriter.hub.repository import TAG, is_built_in

PLACES = {"rule": "rules/{}.safetensors", "edit": "edits/{}.json", "picture": "pictures/{}.png"}
PAPER = "[Rewriting a Deep Generative Model](https://rewriting.csail.mit.edu/) (Bau, Liu, Wang, Zhu, Torralba, 2020)"
ARXIV = "arxiv:2007.15646"
JOINER, ADDRESS = "\u2060", re.compile(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)")
MARKS = re.compile(r"[^\w ,;'(-]|_|(?<!\w)-|-(?!\w)")  # all but a hyphen within a word
LIMITS = """## Limits
A rule acts wherever its context matches, on every picture: places that look alike to the layer change too. The figures
above were measured on pictures that no rule was made with: how far the marked places came towards what was asked for,
how many of the places that match the context followed, and how much changed elsewhere, in units of 1/255 of full
brightness. On other pictures a rule may act more or less. The pictures are inventions of a network and show nobody and
nothing real; they have the gaps and the biases of the pictures that it was trained on."""


@dataclass(frozen=True)
class Named:
    """A rule in a repository: its title, and the name of its files without folder and ending."""

    rule: Rule
    title: str
    slug: str

    def path(self, what: str) -> str:
        """The path of one of its files: its "rule", "edit" or "picture"."""
        return PLACES[what].format(self.slug)


def named(rules: Sequence[Rule]) -> list[Named]:
    """Rules with their titles, and numbered names for their files."""
    return [Named(each, each.title[:200], f"{i}-{slug(each.title)}".strip("-")) for i, each in enumerate(rules, 1)]


def slug(text: str) -> str:
    """Words as part of a name on the Hub or of a file: "Domes & trees!" → "domes-trees"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:60].strip("-")


def words_only(text: str) -> str:
    """Somebody's words as Markdown that shows just them: all but letters, digits and the plainest marks as entities.

    Some readers of Markdown even so make links of what looks like an address: an invisible joiner prevents that.
    """
    lines = ("".join(filter(str.isprintable, line)).strip() for line in text.split("\n"))
    return "\n".join(MARKS.sub(lambda found: f"&#{ord(found[0])};", ADDRESS.sub(JOINER, line)) for line in lines)


def metadata(generator: Generator) -> dict[str, Any]:
    """The card's fields that the Hub knows."""
    origin = generator.origin
    base = {"base_model": origin.repository, "base_model_relation": "finetune"} if origin.repository else {}
    own = [str(origin.id)] if is_built_in(generator) else []
    return {
        **licences.metadata(origin.licence),
        **base,
        "library_name": "rewriter",
        "pipeline_tag": "unconditional-image-generation",
        "tags": [TAG, "model-editing", "image-generation", generator.architecture, *own, ARXIV],
    }


def write(
    generator: Generator,
    rules: Sequence[Named],
    repo_id: str,
    *,
    title: str,
    description: str,
    weights: bool,
    exported: Mapping[str, str],
    folded: str = "",
) -> str:
    """README.md for the repository of a base generator and the rules that it was rewritten with.

    Title and description are as somebody typed them; `weights` says whether the base's weights go along; `exported` is
    layout → file of folded weights for other people's tools; `folded`, how these draw differently, see `twin`.
    """
    head = ModelCardData(**metadata(generator)).to_yaml(line_break="\n")
    parts = [
        f"---\n{head}\n---\n# {words_only(title)}",
        "![Before above after](comparison.png)",
        "*Before above after, on unseen pictures: first some in which a rule's context matches, then some in which "
        "none does. `index.html` shows them large, with a slider: download it, and it opens in any browser, offline "
        "too.*",
        *([words_only(description)] if description.strip() else []),
        _changed(generator, rules),
        _use(generator, repo_id, weights, exported, folded),
        *(_rule(each) for each in rules),
        _base(generator, weights),
        LIMITS,
        _provenance(generator, rules),
    ]
    return "\n\n".join(parts) + "\n"


def _changed(generator: Generator, rules: Sequence[Named]) -> str:
    title = words_only(generator.origin.title or generator.name)
    listed = "; ".join(f"*{words_only(each.title)}*{'' if each.rule.on else ' (switched off)'}" for each in rules)
    count = "One rule" if len(rules) == 1 else f"{len(rules)} rules"
    forms = {form_of(each.rule.beside) for each in rules}
    gate = " or, where it is gated or a template, a memory beside them that acts only where its context is"
    units = "; where it names units, these are set to levels (GAN Dissection, Bau et al. 2019)"
    more = (gate if forms & {"gated", "template"} else "") + (units if "units" in forms else "")
    return (
        f"{count} of the generator **{title}** ({generator.resolution} px) rewritten: {listed}. The model was "
        "edited, not individual pictures: the rules act on every picture that it draws. The method is that of "
        f"{PAPER}: each rule is a low-rank change of one layer's weights{more}."
    )


def _use(generator: Generator, repo_id: str, weights: bool, exported: Mapping[str, str], folded: str) -> str:
    side = generator.resolution
    text = f"""## Use it
```sh
{install()}
```
```python
import rewriter
generator = rewriter.load_generator("{repo_id}")
pictures = generator.sample(range(8))  # (8, 3, {side}, {side}) in [-1, 1]; rules=[] draws as before
```
`generator.rules` are the rules: choose among them, or weaken one, as in `generator.sample(range(8),
rules=[generator.rules[0].at(0.5)])`. To rewrite it further: `rewriter demo --generator {repo_id}`."""
    if not weights:
        text += " The weights of the base are downloaded from their source."
    if exported:
        files = ", ".join(f"`{file}` ({layout})" for layout, file in exported.items())
        text += f"\n\nFor other people's tools, the rules folded into plain weights: {files}."
        text += "".join(f" In {layout}, {remark}." for layout in exported for remark in remarks(generator, layout))
        text += f" {folded[0].upper()}{folded[1:]}." if folded else ""
    return text


def install() -> str:
    """The command that installs this package: from the Space that it runs as, or from where it was installed from."""
    if space := os.environ.get("SPACE_ID"):
        return f"pip install git+{constants.ENDPOINT}/spaces/{space}"
    with suppress(PackageNotFoundError, ValueError, LookupError, TypeError):
        told = json.loads(distribution("rewriter").read_text("direct_url.json") or "")  # PEP 610
        if told["vcs_info"]["vcs"] == "git" and re.fullmatch(r"(https|file)://[\w./~-]+", told["url"]):
            return f"pip install git+{told['url']}@{told['vcs_info']['commit_id']}"
    return "pip install rewriter"


def _rule(each: Named) -> str:
    rule = each.rule
    off = "" if rule.on else ", switched off"
    alone = "Before above after, this rule alone" if rule.active else "What it would do"
    form = form_of(rule.beside)
    how = f", by {rule.edit.method}" if rule.edit and form == "weight" else ""
    kind = {
        "weight": f"rank {rule.rank}",
        "gated": f"gated, rank {rule.rank}",
        "template": "template",
        "units": "units set to levels",
    }[form]
    _, *measured = effect_in_words("", rule).split("\n")
    lines = [
        f"## {words_only(each.title)}",
        f"![{alone}]({each.path('picture')})",
        *([] if rule.active else ["*It is not in force: the picture shows what it would do.*"]),
        f"`{each.path('rule')}`: {rule.layer}, {kind}, strength {rule.strength:g}{off}{how}.",
        *(["\n".join(f"- {line.strip()}" for line in measured)] if rule.effect is not None else []),
        *(f"> {words_only(remark)}" for remark in advice(rule)),
    ]
    return "\n\n".join(lines)


def _base(generator: Generator, weights: bool) -> str:
    origin = generator.origin
    lines = ["## The base"]
    if origin.repository:
        where = [words_only(each or "") for each in (origin.repository, origin.file, origin.revision)]
        lines.append(f"- from {where[0]}, file {where[1]}, revision {where[2]}")
    elif origin.package:
        lines.append(f"- from the Python package {words_only(origin.package)}, file {words_only(origin.file or '')}")
    elif is_built_in(generator):
        lines.append("- the generator that is built into `rewriter`")
    if origin.attribution:
        lines.append(f"- made by: {words_only(origin.attribution)}")
    if licence := origin.licence:
        terms = ", **for non-commercial use only**: that includes whatever is made of it, this generator too"
        stated = " (as its publisher states it)" if origin.published or origin.stated else ""
        text = "its text is in `LICENSE`" if licences.has_text(licence) else "`LICENSE` says where its text is"
        terms = terms if licences.non_commercial(licence) else ""
        lines.append(f"- licence: [{licence.id}]({licence.link}){terms}{stated}; {text}")
    else:
        lines.append("- licence: not known; ask whoever made the weights before you use them")
    lines.append(f"- fingerprint `{generator.fingerprint}`")
    lines.append("- its weights are " + ("`model.safetensors`, unchanged" if weights else "not in this repository"))
    lines += [f"- rewritten before, in the weights: {words_only(each.title or each.layer)}" for each in origin.rules]
    return "\n".join(lines)


def _provenance(generator: Generator, rules: Sequence[Named]) -> str:
    lines = [
        "## Provenance",
        f"Made and published with `rewriter` {rewriter.__version__}. `rules/` holds what is applied, exact to the bit; "
        "`config.json` says in which order. Nothing in this repository is executed when it is loaded.",
    ]
    if recorded := next((each for each in rules if each.rule.edit), None):
        again = f"`rewriter apply {recorded.path('edit')}` on the base"
        lines.append(f"`edits/` holds what was asked for, so that it can be done again: {again}.")
    if any(each.rule.edit and each.rule.edit.photos for each in rules):
        lines.append("Some of it was marked on a photo, which is not part of this repository; the rules need none.")
    if generator.origin.published:
        lines.append(f"Made on top of the published generator {words_only(generator.origin.published)}.")
    seconds = sum(each.rule.effect.seconds for each in rules if each.rule.effect)
    if seconds and math.isfinite(seconds):
        lines.append(f"Solving took {seconds:.1f} s.")
    return "\n\n".join(lines)
