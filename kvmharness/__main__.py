"""What the command `kvmharness` starts: until all is loaded, a Ctrl-C just ends it."""

from __future__ import annotations

import os
import signal


def _let_it_end() -> None:
    """Have a signal end us silently: Python would print what it was busy with."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Run the command line."""
    _let_it_end()
    # numpy's library has a thread, and 80 MiB, for each CPU otherwise; none of it is of use here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from kvmharness import cli  # noqa: PLC0415 - that is the loading

    try:
        cli.main(prog_name="kvmharness")
    finally:
        _let_it_end()


if __name__ == "__main__":
    main()
