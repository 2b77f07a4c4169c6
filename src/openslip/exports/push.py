"""A model on the hub: exported, shown, and uploaded as one commit."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from openslip.errors import ConfigError, ExportError, did_you_mean
from openslip.exports import Exported, export
from openslip.interop import hub

FOLDERS = ("huggingface", "open_clip", "timm", "openslip", "onnx")
"""The formats of hub repositories. The hub's libraries read the first ones from the hub; ONNX must be fetched first."""
OF_A_MODEL = (
    "*.safetensors", "*.bin", "*.pt", "*.onnx", "*.onnx.data", "*.json", "*.model", "merges.txt", "vocab.txt",
    "README.md",
)  # fmt: skip
"""Files that make up a model in a repository. Such a file left from another format would be read instead of what was
pushed. Other files, such as a LICENSE or pictures for the card, stay."""
LISTED = 8
PATIENCE = 30.0
"""Seconds that the hub has to say what a repository holds. The hub's library would wait without end."""


@dataclass(frozen=True)
class Upload:
    """What is about to be uploaded: files of a folder with their sizes in bytes, and which files of the repository go.

    replaced: files of the repository with the same names. removed: files of the repository with other names. new:
    whether the repository or the branch is made for the upload.
    """

    repository: str
    branch: str
    files: tuple[tuple[str, int], ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    new: bool
    exported: Exported


@dataclass(frozen=True)
class Pushed:
    """Where a model is now: its page, the commit, and whether anything was new."""

    url: str
    commit: str
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _There:
    """A repository before the upload: its files, whether it is private, and the newest commit on the branch."""

    exists: bool
    branch: bool
    files: tuple[str, ...] = ()
    private: bool = False
    commit: str | None = None


def push(
    model: str | Path,
    repository: str,
    *,
    to: str = "huggingface",
    which: Literal["latest", "best"] = "latest",
    license: str = "",
    notes: Path | None = None,
    private: bool = False,
    branch: str = "",
    replace: bool = False,
    show: Callable[[Upload], object] = lambda upload: None,
) -> Pushed:
    """Export a model with its card, and upload it to a repository of the hub as one commit.

    model, which, license, notes: as `openslip.exports.export` takes them. repository: `owner/name`, which is made if it
    does not exist. to: one of FOLDERS. private: whether a new repository is private. branch: a branch of the
    repository, which is made if it does not exist; empty for `main`. replace: replace the files of a model (OF_A_MODEL)
    that the branch has; the earlier files stay in its history. show: is called with what is about to be uploaded.

    The token is that of `hf auth login` or HF_TOKEN. Raises ExportError if there is no token, the hub refuses or cannot
    be reached, or the branch has a model and `replace` is not given; ConfigError for another format, or a name that no
    repository can have; and the errors of `export`. Nothing is uploaded then, but an empty new repository may be left.
    """
    if to not in FOLDERS:
        raise ConfigError(
            "This is not a format that a repository of the hub is loaded from",
            got=to,
            fix=did_you_mean(to, FOLDERS),
        )
    if not hub.is_name(repository) or "@" in repository:
        raise ConfigError(
            "This is no name of a repository on the hub",
            got=repository,
            fix="Write owner/name: your user name or organisation on the hub, and a name for the model",
        )
    api = _Hub(repository, branch)
    there = api.look()
    _check(there, repository, branch, private=private, replace=replace)
    with tempfile.TemporaryDirectory(prefix="slip-push-") as folder:
        place = Path(folder) / repository.partition("/")[2]
        done = export(model, to, place, which=which, license=license, notes=notes, repository=repository)
        sizes = {
            path.relative_to(place).as_posix(): path.stat().st_size
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }
        earlier = _of_a_model(there.files)
        removed = tuple(name for name in earlier if name not in sizes)
        replaced = tuple(name for name in earlier if name in sizes)
        show(
            Upload(
                repository, branch or "main", tuple(sizes.items()), replaced, removed, not there.branch, done
            )
        )
        return api.upload(place, list(sizes), removed, there, private=private)


def _check(there: _There, repository: str, branch: str, *, private: bool, replace: bool) -> None:
    """Raise ExportError if files would be lost, or if a model that is to be private would be public."""
    if private and there.exists and not there.private:
        raise ExportError(
            "The repository is there already, and everybody can see it",
            got=f"{repository}, with --private",
            fix="Make the repository private on its page first, or name a repository that does not exist yet",
        )
    files = _of_a_model(there.files)
    if there.branch and files and not replace:
        more = f" and {len(files) - LISTED:,} more" if len(files) > LISTED else ""
        raise ExportError(
            f"The repository is there already, and its branch {branch or 'main'} has a model",
            got=f"{repository}: {', '.join(files[:LISTED])}{more}",
            cause="The push would replace these files",
            fix="Add --replace, which keeps them in the repository's history; or name another --branch or repository",
        )


def _of_a_model(files: Sequence[str]) -> list[str]:
    return [
        name
        for name in files
        if "/" not in name and any(fnmatchcase(name, pattern) for pattern in OF_A_MODEL)
    ]


class _Hub:
    """One repository of the hub, through the hub's own library. Whatever the hub refuses becomes an ExportError."""

    def __init__(self, repository: str, branch: str) -> None:
        from huggingface_hub import HfApi, get_token

        self.repository, self.branch = repository, branch
        with self.told("The token for the hub cannot be read"):
            token = get_token()
        if not token:
            raise ExportError(
                "Nobody is logged in to the hub, and the hub takes models only from people it knows",
                fix="Run `hf auth login` once, or set HF_TOKEN, with a token that may write",
            )
        self.token = token
        self.api = HfApi(token=token)

    def look(self) -> _There:
        """Return what the repository has. Nothing is changed."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self.told("The hub cannot be asked what the repository holds"):
            try:
                found = self.api.model_info(self.repository, revision=self.branch or None, timeout=PATIENCE)
            except RevisionNotFoundError:
                whole = self.api.model_info(self.repository, timeout=PATIENCE)
                return _There(True, False, self._names(whole), bool(whole.private))
            except RepositoryNotFoundError:
                return _There(False, False)
        return _There(True, True, self._names(found), bool(found.private), found.sha)

    @staticmethod
    def _names(info: Any) -> tuple[str, ...]:
        return tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))

    def upload(
        self, place: Path, names: Sequence[str], removed: Sequence[str], there: _There, *, private: bool
    ) -> Pushed:
        """Make the repository and the branch if they do not exist, and commit the files of a folder."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations = [
            *(CommitOperationDelete(path_in_repo=name) for name in removed),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=place / name) for name in names),
        ]
        with warnings.catch_warnings(record=True) as caught, self.told("The hub did not take the model"):
            warnings.simplefilter("always", UserWarning)
            if not there.exists:
                self.api.create_repo(self.repository, private=private or None, exist_ok=False)
            if self.branch and not there.branch:
                self.api.create_branch(self.repository, branch=self.branch, exist_ok=True)
            # Not `upload_folder`, which may make several commits. The parent is the commit that `look` saw.
            done = self.api.create_commit(
                self.repository,
                operations,
                commit_message="Upload a model with slip push",
                revision=self.branch or None,
                parent_commit=there.commit,
            )
        said = tuple(" ".join(str(one.message).split()) for one in caught if one.category is UserWarning)
        page = f"{self.api.endpoint}/{self.repository}" + (f"/tree/{self.branch}" if self.branch else "")
        return Pushed(page, done.oid, done.oid != there.commit, said)

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Turn what the hub's library and the network raise into an ExportError that does not show the token."""
        try:
            yield
        except (ExportError, ConfigError):
            raise
        except Exception as error:  # of the hub's library, of the network's client, and the disk's
            raise _refused(what, self.repository, error, getattr(self, "token", "")) from None


