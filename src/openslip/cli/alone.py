"""Commands that work in one process, and say so where several are started."""

from __future__ import annotations

import os
import signal
import sys
import time


def refuse_several_processes(command: str, why: str, fix: str = "Start it without torchrun") -> None:
    """Raise ConfigError under torchrun with several processes, on the first of them: each would do the same.

    command: what works in one process, as `slip evaluate` does. why: what several would do.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return
    from openslip.errors import ConfigError

    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # without a word
        time.sleep(10)  # torchrun ends all when one has ended: the first, which says why
        sys.exit(1)
    raise ConfigError(
        f"`{command}` works in one process", got=f"WORLD_SIZE={os.environ['WORLD_SIZE']}", cause=why, fix=fix
    )
