"""Talking with the Hugging Face Hub: who asks, and what goes wrong in words that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import disable_progress_bars

from rewriter.errors import InputError, RewriterError

try:
    from huggingface_hub.utils import httpx
except ImportError:  # before 2.0
    import httpx  # type: ignore[no-redef]

Info = TypeVar("Info")
TRANSPORT: type[Exception] = httpx.TransportError  # a connection that is not made, breaks off or takes too long
LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)"
AGAIN = "then run the same again: nothing that has arrived is sent twice"
NEXT = {
    400: "it takes no such request: change what it names",
    401: f"the token is not valid, or not any more: {LOG_IN}",
    402: "this needs a paid plan",
    403: f"this account or its token may not do that: ask the owner, or {LOG_IN}",
    404: "there is no such user, organisation or repository, or the token may not see it: check the name",
    409: "something else goes by this name, or is being done to it: choose another name, or try again",
    412: "somebody committed in the meantime, and nothing was changed: run the same again",
    413: "this is more than the account's storage holds",
    429: "too many requests: wait some minutes, then run the same again",
}
NAME = re.compile(r"(?=.{3,96}$)\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
SAID = 300  # characters of what others say that fit into one clear line


def is_name(repo_id: str) -> bool:
    """Whether this can be the whole name of a repository: USER/NAME or ORGANISATION/NAME."""
    good = NAME.fullmatch(repo_id) and "--" not in repo_id and ".." not in repo_id
    return bool(good) and not repo_id.endswith(".git")


def check_name(repo_id: str) -> None:
    """Raise InputError unless `repo_id` can be the whole name of a repository."""
    if not is_name(repo_id):
        raise InputError(
            f"{_line(repo_id)!r} is no name on the Hub: write USER/NAME, such as ada/rewriter, of at most 96 letters, "
            "digits, '-', '_' and '.'"
        )


def connect(token: str | None = None, *, endpoint: str | None = None) -> HfApi:
    """A client that acts for somebody.

    Args:
        token: None: the one in HF_TOKEN, or of `hf auth login`.
        endpoint: None: the one in HF_ENDPOINT, or Hugging Face itself.

    Raises:
        InputError: there is no token, or what is there cannot be one.
    """
    with in_words("log in", HfApi(endpoint=endpoint, token=token)):
        token = token or get_token()
    if not token:
        raise InputError(f"nobody is logged in to Hugging Face: {LOG_IN}")
    check_token(token)
    return HfApi(endpoint=endpoint, token=token, library_name="rewriter")


def check_token(token: str) -> None:
    """Raise InputError, without its text, for a token that cannot be one."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"the token for Hugging Face has characters that no token has: {LOG_IN}")


@contextmanager
def in_words(doing: str, api: HfApi, advice: Mapping[int, str] | None = None) -> Iterator[None]:
    """Turn whatever the client raises into one line: what was being done, what came back, what to do next.

    Args:
        doing: what is asked for, after "cannot".
        api: who asks, and where; its token appears in no message.
        advice: what to do next by status, where that is known better than in general.

    Raises:
        InputError: the request failed.
    """
    try:
        yield
    except RewriterError:
        raise
    except Exception as error:  # HTTP, JSON, the file system, threads of uploads: the client lets all of it through
        said = f"cannot {doing}: {_reason(error, api.endpoint, {**NEXT, **(advice or {})})}"
        secret = _secret(api)
        raise InputError(said.replace(secret, "***") if secret else said) from error


def _secret(api: HfApi) -> str:
    """The token that a client sends."""
    if isinstance(api.token, str) or api.token is False:
        return api.token or ""
    with suppress(OSError, ValueError):
        return get_token() or ""
    return ""


def quiet(*, bars: bool = False) -> None:
    """Keep the client's warnings, many lines for each attempt, and its progress bars from the terminal and the log.

    bars: leave these, for somebody who watches.
    """
    if not bars:
        disable_progress_bars()
    logging.set_verbosity_error()


def look(ask: Callable[[str], Info], api: HfApi, repo_id: str, advice: Mapping[int, str] | None = None) -> Info | None:
    """What the Hub says of a repository, asked by a method of the client; None if there is none.

    Raises:
        InputError: whatever else goes wrong; see `in_words`.
    """
    with in_words(f"look at {repo_id}", api, advice):
        try:
            return ask(repo_id)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
    return None


def check_private(repo_id: str, now: bool | None, wanted: bool | None) -> None:
    """Raise InputError where a repository is for other eyes than is wanted; None: not known, or all the same."""
    if None not in (now, wanted) and now != wanted:
        is_now, should = ("private", "public") if now else ("public", "private")
        raise InputError(f"{repo_id} is {is_now}: make it {should} in its settings on the Hub, and run the same again")


def _reason(error: BaseException, endpoint: str, advice: Mapping[int, str]) -> str:
    chain = list(_chain(error))
    answer = next((each for each in chain if isinstance(each, HfHubHTTPError)), None)
    if answer is not None:
        status, said = answer.response.status_code, _line(answer.server_message or "")
        if status == 403 and "storage" in said.lower():  # how it says that there is no room
            status = 413
        trouble = f"the Hub has trouble of its own: wait some minutes, {AGAIN}"
        what_next = advice.get(status, trouble if status >= 500 else "see what it says")
        return f"the Hub answered {answer.response.status_code}{said and f' ({said})'}; {what_next}"
    if any(isinstance(each, OfflineModeIsEnabled) for each in chain):
        return "HF_HUB_OFFLINE is set, and keeps the client from the network: unset it"
    if isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
        said = f"{endpoint} does not answer as the Hub does ({_line(str(error))})"
        return f"{said}; check HF_ENDPOINT and proxies, {AGAIN}"
    said = _line(str(chain[-1])) or type(chain[-1]).__name__
    return f"talking with {endpoint} failed ({said}); check the network, {AGAIN}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SAID else f"{words[:SAID]} …"
