"""Flame graphs: golden files, and the same in a real browser; stacks in others' formats."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kvmharness.model.explanation import File
from kvmharness.render import flame, stacks
from tests.render.test_browser import CHROMIUM, FLAGS
from tests.support.golden import same_as_golden
from tests.support.made_up_explanation import file

SVG = "{http://www.w3.org/2000/svg}"


def graph(explained: File) -> str:
    kernel = explained.kernels[1]
    return flame.document(flame.explained(kernel), f"long64/cr0_wp on {kernel.label}", "166 insn")


def changed(explained: File) -> list[flame.Box]:
    before, after = explained.kernels
    assert explained.difference is not None
    return flame.difference(before, after, explained.difference)


def difference(explained: File) -> str:
    boxes = changed(explained)
    return flame.document(boxes, "long64/cr0_wp: 5.10-legacy → 5.10-tdp", "red takes more")


@pytest.mark.parametrize(("make", "name"), [(graph, "flame.svg"), (difference, "flame-diff.svg")])
def test_graph_is_as_it_was(make: object, name: str) -> None:
    same_as_golden(name, make(file()))  # type: ignore[operator]


def test_frames_fill_their_callers_and_no_more() -> None:
    boxes = flame.explained(file().kernels[1])
    assert sum(box.width for box in boxes if box.depth == 0) == pytest.approx(1)
    for box in boxes[1:]:
        above = [b for b in boxes if b.depth == box.depth - 1 and b.x <= box.x + 1e-12]
        if box.depth:
            assert any(box.x + box.width <= b.x + b.width + 1e-9 for b in above), box.name


def test_a_difference_says_both_and_colours_what_changed() -> None:
    boxes = {box.name: box for box in changed(file())}
    assert "inlined" not in boxes
    assert boxes["handle_exit"].colour == flame.SAME
    assert boxes["unload"].colour.startswith("hsl(214")
    assert "own 5 → 4 (-1.00)" in boxes["unload"].title


def test_nothing_at_all_is_a_graph_too() -> None:
    ET.fromstring(flame.document([], "nothing", ""))


def test_hostile_names_are_text() -> None:
    box = flame.Box("<script>&\x1b]0;", "\x00</title><b>", "red", 0.0, 1.0, 0)
    for text in (flame.document([box], "<&", "\x07"), flame.still([box], "<&", "id")):
        root = ET.fromstring(text)
        assert not [e for e in root.iter() if e.tag.rpartition("}")[2] == "b"]


def test_still_has_no_script_and_no_style() -> None:
    text = flame.still(flame.explained(file().kernels[0]), "title", "flame0")
    assert not re.search("<(script|style|input)", text)


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
# What a hand would do, and what is then to be seen.
ACT = """
const out = [];
const shown = () => frames().filter((g) => g.style.display !== "none").length;
const frames = () => [...document.querySelectorAll("g[data-x]")];
const named = (name) => frames().find((g) => g.getAttribute("data-name") === name);
const text = (id) => document.querySelector(id).textContent;
out.push("all " + shown());
named("unload").dispatchEvent(new MouseEvent("click", { bubbles: true }));
out.push("zoomed " + shown() + " " + named("unload").querySelector("rect").getAttribute("width"));
document.querySelector("#all").dispatchEvent(new MouseEvent("click", { bubbles: true }));
out.push("back " + shown());
const box = document.querySelector("#search");
box.value = "zap";
box.dispatchEvent(new Event("input"));
out.push("found " + text("#found"));
box.value = "";
box.dispatchEvent(new Event("input"));
out.push("none [" + text("#found") + "]");
named("zap").dispatchEvent(new MouseEvent("click", { bubbles: true }));
document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
out.push("escaped " + shown());
document.documentElement.setAttribute("data-seen", out.join("; "));
"""


@needs_browser
def test_zoom_and_search_work_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "flame.svg"
    path.write_text(graph(file()).replace("</svg>", f"<script><![CDATA[{ACT}]]></script></svg>"))
    command = [CHROMIUM or "", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=50, check=True
    )
    assert "CONSOLE" not in done.stderr
    seen = re.search('data-seen="(.*?)"', done.stdout)
    assert seen
    counts = "all 13; zoomed 6 1199.5; back 13; found 2 frames, 32.7 %; none []; escaped 13"
    assert seen[1] == counts


def test_folded_stacks_add_up() -> None:
    kernel = file().kernels[1]
    rows = [line.rpartition(" ") for line in stacks.folded(kernel).splitlines()]
    assert ("[guest]", " ", "30") in rows
    late = [int(count) for path, _, count in rows if path.startswith("[deferred]")]
    assert sum(int(count) for _, _, count in rows) == kernel.samples[0] + sum(late)
    # 1,818 instructions of nine ops are as many an op as 2,020 of ten.
    assert late == [20, 2000]


def test_folded_pair_has_both_sides() -> None:
    text = stacks.folded_pair(*file().kernels)
    assert "[vCPU thread]".replace(" ", "_") + ";run 10000 11000\n" in text


def test_callgrind_is_as_it_was() -> None:
    text = stacks.callgrind(file().kernels[1], "long64/cr0_wp")
    same_as_golden("explain.callgrind", text)
