"""Show web addresses without the passwords and signatures that open files."""

from __future__ import annotations

import os
import re

_ADDRESS = re.compile(r"(?<![a-z0-9])[a-z][a-z0-9+.-]*://[^\s'\"<>]*", re.IGNORECASE)
_LOOSE_QUERY = re.compile(r"\?[\w.~%+-]+=[^\s'\"<>]*")
"""A query that remains if an address contains a space or quote, or if a text contains only the address's path."""
_NAMES_A_FILE = re.compile(r"(\w+=)?[\w./{},%~+-]+\.(tar|parquet)", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether the path is a URL, or a chain of them as fsspec writes it (`simplecache::s3://…`)."""
    return re.match(r"[a-z][a-z0-9+.-]*(://|::.*://)", path, re.IGNORECASE) is not None


def is_http(url: str) -> bool:
    """Whether the URL is of a web server, which cannot list files."""
    return url.lower().startswith(("http://", "https://"))


def shown(path: str) -> str:
    """Return a path, URL or mixture that is safe in names, keys and messages. URLs lose user names, passwords, queries
    and fragments, which hold keys; all else stays.

    If only the query of a web address names the file (`https://host/get?file=a.tar`), that part of the query stays.
    """
    if is_url(path) and not re.search(r"\s\+\s", path):
        return "::".join(map(_bare, path.split("::")))
    return without_keys(path)


def without_keys(text: str) -> str:
    """Return a text, such as a message, with each URL in it as `shown` gives it."""
    if "://" not in text:
        return text
    text = _ADDRESS.sub(lambda found: "::".join(map(_bare, found[0].split("::"))), text)
    return _LOOSE_QUERY.sub(lambda found: found[0] if _NAMES_A_FILE.fullmatch(found[0][1:]) else "", text)


def _bare(address: str) -> str:
    """Return one address without its user name, password and keys."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    host, slash, path = rest.partition("/")
    user, _, host = host.rpartition("@")
    if user and not (is_http(address) or ":" in user):  # abfs://container@account/…
        host = f"{user}@{host}"
    rest = host + slash + path
    if not is_http(address):  # a question mark may be part of a pattern, as in s3://bucket/a?.tar
        return scheme + separator + re.sub(r"\?[^/?]*=.*", "", rest)
    rest, _, query = rest.partition("#")[0].partition("?")
    named = [part for part in query.split("&") if _NAMES_A_FILE.fullmatch(part)]
    if named and not os.path.splitext(rest.partition("/")[2])[1]:
        rest += "?" + "&".join(named)
    return scheme + separator + rest
