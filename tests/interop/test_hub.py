"""Models of the hub, fetched by its own library from a stand-in of the hub's HTTP interface."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import openslip
from interop.public import clip, open_clip, shaken
from openslip.errors import CheckpointError
from openslip.interop import read

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves folders as repositories of models: `/owner/name/resolve/main/FILE`, weights from another address.

    repositories: name → folder; those in `gated` are refused with the hub's code for it. asked: requests.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer.answer(self, body=False)

            def do_GET(self) -> None:
                outer.answer(self, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.partition("?")[0]
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
        if revision not in ("main", COMMIT):
            return self.refuse(handler, 404, "RevisionNotFound")
        found = self.repositories[repository] / file
        if not found.is_file():
            return self.refuse(handler, 404, "EntryNotFound")
        data = found.read_bytes()
        digest = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"X-Repo-Commit": COMMIT, "ETag": digest}
        if verb == "resolve" and found.suffix in (".safetensors", ".bin"):  # a large file lies elsewhere
            headers |= {"X-Linked-Etag": digest, "X-Linked-Size": str(len(data)), "Content-Length": "0"}
            headers["Location"] = f"{self.url}/{repository}/stored/{revision}/{file}"
            return self.send(handler, 302, headers)
        self.send(handler, 200, headers | {"Content-Length": str(len(data))})
        if body:
            handler.wfile.write(data)

    def refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self.send(handler, status, {"X-Error-Code": code, "X-Error-Message": "no", "Content-Length": "0"})

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    served = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield served
    served.close()


def same(one: str, other: str | Path) -> bool:
    a, b = (openslip.load(spec) for spec in (one, other))
    size = a.config.views.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return torch.equal(a.encode_image(images), b.encode_image(images))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["transformers", "open_clip", "timm"])
def test_a_model_is_fetched_once(hub, tmp_path, library) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if library == "timm":
        model = shaken(timm.create_model("test_resnet", num_classes=7))
        timm.models.save_for_hf(model, folder, safe_serialization=True)
    else:
        {"transformers": clip, "open_clip": open_clip}[library]()(folder)
    hub.repositories["owner/name"] = folder
    assert same("hf:owner/name", folder)
    fetched = [request for request in hub.asked if request.startswith("GET")]
    assert any(request.endswith(".safetensors") for request in fetched)
    assert not any(request.endswith(".bin") for request in fetched)  # what may hold code is not even fetched
    digests = read("hf:owner/name@main").origin.files.values()
    assert any(
        hashlib.sha256(file.read_bytes()).hexdigest() in digests for file in folder.glob("*.safetensors")
    )
    hub.asked.clear()
    assert same("hf:owner/name", folder)
    assert not any(request.startswith("GET") for request in hub.asked)
    hub.close()
    assert same("hf:owner/name", folder)


def test_what_the_hub_refuses(hub, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    hub.repositories |= {"owner/name": tmp_path / "model", "owner/gated": tmp_path / "model"}
    hub.gated.add("owner/gated")
    for spec, told in {
        "hf:owner/other": "no such model, or does not show it to you.*hf auth login",
        "hf:owner/gated": "accepted its terms",
        "hf:owner/name@v2": "no such revision",
        "hf:owner/name": "owner/name",
    }.items():
        with pytest.raises(CheckpointError, match=told):
            read(spec)


def test_a_file_that_is_cut_short_is_no_model(hub, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    clip()(folder)
    hub.repositories["owner/name"] = folder
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        read("hf:owner/name")


def test_weights_without_a_description(hub, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
    hub.repositories["owner/name"] = folder
    with pytest.raises(CheckpointError, match="another architecture or project.*It has 1 entries: x"):
        read("hf:owner/name")
