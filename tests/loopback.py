"""A Hub on this machine: as much of its HTTP interface as the unmodified huggingface_hub client needs.

    with LoopbackHub({"hf_secret": Account("ada")}) as hub:
        subprocess.run(..., env={**os.environ, **hub.environment("hf_secret")})
        hub.repositories["space", "ada/demo"].files()

or `hub.adopt(monkeypatch, tmp_path, token)` for the client in the test's own process.

Repositories are kept in memory, with every commit and its files. Files larger than LARGE travel by LFS. `hub.requests`
lists what was asked, and `hub.fault` makes requests fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants, utils

LARGE = 1 << 20  # bytes, above which a file goes by LFS
LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "other", "unknown")
WHEN = "2026-01-01T00:00:00.000Z"
PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


class RefusedError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


@dataclass(frozen=True)
class Account:
    """Who a token speaks for, the organisations that they may write to, and whether the token may write at all."""

    name: str
    organisations: tuple[str, ...] = ()
    write: bool = True

    def may_write(self, repo_id: str) -> bool:
        return self.write and repo_id.split("/")[0] in (self.name, *self.organisations)


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    message: str
    files: Mapping[str, bytes]


@dataclass
class Repository:
    kind: str  # model, dataset or space
    id: str
    private: bool = False
    sdk: str | None = None
    hardware: str | None = None
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)  # in order
    refs: dict[str, str] = field(default_factory=dict)  # branches, tags and pull requests: name → commit

    def commit(self, files: Mapping[str, bytes], message: str, ref: str = "main") -> Commit:
        """Let a ref point to a new commit with exactly these files."""
        parent = self.refs.get(ref) or self.refs.get("main")
        said = repr((parent, message, len(self.commits), sorted((path, oid(data)) for path, data in files.items())))
        made = Commit(hashlib.sha1(said.encode()).hexdigest(), parent, message, dict(files))
        self.commits[made.oid] = made
        self.refs[ref] = made.oid
        return made

    def at(self, revision: str = "main") -> Commit:
        """The commit that a branch, a tag, a pull request or the beginning of a hash means."""
        found = [one for one in self.commits if len(revision) >= 7 and one.startswith(revision)]
        name = self.refs.get(revision) or (found[0] if found else None)
        if name is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[name]

    def files(self, revision: str = "main") -> Mapping[str, bytes]:
        return self.at(revision).files


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


# a status; "cut": unheard; "lost": done, and not answered; "half" an answer; "slow": piece by piece; none
Fault = int | str | Answer | None


def oid(data: bytes) -> str:
    """What git calls a file of this content; a large one goes by its SHA-256."""
    if len(data) > LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def json_answer(data: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(data).encode(), {"Content-Type": "application/json", **headers})


class LoopbackHub:
    """The server; a context manager. `fault(n, request)` says what becomes of the n-th request, counted from 1."""

    def __init__(self, accounts: Mapping[str, Account] | None = None) -> None:
        self.accounts = dict(accounts or {})
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.raw: dict[str, bytes] = {}  # files of other sites, at /raw/NAME
        self.requests: list[str] = []
        self.sent = 0  # bytes of bodies
        self.piece, self.pause = 1 << 16, 0.02  # bytes of a slow answer; seconds after each
        self.fault: Callable[[int, Request], Fault] = lambda n, request: None
        self._lock = Lock()

    def __enter__(self) -> LoopbackHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, token: str | None = None) -> dict[str, str]:
        """What a client needs in its environment before it is imported."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": token or "", "HF_HUB_DISABLE_XET": "1"}

    def adopt(self, monkeypatch: pytest.MonkeyPatch, folder: Path, token: str = "") -> None:
        """Let the client in this process talk to it as `token` says, not as the user, and try again without waiting."""
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        monkeypatch.setitem(utils.http_backoff.__kwdefaults__, "base_wait_time", 0)
        monkeypatch.setenv("HF_TOKEN", token)

    def add(self, kind: str, repo_id: str, files: Mapping[str, bytes] | None = None, **options: Any) -> Repository:
        """A repository that is there already; Hugging Face makes the first commit itself."""
        repository = self.repositories[kind, repo_id] = Repository(kind, repo_id, **options)
        first = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        if kind == "space":
            first["README.md"] = f"---\ntitle: {repo_id}\nsdk: {repository.sdk}\n---\n".encode()
        repository.commit({**first, **(files or {})}, "initial commit")
        return repository

    def answer(self, request: Request) -> tuple[Answer | None, Fault]:
        """What a request is answered, if it is, and its fault."""
        if request.path == "/api/agent-harnesses":  # the client asks that of its own accord, at most once a process
            return Answer(404), None
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
            fault = self.fault(len(self.requests), request)
            if fault == "cut":
                return None, fault
            if isinstance(fault, int):
                return Answer(fault, b"<html>no page of the Hub</html>"), fault
            return (fault if isinstance(fault, Answer) else self._do(request)), fault

    def _do(self, request: Request) -> Answer:
        try:
            for method, pattern, name in ROUTES:
                found = re.fullmatch(pattern, request.path)
                if found and request.method in method.split():
                    named = {key: unquote(value or "") for key, value in found.groupdict().items()}
                    return getattr(Calls(self, request), name)(**named)
            raise RefusedError(404, f"Not Found: {request.path}")
        except RefusedError as no:
            headers = {"X-Error-Message": no.message, **({"X-Error-Code": no.code} if no.code else {})}
            return json_answer({"error": no.message, **no.more}, no.status, **headers)


