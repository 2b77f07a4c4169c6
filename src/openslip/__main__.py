"""`slip`, and `python -m openslip`.

Until a command handles signals itself, Ctrl-C ends the process at once, without a traceback.
"""

import atexit
import os
import signal
import sys

if (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # not where it is ignored, as behind `nohup … &`
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from openslip.cli import main


def run() -> None:
    """Run the command line of this process, and end the process."""
    status = main()
    if (
        status > 128
    ):  # a signal: skip the teardown of modules, during which another signal would set another status
        atexit._run_exitfuncs()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
