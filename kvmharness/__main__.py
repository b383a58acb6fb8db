"""What the command `kvmharness` starts: until all is loaded, a Ctrl-C just ends it."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def _let_it_end() -> None:
    """Have a signal end us silently: Python would print what it was busy with."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _end(error: ModuleNotFoundError) -> NoReturn:
    """Say what is not installed; a module of ours that is missing is a bug."""
    from kvmharness.commands import streams  # noqa: PLC0415 - it needs Python alone
    from kvmharness.errors import EXIT_BISECT_ABORT, EXIT_USAGE  # noqa: PLC0415

    what = streams.system_failure(error)
    if what is None:
        raise error
    sys.stderr.write(f"kvmharness: {what}\n")
    sys.exit(EXIT_BISECT_ABORT if streams.bisecting() else EXIT_USAGE)


def main() -> None:
    """Run the command line."""
    _let_it_end()
    # numpy's library has a thread, and 80 MiB, for each CPU otherwise; none of it is of use here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from kvmharness import cli  # noqa: PLC0415 - that is the loading
    except ModuleNotFoundError as error:
        _end(error)

    try:
        cli.main(prog_name="kvmharness")
    finally:
        _let_it_end()


if __name__ == "__main__":
    main()
