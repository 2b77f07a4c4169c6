"""One collection, and one server of it, for the tests of this folder that change neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openslip.search.app.server import Server
from openslip.search.index import Index
from search.app.served import Client, make_collection, running


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="session")
def index(collection: Path) -> Index:
    return Index.open(collection)


@pytest.fixture(scope="session")
def server(index: Index) -> Iterator[tuple[Server, Client]]:
    with running(index, max_upload=200_000) as found:
        yield found


@pytest.fixture(scope="session")
def client(server: tuple[Server, Client]) -> Client:
    return server[1]
