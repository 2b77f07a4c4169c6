"""A stand-in of the hub's HTTP interface: models are read from it, and written to it, by the hub's own library."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from serving import Handler, serve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_standinstandinstandin"
"""May write to what belongs to `owner`, and create nothing elsewhere."""
LARGE = (".safetensors", ".bin")
"""Files that lie elsewhere, and are uploaded by the protocol for large ones."""


class Hub:
    """Serves folders as repositories of models: `/owner/name/resolve/main/FILE`, weights from another address.

    repositories: name → folder; those in `gated` are refused with the hub's code for it, those in `private` are shown
    to whoever has the token. branches: (name, branch) → folder. asked: requests for files. written: what was sent to
    other addresses, as (method, path, headers, bytes). down: whether uploads of large files fail.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[str, Path] = {}
        self.branches: dict[tuple[str, str], Path] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.written: list[tuple[str, str, dict[str, str], bytes]] = []
        self.down = False
        self.connections: list[socket.socket] = []
        outer = self

        class Answering(Handler):
            def setup(self) -> None:
                super().setup()
                outer.connections.append(self.connection)

            def do_HEAD(self) -> None:
                outer.answer(self, body=False)

            def do_GET(self) -> None:
                outer.answer(self, body=True)

            def do_POST(self) -> None:
                outer.take(self)

            def do_PUT(self) -> None:
                outer.take(self)

        self.http, self.url = serve(Answering)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        for connection in self.connections:  # which the hub's library keeps open for what comes next
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def commit_of(self, repository: str) -> str:
        """Return the newest commit of a repository."""
        return self.commits.get(repository, COMMIT)

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.partition("?")[0]
        if path.startswith("/api/models/"):
            return self.describe(handler, path)
        if path.startswith("/api/"):
            return self.refuse(handler, 404, "")
        self.asked.append(f"{handler.command} {path}")
        _, owner, name, verb, *rest = path.split("/", 5)
        revision, _, file = "/".join(rest).partition("/")
        repository = f"{owner}/{name}"
        if repository not in self.repositories:
            return self.refuse(handler, 401, "RepoNotFound")
        if repository in self.gated:
            return self.refuse(handler, 403, "GatedRepo")
        folder = self.branches.get((repository, revision))
        if folder is None and revision not in ("main", self.commit_of(repository)):
            return self.refuse(handler, 404, "RevisionNotFound")
        found = (folder or self.repositories[repository]) / file
        if not found.is_file():
            return self.refuse(handler, 404, "EntryNotFound")
        data = found.read_bytes()
        digest = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"X-Repo-Commit": self.commit_of(repository), "ETag": digest}
        if verb == "resolve" and found.suffix in LARGE:  # a large file lies elsewhere
            headers |= {"X-Linked-Etag": digest, "X-Linked-Size": str(len(data)), "Content-Length": "0"}
            headers["Location"] = f"{self.url}/{repository}/stored/{revision}/{file}"
            return self.send(handler, 302, headers)
        self.send(handler, 200, headers | {"Content-Length": str(len(data))})
        if body:
            handler.wfile.write(data)

    def describe(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        """Answer what a repository holds: `/api/models/owner/name`, perhaps with `/revision/BRANCH` or `/tree/…`."""
        if not (who := self.known(handler)):
            return
        path, _, inside = path.partition("/tree/")
        repository, _, branch = path.removeprefix("/api/models/").partition("/revision/")
        branch = unquote(branch)
        if repository not in self.repositories or (repository in self.private and who == "nobody"):
            return self.refuse(handler, 404 if who == "owner" else 401, "RepoNotFound")
        folder = self.repositories[repository]
        if branch and branch != "main":
            if (repository, branch) not in self.branches:
                return self.refuse(handler, 404, "RevisionNotFound")
            folder = self.branches[repository, branch]
        if inside:
            return self.list(handler, folder, inside.partition("/")[2])
        self.reply(
            handler,
            {
                "id": repository,
                "sha": self.commit_of(repository),
                "private": repository in self.private,
                "siblings": [{"rfilename": name} for name in names_in(folder)],
            },
        )

    def list(self, handler: BaseHTTPRequestHandler, folder: Path, inside: str) -> None:
        """Answer what files lie in a folder of a repository: `/api/models/owner/name/tree/BRANCH/FOLDER`."""
        if not (folder / inside).is_dir():
            return self.refuse(handler, 404, "EntryNotFound")
        files = [name for name in names_in(folder) if name.startswith(f"{inside}/" if inside else "")]
        self.reply(
            handler,
            [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": COMMIT}
                for name in files
            ],
        )

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer what writes: to the interface with a token, to the store of large files without one."""
        path, data = unquote(handler.path.partition("?")[0]), body_of(handler)
        self.written.append((handler.command, path, dict(handler.headers), data))
        if path.startswith("/large/"):
            if self.down:
                return self.refuse(handler, 403, "")
            self.large[path.removeprefix("/large/")] = data
            return self.send(handler, 200, {"Content-Length": "0"})
        who = self.known(handler)
        if not who:
            return None
        if path == "/api/validate-yaml":
            good = "license: nonsense" not in data.decode()
            told = (
                {} if good else {"errors": [{"message": '"license" must be one of [mit, …]'}], "warnings": []}
            )
            return self.reply(handler, told, 200 if good else 400)
        if who != "owner":
            return self.refuse(handler, 401, "")
        if path == "/api/repos/create":
            return self.create(handler, json.loads(data))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(handler, json.loads(data))
        owner, name, verb, revision = path.removeprefix("/api/models/").split("/", 3)
        repository = f"{owner}/{name}"
        if repository not in self.repositories:
            return self.refuse(handler, 404, "RepoNotFound")
        if verb == "branch":
            folder = self.folder / f"{owner}-{name}-{revision}"
            shutil.copytree(self.repositories[repository], folder)
            self.branches[repository, revision] = folder
            return self.send(handler, 200, {"Content-Length": "0"})
        folder = self.branches.get((repository, revision), self.repositories[repository])
        if verb == "preupload":
            return self.sort(handler, json.loads(data), folder)
        return self.commit(handler, [json.loads(line) for line in data.splitlines()], repository, folder)

    def create(self, handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "nobody":
            return self.refuse(handler, 404, "")
        if asked["organization"] != "owner":
            return self.refuse(
                handler, 403, "", "You don't have the rights to create a model under this namespace"
            )
        if repository in self.repositories:
            return self.reply(handler, {"error": "You already created this model repo", "url": ""}, 409)
        self.repositories[repository] = self.folder / f"owner-{asked['name']}"
        self.repositories[repository].mkdir(parents=True)
        (self.repositories[repository] / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        if asked.get("visibility") == "private" or asked.get("private"):
            self.private.add(repository)
        self.reply(handler, {"url": f"{self.url}/{repository}"})

    def sort(self, handler: BaseHTTPRequestHandler, asked: dict[str, Any], folder: Path) -> None:
        """Say which files are large, and what is there under their names."""
        files = []
        for file in asked["files"]:
            large, there = Path(file["path"]).suffix in LARGE, folder / file["path"]
            oid = None
            if there.is_file():
                data = there.read_bytes()
                git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                oid = hashlib.sha256(data).hexdigest() if large else git
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply(handler, {"files": files})

    def batch(self, handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        objects = [
            each | {"actions": {"upload": {"href": f"{self.url}/large/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        self.reply(handler, {"transfer": "basic", "objects": objects})

    def commit(
        self, handler: BaseHTTPRequestHandler, lines: Sequence[dict[str, Any]], repository: str, folder: Path
    ) -> None:
        header, *operations = lines
        parent = header["value"].get("parentCommit")
        if parent not in (None, self.commit_of(repository)):
            return self.refuse(handler, 412, "", "A commit has happened since")
        for operation in operations:
            value = operation["value"]
            place = folder / value["path"]
            place.parent.mkdir(parents=True, exist_ok=True)
            if operation["key"] == "file":
                place.write_bytes(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                data = self.large[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                assert len(data) == value["size"]
                place.write_bytes(data)
            else:
                assert operation["key"] == "deletedFile"
                place.unlink()
        self.commits[repository] = hashlib.sha1(repr(lines).encode()).hexdigest()
        url = f"{self.url}/{repository}/commit/{self.commits[repository]}"
        self.reply(handler, {"commitUrl": url, "commitOid": self.commits[repository]})

    def known(self, handler: BaseHTTPRequestHandler) -> str:
        """Return who asks: `owner`, or `nobody` without a token. A wrong token is answered, and gives nothing."""
        given = handler.headers.get("authorization")
        if given in (None, f"Bearer {TOKEN}"):
            return "owner" if given else "nobody"
        self.refuse(handler, 401, "", "Invalid credentials in Authorization header")
        return ""

    def refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str, message: str = "no") -> None:
        headers = {"X-Error-Message": message, "Content-Length": "0"} | (
            {"X-Error-Code": code} if code else {}
        )
        self.send(handler, status, headers)

    def reply(self, handler: BaseHTTPRequestHandler, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send(handler, status, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        handler.wfile.write(data)

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()


def names_in(folder: Path) -> list[str]:
    """Return the files below a folder, by their names in it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def body_of(handler: BaseHTTPRequestHandler) -> bytes:
    """Return what a request brings, in chunks or with its length."""
    if handler.headers.get("transfer-encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("content-length", 0)))
    data = b""
    while size := int(handler.rfile.readline(), 16):
        data += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return data


@pytest.fixture
def hub(monkeypatch, tmp_path_factory) -> Iterator[Hub]:
    """The hub's library asks the stand-in, keeps what it fetches in a folder of its own, and is logged in nowhere."""
    folder = tmp_path_factory.mktemp("hub")
    served = Hub(folder / "stored")
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # which has another protocol, and no stand-in
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    yield served
    served.close()
