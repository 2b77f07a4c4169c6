"""Files of the Hugging Face hub: fetched once into the hub's own cache, which then works without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from openslip.errors import CheckpointError

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""A repository, `owner/name`, and perhaps a revision: a branch, a tag or a commit."""

_FETCHED: ContextVar[dict[Path, tuple[str, str]] | None] = ContextVar("fetched", default=None)


@contextmanager
def watched() -> Iterator[dict[Path, tuple[str, str]]]:
    """Record what is fetched within: the path of each file → its repository, and its name there."""
    found: dict[Path, tuple[str, str]] = {}
    token = _FETCHED.set(found)
    try:
        yield found
    finally:
        _FETCHED.reset(token)


def is_name(text: str) -> bool:
    """Say whether a text can be the name of a repository."""
    return NAME.fullmatch(text) is not None


def fetch(name: str, files: Sequence[str], *, optional: bool = False) -> Path | None:
    """Return the path on this disk of the first of these files that the repository has; None if it has none of them.

    A file is fetched only if the hub's cache does not have it. optional: without a network, a file that is not in the
    cache counts as not there, if other files of the repository are in the cache.

    Raises CheckpointError if there is no such repository, it may not be read, or the hub cannot be reached and the
    cache has none of the files.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    away: Exception | None = None
    for file in files:
        if away is None:
            away = _unreachable(repository, file, revision)
        try:
            local = away is not None
            path = Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=local))
            if (found := _FETCHED.get()) is not None:
                found[path] = (repository, file)
            return path
        except LocalEntryNotFoundError as error:  # it may be there, and the hub cannot be asked
            away = away or error
        except EntryNotFoundError:
            continue
        except Exception as error:  # of the hub's library, of the network's, and the disk's
            raise _refused(name, error) from None
    if away is not None and not (optional and _is_cached(repository)):
        raise _away(name, files, away)
    return None


def _unreachable(repository: str, file: str, revision: str) -> Exception | None:
    """Return why the hub cannot be asked for a file; None if the hub answers, or if the cache has the file.

    The library's download tries for minutes, and prints each try. This asks once.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str):
            return None
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision or None))
    except (HfHubHTTPError, HFValidationError):  # an answer, which the download gets as well
        return None
    except Exception as error:  # of the network, by names that the library changes with its client
        return error
    return None


def _is_cached(repository: str) -> bool:
    """Say whether the hub's cache has files of a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    return any(folder.glob("snapshots/*/*"))


def _refused(name: str, error: Exception) -> CheckpointError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, GatedRepoError):
        what, fix = (
            "The hub gives this model only to people who have accepted its terms",
            "Accept them on the model's page, then log in with `hf auth login`",
        )
    elif isinstance(error, RepositoryNotFoundError | HFValidationError):
        what, fix = (
            "The hub has no such model, or does not show it to you",
            "Check the spelling, owner/name as on the model's page. For a private model log in with `hf auth login`",
        )
    elif isinstance(error, RevisionNotFoundError):
        what, fix = "The model on the hub has no such revision", "Check what follows the @, or leave it out"
    else:
        what, fix = "A file of the hub could not be fetched", "Try again, or give a folder with the files"
    return CheckpointError(what, got=name, cause=first, fix=fix)


def _away(name: str, files: Sequence[str], error: Exception) -> CheckpointError:
    import os

    from huggingface_hub import constants

    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    return CheckpointError(
        f"The model is not on this disk, and the hub {'may not' if offline else 'cannot'} be asked for it",
        got=f"{name}: {' or '.join(files)}",
        cause="HF_HUB_OFFLINE is set"
        if offline
        else f"{constants.ENDPOINT} does not answer: "
        + (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0],
        fix="Fetch the model once with a network, or give a folder with its files",
    )
