"""Requests to the Hugging Face Hub: who makes them, and what goes wrong in words that tell what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import disable_progress_bars

from rewriter.errors import InputError, RewriterError

try:
    from huggingface_hub.utils import httpx
except ImportError:  # before 2.0
    import httpx  # type: ignore[no-redef]

TRANSPORT: type[Exception] = httpx.TransportError  # a connection that fails, breaks off or takes too long
LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)"
AGAIN = "then run the same again: nothing that has arrived is sent twice"
NEXT_STEPS = {  # by status
    400: "the Hub rejected the request: check the names and values that you gave",
    401: f"the token is not valid, or has expired: {LOG_IN}",
    402: "this needs a paid plan",
    403: f"this account or its token may not do that: ask the owner, or {LOG_IN}",
    404: "there is no such user, organisation or repository, or the token may not see it: check the name",
    409: "something else has this name, or is being changed: choose another name, or try again",
    412: "somebody committed at the same time, and nothing was changed: run the same again",
    413: "this is more than the account may store",
    429: "too many requests: wait some minutes, then run the same again",
}
NAME = re.compile(r"(?=.{3,96}$)\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
LINE = 300  # characters of somebody else's words in one of our messages


def is_name(repo_id: str) -> bool:
    """Whether this can be the full name of a repository: USER/NAME or ORGANISATION/NAME."""
    good = NAME.fullmatch(repo_id) and "--" not in repo_id and ".." not in repo_id
    return bool(good) and not repo_id.endswith(".git")


def check_name(repo_id: str) -> None:
    """Raise InputError unless `repo_id` can be the full name of a repository."""
    if not is_name(repo_id):
        raise InputError(
            f"{_line(repo_id)!r} is no name on the Hub: write USER/NAME, such as ada/rewriter, of at most 96 letters, "
            "digits, '-', '_' and '.'"
        )


def connect(token: str | None = None, *, endpoint: str | None = None) -> HfApi:
    """A client that acts for somebody, by default whoever is logged in here; InputError if there is no valid token."""
    with in_words("log in", HfApi(endpoint=endpoint, token=token)):
        token = token or get_token()
    if not token:
        raise InputError(f"nobody is logged in to Hugging Face: {LOG_IN}")
    check_token(token)
    return HfApi(endpoint=endpoint, token=token, library_name="rewriter")


def check_token(token: str) -> None:
    """Raise InputError for a text that cannot be a token; the message does not repeat it."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(f"the token for Hugging Face has characters that no token has: {LOG_IN}")


def quiet(*, bars: bool = False) -> None:
    """Silence the Hub client's warnings, and its progress bars unless `bars`."""
    if not bars:
        disable_progress_bars()
    logging.set_verbosity_error()


@contextmanager
def in_words(doing: str, api: HfApi, advice: Mapping[int, str] | None = None) -> Iterator[None]:
    """Turn whatever the Hub's client raises into an InputError: what was tried, what came back, what to do next.

    `doing` follows "cannot" in the message, the client's token appears in none, and `advice` has next steps by status
    that fit better than the general ones.
    """
    try:
        yield
    except RewriterError:
        raise
    except Exception as error:  # the client passes on errors of HTTP, JSON, files and threads
        said = f"cannot {doing}: {_reason(error, api.endpoint, {**NEXT_STEPS, **(advice or {})})}"
        secret = _secret(api)
        raise InputError(said.replace(secret, "***") if secret else said) from error


def _secret(api: HfApi) -> str:
    """The token that a client sends."""
    if isinstance(api.token, str) or api.token is False:
        return api.token or ""
    with suppress(OSError, ValueError):
        return get_token() or ""
    return ""


def _reason(error: BaseException, endpoint: str, advice: Mapping[int, str]) -> str:
    causes = list(_causes(error))
    answer = next((each for each in causes if isinstance(each, HfHubHTTPError)), None)
    if answer is not None:
        status, said = answer.response.status_code, _line(answer.server_message or "")
        if status == 403 and "storage" in said.lower():  # the Hub's answer when an account is full
            status = 413
        trouble = f"the Hub itself has a problem: wait some minutes, {AGAIN}"
        next_step = advice.get(status, trouble if status >= 500 else "see what it says")
        return f"the Hub answered {answer.response.status_code}{said and f' ({said})'}; {next_step}"
    if any(isinstance(each, OfflineModeIsEnabled) for each in causes):
        return "HF_HUB_OFFLINE is set, which forbids network access: unset it"
    if isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
        said = f"{endpoint} does not answer as the Hub does ({_line(str(error))})"
        return f"{said}; check HF_ENDPOINT and proxies, {AGAIN}"
    said = _line(str(causes[-1])) or type(causes[-1]).__name__
    return f"the connection to {endpoint} failed ({said}); check the network, {AGAIN}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that it comes from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LINE else f"{words[:LINE]} …"
