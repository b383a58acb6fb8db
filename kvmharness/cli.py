"""The command line.  stdout is the result, stderr the log; exit codes are in errors.py."""

from __future__ import annotations

import os
import platform
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from kvmharness import __version__, errors
from kvmharness.commands import (
    bisect,
    cache,
    check,
    compare,
    doctor,
    explain,
    export,
    kernels,
    lab,
    nested,
    perf,
    progress,
    report,
    run,
    show,
    streams,
    timeline,
    tune,
)
from kvmharness.text import printable


def _exit(code: int) -> NoReturn:
    sys.exit(errors.EXIT_BISECT_ABORT if streams.bisecting() else code)


def _say(line: str) -> None:
    click.echo(f"kvmharness: {printable(line)}", err=True)


def _report_bug(error: Exception) -> NoReturn:
    """Print what whoever mends it needs to know, and end with the code of a bug."""
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    _say(f"bug: {what}; please report it with the lines below")
    uname = os.uname()
    _say(
        f"version {__version__}, Python {platform.python_version()}, Linux {uname.release} "
        f"{uname.machine}, arguments {sys.argv[1:]}"
    )
    for line in "".join(traceback.format_exception(error)).splitlines():
        click.echo(printable(line), err=True)
    _exit(errors.EXIT_BUG)


class _Group(click.Group):
    """Turn every error of ours into its one line and exit code, any other into a bug report."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if sys.stdout is None:
            _say("stdout is closed; send it elsewhere")
            _exit(errors.EXIT_USAGE)
        streams.take_over()
        try:
            return super().main(*args, **extra)
        except errors.StdoutLost as lost:  # of the help, too
            streams.give_up(lost)
        except Exception as error:  # of the parsing; what a command raises is met below
            _report_bug(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # Whoever ends us gets the same care as Ctrl-C: files, probes, perf are let go.
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's, a shell's with &
                    signal.signal(number, signal.default_int_handler)
            streams.check_memory()
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except (OSError, MemoryError, ImportError) as error:
            what = streams.system_failure(error)
            if what is None:
                _report_bug(error)
            _say(what)
            _exit(errors.EXIT_USAGE)
        except errors.StdoutLost:
            raise
        except errors.HarnessError as error:
            _say(str(error))
            sys.exit(error.exit_code)
        except click.UsageError as error:
            if not streams.bisecting():
                raise
            error.show()  # git would take click's own code for a bad commit
            sys.exit(errors.EXIT_BISECT_ABORT)
        except KeyboardInterrupt:
            sys.exit(errors.EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click's own
        except Exception as error:
            _report_bug(error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kvmharness")
def main() -> None:
    """Measure what a guest's MMU-role changes cost under Linux KVM.

    Exit codes: 0 ok, 1 a regression or KVM is incorrect, 2 usage, 3 unclear or noisy, 4 a
    guest was lost, 70 a bug of kvmharness, 77 nothing could run here, 130 interrupted.
    """


for _command in (
    run.run,
    lab.lab,
    nested.nested,
    kernels.kernels,
    show.show,
    compare.compare,
    check.check,
    bisect.bisect,
    bisect.step,
    timeline.timeline,
    report.report,
    export.export,
    perf.perf,
    progress.progress,
    explain.explain,
    doctor.doctor,
    cache.cache,
    tune.tune,
):
    main.add_command(_command)
