#!/usr/bin/env python3
"""Write what a system keeps beside a command: its manual pages and what its shells complete.

    manual.py FOLDER    # FOLDER/share/man/man1/*.1, FOLDER/share/bash-completion/... and so on

All of it is made of the commands' own help, when the package is built.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

ROOT = Path(__file__).parents[1]
NAME = "kvmharness"
COMPLETIONS = {
    "bash": f"bash-completion/completions/{NAME}",
    "zsh": f"zsh/site-functions/_{NAME}",
    "fish": f"fish/vendor_completions.d/{NAME}.fish",
}


def commands(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Return a command and those below it that are shown, each after the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from commands(inner, *path, name)


def _roff(text: str) -> str:
    """Return text as roff takes it for text."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def _paragraphs(text: str) -> list[str]:
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\b", "").strip()):
        lines += [".PP", _roff(" ".join(paragraph.split()))]
    return lines


def _options(command: click.Command, context: click.Context) -> list[str]:
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    lines = [".SH OPTIONS"]
    for names, about in filter(None, (option.get_help_record(context) for option in options)):
        lines += [".TP", f"\\fB{_roff(names)}\\fR", _roff(" ".join(about.split()))]
    return lines


def _others(path: tuple[str, ...], command: click.Command) -> list[str]:
    """Return the list of a group's commands, or where to read on."""
    if not isinstance(command, click.Group):
        return [".SH SEE ALSO", f".BR {_roff('-'.join(path[:-1]))} (1)"]
    lines = [".SH COMMANDS"]
    for inner, found in commands(command, *path):
        if len(inner) == len(path) + 1:
            lines += [
                ".TP",
                f".BR {_roff('-'.join(inner))} (1)",
                _roff(found.get_short_help_str(200)),
            ]
    return lines


def page(path: tuple[str, ...], command: click.Command, version: str) -> str:
    """Return a command's manual page."""
    context = click.Context(command, info_name=" ".join(path))
    name = "-".join(path)
    text, _, example = (command.help or "").partition("Example: ")
    usage = " ".join(command.collect_usage_pieces(context))
    return "\n".join(
        [
            f'.TH {name.upper()} 1 "" "{NAME} {version}" "User Commands"',
            ".SH NAME",
            f"{_roff(name)} \\- {_roff(command.get_short_help_str(200).rstrip('.'))}",
            ".SH SYNOPSIS",
            f"\\fB{_roff(' '.join(path))}\\fR {_roff(usage)}",
            ".SH DESCRIPTION",
            *_paragraphs(text)[1:],
            *([".SH EXAMPLE", _roff(" ".join(example.split()))] if example else []),
            *_options(command, context),
            *_others(path, command),
            "",
        ]
    )


def write(folder: Path) -> list[Path]:
    """Write all files below a folder, and return them."""
    sys.path.insert(0, str(ROOT))
    from kvmharness import __version__  # noqa: PLC0415 - found by the line above
    from kvmharness.cli import main  # noqa: PLC0415

    texts = {
        f"man/man1/{'-'.join(path)}.1": page(path, command, __version__)
        for path, command in commands(main, NAME)
    }
    for shell, place in COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind
        texts[place] = kind(main, {}, NAME, f"_{NAME.upper()}_COMPLETE").source()
    written = []
    for place, text in texts.items():
        path = folder / "share" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written


if __name__ == "__main__":
    for written_file in write(Path(sys.argv[1])):
        print(written_file)
