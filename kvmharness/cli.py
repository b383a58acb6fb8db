"""The command line.  stdout is the result, stderr the log; exit codes are in errors.py."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from kvmharness import __version__, errors
from kvmharness.commands import (
    check,
    compare,
    doctor,
    export,
    kernels,
    lab,
    perf,
    report,
    run,
    show,
)
from kvmharness.text import printable


class _Group(click.Group):
    """Turn every error of ours into its one line and exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Whoever ends us gets the same care as Ctrl-C: files, probes and perf are let go.
            signal.signal(number, signal.default_int_handler)
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except OSError as error:
            # What is left in the buffer cannot be written at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            where = error.filename or "stdout"
            click.echo(f"kvmharness: {where}: {error.strerror}; send it elsewhere", err=True)
            bisecting = "--bisect" in sys.argv
            sys.exit(errors.EXIT_BISECT_ABORT if bisecting else errors.EXIT_USAGE)
        except errors.HarnessError as error:
            click.echo(f"kvmharness: {printable(str(error))}", err=True)
            sys.exit(error.exit_code)
        except click.UsageError as error:
            if "--bisect" not in sys.argv:
                raise
            error.show()  # git would take click's own code for a bad commit
            sys.exit(errors.EXIT_BISECT_ABORT)
        except KeyboardInterrupt:
            sys.exit(errors.EXIT_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kvmharness")
def main() -> None:
    """Measure what a guest's MMU-role changes cost under Linux KVM.

    Exit codes: 0 ok, 1 a regression or KVM is incorrect, 2 usage, 3 unclear or noisy, 4 a
    guest was lost, 77 nothing could run here, 130 interrupted.
    """


for _command in (
    run.run,
    lab.lab,
    kernels.kernels,
    show.show,
    compare.compare,
    check.check,
    report.report,
    export.export,
    perf.perf,
    doctor.doctor,
):
    main.add_command(_command)
