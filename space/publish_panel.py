"""The panel in which rewritten generators are published, found and opened.

A visitor publishes with their own token only: on a Space, the one of their login; on their own machine, that of
`hf auth login`, in the browser that this machine opened: it alone knows a secret. The token is passed to the Hub's
client and stored nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from huggingface_hub import HfApi, get_token

from received import from_record
from rewriter.cache import Cache
from rewriter.checkpoints import store
from rewriter.checkpoints.client import connect, in_words, quiet
from rewriter.checkpoints.config import CONFIG, WEIGHTS
from rewriter.errors import InputError
from rewriter.hub import licences
from rewriter.hub.browse import listed
from rewriter.hub.draft import DESCRIPTION, Draft
from rewriter.hub.publish import ADVICE, send, target
from rewriter.hub.upload import Target
from rewriter.pictures import data_url
from rewriter.serving.records import Records
from state import Visitor
from style import PRIVATE, PROGRESS
from view import escape_markdown
from work_queue import ON_SPACE, WorkQueue, errors_shown

LOGIN = bool(os.environ.get("OAUTH_CLIENT_ID"))  # set on a Space that lets people log in
PAGE_ADVICE = {
    **ADVICE,
    401: "your login has expired: log out and in again",
    403: "this page may write only to repositories in your account that it made itself: choose a new name",
}
OTHERWISE = "To publish from your own machine, press *Save session* and run `rewriter publish USER/NAME FILE` with it."
LOG_IN = f"Log in first, with the button above. {OTHERWISE}"
NO_LOGIN = (
    f"This page has no login. {OTHERWISE} Or run it on your own machine: `hf auth login`, then `rewriter demo`, and "
    "open the link that it prints."
)
OPTIONS: dict[str, Any] = {**PRIVATE, "concurrency_id": "publish", "concurrency_limit": 4}
DRAWN = 64 << 20  # bytes of pictures in the cache
SENT = "(sent, ...form) => [{ record: window.rewriter.record(), here: window.rewriter.here() }, ...form]"
Filled = tuple[Any, str, str, bool, bool]  # see `PublishPanel._form`
Profile = gr.OAuthProfile | None
Token = gr.OAuthToken | None


@dataclass(frozen=True)
class Form:
    """What is filled in; `here`: whether the browser was opened by this machine."""

    visitor: Visitor
    here: bool
    name: str
    description: str
    rules_only: bool
    private: bool


def pressed(run: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """What a button does with what is filled in, as Gradio calls it: by position, and what it knows by its type."""

    def press(
        sent: Any,
        name: str,
        description: str,
        rules_only: bool,
        private: bool,
        request: gr.Request,
        profile: Profile,
        token: Token,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[Any]:
        yield from run((sent, name, description, rules_only, private), request, profile, token, progress)

    return press


class PublishPanel:
    """The panel's layout, then what its buttons do.

    `login`: whether people can log in here; `here`: what only a browser knows that this machine opened, or "".
    """

    def __init__(
        self, demo: gr.Blocks, queue: WorkQueue, records: Records, *, login: bool = LOGIN, here: str = ""
    ) -> None:
        quiet()
        self.queue, self.records, self.login, self.here, self.drawn = queue, records, login, here, Cache(DRAWN)
        with gr.Accordion("Publish, or open what others published", open=False, elem_id="publisher") as self.panel:
            gr.Markdown(
                "A published generator has its own page on Hugging Face. Anybody loads it with one line of Python, or "
                "opens it here. It keeps the licence of its base."
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
                self.private = gr.Checkbox(True, label="Private: only you can see it", elem_id="publish-private")
                self.rules_only = gr.Checkbox(
                    label="Rules only: the base is downloaded from its own source", elem_id="publish-rules-only"
                )
            with gr.Row():
                self.preview = gr.Button("Preview", size="md", elem_id="publish-preview")
                self.publish = gr.Button("Publish", size="md", variant="primary", elem_id="publish")
            self.status = gr.Markdown(elem_id="published")
            self.sent = gr.JSON(visible=False)  # the record, and what proves that this machine opened the browser
            with gr.Accordion("Files and card", open=False, visible=False) as self.draft:
                self.files, self.card = gr.Markdown(elem_id="publish-files"), gr.Markdown(elem_id="publish-card")
            self.list = gr.Button("List published generators", size="sm", elem_id="list-published")
            self.listed = gr.Markdown(elem_id="listed")
        self._wire(demo)

    def _wire(self, demo: gr.Blocks) -> None:
        if self.login:  # open again when the visitor returns from logging in
            demo.load(self.returned, None, self.panel, show_progress="hidden", **PRIVATE)
        form = [self.sent, self.name, self.description, self.rules_only, self.private]
        options = {"show_progress_on": self.status, "js": SENT, **OPTIONS}
        shown = [self.draft, self.files, self.card, self.status]
        previewing = self.preview.click(pressed(self.on_preview), form, shown, **options)
        self.publish.click(pressed(self.on_publish), form, [self.status, self.draft], cancels=[previewing], **options)
        self.list.click(self.on_list, None, self.listed, **OPTIONS)

    def returned(self, profile: Profile) -> Any:
        """Open the panel for people who are logged in."""
        return gr.Accordion(open=True) if profile else gr.skip()

    def on_preview(
        self, filled: Filled, request: gr.Request, profile: Profile, token: Token, progress: gr.Progress = PROGRESS
    ) -> Iterator[Any]:
        """Show the card, and the files with their sizes; nothing is sent."""
        yield [gr.Accordion(visible=False), "", "", "Preparing the preview …"]
        account = "you"
        try:
            form = self._form(*filled)
            with suppress(InputError):
                account = self._client(form, request, profile, token)[0]
            draft = yield from self._draft(form, account, progress)
        except gr.Error as error:
            yield [gr.skip(), "", "", error.message]
            return
        rows = "\n".join(f"| `{path}` | {size / 1000:,.1f} kB |" for path, size in draft.sizes.items())
        total = sum(draft.sizes.values()) / 1e6
        files = f"**{draft.repo_id}**, {total:.1f} MB\n\n| file | size |\n| --- | ---: |\n{rows}"
        card = draft.card.split("\n---\n", 1)[1]
        for path, data in draft.files.items():
            if path.endswith(".png"):
                card = card.replace(f"]({path})", f"]({data_url(data, 'image/png')})")
        yield [gr.Accordion(visible=True, open=True), files, card, "Nothing is sent until you press *Publish*."]

    def on_publish(
        self, filled: Filled, request: gr.Request, profile: Profile, token: Token, progress: gr.Progress = PROGRESS
    ) -> Iterator[Any]:
        """Publish in the visitor's account; show where it is, or why it failed."""
        yield ["Publishing …", gr.Accordion(visible=False)]
        try:
            form = self._form(*filled)
            with errors_shown("publishing"):
                account, api = self._client(form, request, profile, token)
            there = partial(target, api=api, private=form.private, advice=PAGE_ADVICE)
            draft = yield from self._draft(form, account, progress, lambda repo_id: there(repo_id).find())
            yield [self._send(form, draft, there(draft.repo_id), partial(progress, 0.9)), gr.skip()]
        except gr.Error as error:
            yield [f"**Not published**: {error.message}", gr.skip()]

    def on_list(self) -> str:
        """Every public generator, with a link that opens it here."""
        with errors_shown("listing"):
            found = listed(token=False)
        lines = [
            f"- [{escape_markdown(one.repo_id)}](?model={one.repo_id}): of {escape_markdown(one.base)}, {one.modified}"
            for one in found
        ]
        return "\n".join(lines) or "Nobody has published a generator yet."

    def _send(self, form: Form, draft: Draft, to: Target, progress: Callable[..., Any]) -> str:
        """Send a draft; the result as text for the page."""
        with errors_shown("publishing"):
            config = json.loads(draft.files[CONFIG])
            if not form.rules_only:
                write = partial(self._write_weights, form.visitor.generator, config["fingerprint"])
                draft = replace(draft, later={WEIGHTS: write})
            done = send(draft, to, on_status=lambda words: progress(desc=words))
        if done.private:
            access = f"only you can see it: `rewriter demo --generator {draft.repo_id}` opens it on your own machine"
        else:
            access = "everybody can open it"
            if config["base"] and config["base"]["id"] in self.queue.shared.names:
                access += f"; [this link](?model={draft.repo_id}) opens it here"
        removed = f"; removed: {', '.join(done.removed)}" if done.removed else ""
        return (
            f"**{'Published' if done.changed else 'It was published already'}**: [{draft.repo_id}]({done.url}), "
            f"{access}{removed}.\n\n"
            f'```python\nimport rewriter\ngenerator = rewriter.load_generator("{draft.repo_id}")\n```'
        )

    def _draft(
        self, form: Form, account: str, progress: Callable[..., Any], check: Callable[[str], object] = lambda name: None
    ) -> Generator[Any, None, Draft]:
        """A draft without weights; once its name is checked, its pictures are drawn one by one, and kept."""
        visitor, weights = form.visitor, not form.rules_only
        with errors_shown("fetching the licence"):  # here, so that the queue never waits for the network
            licences.text_of(self.queue.shared.origin(visitor.generator))
        shown = self.queue.call("draft", visitor, account, form.name, form.description, weights)
        draft = shown["draft"]
        with errors_shown("publishing"):
            check(draft.repo_id)
        rules = hashlib.sha256(b"".join(data for path, data in draft.files.items() if path.startswith("rules/")))
        pictures: dict[str, bytes] = {}
        for which, path in enumerate(shown["pictures"]):
            key = rules.digest(), path
            if (drawn := self.drawn.peek(key)) is None:
                for one in self.queue.follow("compare", visitor, which):
                    yield gr.skip()  # lets Gradio notice that the tab was closed
                    if isinstance(one, dict):
                        drawn = one["picture"]
                    else:
                        progress(0.8 * (which + one[0]) / len(shown["pictures"]), desc=one[1])
                self.drawn.put(key, drawn)
            pictures[path] = drawn
        return draft.with_files(pictures)

    def _write_weights(self, base: str, fingerprint: str, path: Path) -> None:
        """Write the base's weights, loaded anew on the CPU because the GPU belongs to its worker.

        Raises:
            InputError: the base has changed since the page loaded it.
        """
        generator = self.queue.shared.source(base).load(device="cpu")
        if generator.fingerprint != fingerprint:
            raise InputError(f"{base} has changed since this page was opened: load the page again")
        store.write_weights(generator, path)

    def _form(self, sent: Any, name: str, description: str, rules_only: bool, private: bool) -> Form:
        """What is filled in; gr.Error if the browser's record of the work cannot be read."""
        sent = sent if isinstance(sent, dict) else {}
        with errors_shown("publishing"):
            if not sent.get("record"):
                raise InputError("there is no rule to publish yet: execute an edit first")
            text, ours = self.records.read(f"{sent['record']}")
            visitor = from_record(text, ours=ours)
        here = bool(self.here) and compare_digest(f"{sent.get('here', '')}".encode(), self.here.encode())
        return Form(visitor, here, f"{name or ''}", f"{description or ''}", bool(rules_only), bool(private))

    def _client(self, form: Form, request: gr.Request, profile: Profile, token: Token) -> tuple[str, HfApi]:
        """The visitor's account, and a client that acts for them."""
        api = connect(own_token(request, token, login=self.login, here=form.here))
        if profile is not None and not _is_mock(token):
            return profile.username, api
        with in_words("see whose token this is", api):
            return str(api.whoami()["name"]), api


def own_token(request: gr.Request, token: Token, *, login: bool, here: bool = False) -> str:
    """The visitor's own token.

    `login`: whether the page has a login; `here`: whether this machine opened the browser, whose token is used then.

    Raises:
        InputError: there is none, or another site asks for it; says what else the visitor can do.
    """
    if token is not None and token.token and not _is_mock(token):
        if not _is_same_origin(request):
            raise InputError("the request came from another page: nothing was published")
        return token.token
    if here and (own := get_token()):
        return own
    if login:
        raise InputError(LOG_IN)
    if here:
        raise InputError(f"log in first, on this machine: `hf auth login`, or set HF_TOKEN. {OTHERWISE}")
    raise InputError(NO_LOGIN)


def _is_mock(token: Token) -> bool:
    """Whether this is the useless token that Gradio's login gives to everybody outside of a Space."""
    return not ON_SPACE and token is not None and token.token.startswith("mock-oauth-token")


def _is_same_origin(request: gr.Request) -> bool:
    """Whether this page sent the request, and not another site with the visitor's cookies."""
    origin = urlsplit(request.headers.get("origin") or "").netloc
    return bool(origin) and origin in (request.headers.get("host"), os.environ.get("SPACE_HOST"))
