"""Machines of their own, as far as the network goes: Linux network namespaces joined by a cable."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CARD = "slip0"
"""The network card of each host."""


class Host:
    """A network namespace with an address, for as long as the test's process lives; files are shared with all.

    It is held open by a process that waits for the end of its input, so that nothing is left over, come what may.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        held = ["unshare", "--net", "sh", "-c", "echo here; exec cat"]
        self.holder = subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said = self.holder.stdout.readline() if self.holder.stdout else b""
        assert said == b"here\n", "no namespace"
        self.inside = ["nsenter", "--target", str(self.holder.pid), "--net"]

    def ip(self, *words: str) -> None:
        subprocess.run([*self.inside, "ip", *words], check=True, timeout=10)

    def start(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a command here, with its output added to a file."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CARD} | dict(environment)
        with log.open("ab") as out:
            return subprocess.Popen(
                [*self.inside, *command], stdout=out, stderr=subprocess.STDOUT, env=environment
            )

    def give_up_connections_soon(self) -> None:
        """Make Linux take a connection for dead after some 12 seconds without an answer, not 15 minutes."""
        setting = "echo 5 > /proc/sys/net/ipv4/tcp_retries2"
        subprocess.run([*self.inside, "sh", "-c", setting], check=True, timeout=10)

    def pull_the_cable(self) -> None:
        self.ip("link", "set", CARD, "down")

    def plug_it_in(self) -> None:
        self.ip("link", "set", CARD, "up")

    def lose_power(self) -> None:
        """Kill every process here at once, without a word to anyone where the cable is out."""
        namespace = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino
        for pid in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal()):
            with contextlib.suppress(OSError):  # ended meanwhile
                if pid != self.holder.pid and os.stat(f"/proc/{pid}/ns/net").st_ino == namespace:
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.lose_power()
        self.holder.communicate(timeout=10)


def why_not() -> str:
    """Return what is missing for hosts, if anything."""
    if missing := [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)} (iproute2, util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", CARD, "type", "veth"],
        capture_output=True,
        text=True,
        timeout=10,
    )
    return f"cannot make network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them."""
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(contextlib.closing(Host(f"10.77.0.{n}"))) for n in (1, 2))
        one.ip("link", "add", CARD, "type", "veth", "peer", "name", CARD, "netns", str(two.holder.pid))
        for host in (one, two):
            host.ip("address", "add", f"{host.address}/24", "dev", CARD)
            host.ip("link", "set", "lo", "up")
            host.plug_it_in()
        yield one, two
