"""The report in a real browser: its figures are there, it complains of nothing, it fits."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.render.test_report import render, sweeping
from tests.support.made_up_explanation import file as explained

CHROMIUM = shutil.which("chromium")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --enable-logging=stderr --window-size=1400,1000
""".split()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


def browse(text: str, folder: Path) -> tuple[str, list[str]]:
    """Return the document as the browser has it, and what it said on its console."""
    page = folder / "page.html"
    page.write_text(text)
    done = subprocess.run(
        [
            CHROMIUM or "",
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_figures_are_there_and_the_console_is_empty(tmp_path: Path) -> None:
    dom, console = browse(render(sweeping(50), sweeping(5)), tmp_path)
    assert console == []
    assert dom.count("<svg ") == dom.count("<figure>") == 11


def test_flame_graphs_of_explanations_are_there_too(tmp_path: Path) -> None:
    dom, console = browse(render(sweeping(50), explanations=[explained()]), tmp_path)
    assert console == []
    assert dom.count('<figure class="flame">') == 3


def test_console_would_tell_of_a_script(tmp_path: Path) -> None:
    """The check above can fail: the page's own policy refuses what it does not hold."""
    text = render(sweeping(50)).replace("</body>", "<script>alert(1)</script></body>")
    _, console = browse(text, tmp_path)
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_no_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    """A frame of that width, because the browser's window has a least one."""
    measured = "parent.document.title = document.documentElement.scrollWidth"
    page = render(sweeping(50), sweeping(5), explanations=[explained()])
    text = re.sub("<meta http-equiv[^>]*>", "", page)
    text = text.replace("</body>", f"<script>{measured}</script></body>")
    framed = f'<iframe srcdoc="{html.escape(text)}" style="border:0;width:{width}px"></iframe>'
    dom, console = browse(f"<!DOCTYPE html><title>none</title>{framed}", tmp_path)
    assert console == []
    title = re.search("<title>(.*?)</title>", dom)
    assert title
    assert width - 20 <= int(title[1]) <= width  # less a scroll bar
