"""Commands that open the page: `demo` on this machine, `deploy` as a Hugging Face Space."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Annotated, Any

import typer

from rewriter.checkpoints.client import check_name, quiet
from rewriter.cli import common
from rewriter.editing.rule import Rule
from rewriter.errors import InputError
from rewriter.hub import gallery, space
from rewriter.hub.draft import base_of
from rewriter.hub.upload import Uploaded

MOST_PORT, MOST_WORKERS = 65535, 64
HARDWARE = (
    f"Such as cpu-basic, if you have a paid plan. Default: unchanged; for a new Space {space.FREE} (ZeroGPU), on which "
    "a free personal account may have two Gradio Spaces, while plain CPU needs a plan."
)
RESOLVED = 1.5  # seconds in which a host's name must be found: that of this machine is found at once


def demo(
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0: reachable from other machines.")] = "127.0.0.1",
    generator: Annotated[list[str] | None, typer.Option(help="A checkpoint or USER/NAME to offer; repeatable.")] = None,
    login: Annotated[
        bool, typer.Option("--login", help="Show a Space's login button; it logs in as this machine's account.")
    ] = False,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Serve the steps as MCP tools too, in one session that all MCP clients share.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes that do the work, each on the next GPU if there are any. Default: 1.")
    ] = None,
    browser: Annotated[
        bool | None, typer.Option("--browser/--no-browser", help="Default: open it if there is a screen.")
    ] = None,
) -> None:
    """Open the page in which rules are rewritten with a brush; stop it with Ctrl-C."""
    _check_address(host, port)
    if workers is not None and not 0 <= workers <= MOST_WORKERS:
        raise InputError(f"--workers {workers}: choose 1 to {MOST_WORKERS}, or 0 to work in the server's own process")
    if browser is None:
        browser = sys.stdout.isatty() and (sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY")))
    sys.path.insert(0, str(space.page_folder()))
    options = {"server_port": port, "server_name": host}
    import_module("app").main(generator or [], mcp=mcp, login=login, workers=workers, browser=browser, **options)


def _check_address(host: str, port: int | None) -> None:
    """Raise InputError, before anything is loaded, for a port or host that the page cannot be served at."""
    if port is not None and not 1 <= port <= MOST_PORT:
        raise InputError(f"there is no port {port}: choose one from 1024 to {MOST_PORT}, or leave --port out")
    try:
        where = _found(host, port or 0)
        with socket.socket(*where[:3]) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(where[4])
    except (OSError, UnicodeError) as error:
        at = host if port is None else f"{host}, port {port}"
        advice = "use 127.0.0.1 or 0.0.0.0 as --host, and a free port or none"
        raise InputError(f"the page cannot be opened at {at} ({error}): {advice}") from error


def _found(host: str, port: int) -> Any:
    """What `socket.getaddrinfo` says first of an address or name; OSError if that takes longer than `RESOLVED`."""
    find = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if ":" in host or re.fullmatch(r"[\d.]+", host):  # an address, or no name that a server could be asked about
        return find(flags=socket.AI_NUMERICHOST)[0]
    found: Queue[Any] = Queue()

    def resolve() -> None:
        try:
            found.put(find()[0])
        except (OSError, UnicodeError) as error:
            found.put(error)

    Thread(target=resolve, daemon=True).start()  # there is no other way to stop waiting for a name server
    try:
        first = found.get(timeout=RESOLVED)
    except Empty:
        raise OSError(f"no name server knew it within {RESOLVED:g} s") from None
    if isinstance(first, Exception):
        raise first
    return first


def deploy(
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="The Space: your account or organisation, a name.")],
    shown: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REPO …]",
            help="With --static: USER/NAME, folders or rule files; default: all that USER published.",
        ),
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="A gallery of published generators, as pages that need no server: free.")
    ] = False,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Default: public.")] = None,
    hardware: Annotated[str | None, typer.Option(help=HARDWARE)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files only; nothing is sent.")] = False,
    as_json: common.Json = False,
) -> None:
    """Create or update your Space on Hugging Face with the page, or with a gallery (--static).

    The page and this package are sent in one commit, so a failure changes nothing and you can always run this again.
    Anything in rewriter/, and any Python file beside app.py, that this version does not contain is deleted, even if
    you added it; of a gallery, what is in generators/. Your other files stay. A Space that holds something else is not
    touched.

    Log in first with `hf auth login`, or set HF_TOKEN to a token that may write to your Spaces.
    """
    check_name(name)
    if static and hardware or shown and not static:
        wrong = "--hardware is for the page, not" if static else "what to show is named for a gallery only: add"
        raise InputError(f"{wrong} --static")
    quiet()
    if static:
        made = gallery.files(name, _shown(name, shown or [], as_json))
        contents: Mapping[str, bytes | Path] = made
        send = partial(gallery.deploy, contents=made)
    else:
        contents, send = space.files(), partial(space.deploy, hardware=hardware)
    sizes = {path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in contents.items()}
    total = sum(sizes.values())
    if dry_run:
        listed = "".join(f"{size:9,}  {path}\n" for path, size in sizes.items())
        words = f"{listed}{total:9,}  bytes in {len(sizes)} files would become the Space {name}"
        common.say(as_json, {"space": name, "files": sizes, "bytes": total}, words)
        return
    done = send(name, private=private, on_status=_status)
    data = {"space": name, **vars(done), "files": len(sizes), "bytes": total}
    soon = "It is there in a moment" if static else "It starts in some minutes"
    common.say(as_json, data, f"{name} is {_said(done)}. {soon}:\n{done.url}")


def _said(done: Uploaded) -> str:
    what = "created" if done.created else "updated" if done.changed else "up to date already"
    return what + (f"; removed {', '.join(done.removed)}" if done.removed else "")


def _status(words: str) -> None:
    typer.echo(f"{words} …", err=True)


def _shown(name: str, asked: list[str], as_json: bool) -> list[gallery.Shown]:
    """What a gallery shows: the repositories, folders and rule files asked for, or all that the account published."""
    if not asked:
        return gallery.by_account(name.split("/")[0], _status)
    shown = []
    for one in asked:
        path = Path(one)
        if path.is_dir():
            shown.append(gallery.in_folder(path))
        elif path.is_file():
            rule = Rule.load(path)
            shown.append(gallery.of_rule(common.load(base_of([rule]), None, as_json), rule, path.stem))
        else:
            _status(f"looking at {one}")
            shown.append(gallery.published(one))
    return shown
