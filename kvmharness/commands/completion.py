"""What the shell completes, by click's own mechanism; light, as each TAB starts a process."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def cases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a case from its beginning (`long64/cr`) or from its op's (`cr0`)."""
    from kvmharness.model.cases import OPS

    return [
        CompletionItem(f"{mode}/{op.name}", help=op.about)
        for op in OPS
        for mode in op.modes
        if f"{mode}/{op.name}".startswith(incomplete) or op.name.startswith(incomplete)
    ]


def suites(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a built-in suite's name; what begins none is a file's."""
    from kvmharness.model.suites import built_in

    names = [CompletionItem(name) for name in built_in() if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def cached(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a kind of what the cache holds."""
    from kvmharness.cache import KINDS

    return [CompletionItem(n, help=what) for n, what in KINDS.items() if n.startswith(incomplete)]
