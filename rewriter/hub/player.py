"""The player: one page for a published generator, which shows before and after large and opens anywhere, for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import constants

from rewriter.editing.effect import verdict_in_words
from rewriter.editing.rule import Rule
from rewriter.generators.beside import form_of
from rewriter.generators.origin import Licence
from rewriter.hub.licences import non_commercial
from rewriter.hub.look import document, escaped, link, paragraphs
from rewriter.hub.pairs import Pair
from rewriter.pictures import data_url, webp

PAGE = "index.html"
MOST = 1_000_000  # bytes of a page
SIZES = (256, 90), (256, 80), (256, 60), (192, 60), (128, 60), (128, 20)  # px and quality: the first that is enough
FORMS = {
    "weight": "a change of the layer's weights, of rank {rank}",
    "gated": "a memory beside the layer's weights, which acts only where its context is",
    "template": "a memory beside the layer's weights, which draws what was copied where a place looks like the marks",
    "units": "units of the layer set to levels",
}
STYLE = """
.top { display: grid; gap: clamp(16px, 2.5vw, 40px); grid: "head" "stage" "strip" / minmax(0, 1fr); }
.head { grid-area: head; } .stage-area { grid-area: stage; } .strip-area { grid-area: strip; min-width: 0; }
#stage { position: relative; --at: 50%; border-radius: var(--round); overflow: hidden; aspect-ratio: 1;
  background: var(--line); box-shadow: 0 14px 40px rgb(0 0 0 / .16); }
#stage img { position: absolute; inset: 0; height: 100%; object-fit: cover; }
#before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
#edge { position: absolute; inset: 0 auto 0 var(--at); width: 3px; margin-left: -1.5px; background: #fff;
  box-shadow: 0 0 6px rgb(0 0 0 / .5); pointer-events: none; }
#edge::after { content: "↔"; position: absolute; top: 50%; left: 50%; translate: -50% -50%; width: 46px; height: 46px;
  border-radius: 50%; background: #fff; color: #1c1917; font-size: 22px; display: grid; place-items: center;
  box-shadow: 0 2px 10px rgb(0 0 0 / .4); }
.tag { position: absolute; bottom: 14px; padding: 2px 12px; border-radius: 99px; background: rgb(0 0 0 / .72);
  color: #fff; font-size: 15px; pointer-events: none; }
.tag:first-of-type { left: 14px; } .tag:last-of-type { right: 14px; }
#at { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y; }
#stage:has(:focus-visible) { outline: 3px solid var(--accent); outline-offset: 4px; }
.under { margin: 12px 0 0; font-size: 15px; color: var(--soft); }
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; } legend { padding: 0; }
.strip { display: flex; gap: 10px; overflow-x: auto; padding: 6px; margin: -6px; scroll-snap-type: x proximity; }
.strip label { flex: 0 0 84px; scroll-snap-align: center; cursor: pointer; position: relative; font-size: 13px;
  color: var(--soft); text-align: center; line-height: 1.3; }
.strip input { position: absolute; opacity: 0; inset: 0; width: 100%; height: 100%; margin: 0; cursor: pointer; }
.strip span.two { display: block; border-radius: 10px; overflow: hidden; outline: 1px solid var(--line);
  margin-bottom: 4px; }
.strip :checked ~ span.two { outline: 3px solid var(--accent); }
.strip :focus-visible ~ span.two { outline-width: 5px; }
.strip :checked ~ span { color: var(--ink); }
.cards { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr));
  margin-top: clamp(20px, 3vw, 40px); }
.cards section { background: var(--card); border: 1px solid var(--line); border-radius: var(--round); 
  padding: 20px 22px; min-width: 0; }
.rule + .rule { border-top: 1px solid var(--line); padding-top: 14px; margin-top: 14px; }
.rule p { margin: 0 0 .3em; } .rule strong { font-size: 19px; }
@media (min-width: 900px) {
  .top { grid: "stage head" auto "stage strip" 1fr / minmax(0, min(50%, 74vh, 640px)) minmax(0, 1fr); }
  .head { align-self: end; }
  .stage-area { position: sticky; top: 24px; align-self: start; }
  .strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)); overflow: visible; }
}
"""
SCRIPT = """
const stage = document.getElementById('stage'), range = document.getElementById('at');
const big = [document.getElementById('before'), document.getElementById('after')];
const under = document.getElementById('under');
const move = (value) => {
  stage.style.setProperty('--at', value + '%');
  range.value = value;
  range.setAttribute('aria-valuetext', Math.round(100 - value) + ' % after');
};
let sweeping = 0;
const stop = () => { cancelAnimationFrame(sweeping); };
range.hidden = false;
range.addEventListener('input', () => { stop(); move(range.value); });
range.addEventListener('pointerdown', stop);
range.addEventListener('keydown', stop);
for (const choice of document.querySelectorAll('.strip input')) {
  choice.addEventListener('change', () => {
    const pair = choice.parentElement.querySelectorAll('img');
    big.forEach((image, i) => { image.src = pair[i].src; });
    under.textContent = choice.dataset.words;
    if (document.activeElement === choice) choice.parentElement.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  });
}
const chosen = document.querySelector('.strip input:checked');
if (chosen) chosen.dispatchEvent(new Event('change'));
move(50);
if (!matchMedia('(prefers-reduced-motion: reduce)').matches) {
  const ease = (t) => t * t * (3 - 2 * t), legs = [[100, 100, 500], [100, 6, 1500], [6, 6, 500], [6, 50, 900]];
  let start;
  const step = (now) => {
    let gone = now - (start ??= now);
    for (const [from, to, time] of legs) {
      if (gone < time) {
        move(from + (to - from) * ease(gone / time));
        sweeping = requestAnimationFrame(step);
        return;
      }
      gone -= time;
    }
    move(50);
  };
  sweeping = requestAnimationFrame(step);
}
"""


@dataclass(frozen=True)
class Facts:
    """What a page tells: words of strangers as they typed them, which are escaped when the page is written."""

    title: str
    description: str
    base: str  # the base's title
    rules: tuple[tuple[str, str, str], ...]  # of each: title, how it is made, the verdict in one sentence or ""
    repo_id: str = ""  # "": published nowhere
    licence: Licence | None = None
    attribution: str = ""

    @property
    def url(self) -> str:
        """The repository's page on the Hub; "" where there is none."""
        return f"{constants.ENDPOINT}/{self.repo_id}" if self.repo_id else ""


