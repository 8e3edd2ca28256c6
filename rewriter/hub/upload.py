"""Files go to a repository on the Hub in one commit: all of them arrive, or none does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, SpaceInfo
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from rewriter.checkpoints.client import check_name, in_words
from rewriter.errors import InputError

Info = ModelInfo | SpaceInfo
Content = bytes | Path | Callable[[Path], object]  # a file's content, where it is, or what writes it to a path
OnStatus = Callable[[str], object]  # called with words about what is done next
TRIES = 3  # to commit on top of what others commit meanwhile


def silent(words: str) -> None:
    """The `on_status` that says nothing."""


@dataclass(frozen=True)
class Uploaded:
    """The outcome of an upload."""

    url: str  # the page of the repository, or of the pull request
    commit: str  # what the repository, or the pull request, is now
    created: bool  # whether the repository is new
    changed: bool  # whether anything had to be sent
    private: bool  # whether only its owner sees it
    removed: tuple[str, ...] = ()  # files of an earlier version that were deleted
    proposed: bool = False  # whether it is a pull request


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository to upload to, which may not exist yet."""

    api: HfApi  # see `client.connect`
    repo_id: str  # USER/NAME
    check: Callable[[Info], None]  # raises InputError for an existing repository that holds something else
    kind: str = "model"  # or "space"
    private: bool | None = None  # what an existing repository has to be; None: as it is
    options: Mapping[str, Any] = field(default_factory=dict)  # of `create_repo`, for a new one
    advice: Mapping[int, str] = field(default_factory=dict)  # next steps by the Hub's status, where better are known

    def find(self, *, create_pr: bool = False, on_status: OnStatus = silent) -> Info | None:
        """The repository, if it may be written to as it is; None: the name is free. InputError if it may not be."""
        check_name(self.repo_id)
        on_status(f"looking for {self.repo_id}")
        with in_words(f"look at {self.repo_id}", self.api, self.advice):
            try:
                found = self.api.repo_info(self.repo_id, repo_type=self.kind)
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                if create_pr:
                    hint = "publish it without create_pr (--pr)"
                    raise InputError(f"there is no {self.repo_id} to propose this to: {hint}") from error
                return None
        assert isinstance(found, Info)
        self.check(found)
        if None not in (found.private, self.private) and found.private != self.private:
            now, wanted = ("private", "public") if found.private else ("public", "private")
            hint = f"make it {wanted} in its settings on the Hub, and run the same again"
            raise InputError(f"{self.repo_id} is {now}: {hint}")
        return found

    def upload(
        self,
        files: Mapping[str, Content],
        message: str,
        *,
        outdated: Callable[[Sequence[str]], Sequence[str]],
        create_pr: bool = False,
        on_status: OnStatus = silent,
    ) -> Uploaded:
        """Commit files, by their paths in the repository, which is created if there is none.

        `outdated` chooses the paths that the commit deletes. InputError if the Hub or the network refuses it.
        """
        found = self.find(create_pr=create_pr, on_status=on_status)
        created = found is None
        found = found or self._create(on_status)
        with TemporaryDirectory() as folder:
            ready = {path: _written(content, Path(folder) / path, on_status) for path, content in files.items()}
            on_status(f"sending what is new of {len(files)} files")
            for left in reversed(range(TRIES)):
                removed = tuple(sorted(outdated([file.rfilename for file in found.siblings or []])))
                try:
                    done = self._commit(found, ready, removed, message, create_pr)
                    break
                except InputError as error:
                    if not left or _status(error) != 412:
                        raise
                on_status("somebody committed in the meantime; trying again on top of that")
                if (found := self.find(create_pr=create_pr)) is None:
                    raise InputError(f"{self.repo_id} was deleted in the meantime: publish it again")
        url = done.pr_url or f"{self.api.endpoint}/{'spaces/' if self.kind == 'space' else ''}{self.repo_id}"
        changed, private = done.oid != found.sha, bool(found.private)
        return Uploaded(url, done.oid, created, changed, private, removed, bool(done.pr_url))

    def _commit(
        self, found: Info, ready: Mapping[str, bytes | Path], removed: Sequence[str], message: str, create_pr: bool
    ) -> CommitInfo:
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        operations += [CommitOperationAdd(path, content) for path, content in ready.items()]
        operations += [CommitOperationDelete(path, is_folder=False) for path in removed]
        with in_words(f"send the files to {self.repo_id}", self.api, self.advice):
            return self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=message,
                repo_type=self.kind,
                parent_commit=found.sha,  # on top of what was found, and of nothing else
                create_pr=create_pr,
            )

    def _create(self, on_status: OnStatus) -> Info:
        on_status(f"creating {self.repo_id}")
        with in_words(f"create {self.repo_id}", self.api, self.advice):
            self.api.create_repo(self.repo_id, repo_type=self.kind, exist_ok=True, **self.options)
        found = self.find()
        if found is None:
            raise InputError(f"the name {self.repo_id} is taken by something else: choose another")
        return found


def _written(content: Content, path: Path, on_status: OnStatus) -> bytes | Path:
    if not callable(content):
        return content
    on_status(f"writing {path.name}")
    content(path)
    return path


def _status(error: InputError) -> int | None:
    """The status of the Hub's answer that an error tells of."""
    return error.__cause__.response.status_code if isinstance(error.__cause__, HfHubHTTPError) else None
