"""The part of the page where rewritten generators are published, found and opened.

A visitor publishes with their own token and no other: on a Space the one of their login; on one's own machine, opened
from there, that of `hf auth login`. It is passed on to the Hub's client and kept nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import gradio as gr
from huggingface_hub import HfApi, get_token

from lane import SHARED, failing
from rewriter.cache import Cache
from rewriter.checkpoints import store
from rewriter.checkpoints.client import connect, in_words, quiet
from rewriter.errors import InputError
from rewriter.hub import licences, publish
from rewriter.hub.browse import listed
from rewriter.hub.draft import DESCRIPTION, Draft
from studio import Visitor
from view import data_url, plain

if TYPE_CHECKING:
    from lane import Lane

LOGIN = bool(os.environ.get("OAUTH_CLIENT_ID"))  # a Space that lets people log in
HERE = ("localhost", "127.0.0.1")
PASSED_ON = ("forwarded", "x-forwarded-for", "x-forwarded-host", "via")  # by a proxy or a tunnel
ADVICE = {
    **publish.ADVICE,
    401: "the login has ended: log out and in again",
    403: "this page may write only to what it made itself, in your own account: choose a new name",
}
OTHERWISE = "*Save* keeps the work as a file, which `rewriter publish USER/NAME FILE` publishes from your own machine."
LOG_IN = f"Log in first, with the button above. {OTHERWISE}"
NOBODY = (
    f"Nobody can log in on this page. {OTHERWISE} Or open the page on your own machine, where `hf auth login` is "
    "enough: `rewriter demo`."
)
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
HOW: dict[str, Any] = {**PRIVATE, "concurrency_id": "publish", "concurrency_limit": 4}
DRAWN = 64 << 20  # bytes of pictures that need not be drawn again
PROGRESS = gr.Progress()  # Gradio wants it as a default


class Publisher:
    """Layout, then what its buttons do; `login`: whether people can log in here."""

    def __init__(self, demo: gr.Blocks, lane: Lane, visitor: gr.State, *, login: bool = LOGIN) -> None:
        quiet()
        self.demo, self.lane, self.visitor, self.login = demo, lane, visitor, login
        self.drawn = Cache(DRAWN)
        with gr.Accordion("Publish it, or open what others published", open=False, elem_id="publisher") as self.panel:
            gr.Markdown(
                "A published generator has a page of its own on Hugging Face; anybody loads it with one line of Python "
                "or opens it here. It keeps the licence of its base."
            )
            with gr.Row():
                if login:
                    gr.LoginButton(elem_id="login", size="md")
                if os.environ.get("SPACE_ID"):
                    gr.DuplicateButton("Duplicate this Space", size="md")
            with gr.Row():
                self.name = gr.Textbox(label="Name, in your account", max_length=80, elem_id="publish-name")
                self.description = gr.Textbox(
                    label="Description", lines=2, max_length=DESCRIPTION, elem_id="publish-description"
                )
            with gr.Row():
                self.private = gr.Checkbox(True, label="Private: only you see it", elem_id="publish-private")
                self.rules_only = gr.Checkbox(
                    label="Rules only: the base is fetched from where it lives", elem_id="publish-rules-only"
                )
            with gr.Row():
                self.look = gr.Button("Preview", size="md", elem_id="publish-preview")
                self.send = gr.Button("Publish", size="md", variant="primary", elem_id="publish")
            self.said = gr.Markdown(elem_id="published")
            with gr.Accordion("What is sent", open=False, visible=False) as self.preview:
                self.files, self.card = gr.Markdown(elem_id="publish-files"), gr.Markdown(elem_id="publish-card")
            with gr.Row():
                self.list = gr.Button("What was published for everybody", size="sm", elem_id="list-published")
            self.listed = gr.Markdown(elem_id="listed")
        self._wire()

    def _wire(self) -> None:
        if self.login:  # who comes back from logging in goes on where they were
            self.demo.load(self.returned, None, self.panel, show_progress="hidden", **PRIVATE)
        given = [self.visitor, self.name, self.description, self.rules_only]
        shown = [self.preview, self.files, self.card, self.said]
        how = {"show_progress_on": self.said, **HOW}
        looking = self.look.click(self.previewed, given, shown, **how)
        told = [self.said, self.preview]
        self.send.click(self.publish, [*given, self.private], told, cancels=[looking], **how)
        self.list.click(self.published, None, self.listed, **HOW)

    def returned(self, profile: gr.OAuthProfile | None) -> Any:
        """The panel, open for people who are logged in."""
        return gr.Accordion(open=True) if profile else gr.skip()

    def previewed(
        self,
        visitor: Visitor,
        name: str,
        description: str,
        rules_only: bool,
        request: gr.Request,
        profile: gr.OAuthProfile | None,
        token: gr.OAuthToken | None,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[Any]:
        """The card and the files with their sizes; nothing is sent."""
        yield [gr.Accordion(visible=False), "", "", "Looking at what would be sent …"]
        account = "you"
        with suppress(InputError):
            account = self._client(request, profile, token)[0]
        try:
            made, paths = self._written(visitor, account, name, description, rules_only)
            made = yield from self._drawn(visitor, made, paths, progress)
        except gr.Error as error:
            yield [gr.skip(), "", "", error.message]
            raise
        total = sum(made.sizes.values())
        rows = "\n".join(f"| `{path}` | {size / 1000:,.1f} kB |" for path, size in made.sizes.items())
        files = f"**{made.repo_id}**, {total / 1e6:.1f} MB\n\n| file | size |\n| --- | ---: |\n{rows}"
        text = made.card.split("\n---\n", 1)[1]
        for path, data in made.files.items():
            if path.endswith(".png"):
                text = text.replace(f"]({path})", f"]({data_url(data, 'image/png')})")
        yield [gr.Accordion(visible=True, open=True), files, text, "Nothing is sent until you press *Publish*."]

    def publish(
        self,
        visitor: Visitor,
        name: str,
        description: str,
        rules_only: bool,
        private: bool,
        request: gr.Request,
        profile: gr.OAuthProfile | None,
        token: gr.OAuthToken | None,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[Any]:
        """Publish in the visitor's account; says where it is, or why it is not there."""
        yield ["Publishing …", gr.Accordion(visible=False)]
        try:
            with failing("publishing"):
                account, api = self._client(request, profile, token)
            made, paths = self._written(visitor, account, name, description, rules_only)
            with failing("publishing"):
                publish.target(made.repo_id, api, private=private, advice=ADVICE).find()
            made = yield from self._drawn(visitor, made, paths, progress)
            yield [self._sent(visitor, made, api, private, rules_only, partial(progress, 0.9)), gr.skip()]
        except gr.Error as error:
            yield [f"**Not published**: {error.message}", gr.skip()]
            raise

    def _sent(
        self, visitor: Visitor, made: Draft, api: HfApi, private: bool, rules_only: bool, tell: Callable[..., Any]
    ) -> str:
        """What became of it, for the page."""
        with failing("publishing"):
            about = json.loads(made.files[store.CONFIG])
            if not rules_only:
                write = partial(self._write_weights, visitor.generator, about["fingerprint"])
                made = replace(made, later={store.WEIGHTS: write})
            to = publish.target(made.repo_id, api, private=private, advice=ADVICE)
            done = publish.send(made, to, on_status=lambda words: tell(desc=words))
        what = "Published" if done.changed else "It was there already"
        seen = f"only you see it: `rewriter demo --generator {made.repo_id}` opens it on your own machine"
        if not done.private:
            seen = "everybody can open it"
            here = about["base"] and about["base"]["id"] in self.lane.studio.names
            seen += f"; [this link](?model={made.repo_id}) does so here" if here else ""
        if done.removed:
            seen += f"; removed: {', '.join(done.removed)}"
        return (
            f"**{what}**: [{made.repo_id}]({done.url}), {seen}.\n\n"
            f'```python\nimport rewriter\ngenerator = rewriter.load_generator("{made.repo_id}")\n```'
        )

    def published(self) -> str:
        """What everybody may open, as links that open it here."""
        with failing("listing"):
            found = listed(token=False)
        lines = [
            f"- [{plain(one.repo_id)}](?model={one.repo_id}): of {plain(one.base)}, {one.modified}" for one in found
        ]
        return "\n".join(lines) or "Nobody has published one for everybody yet."

    def _written(
        self, visitor: Visitor, account: str, name: str, description: str, rules_only: bool
    ) -> tuple[Draft, list[str]]:
        """The draft less its weights and pictures, and the paths of these."""
        with failing("fetching the licence"):
            licences.text_of(
                self.lane.studio.origin(visitor.generator)
            )  # so that nobody waits for the network in the lane
        shown = self.lane.call("draft", visitor, account, name, description, not rules_only)
        return shown["draft"], shown["pictures"]

    def _drawn(
        self, visitor: Visitor, made: Draft, paths: Sequence[str], progress: Callable[..., Any]
    ) -> Generator[Any, None, Draft]:
        """The draft with its pictures: one by one, in turn with everybody's work; once for preview and publishing."""
        rules = hashlib.sha256(b"".join(data for path, data in made.files.items() if path.startswith("rules/")))
        pictures: dict[str, bytes] = {}
        for which, path in enumerate(paths):
            key = rules.digest(), path
            if (found := self.drawn.peek(key)) is None:
                for news in self.lane.follow("compare", visitor, which):
                    yield gr.skip()  # here whoever has left is noticed
                    if isinstance(news, dict):
                        found = news["picture"]
                    else:
                        progress(0.8 * (which + news[0]) / len(paths), desc=news[1])
                self.drawn.put(key, found)
            pictures[path] = found
        return made.with_files(pictures)

    def _write_weights(self, base: str, fingerprint: str, path: Path) -> None:
        """On the CPU and anew: what is on the GPU belongs to its worker. InputError if it has changed meanwhile."""
        generator = self.lane.studio.source(base).load(device="cpu")
        if generator.fingerprint != fingerprint:
            raise InputError(f"{base} is not what it was when the page was opened: load the page again")
        store.write_weights(generator, path)

    def _client(
        self, request: gr.Request, profile: gr.OAuthProfile | None, token: gr.OAuthToken | None
    ) -> tuple[str, HfApi]:
        """The visitor's account, and a client that acts for them."""
        api = connect(self._token(request, token))
        if profile is not None and not _mocked(token):
            return profile.username, api
        with in_words("see whose token this is", api):
            return str(api.whoami()["name"]), api

    def _token(self, request: gr.Request, token: gr.OAuthToken | None) -> str:
        """The visitor's own; InputError, with what else they can do, if there is none."""
        if token is not None and token.token and not _mocked(token):
            if not _same_origin(request):
                raise InputError("another page than this one asked for it: nothing was published")
            return token.token
        if not SHARED and _at_this_machine(request) and (own := get_token()):
            return own
        if self.login:
            raise InputError(LOG_IN)
        if not SHARED and _at_this_machine(request):
            raise InputError(f"log in first, on this machine: `hf auth login`, or set HF_TOKEN. {OTHERWISE}")
        raise InputError(NOBODY)


def _mocked(token: gr.OAuthToken | None) -> bool:
    """Gradio's login outside a Space gives everybody the same token, which is none."""
    return not SHARED and token is not None and token.token.startswith("mock-oauth-token")


def _same_origin(request: gr.Request) -> bool:
    """Whether it is this page that asks, and not another site with the visitor's cookies."""
    asking = urlsplit(request.headers.get("origin") or "").netloc
    return bool(asking) and asking in (request.headers.get("host"), os.environ.get("SPACE_HOST"))


def _at_this_machine(request: gr.Request) -> bool:
    """Whether the page itself is open on the machine that serves it: no tunnel, and no script of another site."""
    host, origin = request.headers.get("host") or "", request.headers.get("origin")
    client = request.client.host if request.client else ""
    if any(name in request.headers for name in PASSED_ON) or origin != f"http://{host}":
        return False
    try:
        return host.rsplit(":", 1)[0] in HERE and ip_address(client).is_loopback
    except ValueError:
        return False