def told(rules: Sequence[Rule]) -> tuple[tuple[str, str, str], ...]:
    """Rules in words, for `Facts.rules`."""
    return tuple((rule.title[:200], _how(rule), _verdict(rule)) for rule in rules)


def _how(rule: Rule) -> str:
    form = FORMS[form_of(rule.beside)].format(rank=rule.rank)
    strength = "" if rule.strength == 1 else f", at strength {rule.strength:g}"
    return f"At {rule.layer[:40]}: {form}{strength}{'' if rule.on else '; switched off'}."


def _verdict(rule: Rule) -> str:
    said = verdict_in_words(rule.effect, rule.edit.kind if rule.edit else "") if rule.effect else ""
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def page(facts: Facts, shown: Sequence[Pair]) -> bytes:
    """The page, of at most `MOST` bytes, as HTML; `shown` are its pictures, at least one."""
    for side, quality in SIZES:
        pictures = [
            tuple(data_url(webp(one, quality, width=side)) for one in (pair.before, pair.after)) for pair in shown
        ]
        made = document(facts.title, _body(facts, shown, pictures), style=STYLE, script=SCRIPT)
        if len(made) <= MOST:
            break
    return made


def _body(facts: Facts, shown: Sequence[Pair], pictures: Sequence[tuple[str, ...]]) -> str:
    count = "One rule" if len(facts.rules) == 1 else f"{len(facts.rules)} rules"
    lead = f"{count} of the image generator “{escaped(facts.base)}” rewritten. Every picture it draws follows."
    first = max(range(len(shown)), key=lambda i: shown[i].change)
    before, after = pictures[first]
    choices = "".join(_choice(pair, pictures[i], i == first) for i, pair in enumerate(shown))
    return f"""<main>
<div class="top">
<header class="head"><h1>{escaped(facts.title)}</h1><p class="soft">{lead}</p>{paragraphs(facts.description)}</header>
<div class="stage-area">
<div id="stage"><img id="after" alt="after" src="{after}"><img id="before" alt="before" src="{before}">
<span class="tag">before</span><span class="tag">after</span><div id="edge" aria-hidden="true"></div>
<input id="at" type="range" min="0" max="100" value="50" hidden aria-label="Where before ends and after begins"></div>
<p class="under" id="under" aria-live="polite">{_caption(shown[first])}</p>
</div>
<div class="strip-area"><fieldset><legend><h2>Unseen pictures, before above after</h2></legend>
<div class="strip">{choices}</div></fieldset></div>
</div>
<div class="cards">{_rules(facts)}{_use(facts)}{_licence(facts)}</div>
<footer>Made with rewriter. The pictures are inventions of a network and show nobody and nothing real.</footer>
</main>"""


def _caption(pair: Pair) -> str:
    return f"Seed {pair.seed}" + ("" if pair.matches else ": no rule matches here, so little should change")


def _choice(pair: Pair, pictures: tuple[str, ...], first: bool) -> str:
    images = "".join(f'<img alt="" width="84" height="84" src="{picture}">' for picture in pictures)
    checked = " checked" if first else ""
    words = f"{pair.seed}" + ("" if pair.matches else "<br>no match")
    return (
        f'<label><input type="radio" name="pair" data-words="{_caption(pair)}"{checked}>'
        f'<span class="two">{images}</span><span>{words}</span></label>\n'
    )


def _rules(facts: Facts) -> str:
    each = "".join(
        f'<div class="rule"><p><strong>{escaped(title)}</strong></p>'
        f'<p>{escaped(verdict)}</p><p class="soft">{escaped(how)}</p></div>'
        for title, how, verdict in facts.rules
    )
    return f"<section><h2>What was changed</h2>{each}</section>"


def _use(facts: Facts) -> str:
    if not facts.repo_id:
        return ""
    name = escaped(facts.repo_id)
    return f"""<section><h2>Use it</h2>
<pre>import rewriter
gen = rewriter.load_generator("{name}")
pictures = gen.sample(range(8))</pre>
<pre>rewriter demo --generator {name}</pre>
<p>{link(facts.url, "The files, the card and the rules")}</p></section>"""


def _licence(facts: Facts) -> str:
    said = "The licence of the base is not known: ask whoever made it before you use it."
    if facts.licence:
        said = f"The base is under {link(facts.licence.link, facts.licence.id)}"
        terms = "for non-commercial use only, and so is whatever is made of it" * non_commercial(facts.licence)
        said += f", {terms}." if terms else "."
    by = f"<p>Made by: {escaped(facts.attribution)}</p>" if facts.attribution else ""
    return f"<section><h2>Licence</h2><p>{said}</p>{by}</section>"
