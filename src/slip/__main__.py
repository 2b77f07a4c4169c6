"""`slip`, and `python -m slip`: until a command answers to signals itself, Ctrl-C ends it at once, without a traceback."""

import signal
import sys

if (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # not where it is ignored, as behind `nohup … &`
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from slip.cli import main


def run() -> None:
    """Run the command line of this process, and end the process."""
    sys.exit(main())


if __name__ == "__main__":
    run()
