"""The address, the words at the start and the end, and an index that changes meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from openslip.errors import ConfigError
from openslip.search.app.server import Server
from openslip.search.index import Index
from search.app.served import Client, add_columns, running


def test_a_port_in_use_is_an_error_in_words(server: tuple[Server, Client], index: Index) -> None:
    with pytest.raises(ConfigError, match=f"The port is in use. Got: '--port {server[0].port}'.*--port 0"):
        Server(index, port=server[0].port)


def test_a_name_that_is_none_of_this_machine_is_an_error_in_words(index: Index) -> None:
    with pytest.raises(ConfigError, match="no such name or address"):
        Server(index, host="no.such.host.invalid", port=0)
    with pytest.raises(ConfigError, match="cannot listen at this address"):
        Server(index, host="192.0.2.1", port=0)


def test_an_index_that_is_written_anew_is_said_to_be_and_the_old_one_served(
    collection: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(collection, tmp_path / "copy")
    asked = {"text": "red", "filters": [{"column": "price", "operator": "<", "value": 9}], "top": 3}
    with running(Index.open(folder)) as (_, client):
        before = client.post("/search", asked).json
        assert not before["newer"]
        add_columns(folder, later=list(range(60)))
        content = (folder / "index.json").read_bytes()
        (folder / "index.json").unlink()
        assert client.get("/about").json["newer"]
        (folder / "new").write_bytes(content)
        (folder / "new").rename(folder / "index.json")
        assert client.post("/search", asked).json == before | {"newer": True}
        assert client.get("/about").json["newer"]


def test_threads_end_with_the_server(index: Index) -> None:
    with running(index):
        assert "search" in {thread.name for thread in threading.enumerate()}
        mine = next(thread for thread in reversed(threading.enumerate()) if thread.name == "search")
    assert not mine.is_alive()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of Unix")
def test_the_command_says_where_it_is_and_that_it_ends(collection: Path) -> None:
    command = [sys.executable, "-m", "openslip", "serve", str(collection), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines[0] == f"60 pictures of {collection}, searched by toy\n"
        assert lines[1].startswith("http://127.0.0.1:")
        port = int(lines[1].split("/")[2].split(":")[1])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]  # for which nobody waits
        silent[0].sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        assert Client(port).get("/about").json["pictures"] == 60
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=60)
        for one in silent:
            one.close()
    assert (rest, complaint, process.returncode) == ("", "slip: Interrupted.\n", 130)
