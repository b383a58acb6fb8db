"""Result files of the right types with hostile values: shown, or refused in one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from kvmharness import compare, compare_table, curves, expectations, results, tables
from kvmharness.errors import UsageError
from kvmharness.summary import summarise
from tests.samples import made_up_lab_run, made_up_run

# More of them by hand: KVMHARNESS_EXAMPLES=10000 pytest tests/test_hostile.py
EXAMPLES = int(os.environ.get("KVMHARNESS_EXAMPLES", "250"))

GOOD = json.loads(results.encode(made_up_run()))

WEIRD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False),
    st.sampled_from(["", "[/bold]x", "<script>", "\x1b[31m", "a\nb", "é" * 300]),
    st.just([]), st.just({}), st.just([0.0, 0.0]), st.just([1e308] * 30),
)  # fmt: skip


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document, containers too."""
    found = [path] if path else []
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            found += leaves(value, (*path, key))
    return found


def mutated(good: Any, path: tuple[Any, ...], value: Any) -> str:
    """Return the document with one value replaced."""
    data = json.loads(json.dumps(good))
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(data)


PATHS = leaves(GOOD)
many = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@many
@given(path=st.sampled_from(PATHS), value=WEIRD)
def test_any_value_anywhere(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    file = tmp_path / "hostile.json"
    file.write_text(mutated(GOOD, path, value))
    out = Console(file=io.StringIO(), width=tables.WIDTH)
    with contextlib.suppress(UsageError):  # anything else fails the test
        run = results.read(file)
        summarise(run)
        tables.show(run, out)
        curves.show(run, out)


LAB = json.loads(results.encode(made_up_lab_run()))
EXPECTED = [
    expectations.parse(text)
    for text in ("* < 6000 insn", "* net > 1 insn", "* class */kept", "* kvm.exits < 0.1")
]


@many
@given(path=st.sampled_from(leaves(LAB)), value=WEIRD)
def test_any_value_compared_and_checked(
    tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    file = tmp_path / "hostile.json"
    file.write_text(mutated(LAB, path, value))
    good = compare.side("good", [made_up_lab_run()])
    shown, refused = io.StringIO(), ""
    out = Console(file=shown, width=tables.WIDTH)
    try:
        run = results.read(file)
        summarise(run)
        odd = compare.side("odd", [run])
        for base, new in ((good, odd), (odd, good), (odd, odd)):
            compare_table.show(compare.compare(base, new), out)
        for expected in EXPECTED:
            for outcome in expectations.check(expected, run):
                out.print(tables.plain(outcome.seen))
    except UsageError as error:  # anything else fails the test
        refused = str(error)
    assert "\n" not in refused
    assert "\x1b" not in shown.getvalue() + refused