REPO = r"(?P<kind>model|dataset|space)s/(?P<repo>[\w.-]+/[\w.-]+)"
WEB = r"/(?P<kind>datasets/|spaces/)?(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/{REPO}/hardware", "hardware"),
    ("GET", r"/api/models", "list_models"),
    ("GET", r"/raw/(?P<name>.+)", "raw"),
    ("GET", rf"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<name>[0-9a-f]{64})", "put"),
    ("POST", r"/lfs/verify", "verify"),
    ("GET HEAD", rf"{WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


def card(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The metadata at the head of a README.md."""
    head = re.match(r"---\n(.*?)\n---(\n|$)", files.get("README.md", b"").decode(), re.DOTALL)
    fields = yaml.safe_load(head[1]) if head else {}
    return fields if isinstance(fields, dict) else {}


def tags_of(fields: Mapping[str, Any]) -> list[str]:
    """What a repository can be found by."""
    base = fields.get("base_model")
    named = {"library_name": "{}", "pipeline_tag": "{}", "license": "license:{}", "base_model": "base_model:{}"}
    more = [how.format(fields[name]) for name, how in named.items() if fields.get(name)]
    relation = [f"base_model:{fields.get('base_model_relation', 'finetune')}:{base}"] if base else []
    return [*fields.get("tags", []), *more, *relation]


def faults(fields: Mapping[str, Any], kind: str) -> list[str]:
    """What the Hub has against a card's metadata, as far as these tests go."""
    if kind == "space":
        return [] if "sdk" in fields else ['"sdk" is required']
    found = []
    if fields.get("license", "unknown") not in LICENCES:
        found.append(f'"license" must be one of {LICENCES}')
    if fields.get("license") == "other" and not re.fullmatch(r"[a-z0-9-.]+", str(fields.get("license_name", ""))):
        found.append('"license_name" must be lower-case letters, digits, - and .')
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(fields.get("base_model", "a/b"))):
        found.append('"base_model" must be an id on the Hub')
    if fields.get("base_model_relation", "finetune") not in ("finetune", "adapter", "merge", "quantized"):
        found.append('"base_model_relation" is odd')
    if not all(isinstance(tag, str) for tag in fields.get("tags", [])):
        found.append('"tags" must be strings')
    return found


class Calls:
    """What can be asked: one method for each route, for one request."""

    def __init__(self, hub: LoopbackHub, request: Request) -> None:
        self.hub, self.request = hub, request

    # --- who, and which ---

    def account(self) -> Account:
        token = self.request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.hub.accounts:
            said = "Invalid credentials in Authorization header" if token else "Invalid username or password."
            raise RefusedError(401, said)
        return self.hub.accounts[token]

    def find(self, kind: str, repo: str, *, writing: bool = False) -> Repository:
        account = self.account() if self.request.headers.get("authorization") or writing else None
        found = self.hub.repositories.get((kind, repo))
        mine = account is not None and repo.split("/")[0] in (account.name, *account.organisations)
        if found is None or (found.private and not mine):
            raise RefusedError(404 if account else 401, "Repository not found", "RepoNotFound")
        if writing and not (account and account.may_write(repo)):
            raise RefusedError(403, "You don't have the rights to write to this repository")
        return found

    def whoami(self) -> Answer:
        account = self.account()
        role = "write" if account.write else "read"
        organisations = [{"name": name, "type": "org"} for name in account.organisations]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        page = {"fullname": account.name.title(), "avatarUrl": f"{self.hub.url}/avatar.png", "isPro": False}
        return json_answer({"type": "user", "name": account.name, **page, "orgs": organisations, "auth": auth})

    # --- repositories ---

    def create(self) -> Answer:
        account, wanted = self.account(), self.request.json()
        kind = wanted.get("type") or "model"
        repo = f"{wanted.get('organization') or account.name}/{wanted['name']}"
        url = f"{self.hub.url}/{PREFIX[kind]}{repo}"
        if not account.may_write(repo):
            raise RefusedError(403, f"You don't have the rights to create a {kind} under this namespace")
        if (kind, repo) in self.hub.repositories:
            raise RefusedError(409, f"You already created this {kind} repo", url=url)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.add(kind, repo, private=private, sdk=wanted.get("sdk"), hardware=wanted.get("hardware"))
        return json_answer({"url": url, "name": repo, "id": repo})

    def hardware(self, kind: str, repo: str) -> Answer:
        found = self.find(kind, repo, writing=True)
        found.hardware = self.request.json()["flavor"]
        return json_answer(self.runtime(found))

    def runtime(self, found: Repository) -> dict[str, Any]:
        return {"stage": "BUILDING", "hardware": {"current": None, "requested": found.hardware or "cpu-basic"}}

    def info(self, kind: str, repo: str, revision: str) -> Answer:
        found = self.find(kind, repo)
        commit = found.at(revision or "main")
        siblings = [
            {"rfilename": path, **({"size": len(data), "blobId": oid(data)} if self.request.flag("blobs") else {})}
            for path, data in commit.files.items()
        ]
        about = {"id": found.id, "author": found.id.split("/")[0], "sha": commit.oid, "private": found.private}
        more = {"sdk": found.sdk, "runtime": self.runtime(found)} if kind == "space" else {}
        times = {"createdAt": WHEN, "lastModified": WHEN}
        tags = tags_of(card(commit.files))
        return json_answer({**about, **times, "gated": found.gated, "tags": tags, "siblings": siblings, **more})

    def list_models(self) -> Answer:
        wanted = self.request.query.get("filter", [])
        account = self.account() if self.request.headers.get("authorization") else None
        listed = []
        for (kind, repo), found in self.hub.repositories.items():
            mine = account is not None and repo.split("/")[0] in (account.name, *account.organisations)
            tags = tags_of(card(found.files()))
            if kind == "model" and (mine or not found.private) and set(wanted) <= set(tags):
                listed.append({"id": repo, "tags": tags, "private": found.private, "likes": 0, "lastModified": WHEN})
        return json_answer(listed)

    def raw(self, name: str) -> Answer:
        """A file of some other site."""
        if name not in self.hub.raw:
            raise RefusedError(404, "Not Found")
        return Answer(200, self.hub.raw[name], {"Content-Type": "text/plain"})

    # --- reading ---

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> Answer:
        found = self.find(kind.removesuffix("s/") or "model", repo)
        if found.gated:
            raise RefusedError(403, "Access to this repository is restricted", "GatedRepo")
        commit = found.at(revision)
        if path not in commit.files:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        data = commit.files[path]
        headers = {"ETag": f'"{oid(data)}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if len(data) > LARGE:
            headers |= {"X-Linked-Etag": f'"{oid(data)}"', "X-Linked-Size": str(len(data))}
        first = re.fullmatch(r"bytes=(\d+)-", self.request.headers.get("range", ""))
        if not first:
            return Answer(200, data, headers)
        start = int(first[1])
        return Answer(206, data[start:], {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    # --- writing ---

    def validate(self) -> Answer:
        wanted = self.request.json()
        try:
            fields = card({"README.md": wanted["content"].encode()})
        except yaml.YAMLError as error:
            errors = [str(error)]
        else:
            errors = faults(fields, wanted["repoType"])
        said = {"errors": [{"message": error} for error in errors], "warnings": []}
        return json_answer(said, 400 if errors else 200)

    def preupload(self, kind: str, repo: str, revision: str) -> Answer:
        found = self.find(kind, repo, writing=not self.request.flag("create_pr"))
        there = found.files(revision)
        files = []
        for file in self.request.json()["files"]:
            mode = "lfs" if file["size"] > LARGE else "regular"
            known = {"oid": oid(there[file["path"]])} if file["path"] in there else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        return json_answer({"files": files})

    def batch(self, kind: str, repo: str) -> Answer:
        self.find(kind.removesuffix("s/") or "model", repo)
        objects = []
        for wanted in self.request.json()["objects"]:
            hrefs = {"upload": f"{self.hub.url}/lfs/{wanted['oid']}", "verify": f"{self.hub.url}/lfs/verify"}
            new = wanted["oid"] not in self.hub.uploads
            actions = {"actions": {name: {"href": href} for name, href in hrefs.items()}} if new else {}
            objects.append({**wanted, **actions})
        return json_answer({"transfer": "basic", "objects": objects})

    def put(self, name: str) -> Answer:
        if hashlib.sha256(self.request.body).hexdigest() != name:
            raise RefusedError(400, "this is not what was announced")
        self.hub.uploads[name] = self.request.body
        return Answer()

    def verify(self) -> Answer:
        wanted = self.request.json()
        if len(self.hub.uploads.get(wanted["oid"], b"")) != wanted["size"]:
            raise RefusedError(404, "Object not found")
        return json_answer({})

    def commit(self, kind: str, repo: str, revision: str) -> Answer:
        proposed = self.request.flag("create_pr")
        found = self.find(kind, repo, writing=not proposed)
        lines = [json.loads(line) for line in self.request.body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        now = found.at(parent if proposed and parent else revision)  # a proposal starts where it says
        if parent not in (None, now.oid):
            raise RefusedError(412, "The expected parent commit is not the current one: the branch has moved")
        files = dict(now.files)  # all or nothing: the repository is touched when every line has been understood
        for line in lines:
            self.operate(files, line["key"], line["value"])
        number = 1 + sum(name.startswith("refs/pr/") for name in found.refs)
        made = found.commit(files, header["summary"], f"refs/pr/{number}" if proposed else revision)
        page = f"{self.hub.url}/{PREFIX[kind]}{repo}"
        said = {"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}", "hookOutput": ""}
        return json_answer({**said, **({"pullRequestUrl": f"{page}/discussions/{number}"} if proposed else {})})

    def operate(self, files: dict[str, bytes], key: str, value: Mapping[str, Any]) -> None:
        """One line of a commit, done to `files`."""
        match key:
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    raise RefusedError(422, f"the LFS object of {value['path']} was never uploaded")
                files[value["path"]] = self.hub.uploads[value["oid"]]
            case "deletedFile" | "deletedFolder":
                named = value["path"], f"{value['path'].rstrip('/')}/"
                gone = [path for path in files if path == named[0] or path.startswith(named[1])]
                if not gone:
                    raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
                for path in gone:
                    del files[path]


class Handler(BaseHTTPRequestHandler):
    """HTTP on one side, `hub.answer` on the other."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802 (the base class's name)
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = b"".join(self._body(headers))
        asked = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
        answer, fault = self.hub.answer(asked)
        if answer is None or fault == "lost":
            self._cut()
            return
        sent = [f"HTTP/1.1 {answer.status} -", f"Content-Length: {len(answer.body)}"]
        sent += [f"{name}: {value}" for name, value in answer.headers.items()]
        body = b"" if self.command == "HEAD" else answer.body
        self.wfile.write("\r\n".join([*sent, "", ""]).encode("latin-1"))
        with suppress(OSError):  # who asked has gone
            for part in self._parts(body[: len(body) // 2] if fault == "half" else body, slow=fault == "slow"):
                self.hub.sent += len(part)  # before whoever asked can know that it arrived
                self.wfile.write(part)
        if fault == "half":
            self._cut()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _parts(self, body: bytes, *, slow: bool) -> Iterator[bytes]:
        if not slow:
            yield body
            return
        for start in range(0, len(body), self.hub.piece):
            yield body[start : start + self.hub.piece]
            time.sleep(self.hub.pause)

    def _body(self, headers: Mapping[str, str]) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            yield self.rfile.read(int(headers.get("content-length", 0)))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