def _status(error: BaseException | None) -> int:
    """Return the status of the hub's answer behind an error or the error's causes; 0 if there was no answer."""
    while error is not None:
        with suppress(AttributeError):
            return int(error.response.status_code)  # pyrefly: ignore
        error = error.__cause__
    return 0


def _refused(what: str, repository: str, error: Exception, token: str) -> ExportError:
    """Return the error that says why the hub refuses, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    status, owner = _status(error), repository.partition("/")[0]
    said = [line for line in map(str.strip, str(error).splitlines()) if line] or [type(error).__name__]
    cause = " ".join(dict.fromkeys([said[0], said[-1]]))
    if token:
        cause = cause.replace(token, "…")
    fix = "Try again: nothing was uploaded"
    if status == 401:
        what, fix = (
            "The hub does not know the token",
            "Run `hf auth login` again, or set HF_TOKEN to a token that is valid",
        )
    elif status == 403:
        what = f"The hub does not let this token write to {repository}"
        fix = (
            "Take a token that may write. The owner must be you or an organisation you are in, and "
            f"{owner} may be neither"
        )
    elif status == 404:
        what = f"The hub knows nobody called {owner}, or does not show the repository to you"
        fix = "Check the owner's name, and that your token may write there"
    elif status in (409, 412):
        what = "Somebody else has changed the repository in the meantime"
        fix = "Look at what the repository holds now, and push again"
    elif isinstance(error, HFValidationError):
        what, fix = (
            "This is no name of a repository or branch on the hub",
            "Write owner/name, of letters, digits, - _ .",
        )
    elif isinstance(error, ValueError) and "metadata" in str(error).lower():
        cause = " ".join(said)
        what, fix = (
            "The hub does not accept the model card",
            "Check the identifier that was given with --license",
        )
    elif constants.is_offline_mode():
        what, cause, fix = "The hub may not be asked", "HF_HUB_OFFLINE is set", "Unset it to upload"
    elif not status:
        what = "The hub cannot be reached"
        fix = "Try again with a network. `slip export` writes the same folder without the hub"
    return ExportError(what, got=repository, cause=cause, fix=fix)
