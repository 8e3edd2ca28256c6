"""The look of the pages that we write for others to keep: one file each, which opens anywhere and asks for nothing.

A page's policy allows the one style and the one script that are in it, by their SHA-256, and pictures in its own text.
"""

from __future__ import annotations

import base64
import hashlib
import html

POLICY = "default-src 'none'; img-src data:; style-src '{}'; script-src {}; base-uri 'none'; form-action 'none'"
ROOT = """
:root { color-scheme: light dark; --paper: #faf9f6; --card: #ffffff; --ink: #1c1917; --soft: #57534e; --line: #d6d3d1;
  --accent: #047857; --round: 14px; }
@media (prefers-color-scheme: dark) { :root { --paper: #14120f; --card: #211e1a; --ink: #f5f5f4; --soft: #bdb7b0;
  --line: #44403c; --accent: #34d399; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.55 system-ui, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: clamp(16px, 3vw, 44px); }
h1 { font-size: clamp(30px, 4.4vw, 54px); line-height: 1.08; letter-spacing: -.025em; margin: 0 0 .35em;
  overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 15px; letter-spacing: .02em; margin: 0 0 .6em; color: var(--soft); font-weight: 600; }
p { margin: 0 0 .8em; max-width: 68ch; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
a { color: var(--accent); text-underline-offset: .2em; }
img { display: block; width: 100%; height: auto; }
pre { margin: 0 0 .8em; padding: 12px 14px; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--paper); border: 1px solid var(--line); border-radius: 8px; font: 14px/1.6 ui-monospace, monospace; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; border-radius: 6px; }
footer { margin-top: 36px; color: var(--soft); font-size: 15px; }
"""


def escaped(text: str, most: int = 2000) -> str:
    """Somebody's words as HTML that shows just them: what cannot be printed goes, such as marks that turn the line."""
    return html.escape("".join(c for c in text if c.isprintable())[:most])


def paragraphs(text: str) -> str:
    """Somebody's paragraphs, as paragraphs."""
    parts = (escaped(" ".join(part.split())) for part in text.replace("\r\n", "\n").split("\n\n"))
    return "".join(f"<p>{part}</p>" for part in parts if part)


def link(url: str, words: str) -> str:
    """A link that opens beside the page; only the words where the address is none of the web."""
    if not url.startswith(("https://", "http://")):
        return escaped(words)
    return f'<a href="{escaped(url)}" target="_blank" rel="noopener noreferrer">{escaped(words)}</a>'


def document(title: str, body: str, *, style: str, script: str = "") -> bytes:
    """A whole page; `body` is HTML, and everything from outside in it is escaped already."""
    style = ROOT + style
    policy = POLICY.format(_hash(style), f"'{_hash(script)}'" if script else "'none'")
    code = f"<script>{script}</script>" if script else ""
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
{code}
</body>
</html>
"""
    return text.encode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
