"""Requests to servers: failures that may pass are tried again, at growing intervals; lasting failures are remembered.

Lost connections, time-outs, short answers and the statuses 5xx, 408, 425 and 429 may pass. This process does not ask
for a file that failed for good again for GIVEN_UP_FOR seconds, longer each time. The file's next records fail at once
and are skipped, and training goes on.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

# Code that asks for files imports these from here.
from openslip.addresses import is_http as is_http
from openslip.addresses import is_url as is_url
from openslip.addresses import shown as shown
from openslip.addresses import without_keys
from openslip.errors import DataError, printable

TRIES = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds between tries: doubled each time, give or take a half, so that processes do not come back in step."""
GIVEN_UP_FOR, LONGEST_GIVEN_UP = 300.0, 3600.0
"""Seconds for which a file that failed for good is not asked for again: doubled each time, until it is read again."""
DOWN_AFTER = 2
"""After so many files in a row failed for good, their server's other files get a single try each, for as long."""

T = TypeVar("T")
_given_up: dict[str, tuple[float, float, DataError]] = {}  # URL → until when, for how long, and why
_down: dict[
    str, list[float]
] = {}  # server → until when each file in a row is given up that it did not answer for
_PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    ImportError,
    NotImplementedError,
    ValueError,
)


class NoRanges(Exception):
    """The server answers with the whole file when asked for a part."""


NO_SUCH_FILE = "There is no such file on the server"


class DiskError(Exception):
    """What was fetched cannot be written to disk."""


class Status(Exception):
    """A status other than success; `after`: seconds to wait, if the server tells."""

    def __init__(self, code: int, reason: str, after: float = 0.0) -> None:
        self.code, self.after = code, after
        super().__init__(f"HTTP status {code} {reason}".strip())


class Changed(ValueError):
    """The file is not the one that was opened."""


def forget(url: str) -> None:
    """Forget that the file or its server failed lately: a person opens the file anew, and may have mended it."""
    _given_up.pop(url, None)
    _down.pop(_host(url), None)


def persist(url: str, ask: Callable[[], T], *, announce: bool = False) -> T:
    """Return what `ask` returns, asking again when it fails in a way that may pass.

    With `announce`, a line on the standard error output tells when the file is given up. It is for records that are
    then skipped by a caller that prints nothing.
    Raises DataError; NoRanges and DiskError as they come.
    """
    until, waited, known = _given_up.get(url, (0.0, 0.0, None))
    if known and time.monotonic() < until:
        raise DataError(known.what, got=known.got, cause=known.cause, fix=known.fix)
    host = _host(url)
    failures = [until for until in _down.get(host, []) if time.monotonic() < until]
    tries = 1 if len(failures) >= DOWN_AFTER else TRIES
    for number in range(1, tries + 1):
        try:
            answer = ask()
        except (NoRanges, DiskError):
            raise
        except Exception as error:  # any: each of fsspec's file systems has its own
            if number == tries or not _may_pass(error):
                seconds = min(waited * 2, LONGEST_GIVEN_UP) or GIVEN_UP_FOR
                until, failure = time.monotonic() + seconds, _explain(url, error, number)
                _given_up[url] = until, seconds, failure
                if announce:
                    reason = f"{failure.what}: {failure.cause}"
                    line = f"skipping {shown(url)} for {seconds / 60:.0f} minutes: {reason}"
                    print(printable(line), file=sys.stderr, flush=True)
                if number == tries:
                    _down[host] = [*failures, until]
                raise failure from None
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (number - 1)) * random.SystemRandom().uniform(0.5, 1.5)
            time.sleep(max(wait, min(getattr(error, "after", 0.0), LONGEST_WAIT * 4)))
        else:
            _given_up.pop(url, None)
            _down.pop(host, None)
            return answer
    raise AssertionError("at least one try is made")


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _may_pass(error: Exception) -> bool:
    if isinstance(error, Status):
        return error.code >= 500 or error.code in (408, 425, 429)
    return not isinstance(error, _PERMANENT)


def _hidden(text: str, url: str) -> str:
    """Return a library's message without the secrets that the URL is opened with, however the library spells them."""
    for part in url.split("::"):
        user, at, _ = part.partition("://")[2].partition("/")[0].rpartition("@")
        secrets = [part.partition("?")[2], user, user.partition(":")[2]] if at else [part.partition("?")[2]]
        for secret in filter(None, (*secrets, *map(unquote, secrets))):
            if len(secret) > 3:  # shorter ones would take words apart
                text = text.replace(secret, "…")
    return without_keys(text)


def _explain(url: str, error: Exception, tries: int) -> DataError:
    code = error.code if isinstance(error, Status) else 0
    cause = _hidden(str(error), url) or (
        "The server did not answer in time" if isinstance(error, TimeoutError) else repr(error)
    )
    if code in (404, 410) or isinstance(error, FileNotFoundError):
        what = NO_SUCH_FILE
        fix = (
            "Check the address, and that a range {00000..00099} ends at the last file there; "
            "leave a missing file out like this: 'https://…/{000..100}.tar + https://…/{102..331}.tar'"
        )
    elif code in (401, 403) or isinstance(error, PermissionError):
        what = "The server does not let the file be read"
        fix = "Check your access rights; a signed address may have expired"
    elif isinstance(error, ImportError):
        what, cause, fix = "A package that reads such addresses is missing", "", str(error)
    elif isinstance(error, Changed) or code == 416:
        what, fix = "The file has changed since it was opened", "Start again to index the file anew"
    elif not _may_pass(error):
        what, fix = "The address cannot be read", "Check the address; fsspec interprets it"
    else:
        what, fix = (
            "The file cannot be fetched",
            "Check the server and the network, then try again; continue a run with --resume",
        )
        cause += f" ({tries} tries)" if tries > 1 else ""
    return DataError(what, got=shown(url), cause=cause, fix=fix)
