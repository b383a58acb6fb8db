"""Text for people: figures, and what is safe to print of files that may come from anywhere."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` as one line, with control and other unprintable characters as escapes.

    A terminal then obeys none of them, and XML, which cannot hold most of them, takes it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str, most: int) -> str:
    """Return `text` printable and of at most `most` characters."""
    line = printable(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def figure(value: float) -> str:
    """Format a figure to four significant digits, with thousands separated."""
    rounded = float(f"{value:.4g}")
    return f"{value:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"
