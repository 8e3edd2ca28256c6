"""Licences of base generators: which may be stated, and the text that goes into a repository's LICENSE.

The texts are their authors' and are not part of this package: they are downloaded from where they are published when a
generator is, and have to be what they were when this table was written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import get_session

from rewriter.cache import default_folder
from rewriter.checkpoints.client import in_words
from rewriter.errors import InputError
from rewriter.files import write_bytes
from rewriter.generators.origin import Licence, Origin

LARGEST = 1 << 18  # bytes of a text
GITHUB = "https://raw.githubusercontent.com/NVlabs"
CREATIVE = "https://creativecommons.org/licenses"
APACHE = "https://www.apache.org/licenses/LICENSE-2.0"
ON_HUB = {  # the Hub's ids → where each licence is
    "apache-2.0": APACHE,
    "mit": "https://opensource.org/license/mit",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    **{f"cc-{kind}-4.0": f"{CREATIVE}/{kind}/4.0/" for kind in ("by", "by-sa", "by-nc", "by-nc-sa")},
}
KNOWN = {**ON_HUB, "nvidia-source-code-license-nc": "https://nvlabs.github.io/stylegan2/license.html"}


@dataclass(frozen=True)
class Text:
    """Where a licence's plain text is: verified by its SHA-256, or by words in it where the text has no fixed form."""

    url: str
    sha256: str = ""
    contains: str = ""

    def matches(self, found: bytes) -> bool:
        """Whether this is the text."""
        return hashlib.sha256(found).hexdigest() == self.sha256 if self.sha256 else self.contains.encode() in found


TEXTS: dict[str, Text] = {  # by the link of the licence
    "https://nvlabs.github.io/stylegan2/license.html": Text(
        f"{GITHUB}/stylegan2/bf0fe0baba9fc7039eae0cac575c1778be1ce3e3/LICENSE.txt",
        "803ddcc4dd20de6387e2e5731f6a864ea01364dd305b17bda7157bcab0c39295",
    ),
    "https://nvlabs.github.io/stylegan2-ada-pytorch/license.html": Text(
        f"{GITHUB}/stylegan2-ada-pytorch/d72cc7d041b42ec8e806021a205ed9349f87c6a4/LICENSE.txt",
        "d782a1e765f4848609352fd9d74cc36b103ef6f51900baed06fb1c995188b95f",
    ),
    "https://github.com/chien-liu/DCGAN-PyTorch/blob/main/LICENSE": Text(
        "https://raw.githubusercontent.com/chien-liu/DCGAN-PyTorch/97bd810d8195120a7a8c41af0edd2d5d804eb51b/LICENSE",
        "62ed31567250ca33432d1fea205844aac5cc85559f4b44342f91d355a12f36e3",
    ),
    **{
        f"{CREATIVE}/{kind}/4.0/": Text(f"{CREATIVE}/{kind}/4.0/legalcode.txt", contains=f"{words} 4.0")
        for kind, words in (("by", "Attribution"), ("by-nc", "Attribution-NonCommercial"))
    },
}


def metadata(licence: Licence | None) -> dict[str, str]:
    """The licence fields of a card: the Hub's own id, or "other" with the name and the file that holds the text."""
    if licence is None:
        return {"license": "unknown"}
    if licence.id in ON_HUB:
        return {"license": licence.id}
    return {"license": "other", "license_name": licence.id, "license_link": "LICENSE"}


def non_commercial(licence: Licence) -> bool:
    """Whether a licence forbids commercial use: those that do have NC in their names."""
    return "nc" in licence.id.lower().split("-")


def has_text(licence: Licence) -> bool:
    """Whether LICENSE will hold the licence's text, and not only where it is."""
    return licence.link == APACHE or licence.link in TEXTS


def text_of(origin: Origin) -> bytes:
    """The content of LICENSE for a generator of this origin; InputError if a text cannot be had, or has changed."""
    licence = origin.licence
    if licence is None:
        return b"The licence of this generator's weights is not known. Ask whoever made them before you use them.\n"
    if licence.link == APACHE:
        return own()
    if licence.link not in TEXTS:
        return f"{origin.attribution}\n\nLicence: {licence.id}\nIts text: {licence.link}\n".lstrip().encode()
    known = TEXTS[licence.link]
    kept = default_folder() / "licences" / f"{hashlib.sha256(known.url.encode()).hexdigest()}.txt"
    if kept.is_file() and known.matches(found := kept.read_bytes()):
        return found
    found = _download(known)
    write_bytes(found, kept)
    return found


def own() -> bytes:
    """The text of the Apache licence, which is this package's."""
    try:
        places = [Path(str(file.locate())) for file in files("rewriter") or [] if file.name == "LICENSE"]
    except PackageNotFoundError:
        places = []
    for path in (*places, Path(__file__).parents[2] / "LICENSE"):  # the latter in a checkout, or on a Space
        if path.is_file():
            return path.read_bytes()
    raise InputError("this installation lacks its LICENSE: install the package again")


def _download(known: Text) -> bytes:
    with in_words(f"download the licence's text from {known.url}", HfApi(token=False)):
        answer = get_session().get(known.url, timeout=10)
        answer.raise_for_status()
        found: bytes = answer.content
    if len(found) > LARGEST or not known.matches(found):
        raise InputError(f"{known.url} is not the licence's text any more: tell the authors of rewriter")
    return found
