"""The page of a timeline in a real browser: it filters, complains of nothing, fetches nothing."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.render.test_browser import CHROMIUM, FLAGS, browse
from tests.render.test_timeline_page import page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

# Unchecks a box, and tells in the title how many of each kind are left to be seen.
DRIVER = """<script>
const box = document.querySelector('input[name="%s"][value="%s"]');
box.click();
const seen = (element) => element.getBoundingClientRect().width > 0;
const shown = (all) => Array.from(document.querySelectorAll(all)).filter(seen);
for (const d of document.querySelectorAll("details")) d.open = true;
document.title = [".charts figure", "g.line", "tbody tr", "#steps li", ".between"]
  .map((all) => shown(all).length).join(" ");
</script></body>"""


def driven(kind: str, value: str, folder: Path) -> list[int]:
    """Return what is left of charts, lines, rows and steps once a box is unchecked."""
    text = re.sub("<meta http-equiv[^>]*>", "", page())
    dom, console = browse(text.replace("</body>", DRIVER % (kind, value)), folder)
    assert console == []
    title = re.search("<title>(.*?)</title>", dom)
    assert title
    return [int(number) for number in title[1].split()]


def test_the_script_runs_and_the_console_is_empty(tmp_path: Path) -> None:
    dom, console = browse(page(), tmp_path)
    assert console == []
    assert '<form id="filter" aria-label' in dom  # no longer hidden
    assert dom.count('class="chart"') == 2


def test_a_script_that_is_not_ours_does_not_run(tmp_path: Path) -> None:
    """The check above can fail: the policy names the one script by its hash."""
    _, console = browse(page().replace("form.hidden = false", "form.hidden = !1"), tmp_path)
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


def test_what_is_unchecked_is_not_shown(tmp_path: Path) -> None:
    every = driven("variant", "tdp", tmp_path)
    assert every[:3] == [2, 2, 10]
    assert every[3:] == [0, 0]  # the steps are all of tdp
    assert driven("vendor", "kvm_intel", tmp_path)[:3] == [2, 2, 10]
    charts, lines, rows, steps, _ = driven("case", "long64/cr0_wp", tmp_path)
    assert (charts, lines, rows, steps) == (1, 2, 10, 0)


def test_nothing_is_requested(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page())
    log = tmp_path / "net.json"
    flags = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}"]
    command = [CHROMIUM or "", *flags, "--dump-dom", (tmp_path / "page.html").as_uri()]
    subprocess.run(command, capture_output=True, timeout=50, check=True)
    events = json.loads(log.read_text())["events"]
    urls = [str(e.get("params", {}).get("url", "")) for e in events]
    assert not [url for url in urls if url.startswith("http") and "google" not in url]


@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_no_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    measured = "parent.document.title = document.documentElement.scrollWidth"
    text = re.sub("<meta http-equiv[^>]*>", "", page())
    text = text.replace("</body>", f"<script>{measured}</script></body>")
    framed = f'<iframe srcdoc="{html.escape(text)}" style="border:0;width:{width}px"></iframe>'
    dom, console = browse(f"<!DOCTYPE html><title>none</title>{framed}", tmp_path)
    assert console == []
    title = re.search("<title>(.*?)</title>", dom)
    assert title
    assert width - 20 <= int(title[1]) <= width
